//! Progress messages for work that takes longer than a second.

use std::io::{self, IsTerminal as _, Write as _};
use std::pin::pin;
use std::time::{Duration, Instant};

/// Time until the first message, and between updates on a terminal.
const FIRST_MESSAGE_AFTER: Duration = Duration::from_secs(1);

/// Time between messages where a message cannot be overwritten, as in a log.
const REPEATED_EVERY: Duration = Duration::from_secs(10);

/// Runs the work. Once it takes longer than a second, reports on stderr what is pending and for how long.
pub(super) async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    let started_at = Instant::now();
    let overwrites = io::stderr().is_terminal();
    let mut work = pin!(work);
    let mut pause = FIRST_MESSAGE_AFTER;
    let mut has_printed = false;
    let done = loop {
        match tokio::time::timeout(pause, work.as_mut()).await {
            Ok(done) => break done,
            Err(_) => {
                let seconds = started_at.elapsed().as_secs();
                // stderr may be closed; the work continues regardless.
                let _ = match overwrites {
                    true => write!(io::stderr(), "\r{what} ({seconds} s)"),
                    false => writeln!(io::stderr(), "{what} ({seconds} s)"),
                };
                has_printed = true;
                pause = if overwrites { FIRST_MESSAGE_AFTER } else { REPEATED_EVERY };
            }
        }
    };
    if has_printed && overwrites {
        let _ = write!(io::stderr(), "\r\u{1b}[K");
    }
    done
}
