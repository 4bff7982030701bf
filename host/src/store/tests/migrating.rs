//! A store of an earlier version is brought up to date, and holds what it held.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::*;
use crate::ids::{PluginDigest, PluginName};
use crate::store::sqlite::MIGRATIONS;
use crate::tenants::Provenance;

/// A store as it was after this migration.
async fn earlier(path: &std::path::Path, migration: i64) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut database = options.connect().await.unwrap();
    MIGRATIONS.run_to(migration, &mut database).await.unwrap();
    database
}

#[tokio::test]
async fn a_plugin_that_was_installed_before_versions_were_kept_is_its_first_version() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.db");
    let mut database = earlier(&path, 3).await;
    let (tenant, digest) = (TenantId::random(), PluginDigest::of(b"a component"));
    sqlx::query("INSERT INTO tenants VALUES (?, 'one', 1)")
        .bind(tenant.as_bytes().as_slice())
        .execute(&mut database)
        .await
        .unwrap();
    sqlx::query("INSERT INTO plugins VALUES (?, 'hook', ?, 7)")
        .bind(tenant.as_bytes().as_slice())
        .bind(digest.to_string())
        .execute(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();

    let clock = Clock::by_hand(Timestamp::from_micros(NOON));
    let store = Store::open(&path, clock).await.unwrap();
    let name: PluginName = "hook".parse().unwrap();
    let found = store.plugin(tenant, &name).await.unwrap().unwrap();
    assert_eq!((found.digest, found.installed_at), (digest, Timestamp::from_micros(7)));
    assert_eq!((found.provenance, found.installed_by), (Provenance::File, None));
    let versions = store.plugin_versions(tenant, &name).await.unwrap();
    assert_eq!(versions.len(), 1);
    assert!(versions[0].is_current && !versions[0].is_skipped);
}
