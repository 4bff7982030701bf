//! The body of an installation: a component, and what is said of it.

use std::convert::Infallible;
use std::str::FromStr;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use utoipa::ToSchema;

use super::super::super::error::ApiError;
use crate::plugins::{Offered, SIGNATURE_BYTES_MAX, version};
use crate::tenants::{Installer, Provenance};

/// The names of the parts, for whoever sends another.
const PARTS: &str = "the parts are component, grants, signature, provenance and version";

/// The parts of an installation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documentation: the parts are read one by one")]
pub(in super::super) struct Installation {
    /// The component.
    #[schema(value_type = String, format = Binary)]
    component: Vec<u8>,
    /// What it may do: a TOML file. An operator's to say; left out, what is granted already stays, and is in
    /// force for the component that it is for.
    grants: Option<String>,
    /// A minisign signature of the component: the text of a `.minisig` file. One that is sent has to be
    /// good, by a key of the settings.
    signature: Option<String>,
    /// Where it comes from: `file`, or `registry/repository[:tag]@sha256:…` with the digest of the
    /// manifest. Kept as it is said; the gateway fetches nothing.
    provenance: Option<String>,
    /// What its maker calls this version, where the component does not say so itself.
    version: Option<String>,
}

/// Reads the parts: what is offered, and the grants where there are any.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Bytes,
    by: Installer,
) -> Result<(Offered, Option<String>), ApiError> {
    let bad = |error: multer::Error| {
        ApiError::caller(400, format!("the body is not valid multipart/form-data: {error}"))
    };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(bad)?;
    let whole = futures::stream::once(async move { Ok::<_, Infallible>(body) });
    let mut multipart = multer::Multipart::new(whole, boundary);
    let (mut component, mut grants) = (None, None);
    let mut offered = Offered { by, ..Offered::from(Vec::new()) };
    while let Some(part) = multipart.next_field().await.map_err(bad)? {
        match part.name() {
            Some("component") => component = Some(part.bytes().await.map_err(bad)?.to_vec()),
            Some("grants") => grants = Some(part.text().await.map_err(bad)?),
            Some("signature") => offered.signature = Some(part.text().await.map_err(bad)?),
            Some("provenance") => {
                let text = part.text().await.map_err(bad)?;
                offered.provenance = Provenance::from_str(&text)
                    .map_err(|error| ApiError::caller(422, format!("provenance: {error}")))?;
            }
            Some("version") => {
                let text = part.text().await.map_err(bad)?;
                let why = "version: it is empty, longer than 128 bytes or holds control characters";
                let text = version(&text).ok_or_else(|| ApiError::caller(422, why))?;
                offered.version = Some(text);
            }
            _ => return Err(ApiError::caller(422, PARTS)),
        }
    }
    if offered.signature.as_ref().is_some_and(|text| text.len() > SIGNATURE_BYTES_MAX) {
        return Err(ApiError::caller(422, "signature: it is longer than any minisign signature"));
    }
    let missing = || ApiError::caller(422, "the part component is missing");
    offered.component = component.ok_or_else(missing)?;
    Ok((offered, grants))
}
