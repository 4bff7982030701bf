//! Tool names for the functions of a component: at most 64 letters, digits, `_` and `-`, each name used once. The
//! same component gets the same names each time.

use std::collections::HashSet;

/// Longest name of a tool, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The names in use.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    /// A tool name for a function of an interface, or of the component itself.
    pub(super) fn name(&mut self, interface: Option<&str>, function: &str) -> String {
        // For example `[static]counter.make`, of a resource that no parameter has.
        let function = function.rsplit(']').next().unwrap_or(function);
        let proposed = match interface {
            Some(interface) => format!("{}-{function}", last_part(interface)),
            None => function.to_owned(),
        };
        let proposed: String = proposed.chars().map(allowed).take(NAME_BYTES_MAX).collect();
        let mut name = proposed.clone();
        for number in 2.. {
            if self.0.insert(name.clone()) {
                break;
            }
            let suffix = format!("-{number}");
            let kept = NAME_BYTES_MAX - suffix.len();
            name = proposed.chars().take(kept).chain(suffix.chars()).collect();
        }
        name
    }
}

/// `ops` of `docs:calculator/ops@0.1.0`.
fn last_part(interface: &str) -> &str {
    let unversioned = interface.split('@').next().unwrap_or(interface);
    unversioned.rsplit('/').next().unwrap_or(unversioned)
}

fn allowed(c: char) -> char {
    if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_and_unique() {
        let mut names = Names::default();
        assert_eq!(names.name(None, "add"), "add");
        assert_eq!(names.name(Some("docs:calculator/ops@0.1.0"), "add"), "ops-add");
        assert_eq!(names.name(Some("other:calculator/ops"), "add"), "ops-add-2");
        assert_eq!(names.name(Some("plain"), "[static]counter.make"), "plain-counter-make");
        let long = "a".repeat(100);
        assert_eq!(names.name(None, &long), "a".repeat(64));
        assert_eq!(names.name(None, &long), format!("{}-2", "a".repeat(62)));
        assert_eq!(names.name(None, &long), format!("{}-3", "a".repeat(62)));
    }
}
