//! The command line.

mod agent;
mod key;
mod plugin;
mod serve;
mod tenant;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::gateway::DataFolder;
use crate::ids::TenantId;
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
of JSON with its keys and URLs."
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
    /// Install plugins and list them.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Create tenants and list them.
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Create agents from files and list them.
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Create API keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Print every setting with its default, unit and reason.
    Settings,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
        Command::Plugin(plugin) => plugin.run(&settings).await,
        Command::Tenant(tenant) => tenant.run().await,
        Command::Agent(agent) => agent.run(&settings).await,
        Command::Key(key) => key.run().await,
        Command::Settings => print(DEFAULTS),
    }
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "wardgate: {error:#}");
    ExitCode::from(code)
}

/// Prints to standard output, where the answer of a command goes; logs go to standard error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush().context("standard output")
}

/// The folder that a command works on.
#[derive(Debug, clap::Args)]
struct Folder {
    /// The data folder.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

impl Folder {
    async fn open(&self) -> anyhow::Result<DataFolder> {
        DataFolder::open(&self.data, Clock::system()).await
    }
}

/// The tenant that a command works for.
#[derive(Debug, clap::Args)]
struct ForTenant {
    /// The tenant, by id or name. Can be left out where there is only one.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

impl ForTenant {
    async fn resolve(&self, folder: &DataFolder) -> anyhow::Result<TenantId> {
        let tenants = folder.store.tenants().await?;
        let Some(wanted) = &self.tenant else {
            return match tenants.as_slice() {
                [only] => Ok(only.id),
                [] => {
                    anyhow::bail!("there is no tenant yet; `wardgate tenant create NAME` makes one")
                }
                _ => anyhow::bail!("there are several tenants; say which with --tenant"),
            };
        };
        let found = tenants.iter().find(|t| t.name == *wanted || t.id.to_string() == *wanted);
        found.map(|tenant| tenant.id).with_context(|| format!("there is no tenant {wanted:?}"))
    }
}
