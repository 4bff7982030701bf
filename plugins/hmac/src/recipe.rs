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
use wardgate_sdk::settings::{Setting, TOLERANCE, misconfigured};
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
    /// Builds the recipe from the settings that `read` returns.
    pub(crate) fn read(
        read: impl Fn(&Setting) -> Result<String, Failure>,
    ) -> Result<Self, Failure> {
        let signed = Template::parse(&read(&SIGNED)?).map_err(|problem| misconfigured(&problem))?;
        Ok(Self {
            algorithm: read(&ALGORITHM)?,
            header: read(&HEADER)?,
            encoding: Encoding::named(&read(&ENCODING)?).unwrap_or(Encoding::Hex),
            prefix: read(&PREFIX)?,
            signature_part: read(&SIGNATURE_PART)?,
            timestamp_part: read(&TIMESTAMP_PART)?,
            separator: read(&SEPARATOR)?.chars().next().unwrap_or(','),
            timestamp_header: read(&TIMESTAMP_HEADER)?,
            timestamp_unit: read(&TIMESTAMP_UNIT)?,
            delivery_header: read(&DELIVERY_HEADER)?,
            secret_prefix: read(&SECRET_PREFIX)?,
            secret_encoding: read(&SECRET_ENCODING)?,
            signed,
        })
    }

    /// What is wrong with the recipe: a pointer to the setting, and a message.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let has_timestamp = !self.timestamp_header.is_empty() || !self.timestamp_part.is_empty();
        let signs = |part| self.signed.has(part);
        if self.header.is_empty() {
            Some(("/header", "`header` is required"))
        } else if !signs(Part::Body) {
            Some(("/signed", "`signed` is to hold {body}: nothing else proves what was sent"))
        } else if self.signed.bodies() > 1 {
            Some(("/signed", "`signed` holds {body} more than once, as no provider signs"))
        } else if signs(Part::Timestamp) && !has_timestamp {
            Some(("/signed", "{timestamp} needs `timestamp-header` or `timestamp-part`"))
        } else if has_timestamp && !signs(Part::Timestamp) {
            Some(("/signed", "a timestamp proves nothing unless `signed` holds {timestamp}"))
        } else if signs(Part::Id) && self.delivery_header.is_empty() {
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
    pub(crate) fn timestamp(&self, host: &impl Host, header: &str) -> Result<String, Failure> {
        let timestamp = if !self.timestamp_part.is_empty() {
            signature::parts(header, self.separator, &self.timestamp_part)
                .next()
                .map(String::from)
                .ok_or_else(|| Failure::unauthorized("the signature header has no timestamp"))?
        } else if !self.timestamp_header.is_empty() {
            signature::header(host, &self.timestamp_header)?
        } else {
            return Ok(String::new());
        };
        let tolerance = TOLERANCE.number(host)?;
        let fresh = match self.timestamp_unit.as_str() {
            "milliseconds" => signature::fresh_ms,
            "iso8601" => signature::fresh_iso8601,
            _ => signature::fresh,
        };
        fresh(&timestamp, host.now(), tolerance)?;
        Ok(timestamp)
    }

    /// Opens the secret, decoded as the recipe says.
    pub(crate) fn key<H: Host>(&self, host: &H) -> Result<H::Key, Failure> {
        match self.secret_encoding.as_str() {
            "text" => host.open("secret"),
            encoding => host.open_encoded("secret", &self.secret_prefix, encoding),
        }
    }

    /// The bytes that were signed before and after the body.
    pub(crate) fn around_the_body(
        &self,
        host: &impl Host,
        timestamp: &str,
    ) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        self.signed.around_the_body(|part| {
            Ok(match part {
                Part::Text(text) => text.as_bytes().to_vec(),
                // The template splits at the body, so it adds no bytes here.
                Part::Body => Vec::new(),
                Part::Timestamp => timestamp.as_bytes().to_vec(),
                Part::Id => signature::header(host, &self.delivery_header)?.into_bytes(),
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
        let bare = move |text: &'a str| text.trim().strip_prefix(prefix);
        if self.signature_part.is_empty() {
            // During a rotation, some providers send two signatures separated by a space. A prefix may
            // contain a space, so the whole header is tried too.
            let several = header.trim().contains(' ').then(|| header.split(' '));
            let found = core::iter::once(header).chain(several.into_iter().flatten());
            return Box::new(found.filter_map(bare));
        }
        Box::new(signature::parts(header, self.separator, &self.signature_part).filter_map(bare))
    }
}

fn channel_url(host: &impl Host) -> Result<String, Failure> {
    host.attribute("channel-url")
        .and_then(|url| json::text(&url))
        .ok_or_else(|| misconfigured("the gateway does not know the channel's URL"))
}
