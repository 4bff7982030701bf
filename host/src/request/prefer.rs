//! The `Prefer` header: how long a caller is willing to wait (RFC 7240).

use std::time::Duration;

use http::HeaderMap;

/// The preferences that the gateway supports. Others, and those it cannot parse, are ignored, as RFC 7240 section 2
/// requires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefer {
    /// `wait`: the longest time until the response (section 4.3). Capped by the settings.
    pub wait: Option<Duration>,
    /// `respond-async`: respond immediately (section 4.1).
    pub respond_async: bool,
}

impl Prefer {
    /// Parses every `Prefer` header. If a preference is repeated, the first one counts.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split(',')) {
            // A preference's parameters follow semicolons; the supported ones have none.
            let preference = preference.split(';').next().unwrap_or_default().trim();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            if value.is_empty() && name.trim().eq_ignore_ascii_case("respond-async") {
                prefer.respond_async = true;
            }
            if name.trim().eq_ignore_ascii_case("wait") && prefer.wait.is_none() {
                let seconds = value.trim().trim_matches('"').parse::<u32>();
                prefer.wait = seconds.ok().map(|seconds| Duration::from_secs(seconds.into()));
            }
        }
        prefer
    }

    /// How long to wait if the settings allow `max`.
    #[must_use]
    pub fn effective_wait(self, max: Duration) -> Duration {
        // Combined with `wait`, `respond-async` means: asynchronous unless the response is ready by then (section
        // 4.3).
        let otherwise = if self.respond_async { Duration::ZERO } else { max };
        self.wait.unwrap_or(otherwise).min(max)
    }

    /// The value of the `Preference-Applied` header (section 3).
    #[must_use]
    pub fn applied(self, max: Duration) -> Option<String> {
        // A wait above the limit is not applied.
        let wait = self.wait.filter(|wait| *wait <= max);
        let wait = wait.map(|wait| format!("wait={}", wait.as_secs()));
        match (self.respond_async, wait) {
            (true, Some(wait)) => Some(format!("respond-async, {wait}")),
            (true, None) => Some("respond-async".to_owned()),
            (false, wait) => wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(values: &[&'static str]) -> Prefer {
        let values = values.iter().map(|value| http::HeaderValue::from_static(value));
        Prefer::from_headers(
            &values.map(|value| (http::header::HeaderName::from_static("prefer"), value)).collect(),
        )
    }

    #[test]
    fn preferences_are_read_and_the_rest_is_ignored() {
        let wait = |seconds| Some(Duration::from_secs(seconds));
        for (values, expected) in [
            (&["wait=5"][..], Prefer { wait: wait(5), respond_async: false }),
            (&["respond-async, wait=10"], Prefer { wait: wait(10), respond_async: true }),
            (
                &["return=minimal; x=1", "Wait = \"7\""],
                Prefer { wait: wait(7), respond_async: false },
            ),
            (&["wait=1, wait=9"], Prefer { wait: wait(1), respond_async: false }),
            (&["wait", "wait=-1", "wait=x", "", ",;="], Prefer::default()),
        ] {
            assert_eq!(prefer(values), expected, "{values:?}");
        }
    }

    #[test]
    fn nobody_waits_longer_than_the_settings_allow() {
        let max = Duration::from_secs(60);
        assert_eq!(prefer(&["wait=5"]).effective_wait(max), Duration::from_secs(5));
        assert_eq!(prefer(&["wait=500"]).effective_wait(max), max);
        assert_eq!(prefer(&[]).effective_wait(max), max);
        assert_eq!(prefer(&["respond-async"]).effective_wait(max), Duration::ZERO);
        assert_eq!(prefer(&["wait=5, respond-async"]).effective_wait(max), Duration::from_secs(5));
        assert_eq!(prefer(&["respond-async=no"]), Prefer::default());
        assert_eq!(prefer(&["wait=5"]).applied(max).as_deref(), Some("wait=5"));
        assert_eq!(prefer(&["wait=500"]).applied(max), None);
    }
}
