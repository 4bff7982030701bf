//! Extractors for handlers: the authenticated caller, the path parameters, the query, and JSON bodies.

use std::str::FromStr;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Request};
use serde::de::DeserializeOwned;

use super::budget::AuthenticatedTenant;
use super::error::ApiError;
use super::layers::record_tenant;
use super::serve::plain_path::ArrivedPath;
use super::state::HttpState;
use crate::access::{Access, TenantCaller};
use crate::ids::RequestId;
use crate::request::credentials::API_KEY;

/// The path parameters. An invalid value cannot name anything that exists, so every error is 404.
pub(super) struct PathParams(Option<RawPathParams>);

impl<S: Send + Sync> FromRequestParts<S> for PathParams {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        // A segment that is not UTF-8 once decoded names nothing.
        Ok(Self(RawPathParams::from_request_parts(parts, state).await.ok()))
    }
}

impl PathParams {
    /// The text of a parameter.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().flat_map(|params| params.iter()).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// A parameter, parsed.
    ///
    /// # Errors
    /// 404 if it is missing or invalid; the message says that `what` was not found.
    pub(super) fn id<T: FromStr>(&self, name: &str, what: &str) -> Result<T, ApiError> {
        let text = self.text(name).ok_or_else(|| ApiError::not_found(what))?;
        text.parse().map_err(|_| ApiError::not_found(what))
    }
}

/// The tenant, authenticated by the header `x-api-key`.
pub(super) struct TenantAuth(pub(super) TenantCaller);

impl FromRequestParts<HttpState> for TenantAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, ApiError> {
        let key = header_key(&parts.headers)?;
        Ok(Self(authenticate_tenant(state.access(), key.as_deref(), parts).await?))
    }
}

/// Authenticates the tenant of a request by its key, and notes it where the request's bytes are charged and logged.
///
/// # Errors
/// 401 without a key, 403 if the key is wrong.
pub(super) async fn authenticate_tenant(
    access: &Access,
    key: Option<&str>,
    parts: &mut Parts,
) -> Result<TenantCaller, ApiError> {
    let caller = access.tenant(key).await?;
    record_tenant(caller.tenant());
    parts.extensions.insert(AuthenticatedTenant(caller.tenant()));
    Ok(caller)
}

/// The body, deserialized from a JSON object: 400 if it is not JSON, 422 if it has another shape. It is a handler's
/// last extractor, so the caller is authenticated before the body is read.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<HttpState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, state: &HttpState) -> Result<Self, ApiError> {
        Ok(Self(state.bodies().read_typed(request).await?))
    }
}

/// The query, deserialized: 422 if it has another shape.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        let query = query.map_err(|rejection| {
            ApiError::caller(422, format!("the query: {}", rejection.body_text()))
        })?;
        Ok(Self(query.0))
    }
}

/// The key in the header `x-api-key`.
///
/// # Errors
/// 400 if the header was sent more than once.
pub(super) fn header_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all(API_KEY).iter();
    let key = keys.next();
    if keys.next().is_some() {
        return Err(ApiError::caller(400, "x-api-key was sent more than once"));
    }
    // A key that is not text is a wrong key, not a missing one.
    let text = key.map(|key| key.to_str().unwrap_or("not a key").trim().to_owned());
    Ok(text.filter(|key| !key.is_empty()))
}

/// The key in the header `x-api-key`, else in `Authorization: Bearer`, as DocsGPT's clients send it.
///
/// # Errors
/// As [`header_key`].
pub(super) fn header_key_or_bearer(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    if let Some(key) = header_key(headers)? {
        return Ok(Some(key));
    }
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, key) = value.and_then(|value| value.trim().split_once(' ')).unwrap_or_default();
    let key = key.trim();
    Ok((scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then(|| key.to_owned()))
}

/// The path as it arrived, before empty segments were removed to find its route.
pub(super) fn arrived_path(parts: &Parts) -> String {
    let arrived = parts.extensions.get::<ArrivedPath>().map(|arrived| arrived.0.as_str());
    arrived.unwrap_or_else(|| parts.uri.path()).to_owned()
}

/// The id that the gateway assigned to the request.
pub(super) fn request_id(parts: &Parts) -> RequestId {
    parts.extensions.get().copied().unwrap_or_else(RequestId::next)
}
