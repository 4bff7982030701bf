//! The supply of plugins: from files or OCI registries, always identified by digest, signed if required, with earlier
//! versions kept for rollbacks.

mod granted_to;
mod hostile_registry;
mod left_behind;
mod registry;
mod signatures;
mod versions;

use std::path::{Path, PathBuf};
use std::process::Output;

use reqwest::multipart::{Form, Part};
use serde_json::Value;
use wardgate::ids::PluginDigest;

use crate::support::{Gateway, Home, guest_path, wardgate};

/// A guest's component.
fn guest(name: &str) -> Vec<u8> {
    std::fs::read(guest_path(name)).unwrap()
}

/// The component that is never rebuilt, so that its signatures stay valid.
fn frozen() -> Vec<u8> {
    std::fs::read(frozen_path()).unwrap()
}

fn frozen_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/frozen/0.1.0/plugin.wasm")
}

/// A file of `tests/supply`.
fn supply_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("supply").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The component with a custom section appended that names this version.
fn versioned(component: &[u8], version: &str) -> Vec<u8> {
    let mut bytes = component.to_vec();
    let section = [&[7], b"version".as_slice(), version.as_bytes()].concat();
    bytes.extend([0, u8::try_from(section.len()).unwrap()]);
    bytes.extend(section);
    bytes
}

fn digest(component: &[u8]) -> String {
    PluginDigest::of(component).to_string()
}

/// The multipart form of an installation.
fn installation_form(component: Vec<u8>, more: &[(&'static str, &str)]) -> Form {
    let form = Form::new().part("component", Part::bytes(component));
    more.iter().fold(form, |form, (name, text)| form.text(*name, (*text).to_owned()))
}

/// Installs a component as `hook`, with an operator's key.
async fn install(gateway: &Gateway, component: Vec<u8>) -> Value {
    let call = gateway.admin_request("PUT", "/plugins/hook");
    call.multipart(installation_form(component, &[])).expect(200).await.json()
}

/// The digests of the versions of `hook`, newest first. `*` marks the current version, `-` a skipped one.
async fn versions(gateway: &Gateway) -> Vec<String> {
    let versions = gateway.admin_request("GET", "/plugins/hook/versions").expect(200).await.json();
    let mark = |version: &Value| match (&version["current"], &version["skipped"]) {
        (Value::Bool(true), Value::Bool(false)) => "*",
        (Value::Bool(false), Value::Bool(true)) => "-",
        (Value::Bool(false), Value::Bool(false)) => "",
        _ => panic!("current and skipped: {version}"),
    };
    let versions = versions.as_array().unwrap().iter();
    versions
        .map(|version| format!("{}{}", mark(version), version["digest"].as_str().unwrap()))
        .collect()
}

/// The components in a data folder, by digest.
fn stored_components(home: &Home) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(home.path().join("plugins")) else { return Vec::new() };
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut digests: Vec<_> = names.map(|n| n.replace(".wasm", "")).collect();
    digests.sort();
    digests.into_iter().map(|digest| format!("sha256:{digest}")).collect()
}

/// A data folder with one tenant.
fn home() -> Home {
    let home = Home::new();
    command(&home, &["tenant", "create", "one"]);
    home
}

/// Runs a command that must succeed, and returns its output.
fn command(home: &Home, arguments: &[&str]) -> String {
    let output = run_command(home, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail, and returns its error message.
fn command_error(home: &Home, arguments: &[&str]) -> String {
    let output = run_command(home, arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it succeeded: {}", String::from_utf8_lossy(&output.stdout));
    assert!(message.starts_with("wardgate: ") && !message.contains("panicked"), "{message}");
    message
}

/// Runs a command on a data folder, which `plugin push` does not need.
fn run_command(home: &Home, arguments: &[&str]) -> Output {
    let data = ["--data", home.path().to_str().unwrap()];
    let data = if arguments.contains(&"push") { &[][..] } else { &data };
    wardgate(&[arguments, data].concat())
}

/// Writes a file into the data folder, and returns its path.
fn write(home: &Home, name: &str, bytes: &[u8]) -> String {
    let path = home.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}
