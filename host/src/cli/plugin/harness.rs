//! Loads a component outside a gateway, for `plugin test`, `plugin try`, `plugin inspect` and `replay`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;

use super::super::progress::with_progress;
use crate::fixture::{Case, PluginHarness};
use crate::ids::PluginName;
use crate::plugins::{COMPONENT_BYTES_MAX, bundled_component};
use crate::sandbox::{Binding, Cost, Grants, Loaded, Pin};
use crate::settings::{Settings, author_folder};

/// A component that is loaded in a sandbox of its own.
pub(super) struct LoadedComponent {
    pub(super) harness: PluginHarness,
    pub(super) loaded: Arc<Loaded>,
    pub(super) binding: Arc<Binding>,
    /// The component and signer for which the grants are in force.
    pub(super) pin: Pin,
}

impl LoadedComponent {
    /// Loads a component and binds it to the grants file, or to no grants.
    pub(super) async fn load(
        name: PluginName,
        component: Arc<[u8]>,
        grants: Option<&Path>,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let grants = match grants {
            None => Grants::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Grants::parse(&text).with_context(|| path.display().to_string())?
            }
        };
        let harness = PluginHarness::open(&author_folder(), &settings.sandbox)?;
        let loading = harness.load(component);
        let loaded = with_progress(&format!("compiling {name}"), loading).await;
        let loaded = loaded.with_context(|| name.to_string())?;
        let pin = grants.pin().clone();
        let binding = harness.bind(name, Arc::clone(&loaded), grants);
        Ok(Self { harness, loaded, binding, pin })
    }

    /// Makes a call of a role. Returns null if the component does not have the role, and the inner error if the call
    /// failed.
    pub(super) async fn call_role(
        &self,
        case: Case,
        role: &str,
    ) -> anyhow::Result<Result<Value, String>> {
        if !self.binding.role_names().contains(&role) {
            return Ok(Ok(Value::Null));
        }
        // Scripted: the component is untrusted, so it gets neither network nor folders, whatever the grants file
        // says.
        let ran = self.harness.run_scripted(&self.binding, &case).await?;
        match ran.outcome.get("ok") {
            Some(value) => Ok(Ok(value.clone())),
            None => Ok(Err(format!("{} failed: {}", case.call, ran.outcome))),
        }
    }
}

/// Loads a component file or a bundled plugin, and binds it to the grants file.
pub(super) async fn open(
    plugin: &str,
    grants: Option<&Path>,
    settings: &Settings,
) -> anyhow::Result<(PluginHarness, Arc<Binding>)> {
    let (name, component) = component(plugin)?;
    let loaded_component = LoadedComponent::load(name, component.into(), grants, settings);
    let LoadedComponent { harness, binding, .. } =
        loaded_component.await.with_context(|| plugin.to_owned())?;
    Ok((harness, binding))
}

/// Reads a bundled plugin or a component file, and derives the plugin's name.
pub(in crate::cli) fn component(plugin: &str) -> anyhow::Result<(PluginName, Vec<u8>)> {
    if let Ok(name) = plugin.parse::<PluginName>()
        && let Some(component) = bundled_component(&name)
        && !Path::new(plugin).exists()
    {
        return Ok((name, component.to_vec()));
    }
    let path = Path::new(plugin);
    let bytes = crate::disk::read_at_most(path, COMPONENT_BYTES_MAX)
        .with_context(|| format!("cannot read {plugin}"))?;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = stem.to_ascii_lowercase().replace(['_', '.'], "-");
    let name = name.parse().or_else(|_| "plugin".parse())?;
    Ok((name, bytes))
}

/// Formats what a call cost.
pub(in crate::cli) fn cost(cost: Cost) -> String {
    let millis = |micros: u64| micros as f64 / 1_000.0;
    format!(
        "{:.2} ms, cpu {:.2} ms, memory {:.1} MiB",
        millis(cost.micros),
        millis(cost.cpu_micros),
        cost.memory_bytes as f64 / f64::from(1 << 20)
    )
}
