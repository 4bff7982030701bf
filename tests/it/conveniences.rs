//! Conveniences for webhook users: CloudEvents, a limit on waiting, request ids, CORS, and errors that say whether
//! a retry is safe.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Answer, Call, Client, Gateway, Setup};

/// The payload that the agent received.
fn received(answer: &Answer) -> Value {
    serde_json::from_str(answer.report()["received"].as_str().unwrap()).unwrap()
}

/// A CloudEvent in binary mode.
fn event(call: Call) -> Call {
    call.header("ce-specversion", "1.0")
        .header("ce-id", "1-a")
        .header("ce-source", "/sensors/t%C3%BCr")
        .header("ce-type", "com.example.opened")
        .header("ce-tenant", "blue")
}

#[tokio::test]
async fn a_cloudevent_has_one_shape_in_both_modes() {
    let gateway = Gateway::start().await;
    let whole = json!({
        "specversion": "1.0",
        "id": "1-a",
        "source": "/sensors/tür",
        "type": "com.example.opened",
        "tenant": "blue",
        "datacontenttype": "application/json",
        "data": {"door": {"n": 7}},
    });
    let body = r#"{"door":{"n":7}}"#;
    let mapping = r#"&params_mapping={"task_id":"data.door.n"}"#;
    for more in ["", mapping] {
        let binary = event(gateway.webhook(more)).text("application/json", body).expect(200).await;
        let structured =
            gateway.webhook(more).text("application/cloudevents+json", whole.to_string());
        let structured = structured.expect(200).await;
        assert_eq!((received(&binary), received(&structured)), (whole.clone(), whole.clone()));
        let thread = if more.is_empty() { Value::Null } else { json!("7") };
        for answer in [binary, structured] {
            assert_eq!(gateway.task(&answer.task_id()).await["thread_id"], thread);
        }
    }
    let triggered = event(gateway.trigger()).text("application/json", body).expect(200).await;
    assert_eq!(gateway.wait_for_end(&triggered.task_id()).await["status"], "completed");
}

#[tokio::test]
async fn a_cloudevents_data_may_be_of_any_type() {
    let gateway = Gateway::start().await;
    for (content_type, body, field, data) in [
        ("application/xml", &b"<a/>"[..], "data", json!("<a/>")),
        ("text/plain", b"{\"not\":\"json\"}", "data", json!("{\"not\":\"json\"}")),
        ("application/octet-stream", b"\xff\x00", "data_base64", json!("/wA=")),
    ] {
        let answer = event(gateway.webhook("")).text(content_type, body.to_vec()).expect(200).await;
        assert_eq!(received(&answer)[field], data, "{content_type}");
    }
    let bare = event(gateway.webhook("")).body("").expect(200).await;
    assert_eq!(received(&bare).get("data"), None);
}

#[tokio::test]
async fn what_says_that_it_is_a_cloudevent_and_is_none_is_refused() {
    let gateway = Gateway::start().await;
    let structured = |event: Value| {
        gateway.webhook("").text("application/cloudevents+json; charset=utf-8", event.to_string())
    };
    let whole = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
    structured(whole.clone()).expect(200).await;
    for missing in ["specversion", "id", "source", "type"] {
        let mut event = whole.clone();
        event.as_object_mut().unwrap().remove(missing);
        assert!(structured(event).expect(400).await.detail().contains(missing));
    }
    structured(json!({"specversion": "2.0", "id": "1", "source": "/s", "type": "t"}))
        .expect(400)
        .await;
    let half = gateway.webhook("").header("ce-specversion", "1.0").json(&json!({}));
    assert!(half.expect(400).await.detail().contains("ce-id"));
    event(gateway.webhook("")).header("ce-id", "2").json(&json!({})).expect(400).await;
    // In binary mode, the content type is the data's type; `ce-datacontenttype` would be a duplicate attribute.
    event(gateway.webhook("")).header("ce-datacontenttype", "b").json(&json!({})).expect(400).await;
    gateway.webhook("").text("application/cloudevents-batch+json", "[]").expect(415).await;
    event(gateway.webhook("")).text("application/json", "{").expect(400).await;
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn under_an_idempotency_key_another_event_is_another_request() {
    let gateway = Gateway::start().await;
    let send = |id: &str| {
        let call = gateway.webhook("").header("ce-specversion", "1.0").header("ce-id", id);
        let call = call.header("ce-source", "/s").header("ce-type", "t");
        call.json(&json!({"n": 1})).idempotent("k")
    };
    let first = send("1").expect(200).await;
    assert_eq!(send("1").expect(200).await.task_id(), first.task_id());
    send("2").expect(422).await;
}

/// A gateway whose agent uses a model that never responds.
async fn silent() -> (Gateway, ModelServer) {
    let server = ModelServer::start([Reply::Silence]).await;
    (Setup::new().model(&server).start().await, server)
}

#[tokio::test]
async fn x22_a_caller_waits_no_longer_than_he_prefers_and_the_run_goes_on() {
    let (gateway, server) = silent().await;
    for (prefer, applied) in
        [("wait=0", "wait=0"), ("respond-async", "respond-async"), ("wait=1, foo=bar", "wait=1")]
    {
        let call = gateway.webhook("").header("prefer", prefer).json(&json!({"prompt": "hi"}));
        let answer = call.expect(202).await;
        assert_eq!(answer.header("preference-applied"), Some(applied));
        assert_eq!(answer.header("location").unwrap(), format!("/v1/tasks/{}", answer.task_id()));
        assert_eq!(answer.json()["result"], Value::Null);
        gateway.task(&answer.task_id()).await;
    }
    server.set_reply(Reply::Text("at last"));
    let again = gateway.webhook("").header("prefer", "wait=500").json(&json!({"prompt": "hi"}));
    let answer = again.expect(200).await;
    assert_eq!(
        answer.header("preference-applied"),
        None,
        "nobody waits longer than the settings say"
    );
    assert_eq!(answer.json()["result"], "at last");
}

#[tokio::test]
async fn x22_the_settings_bound_the_waiting_and_the_answer_can_be_polled() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("later"))]).await;
    let setup = Setup::new().model(&server);
    let setup = setup.settings(|settings| settings.http.sync_wait_max = Duration::from_millis(200));
    let gateway = setup.start().await;
    let answer = gateway.webhook("").json(&json!({"prompt": "hi"})).expect(202).await;
    assert!(["pending", "executing"].contains(&answer.json()["status"].as_str().unwrap()));
    server.release(1);
    assert_eq!(gateway.wait_for_end(&answer.task_id()).await["result"], "later");
}

#[tokio::test]
async fn every_answer_says_which_request_it_is_to() {
    let gateway = Gateway::start().await;
    let get = |id: Option<&str>| match id {
        Some(id) => gateway.get("/v1/agents").header("x-request-id", id),
        None => gateway.get("/v1/agents"),
    };
    let (first, second) = (get(None).send().await, get(None).send().await);
    assert_ne!(first.header("x-request-id").unwrap(), second.header("x-request-id").unwrap());
    assert_eq!(get(Some("abc-123")).send().await.header("x-request-id"), Some("abc-123"));
    for unusable in ["", "two words", &"x".repeat(129)] {
        let answer = get(Some(unusable)).send().await;
        assert!(answer.header("x-request-id").unwrap().starts_with("req-"), "{unusable:?}");
    }
    let nowhere = gateway.get("/nowhere").expect(404).await;
    assert!(nowhere.header("x-request-id").is_some());
}

#[tokio::test]
async fn asking_starts_nothing() {
    let gateway = Gateway::start().await;
    let hook = format!("/api/webhooks/agents/{}?q=1", gateway.token);
    let root = format!("/?agent_id={}&x-api-key={}&prompt=hi", gateway.agent, gateway.key);
    let send = async |method: &str, target: &str| {
        let request = gateway.http.request(method.parse().unwrap(), gateway.url(target));
        Call::new(request.header("origin", "https://page.example")).send().await
    };
    for target in [&hook, &root] {
        let head = send("HEAD", target).await;
        assert!(head.status == 405 && head.header("allow").is_some(), "{target}");
        let asked = send("OPTIONS", target).await;
        assert_eq!(asked.status, 200, "{target}");
        assert_eq!(asked.header("access-control-allow-origin"), Some("*"));
    }
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let refused = send(method, &root).await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_page_of_any_origin_may_call_and_read_what_it_is_answered() {
    let gateway = Gateway::start().await;
    let preflight = gateway.http.request("OPTIONS".parse().unwrap(), gateway.url("/"));
    let preflight = Call::new(preflight)
        .header("origin", "https://page.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "x-api-key,idempotency-key")
        .header("webhook-request-origin", "events.example");
    let allowed = preflight.expect(200).await;
    assert_eq!(allowed.header("access-control-allow-headers"), Some("x-api-key,idempotency-key"));
    assert!(allowed.header("access-control-allow-methods").unwrap().contains("POST"));
    assert_eq!(allowed.header("webhook-allowed-origin"), Some("events.example"));
    let call = gateway.webhook("").header("origin", "https://page.example");
    let answer = call.json(&json!({"prompt": "hi"})).expect(200).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("x-task-id") && exposed.contains("location"), "{exposed}");
    // The admin API does not allow cross-origin requests.
    let admin =
        gateway.get("/admin/tenants").header("origin", "https://page.example").expect(401).await;
    assert_eq!(admin.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn an_error_says_whether_to_try_again() {
    let gateway = Gateway::start().await;
    let retry = |answer: &Answer| answer.header("x-wardgate-retry").map(str::to_owned);
    let broken = gateway.webhook("").text("application/json", "{").expect(400).await;
    assert_eq!(retry(&broken).as_deref(), Some("never"));
    assert_eq!(
        broken.json().as_object().unwrap().len(),
        1,
        "the contract's body, nothing beside it"
    );
    let trapping = gateway.agent_with_mapper("panics", "").await;
    let trapped = trapping.webhook("").json(&json!({})).expect(502).await;
    assert_eq!(
        (retry(&trapped).as_deref(), trapped.json()["retry"].as_str()),
        (Some("safe"), Some("safe"))
    );
    // The run has ended: repeating the request would start another run.
    let after = gateway.agent_with_getter("bad_json_getter", "").await;
    let after = after.webhook("&getter=x").json(&json!({"prompt": "hi"})).expect(502).await;
    assert_eq!(retry(&after).as_deref(), Some("never"));
    after.task_id();
}

#[tokio::test]
async fn a_request_that_runs_already_can_be_sent_again_in_a_while() {
    let (gateway, _server) = silent().await;
    let call = |gateway: &Client| {
        gateway
            .webhook("")
            .json(&json!({"prompt": "hi"}))
            .idempotent("k")
            .header("prefer", "wait=0")
    };
    let first = call(&gateway).expect(202).await;
    let second = call(&gateway).expect(409).await;
    assert_eq!(
        (second.header("retry-after"), second.json()["retry"].as_str()),
        (Some("1"), Some("safe"))
    );
    assert_eq!(second.task_id(), first.task_id());
}
