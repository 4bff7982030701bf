//! The layout that the rest stands on: every file says what it is for, and each large dependency has one
//! home.

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
        ("rustls", &["tls.rs", "sandbox/egress/tls.rs"]),
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
