//! A mapper and a replier that respond with the status and header in the payload. If the payload has `run`, the
//! mapper starts a run and the replier responds; otherwise, the mapper does.

use guests::sdk::HttpReply;
use guests::sdk::replier::Guest;
use guests::{Failure, Mapped, prompt, request};

fn reply() -> HttpReply {
    let status = request::scalar("/status").and_then(|status| status.parse().ok());
    let reply = HttpReply::new(status.unwrap_or(200), "<script>alert(1)</script>")
        .with_header("content-type", "text/html");
    match (request::scalar("/name"), request::scalar("/value")) {
        (Some(name), Some(value)) => reply.with_header(name, value),
        _ => reply,
    }
}

guests::mapper!(|_| match request::scalar("/run") {
    Some(_) => prompt("run"),
    None => Ok(Mapped::reply(reply())),
});

struct Replier;

impl Guest for Replier {
    fn reply() -> Result<HttpReply, Failure> {
        Ok(reply())
    }

    fn deliver() -> Result<(), Failure> {
        Ok(())
    }
}

guests::sdk::export_replier!(Replier);
