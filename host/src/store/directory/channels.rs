//! Channels of tenants.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock::Timestamp;
use crate::ids::{AgentId, ChannelId, Name, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::{Channel, ChannelDefinition};

/// The maximum number of channels per tenant.
const CHANNELS_MAX: i64 = 10_000;

macro_rules! select_channels {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant_id, agent_id, definition, version, created_at, updated_at \
             FROM channels ",
            $rest
        )
    };
}

impl Store {
    /// The channel with this id, of any tenant: a channel's URL names only the id.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn channel(&self, id: ChannelId) -> Result<Option<Channel>, StoreError> {
        let query = sqlx::query(select_channels!("WHERE id = ?")).bind(id.as_bytes().as_slice());
        self.one("read a channel", query, channel).await
    }

    /// The channels of a tenant, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn channels(&self, tenant: TenantId) -> Result<Vec<Channel>, StoreError> {
        let query =
            sqlx::query(select_channels!("WHERE tenant_id = ? ORDER BY definition ->> '$.name'"))
                .bind(tenant.as_bytes().as_slice());
        self.list(tenant, "list the channels", query, channel).await
    }

    /// A tenant's channel with this name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn channel_by_name(
        &self,
        tenant: TenantId,
        name: &Name,
    ) -> Result<Option<Channel>, StoreError> {
        let query =
            sqlx::query(select_channels!("WHERE tenant_id = ? AND definition ->> '$.name' = ?"))
                .bind(tenant.as_bytes().as_slice())
                .bind(name.as_str());
        self.one("read a channel", query, channel).await
    }

    /// Stores a channel, or updates the tenant's channel with the same name, and returns it as it is then. An update
    /// without a difference changes nothing.
    ///
    /// # Errors
    /// If the tenant has no such agent ([`StoreError::Missing`]), or if it has as many channels as it may
    /// ([`StoreError::Conflict`]).
    pub async fn put_channel(
        &self,
        tenant: TenantId,
        agent: AgentId,
        definition: &ChannelDefinition,
    ) -> Result<Channel, StoreError> {
        let text = serde_json::to_string(definition)
            .map_err(|error| StoreError::serialization(PutChannel::OPERATION, error))?;
        let name = definition.name.clone();
        let id = ChannelId::random();
        self.write(PutChannel { id, tenant, agent, name, definition: text }).await
    }

    /// Deletes a channel; its URL stops working. Returns false if the tenant has none with this name.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn delete_channel(&self, tenant: TenantId, name: &Name) -> Result<bool, StoreError> {
        self.write(DeleteChannel { tenant, name: name.clone() }).await
    }
}

fn channel(row: &SqliteRow) -> sqlx::Result<Channel> {
    let definition: &str = row.try_get(3)?;
    let definition =
        serde_json::from_str(definition).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Channel {
        id: ChannelId::from_stored(rows::bytes(row, 0)?),
        tenant: rows::tenant_id(row, 1)?,
        agent: rows::agent_id(row, 2)?,
        definition,
        version: row.try_get(4)?,
        created_at: Timestamp::from_micros(row.try_get(5)?),
        updated_at: Timestamp::from_micros(row.try_get(6)?),
    })
}

struct PutChannel {
    id: ChannelId,
    tenant: TenantId,
    agent: AgentId,
    name: Name,
    definition: String,
}

impl Write for PutChannel {
    type Answer = Channel;
    const OPERATION: &'static str = "store a channel";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.definition.len()
    }
}

impl SingleWrite for PutChannel {
    async fn apply(&self, session: &mut Session<'_>) -> Result<Channel, Refusal> {
        let known =
            sqlx::query(select_channels!("WHERE tenant_id = ? AND definition ->> '$.name' = ?"))
                .bind(self.tenant.as_bytes().as_slice())
                .bind(self.name.as_str())
                .fetch_optional(&mut *session.db)
                .await?;
        let id = match known.as_ref().map(channel).transpose()? {
            Some(known) => {
                self.update(&known, session).await?;
                known.id
            }
            None => {
                self.insert(session).await?;
                self.id
            }
        };
        let stored = sqlx::query(select_channels!("WHERE id = ?"))
            .bind(id.as_bytes().as_slice())
            .fetch_one(&mut *session.db)
            .await?;
        Ok(channel(&stored)?)
    }
}

impl PutChannel {
    async fn update(&self, known: &Channel, session: &mut Session<'_>) -> Result<(), Refusal> {
        sqlx::query(
            "UPDATE channels SET agent_id = ?1, definition = ?2, version = version + 1, \
             updated_at = ?3 WHERE id = ?4 AND (definition <> ?2 OR agent_id <> ?1)",
        )
        .bind(self.agent.as_bytes().as_slice())
        .bind(&self.definition)
        .bind(session.now.micros())
        .bind(known.id.as_bytes().as_slice())
        .execute(&mut *session.db)
        .await?;
        Ok(())
    }

    async fn insert(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let stored = sqlx::query(
            "INSERT INTO channels (id, tenant_id, agent_id, definition, created_at, updated_at) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?5 \
             WHERE (SELECT count(*) FROM channels WHERE tenant_id = ?2) < ?6",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.agent.as_bytes().as_slice())
        .bind(&self.definition)
        .bind(session.now.micros())
        .bind(CHANNELS_MAX)
        .execute(&mut *session.db)
        .await?;
        super::tenants::require_changed::<Self>(
            &stored,
            "the tenant has as many channels as it may",
        )
    }
}

struct DeleteChannel {
    tenant: TenantId,
    name: Name,
}

impl Write for DeleteChannel {
    type Answer = bool;
    const OPERATION: &'static str = "forget a channel";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for DeleteChannel {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let deleted =
            sqlx::query("DELETE FROM channels WHERE tenant_id = ? AND definition ->> '$.name' = ?")
                .bind(self.tenant.as_bytes().as_slice())
                .bind(self.name.as_str())
                .execute(&mut *session.db)
                .await?;
        Ok(deleted.rows_affected() > 0)
    }
}
