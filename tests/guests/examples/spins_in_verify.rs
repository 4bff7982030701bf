//! A verifier that never returns.

use guests::Failure;
use guests::sdk::verifier::{Guest, Principal};

struct Verifier;

impl Guest for Verifier {
    fn verify() -> Result<Principal, Failure> {
        loop {
            std::hint::spin_loop();
        }
    }
}

guests::sdk::export_verifier!(Verifier);
