//! Decodes one layer of escapes in a text.

use zeroize::Zeroizing;

/// Named HTML character references (`&…;`) for the characters that secrets are made of.
const NAMED: [(&[u8], char); 30] = [
    (b"amp", '&'),
    (b"AMP", '&'),
    (b"lt", '<'),
    (b"LT", '<'),
    (b"gt", '>'),
    (b"GT", '>'),
    (b"quot", '"'),
    (b"QUOT", '"'),
    (b"apos", '\''),
    (b"sol", '/'),
    (b"bsol", '\\'),
    (b"plus", '+'),
    (b"equals", '='),
    (b"lowbar", '_'),
    (b"period", '.'),
    (b"comma", ','),
    (b"colon", ':'),
    (b"semi", ';'),
    (b"excl", '!'),
    (b"num", '#'),
    (b"dollar", '$'),
    (b"percnt", '%'),
    (b"lpar", '('),
    (b"rpar", ')'),
    (b"ast", '*'),
    (b"quest", '?'),
    (b"commat", '@'),
    (b"Hat", '^'),
    (b"verbar", '|'),
    (b"grave", '`'),
];

/// A text with one layer of escapes decoded.
pub(in crate::outbound::forms) struct Unescaped {
    pub(in crate::outbound::forms) text: Zeroizing<Vec<u8>>,
    /// The offset in the original text of each byte, and the original length at the end.
    pub(in crate::outbound::forms) source_offsets: Vec<usize>,
}

impl Unescaped {
    /// Decodes a text. `None` if it contains no escapes.
    pub(in crate::outbound::forms) fn from_text(text: &[u8]) -> Option<Self> {
        let escapes = [memchr::memchr3(b'%', b'\\', b'&', text), memchr::memchr(0, text)];
        let first = escapes.into_iter().flatten().min()?;
        let mut plain = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut source_offsets: Vec<_> = (0..first).collect();
        source_offsets.reserve_exact(text.len().saturating_sub(first).saturating_add(1));
        plain.extend_from_slice(text.get(..first).unwrap_or_default());
        let (mut at, mut is_escaped) = (first, false);
        while let Some((byte, rest)) = text.get(at..).and_then(<[u8]>::split_first) {
            let before = plain.len();
            let length = match escape(*byte, rest) {
                Some((Escaped::Byte(byte), length)) => {
                    plain.push(byte);
                    length
                }
                Some((Escaped::Character(character), length)) => {
                    plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    length
                }
                Some((Escaped::Nothing, length)) => {
                    is_escaped = true;
                    length
                }
                None => {
                    plain.push(*byte);
                    1
                }
            };
            is_escaped |= length > 1;
            source_offsets.extend(std::iter::repeat_n(at, plain.len().saturating_sub(before)));
            at += length;
        }
        source_offsets.push(text.len());
        is_escaped.then_some(Self { text: plain, source_offsets })
    }
}

/// The meaning of an escape.
#[derive(Debug, PartialEq, Eq)]
enum Escaped {
    Byte(u8),
    Character(char),
    /// The zero bytes between the characters of a text in UTF-16 or UTF-32.
    Nothing,
}

/// Decodes the escape that begins here, and returns its length in bytes. `None` if it is not an escape.
fn escape(first: u8, rest: &[u8]) -> Option<(Escaped, usize)> {
    match first {
        0 => Some((Escaped::Nothing, 1)),
        b'%' => Some((Escaped::Byte(hexadecimal(rest.get(..2)?)?.try_into().ok()?), 3)),
        b'\\' => match rest.first()? {
            sign @ (b'"' | b'\\' | b'/' | b'\'') => Some((Escaped::Byte(*sign), 2)),
            b'b' => Some((Escaped::Byte(8), 2)),
            b't' => Some((Escaped::Byte(b'\t'), 2)),
            b'n' => Some((Escaped::Byte(b'\n'), 2)),
            b'f' => Some((Escaped::Byte(12), 2)),
            b'r' => Some((Escaped::Byte(b'\r'), 2)),
            b'x' => Some((Escaped::Byte(hexadecimal(rest.get(1..3)?)?.try_into().ok()?), 4)),
            b'u' => utf16(rest),
            _ => None,
        },
        b'&' => {
            let length = memchr::memchr(b';', rest.get(..rest.len().min(12))?)?;
            let name = rest.get(..length)?;
            let character = match name {
                [b'#', b'x' | b'X', digits @ ..] => char::from_u32(hexadecimal(digits)?)?,
                [b'#', digits @ ..] => {
                    char::from_u32(std::str::from_utf8(digits).ok()?.parse().ok()?)?
                }
                name => NAMED.iter().find(|(named, _)| *named == name)?.1,
            };
            Some((Escaped::Character(character), length + 2))
        }
        _ => None,
    }
}

/// Decodes a JSON escape of a UTF-16 code unit, or two of them that are a surrogate pair. `rest` begins at the `u`.
fn utf16(rest: &[u8]) -> Option<(Escaped, usize)> {
    let unit = |from: usize| hexadecimal(rest.get(from..from.checked_add(4)?)?);
    let one = unit(1)?;
    if let Some(character) = char::from_u32(one) {
        return Some((Escaped::Character(character), 6));
    }
    let other = rest.get(5..7).filter(|mark| *mark == b"\\u").and_then(|_| unit(7))?;
    let units = [u16::try_from(one).ok()?, u16::try_from(other).ok()?];
    let character = char::decode_utf16(units).next()?.ok()?;
    Some((Escaped::Character(character), 12))
}

/// Parses hexadecimal digits. `None` for an empty or too long text, and for other characters.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let are_digits = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| are_digits)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(text: &str) -> Option<String> {
        let unescaped = Unescaped::from_text(text.as_bytes())?;
        assert_eq!(unescaped.source_offsets.len(), unescaped.text.len() + 1, "{text}");
        Some(String::from_utf8(unescaped.text.to_vec()).unwrap())
    }

    #[test]
    fn one_layer_of_escapes_is_undone_and_what_is_none_stays() {
        for (text, plain) in [
            ("a%2Fb%2fc", Some("a/b/c")),
            ("a%252F", Some("a%2F")),
            (r#"\"\\\/\n\u00e9\x41"#, Some("\"\\/\n\u{e9}A")),
            ("\\ud83d\\ude00", Some("\u{1f600}")),
            ("&amp;&#47;&#x2F;&#x0002f;&sol;", Some("&////")),
            ("&amp;amp;", Some("&amp;")),
            ("plain", None),
            ("100% &c. a\\z \\u12 \\x4 %2 %zz &unknown; &#; &#x; &#x110000; \\ud83d", None),
        ] {
            assert_eq!(unescaped(text).as_deref(), plain, "{text}");
        }
    }
}
