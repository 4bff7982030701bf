//! Waiting requests and caches are notified of changes, whichever process has made them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::store::changes::{Change, Changes};
use crate::tenants::{KeyHolder, NewKey};

/// A handle to the same store, as another process would have it.
async fn other_process(fixture: &Fixture) -> Store {
    Store::open(&fixture.path(), fixture.clock.clone()).await.unwrap()
}

async fn put_key(store: &Store, tenant: TenantId) {
    let key = NewKey {
        id: crate::ids::KeyId::random(),
        hash: crate::secrets::SecretHash::of(&TaskId::random().to_string()),
        holder: KeyHolder::Tenant(tenant),
        name: "one".to_owned(),
        expires_at: None,
    };
    store.put_key(key).await.unwrap();
}

#[tokio::test]
async fn what_is_cached_of_a_tenant_holds_until_its_directory_changes() {
    let fixture = Fixture::new().await;
    let (store, changes) = (&fixture.store, fixture.store.changes());
    let tenant = fixture.owner.tenant;
    let stamp = changes.stamp(Some(tenant), changes.before_reading()).unwrap();
    let of_operators = changes.stamp(None, changes.before_reading()).unwrap();
    let task = new_task(fixture.owner);
    store.accept(task).await.unwrap();
    assert!(changes.is_current(Some(tenant), stamp), "a task is not in the directory");

    let before = changes.before_reading();
    put_key(store, tenant).await;
    assert!(!changes.is_current(Some(tenant), stamp));
    assert!(changes.is_current(None, of_operators));
    assert_eq!(changes.stamp(Some(tenant), before), None, "it may have been read before");

    // Grants are files, so the store must be notified of their changes.
    let stamp = changes.stamp(Some(tenant), changes.before_reading()).unwrap();
    store.note_change(tenant).await.unwrap();
    assert!(!changes.is_current(Some(tenant), stamp));

    // A change by operators may affect every tenant.
    let stamp = changes.stamp(Some(tenant), changes.before_reading()).unwrap();
    store.create_tenant(TenantId::random(), &"another".parse().unwrap()).await.unwrap();
    assert!(!changes.is_current(Some(tenant), stamp) && !changes.is_current(None, of_operators));
}

#[tokio::test]
async fn what_another_process_changes_is_known_after_the_next_look() {
    let fixture = Fixture::new().await;
    let (store, changes) = (&fixture.store, fixture.store.changes());
    let tenant = fixture.owner.tenant;
    let id = fixture.accept(fixture.owner, 1).await.remove(0);
    let mut end = changes.wait_for(id);
    store.poll_changes().await.unwrap();
    let stamp = changes.stamp(Some(tenant), changes.before_reading()).unwrap();

    let other = other_process(&fixture).await;
    put_key(&other, tenant).await;
    let stopped = Outcome { status: EndStatus::Stopped, result: "stopped".to_owned() };
    assert!(other.end(tenant, id, stopped).await.unwrap());
    other.close().await;
    assert!(changes.is_current(Some(tenant), stamp), "nobody has looked");
    assert!(futures::FutureExt::now_or_never(end.ended()).is_none());

    store.poll_changes().await.unwrap();
    assert!(!changes.is_current(Some(tenant), stamp));
    end.ended().await;
    let stamp = changes.stamp(Some(tenant), changes.before_reading()).unwrap();
    store.poll_changes().await.unwrap();
    assert!(changes.is_current(Some(tenant), stamp), "what was seen is not seen again");
}

#[tokio::test]
async fn whoever_waits_for_a_task_learns_of_its_end_and_leaves_nothing_behind() {
    let fixture = Fixture::new().await;
    let changes = fixture.store.changes();
    let ids = fixture.accept(fixture.owner, 2).await;
    let (mut first, mut second) = (changes.wait_for(ids[0]), changes.wait_for(ids[0]));
    let mut other = changes.wait_for(ids[1]);
    let claimed = fixture.claim_one().await;
    assert!(fixture.finish(ids[0], claimed.fence, completed("done"), Vec::new()).await.unwrap());
    first.ended().await;
    drop(first);
    second.ended().await;
    assert!(futures::FutureExt::now_or_never(other.ended()).is_none());
    drop((second, other));
    assert_eq!(changes.awaited_tasks(), []);
}

/// A cache that reads beside a writer. Should a change be visible in part, the cache would keep an old value under the
/// new stamp, for good.
#[test]
fn a_value_from_before_a_change_never_has_the_stamp_of_after_it() {
    const CHANGES: u64 = 200_000;
    let changes = Changes::new();
    let tenant = TenantId::from_bytes([7; 16]);
    // What the directory holds, and the last of its changes that is published.
    let (value, published) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for change in 1..=CHANGES {
                value.store(change, Ordering::SeqCst);
                changes.publish(Change::Directory(Some(tenant)));
                published.store(change, Ordering::SeqCst);
            }
        });
        let mut cached = None;
        while published.load(Ordering::SeqCst) < CHANGES {
            let before = changes.before_reading();
            let read = value.load(Ordering::SeqCst);
            if let Some(stamp) = changes.stamp(Some(tenant), before) {
                cached = Some((read, stamp));
            }
            let published = published.load(Ordering::SeqCst);
            if let Some((read, stamp)) = cached
                && changes.is_current(Some(tenant), stamp)
            {
                assert!(read >= published, "{read} counts as current after change {published}");
            }
        }
    });
}
