//! Images that a payload contains as `data:` URLs (RFC 2397): taken out of its text, and shown to the model as images.
//!
//! Images behind `http:` URLs stay text: a model's server that fetched them would do so from inside the operator's
//! network, wherever the sender pointed it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The beginning of a JSON string that may be an image.
const START: &str = "\"data:image";

/// The most images of one message.
const IMAGES_MAX: usize = 20;

/// The most bytes of one image: what the strictest provider takes.
const IMAGE_BYTES_MAX: usize = 5 << 20;

/// The most bytes of all images of one message, which each turn sends again.
const ALL_IMAGES_BYTES_MAX: usize = 12 << 20;

/// About as many bytes of text as have the tokens of a large image.
pub(super) const IMAGE_AS_TEXT_BYTES: usize = 4800;

/// Senders pad base64 or do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An image for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// One of the four types that all providers take, judged by its bytes.
    pub media_type: &'static str,
    /// Its bytes, in padded base64.
    pub base64: String,
}

impl Image {
    /// The `data:` URL.
    pub(super) fn url(&self) -> String {
        format!("data:{};base64,{}", self.media_type, self.base64)
    }
}

/// Takes the images out of a payload, which is JSON text. In the place of each stands its number, or why it is not
/// shown. Other strings stay as they are.
pub(super) fn take_images(payload: &str) -> (Cow<'_, str>, Vec<Image>) {
    let mut images = Vec::new();
    let mut bytes_left = ALL_IMAGES_BYTES_MAX;
    let mut text = String::new();
    let mut rest = payload;
    while let Some((before, string, after)) = next_string(rest) {
        text.push_str(before);
        rest = after;
        let Some(bytes) = decode(string) else {
            text.push_str(string);
            continue;
        };
        let shown = match media_type(&bytes) {
            None => Err("neither PNG nor JPEG, GIF or WebP"),
            Some(_) if bytes.len() > IMAGE_BYTES_MAX.min(bytes_left) => Err("too large"),
            Some(_) if images.len() == IMAGES_MAX => Err("one of too many"),
            Some(media_type) => Ok(Image { media_type, base64: BASE64.encode(&bytes) }),
        };
        match shown {
            Ok(image) => {
                bytes_left -= bytes.len();
                images.push(image);
                text.push_str(&format!("\"[image {}]\"", images.len()));
            }
            Err(why) => {
                text.push_str(&format!(
                    "\"[an image of {} bytes, not shown: it is {why}]\"",
                    bytes.len()
                ));
            }
        }
    }
    if text.is_empty() {
        return (Cow::Borrowed(payload), images);
    }
    text.push_str(rest);
    (Cow::Owned(text), images)
}

/// The next JSON string that begins as an image does, with what stands before and behind it.
fn next_string(json: &str) -> Option<(&str, &str, &str)> {
    let starts = json.match_indices(START).map(|(at, _)| at);
    // An escaped quote is within a string.
    let mut starts = starts.filter(|at| !json.get(..*at).is_some_and(|text| text.ends_with('\\')));
    let start = starts.next()?;
    let mut is_escaped = false;
    let end = json.bytes().enumerate().skip(start + 1).find_map(|(at, byte)| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends.then_some(at + 1)
    })?;
    Some((json.get(..start)?, json.get(start..end)?, json.get(end..)?))
}

/// The bytes of a `data:` URL in base64, which is a JSON string.
fn decode(string: &str) -> Option<Vec<u8>> {
    let url: String = serde_json::from_str(string).ok()?;
    let (kind, data) = url.split_once(',')?;
    kind.ends_with(";base64").then_some(())?;
    let data: Vec<u8> = data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(data).ok()
}

/// The type of an image by its first bytes.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and more";

    fn url(bytes: &[u8]) -> String {
        format!("data:image/png;base64,{}", BASE64.encode(bytes))
    }

    #[test]
    fn an_image_is_taken_out_of_the_text() {
        let payload = format!(r#"{{"a": "data:image", "shot": "{}", "n": 1.50}}"#, url(PNG));
        let (text, images) = take_images(&payload);
        assert_eq!(text, r#"{"a": "data:image", "shot": "[image 1]", "n": 1.50}"#);
        assert_eq!(images, [Image { media_type: "image/png", base64: BASE64.encode(PNG) }]);
    }

    #[test]
    fn its_spelling_is_the_senders_and_its_type_that_of_its_bytes() {
        let jpeg = [&[0xff, 0xd8, 0xff, 0xe0][..], &[0xff; 30]].concat();
        // Padding left out, slashes escaped, and a line break, as encoders in use write them.
        let base64 = BASE64.encode(&jpeg).replace('=', "").replace('/', r"\/");
        let payload = format!(r#"["data:image\/png;name=x;base64,\n{base64}"]"#);
        let (text, images) = take_images(&payload);
        assert_eq!(text, r#"["[image 1]"]"#);
        assert_eq!(images, [Image { media_type: "image/jpeg", base64: BASE64.encode(&jpeg) }]);
    }

    #[test]
    fn what_cannot_be_shown_says_why() {
        let large = [PNG, &vec![0; IMAGE_BYTES_MAX][..]].concat();
        for (bytes, why) in [(b"<svg/>".to_vec(), "neither PNG"), (large, "too large")] {
            let payload = format!(r#"{{"shot": "{}"}}"#, url(&bytes));
            let (text, images) = take_images(&payload);
            assert_eq!(images, []);
            assert!(text.contains(why) && text.len() < 100, "{text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
        let many = format!("[{}]", vec![format!("\"{}\"", url(PNG)); IMAGES_MAX + 1].join(","));
        let (text, images) = take_images(&many);
        assert_eq!(images.len(), IMAGES_MAX);
        assert!(text.ends_with("not shown: it is one of too many]\"]"), "{text}");
    }

    #[test]
    fn other_strings_stay_as_they_are() {
        for payload in [
            "{}",
            r#"{"a": "data:image/png,text"}"#,
            r#"{"a": "data:image/png;base64,????"}"#,
            r#"{"a": "https://shop.example/a.png"}"#,
            r#"{"a": "see \"data:image/png;base64,iVBORw0KGgo=\""}"#,
            r#"{"a": "data:image/png;base64,iVBORw0KGgo="#,
        ] {
            assert_eq!(take_images(payload), (payload.into(), Vec::new()));
        }
    }
}
