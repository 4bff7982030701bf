//! Attempts at a turn: again after failures that may pass, not at all while a server keeps failing, and with a fallback.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use moka::sync::Cache;
use rand::RngExt as _;

use super::error::{ModelError, Retry};
use super::{ContextSize, Model, TextSink, Turn, TurnRequest};
use crate::ids::TenantId;
use crate::trace::usage::Spending;

/// The most attempts at one turn with one model.
const ATTEMPTS_MAX: u32 = 3;

/// The pause before the second attempt, where the server asks for none. The next one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause that a server may ask for. One that asks for more has failed for now.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How many failed turns of a tenant in a row open its circuit.
const FAILURES_MAX: u32 = 5;

/// Failures that are further apart are not in a row.
const FAILURES_WITHIN: Duration = Duration::from_secs(60);

/// How long an open circuit lets no turn pass, unless the server asks for a longer pause.
const OPEN_TIME: Duration = Duration::from_secs(15);

/// The longest that a circuit stays open, whatever the server asks for.
const OPEN_TIME_MAX: Duration = Duration::from_secs(60);

/// The most tenants whose circuits are remembered.
const CIRCUITS_MAX: u64 = 10_000;

/// How much of an error is shown, in characters.
const ERROR_CHARS_MAX: usize = 400;

/// A model whose server may fail for a while.
pub(super) struct Retrying {
    /// In the settings.
    name: String,
    model: Box<dyn Model>,
    /// Of each tenant: what one of them asks for may make a server fail, or take too long, for nobody else.
    circuits: Cache<TenantId, Circuit>,
}

/// What is known about a server: while its circuit is open, no turn is sent to it.
#[derive(Debug, Clone, Copy, Default)]
struct Circuit {
    /// Failed turns in a row.
    failures: u32,
    failed_at: Option<Instant>,
    open_until: Option<Instant>,
}

impl Retrying {
    pub(super) fn new(name: &str, model: Box<dyn Model>) -> Self {
        Self { name: name.to_owned(), model, circuits: Cache::new(CIRCUITS_MAX) }
    }

    async fn turn(&self, request: TurnRequest<'_>) -> Result<Turn, ModelError> {
        let tenant = request.tenant;
        self.check_circuit(tenant)?;
        let mut attempts = 1;
        loop {
            let sink = WatchedSink { inner: request.text_sink, pushed: AtomicBool::new(false) };
            let error = match self.model.turn(TurnRequest { text_sink: &sink, ..request }).await {
                Ok(turn) => {
                    let open_until = self.circuit(tenant).open_until;
                    self.circuits.insert(tenant, Circuit { open_until, ..Circuit::default() });
                    return Ok(Turn { attempts, ..turn });
                }
                Err(error) => error,
            };
            if sink.pushed.into_inner() {
                request.text_sink.restart();
            }
            // Redacted before it is cut: the beginning of a secret would not be found.
            let message = request.redactor.text(error.message);
            let message = message.chars().take(ERROR_CHARS_MAX).collect();
            let error = ModelError { message, ..error };
            let after = match error.retry {
                Retry::Never => return Err(error),
                Retry::Elsewhere => {
                    self.record_failure(tenant, None);
                    return Err(error);
                }
                Retry::Later { after } => after,
            };
            let pause = after.unwrap_or(PAUSE * 2_u32.saturating_pow(attempts - 1));
            if attempts == ATTEMPTS_MAX || pause > PAUSE_MAX {
                self.record_failure(tenant, after);
                let message = format!("{} ({attempts} attempts)", error.message);
                return Err(ModelError { message, ..error });
            }
            tracing::debug!(model = self.name, attempts, ?pause, "a turn is attempted again");
            tokio::time::sleep(with_jitter(pause)).await;
            attempts += 1;
        }
    }

    fn circuit(&self, tenant: TenantId) -> Circuit {
        self.circuits.get(&tenant).unwrap_or_default()
    }

    /// Fails if the circuit is open. Once its time is over, turns pass again, and the first that fails opens it anew.
    fn check_circuit(&self, tenant: TenantId) -> Result<(), ModelError> {
        let until = self.circuit(tenant).open_until;
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

    fn record_failure(&self, tenant: TenantId, after: Option<Duration>) {
        let mut circuit = self.circuit(tenant);
        let now = Instant::now();
        if circuit.failed_at.is_none_or(|at| now.duration_since(at) > FAILURES_WITHIN) {
            circuit.failures = 0;
        }
        circuit.failures += 1;
        circuit.failed_at = Some(now);
        // The last attempt has not waited for what the server asked for.
        let asked = after.map(|after| after.min(OPEN_TIME_MAX));
        let kept_failing = (circuit.failures >= FAILURES_MAX).then_some(OPEN_TIME);
        if let Some(open) = asked.max(kept_failing).filter(|open| !open.is_zero()) {
            let until = now + open;
            circuit.open_until = Some(circuit.open_until.map_or(until, |open| open.max(until)));
        }
        if kept_failing.is_some() {
            tracing::warn!(model = self.name, %tenant, "the server of a model keeps failing");
        }
        self.circuits.insert(tenant, circuit);
    }
}

/// A pause with a random part behind it, which keeps runs that failed together from coming back together.
fn with_jitter(pause: Duration) -> Duration {
    pause + pause.mul_f64(rand::rng().random_range(0.0..0.25))
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

    fn takes_output_schema(&self, has_tools: bool) -> bool {
        self.0.iter().all(|model| model.model.takes_output_schema(has_tools))
    }

    fn context_size(&self) -> Option<ContextSize> {
        let sizes = self.0.iter().filter_map(|model| model.model.context_size());
        sizes.min_by_key(|size| size.tokens)
    }

    fn estimate(&self, new_bytes: usize, output_bytes: Option<usize>) -> Option<Spending> {
        let estimate =
            |model: &std::sync::Arc<Retrying>| model.model.estimate(new_bytes, output_bytes);
        let estimates = self.0.iter().filter_map(estimate);
        // The dearest of them. None has a price if one has none.
        estimates.reduce(|one, other| Spending {
            tokens: one.tokens.max(other.tokens),
            cost_micros: one.cost_micros.zip(other.cost_micros).map(|(one, other)| one.max(other)),
            is_estimated: true,
        })
    }
}
