//! What providers report of a turn's tokens, in our classes.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::trace::usage::{Usage, sum};

/// The longest report that counts, in bytes of JSON.
const REPORTED_BYTES_MAX: usize = 4096;

/// The most arrays and objects of a report.
const REPORTED_DEPTH_MAX: usize = 32;

/// What a provider reports, unless it is too long to be a report.
pub(super) fn reported(raw: &RawValue) -> Option<Value> {
    let raw = raw.get();
    let depth = raw.bytes().filter(|byte| b"[{".contains(byte)).count();
    let is_report = raw.len() <= REPORTED_BYTES_MAX && depth <= REPORTED_DEPTH_MAX;
    is_report.then(|| serde_json::from_str(raw).ok()).flatten()
}

/// From OpenAI's `usage`, whose totals include what its details name.
pub(super) fn from_openai(reported: Value) -> Usage {
    let count = |pointer: &str| reported.pointer(pointer).and_then(Value::as_u64);
    // DeepSeek's own names come second.
    let cache_read =
        count("/prompt_tokens_details/cached_tokens").or_else(|| count("/prompt_cache_hit_tokens"));
    let cache_write = count("/prompt_tokens_details/cache_write_tokens");
    let reasoning = count("/completion_tokens_details/reasoning_tokens");
    Usage {
        fresh_input: without(count("/prompt_tokens"), [cache_read, cache_write]),
        cache_read,
        cache_write,
        output: without(count("/completion_tokens"), [reasoning, None]),
        reasoning,
        reported: Some(reported),
    }
}

/// From Anthropic's `usage`, whose input does not include what was cached.
pub(super) fn from_anthropic(reported: Value) -> Usage {
    let count = |name: &str| reported.get(name).and_then(Value::as_u64);
    Usage {
        fresh_input: count("input_tokens"),
        cache_read: count("cache_read_input_tokens"),
        cache_write: count("cache_creation_input_tokens"),
        output: count("output_tokens"),
        reasoning: None,
        reported: Some(reported),
    }
}

/// From Gemini's `usageMetadata`, whose prompt includes what was cached, and whose candidates do not include
/// thoughts.
pub(super) fn from_gemini(reported: Value) -> Usage {
    let count = |name: &str| reported.get(name).and_then(Value::as_u64);
    let cache_read = count("cachedContentTokenCount");
    let prompt = sum([count("promptTokenCount"), count("toolUsePromptTokenCount"), None]);
    Usage {
        fresh_input: without(prompt, [cache_read, None]),
        cache_read,
        cache_write: None,
        output: count("candidatesTokenCount"),
        reasoning: count("thoughtsTokenCount"),
        reported: Some(reported),
    }
}

/// A total without the parts of it that are known. A provider whose parts exceed its total contradicts itself: what is
/// left is 0.
fn without(total: Option<u64>, parts: [Option<u64>; 2]) -> Option<u64> {
    Some(total?.saturating_sub(sum(parts).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_do_not_overlap() {
        let usage = from_openai(json!({
            "prompt_tokens": 100, "completion_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 60},
            "completion_tokens_details": {"reasoning_tokens": 20},
        }));
        assert_eq!((usage.fresh_input, usage.cache_read), (Some(40), Some(60)));
        assert_eq!((usage.output, usage.reasoning), (Some(30), Some(20)));
        assert_eq!((usage.input(), usage.all_output()), (Some(100), Some(50)));

        let usage = from_anthropic(json!({
            "input_tokens": 3, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 70, "output_tokens": 5,
        }));
        assert_eq!(
            (usage.fresh_input, usage.cache_read, usage.cache_write),
            (Some(3), Some(900), Some(70))
        );
        assert_eq!(usage.input(), Some(973));

        let usage = from_gemini(json!({
            "promptTokenCount": 80, "cachedContentTokenCount": 30, "candidatesTokenCount": 7, "thoughtsTokenCount": 11,
        }));
        assert_eq!((usage.fresh_input, usage.cache_read), (Some(50), Some(30)));
        assert_eq!(
            (usage.output, usage.reasoning, usage.all_output()),
            (Some(7), Some(11), Some(18))
        );
    }

    #[test]
    fn what_is_not_reported_is_unknown_and_not_zero() {
        for usage in [
            from_openai(json!({})),
            from_openai(json!(null)),
            from_anthropic(json!({"input_tokens": "many"})),
            from_gemini(json!([])),
        ] {
            assert_eq!((usage.input(), usage.all_output()), (None, None), "{usage:?}");
        }
        let usage =
            from_openai(json!({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}));
        assert_eq!(usage.fresh_input, Some(0), "a cache of more than there was");
    }
}
