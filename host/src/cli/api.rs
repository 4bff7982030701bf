//! The commands' client of the admin API: over HTTP to a gateway, or to the routes of a data folder inside the
//! command's own process. Commands have no other access to a gateway's state.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, IF_MATCH};
use http::{Method, Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::clock::Clock;
use crate::gateway::{DataFolder, Local};
use crate::ids::{AgentId, TenantId};
use crate::settings::Settings;

/// Timeout of a request over HTTP. Compiling a large component takes most of it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);

/// The data folder or gateway that a command works on.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Data folder on this machine.
    #[arg(long, value_name = "DIR", required_unless_present = "url", conflicts_with = "url")]
    data: Option<PathBuf>,
    /// URL of a gateway: http://host:port.
    #[arg(long, value_name = "URL", requires = "key_file")]
    url: Option<url::Url>,
    /// File with an operator key or an admin key of the tenant; `-` reads it from standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    key_file: Option<PathBuf>,
}

impl Target {
    /// Whether the key is read from standard input.
    pub(super) fn takes_standard_input(&self) -> bool {
        self.key_file.as_deref() == Some(Path::new("-"))
    }

    /// Opens the API of a gateway or of an existing data folder.
    pub(super) async fn open(&self, settings: &Settings) -> anyhow::Result<Api> {
        if let Some(folder) = &self.data
            && !folder.join("host.key").exists()
        {
            bail!(
                "{} is not a data folder; `wardgate tenant create` or `wardgate serve` makes one",
                folder.display()
            );
        }
        self.open_or_create(settings).await
    }

    /// Opens the API. A missing data folder is created.
    pub(super) async fn open_or_create(&self, settings: &Settings) -> anyhow::Result<Api> {
        if let Some(url) = self.url.as_ref().filter(|url| !matches!(url.scheme(), "http" | "https"))
        {
            bail!("{url} is not an http:// or https:// address");
        }
        match (&self.data, &self.url) {
            (Some(folder), _) => Api::of_folder(folder, settings).await,
            (None, Some(url)) => Api::of_gateway(url, self.key_file.as_deref()),
            (None, None) => bail!("say which data folder (--data) or gateway (--url) is meant"),
        }
    }
}

/// The tenant that a command works for.
#[derive(Debug, clap::Args)]
pub(super) struct ForTenant {
    /// Tenant, by id or name; optional if there is only one.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

impl ForTenant {
    /// Resolves the tenant to its id.
    pub(super) async fn resolve(&self, api: &Api) -> anyhow::Result<TenantId> {
        if let Some(id) = self.tenant.as_ref().and_then(|tenant| tenant.parse().ok()) {
            return Ok(id);
        }
        let tenants = api.get("/admin/tenants").await?;
        let tenants = tenants.as_array().map(Vec::as_slice).unwrap_or_default();
        let id = |tenant: &Value| text(tenant, "id").parse().context("the gateway's answer");
        let Some(wanted) = &self.tenant else {
            return match tenants {
                [only] => id(only),
                [] => bail!("there is no tenant yet; `wardgate tenant create NAME` makes one"),
                _ => bail!("there are several tenants; say which with --tenant"),
            };
        };
        let found = tenants.iter().find(|tenant| text(tenant, "name") == wanted);
        found.map(id).with_context(|| format!("there is no tenant {wanted:?}"))?
    }
}

/// Resolves an agent's id or name to its id.
pub(super) async fn agent_id(api: &Api, tenant: TenantId, agent: &str) -> anyhow::Result<AgentId> {
    if let Ok(id) = agent.parse() {
        return Ok(id);
    }
    let found = agent_by_name(api, tenant, agent).await?;
    let found = found.with_context(|| format!("the tenant has no agent {agent:?}"))?;
    text(&found, "id").parse().context("the gateway's answer")
}

/// The agent of this name, as the admin API returns it.
pub(super) async fn agent_by_name(
    api: &Api,
    tenant: TenantId,
    name: &str,
) -> anyhow::Result<Option<Value>> {
    let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let found = api.get(&format!("/admin/tenants/{tenant}/agents?name={name}")).await?;
    Ok(found.get(0).cloned())
}

/// A string field of a response; empty if it is missing or not a string.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Reads a definition: JSON if the file's name ends in .json, TOML otherwise. `what` is the expected content, for the
/// error, which names the file and occurs before any request is sent.
pub(super) fn read_file<T: DeserializeOwned>(path: &Path, what: &str) -> anyhow::Result<T> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = || format!("{} is not {what}", path.display());
    if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(&text).with_context(wrong)
    } else {
        toml::from_str(&text).with_context(wrong)
    }
}

/// A client of the admin API.
pub(super) struct Api {
    backend: Backend,
    key: String,
}

enum Backend {
    Folder { local: Local, folder: DataFolder },
    Gateway { http: reqwest::Client, base: String },
}

/// Timeout for connecting to a gateway.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Largest response body. A page of tasks with long results is a megabyte.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A request body: its content type and its bytes.
pub(super) type Body = (&'static str, Bytes);

impl Api {
    async fn of_folder(path: &Path, settings: &Settings) -> anyhow::Result<Self> {
        let folder = DataFolder::open(path, Clock::system()).await?;
        // A command does not know where the gateway listens: without a setting, URLs are paths.
        let base = settings.http.public_url.trim_end_matches('/').to_owned();
        let key = folder.operator_key().reveal().to_owned();
        let local = Local::new(&folder.services(settings, base)?);
        Ok(Self { backend: Backend::Folder { local, folder }, key })
    }

    fn of_gateway(url: &url::Url, key_file: Option<&Path>) -> anyhow::Result<Self> {
        let key = match key_file {
            Some(path) if path == Path::new("-") => {
                std::io::read_to_string(std::io::stdin()).context("standard input")?
            }
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
            None => bail!("a gateway elsewhere wants a key: --key-file FILE"),
        };
        if key.trim().is_empty() {
            bail!("the key file is empty");
        }
        // A proxy from the environment, or the target of a redirect, would receive the key.
        let http = crate::tls::http_client()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(ANSWER_TIME_MAX)
            .build()?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { backend: Backend::Gateway { http, base }, key: key.trim().to_owned() })
    }

    /// The data folder, if the command works on one.
    pub(super) fn folder(&self) -> Option<&DataFolder> {
        match &self.backend {
            Backend::Folder { folder, .. } => Some(folder),
            Backend::Gateway { .. } => None,
        }
    }

    /// Sends a GET request.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Sends a POST request without a body.
    pub(super) async fn post(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::POST, path, None).await
    }

    /// Sends a POST request with a JSON body.
    pub(super) async fn post_json(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = ("application/json", body.to_string().into());
        self.call(Method::POST, path, Some(body)).await
    }

    /// Sends a DELETE request.
    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    /// Sends a request. An error response becomes an error with the gateway's own message.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> anyhow::Result<Value> {
        let (status, answer) = self.try_call(method, path, body, None).await?;
        match status {
            200..=299 => Ok(answer),
            _ => bail!("{}", error_message(status, &answer)),
        }
    }

    /// Sends a GET request whose response is not JSON.
    pub(super) async fn get_bytes(&self, path: &str) -> anyhow::Result<Bytes> {
        let response = self.send(Method::GET, path, None, None).await?;
        match response.status().as_u16() {
            200..=299 => Ok(response.into_body()),
            status => {
                let answer = serde_json::from_slice(response.body()).unwrap_or_default();
                bail!("{}", error_message(status, &answer))
            }
        }
    }

    /// Sends a request and returns status and body, for a caller that handles error statuses itself. `version` is
    /// sent in `if-match`.
    pub(super) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        version: Option<u64>,
    ) -> anyhow::Result<(u16, Value)> {
        let response = self.send(method, path, body, version).await?;
        let status = response.status().as_u16();
        match serde_json::from_slice(response.body()) {
            Ok(answer) => Ok((status, answer)),
            Err(_) if response.body().is_empty() => Ok((status, Value::Null)),
            Err(_) => bail!("the answer ({status}) is not JSON: is this the address of a gateway?"),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        version: Option<u64>,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::builder().method(method).header("x-api-key", &self.key);
        if let Some(version) = version {
            request = request.header(IF_MATCH, format!("\"{version}\""));
        }
        let (declared, body) = body.unwrap_or_default();
        if !declared.is_empty() {
            request = request.header(CONTENT_TYPE, declared);
        }
        match &self.backend {
            Backend::Folder { local, .. } => Ok(local.send(request.uri(path).body(body)?).await?),
            Backend::Gateway { http, base } => {
                let request = request.uri(format!("{base}{path}")).body(body)?;
                let failed = || format!("the gateway at {base} cannot be reached");
                let mut response = http.execute(request.try_into()?).await.with_context(failed)?;
                let mut body = Vec::new();
                while let Some(part) = response.chunk().await.with_context(failed)? {
                    body.extend_from_slice(&part);
                    if body.len() > ANSWER_BYTES_MAX {
                        bail!("the answer of {base} is longer than any of a gateway");
                    }
                }
                let mut whole = Response::new(body.into());
                *whole.status_mut() = response.status();
                Ok(whole)
            }
        }
    }
}

/// The message of an error response.
pub(super) fn error_message(status: u16, answer: &Value) -> String {
    match answer.get("detail").and_then(Value::as_str) {
        Some(detail) => detail.to_owned(),
        None => format!("the gateway answered {status}"),
    }
}
