//! Tests of the turns that a tenant's calls take.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Computes for this many ticks, counting each, and yields after each as a guest is made to.
async fn compute(ticks: usize, counted: Arc<AtomicUsize>) {
    for _ in 0..ticks {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut yielded = false;
        let once = std::future::poll_fn(|context| {
            POLL_METER.set(PollMeter { yielded: true, ..POLL_METER.get() });
            context.waker().wake_by_ref();
            if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
        });
        once.await;
    }
}

/// The turns that all callers share, and the caller's tenant.
type Caller = (Arc<LaneTurns>, u8);

/// Runs the work on a slow lane.
async fn on_slow_lane<T>((turns, tenant): Caller, work: impl Future<Output = T>) -> T {
    let (mut cpu, work, stats) = (Duration::ZERO, pin!(work), PluginStats::default());
    let tenant = TenantId::from_bytes([tenant; 16]);
    let owner = CallOwner { lane: Lane::Tools, turns: &turns, tenant, stats: &stats };
    Measured { work, cpu: &mut cpu, placement: Placement::Offloaded, owner, turn_slot: None }.await
}

/// The ticks that a hundred calls of each of these tenants compute while one call of another tenant computes ten.
async fn computed_meanwhile(many: &[u8], one: u8) -> usize {
    // As on a lane of one thread.
    let turns = Arc::new(LaneTurns::new(1));
    let counted = Arc::new(AtomicUsize::new(0));
    let looping: Vec<_> = (0..100)
        .flat_map(|_| many)
        .map(|tenant| (Arc::clone(&turns), *tenant))
        .map(|caller| on_slow_lane(caller, compute(usize::MAX, Arc::clone(&counted))))
        .map(|call| AbortOnDropHandle::new(tokio::spawn(call)))
        .collect();
    let own = Arc::new(AtomicUsize::new(0));
    let ten = on_slow_lane((turns, one), compute(10, Arc::clone(&own)));
    // Counted as the last tick ends, since this test's own task is polled some time later.
    let meanwhile = tokio::spawn(async move {
        ten.await;
        counted.load(Ordering::Relaxed)
    });
    let meanwhile = meanwhile.await.unwrap();
    assert_eq!(own.load(Ordering::Relaxed), 10);
    drop(looping);
    meanwhile
}

#[tokio::test]
async fn a_tenant_with_a_hundred_looping_calls_has_no_more_time_than_one_with_one() {
    // Calls of one tenant wait for each other, and this call is one in a hundred.
    let shared = computed_meanwhile(&[1], 1).await;
    assert!(shared >= 900, "{shared}");
    let steps = computed_meanwhile(&[1], 2).await;
    assert!(steps <= 30, "{steps}");
    let among_eight = computed_meanwhile(&[1, 2, 3, 4, 5, 6, 7, 8], 9).await;
    assert!(among_eight <= 8 * 30, "{among_eight}");
}

#[tokio::test]
async fn a_call_that_waits_for_something_holds_no_turn_and_one_that_is_given_up_none_either() {
    let turns = Arc::new(LaneTurns::new(1));
    let own = Arc::new(AtomicUsize::new(0));
    let caller = || (Arc::clone(&turns), 1);
    let waiting = tokio::spawn(on_slow_lane(caller(), std::future::pending::<()>()));
    let looping = on_slow_lane(caller(), compute(usize::MAX, Arc::default()));
    let looping = tokio::spawn(looping);
    tokio::task::yield_now().await;
    tokio::spawn(on_slow_lane(caller(), compute(3, Arc::clone(&own)))).await.unwrap();
    for call in [waiting, looping] {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    on_slow_lane(caller(), compute(3, Arc::clone(&own))).await;
    assert_eq!(own.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn what_a_host_call_computes_at_a_stretch_is_the_calls_time_and_makes_its_plugin_a_long_one()
{
    const STRETCH: Duration = Duration::from_millis(50);
    for lane in [Lane::Default, Lane::Tools] {
        let (turns, stats) = (LaneTurns::new(1), PluginStats::default());
        let owner =
            CallOwner { lane, turns: &turns, tenant: TenantId::from_bytes([1; 16]), stats: &stats };
        let mut cpu = Duration::ZERO;
        let work = pin!(async {
            let since = thread_time();
            while thread_time() - since < STRETCH {}
        });
        assert!(stats.may_run_inline(lane));
        let placement = Placement::Inline;
        Measured { work, cpu: &mut cpu, placement, owner, turn_slot: None }.await;
        assert!(cpu >= STRETCH, "{cpu:?}");
        assert!(!stats.may_run_inline(lane));
    }
}
