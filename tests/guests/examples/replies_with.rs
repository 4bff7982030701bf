//! A mapper and a replier that answer with the status and the header that the payload names. Where it says
//! `run`, the mapper runs the agent, and the replier answers.

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
