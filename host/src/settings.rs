//! Settings: the only reader of settings files and of the environment.
//!
//! Defaults, with units and reasons, are in `settings.default.toml`, which is embedded. A file and then the
//! environment override them. An unknown key is an error, because a misspelled limit would not apply.

mod bounds;

pub use bounds::check_model;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// The default settings, with their documentation.
pub const DEFAULTS: &str = include_str!("../settings.default.toml");

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the settings are not valid: {0}")]
pub struct SettingsError(String);

/// How the names of environment variables that are settings begin.
const PREFIX: &str = "WARDGATE_";

/// Whether an environment variable has the prefix of settings and names no setting of a section. It would be an unknown
/// key to the library, whose message does not say where the key comes from.
fn is_misnamed(variable: &str) -> bool {
    variable.strip_prefix(PREFIX).is_some_and(|rest| !rest.contains("__"))
}

/// All settings. Units are in the names; the reasons are in `settings.default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP surface.
    pub http: HttpSettings,
    /// The plugin sandbox.
    pub sandbox: SandboxLimits,
    /// Installation and storage of plugins.
    pub plugins: PluginSettings,
    /// Runs and leases.
    pub queue: QueueSettings,
    /// Limits of one run.
    pub agent: AgentSettings,
    /// The export of runs.
    pub telemetry: TelemetrySettings,
    /// Models by name.
    pub models: BTreeMap<String, ModelSettings>,
}

/// See `settings.default.toml`, `[http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field stands with unit and reason in settings.default.toml")]
pub struct HttpSettings {
    pub listen: SocketAddr,
    pub public_url: String,
    pub body_bytes_max: usize,
    pub head_bytes_max: usize,
    #[serde(rename = "head_seconds_max", deserialize_with = "seconds")]
    pub head_time_max: Duration,
    #[serde(rename = "body_seconds_max", deserialize_with = "seconds")]
    pub body_time_max: Duration,
    #[serde(rename = "stranger_body_grace_seconds", deserialize_with = "seconds")]
    pub stranger_body_grace: Duration,
    pub stranger_body_bytes_per_second_min: u64,
    pub held_body_bytes_max: usize,
    pub held_body_bytes_per_tenant_max: usize,
    pub held_body_bytes_per_channel_max: usize,
    pub held_body_bytes_per_address_max: usize,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    pub streams_per_tenant_max: usize,
    #[serde(rename = "sync_wait_seconds_max", deserialize_with = "seconds")]
    pub sync_wait_max: Duration,
    #[serde(rename = "drain_seconds_max", deserialize_with = "seconds")]
    pub drain_time_max: Duration,
}

/// See `settings.default.toml`, `[sandbox]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field stands with unit and reason in settings.default.toml")]
pub struct SandboxLimits {
    pub calls_max: u32,
    pub memory_mib_max: usize,
    pub all_memory_mib_max: usize,
    pub tenant_memory_mib_max: usize,
    pub slow_threads: usize,
    pub compilations_max: usize,
    pub compile_memory_mib_max: u64,
    pub compile_cpu_seconds_max: u64,
    pub loaded_max: u64,
    pub quarantine_after: u64,
    pub quarantine_seconds: u64,
}

/// See `settings.default.toml`, `[plugins]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field stands with unit and reason in settings.default.toml")]
pub struct PluginSettings {
    pub versions_max: u32,
    pub preload_max: u32,
    pub install_wait_seconds_max: u64,
    pub require_signed: bool,
    pub signers: BTreeMap<String, String>,
}

/// See `settings.default.toml`, `[queue]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field stands with unit and reason in settings.default.toml")]
pub struct QueueSettings {
    pub runs_max: usize,
    pub runs_per_tenant_max: usize,
    #[serde(rename = "lease_seconds", deserialize_with = "seconds")]
    pub lease: Duration,
    pub attempts_max: u32,
    #[serde(rename = "run_seconds_max", deserialize_with = "seconds")]
    pub run_time_max: Duration,
}

/// See `settings.default.toml`, `[agent]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field stands with unit and reason in settings.default.toml")]
pub struct AgentSettings {
    pub turns_max: u32,
    pub tool_calls_max: u32,
    pub tool_bytes_max: usize,
    pub result_bytes_max: usize,
    pub history_tasks_max: usize,
    pub history_bytes_max: usize,
    pub tokens_max: u64,
    pub cost_micros_max: u64,
    pub tenant_tokens_per_day_max: u64,
    pub tenant_cost_micros_per_day_max: u64,
}

/// See `settings.default.toml`, `[telemetry]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field stands with unit and reason in settings.default.toml")]
pub struct TelemetrySettings {
    pub otlp_endpoint: String,
    pub otlp_headers: BTreeMap<String, SecretString>,
    pub content: bool,
}

/// One model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The protocol that its server speaks.
    pub kind: Protocol,
    /// The base URL, up to and including the version: `https://api.openai.com/v1/`. None: that of the provider whose
    /// protocol it is.
    #[serde(default)]
    pub base_url: Option<url::Url>,
    /// The model's name on that server. It is sent as written.
    pub model: String,
    /// The key. Empty for servers that require none.
    #[serde(default)]
    pub api_key: SecretString,
    /// The header that the key is sent in, if not as a bearer token: `api-key` for Azure. For `openai-compatible`.
    #[serde(default)]
    pub key_header: Option<String>,
    /// The time limit of one attempt at a turn.
    #[serde(default = "turn_time_max", rename = "seconds_max", deserialize_with = "seconds")]
    pub turn_time_max: Duration,
    /// How much effort the model puts into reasoning, in the provider's own word.
    #[serde(default)]
    pub effort: Option<String>,
    /// The most tokens of reasoning in a turn. For `anthropic` and `gemini`.
    #[serde(default)]
    pub thinking_tokens: Option<u32>,
    /// The most tokens of a conversation, with the output of its last turn. What exceeds them is left out.
    #[serde(default = "context_tokens")]
    pub context_tokens: u32,
    /// The most output tokens of a turn.
    #[serde(default)]
    pub output_tokens_max: Option<u32>,
    /// How the model is held to an agent's `output_schema`. Unless set: `native` for `openai-compatible`, `tool` for
    /// `anthropic`, and for `gemini` `native` if the agent has no tools.
    #[serde(default)]
    pub structured_output: Option<StructuredOutput>,
    /// The model that takes a turn if this one's server fails.
    #[serde(default)]
    pub fallback: Option<String>,
    /// What its tokens cost. Without a price, the cost of its turns is unknown, and budgets in money refuse it.
    #[serde(default)]
    pub price: Option<Price>,
}

/// The price of a model: for a million tokens of each class, in millionths of the operator's currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of input that no cache held.
    pub input: u64,
    /// Of output.
    pub output: u64,
    /// Of input from a cache. That of input, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    /// Of input that is written to a cache. That of input, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Of output of reasoning. That of output, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
}

impl Price {
    fn largest(&self) -> u64 {
        let others = [self.cache_read, self.cache_write, self.reasoning];
        others.into_iter().flatten().fold(self.input.max(self.output), u64::max)
    }
}

/// How a model is held to the form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StructuredOutput {
    /// Its provider takes the schema.
    Native,
    /// It calls a tool whose arguments are the answer.
    Tool,
}

/// The protocol of a model's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// OpenAI's chat completions: OpenAI, Azure, Ollama, vLLM and many others.
    OpenaiCompatible,
    /// Anthropic's messages.
    Anthropic,
    /// Google's `generateContent`.
    Gemini,
}

pub(crate) fn context_tokens() -> u32 {
    128_000
}

pub(crate) fn turn_time_max() -> Duration {
    Duration::from_secs(120)
}

fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_secs)
}

/// The path of the running executable.
///
/// # Errors
/// If the operating system does not report it.
pub fn current_exe() -> std::io::Result<std::path::PathBuf> {
    std::env::current_exe()
}

/// Where the commands for plugin authors cache compiled code: a folder in the user's cache folder.
#[must_use]
pub fn author_folder() -> std::path::PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = of("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache = cache.or_else(|| Some(std::path::Path::new(&of("HOME")?).join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("wardgate")
}

impl Settings {
    /// Reads the defaults, then the file, if one is given, then the environment (`WARDGATE_…`).
    ///
    /// # Errors
    /// [`SettingsError`], which names the invalid key.
    pub fn from_file(file: Option<&Path>) -> Result<Self, SettingsError> {
        let mut names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        if let Some(name) = names.find(|name| is_misnamed(name)) {
            return Err(SettingsError(format!(
                "the environment variable {name} is not a setting; settings are named {PREFIX}SECTION__KEY, as in \
                 {PREFIX}HTTP__LISTEN"
            )));
        }
        let mut sources = Self::defaults();
        if let Some(path) = file {
            sources = sources.add_source(config::File::from(path).format(config::FileFormat::Toml));
        }
        let environment = config::Environment::with_prefix("WARDGATE")
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true);
        Self::build(sources.add_source(environment), file)
    }

    /// The defaults, without file and environment: for tests and benchmarks.
    ///
    /// # Errors
    /// If the embedded file is not valid.
    pub fn of_defaults() -> Result<Self, SettingsError> {
        Self::build(Self::defaults(), None)
    }

    fn defaults() -> config::ConfigBuilder<config::builder::DefaultState> {
        config::Config::builder()
            .add_source(config::File::from_str(DEFAULTS, config::FileFormat::Toml))
    }

    fn build(
        sources: config::ConfigBuilder<config::builder::DefaultState>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let wrong = |error: config::ConfigError| SettingsError(error.to_string());
        let sources = sources.build().map_err(wrong)?;
        let values = sources.cache.clone();
        let settings: Self = sources.try_deserialize().map_err(wrong)?;
        settings
            .find_invalid()
            .map_err(|invalid| invalid.to_error(origin(&values, &invalid.key, file)))?;
        Ok(settings)
    }

    /// Rejects settings with which nothing would work, or which would fail only after the start.
    ///
    /// # Errors
    /// [`SettingsError`], which names the invalid key.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.find_invalid().map_err(|invalid| invalid.to_error(None))
    }
}

/// A setting with an unusable value, and the reason.
struct InvalidSetting {
    key: String,
    /// The rest of the sentence that begins with the key.
    why: String,
}

impl InvalidSetting {
    fn new(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into() }
    }

    fn to_sentence(&self) -> String {
        format!("{} {}", self.key, self.why)
    }

    /// The error message, with the origin of the value unless that is the embedded defaults.
    fn to_error(&self, origin: Option<String>) -> SettingsError {
        let origin = origin.map(|origin| format!(" (in {origin})")).unwrap_or_default();
        SettingsError(format!("{}{origin} {}", self.key, self.why))
    }
}

/// The library's name for the origin of values from environment variables.
const ENVIRONMENT: &str = "the environment";

/// The origin of a value: the settings file, by the path it was given as, or the environment. `None` for a default.
fn origin(values: &config::Value, key: &str, file: Option<&Path>) -> Option<String> {
    let mut value = values;
    for name in key.split('.') {
        let config::ValueKind::Table(table) = &value.kind else { break };
        value = table.get(name)?;
    }
    match (value.origin()?, file) {
        (ENVIRONMENT, _) | (_, None) => value.origin().map(str::to_owned),
        (_, Some(file)) => Some(file.display().to_string()),
    }
}

#[cfg(test)]
mod tests;
