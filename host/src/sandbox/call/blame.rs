//! Decides whose fault a call without a value is: the plugin's, or that of the request. Repeated faults quarantine
//! a plugin, so no sender may cause them with a request.

use super::perform::ExportCall;
use crate::fault::Fault;
use crate::sandbox::call::state::CallState;
use crate::sandbox::refusal::{PluginError, Refusal};
use crate::sandbox::subject::Subject;

/// The largest document that a call may look into or be passed on the caller's thread, in bytes. Limits exceeded
/// over a larger one are the document's fault.
const SHORT_DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// What a verifier may pass to the host besides the request's body, in bytes: the headers signed with it.
const BESIDE_THE_BODY_BYTES: usize = 64 << 10;

/// What is known of a call before it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// The size of the documents that the call may look into, and of what it is passed.
    document_bytes: usize,
    is_verification: bool,
    /// Whether the call is about a request that nothing has authenticated yet.
    is_of_a_stranger: bool,
    /// Whether the call comes before or after a run, and so handles what a caller sent or asked for.
    is_around_a_run: bool,
    /// Whether the call is a test of the plugin, whose author wants to see what the plugin did.
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

    /// Whether the call may look into more than the caller's thread should process.
    pub(super) fn is_about_much(self) -> bool {
        self.document_bytes > SHORT_DOCUMENT_BYTES_MAX
    }

    /// The size limit of the result, and of each host call's arguments, in bytes. A verifier may pass the body back
    /// to the host for verification, and the plugin is not to blame for the body's length.
    pub(super) fn handover_bytes(self, output_bytes: usize) -> usize {
        if self.is_verification {
            output_bytes.saturating_add(self.document_bytes).saturating_add(BESIDE_THE_BODY_BYTES)
        } else {
            output_bytes
        }
    }

    /// The error as it is reported and counted.
    pub(super) fn blame(self, error: PluginError, state: &mut CallState) -> PluginError {
        let is_around = self.is_verification || self.is_around_a_run;
        match error {
            error if self.is_rehearsed => error,
            // The failure's message is of no use to the caller: without the secret the plugin could not do its
            // work.
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
