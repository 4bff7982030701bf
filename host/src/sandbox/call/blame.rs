//! Whose fault it is that a call gave no value: the plugin's, or that of the request it is about. What a plugin
//! is held to account for ends in its being cut off, so nobody may bring that about by what he sends.

use super::perform::ExportCall;
use crate::fault::Fault;
use crate::sandbox::call::state::CallState;
use crate::sandbox::refusal::{PluginError, Refusal};
use crate::sandbox::subject::Subject;

/// The largest document that a call may look into or be handed on the caller's thread, in bytes. Limits that
/// are met over a larger one are the document's fault.
const SHORT_DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// What a verifier may hand to the host beside the request's body, in bytes: the headers that are signed with it.
const BESIDE_THE_BODY_BYTES: usize = 64 << 10;

/// What is known of a call before it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// The lengths of the documents that it may look into, and of what it is handed.
    document_bytes: usize,
    is_verification: bool,
    /// Whether it is about a request that nobody has vouched for.
    is_of_a_stranger: bool,
    /// Whether it comes before or after a run, and so deals with what a caller sent or asked for.
    is_around_a_run: bool,
    /// Whether it is a test of the plugin, whose author is to see what the plugin did.
    is_rehearsed: bool,
}

impl Circumstances {
    pub(super) fn of(ask: &ExportCall, subject: &Subject) -> Self {
        let is_verification = matches!(ask, ExportCall::Verify);
        let is_around_a_run = matches!(
            ask,
            ExportCall::Map { .. }
                | ExportCall::Get { .. }
                | ExportCall::Reply
                | ExportCall::Deliver
        );
        let unverified = subject.channel.is_some() && subject.principal.is_none();
        Self {
            document_bytes: subject.document_bytes().saturating_add(ask.bytes()),
            is_verification,
            is_of_a_stranger: is_verification || (unverified && is_around_a_run),
            is_around_a_run,
            is_rehearsed: subject.is_rehearsed(),
        }
    }

    /// Whether it may look into more than is to be done on the caller's thread.
    pub(super) fn is_about_much(self) -> bool {
        self.document_bytes > SHORT_DOCUMENT_BYTES_MAX
    }

    /// How much it may hand over with its value, or with the arguments of one host call. A verifier may hand
    /// the body to be verified back to the host: how long that is, is not its doing.
    pub(super) fn handover_bytes(self, output_bytes: usize) -> usize {
        if self.is_verification {
            output_bytes.saturating_add(self.document_bytes).saturating_add(BESIDE_THE_BODY_BYTES)
        } else {
            output_bytes
        }
    }

    /// The error as it is told and counted.
    pub(super) fn blame(self, error: PluginError, state: &mut CallState) -> PluginError {
        let is_around = self.is_verification || self.is_around_a_run;
        match error {
            error if self.is_rehearsed => error,
            // What it says is of no use to whoever called: it could not do its work.
            PluginError::Failure(failure) => match state.unusable_secret.take() {
                Some(why) if is_around => PluginError::Refusal(Refusal::NotSetUp(why)),
                _ => PluginError::Failure(failure),
            },
            PluginError::Refusal(refusal) => {
                let of_the_request = refusal.fault() == Fault::Guest
                    && (self.is_of_a_stranger
                        || (is_limit(&refusal) && self.is_around_a_run && self.is_about_much()));
                PluginError::Refusal(if of_the_request {
                    Refusal::RequestTooMuch(Box::new(refusal))
                } else {
                    refusal
                })
            }
        }
    }
}

/// Whether a call was stopped for what it used, and not for what it did.
fn is_limit(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::OutOfMemory { .. }
            | Refusal::OutOfCpuTime { .. }
            | Refusal::Deadline { .. }
            | Refusal::OutputTooLarge { .. }
            | Refusal::TooMany { .. }
    )
}
