//! Calls that a person decides about: before they are made, if the agent's policies say so, or after a restart, if
//! nobody knows what an interrupted call has done. The task is paused meanwhile.

use std::time::Duration;

use super::super::RunError;
use super::super::repeated_names::has_unique_names;
use super::{Conversation, OpenTurn};
use crate::approval::{Approval, ApprovalStatus, CallPosition, Decided, NewApproval};
use crate::ids::ApprovalId;
use crate::tenants::{OnTimeout, OnUnknown};
use crate::trace::log::RunEvent;
use crate::trace::{Event, Step, ToolCall};

/// The longest arguments that a person is asked about, in bytes. Nobody reads longer ones.
const ARGUMENTS_BYTES_MAX: usize = 16 << 10;

/// How many calls are asked about at once. Others of the same turn follow.
const ASKED_AT_ONCE_MAX: usize = 16;

/// What was decided about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::agent) enum Verdict {
    /// It is made.
    Approved,
    /// It is not made, and this is what the model is told.
    Denied(String),
}

/// A call that somebody has to decide about.
struct Ask {
    position: CallPosition,
    call: ToolCall,
}

impl Conversation<'_> {
    /// Gets a verdict about each call of a turn that needs one. If one is missing, the task is paused and the run
    /// ends here ([`RunError::Paused`]); another one goes on with the decision.
    pub(super) async fn get_verdicts(&mut self, turn: &mut OpenTurn) -> Result<(), RunError> {
        let mut asks = self.asks(turn).await;
        if asks.is_empty() && !turn.is_resumed {
            return Ok(());
        }
        let stored = self.journal.approvals().await?;
        // What was decided counts, whatever the policies are by now.
        for (number, call) in turn.calls.iter().enumerate().skip(turn.results.len()) {
            let position = self.position(turn, number);
            let is_known = asks.iter().any(|ask| ask.position == position)
                || turn.verdicts.contains_key(&position);
            if !is_known && stored.iter().any(|approval| approval.position == position) {
                asks.push(Ask { position, call: call.clone() });
            }
        }
        let (mut new, mut until) = (Vec::new(), None);
        let rules = self.agent.definition.approvals;
        let expires_at = self.trace.begin().0.plus(Duration::from_secs(rules.seconds_max.into()));
        for Ask { position, call } in asks {
            let known = stored.iter().find(|approval| approval.position == position);
            match known.map(|approval| (approval, &approval.decided)) {
                Some((approval, Some(decided))) => {
                    let verdict = self.verdict(approval, decided, &call)?;
                    self.take_verdict(turn, approval, decided, verdict, call).await?;
                }
                Some((approval, None)) => until = until.max(Some(approval.expires_at)),
                None if let Some(why) = self.why_unaskable(&call) => {
                    let why =
                        format!("{}: a person has to approve this call, and {why}", call.name);
                    turn.verdicts.insert(position, Verdict::Denied(why));
                }
                None if new.len() < ASKED_AT_ONCE_MAX => {
                    until = until.max(Some(expires_at));
                    new.push(NewApproval {
                        id: ApprovalId::random(),
                        position,
                        call_hash: self.call_hash(&call),
                        arguments: call.arguments,
                        tool: call.name,
                        expires_at,
                    });
                }
                None => {}
            }
        }
        match until {
            Some(until) => self.journal.pause(new, until).await,
            None => Ok(()),
        }
    }

    /// Why a person cannot be asked about a call, if so.
    fn why_unaskable(&self, call: &ToolCall) -> Option<String> {
        if self.trace.redactor.call(call.clone()) != *call {
            return Some(
                "it contains a secret, which is not stored while the task is paused".to_owned(),
            );
        }
        if !has_unique_names(&call.arguments) {
            return Some(
                "its arguments have a name twice, so that they could be read in two ways"
                    .to_owned(),
            );
        }
        (call.arguments.len() > ARGUMENTS_BYTES_MAX).then(|| {
            format!("its arguments are too long to be read: more than {ARGUMENTS_BYTES_MAX} bytes")
        })
    }

    /// The calls of a turn for which a verdict is missing.
    async fn asks(&self, turn: &OpenTurn) -> Vec<Ask> {
        let mut asks = Vec::new();
        // What is stored of a call with a secret in it is another call.
        if turn.is_redacted {
            return asks;
        }
        let calls = turn.calls.iter().enumerate().skip(turn.results.len());
        for (number, call) in calls {
            let position = self.position(turn, number);
            let is_asked = match turn.interrupted == Some(number) {
                true => self.agent.definition.on_unknown == OnUnknown::Pause,
                false => {
                    self.tools.asks(&call.name)
                        && self.tools.check_arguments(call, self.trace.redactor).await.is_ok()
                }
            };
            if is_asked && !turn.verdicts.contains_key(&position) {
                asks.push(Ask { position, call: call.clone() });
            }
        }
        asks
    }

    /// Where a decision about a call belongs now.
    pub(super) fn position(&self, turn: &OpenTurn, number: usize) -> CallPosition {
        let round = if turn.interrupted == Some(number) { turn.intents } else { 0 };
        let call = u32::try_from(number).unwrap_or(u32::MAX);
        CallPosition { turn: self.turns, call, round }
    }

    fn verdict(
        &self,
        approval: &Approval,
        decided: &Decided,
        call: &ToolCall,
    ) -> Result<Verdict, RunError> {
        let name = &call.name;
        // The journal holds the call that was asked about, but its tool may be another plugin's by now. If the tool is
        // missing, the call itself says so.
        if self.tools.has(name) && approval.call_hash != self.call_hash(call) {
            let why = format!("{name}: the call is not the one that a person was asked about");
            return Ok(Verdict::Denied(why));
        }
        let denied = |why: &str| match approval.position.round {
            0 => Verdict::Denied(format!("{name}: it was not called: {why}")),
            _ => Verdict::Denied(format!("{name}: {}. {why}", super::calls::UNKNOWN)),
        };
        Ok(match (decided.decision, &decided.comment) {
            (ApprovalStatus::Approved, _) => Verdict::Approved,
            (ApprovalStatus::Expired, _)
                if self.agent.definition.approvals.on_timeout == OnTimeout::Fail =>
            {
                return Err(RunError::failed(format!(
                    "the time to approve a call of {name} ended without a decision (approvals)"
                )));
            }
            (ApprovalStatus::Expired, _) => {
                denied("the time to approve it ended without a decision")
            }
            (_, None) => denied("a person denied it"),
            (_, Some(comment)) => denied(&format!("a person denied it: {comment}")),
        })
    }

    /// Records a verdict. Every further attempt reads it from the journal.
    async fn take_verdict(
        &mut self,
        turn: &mut OpenTurn,
        approval: &Approval,
        decided: &Decided,
        verdict: Verdict,
        call: ToolCall,
    ) -> Result<(), RunError> {
        let waited = decided.at.micros().saturating_sub(approval.created_at.micros());
        let event = Event::Approval {
            call,
            is_unknown: approval.position.round > 0,
            decision: decided.decision,
            by: decided.by,
            comment: decided.comment.clone(),
        };
        let micros = u64::try_from(waited).unwrap_or_default();
        let step = self.trace.redactor.step(Step { at: approval.created_at, micros, event });
        self.journal.record_verdict(&step, approval.position, &verdict).await?;
        self.trace.log.push(RunEvent::StepCompleted(step));
        turn.verdicts.insert(approval.position, verdict);
        Ok(())
    }

    /// The hash of a call as the model made it, and of who carries it out.
    fn call_hash(&self, call: &ToolCall) -> [u8; 32] {
        let (plugin, server) = self.tools.provider_of(&call.name);
        let mut hasher = blake3::Hasher::new();
        for text in
            [&call.name, &plugin.unwrap_or_default(), &server.unwrap_or_default(), &call.arguments]
        {
            // The length keeps the texts apart.
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}
