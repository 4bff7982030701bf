//! The conversation of one run: turns of the model and calls of its tools, one after the other, each recorded before the
//! next begins. After the death of the process, the next attempt goes on behind the last recorded step.

mod approvals;
mod calls;
mod turns;

use std::collections::HashMap;

use super::budget::RunBudget;
use super::context::Context;
use super::journal::{Entry, Journal};
use super::json_length::json_length;
use super::model::{AssistantMessage, Message, Model, ToolResult};
use super::output::OutputForm;
use super::{RunError, Tools, Trace};
use crate::approval::CallPosition;
use crate::settings::AgentSettings;
use crate::tasks::Task;
use crate::tenants::Agent;
use crate::trace::log::replay;
use crate::trace::{Event, Step, ToolCall};
pub(super) use approvals::Verdict;
use turns::{MODEL_BYTES_MAX, TurnEnd};

/// The conversation of one run.
pub(super) struct Conversation<'a> {
    agent: &'a Agent,
    task: &'a Task,
    model: &'a dyn Model,
    tools: Tools,
    /// The form of the answer, if one is required.
    form: Option<OutputForm<'a>>,
    /// Whether the model's provider is given the form.
    takes_schema: bool,
    trace: &'a Trace<'a>,
    journal: Journal<'a>,
    limits: &'a AgentSettings,
    budget: RunBudget<'a>,
    context: Context,
    turns: u32,
    calls_left: u32,
    bytes_left: usize,
    model_bytes_left: usize,
    /// Malformed calls in a row.
    bad_calls: u32,
    /// The answer that the model gave by a tool.
    answer: Option<String>,
    /// How often an answer did not have the required form.
    corrections: u32,
}

/// A turn whose calls have not all ended.
struct OpenTurn {
    calls: Vec<ToolCall>,
    results: Vec<ToolResult>,
    /// The call that an earlier attempt was about to make when its process ended. It may have changed something.
    interrupted: Option<usize>,
    /// How often that call was about to be made.
    intents: u32,
    /// What was decided about its calls.
    verdicts: HashMap<CallPosition, Verdict>,
    /// Whether an earlier attempt, or the one before a pause, left it.
    is_resumed: bool,
    /// Whether an earlier attempt left it, and its calls contain secrets, which are not stored.
    is_redacted: bool,
}

impl OpenTurn {
    fn new(calls: Vec<ToolCall>) -> Self {
        Self {
            calls,
            results: Vec::new(),
            interrupted: None,
            intents: 0,
            verdicts: HashMap::new(),
            is_resumed: false,
            is_redacted: false,
        }
    }
}

/// What every step of a conversation works with.
pub(super) struct Participants<'a> {
    pub(super) agent: &'a Agent,
    pub(super) task: &'a Task,
    pub(super) model: &'a dyn Model,
    pub(super) tools: Tools,
    pub(super) form: Option<OutputForm<'a>>,
    pub(super) takes_schema: bool,
    pub(super) trace: &'a Trace<'a>,
    pub(super) limits: &'a AgentSettings,
    pub(super) budget: RunBudget<'a>,
}

impl<'a> Conversation<'a> {
    /// A conversation that begins with these messages.
    pub(super) fn new(
        with: Participants<'a>,
        journal: Journal<'a>,
        messages: Vec<Message>,
    ) -> Self {
        let Participants { agent, task, model, tools, form, takes_schema, trace, limits, budget } =
            with;
        let definition = &agent.definition;
        let size = model.context_size();
        let form_bytes = match &form {
            Some(form) if takes_schema && size.is_some() => {
                json_length(form.schema(), usize::MAX).unwrap_or_default()
            }
            _ => 0,
        };
        let instructions = (definition.instructions.as_str(), form_bytes);
        let result_bytes_max = limits.result_bytes_max;
        let context =
            Context::new(messages, size, result_bytes_max, instructions, tools.descriptions());
        let calls_max = definition.budget.tool_calls_max.unwrap_or(u32::MAX);
        Self {
            agent,
            task,
            model,
            tools,
            form,
            takes_schema,
            trace,
            journal,
            limits,
            budget,
            context,
            turns: 0,
            calls_left: limits.tool_calls_max.min(calls_max),
            bytes_left: limits.tool_bytes_max,
            model_bytes_left: MODEL_BYTES_MAX,
            bad_calls: 0,
            answer: None,
            corrections: 0,
        }
    }

    /// Goes on behind what earlier attempts recorded, up to the model's answer.
    pub(super) async fn run(mut self, recorded: Vec<Entry>) -> Result<String, RunError> {
        let mut open = self.resume(recorded).await?;
        loop {
            if let Some(turn) = open.take() {
                let results = self.call_tools(turn).await?;
                self.context.push_results(results);
            }
            if let Some(answer) = self.answer.take() {
                return Ok(answer);
            }
            match self.take_turn().await? {
                TurnEnd::Answered(text) => return Ok(text),
                TurnEnd::Corrected => {}
                TurnEnd::ToolsCalled(turn) => open = Some(turn),
            }
        }
    }

    /// Takes over what earlier attempts recorded: into the trace, the conversation and the limits. Returns the turn
    /// whose calls have not all ended, if there is one.
    async fn resume(&mut self, recorded: Vec<Entry>) -> Result<Option<OpenTurn>, RunError> {
        let mut open: Option<OpenTurn> = None;
        for entry in recorded {
            match entry {
                Entry::Turn { step, provider_message, is_redacted, problem } => {
                    let step = Step::from(step);
                    let Event::Model { text, tool_calls, spending, usage, .. } = step.event.clone()
                    else {
                        break;
                    };
                    self.fit_context();
                    self.show_again(step);
                    self.context.measure(&usage.unwrap_or_default());
                    self.budget.count(spending.unwrap_or_default());
                    self.turns += 1;
                    let calls = tool_calls.clone();
                    let message = AssistantMessage { text, tool_calls, provider_message };
                    self.model_bytes_left = self.model_bytes_left.saturating_sub(message.bytes());
                    if calls.is_empty() {
                        // Only wrong answers are recorded.
                        self.correct(message, &problem.unwrap_or_default())?;
                        continue;
                    }
                    self.context.push_turn(message);
                    open = Some(OpenTurn { is_resumed: true, is_redacted, ..OpenTurn::new(calls) });
                }
                Entry::Intent { call } => {
                    if let Some(open) = &mut open {
                        open.interrupted = Some(call);
                        open.intents += 1;
                    }
                }
                Entry::Verdict { step, position, denied } => {
                    self.show_again(step.into());
                    if let Some(open) = &mut open {
                        let verdict = denied.map_or(Verdict::Approved, Verdict::Denied);
                        open.verdicts.insert(position, verdict);
                    }
                }
                Entry::Result { step } => {
                    let step = Step::from(step);
                    let Event::Tool { call, result: text, is_error, .. } = step.event.clone()
                    else {
                        break;
                    };
                    self.show_again(step);
                    if !self.gives_answer(&call) {
                        self.calls_left = self.calls_left.saturating_sub(1);
                        self.bytes_left = self.bytes_left.saturating_sub(text.len());
                    }
                    self.take_answer(&call, &text, is_error).await?;
                    let Some(turn) = &mut open else { break };
                    (turn.interrupted, turn.intents) = (None, 0);
                    turn.results.push(self.context.result(call, text, is_error));
                    if turn.results.len() == turn.calls.len() {
                        let results = open.take().map(|turn| turn.results).unwrap_or_default();
                        self.context.push_results(results);
                    }
                }
            }
        }
        Ok(open)
    }

    /// Puts a step of an earlier attempt into the trace of this one.
    fn show_again(&self, step: Step) {
        replay(vec![step]).into_iter().for_each(|event| self.trace.log.push(event));
    }
}
