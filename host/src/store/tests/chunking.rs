//! Long texts are written ahead in chunks: other operations run in between, texts read back unchanged, and failed
//! operations leave nothing behind.

use std::pin::pin;

use futures::FutureExt as _;
use sqlx::{AssertSqlSafe, Connection as _};

use super::super::sqlite::open_writer;
use super::super::write::{Refusal, Session, SingleWrite, Write};
use super::*;
use crate::store::fair_queue::{BATCH_BYTES_LARGE_MAX, Flow, SMALL_BYTES_MAX};
use crate::store::tasks::chunks::{CHUNK_BYTES, INLINE_BYTES_MAX};
use crate::tasks::Status;
use crate::trace::Event;

async fn count(fixture: &Fixture, what: &str) -> i64 {
    let query = AssertSqlSafe(format!("SELECT count(*) FROM {what}"));
    sqlx::query_scalar(query).fetch_one(fixture.store.reads()).await.unwrap()
}

/// Asserts that there is no unclaimed chunk, no record of one, and no missing chunk.
async fn nothing_is_left_over(fixture: &Fixture) {
    assert_eq!(count(fixture, "unclaimed_chunks").await, 0);
    let stray = "chunks WHERE NOT EXISTS (SELECT 1 FROM chunked_texts \
                 WHERE number BETWEEN first_chunk AND last_chunk)";
    assert_eq!(count(fixture, stray).await, 0);
    let lost = "(SELECT first_chunk FROM chunked_texts c WHERE last_chunk - first_chunk + 1 <> \
                (SELECT count(*) FROM chunks WHERE number BETWEEN c.first_chunk AND c.last_chunk))";
    assert_eq!(count(fixture, lost).await, 0);
}

fn with_payload(owner: Owner, payload: String) -> NewTask {
    let mut task = new_task(owner);
    task.request.body = payload.clone().into();
    task.input.payload = payload;
    task
}

fn step(event: Event) -> Step {
    Step { at: Timestamp::from_micros(NOON), micros: 7, event }
}

/// A text of this many bytes, no two chunks of which are equal, with characters of all lengths and NULs.
fn text(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 64);
    for line in 0_u64.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&format!("{line}\0 ü漢🦀\u{10ffff}\"\\\n"));
    }
    while text.len() > bytes {
        text.pop();
    }
    text.extend(std::iter::repeat_n('x', bytes - text.len()));
    text
}

/// Counts the chunks when it is its turn.
struct CountChunks(Flow);

impl Write for CountChunks {
    type Answer = i64;
    const OPERATION: &'static str = "count chunks";
    fn flow(&self) -> Flow {
        self.0
    }
}

impl SingleWrite for CountChunks {
    async fn apply(&self, session: &mut Session<'_>) -> Result<i64, Refusal> {
        let count = sqlx::query_scalar("SELECT count(*) FROM chunks");
        Ok(count.fetch_one(&mut *session.db).await?)
    }
}

#[tokio::test]
async fn small_operations_of_others_get_in_between_the_chunks_of_a_large_one() {
    let fixture = Fixture::new().await;
    let other = new_owner(&fixture.store).await;
    let large = with_payload(fixture.owner, text(4 << 20));
    let mut accepted = pin!(fixture.store.accept(large).fuse());
    let mut seen = Vec::new();
    // One after the other, while the large one is in progress.
    loop {
        let little = fixture.store.write(CountChunks(Flow::Requests(other.tenant)));
        futures::select_biased! {
            accepted = accepted.as_mut() => {
                assert_eq!(accepted.unwrap(), Accepted::New);
                break;
            }
            chunks = little.fuse() => seen.push(chunks.unwrap()),
        }
    }
    let steps = seen.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    let chunks_max = i64::try_from(BATCH_BYTES_LARGE_MAX.div_ceil(CHUNK_BYTES)).unwrap();
    assert!(steps <= chunks_max, "{steps} chunks between two small operations: {seen:?}");
    assert!(seen.iter().filter(|chunks| (1..64).contains(*chunks)).count() >= 8, "{seen:?}");
    nothing_is_left_over(&fixture).await;
}

#[tokio::test]
async fn a_small_operation_has_no_chunks() {
    let fixture = Fixture::new().await;
    let mut task = with_payload(fixture.owner, text(SMALL_BYTES_MAX - 2_000));
    task.input.prompt = Some("x".repeat(INLINE_BYTES_MAX));
    fixture.store.accept(task.clone()).await.unwrap();
    assert_eq!(count(&fixture, "chunked_texts").await, 0);
    assert_eq!(fixture.task(task.id).await.input, task.input);
}

#[tokio::test]
async fn every_long_text_of_a_task_is_read_as_it_was_given() {
    let fixture = Fixture::new().await;
    let tenant = fixture.owner.tenant;
    let edges = [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 1_000_003];
    for (at, bytes) in edges.into_iter().enumerate() {
        let mut task = with_payload(fixture.owner, text(bytes));
        // The body differs from the payload, and is not UTF-8.
        let body: Vec<u8> = (0..bytes + 5).map(|n| [0xff, 0, 0xc3, b'"', 0x80][n % 5]).collect();
        task.request.body = body.into();
        task.thread = Some("chat-7".parse().unwrap());
        task.input.prompt = Some(text(bytes + 1));
        task.input.user = User { first_name: Some(text(bytes + 2)), ..User::default() };
        task.mapping = Some(text(bytes + 3));
        let request = task.request.clone();
        assert_eq!(fixture.store.accept(task.clone()).await.unwrap(), Accepted::New);
        let claimed = fixture.claim_one().await;
        assert_eq!(claimed.task.input, task.input);
        assert_eq!(claimed.task.mapping, task.mapping);
        assert_eq!(fixture.store.request(tenant, task.id).await.unwrap(), Some(request));

        let result = text(bytes + 4);
        let mut steps: Vec<Step> = (0..100)
            .map(|n| step(Event::Failure { reason: text(n * 1_000) }))
            .chain([step(Event::Prompt { text: format!("do [{}]", task.input.payload) })])
            .collect();
        let finish = fixture.finish(task.id, claimed.fence, completed(&result), steps.clone());
        assert!(finish.await.unwrap());
        let late = step(Event::Failure { reason: text(bytes + 6) });
        fixture.store.add_step(tenant, task.id, &late).await.unwrap();
        steps.push(late);
        let read = fixture.task(task.id).await;
        assert_eq!((&read.input, read.result.as_ref()), (&task.input, Some(&result)));
        assert_eq!(fixture.store.steps(&read).await.unwrap(), steps);
        let (_, by_id) = fixture.store.task_with_steps_by_id(task.id).await.unwrap().unwrap();
        assert_eq!(by_id, steps);

        // A conversation is read only as far as its texts are no longer than requested.
        let next = NewTask { thread: task.thread.clone(), ..new_task(fixture.owner) };
        fixture.store.accept(next.clone()).await.unwrap();
        let next_task = fixture.task(next.id).await;
        let whole = bytes + bytes + 1 + bytes + 4;
        let earlier = fixture.store.thread_tasks(&next_task, 1, whole).await.unwrap();
        assert_eq!(earlier.first().map(|task| &task.input), Some(&task.input));
        let earlier = fixture.store.thread_tasks(&next_task, 9, bytes).await.unwrap();
        assert!(earlier.iter().all(|earlier| earlier.id != task.id), "{at}");
        let slice = Slice { offset: 0, limit: 2 };
        let filter = TaskFilter::default();
        let listed = fixture.store.list_tasks(tenant, &filter, slice).await.unwrap().0;
        let beginning = listed[1].result.as_ref().unwrap();
        assert!(result.starts_with(beginning.as_str()) && beginning.chars().count() <= 10_000);
        assert!(fixture.store.end(tenant, next.id, completed(&result)).await.unwrap());
        assert_eq!(fixture.task(next.id).await.result, Some(result));
    }
    nothing_is_left_over(&fixture).await;
}

#[tokio::test]
async fn what_is_refused_leaves_no_chunks() {
    let fixture = Fixture::new().await;
    let tenant = fixture.owner.tenant;
    let long = text(300_000);
    let keyed = |fingerprint| {
        let claim = keyed_task(fixture.owner, "order-1", fingerprint).idempotency;
        NewTask { idempotency: claim, ..with_payload(fixture.owner, long.clone()) }
    };
    // Of two concurrent requests with one key, one is refused only after its chunks are written.
    let [first, second] = [keyed(1), keyed(2)];
    let ids = [first.id, second.id];
    let both = tokio::join!(fixture.store.accept(first), fixture.store.accept(second));
    let both = [both.0.unwrap(), both.1.unwrap()];
    let new = both.iter().position(|accepted| *accepted == Accepted::New).unwrap();
    let replayed = Accepted::Replayed { original: ids[new], same_request: false };
    assert_eq!(both[1 - new], replayed);
    for fingerprint in [1, 2] {
        let same_request = fingerprint == u8::try_from(new + 1).unwrap();
        let again = fixture.store.accept(keyed(fingerprint)).await.unwrap();
        assert_eq!(again, Accepted::Replayed { original: ids[new], same_request });
    }
    let chunks = count(&fixture, "chunks").await;

    let nobody = Owner { agent: AgentId::random(), ..fixture.owner };
    let refused = fixture.store.accept(with_payload(nobody, long.clone())).await.unwrap_err();
    assert!(matches!(refused, StoreError::Missing { operation: "accept a task" }), "{refused:?}");
    let twice = NewTask { id: ids[new], ..with_payload(fixture.owner, long.clone()) };
    let refused = fixture.store.accept(twice).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    // A run whose lease is lost, an end of a task that does not exist, a step of a task that has not ended.
    let claimed = fixture.claim_one().await;
    let stale = Fence(claimed.fence.0 - 1);
    let steps = vec![step(Event::Failure { reason: long.clone() })];
    assert!(!fixture.finish(ids[new], stale, completed(&long), steps.clone()).await.unwrap());
    assert!(!fixture.store.end(tenant, TaskId::random(), completed(&long)).await.unwrap());
    fixture.store.add_step(tenant, ids[new], &steps[0]).await.unwrap();

    assert_eq!(count(&fixture, "chunks").await, chunks);
    assert_eq!(fixture.count_tasks().await, 1);
    nothing_is_left_over(&fixture).await;
}

#[tokio::test]
async fn a_deleted_task_takes_its_chunks_with_it_and_no_others() {
    let fixture = Fixture::new().await;
    let tenant = fixture.owner.tenant;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let task = with_payload(fixture.owner, text(1_500_000));
        ids.push(task.id);
        fixture.store.accept(task.clone()).await.unwrap();
        let fence = fixture.claim_one().await.fence;
        let steps = vec![step(Event::Failure { reason: text(200_000) })];
        let finish = fixture.finish(task.id, fence, completed(&text(700_000)), steps);
        assert!(finish.await.unwrap());
    }
    let (texts, chunks) = (count(&fixture, "chunked_texts").await, count(&fixture, "chunks").await);
    assert!(fixture.store.delete_task(tenant, ids[0]).await.unwrap());
    assert!(!fixture.store.delete_task(tenant, ids[0]).await.unwrap());
    assert!(fixture.store.task_by_id(ids[0]).await.unwrap().is_none());
    assert_eq!(count(&fixture, "chunked_texts").await * 2, texts);
    assert_eq!(count(&fixture, "chunks").await * 2, chunks);
    nothing_is_left_over(&fixture).await;
    let left = fixture.task(ids[1]).await;
    assert_eq!((left.status, left.input.payload.len()), (Status::Completed, 1_500_000));
}

#[tokio::test]
async fn what_a_process_that_died_wrote_ahead_is_no_task_and_is_deleted_at_the_start() {
    let mut fixture = Fixture::new().await;
    let kept = with_payload(fixture.owner, text(500_000));
    fixture.store.accept(kept.clone()).await.unwrap();
    let given_back = with_payload(fixture.owner, text(500_000));
    fixture.store.accept(given_back.clone()).await.unwrap();
    let tenant = fixture.owner.tenant;
    assert!(fixture.store.end(tenant, given_back.id, completed("")).await.unwrap());

    // The queue is closed between the chunks and the task, which is where a crash would leave it.
    let large = with_payload(fixture.owner, text(8 << 20));
    let id = large.id;
    let store = fixture.store.clone();
    let accepting = tokio::spawn(async move { store.accept(large).await });
    let before = count(&fixture, "chunks").await;
    while count(&fixture, "chunks").await < before + 8 {
        assert!(!accepting.is_finished(), "without any chunks");
        tokio::task::yield_now().await;
    }
    fixture.store.close().await;
    let refused = accepting.await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { operation: "accept a task", .. }));
    // And a crash in the middle of deleting a task.
    let mut database = open_writer(&fixture.path()).await.unwrap();
    let give_back = "INSERT INTO unclaimed_chunks SELECT first_chunk, last_chunk FROM chunked_texts \
                     WHERE task_sequence = 2";
    sqlx::query(give_back).execute(&mut database).await.unwrap();
    for statement in crate::store::tasks::ending::DELETE {
        sqlx::query(statement).bind(2).execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();

    fixture.store = Store::open(&fixture.path(), fixture.clock.clone()).await.unwrap();
    assert!(fixture.store.task_by_id(id).await.unwrap().is_none());
    assert_eq!(count(&fixture, "unclaimed_chunks").await, 2);
    fixture.store.delete_unclaimed_chunks().await.unwrap();
    nothing_is_left_over(&fixture).await;
    assert_eq!(fixture.task(kept.id).await.input, kept.input);
    // Numbering continues after the existing chunks.
    let next = with_payload(fixture.owner, text(500_000));
    fixture.store.accept(next.clone()).await.unwrap();
    assert_eq!(fixture.task(next.id).await.input, next.input);
    assert_eq!(fixture.task(kept.id).await.input, kept.input);
}

#[tokio::test]
async fn the_start_leaves_alone_what_its_own_process_is_writing() {
    let fixture = Fixture::new().await;
    let large = with_payload(fixture.owner, text(4 << 20));
    let (store, task) = (fixture.store.clone(), large.clone());
    let accepting = tokio::spawn(async move { store.accept(task).await });
    while count(&fixture, "chunks").await < 8 {
        assert!(!accepting.is_finished(), "without any chunks");
        tokio::task::yield_now().await;
    }
    fixture.store.delete_unclaimed_chunks().await.unwrap();
    assert_eq!(accepting.await.unwrap().unwrap(), Accepted::New);
    assert_eq!(fixture.task(large.id).await.input, large.input);
}

#[tokio::test]
async fn a_large_task_whose_caller_went_away_is_accepted_all_the_same() {
    let fixture = Fixture::new().await;
    let large = with_payload(fixture.owner, text(1 << 20));
    assert!(fixture.store.accept(large.clone()).now_or_never().is_none());
    while fixture.store.task_by_id(large.id).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.task(large.id).await.input, large.input);
    nothing_is_left_over(&fixture).await;
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_of_a_large_task() {
    let mut fixture = Fixture::new().await;
    fixture.store.write(LimitPages(60)).await.unwrap();
    let large = with_payload(fixture.owner, text(4 << 20));
    let refused = fixture.store.accept(large.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { operation: "accept a task", .. }));
    fixture.store.write(LimitPages(100_000)).await.unwrap();
    fixture.reopen().await;
    fixture.store.delete_unclaimed_chunks().await.unwrap();
    nothing_is_left_over(&fixture).await;
    assert_eq!((fixture.count_tasks().await, count(&fixture, "chunks").await), (0, 0));
    assert_eq!(fixture.store.accept(large).await.unwrap(), Accepted::New);
}

/// Allows the file to grow by this many pages.
struct LimitPages(i64);

impl Write for LimitPages {
    type Answer = ();
    const OPERATION: &'static str = "limit the file";
    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for LimitPages {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let count = sqlx::query_scalar("PRAGMA page_count");
        let pages: i64 = count.fetch_one(&mut *session.db).await?;
        let limit = AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + self.0));
        sqlx::query(limit).execute(&mut *session.db).await?;
        Ok(())
    }
}
