//! What goes wrong with an MCP server, in the words of those who can mend it.

use std::error::Error;

use rmcp::ServiceError;
use rmcp::model::ErrorData;
use rmcp::service::ClientInitializeError;
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, InsufficientScopeError, StreamableHttpError,
};

use crate::store::StoreError;

/// How much of a server's own words is repeated, in characters.
const OWN_WORDS_MAX: usize = 300;

/// Why a server's tools, or one of its answers, cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum McpError {
    /// The tenant has no such server.
    #[error("the tenant has no MCP server of this name (`wardgate mcp apply`)")]
    Missing,
    /// Its definition, a secret of it or a token cannot be used.
    #[error("{0}")]
    Definition(String),
    /// It cannot be connected to.
    #[error("it cannot be connected to: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("it did not answer within {0} seconds")]
    TooSlow(u64),
    /// It wants credentials, or other ones.
    #[error(
        "it wants a token (HTTP {0}): a request may send one (user_tokens, with the server's name), or its definition \
         has none that it accepts (auth)"
    )]
    Unauthorized(u16),
    /// Its authorization server grants no token.
    #[error("its authorization server grants no token: {0}")]
    Authorization(String),
    /// It answers with this HTTP status.
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    /// It speaks other revisions of the protocol.
    #[error("it speaks no revision of MCP that this gateway does: it has {0}")]
    Revision(String),
    /// It does not speak the protocol.
    #[error("it does not answer as an MCP server does: {0}")]
    Protocol(String),
    /// It refuses what was asked for.
    #[error("it refuses: {0}")]
    Refused(String),
    /// It wants something that a run cannot give it.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The gateway's store failed.
    #[error("the gateway's store cannot be read")]
    Store,
}

impl From<StoreError> for McpError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the MCP servers of a tenant cannot be read");
        Self::Store
    }
}

impl From<ClientInitializeError> for McpError {
    fn from(error: ClientInitializeError) -> Self {
        match error {
            ClientInitializeError::TransportError { error, .. } => of_transport(&*error.error),
            ClientInitializeError::NoCompatibleProtocolVersion { server_supported, .. } => {
                let versions: Vec<_> =
                    server_supported.iter().take(8).map(ToString::to_string).collect();
                Self::Revision(own_words(&versions.join(", ")))
            }
            ClientInitializeError::LegacyFallbackFailed { fallback, .. } => (*fallback).into(),
            ClientInitializeError::JsonRpcError(error) => error.into(),
            ClientInitializeError::ConnectionClosed(_) => {
                Self::Protocol("it ended the connection".to_owned())
            }
            _ => Self::Protocol("its first answer has another form".to_owned()),
        }
    }
}

impl From<ServiceError> for McpError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::McpError(error) => error.into(),
            ServiceError::TransportSend(error) => of_transport(&*error.error),
            ServiceError::TransportClosed => Self::Unreachable("the connection ended".to_owned()),
            ServiceError::Timeout { timeout } => Self::TooSlow(timeout.as_secs()),
            _ => Self::Protocol("its answer has another form".to_owned()),
        }
    }
}

impl From<ErrorData> for McpError {
    fn from(error: ErrorData) -> Self {
        Self::Refused(format!("{} ({})", own_words(&error.message), error.code.0))
    }
}

/// What a transport says, found in the chain of its causes.
fn of_transport(error: &(dyn Error + 'static)) -> McpError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<AuthRequiredError>() {
            return McpError::Unauthorized(401);
        }
        if error.is::<InsufficientScopeError>() {
            return McpError::Unauthorized(403);
        }
        if let Some(error) = error.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
            match error {
                StreamableHttpError::Client(error) => return of_http(error),
                // What the client below the library says itself.
                StreamableHttpError::Io(error) => {
                    let own = error.get_ref().and_then(|own| own.downcast_ref::<McpError>());
                    return own.cloned().unwrap_or_else(broken_off);
                }
                StreamableHttpError::HttpStatus(error) => return McpError::Status(error.status),
                StreamableHttpError::UnexpectedServerResponse(text) => {
                    return of_unexpected(text);
                }
                StreamableHttpError::UnexpectedContentType(kind) => {
                    let kind = own_words(kind.as_deref().unwrap_or("none"));
                    return McpError::Protocol(format!("its content type is {kind}"));
                }
                StreamableHttpError::ResponseBodyTooLarge { max_size } => {
                    return McpError::Protocol(format!(
                        "its answer is longer than {max_size} bytes"
                    ));
                }
                StreamableHttpError::Deserialize(_) => {
                    return McpError::Protocol("its answer is not a message".to_owned());
                }
                StreamableHttpError::TransportChannelClosed
                | StreamableHttpError::UnexpectedEndOfStream => {
                    return McpError::Unreachable("the connection ended".to_owned());
                }
                _ => {}
            }
        }
        cause = error.source();
    }
    broken_off()
}

fn broken_off() -> McpError {
    McpError::Unreachable("the connection broke off".to_owned())
}

/// Without the URL, whose query may contain a key.
fn of_http(error: &reqwest::Error) -> McpError {
    if let Some(status) = error.status() {
        return McpError::Status(status.as_u16());
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<crate::outbound::NotPublic>() {
            return McpError::Unreachable(error.to_string());
        }
        cause = error.source();
    }
    let why = if error.is_timeout() {
        "it does not take the connection in time"
    } else if error.is_connect() {
        "the connection is refused, or its name is unknown"
    } else {
        "the connection broke off"
    };
    McpError::Unreachable(why.to_owned())
}

/// The library's words for an HTTP status begin with it.
fn of_unexpected(text: &str) -> McpError {
    let status = text.strip_prefix("HTTP ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    match status {
        Some(status @ (401 | 403)) => McpError::Unauthorized(status),
        Some(status) => McpError::Status(status),
        None => McpError::Protocol(own_words(text)),
    }
}

/// A server's own words: short, and on one line.
pub(super) fn own_words(text: &str) -> String {
    let line = text.chars().take(OWN_WORDS_MAX);
    line.map(|char| if char.is_control() { ' ' } else { char }).collect()
}
