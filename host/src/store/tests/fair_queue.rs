//! The writer's queue: whose turn it is, how much a batch holds, and who waits for room. No writer runs here; each
//! test takes the batches itself.

use futures::FutureExt as _;

use crate::store::fair_queue::{
    BATCH_BYTES_MAX, BATCH_OPS_MAX, FLOW_BYTES_MAX, Flow, Receiver, SMALL_BYTES_MAX, Sender, queue,
};
use std::task::{Context, Waker};

use super::*;

const MIB: usize = 1 << 20;

/// More than the bytes that an operation counts as besides its texts.
const OVERHEAD: usize = 2 << 10;

/// Sends an operation if there is room for it, and returns whether there was.
fn sent<T>(sender: &Sender<T>, op: T, flow: Flow, bytes: usize) -> bool {
    sender.send(op, flow, bytes).now_or_never().is_some_and(|sent| sent.is_ok())
}

fn batch<T>(receiver: &mut Receiver<T>) -> Vec<T> {
    receiver.next().now_or_never().flatten().unwrap_or_default()
}

fn requests() -> Flow {
    Flow::Requests(TenantId::random())
}

#[test]
fn a_small_operation_is_in_the_next_batch_however_much_others_have_waiting() {
    let (sender, mut receiver) = queue();
    let [many, little] = [requests(), requests()];
    for _ in 0..200 {
        assert!(sent(&sender, "many", many, 60 << 10));
    }
    assert!(sent(&sender, "little", little, 100));
    let first = batch(&mut receiver);
    assert!(first.contains(&"little") && first.contains(&"many"), "{first:?}");
    assert!(first.len() * (60 << 10) <= BATCH_BYTES_MAX + (60 << 10), "{}", first.len());
}

#[test]
fn a_small_operation_passes_by_the_large_ones_of_any_number_of_tenants() {
    let (sender, mut receiver) = queue();
    for _ in 0..8 {
        assert!(sent(&sender, "large", requests(), 9 * MIB));
    }
    assert_eq!(batch(&mut receiver), ["large"], "alone: a batch is bounded in bytes");
    // It arrives while that batch is being written, and waits for nothing else.
    let little = requests();
    for _ in 0..3 {
        assert!(sent(&sender, "little", little, 100));
        assert_eq!(batch(&mut receiver), ["little"]);
        // Every second batch is large, so that small operations do not starve the large ones.
        assert_eq!(batch(&mut receiver), ["large"]);
    }
    for _ in 0..4 {
        assert_eq!(batch(&mut receiver), ["large"]);
    }
    assert!(batch(&mut receiver).is_empty());
}

#[test]
fn large_operations_go_by_turns_and_by_bytes() {
    let (sender, mut receiver) = queue();
    let [greedy, modest] = [requests(), requests()];
    for _ in 0..3 {
        assert!(sent(&sender, "greedy", greedy, 4 * MIB));
    }
    for _ in 0..10 {
        assert!(sent(&sender, "modest", modest, MIB / 2));
    }
    let batches: Vec<_> = std::iter::from_fn(|| {
        let batch = batch(&mut receiver);
        (!batch.is_empty()).then_some(batch)
    })
    .collect();
    for batch in &batches {
        assert!(*batch == ["greedy"] || batch.iter().all(|op| *op == "modest"), "{batch:?}");
        assert!(batch.len() <= 2, "{batch:?}");
    }
    let order: Vec<_> = batches.into_iter().flatten().collect();
    // While one tenant saves up for its four megabytes, the other sends as many bytes in eight operations.
    assert!(order[..9].iter().filter(|op| **op == "modest").count() >= 7, "{order:?}");
    assert_eq!(order.len(), 13);
}

#[test]
fn a_batch_is_bounded_in_number_and_in_bytes_and_leaves_nothing_out() {
    let (sender, mut receiver) = queue();
    let flows = [requests(), requests(), Flow::Gateway];
    let mut expected = Vec::new();
    for n in 0..1_500_usize {
        // Sizes of all kinds, without randomness: 37 and 101 are coprime.
        let bytes = [10, 3_000, 20_000, 80_000][n % 37 % 4];
        let flow = flows[n * 101 % 3];
        if sent(&sender, (n, bytes), flow, bytes) {
            expected.push(n);
        }
    }
    let mut got = Vec::new();
    loop {
        let batch = batch(&mut receiver);
        if batch.is_empty() {
            break;
        }
        let bytes: usize = batch.iter().map(|(_, bytes)| bytes).sum();
        assert!(batch.len() <= BATCH_OPS_MAX && bytes <= BATCH_BYTES_MAX, "{bytes}");
        let large = batch.iter().filter(|(_, bytes)| *bytes > SMALL_BYTES_MAX).count();
        assert!(large == 0 || large == batch.len(), "{batch:?}");
        got.extend(batch.into_iter().map(|(n, _)| n));
    }
    got.sort_unstable();
    assert_eq!(got, expected);
}

#[test]
fn an_operation_that_is_larger_than_any_bound_is_done_alone() {
    let (sender, mut receiver) = queue();
    let flow = requests();
    assert!(sent(&sender, "huge", flow, 3 * FLOW_BYTES_MAX));
    assert!(!sent(&sender, "next", flow, 1), "it has its flow for itself");
    assert_eq!(batch(&mut receiver), ["huge"]);
    assert!(batch(&mut receiver).is_empty());
    assert!(sent(&sender, "next", flow, 1));
}

#[test]
fn whoever_has_as_much_waiting_as_it_may_waits_for_room_and_nobody_else_does() {
    let (sender, mut receiver) = queue();
    let [full, other] = [requests(), requests()];
    let large = FLOW_BYTES_MAX / 2 - OVERHEAD;
    assert!(sent(&sender, "1", full, large) && sent(&sender, "2", full, large));
    let mut third = Box::pin(sender.send("3", full, large));
    assert!(third.as_mut().now_or_never().is_none());
    // In its own flow no operation overtakes it, however small.
    let mut small = Box::pin(sender.send("small", full, 10));
    assert!(small.as_mut().now_or_never().is_none());
    assert!(sent(&sender, "other", other, 10) && sent(&sender, "gateway", Flow::Gateway, 10));

    assert_eq!(batch(&mut receiver), ["other", "gateway"]);
    assert_eq!(batch(&mut receiver), ["1"]);
    assert!(third.as_mut().now_or_never().is_none(), "what is being written counts");
    assert_eq!(batch(&mut receiver), ["2"]);
    assert!(third.as_mut().now_or_never().unwrap().is_ok());
    assert!(small.as_mut().now_or_never().unwrap().is_ok());
    assert_eq!(batch(&mut receiver), ["small"]);
    assert_eq!(batch(&mut receiver), ["3"]);
}

#[test]
fn the_end_of_a_run_waits_behind_no_request_of_its_tenant() {
    let (sender, mut receiver) = queue();
    let tenant = TenantId::random();
    let large = FLOW_BYTES_MAX / 2 - OVERHEAD;
    assert!(sent(&sender, "request", Flow::Requests(tenant), large));
    assert!(sent(&sender, "request", Flow::Requests(tenant), large));
    assert!(!sent(&sender, "request", Flow::Requests(tenant), large));
    assert!(sent(&sender, "end", Flow::Runs(tenant), large), "it has room of its own");
    assert!(sent(&sender, "small end", Flow::Runs(tenant), 10));
    assert!(sent(&sender, "lease", Flow::Gateway, 10));
    assert_eq!(batch(&mut receiver), ["small end", "lease"]);
    let two = [batch(&mut receiver), batch(&mut receiver)].concat();
    assert!(two.contains(&"end"), "{two:?}");
}

#[test]
fn what_is_in_the_queue_when_it_is_closed_is_still_taken() {
    let (sender, mut receiver) = queue();
    let flow = requests();
    assert!(sent(&sender, "in", flow, FLOW_BYTES_MAX));
    let mut waits = Box::pin(sender.send("waits", flow, 10));
    assert!(waits.as_mut().now_or_never().is_none());
    sender.close();
    assert!(waits.as_mut().now_or_never().unwrap().is_err());
    assert!(!sent(&sender, "late", Flow::Gateway, 10));
    assert_eq!(batch(&mut receiver), ["in"]);
    assert_eq!(receiver.next().now_or_never(), Some(None));
}

#[tokio::test]
async fn whoever_waits_for_a_writer_that_is_gone_learns_it() {
    let (sender, receiver) = queue();
    let (answer, answered) = tokio::sync::oneshot::channel::<()>();
    assert!(sent(&sender, answer, Flow::Gateway, 10));
    drop(receiver);
    assert!(answered.await.is_err());
    let (answer, _answered) = tokio::sync::oneshot::channel::<()>();
    assert!(!sent(&sender, answer, Flow::Gateway, 10));
}

#[tokio::test]
async fn of_one_tenant_one_list_is_read_at_a_time_and_it_is_in_no_other_tenants_way() {
    let fixture = Fixture::new().await;
    let [greedy, other, third] =
        [fixture.owner, new_owner(&fixture.store).await, new_owner(&fixture.store).await];
    let list = |owner: Owner| {
        let store = fixture.store.clone();
        async move {
            let slice = Slice { offset: 0, limit: 10 };
            store.list_tasks(owner.tenant, &TaskFilter::default(), slice).await.unwrap()
        }
    };
    let turn = fixture.store.0.lists.acquire(greedy.tenant).await.unwrap();
    let mut waiting = Box::pin(list(greedy));
    assert!(waiting.as_mut().now_or_never().is_none());
    // Other tenants do not wait, whichever list they read.
    list(other).await;
    fixture.store.agents(other.tenant).await.unwrap();
    fixture.store.deliveries(other.tenant, None, 10).await.unwrap();
    drop(turn);
    waiting.await;

    // While every connection is taken, each tenant waits with one list: another tenant's first list comes before this
    // tenant's second.
    let turns = [
        fixture.store.0.lists.acquire(greedy.tenant).await,
        fixture.store.0.lists.acquire(third.tenant).await,
    ];
    let [first, second] = turns.map(Result::unwrap);
    let mut again = Box::pin(fixture.store.0.lists.acquire(greedy.tenant));
    assert!(again.as_mut().now_or_never().is_none());
    let mut next = Box::pin(fixture.store.0.lists.acquire(other.tenant));
    assert!(next.as_mut().now_or_never().is_none());
    drop(first);
    let next = next.await.unwrap();
    assert!(again.as_mut().now_or_never().is_none(), "both connections are others'");
    drop((next, second));
    again.await.unwrap();
}

#[tokio::test]
async fn who_reads_long_tasks_waits_for_himself_and_for_no_other_tenant() {
    let fixture = Fixture::new().await;
    let [greedy, other] = [fixture.owner, new_owner(&fixture.store).await];
    let [long, short] = [greedy, other].map(new_task);
    let (long_id, short_id) = (long.id, short.id);
    fixture.store.accept(long).await.unwrap();
    fixture.store.accept(short).await.unwrap();
    let store = &fixture.store;
    let turn = store.0.tasks.acquire(greedy.tenant).await.unwrap();
    // By its tenant, by its id alone, and with its steps: each read waits for the previous one of the tenant.
    let mut waiting = Box::pin(store.task(greedy.tenant, long_id));
    assert!(waiting.as_mut().now_or_never().is_none());
    let others = [store.task(other.tenant, short_id).await, store.task_by_id(short_id).await];
    assert!(others.into_iter().all(|task| task.unwrap().is_some()));
    assert!(store.task_with_steps_by_id(short_id).await.unwrap().is_some());
    // This affects neither workers nor look-ups of keys.
    let claimed = fixture.claim(10).await;
    assert_eq!(claimed.len(), 2);
    drop(turn);
    assert!(waiting.await.unwrap().is_some());
}

#[tokio::test]
async fn whoever_is_polled_seldom_keeps_no_connection_from_others() {
    let fixture = Fixture::new().await;
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let mut begun: Vec<_> = (0..20).map(|_| Box::pin(fixture.store.ping())).collect();
    {
        let _there = elsewhere.enter();
        let mut context = Context::from_waker(Waker::noop());
        for read in &mut begun {
            assert!(read.as_mut().poll(&mut context).is_pending());
        }
    }
    fixture.store.ping().await.unwrap();
    for read in begun {
        read.await.unwrap();
    }
    elsewhere.shutdown_background();
}
