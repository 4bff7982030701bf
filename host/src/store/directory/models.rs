//! Models of tenants.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::tenants::require_changed;
use crate::clock::Timestamp;
use crate::ids::{ModelName, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::{Installer, ModelDefinition, TenantModel};

/// The maximum number of models per tenant.
const MODELS_MAX: i64 = 100;

impl Store {
    /// The models of a tenant, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn models(&self, tenant: TenantId) -> Result<Vec<TenantModel>, StoreError> {
        let query = sqlx::query(
            "SELECT name, definition, set_by, updated_at FROM models WHERE tenant_id = ? ORDER BY name",
        )
        .bind(tenant.as_bytes().as_slice());
        self.many("read the models", query, model).await
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
        let definition = serde_json::to_string(definition)
            .map_err(|error| StoreError::serialization(PutModel::OPERATION, error))?;
        self.write(PutModel { tenant, name: name.clone(), definition, by }).await
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
        self.write(DeleteModel { tenant, name: name.clone() }).await
    }
}

fn model(row: &SqliteRow) -> sqlx::Result<TenantModel> {
    let definition: &str = row.try_get(1)?;
    let definition =
        serde_json::from_str(definition).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let set_by = rows::installer(row.try_get(2)?)?;
    Ok(TenantModel {
        name: rows::parsed(row, 0)?,
        definition,
        // The column is never null. An admin may do less than an operator.
        set_by: set_by.unwrap_or(Installer::Admin),
        updated_at: Timestamp::from_micros(row.try_get(3)?),
    })
}

struct PutModel {
    tenant: TenantId,
    name: ModelName,
    definition: String,
    by: Installer,
}

impl Write for PutModel {
    type Answer = ();
    const OPERATION: &'static str = "store a model";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.definition.len()
    }
}

impl SingleWrite for PutModel {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let stored = sqlx::query(
            "INSERT INTO models (tenant_id, name, definition, set_by, updated_at) \
             SELECT ?1, ?2, ?3, ?4, ?5 \
             WHERE (SELECT count(*) FROM models WHERE tenant_id = ?1 AND name <> ?2) < ?6 \
             ON CONFLICT (tenant_id, name) DO UPDATE SET definition = excluded.definition, \
             set_by = excluded.set_by, updated_at = excluded.updated_at",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.name.as_str())
        .bind(self.definition.as_str())
        .bind(self.by.as_str())
        .bind(session.now.micros())
        .bind(MODELS_MAX)
        .execute(&mut *session.db)
        .await?;
        require_changed::<Self>(&stored, "the tenant has as many models as it may")?;
        Ok(())
    }
}

struct DeleteModel {
    tenant: TenantId,
    name: ModelName,
}

impl Write for DeleteModel {
    type Answer = bool;
    const OPERATION: &'static str = "delete a model";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for DeleteModel {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let deleted = sqlx::query("DELETE FROM models WHERE tenant_id = ? AND name = ?")
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.name.as_str())
            .execute(&mut *session.db)
            .await?;
        Ok(deleted.rows_affected() > 0)
    }
}
