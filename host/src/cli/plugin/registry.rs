//! Components in OCI registries (OCI distribution specification 1.1), as `wkg` puts them there: a manifest
//! whose config is of `application/vnd.wasm.config.v0+json`, with one layer of `application/wasm`.
//!
//! A client of our own over the HTTP library, since none of the ready ones bounds what it reads: a registry
//! is somebody else's program, and here it is taken for a hostile one. Manifests, tokens, errors and layers
//! are bounded in bytes and all of it in time, what has a digest is compared with it, and a registry can
//! send nobody to an address that is not public.

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

/// How a registry is reached.
#[derive(Debug, clap::Args)]
pub(super) struct Access {
    /// A user of the registry. Left out: whom Docker's config.json has for it, or nobody.
    #[arg(long, value_name = "NAME", requires = "registry_password_file")]
    registry_user: Option<String>,
    /// A file with the user's password or token; `-` reads it from standard input.
    #[arg(long, value_name = "FILE", requires = "registry_user")]
    registry_password_file: Option<PathBuf>,
    /// Reach the registry without TLS. On this machine (localhost) that is so anyway.
    #[arg(long)]
    plain_http: bool,
    /// Another host, as host[:port], that the registry may send to though its address is not public.
    #[arg(long, value_name = "HOST")]
    registry_also: Vec<String>,
}

/// What was fetched.
pub(super) struct Pulled {
    pub(super) component: Bytes,
    /// Of the manifest.
    pub(super) digest: PluginDigest,
    pub(super) signature: Option<String>,
    pub(super) version: Option<String>,
}

/// One repository of a registry.
pub(super) struct Registry {
    transfer: Transfer,
    login: Login,
    /// `https://host/v2/repository/`
    base: Url,
}

impl Registry {
    pub(super) fn open(reference: &OciReference, access: &Access) -> anyhow::Result<Self> {
        // What everybody calls docker.io has its registry elsewhere.
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

    /// Fetches a component with its manifest, and checks both against their digests.
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
        let told = answer.headers().get("docker-content-digest").cloned();
        let text = transfer::read(answer, artifact::MANIFEST_BYTES_MAX, "the manifest").await?;
        let digest = PluginDigest::of(&text);
        let expected = reference.digest().map(|digest| digest.to_string());
        let told = told.and_then(|told| told.to_str().map(str::to_owned).ok());
        // A registry may tell digests of other algorithms; those say nothing here.
        let told = told.filter(|told| told.starts_with("sha256:"));
        for wanted in expected.into_iter().chain(told) {
            if wanted != digest.to_string() {
                bail!("the manifest has the digest {digest} and not {wanted}: it was changed");
            }
        }
        let manifest = Manifest::read(&text)?;
        let layer = manifest.component()?;
        let url = self.base.join(&format!("blobs/{}", layer.digest))?;
        let answer = self.send(Method::GET, &url, &HeaderMap::new(), &Bytes::new()).await?;
        let answer = expect(answer, "the component", &[StatusCode::OK]).await?;
        let component = transfer::read(answer, layer.size, "the component").await?;
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

    /// Puts a component there, and gives the digest of its manifest.
    pub(super) async fn push(
        mut self,
        to: &OciReference,
        component: Bytes,
        signature: Option<String>,
    ) -> anyhow::Result<PluginDigest> {
        self.login.also_for_pushing();
        let (config, manifest) = artifact::of(&component, signature)?;
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

    /// Sends a request, logging in where the registry asks for it.
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

/// One of these answers, or a sentence.
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
            artifact::complaint(answer).await
        ),
    }
}
