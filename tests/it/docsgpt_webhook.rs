//! The agent's own webhook, `/api/webhooks/agents/{token}`, and its polling: rows D1 to D4.

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Gateway, Setup};

fn refusal(message: &str) -> Value {
    json!({"success": false, "message": message})
}

#[tokio::test]
async fn d1_a_trigger_answers_200_and_the_task() {
    let gateway = Gateway::start().await;
    let answer = gateway.trigger().json(&json!({"question": "hello"})).expect(200).await;
    let body = answer.json();
    assert_eq!(body, json!({"success": true, "task_id": answer.task_id()}));
    let polled = gateway.wait_for_final_status(body["task_id"].as_str().unwrap()).await;
    assert_eq!(polled["status"], "SUCCESS");
}

#[tokio::test]
async fn d1_any_json_but_null_is_a_payload() {
    let gateway = Gateway::start().await;
    for body in ["{}", "[]", "[1]", "false", "5", "\"text\""] {
        let id = gateway.trigger().text("application/json", body).expect(200).await.task_id();
        assert_eq!(gateway.wait_for_end(&id).await["input"]["text"], body);
    }
}

#[tokio::test]
async fn d1_nothing_in_the_payload_is_a_parameter() {
    let gateway = Gateway::start().await;
    let body = json!({"prompt": "p", "task_id": "t", "asynchronous": "maybe", "getter": "x"});
    let id = gateway.trigger().json(&body).expect(200).await.task_id();
    let task = gateway.wait_for_end(&id).await;
    assert_eq!(
        (&task["thread_id"], &task["input"]["text"]),
        (&Value::Null, &json!(body.to_string()))
    );
}

#[tokio::test]
async fn d2_a_get_has_its_payload_in_the_query_and_the_first_value_counts() {
    let gateway = Gateway::start().await;
    let hook = format!("/api/webhooks/agents/{}", gateway.token);
    let query = "question=Your+message+to+agent&question=second&n=7&empty=";
    let id = gateway.get(&format!("{hook}?{query}")).expect(200).await.task_id();
    let task = gateway.wait_for_end(&id).await;
    let payload = json!({"question": "Your message to agent", "n": "7", "empty": ""});
    assert_eq!(task["input"]["text"], payload.to_string());

    let id = gateway.get(&hook).expect(200).await.task_id();
    assert_eq!(gateway.wait_for_end(&id).await["input"]["text"], "{}");
}

#[tokio::test]
async fn d3_head_starts_nothing() {
    let gateway = Gateway::start().await;
    let target = gateway.url(&format!("/api/webhooks/agents/{}?question=x", gateway.token));
    let answer = gateway.http.head(target).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 405);
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn d3_an_unknown_token_is_404_whatever_comes_with_it() {
    let gateway = Gateway::start().await;
    let other_case = gateway.token.to_uppercase();
    for token in ["unknown", other_case.as_str(), gateway.key.as_str(), "%00", "%FF", "a%2Fb"] {
        let target = format!("/api/webhooks/agents/{token}");
        for call in [gateway.post(&target).body("{broken"), gateway.get(&target)] {
            assert_eq!(call.expect(404).await.json(), refusal("Agent not found"), "{token}");
        }
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn d3_what_is_not_json_is_refused_in_docsgpts_words() {
    let gateway = Gateway::start().await;
    for body in ["", "{", "null", "{\"a\":}", "{} x"] {
        let answer = gateway.trigger().text("application/json", body).expect(400).await;
        let message = refusal("Invalid or missing JSON data in request body");
        assert_eq!(answer.json(), message, "{body:?}");
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn d3_another_content_type_is_accepted_when_the_body_is_json() {
    let gateway = Gateway::start().await;
    let types = ["text/plain", "application/x-www-form-urlencoded", "application/xml", "text/html"];
    for declared in types {
        gateway.trigger().text(declared, r#"{"question":"x"}"#).expect(200).await;
        let answer = gateway.trigger().text(declared, "question=x").expect(415).await;
        assert_eq!(answer.json()["success"], false, "{declared}");
    }
    gateway.trigger().body(r#"{"question":"x"}"#).expect(200).await;
    gateway.trigger().body("question=x").expect(415).await;
    assert_eq!(gateway.stored_task_count().await, 5);
}

#[tokio::test]
async fn d4_a_success_is_nested_and_shows_the_tool_calls() {
    let gateway = Gateway::start().await;
    let body = json!({"question": "calculate {\"expression\": \"6*7\"}"});
    let id = gateway.trigger().json(&body).expect(200).await.task_id();
    let polled = gateway.wait_for_final_status(&id).await;
    assert_eq!(polled["status"], "SUCCESS");
    assert_eq!(polled["result"]["status"], "success");
    let result = &polled["result"]["result"];
    assert!(result["answer"].as_str().unwrap().contains("42"), "{result}");
    assert_eq!((&result["sources"], &result["thought"]), (&json!([]), &json!("")));
    let call = &result["tool_calls"][0];
    assert_eq!(
        (&call["tool_name"], &call["action_name"]),
        (&json!("calculator"), &json!("calculate"))
    );
    assert_eq!(call["arguments"], json!({"expression": "6*7"}));
    assert_eq!((&call["result"]["value"], &call["status"]), (&json!(42), &json!("completed")));
}

#[tokio::test]
async fn d4_a_failure_is_a_sentence() {
    let gateway = Setup::new().agent(|agent| agent.model = "gone".to_owned()).start().await;
    let id = gateway.trigger().json(&json!({"question": "x"})).expect(200).await.task_id();
    let polled = gateway.wait_for_final_status(&id).await;
    assert_eq!(polled["status"], "FAILURE");
    assert!(polled["result"].as_str().unwrap().contains("gone"), "{polled}");
}

#[tokio::test]
async fn d4_before_its_end_a_task_is_pending_or_started() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("at last"))]).await;
    let gateway = Setup::new().model(&server).start().await;
    let id = gateway.trigger().json(&json!({"question": "x"})).expect(200).await.task_id();
    let status = gateway.get(&format!("/api/task_status?task_id={id}")).expect(200).await.json();
    let (word, result) = (status["status"].as_str().unwrap(), &status["result"]);
    assert!(["PENDING", "STARTED"].contains(&word) && result.is_null(), "{status}");
    server.release(1);
    assert_eq!(gateway.wait_for_final_status(&id).await["status"], "SUCCESS");
}

#[tokio::test]
async fn d4_unknown_ids_read_as_pending_and_a_missing_one_is_400() {
    let gateway = Gateway::start().await;
    for id in ["00000000-0000-4000-8000-000000000000", "no-id", "%20", "1"] {
        let answer = gateway.get(&format!("/api/task_status?task_id={id}")).expect(200).await;
        assert_eq!(answer.json()["status"], "PENDING", "{id}");
    }
    for query in ["", "?task_id=", "?other=1", "?task_id=%00", "?task_id=%FF"] {
        let answer = gateway.get(&format!("/api/task_status{query}")).expect(400).await;
        assert_eq!(answer.json()["success"], false, "{query}");
    }
}

#[tokio::test]
async fn d2_a_key_in_the_query_is_not_part_of_the_payload() {
    let gateway = Gateway::start().await;
    let target = format!("/api/webhooks/agents/{}?q=1&x-api-key=wgk_secret", gateway.token);
    let answer = gateway.get(&target).expect(200).await;
    let task = gateway.wait_for_end(&answer.task_id()).await;
    assert_eq!(task["input"]["text"], r#"{"q":"1"}"#);
}
