//! Whether a plugin can do with what it is granted: found out when it is installed and when its grants
//! change, not when somebody calls it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{PluginUnavailable, Plugins};
use crate::ids::{AgentId, PluginName, RequestId, TenantId};
use crate::sandbox::{Diagnostic, Grants, Loaded, PluginStats, Subject};

/// The settings that a plugin's schema names. None: it names none one by one.
#[must_use]
pub fn setting_names(schema: &str) -> Option<BTreeSet<String>> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let properties = schema.get("properties")?.as_object()?;
    Some(properties.keys().cloned().collect())
}

impl Plugins {
    /// What an operator ought to know of a plugin with these grants: which it lacks, which settings it misses,
    /// which of a component's functions are no tools. One sentence each.
    ///
    /// # Errors
    /// [`PluginUnavailable::Settings`] where the plugin does not accept a setting of the grants. One that is
    /// only missing may yet come from a channel.
    pub(super) async fn fitness(
        &self,
        tenant: TenantId,
        name: &PluginName,
        loaded: &Arc<Loaded>,
        grants: &Grants,
    ) -> Result<Vec<String>, PluginUnavailable> {
        // A binding of its own: what this call does is not in the plugin's account.
        let account = Arc::new(PluginStats::default());
        let (loaded, bound) = (Arc::clone(loaded), grants.clone());
        let binding =
            self.sandbox.bind(tenant, name.clone(), loaded, bound, &BTreeMap::new(), account);
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
        // For no agent in particular.
        let subject = || Subject::of(tenant, AgentId::random(), RequestId::next());
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
                let say = |one: Diagnostic| one.message;
                if !wrong.is_empty() {
                    let wrong: Vec<_> = wrong.into_iter().map(say).collect();
                    return Err(PluginUnavailable::Settings(name.clone(), wrong.join("; ")));
                }
                notes.extend(missing.into_iter().map(say));
            }
        }
        Ok(notes)
    }
}
