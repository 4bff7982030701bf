//! Checks the arguments of tool calls: a model's text is untrusted.

use serde_json::Value;

/// How much of a tool's schema an error repeats to the model, in bytes.
const SCHEMA_BYTES_MAX: usize = 4096;

/// Checks that the arguments of a call are a JSON object.
///
/// # Errors
/// A text for the model, with the schema that the arguments have to fit.
pub(super) fn check(arguments: &str, schema: &Value) -> Result<(), String> {
    let problem = match serde_json::from_str::<Value>(arguments) {
        Ok(Value::Object(_)) => return Ok(()),
        Ok(_) => "they are JSON, but not an object".to_owned(),
        Err(error) => error.to_string(),
    };
    let schema = schema.to_string();
    let schema = match schema.len() <= SCHEMA_BYTES_MAX {
        true => format!(" that fits this schema: {schema}"),
        false => String::new(),
    };
    Err(format!(
        "the tool was not called: its arguments are not a JSON object ({problem}). Call it again with an object{schema}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_an_object_or_refused_with_the_schema() {
        let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
        for good in ["{}", " {\"path\": \"a\"}\n"] {
            assert_eq!(check(good, &schema), Ok(()), "{good}");
        }
        for bad in [
            "",
            " ",
            "null",
            "[]",
            "[{}]",
            "1",
            "\"{}\"",
            "{",
            "{\"path\"",
            "{\"path\":",
            "{\"path\": \"a\"",
            "{\"path\": \"a}",
            "{path: 1}",
            "{'path': 1}",
            "{\"path\": \"a\",}",
            "{} {}",
            "{}{",
            "{}x",
            "```json\n{}\n```",
            "{\"path\": NaN}",
            "{\"path\": \"\u{1}\"}",
            "undefined",
        ] {
            let why = check(bad, &schema).unwrap_err();
            assert!(why.contains("was not called") && why.contains("\"path\""), "{bad}: {why}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert!(check(&deep, &schema).is_err());
        let long = json!({"description": "x".repeat(SCHEMA_BYTES_MAX)});
        assert!(check("", &long).unwrap_err().len() < 300);
    }
}
