//! Tokens of a turn, in classes that do not overlap.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The tokens of one turn. The classes are disjoint, so that their sum is the turn's. A class that the provider does not
/// report is unknown, which is not 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens that no cache held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_input: Option<u64>,
    /// Input tokens that a cache of the provider held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    /// Input tokens that were written to a cache of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Output tokens without those of reasoning, where the provider tells them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// Output tokens of reasoning, where the provider tells them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
    /// What the provider reported, unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Value>,
}

impl Usage {
    /// Replaces counts that are larger than this, which cannot be right. Returns whether there were any.
    pub fn bound(&mut self, max: u64) -> bool {
        let Self { fresh_input, cache_read, cache_write, output, reasoning, .. } = self;
        let mut is_bounded = false;
        for count in [fresh_input, cache_read, cache_write, output, reasoning].into_iter().flatten()
        {
            is_bounded |= *count > max;
            *count = (*count).min(max);
        }
        is_bounded
    }

    /// All input tokens, if any class of them is known.
    #[must_use]
    pub fn input(&self) -> Option<u64> {
        sum([self.fresh_input, self.cache_read, self.cache_write])
    }

    /// All output tokens, if any class of them is known.
    #[must_use]
    pub fn all_output(&self) -> Option<u64> {
        sum([self.output, self.reasoning])
    }
}

/// Who took a turn, in the words of OpenTelemetry's conventions for generative AI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedBy {
    /// `openai`, `azure.ai.openai`, `anthropic` or `gcp.gemini`.
    pub provider: String,
    /// The model's name at the provider.
    pub model: String,
    /// The host of its server.
    pub address: String,
    /// The port, if it is not that of the scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Why the turn ended: `stop`, `tool_calls`, `length` or `content_filter`.
    pub finish_reason: String,
}

/// What a turn takes from budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// Input tokens that no cache held, and output tokens.
    pub tokens: u64,
    /// Their cost and that of cached input, in millionths of the operator's currency. None if the model has no price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
    /// Whether the provider has not reported all of it, so that the rest is estimated from the length of texts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_estimated: bool,
}

/// The sum of the known counts, if any is known.
pub(crate) fn sum<const N: usize>(counts: [Option<u64>; N]) -> Option<u64> {
    counts.into_iter().flatten().reduce(u64::saturating_add)
}
