//! What a provider's answer to a delivery means: whether it went well, is to be tried again, or never
//! will.

use crate::Failure;
use crate::egress::Answer;
use alloc::format;

/// Whether the provider took it. Too many requests and errors on the provider's side are worth another
/// try; any other refusal is final, for the same request would be refused again.
pub fn accepted(answer: &Answer) -> Result<(), Failure> {
    match answer.status {
        200..=299 => Ok(()),
        429 => Err(rate_limited(header(answer, "retry-after"))),
        status @ (408 | 500..=599) => {
            Err(Failure::upstream(format!("the provider answered with HTTP {status}")))
        }
        status => Err(refused(&format!("HTTP {status}"))),
    }
}

/// The provider said no, for good.
pub fn refused(reason: &str) -> Failure {
    Failure::new("refused", format!("the provider refused the answer: {reason}"))
}

/// The provider asks to come back later, in so many seconds where it said so.
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
