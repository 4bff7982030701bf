//! A replier that never returns from `reply`.

use guests::Failure;
use guests::sdk::HttpReply;
use guests::sdk::replier::Guest;

struct Replier;

impl Guest for Replier {
    fn reply() -> Result<HttpReply, Failure> {
        loop {
            std::hint::spin_loop();
        }
    }

    fn deliver() -> Result<(), Failure> {
        Ok(())
    }
}

guests::sdk::export_replier!(Replier);
