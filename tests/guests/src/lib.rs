//! Macros that the guests share. Each exports a role in one line, so that a guest's file shows only its
//! misbehaviour. The guests use the standard library, as most plugins do.

pub use wardgate_sdk as sdk;
pub use wardgate_sdk::mapper::Mapped;
pub use wardgate_sdk::{Failure, Json, egress, logging, request, secrets, task};

/// Exports a mapper from a function `fn(Option<Json>) -> Result<Mapped, Failure>`.
#[macro_export]
macro_rules! mapper {
    ($map_payload:expr) => {
        struct Mapper;
        impl $crate::sdk::mapper::Guest for Mapper {
            fn map_payload(spec: Option<$crate::Json>) -> Result<$crate::Mapped, $crate::Failure> {
                let map_payload: fn(Option<$crate::Json>) -> _ = $map_payload;
                map_payload(spec)
            }
        }
        $crate::sdk::export_mapper!(Mapper);
    };
}

/// Exports a getter from a function `fn(String) -> Result<Option<Json>, Failure>`.
#[macro_export]
macro_rules! getter {
    ($get_value:expr) => {
        struct Getter;
        impl $crate::sdk::getter::Guest for Getter {
            fn get_value(path: String) -> Result<Option<$crate::Json>, $crate::Failure> {
                let get_value: fn(String) -> _ = $get_value;
                get_value(path)
            }
        }
        $crate::sdk::export_getter!(Getter);
    };
}

/// Exports a toolbox with one tool, a function `fn(serde_json::Value) -> Result<Json, Failure>`. The tool has
/// no annotations, so it counts as destructive.
#[macro_export]
macro_rules! tool {
    ($name:literal, $call_tool:expr) => {
        struct Toolbox;
        impl $crate::sdk::toolbox::Guest for Toolbox {
            fn list_tools() -> Result<Vec<$crate::sdk::toolbox::Tool>, $crate::Failure> {
                let schema = r#"{"type":"object"}"#;
                Ok(vec![$crate::sdk::toolbox::Tool::new($name, "A tool of a test.", schema)])
            }

            fn call_tool(
                _: String,
                arguments: $crate::Json,
            ) -> Result<$crate::Json, $crate::Failure> {
                let call_tool: fn(serde_json::Value) -> _ = $call_tool;
                call_tool(serde_json::from_str(&arguments).unwrap_or_default())
            }
        }
        $crate::sdk::export_toolbox!(Toolbox);
    };
}

/// Starts a run with this text as the prompt, by which a guest reports to a test what it observed.
pub fn prompt(text: impl Into<String>) -> Result<Mapped, Failure> {
    Ok(Mapped::run().with_param("prompt", text))
}
