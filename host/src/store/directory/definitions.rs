//! What is defined for a tenant under a name, with who has set it: models and MCP servers. Each kind has a table of its
//! own, of the same form.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::tenants::require_changed;
use crate::clock::Timestamp;
use crate::ids::{McpServerName, ModelName, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::{
    Defined, Installer, McpServerDefinition, ModelDefinition, TenantMcpServer, TenantModel,
};

/// The maximum number of definitions of one kind per tenant.
const DEFINITIONS_MAX: i64 = 100;

/// The statements for one table.
struct Table {
    list: &'static str,
    put: &'static str,
    delete: &'static str,
}

/// The statements for the table of this name.
macro_rules! table {
    ($name:literal) => {
        Table {
            list: concat!(
                "SELECT name, definition, set_by, updated_at FROM ",
                $name,
                " WHERE tenant_id = ? ORDER BY name"
            ),
            put: concat!(
                "INSERT INTO ",
                $name,
                " (tenant_id, name, definition, set_by, updated_at) SELECT ?1, ?2, ?3, ?4, ?5 \
                 WHERE (SELECT count(*) FROM ",
                $name,
                " WHERE tenant_id = ?1 AND name <> ?2) < ?6 \
                 ON CONFLICT (tenant_id, name) DO UPDATE SET definition = excluded.definition, \
                 set_by = excluded.set_by, updated_at = excluded.updated_at"
            ),
            delete: concat!("DELETE FROM ", $name, " WHERE tenant_id = ? AND name = ?"),
        }
    };
}

static MODELS: Table = table!("models");
static MCP_SERVERS: Table = table!("mcp_servers");

impl Store {
    /// The models of a tenant, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn models(&self, tenant: TenantId) -> Result<Vec<TenantModel>, StoreError> {
        let query = sqlx::query(MODELS.list).bind(tenant.as_bytes().as_slice());
        self.many("read the models", query, defined).await
    }

    /// Stores a model, or replaces the tenant's model with this name.
    ///
    /// # Errors
    /// If the tenant does not exist ([`StoreError::Missing`]), or if it has as many models as it may
    /// ([`StoreError::Conflict`]).
    pub async fn put_model(
        &self,
        tenant: TenantId,
        name: &ModelName,
        definition: &ModelDefinition,
        by: Installer,
    ) -> Result<(), StoreError> {
        self.put_definition(&MODELS, tenant, name.as_str(), definition, by).await
    }

    /// Deletes a model. Returns false if the tenant has none with this name.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn delete_model(
        &self,
        tenant: TenantId,
        name: &ModelName,
    ) -> Result<bool, StoreError> {
        self.write(DeleteDefinition { table: &MODELS, tenant, name: name.to_string() }).await
    }

    /// The MCP servers of a tenant, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn mcp_servers(&self, tenant: TenantId) -> Result<Vec<TenantMcpServer>, StoreError> {
        let query = sqlx::query(MCP_SERVERS.list).bind(tenant.as_bytes().as_slice());
        self.many("read the MCP servers", query, defined).await
    }

    /// Stores an MCP server, or replaces the tenant's server with this name.
    ///
    /// # Errors
    /// If the tenant does not exist ([`StoreError::Missing`]), or if it has as many servers as it may
    /// ([`StoreError::Conflict`]).
    pub async fn put_mcp_server(
        &self,
        tenant: TenantId,
        name: &McpServerName,
        definition: &McpServerDefinition,
        by: Installer,
    ) -> Result<(), StoreError> {
        self.put_definition(&MCP_SERVERS, tenant, name.as_str(), definition, by).await
    }

    /// Deletes an MCP server. Returns false if the tenant has none with this name.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn delete_mcp_server(
        &self,
        tenant: TenantId,
        name: &McpServerName,
    ) -> Result<bool, StoreError> {
        self.write(DeleteDefinition { table: &MCP_SERVERS, tenant, name: name.to_string() }).await
    }

    async fn put_definition(
        &self,
        table: &'static Table,
        tenant: TenantId,
        name: &str,
        definition: &impl Serialize,
        by: Installer,
    ) -> Result<(), StoreError> {
        let definition = serde_json::to_string(definition)
            .map_err(|error| StoreError::serialization(PutDefinition::OPERATION, error))?;
        self.write(PutDefinition { table, tenant, name: name.to_owned(), definition, by }).await
    }
}

fn defined<N, D: DeserializeOwned>(row: &SqliteRow) -> sqlx::Result<Defined<N, D>>
where
    N: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let definition: &str = row.try_get(1)?;
    let definition =
        serde_json::from_str(definition).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let set_by = rows::installer(row.try_get(2)?)?;
    Ok(Defined {
        name: rows::parsed(row, 0)?,
        definition,
        // The column is never null. An admin may do less than an operator.
        set_by: set_by.unwrap_or(Installer::Admin),
        updated_at: Timestamp::from_micros(row.try_get(3)?),
    })
}

struct PutDefinition {
    table: &'static Table,
    tenant: TenantId,
    name: String,
    definition: String,
    by: Installer,
}

impl Write for PutDefinition {
    type Answer = ();
    const OPERATION: &'static str = "store a definition";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.definition.len()
    }
}

impl SingleWrite for PutDefinition {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let stored = sqlx::query(self.table.put)
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.name.as_str())
            .bind(self.definition.as_str())
            .bind(self.by.as_str())
            .bind(session.now.micros())
            .bind(DEFINITIONS_MAX)
            .execute(&mut *session.db)
            .await?;
        require_changed::<Self>(&stored, "the tenant has as many of them as it may")?;
        Ok(())
    }
}

struct DeleteDefinition {
    table: &'static Table,
    tenant: TenantId,
    name: String,
}

impl Write for DeleteDefinition {
    type Answer = bool;
    const OPERATION: &'static str = "delete a definition";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for DeleteDefinition {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let deleted = sqlx::query(self.table.delete)
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.name.as_str())
            .execute(&mut *session.db)
            .await?;
        Ok(deleted.rows_affected() > 0)
    }
}
