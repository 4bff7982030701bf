//! A mapper that replies to a handshake at once.

use guests::{Mapped, sdk::HttpReply};

guests::mapper!(|_| {
    let reply = HttpReply::new(202, "challenge accepted")
        .with_header("content-type", "text/plain")
        .with_header("x-handshake", "yes");
    Ok(Mapped::reply(reply))
});
