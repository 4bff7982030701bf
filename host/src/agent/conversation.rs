//! The conversation of one run: turns of the model and calls of its tools, one after the other, each recorded before the
//! next begins. After the death of the process, the next attempt goes on behind the last recorded step.

use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};

use super::arguments::REFUSED;
use super::budget::{RunBudget, TurnAccount};
use super::context::Context;
use super::journal::{Entry, Journal};
use super::model::{AssistantMessage, Message, Model, StopReason, ToolResult, Turn, TurnRequest};
use super::output::OutputForm;
use super::tools::Answer;
use super::turn_text::TurnText;
use super::{RunError, Tools, Trace, model_event};
use crate::clock::Timestamp;
use crate::settings::AgentSettings;
use crate::tasks::Task;
use crate::tenants::{Agent, OnUnknown};
use crate::tool::FINAL_ANSWER;
use crate::trace::log::{RunEvent, replay};
use crate::trace::{Event, Step, ToolCall};

/// How many malformed calls in a row end a run.
const BAD_CALLS_MAX: u32 = 3;

/// How often a model may give another answer in place of one that does not have the required form.
const CORRECTIONS_MAX: u32 = 1;

/// The most bytes that the model writes in the turns of one run that call tools: texts, calls and reasoning.
const MODEL_BYTES_MAX: usize = 8 << 20;

/// The most calls of a run at a time.
const CALLS_AT_ONCE_MAX: usize = 8;

/// What the model is told of an answer that it gave by a tool.
const ACCEPTED: &str = "the answer is accepted";

/// What the model is told of a call whose outcome nobody knows.
const UNKNOWN: &str = "its outcome is unknown: the gateway stopped while the tool ran. What it does may have been done. \
    Check before you call it again";

/// What the model is told of a call that contains a secret, after a restart.
const NOT_STORED: &str =
    "it was not made: the gateway restarted, and the call contains a secret, which is not stored";

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
    /// Whether an earlier attempt left it, and its calls contain secrets, which are not stored.
    is_redacted: bool,
}

/// A call that has begun.
struct BegunCall {
    /// Its number in the turn.
    number: usize,
    call: ToolCall,
    at: Timestamp,
    /// Why it is not made.
    refusal: Option<String>,
}

/// A turn that was taken: when it began, the turn, how often its text began anew, and its account.
type TakenTurn<'m> = ((Timestamp, Instant), Turn, u32, Option<TurnAccount<'m>>);

/// How a turn ended.
enum TurnEnd {
    Answered(String),
    /// The answer does not have the required form, and the model was asked for another one.
    Corrected,
    ToolsCalled(OpenTurn),
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
            Some(form) if takes_schema && size.is_some() => form.schema().to_string().len(),
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
                Entry::Turn { step, provider_message, is_redacted } => {
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
                        match &self.form {
                            Some(form) => match form.parse(&message.text).await {
                                Ok(answer) => self.answer = Some(answer),
                                Err(problem) => self.correct(message, &problem)?,
                            },
                            // It had one when the turn was recorded.
                            None => self.answer = Some(message.text),
                        }
                        continue;
                    }
                    self.context.push_turn(message);
                    let (results, interrupted) = (Vec::new(), None);
                    open = Some(OpenTurn { calls, results, interrupted, is_redacted });
                }
                Entry::Intent { call } => {
                    if let Some(open) = &mut open {
                        open.interrupted = Some(call);
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
                    turn.interrupted = None;
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

    /// Leaves out what no longer fits, before a turn.
    fn fit_context(&mut self) {
        if let Some(text) = self.context.fit() {
            self.trace.push(self.trace.begin(), Event::Note { text });
        }
    }

    async fn take_turn(&mut self) -> Result<TurnEnd, RunError> {
        let definition = &self.agent.definition;
        let turns_max = definition.turns_max.unwrap_or(u32::MAX).min(self.limits.turns_max).max(1);
        if self.turns >= turns_max {
            let reason = format!("the model gave no answer within {turns_max} turns");
            return Err(RunError::failed(reason));
        }
        self.fit_context();
        let (begun, mut turn, restarts, account) = loop {
            if let Some(taken) = self.request_turn().await? {
                break taken;
            }
        };
        self.turns += 1;
        self.context.measure(&turn.usage);
        if let Some(account) = account {
            let spending = account.close(&turn, restarts).await?;
            self.budget.count(spending);
            turn.spending = Some(spending);
        }
        let step = self.trace.step(begun, model_event(&definition.model, &turn, restarts));
        let checked = match &self.form {
            Some(form) if turn.stop == StopReason::Answered => Some(form.parse(&turn.text).await),
            _ => None,
        };
        let goes_on = turn.stop == StopReason::ToolCalls || matches!(checked, Some(Err(_)));
        let has_room = if goes_on { self.take_room(&turn) } else { Ok(()) };
        if goes_on && has_room.is_ok() {
            self.journal.record_turn(&step, &turn, self.trace.redactor).await?;
        }
        // A turn for which there is no room is shown all the same.
        self.trace.log.push(RunEvent::StepCompleted(step));
        has_room?;
        let Turn { text, tool_calls, provider_message, .. } = turn;
        let reason = match turn.stop {
            StopReason::Length => {
                "the model's answer is incomplete: it reached the limit of its output or context \
                 (output_tokens_max of the model's settings, or the provider's own limit)"
                    .to_owned()
            }
            StopReason::Refused(why) => format!("the model refused to answer: {why}"),
            StopReason::Answered => match checked {
                Some(Ok(answer)) => return Ok(TurnEnd::Answered(answer)),
                Some(Err(problem)) => {
                    self.correct(
                        AssistantMessage { text, tool_calls, provider_message },
                        &problem,
                    )?;
                    return Ok(TurnEnd::Corrected);
                }
                None if text.trim().is_empty() => {
                    "the model gave an empty answer (fault: upstream)".to_owned()
                }
                None => return Ok(TurnEnd::Answered(text)),
            },
            StopReason::ToolCalls => {
                let calls = tool_calls.clone();
                let message = AssistantMessage { text, tool_calls, provider_message };
                self.context.push_turn(message);
                let (results, interrupted) = (Vec::new(), None);
                let turn = OpenTurn { calls, results, interrupted, is_redacted: false };
                return Ok(TurnEnd::ToolsCalled(turn));
            }
        };
        Err(RunError::failed(reason))
    }

    /// Requests a turn. Returns when it began, the turn, how often its text began anew, and its account; or None if the model's server
    /// refuses a tool, which is left out from now on.
    async fn request_turn(&mut self) -> Result<Option<TakenTurn<'a>>, RunError> {
        let account = self.budget.open(self.model, self.context.new_bytes()).await?;
        let begun = self.trace.begin();
        let received = account.as_ref().map(TurnAccount::received).unwrap_or_default();
        let text = TurnText::new(self.trace, begun.0, received);
        let request = TurnRequest {
            instructions: &self.agent.definition.instructions,
            messages: self.context.messages(),
            tools: self.tools.descriptions(),
            output_schema: self.form.as_ref().filter(|_| self.takes_schema).map(OutputForm::schema),
            text_sink: &text,
            tenant: self.task.tenant,
            redactor: self.trace.redactor,
        };
        let turn = match self.model.turn(request).await {
            Ok(turn) => turn,
            Err(error) => {
                account.into_iter().for_each(TurnAccount::fail);
                let tool = error.refused_tool.as_deref();
                let Some(tool) = tool.filter(|tool| self.tools.leave_out(tool)) else {
                    let (message, fault) = (error.message, error.fault.as_str());
                    return Err(RunError::failed(format!("{message} (fault: {fault})")));
                };
                let message = &error.message;
                let text = format!("the run goes on without the tool {tool}: {message}");
                self.trace.push(begun, Event::Note { text });
                return Ok(None);
            }
        };
        let restarts = text.finish();
        Ok(Some((begun, turn, restarts, account)))
    }

    /// Asks for another answer in place of this one, which does not have the required form.
    fn correct(&mut self, message: AssistantMessage, problem: &str) -> Result<(), RunError> {
        let Some(form) = &self.form else { return Ok(()) };
        let correction = form.correction(problem, self.takes_schema);
        self.count_correction(problem)?;
        let text = format!(
            "the answer does not fit output_schema ({problem}); the model is asked for another one"
        );
        self.trace.push(self.trace.begin(), Event::Note { text });
        // Providers refuse an empty message.
        let message = match message.text.trim().is_empty() {
            true => {
                AssistantMessage { text: "(no answer)".to_owned(), ..AssistantMessage::default() }
            }
            false => message,
        };
        self.context.push_turn(message);
        self.context.push_correction(correction);
        Ok(())
    }

    /// Whether this call gives the answer of the run.
    fn gives_answer(&self, call: &ToolCall) -> bool {
        self.form.is_some() && !self.takes_schema && call.name == FINAL_ANSWER
    }

    /// Takes the answer from a call of the tool for it that has ended.
    async fn take_answer(
        &mut self,
        call: &ToolCall,
        result: &str,
        is_error: bool,
    ) -> Result<(), RunError> {
        let Some(form) = self.form.as_ref().filter(|_| self.gives_answer(call)) else {
            return Ok(());
        };
        if !is_error {
            self.answer = form.answer_in(&call.arguments).await.ok();
        } else if result.starts_with(REFUSED) {
            self.count_correction("the arguments of final_answer do not fit it")?;
        }
        Ok(())
    }

    fn count_correction(&mut self, problem: &str) -> Result<(), RunError> {
        self.corrections += 1;
        if self.corrections > CORRECTIONS_MAX {
            return Err(RunError::failed(format!(
                "the model's answer does not fit the agent's output_schema: {problem} (fault: upstream)"
            )));
        }
        Ok(())
    }

    /// Takes what a turn has from the room of the conversation, which is in memory and in each further request.
    fn take_room(&mut self, turn: &Turn) -> Result<(), RunError> {
        self.model_bytes_left =
            self.model_bytes_left.checked_sub(turn.bytes()).ok_or_else(|| {
                let reason =
                    format!("the model wrote more than {MODEL_BYTES_MAX} bytes in this run");
                RunError::failed(reason)
            })?;
        Ok(())
    }

    /// Makes the calls of a turn that have not ended, and returns the results of all. Calls that only read are made at
    /// the same time if they follow each other, all others one after the other.
    async fn call_tools(&mut self, turn: OpenTurn) -> Result<Vec<ToolResult>, RunError> {
        let OpenTurn { calls, mut results, interrupted, is_redacted } = turn;
        let mut waiting = calls.into_iter().enumerate().skip(results.len()).peekable();
        while let Some((number, call)) = waiting.next() {
            let only_reads = self.tools.only_reads(&call.name);
            let mut group = vec![self.begin_call(number, call).await?];
            while only_reads
                && let Some((number, call)) =
                    waiting.next_if(|(_, call)| self.tools.only_reads(&call.name))
            {
                group.push(self.begin_call(number, call).await?);
            }
            let answers = self.answers(&group, interrupted, is_redacted).await?;
            for (begun, (answer, micros)) in group.into_iter().zip(answers) {
                results.push(self.end_call(begun, answer, micros, interrupted).await?);
            }
        }
        Ok(results)
    }

    async fn begin_call(&mut self, number: usize, call: ToolCall) -> Result<BegunCall, RunError> {
        let cost = u32::from(!self.gives_answer(&call));
        self.calls_left = self.calls_left.checked_sub(cost).ok_or_else(|| {
            let max = self.limits.tool_calls_max;
            let max = self.agent.definition.budget.tool_calls_max.unwrap_or(max).min(max);
            RunError::failed(format!("the run wanted more than {max} tool calls"))
        })?;
        let (at, _) = self.trace.begin();
        self.trace.called(at, &call, self.tools.plugin_of(&call.name));
        let refusal = self.tools.check_arguments(&call).await.err();
        self.bad_calls = if refusal.is_some() { self.bad_calls + 1 } else { 0 };
        Ok(BegunCall { number, call, at, refusal })
    }

    /// Makes these calls at the same time. Returns their answers, each with the time that it took in microseconds.
    async fn answers(
        &mut self,
        group: &[BegunCall],
        interrupted: Option<usize>,
        is_redacted: bool,
    ) -> Result<Vec<(Answer, u64)>, RunError> {
        for BegunCall { number, call, refusal, .. } in group {
            let is_unknown = interrupted == Some(*number);
            let is_made = refusal.is_none() && !is_unknown && !is_redacted;
            if is_made && self.tools.must_not_repeat(&call.name) {
                self.journal.record_intent(*number).await?;
            }
        }
        let answers =
            group.iter().map(|begun| self.answer(begun, interrupted, is_redacted).boxed());
        let answers: Vec<BoxFuture<'_, _>> = answers.collect();
        Ok(stream::iter(answers).buffered(CALLS_AT_ONCE_MAX).collect().await)
    }

    async fn answer(
        &self,
        begun: &BegunCall,
        interrupted: Option<usize>,
        is_redacted: bool,
    ) -> (Answer, u64) {
        let BegunCall { number, call, refusal, .. } = begun;
        let begun = Instant::now();
        let answer = match refusal {
            // Whatever is known of the tool today: its intent was recorded because it may change something.
            _ if interrupted == Some(*number) => {
                self.tools.refuse(call, format!("{}: {UNKNOWN}", call.name))
            }
            _ if is_redacted => self.tools.refuse(call, format!("{}: {NOT_STORED}", call.name)),
            Some(why) => self.tools.refuse(call, why.clone()),
            None if self.gives_answer(call) => self.accept_answer(call).await,
            None => {
                let key = idempotency_key(self.task, self.turns, *number, call);
                self.tools.call(self.task, &self.context, call, key).await
            }
        };
        (answer, u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The result of a call of the tool that takes the answer.
    async fn accept_answer(&self, call: &ToolCall) -> Answer {
        let problem = match &self.form {
            Some(form) => form.answer_in(&call.arguments).await.err(),
            None => None,
        };
        match problem {
            Some(problem) => self.tools.refuse(call, format!("{REFUSED} ({problem})")),
            None => Answer { is_error: false, ..self.tools.refuse(call, ACCEPTED.to_owned()) },
        }
    }

    /// Records the end of a call. What went wrong is told to the model, and the run goes on, unless the model's calls
    /// are malformed again and again.
    async fn end_call(
        &mut self,
        BegunCall { number, call, at, .. }: BegunCall,
        answer: Answer,
        micros: u64,
        interrupted: Option<usize>,
    ) -> Result<ToolResult, RunError> {
        let answer = match self.gives_answer(&call) {
            true => answer,
            false => answer.within(&mut self.bytes_left),
        };
        let event = Event::Tool {
            call: call.clone(),
            plugin: answer.plugin,
            result: answer.result.clone(),
            is_error: answer.is_error,
            logs: answer.logs,
            ran: answer.ran,
        };
        let step = self.trace.redactor.step(Step { at, micros, event });
        // As it is recorded, so that the next attempt has the same conversation, and no part of it holds a secret.
        let result = match &step.event {
            Event::Tool { result, .. } => result.clone(),
            _ => String::new(),
        };
        let is_unknown = interrupted == Some(number);
        let fails = is_unknown && self.agent.definition.on_unknown == OnUnknown::Fail;
        // Not recorded, so that every further attempt fails too.
        if !fails {
            self.journal.record_result(&step).await?;
        }
        self.trace.log.push(RunEvent::StepCompleted(step));
        self.take_answer(&call, &answer.result, answer.is_error).await?;
        if self.bad_calls >= BAD_CALLS_MAX {
            return Err(RunError::failed(format!(
                "the model called tools with malformed arguments {BAD_CALLS_MAX} times in a row"
            )));
        }
        if fails {
            return Err(RunError::failed(format!("{}: {UNKNOWN} (on_unknown)", call.name)));
        }
        Ok(self.context.result(call, result, answer.is_error))
    }
}

/// The key of a call: the same in every attempt, and another one for every other call.
fn idempotency_key(task: &Task, turn: u32, number: usize, call: &ToolCall) -> String {
    let ToolCall { name, arguments, .. } = call;
    let digest = blake3::hash(format!("{}/{turn}/{number}/{name}/{arguments}", task.id).as_bytes());
    digest.to_hex().chars().take(32).collect()
}
