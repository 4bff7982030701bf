//! A mapper that probes its surroundings: environment, arguments, files of the host, and the network address at
//! `/address` in the payload. Its prompt is a JSON report.

use guests::{prompt, request};
use serde_json::json;
use std::{env, fs, net::TcpStream};

guests::mapper!(|_| {
    let address = request::scalar("/address").unwrap_or_else(|| "127.0.0.1:80".into());
    let found = json!({
        "environment": env::vars().collect::<Vec<_>>(),
        "arguments": env::args().collect::<Vec<_>>(),
        "root": fs::read_dir("/").is_ok(),
        "passwd": fs::read("/etc/passwd").is_ok(),
        "network": TcpStream::connect(address).is_ok(),
    });
    prompt(found.to_string())
});
