//! Every role that a channel binds, for a made-up provider that sends a token in one header and the delivery's
//! id in another.

use guests::sdk::mapper::Mapped;
use guests::sdk::verifier::Principal;
use guests::sdk::{
    Failure, HttpReply, Json, about, config, context, egress, mapper, replier, request, secrets,
    task, verifier,
};

struct Provider;

impl verifier::Guest for Provider {
    fn verify() -> Result<Principal, Failure> {
        let secret = secrets::open("secret")?;
        let presented = request::header("x-token").unwrap_or_default();
        if !secrets::matches(&secret, presented.as_bytes()) {
            return Err(Failure::unauthorized("the token is wrong"));
        }
        // A verifier has no egress, whatever the plugin is granted.
        let request = outgoing("http://127.0.0.1:1/");
        match egress::send(&request, None) {
            Err(failure) if failure.code == "forbidden" => Ok(Principal::with_id("provider")),
            _ => Err(Failure::new("broken", "a verifier could send")),
        }
    }
}

impl mapper::Guest for Provider {
    fn map_payload(_: Option<Json>) -> Result<Mapped, Failure> {
        match request::scalar("/kind").as_deref() {
            Some("ping") => return Ok(Mapped::ignore()),
            Some("handshake") => {
                let challenge = request::scalar("/challenge").unwrap_or_default();
                return Ok(Mapped::reply(HttpReply::new(200, challenge)));
            }
            _ => {}
        }
        let headers = request::headers();
        let seen = ["x-token", "authorization", "cookie", "x-delivery"]
            .into_iter()
            .filter(|name| headers.iter().any(|(header, _)| header == name));
        let seen = seen.collect::<Vec<_>>().join(" ");
        let principal = context::attribute("principal").unwrap_or_default();
        let url = context::attribute("channel-url").unwrap_or_default();
        let text = request::scalar("/text").unwrap_or_default();
        let prompt = format!(
            "{text}|{seen}|{principal}|{url}|{}|{} bytes",
            request::query(),
            request::body().len()
        );
        let mut mapped = Mapped::run().with_param("prompt", prompt);
        if let Some(id) = request::header("x-delivery") {
            mapped = mapped.with_delivery_id(id);
        }
        Ok(mapped)
    }
}

impl replier::Guest for Provider {
    fn reply() -> Result<HttpReply, Failure> {
        let status = task::json("/status").unwrap_or_default();
        let text = request::scalar("/text").unwrap_or_default();
        let reply = HttpReply::new(200, format!("<reply to=\"{text}\">{status}</reply>"));
        Ok(reply.with_header("content-type", "application/xml"))
    }

    fn deliver() -> Result<(), Failure> {
        let url = config::get("deliver-url").ok().flatten().unwrap_or_default();
        let text = request::scalar("/text").unwrap_or_default();
        let result = task::json("/result").unwrap_or_default();
        let mut request = outgoing(&url);
        request.body = Some(format!("{text}: {result}").into_bytes());
        let answer = egress::send(&request, Some("bot"))?;
        match answer.status {
            200..=299 => Ok(()),
            503 => Err(Failure::upstream("the provider is down")),
            status => Err(Failure::new("refused", format!("the provider said {status}"))),
        }
    }
}

impl about::Guest for Provider {
    fn config_schema() -> Json {
        r#"{"type":"object","properties":{"deliver-url":{"type":"string"}}}"#.into()
    }

    fn check_config(config: Json) -> Vec<about::Diagnostic> {
        let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
        let unknown =
            config.as_object().into_iter().flatten().find(|(name, _)| *name != "deliver-url");
        let unknown = unknown.map(|(name, _)| {
            about::Diagnostic::new(format!("/{name}"), "there is no such setting")
        });
        unknown.into_iter().collect()
    }
}

fn outgoing(url: &str) -> egress::Outgoing {
    egress::Outgoing {
        method: "POST".into(),
        url: url.into(),
        headers: vec![],
        body: None,
        timeout_ms: None,
        extra: None,
    }
}

guests::sdk::export_verifier!(Provider);
guests::sdk::export_mapper!(Provider);
guests::sdk::export_replier!(Provider);
guests::sdk::export_about!(Provider);
