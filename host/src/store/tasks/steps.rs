//! How the steps of a run are stored. What an agent was given and what it answered stand in its trace too,
//! word for word as a rule: a step is kept without them, and has them again when it is read.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::store::rows;
use crate::tasks::Task;
use crate::trace::{Event, Step};

/// A text shorter than this is kept again: to leave it out would save less than it costs.
const QUOTED_BYTES_MIN: usize = 1 << 10;

/// Places that are tried for a text within another one.
const PLACES_MAX: usize = 4;

/// A step as it is stored.
#[derive(Debug)]
pub(in crate::store) struct StoredStep {
    pub(in crate::store) at: i64,
    pub(in crate::store) micros: i64,
    pub(in crate::store) event: Arc<str>,
    pub(in crate::store) quote: Option<Quote>,
}

/// A text that belongs into an event's.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Quote {
    /// Which: the column `quotes`.
    pub(in crate::store) of: &'static str,
    /// Behind how many bytes.
    pub(in crate::store) at: i64,
}

const PAYLOAD: &str = "payload";
const RESULT: &str = "result";

impl StoredStep {
    /// The step without what stands in its task: `payload` and `result` are what is stored of that.
    pub(in crate::store) fn of(
        step: &Step,
        payload: &str,
        result: &str,
    ) -> Result<Self, serde_json::Error> {
        let (event, quote) = match &step.event {
            Event::Prompt { text } => match cut(text, payload) {
                Some((text, at)) => {
                    let event = serde_json::to_string(&Event::Prompt { text })?;
                    (event, Some(Quote { of: PAYLOAD, at }))
                }
                None => (serde_json::to_string(&step.event)?, None),
            },
            Event::Model { model, text, tool_calls, input_tokens, output_tokens } => {
                match cut(text, result) {
                    Some((text, at)) => {
                        let event = serde_json::to_string(&Event::Model {
                            model: model.clone(),
                            text,
                            tool_calls: tool_calls.clone(),
                            input_tokens: *input_tokens,
                            output_tokens: *output_tokens,
                        })?;
                        (event, Some(Quote { of: RESULT, at }))
                    }
                    None => (serde_json::to_string(&step.event)?, None),
                }
            }
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

/// The text without what it holds of another one, and where that was.
fn cut(text: &str, quoted: &str) -> Option<(String, i64)> {
    if quoted.len() < QUOTED_BYTES_MIN {
        return None;
    }
    // Found by its beginning: to search for a text of megabytes prepares it for longer than it takes to
    // compare it. One whose beginning stands in many places is kept twice.
    let beginning = quoted.as_bytes().get(..QUOTED_BYTES_MIN)?;
    let at = memchr::memmem::find_iter(text.as_bytes(), beginning).take(PLACES_MAX).find(|at| {
        text.as_bytes().get(*at..).is_some_and(|rest| rest.starts_with(quoted.as_bytes()))
    })?;
    let (before, after) = (text.get(..at)?, text.get(at + quoted.len()..)?);
    Some((format!("{before}{after}"), i64::try_from(at).ok()?))
}

/// Columns: at, micros, event, quotes, quoted_at; of a step of this task, which has ended.
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
    Ok(Step { at: rows::moment(row, 0)?, micros: row.try_get(1)?, event })
}
