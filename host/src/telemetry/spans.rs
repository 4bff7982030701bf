//! Spans of a run, by OpenTelemetry's semantic conventions for generative AI (`invoke_agent`, `chat`, `execute_tool`).

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use serde_json::json;

use super::EndedRun;
use crate::clock::Timestamp;
use crate::tasks::EndStatus;
use crate::tool::{FINAL_ANSWER, READ_RESULT};
use crate::trace::usage::{ServedBy, Usage, sum};
use crate::trace::{Event, Step};

/// The longest content of an attribute, in bytes.
const CONTENT_BYTES_MAX: usize = 8 << 10;

/// The longest text of a message, which grows by up to six times as JSON.
const MESSAGE_BYTES_MAX: usize = CONTENT_BYTES_MAX / 2;

/// The tools of the gateway's own.
const OWN_TOOLS: [&str; 2] = [READ_RESULT, FINAL_ANSWER];

/// The spans of a run: one for the run, and one for each turn of the model and each call of a tool.
pub(super) fn of(run: EndedRun<'_>, has_content: bool) -> Vec<SpanData> {
    let ids = Ids { run, root: span_id(run, 0) };
    let children = run.steps.iter().zip(1_u32..);
    let mut spans: Vec<SpanData> =
        children.filter_map(|(step, number)| ids.step(step, number, has_content)).collect();
    spans.push(ids.root(has_content));
    spans
}

struct Ids<'a> {
    run: EndedRun<'a>,
    root: SpanId,
}

/// The id of a span: the same whenever it is made from the same run.
fn span_id(run: EndedRun<'_>, number: u32) -> SpanId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(run.task.id.as_bytes()).update(&run.task.attempts.to_be_bytes());
    let digest = *hasher.update(&number.to_be_bytes()).finalize().as_bytes();
    let (id, _) = digest.split_first_chunk().unwrap_or((&[1; 8], &[]));
    SpanId::from_bytes(*id)
}

impl Ids<'_> {
    fn span(
        &self,
        id: SpanId,
        name: String,
        (start, end): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) -> SpanData {
        let trace = TraceId::from_bytes(*self.run.task.id.as_bytes());
        let parent_span_id = if id == self.root { SpanId::INVALID } else { self.root };
        SpanData {
            span_context: SpanContext::new(
                trace,
                id,
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: start,
            end_time: end,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("wardgate").build(),
        }
    }

    /// The span of a turn or a call. None for other steps.
    fn step(&self, step: &Step, number: u32, has_content: bool) -> Option<SpanData> {
        let id = span_id(self.run, number);
        match &step.event {
            Event::Model { model, usage, served_by, attempts, spending, fallback, .. } => {
                let mut attributes = vec![operation("chat")];
                attributes.push(KeyValue::new("gen_ai.request.stream", true));
                if let Some(served_by) = served_by {
                    attributes.extend(server(served_by));
                }
                attributes.extend(tokens(usage.as_deref().unwrap_or(&Usage::default())));
                let attempts = attempts.unwrap_or(1);
                attributes.push(KeyValue::new("wardgate.attempts", i64::from(attempts)));
                let cost = spending.and_then(|spending| spending.cost_micros);
                attributes.extend(count("wardgate.cost_micros", cost));
                let model = fallback.as_ref().unwrap_or(model).clone();
                attributes.push(KeyValue::new("wardgate.model", model.clone()));
                let named = served_by.as_ref().map_or(model, |served_by| served_by.model.clone());
                let span = self.span(id, format!("chat {named}"), times(step), attributes);
                Some(SpanData { span_kind: SpanKind::Client, ..span })
            }
            Event::Tool { call, plugin, mcp_server, result, is_error, ran, .. } => {
                // A name that no tool has, and an id that is none, are texts of the model: content.
                let is_known = plugin.is_some()
                    || mcp_server.is_some()
                    || OWN_TOOLS.contains(&call.name.as_str());
                let name = if is_known || has_content { call.name.as_str() } else { "unknown" };
                let mut attributes = vec![
                    operation("execute_tool"),
                    KeyValue::new("gen_ai.tool.name", name.to_owned()),
                    KeyValue::new("gen_ai.tool.type", "function"),
                ];
                if is_id(&call.id) {
                    attributes.push(KeyValue::new("gen_ai.tool.call.id", call.id.clone()));
                }
                attributes.extend(
                    plugin.iter().map(|name| KeyValue::new("wardgate.plugin", name.clone())),
                );
                if let Some(ran) = ran {
                    attributes.extend(count("wardgate.cpu_micros", Some(ran.cost.cpu_micros)));
                    attributes.extend(count("wardgate.memory_bytes", Some(ran.cost.memory_bytes)));
                }
                if has_content {
                    attributes.push(content("gen_ai.tool.call.arguments", &call.arguments));
                    attributes.push(content("gen_ai.tool.call.result", result));
                }
                let mut status = Status::Unset;
                if *is_error {
                    attributes.push(KeyValue::new("error.type", "tool_error"));
                    status = Status::error("");
                }
                let name = format!("execute_tool {name}");
                Some(SpanData { status, ..self.span(id, name, times(step), attributes) })
            }
            _ => None,
        }
    }

    /// The span of the run.
    fn root(&self, has_content: bool) -> SpanData {
        let EndedRun { task, agent, status, result, steps } = self.run;
        let mut attributes = vec![
            operation("invoke_agent"),
            KeyValue::new("gen_ai.agent.id", task.agent.to_string()),
            KeyValue::new("wardgate.tenant", task.tenant.to_string()),
            KeyValue::new("wardgate.task", task.id.to_string()),
            KeyValue::new("wardgate.attempt", i64::from(task.attempts)),
        ];
        let mut name = "invoke_agent".to_owned();
        attributes.extend(
            task.thread.iter().map(|id| KeyValue::new("gen_ai.conversation.id", id.to_string())),
        );
        if let Some(agent) = agent {
            let named = agent.definition.name.to_string();
            name = format!("invoke_agent {named}");
            attributes.push(KeyValue::new("gen_ai.agent.name", named));
            attributes.push(KeyValue::new("gen_ai.agent.version", agent.version.to_string()));
        }
        let turns = steps.iter().filter_map(|step| match &step.event {
            Event::Model { usage, served_by, .. } => Some((usage.as_deref(), served_by.as_deref())),
            _ => None,
        });
        let (mut all, mut last) = (Usage::default(), None);
        for (usage, served_by) in turns {
            all = usage.map_or(all.clone(), |usage| added(&all, usage));
            last = served_by.or(last);
        }
        attributes.extend(last.into_iter().flat_map(server));
        attributes.extend(tokens(&all));
        if has_content {
            let text = |role: &str, text: &str| {
                let text = text.get(..text.floor_char_boundary(MESSAGE_BYTES_MAX)).unwrap_or(text);
                let parts = json!([{"type": "text", "content": text}]);
                json!([{"role": role, "parts": parts}]).to_string()
            };
            let prompt = steps.iter().find_map(|step| match &step.event {
                Event::Prompt { text } => Some(text),
                _ => None,
            });
            attributes.extend(
                prompt.map(|prompt| KeyValue::new("gen_ai.input.messages", text("user", prompt))),
            );
            if status == EndStatus::Completed {
                let answer = text("assistant", result);
                attributes.push(KeyValue::new("gen_ai.output.messages", answer));
            }
        }
        let ended_well = matches!(status, EndStatus::Completed | EndStatus::Stopped);
        let status = match ended_well {
            true => Status::Unset,
            false => {
                attributes.push(KeyValue::new("error.type", status.as_str()));
                // The reason may repeat what a provider says of a prompt.
                Status::error(if has_content { cut(result) } else { String::new() })
            }
        };
        let starts = steps.iter().map(|step| times(step).0).min();
        let ends = steps.iter().map(|step| times(step).1).max();
        let created = system_time(task.created_at);
        let start = starts.unwrap_or(created);
        let time = (start, ends.unwrap_or(start));
        SpanData { status, ..self.span(self.root, name, time, attributes) }
    }
}

/// Whether a text is an id, as providers make them.
fn is_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

fn operation(name: &'static str) -> KeyValue {
    KeyValue::new("gen_ai.operation.name", name)
}

/// Who took a turn.
fn server(served_by: &ServedBy) -> Vec<KeyValue> {
    let ServedBy { provider, model, address, port, finish_reason } = served_by;
    let mut attributes = vec![
        KeyValue::new("gen_ai.provider.name", provider.clone()),
        KeyValue::new("gen_ai.request.model", model.clone()),
        KeyValue::new(
            "gen_ai.response.finish_reasons",
            Value::Array(vec![opentelemetry::StringValue::from(finish_reason.clone())].into()),
        ),
        KeyValue::new("server.address", address.clone()),
    ];
    attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    attributes
}

/// Tokens by the conventions: input includes what a cache held, and output includes reasoning.
fn tokens(usage: &Usage) -> impl Iterator<Item = KeyValue> {
    [
        ("gen_ai.usage.input_tokens", usage.input()),
        ("gen_ai.usage.output_tokens", usage.all_output()),
        ("gen_ai.usage.cache_read.input_tokens", usage.cache_read),
        ("gen_ai.usage.cache_creation.input_tokens", usage.cache_write),
        ("gen_ai.usage.reasoning.output_tokens", usage.reasoning),
    ]
    .into_iter()
    .filter_map(|(name, tokens)| count(name, tokens))
}

fn added(all: &Usage, usage: &Usage) -> Usage {
    Usage {
        fresh_input: sum([all.fresh_input, usage.fresh_input]),
        cache_read: sum([all.cache_read, usage.cache_read]),
        cache_write: sum([all.cache_write, usage.cache_write]),
        output: sum([all.output, usage.output]),
        reasoning: sum([all.reasoning, usage.reasoning]),
        reported: None,
    }
}

/// An attribute with a count, if it is known.
fn count(name: &'static str, count: Option<u64>) -> Option<KeyValue> {
    let count = i64::try_from(count?).unwrap_or(i64::MAX);
    Some(KeyValue::new(name, count))
}

fn content(name: &'static str, text: &str) -> KeyValue {
    KeyValue::new(name, cut(text))
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(CONTENT_BYTES_MAX)).unwrap_or_default().to_owned()
}

/// When a step began and ended.
fn times(step: &Step) -> (SystemTime, SystemTime) {
    let start = system_time(step.at);
    (start, start.checked_add(Duration::from_micros(step.micros)).unwrap_or(start))
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at.micros()).unwrap_or_default())
}
