//! API keys and operator keys: stored by their hashes, listed and revoked by ids of their own.

use super::tenants::require_changed;
use crate::ids::{KeyId, TenantId};
use crate::secrets::SecretHash;
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::{Key, KeyHolder, NewKey, ValidKey};

impl Store {
    /// Stores a key by its hash. Nothing changes if this holder already has it: a revoked key stays revoked.
    ///
    /// # Errors
    /// If the key belongs to another holder ([`StoreError::Conflict`]), or if the tenant does not exist
    /// ([`StoreError::Missing`]).
    pub async fn put_key(&self, key: NewKey) -> Result<(), StoreError> {
        self.write(PutKey(key)).await
    }

    /// The holder of this key. None if there is no such key, or if it has expired or is revoked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn valid_key(&self, hash: SecretHash) -> Result<Option<ValidKey>, StoreError> {
        let query = sqlx::query(
            "SELECT holder, tenant_id, admin, expires_at FROM keys WHERE hash = ? AND revoked_at IS NULL \
             AND (expires_at IS NULL OR expires_at > ?)",
        )
        .bind(hash.as_bytes().as_slice())
        .bind(self.now().micros());
        self.one("look up a key", query, rows::valid_key).await
    }

    /// The keys of a tenant, or of the operators if no tenant is given; oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn keys(&self, tenant: Option<TenantId>) -> Result<Vec<Key>, StoreError> {
        let query = sqlx::query(
            "SELECT holder, tenant_id, admin, id, name, created_at, expires_at, revoked_at \
             FROM keys WHERE tenant_id IS ? ORDER BY created_at, id",
        )
        .bind(tenant.as_ref().map(|tenant| tenant.as_bytes().as_slice()));
        self.many("list the keys", query, rows::key).await
    }

    /// Revokes a key of a tenant, or of the operators if no tenant is given. A key that is already revoked stays as
    /// it is. Returns false if there is no such key.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn revoke_key(
        &self,
        tenant: Option<TenantId>,
        key: KeyId,
    ) -> Result<bool, StoreError> {
        self.write(RevokeKey { tenant, key }).await
    }
}

struct PutKey(NewKey);

impl Write for PutKey {
    type Answer = ();
    const OPERATION: &'static str = "store a key";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        match self.0.holder {
            KeyHolder::Tenant(tenant) | KeyHolder::Admin(tenant) => Flow::Requests(tenant),
            KeyHolder::Operator => Flow::Gateway,
        }
    }
}

impl SingleWrite for PutKey {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let key = &self.0;
        let (holder, tenant, admin) = match &key.holder {
            KeyHolder::Tenant(tenant) => ("tenant", Some(tenant), false),
            KeyHolder::Admin(tenant) => ("tenant", Some(tenant), true),
            KeyHolder::Operator => ("operator", None, false),
        };
        // The update changes nothing: it makes the row count as affected if the key is this holder's.
        let stored = sqlx::query(
            "INSERT INTO keys (hash, holder, tenant_id, admin, id, name, created_at, expires_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (hash) DO UPDATE SET holder = holder \
             WHERE holder = excluded.holder AND tenant_id IS excluded.tenant_id \
             AND admin = excluded.admin",
        )
        .bind(key.hash.as_bytes().as_slice())
        .bind(holder)
        .bind(tenant.map(|tenant| tenant.as_bytes().as_slice()))
        .bind(admin)
        .bind(key.id.as_bytes().as_slice())
        .bind(&key.name)
        .bind(session.now.micros())
        .bind(key.expires_at.map(crate::clock::Timestamp::micros))
        .execute(&mut *session.db)
        .await?;
        require_changed::<Self>(&stored, "the key belongs to another holder")
    }
}

struct RevokeKey {
    tenant: Option<TenantId>,
    key: KeyId,
}

impl Write for RevokeKey {
    type Answer = bool;
    const OPERATION: &'static str = "revoke a key";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        self.tenant.map_or(Flow::Gateway, Flow::Requests)
    }
}

impl SingleWrite for RevokeKey {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let revoked = sqlx::query(
            "UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ? AND tenant_id IS ?",
        )
        .bind(session.now.micros())
        .bind(self.key.as_bytes().as_slice())
        .bind(self.tenant.as_ref().map(|tenant| tenant.as_bytes().as_slice()))
        .execute(&mut *session.db)
        .await?;
        Ok(revoked.rows_affected() > 0)
    }
}
