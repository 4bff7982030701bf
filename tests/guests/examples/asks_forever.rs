//! A mapper that calls cheap host functions in an endless loop.

use guests::sdk::{config, context};
use guests::{request, secrets};
use std::hint::black_box;

guests::mapper!(|_| loop {
    black_box((request::headers(), context::attribute("agent-id")));
    black_box(config::get_all().is_ok());
    black_box(secrets::open("none").is_ok());
});
