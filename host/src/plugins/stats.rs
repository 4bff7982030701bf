//! What plugins did and cost, for the metrics endpoint.

use std::sync::{Arc, PoisonError};

use super::Plugins;
use crate::ids::{PluginName, TenantId};
use crate::sandbox::StatsSnapshot;

impl Plugins {
    /// The stats of plugins that have been bound since the gateway started: at most this many, and the number left out.
    /// Sorted by tenant and name, so that repeated scrapes report the same plugins.
    #[must_use]
    pub fn stats(&self, limit: usize) -> (Vec<(TenantId, PluginName, StatsSnapshot)>, usize) {
        // Only the handles are cloned under the lock, since calls wait for it.
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = bound
            .iter()
            .map(|((tenant, name), bound)| (*tenant, name.clone(), Arc::clone(&bound.stats)))
            .collect();
        drop(bound);
        all.sort_unstable_by(|(a, a_name, _), (b, b_name, _)| (a, a_name).cmp(&(b, b_name)));
        let left_out = all.len().saturating_sub(limit);
        all.truncate(limit);
        let all = all.into_iter();
        (all.map(|(tenant, name, stats)| (tenant, name, stats.snapshot())).collect(), left_out)
    }
}
