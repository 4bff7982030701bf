//! Decodes query strings strictly: invalid UTF-8 and NUL bytes are rejected, not repaired.

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Maximum number of name-value pairs in a query or a form, and of parts in a multipart body.
pub(crate) const FIELDS_MAX: usize = 1_000;

/// Why a query string or a form cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A name or value is not UTF-8 after decoding.
    #[error("a name or value is not valid UTF-8")]
    NotUtf8,
    /// There are more names than any legitimate request has.
    #[error("it has more than {FIELDS_MAX} names")]
    TooMany,
    /// A name or value holds a NUL byte. No legitimate request has one, and stores and programs disagree about what
    /// follows it.
    #[error("a name or value holds a NUL byte")]
    Nul,
}

/// Decodes `a=b&c=d`, `+` as a space and `%XX` as bytes (WHATWG URL, application/x-www-form-urlencoded).
///
/// # Errors
/// [`QueryError`].
pub fn decode(text: &[u8]) -> Result<Vec<(String, String)>, QueryError> {
    // Counted before decoding: five million empty names are 10 MB encoded and 500 MB decoded.
    if text.iter().filter(|&&byte| byte == b'&').count() >= FIELDS_MAX {
        return Err(QueryError::TooMany);
    }
    text.split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let mut halves = pair.splitn(2, |&byte| byte == b'=');
            let name = decode_component(halves.next().unwrap_or_default())?;
            let value = decode_component(halves.next().unwrap_or_default())?;
            Ok((name, value))
        })
        .collect()
}

fn decode_component(text: &[u8]) -> Result<String, QueryError> {
    let spaced: Cow<'_, [u8]> = if text.contains(&b'+') {
        text.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect::<Vec<_>>().into()
    } else {
        text.into()
    };
    let decoded = percent_encoding::percent_decode(&spaced);
    let text = decoded.decode_utf8().map_err(|_| QueryError::NotUtf8)?;
    if text.contains('\0') { Err(QueryError::Nul) } else { Ok(text.into_owned()) }
}

/// Removes these names from a query, which stays percent-encoded as it arrived. For the query that plugins see.
#[must_use]
pub fn without_fields(query: &str, is_omitted: impl Fn(&str) -> bool) -> String {
    let kept = query.split('&').filter(|pair| {
        let raw = pair.split('=').next().unwrap_or_default();
        decode_component(raw.as_bytes()).is_ok_and(|decoded| !is_omitted(&decoded))
    });
    kept.collect::<Vec<_>>().join("&")
}

/// Passes each decoded name and value of the query to `change`. If that returns a text, it replaces the old one;
/// everything else stays as it arrived.
#[must_use]
pub(crate) fn map_strings(query: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let changed = |raw: &str| {
        let text = decode_component(raw.as_bytes()).ok().and_then(|text| change(&text));
        text.map(|text| utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string())
    };
    let pair = |pair: &str| {
        let halves = pair.splitn(2, '=').map(|raw| changed(raw).unwrap_or_else(|| raw.to_owned()));
        halves.collect::<Vec<_>>().join("=")
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded_once() {
        let decoded = decode(b"a=1&b=x+y%2Bz&c&=d&&e=%7B%22k%22%3A1%7D&a=2").unwrap();
        let expected =
            [("a", "1"), ("b", "x y+z"), ("c", ""), ("", "d"), ("e", "{\"k\":1}"), ("a", "2")];
        assert_eq!(decoded, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(decode(b"a=%25%32"), Ok(vec![("a".to_owned(), "%2".to_owned())]));
        assert_eq!(decode(b"a=%f"), Ok(vec![("a".to_owned(), "%f".to_owned())]));
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        assert_eq!(decode(b"a=%FF"), Err(QueryError::NotUtf8));
        assert_eq!(decode(b"%C0%80=1"), Err(QueryError::NotUtf8));
    }

    #[test]
    fn a_nul_byte_is_refused() {
        for text in [b"a=%00".as_slice(), b"a%00b=1", b"a=b\0c"] {
            assert_eq!(decode(text), Err(QueryError::Nul));
        }
    }

    #[test]
    fn a_credential_is_taken_out_however_it_is_spelt() {
        let query = "a=1&x-api-key=s&b=2&x%2Dapi%2Dkey=t&X-API-Key=u&X%2dApi%2DKEY=v&x-api-key";
        assert_eq!(without_fields(query, crate::request::credentials::is_api_key), "a=1&b=2");
    }

    #[test]
    fn texts_change_once_they_are_decoded_and_nothing_else_does() {
        let change = |text: &str| text.contains("a/b").then(|| text.replace("a/b", "[-]"));
        let query = "x=%7B%22k%22&a/b=1&y=a%2Fb+c&%61%2f%62&z=a=a/b&&q";
        let changed = "x=%7B%22k%22&%5B%2D%5D=1&y=%5B%2D%5D%20c&%5B%2D%5D&z=a%3D%5B%2D%5D&&q";
        assert_eq!(map_strings(query, change), changed);
    }
}
