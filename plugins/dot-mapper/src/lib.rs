//! The default payload mapper: `params_mapping` is a JSON object from parameters of the run to dot paths in
//! the payload, such as `{"task_id":"message.chat.id","prompt":"message.text"}`.
//!
//! A path that leads to nothing, or to an object, an array or null, maps nothing. The mapper runs on every
//! request, so it parses the mapping in one pass and never copies the payload from the host.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod params_mapping;

use params_mapping::ParamsMapping;
use wardgate_sdk::mapper::{Guest, Mapped};
use wardgate_sdk::{Failure, Json, request};

struct DotMapper;

impl Guest for DotMapper {
    fn map_payload(spec: Option<Json>) -> Result<Mapped, Failure> {
        let mut mapped = Mapped::run();
        let Some(spec) = spec else { return Ok(mapped) };
        for (target, path) in ParamsMapping::parse(&spec)?.paths() {
            if let Some(value) = request::scalar(path.pointer()) {
                mapped = mapped.with_param(target, value);
            }
        }
        Ok(mapped)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_mapper!(DotMapper);
