//! Reads the body of an installation: a component, its grants, and the installer's statements about it.

use std::convert::Infallible;
use std::str::FromStr;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use utoipa::ToSchema;

use super::super::super::error::ApiError;
use crate::plugins::{Offered, SIGNATURE_BYTES_MAX, version};
use crate::tenants::{Installer, Provenance};

/// The error for an unknown part: the names of the known ones.
const UNKNOWN_PART: &str = "the parts are component, grants, signature, provenance and version";

/// The parts of an installation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documentation: the parts are read one by one")]
pub(in super::super) struct Installation {
    /// The component.
    #[schema(value_type = String, format = Binary)]
    component: Vec<u8>,
    /// What it may do: a grants file in TOML, which only operators may send. If omitted, an existing file stays, in
    /// force for the components that it is for.
    grants: Option<String>,
    /// A minisign signature of the component: the text of a `.minisig` file. If sent, it must be valid, by a key of
    /// the gateway's settings.
    signature: Option<String>,
    /// The origin of the component: `file`, or `registry/repository[:tag]@sha256:…` with the digest of the manifest.
    /// Stored as stated; the gateway fetches nothing.
    provenance: Option<String>,
    /// The publisher's name of this version. A version in the component itself takes precedence.
    version: Option<String>,
}

/// Reads the parts. Returns the component with the statements about it, and the grants, if there are any.
pub(super) async fn read_installation(
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
            _ => return Err(ApiError::caller(422, UNKNOWN_PART)),
        }
    }
    if offered.signature.as_ref().is_some_and(|text| text.len() > SIGNATURE_BYTES_MAX) {
        return Err(ApiError::caller(422, "signature: it is longer than any minisign signature"));
    }
    let missing = || ApiError::caller(422, "the part component is missing");
    offered.component = component.ok_or_else(missing)?;
    Ok((offered, grants))
}
