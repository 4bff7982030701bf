//! What the store guarantees, tested on a real file in a temporary folder.

mod accepting;
mod changing;
mod checkpoints;
mod chunking;
mod delivering;
mod fair_queue;
mod journal;
mod keeping;
mod leasing;
mod migrating;
mod owning;
mod planning;

use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use tempfile::TempDir;

use super::{Capacity, Store, StoreError};
use crate::clock::{Clock, Timestamp};
use crate::ids::{AgentId, ChannelId, TaskId, TenantId, ThreadId};
use crate::tasks::{
    Accepted, Claimed, EndStatus, Fence, IdempotencyClaim, Input, NewTask, Outcome, Slice,
    StoredRequest, Surface, Task, TaskFilter, User,
};
use crate::tenants::{AgentDefinition, Precondition};
use crate::trace::Step;

const LEASE: Duration = Duration::from_secs(90);

/// Room for all executing tasks that one tenant has in these tests.
const ROOM: usize = 100_000;
const NOON: i64 = 1_800_000_000_000_000;

/// A store with a clock that stands still, and an owner of the tasks in it.
struct Fixture {
    folder: TempDir,
    clock: Clock,
    store: Store,
    owner: Owner,
}

/// A tenant with one agent.
#[derive(Debug, Clone, Copy)]
struct Owner {
    tenant: TenantId,
    agent: AgentId,
}

impl Fixture {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let clock = Clock::manual(Timestamp::from_micros(NOON));
        let store = Store::open(&folder.path().join("store.db"), clock.clone()).await.unwrap();
        let owner = new_owner(&store).await;
        Self { folder, clock, store, owner }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    /// Closes and reopens the store, like a restart.
    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = Store::open(&self.path(), self.clock.clone()).await.unwrap();
    }

    /// Accepts this many tasks and returns their ids, in order.
    async fn accept(&self, owner: Owner, count: usize) -> Vec<TaskId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let task = new_task(owner);
            ids.push(task.id);
            assert_eq!(self.store.accept(task).await.unwrap(), Accepted::New);
        }
        ids
    }

    /// Claims tasks without a need to leave room for other tenants.
    async fn claim(&self, wanted: usize) -> Vec<Claimed> {
        let capacity = Capacity { wanted, free: ROOM, per_tenant_max: ROOM };
        self.store.claim(capacity, LEASE).await.unwrap()
    }

    async fn claim_one(&self) -> Claimed {
        let mut claimed = self.claim(1).await;
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    async fn task(&self, id: TaskId) -> Task {
        self.store.task_by_id(id).await.unwrap().unwrap()
    }

    /// Finishes a task as its worker would.
    async fn finish(
        &self,
        id: TaskId,
        fence: Fence,
        outcome: Outcome,
        steps: Vec<Step>,
    ) -> Result<bool, StoreError> {
        let task = self.task(id).await;
        self.store.finish(&task, fence, outcome, &steps).await
    }

    async fn steps(&self, id: TaskId) -> Result<Vec<Step>, StoreError> {
        self.store.steps(&self.task(id).await).await
    }

    async fn count_tasks(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM tasks")
            .fetch_one(self.store.reads())
            .await
            .unwrap()
    }
}

async fn new_owner(store: &Store) -> Owner {
    let owner = Owner { tenant: TenantId::random(), agent: AgentId::random() };
    let name = format!("tenant {}", owner.tenant).parse().unwrap();
    store.create_tenant(owner.tenant, &name).await.unwrap();
    let clerk = definition("clerk");
    store.put_agent(owner.tenant, owner.agent, &clerk, Precondition::Absent).await.unwrap();
    owner
}

fn definition(name: &str) -> AgentDefinition {
    serde_json::from_value(serde_json::json!({"name": name})).unwrap()
}

fn new_task(owner: Owner) -> NewTask {
    NewTask {
        id: TaskId::random(),
        tenant: owner.tenant,
        agent: owner.agent,
        thread: None,
        thread_surface: Surface::Api,
        source: "webhook",
        input: Input {
            prompt: None,
            payload: r#"{"text":"hello"}"#.to_owned(),
            user: User::default(),
        },
        mapping: None,
        idempotency: None,
        request: StoredRequest {
            channel: None,
            head: r#"{"method":"POST","path":"/","query":"","headers":[]}"#.to_owned(),
            body: br#"{"text":"hello"}"#.as_slice().into(),
        },
        deliver: false,
        sealed_tokens: None,
    }
}

/// A task of the API that claims a key, from a request with this fingerprint.
fn keyed_task(owner: Owner, key: &str, fingerprint: u8) -> NewTask {
    keyed_task_of(owner, Surface::Api, key, fingerprint)
}

fn keyed_task_of(owner: Owner, surface: Surface, key: &str, fingerprint: u8) -> NewTask {
    let (key, fingerprint) = (key.parse().unwrap(), [fingerprint; 32]);
    let claim = IdempotencyClaim { surface, key, fingerprint };
    NewTask { idempotency: Some(claim), thread_surface: surface, ..new_task(owner) }
}

/// One surface of each kind, and two of the kinds that can have several.
fn surfaces() -> [Surface; 5] {
    [
        Surface::Api,
        Surface::Webhook { generation: 0 },
        Surface::Webhook { generation: 1 },
        Surface::Channel(ChannelId::random()),
        Surface::Channel(ChannelId::random()),
    ]
}

fn completed(result: &str) -> Outcome {
    Outcome { status: EndStatus::Completed, result: result.to_owned() }
}
