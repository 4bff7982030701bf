//! Takes the long texts out of an operation and cuts them into chunks, without copying them.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

/// The maximum bytes of a chunk, and of one write of chunks.
pub(in crate::store) const CHUNK_BYTES: usize = 64 << 10;

/// In an operation with long texts, a text of at most this many bytes stays in its row.
pub(in crate::store) const INLINE_BYTES_MAX: usize = 1 << 10;

/// A text of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Part {
    User,
    Prompt,
    Mapping,
    Payload,
    Body,
    /// The rest of the result.
    Rest,
    /// The event of the step at this position.
    Event(i64),
}

impl Part {
    pub(in crate::store) fn stored(self) -> (&'static str, i64) {
        match self {
            Self::User => ("user", 0),
            Self::Prompt => ("prompt", 0),
            Self::Mapping => ("mapping", 0),
            Self::Payload => ("payload", 0),
            Self::Body => ("body", 0),
            Self::Rest => ("rest", 0),
            Self::Event(position) => ("event", position),
        }
    }
}

/// The texts of one operation that are in chunks.
#[derive(Debug)]
pub(in crate::store) struct Chunked {
    pub(in crate::store) range: ChunkRange,
    pub(in crate::store) texts: Vec<ChunkedText>,
}

/// A range of chunk numbers, both ends included.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct ChunkRange {
    pub(in crate::store) first: i64,
    pub(in crate::store) last: i64,
}

#[derive(Debug)]
pub(in crate::store) struct ChunkedText {
    pub(in crate::store) part: Part,
    pub(in crate::store) range: ChunkRange,
    pub(in crate::store) octets: i64,
}

/// A shared text, which is not copied.
#[derive(Debug, Clone)]
enum LongText {
    Text(Arc<str>),
    Bytes(Arc<Vec<u8>>),
}

impl LongText {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Takes the long texts out of an operation.
#[derive(Debug, Default)]
pub(in crate::store) struct Chunker(Vec<(Part, LongText)>);

impl Chunker {
    pub(in crate::store) fn text(&mut self, part: Part, text: &mut Arc<str>) {
        if text.len() > INLINE_BYTES_MAX {
            self.0.push((part, LongText::Text(mem::take(text))));
        }
    }

    pub(in crate::store) fn bytes(&mut self, part: Part, bytes: &mut Arc<Vec<u8>>) {
        if bytes.len() > INLINE_BYTES_MAX {
            self.0.push((part, LongText::Bytes(mem::take(bytes))));
        }
    }

    /// The number of chunks that the texts will take.
    pub(in crate::store) fn chunks(&self) -> usize {
        self.0.iter().map(|(_, text)| text.bytes().len().div_ceil(CHUNK_BYTES)).sum()
    }

    /// What to claim and which chunks to write, with numbers that start at `first`. None if there is no long text.
    pub(in crate::store) fn cut(self, first: i64) -> Option<(Chunked, Vec<Chunk>)> {
        let mut chunks = Vec::with_capacity(self.chunks());
        let mut texts = Vec::with_capacity(self.0.len());
        let mut next = first;
        for (part, text) in self.0 {
            let bytes = text.bytes().len();
            let begins = next;
            for start in (0..bytes).step_by(CHUNK_BYTES) {
                let end = bytes.min(start + CHUNK_BYTES);
                chunks.push(Chunk { number: next, text: text.clone(), range: start..end });
                next += 1;
            }
            let range = ChunkRange { first: begins, last: next - 1 };
            texts.push(ChunkedText {
                part,
                range,
                octets: i64::try_from(bytes).unwrap_or(i64::MAX),
            });
        }
        let range = ChunkRange { first, last: next - 1 };
        (next > first).then_some((Chunked { range, texts }, chunks))
    }
}

/// A part of a text.
pub(in crate::store) struct Chunk {
    pub(in crate::store) number: i64,
    text: LongText,
    range: Range<usize>,
}

impl Chunk {
    pub(in crate::store) fn bytes(&self) -> &[u8] {
        self.text.bytes().get(self.range.clone()).unwrap_or_default()
    }
}

/// Groups the chunks into writes of at most [`CHUNK_BYTES`] each.
pub(in crate::store) fn in_writes(chunks: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    let mut writes: Vec<Vec<Chunk>> = Vec::new();
    let mut bytes_left = 0;
    for chunk in chunks {
        let bytes = chunk.range.len();
        match writes.last_mut() {
            Some(write) if bytes <= bytes_left => write.push(chunk),
            _ => {
                bytes_left = CHUNK_BYTES;
                writes.push(vec![chunk]);
            }
        }
        bytes_left -= bytes;
    }
    writes
}
