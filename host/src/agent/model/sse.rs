//! A parser of server-sent events (WHATWG HTML, section 9.2.6) whose memory is bounded: what a model's server sends is
//! untrusted.

use std::collections::VecDeque;

/// The longest event, in bytes: its lines together, and any single line.
pub(super) const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerEvent {
    /// The text of its `data` lines, joined by newlines.
    pub(super) data: String,
}

/// Why a stream cannot be parsed further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StreamError {
    /// An event exceeds [`EVENT_BYTES_MAX`].
    #[error("sent an event of more than {EVENT_BYTES_MAX} bytes")]
    TooLong,
    /// An event is not UTF-8.
    #[error("sent an event that is not UTF-8")]
    NotText,
}

/// Collects the bytes of a stream into events.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The `data` lines of the event that has not ended yet.
    data: Vec<u8>,
    has_data: bool,
    /// Whether the last line ended with CR, so that an LF that follows belongs to it.
    after_cr: bool,
    events: VecDeque<ServerEvent>,
}

impl EventParser {
    /// Adds bytes of the stream.
    ///
    /// # Errors
    /// If an event is too long or is not UTF-8. The parser must not be used afterwards.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), StreamError> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = bytes.split_at(end);
            self.extend_line(line)?;
            self.end_line()?;
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                [_, rest @ ..] => rest,
                [] => &[],
            };
        }
        self.extend_line(bytes)
    }

    /// The next complete event.
    pub(super) fn pop(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// Ends the stream. An event that no empty line has ended counts too, since some servers omit that line after the
    /// last event. Whether it is whole shows in its JSON, or in half a character at its end.
    pub(super) fn finish(&mut self) {
        let _cut_off = self.end_line().and_then(|()| self.end_event());
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        if self.line.len() + self.data.len() + bytes.len() > EVENT_BYTES_MAX {
            return Err(StreamError::TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), StreamError> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        if line.is_empty() {
            return self.end_event();
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            // A comment, or a field that no protocol needs: the data says which kind of event it is.
            _ => return Ok(()),
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn end_event(&mut self) -> Result<(), StreamError> {
        if std::mem::take(&mut self.has_data) {
            let data = std::mem::take(&mut self.data);
            let data = String::from_utf8(data).map_err(|_| StreamError::NotText)?;
            self.events.push_back(ServerEvent { data });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(parts: &[&[u8]]) -> Vec<String> {
        let mut parser = EventParser::default();
        for part in parts {
            parser.push(part).unwrap();
        }
        parser.finish();
        std::iter::from_fn(|| parser.pop()).map(|event| event.data).collect()
    }

    #[test]
    fn lines_end_in_all_three_ways() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!(
                "event: a{end}data: 1{end}data:2{end}{end}: note{end}id: 7{end}data{end}{end}"
            );
            assert_eq!(parsed(&[stream.as_bytes()]), ["1\n2", ""], "{end:?}");
        }
    }

    #[test]
    fn events_are_the_same_wherever_the_stream_is_split() {
        let stream = "\u{feff}data: {\"a\":\"ä\"}\r\n\r\ndata: b\n\n\n\ndata: [DONE]".as_bytes();
        for at in 0..=stream.len() {
            let (first, second) = stream.split_at(at);
            assert_eq!(parsed(&[first, second]), ["{\"a\":\"ä\"}", "b", "[DONE]"], "{at}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(parsed(&bytes).len(), 3);
    }

    #[test]
    fn an_event_without_end_is_cut_off() {
        for line in ["data: ", "data: a\n", "", ":"] {
            let mut parser = EventParser::default();
            parser.push(line.as_bytes()).unwrap();
            let mut pushed = 0;
            let error = loop {
                pushed += 64 << 10;
                assert!(pushed <= EVENT_BYTES_MAX + (64 << 10), "{line:?}");
                if let Err(error) = parser.push(&vec![b'x'; 64 << 10]) {
                    break error;
                }
            };
            assert_eq!(error, StreamError::TooLong);
        }
        let mut parser = EventParser::default();
        let many = "data: x\n".repeat(1 << 16);
        assert!((0..12).any(|_| parser.push(many.as_bytes()).is_err()), "many lines, one event");
    }

    #[test]
    fn an_event_that_is_not_text_is_an_error() {
        let mut parser = EventParser::default();
        assert_eq!(parser.push(b"data: \xff\n\n"), Err(StreamError::NotText));
    }
}
