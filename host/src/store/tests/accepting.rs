//! Accepting tasks: an acknowledged task is stored, and an idempotency key belongs to one task.

use futures::FutureExt as _;
use sqlx::Connection as _;
use tokio::sync::oneshot;

use super::super::fair_queue::Flow;
use super::super::sqlite::open_writer;
use super::super::write::{Queued, Refusal, Session, SingleWrite, Write, WriterState};
use super::super::writer::{Batch, Op, Writer};
use super::*;
use crate::store::tasks::accept::Accept;

type Answer = oneshot::Receiver<Result<Accepted, StoreError>>;

/// A writer without a queue, for tests that choose the operations of a batch.
async fn writer(fixture: &Fixture) -> Writer {
    let db = open_writer(&fixture.path()).await.unwrap();
    let memory =
        WriterState { last_sequence: 0, last_turn: None, alive_until: None, next_due: None };
    Writer {
        db,
        clock: fixture.clock.clone(),
        changes: fixture.store.changes().clone(),
        state: memory,
        syncs: true,
    }
}

fn add(batch: &mut Batch, task: NewTask) -> Answer {
    let (waiting, answer) = Queued::new(Accept::new(task).unwrap());
    batch.add(Op::Accept(waiting));
    answer
}

#[tokio::test]
async fn an_accepted_task_reads_as_it_was_given() {
    let fixture = Fixture::new().await;
    let mut task = new_task(fixture.owner);
    task.thread = Some("chat-7".parse().unwrap());
    task.mapping = Some(r#"{"plugin":"dot-mapper"}"#.to_owned());
    task.input.prompt = Some("what is this?".to_owned());
    task.input.user = User { email: Some("ada@example.com".to_owned()), ..User::default() };
    assert_eq!(fixture.store.accept(task.clone()).await.unwrap(), Accepted::New);

    let stored = fixture.task(task.id).await;
    assert_eq!((stored.sequence, stored.id), (1, task.id));
    assert_eq!((stored.tenant, stored.agent), (task.tenant, task.agent));
    assert_eq!((stored.thread, stored.mapping), (task.thread, task.mapping));
    assert_eq!((stored.source.as_str(), stored.input), ("webhook", task.input));
    assert_eq!((stored.status.as_str(), stored.attempts, stored.result), ("pending", 0, None));
    assert_eq!(stored.created_at.micros(), NOON);
    assert_eq!((stored.started_at, stored.finished_at), (None, None));
}

#[tokio::test]
async fn nul_and_every_other_character_survive() {
    let fixture = Fixture::new().await;
    let text = "a\0b \u{1} \u{7f} ' \" \\ ü 漢字 🦀 \u{10ffff} \u{202e}\0";
    let mut task = new_task(fixture.owner);
    task.input.payload = serde_json::json!({ "text": text }).to_string() + "\0 raw " + text;
    task.input.prompt = Some(text.to_owned());
    task.input.user.first_name = Some(text.to_owned());
    task.mapping = Some(text.to_owned());
    fixture.store.accept(task.clone()).await.unwrap();
    let claimed = fixture.claim_one().await;
    assert_eq!(claimed.task.input, task.input);
    let finish = fixture.finish(task.id, claimed.fence, completed(text), Vec::new());
    assert!(finish.await.unwrap());

    let stored = fixture.task(task.id).await;
    assert_eq!((stored.input, stored.mapping), (task.input, task.mapping));
    assert_eq!(stored.result.unwrap(), text);
}

#[tokio::test]
async fn a_key_gives_back_its_first_task_and_says_whether_the_request_was_the_same() {
    let fixture = Fixture::new().await;
    let first = keyed_task(fixture.owner, "order-1", 1);
    let original = first.id;
    assert_eq!(fixture.store.accept(first).await.unwrap(), Accepted::New);
    for (fingerprint, same_request) in [(1, true), (2, false)] {
        let again = keyed_task(fixture.owner, "order-1", fingerprint);
        let accepted = fixture.store.accept(again).await.unwrap();
        assert_eq!(accepted, Accepted::Replayed { original, same_request });
    }
    assert_eq!(fixture.count_tasks().await, 1);
}

#[tokio::test]
async fn a_key_is_taken_for_24_hours_and_free_after_them() {
    let fixture = Fixture::new().await;
    let first = keyed_task(fixture.owner, "order-1", 1);
    let original = first.id;
    fixture.store.accept(first).await.unwrap();

    fixture.clock.advance(Duration::from_hours(24) - Duration::from_micros(1));
    let early = fixture.store.accept(keyed_task(fixture.owner, "order-1", 1)).await.unwrap();
    assert_eq!(early, Accepted::Replayed { original, same_request: true });

    fixture.clock.advance(Duration::from_micros(1));
    let second = keyed_task(fixture.owner, "order-1", 2);
    let original = second.id;
    assert_eq!(fixture.store.accept(second).await.unwrap(), Accepted::New);
    let late = fixture.store.accept(keyed_task(fixture.owner, "order-1", 2)).await.unwrap();
    assert_eq!(late, Accepted::Replayed { original, same_request: true });
    assert_eq!(fixture.count_tasks().await, 2);
}

#[tokio::test]
async fn of_200_callers_with_one_key_exactly_one_is_new() {
    let fixture = Fixture::new().await;
    let tasks: Vec<NewTask> = (0..200).map(|_| keyed_task(fixture.owner, "order-1", 1)).collect();
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    let answers = join_all(tasks.into_iter().map(|task| fixture.store.accept(task))).await;
    let answers: Vec<Accepted> = answers.into_iter().map(Result::unwrap).collect();

    let winner = answers.iter().position(|answer| *answer == Accepted::New).unwrap();
    let replayed = Accepted::Replayed { original: ids[winner], same_request: true };
    assert_eq!(answers.iter().filter(|answer| **answer == replayed).count(), 199);
    assert_eq!(fixture.count_tasks().await, 1);
}

#[tokio::test]
async fn callers_with_one_key_in_one_batch_get_one_task() {
    let fixture = Fixture::new().await;
    let mut batch = Batch::default();
    let tasks: Vec<NewTask> = (0..100).map(|_| keyed_task(fixture.owner, "order-1", 1)).collect();
    let original = tasks[0].id;
    let answers: Vec<Answer> = tasks.into_iter().map(|task| add(&mut batch, task)).collect();
    writer(&fixture).await.commit(batch).await;
    for (place, answer) in answers.into_iter().enumerate() {
        let expected = match place {
            0 => Accepted::New,
            _ => Accepted::Replayed { original, same_request: true },
        };
        assert_eq!(answer.await.unwrap().unwrap(), expected);
    }
    assert_eq!(fixture.count_tasks().await, 1);
}

#[tokio::test]
async fn a_key_means_nothing_to_other_agents_and_other_tenants() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let sibling = Owner { agent: AgentId::random(), ..fixture.owner };
    let described = definition("b");
    let put =
        fixture.store.put_agent(sibling.tenant, sibling.agent, &described, Precondition::None);
    assert_eq!(put.await.unwrap(), 1);
    for owner in [fixture.owner, sibling, other] {
        let accepted = fixture.store.accept(keyed_task(owner, "order-1", 1)).await.unwrap();
        assert_eq!(accepted, Accepted::New);
    }
}

#[tokio::test]
async fn a_key_means_nothing_on_other_surfaces_whichever_had_it_first() {
    for first in 0..surfaces().len() {
        let fixture = Fixture::new().await;
        let mut surfaces = surfaces();
        surfaces.rotate_left(first);
        let accept = async |surface, fingerprint| {
            let task = keyed_task_of(fixture.owner, surface, "order-1", fingerprint);
            (task.id, fixture.store.accept(task).await.unwrap())
        };
        let mut originals = Vec::new();
        for surface in surfaces {
            // A different request under the key, so that a mismatch would show.
            let (task, accepted) = accept(surface, u8::try_from(originals.len()).unwrap()).await;
            assert_eq!(accepted, Accepted::New, "{surface:?} after {originals:?}");
            originals.push(task);
        }
        for (surface, original) in surfaces.into_iter().zip(originals) {
            let (_, again) = accept(surface, 99).await;
            let replayed = Accepted::Replayed { original, same_request: false };
            assert_eq!(again, replayed, "{surface:?}");
        }
    }
}

#[tokio::test]
async fn a_task_for_an_agent_that_its_tenant_does_not_have_is_refused() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let strays = [
        Owner { agent: AgentId::random(), ..fixture.owner },
        Owner { agent: other.agent, ..fixture.owner },
    ];
    for owner in strays {
        let refused = fixture.store.accept(keyed_task(owner, "order-1", 1)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Missing { .. }), "{refused:?}");
    }
    assert_eq!(fixture.count_tasks().await, 0);
    let twice = new_task(fixture.owner);
    fixture.store.accept(twice.clone()).await.unwrap();
    let refused = fixture.store.accept(twice).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
}

#[tokio::test]
async fn one_operation_that_cannot_be_stored_does_not_take_its_batch_with_it() {
    let fixture = Fixture::new().await;
    let mut batch = Batch::default();
    let before = add(&mut batch, keyed_task(fixture.owner, "order-1", 1));
    let nobody = Owner { agent: AgentId::random(), ..fixture.owner };
    let poisoned = add(&mut batch, keyed_task(nobody, "order-1", 1));
    let after = add(&mut batch, new_task(fixture.owner));
    writer(&fixture).await.commit(batch).await;

    assert_eq!(before.await.unwrap().unwrap(), Accepted::New);
    assert!(matches!(poisoned.await.unwrap(), Err(StoreError::Missing { .. })));
    assert_eq!(after.await.unwrap().unwrap(), Accepted::New);
    assert_eq!(fixture.count_tasks().await, 2);
}

#[tokio::test]
async fn a_full_disk_is_told_to_every_caller_and_gets_over() {
    let fixture = Fixture::new().await;
    let mut writer = writer(&fixture).await;
    let pages: i64 =
        sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut writer.db).await.unwrap();
    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + 20));
    sqlx::query(limit).execute(&mut writer.db).await.unwrap();
    let mut large = new_task(fixture.owner);
    large.input.payload = "x".repeat(1_000_000);

    let mut batch = Batch::default();
    let first = add(&mut batch, large.clone());
    let small = add(&mut batch, new_task(fixture.owner));
    let second = add(&mut batch, NewTask { id: TaskId::random(), ..large.clone() });
    writer.commit(batch).await;
    for refused in [first, second] {
        assert!(matches!(refused.await.unwrap(), Err(StoreError::Unavailable { .. })));
    }
    assert_eq!(small.await.unwrap().unwrap(), Accepted::New);

    sqlx::query("PRAGMA max_page_count = 100000").execute(&mut writer.db).await.unwrap();
    let mut batch = Batch::default();
    let again = add(&mut batch, large);
    writer.commit(batch).await;
    assert_eq!(again.await.unwrap().unwrap(), Accepted::New);
    writer.db.close().await.unwrap();
}

#[tokio::test]
async fn expired_keys_are_forgotten_and_no_others() {
    let fixture = Fixture::new().await;
    fixture.store.accept(keyed_task(fixture.owner, "early", 1)).await.unwrap();
    fixture.clock.advance(Duration::from_hours(1));
    let late = keyed_task(fixture.owner, "late", 1);
    let original = late.id;
    fixture.store.accept(late).await.unwrap();
    assert_eq!(fixture.store.delete_expired_keys().await.unwrap(), 0);
    fixture.clock.advance(Duration::from_hours(23));
    assert_eq!(fixture.store.delete_expired_keys().await.unwrap(), 1);
    let again = fixture.store.accept(keyed_task(fixture.owner, "late", 1)).await.unwrap();
    assert_eq!(again, Accepted::Replayed { original, same_request: true });
    assert_eq!(fixture.count_tasks().await, 2);
}

#[tokio::test]
async fn a_task_whose_caller_went_away_is_accepted_all_the_same() {
    let mut fixture = Fixture::new().await;
    let task = new_task(fixture.owner);
    let id = task.id;
    assert!(fixture.store.accept(task).now_or_never().is_none());
    fixture.reopen().await;
    assert_eq!(fixture.task(id).await.id, id);
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_refuses_what_comes_later() {
    let mut fixture = Fixture::new().await;
    let key = keyed_task(fixture.owner, "order-1", 1);
    let original = key.id;
    fixture.store.accept(key).await.unwrap();
    let accepts = (0..300).map(|_| fixture.store.accept(new_task(fixture.owner)));
    let (accepted, ()) = tokio::join!(join_all(accepts), fixture.store.close());
    assert!(accepted.into_iter().all(|one| one.unwrap() == Accepted::New));

    let refused = fixture.store.accept(new_task(fixture.owner)).await.unwrap_err();
    assert_eq!(refused.to_string(), "the store could not accept a task");
    assert!(matches!(refused, StoreError::Unavailable { operation: "accept a task", .. }));
    let refused = fixture.store.task_by_id(original).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { operation: "read a task", .. }));
    fixture.store.close().await;

    fixture.reopen().await;
    assert_eq!(fixture.count_tasks().await, 301);
    let again = fixture.store.accept(keyed_task(fixture.owner, "order-1", 1)).await.unwrap();
    assert_eq!(again, Accepted::Replayed { original, same_request: true });
    let next = fixture.accept(fixture.owner, 1).await.remove(0);
    assert_eq!(fixture.task(next).await.sequence, 302);
}

#[tokio::test]
async fn every_commit_is_synced() {
    let fixture = Fixture::new().await;
    let mut db = writer(&fixture).await.db;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut db).await.unwrap();
    let full: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut db).await.unwrap();
    assert_eq!((mode.as_str(), full), ("wal", 2));
    assert_eq!(Accept::OPERATION, "accept a task");
}

#[tokio::test]
async fn a_batch_is_synced_if_one_of_its_writes_has_to_be() {
    /// A write that changes nothing.
    struct Nothing(bool);

    impl Write for Nothing {
        type Answer = ();
        const OPERATION: &'static str = "do nothing";

        fn flow(&self) -> Flow {
            Flow::Gateway
        }

        fn is_synced(&self) -> bool {
            self.0
        }
    }

    impl SingleWrite for Nothing {
        async fn apply(&self, _: &mut Session<'_>) -> Result<(), Refusal> {
            Ok(())
        }
    }

    let fixture = Fixture::new().await;
    let mut writer = writer(&fixture).await;
    for (writes, level) in [
        (&[true][..], 2),
        (&[false], 1),
        (&[false, false], 1),
        (&[false, true], 2),
        (&[false], 1),
        (&[true, false], 2),
    ] {
        let mut batch = Batch::default();
        for is_synced in writes {
            batch.add(Op::Other(Box::new(Queued::new(Nothing(*is_synced)).0)));
        }
        writer.commit(batch).await;
        let query = sqlx::query_scalar::<_, i64>("PRAGMA synchronous");
        assert_eq!(query.fetch_one(&mut writer.db).await.unwrap(), level, "{writes:?}");
    }
}
