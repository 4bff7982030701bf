//! What tenants own: each sees its own, and nobody sees or changes another one's.

use std::os::unix::fs::PermissionsExt as _;

use sqlx::Connection as _;

use super::super::sqlite::open_writer;
use super::*;
use crate::ids::{PluginDigest, PluginName};
use crate::secrets::SecretHash;
use crate::tenants::{InstalledPlugin, KeyHolder};

/// Runs SQL that the store has no words for yet.
async fn by_hand(fixture: &Fixture, sql: &'static str) {
    let mut db = open_writer(&fixture.path()).await.unwrap();
    sqlx::query(sql).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

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
    let acme = Tenant { id: TenantId::random(), name: "acme".to_owned() };
    fixture.store.create_tenant(&acme).await.unwrap();
    fixture.store.create_tenant(&acme).await.unwrap();
    let other = Tenant { id: TenantId::random(), ..acme.clone() };
    let refused = fixture.store.create_tenant(&other).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    fixture.reopen().await;
    let tenants = fixture.store.tenants().await.unwrap();
    assert_eq!(tenants.iter().filter(|tenant| **tenant == acme).count(), 1);
    assert_eq!(tenants.len(), 2);
}

#[tokio::test]
async fn a_key_opens_for_its_holder_until_it_expires_or_is_revoked() {
    let fixture = Fixture::new().await;
    let (key, operators) = (SecretHash::of("wgk_1"), SecretHash::of("wgo_1"));
    let holder = KeyHolder::Tenant(fixture.owner.tenant);
    assert_eq!(fixture.store.key_holder(key).await.unwrap(), None);
    for _ in 0..2 {
        fixture.store.put_key(key, holder, "first").await.unwrap();
        fixture.store.put_key(operators, KeyHolder::Operator, "operator").await.unwrap();
    }
    assert_eq!(fixture.store.key_holder(key).await.unwrap(), Some(holder));
    assert_eq!(fixture.store.key_holder(operators).await.unwrap(), Some(KeyHolder::Operator));

    let refused = fixture.store.put_key(key, KeyHolder::Operator, "mine").await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    let nobody = KeyHolder::Tenant(TenantId::random());
    let refused = fixture.store.put_key(SecretHash::of("x"), nobody, "").await.unwrap_err();
    assert!(matches!(refused, StoreError::Missing { .. }), "{refused:?}");

    by_hand(&fixture, "UPDATE keys SET expires_at = created_at + 1 WHERE holder = 'tenant'").await;
    assert_eq!(fixture.store.key_holder(key).await.unwrap(), Some(holder));
    fixture.clock.advance(Duration::from_micros(1));
    assert_eq!(fixture.store.key_holder(key).await.unwrap(), None, "expired");
    by_hand(&fixture, "UPDATE keys SET revoked_at = 1 WHERE holder = 'operator'").await;
    assert_eq!(fixture.store.key_holder(operators).await.unwrap(), None, "revoked");
    fixture.store.put_key(operators, KeyHolder::Operator, "operator").await.unwrap();
    assert_eq!(fixture.store.key_holder(operators).await.unwrap(), None, "stays revoked");
}

#[tokio::test]
async fn an_agent_is_its_tenants_to_read_and_to_change() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let Owner { tenant, agent } = fixture.owner;
    fixture.clock.advance(Duration::from_secs(1));
    fixture.store.put_agent(tenant, agent, &definition("clerk 2")).await.unwrap();
    let stolen = fixture.store.put_agent(other.tenant, agent, &definition("thief")).await;
    assert!(matches!(stolen, Err(StoreError::Conflict { .. })));
    let (nobody, stray) = (TenantId::random(), AgentId::random());
    let nobodys = fixture.store.put_agent(nobody, stray, &definition("stray")).await;
    assert!(matches!(nobodys, Err(StoreError::Missing { .. })));

    let stored = fixture.store.agent(tenant, agent).await.unwrap().unwrap();
    assert_eq!((stored.tenant, stored.id), (tenant, agent));
    assert_eq!((stored.definition, stored.created_at.micros()), (definition("clerk 2"), NOON));
    assert!(fixture.store.agent(other.tenant, agent).await.unwrap().is_none());
    let agents = fixture.store.agents(other.tenant).await.unwrap();
    assert_eq!(agents.iter().map(|agent| agent.id).collect::<Vec<_>>(), [other.agent]);
}

#[tokio::test]
async fn a_webhook_token_finds_its_agent_until_another_takes_its_place() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let Owner { tenant, agent } = fixture.owner;
    let (first, second) = (SecretHash::of("first"), SecretHash::of("second"));
    let found = async |token| fixture.store.agent_by_webhook_token(token).await.unwrap();
    assert!(found(first).await.is_none());
    for _ in 0..2 {
        fixture.store.put_webhook_token(tenant, agent, first).await.unwrap();
    }
    assert_eq!(found(first).await.unwrap().id, agent);
    let taken = fixture.store.put_webhook_token(other.tenant, other.agent, first).await;
    assert!(matches!(taken, Err(StoreError::Conflict { .. })));
    let foreign = fixture.store.put_webhook_token(other.tenant, agent, second).await;
    assert!(matches!(foreign, Err(StoreError::Missing { .. })));
    fixture.store.put_webhook_token(tenant, agent, second).await.unwrap();
    assert!(found(first).await.is_none());
    assert_eq!(found(second).await.unwrap().id, agent);
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
    };
    let tenant = fixture.owner.tenant;
    fixture.store.put_plugin(tenant, &plugin("one")).await.unwrap();
    fixture.store.put_plugin(tenant, &plugin("two")).await.unwrap();
    assert_eq!(fixture.store.plugin(tenant, &name).await.unwrap(), Some(plugin("two")));
    assert_eq!(fixture.store.plugins(tenant).await.unwrap(), [plugin("two")]);
    assert_eq!(fixture.store.plugin(other.tenant, &name).await.unwrap(), None);
    assert!(fixture.store.plugins(other.tenant).await.unwrap().is_empty());
    let nobodys = fixture.store.put_plugin(TenantId::random(), &plugin("one")).await;
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
    assert!(fixture.store.finish(id, fence, completed("secret"), steps).await.unwrap());
    assert!(fixture.store.steps(other.tenant, id).await.unwrap().is_empty());
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
    let claimed = fixture.store.claim(11, ROOM, LEASE).await.unwrap();
    for one in claimed {
        let failed = one.task.id == ids[1];
        let status = if failed { EndStatus::Failed } else { EndStatus::Completed };
        let outcome = Outcome { status, result: "done".to_owned() };
        assert!(fixture.store.finish(one.task.id, one.fence, outcome, Vec::new()).await.unwrap());
    }
    let Owner { tenant, agent } = fixture.owner;
    let before = fixture.task(ids[4]).await.sequence;
    let read = async |tenant, agent, limit| {
        let found = fixture.store.thread_tasks(tenant, agent, &thread, before, limit, 1_000).await;
        found.unwrap().into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(read(tenant, agent, 10).await, [ids[0], ids[2], ids[3]]);
    assert_eq!(read(tenant, agent, 2).await, [ids[2], ids[3]]);
    assert_eq!(read(other.tenant, agent, 10).await, []);
    assert_eq!(read(tenant, other.agent, 10).await, []);
}
