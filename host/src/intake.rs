//! From an HTTP request to an [`AgentCall`]: what is asked, fully resolved. Nobody after this looks at
//! a query or a body again.

mod arrival;
pub mod invocation;
mod params;
mod tokens;

use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::access::Caller;
use crate::ids::{IdempotencyKey, PluginName, RequestId, ThreadId};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::request::{
    AnswerWanted, BadRequest, IncomingRequest, Payload, Prefer, cloud_event, query,
};
use crate::sandbox::{ChannelFacts, HttpReply, Mapped, PluginError, Subject};
use crate::secrets::UserTokens;
use crate::tasks::{IdempotencyClaim, Input, Surface, User};
use crate::trace::PluginRun;
pub use arrival::{AroundTheRun, Arrival, RequestParts, around_the_run};
use params::Sources;

/// The bundled plugin that knows the documented `params_mapping`.
const DOT_MAPPER: &str = "dot-mapper";

/// Why a request cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The request is wrong.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// The mapping plugin said no, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// The mapping plugin cannot be had.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

impl IntakeError {
    fn bad(detail: &str) -> Self {
        Self::Request(BadRequest::bad(detail))
    }
}

/// Decodes a query.
///
/// # Errors
/// [`IntakeError::Request`] where it is not UTF-8.
pub fn decode_query(query: &str) -> Result<Vec<(String, String)>, IntakeError> {
    query::decode(query.as_bytes())
        .map_err(|error| IntakeError::bad(&format!("the query cannot be read: {error}")))
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
    /// The surface whose conversations it continues.
    pub thread_surface: Surface,
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
    /// The request itself, without credentials; kept with the task.
    pub request: Arc<IncomingRequest>,
    /// How it came in, where that was by a channel.
    pub channel: Option<ByChannel>,
}

/// What is known of a request that came in by a channel.
#[derive(Debug, Clone)]
pub struct ByChannel {
    /// The channel.
    pub facts: Arc<ChannelFacts>,
    /// What its verifier said of the caller, as JSON.
    pub principal: Option<Arc<str>>,
    /// Whether its replier is to deliver the answer.
    pub deliver: bool,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Resolved {
    /// A run.
    Run(Box<AgentCall>),
    /// Nothing to do: the mapper said so.
    Ignore,
    /// The mapper's own answer, and no run.
    Reply(HttpReply),
}

/// What a surface has found out of a request: who it is for and what is asked.
pub(crate) struct Asked {
    pub(crate) input: Input,
    pub(crate) thread: Option<ThreadId>,
    pub(crate) wanted: AnswerWanted,
    /// See [`AgentCall::mapping`].
    pub(crate) mapping: Option<String>,
}

impl Asked {
    /// Prompt, conversation and user from the parameters.
    pub(crate) fn of(
        sources: &Sources<'_>,
        payload: String,
        wanted: AnswerWanted,
        mapping: Option<String>,
    ) -> Result<Self, IntakeError> {
        let thread = sources.text("task_id")?.map(|text| text.parse::<ThreadId>()).transpose();
        let thread = thread.map_err(|error| IntakeError::bad(&error.to_string()))?;
        let user = user(sources)?;
        let input = Input { prompt: sources.text("prompt")?, payload, user };
        Ok(Self { input, thread, wanted, mapping })
    }
}

impl AgentCall {
    /// The call of a request as it arrived, by the surface that its caller came in by.
    ///
    /// # Errors
    /// [`IntakeError::Request`] where its idempotency key is not valid, or a name in it holds a token of the user.
    pub(crate) fn new(
        caller: Caller,
        arrival: &Arrival,
        asked: Asked,
    ) -> Result<Self, IntakeError> {
        let surface = caller.surface();
        let Asked { input, thread, wanted, mapping } = asked;
        let call = Self {
            idempotency: idempotency(arrival, surface)?,
            thread_surface: surface,
            caller,
            input,
            thread,
            wanted,
            mapping,
            user_tokens: arrival.user_tokens.clone(),
            source: "webhook",
            request_id: arrival.request_id,
            request: Arc::clone(&arrival.incoming),
            channel: None,
        };
        tokens::check_names(arrival, call)
    }
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
    let payload = match &mapping.context {
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
    let asked = Asked::of(&sources, payload, wanted, mapping.trace)?;
    Ok(Resolved::Run(Box::new(AgentCall::new(caller, arrival, asked)?)))
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
    let wanted = AnswerWanted { asynchronous: true, ..AnswerWanted::default() };
    let asked = mapping.asked(arrival, wanted)?;
    Ok(Resolved::Run(Box::new(AgentCall::new(caller, arrival, asked)?)))
}

/// What a mapper made of a request that is to start a run.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    pub(crate) params: Vec<(String, String)>,
    /// What the agent gets in the place of the payload.
    pub(crate) context: Option<Payload>,
    pub(crate) delivery_id: Option<String>,
    pub(crate) trace: Option<String>,
}

impl Mapping {
    /// What is asked where the mapping alone sets parameters, and the payload is the agent's as it came.
    pub(crate) fn asked(
        self,
        arrival: &Arrival,
        wanted: AnswerWanted,
    ) -> Result<Asked, IntakeError> {
        let nothing = Payload::empty();
        let sources = Sources { query: &[], payload: &nothing, mapped: &self.params };
        let payload = self.context.as_ref().unwrap_or(&arrival.incoming.payload);
        Asked::of(&sources, payload.text().to_owned(), wanted, self.trace)
    }
}

pub(crate) enum MappingResult {
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
    let subject = Subject {
        request: Some(Arc::clone(&arrival.incoming)),
        ..Subject::of(caller.tenant(), caller.agent().id, arrival.request_id)
    };
    map_with(plugins, &name, subject, spec).await
}

/// Asks this mapper.
pub(crate) async fn map_with(
    plugins: &Plugins,
    name: &PluginName,
    subject: Subject,
    spec: Option<String>,
) -> Result<MappingResult, IntakeError> {
    let binding = plugins.binding(subject.tenant, name).await?;
    let unreadable = subject.request.as_ref().and_then(|request| request.unreadable.clone());
    let mut called = binding.map_payload(subject, spec).await;
    let ran = called.take_run();
    let plugin_error = |error| IntakeError::Plugin(name.clone(), error);
    // What it made of a payload that it looked for in vain is nothing to run an agent on, or to ignore. A handshake
    // is answered for what it is.
    let is_for_itself = matches!(called.value, Ok(Mapped::Reply(_)) | Err(PluginError::Refusal(_)));
    if let Some(unreadable) = unreadable.filter(|_| called.missed_payload && !is_for_itself) {
        return Err(unreadable.into());
    }
    let (params, context, delivery_id) = match called.value.map_err(plugin_error)? {
        Mapped::Ignore => return Ok(MappingResult::Answered(Resolved::Ignore)),
        Mapped::Reply(reply) => return Ok(MappingResult::Answered(Resolved::Reply(reply))),
        Mapped::Run { params, context, delivery_id } => (params, context, delivery_id),
    };
    let trace = MappingTrace {
        plugin: name,
        ran,
        params: &params,
        context: context.is_some(),
        delivery_id: delivery_id.as_deref(),
        logs: called.logs,
    };
    let trace = serde_json::to_string(&trace).ok();
    Ok(MappingResult::Mapped(Mapping { params, context, delivery_id, trace }))
}

/// What the trace keeps of a mapping.
#[derive(Serialize)]
struct MappingTrace<'a> {
    plugin: &'a PluginName,
    #[serde(flatten)]
    ran: PluginRun,
    #[serde(serialize_with = "as_object")]
    params: &'a [(String, String)],
    /// Whether the mapper gave the agent something in the place of the payload.
    context: bool,
    delivery_id: Option<&'a str>,
    logs: Vec<String>,
}

fn as_object<S: Serializer>(pairs: &&[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn default_mapper() -> PluginName {
    static NAME: std::sync::OnceLock<PluginName> = std::sync::OnceLock::new();
    NAME.get_or_init(|| PluginName::constant(DOT_MAPPER)).clone()
}

/// Who it is for (CONTRACT X5).
fn user(sources: &Sources<'_>) -> Result<User, IntakeError> {
    let user = User {
        id: sources.text("user_id")?,
        email: sources.text("user_email")?,
        first_name: sources.text("user_first_name")?,
        last_name: sources.text("user_last_name")?,
    };
    user.check().map_err(|wrong| IntakeError::bad(&wrong))
}

/// The claim of an `Idempotency-Key` header (CONTRACT D6).
fn idempotency(
    arrival: &Arrival,
    surface: Surface,
) -> Result<Option<IdempotencyClaim>, IntakeError> {
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
    Ok(Some(IdempotencyClaim { surface, key, fingerprint: *hasher.finalize().as_bytes() }))
}
