//! Turns of the model: requested, recorded, and judged.

use std::time::Instant;

use super::super::arguments::REFUSED;
use super::super::budget::TurnAccount;
use super::super::model::{AssistantMessage, StopReason, Turn, TurnRequest};
use super::super::output::OutputForm;
use super::super::turn_text::TurnText;
use super::super::{RunError, model_event};
use super::{Conversation, OpenTurn};
use crate::clock::Timestamp;
use crate::tool::FINAL_ANSWER;
use crate::trace::log::RunEvent;
use crate::trace::{Event, ToolCall};

/// How often a model may give another answer in place of one that does not have the required form.
const CORRECTIONS_MAX: u32 = 1;

/// The most bytes that the model writes in the turns of one run that call tools: texts, calls and reasoning.
pub(super) const MODEL_BYTES_MAX: usize = 8 << 20;

/// A turn that was taken: when it began, the turn, how often its text began anew, and its account.
type TakenTurn<'m> = ((Timestamp, Instant), Turn, u32, Option<TurnAccount<'m>>);

/// How a turn ended.
pub(super) enum TurnEnd {
    Answered(String),
    /// The answer does not have the required form, and the model was asked for another one.
    Corrected,
    ToolsCalled(OpenTurn),
}

impl<'a> Conversation<'a> {
    /// Leaves out what no longer fits, before a turn.
    pub(super) fn fit_context(&mut self) {
        if let Some(text) = self.context.fit() {
            self.trace.push(self.trace.begin(), Event::Note { text });
        }
    }

    pub(super) async fn take_turn(&mut self) -> Result<TurnEnd, RunError> {
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
        let mut recording = None;
        if let Some(account) = account {
            let (spending, spending_recorded) = account.close(&turn);
            self.budget.count(spending);
            turn.spending = Some(spending);
            recording = Some(spending_recorded);
        }
        let recording = async {
            match recording {
                // A task that did not end, ends with the process.
                Some(recording) => Ok::<_, RunError>(recording.await.unwrap_or(Ok(()))?),
                None => Ok(()),
            }
        };
        let step = self.trace.step(begun, model_event(&definition.model, &turn, restarts));
        let checked = match &self.form {
            Some(form) if turn.stop == StopReason::Answered => Some(form.parse(&turn.text).await),
            _ => None,
        };
        let goes_on = turn.stop == StopReason::ToolCalls || matches!(checked, Some(Err(_)));
        let has_room = if goes_on { self.take_room(&turn) } else { Ok(()) };
        if goes_on && has_room.is_ok() {
            // In one commit, as a rule.
            let problem = checked.as_ref().and_then(|checked| checked.as_ref().err());
            let redactor = self.trace.redactor;
            let journaling = self.journal.record_turn(&step, &turn, problem, redactor);
            tokio::try_join!(recording, journaling)?;
        }
        // A turn for which there is no room is shown all the same.
        self.trace.log.push(RunEvent::StepCompleted(step));
        has_room?;
        self.go_on_behind(turn, checked)
    }

    /// What comes after a turn. `checked` is its answer, or what is wrong with it, if a form is required of it.
    fn go_on_behind(
        &mut self,
        turn: Turn,
        checked: Option<Result<String, String>>,
    ) -> Result<TurnEnd, RunError> {
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
                return Ok(TurnEnd::ToolsCalled(OpenTurn::new(calls)));
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
        let text = TurnText::new(self.trace, begun.0);
        let request = TurnRequest {
            instructions: &self.agent.definition.instructions,
            messages: self.context.messages(),
            tools: self.tools.descriptions(),
            output_schema: self.form.as_ref().filter(|_| self.takes_schema).map(OutputForm::schema),
            text_sink: &text,
            received: &received,
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
    pub(super) fn correct(
        &mut self,
        message: AssistantMessage,
        problem: &str,
    ) -> Result<(), RunError> {
        let Some(form) = &self.form else { return Ok(()) };
        let correction = form.correction(problem, self.takes_schema);
        self.count_correction(problem)?;
        let text = format!(
            "the answer does not fit output_schema ({problem}); the model is asked for another one"
        );
        self.trace.push(self.trace.begin(), Event::Note { text });
        // As the next attempt reads it from the journal, where it is redacted. And providers refuse an empty message.
        let text = self.trace.redactor.text(message.text.clone());
        let message = match (text.trim().is_empty(), text == message.text) {
            (false, true) => message,
            (false, false) => AssistantMessage { text, ..AssistantMessage::default() },
            (true, _) => {
                AssistantMessage { text: "(no answer)".to_owned(), ..AssistantMessage::default() }
            }
        };
        self.context.push_turn(message);
        self.context.push_correction(correction);
        Ok(())
    }

    /// Whether this call gives the answer of the run.
    pub(super) fn gives_answer(&self, call: &ToolCall) -> bool {
        self.form.is_some() && !self.takes_schema && call.name == FINAL_ANSWER
    }

    /// Takes the answer from a call of the tool for it that has ended.
    pub(super) async fn take_answer(
        &mut self,
        call: &ToolCall,
        result: &str,
        is_error: bool,
    ) -> Result<(), RunError> {
        let Some(form) = self.form.as_ref().filter(|_| self.gives_answer(call)) else {
            return Ok(());
        };
        if !is_error {
            let answer = form.answer_in(&call.arguments).await;
            // It was accepted, though it may not fit as it is recorded: redacted.
            self.answer = Some(answer.unwrap_or_else(|_| call.arguments.clone()));
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
}
