//! `wasi:http/outgoing-handler`, by which components that were not made for this gateway, and the HTTP
//! clients of many languages, send requests. It is another door to the same way: a request is collected
//! whole, sent as one of `egress.send` is, under the same grants and bounds, and counted with those; its
//! answer is read whole and then handed out as a stream. What the interface has no word for (which grant
//! is missing) goes among the call's log lines.

use std::sync::{Arc, Mutex};

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http_body_util::{BodyExt as _, Full, Limited};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::super::bindings::v0_1::wardgate::plugin::egress::{Answer, Outgoing};
use super::super::bindings::v0_1::wardgate::plugin::types::Failure;
use super::super::journal::lock;
use super::sending::{Sending, Way};

/// Bytes of a request's body that wait to be sent on, for each request that a plugin has open.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Most lines that the host writes of one call.
const NOTES_MAX: usize = 64;

/// What requests need of their call, which they may outlast.
pub(super) struct Door {
    way: Arc<Way>,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Door {
    pub(super) fn into_notes(self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.notes))
    }
}

type Response = http::Response<WasiBody>;

/// The end of the sending, of which nobody asks more than that it came.
type Sent = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl Sending {
    /// Whether requests can be sent through `wasi:http` already.
    pub(in super::super) fn is_open(&self) -> bool {
        self.door.is_some()
    }

    /// Lets requests be sent through `wasi:http`.
    pub(in super::super) fn open(&mut self, way: Way) {
        self.door = Some(Door { way: Arc::new(way), notes: Arc::default() });
    }
}

impl WasiHttpHooks for Sending {
    fn set_host_header(&mut self) -> bool {
        // It follows from the URL.
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response, Sent), Error>> + Send> {
        let taken = self.take_one();
        let door = self.door.as_ref();
        let door = door.map(|door| (Arc::clone(&door.way), Arc::clone(&door.notes)));
        Box::new(async move {
            let (way, notes) = door.ok_or(Error::ConfigurationError)?;
            let note = |line: String| {
                let mut notes = lock(&notes);
                if notes.len() < NOTES_MAX {
                    notes.push(line);
                }
            };
            let told = |failure: Failure| {
                note(format!("wasi:http: {}", failure.message));
                error_of(failure)
            };
            taken.map_err(told)?;
            // The call ends then, so whoever waits would be told nothing; but the task goes on until it
            // is dropped with the call.
            let outgoing = tokio::time::timeout_at(way.deadline.into(), collected(&way, request));
            let outgoing = outgoing.await.map_err(|_| Error::HttpResponseTimeout)?;
            let outgoing = outgoing.map_err(|uncollected| match uncollected {
                Uncollected::Body(error) => error,
                Uncollected::NoRoom(failure) => told(failure),
            })?;
            let went = way.send(outgoing, None).await;
            for refusal in went.counted {
                note(format!("Count egress: {refusal}"));
            }
            let response = response(went.answer.map_err(told)?)?;
            let sent: Sent = Box::new(async { Ok(()) });
            Ok((response, sent))
        })
    }
}

/// Why a request could not be collected.
enum Uncollected {
    /// Its body broke off or is too long, or something of it cannot be sent.
    Body(Error),
    /// There was no room for it.
    NoRoom(Failure),
}

impl From<Error> for Uncollected {
    fn from(error: Error) -> Self {
        Self::Body(error)
    }
}

/// The request as `egress.send` takes it. Its body is charged as it comes.
async fn collected(way: &Way, request: http::Request<WasiBody>) -> Result<Outgoing, Uncollected> {
    let (parts, body) = request.into_parts();
    let most = way.binding.granted.limits().output_bytes;
    let mut pieces = std::pin::pin!(Limited::new(body, most));
    let mut body = Vec::new();
    while let Some(piece) = pieces.frame().await {
        let too_long = |_| Error::HttpRequestBodySize(u64::try_from(most).ok());
        if let Ok(piece) = piece.map_err(too_long)?.into_data() {
            way.hold(piece.len()).map_err(Uncollected::NoRoom)?;
            body.extend_from_slice(&piece);
        }
    }
    let mut headers = Vec::with_capacity(parts.headers.len());
    for (name, value) in &parts.headers {
        // The length was held against the body, which is sent with its own.
        if name != CONTENT_LENGTH {
            let value = value.to_str().map_err(|_| Error::HttpProtocolError)?;
            headers.push((name.as_str().to_owned(), value.to_owned()));
        }
    }
    Ok(Outgoing {
        method: parts.method.as_str().to_owned(),
        url: parts.uri.to_string(),
        headers,
        body: (!body.is_empty()).then_some(body),
        timeout_ms: None,
        extra: None,
    })
}

/// An answer as a stream of one piece. One that was cut is an error: the interface cannot say that a body
/// is not all there was.
fn response(answer: Answer) -> Result<Response, Error> {
    if answer.truncated {
        return Err(Error::HttpResponseBodySize(u64::try_from(answer.body.len()).ok()));
    }
    let body = Full::new(bytes::Bytes::from(answer.body)).map_err(Error::from).boxed_unsync();
    let mut response = http::Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(answer.status).map_err(|_| Error::HttpProtocolError)?;
    for (name, value) in answer.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) else { continue };
        // They were about the connection, which the guest does not have.
        if ![CONNECTION, TRANSFER_ENCODING].contains(&name) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

fn error_of(failure: Failure) -> Error {
    match failure.code.as_str() {
        "forbidden" => Error::HttpRequestDenied,
        "rate-limited" => Error::ConnectionLimitReached,
        "timeout" => Error::HttpResponseTimeout,
        "invalid-input" => Error::HttpRequestUriInvalid,
        _ => Error::InternalError(Some(failure.message)),
    }
}
