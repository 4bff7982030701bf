//! Values that plugins store from one call to the next, bounded in bytes per plugin.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::ids::{PluginName, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};

/// The outcome of a change of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueChange {
    /// The value is stored. Holds the new number after an increment, and 0 otherwise.
    Stored(u64),
    /// The plugin has no room for it.
    Full,
    /// The value is not a number, or is too large to increment.
    NotANumber,
}

impl Store {
    /// The value that a plugin has stored under a key.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn plugin_value(
        &self,
        tenant: TenantId,
        plugin: &PluginName,
        key: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let query = sqlx::query(
            "SELECT value FROM plugin_values WHERE tenant_id = ? AND plugin = ? AND key = ?",
        )
        .bind(tenant.as_bytes().as_slice())
        .bind(plugin.as_str())
        .bind(key);
        self.one("read a plugin's value", query, |row: &SqliteRow| row.try_get(0)).await
    }

    /// The keys of a plugin in order: at most `limit` of them, after the first `skip`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn plugin_keys(
        &self,
        tenant: TenantId,
        plugin: &PluginName,
        skip: u64,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query(
            "SELECT key FROM plugin_values WHERE tenant_id = ? AND plugin = ? \
             ORDER BY key LIMIT ? OFFSET ?",
        )
        .bind(tenant.as_bytes().as_slice())
        .bind(plugin.as_str())
        .bind(limit)
        .bind(i64::try_from(skip).unwrap_or(i64::MAX));
        self.many("list a plugin's keys", query, |row: &SqliteRow| row.try_get(0)).await
    }

    /// Stores a value, or deletes it if `value` is None, provided that all of the plugin's keys and values together
    /// stay within `bytes_max`.
    ///
    /// # Errors
    /// If the store is unavailable, or the tenant does not exist.
    pub async fn put_plugin_value(
        &self,
        tenant: TenantId,
        plugin: &PluginName,
        key: String,
        value: Option<Vec<u8>>,
        bytes_max: u64,
    ) -> Result<ValueChange, StoreError> {
        let change = Change::Put(value);
        self.write(PutValue { tenant, plugin: plugin.clone(), key, change, bytes_max }).await
    }

    /// Increments the number that a value holds as text; `count` computes the sum.
    ///
    /// # Errors
    /// If the store is unavailable, or the tenant does not exist.
    pub async fn count_plugin_value(
        &self,
        tenant: TenantId,
        plugin: &PluginName,
        key: String,
        count: fn(Option<&[u8]>, u64) -> Option<u64>,
        delta: u64,
        bytes_max: u64,
    ) -> Result<ValueChange, StoreError> {
        let change = Change::Count(count, delta);
        self.write(PutValue { tenant, plugin: plugin.clone(), key, change, bytes_max }).await
    }
}

enum Change {
    Put(Option<Vec<u8>>),
    Count(fn(Option<&[u8]>, u64) -> Option<u64>, u64),
}

struct PutValue {
    tenant: TenantId,
    plugin: PluginName,
    key: String,
    change: Change,
    bytes_max: u64,
}

impl Write for PutValue {
    type Answer = ValueChange;
    const OPERATION: &'static str = "keep a plugin's value";

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        let value = match &self.change {
            Change::Put(value) => value.as_ref().map_or(0, Vec::len),
            Change::Count(..) => 0,
        };
        self.key.len() + value
    }
}

impl SingleWrite for PutValue {
    async fn apply(&self, session: &mut Session<'_>) -> Result<ValueChange, Refusal> {
        let before = self.before(session).await?;
        let (value, answer) = match &self.change {
            Change::Put(value) => (value.clone(), 0),
            Change::Count(count, delta) => match count(before.as_deref(), *delta) {
                Some(sum) => (Some(sum.to_string().into_bytes()), sum),
                None => return Ok(ValueChange::NotANumber),
            },
        };
        let size = |value: &Option<Vec<u8>>| {
            value.as_ref().map_or(0, |value| (self.key.len() + value.len()) as u64)
        };
        let (old, new) = (size(&before), size(&value));
        let taken = self.bytes_taken(session).await?.saturating_sub(old).saturating_add(new);
        // A change that frees bytes is always allowed: the grant may have shrunk meanwhile.
        if new > old && taken > self.bytes_max {
            return Ok(ValueChange::Full);
        }
        self.store(value, session).await?;
        sqlx::query(
            "INSERT INTO plugin_value_bytes (tenant_id, plugin, bytes) VALUES (?, ?, ?) \
             ON CONFLICT (tenant_id, plugin) DO UPDATE SET bytes = excluded.bytes",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.plugin.as_str())
        .bind(i64::try_from(taken).unwrap_or(i64::MAX))
        .execute(&mut *session.db)
        .await?;
        Ok(ValueChange::Stored(answer))
    }
}

impl PutValue {
    async fn before(&self, session: &mut Session<'_>) -> sqlx::Result<Option<Vec<u8>>> {
        sqlx::query_scalar(
            "SELECT value FROM plugin_values WHERE tenant_id = ? AND plugin = ? AND key = ?",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.plugin.as_str())
        .bind(self.key.as_str())
        .fetch_optional(&mut *session.db)
        .await
    }

    async fn bytes_taken(&self, session: &mut Session<'_>) -> sqlx::Result<u64> {
        let taken: Option<i64> = sqlx::query_scalar(
            "SELECT bytes FROM plugin_value_bytes WHERE tenant_id = ? AND plugin = ?",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.plugin.as_str())
        .fetch_optional(&mut *session.db)
        .await?;
        Ok(taken.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default())
    }

    async fn store(&self, value: Option<Vec<u8>>, session: &mut Session<'_>) -> sqlx::Result<()> {
        let query = match value {
            Some(value) => sqlx::query(
                "INSERT INTO plugin_values (tenant_id, plugin, key, value) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (tenant_id, plugin, key) DO UPDATE SET value = excluded.value",
            )
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.plugin.as_str())
            .bind(self.key.as_str())
            .bind(value),
            None => sqlx::query(
                "DELETE FROM plugin_values WHERE tenant_id = ? AND plugin = ? AND key = ?",
            )
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.plugin.as_str())
            .bind(self.key.as_str()),
        };
        query.execute(&mut *session.db).await.map(drop)
    }
}
