//! The journal of a run is kept under the fence of its lease, and goes with the end of its task.

use super::super::sqlite::open_writer;
use super::*;
use crate::store::Durability;

async fn append(fixture: &Fixture, claimed: &Claimed, position: i64, entry: &str) -> bool {
    let Claimed { task, fence } = claimed;
    let store = &fixture.store;
    store.append_to_journal(task, *fence, position, entry, Durability::Process).await.unwrap()
}

#[tokio::test]
async fn entries_come_back_whole_and_in_order() {
    let fixture = Fixture::new().await;
    fixture.accept(fixture.owner, 1).await;
    let claimed = fixture.claim_one().await;
    assert!(fixture.store.journal(&claimed.task).await.unwrap().is_empty());
    let long = "ü".repeat(300_000);
    for (position, entry) in [(0, "first"), (1, &long), (2, "")] {
        assert!(append(&fixture, &claimed, position, entry).await);
    }
    assert_eq!(fixture.store.journal(&claimed.task).await.unwrap(), ["first", &long, ""]);
    // An attempt that found two entries writes the third anew.
    assert!(append(&fixture, &claimed, 2, "again").await);
    assert_eq!(fixture.store.journal(&claimed.task).await.unwrap(), ["first", &long, "again"]);
}

#[tokio::test]
async fn an_entry_without_its_end_does_not_count() {
    let fixture = Fixture::new().await;
    fixture.accept(fixture.owner, 1).await;
    let claimed = fixture.claim_one().await;
    for position in 0..2 {
        append(&fixture, &claimed, position, "whole").await;
    }
    let mut database = open_writer(&fixture.path()).await.unwrap();
    let cut = "UPDATE journal SET is_last = FALSE WHERE position = 1";
    sqlx::query(cut).execute(&mut database).await.unwrap();
    assert_eq!(fixture.store.journal(&claimed.task).await.unwrap(), ["whole"]);
}

#[tokio::test]
async fn only_the_holder_of_the_lease_writes() {
    let fixture = Fixture::new().await;
    fixture.accept(fixture.owner, 1).await;
    let first = fixture.claim_one().await;
    assert!(append(&fixture, &first, 0, "first").await);
    fixture.store.release(first.task.id, first.fence, Duration::ZERO).await.unwrap();
    assert!(!append(&fixture, &first, 1, "late").await, "given back");
    let second = fixture.claim_one().await;
    assert!(!append(&fixture, &first, 1, "late").await, "another worker has it");
    assert!(append(&fixture, &second, 1, "second").await);
    assert_eq!(fixture.store.journal(&second.task).await.unwrap(), ["first", "second"]);
}

#[tokio::test]
async fn a_journal_goes_with_the_end_of_its_task_whoever_ends_it() {
    let fixture = Fixture::new().await;
    let ids = fixture.accept(fixture.owner, 2).await;
    let outcome = || Outcome { status: EndStatus::Stopped, result: "enough".to_owned() };
    for (id, by_its_worker) in ids.into_iter().zip([true, false]) {
        let claimed = fixture.claim_one().await;
        append(&fixture, &claimed, 0, "first").await;
        fixture.store.release(claimed.task.id, claimed.fence, Duration::ZERO).await.unwrap();
        let claimed = fixture.claim_one().await;
        assert_eq!((claimed.task.id, claimed.task.attempts), (id, 2));
        let Claimed { task, fence } = &claimed;
        let has_ended = match by_its_worker {
            true => fixture.store.finish(task, *fence, outcome(), &[]).await,
            false => fixture.store.end(task.tenant, task.id, outcome()).await,
        };
        assert!(has_ended.unwrap());
        assert!(fixture.store.journal(task).await.unwrap().is_empty());
    }
}
