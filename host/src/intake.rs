//! From an HTTP request to an [`AgentCall`]: what is asked, fully resolved. Nobody after this looks at
//! a query or a body again.

mod body;
mod cloud_event;
pub mod invocation;
mod params;
mod prefer;
pub mod query;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::{Serialize, Serializer};

use crate::access::Caller;
use crate::call::{IncomingCall, Payload};
use crate::ids::{IdempotencyKey, PluginName, RequestId, ThreadId};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::sandbox::{Mapped, PluginError, ReplyNow, Subject};
use crate::secrets::UserTokens;
use crate::tasks::{IdempotencyClaim, Input, User};
use params::{MAPPABLE, Sources};
pub use prefer::Prefer;

/// The bundled plugin that knows the documented `params_mapping`.
const DOT_MAPPER: &str = "dot-mapper";

/// Why a request cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The request is wrong: 400, or 415 for a type we do not read.
    #[error("{detail}")]
    Request {
        /// 400 or 415.
        status: u16,
        /// For the caller.
        detail: String,
    },
    /// The mapping plugin said no, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// The mapping plugin cannot be had.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

impl IntakeError {
    fn bad(detail: &str) -> Self {
        Self::Request { status: 400, detail: detail.to_owned() }
    }

    fn unsupported(detail: &str) -> Self {
        Self::Request { status: 415, detail: detail.to_owned() }
    }
}

/// A request read whole, its body bounded, its query decoded.
#[derive(Debug)]
pub struct Arrival {
    /// See [`IncomingCall`].
    pub incoming: Arc<IncomingCall>,
    /// Names and values of the query, credentials included.
    pub query: Vec<(String, String)>,
    /// Tokens of the user, taken out of everything else.
    pub user_tokens: UserTokens,
    /// For logs and plugins.
    pub request_id: RequestId,
}

/// The parts of a request that intake reads.
#[derive(Debug)]
pub struct RequestParts {
    /// The method.
    pub method: Method,
    /// The path, percent-encoded; empty where it holds a credential.
    pub path: String,
    /// The query as it arrived, without `?`.
    pub query: String,
    /// The same as names and values.
    pub pairs: Vec<(String, String)>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, bounded.
    pub body: Bytes,
    /// For logs and plugins.
    pub request_id: RequestId,
}

impl Arrival {
    /// Reads a body of any shape that `POST /` takes (CONTRACT X2).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub async fn read(mut parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = match cloud_event::binary(&parts.headers, &parts.body)? {
            Some(event) => event,
            None => {
                let payload = body::payload(&parts.headers, parts.body.clone()).await?;
                cloud_event::check_structured(&parts.headers, &payload)?;
                payload
            }
        };
        let (payload, user_tokens) = take_tokens_out(&mut parts, payload)?;
        Ok(Self { user_tokens, ..Self::with(parts, payload) })
    }

    /// Reads a body that has to be JSON and may hold tokens of the user (CONTRACT section 2).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub fn read_invocation(mut parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = body::json_only(&parts.headers, parts.body.clone())?;
        let (payload, user_tokens) = take_tokens_out(&mut parts, payload)?;
        Ok(Self { user_tokens, ..Self::with(parts, payload) })
    }

    /// Reads a body that has to be JSON (CONTRACT D3).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub fn read_json(parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = match cloud_event::binary(&parts.headers, &parts.body)? {
            Some(event) => event,
            None => {
                let payload = body::json_only(&parts.headers, parts.body.clone())?;
                cloud_event::check_structured(&parts.headers, &payload)?;
                payload
            }
        };
        Ok(Self::with(parts, payload))
    }

    /// Takes the query as the payload (CONTRACT D2): strings all, of a repeated name the first.
    #[must_use]
    pub fn read_query(parts: RequestParts) -> Self {
        // An object keeps the last of equal names, so only the first of them goes in.
        // A key does not belong here (the token is the credential), so it is not kept either.
        let mut seen = HashSet::from(["x-api-key"]);
        let firsts: Vec<_> =
            parts.pairs.iter().filter(|(name, _)| seen.insert(name.as_str())).cloned().collect();
        Self::with(parts, Payload::of_fields(firsts))
    }

    fn with(parts: RequestParts, payload: Payload) -> Self {
        let mut headers = parts.headers;
        for credential in ["x-api-key", "authorization", "cookie"] {
            headers.remove(credential);
        }
        let holds_key = parts.pairs.iter().any(|(name, _)| name == "x-api-key");
        let incoming = IncomingCall {
            method: parts.method,
            path: parts.path,
            query: if holds_key { query::without(&parts.query, "x-api-key") } else { parts.query },
            headers,
            body: parts.body,
            payload,
        };
        Self {
            incoming: Arc::new(incoming),
            query: parts.pairs,
            user_tokens: UserTokens::default(),
            request_id: parts.request_id,
        }
    }

    fn sources<'a>(&'a self, mapped: &'a [(String, String)]) -> Sources<'a> {
        Sources { query: &self.query, payload: &self.incoming.payload, mapped }
    }

    /// Which agent is asked for: from the query, else from the body (CONTRACT X3).
    ///
    /// # Errors
    /// [`IntakeError::Request`] where it is no text.
    pub fn agent_id(&self) -> Result<Option<String>, IntakeError> {
        self.sources(&[]).text("agent_id")
    }
}

/// Takes `user_tokens` out of all that plugins and stores get to see (CONTRACT X8).
fn take_tokens_out(
    parts: &mut RequestParts,
    payload: Payload,
) -> Result<(Payload, UserTokens), IntakeError> {
    const TOKENS: &str = "user_tokens";
    let in_body = payload.fields().is_some_and(|mut fields| fields.any(|(name, _)| name == TOKENS));
    let in_query = parts.pairs.iter().any(|(name, _)| name == TOKENS);
    if !in_body && !in_query {
        return Ok((payload, UserTokens::default()));
    }
    let sources = Sources { query: &parts.pairs, payload: &payload, mapped: &[] };
    let tokens = match sources.object(TOKENS)? {
        Some(object) => UserTokens::parse(object.text())
            .map_err(|why| IntakeError::bad(&format!("{TOKENS} {why}")))?,
        None => UserTokens::default(),
    };
    parts.pairs.retain(|(name, _)| name != TOKENS);
    parts.query = query::without(&parts.query, TOKENS);
    if !in_body {
        return Ok((payload, tokens));
    }
    let rest = payload.without(TOKENS);
    parts.body = Bytes::copy_from_slice(rest.text().as_bytes());
    Ok((rest, tokens))
}

/// Decodes a query.
///
/// # Errors
/// [`IntakeError::Request`] where it is not UTF-8.
pub fn decode_query(query: &str) -> Result<Vec<(String, String)>, IntakeError> {
    query::decode(query.as_bytes())
        .map_err(|error| IntakeError::bad(&format!("the query cannot be read: {error}")))
}

/// How the answer is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerWanted {
    /// At once, before the run (CONTRACT X21).
    pub asynchronous: bool,
    /// One value instead of the task (CONTRACT X11).
    pub getter: Option<String>,
    /// `result` as JSON where it is JSON (CONTRACT X12).
    pub json: bool,
    /// What the caller prefers of the waiting.
    pub prefer: Prefer,
}

/// A request for a run, resolved.
#[derive(Debug)]
pub struct AgentCall {
    /// Who asks, and which agent.
    pub caller: Caller,
    /// What the agent is given.
    pub input: Input,
    /// Which conversation it continues.
    pub thread: Option<ThreadId>,
    /// How the answer is wanted.
    pub wanted: AnswerWanted,
    /// What the mapping plugin did, as JSON, for the trace.
    pub mapping: Option<String>,
    /// The caller's claim on an idempotency key.
    pub idempotency: Option<IdempotencyClaim>,
    /// Tokens of the user, for the run alone.
    pub user_tokens: UserTokens,
    /// Which surface it came in by.
    pub source: &'static str,
    /// For logs and plugins.
    pub request_id: RequestId,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Resolved {
    /// A run.
    Run(Box<AgentCall>),
    /// Nothing to do: the mapper said so.
    Ignore,
    /// The mapper's own answer, and no run.
    Reply(ReplyNow),
}

/// Resolves a request of the webhook at `POST /` (CONTRACT section 1).
///
/// # Errors
/// [`IntakeError`]; no task exists then.
pub async fn resolve(
    plugins: &Plugins,
    caller: Caller,
    arrival: &Arrival,
) -> Result<Resolved, IntakeError> {
    let spec = arrival.sources(&[]).query("params_mapping").map(str::to_owned);
    let mapping = match map(plugins, &caller, arrival, spec).await? {
        MappingResult::Answered(resolved) => return Ok(resolved),
        MappingResult::Mapped(mapping) => mapping,
    };
    let sources = arrival.sources(&mapping.params);
    let thread = sources.text("task_id")?.map(|text| text.parse::<ThreadId>()).transpose();
    let thread = thread.map_err(|error| IntakeError::bad(&error.to_string()))?;
    let user = User {
        id: sources.text("user_id")?,
        email: sources.text("user_email")?,
        first_name: sources.text("user_first_name")?,
        last_name: sources.text("user_last_name")?,
    };
    let payload = match mapping.context {
        Some(context) => context.text().to_owned(),
        None => sources.payload_text(),
    };
    let wanted = AnswerWanted {
        asynchronous: sources.boolean("asynchronous")?,
        getter: sources.text("getter")?,
        json: sources.boolean("json")?,
        prefer: Prefer::of(&arrival.incoming.headers),
    };
    // Checked so that a mistake shows at once; it is for uploads, which this version does not take.
    sources.boolean("disable_attachment_injection")?;
    let prompt = sources.text("prompt")?;
    Ok(Resolved::Run(Box::new(AgentCall {
        idempotency: idempotency(arrival)?,
        caller,
        input: Input { prompt, payload, user },
        thread,
        wanted,
        mapping: mapping.trace,
        user_tokens: arrival.user_tokens.clone(),
        source: "webhook",
        request_id: arrival.request_id,
    })))
}

/// Resolves a request of an agent's own webhook (CONTRACT D1, D2): the payload is the text, nothing in
/// it is a parameter, and the answer is never waited for.
///
/// # Errors
/// [`IntakeError`]; no task exists then.
pub async fn resolve_agent_webhook(
    plugins: &Plugins,
    caller: Caller,
    arrival: &Arrival,
) -> Result<Resolved, IntakeError> {
    let mapping = match map(plugins, &caller, arrival, None).await? {
        MappingResult::Answered(resolved) => return Ok(resolved),
        MappingResult::Mapped(mapping) => mapping,
    };
    let nothing = Payload::empty();
    let sources = Sources { query: &[], payload: &nothing, mapped: &mapping.params };
    let thread = sources.text("task_id")?.map(|text| text.parse::<ThreadId>()).transpose();
    let payload = mapping.context.as_ref().unwrap_or(&arrival.incoming.payload);
    Ok(Resolved::Run(Box::new(AgentCall {
        idempotency: idempotency(arrival)?,
        caller,
        input: Input {
            prompt: sources.text("prompt")?,
            payload: payload.text().to_owned(),
            user: User {
                id: sources.text("user_id")?,
                email: sources.text("user_email")?,
                first_name: sources.text("user_first_name")?,
                last_name: sources.text("user_last_name")?,
            },
        },
        thread: thread.map_err(|error| IntakeError::bad(&error.to_string()))?,
        wanted: AnswerWanted { asynchronous: true, ..AnswerWanted::default() },
        mapping: mapping.trace,
        user_tokens: arrival.user_tokens.clone(),
        source: "webhook",
        request_id: arrival.request_id,
    })))
}

#[derive(Debug, Default)]
struct Mapping {
    params: Vec<(String, String)>,
    context: Option<Payload>,
    trace: Option<String>,
}

enum MappingResult {
    Answered(Resolved),
    Mapped(Mapping),
}

/// Asks the agent's mapper. An agent without one has the documented mapping, which has nothing to do
/// where no `params_mapping` was sent.
async fn map(
    plugins: &Plugins,
    caller: &Caller,
    arrival: &Arrival,
    spec: Option<String>,
) -> Result<MappingResult, IntakeError> {
    let name = match &caller.agent().definition.mapper {
        Some(name) => name.clone(),
        None if spec.is_some() => default_mapper(),
        None => return Ok(MappingResult::Mapped(Mapping::default())),
    };
    let binding = plugins.binding(caller.tenant(), &name).await?;
    let subject = Subject {
        request_id: arrival.request_id,
        tenant: caller.tenant(),
        agent: caller.agent().id,
        request: Some(Arc::clone(&arrival.incoming)),
        task: None,
    };
    let called = binding.map_payload(subject, spec).await;
    let plugin_error = |error| IntakeError::Plugin(name.clone(), error);
    let (params, context) = match called.value.map_err(plugin_error)? {
        Mapped::Ignore => return Ok(MappingResult::Answered(Resolved::Ignore)),
        Mapped::Reply(reply) => return Ok(MappingResult::Answered(Resolved::Reply(reply))),
        Mapped::Run { params, context } => (params, context),
    };
    if let Some((target, _)) = params.iter().find(|(name, _)| !MAPPABLE.contains(&name.as_str())) {
        let shown: String = target.chars().take(40).collect();
        let what = format!("it set the parameter {shown:?}, which a mapping cannot set");
        let refusal = crate::sandbox::Refusal::Malformed(what);
        return Err(plugin_error(PluginError::Refusal(refusal)));
    }
    let trace = MappingTrace {
        plugin: &name,
        digest: binding.digest_text(),
        micros: called.micros,
        params: &params,
        logs: &called.logs,
    };
    let trace = serde_json::to_string(&trace).ok();
    Ok(MappingResult::Mapped(Mapping { params, context, trace }))
}

/// What the trace keeps of a mapping.
#[derive(Serialize)]
struct MappingTrace<'a> {
    plugin: &'a PluginName,
    digest: &'a str,
    micros: u64,
    #[serde(serialize_with = "as_object")]
    params: &'a [(String, String)],
    logs: &'a [String],
}

fn as_object<S: Serializer>(pairs: &&[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn default_mapper() -> PluginName {
    static NAME: std::sync::OnceLock<PluginName> = std::sync::OnceLock::new();
    NAME.get_or_init(|| PluginName::constant(DOT_MAPPER)).clone()
}

/// The claim of an `Idempotency-Key` header (CONTRACT D6).
fn idempotency(arrival: &Arrival) -> Result<Option<IdempotencyClaim>, IntakeError> {
    let incoming = &arrival.incoming;
    let mut values = incoming.headers.get_all("idempotency-key").iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(IntakeError::bad("the header idempotency-key was sent more than once"));
    }
    let text = first
        .to_str()
        .map_err(|_| IntakeError::bad("Idempotency-Key may hold visible ASCII characters only"))?
        .trim();
    // A structured-field string (RFC 8941 section 3.3.3) is the same key without its quotes.
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() {
        return Ok(None);
    }
    let key: IdempotencyKey = text
        .parse()
        .map_err(|error: crate::ids::ParseIdError| IntakeError::bad(&error.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    // A binary CloudEvent says in headers which event it is; its payload has them.
    let event = incoming.headers.contains_key(cloud_event::MARK).then(|| incoming.payload.text());
    let event = event.unwrap_or_default().as_bytes();
    let (method, query) = (incoming.method.as_str().as_bytes(), incoming.query.as_bytes());
    for part in [method, query, &incoming.body, event] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Ok(Some(IdempotencyClaim { key, fingerprint: *hasher.finalize().as_bytes() }))
}
