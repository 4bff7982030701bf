//! Bodies, read whole within a limit of bytes and of time.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, Limited};

use super::error::ApiError;
use crate::call::Payload;
use crate::settings::HttpSettings;

/// What reading a body may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    /// Bytes.
    bytes_max: usize,
    /// Until it is whole.
    time_max: Duration,
}

impl BodyLimits {
    /// Without a key nobody makes us hold megabytes, or a connection for a minute.
    pub(super) const OF_STRANGERS: Self =
        Self { bytes_max: 64 << 10, time_max: Duration::from_secs(5) };

    /// So many bytes, within this time.
    pub(super) fn new(bytes_max: usize, time_max: Duration) -> Self {
        Self { bytes_max, time_max }
    }

    /// The settings'.
    pub(super) fn of(settings: &HttpSettings) -> Self {
        Self { bytes_max: settings.body_bytes_max, time_max: settings.body_time_max }
    }
}

/// Reads a body. One that declares itself too long is refused before a byte of it is read; a chunked
/// one as soon as it is too long.
///
/// # Errors
/// 413 where it is too long, 408 where it takes too long, 400 where it breaks off.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    let limit = limits.bytes_max;
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|declared: usize| declared > limit) {
        return Err(too_long(limit));
    }
    let collecting = Limited::new(body, limit).collect();
    match timed(limits.time_max, collecting).await {
        None => Err(ApiError::caller(408, "the body did not arrive in time").retry_after(1)),
        Some(Ok(collected)) => Ok(collected.to_bytes()),
        Some(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_long(limit)),
        Some(Err(_)) => Err(ApiError::caller(400, "the body broke off")),
    }
}

/// A JSON body of a type of ours: 400 where it is no JSON, 422 where it is of another shape.
pub(super) fn typed<T: serde::de::DeserializeOwned>(body: Bytes) -> Result<T, ApiError> {
    let payload = Payload::parse(body).map_err(|error| ApiError::caller(400, error.to_string()))?;
    // To serde an array is a struct too, its fields in their order.
    if payload.fields().is_none() {
        return Err(ApiError::caller(422, "the body is no JSON object"));
    }
    serde_json::from_str(payload.text())
        .map_err(|error| ApiError::caller(422, format!("the body is not as documented: {error}")))
}

fn too_long(limit: usize) -> ApiError {
    ApiError::caller(413, format!("the body is longer than {limit} bytes"))
}

/// A body that is there already, as most are, is taken without setting a timer.
async fn timed<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let first = std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context)));
    match first.await {
        std::task::Poll::Ready(done) => Some(done),
        std::task::Poll::Pending => tokio::time::timeout(limit, work).await.ok(),
    }
}
