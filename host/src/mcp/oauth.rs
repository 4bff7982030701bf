//! Access tokens for an MCP server (OAuth 2.1): by client credentials, or by a refresh token, which its server may rotate.
//! Every request names the resource (RFC 8707), so that the token is good for this server alone.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::error::McpError;
use super::http_client::vetted_client;
use crate::ids::{SecretName, TenantId};
use crate::tenants::{Installer, OauthClient};
use crate::trace::redact::Redactor;
use crate::vault::{NewSecret, Vault};

/// The time limit of a request for a token.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);

/// The longest answer of an authorization server, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How long before its end a token is replaced, so that it does not end on its way.
const EARLY: Duration = Duration::from_secs(30);

/// How long a token is used whose server does not say when it ends.
const LIFETIME: Duration = Duration::from_secs(300);

/// How many of the newest tokens are redacted in what the server sends.
const REDACTED_MAX: usize = 4;

/// The access tokens of one server. Its sessions share them.
pub(super) struct OauthTokens {
    vault: Vault,
    tenant: TenantId,
    set_by: Installer,
    client: OauthClient,
    client_secret: Zeroizing<String>,
    /// The server that the tokens are for.
    resource: String,
    /// Held while a token is requested, so that callers that need one at the same time cause one request.
    current: Mutex<Option<AccessToken>>,
    redacted: std::sync::Mutex<Vec<Zeroizing<String>>>,
}

impl fmt::Debug for OauthTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OauthTokens").field("resource", &self.resource).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct AccessToken {
    value: Zeroizing<String>,
    until: Instant,
}

/// A successful answer (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

/// An answer that refuses (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct Denied {
    error: String,
}

impl OauthTokens {
    /// The tokens for the server at this URL.
    pub(super) fn new(
        vault: Vault,
        (tenant, set_by): (TenantId, Installer),
        client: OauthClient,
        client_secret: Zeroizing<String>,
        url: &url::Url,
    ) -> Self {
        let resource = client.resource.clone().unwrap_or_else(|| canonical(url));
        let (current, redacted) = (Mutex::default(), std::sync::Mutex::default());
        Self { vault, tenant, set_by, client, client_secret, resource, current, redacted }
    }

    /// A token that has not ended. `refused` is one that the server has just refused: it is replaced, unless that has
    /// been done meanwhile.
    pub(super) async fn token(&self, refused: Option<&str>) -> Result<Zeroizing<String>, McpError> {
        let mut current = self.current.lock().await;
        let usable = current
            .as_ref()
            .filter(|token| token.until > Instant::now() && refused != Some(token.value.as_str()));
        if let Some(token) = usable {
            return Ok(token.value.clone());
        }
        *current = None;
        let token = self.request().await?;
        self.redact(&token.value);
        Ok(current.insert(token).value.clone())
    }

    /// Replaces the newest tokens in a text of the server.
    pub(super) fn redacted(&self, text: String) -> String {
        let mut redactor = Redactor::default();
        let known = self.redacted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.iter().for_each(|token| redactor.add(token));
        redactor.text(text)
    }

    fn redact(&self, token: &Zeroizing<String>) {
        let mut known = self.redacted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.insert(0, token.clone());
        known.truncate(REDACTED_MAX);
    }

    async fn request(&self) -> Result<AccessToken, McpError> {
        let requesting = tokio::time::timeout(REQUEST_TIME_MAX, self.exchange());
        let granted =
            requesting.await.unwrap_or_else(|_| Err(failed("it does not answer in time")))?;
        if !granted.token_type.eq_ignore_ascii_case("bearer") || granted.access_token.is_empty() {
            return Err(failed("it grants a token of another type than Bearer"));
        }
        if let (Some(name), Some(next)) = (&self.client.refresh_token, granted.refresh_token) {
            self.store_refresh_token(name, next).await?;
        }
        let lifetime = granted.expires_in.map_or(LIFETIME, Duration::from_secs);
        // A token that ends sooner than that is used for a moment at least.
        let lifetime =
            lifetime.saturating_sub(EARLY).clamp(Duration::from_secs(1), Duration::from_hours(24));
        let value = Zeroizing::new(granted.access_token);
        Ok(AccessToken { value, until: Instant::now() + lifetime })
    }

    async fn exchange(&self) -> Result<Granted, McpError> {
        let http = vetted_client(&self.client.token_url, self.set_by)?;
        let refresh_token = match &self.client.refresh_token {
            None => None,
            Some(name) => Some(self.refresh_token(name).await?),
        };
        let body = self.form(refresh_token.as_ref().map(|token| token.as_str()));
        // The id and the secret are form-encoded for this header (RFC 6749, section 2.3.1).
        let encoded =
            |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let request = http
            .post(self.client.token_url.clone())
            .basic_auth(encoded(&self.client.client_id), Some(encoded(&self.client_secret)))
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(http::header::ACCEPT, "application/json")
            .body(body.as_str().to_owned());
        let mut response = request.send().await.map_err(|_| failed("it cannot be connected to"))?;
        let status = response.status();
        let mut answer = Zeroizing::new(Vec::new());
        while let Some(chunk) =
            response.chunk().await.map_err(|_| failed("its answer broke off"))?
        {
            if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(failed("its answer is longer than 64 KiB"));
            }
            answer.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|_| failed("its answer is not a token"));
        }
        // Nothing else of the answer is repeated, which may contain what was sent.
        let is_code = |code: &String| {
            code.len() <= 64 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        let denied: Option<Denied> = serde_json::from_slice(&answer).ok();
        let code = denied.map(|denied| denied.error).filter(is_code);
        let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
        Err(failed(&format!("it answers with HTTP status {}{code}", status.as_u16())))
    }

    /// The body of a request for a token.
    fn form(&self, refresh_token: Option<&str>) -> Zeroizing<String> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        match refresh_token {
            None => form.append_pair("grant_type", "client_credentials"),
            Some(token) => {
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token)
            }
        };
        form.append_pair("resource", &self.resource);
        if let Some(scope) = &self.client.scope {
            form.append_pair("scope", scope);
        }
        Zeroizing::new(form.finish())
    }

    /// The refresh token as it is now: another process may have been given a new one.
    async fn refresh_token(&self, name: &SecretName) -> Result<Zeroizing<String>, McpError> {
        let broken = |error: &dyn fmt::Display| McpError::Definition(error.to_string());
        let opened = self.vault.open(self.tenant, [name]).await.map_err(|error| broken(&error))?;
        let secret = opened.secrets.get(name);
        let missing = || McpError::Definition(format!("the tenant has no secret {name}"));
        let value = secret.and_then(|secret| secret.versions.newest()).ok_or_else(missing)?;
        let text = std::str::from_utf8(value);
        let text = text.map_err(|_| broken(&format_args!("the secret {name} is not UTF-8")))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Keeps the refresh token that takes the place of the one that was used, which may be good no longer.
    async fn store_refresh_token(&self, name: &SecretName, next: String) -> Result<(), McpError> {
        let value = Zeroizing::new(next.into_bytes());
        let new = NewSecret { value, rotate: false, uses: None, by: self.set_by };
        self.vault.put(self.tenant, name, new).await.map_err(|error| {
            tracing::error!(secret = %name, %error, "a new refresh token cannot be stored");
            McpError::Definition(format!("the new refresh token cannot be stored: {error}"))
        })
    }
}

fn failed(why: &str) -> McpError {
    McpError::Authorization(why.to_owned())
}

/// The canonical URI of a server (MCP, authorization, "Resource Parameter Implementation").
fn canonical(url: &url::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}
