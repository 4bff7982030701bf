//! Finds JSON objects with the same name twice, which readers understand differently: what a person is shown may then be
//! something else than what a tool does.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Whether no object of this JSON text has a name twice. A text that is not JSON has none.
pub(super) fn has_unique_names(json: &str) -> bool {
    serde_json::from_str::<UniqueNames>(json).is_ok()
}

struct UniqueNames;

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Names)
    }
}

struct Names;

/// Accepts values without names.
macro_rules! accept {
    ($($visit:ident: $value:ty),* $(,)?) => {$(
        fn $visit<E: Error>(self, _: $value) -> Result<UniqueNames, E> {
            Ok(UniqueNames)
        }
    )*};
}

impl<'de> Visitor<'de> for Names {
    type Value = UniqueNames;

    accept! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<UniqueNames, E> {
        Ok(UniqueNames)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<UniqueNames, A::Error> {
        while list.next_element::<UniqueNames>()?.is_some() {}
        Ok(UniqueNames)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<UniqueNames, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, UniqueNames)) = object.next_entry::<String, UniqueNames>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a name is repeated"));
            }
        }
        Ok(UniqueNames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_is_found_at_any_depth_and_in_any_spelling() {
        for unique in
            ["{}", "[1, null, true, 1.5, \"a\"]", r#"{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}"#]
        {
            assert!(has_unique_names(unique), "{unique}");
        }
        for repeated in [r#"{"a": 1, "a": 2}"#, r#"[{"b": {"a": 1, "\u0061": 2}}]"#, "{"] {
            assert!(!has_unique_names(repeated), "{repeated}");
        }
    }
}
