//! Makes a package's manifest independent of its workspace, as cargo does when it packs a package for a registry.

use anyhow::Context as _;
use toml::{Table, Value};

/// Returns the manifest with all inherited values written out. Lints are removed: they are for authors of the
/// package, and not for its users.
///
/// # Errors
/// If one of the texts is not a manifest, or if the package inherits a value that the workspace lacks.
pub(super) fn manifest(package: &str, workspace: &str) -> anyhow::Result<String> {
    let mut package: Table = toml::from_str(package).context("the package's manifest")?;
    let workspace: Table = toml::from_str(workspace).context("the workspace's manifest")?;
    let workspace =
        workspace.get("workspace").context("the workspace's manifest has no workspace")?;
    package.remove("lints");
    for (table, of) in [
        ("package", "package"),
        ("dependencies", "dependencies"),
        ("dev-dependencies", "dependencies"),
    ] {
        let Some(entries) = package.get_mut(table).and_then(Value::as_table_mut) else { continue };
        for (name, entry) in entries {
            let own = entry.as_table().cloned().unwrap_or_default();
            if own.get("workspace").and_then(Value::as_bool) == Some(true) {
                let inherited = workspace.get(of).and_then(|entries| entries.get(name));
                let inherited =
                    inherited.with_context(|| format!("the workspace has no {of}.{name}"))?;
                *entry = merged(inherited, own);
            }
        }
    }
    Ok(toml::to_string(&package)?)
}

/// Merges an inherited dependency with the package's own entry. It has the features of both.
fn merged(inherited: &Value, own: Table) -> Value {
    let Value::Table(inherited) = inherited else {
        return match own.get("features") {
            Some(features) => Value::Table(Table::from_iter([
                ("version".to_owned(), inherited.clone()),
                ("features".to_owned(), features.clone()),
            ])),
            None => inherited.clone(),
        };
    };
    let mut merged = inherited.clone();
    for (key, value) in own {
        match (merged.get_mut(&key), value) {
            (_, _) if key == "workspace" => {}
            (Some(Value::Array(features)), Value::Array(more)) if key == "features" => {
                features.extend(more)
            }
            (_, value) => {
                merged.insert(key, value);
            }
        }
    }
    Value::Table(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inherited_is_written_out() {
        let workspace = r#"
            [workspace.package]
            version = "1.2.3"
            [workspace.dependencies]
            serde = { version = "1", default-features = false, features = ["alloc"] }
            plain = "2"
        "#;
        let package = r#"
            [package]
            name = "a"
            version.workspace = true
            [features]
            default = ["x"]
            x = []
            [dependencies]
            serde = { workspace = true, features = ["derive"], optional = true }
            plain = { workspace = true, features = ["more"] }
            own = "3"
            [lints]
            workspace = true
        "#;
        let written: Table = toml::from_str(&manifest(package, workspace).unwrap()).unwrap();
        let expected: Table = toml::from_str(
            r#"
            [package]
            name = "a"
            version = "1.2.3"
            [features]
            default = ["x"]
            x = []
            [dependencies]
            serde = { version = "1", default-features = false, features = ["alloc", "derive"], optional = true }
            plain = { version = "2", features = ["more"] }
            own = "3"
            "#,
        )
        .unwrap();
        assert_eq!(written, expected);
    }

    #[test]
    fn what_cannot_be_inherited_is_named() {
        let package = "[package]\nname = \"a\"\nversion.workspace = true\n";
        let error = manifest(package, "[workspace]\n").unwrap_err();
        assert!(error.to_string().contains("package.version"), "{error}");
    }
}
