//! A mapper that prints forever.

use std::io::Write;

guests::mapper!(|_| {
    let line = vec![b'x'; 4096];
    loop {
        let _ = std::io::stdout().write_all(&line);
        let _ = std::io::stderr().write_all(&line);
    }
});
