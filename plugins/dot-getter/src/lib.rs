//! The default response getter: `getter` is a dot path into the finished task, such as `result.summary`.
//!
//! The path may continue into JSON inside a string, because an agent's `result` is a string even if its text
//! is JSON. A path that leads to nothing yields no value; only a malformed path is a failure.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::string::String;
use wardgate_sdk::getter::Guest;
use wardgate_sdk::{DotPath, Failure, Json, task};

struct DotGetter;

impl Guest for DotGetter {
    fn get_value(path: String) -> Result<Option<Json>, Failure> {
        let path = DotPath::parse(&path)?;
        Ok(path.find_with(task::json))
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_getter!(DotGetter);
