//! A toolbox with two hundred thousand tools that share one name.

use guests::sdk::toolbox::{Guest, Tool};
use guests::{Failure, Json};

struct Toolbox;

impl Guest for Toolbox {
    fn list_tools() -> Result<Vec<Tool>, Failure> {
        Ok((0..200_000).map(|_| Tool::new("", "", "")).collect())
    }

    fn call_tool(_: String, _: Json) -> Result<Json, Failure> {
        Ok("null".into())
    }
}

guests::sdk::export_toolbox!(Toolbox);
