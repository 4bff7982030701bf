//! A small local OCI registry, which accepts and serves blobs and manifests, with or without authentication. Any of
//! its responses can be overridden, for tests with hostile registries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use wardgate::ids::PluginDigest;

use super::web::Web;

/// The media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The name and password of the only user.
pub(crate) const USER: (&str, &str) = ("somebody", "correct horse");

/// The same credentials for Basic authentication.
pub(crate) const BASIC: &str = "Basic c29tZWJvZHk6Y29ycmVjdCBob3JzZQ==";

const TOKEN: &str = "a-token-of-this-test";

/// The authentication that the registry requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegistryAuth {
    None,
    /// Basic authentication in each request.
    Basic,
    /// A bearer token, issued for Basic authentication.
    Bearer,
}

type ResponseFn = Box<dyn Fn() -> Response + Send + Sync>;

struct RegistryState {
    auth: RegistryAuth,
    blobs: Mutex<HashMap<String, Bytes>>,
    /// By repository and tag or digest.
    manifests: Mutex<HashMap<String, Bytes>>,
    /// Overridden responses, by path.
    overrides: Mutex<HashMap<String, ResponseFn>>,
    /// The requests so far: method, path, and the header `authorization`.
    requests: Mutex<Vec<(Method, String, String)>>,
}

/// A running registry. It stops when dropped.
pub(crate) struct OciRegistry {
    web: Web,
    state: Arc<RegistryState>,
}

impl OciRegistry {
    pub(crate) async fn start(auth: RegistryAuth) -> Self {
        let state = Arc::new(RegistryState {
            auth,
            blobs: Mutex::default(),
            manifests: Mutex::default(),
            overrides: Mutex::default(),
            requests: Mutex::default(),
        });
        let router = Router::new().fallback(handle_request).with_state(Arc::clone(&state));
        Self { web: Web::serve(router).await, state }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.web.port)
    }

    /// Stores an artifact with this component, after `change` was applied to its manifest. Returns the manifest's
    /// digest.
    pub(crate) fn put(
        &self,
        name: &str,
        component: &[u8],
        change: impl FnOnce(&mut Value),
    ) -> String {
        let digest = PluginDigest::of(component).to_string();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.wasm.config.v0+json",
                "digest": PluginDigest::of(b"{}").to_string(),
                "size": 2,
            },
            "layers": [{"mediaType": "application/wasm", "digest": digest, "size": component.len()}],
        });
        change(&mut manifest);
        self.put_blob(component);
        self.put_manifest(name, manifest.to_string().into())
    }

    pub(crate) fn put_blob(&self, blob: &[u8]) {
        let digest = PluginDigest::of(blob).to_string();
        self.state.blobs.lock().unwrap().insert(digest, Bytes::copy_from_slice(blob));
    }

    /// Stores a manifest under `repository:tag`, and returns its digest.
    pub(crate) fn put_manifest(&self, name: &str, manifest: Bytes) -> String {
        let digest = PluginDigest::of(&manifest).to_string();
        let (repository, tag) = name.split_once(':').unwrap();
        let mut manifests = self.state.manifests.lock().unwrap();
        for reference in [tag, &digest] {
            manifests.insert(format!("{repository}/{reference}"), manifest.clone());
        }
        digest
    }

    /// The manifest of `repository:tag`.
    pub(crate) fn manifest(&self, name: &str) -> Value {
        let manifests = self.state.manifests.lock().unwrap();
        serde_json::from_slice(&manifests[&name.replace(':', "/")]).unwrap()
    }

    /// The blob of this digest.
    pub(crate) fn blob(&self, digest: &Value) -> Bytes {
        self.state.blobs.lock().unwrap()[digest.as_str().unwrap()].clone()
    }

    /// Overrides the response to every request for this path.
    pub(crate) fn override_response(
        &self,
        path: &str,
        answer: impl Fn() -> Response + Send + Sync + 'static,
    ) {
        self.state.overrides.lock().unwrap().insert(path.to_owned(), Box::new(answer));
    }

    /// All requests so far: method, path, and the header `authorization`.
    pub(crate) fn requests(&self) -> Vec<(Method, String, String)> {
        self.state.requests.lock().unwrap().clone()
    }
}

async fn handle_request(
    State(state): State<Arc<RegistryState>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let sent = headers.get(AUTHORIZATION).map(|sent| sent.to_str().unwrap()).unwrap_or_default();
    state.requests.lock().unwrap().push((method.clone(), path.to_owned(), sent.to_owned()));
    if let Some(respond) = state.overrides.lock().unwrap().get(path) {
        return respond();
    }
    if path == "/token" {
        let scope = query.contains("scope=repository%3A") && query.contains("service=tests");
        return match sent == BASIC && scope {
            true => json!({"token": TOKEN}).to_string().into_response(),
            false => StatusCode::UNAUTHORIZED.into_response(),
        };
    }
    let host = headers[HOST].to_str().unwrap();
    let (wanted, challenge) = match state.auth {
        RegistryAuth::None => (String::new(), String::new()),
        RegistryAuth::Basic => (BASIC.to_owned(), "Basic realm=\"tests\"".to_owned()),
        RegistryAuth::Bearer => (
            format!("Bearer {TOKEN}"),
            format!("Bearer realm=\"http://{host}/token\",service=\"tests\",scope=\"x\""),
        ),
    };
    if sent != wanted {
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
    }
    state.serve(&method, path, query, body)
}

impl RegistryState {
    fn serve(&self, method: &Method, path: &str, query: &str, body: Bytes) -> Response {
        let path = path.strip_prefix("/v2/").unwrap_or_default();
        let (blobs, manifests) = (self.blobs.lock(), self.manifests.lock());
        let (mut blobs, mut manifests) = (blobs.unwrap(), manifests.unwrap());
        if let Some((repository, reference)) = path.split_once("/manifests/") {
            let name = format!("{repository}/{reference}");
            if method == Method::PUT {
                let digest = PluginDigest::of(&body).to_string();
                manifests.insert(format!("{repository}/{digest}"), body.clone());
                manifests.insert(name, body);
                return StatusCode::CREATED.into_response();
            }
            let Some(manifest) = manifests.get(&name) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            let digest = PluginDigest::of(manifest).to_string();
            let head = [(CONTENT_TYPE.as_str(), MANIFEST), ("docker-content-digest", &digest)];
            return (head, manifest.clone()).into_response();
        }
        let Some((_, blob)) = path.split_once("/blobs/") else {
            return StatusCode::NOT_FOUND.into_response();
        };
        match (method, blob.strip_prefix("uploads/")) {
            (&Method::POST, Some("")) => {
                let head = [(LOCATION, format!("/v2/{path}one?state=kept"))];
                (StatusCode::ACCEPTED, head).into_response()
            }
            (&Method::PUT, Some("one")) => {
                let digest = PluginDigest::of(&body).to_string();
                // The client library escapes the colon in the query.
                if query != format!("state=kept&digest={}", digest.replace(':', "%3A")) {
                    return (StatusCode::BAD_REQUEST, Body::from(query.to_owned())).into_response();
                }
                blobs.insert(digest, body);
                StatusCode::CREATED.into_response()
            }
            (_, None) => match blobs.get(blob) {
                Some(blob) => blob.clone().into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            },
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }
}
