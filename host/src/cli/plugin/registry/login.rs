//! Authenticates to a registry: with `Basic`, or with a token from the server that the registry names ("Token
//! Authentication Specification" of the distribution project). The user comes from the command line, or from Docker's
//! config.json. Credential helpers, which are programs, are not run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method};
use http_auth::{ChallengeRef, parser::ChallengeParser};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;

use super::transfer::{Transfer, is_ok, read_answer};
use crate::oci_reference::OciReference;

/// Largest response with a token, in bytes. Tokens of cloud providers have several kilobytes.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// Largest config.json, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Largest password file, in bytes.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

/// The credentials for one repository, and the state of the login.
pub(super) struct Login {
    repository: String,
    actions: &'static str,
    /// `name:password` in base64.
    user: Option<SecretString>,
    authorization: Option<HeaderValue>,
    has_tried: bool,
}

impl Login {
    pub(super) fn new(
        reference: &OciReference,
        user: Option<(&str, &Path)>,
    ) -> anyhow::Result<Self> {
        let user = match user {
            Some((name, password)) => {
                let password = password_of(password)?;
                let password = password.expose_secret().trim_end();
                Some(STANDARD.encode(format!("{name}:{password}")).into())
            }
            None => docker_config().and_then(|path| in_docker_config(&path, reference.host())),
        };
        let repository = reference.repository().to_owned();
        Ok(Self { repository, actions: "pull", user, authorization: None, has_tried: false })
    }

    /// Requests permission to push as well as to pull.
    pub(super) fn request_push_scope(&mut self) {
        self.actions = "pull,push";
    }

    /// The `authorization` header for requests to the registry, once it is logged in.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Whether a login was attempted, so that another attempt would not help.
    pub(super) fn has_tried(&self) -> bool {
        self.has_tried
    }

    /// Logs in with the first supported challenge of the registry's 401 response.
    pub(super) async fn log_in(
        &mut self,
        transfer: &Transfer,
        refusal: &HeaderMap,
    ) -> anyhow::Result<()> {
        self.has_tried = true;
        let challenges =
            refusal.get_all(WWW_AUTHENTICATE).iter().filter_map(|asks| asks.to_str().ok());
        for challenge in challenges.flat_map(|asks| ChallengeParser::new(asks).flatten()) {
            let value = match challenge.scheme.to_ascii_lowercase().as_str() {
                "bearer" => {
                    let token = self.token(transfer, &challenge).await;
                    authorization("Bearer", &token.context("the registry's token")?)
                }
                "basic" => match &self.user {
                    Some(user) => authorization("Basic", user),
                    None => continue,
                },
                _ => continue,
            };
            self.authorization = Some(value?);
            return Ok(());
        }
        Ok(())
    }

    async fn token(
        &self,
        transfer: &Transfer,
        challenge: &ChallengeRef<'_>,
    ) -> anyhow::Result<SecretString> {
        let parameter = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let mut realm =
            Url::parse(&parameter("realm").context("it names no server that issues tokens")?)?;
        if let Some(service) = parameter("service") {
            realm.query_pairs_mut().append_pair("service", &service);
        }
        let scope = format!("repository:{}:{}", self.repository, self.actions);
        realm.query_pairs_mut().append_pair("scope", &scope);
        let mut headers = HeaderMap::new();
        if let Some(user) = &self.user {
            headers.insert(AUTHORIZATION, authorization("Basic", user)?);
        }
        let answer = transfer.send_once(&Method::GET, &realm, headers, Bytes::new()).await?;
        if !is_ok(&answer) {
            bail!("it was refused ({})", answer.status());
        }
        let answer = read_answer(answer, TOKEN_BYTES_MAX, "it").await?;
        #[derive(Deserialize)]
        struct Answer {
            token: Option<SecretString>,
            access_token: Option<SecretString>,
        }
        let answer: Answer =
            serde_json::from_slice(&answer).context("the answer is not JSON with a token")?;
        answer.token.or(answer.access_token).context("the answer has no token")
    }
}

fn authorization(scheme: &str, secret: &SecretString) -> anyhow::Result<HeaderValue> {
    let value = HeaderValue::from_str(&format!("{scheme} {}", secret.expose_secret()));
    // Without the cause, which contains the credential.
    let mut value =
        value.map_err(|_| anyhow::anyhow!("the credential cannot be sent as a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn password_of(path: &Path) -> anyhow::Result<SecretString> {
    if path == Path::new("-") {
        return Ok(std::io::read_to_string(std::io::stdin()).context("standard input")?.into());
    }
    let bytes = super::super::file::read_file(path, PASSWORD_BYTES_MAX)?;
    let text = String::from_utf8(bytes);
    Ok(text.map_err(|_| anyhow::anyhow!("{} is not UTF-8", path.display()))?.into())
}

/// The config.json in which `docker login` and compatible tools store credentials.
fn docker_config() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    folder.map(|folder| folder.join("config.json")).filter(|path| path.exists())
}

fn in_docker_config(path: &Path, host: &str) -> Option<SecretString> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: std::collections::BTreeMap<String, Auth>,
    }
    #[derive(Deserialize)]
    struct Auth {
        auth: Option<SecretString>,
    }
    let bytes = super::super::file::read_file(path, CONFIG_BYTES_MAX).ok()?;
    let mut config: Config = serde_json::from_slice(&bytes).ok()?;
    // Docker stores its own registry under this name.
    let names = match host {
        "docker.io" => ["https://index.docker.io/v1/", host],
        _ => [host, host],
    };
    let auth = names.iter().find_map(|name| config.auths.remove(*name))?.auth?;
    // An empty value, or one that is not base64, is a placeholder of Docker's and cannot be sent.
    STANDARD.decode(auth.expose_secret()).is_ok_and(|auth| !auth.is_empty()).then_some(auth)
}
