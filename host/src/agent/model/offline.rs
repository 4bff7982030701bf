//! The built-in model that needs no key. It is not a language model, and says so: it reports what it received, calls
//! the tools that the text names together with their arguments, and reports their results. The same input always
//! gives the same output, which suits a first run, tests and plain routing.
//!
//! A tool call is written like this, anywhere in the text: `calculate {"expression": "6*7"}`.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    ContextSize, Message, Model, ModelError, StopReason, ToolResult, Turn, TurnRequest, UserMessage,
};
use crate::tool::Tool;
use crate::trace::ToolCall;
use crate::trace::usage::Spending;

/// The notice in every answer.
const NOTICE: &str = "This is the offline model: it is not a language model. It reports what it received \
    and calls the tools that the text names.";

/// Maximum number of tool calls for one text.
const CALLS_MAX: usize = 8;

/// The largest payload or result that is parsed, in bytes; a larger one is repeated as text.
const TREE_BYTES_MAX: usize = 256 << 10;

/// How much of the text the summary repeats, in characters.
const SUMMARY_CHARS_MAX: usize = 200;

/// The offline model.
#[derive(Debug)]
pub struct Offline;

impl Model for Offline {
    fn turn<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<Turn, ModelError>> {
        let turn = answer(&request);
        if !turn.text.is_empty() {
            request.text_sink.push(&turn.text);
        }
        Box::pin(std::future::ready(Ok(turn)))
    }

    fn takes_output_schema(&self, _: bool) -> bool {
        true
    }

    fn context_size(&self) -> Option<ContextSize> {
        None
    }

    fn estimate(&self, _: usize, _: Option<usize>) -> Option<Spending> {
        None
    }
}

fn answer(request: &TurnRequest<'_>) -> Turn {
    let asked_at = request.messages.iter().rposition(|m| matches!(m, Message::User(_)));
    let (before, after) = request.messages.split_at(asked_at.unwrap_or_default());
    let Some((Message::User(message), since)) = after.split_first() else {
        return Turn { text: NOTICE.to_owned(), ..Turn::default() };
    };
    if since.is_empty() {
        let tool_calls = calls_named(message, request.tools);
        if !tool_calls.is_empty() {
            return Turn { tool_calls, stop: StopReason::ToolCalls, ..Turn::default() };
        }
    }
    let earlier = before.iter().filter(|m| matches!(m, Message::User(_))).count();
    Turn { text: report(message, since, earlier).to_string(), ..Turn::default() }
}

/// The answer as JSON, so that `json=true` and `getter` can be used on it.
fn report(message: &UserMessage, since: &[Message], earlier: usize) -> Value {
    let received = message.prompt.as_deref().or(message.payload.as_deref()).unwrap_or_default();
    let results = since.iter().filter_map(|message| match message {
        Message::ToolResults(results) => Some(results),
        _ => None,
    });
    let tools: Vec<Value> = results
        .flatten()
        .map(|ToolResult { call, text, is_error, .. }| {
            json!({
                "name": call.name,
                "arguments": parsed(&call.arguments),
                "result": parsed(text),
                "is_error": is_error,
            })
        })
        .collect();
    let mut report = json!({ "summary": summary(received, &tools), "received": received });
    if let Some(object) = report.as_object_mut() {
        if message.prompt.is_some()
            && let Some(payload) = &message.payload
        {
            object.insert("payload".to_owned(), parsed(payload));
        }
        if earlier > 0 {
            object.insert("earlier_messages".to_owned(), earlier.into());
        }
        object.insert("tools".to_owned(), tools.into());
        object.insert("notice".to_owned(), NOTICE.into());
    }
    report
}

fn summary(received: &str, tools: &[Value]) -> String {
    let mut shown: String = received.chars().take(SUMMARY_CHARS_MAX).collect();
    if shown.len() < received.len() {
        shown.push('…');
    }
    let called: Vec<_> = tools
        .iter()
        .filter_map(|tool| {
            Some(format!("{} gave {}", tool.get("name")?.as_str()?, tool.get("result")?))
        })
        .collect();
    if called.is_empty() { shown } else { format!("{shown} ({})", called.join("; ")) }
}

/// Parses JSON unless it is too large: a tree takes dozens of times the memory of its text. Other texts become a
/// string.
fn parsed(text: &str) -> Value {
    let small = text.len() <= TREE_BYTES_MAX;
    let tree = small.then(|| serde_json::from_str(text).ok()).flatten();
    tree.unwrap_or_else(|| text.into())
}

/// The tools that the text names, followed by a JSON object of arguments, in text order.
fn calls_named(message: &UserMessage, tools: &[Tool]) -> Vec<ToolCall> {
    let mut texts: Vec<String> = message.prompt.iter().cloned().collect();
    if let Some(payload) = &message.payload {
        strings_in(&parsed(payload), &mut texts);
    }
    let mut calls: Vec<ToolCall> = Vec::new();
    for text in &texts {
        let mut found: Vec<_> = tools.iter().flat_map(|tool| mentions(text, &tool.name)).collect();
        found.sort_by_key(|(at, _, _)| *at);
        for (_, name, arguments) in found {
            if calls.len() == CALLS_MAX {
                return calls;
            }
            let id = format!("call_{}", calls.len() + 1);
            calls.push(ToolCall { id, name: name.to_owned(), arguments });
        }
    }
    calls
}

/// Every place where the text has the name as a word, followed by a JSON object.
fn mentions<'t>(text: &str, name: &'t str) -> Vec<(usize, &'t str, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(name) {
        let (before, rest) = text.split_at(at);
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        if before.chars().next_back().is_some_and(is_word) {
            continue;
        }
        let rest = rest.get(name.len()..).unwrap_or_default();
        let rest = rest.trim_start_matches([' ', '\t', '\n', ':', '(', '`']);
        if !rest.starts_with('{') {
            continue;
        }
        if let Some(Ok(arguments)) =
            serde_json::Deserializer::from_str(rest).into_iter::<Value>().next()
        {
            found.push((at, name, arguments.to_string()));
        }
    }
    found
}

/// The strings in a payload: the question is in one of them, with its quotes escaped.
fn strings_in(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings_in(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| strings_in(field, texts)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Received, TextSink};
    use super::*;
    use crate::ids::TenantId;
    use crate::trace::redact::Redactor;

    struct Ignored;

    impl TextSink for Ignored {
        fn push(&self, _: &str) {}
        fn restart(&self) {}
    }

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

    fn user(prompt: Option<&str>, payload: Option<&str>) -> Message {
        Message::User(UserMessage {
            prompt: prompt.map(str::to_owned),
            payload: payload.map(str::to_owned),
            fence: "f".to_owned(),
            images: Vec::new(),
            left_out_turns: 0,
        })
    }

    fn turn(messages: &[Message]) -> Turn {
        let tools = [tool("add"), tool("calculate")];
        let request = TurnRequest {
            instructions: "",
            messages,
            tools: &tools,
            output_schema: None,
            text_sink: &Ignored,
            received: &Received::default(),
            tenant: TenantId::GATEWAY,
            redactor: &Redactor::default(),
        };
        answer(&request)
    }

    #[test]
    fn it_calls_what_the_text_names_with_arguments() {
        let message = user(
            Some("first calculate: {\"e\": \"{\"} then add({\"a\":1}), not recalculate {}"),
            None,
        );
        let calls = turn(&[message]).tool_calls;
        let named: Vec<_> = calls.iter().map(|c| (c.name.as_str(), c.arguments.as_str())).collect();
        assert_eq!(named, [("calculate", "{\"e\":\"{\"}"), ("add", "{\"a\":1}")]);
        let in_payload = user(None, Some(r#"{"question":"calculate {\"e\":1}"}"#));
        assert_eq!(turn(&[in_payload]).tool_calls.len(), 1);
        for nothing in ["calculate 6*7", "calculate {broken", "add up"] {
            assert!(turn(&[user(Some(nothing), None)]).tool_calls.is_empty(), "{nothing}");
        }
    }

    #[test]
    fn it_says_what_it_received_and_that_it_is_no_language_model() {
        let call = ToolCall { id: "1".into(), name: "add".into(), arguments: "{}".into() };
        let result = ToolResult { call, number: 1, text: "{\"value\":3}".into(), is_error: false };
        let result = Message::ToolResults(vec![result]);
        let message = user(Some("please add {}"), Some("{\"k\":\"v\"}"));
        let report: Value = serde_json::from_str(&turn(&[message, result]).text).unwrap();
        assert_eq!(report["received"], "please add {}");
        assert_eq!(report["payload"], json!({"k": "v"}));
        assert_eq!(report["tools"][0]["result"]["value"], 3);
        assert_eq!(report["summary"], "please add {} (add gave {\"value\":3})");
        assert!(report["notice"].as_str().unwrap().contains("not a language model"));
    }
}
