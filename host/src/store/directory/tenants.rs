//! Tenants and their agents.

use sqlx::Row as _;
use sqlx::sqlite::SqliteQueryResult;

use crate::ids::{AgentId, Name, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::rows::select_agents;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::{Agent, AgentDefinition, Precondition, Tenant};

impl Store {
    /// Stores a tenant. Nothing changes if one with this id is already stored.
    ///
    /// # Errors
    /// If another tenant has the name ([`StoreError::Conflict`]).
    pub async fn create_tenant(&self, id: TenantId, name: &Name) -> Result<(), StoreError> {
        self.write(CreateTenant { id, name: name.clone() }).await
    }

    /// All tenants, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let query = sqlx::query("SELECT id, name, created_at FROM tenants ORDER BY name");
        self.many("list the tenants", query, rows::tenant).await
    }

    /// A tenant.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        let query = sqlx::query("SELECT id, name, created_at FROM tenants WHERE id = ?")
            .bind(id.as_bytes().as_slice());
        self.one("read a tenant", query, rows::tenant).await
    }

    /// Stores or updates an agent, and returns its version. An update without a difference changes nothing.
    ///
    /// # Errors
    /// If the id is an agent of another tenant, if the agent exists though the precondition requires its absence, or
    /// if another agent of the tenant has the name ([`StoreError::Conflict`]). If the agent's version is not the
    /// required one ([`StoreError::Stale`]). If the tenant does not exist, or if the agent does not exist though the
    /// precondition requires a version ([`StoreError::Missing`]). In each case nothing changes.
    pub async fn put_agent(
        &self,
        tenant: TenantId,
        id: AgentId,
        definition: &AgentDefinition,
        precondition: Precondition,
    ) -> Result<u32, StoreError> {
        let definition = serde_json::to_string(definition)
            .map_err(|error| StoreError::serialization(PutAgent::OPERATION, error))?;
        self.write(PutAgent { tenant, id, definition, precondition }).await
    }

    /// Enables or disables an agent, which accepts new tasks only while enabled. Returns false if the tenant has no
    /// such agent.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn enable_agent(
        &self,
        tenant: TenantId,
        id: AgentId,
        enabled: bool,
    ) -> Result<bool, StoreError> {
        self.write(EnableAgent { tenant, id, enabled }).await
    }

    /// An agent of this tenant.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn agent(&self, tenant: TenantId, id: AgentId) -> Result<Option<Agent>, StoreError> {
        let query = sqlx::query(select_agents!("WHERE a.tenant_id = ? AND a.id = ?"))
            .bind(tenant.as_bytes().as_slice())
            .bind(id.as_bytes().as_slice());
        self.one("read an agent", query, rows::agent).await
    }

    /// The agent of this tenant with this name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn agent_by_name(
        &self,
        tenant: TenantId,
        name: &Name,
    ) -> Result<Option<Agent>, StoreError> {
        let query =
            sqlx::query(select_agents!("WHERE a.tenant_id = ? AND a.definition ->> '$.name' = ?"))
                .bind(tenant.as_bytes().as_slice())
                .bind(name.as_str());
        self.one("find an agent", query, rows::agent).await
    }

    /// The tenant of an agent. For operators, who may ask about any agent.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn owner_of_agent(&self, id: AgentId) -> Result<Option<TenantId>, StoreError> {
        let query =
            sqlx::query("SELECT tenant_id FROM agents WHERE id = ?").bind(id.as_bytes().as_slice());
        self.one("find an agent's owner", query, |row| rows::tenant_id(row, 0)).await
    }

    /// The tenant's agents, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn agents(&self, tenant: TenantId) -> Result<Vec<Agent>, StoreError> {
        let query =
            sqlx::query(select_agents!("WHERE a.tenant_id = ? ORDER BY a.created_at, a.id"))
                .bind(tenant.as_bytes().as_slice());
        self.list(tenant, "list the agents", query, rows::agent).await
    }
}

struct CreateTenant {
    id: TenantId,
    name: Name,
}

impl Write for CreateTenant {
    type Answer = ();
    const OPERATION: &'static str = "create a tenant";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for CreateTenant {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let stored = sqlx::query(
            "INSERT INTO tenants (id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.name.as_str())
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        if stored.rows_affected() == 1 {
            return Ok(());
        }
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM tenants WHERE id = ?")
            .bind(self.id.as_bytes().as_slice())
            .fetch_optional(&mut *session.db)
            .await?;
        match known {
            Some(_) => Ok(()),
            None => Err(conflict::<Self>("another tenant has the name")),
        }
    }
}

struct PutAgent {
    tenant: TenantId,
    id: AgentId,
    definition: String,
    precondition: Precondition,
}

impl Write for PutAgent {
    type Answer = u32;
    const OPERATION: &'static str = "store an agent";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.definition.len()
    }
}

impl SingleWrite for PutAgent {
    async fn apply(&self, session: &mut Session<'_>) -> Result<u32, Refusal> {
        let found = sqlx::query("SELECT tenant_id, version, definition FROM agents WHERE id = ?")
            .bind(self.id.as_bytes().as_slice())
            .fetch_optional(&mut *session.db)
            .await?;
        let Some(found) = found else {
            return self.insert(session).await;
        };
        let version: u32 = found.try_get(1)?;
        if rows::tenant_id(&found, 0)? != self.tenant || self.precondition == Precondition::Absent {
            return Err(conflict::<Self>("the id is taken"));
        }
        if matches!(self.precondition, Precondition::Version(seen) if seen != version) {
            return Err(Refusal::Rules(StoreError::Stale { operation: Self::OPERATION }));
        }
        if found.try_get::<&str, _>(2)? == self.definition {
            return Ok(version);
        }
        sqlx::query("UPDATE agents SET definition = ?, version = ?, updated_at = ? WHERE id = ?")
            .bind(&self.definition)
            .bind(version + 1)
            .bind(session.now.micros())
            .bind(self.id.as_bytes().as_slice())
            .execute(&mut *session.db)
            .await?;
        Ok(version + 1)
    }
}

impl PutAgent {
    async fn insert(&self, session: &mut Session<'_>) -> Result<u32, Refusal> {
        if matches!(self.precondition, Precondition::Version(_)) {
            return Err(Refusal::Rules(StoreError::Missing { operation: Self::OPERATION }));
        }
        sqlx::query(
            "INSERT INTO agents (id, tenant_id, definition, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?4)",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.tenant.as_bytes().as_slice())
        .bind(&self.definition)
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        Ok(1)
    }
}

struct EnableAgent {
    tenant: TenantId,
    id: AgentId,
    enabled: bool,
}

impl Write for EnableAgent {
    type Answer = bool;
    const OPERATION: &'static str = "enable or disable an agent";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for EnableAgent {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let changed = sqlx::query(
            "UPDATE agents SET disabled = ?, updated_at = ? WHERE id = ? AND tenant_id = ?",
        )
        .bind(!self.enabled)
        .bind(session.now.micros())
        .bind(self.id.as_bytes().as_slice())
        .bind(self.tenant.as_bytes().as_slice())
        .execute(&mut *session.db)
        .await?;
        Ok(changed.rows_affected() > 0)
    }
}

/// Rejects a write whose statement has changed no row, for the reason `otherwise`.
pub(in crate::store) fn require_changed<W: Write>(
    stored: &SqliteQueryResult,
    otherwise: &'static str,
) -> Result<(), Refusal> {
    if stored.rows_affected() > 0 { Ok(()) } else { Err(conflict::<W>(otherwise)) }
}

fn conflict<W: Write>(why: &'static str) -> Refusal {
    Refusal::Rules(StoreError::Conflict { operation: W::OPERATION, why })
}
