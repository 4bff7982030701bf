//! `wardgate key`.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::api::{ForTenant, Target, text};
use super::print;
use crate::settings::Settings;

/// `wardgate key …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Create a key and print it. It is shown this once; only its hash is stored.
    Create {
        /// What it is for.
        #[arg(long, default_value = "")]
        name: String,
        /// Let it also manage what the tenant owns.
        #[arg(long, conflicts_with = "operator")]
        admin: bool,
        /// Make an operator's key, of all tenants, instead of a tenant's.
        #[arg(long, conflicts_with = "tenant")]
        operator: bool,
        /// When it ends by itself: RFC 3339, such as 2027-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List keys: id, role, name, when it was made, when it ends. The keys themselves are nowhere.
    List {
        /// The operators' keys instead of a tenant's.
        #[arg(long, conflicts_with = "tenant")]
        operator: bool,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// End a key at once. (Where a gateway serves from a --data folder: within five seconds.)
    Revoke {
        /// Its id, as `wardgate key list` prints it.
        id: String,
        /// It is an operator's key.
        #[arg(long, conflicts_with = "tenant")]
        operator: bool,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Print the operator key that comes with a data folder.
    Folder {
        #[command(flatten)]
        target: Target,
    },
}

impl Key {
    pub(super) async fn run(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Create { name, admin, operator, expires, tenant, target } => {
                let api = target.open(settings).await?;
                let path = path(&api, operator, &tenant).await?;
                let mut asked = json!({"name": name, "expires_at": expires});
                if admin && let Some(fields) = asked.as_object_mut() {
                    fields.insert("role".to_owned(), "admin".into());
                }
                print(text(&api.post_json(&path, &asked).await?, "key"))
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
