//! Wording of the reader's errors, for a model to read.

use super::super::shape::Shape;

/// Most names that a message lists.
const NAMES_SHOWN: usize = 20;

/// What a type accepts, in words.
pub(super) fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Bool => "true or false".to_owned(),
        Shape::Integer(integer) => {
            let (_, min, max) = integer.range();
            format!("a whole number from {min} to {max}")
        }
        Shape::Float32 => "a number in the range of 32-bit floats".to_owned(),
        Shape::Float64 => "a number".to_owned(),
        Shape::Char => "a text of one character".to_owned(),
        Shape::String => "a text".to_owned(),
        Shape::Bytes => "a text in base64".to_owned(),
        Shape::List(_) => "an array".to_owned(),
        Shape::Record(_) => "an object".to_owned(),
        Shape::Tuple(shapes) => format!("an array of {}", shapes.len()),
        Shape::Variant(cases) => names(cases.iter().map(|(name, _)| name.as_str())),
        Shape::Enum(cases) => names(cases.iter().map(String::as_str)),
        Shape::Flags(flags) => format!("an array of {}", names(flags.iter().map(String::as_str))),
        Shape::Result(_) => "ok or err".to_owned(),
        Shape::Option(inner) if inner.is_nullable() => "null or {\"some\": …}".to_owned(),
        Shape::Option(inner) => format!("null or {}", expected(inner)),
    }
}

/// The first of these names, for a message.
pub(super) fn names<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    let (all, shown) = (names.len(), names.take(NAMES_SHOWN).collect::<Vec<_>>());
    match (all, shown.len()) {
        (0, _) => "none".to_owned(),
        (all, shown_count) if all > shown_count => format!("{} and more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

pub(super) fn shortened(text: &str, chars_max: usize) -> String {
    let mut shown: String = text.chars().take(chars_max).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
