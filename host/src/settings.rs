//! Settings: the only reader of settings files and of the environment.
//!
//! Defaults, with units and reasons, are in `settings.default.toml`, which is embedded. A file and then the
//! environment override them. An unknown key is an error, because a misspelled limit would not apply.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

/// The default settings, with their documentation.
pub const DEFAULTS: &str = include_str!("../settings.default.toml");

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the settings are not valid: {0}")]
pub struct SettingsError(String);

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
        /// The base URL, up to and including the version: `https://api.openai.com/v1/`.
        base_url: url::Url,
        /// The model's name on that server.
        model: String,
        /// Sent as a bearer token. Empty for servers that require none.
        #[serde(default)]
        api_key: SecretString,
        /// The time limit of one turn.
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
    pub fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
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

    fn find_invalid(&self) -> Result<(), InvalidSetting> {
        for bound in self.bounds().into_iter().chain(self.http.bounds()) {
            bound.check()?;
        }
        self.http.check_public_url()?;
        if self.models.contains_key("offline") {
            return Err(InvalidSetting::new("models.offline", "is built in and cannot be set"));
        }
        for (name, model) in &self.models {
            model.check(name)?;
        }
        self.plugins.check()
    }

    /// Every number outside `[http]`, with its minimum and maximum.
    fn bounds(&self) -> [Bound; 24] {
        let Self { sandbox, plugins, queue, agent, .. } = self;
        let no_run = "no run would ever begin";
        let no_call = "no plugin could be called";
        let brief_call = "a brief call of the shipped plugins takes up to that";
        [
            Bound::of("queue.lease_seconds", whole_seconds(queue.lease), 3, 86_400)
                .because("it is extended three times within its length"),
            Bound::of("queue.runs_max", queue.runs_max, 0, 100_000),
            Bound::of("queue.runs_per_tenant_max", queue.runs_per_tenant_max, 1, 100_000)
                .because(no_run),
            Bound::of("queue.attempts_max", queue.attempts_max, 1, 1_000).because(no_run),
            Bound::of("queue.run_seconds_max", whole_seconds(queue.run_time_max), 1, 7 * 86_400)
                .because("every run would be over before it begins"),
            Bound::of("agent.turns_max", agent.turns_max, 1, 10_000)
                .because("no model would ever be asked"),
            Bound::of("agent.tool_calls_max", agent.tool_calls_max, 0, 100_000),
            Bound::of("agent.tool_bytes_max", agent.tool_bytes_max, 1_024, 1 << 30)
                .because("hardly any tool's answer would reach the model"),
            Bound::of("agent.history_tasks_max", agent.history_tasks_max, 0, 10_000),
            Bound::of("agent.history_bytes_max", agent.history_bytes_max, 0, 1 << 30),
            Bound::of("sandbox.calls_max", sandbox.calls_max, 1, 4_096).because(no_call),
            Bound::of("sandbox.slow_threads", sandbox.slow_threads, 1, 1_024)
                .because("no call could take longer than 10 ms"),
            Bound::of("sandbox.memory_mib_max", sandbox.memory_mib_max, 2, 4_096)
                .because("the shipped plugins take up to that"),
            Bound::of("sandbox.all_memory_mib_max", sandbox.all_memory_mib_max, 4, 1 << 20)
                .because(brief_call),
            Bound::of("sandbox.tenant_memory_mib_max", sandbox.tenant_memory_mib_max, 4, 1 << 20)
                .because(brief_call),
            Bound::of("sandbox.compilations_max", sandbox.compilations_max, 1, 64)
                .because("nothing could be installed"),
            Bound::of(
                "sandbox.compile_memory_mib_max",
                sandbox.compile_memory_mib_max,
                256,
                1 << 20,
            )
            .because("most components compile within that, and the compiler itself takes some"),
            Bound::of("sandbox.compile_cpu_seconds_max", sandbox.compile_cpu_seconds_max, 1, 3_600)
                .because("nothing could be installed"),
            Bound::of("sandbox.loaded_max", sandbox.loaded_max, 1, 20_000).because(no_call),
            Bound::of("sandbox.quarantine_after", sandbox.quarantine_after, 1, 1 << 32)
                .because("a plugin would be cut off before it has failed"),
            Bound::of("sandbox.quarantine_seconds", sandbox.quarantine_seconds, 1, 86_400)
                .because("a plugin that is cut off would be called on"),
            Bound::of("plugins.preload_max", plugins.preload_max, 0, 20_000),
            Bound::of(
                "plugins.install_wait_seconds_max",
                plugins.install_wait_seconds_max,
                0,
                3_600,
            ),
            Bound::of("plugins.versions_max", plugins.versions_max, 1, 1_000)
                .because("the version that is installed is one of them"),
        ]
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

/// A numeric setting with its bounds.
struct Bound {
    key: &'static str,
    value: u128,
    min: u128,
    max: u128,
    /// Why a smaller value is not allowed. `None` if the minimum is 0.
    why: Option<&'static str>,
}

impl Bound {
    fn of(key: &'static str, value: impl IntoCount, min: u128, max: u128) -> Self {
        Self { key, value: value.into_count(), min, max, why: None }
    }

    fn because(self, why: &'static str) -> Self {
        Self { why: Some(why), ..self }
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        let Self { key, value, min, max, why } = *self;
        let range = format!("is {value}; it can be {min} to {max}");
        match why {
            _ if (min..=max).contains(&value) => Ok(()),
            Some(why) if value < min => Err(InvalidSetting::new(key, format!("{range}: {why}"))),
            _ => Err(InvalidSetting::new(key, range)),
        }
    }
}

/// Any unsigned integer.
trait IntoCount {
    fn into_count(self) -> u128;
}

impl IntoCount for u32 {
    fn into_count(self) -> u128 {
        self.into()
    }
}

impl IntoCount for u64 {
    fn into_count(self) -> u128 {
        self.into()
    }
}

impl IntoCount for usize {
    fn into_count(self) -> u128 {
        self as u128
    }
}

/// A duration in whole seconds, the unit of the settings. Fractions, which only tests use, are rounded up.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl HttpSettings {
    fn bounds(&self) -> [Bound; 15] {
        let body = self.body_bytes_max as u128;
        let per_address = self.held_body_bytes_per_address_max;
        let per_address_min = if per_address == 0 { 0 } else { body };
        let max = 1 << 40;
        let one_body = "a body of http.body_bytes_max would never fit, though its sender is asked to try again";
        [
            Bound::of("http.body_bytes_max", self.body_bytes_max, 1, 1 << 31)
                .because("no request could have a body"),
            Bound::of("http.head_bytes_max", self.head_bytes_max, 1_024, 1 << 20)
                .because("the headers of ordinary clients would not fit"),
            Bound::of("http.head_seconds_max", whole_seconds(self.head_time_max), 1, 3_600)
                .because("no request would arrive in time"),
            Bound::of("http.body_seconds_max", whole_seconds(self.body_time_max), 1, 3_600)
                .because("no body would arrive in time"),
            Bound::of(
                "http.stranger_body_grace_seconds",
                whole_seconds(self.stranger_body_grace),
                1,
                3_600,
            )
            .because("no body would arrive in time"),
            Bound::of(
                "http.stranger_body_bytes_per_second_min",
                self.stranger_body_bytes_per_second_min,
                1,
                1 << 31,
            )
            .because("a body that stalls would never be cut off"),
            Bound::of("http.held_body_bytes_max", self.held_body_bytes_max, 3 * body, max)
                .because("a body of http.body_bytes_max gets at most half of what it leaves free"),
            Bound::of(
                "http.held_body_bytes_per_tenant_max",
                self.held_body_bytes_per_tenant_max,
                body,
                max,
            )
            .because(one_body),
            Bound::of(
                "http.held_body_bytes_per_channel_max",
                self.held_body_bytes_per_channel_max,
                body,
                max,
            )
            .because(one_body),
            Bound::of("http.held_body_bytes_per_address_max", per_address, per_address_min, max)
                .because(one_body),
            Bound::of("http.connections_max", self.connections_max, 1, 1 << 20)
                .because("no connection would be accepted"),
            Bound::of(
                "http.connections_per_address_max",
                self.connections_per_address_max,
                0,
                1 << 20,
            ),
            Bound::of("http.streams_per_tenant_max", self.streams_per_tenant_max, 0, 1 << 20),
            Bound::of("http.sync_wait_seconds_max", whole_seconds(self.sync_wait_max), 0, 86_400),
            Bound::of("http.drain_seconds_max", whole_seconds(self.drain_time_max), 0, 86_400),
        ]
    }

    /// Without this check, an invalid value would be noticed only by the recipients of URLs that begin with it.
    fn check_public_url(&self) -> Result<(), InvalidSetting> {
        let text = &self.public_url;
        let wrong = |why: &str| {
            let begins = "it begins the URLs that are handed out, as in https://gateway.example";
            Err(InvalidSetting::new("http.public_url", format!("is {text:?}, {why}; {begins}")))
        };
        if text.is_empty() {
            return Ok(());
        }
        match url::Url::parse(text) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                Err(InvalidSetting::new("http.public_url", "holds a user name or a password"))
            }
            Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host().is_none() => {
                wrong("which is neither http nor https")
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                wrong("which has a query or a fragment")
            }
            Ok(_) => Ok(()),
            Err(error) => wrong(&format!("which is not a URL ({error})")),
        }
    }
}

impl ModelSettings {
    fn check(&self, name: &str) -> Result<(), InvalidSetting> {
        let Self::OpenaiCompatible { base_url, model, turn_time_max, .. } = self;
        let (key, why) = if !matches!(base_url.scheme(), "http" | "https") {
            ("base_url", "is neither http nor https")
        } else if model.is_empty() {
            ("model", "is empty")
        } else if !(1..=86_400).contains(&whole_seconds(*turn_time_max)) {
            ("seconds_max", "can be 1 to 86400")
        } else {
            return Ok(());
        };
        Err(InvalidSetting::new(format!("models.{name}.{key}"), why))
    }
}

impl PluginSettings {
    /// Without this check, an invalid key would reject every plugin, or be noticed only at the first installation.
    fn check(&self) -> Result<(), InvalidSetting> {
        for (name, key) in &self.signers {
            minisign_verify::PublicKey::from_base64(key).map_err(|_| {
                InvalidSetting::new(
                    format!("plugins.signers.{name}"),
                    "is not a minisign public key: it is the second line of a minisign.pub file, \
                     56 characters that begin with RW",
                )
            })?;
        }
        if self.require_signed && self.signers.is_empty() {
            let why = "is on, and plugins.signers names no key";
            return Err(InvalidSetting::new("plugins.require_signed", why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(toml: &str) -> Result<Settings, SettingsError> {
        let file = config::File::from_str(toml, config::FileFormat::Toml);
        Settings::build(Settings::defaults().add_source(file), None)
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
    fn a_refusal_says_where_what_is_wrong_was_set_and_why_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        for (text, sentence) in [
            (
                "[http]\nhead_bytes_max = 0\n",
                "http.head_bytes_max (in FILE) is 0; it can be 1024 to 1048576: the headers of \
                 ordinary clients would not fit",
            ),
            (
                "[http]\nbody_bytes_max = 100000000\n",
                "http.held_body_bytes_max is 268435456; it can be 300000000 to 1099511627776: a body \
                 of http.body_bytes_max gets at most half of what it leaves free",
            ),
            (
                "[queue]\nattempts_max = 1001\n",
                "queue.attempts_max (in FILE) is 1001; it can be 1 to 1000",
            ),
            (
                "[http]\npublic_url = \"nonsense\"\n",
                "http.public_url (in FILE) is \"nonsense\", which is not a URL (relative URL without \
                 a base); it begins the URLs that are handed out, as in https://gateway.example",
            ),
            (
                "[models.m]\nkind = \"openai-compatible\"\nbase_url = \"http://a/\"\nmodel = \"\"\n",
                "models.m.model (in FILE) is empty",
            ),
            (
                "[plugins]\nrequire_signed = true\n",
                "plugins.require_signed (in FILE) is on, and plugins.signers names no key",
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            let source = config::File::from(file.as_path()).format(config::FileFormat::Toml);
            let sources = Settings::defaults().add_source(source);
            let error = Settings::build(sources, Some(&file)).unwrap_err();
            let message = error.to_string().replace(file.to_str().unwrap(), "FILE");
            assert_eq!(message, format!("the settings are not valid: {sentence}"));
        }
    }

    #[test]
    fn each_least_value_above_nothing_has_a_reason() {
        let settings = Settings::of_defaults().unwrap();
        for bound in settings.bounds().into_iter().chain(settings.http.bounds()) {
            assert_eq!(bound.why.is_some(), bound.min > 0, "{}", bound.key);
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
