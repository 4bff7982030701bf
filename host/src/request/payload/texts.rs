//! A document with other texts in it, and otherwise the same.

use memchr::{memchr, memchr2};
use serde_json::Value;

use super::Payload;

impl Payload {
    /// The same document, each text in it given to `change` as it reads once its escapes are resolved, names
    /// of fields included. Where that gives another text, it takes the place of the old one; everything else
    /// stays as it is written.
    #[must_use]
    pub fn with_texts(&self, change: impl Fn(&str) -> Option<String>) -> Self {
        let document = self.text();
        let (mut changed, mut copied, mut at) = (String::new(), 0, 0);
        while let Some((start, end)) = next_text(document.as_bytes(), at) {
            at = end;
            let literal = document.get(start..end).unwrap_or_default();
            let inner = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
            // Half a surrogate pair is no character, so such a text is looked at as it is written.
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
        // Texts in the place of texts: it is JSON as before.
        Self::parse(changed.into()).unwrap_or_else(|_| Self::empty())
    }
}

/// Where the next text of a document begins and ends, quotes included. Outside of texts there are no quotes.
fn next_text(document: &[u8], from: usize) -> Option<(usize, usize)> {
    let start = from + memchr(b'"', document.get(from..)?)?;
    let mut at = start + 1;
    loop {
        let found = at + memchr2(b'"', b'\\', document.get(at..)?)?;
        if document.get(found) == Some(&b'"') {
            return Some((start, found + 1));
        }
        // What is escaped may be a quote.
        at = found + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(document: &str) -> String {
        let payload = Payload::parse(document.to_owned().into()).unwrap();
        let change = |text: &str| text.contains("a/\"b").then(|| text.replace("a/\"b", "-"));
        payload.with_texts(change).text().to_owned()
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
