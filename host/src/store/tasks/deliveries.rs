//! The requests that tasks came from, and the deliveries of their answers: stored with the task, due when it has
//! ended, retried until they succeed or are given up.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, Sqlite};

use super::turns;
use super::turns::{Backlogs, Capacity};
use crate::clock::Timestamp;
use crate::ids::{ChannelId, TaskId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::rows::whole_text;
use crate::store::sqlite::{BatchStatement, execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tasks::{Delivery, DeliveryEnd, DeliveryStatus, StoredRequest};

/// Makes the deliveries of tasks that have just ended due, for [`super::finish`] and [`super::ending`].
pub(in crate::store) const fn make_due_statement() -> BatchStatement {
    BatchStatement::new(
        "UPDATE deliveries SET status = 'due', due_at = ? \
     WHERE status = 'waiting' AND task_sequence IN (",
        "?",
        ")",
    )
}

pub(in crate::store) const ANY_DUE: &str = "SELECT 1 FROM deliveries WHERE due_at <= ? LIMIT 1";

/// Tenants with due deliveries, after a given tenant in the order of ids. Each step of the recursion finds one tenant
/// and when its first delivery is due.
pub(in crate::store) const TENANTS_AFTER: &str = "\
    WITH RECURSIVE turn (tenant_id, due_at) AS ( \
        SELECT ?1, NULL \
        UNION ALL \
        SELECT d.tenant_id, d.due_at FROM turn CROSS JOIN deliveries d ON d.task_sequence = \
            (SELECT task_sequence FROM deliveries \
             WHERE due_at IS NOT NULL AND tenant_id > turn.tenant_id \
             ORDER BY tenant_id, due_at LIMIT 1) \
    ) SELECT tenant_id FROM turn WHERE due_at <= ?3 LIMIT ?2";

pub(in crate::store) const DUE_OF_TENANT: &str = "\
    SELECT task_sequence FROM deliveries WHERE tenant_id = ? AND due_at <= ? \
    ORDER BY due_at LIMIT ? OFFSET ?";

pub(in crate::store) static TAKE: BatchStatement = BatchStatement::new(
    "UPDATE deliveries SET attempts = attempts + 1, due_at = ?, reason = NULL WHERE due_at <= ? \
     AND task_sequence IN (",
    "?",
    ") RETURNING task_sequence, (SELECT id FROM tasks WHERE sequence = task_sequence), tenant_id, \
     channel_id, attempts",
);

/// Makes the delivery of this task's answer due, if there is one.
pub(in crate::store) async fn make_due(
    sequence: i64,
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
    static ONE: BatchStatement = make_due_statement();
    for (sql, part) in ONE.parts(&[sequence]) {
        let query = sqlx::query(sql).bind(session.now.micros()).bind(part.first().copied());
        execute(query, session.db).await?;
    }
    Ok(())
}

/// A delivery to attempt now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueDelivery {
    /// The task whose answer it delivers.
    pub task: TaskId,
    /// The tenant of the task.
    pub tenant: TenantId,
    /// The channel that it uses.
    pub channel: ChannelId,
    /// The number of attempts, including this one.
    pub attempts: u32,
}

impl Store {
    /// The request that a task of this tenant came from. None if there is no such task, or if it was accepted before
    /// requests were stored.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn request(
        &self,
        tenant: TenantId,
        task: TaskId,
    ) -> Result<Option<StoredRequest>, StoreError> {
        let query = sqlx::query(concat!(
            "SELECT b.channel_id, b.head, CAST(CASE WHEN b.body IS NULL THEN ",
            whole_text!("b.payload", "payload", "t.sequence"),
            " ELSE ",
            whole_text!("b.body", "body", "t.sequence"),
            " END AS BLOB) FROM tasks t JOIN bodies b ON b.task_sequence = t.sequence \
             WHERE t.id = ? AND t.tenant_id = ? AND b.head IS NOT NULL",
        ))
        .bind(task.as_bytes().as_slice())
        .bind(tenant.as_bytes().as_slice());
        self.one_task(tenant, "read a task's request", query, request).await
    }

    /// Claims due deliveries for as many places as are wanted, in the order of the tenants' turns: the tenant after
    /// `last`, which was served last, comes first. `held` is the number of each tenant's deliveries in progress. A
    /// claimed delivery is due again after `lease` unless its end is recorded before that, since its worker may die.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn take_deliveries(
        &self,
        capacity: Capacity,
        held: HashMap<TenantId, usize>,
        last: Option<TenantId>,
        lease: Duration,
    ) -> Result<Vec<DueDelivery>, StoreError> {
        // Nothing is written if nothing is due, which is the usual case.
        let query = sqlx::query(ANY_DUE).bind(self.now().micros());
        if self.one("look for deliveries", query, |_| Ok(())).await?.is_none() {
            return Ok(Vec::new());
        }
        self.write(TakeDeliveries { capacity, held, last, lease }).await
    }

    /// Records the outcome of a claimed delivery.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn end_delivery(&self, task: TaskId, end: DeliveryEnd) -> Result<(), StoreError> {
        self.write(EndDelivery { task, end }).await
    }

    /// The newest deliveries of a tenant, with this status if one is given.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn deliveries(
        &self,
        tenant: TenantId,
        status: Option<DeliveryStatus>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let query = sqlx::query(
            "SELECT t.id, d.channel_id, d.status, d.attempts, d.due_at, d.ended_at, d.reason \
             FROM deliveries d JOIN tasks t ON t.sequence = d.task_sequence \
             WHERE d.tenant_id = ?1 AND (?2 IS NULL OR d.status = ?2) \
             ORDER BY d.task_sequence DESC LIMIT ?3",
        )
        .bind(tenant.as_bytes().as_slice())
        .bind(status.map(DeliveryStatus::as_str))
        .bind(limit);
        self.list(tenant, "list deliveries", query, delivery).await
    }

    /// Makes a delivery of this tenant that has ended, whether given up or delivered, due again with its attempts
    /// reset. Returns false if there is none.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn redeliver(&self, tenant: TenantId, task: TaskId) -> Result<bool, StoreError> {
        self.write(Redeliver { tenant, task }).await
    }
}

fn request(row: &SqliteRow) -> sqlx::Result<StoredRequest> {
    let channel: Option<Vec<u8>> = row.try_get(0)?;
    let channel = channel.map(<[u8; 16]>::try_from).transpose();
    let channel = channel.map_err(|_| sqlx::Error::Decode("a channel's id".into()))?;
    let body: Vec<u8> = row.try_get(2)?;
    Ok(StoredRequest {
        channel: channel.map(ChannelId::from_stored),
        head: row.try_get(1)?,
        body: body.into(),
    })
}

fn due(row: &SqliteRow) -> sqlx::Result<DueDelivery> {
    Ok(DueDelivery {
        task: rows::task_id(row, 1)?,
        tenant: rows::tenant_id(row, 2)?,
        channel: ChannelId::from_stored(rows::bytes(row, 3)?),
        attempts: row.try_get(4)?,
    })
}

fn delivery(row: &SqliteRow) -> sqlx::Result<Delivery> {
    let moment = |place: usize| -> sqlx::Result<Option<Timestamp>> {
        Ok(row.try_get::<Option<i64>, _>(place)?.map(Timestamp::from_micros))
    };
    Ok(Delivery {
        task: rows::task_id(row, 0)?,
        channel: ChannelId::from_stored(rows::bytes(row, 1)?),
        status: rows::parsed(row, 2)?,
        attempts: row.try_get(3)?,
        due_at: moment(4)?,
        ended_at: moment(5)?,
        reason: row.try_get(6)?,
    })
}

struct TakeDeliveries {
    capacity: Capacity,
    held: HashMap<TenantId, usize>,
    last: Option<TenantId>,
    lease: Duration,
}

/// Deliveries that are due at this time.
struct Due(Timestamp);

impl Backlogs for Due {
    fn tenants<'q>(&self, behind: &'q [u8], limit: i64) -> Query<'q, Sqlite, SqliteArguments> {
        sqlx::query(TENANTS_AFTER).bind(behind).bind(limit).bind(self.0.micros())
    }

    fn of_tenant(
        &self,
        tenant: TenantId,
        skip: i64,
        limit: i64,
    ) -> Query<'_, Sqlite, SqliteArguments> {
        sqlx::query(DUE_OF_TENANT)
            .bind(tenant.as_bytes().to_vec())
            .bind(self.0.micros())
            .bind(limit)
            .bind(skip)
    }
}

impl Write for TakeDeliveries {
    type Answer = Vec<DueDelivery>;
    const OPERATION: &'static str = "take deliveries";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for TakeDeliveries {
    async fn apply(&self, session: &mut Session<'_>) -> Result<Vec<DueDelivery>, Refusal> {
        let now = session.now;
        let next = turns::next(&Due(now), self.capacity, &self.held, self.last, session.db).await?;
        let next: Vec<i64> = next.into_iter().map(|(_, sequence)| sequence).collect();
        let due_again = now.plus(self.lease).micros();
        let mut taken: HashMap<i64, DueDelivery> = HashMap::with_capacity(next.len());
        for (sql, part) in TAKE.parts(&next) {
            let mut query = sqlx::query(sql).bind(due_again).bind(now.micros());
            for sequence in part {
                query = query.bind(*sequence);
            }
            for row in fetch(query, session.db).await? {
                taken.insert(row.try_get(0)?, due(&row)?);
            }
        }
        // The database returns the rows in its own order; the order of the turns is restored here.
        Ok(next.iter().filter_map(|sequence| taken.remove(sequence)).collect())
    }
}

struct EndDelivery {
    task: TaskId,
    end: DeliveryEnd,
}

impl Write for EndDelivery {
    type Answer = ();
    const OPERATION: &'static str = "note a delivery's end";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for EndDelivery {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let now = session.now;
        let (status, due_at, ended_at, reason) = match &self.end {
            DeliveryEnd::Delivered => ("delivered", None, Some(now), None),
            DeliveryEnd::Again { after, reason } => {
                ("due", Some(now.plus(*after)), None, Some(reason))
            }
            DeliveryEnd::Dead { reason } => ("dead", None, Some(now), Some(reason)),
        };
        sqlx::query(
            "UPDATE deliveries SET status = ?, due_at = ?, ended_at = ?, reason = ? \
             WHERE status = 'due' AND task_sequence = (SELECT sequence FROM tasks WHERE id = ?)",
        )
        .bind(status)
        .bind(due_at.map(Timestamp::micros))
        .bind(ended_at.map(Timestamp::micros))
        .bind(reason)
        .bind(self.task.as_bytes().as_slice())
        .execute(&mut *session.db)
        .await?;
        Ok(())
    }
}

struct Redeliver {
    tenant: TenantId,
    task: TaskId,
}

impl Write for Redeliver {
    type Answer = bool;
    const OPERATION: &'static str = "deliver again";

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for Redeliver {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let again = sqlx::query(
            "UPDATE deliveries SET status = 'due', due_at = ?, ended_at = NULL, attempts = 0 \
             WHERE status IN ('dead', 'delivered') AND tenant_id = ? AND task_sequence = \
             (SELECT sequence FROM tasks WHERE id = ?)",
        )
        .bind(session.now.micros())
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.task.as_bytes().as_slice())
        .execute(&mut *session.db)
        .await?;
        Ok(again.rows_affected() > 0)
    }
}
