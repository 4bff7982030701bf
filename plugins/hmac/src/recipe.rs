//! The settings of one recipe, and their application to a request.

use crate::template::{Part, Template};
use crate::{
    ALGORITHM, DELIVERY_HEADER, ENCODING, HEADER, PREFIX, SECRET_ENCODING, SECRET_PREFIX,
    SEPARATOR, SIGNATURE_PART, SIGNED, TIMESTAMP_HEADER, TIMESTAMP_PART, TIMESTAMP_UNIT,
};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use wardgate_sdk::host::Host;
use wardgate_sdk::settings::{Setting, TOLERANCE_SECONDS, misconfigured};
use wardgate_sdk::signature::{self, Encoding};
use wardgate_sdk::{Failure, json};

/// How a provider signs.
pub(crate) struct Recipe {
    pub(crate) algorithm: String,
    pub(crate) header: String,
    pub(crate) encoding: Encoding,
    prefix: String,
    signature_part: String,
    timestamp_part: String,
    separator: char,
    timestamp_header: String,
    timestamp_unit: String,
    delivery_header: String,
    secret_prefix: String,
    secret_encoding: String,
    signed: Template,
}

impl Recipe {
    /// Builds the recipe from the settings that `value` returns.
    pub(crate) fn from_settings(
        value: impl Fn(&Setting) -> Result<String, Failure>,
    ) -> Result<Self, Failure> {
        let signed =
            Template::parse(&value(&SIGNED)?).map_err(|problem| misconfigured(&problem))?;
        Ok(Self {
            algorithm: value(&ALGORITHM)?,
            header: value(&HEADER)?,
            encoding: Encoding::from_name(&value(&ENCODING)?).unwrap_or(Encoding::Hex),
            prefix: value(&PREFIX)?,
            signature_part: value(&SIGNATURE_PART)?,
            timestamp_part: value(&TIMESTAMP_PART)?,
            separator: value(&SEPARATOR)?.chars().next().unwrap_or(','),
            timestamp_header: value(&TIMESTAMP_HEADER)?,
            timestamp_unit: value(&TIMESTAMP_UNIT)?,
            delivery_header: value(&DELIVERY_HEADER)?,
            secret_prefix: value(&SECRET_PREFIX)?,
            secret_encoding: value(&SECRET_ENCODING)?,
            signed,
        })
    }

    /// What is wrong with the recipe: a pointer to the setting, and a message.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let has_timestamp = !self.timestamp_header.is_empty() || !self.timestamp_part.is_empty();
        let is_signed = |part| self.signed.contains(part);
        if self.header.is_empty() {
            Some(("/header", "`header` is required"))
        } else if !is_signed(Part::Body) {
            Some(("/signed", "`signed` is to hold {body}: nothing else proves what was sent"))
        } else if self.signed.body_count() > 1 {
            Some(("/signed", "`signed` holds {body} more than once, as no provider signs"))
        } else if is_signed(Part::Timestamp) && !has_timestamp {
            Some(("/signed", "{timestamp} needs `timestamp-header` or `timestamp-part`"))
        } else if has_timestamp && !is_signed(Part::Timestamp) {
            Some(("/signed", "a timestamp proves nothing unless `signed` holds {timestamp}"))
        } else if is_signed(Part::Id) && self.delivery_header.is_empty() {
            Some(("/signed", "{id} needs `delivery-header`"))
        } else if !self.timestamp_part.is_empty() && self.signature_part.is_empty() {
            Some(("/signature-part", "`timestamp-part` needs `signature-part`"))
        } else if !self.secret_prefix.is_empty() && self.secret_encoding == "text" {
            Some(("/secret-prefix", "`secret-prefix` needs `secret-encoding`"))
        } else {
            None
        }
    }

    /// The timestamp as it was sent, after the check that it is fresh. Empty if the recipe has none.
    pub(crate) fn checked_timestamp(
        &self,
        host: &impl Host,
        header: &str,
    ) -> Result<String, Failure> {
        let timestamp = if !self.timestamp_part.is_empty() {
            signature::part_values(header, self.separator, &self.timestamp_part)
                .next()
                .map(String::from)
                .ok_or_else(|| Failure::unauthorized("the signature header has no timestamp"))?
        } else if !self.timestamp_header.is_empty() {
            signature::required_header(host, &self.timestamp_header)?
        } else {
            return Ok(String::new());
        };
        let tolerance = TOLERANCE_SECONDS.number(host)?;
        let check_timestamp = match self.timestamp_unit.as_str() {
            "milliseconds" => signature::check_timestamp_ms,
            "iso8601" => signature::check_timestamp_iso8601,
            _ => signature::check_timestamp_seconds,
        };
        check_timestamp(&timestamp, host.now_seconds(), tolerance)?;
        Ok(timestamp)
    }

    /// Opens the secret, decoded as the recipe says.
    pub(crate) fn open_secret<H: Host>(&self, host: &H) -> Result<H::Secret, Failure> {
        match self.secret_encoding.as_str() {
            "text" => host.open_secret("secret"),
            encoding => host.open_encoded_secret("secret", &self.secret_prefix, encoding),
        }
    }

    /// The bytes that were signed before and after the body.
    pub(crate) fn bytes_around_body(
        &self,
        host: &impl Host,
        timestamp: &str,
    ) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        self.signed.bytes_around_body(|part| {
            Ok(match part {
                Part::Literal(text) => text.as_bytes().to_vec(),
                // The template splits at the body, so it adds no bytes here.
                Part::Body => Vec::new(),
                Part::Timestamp => timestamp.as_bytes().to_vec(),
                Part::Id => signature::required_header(host, &self.delivery_header)?.into_bytes(),
                Part::Method => host.method().into_bytes(),
                Part::Path => host.path().into_bytes(),
                Part::Query => host.query().into_bytes(),
                Part::Url => channel_url(host)?.into_bytes(),
            })
        })
    }

    /// The texts in the header that may be signatures.
    pub(crate) fn signatures<'a>(
        &'a self,
        header: &'a str,
    ) -> Box<dyn Iterator<Item = &'a str> + 'a> {
        let prefix = self.prefix.as_str();
        let strip_prefix = move |text: &'a str| text.trim().strip_prefix(prefix);
        if self.signature_part.is_empty() {
            // During a rotation, some providers send two signatures separated by a space. A prefix may
            // contain a space, so the whole header is tried too.
            let several = header.trim().contains(' ').then(|| header.split(' '));
            let candidates = core::iter::once(header).chain(several.into_iter().flatten());
            return Box::new(candidates.filter_map(strip_prefix));
        }
        Box::new(
            signature::part_values(header, self.separator, &self.signature_part)
                .filter_map(strip_prefix),
        )
    }
}

fn channel_url(host: &impl Host) -> Result<String, Failure> {
    host.attribute("channel-url")
        .and_then(|url| json::decode_string(&url))
        .ok_or_else(|| misconfigured("the gateway does not know the channel's URL"))
}
