//! A component that was not written for this gateway works as a toolbox: its functions are tools, its types become
//! their schemas, and the limits of every plugin apply to it.

use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Call, Client, Gateway, Setup, guest_path};

/// Runs the agent with a prompt that calls the tool, and returns the tool's result and whether it is an error.
async fn called(agent: &Client, tool: &str, arguments: Value) -> (Value, bool) {
    let answer = agent.ask(json!({"prompt": format!("{tool} {arguments}")})).await;
    assert_eq!(answer.json()["status"], "completed", "{}", answer.text);
    let tools = answer.report()["tools"].clone();
    let called = tools.as_array().unwrap().iter().find(|called| called["name"] == tool);
    let called = called.unwrap_or_else(|| panic!("{tool} was not called: {}", answer.text));
    (called["result"].clone(), called["is_error"].as_bool().unwrap())
}

async fn error(agent: &Client, tool: &str, arguments: Value) -> String {
    let (result, is_error) = called(agent, tool, arguments).await;
    assert!(is_error, "{tool} answered {result}");
    result.as_str().map_or_else(|| result.to_string(), str::to_owned)
}

fn everything() -> Value {
    json!({
        "truth": true, "small": -128, "large": u64::MAX, "ratio": 0.1, "letter": "ß",
        "text": "a \"quoted\" text", "raw": "AAH/", "sides": [{"left": i64::MIN, "right": 7}],
        "pair": ["sunday", {"box": {"left": 1, "right": null}}], "ways": ["quick", "cheap"],
        "deep": {"some": null}, "outcome": {"err": "no"},
    })
}

#[tokio::test]
async fn it_is_installed_over_the_admin_api_as_a_toolbox() {
    let gateway = Gateway::start().await;
    let component = std::fs::read(guest_path("foreign_kinds")).unwrap();
    let form = Form::new().part("component", Part::bytes(component));
    let installed =
        gateway.admin_request("PUT", "/plugins/kinds").multipart(form).expect(200).await;
    assert_eq!(installed.json()["roles"], json!(["toolbox"]));
}

#[tokio::test]
async fn the_model_is_told_its_functions_with_schemas() {
    let model = ModelServer::start([Reply::Text("done")]).await;
    let gateway = Setup::new().model(&model).start().await;
    let tool = gateway.install("foreign_kinds", "").await;
    let agent = gateway.agent_with(|agent| {
        agent.tools = vec![tool];
        agent.model = "scripted".to_owned();
    });
    agent.await.ask(json!({"prompt": "x"})).await;
    let tools = model.requests()[0].0["tools"].clone();
    let function = |name: &str| {
        let tools = tools.as_array().unwrap().iter();
        tools.map(|tool| tool["function"].clone()).find(|tool| tool["name"] == name).unwrap()
    };
    let text = json!({"type": "string"});
    let shout = json!({
        "type": "object", "properties": {"text": text}, "required": ["text"],
        "additionalProperties": false,
    });
    assert_eq!(function("shout")["parameters"], shout);
    let divide = function("values-divide");
    assert_eq!(
        divide["description"],
        "The function divide: func(dividend: s32, divisor: s32) -> result<s32, string> of \
         elsewhere:kinds/values@1.0.0"
    );
    let number = json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX});
    assert_eq!(divide["parameters"]["properties"]["divisor"], number);
    assert_eq!(function("values-echo")["parameters"]["required"], json!(["it"]));
    assert_eq!(tools.as_array().unwrap().len(), 7, "and the gateway's own read_result");
}

#[tokio::test]
async fn every_kind_of_value_comes_back_as_it_went() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("foreign_kinds", "").await;
    let more = json!(["dot", {"line": 0.5}, {"held": null}, {"held": "x"}]);
    let given = json!({"it": everything(), "more": more});
    assert_eq!(called(&agent, "values-echo", given).await, (everything(), false));
    let shout = called(&agent, "shout", json!({"text": "straße"})).await;
    assert_eq!(shout, (json!("STRASSE"), false));
    assert_eq!(called(&agent, "values-not-a-number", json!({})).await, (json!("NaN"), false));
    assert_eq!(called(&agent, "values-nothing", json!({})).await, (Value::Null, false));
}

#[tokio::test]
async fn an_error_of_its_own_is_the_tools_error() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("foreign_kinds", "").await;
    let divide = |divisor: i32| json!({"dividend": 7, "divisor": divisor});
    assert_eq!(called(&agent, "values-divide", divide(2)).await, (json!(3), false));
    let zero = error(&agent, "values-divide", divide(0)).await;
    assert_eq!(zero, "values-divide: \"nothing is divided by zero\"");
    assert_eq!(
        called(&agent, "values-check", json!({"day": "monday"})).await,
        (Value::Null, false)
    );
    let sunday = error(&agent, "values-check", json!({"day": "sunday"})).await;
    assert_eq!(sunday, r#"values-check: {"held":"closed"}"#);
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_told_to_the_model_with_their_place() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("foreign_kinds", "").await;
    let changed = |field: &str, value: Value| {
        let mut it = everything();
        it[field] = value;
        json!({"it": it})
    };
    for (arguments, reported) in [
        (json!({}), "\"it\" is a required property"),
        (json!({"it": everything(), "extra": 1}), "('extra' was unexpected)"),
        (changed("small", json!(128)), "at /it/small: value is greater than the maximum of 127"),
        (
            changed("sides", json!([{"left": 1}, {}])),
            "at /it/sides/1: \"left\" is a required property",
        ),
        (changed("pair", json!(["monday"])), "at /it/pair: "),
        (changed("ways", json!(["slow"])), "at /it/ways/0: "),
    ] {
        let error = error(&agent, "values-echo", arguments).await;
        assert!(error.contains(reported), "{error}");
    }
    // A direct call of the tool is refused in the same way.
    let operation = format!("/agents/{}/operations/shout", agent.agent);
    let refused =
        agent.post(&operation).key(&agent.key).json(&json!({"text": 1})).expect(400).await;
    assert!(refused.detail().contains("at /text: wanted a text"), "{}", refused.text);
}

#[tokio::test]
async fn its_tools_count_as_destructive() {
    let gateway = Gateway::start().await;
    let tool = gateway.install("foreign_kinds", "").await;
    let agent = gateway.agent_with(|agent| agent.tools = vec![tool]).await;
    let refused = error(&agent, "shout", json!({"text": "x"})).await;
    assert!(refused.contains("allow_destructive_tools"), "{refused}");
}

#[tokio::test]
async fn resources_are_refused_by_name() {
    let gateway = Gateway::start().await;
    let component = std::fs::read(guest_path("foreign_resources")).unwrap();
    let form = Form::new().part("component", Part::bytes(component));
    let refused = gateway.admin_request("PUT", "/plugins/things").multipart(form).expect(422).await;
    for reason in [
        "first of elsewhere:resources/things: its parameter among holds the resource counter",
        "[constructor]counter of elsewhere:resources/things: its answer holds the resource counter",
    ] {
        assert!(refused.detail().contains(reason), "{}", refused.text);
    }
}

#[tokio::test]
async fn a_plugin_of_ours_has_its_roles_and_nothing_else() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("foreign_and_ours", "").await;
    assert_eq!(called(&agent, "echo", json!({"a": 1})).await, (json!({"a": 1}), false));
    let report = agent.ask(json!({"prompt": "shout {\"text\": \"x\"}"})).await.report();
    assert_eq!(report["tools"], json!([]), "the function beside the role is no tool");
}

/// Tight limits on memory and output, with enough time to reach them.
const TIGHT: &str = "[limits]\nmemory_mib = 8\noutput_bytes = 65536\nwall_ms = 40000\n";

/// Checks that the host ends the call in reasonable time, and the error that it reports. Only one of the two time
/// limits is short, because on a busy machine either of two could expire first.
async fn assert_stopped(tool: &str, arguments: Value, limit: &str, reported: &str) {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("foreign_hostile", &format!("{TIGHT}{limit}\n")).await;
    let started = Instant::now();
    let error = error(&agent, tool, arguments).await;
    assert!(error.contains(reported), "{error}");
    assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
}

const BRIEF: &str = "tool_cpu_ms = 100\ntool_wall_ms = 40000";
const RELAXED_LIMITS: &str = "tool_cpu_ms = 10000\ntool_wall_ms = 40000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_loops_is_stopped() {
    assert_stopped("spin", json!({}), BRIEF, "computed for longer than the 100 ms").await;
}

#[tokio::test]
async fn a_function_that_waits_is_stopped() {
    assert_stopped("sleep", json!({}), "tool_wall_ms = 700", "took longer than the 700 ms").await;
}

#[tokio::test]
async fn a_function_that_allocates_is_stopped() {
    assert_stopped("eat", json!({}), RELAXED_LIMITS, "wanted more than the 8 MiB").await;
}

#[tokio::test]
async fn a_function_that_crashes_fails_its_call_only() {
    assert_stopped("crash", json!({}), RELAXED_LIMITS, "it crashed").await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let too_large = "handed over more than the 65536 bytes";
    assert_stopped("text", json!({"bytes": 100_000}), RELAXED_LIMITS, too_large).await;
    assert_stopped("numbers", json!({"count": 10_000}), RELAXED_LIMITS, too_large).await;
    // The string is short enough, but each character takes six bytes as JSON.
    assert_stopped("controls", json!({"count": 20_000}), RELAXED_LIMITS, too_large).await;
}

#[tokio::test]
async fn what_is_within_the_limits_is_answered() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("foreign_hostile", TIGHT).await;
    let (text, _) = called(&agent, "text", json!({"bytes": 1_000})).await;
    assert_eq!(text.as_str().map(str::len), Some(1_000));
    let (numbers, _) = called(&agent, "numbers", json!({"count": 2})).await;
    assert_eq!(numbers, json!([u64::MAX, u64::MAX]));
    assert_eq!(called(&agent, "letter", json!({"text": "ab"})).await, (json!(2), false));
}

#[tokio::test]
async fn one_that_keeps_crashing_is_cut_off() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("foreign_hostile", TIGHT).await;
    for _ in 0..50 {
        let reported = error(&agent, "crash", json!({})).await;
        if reported.contains("cut off for a while") {
            return;
        }
    }
    panic!("it was never cut off");
}

/// A component that exports one function `go` with this body, from an interface or at the top level.
fn of_one_function(interface: Option<&str>, body: &str) -> Vec<u8> {
    let exported = match interface {
        Some(interface) => format!(
            "(instance $it (export \"go\" (func $go))) (export \"{interface}\" (instance $it))"
        ),
        None => "(export \"go\" (func $go))".to_owned(),
    };
    let component = format!(
        "(component (core module $m {body}) (core instance $i (instantiate $m)) \
         (func $go (canon lift (core func $i \"go\"))) {exported})"
    );
    wat::parse_str(component).unwrap()
}

const NOTHING: &str = "(func (export \"go\"))";

async fn offered(gateway: &Gateway, component: Vec<u8>, grants: &str) -> Call {
    let form =
        Form::new().part("component", Part::bytes(component)).text("grants", grants.to_owned());
    gateway.admin_request("PUT", "/plugins/other").multipart(form)
}

#[tokio::test]
async fn what_is_made_to_be_run_by_something_else_is_called_what_it_is() {
    let gateway = Gateway::start().await;
    let newer = "(component (import \"wasi:random/random@0.3.0\" (instance \
                 (export \"get-random-u64\" (func (result u64))))))";
    for (component, message) in [
        (of_one_function(Some("wasi:cli/run@0.2.3"), NOTHING), "it is a command"),
        (
            of_one_function(Some("wasi:http/incoming-handler@0.2.3"), NOTHING),
            "it is an HTTP server",
        ),
        (wat::parse_str(newer).unwrap(), "it is made for WASI 0.3"),
    ] {
        let refused = offered(&gateway, component, "").await.expect(422).await;
        assert!(refused.detail().contains(message), "{message}: {}", refused.detail());
    }
}

#[tokio::test]
async fn a_memory_that_begins_larger_than_what_is_granted_is_noted_when_it_is_installed() {
    let gateway = Gateway::start().await;
    let component = of_one_function(None, "(memory 512) (func (export \"go\"))");
    let notes = |answer: Value| answer["notes"].to_string();
    let small = offered(&gateway, component.clone(), "[limits]\nmemory_mib = 16\n").await;
    let noted = notes(small.expect(200).await.json());
    assert!(noted.contains("32 MiB of memory and is granted 16"), "{noted}");
    let enough = offered(&gateway, component, "[limits]\nmemory_mib = 64\n").await;
    assert_eq!(notes(enough.expect(200).await.json()), "[]");
}

#[tokio::test]
async fn a_tool_that_ran_and_failed_is_not_safe_to_call_again_and_one_that_did_not_run_is() {
    let gateway = Gateway::start().await;
    let exception = "(tag $t) (func (export \"go\") (throw $t))";
    for (body, message) in
        [(exception, "an exception"), ("(func (export \"go\") unreachable)", "crashed")]
    {
        offered(&gateway, of_one_function(None, body), "").await.expect(200).await;
        let agent = gateway.agent_with(|agent| {
            agent.tools = vec!["other".parse().unwrap()];
            agent.allow_destructive_tools = true;
        });
        let agent = agent.await;
        let call = agent.post(&format!("/agents/{}/operations/go", agent.agent)).key(&agent.key);
        let failed = call.json(&json!({})).expect(502).await;
        assert!(failed.detail().contains(message), "{}", failed.detail());
        assert_eq!(failed.header("x-wardgate-retry"), Some("never"), "{message}");
        assert_eq!(failed.header("x-wardgate-fault"), Some("guest"), "{message}");
        // The run's trace has the same reason.
        let refusal = error(&agent, "go", json!({})).await;
        assert!(refusal.contains(message), "{refusal}");
    }
    let agent = gateway.agent_with(|agent| agent.tools = vec!["calculator".parse().unwrap()]).await;
    let unknown = agent.post(&format!("/agents/{}/operations/go", agent.agent)).key(&agent.key);
    let unknown = unknown.json(&json!({})).expect(404).await;
    assert_ne!(unknown.header("x-wardgate-retry"), Some("safe"));
}
