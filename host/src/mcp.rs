//! MCP servers whose tools agents may call: streamable HTTP, the revisions of 2025 and of 2026-07-28.
//!
//! What a server sends is foreign: bounded in size, count and time before it is used, and what it says about its own
//! tools (annotations) is not believed. A server that fails costs its own tools only.

mod error;
mod http_client;
mod oauth;
mod result;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::ids::{McpServerName, SecretName, TenantId};
use crate::outbound::check_admins_address;
use crate::secrets::UserToken;
use crate::store::{Store, StoreError, TenantCache};
use crate::tenants::{Installer, McpServerDefinition, TenantMcpServer};
use crate::trace::redact::Redactor;
use crate::vault::{SealedSecrets, Vault};
pub use error::McpError;
use http_client::{Credentials, McpHttpClient};
use oauth::OauthTokens;
pub use session::{IDEMPOTENCY_KEY_META, ListedTools, McpSession};

/// How long a server that could not be connected to is not tried again.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// The time limit of a call if its definition has none.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// Headers that are the protocol's or the connection's own.
const RESERVED_HEADERS: [&str; 9] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "transfer-encoding",
];

/// The MCP servers of all tenants. Clones share their connections.
#[derive(Debug, Clone)]
pub struct McpServers {
    store: Store,
    vault: Vault,
    ready: TenantCache<TenantServers>,
}

/// The servers of one tenant, by name. Those that cannot be used have a reason in their place.
type TenantServers = BTreeMap<McpServerName, Result<Arc<Server>, String>>;

/// A server that can be connected to.
#[derive(Debug)]
struct Server {
    source: ServerSource,
    connection: Connection,
    /// The session that all runs share which have no token of a user.
    session: tokio::sync::Mutex<SharedSession>,
}

/// What a server was made from. While it is the same, its session stays.
#[derive(Debug, PartialEq, Eq)]
struct ServerSource {
    definition: McpServerDefinition,
    set_by: Installer,
    secrets_changed_at: Vec<(SecretName, Timestamp)>,
}

#[derive(Debug, Default)]
enum SharedSession {
    #[default]
    None,
    Open(McpSession),
    Failed(Instant, McpError),
}

/// What is needed to connect to a server.
#[derive(Debug, Clone)]
struct Connection {
    name: McpServerName,
    url: url::Url,
    set_by: Installer,
    /// What it is called with.
    credentials: Credentials,
    /// Replaces the secrets among them.
    redactor: Redactor,
    call_time_max: Duration,
}

impl McpServers {
    /// The servers of all tenants of this store.
    #[must_use]
    pub fn new(store: Store, vault: Vault) -> Self {
        let ready = TenantCache::new(store.changes());
        Self { store, vault, ready }
    }

    /// A session with a tenant's server. With a token of a user it is a session of its own, which ends when it is
    /// dropped; without one it is shared.
    ///
    /// # Errors
    /// [`McpError`] if the server is unknown, misconfigured or cannot be used.
    pub async fn session(
        &self,
        tenant: TenantId,
        name: &McpServerName,
        token: Option<&UserToken>,
    ) -> Result<McpSession, McpError> {
        let servers = self.of(tenant).await?;
        let server = match servers.get(name) {
            Some(Ok(server)) => server,
            Some(Err(why)) => return Err(McpError::Definition(why.clone())),
            None => return Err(McpError::Missing),
        };
        match token {
            Some(token) => McpSession::open(&server.connection.with_token(token)?).await,
            None => server.shared_session().await,
        }
    }

    async fn of(&self, tenant: TenantId) -> Result<Arc<TenantServers>, StoreError> {
        let making = async |known: Option<Arc<TenantServers>>| {
            let known = known.unwrap_or_default();
            let stored = self.store.mcp_servers(tenant).await?;
            let secrets = self.vault.sealed(tenant).await?;
            let servers = stored.into_iter().map(|server| {
                let owner = (tenant, &self.vault);
                (server.name.clone(), Server::make(owner, server, &secrets, &known))
            });
            Ok(servers.collect())
        };
        self.ready.get_or_make(tenant, making).await
    }
}

impl Server {
    /// A server, or why it cannot be used.
    fn make(
        (tenant, vault): (TenantId, &Vault),
        server: TenantMcpServer,
        secrets: &SealedSecrets,
        known: &TenantServers,
    ) -> Result<Arc<Self>, String> {
        let TenantMcpServer { name, definition, set_by, .. } = server;
        let mut secrets_changed_at = Vec::new();
        let oauth = definition.auth.oauth_client();
        let refresh_token = oauth.as_ref().and_then(|client| client.refresh_token.as_ref());
        let client_secret = oauth.as_ref().map(|client| &client.client_secret);
        let in_headers = definition.auth.headers().map(|(_, secret, _)| secret);
        for secret in in_headers.chain(client_secret).chain(refresh_token) {
            let facts = secrets.facts(secret).ok_or_else(|| {
                format!("the tenant has no secret {secret} (`wardgate secret set {secret}`)")
            })?;
            facts.check_sending(set_by)?;
            // A refresh token is read when it is used, and replaced then.
            if refresh_token != Some(secret) {
                secrets_changed_at.push((secret.clone(), facts.updated_at));
            }
        }
        let source = ServerSource { definition, set_by, secrets_changed_at };
        if let Some(Ok(same)) = known
            .get(&name)
            .filter(|known| known.as_ref().is_ok_and(|known| known.source == source))
        {
            return Ok(Arc::clone(same));
        }
        let (mut headers, mut redactor) = (HeaderMap::new(), Redactor::default());
        for (header, secret, prefix) in source.definition.auth.headers() {
            let value = secrets.text(secret)?;
            redactor.add(&value);
            let value = Zeroizing::new(format!("{prefix}{}", value.as_str()));
            let (header, value) = checked_header(header, &value)
                .map_err(|why| format!("the secret {secret}: {why}"))?;
            headers.insert(header, value);
        }
        let url = &source.definition.url;
        let credentials = match oauth {
            Some(client) => {
                let secret = secrets.text(&client.client_secret)?;
                redactor.add(&secret);
                let owner = (tenant, set_by);
                let tokens = OauthTokens::new(vault.clone(), owner, client, secret, url);
                Credentials::Oauth(Arc::new(tokens))
            }
            None => Credentials::Headers(headers),
        };
        let seconds_max = source.definition.seconds_max.map(|max| Duration::from_secs(max.into()));
        let connection = Connection {
            name,
            url: source.definition.url.clone(),
            set_by,
            credentials,
            redactor,
            call_time_max: seconds_max.unwrap_or(CALL_TIME_MAX),
        };
        Ok(Arc::new(Self { source, connection, session: tokio::sync::Mutex::default() }))
    }

    async fn shared_session(&self) -> Result<McpSession, McpError> {
        // Held while a session is opened: others that come meanwhile share it, or its failure.
        let mut shared = self.session.lock().await;
        match &*shared {
            SharedSession::Open(session) if session.is_open() => return Ok(session.clone()),
            SharedSession::Failed(at, error) if at.elapsed() < FAILURE_PAUSE => {
                return Err(error.clone());
            }
            _ => {}
        }
        let opened = McpSession::open(&self.connection).await;
        *shared = match &opened {
            Ok(session) => SharedSession::Open(session.clone()),
            Err(error) => SharedSession::Failed(Instant::now(), error.clone()),
        };
        opened
    }
}

impl Connection {
    /// The same connection with a token of a user, which replaces what the definition has (CONTRACT X8).
    fn with_token(&self, token: &UserToken) -> Result<Self, McpError> {
        let (mut headers, mut redactor) = (HeaderMap::new(), self.redactor.clone());
        let wrong = |why| McpError::Definition(format!("a token of the user: {why}"));
        match token {
            UserToken::Bearer(token) => {
                redactor.add(token);
                let value = Zeroizing::new(format!("Bearer {}", token.as_str()));
                let (name, value) = checked_header("authorization", &value).map_err(wrong)?;
                headers.insert(name, value);
            }
            UserToken::Headers(own) => {
                for (name, value) in own {
                    redactor.add(value);
                    let (name, value) = checked_header(name, value).map_err(wrong)?;
                    headers.insert(name, value);
                }
            }
        }
        Ok(Self { credentials: Credentials::Headers(headers), redactor, ..self.clone() })
    }

    fn client(&self) -> Result<McpHttpClient, McpError> {
        McpHttpClient::new(&self.url, self.set_by, self.credentials.clone())
    }
}

/// A header as it can be sent.
fn checked_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::try_from(name).map_err(|_| "its header has no valid name".to_owned())?;
    if RESERVED_HEADERS.contains(&name.as_str()) {
        return Err(format!("the header {name} belongs to the protocol"));
    }
    let value = HeaderValue::try_from(value);
    let mut value = value.map_err(|_| format!("its value cannot be sent in the header {name}"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// Checks the definition of a server that is about to be set.
///
/// # Errors
/// What is wrong with it, in one sentence.
pub fn check_definition(definition: &McpServerDefinition, by: Installer) -> Result<(), String> {
    check_address("url", &definition.url, by)?;
    if let Some(client) = definition.auth.oauth_client() {
        check_address("token_url", &client.token_url, by)?;
        let resource = client.resource.as_deref().unwrap_or_default();
        let scope = client.scope.as_deref().unwrap_or_default();
        if [&*client.client_id, scope, resource].iter().any(|text| text.len() > 1024) {
            return Err("client_id, scope or resource is longer than 1,024 bytes".to_owned());
        }
    }
    if definition.seconds_max.is_some_and(|seconds| !(1..=3600).contains(&seconds)) {
        return Err("seconds_max can be 1 to 3,600".to_owned());
    }
    for (header, secret, _) in definition.auth.headers() {
        checked_header(header, "x").map_err(|why| format!("auth, {secret}: {why}"))?;
    }
    Ok(())
}

/// Checks an address of a definition.
fn check_address(field: &str, url: &url::Url, by: Installer) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("{field} is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(
            "url has a user name, a password or a fragment; keys belong into secrets (auth)"
                .to_owned(),
        );
    }
    if url.as_str().len() > 2048 {
        return Err(format!("{field} is longer than 2,048 bytes"));
    }
    match by {
        Installer::Operator => Ok(()),
        Installer::Admin => check_admins_address(field, url),
    }
}
