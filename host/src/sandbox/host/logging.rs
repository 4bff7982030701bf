//! `wasi:logging`: the log lines of a call.

use crate::sandbox::bindings::v0_1::wasi::logging::logging;
use crate::sandbox::call::state::CallState;

impl logging::Host for CallState {
    fn log(
        &mut self,
        level: logging::Level,
        context: String,
        message: String,
    ) -> wasmtime::Result<()> {
        self.push_log_line(format!("{level:?} {context}: {message}"));
        Ok(())
    }
}
