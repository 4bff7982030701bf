//! What is known of plugins over their calls, for whoever operates the gateway.

use std::sync::{Arc, PoisonError};

use super::Plugins;
use crate::ids::{PluginName, TenantId};
use crate::sandbox::StatsSnapshot;

impl Plugins {
    /// What the accounts of all plugins hold that have been called since the gateway began, by tenant and
    /// name; at most this many, and how many there are besides. Always those that come first, so that what
    /// is told twice is told of the same plugins.
    #[must_use]
    pub fn statements(&self, most: usize) -> (Vec<(TenantId, PluginName, StatsSnapshot)>, usize) {
        // Under the lock only the handles are taken: calls wait for it.
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let accounts = bound.iter();
        let mut accounts: Vec<_> = accounts
            .map(|((tenant, name), bound)| (*tenant, name.clone(), Arc::clone(&bound.account)))
            .collect();
        drop(bound);
        accounts.sort_unstable_by(|(a, a_name, _), (b, b_name, _)| (a, a_name).cmp(&(b, b_name)));
        let left_out = accounts.len().saturating_sub(most);
        accounts.truncate(most);
        let told = accounts.into_iter();
        let told = told.map(|(tenant, name, account)| (tenant, name, account.snapshot()));
        (told.collect(), left_out)
    }
}
