//! Installed plugins are ready when they are called: after a restart they are loaded without recompilation, however
//! many there are. Plugins that are no longer installed leave no compiled code behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{Gateway, Setup, guest_path, guest_with_unique_digest, poll_until};

/// The names of the compiled components in a folder's cache.
fn compiled(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder.join("cache")).unwrap().map(|file| file.unwrap().file_name());
    let names = files.map(|name| name.into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".cwasm").map(str::to_owned)).collect()
}

/// How many components the gateway reports as loaded.
async fn loaded(gateway: &Gateway) -> u64 {
    let result = gateway.get("/metrics").key(&gateway.operator_key()).expect(200).await.text;
    let figure = result.lines().find_map(|line| line.strip_prefix("wardgate_components_loaded "));
    figure.unwrap_or_else(|| panic!("{result}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_what_was_installed_is_loaded_without_its_source() {
    let gateway = Gateway::start().await;
    let bundled = wardgate::plugins::bundled().count() as u64;
    let (name, component) = ("ignores".parse().unwrap(), guest_with_unique_digest("ignores"));
    gateway.services.plugins.install(gateway.tenant, &name, component, None).await.unwrap();
    let agent = gateway.agent_with(|agent| agent.mapper = Some(name)).await;
    let home = gateway.stop().await;
    // Without the source files, nothing can be compiled.
    fs::remove_dir_all(home.path().join("plugins")).unwrap();
    let gateway = Setup::new().home(home).start().await;
    poll_until("all components", async || (loaded(&gateway).await == bundled + 1).then_some(()))
        .await;
    let target = format!("/?agent_id={}", agent.agent);
    let answer = gateway.post(&target).key(&agent.key).json(&json!({})).expect(200).await;
    assert_eq!(answer.json()["status"], "Ignored");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_are_held_and_the_others_work_all_the_same() {
    let gateway = Setup::new()
        .settings(|settings| {
            settings.sandbox.loaded_max = 1;
            settings.plugins.preload_max = 0;
        })
        .start()
        .await;
    let agents = [
        gateway.agent_with_mapper("mapper_custom", "").await,
        gateway.agent_with_mapper("ignores", "").await,
    ];
    for round in 0..3 {
        gateway.reload_grants().await;
        let [mapped, ignored] = &agents;
        let body = json!({"text": format!("round {round}")});
        let answer = mapped.webhook("").json(&body).expect(200).await;
        assert_eq!(answer.json()["status"], "completed");
        let answer = ignored.webhook("").json(&json!({})).expect(200).await;
        assert_eq!(answer.json()["status"], "Ignored");
    }
    assert!(loaded(&gateway).await <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_goes_with_the_plugin() {
    // A separate cache, because other tests need the code that this test deletes. It holds this plugin only.
    let gateway = Gateway::start().await;
    let home = gateway.stop().await;
    home.detach_code_cache();
    let gateway = Setup::new().home(home).start().await;
    let name = gateway.install("ignores", "").await;
    let folder = gateway.home.path();
    let digest = wardgate::ids::PluginDigest::of(&fs::read(guest_path("ignores")).unwrap());
    let digest = digest.to_string().replace("sha256:", "");
    let is_there = || compiled(folder).iter().any(|name| name.starts_with(&digest));
    assert!(is_there());
    gateway.services.plugins.remove(gateway.tenant, &name).await.unwrap();
    assert!(!is_there());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_takes_away_code_that_nobody_needs_and_is_old() {
    let gateway = Gateway::start().await;
    let home = gateway.stop().await;
    home.detach_code_cache();
    let cache = home.path().join("cache");
    fs::create_dir_all(&cache).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for (name, is_old) in [("old.cwasm", true), ("half-written", true), ("young.cwasm", false)] {
        fs::write(cache.join(name), "code").unwrap();
        let file = fs::File::options().write(true).open(cache.join(name)).unwrap();
        if is_old {
            file.set_modified(old).unwrap();
        }
    }
    let gateway = Setup::new().home(home).start().await;
    let cache = gateway.home.path().join("cache");
    poll_until("the old ones to go", async || {
        (!cache.join("old.cwasm").exists() && !cache.join("half-written").exists()).then_some(())
    })
    .await;
    assert!(cache.join("young.cwasm").exists(), "somebody may be writing it");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_the_ones_installed_last_are_loaded_as_many_as_the_settings_say() {
    let gateway = Gateway::start().await;
    let bundled = wardgate::plugins::bundled().count() as u64;
    let mut agents = Vec::new();
    // In order of names, the one installed last is neither the first nor the last.
    for name in ["zulu", "alpha", "mike"] {
        let (plugins, name) = (&gateway.services.plugins, name.parse().unwrap());
        plugins
            .install(gateway.tenant, &name, guest_with_unique_digest("ignores"), None)
            .await
            .unwrap();
        agents.push(gateway.agent_with(|agent| agent.mapper = Some(name)).await);
    }
    let home = gateway.stop().await;
    let setup = Setup::new().settings(|settings| settings.plugins.preload_max = 1);
    let gateway = setup.home(home).start().await;
    poll_until("the one", async || (loaded(&gateway).await == bundled + 1).then_some(())).await;
    // What is not loaded by now can no longer be loaded: there is neither source nor compiled code.
    fs::remove_dir_all(gateway.home.path().join("plugins")).unwrap();
    gateway.home.detach_code_cache();
    for (agent, status) in agents.iter().zip([500, 500, 200]) {
        let target = format!("/?agent_id={}", agent.agent);
        let call = gateway.post(&target).key(&agent.key).json(&json!({}));
        let answer = call.expect(status).await;
        assert_eq!(answer.header("x-wardgate-fault"), (status == 500).then_some("host"));
    }
    assert_eq!(loaded(&gateway).await, bundled + 1);
}
