//! An agent with an `output_schema` answers with JSON that fits it, or its run fails: with the provider's help, or by a
//! tool that takes the answer.

use serde_json::{Value, json};
use wardgate::settings::StructuredOutput;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Gateway, Setup};

const FITS: &str = r#"{"city": "Bern", "people": 134000}"#;
const FITS_NOT: &str = r#"{"city": "Bern", "people": "many"}"#;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": false,
    })
}

async fn gateway(server: &ModelServer, by: Option<StructuredOutput>) -> Gateway {
    let setup = Setup::new().model(server).settings(|settings| {
        settings.models.get_mut("scripted").unwrap().structured_output = by;
    });
    setup.agent(|agent| agent.output_schema = Some(schema())).start().await
}

/// The last message of a request, as text.
fn last_message(request: &Value) -> &str {
    request["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
}

#[tokio::test]
async fn the_provider_is_given_the_schema_and_the_answer_can_be_read_by_path() {
    let server = ModelServer::start([Reply::Text(FITS)]).await;
    let gateway = gateway(&server, None).await;
    let answer = gateway.ask(json!({"prompt": "Where?"})).await;
    assert_eq!(answer.json()["result"], FITS);
    let (request, _) = server.requests().remove(0);
    assert_eq!(request["response_format"]["json_schema"]["schema"], schema());
    let value =
        gateway.webhook("&getter=result.people").json(&json!({"prompt": "Where?"})).send().await;
    assert_eq!(value.text, "134000");
}

#[tokio::test]
async fn a_wrong_answer_is_corrected_once() {
    let server = ModelServer::start([Reply::Text(FITS_NOT), Reply::Text(FITS)]).await;
    let answer = gateway(&server, None).await.ask(json!({"prompt": "Where?"})).await.json();
    assert_eq!((&answer["status"], &answer["result"]), (&json!("completed"), &json!(FITS)));
    let (request, _) = server.requests().remove(1);
    let asked = last_message(&request);
    assert!(asked.contains("at /people") && asked.contains("\"integer\""), "{asked}");

    for wrong in [FITS_NOT, "It is Bern.", "{}", ""] {
        let server = ModelServer::start([Reply::Text(wrong)]).await;
        let answer = gateway(&server, None).await.ask(json!({"prompt": "Where?"})).await.json();
        assert_eq!(answer["status"], "failed", "{answer}");
        let reason = answer["result"].as_str().unwrap();
        assert!(reason.contains("does not fit the agent's output_schema"), "{reason}");
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_model_without_schemas_answers_by_a_tool() {
    let replies = [
        Reply::Tool("calculate", r#"{"expression":"134*1000"}"#),
        Reply::Tool("final_answer", FITS_NOT),
        Reply::Tool("final_answer", FITS),
    ];
    let server = ModelServer::start(replies).await;
    let gateway = gateway(&server, Some(StructuredOutput::Tool)).await;
    let answer = gateway.ask(json!({"prompt": "Where?"})).await;
    assert_eq!(answer.json()["result"], FITS);
    assert_eq!(server.requests().len(), 3, "no turn behind the answer");
    let (request, _) = server.requests().remove(2);
    assert_eq!(request.get("response_format"), None);
    let tools = request["tools"].as_array().unwrap();
    assert_eq!(tools.last().unwrap()["function"]["parameters"], schema());
    assert!(last_message(&request).contains("at /people"), "{request}");
}

#[tokio::test]
async fn a_model_that_does_not_call_the_tool_is_asked_to_and_json_counts_as_well() {
    let replies =
        [Reply::Text("It is Bern."), Reply::Text("```json\n{\"city\":\"Bern\",\"people\":1}\n```")];
    let server = ModelServer::start(replies).await;
    let gateway = gateway(&server, Some(StructuredOutput::Tool)).await;
    let answer = gateway.ask(json!({"prompt": "Where?"})).await;
    assert_eq!(answer.json()["result"], r#"{"city":"Bern","people":1}"#);
    let (request, _) = server.requests().remove(1);
    assert!(last_message(&request).contains("by a call of final_answer"), "{request}");
}

#[tokio::test]
async fn two_wrong_calls_of_the_tool_end_the_run() {
    let server = ModelServer::start([Reply::Tool("final_answer", "{}")]).await;
    let gateway = gateway(&server, Some(StructuredOutput::Tool)).await;
    let answer = gateway.ask(json!({"prompt": "Where?"})).await.json();
    assert_eq!(answer["status"], "failed");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_answer_by_the_tool_is_no_call_of_a_tool_and_is_not_cut() {
    let server = ModelServer::start([Reply::Tool("final_answer", FITS)]).await;
    let setup = Setup::new().model(&server).settings(|settings| {
        settings.models.get_mut("scripted").unwrap().structured_output =
            Some(StructuredOutput::Tool);
    });
    let setup = setup.agent(|agent| {
        agent.output_schema = Some(schema());
        agent.budget.tool_calls_max = Some(0);
    });
    let answer = setup.start().await.ask(json!({"prompt": "Where?"})).await.json();
    assert_eq!((&answer["status"], &answer["result"]), (&json!("completed"), &json!(FITS)));
}

#[tokio::test]
async fn an_answer_that_is_no_object_is_checked_by_its_own_schema() {
    let names = json!({
        "$defs": {"name": {"type": "string"}}, "type": "array", "items": {"$ref": "#/$defs/name"},
    });
    for (given, result) in [
        (r#"{"answer": ["a", "b"]}"#, Some(r#"["a","b"]"#)),
        (r#"{"answer": [1]}"#, None),
        ("{}", None),
    ] {
        let server = ModelServer::start([Reply::Tool("final_answer", given)]).await;
        let setup = Setup::new().model(&server).settings(|settings| {
            settings.models.get_mut("scripted").unwrap().structured_output =
                Some(StructuredOutput::Tool);
        });
        let gateway = setup.agent(|agent| agent.output_schema = Some(names.clone())).start().await;
        let answer = gateway.ask(json!({"prompt": "Who?"})).await.json();
        match result {
            Some(result) => assert_eq!(answer["result"], result),
            None => assert_eq!(answer["status"], "failed", "{given}: {answer}"),
        }
    }
}

#[tokio::test]
async fn schemas_that_cannot_be_held_to_are_refused_with_the_agent() {
    let gateway = Gateway::start().await;
    for (schema, model, says) in
        [(schema(), "offline", "needs a language model"), (json!(true), "scripted", "no model")]
    {
        let agent = json!({"name": "a", "model": model, "output_schema": schema});
        let refused = gateway.admin_request("POST", "/agents").json(&agent).expect(422).await;
        assert!(refused.detail().contains(says), "{}", refused.detail());
    }
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let gateway = Setup::new().model(&server).start().await;
    for (schema, says) in [
        (json!([]), "is not a JSON object"),
        (json!({"type": 1}), "is not a schema"),
        (json!({"$ref": "https://example.com/x.json"}), "without references to"),
    ] {
        let agent = json!({"name": "a", "model": "scripted", "output_schema": schema});
        let refused = gateway.admin_request("POST", "/agents").json(&agent).expect(422).await;
        assert!(refused.detail().contains(says), "{}", refused.detail());
    }
}
