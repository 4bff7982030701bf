//! Dispatches the methods of the protocol: lists tools, calls them, and reads and cancels tasks.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, ErrorCode,
    GetTaskParams, GetTaskResult, Implementation, ListToolsResult, PaginatedRequestParams,
    ProtocolVersion, ServerCapabilities, ServerConfig, UpdateTaskParams,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tracing::Instrument as _;

use super::{CallsInFlight, McpRequest};
use crate::http::concurrency::Operations;
use crate::http::error::ApiError;
use crate::http::submission::Submitter;
use crate::ids::TenantId;
use crate::plugins::Plugins;
use crate::runs::STOPPED;
use crate::store::Store;
use crate::tasks::{EndStatus, Outcome};

/// The header with the id of a session.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The longest id of a session, in bytes. Those that the gateway issues have 36.
const SESSION_ID_BYTES_MAX: usize = 64;

/// The revisions that this server speaks. Those before have another transport.
const REVISIONS: [ProtocolVersion; 4] = [
    ProtocolVersion::V_2025_03_26,
    ProtocolVersion::V_2025_06_18,
    ProtocolVersion::V_2025_11_25,
    ProtocolVersion::V_2026_07_28,
];

/// The most tools on a page of the list.
const TOOLS_PER_PAGE: usize = 500;

/// How long a client may keep the list of tools, in milliseconds.
const TOOLS_TTL_MS: u64 = 10_000;

/// The services that the methods use.
#[derive(Debug)]
pub(in super::super) struct McpServices {
    pub(in super::super) access: crate::access::Access,
    pub(in super::super) store: Store,
    pub(in super::super) plugins: Plugins,
    pub(in super::super) submitter: Submitter,
    pub(in super::super) operations: Operations,
    pub(in super::super) calls: CallsInFlight,
}

impl McpServices {
    /// Stops the run that a call of a session waits for, if there is one.
    pub(super) async fn cancel(
        &self,
        tenant: TenantId,
        session: Option<&str>,
        call: &str,
    ) -> Result<(), ApiError> {
        if let Some(task) = session.and_then(|session| self.calls.task(tenant, session, call)) {
            self.stop(tenant, task).await?;
        }
        Ok(())
    }

    /// Stops a task.
    pub(super) async fn stop(
        &self,
        tenant: TenantId,
        task: crate::ids::TaskId,
    ) -> Result<(), ApiError> {
        let stopped = Outcome { status: EndStatus::Stopped, result: STOPPED.to_owned() };
        self.submitter.runs.end(tenant, task, stopped).await?;
        Ok(())
    }
}

/// The session that a request belongs to.
pub(super) fn session_of(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(SESSION_ID)?.to_str().ok()?;
    (id.len() <= SESSION_ID_BYTES_MAX).then_some(id)
}

/// The error of a request that cannot be answered now.
pub(super) fn unavailable(error: ApiError) -> ErrorData {
    if !error.is_of_caller() {
        tracing::warn!(?error, "a method of /mcp failed");
    }
    ErrorData::internal_error(error.into_detail(), None)
}

/// The protocol's methods, for one request.
#[derive(Debug, Clone)]
pub(super) struct McpServer(pub(super) Arc<McpServices>);

impl ServerHandler for McpServer {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_tasks().build();
        let mut server = Implementation::new("wardgate", env!("CARGO_PKG_VERSION"));
        server.title = Some("Wardgate".to_owned());
        let mut info = ServerConfig::new(capabilities);
        info.server_info = server;
        info.with_instructions(
            "A tool whose name has no double underscore is an agent: a call runs it, and its result is the agent's \
             answer. The others are tools of plugins.",
        )
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        const { Cow::Borrowed(&REVISIONS) }
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let request = request_of(&context)?;
        let span = request.span.clone();
        let listed = async {
            let mut tools = self.0.agent_tools(&request).await?;
            tools.extend(self.0.published_tools(&request).await?);
            Ok::<_, ErrorData>(tools)
        };
        let tools = listed.instrument(span).await?;
        let cursor = page.and_then(|page| page.cursor);
        let first = cursor.map_or(Ok(0), |cursor| cursor.parse::<usize>());
        let first = first.ok().filter(|first| *first <= tools.len());
        let first = first
            .ok_or_else(|| ErrorData::invalid_params("the cursor is not of this list", None))?;
        let next = first.saturating_add(TOOLS_PER_PAGE);
        let has_more = next < tools.len();
        let tools = tools.into_iter().skip(first).take(TOOLS_PER_PAGE).collect();
        let mut list = ListToolsResult::with_all_items(tools)
            .with_ttl_ms(TOOLS_TTL_MS)
            .with_cache_scope(CacheScope::Private);
        list.next_cursor = has_more.then(|| next.to_string());
        Ok(list)
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let request = request_of(&context)?;
        let span = request.span.clone();
        let answered = async {
            // Agents first: an agent's tool is never named like one of a plugin.
            if let Some(response) = self.0.call_agent(&request, &call, &context).await? {
                return Ok(response);
            }
            match self.0.call_published_tool(&request, &call.name).await? {
                Some(result) => Ok(result.into()),
                None => Err(ErrorData::invalid_params(
                    format!("there is no tool {:?}, or its agent is disabled", call.name),
                    None,
                )),
            }
        };
        answered.instrument(span).await
    }

    async fn get_task(
        &self,
        params: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let request = request_of(&context)?;
        let span = request.span.clone();
        self.0.read_task(&request, &params.task_id).instrument(span).await
    }

    async fn update_task(
        &self,
        params: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let request = request_of(&context)?;
        let span = request.span.clone();
        self.0.read_task(&request, &params.task_id).instrument(span).await?;
        Err(ErrorData::new(ErrorCode::INVALID_REQUEST, "the task asks for no input", None))
    }

    async fn cancel_task(
        &self,
        params: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let request = request_of(&context)?;
        let span = request.span.clone();
        self.0.cancel_task(&request, &params.task_id).instrument(span).await
    }
}

/// The HTTP request that a message came in.
fn request_of(context: &RequestContext<RoleServer>) -> Result<McpRequest, ErrorData> {
    let head = context.extensions.get::<http::request::Parts>();
    let request = head.and_then(|head| head.extensions.get::<McpRequest>()).cloned();
    request.ok_or_else(|| ErrorData::internal_error("the request was not authenticated", None))
}
