//! A plugin with every role of `wardgate:plugin@0.1.0` that calls every function of the interface: it fails if
//! a gateway removes or changes one. It uses the standard library, as most plugins do, so it also guards the
//! WASI imports of the standard library.

wit_bindgen::generate!({ path: "wit", world: "plugin", generate_all });

use exports::wardgate::plugin::about::{Diagnostic, Guest as About};
use exports::wardgate::plugin::payload_mapper::{Guest as PayloadMapper, Mapped};
use exports::wardgate::plugin::replier::Guest as Replier;
use exports::wardgate::plugin::response_getter::Guest as ResponseGetter;
use exports::wardgate::plugin::toolbox::{Guest as Toolbox, Tool};
use exports::wardgate::plugin::verifier::{Guest as Verifier, Principal};
use wardgate::plugin::types::{Failure, HttpReply};
use wardgate::plugin::{context, egress, request, secrets, task};
use wasi::config::store as config;
use wasi::keyvalue::{atomics, store as values};
use wasi::logging::logging;

struct Frozen;

export!(Frozen);

fn failure(code: &str, message: &str) -> Failure {
    let (code, message) = (code.to_owned(), message.to_owned());
    Failure { code, message, retry_after_ms: None, extra: None }
}

/// A text without control characters as a JSON string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map_while(pair).collect()
}

impl Verifier for Frozen {
    fn verify() -> Result<Principal, Failure> {
        let key = secrets::open("signing")?;
        let signature = unhex(&request::header("x-signature").unwrap_or_default());
        if !secrets::hmac_verify(&key, "sha256", &request::body(), &signature)? {
            return Err(failure("unauthorized", "the signature is not good"));
        }
        let id = request::header("x-sender");
        Ok(Principal { id, attributes: Some("{\"frozen\":true}".to_owned()), extra: None })
    }
}

impl PayloadMapper for Frozen {
    fn map_payload(spec: Option<String>) -> Result<Mapped, Failure> {
        logging::log(logging::Level::Info, "frozen", "mapping");
        let facts = [
            ("method", quoted(&request::method())),
            ("path", quoted(&request::path())),
            ("query", quoted(&request::query())),
            ("headers", request::headers().len().to_string()),
            ("body", request::body().len().to_string()),
            ("list", request::json("/list").unwrap_or_else(|| "null".to_owned())),
            ("spec", spec.unwrap_or_else(|| "null".to_owned())),
            ("has_task", task::json("/id").is_some().to_string()),
            ("request_id", (!context::request_id().is_empty()).to_string()),
            ("tenant", quoted(&context::tenant())),
            ("in_time", (context::deadline_ms() > 0).to_string()),
            ("name", context::attribute("plugin-name").unwrap_or_else(|| "null".to_owned())),
        ];
        let prompt = request::scalar("/text").unwrap_or_default();
        Ok(Mapped {
            action: "run".to_owned(),
            params: vec![("prompt".to_owned(), prompt)],
            context: Some(object(&facts)),
            delivery_id: request::header("x-delivery"),
            reply: None,
            extra: None,
        })
    }
}

impl ResponseGetter for Frozen {
    fn get_value(path: String) -> Result<Option<String>, Failure> {
        Ok(task::json(&path))
    }
}

impl Replier for Frozen {
    fn reply() -> Result<HttpReply, Failure> {
        let body = task::json("/status").unwrap_or_else(|| "null".to_owned()).into_bytes();
        let headers = vec![("x-frozen".to_owned(), "0.1.0".to_owned())];
        Ok(HttpReply { status: 201, headers, body, extra: None })
    }

    fn deliver() -> Result<(), Failure> {
        let url = setting("deliver-to")?.unwrap_or_default();
        let body = task::json("/status").map(String::into_bytes);
        let outgoing = egress::Outgoing {
            method: "POST".to_owned(),
            url,
            headers: vec![("x-frozen".to_owned(), "0.1.0".to_owned())],
            body,
            timeout_ms: Some(5_000),
            extra: None,
        };
        let answer = egress::send(&outgoing, None)?;
        match answer.status {
            200..=299 => Ok(()),
            status => Err(failure("upstream", &format!("it answered {status}"))),
        }
    }
}

fn setting(name: &str) -> Result<Option<String>, Failure> {
    config::get(name).map_err(|_| failure("internal", "the settings cannot be read"))
}

impl Toolbox for Frozen {
    fn list_tools() -> Result<Vec<Tool>, Failure> {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            title: Some(name.to_owned()),
            description: format!("The tool {name}."),
            input_schema: "{\"type\":\"object\"}".to_owned(),
            output_schema: Some("{\"type\":\"object\"}".to_owned()),
            annotations: Some("{\"readOnlyHint\":true}".to_owned()),
            extra: None,
        };
        Ok(["sign", "keep", "settings"].map(tool).into())
    }

    fn call_tool(name: String, arguments: String) -> Result<String, Failure> {
        match name.as_str() {
            "sign" => sign(arguments.as_bytes()),
            "keep" => keep().map_err(|_| failure("internal", "the values cannot be used")),
            "settings" => {
                let all = config::get_all();
                let all = all.map_err(|_| failure("internal", "the settings cannot be read"))?;
                let all: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), quoted(v))).collect();
                Ok(object(&all))
            }
            _ => Err(failure("not-found", "there is no such tool")),
        }
    }
}

fn sign(message: &[u8]) -> Result<String, Failure> {
    let key = secrets::open("signing")?;
    let decoded = secrets::open_encoded("signing", "", "hex")?;
    Ok(object(&[
        ("signature", quoted(&hex(&secrets::hmac_sign(&key, "sha256", message)?))),
        ("decoded", quoted(&hex(&secrets::hmac_sign(&decoded, "sha256", message)?))),
        ("matches", secrets::matches(&key, b"00112233445566778899aabbccddeeff").to_string()),
    ]))
}

fn keep() -> Result<String, values::Error> {
    let bucket = values::open("")?;
    let calls = atomics::increment(&bucket, "calls", 1)?;
    bucket.set("last", b"kept")?;
    let kept = bucket.get("last")?.unwrap_or_default();
    bucket.set("gone", b"x")?;
    bucket.delete("gone")?;
    let mut keys = bucket.list_keys(None)?.keys;
    keys.sort();
    Ok(object(&[
        ("calls", calls.to_string()),
        ("last", quoted(&String::from_utf8_lossy(&kept))),
        ("gone", bucket.exists("gone")?.to_string()),
        ("keys", quoted(&keys.join(" "))),
    ]))
}

impl About for Frozen {
    fn config_schema() -> String {
        "{\"type\":\"object\",\"properties\":{\"deliver-to\":{\"type\":\"string\"}}}".to_owned()
    }

    fn check_config(config: String) -> Vec<Diagnostic> {
        if config.contains("deliver-to") {
            return Vec::new();
        }
        let (pointer, message) = ("/deliver-to".to_owned(), "it is missing".to_owned());
        vec![Diagnostic { pointer, message, extra: None }]
    }
}
