//! Calls of tools: those that only read at the same time, all others one after the other.

use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};

use super::super::RunError;
use super::super::arguments::REFUSED;
use super::super::model::ToolResult;
use super::super::tool_answer::Answer;
use super::approvals::Verdict;
use super::{Conversation, OpenTurn};
use crate::clock::Timestamp;
use crate::tasks::Task;
use crate::tenants::OnUnknown;
use crate::trace::log::RunEvent;
use crate::trace::{Event, Step, ToolCall};

/// How many malformed calls in a row end a run.
const BAD_CALLS_MAX: u32 = 3;

/// The most calls of a run at a time.
const CALLS_AT_ONCE_MAX: usize = 8;

/// What the model is told of an answer that it gave by a tool.
const ACCEPTED: &str = "the answer is accepted";

/// What the model is told of a call whose outcome nobody knows.
pub(super) const UNKNOWN: &str = "its outcome is unknown: the gateway stopped while the tool ran. What it does may have been done. \
    Check before you call it again";

/// What the model is told of a call that contains a secret, after a restart.
const NOT_STORED: &str =
    "it was not made: the gateway restarted, and the call contains a secret, which is not stored";

/// A call that has begun.
struct BegunCall {
    /// Its number in the turn.
    number: usize,
    call: ToolCall,
    at: Timestamp,
    /// What is said in place of a result, if it is not made.
    refusal: Option<String>,
    /// Whether an earlier attempt was about to make it, so that nobody knows what it has done.
    is_unknown: bool,
}

impl Conversation<'_> {
    /// Makes the calls of a turn that have not ended, and returns the results of all. Calls that only read are made at
    /// the same time if they follow each other, all others one after the other.
    pub(super) async fn call_tools(
        &mut self,
        mut turn: OpenTurn,
    ) -> Result<Vec<ToolResult>, RunError> {
        self.get_verdicts(&mut turn).await?;
        let mut results = std::mem::take(&mut turn.results);
        let calls = std::mem::take(&mut turn.calls);
        let mut waiting = calls.into_iter().enumerate().skip(results.len()).peekable();
        while let Some((number, call)) = waiting.next() {
            let only_reads = self.tools.only_reads(&call.name);
            let mut group = vec![self.begin_call(&turn, number, call).await?];
            while only_reads
                && let Some((number, call)) =
                    waiting.next_if(|(_, call)| self.tools.only_reads(&call.name))
            {
                group.push(self.begin_call(&turn, number, call).await?);
            }
            let answers = self.answers(&group).await?;
            for (begun, (answer, micros)) in group.into_iter().zip(answers) {
                results.push(self.end_call(begun, answer, micros).await?);
            }
        }
        Ok(results)
    }

    async fn begin_call(
        &mut self,
        turn: &OpenTurn,
        number: usize,
        call: ToolCall,
    ) -> Result<BegunCall, RunError> {
        let cost = u32::from(!self.gives_answer(&call));
        self.calls_left = self.calls_left.checked_sub(cost).ok_or_else(|| {
            let max = self.limits.tool_calls_max;
            let max = self.agent.definition.budget.tool_calls_max.unwrap_or(max).min(max);
            RunError::failed(format!("the run wanted more than {max} tool calls"))
        })?;
        let (at, _) = self.trace.begin();
        self.trace.called(at, &call, self.tools.plugin_of(&call.name));
        let malformed = self.tools.check_arguments(&call, self.trace.redactor).await.err();
        self.bad_calls = if malformed.is_some() { self.bad_calls + 1 } else { 0 };
        let verdict = turn.verdicts.get(&self.position(turn, number));
        let was_interrupted = turn.interrupted == Some(number);
        let is_unknown = was_interrupted && verdict != Some(&Verdict::Approved);
        let refusal = match verdict {
            Some(Verdict::Denied(why)) => Some(why.clone()),
            // Whatever is known of the tool today: its intent was recorded because it may change something.
            _ if is_unknown => Some(format!("{}: {UNKNOWN}", call.name)),
            _ if turn.is_redacted => Some(format!("{}: {NOT_STORED}", call.name)),
            Some(Verdict::Approved) | None => malformed,
        };
        Ok(BegunCall { number, call, at, refusal, is_unknown })
    }

    /// Makes these calls at the same time. Returns their answers, each with the time that it took in microseconds.
    async fn answers(&mut self, group: &[BegunCall]) -> Result<Vec<(Answer, u64)>, RunError> {
        for BegunCall { number, call, refusal, .. } in group {
            if refusal.is_none() && self.tools.must_not_repeat(&call.name) {
                self.journal.record_intent(*number).await?;
            }
        }
        let answers = group.iter().map(|begun| self.answer(begun).boxed());
        let answers: Vec<BoxFuture<'_, _>> = answers.collect();
        Ok(stream::iter(answers).buffered(CALLS_AT_ONCE_MAX).collect().await)
    }

    async fn answer(&self, BegunCall { number, call, refusal, .. }: &BegunCall) -> (Answer, u64) {
        let begun = Instant::now();
        let answer = match refusal {
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
        BegunCall { call, at, is_unknown, .. }: BegunCall,
        answer: Answer,
        micros: u64,
    ) -> Result<ToolResult, RunError> {
        let answer = match self.gives_answer(&call) {
            true => answer,
            false => answer.within(&mut self.bytes_left),
        };
        let event = Event::Tool {
            call: call.clone(),
            plugin: answer.plugin,
            mcp_server: answer.mcp_server,
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
