//! Replaces strings in a document and leaves the rest unchanged.

use memchr::{memchr, memchr2};
use serde_json::Value;

use super::Payload;

impl Payload {
    /// Returns the same document with strings replaced. `change` gets each string with its escapes decoded, field
    /// names included. If it returns a text, that replaces the string; everything else stays as written.
    #[must_use]
    pub fn map_strings(&self, change: impl Fn(&str) -> Option<String>) -> Self {
        let document = self.text();
        let (mut changed, mut copied, mut at) = (String::new(), 0, 0);
        while let Some((start, end)) = next_text(document.as_bytes(), at) {
            at = end;
            let literal = document.get(start..end).unwrap_or_default();
            let inner = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
            // A lone surrogate is not a character, so such a string is passed in its escaped form.
            let read = serde_json::from_str::<String>(literal);
            if let Some(text) = change(read.as_deref().unwrap_or(inner)) {
                changed.push_str(document.get(copied..start).unwrap_or_default());
                changed.push_str(&Value::from(text).to_string());
                copied = end;
            }
        }
        if copied == 0 {
            return self.clone();
        }
        changed.push_str(document.get(copied..).unwrap_or_default());
        // Strings replace strings, so the result is valid JSON.
        Self::parse(changed.into()).unwrap_or_else(|_| Self::empty())
    }
}

/// The start and end of the next string in a document, quotes included. Quotes occur only in strings.
fn next_text(document: &[u8], from: usize) -> Option<(usize, usize)> {
    let start = from + memchr(b'"', document.get(from..)?)?;
    let mut at = start + 1;
    loop {
        let found = at + memchr2(b'"', b'\\', document.get(at..)?)?;
        if document.get(found) == Some(&b'"') {
            return Some((start, found + 1));
        }
        // The escaped character may be a quote.
        at = found + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(document: &str) -> String {
        let payload = Payload::parse(document.to_owned().into()).unwrap();
        let change = |text: &str| text.contains("a/\"b").then(|| text.replace("a/\"b", "-"));
        payload.map_strings(change).text().to_owned()
    }

    #[test]
    fn texts_change_however_they_are_written_and_nothing_else_does() {
        for (before, after) in [
            (r#" {"x": "a/\"b", "n": 1.0e2} "#, r#" {"x": "-", "n": 1.0e2} "#),
            (r#"{"x": "\u0061\/\u0022\u0062 and more"}"#, r#"{"x": "- and more"}"#),
            (r#"["\\", "a/\"b", "\\\"", "a/\"b"]"#, r#"["\\", "-", "\\\"", "-"]"#),
            (r#"{"a\/\"b": {"deep": ["\ud83d\ude00a/\"b"]}}"#, r#"{"-": {"deep": ["😀-"]}}"#),
            (
                r#"{"x": "\ud800", "y":12345678901234567890.10}"#,
                r#"{"x": "\ud800", "y":12345678901234567890.10}"#,
            ),
            ("\"a/\\\"b\"", "\"-\""),
            ("[]", "[]"),
        ] {
            assert_eq!(changed(before), after);
        }
    }
}
