//! Agents as tools. A call is a run: it waits for the run's end, with its progress if the client asks for that, or
//! returns a task at once to a client of the tasks extension.

use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CreateTaskResult,
    DetailedTask, GetTaskResult, JsonObject, MetaObject, ProgressNotificationParam, ProgressToken,
    ProtocolVersion, Task as McpTask, TaskPayload, TaskStatus, Tool as ListedTool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::Value;
use tokio::time::Instant;

use super::McpRequest;
use super::published::{failed, is_of_object};
use super::server::{McpServices, session_of, unavailable};
use crate::access::Denied;
use crate::http::error::ApiError;
use crate::ids::TaskId;
use crate::intake::agent_tool;
use crate::mcp::IDEMPOTENCY_KEY_META;
use crate::runs::Submission;
use crate::tasks::{Status, Task};
use crate::tenants::Agent;
use crate::trace::log::RunEvent;
use crate::trace::{Event, Step};

/// The longest name of a tool that all clients accept, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The field of a result's `_meta` with the id of the call's task.
const TASK_META: &str = "io.wardgate/task-id";

/// How often a client should look after a task, in milliseconds.
const POLL_INTERVAL_MS: u64 = 1_000;

/// How a wait for a run ended.
enum Wait {
    /// The run has ended, or the longest wait is over.
    Over,
    /// The client is gone.
    ClientGone,
}

impl McpServices {
    /// The enabled agents of a tenant as tools, oldest first.
    pub(super) async fn agent_tools(
        &self,
        request: &McpRequest,
    ) -> Result<Vec<ListedTool>, ErrorData> {
        let agents = self.store.agents(request.tenant.tenant()).await;
        let agents = agents.map_err(|error| unavailable(error.into()))?;
        Ok(agents.iter().filter(|agent| agent.enabled).map(describe).collect())
    }

    /// Calls an agent. None if no enabled agent has this name.
    pub(super) async fn call_agent(
        &self,
        request: &McpRequest,
        call: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<Option<CallToolResponse>, ErrorData> {
        let agents = self.store.agents(request.tenant.tenant()).await;
        let agents = agents.map_err(|error| unavailable(error.into()))?;
        let named = agents.into_iter().find(|agent| tool_name(agent) == call.name);
        let Some(agent) = named.filter(|agent| agent.enabled) else { return Ok(None) };
        let caller = match self.access.caller_of(request.tenant, agent.id).await {
            Ok(Some(caller)) => caller,
            Ok(None) | Err(Denied::Disabled) => return Ok(None),
            Err(error) => return Err(unavailable(error.into())),
        };
        let arrival = &request.arrival;
        let key = context.meta.get(IDEMPOTENCY_KEY_META).and_then(Value::as_str);
        let header = arrival.incoming.headers.get("idempotency-key");
        let key = key.or_else(|| header.and_then(|key| key.to_str().ok()));
        let resolved = match agent_tool::resolve(caller, arrival, &call.name, key) {
            Ok(resolved) => resolved,
            // The client's model reads it, and may call again.
            Err(error) => return Ok(Some(failed(ApiError::from(error).into_detail()).into())),
        };
        let is_of_tasks =
            context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks());
        let submission = self.submitter.submit(resolved, !is_of_tasks).await;
        let submission = match submission {
            Ok(submission) => submission,
            Err(error) if error.is_of_caller() => {
                return Ok(Some(failed(error.into_detail()).into()));
            }
            Err(error) => return Err(unavailable(error)),
        };
        if is_of_tasks {
            let task = self.task(request, submission.task).await?;
            return Ok(Some(CreateTaskResult::new(seed(&task)).into()));
        }
        self.await_run(request, submission, key.is_some(), context).await.map(Some)
    }

    /// Waits for the run of a call. A client of the revision 2026-07-28 cancels a call by closing its connection, which
    /// stops the run, unless the call has an idempotency key: with that, the client can ask for the result again.
    async fn await_run(
        &self,
        request: &McpRequest,
        mut submission: Submission,
        has_key: bool,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let (tenant, id) = (request.tenant.tenant(), submission.task);
        let agent = Arc::clone(&submission.agent);
        let payload = &request.arrival.incoming.payload;
        let session = session_of(&request.arrival.incoming.headers);
        let _in_flight = session.map(|session| {
            self.calls.begin(tenant, session, payload.find("/id").unwrap_or_default(), id)
        });
        let waited = self.wait(&mut submission, context).await;
        let is_cancel = context
            .protocol_version()
            .is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str());
        if matches!(waited, Wait::ClientGone) && is_cancel && !has_key {
            tracing::debug!(task = %id, "a run is stopped: its caller is gone");
            self.stop(tenant, id).await.map_err(unavailable)?;
        }
        let task = self.task(request, id).await?;
        Ok(result(&agent, &task).into())
    }

    async fn wait(
        &self,
        submission: &mut Submission,
        context: &RequestContext<RoleServer>,
    ) -> Wait {
        let deadline = Instant::now() + self.submitter.sync_wait_max;
        let mut progress =
            context.meta.get_progress_token().map(|token| Progress { token, sent: 0 });
        // A replayed call is about a run that has ended.
        let Some(follower) = submission.follower() else { return Wait::Over };
        while !follower.has_ended() {
            let changed = async {
                match &progress {
                    None => follower.ended().await,
                    Some(_) => follower.changed().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(deadline) => return Wait::Over,
                () = self.submitter.shutdown_deadline.cancelled() => return Wait::Over,
                () = context.ct.cancelled() => return Wait::ClientGone,
            }
            let Some(progress) = &mut progress else { return Wait::Over };
            for message in follower.take().iter().filter_map(message) {
                // A client that is gone is noticed above.
                let _ = context.peer.notify_progress(progress.next(message)).await;
            }
        }
        Wait::Over
    }

    /// A task of the tenant, as the tasks extension has it.
    pub(super) async fn read_task(
        &self,
        request: &McpRequest,
        id: &str,
    ) -> Result<GetTaskResult, ErrorData> {
        let id = id.parse().map_err(|_| unknown_task())?;
        let task = self.task(request, id).await?;
        let payload = match task.status {
            Status::Pending | Status::Executing | Status::Paused => TaskPayload::Working,
            Status::Stopped => TaskPayload::Cancelled,
            Status::Completed | Status::Failed | Status::Error => {
                let agent = self.store.agent(task.tenant, task.agent).await;
                let agent = agent.map_err(|error| unavailable(error.into()))?;
                let mut result = match &agent {
                    Some(agent) => result(agent, &task),
                    None => text_result(&task),
                };
                result.result_type = None;
                let json = serde_json::to_value(result).ok();
                let json = json.and_then(|json| json.as_object().cloned()).unwrap_or_default();
                TaskPayload::Completed { result: json }
            }
        };
        Ok(GetTaskResult::new(DetailedTask::new(seed(&task), payload)))
    }

    /// Stops a task of the tenant, if it has not ended.
    pub(super) async fn cancel_task(
        &self,
        request: &McpRequest,
        id: &str,
    ) -> Result<(), ErrorData> {
        let id = id.parse().map_err(|_| unknown_task())?;
        let task = self.task(request, id).await?;
        self.stop(task.tenant, task.id).await.map_err(unavailable)
    }

    async fn task(&self, request: &McpRequest, id: TaskId) -> Result<Task, ErrorData> {
        let task = self.store.task(request.tenant.tenant(), id).await;
        task.map_err(|error| unavailable(error.into()))?.ok_or_else(unknown_task)
    }
}

fn unknown_task() -> ErrorData {
    ErrorData::invalid_params("there is no such task", None)
}

/// The notifications about the progress of a call.
struct Progress {
    token: ProgressToken,
    sent: u32,
}

impl Progress {
    fn next(&mut self, message: String) -> ProgressNotificationParam {
        self.sent += 1;
        let mut progress = ProgressNotificationParam::new(self.token.clone(), self.sent.into());
        progress.message = Some(message);
        progress
    }
}

/// What a client is shown of an event: the course of the run, without any of its texts.
fn message(event: &RunEvent) -> Option<String> {
    match event {
        RunEvent::AttemptStarted => Some("the run has started".to_owned()),
        RunEvent::ToolCalled { call, .. } => Some(format!("the agent calls {}", call.name)),
        RunEvent::StepCompleted(Step { event, .. }) => match event {
            Event::Model { .. } => Some("the model has answered".to_owned()),
            Event::Tool { call, is_error: false, .. } => {
                Some(format!("{} has answered", call.name))
            }
            Event::Tool { call, .. } => Some(format!("{} has failed", call.name)),
            _ => None,
        },
        RunEvent::TextPart { .. } | RunEvent::TextRestarted => None,
    }
}

/// The name of an agent's tool: the agent's own, in the letters and the length that all clients accept. A name that has
/// to be changed for that ends with a digest, so that it stays apart from others. It never has the double underscore of
/// plugins' tools.
fn tool_name(agent: &Agent) -> String {
    let name = agent.definition.name.as_str();
    let is_accepted = |char: char| char.is_ascii_alphanumeric() || "_-".contains(char);
    if name.len() <= NAME_BYTES_MAX && name.chars().all(is_accepted) && !name.contains("__") {
        return name.to_owned();
    }
    let digest = blake3::hash(name.as_bytes()).to_hex();
    let mut accepted = String::new();
    for char in name.chars().map(|char| if is_accepted(char) { char } else { '_' }) {
        if !(char == '_' && accepted.ends_with('_')) && accepted.len() < NAME_BYTES_MAX - 7 {
            accepted.push(char);
        }
    }
    let accepted = accepted.trim_end_matches('_');
    format!("{accepted}_{}", digest.get(..6).unwrap_or_default())
}

fn describe(agent: &Agent) -> ListedTool {
    let definition = &agent.definition;
    let name = definition.name.as_str();
    let description = match definition.description.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => text.to_owned(),
        None => format!("Runs the agent {name} and returns its answer."),
    };
    let input_schema = agent_tool::input_schema().as_object().cloned().unwrap_or_default();
    let mut tool = ListedTool::new(tool_name(agent), description, Arc::new(input_schema));
    tool.title = Some(name.to_owned());
    tool.output_schema = output_schema(agent).cloned().map(Arc::new);
    tool
}

/// The schema of an agent's answers, if they are objects.
fn output_schema(agent: &Agent) -> Option<&JsonObject> {
    agent.definition.output_schema.as_ref().filter(|schema| is_of_object(schema))?.as_object()
}

/// The result of a call whose task is in this state.
fn result(agent: &Agent, task: &Task) -> CallToolResult {
    let mut result = text_result(task);
    if task.status == Status::Completed && output_schema(agent).is_some() {
        let json = task.result.as_deref().and_then(|text| serde_json::from_str(text).ok());
        result.structured_content = json.filter(Value::is_object);
    }
    result
}

fn text_result(task: &Task) -> CallToolResult {
    let text = task.result.clone().unwrap_or_default();
    let mut result = match task.status {
        Status::Completed => CallToolResult::success(vec![ContentBlock::text(text)]),
        Status::Failed | Status::Error | Status::Stopped => failed(text),
        Status::Paused => failed(format!(
            "the run waits for a person's decision (GET /v1/approvals); its task is {}",
            task.id
        )),
        Status::Pending | Status::Executing => failed(format!(
            "the run has not ended yet and goes on; GET /v1/tasks/{} returns its result",
            task.id
        )),
    };
    let mut meta = MetaObject::default();
    meta.insert(TASK_META.to_owned(), task.id.to_string().into());
    result.meta = Some(meta);
    result
}

/// A task without its result, as the tasks extension has it.
fn seed(task: &Task) -> McpTask {
    let status = match task.status {
        Status::Completed | Status::Failed | Status::Error => TaskStatus::Completed,
        Status::Stopped => TaskStatus::Cancelled,
        Status::Pending | Status::Executing | Status::Paused => TaskStatus::Working,
    };
    let updated_at = task.finished_at.or(task.started_at).unwrap_or(task.created_at);
    let seed = McpTask::new(task.id.to_string(), status, task.created_at.iso(), updated_at.iso())
        .with_poll_interval_ms(POLL_INTERVAL_MS);
    match task.status {
        Status::Paused => seed.with_status_message("it waits for a person's decision"),
        _ => seed,
    }
}
