//! The layout that the rest stands on: every file says what it is for, each large dependency has one home, and
//! modules import downwards only.

use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut folders, mut files) = (vec![root.join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn every_file_begins_by_saying_what_it_is_for() {
    for file in ["host/src", "plugins", "xtask/src", "tests"].into_iter().flat_map(sources) {
        let text = std::fs::read_to_string(&file).unwrap();
        // Unit tests in a file of their own belong to the file above them.
        let unit_tests = file.ends_with("tests.rs");
        assert!(
            unit_tests || text.starts_with("//! "),
            "begin {} with a //! sentence",
            file.display()
        );
    }
}

#[test]
fn each_large_dependency_has_one_home() {
    for (named, homes) in [
        ("wasmtime", ["sandbox/", "sandbox.rs"].as_slice()),
        ("sqlx", &["store/", "store.rs"]),
        ("axum", &["http/", "http.rs", "gateway.rs"]),
        ("tower", &["http/", "http.rs", "gateway.rs"]),
        ("clap", &["cli/", "cli.rs"]),
        ("rustls", &["tls.rs", "outbound/tls.rs"]),
        ("std::env", &["settings.rs", "cli/", "cli.rs"]),
    ] {
        for file in sources("host/src") {
            let text = std::fs::read_to_string(&file).unwrap();
            let shipped = text.split("#[cfg(test)]").next().unwrap();
            let code: Vec<_> =
                shipped.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let uses = ["::", "_wasi::", "_http::"]
                .iter()
                .any(|end| code.iter().any(|line| line.contains(&format!("{named}{end}"))));
            let place = file.to_str().unwrap().rsplit_once("host/src/").unwrap().1;
            let at_home = homes.iter().any(|home| place.starts_with(home));
            assert!(!uses || at_home, "{place} uses {named}, whose home is {homes:?}");
        }
    }
}

/// The modules of `host` from the top down, as docs/ARCHITECTURE.md lists them.
fn order() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).unwrap();
    let section = text.split("## What may import what").nth(1).unwrap();
    let list = section.split("```").nth(1).unwrap();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn modules_import_downwards_only() {
    let order = order();
    let floor = |module: &str| order.iter().position(|name| name == module);
    for file in sources("host/src") {
        let place = file.to_str().unwrap().rsplit_once("host/src/").unwrap().1;
        let module = place.split(['/', '.']).next().unwrap();
        if module == "lib" {
            continue;
        }
        let own = floor(module).unwrap_or_else(|| panic!("docs/ARCHITECTURE.md lists no {module}"));
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for path in line.split("crate::").skip(1) {
                let named = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let below = floor(named).is_some_and(|floor| floor >= own);
                assert!(below, "{place} imports {named}, which is not below {module}: {line}");
            }
        }
    }
    for module in &order {
        let path = format!("host/src/{module}");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let exists = root.join(format!("{path}.rs")).exists();
        assert!(exists, "docs/ARCHITECTURE.md lists {module}, which is not there");
    }
}
