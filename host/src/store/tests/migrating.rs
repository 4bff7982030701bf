//! A store of an earlier version is migrated and keeps its data.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::*;
use crate::ids::{PluginDigest, PluginName};
use crate::secrets::SecretUses;
use crate::store::sqlite::migrations::migrator;
use crate::store::{PutSecret, PutSecretOutcome};
use crate::tasks::Status;
use crate::tenants::{Installer, Provenance};
use crate::trace::Event;

/// A store as it was after this migration.
async fn earlier(path: &std::path::Path, migration: i64) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut database = options.connect().await.unwrap();
    migrator().run_to(migration, &mut database).await.unwrap();
    database
}

#[tokio::test]
async fn a_plugin_that_was_installed_before_versions_were_kept_is_its_first_version() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let mut database = earlier(&path, 3).await;
    let (tenant, digest) = (TenantId::random(), PluginDigest::of(b"a component"));
    sqlx::query("INSERT INTO tenants VALUES (?, 'one', 1)")
        .bind(tenant.as_bytes().as_slice())
        .execute(&mut database)
        .await
        .unwrap();
    sqlx::query("INSERT INTO plugins VALUES (?, 'hook', ?, 7)")
        .bind(tenant.as_bytes().as_slice())
        .bind(digest.to_string())
        .execute(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();

    let clock = Clock::manual(Timestamp::from_micros(NOON));
    let store = Store::open(&path, clock).await.unwrap();
    let name: PluginName = "hook".parse().unwrap();
    let found = store.plugin(tenant, &name).await.unwrap().unwrap();
    assert_eq!((found.digest, found.installed_at), (digest, Timestamp::from_micros(7)));
    assert_eq!((found.provenance, found.installed_by), (Provenance::File, None));
    let versions = store.plugin_versions(tenant, &name).await.unwrap();
    assert_eq!(versions.len(), 1);
    assert!(versions[0].is_current && !versions[0].is_skipped);
}

/// Inserts a row into each table of a task as it was before surfaces: from a channel, from the agent's own webhook,
/// from the API, or from before requests were stored.
async fn a_task_of_before(
    database: &mut SqliteConnection,
    sequence: i64,
    request: Option<(Option<[u8; 16]>, &str)>,
) -> TaskId {
    let id = TaskId::random();
    let statements = [
        "INSERT INTO tasks (sequence, id, tenant_id, agent_id, created_at, thread, source) \
         SELECT ?1, ?2, tenant_id, id, 1, 'chat-7', 'webhook' FROM agents",
        "INSERT INTO inputs (task_sequence, payload) SELECT ?1, '{}' WHERE ?2 IS NOT NULL",
        "INSERT INTO idempotency \
         SELECT ?1, tenant_id, id, 'key-' || ?1, zeroblob(32), 9000000000000000 FROM agents WHERE ?2 IS NOT NULL",
    ];
    for statement in statements {
        let query = sqlx::query(statement).bind(sequence).bind(id.as_bytes().as_slice());
        query.execute(&mut *database).await.unwrap();
    }
    if let Some((channel, path)) = request {
        sqlx::query("INSERT INTO requests VALUES (?, ?, ?, x'')")
            .bind(sequence)
            .bind(channel.map(|id| id.to_vec()))
            .bind(serde_json::json!({"method": "POST", "path": path}).to_string())
            .execute(&mut *database)
            .await
            .unwrap();
    }
    id
}

#[tokio::test]
async fn keys_and_conversations_of_before_stay_on_the_surface_that_they_were_used_on() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let mut database = earlier(&path, 4).await;
    let owner = Owner { tenant: TenantId::random(), agent: AgentId::random() };
    let (tenant, agent) = (owner.tenant.as_bytes().as_slice(), owner.agent.as_bytes().as_slice());
    for (statement, more) in [
        ("INSERT INTO tenants VALUES (?1, 'one', 1)", None),
        (
            "INSERT INTO agents (id, tenant_id, definition, created_at, updated_at) \
             VALUES (?2, ?1, ?3, 1, 1)",
            Some(r#"{"name":"clerk"}"#),
        ),
        (
            "INSERT INTO webhooks (tenant_id, agent_id, token_hash, created_at, generation) \
             VALUES (?1, ?2, zeroblob(32), 1, 258)",
            None,
        ),
    ] {
        let query = sqlx::query(statement).bind(tenant).bind(agent).bind(more);
        query.execute(&mut database).await.unwrap();
    }
    let channel = ChannelId::random();
    let mut ids = Vec::new();
    for (sequence, request) in (1..).zip([
        Some((Some(*channel.as_bytes()), "/hooks/x")),
        Some((None, "")),
        Some((None, "/")),
        None,
    ]) {
        ids.push(a_task_of_before(&mut database, sequence, request).await);
    }
    database.close().await.unwrap();

    let clock = Clock::manual(Timestamp::from_micros(NOON));
    let store = Store::open(&path, clock).await.unwrap();
    let channel = Surface::Channel(channel);
    let webhook = Surface::Webhook { generation: 258 };
    let keys = [channel, webhook, Surface::Api, Surface::Api];
    for (place, surface) in keys.into_iter().enumerate() {
        let key = format!("key-{}", place + 1);
        let again = store.accept(keyed_task_of(owner, surface, &key, 0)).await.unwrap();
        let original = ids[place];
        assert_eq!(again, Accepted::Replayed { original, same_request: true }, "{surface:?}");
        let other = if surface == Surface::Api { channel } else { Surface::Api };
        let elsewhere = store.accept(keyed_task_of(owner, other, &key, 0)).await.unwrap();
        assert_eq!(elsewhere, Accepted::New, "{key} by {other:?}");
    }
    // Tasks that came from no channel belong to the API, whose key holders own all of them.
    for (id, surface) in ids.into_iter().zip([channel, Surface::Api, Surface::Api, Surface::Api]) {
        assert_eq!(store.task_by_id(id).await.unwrap().unwrap().thread_surface, surface);
    }
    store.close().await;
}

#[tokio::test]
async fn a_long_result_of_before_is_read_whole_and_listed_short() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let mut database = earlier(&path, 5).await;
    let owner = Owner { tenant: TenantId::random(), agent: AgentId::random() };
    let (tenant, agent) = (owner.tenant.as_bytes().as_slice(), owner.agent.as_bytes().as_slice());
    for statement in [
        "INSERT INTO tenants VALUES (?1, 'one', 1)",
        "INSERT INTO agents (id, tenant_id, definition, created_at, updated_at) \
         VALUES (?2, ?1, '{\"name\":\"clerk\"}', 1, 1)",
    ] {
        let query = sqlx::query(statement).bind(tenant).bind(agent);
        query.execute(&mut database).await.unwrap();
    }
    let results = ["short".to_owned(), "ü".repeat(10_001), format!("a\0{}", "b".repeat(20_000))];
    let mut ids = Vec::new();
    for (sequence, result) in (1_i64..).zip(&results) {
        let id = TaskId::random();
        let query = sqlx::query(
            "INSERT INTO tasks (sequence, id, tenant_id, agent_id, created_at, source, status, result) \
             VALUES (?, ?, ?, ?, 1, 'webhook', 'completed', ?)",
        );
        let query = query.bind(sequence).bind(id.as_bytes().as_slice()).bind(tenant).bind(agent);
        query.bind(result).execute(&mut database).await.unwrap();
        let query = sqlx::query("INSERT INTO inputs (task_sequence, payload) VALUES (?, '{}')");
        query.bind(sequence).execute(&mut database).await.unwrap();
        ids.push(id);
    }
    database.close().await.unwrap();

    let store = Store::open(&path, Clock::manual(Timestamp::from_micros(NOON))).await.unwrap();
    for (id, result) in ids.into_iter().zip(&results) {
        let task = store.task(owner.tenant, id).await.unwrap().unwrap();
        assert_eq!(task.result.as_ref(), Some(result));
    }
    let slice = Slice { offset: 0, limit: 10 };
    let listed = store.list_tasks(owner.tenant, &TaskFilter::default(), slice).await.unwrap().0;
    assert_eq!(listed[1].result.as_deref(), Some(&*"ü".repeat(10_000)));
    store.close().await;
}

#[tokio::test]
async fn large_texts_of_before_stay_in_their_rows_and_are_read_whole() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let mut database = earlier(&path, 6).await;
    let owner = Owner { tenant: TenantId::random(), agent: AgentId::random() };
    let (tenant, agent) = (owner.tenant.as_bytes().as_slice(), owner.agent.as_bytes().as_slice());
    let id = TaskId::random();
    let event = Event::Failure { reason: "why\n".repeat(100_000) };
    let [payload, prompt, rest] = ["p\0ü", "what?", "漢"].map(|text| text.repeat(100_000));
    let body = [0xff_u8, 0].repeat(200_000);
    for (statement, text) in [
        ("INSERT INTO tenants VALUES (?1, 'one', 1)", None),
        (
            "INSERT INTO agents (id, tenant_id, definition, created_at, updated_at) \
             VALUES (?2, ?1, '{\"name\":\"clerk\"}', 1, 1)",
            None,
        ),
        (
            "INSERT INTO tasks (sequence, id, tenant_id, agent_id, created_at, source, status, result) \
             VALUES (1, ?3, ?1, ?2, 1, 'webhook', 'completed', 'so: ')",
            None,
        ),
        ("INSERT INTO inputs (task_sequence, payload) VALUES (1, ?4)", Some(payload.clone())),
        ("UPDATE inputs SET prompt = ?4", Some(prompt.clone())),
        ("INSERT INTO result_rests VALUES (1, ?4)", Some(rest.clone())),
        (
            "INSERT INTO steps (task_sequence, position, at, micros, event) VALUES (1, 0, 1, 1, ?4)",
            Some(serde_json::to_string(&event).unwrap()),
        ),
    ] {
        let query = sqlx::query(statement).bind(tenant).bind(agent);
        let query = query.bind(id.as_bytes().as_slice()).bind(text);
        query.execute(&mut database).await.unwrap();
    }
    sqlx::query("INSERT INTO requests (task_sequence, head, body) VALUES (1, '{}', ?)")
        .bind(body.clone())
        .execute(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();

    let store = Store::open(&path, Clock::manual(Timestamp::from_micros(NOON))).await.unwrap();
    let task = store.task(owner.tenant, id).await.unwrap().unwrap();
    assert_eq!((&task.input.payload, task.input.prompt.as_ref()), (&payload, Some(&prompt)));
    assert_eq!(task.result, Some(format!("so: {rest}")));
    let steps = store.steps(&task).await.unwrap();
    assert_eq!(steps.into_iter().map(|step| step.event).collect::<Vec<_>>(), [event]);
    let request = store.request(owner.tenant, id).await.unwrap().unwrap();
    assert_eq!(request.body.as_ref(), body.as_slice());
    assert!(store.delete_task(owner.tenant, id).await.unwrap());
    assert!(store.task_by_id(id).await.unwrap().is_none());
    store.close().await;
}

#[tokio::test]
async fn a_secret_of_before_goes_on_being_used_for_everything_and_is_nobodys_to_widen() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let mut database = earlier(&path, 7).await;
    let tenant = TenantId::random();
    for statement in [
        "INSERT INTO tenants VALUES (?, 'one', 1)",
        "INSERT INTO secrets (tenant_id, name, sealed, updated_at) VALUES (?, 'partner', x'00', 1)",
    ] {
        let query = sqlx::query(statement).bind(tenant.as_bytes().as_slice());
        query.execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();

    let store = Store::open(&path, Clock::manual(Timestamp::from_micros(NOON))).await.unwrap();
    let found = async || store.secrets(tenant).await.unwrap().remove(0);
    assert_eq!((found().await.uses, found().await.set_by), (SecretUses::all(), None));
    let put = async |uses: Option<&str>| {
        let uses = uses.map(|uses| uses.parse().unwrap());
        let (name, by) = ("partner".parse().unwrap(), Installer::Admin);
        let put = PutSecret { tenant, name, sealed: vec![1], keep_previous: false, uses, by };
        store.put_secret(put).await.unwrap()
    };
    // A new value changes neither.
    assert_eq!(put(None).await, PutSecretOutcome::Stored);
    assert_eq!((found().await.uses, found().await.set_by), (SecretUses::all(), None));
    // Only an operator can restore a use that was removed, since it is not known who had set it.
    assert_eq!(put(Some("verify")).await, PutSecretOutcome::Stored);
    let left: SecretUses = "verify".parse().unwrap();
    assert_eq!(put(Some("verify,sign")).await, PutSecretOutcome::OperatorOnly(left.clone()));
    assert_eq!(found().await.uses, left);
    store.close().await;
}

#[tokio::test]
async fn tasks_of_before_go_on_from_where_they_were() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let mut database = earlier(&path, 9).await;
    let owner = Owner { tenant: TenantId::random(), agent: AgentId::random() };
    let (tenant, agent) = (owner.tenant.as_bytes().as_slice(), owner.agent.as_bytes().as_slice());
    for statement in [
        "INSERT INTO tenants VALUES (?1, 'one', 1)",
        "INSERT INTO agents (id, tenant_id, definition, created_at, updated_at) \
         VALUES (?2, ?1, '{\"name\":\"clerk\"}', 1, 1)",
    ] {
        let query = sqlx::query(statement).bind(tenant).bind(agent);
        query.execute(&mut database).await.unwrap();
    }
    let mut ids = Vec::new();
    for (sequence, (status, attempts, fence, started, ended)) in (1_i64..).zip([
        ("pending", 0, 0, None, None),
        ("pending", 2, 4, Some(7), None),
        ("executing", 1, 3, Some(8), None),
        ("completed", 1, 1, Some(9), Some(10)),
    ]) {
        let id = TaskId::random();
        sqlx::query(
            "INSERT INTO tasks (sequence, id, tenant_id, agent_id, status, attempts, fence, created_at, \
             lease_until, started_at, finished_at, source, result) \
             VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, 'webhook', ?)",
        )
        .bind(sequence)
        .bind(id.as_bytes().as_slice())
        .bind(tenant)
        .bind(agent)
        .bind(status)
        .bind(attempts)
        .bind(fence)
        .bind((status == "executing").then_some(i64::MAX))
        .bind(started)
        .bind(ended)
        .bind(ended.map(|_| "done"))
        .execute(&mut database)
        .await
        .unwrap();
        for statement in [
            "INSERT INTO inputs (task_sequence, prompt, payload) VALUES (?1, 'ask', '{\"n\":' || ?1 || '}')",
            // For even numbers the body was stored apart from the payload.
            "INSERT INTO requests (task_sequence, head, body, is_payload) \
             SELECT ?1, '{}', CASE WHEN ?1 % 2 = 0 THEN CAST('n=' || ?1 AS BLOB) ELSE x'' END, ?1 % 2",
        ] {
            sqlx::query(statement).bind(sequence).execute(&mut database).await.unwrap();
        }
        ids.push(id);
    }
    database.close().await.unwrap();

    let clock = Clock::manual(Timestamp::from_micros(NOON));
    let store = Store::open(&path, clock).await.unwrap();
    let mut seen = Vec::new();
    for id in &ids {
        let task = store.task_by_id(*id).await.unwrap().unwrap();
        let started = task.started_at.map(Timestamp::micros);
        seen.push((task.status, task.attempts, started, task.input.payload));
    }
    let payload = |n: u8| format!("{{\"n\":{n}}}");
    assert_eq!(
        seen,
        [
            (Status::Pending, 0, None, payload(1)),
            (Status::Pending, 2, Some(7), payload(2)),
            (Status::Executing, 1, Some(8), payload(3)),
            (Status::Completed, 1, Some(9), payload(4)),
        ]
    );
    for (id, body) in ids.iter().zip([r#"{"n":1}"#, "n=2", r#"{"n":3}"#, "n=4"]) {
        let request = store.request(owner.tenant, *id).await.unwrap().unwrap();
        assert_eq!(request.body, body.as_bytes());
    }
    // The process that ran the third task has ended.
    assert_eq!(store.replace_owners(LEASE).await.unwrap(), 1);
    let places = Capacity { wanted: 9, free: 64, per_tenant_max: 64 };
    let claimed = store.claim(places, LEASE).await.unwrap();
    let claimed: Vec<_> =
        claimed.iter().map(|one| (one.task.id, one.task.attempts, one.fence)).collect();
    assert_eq!(claimed, [(ids[0], 1, Fence(1)), (ids[1], 3, Fence(5)), (ids[2], 2, Fence(4))]);
    store.close().await;

    let mut database = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let mode: i64 =
        sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut database).await.unwrap();
    assert_eq!(mode, 2, "what is deleted can be given back");
    database.close().await.unwrap();
}
