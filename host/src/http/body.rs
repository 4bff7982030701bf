//! Reads whole request bodies within limits on bytes and time, and charges them to the budget for as long as they are
//! held.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame};
use tokio::time::{Instant, timeout_at};

use super::budget::{BodyBudget, Charge, OverBudget, Sender};
use super::error::ApiError;
use crate::bulk::TenantCell;
use crate::request::Payload;
use crate::request::content::{DecodeError, DecodeLimits, EXPANSION_MAX, Encoding, MemoryBudget};
use crate::settings::HttpSettings;

/// Bodies up to this size are not charged to the budget. Most webhooks are this small: they take no lock, and an
/// exhausted budget does not reject them. The limit on connections bounds their sum; each connection has a larger
/// read buffer anyway.
const UNCOUNTED_BYTES_MAX: usize = 16 << 10;

/// The first allocation for a body. It doubles as bytes arrive, because a declared length is only a claim.
const FIRST_BYTES: usize = 64 << 10;

/// Decoder windows up to this size are not charged to the budget.
const SHORT_WINDOW_BYTES_MAX: usize = 64 << 10;

/// Maximum number of chunks in which a body may arrive, plus one for each [`BYTES_PER_FURTHER_CHUNK`] bytes of it.
/// Each chunk is a wait for the connection, and the sender chooses its length: a megabyte in chunks of one byte would
/// be a second of work.
const CHUNKS_MAX: usize = 10_000;
const BYTES_PER_FURTHER_CHUNK: usize = 64;

/// Limits on reading a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// Maximum length, in bytes.
    bytes_max: usize,
    /// Maximum time until the body is complete.
    time_max: Duration,
    /// The minimum pace, if the sender is not authenticated yet.
    pace: Option<Pace>,
}

/// The minimum pace of a body.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// How long the sender may send nothing.
    grace: Duration,
    /// The average that is required after that.
    bytes_per_second_min: u64,
}

impl BodyLimits {
    /// Creates limits without a minimum pace.
    pub(super) fn new(bytes_max: usize, time_max: Duration) -> Self {
        Self { bytes_max, time_max, pace: None }
    }

    /// How long a body may have taken once this many bytes have arrived.
    fn time_for(&self, bytes: usize) -> Duration {
        let Some(pace) = self.pace else { return self.time_max };
        let millis = (bytes as u64).saturating_mul(1_000) / pace.bytes_per_second_min.max(1);
        self.time_max.min(pace.grace.saturating_add(Duration::from_millis(millis)))
    }
}

/// Reads bodies within the settings' limits and the gateway's budget.
#[derive(Debug, Clone)]
pub(super) struct BodyReader {
    budget: BodyBudget,
    authenticated: BodyLimits,
    unverified: BodyLimits,
    anonymous: BodyLimits,
}

impl BodyReader {
    pub(super) fn new(budget: BodyBudget, settings: &HttpSettings) -> Self {
        let authenticated = BodyLimits::new(settings.body_bytes_max, settings.body_time_max);
        let pace = Pace {
            grace: settings.stranger_body_grace,
            bytes_per_second_min: settings.stranger_body_bytes_per_second_min,
        };
        let anonymous = BodyLimits::new(64 << 10, settings.stranger_body_grace);
        let unverified = BodyLimits { pace: Some(pace), ..authenticated };
        Self { budget, authenticated, unverified, anonymous }
    }

    /// Opens an empty charge on the budget, for data that is made from a body.
    pub(super) fn charge(&self, sender: Sender) -> Charge {
        self.budget.charge(sender)
    }

    /// Reads a body, decodes its content encodings and removes their header: later stages see a request that was sent
    /// without encodings.
    ///
    /// # Errors
    /// As [`Self::read_encoded`] and [`Self::decode_body`].
    pub(super) async fn read_body(
        &self,
        sender: Sender,
        head: &mut Parts,
        body: Body,
    ) -> Result<Bytes, ApiError> {
        self.read_within(self.authenticated, sender, head, body).await
    }

    /// Reads a body and deserializes it from a JSON object.
    ///
    /// # Errors
    /// As [`Self::read_body`]; 400 if it is not JSON, 422 if it has another shape.
    pub(super) async fn read_typed<T: serde::de::DeserializeOwned>(
        &self,
        request: Request<Body>,
    ) -> Result<T, ApiError> {
        let (mut head, body) = request.into_parts();
        parse_json(self.read_body(Sender::from_head(&head), &mut head, body).await?)
    }

    /// Reads a body like [`Self::read_body`], but from a sender without access: up to 64 KiB, within the grace period.
    /// Such a sender cannot make the gateway hold megabytes, or a connection for a minute.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(super) async fn read_anonymous(
        &self,
        sender: Sender,
        head: &mut Parts,
        body: Body,
    ) -> Result<Bytes, ApiError> {
        self.read_within(self.anonymous, sender, head, body).await
    }

    /// Reads a body like [`Self::read_body`], but within the limits of a route.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(super) async fn read_within(
        &self,
        limits: BodyLimits,
        sender: Sender,
        head: &mut Parts,
        body: Body,
    ) -> Result<Bytes, ApiError> {
        let body = self.read_encoded(limits, sender, head, body).await?;
        let decoded = self.decode_within(limits.bytes_max, sender, &head.headers, &body).await?;
        head.headers.remove(CONTENT_ENCODING);
        Ok(decoded.unwrap_or(body))
    }

    /// Decodes a body's content encodings, and charges the result to the sender like the body itself. `None` if the
    /// body has no encodings, or is empty.
    ///
    /// # Errors
    /// 400 if the body is not encoded as declared, 413 if the decoded body is too long, expands too much or takes too
    /// long to decode, 415 if an encoding is unknown or there are too many, 503 if the budget is exhausted.
    pub(super) async fn decode_body(
        &self,
        sender: Sender,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Option<Bytes>, ApiError> {
        self.decode_within(self.authenticated.bytes_max, sender, headers, body).await
    }

    async fn decode_within(
        &self,
        bytes_max: usize,
        sender: Sender,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Option<Bytes>, ApiError> {
        let encodings = if body.is_empty() { Vec::new() } else { Encoding::from_headers(headers)? };
        let limits = DecodeLimits { bytes_max, sent: body.len() };
        let mut decoded: Option<Bytes> = None;
        for encoding in encodings.into_iter().rev() {
            let charge = || self.budget.charge(sender);
            let mut charges = DecodeCharges { decoded: charge(), window: charge() };
            let from = decoded.as_ref().unwrap_or(body);
            let bytes = encoding.decode(from, limits, &mut charges).await;
            let bytes = bytes.map_err(|error| match error {
                DecodeError::Request(error) => ApiError::from(error),
                DecodeError::TooLong => too_long(bytes_max),
                DecodeError::Expands => ApiError::caller(
                    413,
                    format!(
                        "the body is more than {EXPANSION_MAX} times as long as what was sent of it"
                    ),
                ),
                DecodeError::TakesLong => {
                    ApiError::caller(413, "the body takes too long to be decoded for its length")
                }
                DecodeError::OverBudget(over) => over.into(),
            })?;
            decoded = Some(BodyBuffer { bytes, charge: Some(charges.decoded) }.into_bytes());
        }
        Ok(decoded)
    }

    /// Reads a body as sent, from a sender that the body itself authenticates: as many bytes as from an authenticated
    /// sender, but at a minimum pace. Content encodings are not decoded.
    ///
    /// # Errors
    /// As [`Self::read_encoded`].
    pub(super) async fn read_unverified(
        &self,
        sender: Sender,
        head: &Parts,
        body: Body,
    ) -> Result<Bytes, ApiError> {
        self.read_encoded(self.unverified, sender, head, body).await
    }

    /// Reads a body as sent. A body whose declared length is too long is rejected before any of it is read; a chunked
    /// one, as soon as it is too long. The bytes are charged to the sender until the last handle to them is dropped,
    /// wherever it is by then.
    ///
    /// # Errors
    /// 400 if the body breaks off or arrives in too many chunks, 408 if it takes too long, 413 if it is too long, 503
    /// if the budget is exhausted.
    async fn read_encoded(
        &self,
        limits: BodyLimits,
        sender: Sender,
        head: &Parts,
        mut body: Body,
    ) -> Result<Bytes, ApiError> {
        let limit = limits.bytes_max;
        let declared =
            head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if declared.is_some_and(|declared: usize| declared > limit) {
            return Err(too_long(limit));
        }
        let expected_max = declared.unwrap_or(limit);
        let mut buffer = BodyBuffer { bytes: Vec::new(), charge: None };
        let (mut began, mut chunks) = (None, 0_usize);
        while !body.is_end_stream() {
            let deadline =
                || *began.get_or_insert_with(Instant::now) + limits.time_for(buffer.bytes.len());
            let data = match next_frame(&mut body, deadline).await? {
                None => break,
                Some(Err(_)) => return Err(ApiError::caller(400, "the body broke off")),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    // Trailers are ignored.
                    Err(_) => continue,
                },
            };
            if data.len() > limit - buffer.bytes.len() {
                return Err(too_long(limit));
            }
            // Most bodies arrive in one chunk, which is not copied.
            if data.len() <= UNCOUNTED_BYTES_MAX && buffer.bytes.is_empty() && body.is_end_stream()
            {
                join_tenant_turns(head, sender).await;
                return Ok(data);
            }
            chunks += 1;
            if chunks > CHUNKS_MAX + buffer.bytes.len() / BYTES_PER_FURTHER_CHUNK {
                return Err(ApiError::caller(
                    400,
                    "the body comes in too many pieces for its length",
                ));
            }
            buffer.push(&data, expected_max, || self.budget.charge(sender))?;
        }
        join_tenant_turns(head, sender).await;
        Ok(buffer.into_bytes())
    }
}

/// The charges for decoding an encoding: the decoded body, for as long as it is held, and the decoder's window, until
/// decoding ends.
struct DecodeCharges {
    decoded: Charge,
    window: Charge,
}

impl MemoryBudget for DecodeCharges {
    type Full = OverBudget;

    fn reserve_output(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.decoded.grow_to(bytes)
    }

    fn reserve_window(&mut self, bytes: usize) -> Result<(), OverBudget> {
        // Short windows are not charged, like short bodies.
        if bytes > SHORT_WINDOW_BYTES_MAX { self.window.grow_to(bytes) } else { Ok(()) }
    }
}

/// Makes a request on the bulk lane take its tenant's turns from here on, because reading is done and computing
/// begins. The yield makes it wait for the first turn.
async fn join_tenant_turns(head: &Parts, sender: Sender) {
    if let (Some(tenant_cell), Some(tenant)) =
        (head.extensions.get::<TenantCell>(), sender.proven_tenant())
    {
        tenant_cell.set(tenant);
        tokio::task::yield_now().await;
    }
}

/// A body that is being received. The chunks are copied together: each may be a single byte, and each keeps the whole
/// buffer alive that it was read into.
#[derive(Debug)]
struct BodyBuffer {
    bytes: Vec<u8>,
    charge: Option<Charge>,
}

impl BodyBuffer {
    /// Appends a chunk. Memory is charged before it is allocated.
    fn push(
        &mut self,
        data: &[u8],
        expected_max: usize,
        charge: impl FnOnce() -> Charge,
    ) -> Result<(), OverBudget> {
        let needed = self.bytes.len() + data.len();
        if needed > self.bytes.capacity() {
            let doubled = FIRST_BYTES.max(self.bytes.capacity().saturating_mul(2));
            let capacity = doubled.min(expected_max).max(needed);
            if capacity > UNCOUNTED_BYTES_MAX {
                self.charge.get_or_insert_with(charge).grow_to(capacity)?;
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn into_bytes(self) -> Bytes {
        // The charge is dropped with the last handle to the bytes.
        if self.charge.is_some() { Bytes::from_owner(self) } else { self.bytes.into() }
    }
}

impl AsRef<[u8]> for BodyBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The next chunk. If it has already arrived, as most have, no timer is set.
async fn next_frame(
    body: &mut Body,
    deadline: impl FnOnce() -> Instant,
) -> Result<Option<Result<Frame<Bytes>, axum::Error>>, ApiError> {
    let mut frame = body.frame();
    let first = poll_fn(|context| Poll::Ready(Pin::new(&mut frame).poll(context))).await;
    match first {
        Poll::Ready(frame) => Ok(frame),
        Poll::Pending => timeout_at(deadline(), frame)
            .await
            .map_err(|_| ApiError::caller(408, "the body did not arrive in time").retry_after(1)),
    }
}

/// Deserializes a body from a JSON object.
///
/// # Errors
/// 400 if it is not JSON, 422 if it has another shape.
pub(super) fn parse_json<T: serde::de::DeserializeOwned>(body: Bytes) -> Result<T, ApiError> {
    let payload = Payload::parse(body).map_err(|error| ApiError::caller(400, error.to_string()))?;
    // Serde also deserializes a struct from an array, as its fields in order.
    if payload.fields().is_none() {
        return Err(ApiError::caller(422, "the body is not a JSON object"));
    }
    serde_json::from_str(payload.text())
        .map_err(|error| ApiError::caller(422, format!("the body is not as documented: {error}")))
}

fn too_long(limit: usize) -> ApiError {
    ApiError::caller(413, format!("the body is longer than {limit} bytes"))
}
