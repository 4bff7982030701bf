//! The one wasmtime configuration. Everything that compiles or loads plugin code uses it, since code compiled under
//! another configuration does not load.

use std::hash::{Hash as _, Hasher as _};
use std::num::NonZeroUsize;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    Strategy, WasmBacktraceDetails, WasmFeatures,
};

/// The interval at which the epoch advances, and so at which a computing guest is checked and yields to others.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Memory of a slot that stays mapped between calls, for linear memory and tables, in bytes. With the kernel's
/// PAGEMAP_SCAN only its dirty pages are reset, which is why a fresh instance costs microseconds. 2 MiB covers the
/// shipped plugins whole.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// Stack of a guest, in bytes. A guest that overflows it traps.
const GUEST_STACK_BYTES: usize = 512 << 10;

/// Stack of the fiber that a call runs on, in bytes: the guest's stack, and room for host calls below it.
const FIBER_STACK_BYTES: usize = 1 << 20;

/// Core instances, memories and tables of one component. Toolchains for JavaScript and Python produce components of
/// several core modules; JavaScript guests have two memories.
const CORE_INSTANCES_MAX: u32 = 100;
const MEMORIES_MAX: u32 = 4;
const TABLES_MAX: u32 = 40;

/// The size of the instance pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolSize {
    /// Calls in flight at a time; further calls wait.
    pub calls: u32,
    /// The largest linear memory that any plugin may be granted, in bytes.
    pub memory_bytes_max: usize,
}

/// Builds the engine and starts its ticker.
///
/// # Errors
/// If this machine cannot run compiled code at all, or the ticker's thread cannot be started.
pub(super) fn build(size: PoolSize) -> wasmtime::Result<Engine> {
    let mut pooled = config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(size)));
    let engine = Engine::new(&pooled).or_else(|error| {
        // The pool reserves address space for all slots at once. If there is not enough of it (in a container that
        // limits it), calls allocate on demand: slower, and just as safe.
        tracing::warn!(%error, "the instance pool cannot be reserved; allocating on demand");
        Engine::new(&config())
    })?;
    start_ticker(&engine)?;
    Ok(engine)
}

/// An engine for the compiler process, which runs no guests: it reserves no pool and has no ticker.
///
/// # Errors
/// If this machine cannot run compiled code at all.
pub(super) fn for_compiling() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// A hash of what compiled code depends on, for file names.
#[must_use]
pub(super) fn compatibility(engine: &Engine) -> u64 {
    // The hash only has to differ between configurations; the seal guards against tampering.
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// The configuration of both the pool and its fallback: the allocation strategy does not change compiled code.
#[expect(clippy::disallowed_methods, reason = "this is the one place that makes a Config")]
fn config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_component_model(true)
        .epoch_interruption(true)
        // A plugin call needs only one task per store at a time. Without concurrency support calls are faster, and
        // not exposed to the bugs found in the concurrent implementation.
        .concurrency_support(false)
        .wasm_features(WasmFeatures::THREADS, false)
        .shared_memory(false)
        .wasm_memory64(false)
        .relaxed_simd_deterministic(true)
        // Guests compiled by Go 1.26 and later use typed function references.
        .wasm_function_references(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .generate_address_map(false)
        // Once unwind information is registered with the system, every backtrace walks a list of all components:
        // with RUST_BACKTRACE set, thousands of plugins slowed every error down. No panic unwinds through a guest's
        // frames, since wasmtime catches it before.
        .native_unwind_info(false)
        .memory_init_cow(true);
    config
}

fn pool(size: PoolSize) -> PoolingAllocationConfig {
    let calls = size.calls;
    let mut pool = PoolingAllocationConfig::new();
    // Each call finds room for the largest possible component: with less, a few calls of one tenant could take what
    // the calls of all others need. What is unused only costs address space.
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(calls.saturating_mul(MEMORIES_MAX))
        .total_tables(calls.saturating_mul(TABLES_MAX))
        .total_stacks(calls)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        // A single core module may have as many.
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .table_elements(20_000)
        .max_memory_size(size.memory_bytes_max)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .max_unused_warm_slots(calls)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Advances the epoch from a thread of its own: a runtime whose threads are all busy would stop it just when it is
/// needed. The thread ends when the engine is dropped.
fn start_ticker(engine: &Engine) -> wasmtime::Result<()> {
    let weak = engine.weak();
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .map(drop)
        .map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::BUNDLED;

    #[test]
    fn a_component_puts_nothing_on_the_list_that_every_backtrace_walks() {
        let (_, component) = BUNDLED[0];
        let has_unwind_information = |engine: &Engine| {
            let code = engine.precompile_component(component).unwrap();
            code.windows(9).any(|name| name == b".eh_frame")
        };
        let with = Engine::new(config().native_unwind_info(true)).unwrap();
        assert!(has_unwind_information(&with), "the name of the section is another one by now");
        let size = PoolSize { calls: 1, memory_bytes_max: 1 << 20 };
        assert!(!has_unwind_information(&build(size).unwrap()));
    }
}
