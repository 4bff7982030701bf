//! Recordings of the host's answers that a plugin cannot compute itself: network responses, clock readings, stored
//! values. A call records them; a replay or a test plays them back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Maximum size of one call's recording, in bytes.
const RECORDING_BYTES_MAX: usize = 512 << 10;

/// What an answer of fixed size counts for, in bytes.
const SMALL_ANSWER_BYTES: usize = 48;

/// One answer of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "asked", rename_all = "kebab-case")]
pub enum HostResponse {
    /// An outgoing request.
    Egress(Exchange),
    /// An operation on values that outlive the call.
    Value {
        /// `get`, `set`, `delete`, `exists`, `list-keys` or `increment`.
        operation: String,
        /// The key; for `list-keys`, how many keys were skipped.
        key: String,
        /// The result as JSON, bytes in base64, or the error.
        outcome: Result<serde_json::Value, String>,
    },
    /// The time of day, in nanoseconds since the Unix epoch.
    WallClock {
        /// The reading.
        nanos: u64,
    },
    /// The monotonic clock, in nanoseconds since an arbitrary moment.
    Monotonic {
        /// The reading.
        nanos: u64,
    },
    /// The seed of the call's random numbers.
    Random {
        /// 32 bytes, in hexadecimal.
        seed: String,
    },
    /// Whether a presented value or signature matches a secret. The secret is not recorded.
    Secret {
        /// `hmac-verify`, `hmac-verify-body` or `matches`.
        operation: String,
        /// The verdict.
        holds: bool,
    },
    /// A message was signed. The signature is as sensitive as a secret and is not recorded.
    Signed,
}

/// An outgoing request and its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Its method.
    pub method: String,
    /// The URL as the plugin wrote it, without the credential.
    pub url: String,
    /// Which credential it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The response, or why there is none.
    pub outcome: Result<Received, ExchangeError>,
}

/// A response from the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(with = "as_base64")]
    pub body: Vec<u8>,
    /// Whether the body was longer and has been cut.
    pub truncated: bool,
}

/// Why a request got no response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeError {
    /// The code of the failure.
    pub code: String,
    /// The message of the failure.
    pub message: String,
}

/// A request that a plugin sent, for tests to inspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its method.
    pub method: String,
    /// The URL as the plugin wrote it.
    pub url: String,
    /// The headers as the plugin wrote them.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// Which credential it asked for.
    pub credential: Option<String>,
}

/// The recorded answers of one call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// The answers, in order.
    pub answers: Vec<HostResponse>,
    /// Whether later answers were dropped to bound the size: such a call cannot be replayed faithfully.
    #[serde(default)]
    pub truncated: bool,
    #[serde(skip)]
    bytes: usize,
}

impl Recording {
    /// Whether nothing was recorded: the call used only its request, its task and its settings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty() && !self.truncated
    }

    pub(super) fn push(&mut self, answer: HostResponse) {
        let bytes = match &answer {
            HostResponse::Egress(exchange) => {
                let received = exchange.outcome.as_ref().map_or(0, |received| received.body.len());
                exchange.url.len() + received * 4 / 3 + 256
            }
            HostResponse::Value { key, outcome, .. } => {
                key.len() + outcome.as_ref().map_or(0, |value| value.to_string().len()) + 64
            }
            _ => SMALL_ANSWER_BYTES,
        };
        if self.truncated || self.bytes.saturating_add(bytes) > RECORDING_BYTES_MAX {
            self.truncated = true;
            return;
        }
        self.bytes += bytes;
        self.answers.push(answer);
    }
}

/// Answers that the host gives in place of the real network, clocks, values and secrets.
#[derive(Debug, Default)]
pub struct Script {
    /// Expected requests. Each is answered once; of several with the same method and URL, the first one left.
    pub exchanges: Vec<Exchange>,
    /// Values stored by earlier calls; the call changes them.
    pub values: BTreeMap<String, Vec<u8>>,
    /// Recorded answers, used in place of `values` in a replay.
    pub value_answers: Option<VecDeque<HostResponse>>,
    /// Readings of the time of day, in nanoseconds. The last one repeats.
    pub wall_clock: VecDeque<u64>,
    /// Readings of the monotonic clock, in nanoseconds. Once they run out, each reading is a millisecond after the
    /// last.
    pub monotonic: VecDeque<u64>,
    /// The seed of the random numbers.
    pub seed: [u8; 32],
    /// Recorded verdicts, used in place of the secrets in a replay.
    pub verdicts: Option<VecDeque<bool>>,
    /// The requests that the plugin sent.
    pub sent: Vec<Sent>,
    /// The last reading of the monotonic clock, in nanoseconds.
    pub monotonic_last: u64,
}

impl Script {
    /// The script that gives the answers of this recording.
    #[must_use]
    pub fn from_recording(recording: &Recording) -> Self {
        let mut script = Self {
            value_answers: Some(VecDeque::new()),
            verdicts: Some(VecDeque::new()),
            ..Self::default()
        };
        for answer in &recording.answers {
            match answer {
                HostResponse::Egress(exchange) => script.exchanges.push(exchange.clone()),
                HostResponse::Value { .. } => {
                    script.value_answers.get_or_insert_default().push_back(answer.clone());
                }
                HostResponse::WallClock { nanos } => script.wall_clock.push_back(*nanos),
                HostResponse::Monotonic { nanos } => script.monotonic.push_back(*nanos),
                HostResponse::Random { seed } => {
                    // An invalid seed leaves it wholly or partly zero, which shows as a difference in the replay.
                    let _ = hex::decode_to_slice(seed, &mut script.seed);
                }
                HostResponse::Secret { holds, .. } => {
                    script.verdicts.get_or_insert_default().push_back(*holds);
                }
                HostResponse::Signed => {}
            }
        }
        script
    }

    /// Answers a request from the script, and notes it in `sent`.
    pub(super) fn exchange(&mut self, sent: Sent) -> Result<Received, ExchangeError> {
        let index = self
            .exchanges
            .iter()
            .position(|exchange| exchange.method == sent.method && exchange.url == sent.url);
        let outcome = match index {
            Some(index) => self.exchanges.remove(index).outcome,
            None => Err(ExchangeError {
                code: "not-scripted".to_owned(),
                message: format!("nothing is scripted for {} {}", sent.method, sent.url),
            }),
        };
        self.sent.push(sent);
        outcome
    }

    /// Takes the recorded answer to this operation. `None` if the script has no recorded answers.
    pub(super) fn value(
        &mut self,
        asked: &str,
        about: &str,
    ) -> Option<Result<serde_json::Value, String>> {
        let answers = self.value_answers.as_mut()?;
        let index = answers.iter().position(|answer| {
            matches!(answer, HostResponse::Value { operation, key, .. }
                if operation == asked && key == about)
        });
        match index.and_then(|index| answers.remove(index)) {
            Some(HostResponse::Value { outcome, .. }) => Some(outcome),
            _ => Some(Err(format!("nothing is recorded for {asked} of {about:?}"))),
        }
    }

    pub(super) fn wall_nanos(&mut self) -> u64 {
        let last = self.wall_clock.front().copied().unwrap_or_default();
        if self.wall_clock.len() > 1 {
            self.wall_clock.pop_front();
        }
        last
    }

    pub(super) fn monotonic_nanos(&mut self) -> u64 {
        self.monotonic_last = match self.monotonic.pop_front() {
            Some(nanos) => nanos,
            None => self.monotonic_last.saturating_add(1_000_000),
        };
        self.monotonic_last
    }
}

/// A script that the host plays and its owner inspects afterwards.
pub type SharedScript = Arc<Mutex<Script>>;

/// Where a call's answers come from: the real systems, whose answers are recorded, or a script.
#[derive(Debug, Clone)]
pub(super) enum HostSource {
    Live(Arc<Mutex<Recording>>),
    Scripted(SharedScript),
}

impl HostSource {
    /// Records an answer, unless it comes from a script.
    pub(super) fn record(&self, answer: impl FnOnce() -> HostResponse) {
        if let Self::Live(recording) = self {
            lock(recording).push(answer());
        }
    }
}

/// Locks a script or recording. A poisoned lock is ignored: a panic leaves the data usable.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) mod as_base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_bounded_and_says_so() {
        let mut recording = Recording::default();
        for nanos in 0..20_000 {
            recording.push(HostResponse::WallClock { nanos });
        }
        assert!(recording.truncated);
        assert_eq!(recording.answers.len(), RECORDING_BYTES_MAX / SMALL_ANSWER_BYTES);
    }

    #[test]
    fn a_script_plays_a_recording_back() {
        let mut recording = Recording::default();
        let outcome =
            Ok(Received { status: 200, headers: vec![], body: vec![255], truncated: false });
        let exchange = Exchange {
            method: "GET".into(),
            url: "https://a.example/".into(),
            credential: None,
            outcome: outcome.clone(),
        };
        recording.push(HostResponse::Egress(exchange));
        recording.push(HostResponse::WallClock { nanos: 7 });
        let stored = serde_json::to_string(&recording).unwrap();
        let mut script = Script::from_recording(&serde_json::from_str(&stored).unwrap());
        let sent = |url: &str| Sent {
            method: "GET".into(),
            url: url.into(),
            headers: vec![],
            body: vec![],
            credential: None,
        };
        assert_eq!(script.exchange(sent("https://b.example/")).unwrap_err().code, "not-scripted");
        assert_eq!(script.exchange(sent("https://a.example/")), outcome);
        assert!(script.exchange(sent("https://a.example/")).is_err(), "each is answered once");
        assert_eq!((script.wall_nanos(), script.wall_nanos()), (7, 7));
        assert!(script.value("get", "a").unwrap().is_err());
    }
}
