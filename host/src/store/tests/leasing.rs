//! Leases: tenants take turns, and only the holder of the newest lease decides.

use std::collections::HashSet;

use super::*;
use crate::tasks::{Claimed, Status};
use crate::trace::Event;

fn prompt_step(text: &str) -> Step {
    Step {
        at: Timestamp::from_micros(NOON),
        micros: 1_500,
        event: Event::Prompt { text: text.to_owned() },
    }
}

/// The tenants whose tasks are claimed, with up to `limit` tasks per claim.
async fn turns(fixture: &Fixture, limit: usize, claims: usize) -> Vec<TenantId> {
    let mut turns = Vec::new();
    for _ in 0..claims {
        let claimed = fixture.claim(limit).await;
        turns.extend(claimed.into_iter().map(|claimed| claimed.task.tenant));
    }
    turns
}

#[tokio::test]
async fn a_claim_makes_the_oldest_task_executing_and_counts() {
    let fixture = Fixture::new().await;
    let ids = fixture.accept(fixture.owner, 3).await;
    fixture.clock.advance(Duration::from_secs(1));
    let first = fixture.claim_one().await;
    assert_eq!((first.task.id, first.fence), (ids[0], Fence(1)));
    assert_eq!((first.task.status, first.task.attempts), (Status::Executing, 1));
    assert_eq!(first.task.started_at.unwrap().micros(), NOON + 1_000_000);
    assert_eq!(fixture.task(ids[0]).await.status, Status::Executing);

    let rest = fixture.claim(10).await;
    assert_eq!(rest.iter().map(|one| one.task.id).collect::<Vec<_>>(), ids[1..]);
    assert!(fixture.claim(10).await.is_empty());
    assert!(fixture.claim(0).await.is_empty());
}

#[tokio::test]
async fn a_backlog_of_10_000_does_not_delay_another_tenant() {
    let fixture = Fixture::new().await;
    let backlog = (0..10_000).map(|_| fixture.store.accept(new_task(fixture.owner)));
    join_all(backlog).await;
    let small = new_owner(&fixture.store).await;
    fixture.accept(small, 2).await;
    let turns = turns(&fixture, 1, 4).await;
    // Whichever tenant is first: after one task of each tenant it is the other one's turn.
    assert_eq!(turns[..2].iter().filter(|tenant| **tenant == small.tenant).count(), 1);
    assert_eq!(turns[2..].iter().filter(|tenant| **tenant == small.tenant).count(), 1);
}

#[tokio::test]
async fn tenants_take_turns_from_one_claim_to_the_next() {
    let fixture = Fixture::new().await;
    let owners = [fixture.owner, new_owner(&fixture.store).await, new_owner(&fixture.store).await];
    for owner in owners {
        fixture.accept(owner, 6).await;
    }
    for (limit, claims) in [(1, 6), (2, 3), (3, 2)] {
        let turns = turns(&fixture, limit, claims).await;
        let (first, second) = turns.split_at(3);
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3, "limit {limit}");
        assert_eq!(first, second, "limit {limit}");
    }
}

#[tokio::test]
async fn what_short_lines_leave_over_goes_to_long_ones_and_only_then() {
    let fixture = Fixture::new().await;
    let [long, middle, short] =
        [fixture.owner, new_owner(&fixture.store).await, new_owner(&fixture.store).await];
    for (owner, count) in [(long, 100), (middle, 3), (short, 1)] {
        fixture.accept(owner, count).await;
    }
    let turns = turns(&fixture, 10, 1).await;
    for (owner, expected) in [(long, 6), (middle, 3), (short, 1)] {
        let got = turns.iter().filter(|tenant| **tenant == owner.tenant).count();
        assert_eq!(got, expected);
    }
    assert_eq!(
        turns[..3].iter().collect::<HashSet<_>>().len(),
        3,
        "the first round is everybody's"
    );
}

#[tokio::test]
async fn a_finished_task_has_its_result_and_its_steps() {
    let fixture = Fixture::new().await;
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    let claimed = fixture.claim_one().await;
    fixture.clock.advance(Duration::from_secs(2));
    let failure = Event::Failure { reason: "the model refused".to_owned() };
    let steps = vec![prompt_step("hello \0"), Step { event: failure, ..prompt_step("") }];
    let outcome = Outcome { status: EndStatus::Failed, result: "refused".to_owned() };
    assert!(fixture.finish(id, claimed.fence, outcome, steps.clone()).await.unwrap());

    let (task, stored) = fixture.store.task_with_steps_by_id(id).await.unwrap().unwrap();
    assert_eq!((task.status, task.result.unwrap()), (Status::Failed, "refused".to_owned()));
    assert_eq!(task.finished_at.unwrap().micros(), NOON + 2_000_000);
    assert_eq!(stored, steps);
    assert_eq!(fixture.steps(id).await.unwrap(), steps);
    assert!(fixture.store.task_with_steps_by_id(TaskId::random()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stale_fence_finishes_nothing() {
    let fixture = Fixture::new().await;
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    let finish = |fence, result: &str| {
        fixture.finish(id, fence, completed(result), vec![prompt_step(result)])
    };
    assert!(!finish(Fence(0), "never claimed").await.unwrap());
    let slow = fixture.claim_one().await;
    fixture.clock.advance(LEASE);
    assert_eq!(fixture.store.requeue_orphaned().await.unwrap(), 1);
    assert!(!finish(slow.fence, "pending again").await.unwrap());
    let quick = fixture.claim_one().await;
    assert!(!finish(slow.fence, "somebody else's").await.unwrap());
    assert_eq!(fixture.task(id).await.status, Status::Executing);
    assert!(fixture.steps(id).await.unwrap().is_empty());

    assert!(finish(quick.fence, "right").await.unwrap());
    assert!(!finish(quick.fence, "twice").await.unwrap());
    let (task, steps) = fixture.store.task_with_steps_by_id(id).await.unwrap().unwrap();
    assert_eq!((task.result.as_deref(), task.attempts), (Some("right"), 2));
    assert_eq!(steps, [prompt_step("right")], "only of the attempt that finished");
}

#[tokio::test]
async fn of_many_who_finish_with_one_fence_one_does() {
    let fixture = Fixture::new().await;
    let ids = fixture.accept(fixture.owner, 2).await;
    let claimed = fixture.claim(2).await;
    let finishes = (0..100).map(|n| {
        let one = &claimed[n % 2];
        fixture.finish(one.task.id, one.fence, completed("done"), vec![prompt_step("x")])
    });
    let ended = join_all(finishes).await.into_iter().filter(|ended| *ended.as_ref().unwrap());
    assert_eq!(ended.count(), 2);
    for id in ids {
        assert_eq!(fixture.steps(id).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_task_given_back_is_claimed_again_with_its_attempts_counted() {
    let fixture = Fixture::new().await;
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    let first = fixture.claim_one().await;
    fixture.store.release(id, Fence(first.fence.0 + 1), Duration::ZERO).await.unwrap();
    assert_eq!(fixture.task(id).await.status, Status::Executing, "not the holder's fence");
    fixture.store.release(id, first.fence, Duration::ZERO).await.unwrap();
    assert_eq!(fixture.task(id).await.status, Status::Pending);

    fixture.clock.advance(Duration::from_secs(1));
    let second = fixture.claim_one().await;
    assert_eq!((second.task.attempts, second.fence), (2, Fence(2)));
    assert_eq!(second.task.started_at.unwrap().micros(), NOON, "when it was first begun");
    fixture.store.release(id, first.fence, Duration::ZERO).await.unwrap();
    assert_eq!(fixture.task(id).await.status, Status::Executing, "a stale fence");
    assert!(fixture.finish(id, second.fence, completed(""), Vec::new()).await.unwrap());
    fixture.store.release(id, second.fence, Duration::ZERO).await.unwrap();
    assert_eq!(fixture.task(id).await.status, Status::Completed, "nothing follows an end");
}

#[tokio::test]
async fn leases_last_as_long_as_their_owner_is_alive_and_lost_ones_are_named() {
    let fixture = Fixture::new().await;
    fixture.accept(fixture.owner, 3).await;
    let claimed = fixture.claim(3).await;
    let held: Vec<(TaskId, Fence)> = claimed.iter().map(|one| (one.task.id, one.fence)).collect();
    fixture.clock.advance(LEASE - Duration::from_secs(1));
    assert!(fixture.store.heartbeat(&held, LEASE).await.unwrap().is_empty());
    fixture.clock.advance(LEASE - Duration::from_secs(1));
    assert_eq!(fixture.store.requeue_orphaned().await.unwrap(), 0, "it was said for all of them");
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(fixture.store.requeue_orphaned().await.unwrap(), 3);

    let again = fixture.claim_one().await;
    assert_eq!(again.task.id, held[0].0);
    let newer = (again.task.id, again.fence);
    let asked = [held[0], held[1], held[2], newer];
    let lost = fixture.store.heartbeat(&asked, LEASE).await.unwrap();
    assert_eq!(lost, [held[0].0, held[1].0, held[2].0]);
    assert!(fixture.store.heartbeat(&[newer], LEASE).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_task_that_is_put_off_waits_and_is_claimed_when_its_time_has_come() {
    let mut fixture = Fixture::new().await;
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    let first = fixture.claim_one().await;
    fixture.store.release(id, first.fence, Duration::from_secs(5)).await.unwrap();
    let task = fixture.task(id).await;
    assert_eq!((task.status, task.attempts), (Status::Pending, 1));
    fixture.clock.advance(Duration::from_secs(4));
    assert!(fixture.claim(1).await.is_empty());
    // The pause survives a restart.
    fixture.reopen().await;
    assert!(fixture.claim(1).await.is_empty());
    fixture.clock.advance(Duration::from_secs(1));
    let second = fixture.claim_one().await;
    assert_eq!((second.task.attempts, second.fence), (2, Fence(2)));
    assert_eq!(second.task.started_at.unwrap().micros(), NOON, "when it was first begun");

    fixture.store.release(id, second.fence, Duration::from_secs(5)).await.unwrap();
    let stopped = Outcome { status: EndStatus::Stopped, result: "no more".to_owned() };
    assert!(fixture.store.end(fixture.owner.tenant, id, stopped).await.unwrap());
    fixture.clock.advance(Duration::from_secs(5));
    assert!(fixture.claim(1).await.is_empty(), "it has ended meanwhile");
    assert_eq!(
        (fixture.task(id).await.status, fixture.task(id).await.attempts),
        (Status::Stopped, 2)
    );
}

#[tokio::test]
async fn after_a_restart_every_executing_task_is_pending_again() {
    let mut fixture = Fixture::new().await;
    let ids = fixture.accept(fixture.owner, 4).await;
    let claimed = fixture.claim(3).await;
    let done = &claimed[0];
    let finish = fixture.finish(ids[0], done.fence, completed("done"), Vec::new());
    assert!(finish.await.unwrap());
    fixture.reopen().await;
    assert_eq!(fixture.store.replace_owners(LEASE).await.unwrap(), 2);
    let stale = &claimed[1];
    let finish = fixture.finish(ids[1], stale.fence, completed("late"), Vec::new());
    assert!(!finish.await.unwrap());
    let again = fixture.claim(10).await;
    let attempts: Vec<u32> = again.iter().map(|one| one.task.attempts).collect();
    assert_eq!(attempts, [2, 2, 1]);
    assert_eq!(fixture.task(ids[0]).await.result.as_deref(), Some("done"));
}

#[tokio::test]
async fn a_tenant_without_room_waits_and_holds_up_nobody() {
    let fixture = Fixture::new().await;
    let small = new_owner(&fixture.store).await;
    fixture.accept(fixture.owner, 5).await;
    let of = |claimed: &[Claimed], tenant| {
        claimed.iter().filter(|one| one.task.tenant == tenant).count()
    };
    let at_most_two = async |wanted| {
        let capacity = Capacity { wanted, free: ROOM, per_tenant_max: 2 };
        fixture.store.claim(capacity, LEASE).await.unwrap()
    };
    let claimed = at_most_two(10).await;
    assert_eq!(of(&claimed, fixture.owner.tenant), 2);
    assert!(at_most_two(10).await.is_empty());

    fixture.accept(small, 3).await;
    for _ in 0..2 {
        let more = at_most_two(1).await;
        assert_eq!((more.len(), of(&more, small.tenant)), (1, 1));
    }
    assert!(at_most_two(1).await.is_empty());

    fixture.store.release(claimed[0].task.id, claimed[0].fence, Duration::ZERO).await.unwrap();
    let again = at_most_two(10).await;
    assert_eq!((again.len(), of(&again, fixture.owner.tenant)), (1, 1));
}

#[tokio::test]
async fn tenants_with_long_runs_leave_places_for_those_to_come() {
    const PLACES: usize = 64;
    let fixture = Fixture::new().await;
    let mut executing = Vec::new();
    // Like a worker: claims until nothing is left to claim, and its tasks keep running.
    let mut work = async || {
        let before = executing.len();
        loop {
            let free = PLACES - executing.len();
            let capacity = Capacity { wanted: free, free, per_tenant_max: PLACES };
            let claimed = fixture.store.claim(capacity, LEASE).await.unwrap();
            if claimed.is_empty() {
                return executing.len() - before;
            }
            executing.extend(claimed);
        }
    };
    fixture.accept(fixture.owner, 100).await;
    assert_eq!(work().await, 32, "one that is alone gets half");
    assert_eq!(work().await, 0, "and no more later");
    for expected in [16, 8, 4, 2, 1] {
        let hostile = new_owner(&fixture.store).await;
        fixture.accept(hostile, 100).await;
        assert_eq!(work().await, expected);
    }
    let honest = new_owner(&fixture.store).await;
    fixture.accept(honest, 1).await;
    assert_eq!(work().await, 1);
}

#[tokio::test]
async fn tenants_that_come_at_once_share_what_there_is() {
    let fixture = Fixture::new().await;
    let owners = [fixture.owner, new_owner(&fixture.store).await, new_owner(&fixture.store).await];
    for owner in owners {
        fixture.accept(owner, 100).await;
    }
    let capacity = Capacity { wanted: 64, free: 64, per_tenant_max: 64 };
    let claimed = fixture.store.claim(capacity, LEASE).await.unwrap();
    for owner in owners {
        let held = claimed.iter().filter(|one| one.task.tenant == owner.tenant).count();
        assert_eq!(held, 16, "each leaves as many as it has");
    }
}

#[tokio::test]
async fn a_task_that_another_process_released_for_later_is_ready_after_the_next_beat() {
    let fixture = Fixture::new().await;
    let other = Store::open(&fixture.path(), fixture.clock.clone()).await.unwrap();
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    let capacity = Capacity { wanted: 1, free: ROOM, per_tenant_max: ROOM };
    let claimed = other.claim(capacity, LEASE).await.unwrap().remove(0);
    let pause = Duration::from_secs(10);
    other.release(id, claimed.fence, pause).await.unwrap();

    assert_eq!(fixture.store.requeue_orphaned().await.unwrap(), 0);
    fixture.clock.advance(pause);
    // This process has released nothing, so it knows of no task that becomes due.
    assert_eq!(fixture.store.requeue_orphaned().await.unwrap(), 1);
    assert_eq!(fixture.claim_one().await.task.id, id);
}
