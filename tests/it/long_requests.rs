//! What takes long to read, map, store and run about, because it is long, is done on threads of low priority.

use serde_json::json;

use crate::support::{Child, Home};

/// The threads that the kernel gives less time than the others when both want some.
const THREADS: &str = "long-requests";

#[tokio::test]
async fn long_requests_and_their_runs_compute_at_low_priority_and_short_ones_do_not() {
    let home = Home::new();
    let gateway = Child::serve(&home, &[]);
    let send = async |bytes: usize| {
        let call = gateway.webhook("").json(&json!({"text": "x".repeat(bytes)}));
        call.expect(200).await;
        gateway.computed_nanos(THREADS)
    };
    let began = gateway.computed_nanos(THREADS);
    for _ in 0..10 {
        send(1_000).await;
    }
    // What the threads did to begin with is all they did.
    let after_short = send(200_000).await;
    assert!(after_short - began < 10_000_000, "{began} and {after_short} ns");
    // Ten megabytes cannot be read, let alone stored, in a millisecond.
    let after_long = send(9_000_000).await;
    assert!(after_long - after_short > 1_000_000, "{after_short} and {after_long} ns");
    assert!(gateway.niceness(THREADS).iter().all(|nice| *nice == 10), "they are nicer");
}
