//! A replier that acknowledges at once and panics in `deliver`.

use guests::Failure;
use guests::sdk::HttpReply;
use guests::sdk::replier::Guest;

struct Replier;

impl Guest for Replier {
    fn reply() -> Result<HttpReply, Failure> {
        Ok(HttpReply::new(200, "taken"))
    }

    fn deliver() -> Result<(), Failure> {
        panic!("this guest panics on purpose")
    }
}

guests::sdk::export_replier!(Replier);
