//! Turns a provider's payload into parameters of an agent run.
//!
//! This one starts a run for each message of a chat; one chat is one thread. It looks up the values that
//! it needs (RFC 6901 pointers into the payload) instead of parsing all of it.

use wardgate_sdk::mapper::{Guest, Mapped};
use wardgate_sdk::{Failure, Json, request};

struct PayloadMapper;

impl Guest for PayloadMapper {
    // `_spec` is the caller's `params_mapping`, for mappers that take instructions.
    fn map_payload(_spec: Option<Json>) -> Result<Mapped, Failure> {
        let Some(text) = request::scalar("/message/text") else {
            return Ok(Mapped::ignore()); // a sticker, a member who left: nothing to answer
        };
        let chat = request::scalar("/message/chat/id")
            .ok_or_else(|| Failure::invalid_input("the message has no chat"))?;
        let mut mapped = Mapped::run()
            .with_param("prompt", text)
            .with_param("task_id", chat);
        // The provider's own id of this delivery: when it is sent again, no second run starts.
        mapped.delivery_id = request::header("x-delivery-id");
        Ok(mapped)
    }
}

wardgate_sdk::export_mapper!(PayloadMapper);
