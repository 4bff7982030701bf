//! Which values settings can have: bounds of numbers, and rules that a type cannot express.

use std::time::Duration;

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;

use super::{
    HttpSettings, InvalidSetting, ModelSettings, PluginSettings, Protocol, Settings, SettingsError,
    TelemetrySettings,
};

/// The largest budget: what the store can count.
const SPENT_MAX: u128 = 1 << 59;

/// The largest price of a million tokens.
const PRICE_MAX: u64 = 1 << 40;

impl Settings {
    /// The first setting that cannot be used.
    pub(super) fn find_invalid(&self) -> Result<(), InvalidSetting> {
        for bound in self.bounds().into_iter().chain(self.http.bounds()) {
            bound.check()?;
        }
        self.http.check_public_url()?;
        if self.models.contains_key("offline") {
            return Err(InvalidSetting::new("models.offline", "is built in and cannot be set"));
        }
        for (name, model) in &self.models {
            model.check(name, &self.models)?;
        }
        self.telemetry.check()?;
        self.plugins.check()
    }

    /// Every number outside `[http]`, with its minimum and maximum.
    pub(super) fn bounds(&self) -> [Bound; 29] {
        let Self { sandbox, plugins, queue, agent, .. } = self;
        let no_run = "no run would ever begin";
        let no_call = "no plugin could be called";
        let brief_call = "a brief call of the shipped plugins takes up to that";
        [
            Bound::new("queue.lease_seconds", whole_seconds(queue.lease), 3, 86_400)
                .because("it is extended three times within its length"),
            Bound::new("queue.runs_max", queue.runs_max, 0, 100_000),
            Bound::new("queue.runs_per_tenant_max", queue.runs_per_tenant_max, 1, 100_000)
                .because(no_run),
            Bound::new("queue.attempts_max", queue.attempts_max, 1, 1_000).because(no_run),
            Bound::new("queue.run_seconds_max", whole_seconds(queue.run_time_max), 1, 7 * 86_400)
                .because("every run would be over before it begins"),
            Bound::new("agent.turns_max", agent.turns_max, 1, 10_000)
                .because("no model would ever be asked"),
            Bound::new("agent.tool_calls_max", agent.tool_calls_max, 0, 100_000),
            Bound::new("agent.tool_bytes_max", agent.tool_bytes_max, 1_024, 1 << 30)
                .because("hardly any tool's answer would reach the model"),
            Bound::new("agent.result_bytes_max", agent.result_bytes_max, 1_024, 1 << 30)
                .because("a result of any use would have to be read in many turns"),
            Bound::new("agent.history_tasks_max", agent.history_tasks_max, 0, 10_000),
            Bound::new("agent.history_bytes_max", agent.history_bytes_max, 0, 1 << 30),
            Bound::new("agent.tokens_max", agent.tokens_max, 0, SPENT_MAX),
            Bound::new("agent.cost_micros_max", agent.cost_micros_max, 0, SPENT_MAX),
            Bound::new(
                "agent.tenant_tokens_per_day_max",
                agent.tenant_tokens_per_day_max,
                0,
                SPENT_MAX,
            ),
            Bound::new(
                "agent.tenant_cost_micros_per_day_max",
                agent.tenant_cost_micros_per_day_max,
                0,
                SPENT_MAX,
            ),
            Bound::new("sandbox.calls_max", sandbox.calls_max, 1, 4_096).because(no_call),
            Bound::new("sandbox.slow_threads", sandbox.slow_threads, 1, 1_024)
                .because("no call could take longer than 10 ms"),
            Bound::new("sandbox.memory_mib_max", sandbox.memory_mib_max, 2, 4_096)
                .because("the shipped plugins take up to that"),
            Bound::new("sandbox.all_memory_mib_max", sandbox.all_memory_mib_max, 4, 1 << 20)
                .because(brief_call),
            Bound::new("sandbox.tenant_memory_mib_max", sandbox.tenant_memory_mib_max, 4, 1 << 20)
                .because(brief_call),
            Bound::new("sandbox.compilations_max", sandbox.compilations_max, 1, 64)
                .because("nothing could be installed"),
            Bound::new(
                "sandbox.compile_memory_mib_max",
                sandbox.compile_memory_mib_max,
                256,
                1 << 20,
            )
            .because("most components compile within that, and the compiler itself takes some"),
            Bound::new(
                "sandbox.compile_cpu_seconds_max",
                sandbox.compile_cpu_seconds_max,
                1,
                3_600,
            )
            .because("nothing could be installed"),
            Bound::new("sandbox.loaded_max", sandbox.loaded_max, 1, 20_000).because(no_call),
            Bound::new("sandbox.quarantine_after", sandbox.quarantine_after, 1, 1 << 32)
                .because("a plugin would be cut off before it has failed"),
            Bound::new("sandbox.quarantine_seconds", sandbox.quarantine_seconds, 1, 86_400)
                .because("a plugin that is cut off would be called on"),
            Bound::new("plugins.preload_max", plugins.preload_max, 0, 20_000),
            Bound::new(
                "plugins.install_wait_seconds_max",
                plugins.install_wait_seconds_max,
                0,
                3_600,
            ),
            Bound::new("plugins.versions_max", plugins.versions_max, 1, 1_000)
                .because("the version that is installed is one of them"),
        ]
    }
}

/// A numeric setting with its bounds.
pub(super) struct Bound {
    pub(super) key: &'static str,
    value: u128,
    pub(super) min: u128,
    max: u128,
    /// Why a smaller value is not allowed. `None` if the minimum is 0.
    pub(super) why: Option<&'static str>,
}

impl Bound {
    fn new(key: &'static str, value: impl IntoCount, min: u128, max: u128) -> Self {
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
    pub(super) fn bounds(&self) -> [Bound; 15] {
        let body = self.body_bytes_max as u128;
        let per_address = self.held_body_bytes_per_address_max;
        let per_address_min = if per_address == 0 { 0 } else { body };
        let max = 1 << 40;
        let one_body = "a body of http.body_bytes_max would never fit, though its sender is asked to try again";
        [
            Bound::new("http.body_bytes_max", self.body_bytes_max, 1, 1 << 31)
                .because("no request could have a body"),
            Bound::new("http.head_bytes_max", self.head_bytes_max, 1_024, 1 << 20)
                .because("the headers of ordinary clients would not fit"),
            Bound::new("http.head_seconds_max", whole_seconds(self.head_time_max), 1, 3_600)
                .because("no request would arrive in time"),
            Bound::new("http.body_seconds_max", whole_seconds(self.body_time_max), 1, 3_600)
                .because("no body would arrive in time"),
            Bound::new(
                "http.stranger_body_grace_seconds",
                whole_seconds(self.stranger_body_grace),
                1,
                3_600,
            )
            .because("no body would arrive in time"),
            Bound::new(
                "http.stranger_body_bytes_per_second_min",
                self.stranger_body_bytes_per_second_min,
                1,
                1 << 31,
            )
            .because("a body that stalls would never be cut off"),
            Bound::new("http.held_body_bytes_max", self.held_body_bytes_max, 3 * body, max)
                .because("a body of http.body_bytes_max gets at most half of what it leaves free"),
            Bound::new(
                "http.held_body_bytes_per_tenant_max",
                self.held_body_bytes_per_tenant_max,
                body,
                max,
            )
            .because(one_body),
            Bound::new(
                "http.held_body_bytes_per_channel_max",
                self.held_body_bytes_per_channel_max,
                body,
                max,
            )
            .because(one_body),
            Bound::new("http.held_body_bytes_per_address_max", per_address, per_address_min, max)
                .because(one_body),
            Bound::new("http.connections_max", self.connections_max, 1, 1 << 20)
                .because("no connection would be accepted"),
            Bound::new(
                "http.connections_per_address_max",
                self.connections_per_address_max,
                0,
                1 << 20,
            ),
            Bound::new("http.streams_per_tenant_max", self.streams_per_tenant_max, 0, 1 << 20),
            Bound::new("http.sync_wait_seconds_max", whole_seconds(self.sync_wait_max), 0, 86_400),
            Bound::new("http.drain_seconds_max", whole_seconds(self.drain_time_max), 0, 86_400),
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

/// Checks a model that is to be one of these.
///
/// # Errors
/// [`SettingsError`], which names the wrong setting.
pub fn check_model(
    name: &str,
    model: &ModelSettings,
    models: &BTreeMap<String, ModelSettings>,
) -> Result<(), SettingsError> {
    model.check(name, models).map_err(|invalid| SettingsError(invalid.to_sentence()))
}

/// Whether a header may hold a key. Others may mean something to servers and proxies.
fn is_key_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "authorization" | "api-key")
        || (name.starts_with("x-") && !name.starts_with("x-forwarded-"))
}

impl ModelSettings {
    fn check(&self, name: &str, models: &BTreeMap<String, Self>) -> Result<(), InvalidSetting> {
        let Self { kind, base_url, model, key_header, turn_time_max, thinking_tokens, .. } = self;
        let is_openai = *kind == Protocol::OpenaiCompatible;
        let has_no_scheme =
            |url: &url::Url| !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base();
        let (key, why) = if is_openai && base_url.is_none() {
            ("base_url", "is missing: https://api.openai.com/v1/ for OpenAI")
        } else if base_url.as_ref().is_some_and(has_no_scheme) {
            ("base_url", "is neither http nor https")
        } else if base_url
            .as_ref()
            .is_some_and(|url| !url.username().is_empty() || url.password().is_some())
        {
            ("base_url", "holds a user name or a password: keys belong into api_key")
        } else if model.is_empty() {
            ("model", "is empty")
        } else if !(1..=86_400).contains(&whole_seconds(*turn_time_max)) {
            ("seconds_max", "can be 1 to 86400")
        } else if !is_openai && key_header.is_some() {
            ("key_header", "is for openai-compatible models only")
        } else if key_header.as_ref().is_some_and(|name| http::HeaderName::try_from(name).is_err())
        {
            ("key_header", "is not the name of a header")
        } else if key_header.as_deref().is_some_and(|name| !is_key_header(name)) {
            (
                "key_header",
                "cannot hold a key; it can be authorization, api-key, or one that begins with x-",
            )
        } else if is_openai && thinking_tokens.is_some() {
            (
                "thinking_tokens",
                "is for anthropic and gemini only; openai-compatible models have effort",
            )
        } else if self.context_tokens < 1_024 {
            ("context_tokens", "is below 1024: hardly a prompt would fit")
        } else if self.output_tokens_max == Some(0) {
            ("output_tokens_max", "is 0")
        } else if self
            .thinking_tokens
            .zip(self.output_tokens_max)
            .is_some_and(|(think, max)| think >= max)
        {
            ("thinking_tokens", "is not below output_tokens_max, which includes it")
        } else if self.fallback.as_ref().is_some_and(|fallback| !models.contains_key(fallback)) {
            ("fallback", "names no model of the settings")
        } else if self.is_its_own_fallback(name, models) {
            ("fallback", "leads back to the model itself")
        } else if self.price.is_some_and(|price| price.largest() > PRICE_MAX) {
            ("price", "is higher than 1099511627776 for a million tokens")
        } else {
            return Ok(());
        };
        Err(InvalidSetting::new(format!("models.{name}.{key}"), why))
    }

    fn is_its_own_fallback(&self, name: &str, models: &BTreeMap<String, Self>) -> bool {
        let mut next = self.fallback.as_deref();
        for _ in 0..models.len() {
            match next {
                None => return false,
                Some(next) if next == name => return true,
                Some(fallback) => {
                    next = models.get(fallback).and_then(|model| model.fallback.as_deref());
                }
            }
        }
        // A circle further along the way.
        next.is_some()
    }
}

impl TelemetrySettings {
    /// Without this check, nobody would notice that nothing is sent.
    fn check(&self) -> Result<(), InvalidSetting> {
        let key = "telemetry.otlp_endpoint";
        match url::Url::parse(&self.otlp_endpoint) {
            _ if self.otlp_endpoint.is_empty() => {}
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.query().is_none() => {}
            Ok(_) => {
                return Err(InvalidSetting::new(
                    key,
                    "is not the URL of a collector, as in http://localhost:4318",
                ));
            }
            Err(error) => {
                return Err(InvalidSetting::new(key, format!("is not a URL ({error})")));
            }
        }
        for (name, value) in &self.otlp_headers {
            let is_valid = http::HeaderName::try_from(name).is_ok()
                && http::HeaderValue::try_from(value.expose_secret()).is_ok();
            if !is_valid {
                let why = "cannot be sent as a header";
                return Err(InvalidSetting::new(format!("telemetry.otlp_headers.{name}"), why));
            }
        }
        Ok(())
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
