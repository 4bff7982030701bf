//! A tool `hold` that creates `sets` sets of `wasi:http` headers, each with `entries` entries of `bytes` bytes,
//! and holds them while it sleeps: they also take memory in the host. It returns their size in bytes.

use std::{thread, time::Duration};

use wasip2::http::types::Fields;

guests::tool!("hold", |arguments| {
    let number = |name: &str| arguments[name].as_u64().unwrap_or_default();
    let value = vec![b'x'; number("bytes") as usize];
    let (mut held, mut bytes) = (Vec::new(), 0);
    for _ in 0..number("sets") {
        let fields = Fields::new();
        for entry in 0..number("entries") {
            let name = format!("x-{entry}");
            bytes += name.len() + value.len();
            fields.append(&name, &value).expect("there is room, or the host ends the call");
        }
        held.push(fields);
    }
    thread::sleep(Duration::from_millis(number("ms")));
    Ok(bytes.to_string())
});
