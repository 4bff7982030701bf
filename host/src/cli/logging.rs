//! The gateway's log: lines on stderr, as text or as JSON.

use std::fmt::{self, Write};
use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format;

/// How much of a field's value a line of text shows, in bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// Modules with a level of their own unless the filter names them: some write megabytes of debug lines, and rmcp logs
/// what MCP servers say.
const QUIET: [(&str, &str); 5] = [
    ("cranelift_codegen", "info"),
    ("cranelift_frontend", "info"),
    ("regalloc2", "info"),
    ("wasmtime", "info"),
    ("rmcp", "off"),
];

/// Starts logging with this filter (`--log`).
///
/// # Errors
/// If the filter is invalid, or logging was started before.
pub(super) fn start(filter: &str, as_json: bool) -> anyhow::Result<()> {
    let mut parsed = EnvFilter::try_new(filter).context("--log")?;
    for (module, level) in QUIET {
        if !filter.contains(module) {
            parsed = parsed.add_directive(format!("{module}={level}").parse().context("--log")?);
        }
    }
    // A log that cannot be written (a full disk, a closed pipe) must cost log lines and nothing else: by default,
    // the library reports the error to the same place, and panics there.
    let lines = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    let started = if as_json {
        lines.json().try_init()
    } else {
        let fields = format::debug_fn(|writer, field, value| {
            if field.name() != "message" {
                write!(writer, "{field}=")?;
            }
            write_value(writer, value)
        });
        lines.fmt_fields(fields.delimited(" ")).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

/// Writes a value of a field on one line. Values may contain what a caller or a plugin sent, which must neither begin a
/// line nor control a terminal.
fn write_value(writer: &mut dyn Write, value: &dyn fmt::Debug) -> fmt::Result {
    let mut escaping = Escaping { writer, left: VALUE_BYTES_MAX };
    match write!(escaping, "{value:?}") {
        Err(_) if escaping.left == 0 => writer.write_str("… (cut)"),
        result => result,
    }
}

/// Escapes control characters, and characters that change the direction of text. Fails once its limit is reached.
struct Escaping<'a> {
    writer: &'a mut dyn Write,
    left: usize,
}

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            let Some(left) = self.left.checked_sub(letter.len_utf8()) else {
                self.left = 0;
                return Err(fmt::Error);
            };
            self.left = left;
            let is_directional =
                matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if letter.is_control() || is_directional {
                write!(self.writer, "{}", letter.escape_default())?;
            } else {
                self.writer.write_char(letter)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &dyn fmt::Debug) -> String {
        let mut line = String::new();
        write_value(&mut line, value).unwrap();
        line
    }

    #[test]
    fn a_value_neither_begins_a_line_nor_controls_a_terminal() {
        let hostile = tracing::field::display("a\nERROR b\r\u{1b}[2J\u{9b}\u{202e}c ä");
        assert_eq!(written(&hostile), r"a\nERROR b\r\u{1b}[2J\u{9b}\u{202e}c ä");
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "ä".repeat(VALUE_BYTES_MAX);
        let line = written(&tracing::field::display(&long));
        assert_eq!(line, format!("{}… (cut)", "ä".repeat(VALUE_BYTES_MAX / 2)));
        let fitting = "a".repeat(VALUE_BYTES_MAX);
        assert_eq!(written(&tracing::field::display(&fitting)), fitting);
    }
}
