//! DocsGPT's envelope around a task (CONTRACT D4).

use serde_json::{Value, json};

use super::parsed;
use crate::tasks::{Status, Task};
use crate::trace::{Event, Step};

/// The response of `GET /api/task_status` (CONTRACT D4). An unknown task is reported as pending.
#[must_use]
pub fn task_status(task: Option<&(Task, Vec<Step>)>) -> Value {
    let Some((task, steps)) = task else {
        return json!({"status": "PENDING", "result": null});
    };
    match task.status {
        Status::Pending => json!({"status": "PENDING", "result": null}),
        Status::Executing | Status::Paused => json!({"status": "STARTED", "result": null}),
        Status::Completed => json!({
            "status": "SUCCESS",
            "result": {
                "status": "success",
                "result": {
                    "answer": task.result,
                    "sources": [],
                    "tool_calls": steps.iter().filter_map(docsgpt_tool_call).collect::<Vec<_>>(),
                    "thought": "",
                },
            },
        }),
        Status::Failed | Status::Error | Status::Stopped => {
            let reason = task.result.as_deref().unwrap_or(task.status.as_str());
            json!({"status": "FAILURE", "result": reason})
        }
    }
}

fn docsgpt_tool_call(step: &Step) -> Option<Value> {
    let Event::Tool { call, plugin, result, is_error, .. } = &step.event else {
        return None;
    };
    Some(json!({
        "tool_name": plugin,
        "action_name": call.name,
        "call_id": call.id,
        "arguments": parsed(&call.arguments),
        "result": parsed(result),
        "status": if *is_error { "error" } else { "completed" },
    }))
}
