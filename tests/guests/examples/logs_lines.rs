//! A mapper whose log message tries to forge log lines, with line breaks, terminal sequences and NULs.

use guests::logging::{Level, log};

guests::mapper!(|_| {
    log(Level::Info, "a\nb", "one\r\n{\"level\":\"ERROR\",\"message\":\"forged\"}\u{1b}[2J\0end");
    guests::prompt("logged")
});
