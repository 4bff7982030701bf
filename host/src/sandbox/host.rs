//! What a plugin can ask the host during a call, with a file for each imported interface. These files adapt the
//! interface; policy is elsewhere (`outbound`, `secrets`, `values`, `folder`).

mod config;
mod context;
mod egress;
mod filesystem;
mod keyvalue;
mod logging;
mod request;
mod secrets;

use super::bindings::v0_1::wardgate::plugin::types::{self, Failure};
use super::call::state::CallState;

impl types::Host for CallState {}

/// A failure that the host returns to a guest.
pub(super) fn failure(code: &str, message: &str) -> Failure {
    Failure {
        code: code.to_owned(),
        message: message.to_owned(),
        retry_after_ms: None,
        extra: None,
    }
}
