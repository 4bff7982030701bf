//! `wardgate secret`.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;
use zeroize::Zeroizing;

use super::api::{ForTenant, Target, text};
use super::print;
use crate::ids::SecretName;
use crate::secrets::{SECRET_BYTES_MAX, SecretUses};
use crate::settings::Settings;

/// `wardgate secret …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Secret {
    /// Store a secret, or replace the value of the secret of that name.
    ///
    /// The value is read from standard input or from a file, and is never shown again. It is not an argument, since
    /// other users of the machine can see those in a list of processes. A trailing line break is removed. A gateway
    /// that serves from the --data folder sees the change within a second.
    #[command(after_help = "\
Example: openssl rand -hex 32 | wardgate secret set github-webhook --use verify --data ./data")]
    Set {
        /// Name of the secret, to which channels and grants files refer.
        name: SecretName,
        /// Keep accepting the current value, beside the new one, until the next change.
        #[arg(long)]
        rotate: bool,
        /// Allowed uses, separated by commas: verify, compare, sign, send.
        ///
        /// They hold for every channel and plugin that binds the secret. If omitted, an existing secret keeps its
        /// uses, and a new one allows everything except sign: a plugin that can sign with a provider's key can
        /// impersonate the provider. An admin of the tenant can narrow the uses that an operator has set, and not
        /// widen them.
        #[arg(long = "use", value_name = "USES")]
        uses: Option<SecretUses>,
        /// Read the value from this file instead of standard input.
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List a tenant's secrets: name, time of the last change and allowed uses.
    ///
    /// The values are never shown.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Remove a secret.
    ///
    /// Calls that need it fail from then on.
    Remove {
        /// Name of the secret.
        name: SecretName,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
}

impl Secret {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Set { name, rotate, uses, from_file, tenant, target } => {
                if from_file.is_none() && target.takes_standard_input() {
                    bail!("standard input holds the key already: name a file with --from-file");
                }
                let value = value(&name, from_file.as_deref())?;
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let body =
                    serde_json::json!({"value": value.as_str(), "rotate": rotate, "use": uses});
                let body = ("application/json", body.to_string().into());
                let path = format!("/admin/tenants/{tenant}/secrets/{name}");
                let stored = api.call(Method::PUT, &path, Some(body)).await?;
                let also = match stored.get("rotating").and_then(Value::as_bool) {
                    Some(true) => "; the value before is accepted until the next change",
                    _ => "",
                };
                print(&format!("keeps {name}{also}"))
            }
            Self::List { tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let secrets = api.get(&format!("/admin/tenants/{tenant}/secrets")).await?;
                let lines = secrets.as_array().into_iter().flatten().map(|secret| {
                    let rotating = secret.get("rotating").and_then(Value::as_bool) == Some(true);
                    let rotating = if rotating { "\trotating" } else { "" };
                    let uses = secret.get("use").and_then(Value::as_array).into_iter().flatten();
                    let uses = uses.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
                    let (name, at) = (text(secret, "name"), text(secret, "updated_at"));
                    format!("{name}\t{at}\t{uses}{rotating}")
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Remove { name, tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                api.delete(&format!("/admin/tenants/{tenant}/secrets/{name}")).await?;
                print(&format!("removed {name}"))
            }
        }
    }
}

/// Reads the value from the file, or else from standard input; a terminal shows a prompt and does not echo.
fn value(name: &SecretName, file: Option<&Path>) -> anyhow::Result<Zeroizing<String>> {
    let read = match file {
        Some(path) => {
            let failed = || format!("cannot read {}", path.display());
            let file = std::fs::File::open(path).with_context(failed)?;
            read_bounded(file).with_context(failed)?
        }
        None if std::io::stdin().is_terminal() => {
            let typed = rpassword::prompt_password(format!("value of {name}: "));
            Zeroizing::new(typed.context("the terminal")?.into_bytes())
        }
        None => read_bounded(std::io::stdin().lock()).context("standard input")?,
    };
    let value = read.strip_suffix(b"\n").unwrap_or(&read);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    if !(1..=SECRET_BYTES_MAX).contains(&value.len()) {
        bail!("a secret has 1 to {SECRET_BYTES_MAX} bytes");
    }
    let text = std::str::from_utf8(value).context("a secret is a text in UTF-8")?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Reads to the end, at most the longest secret, its line break and one byte more: that byte shows that the input is
/// too long.
fn read_bounded(reader: impl std::io::Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let bytes_max = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(3);
    let mut bytes = Zeroizing::new(Vec::new());
    reader.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}
