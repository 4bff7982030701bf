//! What tenants own, apart from tasks: keys, agents, webhooks, plugins.

use sqlx::sqlite::SqliteQueryResult;

use super::rows;
use super::writer::{Refusal, Session, Write, WriteAlone};
use super::{Store, StoreError};
use crate::ids::{AgentId, PluginName, TenantId};
use crate::secrets::SecretHash;
use crate::tenants::{Agent, AgentDefinition, InstalledPlugin, KeyHolder, Tenant};

impl Store {
    /// Stores a tenant. Nothing changes where one with this id is stored already.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another tenant has the name.
    pub async fn create_tenant(&self, tenant: &Tenant) -> Result<(), StoreError> {
        self.write(CreateTenant(tenant.clone())).await
    }

    /// All tenants, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let query = sqlx::query("SELECT id, name FROM tenants ORDER BY name");
        self.many("list the tenants", query, rows::tenant).await
    }

    /// Stores a key by its hash. Nothing changes where this holder has it already: a revoked key stays
    /// revoked.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where somebody else has the key, [`StoreError::Missing`] where the
    /// tenant does not exist.
    pub async fn put_key(
        &self,
        hash: SecretHash,
        holder: KeyHolder,
        name: &str,
    ) -> Result<(), StoreError> {
        self.write(PutKey { hash, holder, name: name.to_owned() }).await
    }

    /// Who has this key. None where nobody has, or where it is expired or revoked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn key_holder(&self, hash: SecretHash) -> Result<Option<KeyHolder>, StoreError> {
        let query = sqlx::query(
            "SELECT holder, tenant_id FROM keys WHERE hash = ? AND revoked_at IS NULL \
             AND (expires_at IS NULL OR expires_at > ?)",
        )
        .bind(hash.as_bytes().as_slice())
        .bind(self.now().micros());
        self.one("look up a key", query, rows::key_holder).await
    }

    /// Stores an agent, or describes it anew.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the id is an agent of another tenant; that one stays as it is.
    /// [`StoreError::Missing`] where the tenant does not exist.
    pub async fn put_agent(
        &self,
        tenant: TenantId,
        id: AgentId,
        definition: &AgentDefinition,
    ) -> Result<(), StoreError> {
        let definition = serde_json::to_string(definition)
            .map_err(|error| StoreError::unwritable(PutAgent::OPERATION, error))?;
        self.write(PutAgent { tenant, id, definition }).await
    }

    /// An agent of this tenant.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn agent(&self, tenant: TenantId, id: AgentId) -> Result<Option<Agent>, StoreError> {
        let query = sqlx::query(
            "SELECT id, tenant_id, definition, created_at FROM agents \
             WHERE tenant_id = ? AND id = ?",
        )
        .bind(tenant.as_bytes().as_slice())
        .bind(id.as_bytes().as_slice());
        self.one("read an agent", query, rows::agent).await
    }

    /// The tenant's agents, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn agents(&self, tenant: TenantId) -> Result<Vec<Agent>, StoreError> {
        let query = sqlx::query(
            "SELECT id, tenant_id, definition, created_at FROM agents \
             WHERE tenant_id = ? ORDER BY created_at, id",
        )
        .bind(tenant.as_bytes().as_slice());
        self.many("list the agents", query, rows::agent).await
    }

    /// Makes this the agent's webhook token; the one before, if any, is no longer found.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another agent has the token, [`StoreError::Missing`] where the
    /// tenant has no such agent.
    pub async fn put_webhook_token(
        &self,
        tenant: TenantId,
        agent: AgentId,
        token: SecretHash,
    ) -> Result<(), StoreError> {
        self.write(PutWebhookToken { tenant, agent, token }).await
    }

    /// The agent whose webhook has this token. The token is all that its caller knows, so this takes
    /// no tenant: it finds out whose agent it is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn agent_by_webhook_token(
        &self,
        token: SecretHash,
    ) -> Result<Option<Agent>, StoreError> {
        let query = sqlx::query(
            "SELECT a.id, a.tenant_id, a.definition, a.created_at \
             FROM webhooks w JOIN agents a ON a.tenant_id = w.tenant_id AND a.id = w.agent_id \
             WHERE w.token_hash = ?",
        )
        .bind(token.as_bytes().as_slice());
        self.one("look up a webhook", query, rows::agent).await
    }

    /// Stores a plugin of a tenant, in place of the one of that name.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where the tenant does not exist.
    pub async fn put_plugin(
        &self,
        tenant: TenantId,
        plugin: &InstalledPlugin,
    ) -> Result<(), StoreError> {
        self.write(PutPlugin { tenant, plugin: plugin.clone() }).await
    }

    /// A plugin of this tenant.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn plugin(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Option<InstalledPlugin>, StoreError> {
        let query = sqlx::query(
            "SELECT name, digest, installed_at FROM plugins WHERE tenant_id = ? AND name = ?",
        )
        .bind(tenant.as_bytes().as_slice())
        .bind(name.as_str());
        self.one("read a plugin", query, rows::plugin).await
    }

    /// The tenant's plugins, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn plugins(&self, tenant: TenantId) -> Result<Vec<InstalledPlugin>, StoreError> {
        let query = sqlx::query(
            "SELECT name, digest, installed_at FROM plugins WHERE tenant_id = ? ORDER BY name",
        )
        .bind(tenant.as_bytes().as_slice());
        self.many("list the plugins", query, rows::plugin).await
    }
}

struct CreateTenant(Tenant);

impl Write for CreateTenant {
    type Answer = ();
    const OPERATION: &'static str = "create a tenant";
}

impl WriteAlone for CreateTenant {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let stored = sqlx::query(
            "INSERT INTO tenants (id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(self.0.id.as_bytes().as_slice())
        .bind(&self.0.name)
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        if stored.rows_affected() == 1 {
            return Ok(());
        }
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM tenants WHERE id = ?")
            .bind(self.0.id.as_bytes().as_slice())
            .fetch_optional(&mut *session.db)
            .await?;
        match known {
            Some(_) => Ok(()),
            None => Err(refused::<Self>("another tenant has the name")),
        }
    }
}

struct PutKey {
    hash: SecretHash,
    holder: KeyHolder,
    name: String,
}

impl Write for PutKey {
    type Answer = ();
    const OPERATION: &'static str = "store a key";
}

impl WriteAlone for PutKey {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let (holder, tenant) = match &self.holder {
            KeyHolder::Tenant(tenant) => ("tenant", Some(tenant.as_bytes().as_slice())),
            KeyHolder::Operator => ("operator", None),
        };
        // The update changes nothing: it is there to count the key as found if it is this holder's.
        let stored = sqlx::query(
            "INSERT INTO keys (hash, holder, tenant_id, name, created_at) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (hash) DO UPDATE SET holder = holder \
             WHERE holder = excluded.holder AND tenant_id IS excluded.tenant_id",
        )
        .bind(self.hash.as_bytes().as_slice())
        .bind(holder)
        .bind(tenant)
        .bind(&self.name)
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        changed::<Self>(&stored, "somebody else has the key")
    }
}

struct PutAgent {
    tenant: TenantId,
    id: AgentId,
    definition: String,
}

impl Write for PutAgent {
    type Answer = ();
    const OPERATION: &'static str = "store an agent";
}

impl WriteAlone for PutAgent {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let stored = sqlx::query(
            "INSERT INTO agents (id, tenant_id, definition, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT (id) DO UPDATE \
             SET definition = excluded.definition, updated_at = excluded.updated_at \
             WHERE tenant_id = excluded.tenant_id",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.tenant.as_bytes().as_slice())
        .bind(&self.definition)
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        changed::<Self>(&stored, "the id is taken")
    }
}

struct PutWebhookToken {
    tenant: TenantId,
    agent: AgentId,
    token: SecretHash,
}

impl Write for PutWebhookToken {
    type Answer = ();
    const OPERATION: &'static str = "store a webhook token";
}

impl WriteAlone for PutWebhookToken {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        sqlx::query(
            "INSERT INTO webhooks (tenant_id, agent_id, token_hash, created_at) \
             VALUES (?, ?, ?, ?) ON CONFLICT (tenant_id, agent_id) DO UPDATE \
             SET token_hash = excluded.token_hash, created_at = excluded.created_at \
             WHERE token_hash <> excluded.token_hash",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.agent.as_bytes().as_slice())
        .bind(self.token.as_bytes().as_slice())
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        Ok(())
    }
}

struct PutPlugin {
    tenant: TenantId,
    plugin: InstalledPlugin,
}

impl Write for PutPlugin {
    type Answer = ();
    const OPERATION: &'static str = "store a plugin";
}

impl WriteAlone for PutPlugin {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        sqlx::query(
            "INSERT INTO plugins (tenant_id, name, digest, installed_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (tenant_id, name) DO UPDATE \
             SET digest = excluded.digest, installed_at = excluded.installed_at",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.plugin.name.as_str())
        .bind(self.plugin.digest.to_string())
        .bind(self.plugin.installed_at.micros())
        .execute(&mut *session.db)
        .await?;
        Ok(())
    }
}

/// A statement that changed no row has met what belongs to somebody else.
fn changed<W: Write>(stored: &SqliteQueryResult, otherwise: &'static str) -> Result<(), Refusal> {
    if stored.rows_affected() > 0 { Ok(()) } else { Err(refused::<W>(otherwise)) }
}

fn refused<W: Write>(why: &'static str) -> Refusal {
    Refusal::Rules(StoreError::Conflict { operation: W::OPERATION, why })
}
