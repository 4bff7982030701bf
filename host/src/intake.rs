//! Resolves an HTTP request to an [`AgentCall`]. No later module reads a query or a body.

pub mod agent_tool;
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
    BadRequest, IncomingRequest, Payload, Prefer, ResponseOptions, cloud_event, query,
};
use crate::sandbox::{ChannelContext, HttpReply, Mapped, PluginError, Subject};
use crate::secrets::UserTokens;
use crate::tasks::{IdempotencyClaim, Input, Surface, User};
use crate::trace::PluginRun;
pub use arrival::{Arrival, PluginParams, RequestParts, plugin_params};
use params::Sources;

/// The bundled plugin that implements the documented `params_mapping`.
const DOT_MAPPER: &str = "dot-mapper";

/// Why a request cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The request is invalid.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// The mapping plugin rejected the request, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// The mapping plugin is not available.
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
/// [`IntakeError::Request`] if the query is not UTF-8, holds a NUL byte, or has too many names.
pub fn decode_query(query: &str) -> Result<Vec<(String, String)>, IntakeError> {
    query::decode(query.as_bytes())
        .map_err(|error| IntakeError::bad(&format!("the query cannot be read: {error}")))
}

/// A resolved request for a run.
#[derive(Debug)]
pub struct AgentCall {
    /// The caller and the agent that it may call.
    pub caller: Caller,
    /// The agent's input.
    pub input: Input,
    /// The conversation that the run continues.
    pub thread: Option<ThreadId>,
    /// The surface that the conversation belongs to.
    pub thread_surface: Surface,
    /// How to respond.
    pub response_options: ResponseOptions,
    /// What the mapping plugin did, as JSON, for the trace.
    pub mapping: Option<String>,
    /// The caller's claim on an idempotency key.
    pub idempotency: Option<IdempotencyClaim>,
    /// The user's tokens, for this run only.
    pub user_tokens: UserTokens,
    /// The entry point, as tasks report it.
    pub source: &'static str,
    /// For logs and plugins.
    pub request_id: RequestId,
    /// The request without its credentials; stored with the task.
    pub request: Arc<IncomingRequest>,
    /// The channel that the request arrived by, if any.
    pub channel: Option<ChannelArrival>,
}

/// Facts about a request that arrived by a channel.
#[derive(Debug, Clone)]
pub struct ChannelArrival {
    /// The channel.
    pub facts: Arc<ChannelContext>,
    /// What its verifier returned about the caller, as JSON.
    pub principal: Option<Arc<str>>,
    /// Whether its replier delivers the answer.
    pub deliver: bool,
}

/// The outcome of resolving a request.
#[derive(Debug)]
pub enum Resolution {
    /// Start a run.
    Run(Box<AgentCall>),
    /// Do nothing: the mapper ignores the request.
    Ignore,
    /// Return the mapper's own response and start no run.
    Reply(HttpReply),
}

/// The parts of a call that a surface reads from a request: the input, the conversation, and how to respond.
pub(crate) struct CallRequest {
    pub(crate) input: Input,
    pub(crate) thread: Option<ThreadId>,
    pub(crate) response_options: ResponseOptions,
    /// See [`AgentCall::mapping`].
    pub(crate) mapping: Option<String>,
}

impl CallRequest {
    /// Reads prompt, conversation and user from the parameters.
    pub(crate) fn from_sources(
        sources: &Sources<'_>,
        payload: String,
        response_options: ResponseOptions,
        mapping: Option<String>,
    ) -> Result<Self, IntakeError> {
        let thread = sources.text("task_id")?.map(|text| text.parse::<ThreadId>()).transpose();
        let thread = thread.map_err(|error| IntakeError::bad(&error.to_string()))?;
        let user = user(sources)?;
        let input = Input { prompt: sources.text("prompt")?, payload, user };
        Ok(Self { input, thread, response_options, mapping })
    }
}

impl AgentCall {
    /// Builds the call from a request as received, on the surface of its caller.
    ///
    /// # Errors
    /// [`IntakeError::Request`] if the idempotency key is invalid, or if that key or the conversation's name holds a
    /// token of the user or the API key.
    pub(crate) fn new(
        caller: Caller,
        arrival: &Arrival,
        request: CallRequest,
    ) -> Result<Self, IntakeError> {
        let surface = caller.surface();
        let CallRequest { input, thread, response_options, mapping } = request;
        let call = Self {
            idempotency: idempotency(arrival, surface)?,
            thread_surface: surface,
            caller,
            input,
            thread,
            response_options,
            mapping,
            user_tokens: arrival.user_tokens.clone(),
            source: "webhook",
            request_id: arrival.request_id,
            request: Arc::clone(&arrival.incoming),
            channel: None,
        };
        tokens::reject_redacted_names(arrival, call)
    }
}

/// Resolves a request to the webhook at `POST /` (CONTRACT section 1).
///
/// # Errors
/// [`IntakeError`]; no task has been created then.
pub async fn resolve(
    plugins: &Plugins,
    caller: Caller,
    arrival: &Arrival,
) -> Result<Resolution, IntakeError> {
    let spec = arrival.sources(&[]).query("params_mapping").map(str::to_owned);
    let mapping = match map(plugins, &caller, arrival, spec).await? {
        MappingResult::Answered(resolution) => return Ok(resolution),
        MappingResult::Mapped(mapping) => mapping,
    };
    let sources = arrival.sources(&mapping.params);
    let payload = match &mapping.context {
        Some(context) => context.text().to_owned(),
        None => sources.payload_text(),
    };
    let response_options = ResponseOptions {
        asynchronous: sources.boolean("asynchronous")?,
        getter: sources.text("getter")?,
        json: sources.boolean("json")?,
        prefer: Prefer::from_headers(&arrival.incoming.headers),
    };
    // Checked so that a mistake is reported; it applies to uploads, which this version does not accept.
    sources.boolean("disable_attachment_injection")?;
    let request = CallRequest::from_sources(&sources, payload, response_options, mapping.trace)?;
    Ok(Resolution::Run(Box::new(AgentCall::new(caller, arrival, request)?)))
}

/// Resolves a request to an agent's own webhook (CONTRACT D1, D2). The payload is the input, none of its fields are
/// parameters, and the response never waits for the run.
///
/// # Errors
/// [`IntakeError`]; no task has been created then.
pub async fn resolve_agent_webhook(
    plugins: &Plugins,
    caller: Caller,
    arrival: &Arrival,
) -> Result<Resolution, IntakeError> {
    let mapping = match map(plugins, &caller, arrival, None).await? {
        MappingResult::Answered(resolution) => return Ok(resolution),
        MappingResult::Mapped(mapping) => mapping,
    };
    let response_options = ResponseOptions { asynchronous: true, ..ResponseOptions::default() };
    let request = mapping.into_request(arrival, response_options)?;
    Ok(Resolution::Run(Box::new(AgentCall::new(caller, arrival, request)?)))
}

/// A mapper's output for a request that starts a run.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    pub(crate) params: Vec<(String, String)>,
    /// What the agent gets instead of the payload.
    pub(crate) context: Option<Payload>,
    pub(crate) delivery_id: Option<String>,
    pub(crate) trace: Option<String>,
}

impl Mapping {
    /// Builds the input if only the mapping sets parameters; without a context from the mapper, the agent gets the
    /// payload unchanged.
    pub(crate) fn into_request(
        self,
        arrival: &Arrival,
        response_options: ResponseOptions,
    ) -> Result<CallRequest, IntakeError> {
        let nothing = Payload::empty();
        let sources = Sources { query: &[], payload: &nothing, mapped: &self.params };
        let payload = self.context.as_ref().unwrap_or(&arrival.incoming.payload);
        CallRequest::from_sources(&sources, payload.text().to_owned(), response_options, self.trace)
    }
}

pub(crate) enum MappingResult {
    Answered(Resolution),
    Mapped(Mapping),
}

/// Calls the agent's mapper. An agent without one uses the documented mapping, which is skipped if the request has no
/// `params_mapping`.
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
        ..Subject::new(caller.tenant(), caller.agent().id, arrival.request_id)
    };
    map_with(plugins, &name, subject, spec).await
}

/// Calls the given mapper.
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
    // A run or an ignore that is based on a payload the mapper tried and failed to read is discarded, and the caller
    // gets the parse error. A reply or a refusal stands: a handshake, for example, does not depend on the payload.
    let is_for_itself = matches!(called.value, Ok(Mapped::Reply(_)) | Err(PluginError::Refusal(_)));
    if let Some(unreadable) = unreadable.filter(|_| called.missed_payload && !is_for_itself) {
        return Err(unreadable.into());
    }
    let (params, context, delivery_id) = match called.value.map_err(plugin_error)? {
        Mapped::Ignore => return Ok(MappingResult::Answered(Resolution::Ignore)),
        Mapped::Reply(reply) => return Ok(MappingResult::Answered(Resolution::Reply(reply))),
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

/// The trace's record of a mapping.
#[derive(Serialize)]
struct MappingTrace<'a> {
    plugin: &'a PluginName,
    #[serde(flatten)]
    ran: PluginRun,
    #[serde(serialize_with = "as_object")]
    params: &'a [(String, String)],
    /// Whether the mapper replaced the payload.
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

/// The user that the request is for (CONTRACT X5).
fn user(sources: &Sources<'_>) -> Result<User, IntakeError> {
    let user = User {
        id: sources.text("user_id")?,
        email: sources.text("user_email")?,
        first_name: sources.text("user_first_name")?,
        last_name: sources.text("user_last_name")?,
    };
    user.check().map_err(|wrong| IntakeError::bad(&wrong))
}

/// The claim made by an `Idempotency-Key` header (CONTRACT D6).
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
    // A binary CloudEvent identifies itself in headers, and its payload contains them.
    let event = incoming
        .headers
        .contains_key(cloud_event::SPECVERSION_HEADER)
        .then(|| incoming.payload.text());
    let event = event.unwrap_or_default().as_bytes();
    let (method, query) = (incoming.method.as_str().as_bytes(), incoming.query.as_bytes());
    for part in [method, query, &incoming.body, event] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Ok(Some(IdempotencyClaim { surface, key, fingerprint: *hasher.finalize().as_bytes() }))
}
