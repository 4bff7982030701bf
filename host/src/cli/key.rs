//! `wardgate key`.

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::api::{ForTenant, Target, text};
use super::print;
use crate::settings::Settings;

/// `wardgate key …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Create a key and print it.
    ///
    /// The key is shown only this once; the gateway stores its hash. Its id, which `key revoke` takes, goes to stderr.
    Create {
        /// What the key is for.
        #[arg(long, default_value = "")]
        name: String,
        /// Let the key manage the tenant's resources, too.
        #[arg(long, conflicts_with = "operator")]
        admin: bool,
        /// Create an operator key, valid for all tenants, instead of a tenant's key.
        #[arg(long, conflicts_with = "tenant")]
        operator: bool,
        /// When the key expires: RFC 3339, such as 2027-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List keys: id, role, name, creation time, and expiry or revocation.
    ///
    /// The keys themselves are not stored.
    List {
        /// List the operator keys instead of a tenant's keys.
        #[arg(long, conflicts_with = "tenant")]
        operator: bool,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Revoke a key.
    ///
    /// The gateway rejects it at once. A gateway that serves from the --data folder sees the change within a second.
    Revoke {
        /// Id of the key, as `wardgate key list` prints it.
        id: String,
        /// Revoke an operator key instead of a tenant's key.
        #[arg(long, conflicts_with = "tenant")]
        operator: bool,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Print the operator key of a data folder.
    ///
    /// It is derived from the folder's own key, and needs --data.
    Folder {
        #[command(flatten)]
        target: Target,
    },
}

impl Key {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Create { name, admin, operator, expires, tenant, target } => {
                let api = target.open(settings).await?;
                let path = path(&api, operator, &tenant).await?;
                let mut body = json!({"name": name, "expires_at": expires});
                if admin && let Some(fields) = body.as_object_mut() {
                    fields.insert("role".to_owned(), "admin".into());
                }
                let key = api.post_json(&path, &body).await?;
                // On stderr, since scripts take stdout for the key, which must be printed even if stderr is closed.
                let _ = writeln!(io::stderr(), "created key {}", text(&key, "id"));
                print(text(&key, "key"))
            }
            Self::List { operator, tenant, target } => {
                let api = target.open(settings).await?;
                let keys = api.get(&path(&api, operator, &tenant).await?).await?;
                let lines = keys.as_array().into_iter().flatten().map(line);
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Revoke { id, operator, tenant, target } => {
                let api = target.open(settings).await?;
                let path = path(&api, operator, &tenant).await?;
                api.delete(&format!("{path}/{id}")).await?;
                print(&format!("revoked {id}"))
            }
            Self::Folder { target } => {
                let api = target.open(settings).await?;
                let folder = api.folder().context("this works with --data only")?;
                print(folder.operator_key().reveal())
            }
        }
    }
}

async fn path(api: &super::api::Api, operator: bool, tenant: &ForTenant) -> anyhow::Result<String> {
    if operator {
        return Ok("/admin/operator-keys".to_owned());
    }
    Ok(format!("/admin/tenants/{}/keys", tenant.resolve(api).await?))
}

fn line(key: &Value) -> String {
    let end = match (text(key, "revoked_at"), text(key, "expires_at")) {
        ("", "") => "does not end".to_owned(),
        ("", at) => format!("ends {at}"),
        (at, _) => format!("revoked {at}"),
    };
    let (id, role, name) = (text(key, "id"), text(key, "role"), text(key, "name"));
    format!("{id}\t{role}\t{name}\t{}\t{end}", text(key, "created_at"))
}
