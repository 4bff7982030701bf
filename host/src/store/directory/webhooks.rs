//! Agents' own webhooks: which generation of the token is current, and the look-up by its hash.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::ids::{AgentId, TenantId};
use crate::secrets::SecretHash;
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::rows::select_agents;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::{Agent, Webhook};

impl Store {
    /// The webhook of an agent of this tenant. None if it has never had one.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn webhook(
        &self,
        tenant: TenantId,
        agent: AgentId,
    ) -> Result<Option<Webhook>, StoreError> {
        let query = sqlx::query(
            "SELECT generation, revoked_at FROM webhooks WHERE tenant_id = ? AND agent_id = ?",
        )
        .bind(tenant.as_bytes().as_slice())
        .bind(agent.as_bytes().as_slice());
        self.one("read a webhook", query, rows::webhook).await
    }

    /// Makes this the agent's webhook token if its generation is higher than the current one; the previous token is
    /// then no longer found. Otherwise nothing changes.
    ///
    /// # Errors
    /// If another agent has the token ([`StoreError::Conflict`]), or if the tenant has no such agent
    /// ([`StoreError::Missing`]).
    pub async fn put_webhook(
        &self,
        tenant: TenantId,
        agent: AgentId,
        generation: u32,
        token: SecretHash,
    ) -> Result<(), StoreError> {
        self.write(PutWebhook { tenant, agent, generation, token }).await
    }

    /// Revokes the webhook of an agent: its token is no longer found. Returns false if the agent has none.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn revoke_webhook(
        &self,
        tenant: TenantId,
        agent: AgentId,
    ) -> Result<bool, StoreError> {
        self.write(RevokeWebhook { tenant, agent }).await
    }

    /// The agent whose webhook has this token, and the token's generation. The token is all that its caller knows, so
    /// this takes no tenant: it determines the tenant from the agent.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn agent_by_webhook_token(
        &self,
        token: SecretHash,
    ) -> Result<Option<(Agent, u32)>, StoreError> {
        let query = sqlx::query(select_agents!(
            ", w.generation",
            "JOIN webhooks w ON a.tenant_id = w.tenant_id AND a.id = w.agent_id \
             WHERE w.token_hash = ? AND w.revoked_at IS NULL"
        ))
        .bind(token.as_bytes().as_slice());
        self.one("look up a webhook", query, |row: &SqliteRow| {
            Ok((rows::agent(row)?, row.try_get(rows::AFTER_AGENT)?))
        })
        .await
    }
}

struct PutWebhook {
    tenant: TenantId,
    agent: AgentId,
    generation: u32,
    token: SecretHash,
}

impl Write for PutWebhook {
    type Answer = ();
    const OPERATION: &'static str = "store a webhook token";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for PutWebhook {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        sqlx::query(
            "INSERT INTO webhooks (tenant_id, agent_id, generation, token_hash, created_at) \
             VALUES (?, ?, ?, ?, ?) ON CONFLICT (tenant_id, agent_id) DO UPDATE \
             SET generation = excluded.generation, token_hash = excluded.token_hash, \
                 created_at = excluded.created_at, revoked_at = NULL \
             WHERE generation < excluded.generation",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.agent.as_bytes().as_slice())
        .bind(self.generation)
        .bind(self.token.as_bytes().as_slice())
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        Ok(())
    }
}

struct RevokeWebhook {
    tenant: TenantId,
    agent: AgentId,
}

impl Write for RevokeWebhook {
    type Answer = bool;
    const OPERATION: &'static str = "revoke a webhook";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for RevokeWebhook {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let revoked = sqlx::query(
            "UPDATE webhooks SET revoked_at = coalesce(revoked_at, ?) \
             WHERE tenant_id = ? AND agent_id = ?",
        )
        .bind(session.now.micros())
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.agent.as_bytes().as_slice())
        .execute(&mut *session.db)
        .await?;
        Ok(revoked.rows_affected() > 0)
    }
}
