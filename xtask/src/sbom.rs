//! Generates the gateway's software bill of materials (CycloneDX 1.5): every crate that is linked into the program or
//! into its bundled components.
//!
//! The list has every crate that cargo would build for the workspace, including features that only tests enable: it
//! may name a crate too many, and never one too few. What only runs during the build (build scripts and their
//! dependencies) is not in it, except macros, whose output is in the program, and what a build script embeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::tools;

/// The target of components.
const COMPONENT_TARGET: &str = "wasm32-wasip2";

/// Build dependencies whose content ends up in the program: the crate that is an archive of Swagger UI.
const EMBEDDED: &[&str] = &["utoipa-swagger-ui-vendored"];

/// The fields of `cargo metadata` that are needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    /// None for packages of the workspace.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `dev` or `build`. None for a normal dependency.
    kind: Option<String>,
}

/// The bill of materials of the gateway for a target, as JSON.
pub(crate) fn gateway(target: &str) -> anyhow::Result<String> {
    let mut list = List::default();
    let host = list.add(".", target, |name| name == "wardgate")?;
    let components = list.add("plugins", COMPONENT_TARGET, |name| !name.ends_with("-sdk"))?;
    ensure!(host.len() == 1 && !components.is_empty(), "the workspaces are not as this knows them");
    let [gateway]: [String; 1] = host.try_into().ok().context("one gateway")?;
    // The components are embedded in the program.
    list.uses.entry(gateway.clone()).or_default().extend(components);
    let subject = list.components.remove(&gateway).context("the gateway is in its own list")?;
    let uses = list.uses.iter().map(|(of, uses)| json!({"ref": of, "dependsOn": uses}));
    let bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "tools": {"components": [
                {"type": "application", "name": "cargo xtask dist", "version": env!("CARGO_PKG_VERSION")}
            ]},
            "component": subject,
            "properties": [{"name": "wardgate:target", "value": target}],
        },
        "components": list.components.values().collect::<Vec<_>>(),
        "dependencies": uses.collect::<Vec<_>>(),
    });
    Ok(format!("{bom:#}\n"))
}

/// The components found so far and their dependencies, by reference.
#[derive(Default)]
struct List {
    components: BTreeMap<String, Value>,
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl List {
    /// Adds the wanted packages of a workspace and all their dependencies. Returns the references of the wanted
    /// packages.
    fn add(
        &mut self,
        folder: &str,
        target: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let metadata = metadata(folder, target)?;
        let lock = fs::read_to_string(tools::root().join(folder).join("Cargo.lock"))?;
        let checksums = checksums(&lock);
        let packages: BTreeMap<_, _> =
            metadata.packages.iter().map(|package| (&package.id, package)).collect();
        let nodes: BTreeMap<_, _> =
            metadata.resolve.nodes.iter().map(|node| (&node.id, node)).collect();
        let package = |id| packages.get(id).copied().with_context(|| format!("no package {id}"));
        let (mut begin, mut left, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for id in &metadata.workspace_members {
            let member = package(id)?;
            if wanted(&member.name) {
                begin.push(reference(member));
                left.push(id);
            }
        }
        while let Some(id) = left.pop() {
            if !seen.insert(id) {
                continue;
            }
            let this = package(id)?;
            let node = nodes.get(id).with_context(|| format!("no node {id}"))?;
            let uses = self.uses.entry(reference(this)).or_default();
            for used in &node.deps {
                let linked = used.dep_kinds.iter().any(|dep| dep.kind.is_none());
                let dependency = package(&used.pkg)?;
                if linked || EMBEDDED.contains(&dependency.name.as_str()) {
                    uses.insert(reference(dependency));
                    left.push(&used.pkg);
                }
            }
            let checksum = checksums.get(&(this.name.as_str(), this.version.as_str())).copied();
            self.components.insert(reference(this), component(this, checksum));
        }
        Ok(begin)
    }
}

fn metadata(folder: &str, target: &str) -> anyhow::Result<Metadata> {
    let mut cargo = tools::cargo(folder);
    cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", target]);
    let printed = cargo.stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    ensure!(printed.status.success(), "`cargo metadata` failed in {folder}");
    serde_json::from_slice(&printed.stdout).context("`cargo metadata` has another form")
}

/// The reference of a package in the list. The project's own packages have no registry URL: they are not in a
/// registry, where their names may belong to others.
fn reference(package: &Package) -> String {
    let (name, version) = (&package.name, &package.version);
    if package.source.is_none() {
        return format!("{name}@{version}");
    }
    // `+` is the only character of a version that must be escaped in a package URL.
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

fn component(package: &Package, checksum: Option<&str>) -> Value {
    let reference = reference(package);
    let mut component = json!({
        "type": if package.source.is_some() { "library" } else { "application" },
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
    });
    let Some(fields) = component.as_object_mut() else { return component };
    if package.source.is_some() {
        fields.insert("purl".to_owned(), json!(reference));
    }
    if let Some(description) = &package.description {
        fields.insert("description".to_owned(), json!(description.trim()));
    }
    if let Some(license) = &package.license {
        // Older crates write a slash instead of SPDX's `OR`.
        let expression = license.replace(" / ", "/").replace('/', " OR ");
        fields.insert("licenses".to_owned(), json!([{"expression": expression}]));
    }
    if let Some(checksum) = checksum {
        fields.insert("hashes".to_owned(), json!([{"alg": "SHA-256", "content": checksum}]));
    }
    component
}

/// The checksums of a lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let packages = lock.split("[[package]]").skip(1);
    let found = packages.filter_map(|package| {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(" = \"")?.strip_suffix('"')
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_from_a_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"c0\"\n\
                    dependencies = [\n \"b\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        assert_eq!(checksums(lock), BTreeMap::from([(("a", "1.0.0"), "c0")]));
    }

    #[test]
    fn a_crate_becomes_a_component() {
        let package = Package {
            id: "1".to_owned(),
            name: "a".to_owned(),
            version: "1.0.0+b".to_owned(),
            license: Some("MIT/Apache-2.0".to_owned()),
            description: None,
            source: Some("registry".to_owned()),
        };
        let component = component(&package, Some("c0"));
        assert_eq!(component["purl"], "pkg:cargo/a@1.0.0%2Bb");
        assert_eq!(component["type"], "library");
        assert_eq!(component["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(component["hashes"][0]["content"], "c0");
    }
}
