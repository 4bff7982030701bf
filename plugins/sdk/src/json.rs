//! Reads and writes JSON text without building trees of values: their code would be most of a small
//! plugin.

use crate::{Json, path};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::de::IgnoredAny;

/// Builds the text of a JSON object, member by member.
///
/// ```
/// # use wardgate_sdk::json::ObjectBuilder;
/// let text = ObjectBuilder::new().string("text", "a\"b").raw("n", "[1]").finish();
/// assert_eq!(text, r#"{"text":"a\"b","n":[1]}"#);
/// ```
#[derive(Default)]
pub struct ObjectBuilder {
    text: String,
}

impl ObjectBuilder {
    /// An object without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a string.
    pub fn string(&mut self, name: &str, value: &str) -> &mut Self {
        let value = encode_string(value);
        self.raw(name, &value)
    }

    /// Adds a string, if there is one.
    pub fn maybe_string(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.string(name, value),
            None => self,
        }
    }

    /// Adds a value that is already JSON text.
    pub fn raw(&mut self, name: &str, value: &str) -> &mut Self {
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        self.text.push_str(&encode_string(name));
        self.text.push(':');
        self.text.push_str(value);
        self
    }

    /// Adds a value that is already JSON text, if there is one.
    pub fn maybe_raw(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.raw(name, value),
            None => self,
        }
    }

    /// The object's text.
    pub fn finish(&mut self) -> Json {
        let mut text = core::mem::take(&mut self.text);
        if text.is_empty() {
            text.push('{');
        }
        text.push('}');
        text
    }
}

/// A string as JSON text.
pub fn encode_string(value: &str) -> Json {
    // Writing a string to memory cannot fail; the fallback is an empty string.
    serde_json::to_string(value).unwrap_or_else(|_| "\"\"".to_string())
}

/// An array of strings as JSON text.
pub fn encode_strings(values: &[&str]) -> Json {
    let values: Vec<_> = values.iter().map(|value| encode_string(value)).collect();
    let mut text = String::from("[");
    text.push_str(&values.join(","));
    text.push(']');
    text
}

/// The content of a JSON string; `None` if the text is not a JSON string.
pub fn decode_string(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// Whether the text is a JSON object.
pub fn is_object(json: &str) -> bool {
    json.trim_ascii_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(json).is_ok()
}

/// The text of the value at an RFC 6901 pointer into JSON text.
pub fn value_at<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
    pointer.split('/').skip(1).try_fold(json, path::child_text)
}

/// A JSON string, number or boolean as plain text. `None` for objects, arrays and null.
pub fn scalar_text(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => decode_string(json),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(json.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_into_json_text() {
        let json = r#" {"a/b":[{"c":"\u00fc"},-1.50,true,null],"text":"{\"d\":1}"}"#;
        for (pointer, value, scalar) in [
            ("/a~1b/0/c", Some(r#""\u00fc""#), Some("ü")),
            ("/a~1b/1", Some("-1.50"), Some("-1.50")),
            ("/a~1b/2", Some("true"), Some("true")),
            ("/a~1b/3", Some("null"), None),
            ("/a~1b/0", Some(r#"{"c":"\u00fc"}"#), None),
            ("/a~1b/4", None, None),
            ("/text/d", None, None),
            ("", Some(json), None),
        ] {
            assert_eq!(value_at(json, pointer), value, "{pointer}");
            assert_eq!(value.and_then(scalar_text).as_deref(), scalar, "{pointer}");
        }
        assert!(is_object(json));
        for other in ["", "[]", "{", "{} x", "null"] {
            assert!(!is_object(other), "{other}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for value in ["", "a\"b\\c\n\u{1}\u{2028}ü😀", "</script>"] {
            assert_eq!(decode_string(&encode_string(value)).as_deref(), Some(value));
        }
        assert_eq!(decode_string("7"), None);
        assert_eq!(decode_string("\"a"), None);
        assert_eq!(ObjectBuilder::new().finish(), "{}");
        let object =
            ObjectBuilder::new().maybe_string("a", None).maybe_raw("b", Some("1")).finish();
        assert_eq!(object, "{\"b\":1}");
        assert_eq!(encode_strings(&["a", "b\""]), r#"["a","b\""]"#);
        assert_eq!(encode_strings(&[]), "[]");
    }
}
