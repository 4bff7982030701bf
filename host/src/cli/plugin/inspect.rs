//! `wardgate plugin inspect`: reports what a component is and needs, before it is installed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::super::api::text;
use super::super::{one_line, print};
use super::harness::{LoadedComponent, component};
use crate::fixture::Case;
use crate::ids::{PluginDigest, PluginName};
use crate::plugins::Metadata;
use crate::sandbox::{Components, GrantRequirement, Pin};
use crate::settings::Settings;

/// See [`super::Plugin::Inspect`].
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Inspect {
    /// Component file, or the name of a bundled plugin.
    #[arg(value_name = "PLUGIN")]
    plugin: String,
    /// Grants file (TOML) to check the component against.
    ///
    /// Prints which grants the component lacks, whether it accepts the file's settings, and under which conditions
    /// the file is in force for it.
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What the command reports about a component.
#[derive(Serialize)]
struct Report {
    name: PluginName,
    /// Size of the component, in bytes.
    size: usize,
    digest: String,
    version: Option<String>,
    roles: Vec<&'static str>,
    /// The tools that a toolbox lists.
    tools: Vec<Value>,
    /// JSON Schema of the settings, if the component has the role `about`.
    settings: Option<Value>,
    imports: Vec<String>,
    needs: Vec<NeedReport>,
    /// Functions of a foreign component that are not tools, with the reasons.
    left_out: Vec<String>,
    /// Calls to the component that failed.
    failed: Vec<String>,
    /// When the grants are in force for this component. Null without a grants file.
    in_force: Option<String>,
    /// Grants that the component lacks. Null without a grants file.
    missing: Option<Vec<String>>,
    /// The component's complaints about the settings of the grants file.
    settings_refused: Vec<Value>,
}

/// A grant that a component needs.
#[derive(Serialize)]
struct NeedReport {
    grant: &'static str,
    import: String,
    what: &'static str,
    certain: bool,
}

impl From<GrantRequirement> for NeedReport {
    fn from(need: GrantRequirement) -> Self {
        let GrantRequirement { import, grant, explanation: what, is_certain } = need;
        Self { grant: grant.as_str(), import, what, certain: is_certain }
    }
}

impl Inspect {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let (name, bytes) = component(&self.plugin)?;
        let bytes: Arc<[u8]> = bytes.into();
        let loaded_component =
            LoadedComponent::load(name, Arc::clone(&bytes), self.grants.as_deref(), settings)
                .await?;
        let (loaded, binding) = (&loaded_component.loaded, &loaded_component.binding);
        let config = self.grants.is_some().then(|| serde_json::to_value(binding.settings()));
        let mut failed = Vec::new();
        let mut results = Vec::new();
        for (call, role, config) in [
            ("list-tools", "toolbox", None),
            ("config-schema", "about", None),
            ("check-config", "about", config.transpose()?),
        ] {
            if call == "check-config" && config.is_none() {
                continue;
            }
            let result = loaded_component.call_role(Case::of_call(call, config), role).await?;
            results.push(result.unwrap_or_else(|why| {
                failed.push(why);
                Value::Null
            }));
        }
        let mut results = results.into_iter();
        let mut next = || results.next().unwrap_or_default();
        let (tools, schema, checked) = (next(), next(), next());
        let list = |value: Value| match value {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        let report = Report {
            name: binding.name().clone(),
            size: bytes.len(),
            digest: binding.digest_text().to_owned(),
            version: Metadata::from_component(&bytes).version,
            roles: binding.role_names(),
            tools: list(tools),
            settings: Some(schema).filter(|schema| !schema.is_null()),
            imports: binding.imports(),
            needs: loaded.grant_requirements().into_iter().map(NeedReport::from).collect(),
            left_out: loaded.skipped_functions().to_vec(),
            failed,
            in_force: self
                .grants
                .is_some()
                .then(|| in_force(&loaded_component.pin, binding.digest())),
            missing: self.grants.is_some().then(|| binding.missing()),
            settings_refused: list(checked),
        };
        print(&if self.json { serde_json::to_string_pretty(&report)? } else { report.to_string() })
    }
}

/// Describes when a gateway will apply the grants to this component.
fn in_force(pin: &Pin, digest: PluginDigest) -> String {
    let line = format!("component = \"{digest}\"");
    let by_digest = match &pin.components {
        Some(Components::Only(digests)) if !digests.contains(&digest) => {
            return format!("not in force for this component: they name another one, not {line}");
        }
        None if pin.signer.is_none() => {
            return format!(
                "in force where an operator installs it or it ships with the gateway; where a tenant's admin \
                 does, with the line {line}"
            );
        }
        Some(Components::Only(_)) => "in force for this component, which they name",
        Some(Components::Any) => "in force for any component of the plugin's name",
        None => "in force",
    };
    match &pin.signer {
        Some(signer) => format!("{by_digest}, where the signer {signer} has signed it"),
        None => format!("{by_digest}, from any installer"),
    }
}

/// The report as text.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "name     {}", self.name)?;
        writeln!(f, "size     {} bytes", self.size)?;
        writeln!(f, "digest   {}", self.digest)?;
        if let Some(version) = &self.version {
            writeln!(f, "version  {}", one_line(version))?;
        }
        writeln!(f, "roles    {}", self.roles.join(", "))?;
        write_section(f, "tools", self.tools.iter().map(tool))?;
        write_section(f, "functions that are not tools", self.left_out.iter().cloned())?;
        write_section(f, "could not say", self.failed.iter().cloned())?;
        write_section(f, "settings", settings(self.settings.as_ref().unwrap_or(&Value::Null)))?;
        write_section(f, "imports", self.imports.iter().cloned())?;
        if self.needs.is_empty() {
            writeln!(f, "needs no grants: it computes, and nothing else")?;
        }
        let needs = self
            .needs
            .iter()
            .map(|NeedReport { grant, import, what, .. }| format!("{grant}: {what} ({import})"));
        write_section(f, "needs", needs)?;
        write_section(f, "grants", self.in_force.iter().cloned())?;
        write_section(f, "missing", self.missing.iter().flatten().cloned())?;
        let refused = self.settings_refused.iter().map(|one| text(one, "message").to_owned());
        write_section(f, "does not accept the settings", refused)
    }
}

/// Writes a heading and its lines, if there are any.
fn write_section(
    f: &mut fmt::Formatter<'_>,
    headline: &str,
    lines: impl IntoIterator<Item = String>,
) -> fmt::Result {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_some() {
        writeln!(f, "{headline}:")?;
    }
    lines.try_for_each(|line| writeln!(f, "  {}", one_line(&line)))
}

fn tool(tool: &Value) -> String {
    let destructive = tool.get("destructive").and_then(Value::as_bool).unwrap_or(true);
    let kind = if destructive { "may change things" } else { "changes nothing" };
    format!("{} ({kind}): {}", text(tool, "name"), text(tool, "description"))
}

/// One line for each setting in a schema: name, default and description.
fn settings(schema: &Value) -> Vec<String> {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required =
        |name: &str| required.into_iter().flatten().any(|required| required.as_str() == Some(name));
    let properties = schema.get("properties").and_then(Value::as_object);
    let lines = properties.into_iter().flatten().map(|(name, schema)| {
        let default = match schema.get("default") {
            Some(Value::String(default)) => format!(" [default: {default}]"),
            Some(default) => format!(" [default: {default}]"),
            None if is_required(name) => " [required]".to_owned(),
            None => String::new(),
        };
        format!("{name}{default}: {}", text(schema, "description"))
    });
    lines.collect()
}
