//! A session with one server: lists its tools and calls them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientConfig, Implementation, JsonObject,
    PaginatedRequestParams, ProtocolVersion, RequestMetaObject,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _, RoleClient, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::SseRetryPolicy;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::Value;

use super::Connection;
use super::error::{McpError, own_words};
use super::http_client::Credentials;
use super::oauth::OauthTokens;
use super::result;
use crate::ids::McpServerName;
use crate::tool::Tool;
use crate::trace::redact::Redactor;

/// The field of a call's `_meta` with its idempotency key.
pub const IDEMPOTENCY_KEY_META: &str = "io.wardgate/idempotency-key";

/// The time limit for the first exchange with a server: two attempts, for a newer and an older revision.
const OPEN_TIME_MAX: Duration = Duration::from_secs(20);

/// The time limit of a list of tools, all its pages together.
const LIST_TIME_MAX: Duration = Duration::from_secs(15);

/// The most tools of a server that are offered to a model, and the most pages that are read for them.
const TOOLS_MAX: usize = 128;
const PAGES_MAX: usize = 20;

/// The most tools of a server that are looked at, and the most notes about those that are left out.
const LOOKED_AT_MAX: usize = 10_000;
const NOTES_MAX: usize = 8;

/// The most bytes of all tools of a server: each turn of a model sends them.
const TOOLS_BYTES_MAX: usize = 512 << 10;

/// The longest schema of a tool, and how much of its description is kept, in bytes.
const SCHEMA_BYTES_MAX: usize = 64 << 10;
const DESCRIPTION_BYTES_MAX: usize = 4 << 10;

/// The longest message of a server, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The most requests of a session at a time.
const REQUESTS_MAX: usize = 256;

/// A stream that breaks off is not resumed: the outcome of its call is unknown.
#[derive(Debug)]
struct NoRetry;

impl SseRetryPolicy for NoRetry {
    fn retry(&self, _: usize) -> Option<Duration> {
        None
    }
}

/// A session. Clones share it; it ends with the last one.
#[derive(Clone)]
pub struct McpSession(Arc<Session>);

struct Session {
    name: McpServerName,
    client: RunningService<RoleClient, ClientConfig>,
    redactor: SessionRedactor,
    call_time_max: Duration,
}

/// Replaces the secrets of a session in what its server sends.
#[derive(Clone)]
struct SessionRedactor {
    known: Redactor,
    tokens: Option<Arc<OauthTokens>>,
}

impl SessionRedactor {
    fn new(connection: &Connection) -> Self {
        let tokens = match &connection.credentials {
            Credentials::Oauth(tokens) => Some(Arc::clone(tokens)),
            Credentials::Headers(_) => None,
        };
        Self { known: connection.redactor.clone(), tokens }
    }

    fn text(&self, text: String) -> String {
        let text = self.known.text(text);
        match &self.tokens {
            Some(tokens) => tokens.redacted(text),
            None => text,
        }
    }
}

impl fmt::Debug for McpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("McpSession").field(&self.0.name).finish()
    }
}

/// The tools of a server, by its own names.
#[derive(Debug, Default)]
pub struct ListedTools {
    /// In the server's order. They count as changing data, whatever the server says.
    pub tools: Vec<Tool>,
    /// What is left out, one sentence each.
    pub notes: Vec<String>,
}

/// A list of tools while its pages arrive, within bounds.
struct Listing<'a> {
    allowed: Option<&'a [String]>,
    listed: ListedTools,
    looked_at: usize,
    /// Tools for which there is no room.
    left_out: usize,
    /// Tools that cannot be offered.
    wrong: usize,
    bytes_left: usize,
}

impl<'a> Listing<'a> {
    fn new(allowed: Option<&'a [String]>) -> Self {
        let (listed, bytes_left) = (ListedTools::default(), TOOLS_BYTES_MAX);
        Self { allowed, listed, looked_at: 0, left_out: 0, wrong: 0, bytes_left }
    }

    fn add(&mut self, tool: rmcp::model::Tool) {
        let is_allowed =
            self.allowed.is_none_or(|names| names.iter().any(|name| *name == tool.name));
        self.looked_at += 1;
        if !is_allowed {
            return;
        }
        if self.looked_at > LOOKED_AT_MAX || self.listed.tools.len() == TOOLS_MAX {
            self.left_out += 1;
            return;
        }
        match checked(tool) {
            Ok((_, bytes)) if bytes > self.bytes_left => self.left_out += 1,
            Ok((tool, bytes)) => {
                self.bytes_left -= bytes;
                self.listed.tools.push(tool);
            }
            Err(note) => {
                self.wrong += 1;
                if self.wrong <= NOTES_MAX {
                    self.listed.notes.push(note);
                }
            }
        }
    }

    /// The tools, with notes about those that are left out. `has_more` says whether there are further pages.
    fn finish(self, has_more: bool) -> ListedTools {
        let Self { allowed, mut listed, left_out, wrong, .. } = self;
        if wrong > NOTES_MAX {
            let more = wrong - NOTES_MAX;
            listed.notes.push(format!("{more} more tools are left out likewise"));
        }
        let is_cut = left_out > 0 || has_more;
        if is_cut {
            listed.notes.push(format!(
                "it has more tools than are offered ({TOOLS_MAX}, {} KiB); allowed_tools can name others",
                TOOLS_BYTES_MAX >> 10
            ));
        }
        let is_missing = |name: &&String| !listed.tools.iter().any(|tool| tool.name == **name);
        let missing = allowed.into_iter().flatten().filter(is_missing).take(NOTES_MAX);
        let missing: Vec<_> = missing.map(|name| own_words(name)).collect();
        if !missing.is_empty() && !is_cut {
            listed.notes.push(format!("it has no tool {}", missing.join(", ")));
        }
        listed
    }
}

impl McpSession {
    /// Opens a session: with the newest revision if the server has it, else with an older one.
    ///
    /// # Errors
    /// [`McpError`] if the server cannot be reached, or does not speak the protocol.
    pub(super) async fn open(connection: &Connection) -> Result<Self, McpError> {
        let mut config = StreamableHttpClientTransportConfig::with_uri(connection.url.as_str());
        config.max_json_response_size = MESSAGE_BYTES_MAX;
        config.max_sse_event_size = MESSAGE_BYTES_MAX;
        config.max_concurrent_requests = REQUESTS_MAX;
        config.retry_config = Arc::new(NoRetry);
        let transport = StreamableHttpClientTransport::with_client(connection.client()?, config);
        let redactor = SessionRedactor::new(connection);
        let own = Implementation::new("wardgate", env!("CARGO_PKG_VERSION"));
        let lifecycle = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        };
        let opening =
            ClientConfig::new(Default::default(), own).serve_with_lifecycle(transport, lifecycle);
        let client = tokio::time::timeout(OPEN_TIME_MAX, opening)
            .await
            .map_err(|_| McpError::TooSlow(OPEN_TIME_MAX.as_secs()))?
            .map_err(McpError::from)
            .map_err(|error| error.redacted(&redactor))?;
        Ok(Self(Arc::new(Session {
            name: connection.name.clone(),
            client,
            redactor,
            call_time_max: connection.call_time_max,
        })))
    }

    /// Whether it can still be used.
    pub(super) fn is_open(&self) -> bool {
        !self.0.client.is_closed() && !self.0.client.peer().is_transport_closed()
    }

    /// Lists the server's tools, or those of these names. The list may come from a cache, for as long as the server
    /// allows.
    ///
    /// # Errors
    /// [`McpError`] if the server does not return a valid list in time.
    pub async fn tools(&self, allowed: Option<&[String]>) -> Result<ListedTools, McpError> {
        let listing = tokio::time::timeout(LIST_TIME_MAX, self.list(allowed)).await;
        let listed = listing.unwrap_or(Err(McpError::TooSlow(LIST_TIME_MAX.as_secs())));
        listed.map_err(|error| error.redacted(&self.0.redactor))
    }

    async fn list(&self, allowed: Option<&[String]>) -> Result<ListedTools, McpError> {
        let (mut listing, mut cursor) = (Listing::new(allowed), None);
        for _ in 0..PAGES_MAX {
            let page = PaginatedRequestParams::default().with_cursor(cursor.take());
            let page = self.0.client.peer().list_tools(Some(page)).await?;
            cursor = page.next_cursor.filter(|cursor| !cursor.is_empty());
            page.tools.into_iter().for_each(|tool| listing.add(tool));
            if cursor.is_none() || listing.looked_at >= LOOKED_AT_MAX {
                break;
            }
        }
        Ok(listing.finish(cursor.is_some()))
    }

    /// Calls a tool with this JSON object. Returns its result as text, and whether that is an error.
    ///
    /// # Errors
    /// Why there is no result. The server may have carried out the call.
    pub async fn call(
        &self,
        tool: &str,
        arguments: &str,
        idempotency_key: &str,
    ) -> Result<(String, bool), McpError> {
        let call = self.request(tool, arguments, idempotency_key);
        let called = tokio::time::timeout(self.0.call_time_max, call).await;
        let called = called.unwrap_or(Err(McpError::TooSlow(self.0.call_time_max.as_secs())));
        match called {
            Ok((text, is_error)) => Ok((self.0.redactor.text(text), is_error)),
            Err(error) => Err(error.redacted(&self.0.redactor)),
        }
    }

    async fn request(
        &self,
        tool: &str,
        arguments: &str,
        idempotency_key: &str,
    ) -> Result<(String, bool), McpError> {
        let mut meta = JsonObject::new();
        meta.insert(IDEMPOTENCY_KEY_META.to_owned(), idempotency_key.into());
        let arguments: JsonObject = match serde_json::from_str(arguments) {
            Ok(arguments) => arguments,
            Err(_) => return Err(McpError::Refused("the arguments are not an object".to_owned())),
        };
        let mut params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        params.meta = Some(RequestMetaObject::from(meta));
        match self.0.client.peer().call_tool_once(params).await? {
            CallToolResponse::Complete(complete) => {
                let is_error = complete.is_error == Some(true);
                Ok((result::text(complete), is_error))
            }
            CallToolResponse::InputRequired(_) => Err(McpError::Unsupported(
                "it asks a person for more input, which a run cannot give",
            )),
            _ => Err(McpError::Unsupported(
                "it answers with a task, which this gateway did not ask for",
            )),
        }
    }
}

impl McpError {
    /// The same error without secrets: a server may repeat what it was sent.
    fn redacted(self, redactor: &SessionRedactor) -> Self {
        match self {
            Self::Protocol(text) => Self::Protocol(redactor.text(text)),
            Self::Refused(text) => Self::Refused(redactor.text(text)),
            Self::Revision(text) => Self::Revision(redactor.text(text)),
            Self::Unreachable(text) => Self::Unreachable(redactor.text(text)),
            error => error,
        }
    }
}

/// A tool as the server lists it with its bytes, or why it is left out.
fn checked(listed: rmcp::model::Tool) -> Result<(Tool, usize), String> {
    let name = listed.name.into_owned();
    let shown = own_words(&name);
    if name.is_empty() || name.len() > 128 {
        return Err(format!("the tool {shown:?} is left out: its name has 1 to 128 bytes"));
    }
    let mut description = listed.description.map(|text| text.into_owned()).unwrap_or_default();
    description.truncate(description.floor_char_boundary(DESCRIPTION_BYTES_MAX));
    let input_schema = Value::Object((*listed.input_schema).clone());
    let output_schema = listed.output_schema.map(|schema| Value::Object((*schema).clone()));
    let length = |schema: &Value| schema.to_string().len();
    let lengths = [length(&input_schema), output_schema.as_ref().map_or(0, length)];
    if lengths.iter().any(|length| *length > SCHEMA_BYTES_MAX) {
        return Err(format!(
            "the tool {shown:?} is left out: its schema is longer than {SCHEMA_BYTES_MAX} bytes"
        ));
    }
    let bytes = name.len() + description.len() + lengths.iter().sum::<usize>();
    let tool = Tool {
        name,
        description,
        input_schema,
        output_schema,
        destructive: true,
        idempotent: false,
    };
    Ok((tool, bytes))
}
