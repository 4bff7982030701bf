//! A replier that panics in `reply` if the payload says so at `/crash`.

use guests::sdk::HttpReply;
use guests::sdk::replier::Guest;
use guests::{Failure, request};

struct Replier;

impl Guest for Replier {
    fn reply() -> Result<HttpReply, Failure> {
        assert_ne!(
            request::scalar("/crash").as_deref(),
            Some("true"),
            "this guest panics on purpose"
        );
        Ok(HttpReply::new(200, "answered"))
    }

    fn deliver() -> Result<(), Failure> {
        Ok(())
    }
}

guests::sdk::export_replier!(Replier);
