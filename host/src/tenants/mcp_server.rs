//! MCP servers whose tools a tenant's agents may call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::Url;

use super::Defined;
use crate::ids::{McpServerName, SecretName};

/// An MCP server as its owner defines it: the content of an MCP server file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct McpServerDefinition {
    /// Where it takes messages (streamable HTTP), as in `https://mcp.example.com/mcp`. A server that a tenant's admin sets
    /// has HTTPS and a public address.
    #[schema(value_type = String)]
    pub url: Url,
    /// What it is called with. `none` if omitted. Tokens of a request's user (`user_tokens`) replace it.
    #[serde(default)]
    pub auth: McpAuth,
    /// The time limit of one call of a tool, in seconds. 60 if omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3600)]
    pub seconds_max: Option<u32>,
}

/// What an MCP server is called with. Secrets are named, and are the tenant's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum McpAuth {
    /// Nothing.
    #[default]
    None,
    /// A key.
    ApiKey {
        /// The secret that is the key.
        secret: SecretName,
        /// The header that it is sent in. If omitted, `Authorization`, as a bearer token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        header: Option<String>,
    },
    /// Access tokens of an authorization server.
    Oauth2 {
        /// The token endpoint. One that a tenant's admin sets has HTTPS and a public address.
        #[schema(value_type = String)]
        token_url: Url,
        /// The client's id.
        client_id: String,
        /// The secret that is the client's, sent as HTTP basic authentication.
        client_secret: SecretName,
        /// The scopes that are asked for, with spaces between them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
        /// The resource that tokens are asked for (RFC 8707). The server's URL without its query if omitted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resource: Option<String>,
        /// The secret that is a refresh token. A new one that the authorization server sends takes its place. If
        /// omitted, tokens are granted for the client's own credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refresh_token: Option<SecretName>,
    },
    /// Headers, each with a secret as its value.
    CustomHeaders {
        /// The headers.
        headers: SecretHeaders,
    },
}

/// Secrets by the header that each is sent in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SecretHeaders(BTreeMap<String, SecretName>);

/// The gateway as a client of an authorization server: the fields of [`McpAuth::Oauth2`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OauthClient {
    /// The token endpoint.
    pub token_url: Url,
    /// The client's id.
    pub client_id: String,
    /// The secret that is the client's.
    pub client_secret: SecretName,
    /// The scopes that are asked for.
    pub scope: Option<String>,
    /// The resource that tokens are asked for, if it is not the server.
    pub resource: Option<String>,
    /// The secret that is a refresh token.
    pub refresh_token: Option<SecretName>,
}

impl McpAuth {
    /// The client of an authorization server, if there is one.
    #[must_use]
    pub fn oauth_client(&self) -> Option<OauthClient> {
        let Self::Oauth2 { token_url, client_id, client_secret, scope, resource, refresh_token } =
            self.clone()
        else {
            return None;
        };
        Some(OauthClient { token_url, client_id, client_secret, scope, resource, refresh_token })
    }

    /// The headers that are sent, each with the secret that is its value and what stands before that.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &SecretName, &'static str)> {
        let (key, headers) = match self {
            Self::None | Self::Oauth2 { .. } => (None, None),
            Self::ApiKey { secret, header: None } => {
                (Some(("authorization", secret, "Bearer ")), None)
            }
            Self::ApiKey { secret, header: Some(header) } => {
                (Some((header.as_str(), secret, "")), None)
            }
            Self::CustomHeaders { headers } => (None, Some(&headers.0)),
        };
        let headers = headers.into_iter().flatten();
        key.into_iter().chain(headers.map(|(name, secret)| (name.as_str(), secret, "")))
    }
}

/// An MCP server of a tenant, as stored. Its name is the id of the graph item.
pub type TenantMcpServer = Defined<McpServerName, McpServerDefinition>;

/// An MCP server as an agent uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentMcpServer {
    /// The tenant's server of this name.
    pub server: McpServerName,
    /// The tools that the agent is offered, by the server's names. All if omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<Vec<String>>,
}
