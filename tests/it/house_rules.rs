//! House rules for the source code: every file says what it is for, each large dependency is used in one place, and
//! modules import downwards only.

use std::path::{Path, PathBuf};

use crate::support::INTERFACE_VERSION;

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
        // Unit tests in a separate file belong to their parent module.
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
        ("rmcp", &["mcp/", "mcp.rs", "http/mcp/", "http/mcp.rs"]),
        ("opentelemetry", &["telemetry/", "telemetry.rs"]),
        ("std::env", &["settings.rs", "cli/", "cli.rs"]),
    ] {
        for file in sources("host/src") {
            let text = std::fs::read_to_string(&file).unwrap();
            let shipped = text.split("#[cfg(test)]").next().unwrap();
            let code: Vec<_> =
                shipped.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let uses = ["::", "_wasi::", "_http::", "_sdk::", "_otlp::"]
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

/// The paths that may name an older interface version: components that are never rebuilt or are written by hand,
/// tests of them, and documents about the past.
const OF_AN_OLDER_INTERFACE: [&str; 7] = [
    "CHANGELOG.md",
    "docs/decisions/",
    "host/benches/",
    "tests/guests/frozen/",
    "tests/it/frozen_interface.rs",
    "tests/it/plugin_misbehaves/raw.rs",
    "tests/it/plugin_supply/",
];

/// A version that no gateway supports.
const WRONG_VERSION: &str = "0.9.0";

/// Every text file of the repository, with its path.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut folders, mut texts) = (vec![root.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != "node_modules" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                texts.push((path.strip_prefix(root).unwrap().display().to_string(), text));
            }
        }
    }
    texts
}

/// The version that follows `wardgate:plugin` and an optional interface name, if there is one.
fn version_named(after: &str) -> Option<&str> {
    let name = |c: char| c == '/' || c == '-' || c.is_ascii_lowercase();
    let version = after.trim_start_matches(name).strip_prefix('@')?;
    let version = version.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    Some(version.trim_end_matches('.')).filter(|version| !version.is_empty())
}

#[test]
fn every_file_that_names_a_version_of_the_interface_names_the_one_of_wit() {
    let (mut right, mut wrong) = (0, Vec::new());
    for (place, text) in texts() {
        if OF_AN_OLDER_INTERFACE.iter().any(|older| place.starts_with(older)) {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            let named = line.split("wardgate:plugin").skip(1).filter_map(version_named);
            for version in named.filter(|version| *version != WRONG_VERSION) {
                if version == INTERFACE_VERSION {
                    right += 1;
                } else {
                    wrong.push(format!("{place}:{number} names {version}"));
                }
            }
        }
    }
    let wrong = wrong.join("\n");
    assert!(
        wrong.is_empty(),
        "wit/types.wit has version {INTERFACE_VERSION}; change these:\n{wrong}"
    );
    assert!(right > 0, "wit/types.wit at least names it");
}

#[test]
fn the_table_of_promises_has_every_module() {
    let text = include_str!("main.rs");
    let modules = text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    for module in modules.filter(|module| *module != "support") {
        let row = format!("//! | `{module}` | ");
        assert!(text.contains(&row), "tests/it/main.rs has no row for the module {module}");
    }
}

/// The patterns of docs/STYLE.md that texts for users must avoid.
fn patterns() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/STYLE.md")).unwrap();
    let list = text.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    list.lines().filter(|line| !line.is_empty()).map(|line| format!(" {line} ")).collect()
}

/// The string literals of a file's non-test code, each as one line of lower-case words.
fn literals(text: &str) -> Vec<String> {
    let shipped = text.split("#[cfg(test)]\nmod").next().unwrap();
    let code: String = shipped
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    // A quotation mark in a character literal does not end a string.
    let mut code = code.replace("'\"'", "").replace("'\\\"'", "");
    let mut literals = Vec::new();
    while let Some((before, raw)) = code.split_once("r#\"")
        && let Some((literal, after)) = raw.split_once("\"#")
    {
        literals.push(literal.to_owned());
        code = format!("{before}{after}");
    }
    let (mut current, mut escaped) = (None::<String>, false);
    for character in code.chars() {
        match (&mut current, character) {
            (Some(_), _) if std::mem::take(&mut escaped) => {}
            (Some(_), '\\') => escaped = true,
            (Some(literal), '"') => {
                literals.push(std::mem::take(literal));
                current = None;
            }
            (Some(literal), character) => literal.push(character),
            (None, '"') => current = Some(String::new()),
            (None, _) => {}
        }
    }
    let words = |literal: String| {
        // A path for serde is not text for users.
        let literal = literal.replace("Option::is_none", "");
        let spaced = literal.replace(|c: char| !c.is_alphanumeric() && c != '\'', " ");
        format!(" {} ", spaced.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase())
    };
    literals.into_iter().map(words).collect()
}

#[test]
fn no_text_for_users_has_the_patterns_of_the_style_guide() {
    let patterns = patterns();
    assert!(patterns.len() > 10);
    for folder in ["host/src", "plugins", "xtask/src"] {
        for file in sources(folder) {
            let is_test = file.components().any(|part| part.as_os_str() == "tests")
                || file.ends_with("tests.rs");
            let text = std::fs::read_to_string(&file).unwrap();
            for literal in literals(&text).iter().filter(|_| !is_test) {
                // "There is no ..." is allowed.
                let literal = literal.replace(" there is no ", " ").replace(" there are no ", " ");
                let literal = literal.replace(" there is none ", " ");
                let found = patterns.iter().find(|pattern| literal.contains(*pattern));
                assert_eq!(found, None, "{}: {literal:?}; see docs/STYLE.md", file.display());
            }
        }
    }
}
