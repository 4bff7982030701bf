//! A run as a list of messages that includes every step of the trace.

use serde_json::{Value, json};

use super::parsed;
use crate::tasks::Task;
use crate::trace::{Event, Step};

/// The response of `GET /v1/tasks/{id}/thread`: the run as messages, including every step of the trace.
#[must_use]
pub fn thread(task: &Task, steps: &[Step]) -> Value {
    let mapping = task.mapping.iter().map(|mapping| {
        json!({
            "id": format!("{}_mapping", task.id),
            "role": "system",
            "content": "the payload was mapped",
            "created_at": task.created_at.seconds(),
            "mapping": shown(mapping),
        })
    });
    let messages = steps.iter().enumerate().map(|(place, step)| {
        let mut message = message(&step.event);
        if let Some(fields) = message.as_object_mut() {
            fields.insert("id".to_owned(), format!("{}_{place}", task.id).into());
            fields.insert("created_at".to_owned(), step.at.seconds().into());
            let metrics = fields.entry("metrics").or_insert_with(|| json!({}));
            if let Some(metrics) = metrics.as_object_mut() {
                metrics.insert("duration_us".to_owned(), step.micros.into());
            }
        }
        message
    });
    mapping.chain(messages).collect()
}

/// Removes the fields of a mapping that are stored only for a replay.
fn shown(mapping: &str) -> Value {
    let mut mapping = parsed(mapping);
    if let Some(fields) = mapping.as_object_mut() {
        fields.shift_remove("recording");
        fields.shift_remove("settings");
    }
    mapping
}

fn message(event: &Event) -> Value {
    match event {
        Event::Prompt { text } => json!({"role": "user", "content": text}),
        Event::Model {
            model,
            text,
            tool_calls,
            input_tokens,
            output_tokens,
            usage,
            spending,
            served_by: _,
            attempts,
            fallback,
            restarts: _,
        } => json!({
            "role": "assistant",
            "content": text,
            "model": fallback.as_ref().unwrap_or(model),
            "tool_calls": tool_calls
                .iter()
                .map(|call| json!({"id": call.id, "name": call.name, "arguments": parsed(&call.arguments)}))
                .collect::<Vec<_>>(),
            "metrics": {
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "usage": usage,
                "cost_micros": spending.and_then(|spending| spending.cost_micros),
                "attempts": attempts.unwrap_or(1),
            },
        }),
        Event::Note { text } => json!({"role": "system", "content": text}),
        Event::Tool { call, plugin, mcp_server, result, is_error, logs, ran } => json!({
            "role": "tool",
            "tool_call_id": call.id,
            "tool_name": call.name,
            "plugin": plugin,
            "mcp_server": mcp_server,
            "arguments": parsed(&call.arguments),
            "content": parsed(result),
            "is_error": is_error,
            "logs": logs,
            "digest": ran.as_ref().map(|ran| &ran.digest),
            "metrics": ran.as_ref().map_or_else(|| json!({}), |ran| json!(ran.cost)),
        }),
        Event::Approval { call, is_unknown, decision, by, comment } => json!({
            "role": "system",
            "content": format!("the call of {} was {decision}", call.name),
            "tool_call_id": call.id,
            "tool_name": call.name,
            "arguments": parsed(&call.arguments),
            "outcome_was_unknown": is_unknown,
            "decision": decision,
            "decided_by": by,
            "comment": comment,
        }),
        Event::UserTokens { items } => json!({
            "role": "system",
            "content": "tokens of the user came with the request",
            "graph_items": items,
        }),
        Event::PluginCall { call, plugin, path, value, error, logs, ran } => json!({
            "role": "system",
            "content": format!("the plugin {plugin} was called about the task: {call}"),
            "plugin": plugin,
            "call": call,
            "path": path,
            "value": value.as_deref().map(parsed),
            "error": error,
            "is_error": error.is_some(),
            "logs": logs,
            "digest": ran.digest,
            "metrics": ran.cost,
        }),
        Event::Failure { reason } => json!({"role": "system", "content": reason, "is_error": true}),
    }
}
