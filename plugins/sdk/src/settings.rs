//! Settings, each declared once: the declaration yields the JSON Schema that `about` returns, the check
//! before a binding goes live, and the value during a call.
//!
//! All settings are strings, the only type of `wasi:config`. All plugins of a channel share one table of
//! settings, so a plugin ignores names that it does not know: they may be meant for another plugin.

use crate::about::Diagnostic;
use crate::host::Host;
use crate::{DotPath, Failure, Json, json};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One setting of a plugin.
pub struct Setting {
    /// The name in kebab-case, such as `tolerance-seconds`.
    pub name: &'static str,
    /// The value if the operator sets none. `None` makes the setting required.
    pub default: Option<&'static str>,
    /// The format that values must have.
    pub format: Format,
    /// One sentence for the operator.
    pub description: &'static str,
}

/// The format that the values of a setting must have.
pub enum Format {
    /// Any text.
    Text,
    /// A whole number between a minimum and a maximum, both inclusive.
    Number(u64, u64),
    /// One of these values.
    OneOf(&'static [&'static str]),
    /// The name of an HTTP header, or empty.
    HeaderName,
    /// An absolute http or https URL without a trailing slash.
    BaseUrl,
    /// A dot path into the payload, or empty.
    DotPath,
}

/// How many seconds a signed timestamp may be off, in either direction. Stripe, Slack and Standard
/// Webhooks use five minutes; more than a day no longer protects against replay.
pub const TOLERANCE_SECONDS: Setting = Setting {
    name: "tolerance-seconds",
    default: Some("300"),
    format: Format::Number(1, 86_400),
    description: "How many seconds the signed timestamp may be off, in either direction.",
};

impl Setting {
    /// Reads the value that the operator set, or the default. Fails with [`misconfigured`] (500) if a
    /// required setting is missing or the value does not have the setting's format: the request is not at
    /// fault, and no value is guessed.
    pub fn value(&self, host: &impl Host) -> Result<String, Failure> {
        let Some(value) = host.setting(self.name)? else {
            return self.default.map(String::from).ok_or_else(|| misconfigured(&self.missing()));
        };
        match self.format.problem(&value) {
            None => Ok(value),
            Some(problem) => Err(misconfigured(&format!("`{}` {problem}", self.name))),
        }
    }

    /// Reads a setting of the format [`Format::Number`].
    pub fn number(&self, host: &impl Host) -> Result<u64, Failure> {
        self.value(host)?.parse().map_err(|_| misconfigured(self.name))
    }

    fn missing(&self) -> String {
        format!("`{}` is required", self.name)
    }

    fn json_schema(&self) -> Json {
        let mut schema = json::ObjectBuilder::new();
        schema.string("type", "string").string("description", self.description);
        if let Some(default) = self.default {
            schema.string("default", default);
        }
        match self.format {
            Format::Text | Format::DotPath => &mut schema,
            Format::Number(..) => schema.string("pattern", "^[0-9]+$"),
            Format::OneOf(values) => schema.raw("enum", &json::encode_strings(values)),
            Format::HeaderName => schema.string("pattern", "^[!#$%&'*+.^_`|~0-9A-Za-z-]*$"),
            Format::BaseUrl => schema.string("pattern", "^https?://[^/]"),
        };
        schema.finish()
    }
}

impl Format {
    /// What is wrong with a value, as the end of a sentence that starts with the setting's name.
    fn problem(&self, value: &str) -> Option<String> {
        match *self {
            Self::Text => None,
            Self::Number(min, max) => {
                let is_digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let is_in_range = value.parse().is_ok_and(|number| (min..=max).contains(&number));
                (!is_digits || !is_in_range)
                    .then(|| format!("is to be a whole number from {min} to {max}"))
            }
            Self::OneOf(values) => {
                (!values.contains(&value)).then(|| format!("is to be one of {}", values.join(", ")))
            }
            Self::HeaderName => (!value.bytes().all(is_token))
                .then(|| String::from("is to be the name of a header")),
            Self::BaseUrl => (!is_base_url(value))
                .then(|| String::from("is to be an http or https URL without a slash at its end")),
            Self::DotPath if value.is_empty() => None,
            Self::DotPath => {
                DotPath::parse(value).err().map(|problem| format!("is not a dot path: {problem}"))
            }
        }
    }
}

/// A character of a token: RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_base_url(value: &str) -> bool {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let is_plain =
        value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#');
    is_plain
        && rest.is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty())
        && !value.ends_with('/')
}

/// A failure that only the operator can fix, not the caller: HTTP 500.
pub fn misconfigured(problem: &str) -> Failure {
    Failure::new("settings", format!("this channel's settings are wrong: {problem}"))
}

/// The JSON Schema of these settings.
pub fn json_schema(settings: &[Setting]) -> Json {
    let mut properties = json::ObjectBuilder::new();
    let mut required = Vec::new();
    for setting in settings {
        properties.raw(setting.name, &setting.json_schema());
        if setting.default.is_none() {
            required.push(setting.name);
        }
    }
    json::ObjectBuilder::new()
        .string("$schema", "https://json-schema.org/draft/2020-12/schema")
        .string("type", "object")
        .raw("properties", &properties.finish())
        .raw("required", &json::encode_strings(&required))
        .finish()
}

/// The values of all settings, with the defaults of those that the operator did not set.
pub struct SettingValues(Vec<(&'static str, String)>);

impl SettingValues {
    /// The value of one setting; empty if there is no setting of this name.
    pub fn value(&self, setting: &Setting) -> &str {
        let found = self.0.iter().find(|(name, _)| *name == setting.name);
        found.map_or("", |(_, value)| value)
    }
}

/// Checks each setting by itself. Also returns the values, for checks of settings against each other.
pub fn validate(settings: &[Setting], config: &str) -> (SettingValues, Vec<Diagnostic>) {
    let mut values = Vec::new();
    let mut problems = Vec::new();
    let Ok(ConfigMembers(members)) = serde_json::from_str(config) else {
        problems.push(Diagnostic::new("", "the settings are to be a JSON object"));
        return (SettingValues(values), problems);
    };
    for setting in settings {
        let configured = members.iter().rev().find(|(name, _)| name == setting.name);
        let problem = match (configured, setting.default) {
            (None, None) => Some(setting.missing()),
            (None, Some(default)) => {
                values.push((setting.name, default.into()));
                None
            }
            (Some((_, value)), _) => match json::decode_string(value.get()) {
                None => Some(format!("`{}` is to be a text: put it in quotes", setting.name)),
                Some(text) => {
                    let problem = setting.format.problem(&text);
                    values.push((setting.name, text));
                    problem.map(|problem| format!("`{}` {problem}", setting.name))
                }
            },
        };
        if let Some(problem) = problem {
            // A name in kebab-case needs no escaping in a pointer.
            problems.push(Diagnostic::new(format!("/{}", setting.name), problem));
        }
    }
    (SettingValues(values), problems)
}

/// The members of an object in their order, values unparsed. A map of the standard library would be a
/// tenth of a small plugin's code.
struct ConfigMembers<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for ConfigMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = ConfigMembers<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(ConfigMembers(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const SETTINGS: &[Setting] = &[
        TOLERANCE_SECONDS,
        Setting {
            name: "header",
            default: None,
            format: Format::HeaderName,
            description: "Where.",
        },
        Setting {
            name: "encoding",
            default: Some("hex"),
            format: Format::OneOf(&["hex", "base64"]),
            description: "How.",
        },
        Setting {
            name: "api-url",
            default: Some("https://example.com"),
            format: Format::BaseUrl,
            description: "Whither.",
        },
    ];

    fn problems(config: &str) -> Vec<(String, String)> {
        let (_, found) = validate(SETTINGS, config);
        found.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
    }

    #[test]
    fn good_settings_are_good() {
        for config in [
            r#"{"header":"x-signature"}"#,
            r#"{"header":"x","tolerance-seconds":"86400","encoding":"base64"}"#,
            r#"{"header":"x","api-url":"http://127.0.0.1:9/base","meant-for-another":7}"#,
        ] {
            assert_eq!(problems(config), [], "{config}");
        }
    }

    #[test]
    fn each_wrong_setting_is_pointed_at() {
        for (config, pointer, message) in [
            ("[]", "", "the settings are to be a JSON object"),
            ("{}", "/header", "`header` is required"),
            (r#"{"header":7}"#, "/header", "`header` is to be a text: put it in quotes"),
            (r#"{"header":"a b"}"#, "/header", "`header` is to be the name of a header"),
            (
                r#"{"header":"x","encoding":"HEX"}"#,
                "/encoding",
                "`encoding` is to be one of hex, base64",
            ),
            (
                r#"{"header":"x","api-url":"https://a.b/"}"#,
                "/api-url",
                "`api-url` is to be an http or https URL without a slash at its end",
            ),
        ] {
            assert_eq!(problems(config), [(pointer.to_string(), message.to_string())], "{config}");
        }
        for number in ["0", "86401", "", "5m", "+5", "-1", "99999999999999999999"] {
            let config = format!(r#"{{"header":"x","tolerance-seconds":"{number}"}}"#);
            let expected = "`tolerance-seconds` is to be a whole number from 1 to 86400";
            assert_eq!(
                problems(&config),
                [("/tolerance-seconds".to_string(), expected.to_string())],
                "{number}"
            );
        }
        for url in ["ftp://a", "https://", "https:///a", "https://a b", "https://a?b", "a.b"] {
            let config = format!(r#"{{"header":"x","api-url":"{url}"}}"#);
            assert_eq!(problems(&config).len(), 1, "{url}");
        }
    }

    #[test]
    fn the_schema_is_json_and_names_what_is_required() {
        let schema: serde_json::Value = serde_json::from_str(&json_schema(SETTINGS)).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["header"]));
        assert_eq!(schema["properties"]["tolerance-seconds"]["default"], "300");
        assert_eq!(schema["properties"]["encoding"]["enum"], serde_json::json!(["hex", "base64"]));
    }
}
