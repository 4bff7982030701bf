//! Attempts at a turn: again after failures that may pass, not at all while a server keeps failing, and with a fallback.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use rand::RngExt as _;

use super::error::{ModelError, Retry};
use super::{Model, TextSink, Turn, TurnRequest};

/// The most attempts at one turn with one model.
const ATTEMPTS_MAX: u32 = 3;

/// The pause before the second attempt, where the server asks for none. The next one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause that a server may ask for. One that asks for more has failed for now.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How many failed turns in a row open the circuit.
const FAILURES_MAX: u32 = 5;

/// How long an open circuit lets no turn pass, unless the server asks for a longer pause.
const OPEN_TIME: Duration = Duration::from_secs(15);

/// A model whose server may fail for a while.
pub(super) struct Retrying {
    /// In the settings.
    name: String,
    model: Box<dyn Model>,
    circuit: Mutex<Circuit>,
}

/// What is known about a server: while its circuit is open, no turn is sent to it.
#[derive(Debug, Default)]
struct Circuit {
    /// Failed turns in a row.
    failures: u32,
    open_until: Option<Instant>,
}

impl Retrying {
    pub(super) fn new(name: &str, model: Box<dyn Model>) -> Self {
        Self { name: name.to_owned(), model, circuit: Mutex::default() }
    }

    async fn turn(&self, request: TurnRequest<'_>) -> Result<Turn, ModelError> {
        self.check_circuit()?;
        let mut attempts = 1;
        loop {
            let sink = WatchedSink { inner: request.text_sink, pushed: AtomicBool::new(false) };
            let error = match self.model.turn(TurnRequest { text_sink: &sink, ..request }).await {
                Ok(turn) => {
                    *self.circuit() = Circuit::default();
                    return Ok(Turn { attempts, ..turn });
                }
                Err(error) => error,
            };
            if sink.pushed.into_inner() {
                request.text_sink.restart();
            }
            let after = match error.retry {
                Retry::Never => return Err(error),
                Retry::Elsewhere => {
                    self.record_failure(None);
                    return Err(error);
                }
                Retry::Later { after } => after,
            };
            let pause = pause(attempts, after);
            if attempts == ATTEMPTS_MAX || pause > PAUSE_MAX {
                self.record_failure(after);
                let message = format!("{} ({attempts} attempts)", error.message);
                return Err(ModelError { message, ..error });
            }
            tracing::debug!(model = self.name, attempts, ?pause, "a turn is attempted again");
            tokio::time::sleep(pause).await;
            attempts += 1;
        }
    }

    fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if the circuit is open. Once its time is over, turns pass again, and the first that fails opens it anew.
    fn check_circuit(&self) -> Result<(), ModelError> {
        let until = self.circuit().open_until;
        match until.and_then(|until| until.checked_duration_since(Instant::now())) {
            Some(left) if !left.is_zero() => Err(ModelError {
                retry: Retry::Later { after: Some(left) },
                ..ModelError::upstream(format!(
                    "the model's server kept failing and is not asked for another {} s",
                    left.as_secs() + 1
                ))
            }),
            _ => Ok(()),
        }
    }

    fn record_failure(&self, after: Option<Duration>) {
        let mut circuit = self.circuit();
        circuit.failures += 1;
        let asked = after.filter(|after| *after > PAUSE_MAX);
        if circuit.failures >= FAILURES_MAX || asked.is_some() {
            let open = asked.unwrap_or(OPEN_TIME).min(Duration::from_secs(3600));
            circuit.open_until = Instant::now().checked_add(open);
            tracing::warn!(model = self.name, ?open, "the server of a model keeps failing");
        }
    }
}

/// The pause before the next attempt: at least what the server asks for. A random part keeps runs that failed together
/// from coming back together.
fn pause(attempts: u32, after: Option<Duration>) -> Duration {
    let least = after.unwrap_or(PAUSE * 2_u32.saturating_pow(attempts.saturating_sub(1)));
    least + least.min(PAUSE_MAX).mul_f64(rand::rng().random_range(0.0..0.25))
}

/// Notes whether an attempt has produced text.
struct WatchedSink<'a> {
    inner: &'a dyn TextSink,
    pushed: AtomicBool,
}

impl TextSink for WatchedSink<'_> {
    fn push(&self, part: &str) {
        self.pushed.store(true, Ordering::Relaxed);
        self.inner.push(part);
    }

    fn restart(&self) {
        self.inner.restart();
    }
}

/// A model and its fallbacks, in order. A turn goes to the first that is up to it.
pub(super) struct WithFallback(pub(super) Vec<std::sync::Arc<Retrying>>);

impl Model for WithFallback {
    fn turn<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<Turn, ModelError>> {
        Box::pin(async move {
            let mut first_error = None;
            for (position, model) in self.0.iter().enumerate() {
                match model.turn(request).await {
                    Ok(turn) => {
                        let fallback = (position > 0).then(|| model.name.clone());
                        return Ok(Turn { fallback, ..turn });
                    }
                    Err(error) => {
                        let may_pass = error.retry != Retry::Never;
                        let error = first_error.get_or_insert(error);
                        if !may_pass {
                            return Err(error.clone());
                        }
                    }
                }
            }
            Err(first_error.unwrap_or_else(|| ModelError::settings("there is no such model")))
        })
    }
}
