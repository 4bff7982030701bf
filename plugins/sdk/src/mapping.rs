//! Settings that mappers share: which events start a run, whose events are ignored, and the paths of
//! prompt, thread and user in the payload.

use crate::about::Diagnostic;
use crate::host::Host;
use crate::mapper::Mapped;
use crate::settings::{Format, Setting, SettingValues};
use crate::{DotPath, Failure};
use alloc::vec::Vec;

/// The events that start a run. All others are acknowledged and ignored.
pub const EVENTS: Setting = Setting {
    name: "events",
    default: Some("*"),
    format: Format::Text,
    description: "The events that start a run, separated by spaces or commas. `*` at an end stands \
                  for anything: `invoice.*`.",
};

/// The path of the prompt in the payload.
pub const PROMPT_PATH: Setting = Setting {
    name: "prompt-path",
    default: Some(""),
    format: Format::DotPath,
    description: "The dot path of the prompt in the payload, such as `data.text`. Without it the \
                  integration says what happened.",
};

/// The path of the thread's id in the payload.
pub const THREAD_PATH: Setting = Setting {
    name: "thread-path",
    default: Some(""),
    format: Format::DotPath,
    description: "The dot path of what names the thread in the payload, such as `data.customer`.",
};

/// The path of the user's id in the payload.
pub const USER_PATH: Setting = Setting {
    name: "user-path",
    default: Some(""),
    format: Format::DotPath,
    description: "The dot path of the user's id in the payload.",
};

/// The users whose events are ignored. An agent that writes to the place its events come from would answer
/// itself for ever; only the operator knows which account it writes with.
pub const IGNORED_USERS: Setting = Setting {
    name: "ignored-users",
    default: Some(""),
    format: Format::Text,
    description: "The users whose events start nothing, by the ids that runs have as `user_id`, separated \
                  by spaces or commas: above all the account that the agent itself writes with.",
};

/// Whether a list of patterns, as in [`EVENTS`], matches this name. Case matters.
pub fn matches_any_pattern(patterns: &str, name: &str) -> bool {
    let is_separator = |letter: char| letter == ',' || letter.is_ascii_whitespace();
    patterns.split(is_separator).filter(|pattern| !pattern.is_empty()).any(|pattern| match pattern
        .strip_suffix('*')
    {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    })
}

/// Sets the parameters that [`PROMPT_PATH`], [`THREAD_PATH`] and [`USER_PATH`] point at, then applies
/// [`apply_ignored_users`]. A path to a missing or empty value leaves the parameter as it was.
pub fn apply_path_settings(host: &impl Host, mut mapped: Mapped) -> Result<Mapped, Failure> {
    for (setting, target) in
        [(PROMPT_PATH, "prompt"), (THREAD_PATH, "task_id"), (USER_PATH, "user_id")]
    {
        let path = setting.value(host)?;
        if path.is_empty() {
            continue;
        }
        let path = DotPath::parse(&path)?;
        if let Some(value) = host.scalar(path.pointer()).filter(|value| !value.is_empty()) {
            mapped.params.retain(|(found, _)| found != target);
            mapped = mapped.with_param(target, value);
        }
    }
    apply_ignored_users(host, mapped)
}

/// Ignores the event if its `user_id` is one of [`IGNORED_USERS`].
pub fn apply_ignored_users(host: &impl Host, mapped: Mapped) -> Result<Mapped, Failure> {
    let ignored = IGNORED_USERS.value(host)?;
    let user = mapped.params.iter().find(|(target, _)| target == "user_id");
    match user.is_some_and(|(_, user)| matches_any_pattern(&ignored, user)) {
        true => Ok(Mapped::ignore()),
        false => Ok(mapped),
    }
}

/// Checks that [`IGNORED_USERS`] comes with [`USER_PATH`], for integrations that learn the user from that
/// path only.
pub fn check_ignored_users(settings: &SettingValues) -> Vec<Diagnostic> {
    let ignores_none = settings.value(&IGNORED_USERS).trim().is_empty();
    let problem = (!ignores_none && settings.value(&USER_PATH).is_empty()).then(|| {
        Diagnostic::new(
            "/ignored-users",
            "`ignored-users` needs `user-path`, by which users are known",
        )
    });
    problem.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_whole_names_or_beginnings() {
        for (patterns, name, found) in [
            ("*", "anything", true),
            ("", "anything", false),
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.b", "A.B", false),
            ("x, a.* ,y", "a.b", true),
            ("x a.*", "ab", false),
            ("a\r\nb", "a", true),
        ] {
            assert_eq!(matches_any_pattern(patterns, name), found, "{patterns} {name}");
        }
    }
}
