//! Reads one event from its headers (binary mode) or its body (structured mode).

use alloc::format;
use alloc::string::String;
use wardgate_sdk::Failure;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::ObjectBuilder;
use wardgate_sdk::mapper::Mapped;

/// The supported versions. The members that are read are the same in both.
const SUPPORTED_VERSIONS: [&str; 2] = ["1.0", "0.3"];

/// The attributes of an event. `id`, `source` and `event_type` are required and not empty.
pub(crate) struct Event {
    id: String,
    source: String,
    pub(crate) event_type: String,
    subject: Option<String>,
    time: Option<String>,
    is_structured: bool,
}

impl Event {
    /// Reads the event. `None` if it is a batch, or its format is not JSON.
    pub(crate) fn from_request(host: &impl Host) -> Result<Option<Self>, Failure> {
        let content_type = host.header("content-type").unwrap_or_default().to_ascii_lowercase();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is_structured = media_type == "application/cloudevents+json";
        if media_type.starts_with("application/cloudevents") && !is_structured {
            return Ok(None);
        }
        let attribute = |name: &str| -> Result<Option<String>, Failure> {
            let found = match is_structured {
                true => host.scalar(&format!("/{name}")),
                false => match host.header(&format!("ce-{name}")) {
                    Some(value) => Some(decode_header_value(&value)?),
                    None => None,
                },
            };
            Ok(found.filter(|value| !value.is_empty()))
        };
        let required = |name: &str| {
            attribute(name)?.ok_or_else(|| {
                Failure::invalid_input(format!("this is not a CloudEvent: it has no `{name}`"))
            })
        };
        let version = required("specversion")?;
        if !SUPPORTED_VERSIONS.contains(&version.as_str()) {
            return Err(Failure::invalid_input("of CloudEvents, only 1.0 and 0.3 are known"));
        }
        Ok(Some(Self {
            id: required("id")?,
            source: required("source")?,
            event_type: required("type")?,
            subject: attribute("subject")?,
            time: attribute("time")?,
            is_structured,
        }))
    }

    pub(crate) fn into_mapped(self, host: &impl Host) -> Mapped {
        let Self { id, source, event_type, subject, time, is_structured } = self;
        let about =
            subject.as_ref().map_or_else(String::new, |subject| format!(" about {subject}"));
        // A source may send any number of events without a subject, so each starts a thread of its own.
        let thread = subject.as_ref().map(|subject| format!("{source} {subject}"));
        let data = match is_structured {
            true => host.json("/data").or_else(|| host.json("/data_base64")),
            false => host.json(""),
        };
        let context = ObjectBuilder::new()
            .string("id", &id)
            .string("source", &source)
            .string("type", &event_type)
            .maybe_string("subject", subject.as_deref())
            .maybe_string("time", time.as_deref())
            .maybe_raw("data", data.as_deref())
            .finish();
        let mut mapped = Mapped::run()
            .with_param("prompt", format!("CloudEvent {event_type} from {source}{about}."))
            // "Producers MUST ensure that source + id is unique for each distinct event."
            .with_delivery_id(format!("{source} {id}"))
            .with_context(context);
        if let Some(thread) = thread {
            mapped = mapped.with_param("task_id", thread);
        }
        mapped
    }
}

/// Decodes a header value, HTTP binding section 3.1.3.2: removes quotes and the escapes within them, then
/// percent-decodes once, where "encoded byte sequences which are invalid in UTF-8 MUST be rejected".
fn decode_header_value(value: &str) -> Result<String, Failure> {
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let mut unescaped = String::with_capacity(value.len());
    let mut characters = quoted.unwrap_or(value).chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted.is_some() => unescaped.extend(characters.next()),
            _ => unescaped.push(character),
        }
    }
    match percent_encoding::percent_decode_str(&unescaped).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Failure::invalid_input("an attribute of the event is not UTF-8")),
    }
}
