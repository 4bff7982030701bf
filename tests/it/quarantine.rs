//! The circuit breaker: a plugin that keeps failing is cut off for its tenant, probed after a pause, and restored
//! when a probe succeeds. The tenant's admins can see the reason and release the plugin.

use std::time::Duration;

use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};
use wardgate::ids::TenantId;

use crate::support::{Answer, Client, Gateway, Setup, agent, guest_path};

/// The breaker opens after this many consecutive failures, for this long at first.
const QUARANTINE_AFTER: u64 = 3;
const QUARANTINE_PAUSE: Duration = Duration::from_secs(30);

const PLUGIN: &str = "panics-on-demand";

/// A gateway with a clock that stands still, and an agent whose mapper crashes if the payload says so.
async fn gateway() -> (Gateway, Clock, Client) {
    let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000));
    let change = |settings: &mut wardgate::settings::Settings| {
        settings.sandbox.quarantine_after = QUARANTINE_AFTER;
        settings.sandbox.quarantine_seconds = QUARANTINE_PAUSE.as_secs();
    };
    let gateway = Setup::new().clock(&clock).settings(change).start().await;
    let agent = gateway.agent_with_mapper("panics_on_demand", "").await;
    (gateway, clock, agent)
}

async fn send(agent: &Client, crash: bool) -> Answer {
    agent.trigger().json(&json!({"crash": crash})).send().await
}

/// Makes the plugin fail until the breaker opens.
async fn cut_off(agent: &Client) {
    for _ in 0..QUARANTINE_AFTER {
        assert_eq!(send(agent, true).await.status, 502);
    }
}

async fn state(gateway: &Gateway, tenant: TenantId) -> Value {
    let target = format!("/admin/tenants/{tenant}/plugins/{PLUGIN}");
    gateway.get(&target).key(&gateway.operator_key()).expect(200).await.json()
}

#[tokio::test]
async fn a_plugin_that_keeps_failing_is_refused_at_once_and_nobody_elses_is() {
    let (gateway, _clock, agent_of_first) = gateway().await;
    let other = gateway.new_tenant("other").await;
    let component = std::fs::read(guest_path("panics_on_demand")).unwrap();
    let (plugins, name) = (&gateway.services.plugins, PLUGIN.parse().unwrap());
    plugins.install(other, &name, component, None).await.unwrap();
    let mut definition = agent("other");
    definition.mapper = Some(name);
    let agent_of_other = gateway.new_agent(other, definition).await;

    // A success in between resets the count.
    send(&agent_of_first, true).await;
    assert_eq!(send(&agent_of_first, false).await.status, 200);
    cut_off(&agent_of_first).await;
    let refused = send(&agent_of_first, false).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.header("retry-after"), Some("30"));
    assert_eq!(refused.header("x-wardgate-fault"), Some("guest"));
    assert_eq!(refused.header("x-wardgate-retry"), Some("safe"));
    assert!(refused.text.contains(PLUGIN) && refused.text.contains("crashed"), "{}", refused.text);

    assert_eq!(send(&agent_of_other, false).await.status, 200);
    let [own, others] = [gateway.tenant, other].map(|tenant| state(&gateway, tenant));
    let (own, others) = (own.await, others.await);
    assert_eq!((&own["digest"], &own["roles"]), (&others["digest"], &json!(["payload-mapper"])));
    assert_eq!(own["calls"]["refused"], json!({"quarantined": 1, "trapped": 1 + QUARANTINE_AFTER}));
    assert_eq!((&own["calls"]["answered"], &others["calls"]["answered"]), (&json!(1), &json!(1)));
    assert!(own["cost"]["cpu_micros"].as_u64() > Some(0), "{own}");
    assert!(own["quarantine"]["reason"].as_str().unwrap().contains("crashed"), "{own}");
    assert_eq!(own["quarantine"]["until"], "2027-01-15T08:00:30.000000+00:00");
    assert_eq!(others["quarantine"], Value::Null);
}

#[tokio::test]
async fn after_each_pause_one_call_is_let_through_and_the_pause_doubles_until_one_goes_well() {
    let (gateway, clock, agent) = gateway().await;
    cut_off(&agent).await;
    for pause in [QUARANTINE_PAUSE, 2 * QUARANTINE_PAUSE, 4 * QUARANTINE_PAUSE] {
        let refused = send(&agent, false).await;
        let seconds = pause.as_secs().to_string();
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some(&*seconds)));
        clock.advance(pause - Duration::from_secs(1));
        assert_eq!(send(&agent, false).await.status, 503);
        clock.advance(Duration::from_secs(1));
        // The probe fails again, so the breaker stays open.
        assert_eq!(send(&agent, true).await.status, 502);
    }
    clock.advance(8 * QUARANTINE_PAUSE);
    assert_eq!(send(&agent, false).await.status, 200);
    assert_eq!(state(&gateway, gateway.tenant).await["quarantine"], Value::Null);
    // The breaker is closed: the count and the pause start over.
    cut_off(&agent).await;
    assert_eq!(send(&agent, false).await.header("retry-after"), Some("30"));
}

#[tokio::test]
async fn another_version_gets_another_chance() {
    let (gateway, _clock, agent) = gateway().await;
    cut_off(&agent).await;
    assert_eq!(send(&agent, false).await.status, 503);
    let component = std::fs::read(guest_path("ignores")).unwrap();
    let (plugins, name) = (&gateway.services.plugins, PLUGIN.parse().unwrap());
    plugins.install(gateway.tenant, &name, component, None).await.unwrap();
    assert_eq!(send(&agent, false).await.status, 200);
    let state = state(&gateway, gateway.tenant).await;
    // The counters are kept.
    assert_eq!(state["calls"]["refused"]["trapped"], QUARANTINE_AFTER);
    assert_eq!(state["quarantine"], Value::Null);
}

#[tokio::test]
async fn whoever_manages_the_tenant_can_release_it() {
    let (gateway, _clock, agent) = gateway().await;
    cut_off(&agent).await;
    assert_eq!(send(&agent, false).await.status, 503);
    let admin_path = format!("/plugins/{PLUGIN}/release");
    let released = gateway.admin_request("POST", &admin_path).expect(200).await.json();
    assert_eq!((&released["name"], &released["quarantine"]), (&json!(PLUGIN), &Value::Null));
    assert_eq!(send(&agent, false).await.status, 200);
    for absent in ["/plugins/absent", "/plugins/Not-A-Name"] {
        gateway.admin_request("GET", absent).expect(404).await;
        gateway.admin_request("POST", &format!("{absent}/release")).expect(404).await;
    }
}
