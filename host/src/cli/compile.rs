//! `wardgate compile-component`: what the gateway starts to compile a component.

use std::num::ParseIntError;
use std::process::ExitCode;

use crate::sandbox::CompileLimits;
use crate::sandbox::compiler::child;

/// Compiles a component from stdin to stdout.
#[derive(Debug, clap::Args)]
pub(super) struct Compile {
    /// Memory that it may use, in bytes.
    #[arg(long)]
    memory_bytes_max: u64,
    /// Computing time of all its threads, in seconds.
    #[arg(long)]
    cpu_seconds_max: u64,
    /// Longest compiled code, in bytes.
    #[arg(long)]
    code_bytes_max: u64,
    /// The compatibility of the engine that will run the code, in hexadecimal.
    #[arg(long, value_parser = hexadecimal)]
    compatibility: u64,
}

impl Compile {
    pub(super) fn run(&self) -> ExitCode {
        let Self { memory_bytes_max, cpu_seconds_max, code_bytes_max, compatibility } = *self;
        child::run(
            &CompileLimits { memory_bytes_max, cpu_seconds_max, code_bytes_max },
            compatibility,
        )
    }
}

fn hexadecimal(text: &str) -> Result<u64, ParseIntError> {
    u64::from_str_radix(text, 16)
}
