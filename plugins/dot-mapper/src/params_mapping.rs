//! Parses `params_mapping`, a flat object from targets to dot paths.

use alloc::format;
use alloc::string::String;
use core::fmt;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use wardgate_sdk::{DotPath, Failure};

/// The parameters of a run that a payload can set. The agent, the key and the other reserved names are set
/// by the caller, never by the author of the payload.
const TARGETS: [&str; 6] =
    ["task_id", "user_id", "user_email", "user_first_name", "user_last_name", "prompt"];

/// A valid `params_mapping`: for each target, the path that occurs last.
#[derive(Default)]
pub(crate) struct ParamsMapping {
    paths: [Option<DotPath>; TARGETS.len()],
}

impl ParamsMapping {
    /// Parses a mapping. Fails with `invalid-input` and a message that says what is wrong, and where.
    pub(crate) fn parse(json: &str) -> Result<Self, Failure> {
        serde_json::from_str(json).map_err(|error| {
            Failure::invalid_input(if error.is_data() {
                format!("params_mapping: {error}")
            } else {
                format!("params_mapping is not valid JSON: {error}")
            })
        })
    }

    /// The targets of the mapping, with their paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&'static str, &DotPath)> {
        TARGETS
            .into_iter()
            .zip(&self.paths)
            .filter_map(|(target, path)| Some((target, path.as_ref()?)))
    }
}

/// Deserializes directly from the text: building a tree of values would cost more than the mapping itself.
impl<'de> Deserialize<'de> for ParamsMapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParamsMappingVisitor)
    }
}

struct ParamsMappingVisitor;

impl<'de> Visitor<'de> for ParamsMappingVisitor {
    type Value = ParamsMapping;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of paths such as {\"prompt\":\"message.text\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParamsMapping, A::Error> {
        let mut mapping = ParamsMapping::default();
        while let Some((target, path)) = map.next_entry::<String, String>()? {
            let known =
                TARGETS.into_iter().zip(&mut mapping.paths).find(|(name, _)| *name == target);
            let Some((_, slot)) = known else {
                let expected = TARGETS.join(", ");
                return Err(A::Error::custom(format!(
                    "unknown target `{target}`, expected one of {expected}"
                )));
            };
            *slot = Some(DotPath::parse(&path).map_err(A::Error::custom)?);
        }
        Ok(mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        let failure = ParamsMapping::parse(json).err().unwrap();
        assert_eq!(failure.code, "invalid-input");
        failure.message
    }

    #[test]
    fn paths_come_with_their_targets() {
        let mapping =
            ParamsMapping::parse(r#" {"prompt":"message.text", "task_id" : "chat\u002eid"} "#)
                .unwrap();
        let found: Vec<_> =
            mapping.paths().map(|(target, path)| (target, path.pointer())).collect();
        assert_eq!(found, [("task_id", "/chat/id"), ("prompt", "/message/text")]);
    }

    #[test]
    fn an_empty_object_maps_nothing() {
        assert_eq!(ParamsMapping::parse("{}").unwrap().paths().count(), 0);
    }

    #[test]
    fn the_last_of_several_paths_counts() {
        let mapping = ParamsMapping::parse(r#"{"prompt":"a","prompt":"b"}"#).unwrap();
        assert_eq!(mapping.paths().next().unwrap().1.pointer(), "/b");
    }

    #[test]
    fn broken_json_is_refused() {
        for json in
            ["", "{", "prompt", r#"{"prompt":"a",}"#, r#"{"prompt":"a"} x"#, r#"{"prompt" "a"}"#]
        {
            let message = refusal(json);
            assert!(message.starts_with("params_mapping is not valid JSON: "), "{json}: {message}");
        }
    }

    #[test]
    fn what_is_not_an_object_of_paths_is_refused() {
        for json in [
            "null",
            "[]",
            "7",
            r#""a""#,
            r#"{"prompt":7}"#,
            r#"{"prompt":null}"#,
            r#"{"prompt":["a"]}"#,
        ] {
            let message = refusal(json);
            assert!(message.starts_with("params_mapping: invalid type: "), "{json}: {message}");
        }
    }

    #[test]
    fn an_unknown_target_is_named() {
        assert_eq!(
            refusal(r#"{"x-api-key":"a"}"#),
            "params_mapping: unknown target `x-api-key`, expected one of task_id, user_id, \
             user_email, user_first_name, user_last_name, prompt at line 1 column 17"
        );
    }

    #[test]
    fn a_malformed_path_is_repeated() {
        let message = refusal(r#"{"prompt":"a..b"}"#);
        assert!(message.contains("`a..b` has an empty segment"), "{message}");
    }

    #[test]
    fn nesting_does_not_matter() {
        refusal(&"[".repeat(1_000_000));
        refusal(&"{\"prompt\":".repeat(100_000));
    }
}
