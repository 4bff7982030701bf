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
    /// Name of the plugin: lower-case letters, digits and hyphens.
    name: PluginName,
    /// Language of the project.
    #[arg(long, value_name = "LANGUAGE")]
    lang: Language,
    /// Role of the plugin; can be repeated, or a list separated by commas.
    #[arg(long = "role", value_name = "ROLE", required = true, value_delimiter = ',')]
    roles: Vec<Role>,
    /// Folder to create the project in; must be empty or missing [default: ./NAME].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl New {
    /// Writes the project and prints how to build and test it.
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let name = self.name.to_string();
        check_name(&name, self.lang)?;
        let folder = self.folder.unwrap_or_else(|| PathBuf::from(&name));
        let project =
            Project { name: &name, language: self.lang, roles: self.roles.into_iter().collect() };
        let files = project.files()?;
        create_empty_dir(&folder)?;
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

/// Rejects plugin names that cannot be package names in the language.
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

/// Creates the folder if it is missing, and checks that it is empty.
fn create_empty_dir(folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot make {}", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    if fs::read_dir(folder).with_context(failed)?.next().is_some() {
        bail!("{} is not empty; nothing was written", folder.display());
    }
    Ok(())
}

/// Writes a new file; an existing one is an error.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create_new(path)?.write_all(text.as_bytes())
}
