//! The forms in which a secret is searched for: one list, for responses and for the URLs that they redirect to.
//!
//! A form is a text that a secret may be written as: plain, hexadecimal or base64. Each character may also be
//! escaped, and not every writer escapes the same ones, so escapes are decoded before the search: those of URLs
//! (`%2F`), of JSON and programming languages (`\/`, `\u002f`, `\x2f`) and of HTML (`&#47;`, `&#x2f;`, `&sol;`),
//! layer by layer. The zero bytes of UTF-16 and UTF-32 are removed as well.

mod escapes;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::secrets::SECRET_BYTES_MAX;
use escapes::Unescaped;

/// How many layers of escapes are decoded.
const LAYERS_MAX: usize = 8;

/// Encodings of a secret that are shorter than this are not searched for: they would match everywhere.
const ENCODED_BYTES_MIN: usize = 6;

/// Maximum bytes that one escaped character of a form takes, as in `\u0026#x2f;`. Under more layers of escapes, only
/// a form that does not cross the edge of a text is certain to be found.
const ESCAPED_BYTES_MAX: usize = 12;

/// The longest form of any secret, in bytes: hexadecimal and escaped.
pub(super) const LONGEST_BYTES_MAX: usize = 2 * SECRET_BYTES_MAX * ESCAPED_BYTES_MAX;

/// How much of a text is searched at once, in bytes. It bounds the memory used besides the text.
const WINDOW_BYTES: usize = 64 << 10;

/// The forms of some secrets.
#[derive(Default)]
pub(super) struct Forms(Vec<Form>);

struct Form {
    /// Normalized by [`normalize`].
    text: Zeroizing<Vec<u8>>,
    /// Whether the character before the text and the one after it also hold some bits of the secret. The latter may
    /// be followed by padding, which reveals the secret's length.
    edges: (bool, bool),
}

/// The matches in a text.
#[derive(Default)]
struct Matches {
    /// Start and end of each match, in bytes.
    ranges: Vec<(usize, usize)>,
    /// Whether there are more layers of escapes than are decoded.
    is_deeper: bool,
}

impl Forms {
    /// Builds the forms of these secrets.
    pub(super) fn new<'s>(secrets: impl IntoIterator<Item = &'s [u8]>) -> Self {
        let mut forms = Vec::new();
        for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
            add(&mut forms, secret);
            // A secret that itself looks escaped is also searched for without its escapes, because they are decoded
            // together with the escapes around it.
            let mut plain = Zeroizing::new(secret.to_vec());
            for _ in 0..LAYERS_MAX {
                let Some(unescaped) = Unescaped::from_text(&plain) else { break };
                plain = unescaped.text;
                if !plain.is_empty() {
                    forms.push(Form { text: normalize(&plain), edges: (false, false) });
                }
            }
        }
        forms.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
        forms.dedup_by(|one, other| one.key() == other.key());
        Self(forms)
    }

    /// Whether there are no forms.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The longest form, fully escaped, in bytes.
    pub(super) fn longest(&self) -> usize {
        let longest = self.0.iter().map(|form| form.text.len()).max().unwrap_or_default();
        longest.saturating_mul(ESCAPED_BYTES_MAX)
    }

    /// Whether a text contains one of the forms. Also true if the text has too many layers of escapes to tell,
    /// because legitimate text does not.
    pub(super) fn are_in(&self, text: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let matches = self.search(text);
        matches.is_deeper || !matches.ranges.is_empty()
    }

    /// Start and end of each match in a text, in order.
    pub(super) fn find_all(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let mut ranges = Vec::new();
        if self.is_empty() {
            return ranges;
        }
        for from in (0..text.len()).step_by(WINDOW_BYTES) {
            // A match that begins in this window may end after it.
            let end = from.saturating_add(WINDOW_BYTES).saturating_add(self.longest());
            let window = text.get(from..end.min(text.len())).unwrap_or_default();
            let mut matches = self.search(window).ranges;
            // A match is found again in each layer in which it looks the same.
            matches.sort_unstable();
            matches.dedup();
            let matches = matches.into_iter().filter(|(begin, _)| *begin < WINDOW_BYTES);
            ranges.extend(matches.map(|(begin, end)| (from + begin, from + end)));
        }
        ranges
    }

    fn search(&self, text: &[u8]) -> Matches {
        let mut matches = Matches::default();
        let mut layer: Option<Unescaped> = None;
        for _ in 0..LAYERS_MAX {
            let plain = layer.as_ref().map_or(text, |layer| &layer.text);
            let seen = normalize(plain);
            let source_offset = |place: usize| match &layer {
                Some(layer) => layer.source_offsets.get(place).copied().unwrap_or(text.len()),
                None => place,
            };
            for form in &self.0 {
                for begin in memchr::memmem::find_iter(&seen, form.text.as_slice()) {
                    let mut end = begin + form.text.len();
                    if form.edges.1 {
                        let behind = seen.get(end + 1..).unwrap_or_default();
                        end += 1 + behind.iter().take(2).take_while(|byte| **byte == b'=').count();
                    }
                    let begin = begin.saturating_sub(usize::from(form.edges.0));
                    matches.ranges.push((source_offset(begin), source_offset(end.min(seen.len()))));
                }
            }
            let Some(mut next) = Unescaped::from_text(plain) else { return matches };
            next.source_offsets.iter_mut().for_each(|place| *place = source_offset(*place));
            layer = Some(next);
        }
        matches.is_deeper = true;
        matches
    }
}

impl Form {
    fn key(&self) -> (&[u8], (bool, bool)) {
        (&self.text, self.edges)
    }
}

/// Adds the forms of a secret, apart from escapes: plain, hexadecimal, and base64 at any offset in a longer text.
fn add(forms: &mut Vec<Form>, secret: &[u8]) {
    forms.push(Form { text: normalize(secret), edges: (false, false) });
    let mut add = |text: &[u8], edges| {
        if text.len() >= ENCODED_BYTES_MIN {
            forms.push(Form { text: normalize(text), edges });
        }
    };
    add(Zeroizing::new(hex::encode(secret)).as_bytes(), (false, false));
    // Three bytes make four characters. The text before the secret shifts it by zero, one or two bytes, and shares
    // the characters at its edges.
    for (before, shared) in [(0, 0), (1, 2), (2, 3)] {
        let shifted = Zeroizing::new(["\0".repeat(before).as_bytes(), secret].concat());
        let is_shared_behind = shifted.len() % 3 != 0;
        for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(alphabet.encode(&shifted));
            let end = text.len().saturating_sub(usize::from(is_shared_behind));
            let edges = (before > 0, is_shared_behind);
            add(text.as_bytes().get(shared..end).unwrap_or_default(), edges);
        }
    }
}

/// Normalizes bytes for comparison: to lower case, because host names are always in it and hexadecimal may be in
/// either, and `+` to the space that it may stand for. A false match does less harm than a missed one.
fn normalize(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let compared = bytes.iter().map(|byte| match byte {
        b'+' => b' ',
        byte => byte.to_ascii_lowercase(),
    });
    Zeroizing::new(compared.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cret/With+\"more\"&=";

    /// The secret with the selected characters escaped and the others unchanged.
    fn escaped(of: impl Fn(char) -> bool, escape: impl Fn(u32) -> String) -> String {
        let one = |one: char| if of(one) { escape(one.into()) } else { one.to_string() };
        SECRET.chars().map(one).collect()
    }

    /// The secret in the forms that servers write.
    fn writings() -> Vec<String> {
        let sign = |one: char| !one.is_ascii_alphanumeric();
        let all = |_: char| true;
        let basic = STANDARD_NO_PAD.encode(format!("user:{SECRET}"));
        let mut writings = vec![
            SECRET.to_owned(),
            SECRET.to_uppercase(),
            url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect(),
            serde_json::Value::from(SECRET).to_string().trim_matches('"').to_owned(),
            // The output of Python's quote().
            escaped(|one| sign(one) && one != '/', |code| format!("%{code:02X}")),
            escaped(sign, |code| format!("%{code:02x}")),
            escaped(all, |code| format!("%{code:02X}")),
            escaped(sign, |code| format!("%25{code:02X}")),
            escaped(
                |one| "/\"".contains(one),
                |code| format!("\\{}", char::from_u32(code).unwrap()),
            ),
            escaped(sign, |code| format!("\\u{code:04x}")),
            escaped(|one| "&+".contains(one), |code| format!("\\u{code:04X}")),
            escaped(all, |code| format!("\\x{code:02x}")),
            escaped(sign, |code| format!("&#{code};")),
            escaped(sign, |code| format!("&#x{code:X};")),
            escaped(all, |code| format!("&#x{code:04x};")),
            escaped(sign, |code| format!("\\u0026#{code};")),
            SECRET.replace('&', "&amp;").replace('"', "&quot;"),
            SECRET.replace('&', "&AMP;").replace('/', "&sol;").replace('+', "&plus;"),
            hex::encode(SECRET),
            hex::encode(SECRET).to_uppercase(),
            basic.replace('/', "\\/").replace('+', "%2B"),
        ];
        for before in ["", "a", "ab"] {
            writings.push(STANDARD_NO_PAD.encode(format!("{before}{SECRET}")));
            writings.push(URL_SAFE_NO_PAD.encode(format!("{before}{SECRET}{before}")));
        }
        writings
    }

    #[test]
    fn a_secret_is_found_in_every_writing_alike_in_an_answer_and_in_a_url() {
        let forms = Forms::new([SECRET.as_bytes()]);
        for writing in writings() {
            let text = format!("seen: [{writing}], or not");
            assert!(forms.are_in(text.as_bytes()), "{writing}");
            let ranges = forms.find_all(text.as_bytes());
            let from = ranges.first().unwrap_or_else(|| panic!("{writing}")).0;
            let to = ranges.iter().map(|(_, to)| *to).max().unwrap();
            let left = format!("{}{}", &text[..from], &text[to..]);
            // In base64, characters that hold no bits of the secret may remain.
            assert!(left.starts_with("seen: [") && left.ends_with("], or not"), "{left}");
            assert!(left.len() < 24, "{writing} left {left}");
        }
        for other in ["s3cret/With", "czNjcmV0", "%", "\\u00", "&#x", "&#99999999999;", "\\ud800"] {
            assert!(forms.find_all(other.as_bytes()).is_empty() && !forms.are_in(other.as_bytes()));
        }
    }

    #[test]
    fn a_secret_is_found_in_texts_of_wider_characters() {
        let forms = Forms::new([SECRET.as_bytes()]);
        for writing in writings() {
            let wide = |before: usize, behind: usize| -> Vec<u8> {
                let one = |byte| [&[0; 3][..before], &[byte], &[0; 3][..behind]].concat();
                writing.bytes().flat_map(one).collect()
            };
            for wide in [wide(0, 1), wide(1, 0), wide(0, 3), wide(3, 0)] {
                let ranges = forms.find_all(&wide);
                let from = ranges.iter().map(|(from, _)| *from).min().expect(&writing);
                let to = ranges.iter().map(|(_, to)| *to).max().unwrap();
                // In base64, characters that hold no bits of the secret may remain.
                assert!(from <= 28 && wide.len() - to <= 28, "{writing}: {from} to {to}");
            }
        }
        let forms = Forms::new([b"a\0secret\0of\0bytes".as_slice()]);
        for text in [b"a\0secret\0of\0bytes".as_slice(), b"a%00secret%00of%00bytes"] {
            assert!(forms.are_in(text), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_secret_that_looks_escaped_itself_is_found_within_escapes() {
        let forms = Forms::new([b"a%2Fb\\u0041\"c&lt;d".as_slice()]);
        for writing in
            ["a%2Fb\\u0041\"c&lt;d", "a%2Fb\\\\u0041\\\"c&lt;d", "a%252Fb%5Cu0041%22c%26lt%3Bd"]
        {
            assert!(forms.are_in(writing.as_bytes()), "{writing}");
        }
    }

    #[test]
    fn a_secret_is_found_wherever_in_a_long_text_it_stands() {
        let forms = Forms::new([SECRET.as_bytes()]);
        let writing = "\\u0073".to_owned() + &SECRET[1..].replace('"', "\\\"");
        for before in WINDOW_BYTES - writing.len()..=WINDOW_BYTES {
            let text = "\\".repeat(before / 2 * 2)
                + &"x".repeat(before % 2)
                + &writing
                + &"y".repeat(WINDOW_BYTES);
            assert_eq!(
                forms.find_all(text.as_bytes()),
                [(before, before + writing.len())],
                "{before}"
            );
        }
    }

    #[test]
    fn what_is_escaped_without_end_is_taken_for_the_secret_in_a_url() {
        let endless = format!("https://q.example/?{}", "%2525252525252525252541");
        assert!(Forms::new([SECRET.as_bytes()]).are_in(endless.as_bytes()));
        assert!(!Forms::default().are_in(endless.as_bytes()));
        assert!(Forms::new([SECRET.as_bytes()]).find_all(endless.as_bytes()).is_empty());
    }
}
