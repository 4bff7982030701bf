//! How the steps of a run are stored. The trace usually repeats an agent's input and its answer word for word: steps
//! are stored without these texts, which are inserted again on reading.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::store::rows;
use crate::tasks::Task;
use crate::trace::{Event, Step};

/// The minimum bytes of a text that is left out. A shorter one is stored again: leaving it out would save less than
/// it costs.
const QUOTED_BYTES_MIN: usize = 1 << 10;

/// How many positions are tried when a text is searched for in another one.
const OFFSETS_TRIED_MAX: usize = 4;

/// A step as it is stored.
#[derive(Debug)]
pub(in crate::store) struct StoredStep {
    pub(in crate::store) at: i64,
    pub(in crate::store) micros: i64,
    pub(in crate::store) event: Arc<str>,
    pub(in crate::store) quote: Option<Quote>,
}

/// A text of the task that is part of an event's text.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Quote {
    /// Which text it is: the column `quotes`.
    pub(in crate::store) source: &'static str,
    /// The byte offset at which it is inserted.
    pub(in crate::store) offset: i64,
}

const PAYLOAD: &str = "payload";
const RESULT: &str = "result";

impl StoredStep {
    /// The step without the texts that its task already holds: `payload` and `result`, as they are stored.
    pub(in crate::store) fn new(
        step: &Step,
        payload: &str,
        result: &str,
    ) -> Result<Self, serde_json::Error> {
        let (event, quote) = match &step.event {
            Event::Prompt { text } => match cut(text, payload) {
                Some((text, offset)) => {
                    let event = serde_json::to_string(&Event::Prompt { text })?;
                    (event, Some(Quote { source: PAYLOAD, offset }))
                }
                None => (serde_json::to_string(&step.event)?, None),
            },
            Event::Model { text, .. } => match cut(text, result) {
                Some((rest, offset)) => {
                    let mut event = step.event.clone();
                    if let Event::Model { text, .. } = &mut event {
                        *text = rest;
                    }
                    let quote = Quote { source: RESULT, offset };
                    (serde_json::to_string(&event)?, Some(quote))
                }
                None => (serde_json::to_string(&step.event)?, None),
            },
            event => (serde_json::to_string(event)?, None),
        };
        Ok(Self {
            at: step.at.micros(),
            micros: i64::try_from(step.micros).unwrap_or(i64::MAX),
            event: event.into(),
            quote,
        })
    }
}

/// The text without the quoted one, and the offset of the quote.
fn cut(text: &str, quoted: &str) -> Option<(String, i64)> {
    if quoted.len() < QUOTED_BYTES_MIN {
        return None;
    }
    // Found by its beginning: preparing a search for a text of megabytes takes longer than comparing it. A text whose
    // beginning occurs in many places is stored twice.
    let beginning = quoted.as_bytes().get(..QUOTED_BYTES_MIN)?;
    let at = memchr::memmem::find_iter(text.as_bytes(), beginning).take(OFFSETS_TRIED_MAX).find(
        |at| text.as_bytes().get(*at..).is_some_and(|rest| rest.starts_with(quoted.as_bytes())),
    )?;
    let (before, after) = (text.get(..at)?, text.get(at + quoted.len()..)?);
    Some((format!("{before}{after}"), i64::try_from(at).ok()?))
}

/// Columns: at, micros, event, quotes, quoted_at. The step belongs to this task, which has ended.
pub(in crate::store) fn step(row: &SqliteRow, task: &Task) -> sqlx::Result<Step> {
    let mut event: Event = serde_json::from_str(row.try_get(2)?).map_err(rows::unreadable)?;
    if let Some(quotes) = row.try_get::<Option<&str>, _>(3)? {
        let quoted = match quotes {
            PAYLOAD => task.input.payload.as_str(),
            RESULT => task.result.as_deref().unwrap_or_default(),
            _ => return Err(rows::unreadable("a step quotes what is unknown")),
        };
        let (Event::Prompt { text } | Event::Model { text, .. }) = &mut event else {
            return Err(rows::unreadable("a step without a text quotes one"));
        };
        let at = usize::try_from(row.try_get::<i64, _>(4)?).map_err(rows::unreadable)?;
        if !text.is_char_boundary(at) {
            return Err(rows::unreadable("a step quotes in the middle of a character"));
        }
        text.insert_str(at, quoted);
    }
    Ok(Step { at: rows::timestamp(row, 0)?, micros: row.try_get(1)?, event })
}
