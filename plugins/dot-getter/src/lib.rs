//! The default response getter: `getter`, a dot path into the finished task, such as `result.summary`.
//! It looks into JSON that is held in strings, for an agent's `result` is a string also where its text
//! is JSON. Nothing at the path is an answer of its own, not a failure; only a malformed path is one.

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
