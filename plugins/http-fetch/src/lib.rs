//! The tool `http_fetch`, which sends one GET or HEAD request and returns status, headers and text. The
//! operator's grants decide which hosts it can reach. The model sees a refusal unchanged, so that it can
//! tell its user which grant is missing.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use serde::Deserialize;
use serde_json::json;
use wardgate_sdk::toolbox::{Guest, Tool};
use wardgate_sdk::{Failure, Json, egress};

const DESCRIPTION: &str = "Fetches a web page or API resource over HTTP and returns its status, \
    headers and body as text. Long bodies are cut, which `truncated` tells.";

const INPUT_SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "url": {"type": "string", "description": "An absolute http or https URL"},
    "method": {"type": "string", "enum": ["GET", "HEAD"], "default": "GET"},
    "headers": {"type": "object", "additionalProperties": {"type": "string"}}
  },
  "required": ["url"],
  "additionalProperties": false
}"#;

const OUTPUT_SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "status": {"type": "integer"},
    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
    "body": {"type": "string"},
    "truncated": {"type": "boolean"}
  },
  "required": ["status", "headers", "body", "truncated"],
  "additionalProperties": false
}"#;

const ANNOTATIONS: &str =
    r#"{"readOnlyHint": true, "destructiveHint": false, "openWorldHint": true}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    url: String,
    #[serde(default)]
    method: Method,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// The safe methods; others would make this a destructive tool.
#[derive(Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Get,
    Head,
}

struct HttpFetch;

impl Guest for HttpFetch {
    fn list_tools() -> Result<Vec<Tool>, Failure> {
        Ok(vec![
            Tool::new("http_fetch", DESCRIPTION, INPUT_SCHEMA)
                .with_output_schema(OUTPUT_SCHEMA)
                .with_annotations(ANNOTATIONS),
        ])
    }

    fn call_tool(name: String, arguments: Json) -> Result<Json, Failure> {
        if name != "http_fetch" {
            return Err(Failure::not_found(format!("there is no tool `{name}`")));
        }
        let arguments: Arguments = serde_json::from_str(&arguments)
            .map_err(|error| Failure::invalid_input(format!("the arguments: {error}")))?;
        let answer = egress::send(&outgoing_request(arguments), None)?;
        Ok(json!({
            "status": answer.status,
            "headers": combine_headers(answer.headers),
            "body": String::from_utf8_lossy(&answer.body),
            "truncated": answer.truncated,
        })
        .to_string())
    }
}

fn outgoing_request(arguments: Arguments) -> egress::Outgoing {
    egress::Outgoing {
        method: match arguments.method {
            Method::Get => "GET".into(),
            Method::Head => "HEAD".into(),
        },
        url: arguments.url,
        headers: arguments
            .headers
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect(),
        body: None,
        timeout_ms: None,
        extra: None,
    }
}

/// Headers as an object. Repeated headers are joined with commas, as RFC 9110, section 5.3, allows.
fn combine_headers(headers: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut combined = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        combined
            .entry(name)
            .and_modify(|values| {
                values.push_str(", ");
                values.push_str(&value);
            })
            .or_insert(value);
    }
    combined
}

wardgate_sdk::without_std!();
wardgate_sdk::export_toolbox!(HttpFetch);
