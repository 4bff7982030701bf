//! Lists a tenant's tasks, and looks up conversations.

use sqlx::Row as _;

use crate::ids::{AgentId, TaskId, TenantId, ThreadId};
use crate::store::rows::{self, status_of};
use crate::store::{Store, StoreError, busy};
use crate::tasks::{SHOWN_RESULT_CHARS_MAX, Slice, Surface, TaskFilter, TaskSummary};

/// The highest total that a list counts to, and how deep its pages reach. Going further would scan a tenant's whole
/// history for pages that nobody reads.
const COUNT_MAX: u32 = 100_000;

/// The conditions of a filter, with or without a user: separate statements, so that the planner uses the matching
/// index.
macro_rules! filtered {
    ($before:literal, $user:literal, $after:literal) => {
        concat!(
            $before,
            " FROM tasks t WHERE t.tenant_id = ?1 AND ",
            $user,
            " AND (?3 IS NULL OR t.agent_id = ?3) AND (?4 IS NULL OR ",
            status_of!(),
            " = ?4) ",
            $after
        )
    };
}

macro_rules! list {
    ($user:literal) => {
        concat!(
            // The status is looked up only for the rows of the page.
            "SELECT t.id, t.agent_id, t.thread, t.user_id, ",
            status_of!(),
            ", t.source, t.shown, t.created_at, coalesce(t.finished_at, \
             (SELECT l.started_at FROM leases l WHERE t.ended IS NULL \
              AND l.tenant_id = t.tenant_id AND l.task_sequence = t.sequence), \
             (SELECT r.started_at FROM ready r WHERE t.ended IS NULL \
              AND r.tenant_id = t.tenant_id AND r.task_sequence = t.sequence), \
             t.created_at) FROM (",
        filtered!(
            "SELECT t.id, t.agent_id, t.thread, t.user_id, t.ended, t.source, \
             substr(t.result, 1, ?7) AS shown, t.created_at, t.finished_at, t.tenant_id, t.sequence",
            $user,
            "ORDER BY t.sequence DESC LIMIT ?5 OFFSET ?6"
        ), ") AS t ORDER BY t.sequence DESC")
    };
}

macro_rules! count {
    ($user:literal) => {
        concat!("SELECT count(*) FROM (", filtered!("SELECT 1", $user, "LIMIT ?5"), ")")
    };
}

const LIST: &str = list!("?2 IS NULL");
const LIST_OF_USER: &str = list!("t.user_id = ?2");
const COUNT: &str = count!("?2 IS NULL");
const COUNT_OF_USER: &str = count!("t.user_id = ?2");

impl Store {
    /// The tenant's tasks that match a filter, newest first, and how many there are in all, counted up to 100,000.
    /// Pages beyond that are empty. A page holds at most the beginnings of its results: their rests and the payloads
    /// are not read.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list_tasks(
        &self,
        tenant: TenantId,
        filter: &TaskFilter,
        slice: Slice,
    ) -> Result<(Vec<TaskSummary>, u64), StoreError> {
        self.read_list(tenant, filter, slice).await.map_err(|error| busy("list tasks", error))
    }

    async fn read_list(
        &self,
        tenant: TenantId,
        filter: &TaskFilter,
        slice: Slice,
    ) -> sqlx::Result<(Vec<TaskSummary>, u64)> {
        let (list, count) = match filter.user {
            Some(_) => (LIST_OF_USER, COUNT_OF_USER),
            None => (LIST, COUNT),
        };
        let bound = |text: &'static str| {
            sqlx::query(text)
                .bind(tenant.as_bytes().as_slice())
                .bind(filter.user.as_deref())
                .bind(filter.agent.as_ref().map(|agent| agent.as_bytes().as_slice()))
                .bind(filter.status.map(|status| status.as_str()))
        };
        let counting = bound(count).bind(COUNT_MAX);
        let limit = slice.limit.min(COUNT_MAX.saturating_sub(slice.offset));
        let listing =
            bound(list).bind(limit).bind(slice.offset.min(COUNT_MAX)).bind(SHOWN_RESULT_CHARS_MAX);
        let lists = self.0.lists.clone();
        let read = self.read_on_home_runtime(async move {
            let mut turn = lists.acquire(tenant).await?;
            let total: i64 = counting.fetch_one(&mut *turn.connection).await?.try_get(0)?;
            let rows = match limit {
                0 => Vec::new(),
                _ => listing.fetch_all(&mut *turn.connection).await?,
            };
            Ok((total, rows))
        });
        let (total, rows) = read.await?;
        let tasks = rows.iter().map(rows::task_summary).collect::<Result<_, _>>()?;
        Ok((tasks, u64::try_from(total).unwrap_or_default()))
    }

    /// The newest task of a thread of this tenant's API, with any agent.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn newest_in_thread(
        &self,
        tenant: TenantId,
        thread: &ThreadId,
    ) -> Result<Option<TaskId>, StoreError> {
        let query = sqlx::query(
            "SELECT id FROM tasks WHERE tenant_id = ? AND thread_surface = ? AND thread = ? \
             ORDER BY sequence DESC LIMIT 1",
        )
        .bind(tenant.as_bytes().as_slice())
        .bind(rows::stored_surface(Surface::Api))
        .bind(thread.as_str());
        self.one("find a conversation", query, |row| rows::task_id(row, 0)).await
    }

    /// The thread that an agent's task belongs to; `Some(None)` if the task started one of its own, which is named
    /// after its id. None if the agent has no such task, or if its conversation belongs to another surface.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn thread_of(
        &self,
        tenant: TenantId,
        agent: AgentId,
        surface: Surface,
        task: TaskId,
    ) -> Result<Option<Option<String>>, StoreError> {
        let query = sqlx::query(
            "SELECT thread FROM tasks \
             WHERE id = ? AND tenant_id = ? AND agent_id = ? AND thread_surface = ?",
        )
        .bind(task.as_bytes().as_slice())
        .bind(tenant.as_bytes().as_slice())
        .bind(agent.as_bytes().as_slice())
        .bind(rows::stored_surface(surface));
        self.one("find a conversation", query, |row| row.try_get(0)).await
    }
}
