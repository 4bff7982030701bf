//! The command line: parses arguments and runs commands.

mod agent;
mod api;
mod approval;
mod channel;
mod compile;
mod key;
mod logging;
mod mcp;
mod model;
mod plugin;
mod progress;
mod replay;
mod secret;
mod serve;
mod task;
mod tenant;
mod usage;
mod webhook;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::invisible::is_invisible;
use crate::settings::{DEFAULTS, Settings};

/// Exit code for an invalid command line or invalid settings (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Any HTTP caller triggers an AI agent; every integration is a sandboxed WebAssembly component.
#[derive(Debug, Parser)]
#[command(
    name = "wardgate",
    version,
    about,
    after_help = "\
First run: `wardgate serve --data ./data --demo` starts a gateway with a demo tenant and prints one line \
of JSON with its keys and URLs.

Commands manage a data folder on this machine (--data DIR), whether a gateway serves from it or not, or a \
gateway elsewhere (--url URL --key-file FILE). Both go through the same admin API."
)]
struct Arguments {
    /// Settings file; `wardgate settings` prints every setting with its default.
    #[arg(long, global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve HTTP from a data folder until SIGTERM or Ctrl-C.
    Serve(serve::Serve),
    /// Create and list tenants.
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Create, list and revoke API keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Apply agent files; list, show, disable and enable agents.
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Show, rotate and revoke the webhook URLs of agents.
    #[command(subcommand)]
    Webhook(webhook::Webhook),
    /// Apply channel files; list, show and remove channels.
    ///
    /// A channel is a URL to which a provider sends its webhooks.
    #[command(subcommand)]
    Channel(channel::Channel),
    /// Store, list and remove secrets for plugins and channels.
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Set, list and remove models that a tenant brings along.
    #[command(subcommand)]
    Model(model::Model),
    /// Set, list and remove MCP servers whose tools a tenant's agents may call.
    #[command(subcommand)]
    Mcp(mcp::Mcp),
    /// Write, test, install and manage plugins.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// List, show, stop and delete tasks; redeliver their answers.
    #[command(subcommand)]
    Task(task::Task),
    /// List tool calls that a person decides about; approve or deny them.
    #[command(subcommand)]
    Approval(approval::Approval),
    /// List what a tenant's agents have used of their models: day, agent, turns, tokens, cost.
    ///
    /// Tokens are what budgets count: input that no cache of the provider held, and output. The cost is in the currency
    /// of the prices in the settings.
    Usage(usage::Usage),
    /// Replay a task's plugin calls offline and show what differs.
    ///
    /// Replays the mapping, each tool call and the getter, with the host's recorded answers. Exits with 1 if a
    /// call differs or cannot be replayed.
    #[command(after_help = "\
Nothing is sent, nothing of the task changes, and secrets are not needed: what was found out with them \
then is kept. Without --plugin the versions that are installed now are played, with the settings of now; \
with it, a component that you are writing, on what really happened:
  wardgate replay 01a20ad1-2d82-7d96-8c49-130babbf7e73 --plugin target/wasm32-wasip2/release/slack.wasm --data ./data")]
    Replay(replay::Replay),
    /// Compile a component from stdin to stdout, within limits (started by the gateway).
    #[command(hide = true, name = crate::sandbox::compiler::child::COMMAND)]
    Compile(compile::Compile),
    /// Print the OpenAPI document of every route.
    Openapi,
    /// Print every setting with its default, unit and reason.
    Settings,
}

/// Parses the command line and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    // Before the process has a second thread.
    crate::memory::release_freed();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            // `--help` and `--version` arrive here as well.
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Command::Compile(compile) = &arguments.command {
        return compile.execute();
    }
    crate::sandbox::compiler::use_current_exe();
    // For TLS clients that libraries create on their own.
    let _ = crate::tls::provider();
    let settings = match Settings::from_file(arguments.settings.as_deref()) {
        Ok(settings) => settings,
        Err(error) => return report_error(&anyhow::Error::from(error), EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report_error(&anyhow::Error::from(error), 1),
    };
    match runtime.block_on(execute(arguments.command, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report_error(&error, 1),
    }
}

async fn execute(command: Command, settings: Settings) -> anyhow::Result<()> {
    match command {
        Command::Serve(serve) => serve.execute(settings).await,
        Command::Tenant(tenant) => tenant.execute(&settings).await,
        Command::Key(key) => key.execute(&settings).await,
        Command::Agent(agent) => agent.execute(&settings).await,
        Command::Webhook(webhook) => webhook.execute(&settings).await,
        Command::Channel(channel) => channel.execute(&settings).await,
        Command::Secret(secret) => secret.execute(&settings).await,
        Command::Plugin(plugin) => plugin.execute(&settings).await,
        Command::Task(task) => task.execute(&settings).await,
        Command::Model(model) => model.execute(&settings).await,
        Command::Mcp(mcp) => mcp.execute(&settings).await,
        Command::Approval(approval) => approval.execute(&settings).await,
        Command::Usage(usage) => usage.execute(&settings).await,
        Command::Replay(replay) => Box::pin(replay.execute(&settings)).await,
        Command::Compile(_) => anyhow::bail!("compiling needs no runtime"),
        Command::Openapi => print(&crate::http::openapi::text(&crate::http::document())),
        Command::Settings => print(DEFAULTS),
    }
}

fn report_error(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "wardgate: {}", printable(&format!("{error:#}")));
    ExitCode::from(code)
}

/// Replaces characters that control a terminal: names and responses may come from untrusted parties.
fn printable(text: &str) -> String {
    let steers = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || is_invisible(c);
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Maximum length of untrusted text within a line, in characters.
const LINE_CHARS_MAX: usize = 2_000;

/// Makes untrusted text safe to print within a line: it cannot imitate a line of the program's own, nor hide one by
/// its length.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(LINE_CHARS_MAX).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints a command's result to standard output. Logs go to standard error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let ended = if text.ends_with('\n') { "" } else { "\n" };
    let written = write!(out, "{}{ended}", printable(text)).and_then(|()| out.flush());
    match written {
        // The reader, such as `head`, has seen enough and closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Calls `visit` with every subcommand below this command.
    fn for_each_subcommand(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
        for below_it in command.get_subcommands() {
            visit(below_it);
            for_each_subcommand(below_it, visit);
        }
    }

    #[test]
    fn no_option_of_a_command_is_taken_for_one_of_all_commands() {
        let command = Arguments::command();
        command.clone().debug_assert();
        let of_all: Vec<_> = command.get_arguments().map(|argument| argument.get_id()).collect();
        assert!(!of_all.is_empty());
        for_each_subcommand(&command, &mut |command| {
            for argument in command.get_arguments() {
                let (name, id) = (command.get_name(), argument.get_id());
                assert!(!of_all.contains(&id), "{name}: {id}");
            }
        });
    }
}
