//! `wardgate compile-component`: the child process in which the gateway compiles a component.

use std::num::ParseIntError;
use std::process::ExitCode;

use crate::sandbox::CompileLimits;
use crate::sandbox::compiler::child;

/// Compiles a component from stdin to stdout.
#[derive(Debug, clap::Args)]
pub(super) struct Compile {
    /// Memory limit, in bytes.
    #[arg(long)]
    memory_bytes_max: u64,
    /// CPU time limit of all threads together, in seconds.
    #[arg(long)]
    cpu_seconds_max: u64,
    /// Maximum size of the compiled code, in bytes.
    #[arg(long)]
    code_bytes_max: u64,
    /// Compatibility hash of the engine that will run the code, in hexadecimal.
    #[arg(long, value_parser = hexadecimal)]
    compatibility: u64,
}

impl Compile {
    pub(super) fn execute(&self) -> ExitCode {
        let Self { memory_bytes_max, cpu_seconds_max, code_bytes_max, compatibility } = *self;
        child::compile_in_child(
            &CompileLimits { memory_bytes_max, cpu_seconds_max, code_bytes_max },
            compatibility,
        )
    }
}

fn hexadecimal(text: &str) -> Result<u64, ParseIntError> {
    u64::from_str_radix(text, 16)
}
