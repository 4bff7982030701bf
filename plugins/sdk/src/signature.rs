//! Functions that verifiers share: parsing signature headers, checking timestamps, verifying signatures.
//!
//! Every failure here is `unauthorized`. Its message says what is wrong, never which value would be
//! accepted. Run the cheap checks (is the header present, is the timestamp fresh) before those that read
//! the body, so that an unauthenticated request costs little.

use crate::Failure;
use crate::host::Host;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use base64ct::Encoding as _;

/// How many signatures of one request are verified; further ones are ignored. Each may cost an HMAC over
/// the body, so their number is bounded. Providers send one for each secret in use: one, or two during a
/// rotation.
pub const SIGNATURES_MAX: usize = 8;

/// The encoding of bytes in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 4648, section 8. Decoding accepts either case.
    Hex,
    /// RFC 4648, section 4. Decoding accepts it with or without padding.
    Base64,
    /// RFC 4648, section 5. Decoding accepts it with or without padding.
    Base64Url,
}

impl Encoding {
    /// The names of the encodings in settings.
    pub const NAMES: &'static [&'static str] = &["hex", "base64", "base64url"];

    /// The encoding with one of the [`Self::NAMES`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "hex" => Some(Self::Hex),
            "base64" => Some(Self::Base64),
            "base64url" => Some(Self::Base64Url),
            _ => None,
        }
    }

    /// Encodes bytes: hex in lower case, base64 with padding, base64url without.
    pub fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => base16ct::lower::encode_string(bytes),
            Self::Base64 => base64ct::Base64::encode_string(bytes),
            Self::Base64Url => base64ct::Base64UrlUnpadded::encode_string(bytes),
        }
    }

    /// Decodes a text. `None` if it is malformed or decodes to zero bytes.
    pub fn decode(self, text: &str) -> Option<Vec<u8>> {
        let bytes = match self {
            Self::Hex => base16ct::mixed::decode_vec(text).ok()?,
            Self::Base64 => base64ct::Base64Unpadded::decode_vec(strip_padding(text)?).ok()?,
            Self::Base64Url => {
                base64ct::Base64UrlUnpadded::decode_vec(strip_padding(text)?).ok()?
            }
        };
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// Removes padding. Padding is optional; if present, it must fill up to a multiple of four characters.
fn strip_padding(text: &str) -> Option<&str> {
    let bare = text.trim_end_matches('=');
    let is_padded = bare.len() != text.len();
    (!is_padded || (text.len().is_multiple_of(4) && text.len() - bare.len() <= 2)).then_some(bare)
}

/// Reads a header that a signed request must have. Fails if it is missing or empty.
pub fn required_header(host: &impl Host, name: &str) -> Result<String, Failure> {
    host.header(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Failure::unauthorized(format!("the header `{name}` is missing")))
}

/// Checks a timestamp in seconds since 1970: it may be at most `tolerance_seconds` before or after
/// `now_seconds`. A timestamp in the future is as suspect as an old one: the request could be recorded now
/// and replayed once the timestamp is fresh.
pub fn check_timestamp_seconds(
    timestamp: &str,
    now_seconds: u64,
    tolerance_seconds: u64,
) -> Result<(), Failure> {
    let time = parse_digits(timestamp)
        .ok_or_else(|| Failure::unauthorized("the timestamp is not a number of seconds"))?;
    check_tolerance(time, now_seconds, tolerance_seconds)
}

/// Like [`check_timestamp_seconds`], for milliseconds since 1970.
pub fn check_timestamp_ms(
    timestamp: &str,
    now_seconds: u64,
    tolerance_seconds: u64,
) -> Result<(), Failure> {
    let time = parse_digits(timestamp)
        .ok_or_else(|| Failure::unauthorized("the timestamp is not a number of milliseconds"))?;
    check_tolerance(time / 1000, now_seconds, tolerance_seconds)
}

/// Like [`check_timestamp_seconds`], for a time in ISO 8601 and RFC 3339 format such as
/// `2026-01-31T12:00:00Z`. A fraction of a second is optional, the time zone is required.
pub fn check_timestamp_iso8601(
    timestamp: &str,
    now_seconds: u64,
    tolerance_seconds: u64,
) -> Result<(), Failure> {
    let time = parse_iso8601(timestamp).ok_or_else(|| {
        Failure::unauthorized("the timestamp is not an ISO 8601 time with a zone")
    })?;
    check_tolerance(time, now_seconds, tolerance_seconds)
}

fn check_tolerance(time: u64, now_seconds: u64, tolerance_seconds: u64) -> Result<(), Failure> {
    if time.abs_diff(now_seconds) <= tolerance_seconds {
        return Ok(());
    }
    let which = if time < now_seconds { "old" } else { "far in the future" };
    Err(Failure::unauthorized(format!("the timestamp is too {which}")))
}

/// Parses digits only: no sign, no space, no fraction.
fn parse_digits(timestamp: &str) -> Option<u64> {
    timestamp.bytes().all(|byte| byte.is_ascii_digit()).then(|| timestamp.parse().ok()).flatten()
}

/// Seconds since 1970 of an ISO 8601 time. A fraction of a second is ignored.
fn parse_iso8601(timestamp: &str) -> Option<u64> {
    let (date, time) = timestamp.split_once('T')?;
    let (time, zone) = time.split_at_checked(time.find(['Z', '+', '-'])?)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (year, rest) = date.split_once('-')?;
    let (month, day) = rest.split_once('-')?;
    let (hour, rest) = time.split_once(':')?;
    let (minute, second) = rest.split_once(':')?;
    let two_digits = |text: &str, max: u64| {
        parse_digits(text).filter(|number| text.len() == 2 && *number <= max)
    };
    let year = parse_digits(year).filter(|number| year.len() == 4 && *number >= 1970)?;
    let (month, day) =
        (two_digits(month, 12)?.checked_sub(1)?, two_digits(day, 31)?.checked_sub(1)?);
    parse_digits(fraction).filter(|_| !fraction.is_empty())?;
    // A year that starts in March has its leap day at its end. Any five months from there have 153 days.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let time = days.checked_sub(719_468)? * 86_400
        + two_digits(hour, 23)? * 3600
        + two_digits(minute, 59)? * 60
        + two_digits(second, 60)?;
    if zone == "Z" {
        return Some(time);
    }
    let (sign, offset) = zone.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':').or_else(|| offset.split_at_checked(2))?;
    let offset = two_digits(hours, 23)? * 3600 + two_digits(minutes, 59)? * 60;
    match sign {
        "+" => time.checked_sub(offset),
        "-" => time.checked_add(offset),
        _ => None,
    }
}

/// The values of one name in a header such as `t=1533204620,v1=2220…,v1=77ab…`, in order. A name may occur
/// several times, as `v1` does during the rotation of a secret.
pub fn part_values<'a>(
    header: &'a str,
    separator: char,
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    header.split(separator).filter_map(move |part| {
        let (found, value) = part.trim().split_once('=')?;
        (found == name).then_some(value)
    })
}

/// Verifies that one of these signatures is that of the message. Texts that cannot be decoded are skipped,
/// so that a signature of an unknown scheme can stand beside a known one. Fails with `unauthorized` if no
/// signature matches.
pub fn verify_message<'a, H: Host>(
    host: &H,
    key: &H::Secret,
    algorithm: &str,
    message: &[u8],
    encoding: Encoding,
    signatures: impl Iterator<Item = &'a str>,
) -> Result<(), Failure> {
    let signatures = signatures.filter_map(|text| encoding.decode(text)).take(SIGNATURES_MAX);
    for signature in signatures {
        if host.hmac_verify(key, algorithm, message, &signature)? {
            return Ok(());
        }
    }
    Err(Failure::unauthorized("the signature does not match"))
}

/// Like [`verify_message`], for the message `before`, request body, `after`. The gateway hashes the body in its
/// own memory, so the plugin pays nothing for a long body.
pub fn verify_body<'a, H: Host>(
    host: &H,
    key: &H::Secret,
    algorithm: &str,
    (before, after): (&[u8], &[u8]),
    encoding: Encoding,
    signatures: impl Iterator<Item = &'a str>,
) -> Result<(), Failure> {
    let signatures = signatures.filter_map(|text| encoding.decode(text)).take(SIGNATURES_MAX);
    let signatures: Vec<_> = signatures.collect();
    // Without a signature, do not have the body hashed.
    if !signatures.is_empty()
        && host.hmac_verify_body(key, algorithm, before, after, &signatures)?
    {
        return Ok(());
    }
    Err(Failure::unauthorized("the signature does not match"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn bytes_are_read_in_each_encoding() {
        for (encoding, text, bytes) in [
            (Encoding::Hex, "00fFA9", Some(vec![0, 255, 169])),
            (Encoding::Hex, "00f", None),
            (Encoding::Hex, "0g", None),
            (Encoding::Hex, " 00", None),
            (Encoding::Hex, "", None),
            (Encoding::Base64, "+/8=", Some(vec![251, 255])),
            (Encoding::Base64, "+/8", Some(vec![251, 255])),
            (Encoding::Base64, "+/8==", None),
            (Encoding::Base64, "====", None),
            (Encoding::Base64, "-_8=", None),
            (Encoding::Base64, "AAAA=", None),
            (Encoding::Base64, "", None),
            (Encoding::Base64Url, "-_8=", Some(vec![251, 255])),
            (Encoding::Base64Url, "+/8=", None),
        ] {
            assert_eq!(encoding.decode(text), bytes, "{encoding:?} {text}");
        }
        for name in Encoding::NAMES {
            let encoding = Encoding::from_name(name).unwrap();
            let text = encoding.encode(&[251, 255]);
            assert_eq!(encoding.decode(&text), Some(vec![251, 255]), "{name} {text}");
        }
        assert_eq!(Encoding::from_name("base32"), None);
    }

    #[test]
    fn a_timestamp_is_fresh_for_so_long_in_both_directions() {
        for (timestamp, found) in [
            ("1000", true),
            ("700", true),
            ("1300", true),
            ("699", false),
            ("1301", false),
            ("0", false),
            ("", false),
            ("-1000", false),
            ("+1000", false),
            (" 1000", false),
            ("1000.5", false),
            ("1e3", false),
            ("99999999999999999999999999", false),
        ] {
            let answer = check_timestamp_seconds(timestamp, 1000, 300);
            assert_eq!(answer.is_ok(), found, "{timestamp}");
            if let Err(failure) = answer {
                assert_eq!(failure.code, "unauthorized");
            }
        }
        assert!(check_timestamp_ms("1300999", 1000, 300).is_ok());
        assert!(check_timestamp_ms("1301000", 1000, 300).is_err());
    }

    #[test]
    fn a_time_with_its_zone_is_as_fresh_as_its_seconds() {
        for (timestamp, time) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("2021-03-25T05:09:27Z", Some(1_616_648_967)),
            ("2021-03-25T05:09:27.123456Z", Some(1_616_648_967)),
            ("2020-01-01T00:00:00-07:00", Some(1_577_862_000)),
            ("2024-12-31T23:59:60+05:30", Some(1_735_669_800)),
            ("2024-12-31T23:59:60+0530", Some(1_735_669_800)),
            ("2021-03-25T05:09:27", None),
            ("2021-03-25 05:09:27Z", None),
            ("2021-03-25T05:09Z", None),
            ("2021-3-25T05:09:27Z", None),
            ("2021-13-25T05:09:27Z", None),
            ("2021-00-25T05:09:27Z", None),
            ("2021-03-00T05:09:27Z", None),
            ("2021-03-25T25:09:27Z", None),
            ("2021-03-25T05:09:27.Z", None),
            ("2021-03-25T05:09:27ZZ", None),
            ("2021-03-25T05:09:27+5", None),
            ("1969-12-31T23:59:59Z", None),
            ("1970-01-01T00:00:00+01:00", None),
            ("1616648967", None),
            ("", None),
        ] {
            assert_eq!(parse_iso8601(timestamp), time, "{timestamp}");
        }
        assert!(check_timestamp_iso8601("2021-03-25T05:09:27Z", 1_616_648_967 + 300, 300).is_ok());
        for late in ["2021-03-25T05:09:26Z", "2021-03-25T05:09:27"] {
            let refused = check_timestamp_iso8601(late, 1_616_648_967 + 300, 300).err();
            assert_eq!(refused.map(|failure| failure.code).as_deref(), Some("unauthorized"));
        }
    }

    #[test]
    fn parts_of_one_name_come_in_their_order() {
        let header = "t=1, v1=a=,v0=x,v1=b,v11=c,v1";
        assert_eq!(part_values(header, ',', "v1").collect::<Vec<_>>(), ["a=", "b"]);
        assert_eq!(part_values(header, ',', "t").collect::<Vec<_>>(), ["1"]);
        assert_eq!(part_values("ts=1;h1=a", ';', "h1").collect::<Vec<_>>(), ["a"]);
        assert_eq!(part_values(header, ',', "v2").count(), 0);
    }
}
