//! One exchange with a model's server: a POST that is answered with server-sent events. Everything that the server sends
//! is bounded in size. An address that a tenant has set is vetted like a plugin's egress; see [`ModelOrigin`].

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::connector::{Connector, ModelOrigin};
use super::error::{ModelError, Retry};
use super::refused_tool::refused_tool;
use super::sse::{EventParser, ServerEvent};
use super::{Received, TurnRequest};
use crate::clock::Clock;
use crate::fault::Fault;
use crate::outbound::NotPublic;
use crate::secrets::SECRET_BYTES_MAX;
use crate::settings::ModelSettings;
use crate::tool::Tool;

/// The longest answer to one turn, in bytes, with the framing of its events: one for each token, with most servers.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How much of an error's body is read, in bytes.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;

/// The server of a model: where turns are sent, and with which headers.
pub(super) struct ModelServer {
    client: reqwest::Client,
    headers: HeaderMap,
    turn_time_max: Duration,
    /// The name of the model, which errors name.
    name: String,
    origin: ModelOrigin,
}

impl ModelServer {
    /// A server that takes the key in this header, after this prefix.
    ///
    /// # Errors
    /// If the key cannot be sent in a header, or the tenant's admin configured an address that is not public.
    pub(super) fn new(
        name: &str,
        settings: &ModelSettings,
        (connector, origin): (&Connector, ModelOrigin),
        (key_header, prefix): (HeaderName, &str),
    ) -> Result<Self, ModelError> {
        let client = connector.client(settings, origin)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(key) = sensitive(&settings.api_key, prefix) {
            let key = key.map_err(|_| {
                let field = origin.field(name, "api_key");
                ModelError::settings(format!("{field} cannot be sent in a header"))
            })?;
            headers.insert(key_header, key);
        }
        let turn_time_max = settings.turn_time_max;
        Ok(Self { client, headers, turn_time_max, name: name.to_owned(), origin })
    }

    /// Adds a header to every request.
    pub(super) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    /// Sends a turn with this body, and returns the events of the answer.
    ///
    /// # Errors
    /// If the server cannot be reached, or answers with anything else than a stream of events.
    pub(super) async fn post(
        &self,
        url: Url,
        body: String,
        turn: &TurnRequest<'_>,
    ) -> Result<AnswerStream, ModelError> {
        let request = self.client.post(url).headers(self.headers.clone()).body(body);
        let request = request.timeout(self.turn_time_max);
        let response = request.send().await.map_err(|error| transport_error(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(response, turn.tools).await);
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !content_type.trim_start().to_ascii_lowercase().starts_with("text/event-stream") {
            let field = |field| self.origin.field(&self.name, field);
            return Err(ModelError {
                fault: self.origin.fault(),
                ..ModelError::settings(format!(
                    "the model's server answered with {content_type:?} in place of a stream of events: check that {} is \
                     the API that {} says",
                    field("base_url"),
                    field("kind")
                ))
            });
        }
        Ok(AnswerStream::new(response, turn.received.clone()))
    }

    /// Describes an answer that is not a success.
    async fn refused(&self, mut response: reqwest::Response, tools: &[Tool]) -> ModelError {
        let status = response.status();
        let asked_pause = pause_from_headers(response.headers());
        let mut body = Vec::new();
        while let Ok(Some(part)) = response.chunk().await {
            let room = ERROR_BODY_BYTES_MAX - body.len();
            body.extend_from_slice(part.get(..room).unwrap_or(&part));
            if body.len() == ERROR_BODY_BYTES_MAX {
                break;
            }
        }
        if body.len() == ERROR_BODY_BYTES_MAX {
            // Its end may be a part of a secret that the server repeats, which would not be redacted.
            body.truncate(ERROR_BODY_BYTES_MAX - SECRET_BYTES_MAX);
        }
        let body: Bytes = body.into();
        let parsed: Option<Value> = serde_json::from_slice(&body).ok();
        let text = parsed
            .as_ref()
            .and_then(error_text)
            .unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        let text = text.trim();
        let number = status.as_u16();
        let field = |field| self.origin.field(&self.name, field);
        let message = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
                "the model's server refused the key ({number}): {text}; check {}",
                field("api_key")
            ),
            StatusCode::NOT_FOUND => format!(
                "the model's server does not know the model or the address ({number}): {text}; check {} and {}",
                field("model"),
                field("base_url")
            ),
            _ => format!("the model's server answered {number}: {text}"),
        };
        let may_pass = matches!(number, 408 | 409 | 429 | 500..=599);
        let after = asked_pause.or_else(|| pause_from_body(parsed.as_ref()?));
        if may_pass {
            return ModelError { retry: Retry::Later { after }, ..ModelError::upstream(message) };
        }
        let is_of_request = matches!(number, 400 | 422);
        let tool = is_of_request.then(|| refused_tool(text, tools)).flatten().map(str::to_owned);
        ModelError { refused_tool: tool, ..ModelError::upstream(message) }
    }
}

/// The events of an answer as they arrive.
pub(super) struct AnswerStream {
    response: reqwest::Response,
    parser: EventParser,
    /// How many bytes the answer may still have.
    left: usize,
    ended: bool,
    received: Received,
    has_begun: bool,
}

impl AnswerStream {
    pub(super) fn new(response: reqwest::Response, received: Received) -> Self {
        Self {
            response,
            parser: EventParser::default(),
            left: ANSWER_BYTES_MAX,
            ended: false,
            received,
            has_begun: false,
        }
    }

    /// The next event. `None` at the end of the stream.
    ///
    /// # Errors
    /// If the connection breaks, the answer is too long, or an event is not UTF-8.
    pub(super) async fn next(&mut self) -> Result<Option<ServerEvent>, ModelError> {
        loop {
            // What has arrived already must not keep the thread, nor the run from its time limit.
            tokio::task::consume_budget().await;
            if let Some(event) = self.parser.pop() {
                self.received.add_event(event.data.len(), !self.has_begun);
                self.has_begun = true;
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let invalid = |error| ModelError::upstream(format!("the model's server {error}"));
            match self.response.chunk().await.map_err(|error| transport_error(&error))? {
                Some(part) => {
                    self.left = self.left.checked_sub(part.len()).ok_or_else(|| {
                        ModelError::upstream(format!(
                            "the model's server sent more than {ANSWER_BYTES_MAX} bytes for one turn"
                        ))
                    })?;
                    self.parser.push(&part).map_err(invalid)?;
                }
                None => {
                    self.ended = true;
                    self.parser.finish();
                }
            }
        }
    }
}

fn transport_error(error: &reqwest::Error) -> ModelError {
    let unreachable =
        |message: &str| ModelError { retry: Retry::Elsewhere, ..ModelError::upstream(message) };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(not_public) = cause.downcast_ref::<NotPublic>() {
            return ModelError {
                retry: Retry::Elsewhere,
                fault: Fault::Policy,
                ..ModelError::settings(format!("the model's server is not asked: {not_public}"))
            };
        }
        source = cause.source();
    }
    if error.is_timeout() {
        unreachable("the model's server did not answer in time")
    } else if error.is_connect() {
        unreachable("the model's server cannot be connected to")
    } else {
        ModelError::transient("the connection to the model's server broke off")
    }
}

/// A header's value with a key in it. `None` without a key.
fn sensitive(
    key: &SecretString,
    prefix: &str,
) -> Option<Result<HeaderValue, http::header::InvalidHeaderValue>> {
    let key = key.expose_secret();
    (!key.is_empty()).then(|| {
        let mut value = HeaderValue::try_from(format!("{prefix}{key}"))?;
        value.set_sensitive(true);
        Ok(value)
    })
}

/// The text of an error in an event.
pub(super) fn event_error(error: &RawValue) -> String {
    serde_json::from_str(error.get()).ok().as_ref().and_then(error_text).unwrap_or_default()
}

/// The text of an error in the body of an answer or in an event.
fn error_text(body: &Value) -> Option<String> {
    let error = body.get("error").unwrap_or(body);
    let text = error.get("message").or_else(|| error.get("detail")).unwrap_or(error);
    text.as_str().map(str::to_owned)
}

/// The pause that a server asks for: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, section
/// 10.2.3).
fn pause_from_headers(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str, unit: f64| {
        let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0)?;
        // More than there is time counts as for ever.
        Some(Duration::try_from_secs_f64(seconds * unit).unwrap_or(Duration::MAX))
    };
    if let Some(pause) = text("retry-after-ms").and_then(|millis| seconds(millis, 0.001)) {
        return Some(pause);
    }
    let text = text(RETRY_AFTER.as_str())?;
    if let Some(pause) = seconds(text, 1.0) {
        return Some(pause);
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    // By the server's clock, if its answer gives it.
    let now = headers.get(DATE).and_then(|now| date(now.to_str().ok()?));
    let now = now.unwrap_or_else(|| {
        let micros = u64::try_from(Clock::system().now().micros()).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    });
    Some(date(text)?.duration_since(now).unwrap_or_default())
}

/// The pause in the body of a Google API's error: `google.rpc.RetryInfo`.
fn pause_from_body(body: &Value) -> Option<Duration> {
    let details = body.pointer("/error/details")?.as_array()?;
    let delay = details.iter().find_map(|detail| detail.get("retryDelay")?.as_str())?;
    Duration::try_from_secs_f64(delay.strip_suffix('s')?.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pause_is_understood_in_all_its_forms() {
        let pause = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers.insert(DATE, "Fri, 31 Dec 1999 23:59:50 GMT".parse().unwrap());
            pause_from_headers(&headers)
        };
        assert_eq!(pause("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(pause("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(
            pause("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"),
            Some(Duration::from_secs(9))
        );
        assert_eq!(pause("retry-after", "Fri, 31 Dec 1999 23:59:00 GMT"), Some(Duration::ZERO));
        assert_eq!(
            pause("retry-after", "Friday, 31-Dec-99 23:59:59 GMT"),
            Some(Duration::from_secs(9))
        );
        assert_eq!(pause("retry-after", "Fri Dec 31 23:59:59 1999"), Some(Duration::from_secs(9)));
        assert_eq!(pause("retry-after", "1000000000000000000000"), Some(Duration::MAX));
        for nothing in ["", "soon", "-1", "NaN"] {
            assert_eq!(pause("retry-after", nothing), None, "{nothing}");
        }
        let body = json!({"error": {"details": [
            {"@type": "type.googleapis.com/google.rpc.Help"},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.25s"},
        ]}});
        assert_eq!(pause_from_body(&body), Some(Duration::from_millis(3250)));
        assert_eq!(pause_from_body(&json!({"error": {"details": [{"retryDelay": 3}]}})), None);
    }

    #[test]
    fn an_errors_text_is_found_where_providers_put_it() {
        for body in [
            json!({"error": {"message": "no"}}),
            json!({"error": "no"}),
            json!({"message": "no"}),
            json!({"detail": "no"}),
        ] {
            assert_eq!(error_text(&body).as_deref(), Some("no"), "{body}");
        }
        assert_eq!(error_text(&json!({"error": {"code": 1}})), None);
    }
}
