//! Checks grants and settings against the component, at installation and when grants change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{PluginUnavailable, Plugins};
use crate::ids::{AgentId, PluginName, RequestId, TenantId};
use crate::sandbox::{Diagnostic, Grants, Loaded, PluginStats, Subject};

/// The names of the settings in a plugin's JSON schema. None if the schema has no `properties`.
#[must_use]
pub fn setting_names(schema: &str) -> Option<BTreeSet<String>> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let properties = schema.get("properties")?.as_object()?;
    Some(properties.keys().cloned().collect())
}

impl Plugins {
    /// Notes for the operator about a plugin with these grants, one sentence each: missing grants, missing settings,
    /// functions of a foreign component that cannot be tools.
    ///
    /// # Errors
    /// [`PluginUnavailable::Settings`] if the plugin rejects a setting of the grants. A missing setting is a note, since
    /// a channel may supply it.
    pub(super) async fn validate_grants(
        &self,
        tenant: TenantId,
        name: &PluginName,
        loaded: &Arc<Loaded>,
        grants: &Grants,
    ) -> Result<Vec<String>, PluginUnavailable> {
        // A binding of its own, so that this call does not count in the plugin's stats.
        let stats = Arc::new(PluginStats::default());
        let (loaded, bound) = (Arc::clone(loaded), grants.clone());
        let binding =
            self.sandbox.bind(tenant, name.clone(), loaded, bound, &BTreeMap::new(), stats);
        let mut notes = binding.notes();
        if let Some(folder) = binding.folder()
            && !tokio::fs::metadata(folder).await.is_ok_and(|there| there.is_dir())
        {
            notes.push(format!("[folder] path: there is no folder {}", folder.display()));
        }
        if !binding.role_names().contains(&"about") {
            return Ok(notes);
        }
        let settings = serde_json::to_string(grants.settings()).unwrap_or_default();
        // The check is not about a particular agent.
        let subject = || Subject::new(tenant, AgentId::random(), RequestId::next());
        let schema = binding.config_schema(subject()).await.value;
        if let Some(known) = schema.ok().and_then(|schema| setting_names(&schema)) {
            let unread = grants.settings().keys().filter(|name| !known.contains(*name));
            notes.extend(unread.map(|name| {
                let known = known.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                format!("it has no setting {name:?}; it has {known}")
            }));
        }
        let subject = subject();
        match binding.check_config(subject, settings).await.value {
            Err(error) => notes.push(format!("it could not check its settings: {error}")),
            Ok(found) => {
                let is_set = |one: &Diagnostic| {
                    let name = one.pointer.trim_start_matches('/').replace("~1", "/");
                    grants.settings().contains_key(&name.replace("~0", "~"))
                };
                let (wrong, missing): (Vec<_>, Vec<_>) = found.into_iter().partition(is_set);
                let message = |one: Diagnostic| one.message;
                if !wrong.is_empty() {
                    let wrong: Vec<_> = wrong.into_iter().map(message).collect();
                    return Err(PluginUnavailable::Settings(name.clone(), wrong.join("; ")));
                }
                notes.extend(missing.into_iter().map(message));
            }
        }
        Ok(notes)
    }
}
