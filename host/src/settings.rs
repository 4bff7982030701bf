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

/// The file that this process was started from.
///
/// # Errors
/// Where the system does not say.
pub fn this_program() -> std::io::Result<std::path::PathBuf> {
    std::env::current_exe()
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

    /// What nothing would work with, or what would break later than here.
    fn check(&self) -> Result<(), SettingsError> {
        for (name, value, least, most) in self.bounds().into_iter().chain(self.http.bounds()) {
            if !(least..=most).contains(&value) {
                return Err(SettingsError(format!(
                    "{name} is {value}; it can be {least} to {most}"
                )));
            }
        }
        self.http.check_public_url()?;
        for (name, model) in &self.models {
            model.check(name)?;
        }
        self.plugins.check()
    }

    /// Every number, with the least and the most that it can be.
    fn bounds(&self) -> [Bound; 24] {
        let Self { sandbox, plugins, queue, agent, .. } = self;
        [
            ("queue.lease_seconds", queue.lease.as_secs().into(), 3, 86_400),
            ("queue.runs_max", queue.runs_max as u128, 0, 100_000),
            ("queue.runs_per_tenant_max", queue.runs_per_tenant_max as u128, 1, 100_000),
            ("queue.attempts_max", queue.attempts_max.into(), 1, 1_000),
            ("queue.run_seconds_max", queue.run_time_max.as_secs().into(), 1, 7 * 86_400),
            ("agent.turns_max", agent.turns_max.into(), 1, 10_000),
            ("agent.tool_calls_max", agent.tool_calls_max.into(), 0, 100_000),
            ("agent.tool_bytes_max", agent.tool_bytes_max as u128, 1_024, 1 << 30),
            ("agent.history_tasks_max", agent.history_tasks_max as u128, 0, 10_000),
            ("agent.history_bytes_max", agent.history_bytes_max as u128, 0, 1 << 30),
            ("sandbox.calls_max", sandbox.calls_max.into(), 1, 4_096),
            ("sandbox.slow_threads", sandbox.slow_threads as u128, 1, 1_024),
            ("sandbox.memory_mib_max", sandbox.memory_mib_max as u128, 1, 4_096),
            ("sandbox.all_memory_mib_max", sandbox.all_memory_mib_max as u128, 1, 1 << 20),
            ("sandbox.tenant_memory_mib_max", sandbox.tenant_memory_mib_max as u128, 1, 1 << 20),
            ("sandbox.compilations_max", sandbox.compilations_max as u128, 1, 64),
            ("sandbox.compile_memory_mib_max", sandbox.compile_memory_mib_max.into(), 256, 1 << 20),
            ("sandbox.compile_cpu_seconds_max", sandbox.compile_cpu_seconds_max.into(), 1, 3_600),
            ("sandbox.loaded_max", sandbox.loaded_max.into(), 1, 20_000),
            ("sandbox.quarantine_after", sandbox.quarantine_after.into(), 1, 1 << 32),
            ("sandbox.quarantine_seconds", sandbox.quarantine_seconds.into(), 1, 86_400),
            ("plugins.preload_max", plugins.preload_max.into(), 0, 20_000),
            ("plugins.install_wait_seconds_max", plugins.install_wait_seconds_max.into(), 0, 3_600),
            ("plugins.versions_max", plugins.versions_max.into(), 1, 1_000),
        ]
    }
}

/// A setting's name, what it is, and the least and the most that it can be.
type Bound = (&'static str, u128, u128, u128);

impl HttpSettings {
    fn bounds(&self) -> [Bound; 15] {
        // A share that is smaller than a body would refuse that body for ever, and the answer would say to try
        // again. None is a share of addresses, too: no bound.
        let body = self.body_bytes_max as u128;
        let per_address = self.held_body_bytes_per_address_max as u128;
        let per_address_min = if per_address == 0 { 0 } else { body };
        let (most, pace) = (1 << 40, self.stranger_body_bytes_per_second_min.into());
        let of = |time: Duration| u128::from(time.as_secs());
        [
            ("http.body_bytes_max", body, 1, 1 << 31),
            ("http.head_bytes_max", self.head_bytes_max as u128, 1_024, 1 << 20),
            ("http.head_seconds_max", of(self.head_time_max), 1, 3_600),
            ("http.body_seconds_max", of(self.body_time_max), 1, 3_600),
            ("http.stranger_body_grace_seconds", of(self.stranger_body_grace), 1, 3_600),
            ("http.stranger_body_bytes_per_second_min", pace, 1, 1 << 31),
            // A body gets no more than half of what it leaves free.
            ("http.held_body_bytes_max", self.held_body_bytes_max as u128, 3 * body, most),
            (
                "http.held_body_bytes_per_tenant_max",
                self.held_body_bytes_per_tenant_max as u128,
                body,
                most,
            ),
            (
                "http.held_body_bytes_per_channel_max",
                self.held_body_bytes_per_channel_max as u128,
                body,
                most,
            ),
            ("http.held_body_bytes_per_address_max", per_address, per_address_min, most),
            ("http.connections_max", self.connections_max as u128, 1, 1 << 20),
            (
                "http.connections_per_address_max",
                self.connections_per_address_max as u128,
                0,
                1 << 20,
            ),
            ("http.streams_per_tenant_max", self.streams_per_tenant_max as u128, 0, 1 << 20),
            ("http.sync_wait_seconds_max", of(self.sync_wait_max), 0, 86_400),
            ("http.drain_seconds_max", of(self.drain_time_max), 0, 86_400),
        ]
    }

    /// What is no URL would be found out by whoever is given one that begins with it.
    fn check_public_url(&self) -> Result<(), SettingsError> {
        let text = &self.public_url;
        let wrong = |why: &str| {
            let begins = "it begins the URLs that are handed out, as in https://gateway.example";
            Err(SettingsError(format!("http.public_url is {text:?}, {why}; {begins}")))
        };
        if text.is_empty() {
            return Ok(());
        }
        match url::Url::parse(text) {
            Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host().is_none() => {
                wrong("which is neither http nor https")
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                wrong("which has a query or a fragment")
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                Err(SettingsError("http.public_url holds a user name or a password".to_owned()))
            }
            Ok(_) => Ok(()),
            Err(error) => wrong(&format!("which is no URL ({error})")),
        }
    }
}

impl ModelSettings {
    fn check(&self, name: &str) -> Result<(), SettingsError> {
        let Self::OpenaiCompatible { base_url, model, turn_time_max, .. } = self;
        let why = if !matches!(base_url.scheme(), "http" | "https") {
            "base_url is neither http nor https"
        } else if model.is_empty() {
            "model is empty"
        } else if !(1..=86_400).contains(&turn_time_max.as_secs()) {
            "seconds_max can be 1 to 86400"
        } else {
            return Ok(());
        };
        Err(SettingsError(format!("models.{name}: {why}")))
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
            "[http]\nhead_bytes_max = 0",
            "[http]\nhead_seconds_max = 0",
            "[queue]\nrun_seconds_max = 0",
            "[agent]\nturns_max = 0",
            "[sandbox]\nquarantine_after = 0",
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
    fn every_number_has_a_bound() {
        let defaults: toml::Table = toml::from_str(DEFAULTS).unwrap();
        let mut numbers = 0;
        for (section, settings) in &defaults {
            for (name, value) in settings.as_table().unwrap() {
                if !value.is_integer() {
                    continue;
                }
                numbers += 1;
                let wrong = with(&format!("[{section}]\n{name} = 4611686018427387904"));
                let error = wrong.expect_err(name).to_string();
                assert!(error.contains(name.as_str()), "{name}: {error}");
                assert!(with(&format!("[{section}]\n{name} = -1")).is_err(), "{name}");
            }
        }
        assert!(numbers > 35, "{numbers}");
    }

    #[test]
    fn what_is_no_url_is_refused_with_a_sentence() {
        for wrong in [
            "gateway.example",
            "ftp://gateway.example",
            "https://a.example/?x",
            "https://u:p@a.example",
        ] {
            let error = with(&format!("[http]\npublic_url = {wrong:?}")).unwrap_err().to_string();
            assert!(error.contains("http.public_url"), "{error}");
            assert!(!error.contains("u:p"), "{error}");
        }
        for right in ["", "https://a.example", "http://10.0.0.1:8080/wardgate/"] {
            with(&format!("[http]\npublic_url = {right:?}")).unwrap();
        }
        let model = "[models.m]\nkind = \"openai-compatible\"\nmodel = \"x\"\nbase_url = ";
        assert!(with(&format!("{model}\"ftp://a.example/\"")).is_err());
        assert!(with(&format!("{model}\"http://a.example/\"\nseconds_max = 0")).is_err());
        with(&format!("{model}\"http://a.example/\"")).unwrap();
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
