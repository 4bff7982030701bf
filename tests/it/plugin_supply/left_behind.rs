//! Under concurrent operations and after a kill at any moment: exactly one version is current, its file exists, and
//! unneeded files are deleted.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::{
    command, digest, guest, home, install, installation_form, stored_components, versioned,
    versions, write,
};
use wardgate::plugins::Offered;
use wardgate::tenants::Installer;

use crate::support::{Gateway, Setup, guest_path, poll_until, wardgate_command};

#[tokio::test(flavor = "multi_thread")]
async fn installations_that_race_with_rollbacks_leave_one_current_version_that_works() {
    let setup = Setup::new().settings(|settings| {
        settings.plugins.versions_max = 3;
        // Eighty concurrent operations may wait for a while.
        settings.plugins.install_wait_seconds_max = 600;
    });
    let gateway = setup.start().await;
    let components = ["1", "2", "3", "4"].map(|version| versioned(&guest("ignores"), version));
    for component in &components {
        install(&gateway, component.clone()).await;
    }
    let mut racing = JoinSet::new();
    for round in 0..40 {
        let call = gateway.admin_request("PUT", "/plugins/hook");
        let component = components[round % components.len()].clone();
        racing.spawn(async move {
            call.multipart(installation_form(component, &[])).expect(200).await;
        });
        let call = gateway.admin_request("POST", "/plugins/hook/rollback").json(&json!({}));
        racing.spawn(async move {
            let status = call.send().await.status;
            // Rolled back by one, no earlier version, or another operation was first.
            assert!(matches!(status, 200 | 409 | 412), "{status}");
        });
    }
    racing.join_all().await;
    let after = versions(&gateway).await;
    assert_eq!(after.iter().filter(|version| version.starts_with('*')).count(), 1, "{after:?}");
    assert_eq!(after.len(), 3, "{after:?}");
    let agent = gateway.agent_with(|agent| agent.mapper = Some("hook".parse().unwrap())).await;
    agent.webhook("").json(&json!({})).expect(200).await;
    let kept: BTreeSet<_> =
        after.iter().map(|version| version.trim_start_matches(['*', '-']).to_owned()).collect();
    let there =
        |gateway: &Gateway| stored_components(&gateway.home).into_iter().collect::<BTreeSet<_>>();
    assert!(there(&gateway).is_superset(&kept), "{after:?}");
    // Files that were still in use when they became unneeded are deleted at the next start.
    let gateway = Setup::new().home(gateway.stop().await).start().await;
    poll_until("the needless one to go", async || (there(&gateway) == kept).then_some(())).await;
}

#[tokio::test]
async fn a_component_that_is_being_installed_is_not_taken_away() {
    let gateway = Gateway::start().await;
    let lock = File::create(gateway.home.path().join("plugins.lock")).unwrap();
    // As held by another process that has written the file but not yet the row.
    lock.lock_shared().unwrap();
    install(&gateway, guest("ignores")).await;
    gateway.admin_request("DELETE", "/plugins/hook").expect(204).await;
    assert_eq!(
        stored_components(&gateway.home),
        [digest(&guest("ignores"))],
        "it may be what is installed"
    );
    lock.unlock().unwrap();
    install(&gateway, guest("ignores")).await;
    gateway.admin_request("DELETE", "/plugins/hook").expect(204).await;
    assert!(stored_components(&gateway.home).is_empty());

    // And an installation waits for a removal.
    lock.lock().unwrap();
    let installing = gateway.admin_request("PUT", "/plugins/hook");
    let installing =
        tokio::spawn(installing.multipart(installation_form(guest("ignores"), &[])).expect(200));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!installing.is_finished() && stored_components(&gateway.home).is_empty());
    lock.unlock().unwrap();
    installing.await.unwrap();
    assert_eq!(stored_components(&gateway.home), [digest(&guest("ignores"))]);
}

/// Whether compiled code of a component is cached. Other tests share the cache.
fn is_code_kept(gateway: &Gateway, component: &[u8]) -> bool {
    let digest = digest(component).replace("sha256:", "");
    let mut files = std::fs::read_dir(gateway.home.path().join("cache")).unwrap();
    files.any(|file| file.unwrap().file_name().into_string().unwrap().starts_with(&digest))
}

#[tokio::test]
async fn compiled_code_of_what_comes_to_be_installed_nowhere_goes_at_once() {
    let gateway = Gateway::start().await;
    let gone = async |component: &[u8]| {
        poll_until("the code to go", async || (!is_code_kept(&gateway, component)).then_some(()))
            .await;
    };
    // The component compiles but has too many memories, which is detected when its code is loaded.
    let memories = "(core module $m (memory 1))".to_owned()
        + &(0..5).map(|n| format!("(core instance $i{n} (instantiate $m))")).collect::<String>();
    let component = wat::parse_str(format!("(component {memories})")).unwrap();
    let call = gateway
        .admin_request("PUT", "/plugins/hook")
        .multipart(installation_form(component.clone(), &[]));
    let refused = call.expect(422).await;
    assert!(refused.detail().contains("memories"), "{}", refused.detail());
    gone(&component).await;

    // A caller prepares an installation and disconnects.
    let plugins = &gateway.services.plugins;
    let (tenant, name) = (gateway.tenant, "hook".parse().unwrap());
    let component = versioned(&guest("ignores"), "nobody's");
    let by = Installer::Operator;
    let offered = || Offered { by, ..Offered::from(component.clone()) };
    let prepared = plugins.prepare(tenant, &name, offered(), None).await.unwrap();
    assert!(is_code_kept(&gateway, &component));
    drop(prepared);
    gone(&component).await;

    // But code of a component that was installed in the meantime is kept.
    let prepared = plugins.prepare(tenant, &name, offered(), None).await.unwrap();
    install(&gateway, component.clone()).await;
    drop(prepared);
    let agent = gateway.agent_with(|agent| agent.mapper = Some("hook".parse().unwrap())).await;
    agent.webhook("").json(&json!({})).expect(200).await;
    assert!(is_code_kept(&gateway, &component));
}

#[tokio::test]
async fn what_nobody_needs_is_gone_after_the_next_start() {
    let gateway = Gateway::start().await;
    install(&gateway, guest("ignores")).await;
    let home = gateway.stop().await;
    let folder = home.path().join("plugins");
    let (needed, orphan) = (digest(&guest("ignores")), digest(b"never stored"));
    let [needed, orphan] = [needed, orphan].map(|digest| digest.replace("sha256:", ""));
    std::fs::write(folder.join(format!("{orphan}.wasm")), b"never stored").unwrap();
    std::fs::write(folder.join(format!("{needed}.new-0f3c")), b"hal").unwrap();
    // Files that the gateway did not write are not touched.
    std::fs::write(folder.join("notes.txt"), b"ours").unwrap();
    let gateway = Setup::new().home(home).start().await;
    let left = poll_until("what nobody needs to go", async || {
        let names = std::fs::read_dir(&folder).unwrap();
        let names: BTreeSet<_> =
            names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        (names.len() == 2).then_some(names)
    });
    assert_eq!(left.await, [format!("{needed}.wasm"), "notes.txt".to_owned()].into());
    assert_eq!(versions(&gateway).await.len(), 1);
}

#[tokio::test]
async fn whenever_an_installation_is_killed_what_is_found_is_whole() {
    let home = home();
    let first = guest_path("ignores");
    command(&home, &["plugin", "install", first.to_str().unwrap(), "--name", "hook"]);
    for round in 0..24_u64 {
        let component = versioned(&guest("ignores"), &format!("killed {}", round % 3));
        let file = write(&home, "next.wasm", &component);
        let data = home.path().to_str().unwrap();
        let mut process =
            wardgate_command(&["plugin", "install", &file, "--name", "hook", "--data", data])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
        // Ranges from before anything is written to after everything is.
        tokio::time::sleep(Duration::from_millis(20 + round * 8)).await;
        let _ = process.kill();
        process.wait().unwrap();
        let listed = command(&home, &["plugin", "versions", "hook"]);
        let places: Vec<_> = listed.lines().map(|line| line.split_once('\t').unwrap().0).collect();
        assert_eq!(places.iter().filter(|place| **place == "current").count(), 1, "{listed}");
        for line in listed.lines() {
            let stored = line.split('\t').nth(1).unwrap();
            let path = home.path().join("plugins").join(stored.replace("sha256:", "") + ".wasm");
            assert_eq!(digest(&std::fs::read(path).unwrap()), stored, "round {round}");
        }
    }
    // The next start finds a working version and deletes leftover files.
    let gateway = Setup::new().home(home).start().await;
    let tenants = gateway.folder.store.tenants().await.unwrap();
    let tenant = tenants.iter().find(|tenant| tenant.name.as_str() == "one").unwrap().id;
    let plugins = &gateway.services.plugins;
    plugins.binding(tenant, &"hook".parse().unwrap()).await.unwrap();
    let needed = plugins.versions(tenant, &"hook".parse().unwrap()).await.unwrap();
    let needed: BTreeSet<_> = needed.iter().map(|v| v.plugin.digest.to_string()).collect();
    poll_until("what is left over to go", async || {
        (stored_components(&gateway.home).into_iter().collect::<BTreeSet<_>>() == needed)
            .then_some(())
    })
    .await;
}
