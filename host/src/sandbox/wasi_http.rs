//! `wasi:http/outgoing-handler`, which components not made for this gateway and the HTTP clients of many languages
//! use to send requests. A request is buffered whole and sent like one of `egress.send`: under the same grants and
//! bounds, and counted with those. The response is read whole and then streamed to the guest. What the interface has
//! no error for (which grant is missing) goes to the call's log.

use std::sync::{Arc, Mutex};

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http_body_util::{BodyExt as _, Full, Limited};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::egress::{EgressBudget, EgressContext};
use super::recording::lock;
use crate::outbound::{OutboundError, OutboundRequest, OutboundResponse};

/// Largest chunk of a request's body, in bytes: what waits to be sent for each open request of a plugin.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Maximum number of log lines that this interface writes for one call.
const NOTES_MAX: usize = 64;

/// The state of `wasi:http` in a call.
pub(in crate::sandbox) struct WasiHttpState {
    /// How many requests the call may still send, through either interface.
    pub(in crate::sandbox) budget: EgressBudget,
    /// What requests need of their call, which they may outlive. Created when the guest first uses the interface.
    open: Option<Open>,
}

struct Open {
    context: Arc<EgressContext>,
    notes: Arc<Mutex<Vec<String>>>,
}

type Response = http::Response<WasiBody>;

/// Completes when the request has been sent. Only its completion matters.
type Sent = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpState {
    pub(in crate::sandbox) fn new(budget: EgressBudget) -> Self {
        Self { budget, open: None }
    }

    /// Whether the context for sending exists.
    pub(in crate::sandbox) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Enables sending with this context.
    pub(in crate::sandbox) fn open(&mut self, context: EgressContext) {
        self.open = Some(Open { context: Arc::new(context), notes: Arc::default() });
    }

    /// Takes the log lines that the host wrote while sending.
    pub(in crate::sandbox) fn take_notes(&mut self) -> Vec<String> {
        self.open.take().map(|open| std::mem::take(&mut *lock(&open.notes))).unwrap_or_default()
    }
}

impl WasiHttpHooks for WasiHttpState {
    fn set_host_header(&mut self) -> bool {
        // The host header follows from the URL.
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
        let taken = self.budget.take_one();
        let open = self.open.as_ref();
        let open = open.map(|open| (Arc::clone(&open.context), Arc::clone(&open.notes)));
        Box::new(async move {
            let (context, notes) = open.ok_or(Error::ConfigurationError)?;
            let note = |line: String| {
                let mut notes = lock(&notes);
                if notes.len() < NOTES_MAX {
                    notes.push(line);
                }
            };
            let noted = |failure: OutboundError| {
                note(format!("wasi:http: {}", failure.message));
                error_of(failure)
            };
            taken.map_err(noted)?;
            // The call ends at its deadline, so the guest never receives this error. The timeout is for the task,
            // which would otherwise go on until it is dropped with the call.
            let outgoing =
                tokio::time::timeout_at(context.deadline.into(), buffer_request(&context, request));
            let outgoing = outgoing.await.map_err(|_| Error::HttpResponseTimeout)?;
            let outgoing = outgoing.map_err(|error| match error {
                BufferError::Body(error) => error,
                BufferError::NoMemory(failure) => noted(failure),
            })?;
            let outcome = context.send(outgoing, None).await;
            for refusal in outcome.counted {
                note(format!("Count egress: {refusal}"));
            }
            let response = response(outcome.answer.map_err(noted)?)?;
            let sent: Sent = Box::new(async { Ok(()) });
            Ok((response, sent))
        })
    }
}

/// Why a request could not be buffered.
enum BufferError {
    /// The body broke off or is too long, or part of the request cannot be sent.
    Body(Error),
    /// There is no memory left for it.
    NoMemory(OutboundError),
}

impl From<Error> for BufferError {
    fn from(error: Error) -> Self {
        Self::Body(error)
    }
}

/// Buffers a request in the form that `egress.send` takes. The body is charged as it arrives.
async fn buffer_request(
    context: &EgressContext,
    request: http::Request<WasiBody>,
) -> Result<OutboundRequest, BufferError> {
    let (parts, body) = request.into_parts();
    let bytes_max = context.binding.granted.limits().output_bytes;
    let mut chunks = std::pin::pin!(Limited::new(body, bytes_max));
    let mut body = Vec::new();
    while let Some(chunk) = chunks.frame().await {
        let too_long = |_| Error::HttpRequestBodySize(u64::try_from(bytes_max).ok());
        if let Ok(chunk) = chunk.map_err(too_long)?.into_data() {
            context.reserve_memory(chunk.len()).map_err(BufferError::NoMemory)?;
            body.extend_from_slice(&chunk);
        }
    }
    let mut headers = Vec::with_capacity(parts.headers.len());
    for (name, value) in &parts.headers {
        // The length has been checked against the body; the request that is sent sets its own.
        if name != CONTENT_LENGTH {
            let value = value.to_str().map_err(|_| Error::HttpProtocolError)?;
            headers.push((name.as_str().to_owned(), value.to_owned()));
        }
    }
    Ok(OutboundRequest {
        method: parts.method.as_str().to_owned(),
        url: parts.uri.to_string(),
        headers,
        body: (!body.is_empty()).then_some(body),
        timeout: None,
    })
}

/// The response as a stream of one chunk. A truncated one is an error, since the interface cannot mark a body as
/// incomplete.
fn response(answer: OutboundResponse) -> Result<Response, Error> {
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
        // These headers describe the connection, which the guest does not see.
        if ![CONNECTION, TRANSFER_ENCODING].contains(&name) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

fn error_of(failure: OutboundError) -> Error {
    match failure.code.as_str() {
        "forbidden" => Error::HttpRequestDenied,
        "rate-limited" => Error::ConnectionLimitReached,
        "timeout" => Error::HttpResponseTimeout,
        "invalid-input" => Error::HttpRequestUriInvalid,
        _ => Error::InternalError(Some(failure.message)),
    }
}
