//! Core modules written by hand, for misbehaviour that no toolchain produces. Each file of `tests/guests/raw` is the
//! body of a module; the tests wrap it into a getter.

use std::path::Path;

use serde_json::json;

use super::{assert_idle_and_healthy, assert_plugin_fault, neighbour};
use crate::support::Gateway;

/// The getter whose module has this body. If the body has no `$realloc`, the values that the host passes are placed
/// at address 4096.
fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("guests/raw/{name}.wat"));
    let body = std::fs::read_to_string(path).unwrap();
    let realloc = if body.contains("$realloc") {
        ""
    } else {
        "(func $realloc (param i32 i32 i32 i32) (result i32) (i32.const 4096))"
    };
    let failure = r#"(record (field "code" string) (field "message" string)
        (field "retry-after-ms" (option u64)) (field "extra" (option string)))"#;
    let text = format!(
        r#"(component
        (import "wardgate:plugin/request@0.1.0"
            (instance $request (export "path" (func (result string)))))
        (core module $room
            (type $realloc (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (table (export "reallocs") 1 funcref)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                (call_indirect (type $realloc) (local.get 0) (local.get 1) (local.get 2)
                    (local.get 3) (i32.const 0))))
        (core instance $room (instantiate $room))
        (alias core export $room "memory" (core memory $memory))
        (alias core export $room "realloc" (core func $realloc))
        (core func $path
            (canon lower (func $request "path") (memory $memory) (realloc $realloc)))
        (core module $guest
            (import "room" "memory" (memory 1))
            (import "room" "reallocs" (table $reallocs 1 funcref))
            (import "host" "path" (func $path (param i32)))
            {body}
            {realloc}
            (elem (table $reallocs) (i32.const 0) func $realloc))
        (core instance $guest (instantiate $guest
            (with "room" (instance $room))
            (with "host" (instance (export "path" (func $path))))))
        (type $failure {failure})
        (func $get-value (param "path" string) (result (result (option string) (error $failure)))
            (canon lift (core func $guest "get-value") (memory $memory) (realloc $realloc)))
        (component $getter
            (type $record {failure})
            (import "a-failure" (type $failure (eq $record)))
            (import "a-getter" (func $get-value (param "path" string)
                (result (result (option string) (error $failure)))))
            (export $exported "failure" (type $failure))
            (export "get-value" (func $get-value)
                (func (param "path" string) (result (result (option string) (error $exported))))))
        (instance $getter (instantiate $getter
            (with "a-failure" (type $failure)) (with "a-getter" (func $get-value))))
        (export "wardgate:plugin/response-getter@0.1.0" (instance $getter)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Installs a getter, calls it twice concurrently with a neighbour, and checks the error that its caller gets.
async fn assert_getter_refused(name: &str, limits: &str, status: u16, what: &str) {
    let gateway = Gateway::start().await;
    let plugin = name.replace('_', "-");
    let patient = if status == 504 { "" } else { "cpu_ms = 5000\n" };
    let grants = format!("[limits]\nwall_ms = 40000\nconcurrency = 1\n{patient}{limits}");
    let (id, plugins) = (plugin.parse().unwrap(), &gateway.services.plugins);
    plugins.install(gateway.tenant, &id, component(name), Some(&grants)).await.unwrap();
    let agent = gateway.agent_with(|agent| agent.getter = Some(id)).await;
    neighbour(&gateway).await;
    for _ in 0..2 {
        let call = agent.webhook("&getter=x").json(&json!({"prompt": "x"}));
        let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
        assert_plugin_fault(&answer, status, &plugin, what);
    }
    assert_idle_and_healthy(&gateway, &plugin).await;
}

/// Checks that the installation of a getter is refused with a reason.
async fn not_installed(name: &str, what: &str) {
    let gateway = Gateway::start().await;
    let (id, plugins) = (name.replace('_', "-").parse().unwrap(), &gateway.services.plugins);
    let refused = plugins.install(gateway.tenant, &id, component(name), None).await.unwrap_err();
    assert!(refused.is_the_callers(), "{refused}");
    assert!(refused.to_string().contains(what), "{refused}");
    assert!(gateway.folder.store.plugins(gateway.tenant).await.unwrap().is_empty());
    neighbour(&gateway).await;
}

#[tokio::test]
async fn grows_table() {
    assert_getter_refused("grows_table", "", 502, "table elements").await;
}

#[tokio::test]
async fn huge_table() {
    not_installed("huge_table", "table").await;
}

#[tokio::test]
async fn many_tables() {
    not_installed("many_tables", "tables").await;
}

#[tokio::test]
async fn many_memories() {
    not_installed("many_memories", "memories").await;
}

#[tokio::test]
async fn huge_memory() {
    not_installed("huge_memory", "memory").await;
}

#[tokio::test]
async fn memory_in_parts() {
    assert_getter_refused("memory_in_parts", "memory_mib = 10", 502, "more than the 10 MiB").await;
}

#[tokio::test]
async fn bad_discriminant() {
    assert_getter_refused("bad_discriminant", "", 502, "broke the interface").await;
}

#[tokio::test]
async fn unaligned_result() {
    assert_getter_refused("unaligned_result", "", 502, "broke the interface").await;
}

#[tokio::test]
async fn bad_realloc() {
    assert_getter_refused("bad_realloc", "", 502, "broke the interface").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spins_in_realloc() {
    assert_getter_refused("spins_in_realloc", "", 504, "computed for longer than the 200 ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spins_at_start() {
    assert_getter_refused("spins_at_start", "", 504, "computed for longer than the 200 ms").await;
}

#[tokio::test]
async fn calls_host_in_realloc() {
    assert_getter_refused("calls_host_in_realloc", "", 502, "crashed").await;
}
