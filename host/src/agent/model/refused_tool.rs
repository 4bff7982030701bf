//! Finds the tool whose description a model's server refuses, so that a run can go on without it. Providers name it by its
//! place in the request or by its name.

use crate::tool::Tool;

/// What stands before the place of a tool, in the words of the three protocols. Gemini's tools are functions within one
/// tool, so that its own words come first.
const PLACES: [&str; 4] = ["function_declarations[", "functionDeclarations[", "tools[", "tools."];

/// What stands before the name of a tool. The name is quoted.
const NAMES: [&str; 4] = ["function ", "tool ", "function: ", "tool: "];

/// The name of the tool that this text of an error is about.
pub(super) fn refused_tool<'a>(text: &str, tools: &'a [Tool]) -> Option<&'a str> {
    let by_place = PLACES.iter().find_map(|before| {
        let (_, rest) = text.split_once(before)?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end)?.parse::<usize>().ok()
    });
    if let Some(place) = by_place {
        return tools.get(place).map(|tool| tool.name.as_str());
    }
    let is_named = |tool: &&Tool| {
        NAMES.iter().any(|before| {
            ["'", "\"", "`"]
                .iter()
                .any(|quote| text.contains(&format!("{before}{quote}{}{quote}", tool.name)))
        })
    };
    tools.iter().find(is_named).map(|tool| tool.name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(name: &str) -> Tool {
        Tool {
            name: name.to_owned(),
            description: String::new(),
            input_schema: json!({}),
            output_schema: None,
            destructive: false,
            idempotent: false,
        }
    }

    #[test]
    fn a_tool_is_found_by_its_place_or_by_its_name() {
        let tools = ["read", "write", "search"].map(tool);
        for (text, name) in [
            ("Invalid schema for function 'write': In context=(), 'required' is required", "write"),
            ("tools.2.custom.input_schema: JSON schema is invalid", "search"),
            ("Invalid 'tools[1].function.parameters': schema must be an object", "write"),
            (
                "* GenerateContentRequest.tools[0].function_declarations[2].parameters_json_schema: unknown field $ref",
                "search",
            ),
        ] {
            assert_eq!(refused_tool(text, &tools), Some(name), "{text}");
        }
        for text in [
            "max_tokens is too large",
            "registry.ollama.ai/library/x does not support tools",
            "tools.7.name: too long",
            "tools.x",
            "tools[",
            "tools[99999999999999999999999]",
            "the model cannot write",
        ] {
            assert_eq!(refused_tool(text, &tools), None, "{text}");
        }
    }
}
