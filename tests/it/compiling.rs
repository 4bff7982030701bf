//! Compilation of components is bounded, alternates between tenants, and is cancelled when no caller waits for it.

use reqwest::multipart::{Form, Part};
use serde_json::json;
use wardgate::sandbox::CompileLimits;
use wardgate::tenants::KeyHolder;

use crate::support::{
    Call, Client, Gateway, GatewayProcess, Home, Setup, guest_with_unique_digest, poll_until,
    wardgate,
};

const COMPONENT_HEADER: &[u8] = b"\0asm\x0d\0\x01\0";

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 127 {
        bytes.push((number & 127) as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &leb128(content.len())[..], content].concat()
}

/// Empty components nested this deep.
fn nested_components(depth: usize) -> Vec<u8> {
    (0..depth).fold(COMPONENT_HEADER.to_vec(), |within, _| {
        [COMPONENT_HEADER, &section(4, &within)].concat()
    })
}

/// A component with a core module of this many functions. Each function has `count` locals that stay live through
/// `count` nested loops, so the compiler's work per function is the product.
fn component_with_loops(functions: usize, count: usize) -> Vec<u8> {
    let locals = "i32 ".repeat(count);
    let (begin, end) = ("loop ".repeat(count), "end ".repeat(count));
    let used: String = (0..count).map(|local| format!("local.get {local} drop ")).collect();
    let function = format!("(func (local {locals}) {begin} {used} br 0 {end})");
    wat::parse_str(format!("(component (core module {}))", function.repeat(functions))).unwrap()
}

/// A component with one long function, for which a compiler needs many times its size in memory.
fn component_with_long_function(statements: usize) -> Vec<u8> {
    // (local.set 0 (i32.mul (local.get 0) (i32.load (local.get 0))))
    let statement = b"\x20\0\x20\0\x28\x02\0\x6c\x21\0";
    let body = [b"\x01\x01\x7f", &statement.repeat(statements)[..], b"\x0b"].concat();
    let code = [&[1], &leb128(body.len())[..], &body].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x01\x60\0\0"),
        section(3, b"\x01\0"),
        section(5, b"\x01\0\x01"),
        section(10, &code),
    ];
    [COMPONENT_HEADER, &section(1, &module.concat())].concat()
}

/// A request that installs a component for a tenant, with a key that may.
fn install(gateway: &Client, key: &str, tenant: &str, component: Vec<u8>) -> Call {
    let part = Part::bytes(component).file_name("component.wasm");
    let target = format!("/admin/tenants/{tenant}/plugins/tried");
    gateway.request("PUT", &target).key(key).multipart(Form::new().part("component", part))
}

/// How many compiler processes with this CPU time limit are running.
fn running_compilers(seconds: &str) -> usize {
    let limit = format!("--cpu-seconds-max={seconds}");
    let processes = std::fs::read_dir("/proc").unwrap().map(|process| process.unwrap().path());
    // The command line of a process that has just ended cannot be read.
    let commands = processes.filter_map(|path| std::fs::read_to_string(path.join("cmdline")).ok());
    commands.filter(|command| command.split('\0').any(|argument| argument == limit)).count()
}

#[tokio::test]
async fn a_component_beyond_a_bound_is_refused_by_its_name_and_costs_the_gateway_nothing() {
    const SMALL: &str = "[sandbox]\ncompile_memory_mib_max = 256\ncompile_cpu_seconds_max = 1\n";
    let home = Home::new();
    let settings = home.write("small.toml", SMALL);
    let settings = settings.to_str().unwrap();
    let gateway = GatewayProcess::serve(&home, &["--settings", settings]);
    let text = |name: &str| gateway.startup_line[name].as_str().unwrap();
    let before = gateway.resident_bytes();
    for (what, component, bound) in [
        ("nested", nested_components(20_000), "more than 32 levels of nested components"),
        // Each function takes little memory by itself.
        ("loops", component_with_loops(200, 300), "seconds of computing"),
        ("long", component_with_long_function(250_000), "more than 256 MiB of memory"),
    ] {
        let path = home.path().join(format!("{what}.wasm"));
        std::fs::write(&path, &component).unwrap();
        let (key, tenant) = (text("operator_key"), text("organization_id"));
        let refused = install(&gateway, key, tenant, component).expect(422).await;
        assert!(refused.detail().contains(bound), "{what}: {}", refused.text);
        // `plugin inspect` reports the same to authors.
        let path = path.to_str().unwrap();
        let inspected = wardgate(&["plugin", "inspect", path, "--settings", settings]);
        let message = String::from_utf8_lossy(&inspected.stderr);
        assert!(!inspected.status.success() && message.contains(bound), "{what}: {message}");
    }
    let after = gateway.resident_bytes();
    assert!(after < before + (64 << 20), "{} MiB, {} before", after >> 20, before >> 20);
    gateway.webhook("").json(&json!({"prompt": "hello"})).expect(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_install_and_call_beside_bombs_which_end_with_their_callers() {
    // Longer than any test runs, and a value that no other test uses.
    const SECONDS: u64 = 3_571;
    let gateway = Gateway::start().await;
    let mapper = "mapper".parse().unwrap();
    let component = guest_with_unique_digest("ignores");
    gateway.services.plugins.install(gateway.tenant, &mapper, component, None).await.unwrap();
    let mapped = gateway.agent_with(|agent| agent.mapper = Some(mapper)).await;
    let home = gateway.stop().await;
    // As after an upgrade, when the compiled code is of another version.
    home.detach_code_cache();
    let setup = Setup::new().home(home).settings(|settings| {
        settings.sandbox.compilations_max = 4;
        settings.sandbox.compile_cpu_seconds_max = SECONDS;
    });
    let gateway = setup.start().await;
    let limit = CompileLimits::new(1, SECONDS).for_source(0).cpu_seconds_max.to_string();
    let hostile = gateway.new_tenant("hostile").await;
    let key = gateway.new_key(KeyHolder::Admin(hostile)).await;
    let bombs = [4_001, 4_002].map(|size| {
        let call = install(&gateway, &key, &hostile.to_string(), component_with_loops(1, size));
        tokio::spawn(async move { call.send().await })
    });
    poll_until("two bombs beside nothing else", async || {
        let preloaded = gateway.get("/metrics").key(&gateway.operator_key()).expect(200).await.text;
        let bundled =
            format!("wardgate_components_loaded {}", wardgate::plugins::bundled().count());
        let all = preloaded.lines().any(|line| line == bundled);
        (all && running_compilers(&limit) == 2).then_some(())
    })
    .await;

    let other = gateway.new_tenant("other").await;
    let key = gateway.new_key(KeyHolder::Admin(other)).await;
    let component = guest_with_unique_digest("replies_now");
    install(&gateway, &key, &other.to_string(), component).expect(200).await;
    let target = format!("/?agent_id={}", mapped.agent);
    let answer = gateway.post(&target).key(&mapped.key).json(&json!({})).expect(200).await;
    assert_eq!(answer.json()["status"], "Ignored");
    assert!(running_compilers(&limit) == 2 && bombs.iter().all(|bomb| !bomb.is_finished()));

    // The callers disconnect, so nothing waits for the compilers any more.
    bombs.iter().for_each(tokio::task::JoinHandle::abort);
    poll_until("the compilers to end", async || (running_compilers(&limit) == 0).then_some(()))
        .await;
}
