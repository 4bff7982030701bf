//! Captures the end of a guest's standard output and error for the log of its call. Nothing else reads them, but they
//! say why a guest panicked.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of the output's end that are kept.
const TAIL_BYTES_MAX: usize = 4 << 10;

/// Bytes that a guest may write at a time.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// The end of what the guest wrote to either stream. Clones share one buffer.
#[derive(Debug, Clone, Default)]
pub(super) struct StandardStreams(Arc<Mutex<OutputTail>>);

#[derive(Debug, Default)]
struct OutputTail {
    bytes: Vec<u8>,
    /// Whether earlier output was dropped.
    is_cut: bool,
}

impl StandardStreams {
    fn append(&self, chunk: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let OutputTail { bytes, is_cut } = &mut *tail;
        let chunk = match chunk.len().checked_sub(TAIL_BYTES_MAX) {
            Some(beyond) => {
                *is_cut |= beyond > 0;
                chunk.get(beyond..).unwrap_or_default()
            }
            None => chunk,
        };
        let beyond = (bytes.len() + chunk.len()).saturating_sub(TAIL_BYTES_MAX);
        *is_cut |= beyond > 0;
        bytes.drain(..beyond);
        bytes.extend_from_slice(chunk);
    }

    /// The lines that are not blank. If earlier output was dropped, the first line is marked as cut.
    pub(super) fn into_lines(self) -> Vec<String> {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail.bytes);
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let mut lines: Vec<_> = lines.map(|line| format!("Output: {line}")).collect();
        if let (true, Some(first)) = (tail.is_cut, lines.first_mut()) {
            *first = first.replacen("Output: ", "Output: …", 1);
        }
        lines
    }
}

impl IsTerminal for StandardStreams {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for StandardStreams {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    // For WASI 0.3, which no guest uses.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for StandardStreams {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for StandardStreams {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_line_by_line_however_it_was_written() {
        let streams = StandardStreams::default();
        streams.append(b"my pa");
        streams.append(b"nic\n\n at \xff line 2\r\n");
        assert_eq!(
            streams.clone().into_lines(),
            ["Output: my panic", "Output:  at \u{fffd} line 2"]
        );
        for _ in 0..1_000 {
            streams.append(b"0123456789\n");
        }
        streams.append(&[b'x'; 10]);
        let lines = streams.clone().into_lines();
        assert!(lines.concat().len() < 2 * TAIL_BYTES_MAX);
        assert!(lines.first().unwrap().starts_with("Output: …"));
        assert_eq!(lines.last().unwrap(), "Output: xxxxxxxxxx");
        streams.append(&[b'y'; 3 * TAIL_BYTES_MAX]);
        assert_eq!(streams.into_lines().len(), 1);
    }

    #[test]
    fn nothing_written_is_no_line() {
        assert!(StandardStreams::default().into_lines().is_empty());
    }
}
