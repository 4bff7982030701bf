//! Times the phases of one mapping, for the benchmark only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::Store;

use super::call::limited_store;
use super::slow_lane::Lane;
use super::{Binding, PluginError, Refusal};
use crate::sandbox::call::state::{Budget, CallState};
use crate::sandbox::subject::Subject;

/// Duration of each phase of one call, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phases {
    /// Creating the store and its limits.
    pub store: u64,
    /// Instantiating the component.
    pub instantiate: u64,
    /// Running the exported function, host calls included.
    pub call: u64,
    /// Dropping the store and everything in it.
    pub drop: u64,
}

impl Binding {
    /// Runs the mapper once and times each phase. The store has the limits of a real call; admission, call slots,
    /// turns and the deadline are left out.
    ///
    /// # Errors
    /// If the component has no mapper, or the mapping fails.
    pub async fn measure_mapping(
        self: &Arc<Self>,
        subject: Subject,
        spec: &String,
    ) -> Result<Phases, PluginError> {
        let host = |error: wasmtime::Error| Refusal::Host(error.to_string());
        let mapper = self.loaded.roles.mapper.as_ref();
        let mapper = mapper.ok_or(Refusal::NoSuchRole { role: "payload-mapper" })?;
        let started_at = Instant::now();
        let deadline = started_at + Duration::from_secs(1);
        let (cpu, lane) = (Duration::from_secs(1), Lane::Default);
        let transfer_bytes_max = self.granted.limits().output_bytes;
        let budget = Budget { deadline, cpu, may_send: true, lane, transfer_bytes_max };
        let state = CallState::new(Arc::clone(self), subject, budget);
        let mut store: Store<CallState> = limited_store(self, state);
        let made = Instant::now();
        let instance = self.loaded.pre.instantiate_async(&mut store).await.map_err(host)?;
        let instantiated = Instant::now();
        let guest = mapper.load(&mut store, &instance).map_err(host)?;
        let mapped = guest.call_map_payload(&mut store, Some(spec)).await.map_err(host)?;
        let called = Instant::now();
        drop(store);
        let dropped = Instant::now();
        let nanos = |from: Instant, to: Instant| {
            u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX)
        };
        mapped.map_err(|failure| Refusal::Host(failure.message))?;
        Ok(Phases {
            store: nanos(started_at, made),
            instantiate: nanos(made, instantiated),
            call: nanos(instantiated, called),
            drop: nanos(called, dropped),
        })
    }
}
