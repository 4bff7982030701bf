//! Decides whose fault a call without a value is: the plugin's, or that of the request. Repeated faults quarantine
//! a plugin, so no sender may cause them with a request.

use super::run_call::ExportCall;
use crate::fault::Fault;
use crate::sandbox::call::state::CallState;
use crate::sandbox::refusal::{PluginError, Refusal};
use crate::sandbox::subject::Subject;

/// The largest document that a call may look into or be passed on the caller's thread, in bytes. Limits exceeded
/// over a larger one are the document's fault.
const SHORT_DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// What a verifier may pass to the host besides the request's body, in bytes: the headers signed with it.
const SIGNED_HEADERS_BYTES: usize = 64 << 10;

/// What is known of a call before it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlameContext {
    /// The size of the documents that the call may look into, and of what it is passed.
    document_bytes: usize,
    is_verification: bool,
    /// Whether the call is about a request that nothing has authenticated yet.
    is_unauthenticated: bool,
    /// Whether the call comes before or after a run, and so handles what a caller sent or asked for.
    is_request_handling: bool,
    /// Whether the call is a test of the plugin, whose author wants to see what the plugin did.
    is_test: bool,
}

impl BlameContext {
    pub(super) fn new(call: &ExportCall, subject: &Subject) -> Self {
        let is_verification = matches!(call, ExportCall::Verify);
        let is_request_handling = matches!(
            call,
            ExportCall::Map { .. }
                | ExportCall::Get { .. }
                | ExportCall::Reply
                | ExportCall::Deliver
        );
        let unverified = subject.channel.is_some() && subject.principal.is_none();
        Self {
            document_bytes: subject.document_bytes().saturating_add(call.bytes()),
            is_verification,
            is_unauthenticated: is_verification || (unverified && is_request_handling),
            is_request_handling,
            is_test: subject.is_test(),
        }
    }

    /// Whether the call may look into more than the caller's thread should process.
    pub(super) fn is_large(self) -> bool {
        self.document_bytes > SHORT_DOCUMENT_BYTES_MAX
    }

    /// The size limit of the result, and of each host call's arguments, in bytes. A verifier may pass the body back
    /// to the host for verification, and the plugin is not to blame for the body's length.
    pub(super) fn transfer_bytes_max(self, output_bytes: usize) -> usize {
        if self.is_verification {
            output_bytes.saturating_add(self.document_bytes).saturating_add(SIGNED_HEADERS_BYTES)
        } else {
            output_bytes
        }
    }

    /// The error as it is reported and counted.
    pub(super) fn attribute(self, error: PluginError, state: &mut CallState) -> PluginError {
        let is_request_related = self.is_verification || self.is_request_handling;
        match error {
            error if self.is_test => error,
            // The failure's message is of no use to the caller: without the secret the plugin could not do its
            // work.
            PluginError::Failure(failure) => match state.unusable_secret.take() {
                Some(why) if is_request_related => PluginError::Refusal(Refusal::NotSetUp(why)),
                _ => PluginError::Failure(failure),
            },
            PluginError::Refusal(refusal) => {
                let is_request_fault = refusal.fault() == Fault::Guest
                    && (self.is_unauthenticated
                        || (is_limit(&refusal) && self.is_request_handling && self.is_large()));
                PluginError::Refusal(if is_request_fault {
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
