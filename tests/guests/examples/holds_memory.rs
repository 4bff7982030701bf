//! A mapper that holds `/mib` MiB of memory while it sleeps for `/ms` milliseconds.

use guests::request;
use std::{hint::black_box, thread, time::Duration};

guests::mapper!(|_| {
    let number = |pointer: &str| -> u64 {
        request::scalar(pointer).and_then(|text| text.parse().ok()).unwrap_or_default()
    };
    let held = vec![1_u8; (number("/mib") as usize) << 20];
    thread::sleep(Duration::from_millis(number("/ms")));
    guests::prompt(format!("{} bytes", black_box(held).len()))
});
