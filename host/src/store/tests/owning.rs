//! What tenants own: each tenant sees its own data, and none sees or changes that of another.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::ids::{KeyId, PluginDigest, PluginName};
use crate::secrets::SecretHash;
use crate::tenants::{InstalledPlugin, KeyHolder, NewKey, Provenance, Webhook};

#[tokio::test]
async fn the_file_is_its_owners_only() {
    let fixture = Fixture::new().await;
    fixture.accept(fixture.owner, 1).await;
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        let mode = fixture.folder.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    std::fs::write(&path, [b'x'; 10_000]).unwrap();
    let refused = Store::open(&path, Clock::system()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    let missing = folder.path().join("missing").join("store.db");
    let refused = Store::open(&missing, Clock::system()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_tenant_is_created_once_and_its_name_is_its_own() {
    let mut fixture = Fixture::new().await;
    let (acme, name) = (TenantId::random(), "acme".parse().unwrap());
    fixture.store.create_tenant(acme, &name).await.unwrap();
    fixture.store.create_tenant(acme, &name).await.unwrap();
    let refused = fixture.store.create_tenant(TenantId::random(), &name).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    fixture.reopen().await;
    let tenants = fixture.store.tenants().await.unwrap();
    assert_eq!(tenants.iter().filter(|tenant| tenant.id == acme).count(), 1);
    assert_eq!(tenants.len(), 2);
    let found = fixture.store.tenant(acme).await.unwrap().unwrap();
    assert_eq!((found.name, found.created_at.micros()), (name, NOON));
}

/// A key with this text, and its hash.
fn key(text: &str, holder: KeyHolder) -> NewKey {
    let hash = SecretHash::of(text);
    NewKey { id: KeyId::random(), hash, holder, name: text.to_owned(), expires_at: None }
}

#[tokio::test]
async fn a_key_opens_for_its_holder_until_it_expires_or_is_revoked() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let tenant = fixture.owner.tenant;
    let soon = fixture.clock.now().plus(Duration::from_micros(1));
    let callers = NewKey { expires_at: Some(soon), ..key("wgk_1", KeyHolder::Tenant(tenant)) };
    let admins = key("wgk_2", KeyHolder::Admin(tenant));
    let operators = key("wgo_1", KeyHolder::Operator);
    let holder =
        async |key: &NewKey| store.valid_key(key.hash).await.unwrap().map(|key| key.holder);
    for one in [&callers, &admins, &operators] {
        assert_eq!(holder(one).await, None);
        store.put_key(one.clone()).await.unwrap();
        store.put_key(one.clone()).await.unwrap();
        assert_eq!(holder(one).await, Some(one.holder));
    }
    for other in [KeyHolder::Operator, KeyHolder::Admin(tenant)] {
        let refused = store.put_key(key("wgk_1", other)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    }
    let nobody = KeyHolder::Tenant(TenantId::random());
    let refused = store.put_key(key("x", nobody)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Missing { .. }), "{refused:?}");

    fixture.clock.advance(Duration::from_micros(1));
    assert_eq!(holder(&callers).await, None, "expired");
    assert!(!store.revoke_key(Some(tenant), operators.id).await.unwrap(), "not the tenant's");
    assert!(store.revoke_key(None, operators.id).await.unwrap());
    assert_eq!(holder(&operators).await, None, "revoked");
    store.put_key(operators.clone()).await.unwrap();
    assert_eq!(holder(&operators).await, None, "stays revoked");
    let other = new_owner(store).await;
    assert!(!store.revoke_key(Some(other.tenant), admins.id).await.unwrap());
    assert_eq!(holder(&admins).await, Some(admins.holder));
    let listed = store.keys(Some(tenant)).await.unwrap();
    assert_eq!(listed.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().len(), 2);
    assert_eq!(store.keys(None).await.unwrap().len(), 1);
    assert!(store.keys(Some(other.tenant)).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_agent_is_its_tenants_to_read_and_to_change() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let Owner { tenant, agent } = fixture.owner;
    let put = async |tenant, agent, name: &str, precondition| {
        fixture.store.put_agent(tenant, agent, &definition(name), precondition).await
    };
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(put(tenant, agent, "clerk 2", Precondition::Version(1)).await.unwrap(), 2);
    assert_eq!(put(tenant, agent, "clerk 2", Precondition::None).await.unwrap(), 2, "no change");
    let stale = put(tenant, agent, "clerk 3", Precondition::Version(1)).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })));
    for (tenant, agent, name, precondition) in [
        (other.tenant, agent, "thief", Precondition::None),
        (tenant, agent, "again", Precondition::Absent),
        (tenant, AgentId::random(), "clerk 2", Precondition::None),
    ] {
        let refused = put(tenant, agent, name, precondition).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{name}: {refused:?}");
    }
    for (tenant, precondition) in
        [(TenantId::random(), Precondition::None), (tenant, Precondition::Version(1))]
    {
        let refused = put(tenant, AgentId::random(), "stray", precondition).await;
        assert!(matches!(refused, Err(StoreError::Missing { .. })), "{refused:?}");
    }
    assert!(!fixture.store.enable_agent(other.tenant, agent, false).await.unwrap());
    assert!(fixture.store.enable_agent(tenant, agent, false).await.unwrap());

    let stored = fixture.store.agent(tenant, agent).await.unwrap().unwrap();
    assert_eq!((stored.tenant, stored.id, stored.enabled), (tenant, agent, false));
    assert_eq!((stored.definition, stored.created_at.micros()), (definition("clerk 2"), NOON));
    assert!(fixture.store.agent(other.tenant, agent).await.unwrap().is_none());
    let named = "clerk".parse().unwrap();
    assert!(fixture.store.agent_by_name(tenant, &named).await.unwrap().is_none());
    let found = fixture.store.agent_by_name(other.tenant, &named).await.unwrap();
    assert_eq!(found.map(|agent| agent.id), Some(other.agent));
    let agents = fixture.store.agents(other.tenant).await.unwrap();
    assert_eq!(agents.iter().map(|agent| agent.id).collect::<Vec<_>>(), [other.agent]);
}

#[tokio::test]
async fn a_webhook_token_finds_its_agent_until_another_takes_its_place() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let Owner { tenant, agent } = fixture.owner;
    let (first, second) = (SecretHash::of("first"), SecretHash::of("second"));
    let store = &fixture.store;
    let found = async |token| store.agent_by_webhook_token(token).await.unwrap();
    let of_generation =
        async |token| found(token).await.map(|(agent, generation)| (agent.id, generation));
    assert!(found(first).await.is_none());
    for _ in 0..2 {
        store.put_webhook(tenant, agent, 0, first).await.unwrap();
    }
    store.put_webhook(tenant, agent, 0, second).await.unwrap();
    assert_eq!(of_generation(first).await, Some((agent, 0)), "a generation has one token");
    let taken = store.put_webhook(other.tenant, other.agent, 0, first).await;
    assert!(matches!(taken, Err(StoreError::Conflict { .. })));
    let foreign = store.put_webhook(other.tenant, agent, 1, second).await;
    assert!(matches!(foreign, Err(StoreError::Missing { .. })));
    store.put_webhook(tenant, agent, 1, second).await.unwrap();
    assert!(found(first).await.is_none());
    assert_eq!(of_generation(second).await, Some((agent, 1)));
    assert!(!store.revoke_webhook(other.tenant, agent).await.unwrap());
    assert!(store.revoke_webhook(tenant, agent).await.unwrap());
    assert!(found(second).await.is_none());
    let webhook = store.webhook(tenant, agent).await.unwrap();
    assert_eq!(webhook, Some(Webhook { generation: 1, revoked: true }));
}

#[tokio::test]
async fn a_plugin_is_its_tenants_and_can_be_replaced() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let name: PluginName = "mapper".parse().unwrap();
    let plugin = |component: &str| InstalledPlugin {
        name: name.clone(),
        digest: PluginDigest::of(component.as_bytes()),
        installed_at: fixture.clock.now(),
        installed_by: None,
        provenance: Provenance::File,
        version: None,
        signed: None,
    };
    let tenant = fixture.owner.tenant;
    fixture.store.put_plugin(tenant, &plugin("one"), 10).await.unwrap();
    fixture.store.put_plugin(tenant, &plugin("two"), 10).await.unwrap();
    assert_eq!(fixture.store.plugin(tenant, &name).await.unwrap(), Some(plugin("two")));
    assert_eq!(fixture.store.plugins(tenant).await.unwrap(), [plugin("two")]);
    assert_eq!(fixture.store.plugin(other.tenant, &name).await.unwrap(), None);
    assert!(fixture.store.plugins(other.tenant).await.unwrap().is_empty());
    assert!(fixture.store.plugin_versions(other.tenant, &name).await.unwrap().is_empty());
    let (one, two) = (plugin("one").digest, plugin("two").digest);
    let foreign = fixture.store.switch_plugin(other.tenant, &name, two, one).await;
    assert!(matches!(foreign, Err(StoreError::Stale { .. })));
    assert!(fixture.store.delete_plugin(other.tenant, &name).await.unwrap().is_empty());
    // Another client was first, or the version is gone: nothing changes, not even partially.
    let gone = PluginDigest::of(b"forgotten");
    for (from, to) in [(one, two), (two, gone), (two, two), (gone, one)] {
        let stale = fixture.store.switch_plugin(tenant, &name, from, to).await;
        assert!(matches!(stale, Err(StoreError::Stale { .. })));
        assert_eq!(fixture.store.plugin(tenant, &name).await.unwrap(), Some(plugin("two")));
    }
    fixture.store.switch_plugin(tenant, &name, two, one).await.unwrap();
    assert_eq!(fixture.store.plugin(tenant, &name).await.unwrap(), Some(plugin("one")));
    let nobodys = fixture.store.put_plugin(TenantId::random(), &plugin("one"), 10).await;
    assert!(matches!(nobodys, Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn another_tenants_task_does_not_exist() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    assert!(fixture.store.task(fixture.owner.tenant, id).await.unwrap().is_some());
    assert!(fixture.store.task(other.tenant, id).await.unwrap().is_none());
    let fence = fixture.claim_one().await.fence;
    let steps = vec![crate::trace::Step {
        at: fixture.clock.now(),
        micros: 1,
        event: crate::trace::Event::Prompt { text: "secret".to_owned() },
    }];
    assert!(fixture.finish(id, fence, completed("secret"), steps).await.unwrap());
    assert_eq!(fixture.steps(id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_conversation_holds_its_completed_tasks_oldest_first() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let thread: ThreadId = "chat-7".parse().unwrap();
    let mut ids = Vec::new();
    for owner in [fixture.owner, other] {
        for _ in 0..5 {
            let task = NewTask { thread: Some(thread.clone()), ..new_task(owner) };
            ids.push(task.id);
            fixture.store.accept(task).await.unwrap();
        }
    }
    fixture.accept(fixture.owner, 1).await;
    let claimed = fixture.claim(11).await;
    for one in claimed {
        let failed = one.task.id == ids[1];
        let status = if failed { EndStatus::Failed } else { EndStatus::Completed };
        let outcome = Outcome { status, result: "done".to_owned() };
        assert!(fixture.finish(one.task.id, one.fence, outcome, Vec::new()).await.unwrap());
    }
    let task = fixture.task(ids[4]).await;
    let read = async |task: &Task, limit, bytes_max| {
        let found = fixture.store.thread_tasks(task, limit, bytes_max).await;
        found.unwrap().into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(read(&task, 10, 1_000).await, [ids[0], ids[2], ids[3]]);
    assert_eq!(read(&task, 2, 1_000).await, [ids[2], ids[3]]);
    assert_eq!(read(&task, 2, 10).await, [], "none is that short");
    assert_eq!(read(&Task { tenant: other.tenant, ..task.clone() }, 10, 1_000).await, []);
    assert_eq!(read(&Task { agent: other.agent, ..task.clone() }, 10, 1_000).await, []);
    assert_eq!(read(&Task { thread: None, ..task }, 10, 1_000).await, []);
}

/// Accepts and completes a task, and returns it as it was claimed.
async fn completed_task(fixture: &Fixture, task: NewTask) -> Task {
    let id = task.id;
    assert_eq!(fixture.store.accept(task).await.unwrap(), Accepted::New);
    let Claimed { task, fence } = fixture.claim_one().await;
    assert_eq!(task.id, id);
    assert!(fixture.finish(id, fence, completed("done"), Vec::new()).await.unwrap());
    task
}

#[tokio::test]
async fn a_conversation_is_its_surfaces_own_by_name_and_by_an_earlier_tasks_id() {
    let fixture = Fixture::new().await;
    let Owner { tenant, agent } = fixture.owner;
    let earlier = async |task: &Task| {
        let found = fixture.store.thread_tasks(task, 10, 1_000).await.unwrap();
        found.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let begin = async |thread_surface, thread: Option<&str>| {
        let thread = thread.map(|name| name.parse().unwrap());
        let task = NewTask { thread, thread_surface, ..new_task(fixture.owner) };
        completed_task(&fixture, task).await
    };
    let surfaces = surfaces();
    let mut named = Vec::new();
    let mut alone = Vec::new();
    for surface in surfaces {
        named.push(begin(surface, Some("chat-7")).await);
        alone.push(begin(surface, None).await);
    }
    for (place, surface) in surfaces.into_iter().enumerate() {
        let next = begin(surface, Some("chat-7")).await;
        assert_eq!(earlier(&next).await, [named[place].id], "{surface:?}");
        for (of, first) in alone.iter().enumerate() {
            let by_id = begin(surface, Some(&first.id.to_string())).await;
            let joined = if of == place { vec![first.id] } else { Vec::new() };
            assert_eq!(earlier(&by_id).await, joined, "{surface:?}, a task of {:?}", surfaces[of]);
            let found = fixture.store.thread_of(tenant, agent, surface, first.id).await.unwrap();
            assert_eq!(found, (of == place).then_some(None));
        }
    }
    let newest = fixture.store.newest_in_thread(tenant, &"chat-7".parse().unwrap()).await.unwrap();
    let newest = fixture.task(newest.unwrap()).await;
    assert_eq!(newest.thread_surface, Surface::Api, "the API's, though others have newer ones");
}

#[tokio::test]
async fn a_conversation_named_by_a_task_begins_with_it() {
    let fixture = Fixture::new().await;
    let Owner { tenant, agent } = fixture.owner;
    let first = fixture.accept(fixture.owner, 1).await.remove(0);
    let thread: ThreadId = first.to_string().parse().unwrap();
    let second = NewTask { thread: Some(thread.clone()), ..new_task(fixture.owner) };
    fixture.store.accept(second.clone()).await.unwrap();
    for one in fixture.claim(2).await {
        fixture.finish(one.task.id, one.fence, completed("x"), Vec::new()).await.unwrap();
    }
    let third = NewTask { thread: Some(thread.clone()), ..new_task(fixture.owner) };
    fixture.store.accept(third.clone()).await.unwrap();
    let third = fixture.task(third.id).await;
    let read = async |limit, bytes_max| {
        let found = fixture.store.thread_tasks(&third, limit, bytes_max).await;
        found.unwrap().into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(read(5, 1_000).await, [first, second.id]);
    assert_eq!(read(1, 1_000).await, [second.id]);
    assert_eq!(read(5, 10).await, [], "none is that short, the first one neither");
    let found = async |agent, task| {
        fixture.store.thread_of(tenant, agent, Surface::Api, task).await.unwrap()
    };
    assert_eq!(found(agent, second.id).await, Some(Some(first.to_string())));
    assert_eq!(found(agent, first).await, Some(None));
    assert_eq!(found(AgentId::random(), first).await, None);
    let newest = fixture.store.newest_in_thread(tenant, &thread).await.unwrap();
    assert_eq!(newest, Some(third.id));
    assert_eq!(fixture.store.newest_in_thread(TenantId::random(), &thread).await.unwrap(), None);
}

#[tokio::test]
async fn a_task_that_is_deleted_takes_everything_with_it() {
    let fixture = Fixture::new().await;
    let tenant = fixture.owner.tenant;
    let task = keyed_task(fixture.owner, "order-1", 1);
    fixture.store.accept(task.clone()).await.unwrap();
    assert!(!fixture.store.delete_task(tenant, task.id).await.unwrap(), "it has not ended");
    let stopped = Outcome { status: EndStatus::Stopped, result: "stopped".to_owned() };
    assert!(!fixture.store.end(TenantId::random(), task.id, stopped.clone()).await.unwrap());
    assert!(fixture.store.end(tenant, task.id, stopped.clone()).await.unwrap());
    assert!(!fixture.store.end(tenant, task.id, stopped).await.unwrap(), "nothing follows an end");
    assert!(!fixture.store.delete_task(TenantId::random(), task.id).await.unwrap());
    assert!(fixture.store.delete_task(tenant, task.id).await.unwrap());
    assert_eq!(fixture.count_tasks().await, 0);
    let again = keyed_task(fixture.owner, "order-1", 2);
    assert_eq!(fixture.store.accept(again).await.unwrap(), Accepted::New, "the key is free");
}

#[tokio::test]
async fn a_run_whose_task_was_ended_from_outside_finishes_nothing() {
    let fixture = Fixture::new().await;
    let tenant = fixture.owner.tenant;
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    let fence = fixture.claim_one().await.fence;
    let stopped = Outcome { status: EndStatus::Stopped, result: "stopped".to_owned() };
    assert!(fixture.store.end(tenant, id, stopped).await.unwrap());
    assert!(!fixture.finish(id, fence, completed("late"), Vec::new()).await.unwrap());
    assert_eq!(fixture.store.heartbeat(&[(id, fence)], LEASE).await.unwrap(), [id]);
    assert_eq!(fixture.task(id).await.result.as_deref(), Some("stopped"));
}

#[tokio::test]
async fn tasks_are_listed_newest_first_and_filtered() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let tenant = fixture.owner.tenant;
    let mut for_user = new_task(fixture.owner);
    for_user.input.user.id = Some("u1".to_owned());
    fixture.store.accept(for_user.clone()).await.unwrap();
    let ids = fixture.accept(fixture.owner, 3).await;
    fixture.accept(other, 1).await;
    let list = async |filter: TaskFilter, offset, limit| {
        let slice = Slice { offset, limit };
        let (tasks, total) = fixture.store.list_tasks(tenant, &filter, slice).await.unwrap();
        (tasks.into_iter().map(|task| task.id).collect::<Vec<_>>(), total)
    };
    let all = TaskFilter::default();
    assert_eq!(list(all.clone(), 0, 2).await, (vec![ids[2], ids[1]], 4));
    assert_eq!(list(all.clone(), 2, 9).await, (vec![ids[0], for_user.id], 4));
    let user = TaskFilter { user: Some("u1".to_owned()), ..all.clone() };
    assert_eq!(list(user, 0, 9).await, (vec![for_user.id], 1));
    let foreign = TaskFilter { agent: Some(other.agent), ..all.clone() };
    assert_eq!(list(foreign, 0, 9).await, (vec![], 0));
    let ended = TaskFilter { status: Some(crate::tasks::Status::Completed), ..all };
    assert_eq!(list(ended, 0, 9).await, (vec![], 0));
}
