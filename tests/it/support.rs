//! Shared fixtures: a gateway in this process or in one of its own, an HTTP client for it, and local servers in place
//! of external services. No test connects to another machine.

pub(crate) mod answer;
pub(crate) mod bundled_plugins;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod document;
pub(crate) mod events;
pub(crate) mod gateway;
pub(crate) mod gateway_process;
pub(crate) mod home;
pub(crate) mod mcp_server;
pub(crate) mod model_server;
pub(crate) mod model_wire;
pub(crate) mod oauth_server;
pub(crate) mod oci_registry;
pub(crate) mod web;

pub(crate) use answer::{Answer, Call};
pub(crate) use bundled_plugins::BundledPlugins;
pub(crate) use client::Client;
pub(crate) use gateway::{Gateway, Setup, agent};
pub(crate) use gateway_process::{
    GatewayProcess, new_tenant, path_with_wardgate, relax_tenant_time_limits, wardgate,
    wardgate_command,
};
pub(crate) use home::Home;

use std::path::PathBuf;
use std::time::Duration;

use wardgate::ids::AgentId;

/// The version of the plugin interface, from `wit/`.
pub(crate) const INTERFACE_VERSION: &str = env!("PLUGIN_INTERFACE_VERSION");

/// How long a test waits for an expected event: far longer than it takes, since machines stall.
pub(crate) const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The text of a payload in `tests/payloads`.
pub(crate) fn payload(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("payloads").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The component of `tests/guests/examples/<name>.rs`.
pub(crate) fn guest_path(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("GUESTS_DIR")).join(format!("{name}.wasm"));
    assert!(
        path.exists(),
        "no guest {name}: it takes the file tests/guests/examples/{name}.rs, and an entry [[example]] with \
         that name in tests/guests/Cargo.toml"
    );
    path
}

/// A guest with a digest of its own, so that no other test evicts its compiled code: a unique custom section is
/// appended to the component.
pub(crate) fn guest_with_unique_digest(name: &str) -> Vec<u8> {
    let mut component = std::fs::read(guest_path(name)).unwrap();
    let section = [b"\x03own".as_slice(), AgentId::random().to_string().as_bytes()].concat();
    component.extend([0, u8::try_from(section.len()).unwrap()]);
    component.extend(section);
    component
}

/// Polls `probe` until it returns a value; panics after [`EVENT_TIMEOUT`].
pub(crate) async fn poll_until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + EVENT_TIMEOUT;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
