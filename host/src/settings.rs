//! Settings: the only reader of settings files and of the environment.
//!
//! Defaults stand with unit and reason in `settings.default.toml`, which is embedded; a file and then
//! the environment override them. An unknown key is an error: a misspelt limit would be no limit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

/// The default settings, which are their own manual.
pub const DEFAULTS: &str = include_str!("../settings.default.toml");

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the settings are not valid: {0}")]
pub struct SettingsError(String);

/// All settings. Units are in the names; `settings.default.toml` has the reasons.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP surface.
    pub http: HttpSettings,
    /// The plugin sandbox.
    pub sandbox: SandboxLimits,
    /// Which plugins are taken, and what is kept of them.
    pub plugins: PluginSettings,
    /// Runs and leases.
    pub queue: QueueSettings,
    /// Limits of one run.
    pub agent: AgentSettings,
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
    pub history_tasks_max: usize,
    pub history_bytes_max: usize,
}

/// One model.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ModelSettings {
    /// A server that speaks OpenAI's chat completions.
    OpenaiCompatible {
        /// Where it is, up to and with the version: `https://api.openai.com/v1/`.
        base_url: url::Url,
        /// The model's name there.
        model: String,
        /// Sent as a bearer token. Empty for servers that want none.
        #[serde(default)]
        api_key: SecretString,
        /// How long one turn may take.
        #[serde(default = "turn_time_max", rename = "seconds_max", deserialize_with = "seconds")]
        turn_time_max: Duration,
    },
}

fn turn_time_max() -> Duration {
    Duration::from_secs(120)
}

fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_secs)
}

/// Where the commands for authors of plugins keep what they have compiled: the user's cache folder.
#[must_use]
pub fn author_folder() -> std::path::PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = of("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache = cache.or_else(|| Some(std::path::Path::new(&of("HOME")?).join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("wardgate")
}

impl Settings {
    /// Reads the defaults, then a file where one is named, then the environment (`WARDGATE_…`).
    ///
    /// # Errors
    /// [`SettingsError`] naming the key that is wrong.
    pub fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
        let mut sources = Self::defaults();
        if let Some(path) = file {
            sources = sources.add_source(config::File::from(path).format(config::FileFormat::Toml));
        }
        let environment = config::Environment::with_prefix("WARDGATE")
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true);
        Self::build(sources.add_source(environment))
    }

    /// The defaults alone, whatever the environment says: for tests and benchmarks.
    ///
    /// # Errors
    /// When the embedded file is not valid.
    pub fn of_defaults() -> Result<Self, SettingsError> {
        Self::build(Self::defaults())
    }

    fn defaults() -> config::ConfigBuilder<config::builder::DefaultState> {
        config::Config::builder()
            .add_source(config::File::from_str(DEFAULTS, config::FileFormat::Toml))
    }

    fn build(
        sources: config::ConfigBuilder<config::builder::DefaultState>,
    ) -> Result<Self, SettingsError> {
        let wrong = |error: config::ConfigError| SettingsError(error.to_string());
        let settings: Self = sources.build().map_err(wrong)?.try_deserialize().map_err(wrong)?;
        if settings.models.contains_key("offline") {
            return Err(SettingsError("models.offline is built in and cannot be set".to_owned()));
        }
        settings.check()?;
        Ok(settings)
    }

    /// Numbers with which nothing would work, or something would break later than here.
    fn check(&self) -> Result<(), SettingsError> {
        let within = |name: &str, value: u128, least: u128, most: u128| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(SettingsError(format!("{name} is {value}; it can be {least} to {most}")))
        };
        within("queue.lease_seconds", self.queue.lease.as_secs().into(), 3, 86_400)?;
        within("queue.runs_max", self.queue.runs_max as u128, 0, 100_000)?;
        within("queue.runs_per_tenant_max", self.queue.runs_per_tenant_max as u128, 1, 100_000)?;
        within("queue.attempts_max", self.queue.attempts_max.into(), 1, 1_000)?;
        within("agent.tool_bytes_max", self.agent.tool_bytes_max as u128, 1_024, 1 << 30)?;
        within("sandbox.calls_max", self.sandbox.calls_max.into(), 1, 4_096)?;
        within("sandbox.slow_threads", self.sandbox.slow_threads as u128, 1, 1_024)?;
        within("sandbox.memory_mib_max", self.sandbox.memory_mib_max as u128, 1, 4_096)?;
        let all_memory = self.sandbox.all_memory_mib_max as u128;
        within("sandbox.all_memory_mib_max", all_memory, 1, 1 << 20)?;
        let tenant_memory = self.sandbox.tenant_memory_mib_max as u128;
        within("sandbox.tenant_memory_mib_max", tenant_memory, 1, 1 << 20)?;
        within("sandbox.loaded_max", self.sandbox.loaded_max.into(), 1, 20_000)?;
        within("plugins.preload_max", self.plugins.preload_max.into(), 0, 20_000)?;
        let install_wait = self.plugins.install_wait_seconds_max.into();
        within("plugins.install_wait_seconds_max", install_wait, 0, 3_600)?;
        within("plugins.versions_max", self.plugins.versions_max.into(), 1, 1_000)?;
        self.http.check(within)?;
        self.plugins.check()
    }
}

impl HttpSettings {
    /// A share that is smaller than a body would refuse that body for ever, and the answer would say to try
    /// again.
    fn check(
        &self,
        within: impl Fn(&str, u128, u128, u128) -> Result<(), SettingsError>,
    ) -> Result<(), SettingsError> {
        let body = self.body_bytes_max as u128;
        within("http.body_bytes_max", body, 1, 1 << 31)?;
        let most = 1 << 40;
        // A body gets no more than half of what it leaves free.
        within("http.held_body_bytes_max", self.held_body_bytes_max as u128, 3 * body, most)?;
        for (name, bytes) in [
            ("http.held_body_bytes_per_tenant_max", self.held_body_bytes_per_tenant_max),
            ("http.held_body_bytes_per_channel_max", self.held_body_bytes_per_channel_max),
            ("http.held_body_bytes_per_address_max", self.held_body_bytes_per_address_max),
        ] {
            if bytes != 0 || name != "http.held_body_bytes_per_address_max" {
                within(name, bytes as u128, body, most)?;
            }
        }
        let pace = self.stranger_body_bytes_per_second_min.into();
        within("http.stranger_body_bytes_per_second_min", pace, 1, 1 << 31)?;
        let grace = self.stranger_body_grace.as_secs().into();
        within("http.stranger_body_grace_seconds", grace, 1, 3_600)?;
        within("http.connections_max", self.connections_max as u128, 1, 1 << 20)
    }
}

impl PluginSettings {
    /// Keys that are none would refuse everything, or be found out at the first installation.
    fn check(&self) -> Result<(), SettingsError> {
        for (name, key) in &self.signers {
            minisign_verify::PublicKey::from_base64(key).map_err(|_| {
                SettingsError(format!(
                    "plugins.signers.{name} is no minisign public key: it is the second line of a \
                     minisign.pub file, 56 characters that begin with RW"
                ))
            })?;
        }
        if self.require_signed && self.signers.is_empty() {
            let why = "plugins.require_signed is on and plugins.signers names no key";
            return Err(SettingsError(why.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(toml: &str) -> Result<Settings, SettingsError> {
        let file = config::File::from_str(toml, config::FileFormat::Toml);
        Settings::build(Settings::defaults().add_source(file))
    }

    #[test]
    fn the_embedded_file_is_valid_and_complete() {
        let settings = Settings::of_defaults().unwrap();
        assert_eq!(settings.queue.lease, Duration::from_secs(90));
    }

    #[test]
    fn what_is_misspelt_is_refused_by_name() {
        let error = with("[http]\nbody_byte_max = 5").unwrap_err().to_string();
        assert!(error.contains("body_byte_max"), "{error}");
        assert!(with("[models.offline]\nkind = \"openai-compatible\"").is_err());
    }

    #[test]
    fn numbers_with_which_nothing_would_work_are_refused() {
        for wrong in [
            "[queue]\nlease_seconds = 0",
            "[queue]\nruns_max = 9223372036854775807",
            "[sandbox]\ncalls_max = 0",
            "[http]\nbody_bytes_max = 0",
            "[http]\nbody_bytes_max = 100000000",
            "[http]\nheld_body_bytes_max = 10485760",
            "[http]\nheld_body_bytes_per_tenant_max = 0",
            "[http]\nheld_body_bytes_per_channel_max = 10485759",
            "[http]\nheld_body_bytes_per_address_max = 1",
            "[http]\nstranger_body_bytes_per_second_min = 0",
            "[http]\nstranger_body_grace_seconds = 0",
            "[http]\nconnections_max = 0",
            "[plugins]\nversions_max = 0",
            "[plugins]\nrequire_signed = true",
            "[plugins.signers]\nus = \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO\"",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_models_key_is_not_printed() {
        let settings = with(
            "[models.m]\nkind = \"openai-compatible\"\nbase_url = \"http://localhost/v1/\"\n\
             model = \"x\"\napi_key = \"very-secret\"",
        );
        let printed = format!("{:?}", settings.unwrap());
        assert!(printed.contains("localhost") && !printed.contains("very-secret"));
    }
}
