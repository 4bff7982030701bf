//! The template of the signed message: a text with placeholders in braces.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use wardgate_sdk::Failure;

/// A part of the signed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Literal text.
    Literal(String),
    Body,
    Timestamp,
    Id,
    Method,
    Path,
    Query,
    Url,
}

/// The parts in order.
pub(crate) struct Template(Vec<Part>);

impl Template {
    /// Parses a template. The error is a sentence that says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Literal(before.into()));
            }
            let (name, after) =
                after.split_once('}').ok_or("`signed` has a brace that is not closed")?;
            parts.push(match name {
                "body" => Part::Body,
                "timestamp" => Part::Timestamp,
                "id" => Part::Id,
                "method" => Part::Method,
                "path" => Part::Path,
                "query" => Part::Query,
                "url" => Part::Url,
                _ => return Err(format!("`signed` has {{{name}}}, which is not known")),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        Ok(Self(parts))
    }

    pub(crate) fn contains(&self, part: Part) -> bool {
        self.0.contains(&part)
    }

    /// How often the template contains the body.
    pub(crate) fn body_count(&self) -> usize {
        self.0.iter().filter(|part| **part == Part::Body).count()
    }

    /// The bytes of the parts before the body, and of those after it.
    pub(crate) fn bytes_around_body(
        &self,
        bytes: impl Fn(&Part) -> Result<Vec<u8>, Failure>,
    ) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let body_index = self.0.iter().position(|part| *part == Part::Body).unwrap_or(self.0.len());
        let (before, after) = self.0.split_at(body_index);
        let concatenate = |parts: &[Part]| {
            let parts = parts.iter().map(&bytes).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Failure>(parts.concat())
        };
        Ok((concatenate(before)?, concatenate(after)?))
    }
}
