//! Accepting tasks: the task, its payload and its claim on an idempotency key in one transaction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, Sqlite};

use super::chunks;
use super::chunks::{Chunked, Chunker, LongWrite, Part};
use crate::clock::Timestamp;
use crate::ids::{AgentId, ChannelId, IdempotencyKey, TaskId, TenantId, ThreadId};
use crate::store::fair_queue::{Flow, SMALL_BYTES_MAX};
use crate::store::rows;
use crate::store::sqlite::{BatchScript, BatchStatement, execute, fetch};
use crate::store::write::{Queued, Session, Write};
use crate::store::writer::Op;
use crate::store::{Store, StoreError};
use crate::tasks::{Accepted, IdempotencyClaim, NewTask, Surface, Task};

/// How long an idempotency key is taken, from the acceptance of its task (CONTRACT D6).
const KEY_TTL: Duration = Duration::from_hours(24);

// CROSS JOIN fixes the order: first the claimed keys, then the index look-up for each of them.
pub(in crate::store) static KEY_OWNERS: BatchStatement = BatchStatement::new(
    "SELECT k.tenant_id, k.agent_id, k.key, t.id, k.fingerprint, k.surface FROM (VALUES",
    "(?, ?, ?, ?)",
    ") AS claimed CROSS JOIN idempotency k ON k.tenant_id = claimed.column1 \
     AND k.agent_id = claimed.column2 AND k.surface = claimed.column3 AND k.key = claimed.column4 \
     CROSS JOIN tasks t ON t.sequence = k.task_sequence WHERE k.expires_at > ?",
);

/// Inserts tasks and their inputs, and makes them ready.
static INSERT_TASKS: BatchScript<3> = BatchScript::new([
    BatchStatement::new(
        "INSERT INTO tasks (sequence, id, tenant_id, agent_id, created_at, thread, thread_surface, source, \
         user_id) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    ),
    BatchStatement::new(
        "INSERT INTO bodies (task_sequence, \"user\", prompt, mapping, payload, head, body, channel_id) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    ),
    BatchStatement::new(
        "INSERT INTO ready (tenant_id, task_sequence, attempts, fence) VALUES",
        "(?, ?, 0, 0)",
        "",
    ),
]);

static INSERT_DELIVERIES: BatchStatement = BatchStatement::new(
    "INSERT INTO deliveries (task_sequence, tenant_id, channel_id) VALUES",
    "(?, ?, ?)",
    "",
);

const INSERT_SEALED: &str = "INSERT INTO sealed_tokens (task_sequence, sealed) VALUES (?, ?)";

const READ_SEALED: &str = "SELECT sealed FROM sealed_tokens WHERE task_sequence = ?";

// REPLACE, since an expired claim on the same key may still be stored.
static INSERT_KEYS: BatchStatement = BatchStatement::new(
    "REPLACE INTO idempotency \
     (task_sequence, tenant_id, agent_id, surface, key, fingerprint, expires_at) VALUES",
    "(?, ?, ?, ?, ?, ?, ?)",
    "",
);

impl Store {
    /// Stores a task with its payload and its claim on an idempotency key, and returns once all of it is synced. If
    /// the key is taken, nothing is stored and the answer names the task that holds the key: of any number of callers
    /// with the same key, exactly one gets [`Accepted::New`]. A key is free again 24 hours after the acceptance of
    /// its task.
    ///
    /// Dropping the future does not cancel the operation.
    ///
    /// # Errors
    /// If the tenant has no such agent ([`StoreError::Missing`]), if the id is taken ([`StoreError::Conflict`]), or
    /// if the task cannot be synced ([`StoreError::Unavailable`]).
    pub async fn accept(&self, task: NewTask) -> Result<Accepted, StoreError> {
        let accept = Accept::new(task)
            .map_err(|error| StoreError::serialization(Accept::OPERATION, error))?;
        if accept.bytes() > SMALL_BYTES_MAX
            && let Some(key_owner) = accept.key_owner(self.now())
            // If the key is taken, nothing need be written ahead. A key that reads as taken is synced.
            && let Some(owner) = self.one(Accept::OPERATION, key_owner, owner).await?
            && let Some(replayed) = accept.replayed(&owner)
        {
            return Ok(replayed);
        }
        self.queue_long(accept, Op::Accept).await
    }
}

impl Store {
    /// The sealed tokens of a task's user. None if the request had none, or the task has ended.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn sealed_tokens(&self, task: &Task) -> Result<Option<Vec<u8>>, StoreError> {
        let query = sqlx::query(READ_SEALED).bind(task.sequence);
        self.one("read the tokens of a task's user", query, |row| row.try_get(0)).await
    }
}

/// A [`NewTask`] whose texts can be bound without being copied, and bound again if the transaction is repeated.
pub(in crate::store) struct Accept {
    id: TaskId,
    tenant: TenantId,
    agent: AgentId,
    thread: Option<ThreadId>,
    thread_surface: Surface,
    source: &'static str,
    user: Option<Arc<str>>,
    user_id: Option<Arc<str>>,
    prompt: Option<Arc<str>>,
    mapping: Option<Arc<str>>,
    payload: Arc<str>,
    idempotency: Option<IdempotencyClaim>,
    channel: Option<ChannelId>,
    head: Arc<str>,
    /// None if the body is the payload, byte for byte.
    body: Option<Arc<Vec<u8>>>,
    deliver: bool,
    sealed_tokens: Option<Arc<Vec<u8>>>,
    /// The texts that are written ahead; their fields here are empty.
    chunked: Option<Chunked>,
}

impl Write for Accept {
    type Answer = Accepted;
    const OPERATION: &'static str = "accept a task";

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        let texts = [&self.user, &self.prompt, &self.mapping];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        let body = self.body.as_ref().map_or(0, |body| body.len());
        texts + self.payload.len() + self.head.len() + body
    }
}

impl LongWrite for Accept {
    fn cut(&mut self, chunker: &mut Chunker) {
        chunker.text(Part::Payload, &mut self.payload);
        let texts = [
            (Part::User, &mut self.user),
            (Part::Prompt, &mut self.prompt),
            (Part::Mapping, &mut self.mapping),
        ];
        for (part, text) in texts {
            if let Some(text) = text {
                chunker.text(part, text);
            }
        }
        if let Some(body) = &mut self.body {
            chunker.bytes(Part::Body, body);
        }
    }

    fn chunked(&mut self) -> &mut Option<Chunked> {
        &mut self.chunked
    }

    fn is_applied(answer: &Accepted) -> bool {
        *answer == Accepted::New
    }
}

impl Accept {
    pub(in crate::store) fn new(task: NewTask) -> Result<Self, serde_json::Error> {
        let user = &task.input.user;
        let user = if user.is_unknown() { None } else { Some(serde_json::to_string(user)?) };
        let is_payload = task.request.body == task.input.payload.as_bytes();
        Ok(Self {
            id: task.id,
            tenant: task.tenant,
            agent: task.agent,
            thread: task.thread,
            thread_surface: task.thread_surface,
            source: task.source,
            user: user.map(Arc::from),
            user_id: task.input.user.id.as_deref().map(Arc::from),
            prompt: task.input.prompt.map(Arc::from),
            mapping: task.mapping.map(Arc::from),
            payload: task.input.payload.into(),
            idempotency: task.idempotency,
            channel: task.request.channel,
            head: task.request.head.into(),
            body: (!is_payload).then(|| Arc::new(task.request.body.into())),
            deliver: task.deliver,
            sealed_tokens: task.sealed_tokens.map(Arc::new),
            chunked: None,
        })
    }

    /// Queries the owner of its key. None if it claims no key.
    pub(in crate::store) fn key_owner(
        &self,
        now: Timestamp,
    ) -> Option<Query<'static, Sqlite, SqliteArguments>> {
        let key = self.scoped_key()?;
        let (sql, _) = KEY_OWNERS.parts(&[()]).next()?;
        Some(bind_key(sqlx::query(sql), &key).bind(now.micros()))
    }

    /// The answer if its key belongs to this owner.
    pub(in crate::store) fn replayed(&self, owner: &Owner) -> Option<Accepted> {
        self.idempotency.as_ref().map(|claim| owner.replayed_by(claim))
    }

    /// The key that it claims, with everything that scopes it.
    fn scoped_key(&self) -> Option<ScopedKey> {
        let claim = self.idempotency.as_ref()?;
        Some((self.tenant, self.agent, claim.surface, claim.key.clone()))
    }
}

type ScopedKey = (TenantId, AgentId, Surface, IdempotencyKey);

/// The task that holds a key, and the fingerprint of the request it came from.
pub(in crate::store) struct Owner {
    task: TaskId,
    fingerprint: [u8; 32],
}

impl Owner {
    /// The answer to a request with this claim.
    fn replayed_by(&self, claim: &IdempotencyClaim) -> Accepted {
        let same_request = self.fingerprint == claim.fingerprint;
        Accepted::Replayed { original: self.task, same_request }
    }
}

/// Columns: those of [`KEY_OWNERS`].
pub(in crate::store) fn owner(row: &SqliteRow) -> sqlx::Result<Owner> {
    Ok(Owner { task: rows::task_id(row, 3)?, fingerprint: rows::bytes(row, 4)? })
}

/// Stores every task whose key is free, and answers each one.
pub(in crate::store) async fn apply_accepts(
    arrivals: &mut [Queued<Accept>],
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
    let keys: Vec<ScopedKey> = arrivals.iter().filter_map(|one| one.write.scoped_key()).collect();
    let mut owners = owners(&keys, session).await?;
    let mut new = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let answer = claim_key(&arrival.write, &mut owners);
        arrival.set_answer(answer);
        if answer == Accepted::New {
            session.state.last_sequence += 1;
            new.push((session.state.last_sequence, &arrival.write));
        }
    }
    insert_tasks(&new, session).await?;
    insert_keys(&new, session).await?;
    let chunked = new.iter().filter_map(|(at, task)| Some((*at, 0, task.chunked.as_ref()?)));
    chunks::claim(&chunked.collect::<Vec<_>>(), session).await
}

/// Checks whether the task's key is free. If so, the task takes the key, also against later tasks of the same batch.
fn claim_key(task: &Accept, owners: &mut HashMap<ScopedKey, Owner>) -> Accepted {
    let (Some(key), Some(claim)) = (task.scoped_key(), &task.idempotency) else {
        return Accepted::New;
    };
    match owners.entry(key) {
        Entry::Occupied(taken) => taken.get().replayed_by(claim),
        Entry::Vacant(free) => {
            free.insert(Owner { task: task.id, fingerprint: claim.fingerprint });
            Accepted::New
        }
    }
}

/// Binds one row of [`KEY_OWNERS`].
fn bind_key<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    (tenant, agent, surface, key): &ScopedKey,
) -> Query<'q, Sqlite, SqliteArguments> {
    query
        .bind(tenant.as_bytes().to_vec())
        .bind(agent.as_bytes().to_vec())
        .bind(rows::stored_surface(*surface))
        .bind(key.as_str().to_owned())
}

/// The current owners of these keys. Free and expired keys are absent.
async fn owners(
    keys: &[ScopedKey],
    session: &mut Session<'_>,
) -> sqlx::Result<HashMap<ScopedKey, Owner>> {
    let mut owners = HashMap::new();
    for (sql, part) in KEY_OWNERS.parts(keys) {
        let mut query = sqlx::query(sql);
        for key in part {
            query = bind_key(query, key);
        }
        query = query.bind(session.now.micros());
        for row in fetch(query, session.db).await? {
            let owner = owner(&row)?;
            let key = IdempotencyKey::from_stored(row.try_get(2)?);
            let (tenant, agent) = (rows::tenant_id(&row, 0)?, rows::agent_id(&row, 1)?);
            owners.insert((tenant, agent, rows::surface(&row, 5)?, key), owner);
        }
    }
    Ok(owners)
}

async fn insert_tasks(new: &[(i64, &Accept)], session: &mut Session<'_>) -> sqlx::Result<()> {
    for (sql, part) in INSERT_TASKS.parts(new) {
        let mut query = sqlx::query(sql);
        for (sequence, task) in part {
            query = query
                .bind(sequence)
                .bind(task.id.as_bytes().as_slice())
                .bind(task.tenant.as_bytes().as_slice())
                .bind(task.agent.as_bytes().as_slice())
                .bind(session.now.micros())
                .bind(task.thread.as_ref().map(ThreadId::as_str))
                .bind(rows::stored_surface(task.thread_surface))
                .bind(task.source)
                .bind(task.user_id.clone());
        }
        for (sequence, task) in part {
            query = query
                .bind(sequence)
                .bind(task.user.clone())
                .bind(task.prompt.clone())
                .bind(task.mapping.clone())
                .bind(Arc::clone(&task.payload))
                .bind(Arc::clone(&task.head))
                .bind(task.body.clone())
                .bind(task.channel.as_ref().map(|channel| channel.as_bytes().as_slice()));
        }
        for (sequence, task) in part {
            query = query.bind(task.tenant.as_bytes().as_slice()).bind(*sequence);
        }
        INSERT_TASKS.fetch_rows(query, session.db).await?;
    }
    for (sequence, task) in new {
        if let Some(sealed) = &task.sealed_tokens {
            let insert = sqlx::query(INSERT_SEALED).bind(*sequence).bind(Arc::clone(sealed));
            execute(insert, session.db).await?;
        }
    }
    insert_deliveries(new, session).await
}

async fn insert_deliveries(new: &[(i64, &Accept)], session: &mut Session<'_>) -> sqlx::Result<()> {
    let delivered: Vec<_> = new
        .iter()
        .filter(|(_, task)| task.deliver)
        .filter_map(|(sequence, task)| Some((*sequence, task, task.channel.as_ref()?)))
        .collect();
    for (sql, part) in INSERT_DELIVERIES.parts(&delivered) {
        let mut query = sqlx::query(sql);
        for (sequence, task, channel) in part {
            query = query
                .bind(*sequence)
                .bind(task.tenant.as_bytes().as_slice())
                .bind(channel.as_bytes().as_slice());
        }
        execute(query, session.db).await?;
    }
    Ok(())
}

async fn insert_keys(new: &[(i64, &Accept)], session: &mut Session<'_>) -> sqlx::Result<()> {
    let expires_at = session.now.plus(KEY_TTL).micros();
    let claims: Vec<_> = new
        .iter()
        .filter_map(|(sequence, task)| Some((sequence, task, task.idempotency.as_ref()?)))
        .collect();
    for (sql, part) in INSERT_KEYS.parts(&claims) {
        let mut query = sqlx::query(sql);
        for (sequence, task, claim) in part {
            query = query
                .bind(*sequence)
                .bind(task.tenant.as_bytes().as_slice())
                .bind(task.agent.as_bytes().as_slice())
                .bind(rows::stored_surface(claim.surface))
                .bind(claim.key.as_str())
                .bind(claim.fingerprint.as_slice())
                .bind(expires_at);
        }
        execute(query, session.db).await?;
    }
    Ok(())
}
