//! Tools that write into a ledger, a web server at `url`, each with the key of its call: `record` (without annotations, so
//! that it may change things), `put` (may change things, but a second time no more) and `look` (changes nothing). And
//! `pay`, which may change things and takes its key as an argument.

use guests::egress::{Outgoing, send};
use guests::sdk::context;
use guests::sdk::toolbox::{Guest, Tool};
use guests::{Failure, Json};

struct Ledger;

impl Guest for Ledger {
    fn list_tools() -> Result<Vec<Tool>, Failure> {
        let tool = |name: &str| Tool::new(name, "Writes into a ledger.", r#"{"type":"object"}"#);
        Ok(vec![
            tool("record"),
            tool("put").with_annotations(r#"{"idempotentHint":true}"#),
            tool("look").with_annotations(r#"{"readOnlyHint":true}"#),
            Tool::new(
                "pay",
                "Writes into a ledger.",
                r#"{"type":"object","required":["url","text","key"],"properties":
                    {"url":{"type":"string"},"text":{"type":"string"},"key":{"type":"string"}}}"#,
            ),
        ])
    }

    fn call_tool(name: String, arguments: Json) -> Result<Json, Failure> {
        let arguments: serde_json::Value = serde_json::from_str(&arguments).unwrap_or_default();
        let key = match name.as_str() {
            "pay" => arguments["key"].as_str().unwrap_or_default().to_owned(),
            _ => context::attribute("idempotency-key").unwrap_or_default(),
        };
        let url = arguments["url"].as_str().unwrap_or_default();
        let request = Outgoing {
            method: "POST".into(),
            url: format!("{url}/{name}"),
            headers: vec![("idempotency-key".into(), key.trim_matches('"').into())],
            body: Some(arguments["text"].to_string().into_bytes()),
            timeout_ms: None,
            extra: None,
        };
        let answer = send(&request, None)?;
        Ok(serde_json::json!({"status": answer.status}).to_string())
    }
}

guests::sdk::export_toolbox!(Ledger);
