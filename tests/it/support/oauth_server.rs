//! An authorization server's token endpoint, which rotates refresh tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use super::web::Web;

/// A request for a token: its `Authorization`, and its form.
pub(crate) type TokenRequest = (String, BTreeMap<String, String>);

/// A running token endpoint. Its access tokens are `access-1-of-oauth`, `access-2-of-oauth` and so on; its refresh tokens
/// are `refresh-0-of-oauth`, which is the first, and so on, each good for one request.
#[derive(Debug)]
pub(crate) struct OauthServer {
    web: Web,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
}

impl OauthServer {
    pub(crate) async fn start() -> Self {
        let requests = Arc::default();
        let router = Router::new().route("/token", post(grant)).with_state(Arc::clone(&requests));
        Self { web: Web::serve(router).await, requests }
    }

    pub(crate) fn token_url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.web.port)
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<TokenRequest> {
        self.requests.lock().unwrap().clone()
    }
}

async fn grant(
    State(requests): State<Arc<Mutex<Vec<TokenRequest>>>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let form = reqwest::Url::parse(&format!("http://form.example/?{body}")).unwrap();
    let form: BTreeMap<String, String> = form.query_pairs().into_owned().collect();
    let mut requests = requests.lock().unwrap();
    let number = requests.len() + 1;
    let authorization = headers["authorization"].to_str().unwrap().to_owned();
    let is_good = match form["grant_type"].as_str() {
        "client_credentials" => form.get("scope").is_none_or(|scope| scope != "denied"),
        "refresh_token" => form["refresh_token"] == format!("refresh-{}-of-oauth", number - 1),
        _ => false,
    };
    requests.push((authorization, form));
    if !is_good {
        let denied = json!({"error": "invalid_grant", "error_description": "secret-of-the-server"});
        return (StatusCode::BAD_REQUEST, Json(denied)).into_response();
    }
    Json(json!({
        "access_token": format!("access-{number}-of-oauth"), "token_type": "bearer",
        "expires_in": 3600, "refresh_token": format!("refresh-{number}-of-oauth"),
    }))
    .into_response()
}
