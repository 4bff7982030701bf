//! The command line.

mod agent;
mod api;
mod channel;
mod compile;
mod key;
mod plugin;
mod progress;
mod replay;
mod secret;
mod serve;
mod task;
mod tenant;
mod webhook;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::settings::{DEFAULTS, Settings};

/// Exit code for a command line or settings that are wrong (sysexits.h: EX_USAGE).
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
    /// A settings file; `wardgate settings` prints all settings with their defaults.
    #[arg(long, global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve HTTP from a data folder until SIGTERM or Ctrl-C.
    Serve(serve::Serve),
    /// Create tenants and list them.
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Create API keys, list and revoke them.
    #[command(subcommand)]
    Key(key::Key),
    /// Apply agents from files, list, show, disable and enable them.
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Show, rotate and revoke the URLs of agents' own webhooks.
    #[command(subcommand)]
    Webhook(webhook::Webhook),
    /// Apply channels from files: URLs that providers send their webhooks to.
    #[command(subcommand)]
    Channel(channel::Channel),
    /// Keep secrets for plugins and channels, list and remove them.
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Install plugins, list and remove them.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// List tasks, show, stop and delete them.
    #[command(subcommand)]
    Task(task::Task),
    /// Play again what plugins did for a task, offline, and show what differs: the mapping, each call of a
    /// tool, and the getter, told what the host answered them then. Exits with 1 where something differs.
    #[command(after_help = "\
Nothing is sent, nothing of the task changes, and secrets are not needed: what was found out with them \
then is kept. Without --plugin the versions that are installed now are played, with the settings of now; \
with it, a component that you are writing, on what really happened:
  wardgate replay 01a20ad1-2d82-7d96-8c49-130babbf7e73 --plugin target/wasm32-wasip2/release/slack.wasm --data ./data")]
    Replay(replay::Replay),
    /// Compile a component from stdin to stdout, within limits. The gateway starts it.
    #[command(hide = true, name = crate::sandbox::compiler::child::COMMAND)]
    Compile(compile::Compile),
    /// Print the OpenAPI document of every route.
    Openapi,
    /// Print every setting with its default, unit and reason.
    Settings,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    // Before there is a second thread.
    crate::memory::give_back_freed();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(said) => {
            let _ = said.print();
            // What `--help` and `--version` ask for comes this way, too.
            return if said.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Command::Compile(compile) = &arguments.command {
        return compile.run();
    }
    crate::sandbox::compiler::by_this_program();
    // Libraries may make clients by themselves.
    let _ = crate::tls::provider();
    let settings = match Settings::read(arguments.settings.as_deref()) {
        Ok(settings) => settings,
        Err(error) => return complain(&anyhow::Error::from(error), EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&anyhow::Error::from(error), 1),
    };
    match runtime.block_on(run(arguments.command, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

async fn run(command: Command, settings: Settings) -> anyhow::Result<()> {
    match command {
        Command::Serve(serve) => serve.run(settings).await,
        Command::Tenant(tenant) => tenant.run(&settings).await,
        Command::Key(key) => key.run(&settings).await,
        Command::Agent(agent) => agent.run(&settings).await,
        Command::Webhook(webhook) => webhook.run(&settings).await,
        Command::Channel(channel) => channel.run(&settings).await,
        Command::Secret(secret) => secret.run(&settings).await,
        Command::Plugin(plugin) => plugin.run(&settings).await,
        Command::Task(task) => task.run(&settings).await,
        Command::Replay(replay) => Box::pin(replay.run(&settings)).await,
        Command::Compile(_) => anyhow::bail!("compiling needs no runtime"),
        Command::Openapi => print(&crate::http::openapi::text(&crate::http::document())),
        Command::Settings => print(DEFAULTS),
    }
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "wardgate: {}", printable(&format!("{error:#}")));
    ExitCode::from(code)
}

/// A text in which nothing steers a terminal: names and answers may be somebody else's.
fn printable(text: &str) -> String {
    let steers = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Most characters of a text of somebody else's within a line.
const LINE_CHARS_MAX: usize = 2_000;

/// A text of somebody else's as a part of a line: it cannot look like another line of ours, nor hide one by its
/// length.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(LINE_CHARS_MAX).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints to standard output, where the answer of a command goes; logs go to standard error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let ended = if text.ends_with('\n') { "" } else { "\n" };
    let written = write!(out, "{}{ended}", printable(text)).and_then(|()| out.flush());
    match written {
        // Whoever read it, `head` for one, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Has each command looked at that lies below this one.
    fn below(command: &clap::Command, look: &mut impl FnMut(&clap::Command)) {
        for below_it in command.get_subcommands() {
            look(below_it);
            below(below_it, look);
        }
    }

    #[test]
    fn no_option_of_a_command_is_taken_for_one_of_all_commands() {
        let command = Arguments::command();
        command.clone().debug_assert();
        let of_all: Vec<_> = command.get_arguments().map(|argument| argument.get_id()).collect();
        assert!(!of_all.is_empty());
        below(&command, &mut |command| {
            for argument in command.get_arguments() {
                let (name, id) = (command.get_name(), argument.get_id());
                assert!(!of_all.contains(&id), "{name}: {id}");
            }
        });
    }
}
