//! Pulls components from OCI registries and pushes them (OCI distribution specification 1.1), in the layout of `wkg`:
//! a manifest whose config has the type `application/vnd.wasm.config.v0+json`, with one layer of `application/wasm`.
//!
//! It is a client of its own on top of the HTTP library, since existing clients do not bound what they read, and a
//! registry is treated as hostile. Manifests, tokens, errors and layers are bounded in bytes and the whole exchange
//! in time. Content with a digest is verified against it. A registry cannot redirect the client to an address that is
//! not public.

mod artifact;
mod login;
mod transfer;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Response;
use url::Url;

use artifact::{MANIFEST_TYPE, Manifest};
use login::Login;
use transfer::Transfer;

use crate::ids::PluginDigest;
use crate::oci_reference::OciReference;

/// How to reach a registry.
#[derive(Debug, clap::Args)]
pub(super) struct Access {
    /// User of the registry.
    ///
    /// If omitted: the user that Docker's config.json has for the registry, or an anonymous request.
    #[arg(long, value_name = "NAME", requires = "registry_password_file")]
    registry_user: Option<String>,
    /// File with the user's password or token; `-` reads it from standard input.
    #[arg(long, value_name = "FILE", requires = "registry_user")]
    registry_password_file: Option<PathBuf>,
    /// Connect to the registry without TLS, as is the default for localhost.
    #[arg(long)]
    plain_http: bool,
    /// Allow the registry to redirect to this host[:port], even if its address is not public.
    ///
    /// Holds for uploads and token servers as well. Can be repeated.
    #[arg(long, value_name = "HOST")]
    registry_also: Vec<String>,
}

/// A component that was pulled.
pub(super) struct Pulled {
    pub(super) component: Bytes,
    /// Digest of the manifest.
    pub(super) digest: PluginDigest,
    pub(super) signature: Option<String>,
    pub(super) version: Option<String>,
}

/// A client of one repository of a registry.
pub(super) struct Registry {
    transfer: Transfer,
    login: Login,
    /// `https://host/v2/repository/`
    base: Url,
}

impl Registry {
    pub(super) fn open(reference: &OciReference, access: &Access) -> anyhow::Result<Self> {
        // The registry of docker.io references has another host name.
        let host = match reference.host() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let scheme =
            if access.plain_http || transfer::is_loopback(host) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{}/", reference.repository()))?;
        let transfer = Transfer::new(&base, &access.registry_also)?;
        let user = access.registry_user.as_deref().zip(access.registry_password_file.as_deref());
        let login = Login::new(reference, user)?;
        Ok(Self { transfer, login, base })
    }

    /// Pulls a component and its manifest, and verifies both against their digests.
    pub(super) async fn pull(mut self, reference: &OciReference) -> anyhow::Result<Pulled> {
        let named = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let url = self.base.join(&format!("manifests/{named}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPE));
        let answer = self.send(Method::GET, &url, &headers, &Bytes::new()).await?;
        let answer = expect(answer, "the manifest", &[StatusCode::OK]).await?;
        let header_digest = answer.headers().get("docker-content-digest").cloned();
        let text =
            transfer::read_answer(answer, artifact::MANIFEST_BYTES_MAX, "the manifest").await?;
        let digest = PluginDigest::of(&text);
        let expected = reference.digest().map(|digest| digest.to_string());
        let header_digest =
            header_digest.and_then(|header_digest| header_digest.to_str().map(str::to_owned).ok());
        // A registry may send a digest of another algorithm, which cannot be compared.
        let header_digest =
            header_digest.filter(|header_digest| header_digest.starts_with("sha256:"));
        for expected_digest in expected.into_iter().chain(header_digest) {
            if expected_digest != digest.to_string() {
                bail!(
                    "the manifest has the digest {digest} and not {expected_digest}: it was changed"
                );
            }
        }
        let manifest = Manifest::parse(&text)?;
        let layer = manifest.component()?;
        let url = self.base.join(&format!("blobs/{}", layer.digest))?;
        let answer = self.send(Method::GET, &url, &HeaderMap::new(), &Bytes::new()).await?;
        let answer = expect(answer, "the component", &[StatusCode::OK]).await?;
        let component = transfer::read_answer(answer, layer.size, "the component").await?;
        if component.len() != layer.size {
            bail!("the component has {} bytes and not {}", component.len(), layer.size);
        }
        let found = PluginDigest::of(&component);
        if found != layer.digest {
            bail!("the component has the digest {found} and not {}: it was changed", layer.digest);
        }
        let (signature, version) = (manifest.signature(), manifest.version());
        Ok(Pulled { component, digest, signature, version })
    }

    /// Pushes a component and returns the digest of its manifest.
    pub(super) async fn push(
        mut self,
        to: &OciReference,
        component: Bytes,
        signature: Option<String>,
    ) -> anyhow::Result<PluginDigest> {
        self.login.request_push_scope();
        let (config, manifest) = artifact::config_and_manifest(&component, signature)?;
        for blob in [&component, &config] {
            self.put_blob(blob).await.context("a blob")?;
        }
        let url = self.base.join(&format!("manifests/{}", to.tag().unwrap_or("latest")))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MANIFEST_TYPE));
        let answer = self.send(Method::PUT, &url, &headers, &manifest).await?;
        expect(answer, "the manifest", &[StatusCode::CREATED, StatusCode::OK]).await?;
        Ok(PluginDigest::of(&manifest))
    }

    async fn put_blob(&mut self, blob: &Bytes) -> anyhow::Result<()> {
        let (none, digest) = (HeaderMap::new(), PluginDigest::of(blob));
        let known = self.base.join(&format!("blobs/{digest}"))?;
        let answer = self.send(Method::HEAD, &known, &none, &Bytes::new()).await?;
        if answer.status() == StatusCode::OK {
            return Ok(());
        }
        let uploads = self.base.join("blobs/uploads/")?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        let answer = self.send(Method::POST, &uploads, &headers, &Bytes::new()).await?;
        let answer = expect(answer, "an upload", &[StatusCode::ACCEPTED]).await?;
        let location = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let mut upload = uploads.join(location.context("the registry names no upload")?)?;
        upload.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let answer = self.send(Method::PUT, &upload, &headers, blob).await?;
        expect(answer, "an upload", &[StatusCode::CREATED]).await.map(drop)
    }

    /// Sends a request, and logs in once if the registry asks for it.
    async fn send(
        &mut self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> anyhow::Result<Response> {
        let authorization = self.login.authorization();
        let sent = self.transfer.send(&method, url, headers, body, authorization).await?;
        if sent.status() != StatusCode::UNAUTHORIZED || self.login.has_tried() {
            return Ok(sent);
        }
        self.login.log_in(&self.transfer, sent.headers()).await?;
        let authorization = self.login.authorization();
        self.transfer.send(&method, url, headers, body, authorization).await
    }
}

/// Returns the response if it has an expected status, or else an error that explains the status.
async fn expect(answer: Response, what: &str, expected: &[StatusCode]) -> anyhow::Result<Response> {
    let status = answer.status();
    if expected.contains(&status) {
        return Ok(answer);
    }
    match status {
        StatusCode::NOT_FOUND => bail!("the registry does not have {what}"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            bail!(
                "the registry refuses {what} ({status}); it may want a user (--registry-user, or \
                 Docker's config.json)"
            )
        }
        _ => bail!(
            "the registry answered {status} for {what}: {}",
            artifact::error_message(answer).await
        ),
    }
}
