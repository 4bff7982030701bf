//! Deliveries: tenants take turns, and a claimed delivery is due again if its end is not recorded.

use std::collections::HashMap;

use super::*;
use crate::store::DueDelivery;
use crate::tasks::{DeliveryEnd, StoredRequest};

const TRY: Duration = Duration::from_secs(150);

fn free(capacity: usize) -> Capacity {
    Capacity { wanted: capacity, free: capacity, per_tenant_max: ROOM }
}

impl Fixture {
    /// Makes this many deliveries of a tenant due.
    async fn make_due(&self, owner: Owner, count: usize) {
        for _ in 0..count {
            let task = new_task(owner);
            let request = StoredRequest { channel: Some(ChannelId::random()), ..task.request };
            self.store.accept(NewTask { deliver: true, request, ..task }).await.unwrap();
        }
        for claimed in self.claim(count).await {
            let finished =
                self.finish(claimed.task.id, claimed.fence, completed("done"), Vec::new());
            assert!(finished.await.unwrap());
        }
    }

    async fn take(&self, capacity: Capacity, held: &[(TenantId, usize)]) -> Vec<DueDelivery> {
        let held: HashMap<_, _> = held.iter().copied().collect();
        self.store.take_deliveries(capacity, held, None, TRY).await.unwrap()
    }
}

#[tokio::test]
async fn a_backlog_of_deliveries_delays_no_other_tenants_first_one() {
    let fixture = Fixture::new().await;
    fixture.make_due(fixture.owner, 40).await;
    let honest = new_owner(&fixture.store).await;
    fixture.make_due(honest, 1).await;
    let taken = fixture.take(free(4), &[]).await;
    let of = |tenant| taken.iter().filter(|due| due.tenant == tenant).count();
    assert_eq!((of(honest.tenant), of(fixture.owner.tenant)), (1, 1), "one leaves one");
    assert!(taken.iter().all(|due| due.attempts == 1));
}

#[tokio::test]
async fn tenants_with_slow_deliveries_leave_places_for_those_to_come() {
    let fixture = Fixture::new().await;
    let hostile = fixture.owner.tenant;
    fixture.make_due(fixture.owner, 20).await;
    assert_eq!(fixture.take(free(8), &[]).await.len(), 4);
    assert!(fixture.take(free(4), &[(hostile, 4)]).await.is_empty());
    let honest = new_owner(&fixture.store).await;
    fixture.make_due(honest, 2).await;
    let taken = fixture.take(free(4), &[(hostile, 4)]).await;
    assert!(taken.iter().all(|due| due.tenant == honest.tenant), "{taken:?}");
    assert_eq!(taken.len(), 2);
}

#[tokio::test]
async fn the_tenant_behind_the_one_served_last_comes_first() {
    let fixture = Fixture::new().await;
    let owners = [fixture.owner, new_owner(&fixture.store).await, new_owner(&fixture.store).await];
    for owner in owners {
        fixture.make_due(owner, 3).await;
    }
    let (mut last, mut turns) = (None, Vec::new());
    for _ in 0..6 {
        let none = HashMap::new();
        let taken = fixture.store.take_deliveries(free(1), none, last, TRY).await.unwrap();
        last = taken.last().map(|due| due.tenant);
        turns.extend(last);
    }
    assert_eq!(turns[..3], turns[3..]);
    assert!(owners.iter().all(|owner| turns.contains(&owner.tenant)));
}

#[tokio::test]
async fn a_delivery_that_was_taken_is_due_again_until_its_end_is_noted() {
    let fixture = Fixture::new().await;
    fixture.make_due(fixture.owner, 1).await;
    let taken = fixture.take(free(4), &[]).await;
    assert!(fixture.take(free(4), &[]).await.is_empty());
    fixture.clock.advance(TRY);
    let again = fixture.take(free(4), &[]).await;
    assert_eq!((again[0].task, again[0].attempts), (taken[0].task, 2));
    fixture.store.end_delivery(again[0].task, DeliveryEnd::Delivered).await.unwrap();
    fixture.clock.advance(TRY);
    assert!(fixture.take(free(4), &[]).await.is_empty());
}
