//! The write-ahead log is moved into the file concurrently with the writer, and stays short.

use sqlx::Connection as _;

use super::super::sqlite::open_writer;
use super::super::write::{Queued, Write as _, WriterState};
use super::super::writer::{Op, Writer};
use super::*;
use crate::store::fair_queue::{Flow, Sender, queue};
use crate::store::sqlite::checkpoints::{Checkpoints, LogBounds};
use crate::store::tasks::accept::Accept;

const MIB: u64 = 1 << 20;
const BOUNDS: LogBounds =
    LogBounds { step: 1 << 20, bytes_max: 4 << 20, idle: Duration::from_millis(10) };

async fn accept(writes: &Sender<Op>, owner: Owner) {
    let mut task = new_task(owner);
    task.input.payload = "x".repeat(200_000);
    let accept = Accept::new(task).unwrap();
    let bytes = accept.bytes();
    let (waiting, answer) = Queued::new(accept);
    writes.send(Op::Accept(waiting), Flow::Requests(owner.tenant), bytes).await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap(), Accepted::New);
}

fn log_bytes(fixture: &Fixture) -> u64 {
    std::fs::metadata(fixture.folder.path().join("store.db-wal")).unwrap().len()
}

#[tokio::test]
async fn the_log_stays_short_while_the_writer_is_never_idle_and_recovers_from_a_long_reader() {
    let fixture = Fixture::new().await;
    let db = open_writer(&fixture.path()).await.unwrap();
    let state =
        WriterState { last_sequence: 0, last_turn: None, alive_until: None, next_due: None };
    let changes = fixture.store.changes().clone();
    let writer = Writer { db, clock: fixture.clock.clone(), changes, state, syncs: true };
    let (writes, waiting) = queue();
    let checkpoints = Checkpoints::start(&fixture.path(), BOUNDS);
    let serving = tokio::spawn(writer.serve(waiting, checkpoints));
    for _ in 0..200 {
        accept(&writes, fixture.owner).await;
    }
    // 40 MB were written.
    let short = log_bytes(&fixture);
    assert!(short <= 24 * MIB, "{short}");

    let mut reader = open_writer(&fixture.path()).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tasks").fetch_one(&mut *reading).await.unwrap();
    for _ in 0..100 {
        accept(&writes, fixture.owner).await;
    }
    let long = log_bytes(&fixture);
    assert!(long > short, "nothing can be overwritten that somebody reads");
    let still: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tasks").fetch_one(&mut *reading).await.unwrap();
    assert_eq!((seen, still), (200, 200));
    drop(reading);
    reader.close().await.unwrap();
    for _ in 0..200 {
        accept(&writes, fixture.owner).await;
    }
    assert!(log_bytes(&fixture) <= long + 24 * MIB, "{} after {long}", log_bytes(&fixture));
    assert_eq!(fixture.count_tasks().await, 500);
    // The log is emptied once nothing is written any more.
    while log_bytes(&fixture) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(writes);
    serving.await.unwrap();
}

#[tokio::test]
async fn the_writer_never_moves_the_log_within_a_commit() {
    let fixture = Fixture::new().await;
    let mut db = open_writer(&fixture.path()).await.unwrap();
    let pages: i64 =
        sqlx::query_scalar("PRAGMA wal_autocheckpoint").fetch_one(&mut db).await.unwrap();
    assert_eq!(pages, 0);
}
