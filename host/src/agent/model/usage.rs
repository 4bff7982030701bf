//! What providers report of a turn's tokens, in our classes.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::settings::Price;
use crate::trace::usage::{Spending, Usage, sum};

/// How many bytes of text make a token where nobody has counted: English has four and a half, JSON three.
const BYTES_PER_TOKEN: usize = 4;

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
    let prompt = count("/prompt_tokens");
    // A part is not larger than the whole.
    let cache_read = cache_read.map(|read| prompt.map_or(read, |prompt| read.min(prompt)));
    Usage {
        fresh_input: without(prompt, [cache_read, cache_write]),
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

/// What a turn takes from budgets. What its provider has not reported is estimated from the bytes that were sent and
/// received.
pub(super) fn spending(
    usage: &Usage,
    price: Option<&Price>,
    (sent, received): (usize, usize),
) -> Spending {
    let (no_input, no_output) = (usage.input().is_none(), usage.all_output().is_none());
    let counted = Usage {
        fresh_input: if no_input { Some(tokens(sent)) } else { usage.fresh_input },
        output: if no_output { Some(tokens(received)) } else { usage.output },
        reported: None,
        ..*usage
    };
    let classes = [counted.fresh_input, counted.cache_write, counted.output, counted.reasoning];
    Spending {
        tokens: sum(classes).unwrap_or_default(),
        cost_micros: price.map(|price| cost_micros(&counted, price)),
        is_estimated: no_input || no_output,
    }
}

/// About how many tokens a text of this many bytes has.
pub(super) fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u64::MAX)
}

/// The cost of these tokens, rounded up. A class that is unknown is part of another one, or empty.
fn cost_micros(usage: &Usage, price: &Price) -> u64 {
    let &Price { input, output, cache_read, cache_write, reasoning } = price;
    let classes = [
        (usage.fresh_input, input),
        (usage.cache_read, cache_read.unwrap_or(input)),
        (usage.cache_write, cache_write.unwrap_or(input)),
        (usage.output, output),
        (usage.reasoning, reasoning.unwrap_or(output)),
    ];
    let micros = classes.into_iter().fold(0_u128, |sum, (tokens, price)| {
        sum.saturating_add(u128::from(tokens.unwrap_or_default()) * u128::from(price))
    });
    u64::try_from(micros.div_ceil(1_000_000)).unwrap_or(u64::MAX)
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
    fn a_turn_costs_what_each_class_costs_rounded_up() {
        let price =
            Price { input: 3, output: 15, cache_read: Some(1), cache_write: None, reasoning: None };
        let usage = |fresh_input, cache_read, cache_write, output, reasoning| Usage {
            fresh_input: Some(fresh_input),
            cache_read: Some(cache_read),
            cache_write: Some(cache_write),
            output: Some(output),
            reasoning: Some(reasoning),
            reported: None,
        };
        let million = 1_000_000;
        let spent = |usage: &Usage| spending(usage, Some(&price), (0, 0));
        let each = spent(&usage(million, million, million, million, million));
        assert_eq!(each.cost_micros, Some(3 + 1 + 3 + 15 + 15));
        assert_eq!(each.tokens, 4 * million, "what a cache held is not counted");
        assert_eq!(spent(&usage(1, 0, 0, 0, 0)).cost_micros, Some(1), "rounded up");
        let most = spent(&usage(u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX));
        assert_eq!(most.tokens, u64::MAX, "no sum overflows");
        assert_eq!(spending(&usage(1, 1, 1, 1, 1), None, (0, 0)).cost_micros, None);
    }

    #[test]
    fn what_is_not_reported_is_estimated_and_never_nothing() {
        let price = Price {
            input: 1_000_000,
            output: 1_000_000,
            cache_read: None,
            cache_write: None,
            reasoning: None,
        };
        let silent = spending(&Usage::default(), Some(&price), (4000, 401));
        let expected = Spending { tokens: 1101, cost_micros: Some(1101), is_estimated: true };
        assert_eq!(silent, expected);
        let half = Usage { output: Some(7), ..Usage::default() };
        assert_eq!(spending(&half, None, (4000, 401)).tokens, 1007);
    }

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
