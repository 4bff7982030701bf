//! What the host answered a plugin that it could not have computed itself: what came over the network,
//! what the time was, which values were kept. A call writes it down; a replay and a test play it back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Most bytes that are written down of one call.
const RECORDING_BYTES_MAX: usize = 512 << 10;

/// What one reading of a small thing counts as, in bytes.
const SMALL_ANSWER_BYTES: usize = 48;

/// One answer of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "asked", rename_all = "kebab-case")]
pub enum HostResponse {
    /// An outgoing request.
    Egress(Exchange),
    /// A value that outlives the call: read, written, deleted or counted.
    Value {
        /// `get`, `set`, `delete`, `exists`, `list-keys` or `increment`.
        operation: String,
        /// Which.
        key: String,
        /// What came back, as JSON; bytes in base64.
        outcome: Result<serde_json::Value, String>,
    },
    /// The time of day, in nanoseconds since the Unix epoch.
    WallClock {
        /// The reading.
        nanos: u64,
    },
    /// The time since some moment, in nanoseconds.
    Monotonic {
        /// The reading.
        nanos: u64,
    },
    /// What the random numbers of the call were drawn from, in hexadecimal.
    Random {
        /// 32 bytes.
        seed: String,
    },
    /// Whether something presented agrees with a secret. The secret is nowhere.
    Secret {
        /// `hmac-verify` or `matches`.
        operation: String,
        /// The verdict.
        holds: bool,
    },
    /// Something was signed. What came of it is as good as a secret, so it is nowhere.
    Signed,
}

/// An outgoing request and what came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Its method.
    pub method: String,
    /// Its URL as the plugin wrote it, without the credential.
    pub url: String,
    /// Which credential it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// What came back, or why nothing did.
    pub outcome: Result<Received, NotReceived>,
}

/// An answer from the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(with = "as_base64")]
    pub body: Vec<u8>,
    /// Whether the body was longer.
    pub truncated: bool,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReceived {
    /// The failure's code.
    pub code: String,
    /// Its sentence.
    pub message: String,
}

/// A request that a plugin sent, for tests that look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its method.
    pub method: String,
    /// Its URL as the plugin wrote it.
    pub url: String,
    /// Its headers as the plugin wrote them.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// Which credential it asked for.
    pub credential: Option<String>,
}

/// Everything that was written down of one call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// In order.
    pub answers: Vec<HostResponse>,
    /// Whether there was more than is kept: such a call cannot be replayed faithfully.
    #[serde(default)]
    pub truncated: bool,
    #[serde(skip)]
    bytes: usize,
}

impl Recording {
    /// Whether nothing was written down: the call asked for nothing but its request, its task and its
    /// settings.
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

/// What the host is to answer, in place of the world.
#[derive(Debug, Default)]
pub struct Script {
    /// Requests that are expected, each answered once; of equal ones the first that is left.
    pub exchanges: Vec<Exchange>,
    /// Values kept from earlier calls; changed by the call.
    pub values: BTreeMap<String, Vec<u8>>,
    /// Answers about values, in place of `values`: a replay has them.
    pub value_answers: Option<VecDeque<HostResponse>>,
    /// Readings of the time of day, in nanoseconds; the last one stays.
    pub wall_clock: VecDeque<u64>,
    /// Readings of the monotonic clock; without any it moves by a millisecond with each look.
    pub monotonic: VecDeque<u64>,
    /// What random numbers are drawn from.
    pub seed: [u8; 32],
    /// Verdicts about secrets, in place of the secrets: a replay has them.
    pub verdicts: Option<VecDeque<bool>>,
    /// What the plugin sent.
    pub sent: Vec<Sent>,
    /// The last reading of the monotonic clock.
    pub monotonic_last: u64,
}

impl Script {
    /// The script that answers as the host did when this was written down.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
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
                    // A seed that is none leaves zeros: the replay shows a difference then.
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

    /// Takes the exchange that answers this request.
    pub(super) fn exchange(&mut self, sent: Sent) -> Result<Received, NotReceived> {
        let place = self
            .exchanges
            .iter()
            .position(|exchange| exchange.method == sent.method && exchange.url == sent.url);
        let outcome = match place {
            Some(place) => self.exchanges.remove(place).outcome,
            None => Err(NotReceived {
                code: "not-scripted".to_owned(),
                message: format!("nothing is scripted for {} {}", sent.method, sent.url),
            }),
        };
        self.sent.push(sent);
        outcome
    }

    /// Takes the recorded answer about this value.
    pub(super) fn value(
        &mut self,
        asked: &str,
        about: &str,
    ) -> Option<Result<serde_json::Value, String>> {
        let answers = self.value_answers.as_mut()?;
        let place = answers.iter().position(|answer| {
            matches!(answer, HostResponse::Value { operation, key, .. }
                if operation == asked && key == about)
        });
        match place.and_then(|place| answers.remove(place)) {
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

/// A script that the host plays and its owner looks at afterwards.
pub type SharedScript = Arc<Mutex<Script>>;

/// Where a call's answers come from: the world, which is written down, or a script.
#[derive(Debug, Clone)]
pub(super) enum HostSource {
    Live(Arc<Mutex<Recording>>),
    Scripted(SharedScript),
}

impl HostSource {
    /// Writes an answer down, where it came from the world.
    pub(super) fn record(&self, answer: impl FnOnce() -> HostResponse) {
        if let Self::Live(recording) = self {
            lock(recording).push(answer());
        }
    }
}

/// The script or recording. A holder that panicked leaves it as usable as before.
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
        let kept = serde_json::to_string(&recording).unwrap();
        let mut script = Script::of(&serde_json::from_str(&kept).unwrap());
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
