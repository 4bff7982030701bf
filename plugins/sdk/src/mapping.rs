//! What mappers have in common: which events start a run, and where in the payload prompt, thread and
//! user are.

use crate::host::Host;
use crate::mapper::Mapped;
use crate::settings::{Form, Setting};
use crate::{DotPath, Failure};

/// Which events start a run; all others are acknowledged and start nothing.
pub const EVENTS: Setting = Setting {
    name: "events",
    default: Some("*"),
    form: Form::Text,
    description: "The events that start a run, separated by spaces or commas. `*` at an end stands \
                  for anything: `invoice.*`.",
};

/// Where the prompt is in the payload.
pub const PROMPT_PATH: Setting = Setting {
    name: "prompt-path",
    default: Some(""),
    form: Form::Path,
    description: "The dot path of the prompt in the payload, such as `data.text`. Without it the \
                  integration says what happened.",
};

/// Where the thread is in the payload.
pub const THREAD_PATH: Setting = Setting {
    name: "thread-path",
    default: Some(""),
    form: Form::Path,
    description: "The dot path of what names the thread in the payload, such as `data.customer`.",
};

/// Where the user is in the payload.
pub const USER_PATH: Setting = Setting {
    name: "user-path",
    default: Some(""),
    form: Form::Path,
    description: "The dot path of the user's id in the payload.",
};

/// Whether a list of patterns, as in [`EVENTS`], has one for this name.
pub fn listed(patterns: &str, name: &str) -> bool {
    patterns.split([' ', ',', '\n', '\t']).filter(|pattern| !pattern.is_empty()).any(|pattern| {
        match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        }
    })
}

/// Adds what [`PROMPT_PATH`], [`THREAD_PATH`] and [`USER_PATH`] point at. A path that leads nowhere
/// leaves what was there.
pub fn with_paths(host: &impl Host, mut mapped: Mapped) -> Result<Mapped, Failure> {
    for (setting, target) in
        [(PROMPT_PATH, "prompt"), (THREAD_PATH, "task_id"), (USER_PATH, "user_id")]
    {
        let path = setting.read(host)?;
        if path.is_empty() {
            continue;
        }
        let path = DotPath::parse(&path)?;
        if let Some(value) = host.scalar(path.pointer()) {
            mapped.params.retain(|(found, _)| found != target);
            mapped = mapped.with_param(target, value);
        }
    }
    Ok(mapped)
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
        ] {
            assert_eq!(listed(patterns, name), found, "{patterns} {name}");
        }
    }
}
