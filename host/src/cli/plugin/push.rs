//! `wardgate plugin push`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};

use super::super::print;
use super::file::{read_file, signature, signature_beside};
use super::registry::{Access, Registry};
use crate::oci_reference::OciReference;
use crate::plugins::COMPONENT_BYTES_MAX;

/// `wardgate plugin push …`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Push {
    /// Component file.
    file: PathBuf,
    /// Destination: oci://registry/repository[:tag].
    #[arg(value_name = "oci://REFERENCE")]
    to: PushTarget,
    /// File with a minisign signature of the component, pushed with it.
    ///
    /// If omitted: the file's name with `.minisig` appended, if that exists.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

/// A reference without a digest, to which a component is pushed.
#[derive(Debug, Clone)]
struct PushTarget(OciReference);

impl FromStr for PushTarget {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(reference) = text.strip_prefix("oci://") else {
            bail!("a place in a registry begins with oci://");
        };
        let reference: OciReference = reference.parse()?;
        if reference.digest().is_some() {
            bail!("the digest is what pushing gives");
        }
        Ok(Self(reference))
    }
}

impl Push {
    pub(super) async fn execute(self) -> anyhow::Result<()> {
        let PushTarget(to) = &self.to;
        let component = read_file(&self.file, COMPONENT_BYTES_MAX)?;
        let signed = self.signature.clone().or_else(|| signature_beside(&self.file));
        let signed = signed.map(|path| signature(&path)).transpose()?;
        let registry = Registry::open(to, &self.access)?;
        let pushed = registry.push(to, component.into(), signed).await;
        let digest = pushed.with_context(|| format!("cannot push to {}", to.host()))?;
        print(&to.pinned(digest).to_string())
    }
}
