//! Runs an agent: builds the model's messages, requests its turns, calls its tools, and ends the run.

mod arguments;
pub mod model;
mod tools;
mod turn_text;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::clock::{Clock, Timestamp};
use crate::ids::RequestId;
use crate::plugins::{PluginUnavailable, Plugins};
use crate::secrets::UserTokens;
use crate::settings::AgentSettings;
use crate::store::{Store, StoreError};
use crate::tasks::{EndStatus, Outcome, Task};
use crate::tenants::Agent;
use crate::trace::log::{RunEvent, RunLog};
use crate::trace::redact::Redactor;
use crate::trace::usage::Usage;
use crate::trace::{Event, Step, ToolCall};
use model::{
    AssistantMessage, Message, Models, StopReason, ToolResult, Turn, TurnRequest, UserMessage,
};
pub use tools::{Tools, ToolsError, Unavailable};
use turn_text::TurnText;

/// How long a run waits before it asks for its tools again if there was no room for the plugin call.
const TOOLS_PAUSE: Duration = Duration::from_secs(1);

/// How many malformed calls in a row end a run.
const BAD_CALLS_MAX: u32 = 3;

/// What the tools of a run may still do.
struct ToolBudget {
    calls_left: u32,
    bytes_left: usize,
    /// Malformed calls in a row.
    bad_calls: u32,
}

/// What every run needs.
#[derive(Debug, Clone)]
pub struct Runner {
    /// Reads the thread's earlier tasks.
    pub store: Store,
    /// Runs the tools.
    pub plugins: Plugins,
    /// The models of the settings.
    pub models: Models,
    /// The time of the trace's steps.
    pub clock: Clock,
    /// The limits of a run.
    pub limits: AgentSettings,
}

/// What one run gets besides its task.
#[derive(Debug)]
pub struct RunContext<'a> {
    /// The tokens of the user that the run is for.
    pub tokens: UserTokens,
    /// The log that its steps are written to as they happen, redacted.
    pub log: &'a RunLog,
    /// The time limit.
    pub time_max: Duration,
}

/// Why a run did not complete.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The agent, its model or its plugins are at fault: the run has failed.
    #[error("{0}")]
    Failed(String),
    /// The gateway is at fault: the run can be restarted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ToolsError> for RunError {
    fn from(error: ToolsError) -> Self {
        match error {
            ToolsError::Unavailable(_, PluginUnavailable::Store(error)) => Self::Store(error),
            error => Self::failed(error.to_string()),
        }
    }
}

impl RunError {
    fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }
}

impl Runner {
    /// Runs an agent on a task. Every failure of the run becomes the outcome, and an empty answer is a failure. A run
    /// that exceeds its time limit is ended here, so that its steps until then are recorded.
    ///
    /// # Errors
    /// If the store cannot be used, which is not the task's fault.
    pub async fn run(
        &self,
        agent: &Agent,
        task: &Task,
        run: RunContext<'_>,
    ) -> Result<Outcome, StoreError> {
        let mut redactor = Cow::Borrowed(self.models.redactor());
        if !run.tokens.is_empty() {
            let redactor = redactor.to_mut();
            run.tokens.secrets().for_each(|secret| redactor.add(secret));
        }
        let trace = Trace { clock: self.clock.clone(), log: run.log, redactor: &redactor };
        if !run.tokens.is_empty() {
            let items = run.tokens.items().map(str::to_owned).collect();
            trace.push(trace.begin(), Event::UserTokens { items });
        }
        let conversation = self.converse(agent, task, &trace);
        let time_max = run.time_max;
        let conversed = tokio::time::timeout(time_max, conversation).await.unwrap_or_else(|_| {
            let seconds = time_max.as_secs();
            Err(RunError::failed(format!("the run did not end within {seconds} seconds")))
        });
        let outcome = match conversed {
            Ok(result) => Outcome { status: EndStatus::Completed, result },
            Err(RunError::Store(error)) => return Err(error),
            Err(RunError::Failed(reason)) => {
                run.log.abandon_call(self.clock.now());
                trace.push(trace.begin(), Event::Failure { reason: reason.clone() });
                Outcome { status: EndStatus::Failed, result: reason }
            }
        };
        Ok(Outcome { result: redactor.text(outcome.result), ..outcome })
    }

    async fn converse(
        &self,
        agent: &Agent,
        task: &Task,
        trace: &Trace<'_>,
    ) -> Result<String, RunError> {
        let definition = &agent.definition;
        let model = self.models.get(&definition.model).ok_or_else(|| {
            RunError::failed(format!(
                "the agent's model {:?} is not in the gateway's settings",
                definition.model
            ))
        })?;
        let request_id = RequestId::next();
        let tools = self.tools(agent, request_id).await?;
        for note in tools.notes() {
            trace.push(trace.begin(), Event::Note { text: note.clone() });
        }
        let mut messages = self.history(task).await?;
        let input = user_message(task);
        trace.push(trace.begin(), Event::Prompt { text: input.fenced() });
        messages.push(Message::User(input));

        let turns_max = definition.turns_max.unwrap_or(u32::MAX).min(self.limits.turns_max).max(1);
        let mut budget = ToolBudget {
            calls_left: self.limits.tool_calls_max,
            bytes_left: self.limits.tool_bytes_max,
            bad_calls: 0,
        };
        for _ in 0..turns_max {
            let begun = trace.begin();
            let text = TurnText::new(trace, begun.0);
            let request = TurnRequest {
                instructions: &definition.instructions,
                messages: &messages,
                tools: tools.descriptions(),
                text_sink: &text,
            };
            let turn = model.turn(request).await.map_err(|error| {
                RunError::failed(format!("{} (fault: {})", error.message, error.fault.as_str()))
            })?;
            text.finish();
            trace.push(begun, model_event(&definition.model, &turn));
            match turn.stop {
                StopReason::Length => {
                    return Err(RunError::failed(
                        "the model's answer is incomplete: it reached the limit of its output or context \
                         (output_tokens_max of the model's settings, or the provider's own limit)",
                    ));
                }
                StopReason::Refused(why) => {
                    return Err(RunError::failed(format!("the model refused to answer: {why}")));
                }
                StopReason::Answered if turn.text.trim().is_empty() => {
                    return Err(RunError::failed(
                        "the model gave an empty answer (fault: upstream)",
                    ));
                }
                StopReason::Answered => return Ok(turn.text),
                StopReason::ToolCalls => {}
            }
            let calls = turn.tool_calls.clone();
            let Turn { text, tool_calls, provider_message, .. } = turn;
            messages.push(Message::Assistant(AssistantMessage {
                text,
                tool_calls,
                provider_message,
            }));
            let mut results = Vec::with_capacity(calls.len());
            for call in calls {
                budget.calls_left = budget.calls_left.checked_sub(1).ok_or_else(|| {
                    let max = self.limits.tool_calls_max;
                    RunError::failed(format!("the run wanted more than {max} tool calls"))
                })?;
                results.push(self.call_tool(&tools, task, call, trace, &mut budget).await?);
            }
            messages.push(Message::ToolResults(results));
        }
        Err(RunError::failed(format!("the model gave no answer within {turns_max} turns")))
    }

    /// The agent's tools. If there is no room to call a plugin for them, the run is not at fault and waits, within
    /// its time limit.
    async fn tools(&self, agent: &Agent, request_id: RequestId) -> Result<Tools, RunError> {
        loop {
            match Tools::for_run(&self.plugins, agent, request_id).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(agent = %agent.id, %error, "a run waits for its tools");
                    tokio::time::sleep(TOOLS_PAUSE).await;
                }
                tools => return Ok(tools?),
            }
        }
    }

    /// Calls a tool. What goes wrong is told to the model, and the run goes on, unless the model's calls are malformed
    /// again and again.
    async fn call_tool(
        &self,
        tools: &Tools,
        task: &Task,
        call: ToolCall,
        trace: &Trace<'_>,
        budget: &mut ToolBudget,
    ) -> Result<ToolResult, RunError> {
        let begun = trace.begin();
        trace.called(begun.0, &call, tools.plugin_of(&call.name));
        let called = match tools.check_arguments(&call) {
            Ok(()) => {
                budget.bad_calls = 0;
                tools.call(task, &call).await
            }
            Err(why) => {
                budget.bad_calls += 1;
                tools.refuse(&call, why)
            }
        };
        let answer = called.within(&mut budget.bytes_left);
        let event = Event::Tool {
            call: call.clone(),
            plugin: answer.plugin,
            result: answer.result.clone(),
            is_error: answer.is_error,
            logs: answer.logs,
            ran: answer.ran,
        };
        trace.push(begun, event);
        if budget.bad_calls == BAD_CALLS_MAX {
            return Err(RunError::failed(format!(
                "the model called tools with malformed arguments {BAD_CALLS_MAX} times in a row"
            )));
        }
        Ok(ToolResult { call, text: answer.result, is_error: answer.is_error })
    }

    /// The thread's earlier tasks as messages, oldest first, within the bounds of the settings.
    async fn history(&self, task: &Task) -> Result<Vec<Message>, RunError> {
        let (tasks_max, bytes_max) = (self.limits.history_tasks_max, self.limits.history_bytes_max);
        let earlier = self.store.thread_tasks(task, tasks_max, bytes_max).await?;
        let mut bytes_left = bytes_max;
        // If not all fit, the newest are kept.
        let mut included: Vec<&Task> = Vec::new();
        for task in earlier.iter().rev() {
            let bytes = task.input.prompt.as_ref().map_or(0, String::len)
                + task.input.payload.len()
                + task.result.as_ref().map_or(0, String::len);
            match bytes_left.checked_sub(bytes) {
                Some(left) => bytes_left = left,
                None => break,
            }
            included.push(task);
        }
        let turns = included.into_iter().rev().flat_map(|task| {
            let text = task.result.clone().unwrap_or_default();
            let answer = AssistantMessage { text, ..AssistantMessage::default() };
            [Message::User(user_message(task)), Message::Assistant(answer)]
        });
        Ok(turns.collect())
    }
}

/// The agent's input (CONTRACT X6): the prompt with the payload as data, or the payload alone if there is no prompt.
fn user_message(task: &Task) -> UserMessage {
    let has_payload = task.input.prompt.is_none() || task.input.payload.trim() != "{}";
    UserMessage {
        prompt: task.input.prompt.clone(),
        payload: has_payload.then(|| task.input.payload.clone()),
        fence: task.id.to_string(),
    }
}

fn model_event(model: &str, turn: &Turn) -> Event {
    Event::Model {
        model: model.to_owned(),
        text: turn.text.clone(),
        tool_calls: turn.tool_calls.clone(),
        input_tokens: turn.usage.input(),
        output_tokens: turn.usage.all_output(),
        usage: (turn.usage != Usage::default()).then(|| Box::new(turn.usage.clone())),
        attempts: (turn.attempts > 1).then_some(turn.attempts),
        fallback: turn.fallback.clone(),
    }
}

/// Records the steps of a run as they happen, redacted before they reach the log.
struct Trace<'a> {
    clock: Clock,
    log: &'a RunLog,
    redactor: &'a Redactor,
}

impl Trace<'_> {
    fn begin(&self) -> (Timestamp, Instant) {
        (self.clock.now(), Instant::now())
    }

    fn called(&self, at: Timestamp, call: &ToolCall, plugin: Option<String>) {
        self.log.push(RunEvent::ToolCalled { at, call: self.redactor.call(call.clone()), plugin });
    }

    fn push(&self, (at, begun): (Timestamp, Instant), event: Event) {
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.log.push(RunEvent::StepCompleted(self.redactor.step(Step { at, micros, event })));
    }
}
