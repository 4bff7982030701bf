//! Decodes rows. A row that this program cannot have written is an error, never a default.

use std::str::FromStr;
use std::sync::Arc;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock::Timestamp;
use crate::ids::{AgentId, ChannelId, KeyId, TaskId, TenantId};
use crate::tasks::{Input, SHOWN_RESULT_CHARS_MAX, Surface, Task, TaskSummary};
use crate::tenants::{Agent, Installer, Key, KeyHolder, Tenant, ValidKey, Webhook};

/// SQL that reads a text of the task with this sequence, from its column or from its chunks.
macro_rules! whole_text {
    ($column:literal, $part:literal, $sequence:literal) => {
        $crate::store::rows::whole_text!($column, $part, $sequence, "0")
    };
    ($column:literal, $part:literal, $sequence:literal, $position:literal) => {
        concat!(
            "CASE octet_length(",
            $column,
            ") WHEN 0 THEN coalesce((SELECT group_concat(bytes, '') FROM \
             (SELECT k.bytes FROM chunked_texts c \
              CROSS JOIN chunks k ON k.number BETWEEN c.first_chunk AND c.last_chunk \
              WHERE c.task_sequence = ",
            $sequence,
            " AND c.part = '",
            $part,
            "' AND c.position = ",
            $position,
            " ORDER BY k.number)), '') ELSE ",
            $column,
            " END"
        )
    };
}
pub(super) use whole_text;

/// SQL for the status of a task `t`: how it ended, or else which table its row is in.
macro_rules! status_of {
    () => {
        "coalesce(t.ended, CASE WHEN EXISTS (SELECT 1 FROM leases l WHERE l.tenant_id = t.tenant_id \
         AND l.task_sequence = t.sequence) THEN 'executing' WHEN EXISTS (SELECT 1 FROM later d \
         WHERE d.task_sequence = t.sequence AND d.is_paused) THEN 'paused' ELSE 'pending' END)"
    };
}
pub(super) use status_of;

/// Selects tasks with their inputs, in the columns that [`task`] reads.
macro_rules! select_tasks {
    ($($where:literal),+ $(,)?) => {
        concat!(
            "SELECT t.sequence, t.id, t.tenant_id, t.agent_id, \
             coalesce(t.ended, CASE WHEN l.task_sequence IS NOT NULL THEN 'executing' \
                 WHEN d.is_paused THEN 'paused' ELSE 'pending' END), \
             coalesce(l.attempts, r.attempts, d.attempts, t.attempts), t.created_at, \
             coalesce(l.started_at, r.started_at, d.started_at, t.started_at), t.finished_at, \
             t.thread, t.source, ",
            $crate::store::rows::whole_text!("b.user", "user", "t.sequence"),
            ", ",
            $crate::store::rows::whole_text!("b.prompt", "prompt", "t.sequence"),
            ", ",
            $crate::store::rows::whole_text!("b.mapping", "mapping", "t.sequence"),
            ", ",
            $crate::store::rows::whole_text!("b.payload", "payload", "t.sequence"),
            ", t.result, t.thread_surface, ",
            $crate::store::rows::whole_text!("x.rest", "rest", "t.sequence"),
            " FROM tasks t CROSS JOIN bodies b ON b.task_sequence = t.sequence \
             LEFT JOIN result_rests x ON x.task_sequence = t.sequence \
             LEFT JOIN leases l ON t.ended IS NULL AND l.tenant_id = t.tenant_id \
                 AND l.task_sequence = t.sequence \
             LEFT JOIN ready r ON t.ended IS NULL AND r.tenant_id = t.tenant_id \
                 AND r.task_sequence = t.sequence \
             LEFT JOIN later d ON t.ended IS NULL AND d.task_sequence = t.sequence WHERE ",
            $($where),+
        )
    };
}
pub(super) use select_tasks;

/// Decodes who did something, if that was recorded.
pub(super) fn installer(stored: Option<&str>) -> sqlx::Result<Option<Installer>> {
    match stored {
        None => Ok(None),
        Some("operator") => Ok(Some(Installer::Operator)),
        Some("admin") => Ok(Some(Installer::Admin)),
        Some(_) => Err(unreadable("something done by an unknown role")),
    }
}

pub(super) fn task(row: &SqliteRow) -> sqlx::Result<Task> {
    let user = row.try_get::<Option<&str>, _>(11)?.map(serde_json::from_str).transpose();
    Ok(Task {
        sequence: row.try_get(0)?,
        id: task_id(row, 1)?,
        tenant: tenant_id(row, 2)?,
        agent: agent_id(row, 3)?,
        status: parsed(row, 4)?,
        attempts: row.try_get(5)?,
        created_at: timestamp(row, 6)?,
        started_at: optional_timestamp(row, 7)?,
        finished_at: optional_timestamp(row, 8)?,
        thread: row.try_get::<Option<&str>, _>(9)?.map(parse).transpose()?,
        thread_surface: surface(row, 16)?,
        source: row.try_get(10)?,
        input: Input {
            user: user.map_err(unreadable)?.unwrap_or_default(),
            prompt: row.try_get(12)?,
            payload: row.try_get(14)?,
        },
        mapping: row.try_get(13)?,
        result: result(row)?,
    })
}

/// The whole result, which may be stored in two parts.
fn result(row: &SqliteRow) -> sqlx::Result<Option<String>> {
    let beginning: Option<&str> = row.try_get(15)?;
    let rest: Option<&str> = row.try_get(17)?;
    Ok(beginning.map(|beginning| [beginning, rest.unwrap_or_default()].concat()))
}

/// Splits a result for storage into the beginning, which lists show, and the rest.
pub(super) fn stored_result(result: String) -> (Arc<str>, Option<Arc<str>>) {
    match result.char_indices().nth(SHOWN_RESULT_CHARS_MAX as usize) {
        Some((end, _)) => {
            let (beginning, rest) = result.split_at(end);
            (beginning.into(), Some(rest.into()))
        }
        None => (result.into(), None),
    }
}

/// Columns: id, name, created_at.
pub(super) fn tenant(row: &SqliteRow) -> sqlx::Result<Tenant> {
    Ok(Tenant { id: tenant_id(row, 0)?, name: parsed(row, 1)?, created_at: timestamp(row, 2)? })
}

/// Selects agents, in the columns that [`agent`] reads.
macro_rules! select_agents {
    ($rest:literal) => {
        $crate::store::rows::select_agents!("", $rest)
    };
    ($more:literal, $rest:literal) => {
        concat!(
            "SELECT a.id, a.tenant_id, a.definition, a.version, a.disabled, a.created_at, \
             a.updated_at",
            $more,
            " FROM agents a ",
            $rest
        )
    };
}
pub(super) use select_agents;

/// The index of the first column after those of [`select_agents!`].
pub(super) const AFTER_AGENT: usize = 7;

pub(super) fn agent(row: &SqliteRow) -> sqlx::Result<Agent> {
    Ok(Agent {
        id: agent_id(row, 0)?,
        tenant: tenant_id(row, 1)?,
        definition: serde_json::from_str(row.try_get(2)?).map_err(unreadable)?,
        version: row.try_get(3)?,
        enabled: !row.try_get::<bool, _>(4)?,
        created_at: timestamp(row, 5)?,
        updated_at: timestamp(row, 6)?,
    })
}

/// Columns: generation, revoked_at.
pub(super) fn webhook(row: &SqliteRow) -> sqlx::Result<Webhook> {
    let revoked = row.try_get::<Option<i64>, _>(1)?.is_some();
    Ok(Webhook { generation: row.try_get(0)?, revoked })
}

/// Columns: holder, tenant_id, admin, id, name, created_at, expires_at, revoked_at.
pub(super) fn key(row: &SqliteRow) -> sqlx::Result<Key> {
    Ok(Key {
        holder: key_holder(row)?,
        id: bytes(row, 3).map(KeyId::from_stored)?,
        name: row.try_get(4)?,
        created_at: timestamp(row, 5)?,
        expires_at: optional_timestamp(row, 6)?,
        revoked_at: optional_timestamp(row, 7)?,
    })
}

/// Columns: id, agent_id, thread, user_id, status, source, result, created_at, updated_at.
pub(super) fn task_summary(row: &SqliteRow) -> sqlx::Result<TaskSummary> {
    Ok(TaskSummary {
        id: task_id(row, 0)?,
        agent: agent_id(row, 1)?,
        thread: row.try_get::<Option<&str>, _>(2)?.map(parse).transpose()?,
        user_id: row.try_get(3)?,
        status: parsed(row, 4)?,
        source: row.try_get(5)?,
        result: row.try_get(6)?,
        created_at: timestamp(row, 7)?,
        updated_at: timestamp(row, 8)?,
    })
}

/// Columns: holder, tenant_id, admin.
pub(super) fn key_holder(row: &SqliteRow) -> sqlx::Result<KeyHolder> {
    match row.try_get(0)? {
        "tenant" if row.try_get(2)? => tenant_id(row, 1).map(KeyHolder::Admin),
        "tenant" => tenant_id(row, 1).map(KeyHolder::Tenant),
        "operator" => Ok(KeyHolder::Operator),
        _ => Err(unreadable("a key without a holder")),
    }
}

/// Columns: holder, tenant_id, admin, expires_at.
pub(super) fn valid_key(row: &SqliteRow) -> sqlx::Result<ValidKey> {
    Ok(ValidKey { holder: key_holder(row)?, expires_at: optional_timestamp(row, 3)? })
}

pub(super) fn tenant_id(row: &SqliteRow, column: usize) -> sqlx::Result<TenantId> {
    bytes(row, column).map(TenantId::from_stored)
}

pub(super) fn agent_id(row: &SqliteRow, column: usize) -> sqlx::Result<AgentId> {
    bytes(row, column).map(AgentId::from_stored)
}

pub(super) fn task_id(row: &SqliteRow, column: usize) -> sqlx::Result<TaskId> {
    bytes(row, column).map(TaskId::from_stored)
}

/// The stored form of a surface: empty for the API, the four bytes of the generation for a webhook's token, the 16
/// bytes of the id for a channel.
pub(super) fn stored_surface(surface: Surface) -> Vec<u8> {
    match surface {
        Surface::Api => Vec::new(),
        Surface::Webhook { generation } => generation.to_be_bytes().to_vec(),
        Surface::Channel(channel) => channel.as_bytes().to_vec(),
    }
}

pub(super) fn surface(row: &SqliteRow, column: usize) -> sqlx::Result<Surface> {
    let stored: &[u8] = row.try_get(column)?;
    if stored.is_empty() {
        return Ok(Surface::Api);
    }
    if let Ok(generation) = stored.try_into() {
        return Ok(Surface::Webhook { generation: u32::from_be_bytes(generation) });
    }
    bytes(row, column).map(|id| Surface::Channel(ChannelId::from_stored(id)))
}

/// Decodes a column that holds exactly `N` bytes.
pub(super) fn bytes<const N: usize>(row: &SqliteRow, column: usize) -> sqlx::Result<[u8; N]> {
    row.try_get::<&[u8], _>(column)?.try_into().map_err(unreadable)
}

pub(super) fn timestamp(row: &SqliteRow, column: usize) -> sqlx::Result<Timestamp> {
    row.try_get(column).map(Timestamp::from_micros)
}

fn optional_timestamp(row: &SqliteRow, column: usize) -> sqlx::Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
}

pub(super) fn parsed<T>(row: &SqliteRow, column: usize) -> sqlx::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    parse(row.try_get(column)?)
}

pub(super) fn parse<T>(text: &str) -> sqlx::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse().map_err(unreadable)
}

pub(super) fn unreadable(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
