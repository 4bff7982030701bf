//! Turns of a tenant's calls.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Computes for so many ticks, counting each, and yields after each as a guest is made to.
async fn compute(ticks: usize, counted: Arc<AtomicUsize>) {
    for _ in 0..ticks {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut yielded = false;
        let once = std::future::poll_fn(|context| {
            SPENDING.set(Spending { yielded: true, ..SPENDING.get() });
            context.waker().wake_by_ref();
            if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
        });
        once.await;
    }
}

/// On a slow lane.
async fn apart<T>(turns: Arc<Turns>, work: impl Future<Output = T>) -> T {
    let (mut cpu, work, account) = (Duration::ZERO, pin!(work), Account::default());
    let of = Of { lane: Lane::Tools, turns: &turns, account: &account };
    Measured { work, cpu: &mut cpu, next: Begins::Apart, of, place: None }.await
}

/// How much a hundred calls of one tenant compute until ten ticks of a call of another's are done.
async fn computed_meanwhile(many: Arc<Turns>, one: Arc<Turns>) -> usize {
    let counted = Arc::new(AtomicUsize::new(0));
    let looping: Vec<_> = (0..100)
        .map(|_| apart(Arc::clone(&many), compute(usize::MAX, Arc::clone(&counted))))
        .map(|call| AbortOnDropHandle::new(tokio::spawn(call)))
        .collect();
    let own = Arc::new(AtomicUsize::new(0));
    tokio::spawn(apart(one, compute(10, Arc::clone(&own)))).await.unwrap();
    assert_eq!(own.load(Ordering::Relaxed), 10);
    drop(looping);
    counted.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_tenant_with_a_hundred_looping_calls_has_no_more_time_than_one_with_one() {
    // One thread. As one tenant they wait for each other, and one is a hundredth of them.
    let same = Arc::new(Turns::of(1));
    let shared = computed_meanwhile(Arc::clone(&same), same).await;
    assert!(shared >= 900, "{shared}");
    let [many, one] = [1, 1].map(Turns::of).map(Arc::new);
    let apart = computed_meanwhile(many, one).await;
    assert!(apart <= 30, "{apart}");
}

#[tokio::test]
async fn a_call_that_waits_for_something_holds_no_turn_and_one_that_is_given_up_none_either() {
    let turns = Arc::new(Turns::of(1));
    let own = Arc::new(AtomicUsize::new(0));
    let waiting = tokio::spawn(apart(Arc::clone(&turns), std::future::pending::<()>()));
    let looping = apart(Arc::clone(&turns), compute(usize::MAX, Arc::default()));
    let looping = tokio::spawn(looping);
    tokio::task::yield_now().await;
    tokio::spawn(apart(Arc::clone(&turns), compute(3, Arc::clone(&own)))).await.unwrap();
    for call in [waiting, looping] {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    apart(turns, compute(3, Arc::clone(&own))).await;
    assert_eq!(own.load(Ordering::Relaxed), 6);
}
