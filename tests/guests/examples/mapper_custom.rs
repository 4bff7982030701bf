//! A mapper for a made-up chat: `/text` is the prompt, `/chat` is the thread, and the agent sees a context that
//! the mapper builds. `/delivery`, if present, is the delivery's id.

use guests::{Failure, Mapped, request};
use serde_json::json;

guests::mapper!(|_| {
    let text =
        request::scalar("/text").ok_or_else(|| Failure::invalid_input("there is no text"))?;
    let chat = request::scalar("/chat").unwrap_or_default();
    let context = json!({"channel": "made-up", "characters": text.chars().count()});
    let mapped = Mapped::run()
        .with_param("prompt", text)
        .with_param("task_id", chat)
        .with_context(context.to_string());
    Ok(match request::scalar("/delivery") {
        Some(id) => mapped.with_delivery_id(id),
        None => mapped,
    })
});
