//! A tool `hunt` that collects everything it can read, for a test that searches it for a secret: settings,
//! environment, error messages, and the responses of an echo server at `url` to requests with the credential
//! `credential`, sent in every way that could return it in another form.

use guests::egress::{Outgoing, send};
use guests::sdk::{config, context, keyvalue::store};
use guests::{request, secrets, task};
use serde_json::{Value, json};
use std::env;

guests::tool!("hunt", |arguments| {
    let text = |name: &str| arguments[name].as_str().unwrap_or_default();
    let names = ["agent-id", "plugin-name", "principal", "channel-url", "secret", "grants"];
    let opened = ["api", "host.key", "../host.key", "example-api-key", text("credential")];
    let decoded = ["hex", "base64"].map(|encoding| {
        format!("{:?}", secrets::open_encoded("signing", "", encoding).map(|_| ()))
    });
    let found = json!({
        "settings": config::get_all().unwrap_or_default(),
        "environment": env::vars().chain(env::args().map(|one| (one, String::new()))).collect::<Vec<_>>(),
        "headers": request::headers(),
        "query": request::query(),
        "task": task::json(""),
        "attributes": names.map(context::attribute),
        "secrets": opened.map(|name| format!("{:?}", secrets::open(name).map(|_| ()))),
        "decoded": decoded,
        "values": format!("{:?}", store::open("").and_then(|bucket| bucket.list_keys(None))),
        "echoes": echoes(text("url"), text("credential")),
    });
    Ok(found.to_string())
});

fn echoes(url: &str, credential: &str) -> Vec<Value> {
    let headers = [
        vec![],
        vec![("accept-encoding".to_owned(), "gzip".to_owned())],
        vec![("range".to_owned(), "bytes=0-40".to_owned())],
    ];
    let sent = headers.into_iter().map(|headers| {
        let request = Outgoing {
            method: "GET".into(),
            url: url.into(),
            headers,
            body: None,
            timeout_ms: None,
            extra: None,
        };
        match send(&request, Some(credential)) {
            Ok(answer) => json!({
                "headers": answer.headers,
                "text": String::from_utf8_lossy(&answer.body),
                "bytes": answer.body,
            }),
            Err(failure) => json!({"code": failure.code, "message": failure.message}),
        }
    });
    sent.collect()
}
