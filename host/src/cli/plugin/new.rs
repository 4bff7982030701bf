//! `wardgate plugin new`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::project::{Language, Project, Role};
use crate::cli::print;
use crate::ids::PluginName;

/// `wardgate plugin new …`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct New {
    /// Its name: lower-case letters, digits and hyphens.
    name: PluginName,
    /// What it is written in.
    #[arg(long, value_name = "LANGUAGE")]
    lang: Language,
    /// What it is for; several may be given.
    #[arg(long = "role", value_name = "ROLE", required = true, value_delimiter = ',')]
    roles: Vec<Role>,
    /// Where to make it: an empty folder, or one that is not there yet [default: NAME, in this one].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl New {
    /// Writes the project and says what to do with it.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let name = self.name.to_string();
        check_name(&name, self.lang)?;
        let folder = self.folder.unwrap_or_else(|| PathBuf::from(&name));
        let project =
            Project { name: &name, language: self.lang, roles: self.roles.into_iter().collect() };
        let files = project.files()?;
        claim(&folder)?;
        for (path, text) in &files {
            let path = folder.join(path);
            write_new(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let component = project.component();
        print(&format!(
            "made {} with the roles {}; its README.md says more\n\n  cd {}\n  {}\n  \
             wardgate plugin test {component} fixtures/",
            folder.display(),
            project.role_names(),
            folder.display(),
            project.build_command(),
        ))
    }
}

/// What is a name for a plugin need not be one for a package.
fn check_name(name: &str, language: Language) -> anyhow::Result<()> {
    if language == Language::Rust {
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            bail!("a Rust package's name cannot begin with a digit: {name}");
        }
        if name == "wardgate-sdk" {
            bail!("{name} is the name of the SDK, on which the plugin depends");
        }
    }
    Ok(())
}

/// Makes sure that there is an empty folder.
fn claim(folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot make {}", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    if fs::read_dir(folder).with_context(failed)?.next().is_some() {
        bail!("{} is not empty; nothing was written", folder.display());
    }
    Ok(())
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create_new(path)?.write_all(text.as_bytes())
}
