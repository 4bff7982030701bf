//! `wardgate plugin install`. The command fetches components from a registry itself. The gateway never does: it would
//! otherwise send requests on behalf of every caller that may install plugins.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;

use super::super::api::{Body, ForTenant, Target, text};
use super::super::print;
use super::super::progress::with_progress;
use super::describe::{notes, roles, signer};
use super::file::{read_file, signature, signature_beside};
use super::registry::{Access, Registry};
use crate::ids::PluginName;
use crate::oci_reference::OciReference;
use crate::plugins::COMPONENT_BYTES_MAX;
use crate::settings::Settings;

/// Largest grants file, in bytes.
const GRANTS_BYTES_MAX: u64 = 256 << 10;

/// `wardgate plugin install …`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Install {
    /// Component: a file, or oci://registry/repository[:tag][@sha256:digest].
    ///
    /// A reference without a digest is resolved once, and the digest is stored with the version.
    #[arg(value_name = "FILE|oci://REFERENCE")]
    component: Source,
    /// Name of the plugin.
    ///
    /// If omitted: the file's name without its extension, or the last part of the reference's repository, with `_`
    /// and `.` replaced by `-`.
    #[arg(long)]
    name: Option<PluginName>,
    /// Grants file (TOML) with `[[egress]]`, `[settings]` and `[limits]`.
    ///
    /// If omitted, the plugin's existing grants file remains. It is in force for the component that its lines
    /// `component` and `signer` name; without those lines, for what an operator installs. Without a grants file, the
    /// plugin can compute and nothing else.
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
    /// File with a minisign signature of the component.
    ///
    /// If omitted: the file's name with `.minisig` appended, if that exists; for a reference, the signature that was
    /// pushed with it.
    #[arg(long, value_name = "FILE", conflicts_with = "unsigned")]
    signature: Option<PathBuf>,
    /// Install the component as unsigned, even if there is a signature.
    #[arg(long)]
    unsigned: bool,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

/// Where a component comes from.
#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Registry(OciReference),
}

impl FromStr for Source {
    type Err = crate::oci_reference::ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("oci://") {
            Some(reference) => reference.parse().map(Self::Registry),
            None => Ok(Self::File(text.into())),
        }
    }
}

/// A component to install, with its metadata.
struct ComponentPackage {
    component: Bytes,
    provenance: String,
    signature: Option<String>,
    version: Option<String>,
}

impl Install {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let name = self.name.clone().map_or_else(|| self.component.name(), Ok)?;
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let package = self.fetch().await?;
        let mut form = Form::new();
        form.part("component", &package.component);
        form.part("provenance", package.provenance.as_bytes());
        for (part, text) in [("signature", &package.signature), ("version", &package.version)] {
            if let Some(text) = text {
                form.part(part, text.as_bytes());
            }
        }
        if let Some(grants) = &self.grants {
            form.part("grants", &read_file(grants, GRANTS_BYTES_MAX)?);
        }
        let path = format!("/admin/tenants/{tenant}/plugins/{name}");
        let installing = api.call(Method::PUT, &path, Some(form.finish()));
        let what = format!("installing {name}: the gateway compiles it");
        let installed = with_progress(&what, installing).await?;
        let mut message = format!(
            "installed {name} ({}) with the roles {}",
            text(&installed, "digest"),
            roles(&installed)
        );
        if matches!(self.component, Source::Registry(_)) {
            message.push_str(&format!("\nfrom {}", package.provenance));
        }
        if let Some(signer) = signer(&installed) {
            message.push_str(&format!("\nsigned by {signer}"));
        }
        if let Some(folder) = api.folder() {
            let path = folder.grants_path(tenant, &name);
            message.push_str(&format!("\nwhat it may do is in {}", path.display()));
        }
        message.push_str(&notes(&installed));
        print(&message)
    }

    /// Reads or pulls the component and its signature.
    async fn fetch(&self) -> anyhow::Result<ComponentPackage> {
        let mut package = match &self.component {
            Source::File(path) => ComponentPackage {
                component: read_file(path, COMPONENT_BYTES_MAX)?.into(),
                provenance: "file".to_owned(),
                signature: signature_beside(path)
                    .filter(|_| self.signature.is_none())
                    .map_or(Ok(None), |path| signature(&path).map(Some))?,
                version: None,
            },
            Source::Registry(reference) => {
                let registry = Registry::open(reference, &self.access)?;
                let pulled = registry.pull(reference).await.with_context(|| {
                    format!("cannot fetch {reference} from {}", reference.host())
                })?;
                ComponentPackage {
                    component: pulled.component,
                    provenance: reference.pinned(pulled.digest).to_string(),
                    signature: pulled.signature,
                    version: pulled.version,
                }
            }
        };
        if let Some(path) = &self.signature {
            package.signature = Some(signature(path)?);
        }
        if self.unsigned {
            package.signature = None;
        }
        Ok(package)
    }
}

impl Source {
    fn name(&self) -> anyhow::Result<PluginName> {
        let stem = match self {
            Self::File(path) => path.file_stem().and_then(|stem| stem.to_str()),
            Self::Registry(reference) => reference.repository().rsplit('/').next(),
        };
        let stem = stem.unwrap_or_default();
        let name = stem.replace(['_', '.'], "-").to_ascii_lowercase();
        name.parse()
            .with_context(|| format!("{stem:?} does not make a plugin name; give one with --name"))
    }
}

/// The request body of an installation, as multipart/form-data (RFC 7578).
struct Form(Vec<u8>);

impl Form {
    const TYPE: &str = "multipart/form-data; boundary=wardgate-plugin-0b7d2f6c1e94485aa3d1";
    const BOUNDARY: &str = "wardgate-plugin-0b7d2f6c1e94485aa3d1";

    fn new() -> Self {
        Self(Vec::new())
    }

    fn part(&mut self, name: &str, bytes: &[u8]) {
        let head = format!(
            "--{}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n",
            Self::BOUNDARY
        );
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
    }

    fn finish(mut self) -> Body {
        self.0.extend_from_slice(format!("--{}--\r\n", Self::BOUNDARY).as_bytes());
        (Self::TYPE, self.0.into())
    }
}
