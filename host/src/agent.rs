//! Runs an agent: builds the model's messages, requests its turns, calls its tools, and ends the run.

mod arguments;
mod budget;
mod context;
mod conversation;
mod images;
mod journal;
mod json_length;
pub mod model;
mod output;
mod permission;
mod repeated_names;
mod schema;
mod tenant_models;
mod tool_answer;
mod tools;
mod turn_text;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::clock::{Clock, Timestamp};
use crate::ids::RequestId;
use crate::mcp::McpServers;
use crate::plugins::{PluginUnavailable, Plugins};
use crate::secrets::UserTokens;
use crate::settings::AgentSettings;
use crate::store::{Store, StoreError};
use crate::tasks::{EndStatus, Fence, Outcome, Task};
use crate::tenants::Agent;
use crate::trace::log::{RunEvent, RunLog, replay};
use crate::trace::redact::Redactor;
use crate::trace::usage::Usage;
use crate::trace::{Event, Step, ToolCall};
pub use budget::Budgets;
use conversation::{Conversation, Participants};
use images::take_images;
use journal::{Entry, Journal};
use model::{AssistantMessage, Message, Models, Turn, UserMessage};
use output::OutputForm;
pub use output::{OutputForms, check_output_schema};
pub use tenant_models::{TenantModels, check_model_address};
pub use tools::{Tools, ToolsError, Unavailable, qualified_tool_name};

/// How long a run waits before it asks for its tools again if there was no room for the plugin call.
const TOOLS_PAUSE: Duration = Duration::from_secs(1);

/// What every run needs.
#[derive(Debug, Clone)]
pub struct Runner {
    /// Reads the thread's earlier tasks.
    pub store: Store,
    /// Runs the tools.
    pub plugins: Plugins,
    /// The models of the settings and of tenants.
    pub models: TenantModels,
    /// The MCP servers of tenants.
    pub mcp: McpServers,
    /// The time of the trace's steps.
    pub clock: Clock,
    /// The limits of a run.
    pub limits: AgentSettings,
    /// What runs, agents and tenants may spend.
    pub budgets: Budgets,
    /// The forms of agents' answers, prepared.
    pub forms: OutputForms,
}

/// What one run gets besides its task.
#[derive(Debug)]
pub struct RunContext<'a> {
    /// The tokens of the user that the run is for.
    pub tokens: UserTokens,
    /// The log that its steps are written to as they happen, redacted.
    pub log: &'a RunLog,
    /// The fence of the task's lease.
    pub fence: Fence,
    /// The time limit.
    pub time_max: Duration,
}

/// What a run has come to.
#[derive(Debug)]
pub enum RunEnd {
    /// It has ended.
    Ended(Outcome),
    /// Its task is paused, which the store has recorded, and another run goes on.
    Paused,
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
    /// Its task is paused.
    #[error("the task is paused")]
    Paused,
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
    /// Runs an agent on a task, to its end or until it has to wait for a person's decision. Every failure of the run
    /// becomes the outcome, and an empty answer is a failure. A run that exceeds its time limit is ended here, so that its
    /// steps until then are recorded.
    ///
    /// # Errors
    /// If the store cannot be used, which is not the task's fault.
    pub async fn run(
        &self,
        agent: &Agent,
        task: &Task,
        run: RunContext<'_>,
    ) -> Result<RunEnd, StoreError> {
        let models = self.models.of(task.tenant).await?;
        let mut redactor = Cow::Borrowed(models.redactor());
        if !run.tokens.is_empty() {
            let redactor = redactor.to_mut();
            run.tokens.secrets().for_each(|secret| redactor.add(secret));
        }
        let trace = Trace { clock: self.clock.clone(), log: run.log, redactor: &redactor };
        if !run.tokens.is_empty() {
            let items = run.tokens.items().map(str::to_owned).collect();
            trace.push(trace.begin(), Event::UserTokens { items });
        }
        let budget = agent.definition.budget.seconds_max.map(Duration::from_secs);
        let time_max = budget.map_or(run.time_max, |budget| budget.min(run.time_max));
        let conversed = self.converse(&models, agent, task, &run, time_max, &trace).await;
        let outcome = match conversed {
            Ok(result) => Outcome { status: EndStatus::Completed, result },
            Err(RunError::Store(error)) => return Err(error),
            Err(RunError::Paused) => return Ok(RunEnd::Paused),
            Err(RunError::Failed(reason)) => {
                run.log.abandon_calls(self.clock.now());
                trace.push(trace.begin(), Event::Failure { reason: reason.clone() });
                Outcome { status: EndStatus::Failed, result: reason }
            }
        };
        Ok(RunEnd::Ended(Outcome { result: redactor.text(outcome.result), ..outcome }))
    }

    /// Puts the steps that earlier attempts recorded into the log of a run that does not go on.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn show_recorded(&self, task: &Task, log: &RunLog) -> Result<(), StoreError> {
        match journal::read(&self.store, task).await {
            Ok(entries) => {
                replay(journal::steps(entries)).into_iter().for_each(|event| log.push(event));
                Ok(())
            }
            Err(RunError::Store(error)) => Err(error),
            // The trace does without.
            Err(RunError::Failed(_) | RunError::Paused) => Ok(()),
        }
    }

    async fn converse(
        &self,
        models: &Models,
        agent: &Agent,
        task: &Task,
        run: &RunContext<'_>,
        time_max: Duration,
        trace: &Trace<'_>,
    ) -> Result<String, RunError> {
        let begun = Instant::now();
        let (journal, recorded) = Journal::open(&self.store, task, run.fence).await?;
        let used = journal::time_used(&recorded);
        let time_left = time_max.saturating_sub(used).saturating_sub(begun.elapsed());
        let conversation = self.go_on(models, agent, task, &run.tokens, (journal, recorded), trace);
        tokio::time::timeout(time_left, conversation).await.unwrap_or_else(|_| {
            let seconds = time_max.as_secs();
            Err(RunError::failed(format!("the run did not end within {seconds} seconds")))
        })
    }

    /// Goes on where earlier attempts ended.
    async fn go_on(
        &self,
        models: &Models,
        agent: &Agent,
        task: &Task,
        tokens: &UserTokens,
        (journal, recorded): (Journal<'_>, Vec<Entry>),
        trace: &Trace<'_>,
    ) -> Result<String, RunError> {
        let definition = &agent.definition;
        let model = models.get(&definition.model).map_err(RunError::Failed)?;
        let request_id = RequestId::next();
        let mut tools = self.tools(agent, tokens, request_id).await?;
        for note in tools.notes() {
            trace.push(trace.begin(), Event::Note { text: note.clone() });
        }
        let form = match &definition.output_schema {
            Some(schema) => {
                let check = self.forms.of(agent, schema).await;
                Some(OutputForm::new(schema, check, trace.redactor))
            }
            None => None,
        };
        let takes_schema = model.takes_output_schema(!tools.descriptions().is_empty());
        if model.context_size().is_some() {
            tools.offer_read_result();
        }
        if let Some(form) = form.as_ref().filter(|_| !takes_schema) {
            tools.offer_final_answer(form.tool());
        }
        let mut messages = self.history(agent, task).await?;
        let input = user_message(agent, task);
        trace.push(trace.begin(), Event::Prompt { text: input.fenced() });
        messages.push(Message::User(input));

        let with = Participants {
            agent,
            task,
            model: model.as_ref(),
            tools,
            form,
            takes_schema,
            trace,
            limits: &self.limits,
            budget: self.budgets.of_run(agent, &self.limits),
        };
        Conversation::new(with, journal, messages).run(recorded).await
    }

    /// The agent's tools. If there is no room to call a plugin for them, the run is not at fault and waits, within
    /// its time limit.
    async fn tools(
        &self,
        agent: &Agent,
        tokens: &UserTokens,
        request_id: RequestId,
    ) -> Result<Tools, RunError> {
        loop {
            match Tools::for_run(&self.plugins, &self.mcp, agent, tokens, request_id).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(agent = %agent.id, %error, "a run waits for its tools");
                    tokio::time::sleep(TOOLS_PAUSE).await;
                }
                tools => return Ok(tools?),
            }
        }
    }

    /// The thread's earlier tasks as messages, oldest first, within the bounds of the settings.
    async fn history(&self, agent: &Agent, task: &Task) -> Result<Vec<Message>, RunError> {
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
            [Message::User(user_message(agent, task)), Message::Assistant(answer)]
        });
        Ok(turns.collect())
    }
}

/// The agent's input (CONTRACT X6): the prompt with the payload as data, or the payload alone if there is no prompt.
fn user_message(agent: &Agent, task: &Task) -> UserMessage {
    let payload = task.input.payload.as_str();
    let has_payload = task.input.prompt.is_none() || payload.trim() != "{}";
    let (payload, images) = match agent.definition.show_images {
        true => take_images(payload),
        false => (payload.into(), Vec::new()),
    };
    UserMessage {
        prompt: task.input.prompt.clone(),
        payload: has_payload.then(|| payload.into_owned()),
        images,
        fence: task.id.to_string(),
        left_out_turns: 0,
    }
}

fn model_event(model: &str, turn: &Turn, restarts: u32) -> Event {
    Event::Model {
        model: model.to_owned(),
        text: turn.text.clone(),
        tool_calls: turn.tool_calls.clone(),
        input_tokens: turn.usage.input(),
        output_tokens: turn.usage.all_output(),
        spending: turn.spending,
        served_by: turn.served_by.clone(),
        usage: (turn.usage != Usage::default()).then(|| Box::new(turn.usage.clone())),
        attempts: (turn.attempts > 1).then_some(turn.attempts),
        fallback: turn.fallback.clone(),
        restarts: (restarts > 0).then_some(restarts),
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

    /// Adds a step that began at this time.
    fn push(&self, begun: (Timestamp, Instant), event: Event) {
        self.log.push(RunEvent::StepCompleted(self.step(begun, event)));
    }

    /// A step that began at this time and ends now, redacted.
    fn step(&self, (at, begun): (Timestamp, Instant), event: Event) -> Step {
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.redactor.step(Step { at, micros, event })
    }
}
