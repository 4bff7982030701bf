//! A tool `hold` that makes sets of headers of `wasi:http`, as many as it is told, with as many entries of as many
//! bytes, and sleeps with them: on the host's side they are memory too. It tells how many bytes went into them.

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
