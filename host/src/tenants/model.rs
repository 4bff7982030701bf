//! Models that a tenant brings along.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use url::Url;

use super::Defined;
use crate::ids::{ModelName, SecretName};
use crate::settings::{ModelSettings, Price, Protocol, StructuredOutput};

/// A model as its owner defines it: the content of a model file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelDefinition {
    /// The protocol that its server speaks.
    pub kind: Protocol,
    /// The base URL, up to and including the version, as in `https://api.openai.com/v1/`. If omitted, that of the
    /// provider whose protocol it is; required for `openai-compatible`. A model that a tenant's admin sets has one with
    /// HTTPS and a public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub base_url: Option<Url>,
    /// The model's name on that server.
    pub model: String,
    /// The tenant's secret that is the key. If omitted, no key is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretName>,
    /// The header that the key is sent in, if not as a bearer token: `api-key` for Azure. For `openai-compatible`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_header: Option<String>,
    /// The time limit of one attempt at a turn, in seconds. 120 if omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_max: Option<u64>,
    /// How much effort the model puts into reasoning, in the provider's own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    /// The most tokens of reasoning in a turn. For `anthropic` and `gemini`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<u32>,
    /// The most tokens of a conversation, with the output of its last turn. 128,000 if omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u32>,
    /// The most output tokens of a turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<u32>,
    /// How the model is held to an agent's `output_schema`. If omitted, as suits its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured_output: Option<StructuredOutput>,
    /// The model that takes a turn if this one's server fails: another one of the tenant's, or one of the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// What its tokens cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

impl ModelDefinition {
    /// The same as settings, with this key.
    #[must_use]
    pub fn settings(&self, api_key: SecretString) -> ModelSettings {
        let turn_time_max = self.seconds_max.map(Duration::from_secs);
        ModelSettings {
            kind: self.kind,
            base_url: self.base_url.clone(),
            model: self.model.clone(),
            api_key,
            key_header: self.key_header.clone(),
            turn_time_max: turn_time_max.unwrap_or_else(crate::settings::turn_time_max),
            effort: self.effort.clone(),
            thinking_tokens: self.thinking_tokens,
            context_tokens: self.context_tokens.unwrap_or_else(crate::settings::context_tokens),
            output_tokens_max: self.output_tokens_max,
            structured_output: self.structured_output,
            fallback: self.fallback.clone(),
            price: self.price,
        }
    }
}

/// A model of a tenant, as stored.
pub type TenantModel = Defined<ModelName, ModelDefinition>;
