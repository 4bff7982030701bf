//! Classifies a provider's response to a delivery: accepted, to be retried, or refused for good.

use crate::Failure;
use crate::egress::Answer;
use alloc::format;

/// Checks that the provider accepted a delivery. 408, 429 and 5xx become failures that the gateway retries
/// later. Any other status is final, because the same request would be refused again.
pub fn check_response(answer: &Answer) -> Result<(), Failure> {
    match answer.status {
        200..=299 => Ok(()),
        429 => Err(rate_limited(header(answer, "retry-after"))),
        status @ (408 | 500..=599) => {
            Err(Failure::upstream(format!("the provider answered with HTTP {status}")))
        }
        status => Err(refused(&format!("HTTP {status}"))),
    }
}

/// The provider refused the delivery for good; the gateway does not retry it.
pub fn refused(reason: &str) -> Failure {
    Failure::new("refused", format!("the provider refused the answer: {reason}"))
}

/// The provider limits the rate: retry later, after `seconds` if the provider sent such a number.
pub fn rate_limited(seconds: Option<&str>) -> Failure {
    let failure = Failure::rate_limited("the provider asks to come back later");
    match seconds.and_then(|seconds| seconds.trim().parse::<u64>().ok()) {
        Some(seconds) => failure.retry_after_ms(seconds.saturating_mul(1000)),
        None => failure,
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let found = answer.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}
