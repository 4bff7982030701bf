//! Tests of where calls compute, and of the turns that they take.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::clock::Clock;
use crate::ids::{AgentId, PluginName, RequestId, TenantId};
use crate::sandbox::{
    CompileLimits, Grants, HostServices, MemoryValues, PluginStats, PoolSize, QuarantineSettings,
    Sandbox, SandboxSettings,
};
use crate::secrets::HostKey;

/// A foreign component. Its tools do nothing, loop forever, and count to three hundred million.
const TOOLS: &str = r#"(component
  (core module $guest
    (func (export "nothing"))
    (func (export "loop") (loop $again (br $again)))
    (func (export "count") (local $left i64)
      (local.set $left (i64.const 300_000_000))
      (loop $again
        (local.set $left (i64.sub (local.get $left) (i64.const 1)))
        (br_if $again (i64.ne (local.get $left) (i64.const 0))))))
  (core instance $guest (instantiate $guest))
  (func $nothing (canon lift (core func $guest "nothing")))
  (func $loop (canon lift (core func $guest "loop")))
  (func $count (canon lift (core func $guest "count")))
  (export "nothing" (func $nothing))
  (export "loop" (func $loop))
  (export "count" (func $count)))"#;

/// A sandbox with one thread for each slow lane.
struct Bed {
    sandbox: Sandbox,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = HostKey::load_or_create(&folder.path().join("host.key")).unwrap();
        let settings = SandboxSettings {
            pool: PoolSize { calls: 128, memory_bytes_max: 1 << 20 },
            cache: folder.path().join("cache"),
            slow_threads: 1,
            all_memory_bytes_max: 1 << 30,
            tenant_memory_bytes_max: 1 << 30,
            long_compilations_max: 1,
            compiling: CompileLimits::new(1_024, 10),
            loaded_max: 10,
            quarantine: QuarantineSettings { failures_max: u64::MAX, pause: Duration::ZERO },
        };
        let values = Arc::new(MemoryValues::default());
        let services = HostServices { clock: Clock::system(), values };
        let sandbox = Sandbox::start(&settings, &key, services).unwrap();
        Self { sandbox, _folder: folder }
    }

    /// The tools, bound to a new tenant each time.
    async fn tools(&self, grants: &str) -> Arc<Binding> {
        let component = wat::parse_str(TOOLS).unwrap();
        let loaded = self.sandbox.load(TenantId::GATEWAY, component.into()).await.unwrap();
        let (name, secrets) = (PluginName::constant("tools"), std::collections::BTreeMap::new());
        let grants = Grants::parse(grants).unwrap();
        let account = Arc::<PluginStats>::default();
        self.sandbox.bind(TenantId::random(), name, loaded, grants, &secrets, account)
    }
}

async fn call(plugin: &Arc<Binding>, tool: &str) -> Called<String> {
    let subject = Subject::new(TenantId::random(), AgentId::random(), RequestId::next());
    plugin.call_tool(subject, tool.to_owned(), "{}".to_owned()).await
}

#[tokio::test]
async fn a_hundred_looping_tools_of_a_tenant_take_no_more_than_one_from_another_tenants() {
    let bed = Bed::start();
    // If all loops had turns of their own, each would end after a quarter of what the other tenant's tool computes.
    let limits = "[limits]\ntool_cpu_ms = 30\ntool_wall_ms = 600000\nconcurrency = 64\n";
    let looping = bed.tools(limits).await;
    let other = bed.tools("[limits]\ntool_cpu_ms = 60000\ntool_wall_ms = 600000\n").await;
    call(&looping, "loop").await.value.unwrap_err();
    let alone = call(&other, "count").await;
    alone.value.unwrap();

    let ended = Arc::new(AtomicUsize::new(0));
    let loops: Vec<_> = (0..60)
        .map(|_| {
            let (looping, ended) = (Arc::clone(&looping), Arc::clone(&ended));
            AbortOnDropHandle::new(tokio::spawn(async move {
                call(&looping, "loop").await.value.unwrap_err();
                ended.fetch_add(1, Ordering::Relaxed);
            }))
        })
        .collect();
    while looping.stats().snapshot().in_flight < 60 {
        tokio::task::yield_now().await;
    }
    let before = ended.load(Ordering::Relaxed);
    call(&other, "count").await.value.unwrap();
    // The loops share the tenant's turns on the one thread: each got a sixtieth of what the other tenant's tool
    // got.
    let ended = ended.load(Ordering::Relaxed) - before;
    assert!(ended <= 10, "{ended} of 60 have ended");
    drop(loops);
}

#[tokio::test]
async fn a_plugin_whose_tool_was_long_begins_its_tools_apart_until_they_are_brief_again() {
    let plugin = Bed::start().tools("[limits]\ntool_cpu_ms = 30\ntool_wall_ms = 600000\n").await;
    let account = Arc::clone(plugin.stats());
    call(&plugin, "nothing").await.value.unwrap();
    assert!(account.may_run_inline(Lane::Tools));
    // On a busy machine a tick may pass before the thread has computed for long.
    for _ in 0..100 {
        let stopped = call(&plugin, "loop").await.value.unwrap_err();
        let for_its_time = matches!(stopped, PluginError::Refusal(Refusal::OutOfCpuTime { .. }));
        assert!(for_its_time, "{stopped:?}");
        if !account.may_run_inline(Lane::Tools) {
            break;
        }
    }
    for _ in 0..32 {
        assert!(!account.may_run_inline(Lane::Tools));
        call(&plugin, "nothing").await.value.unwrap();
    }
    assert!(account.may_run_inline(Lane::Tools));
}
