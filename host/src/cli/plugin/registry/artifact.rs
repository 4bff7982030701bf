//! Reads and writes the manifests and configs of components (CNCF TAG Runtime, "Wasm OCI artifact layout").

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use reqwest::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::transfer::read_answer;
use crate::clock::Clock;
use crate::ids::PluginDigest;
use crate::plugins::{COMPONENT_BYTES_MAX, Metadata, SIGNATURE_BYTES_MAX, version};

/// The media type of an artefact's manifest (OCI image specification).
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The media type of a component's config.
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";

/// The media type of a component's only layer.
const LAYER_TYPE: &str = "application/wasm";

/// Largest manifest, in bytes. A component's manifest has a kilobyte, or two with a signature.
pub(super) const MANIFEST_BYTES_MAX: usize = 256 << 10;

/// Largest error response of a registry, in bytes.
const COMPLAINT_BYTES_MAX: usize = 64 << 10;

/// How much of a registry's text is shown, in characters.
const COMPLAINT_CHARS_MAX: usize = 300;

/// The annotation with the component's signature: the text of its `.minisig` file.
const SIGNATURE: &str = "dev.wardgate.minisig";

/// The annotation with the version (OCI image specification, "Pre-Defined Annotation Keys").
const VERSION: &str = "org.opencontainers.image.version";

/// The fields of a manifest that matter here.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn new(media_type: &str, bytes: &[u8]) -> Self {
        let digest = PluginDigest::of(bytes).to_string();
        Self { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 }
    }
}

/// The layer that holds the component.
pub(super) struct Layer {
    pub(super) digest: PluginDigest,
    /// Size, in bytes.
    pub(super) size: usize,
}

impl Manifest {
    pub(super) fn parse(text: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(text).context(
            "the reference is not to an artefact with a config and layers (an index of several images \
             has neither)",
        )
    }

    /// The layer of the component. An error if the artefact is not a component.
    pub(super) fn component(&self) -> anyhow::Result<Layer> {
        if self.config.media_type != CONFIG_TYPE {
            bail!("it is not a component but of the type {}", short(&self.config.media_type));
        }
        let [layer] = self.layers.as_slice() else {
            bail!("it has {} layers, and a component has one", self.layers.len());
        };
        if layer.media_type != LAYER_TYPE {
            bail!("its layer is not a component but of the type {}", short(&layer.media_type));
        }
        if layer.size > COMPONENT_BYTES_MAX {
            bail!("the component is larger than 64 MiB");
        }
        let digest = layer.digest.parse().context("its layer")?;
        Ok(Layer { digest, size: usize::try_from(layer.size)? })
    }

    pub(super) fn signature(&self) -> Option<String> {
        self.annotations.get(SIGNATURE).filter(|text| text.len() <= SIGNATURE_BYTES_MAX).cloned()
    }

    pub(super) fn version(&self) -> Option<String> {
        self.annotations.get(VERSION).and_then(|text| version(text))
    }
}

/// Creates the config and the manifest of a component.
pub(super) fn config_and_manifest(
    component: &[u8],
    signature: Option<String>,
) -> anyhow::Result<(Bytes, Bytes)> {
    let metadata = Metadata::from_component(component);
    let layer = Descriptor::new(LAYER_TYPE, component);
    let config = serde_json::to_vec(&json!({
        "created": Clock::system().now().iso(),
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer.digest],
        "component": {
            "exports": metadata.exports,
            "imports": metadata.imports,
            "target": null,
        },
    }))?;
    let signature = signature.map(|text| (SIGNATURE.to_owned(), text));
    let version = metadata.version.map(|text| (VERSION.to_owned(), text));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.to_owned()),
        config: Descriptor::new(CONFIG_TYPE, &config),
        layers: vec![layer],
        annotations: signature.into_iter().chain(version).collect(),
    };
    Ok((config.into(), serde_json::to_vec(&manifest)?.into()))
}

/// The first error in a registry's error response (OCI distribution specification, "Error Codes").
pub(super) async fn error_message(answer: Response) -> String {
    let text = read_answer(answer, COMPLAINT_BYTES_MAX, "the error").await.unwrap_or_default();
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let first = serde_json::from_slice::<Errors>(&text)
        .ok()
        .and_then(|answer| answer.errors.into_iter().next());
    match first {
        Some(error) => short(&format!("{} {}", error.code, error.message)),
        None => "it does not say why".to_owned(),
    }
}

fn short(text: &str) -> String {
    text.chars().take(COMPLAINT_CHARS_MAX).collect()
}
