//! What a plugin can be: one module for each role, with the trait to implement.
//!
//! The bindings of each role come from a WIT world of its own, so that a plugin exports the roles it
//! names and no others; the imported types are the same in all of them.

use crate::{HttpReply, Json};
use alloc::string::String;
use alloc::vec::Vec;

// `generate!`, from build.rs: it names the version that `wit/` has.
include!(concat!(env!("OUT_DIR"), "/generate.rs"));

macro_rules! role {
    ($(#[$doc:meta])* $role:ident, $world:literal, $interface:ident) => {
        $(#[$doc])*
        pub mod $role {
            #[doc(hidden)]
            pub mod bindings {
                generate!($world);
            }

            pub use bindings::exports::wardgate::plugin::$interface::*;
        }
    };
}

role! {
    /// Decides whether a request comes from whom it says. Exported by [`export_verifier!`](crate::export_verifier).
    verifier, "verifies", verifier
}
role! {
    /// Turns a payload into parameters of a run. Exported by [`export_mapper!`](crate::export_mapper).
    mapper, "maps", payload_mapper
}
role! {
    /// Gets one value out of a finished task. Exported by [`export_getter!`](crate::export_getter).
    getter, "gets", response_getter
}
role! {
    /// Shapes the answer in the provider's format. Exported by [`export_replier!`](crate::export_replier).
    replier, "replies", replier
}
role! {
    /// Tools that an agent may call. Exported by [`export_toolbox!`](crate::export_toolbox).
    toolbox, "tools", toolbox
}

role! {
    /// Says what settings the plugin takes. Exported by [`export_about!`](crate::export_about).
    about, "describes", about
}

/// Exports a type that implements [`verifier::Guest`] as the plugin's verifier.
#[macro_export]
macro_rules! export_verifier {
    ($plugin:ident) => {
        $crate::export_role!($plugin as verifier);
    };
}

/// Exports a type that implements [`mapper::Guest`] as the plugin's payload mapper.
#[macro_export]
macro_rules! export_mapper {
    ($plugin:ident) => {
        $crate::export_role!($plugin as mapper);
    };
}

/// Exports a type that implements [`getter::Guest`] as the plugin's response getter.
#[macro_export]
macro_rules! export_getter {
    ($plugin:ident) => {
        $crate::export_role!($plugin as getter);
    };
}

/// Exports a type that implements [`replier::Guest`] as the plugin's replier.
#[macro_export]
macro_rules! export_replier {
    ($plugin:ident) => {
        $crate::export_role!($plugin as replier);
    };
}

/// Exports a type that implements [`toolbox::Guest`] as the plugin's toolbox.
#[macro_export]
macro_rules! export_toolbox {
    ($plugin:ident) => {
        $crate::export_role!($plugin as toolbox);
    };
}

/// Exports a type that implements [`about::Guest`] as what the plugin says of itself.
#[macro_export]
macro_rules! export_about {
    ($plugin:ident) => {
        $crate::export_role!($plugin as about);
    };
}

/// Natively there is nothing to export, and native linkers choke on the names: only the types are
/// checked, so that a plugin's tests build.
#[doc(hidden)]
#[macro_export]
macro_rules! export_role {
    ($plugin:ident as $role:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::$role::bindings::export!($plugin with_types_in $crate::$role::bindings);
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() = || {
            fn has_role<P: $crate::$role::Guest>() {}
            has_role::<$plugin>();
        };
    };
}

impl mapper::Mapped {
    /// Starts the agent. Without further ado it sees the payload as it came.
    pub fn run() -> Self {
        Self::with_action("run")
    }

    /// Acknowledges the request and starts nothing: an event that is of no interest here.
    pub fn ignore() -> Self {
        Self::with_action("ignore")
    }

    /// Answers at once and starts nothing: a handshake.
    pub fn reply(reply: HttpReply) -> Self {
        Self { reply: Some(reply), ..Self::with_action("reply") }
    }

    /// Sets a parameter: `task_id`, `user_id`, `user_email`, `user_first_name`, `user_last_name` or
    /// `prompt`.
    #[must_use]
    pub fn with_param(mut self, target: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((target.into(), value.into()));
        self
    }

    /// Puts a JSON object in the place of the payload in the agent's context.
    #[must_use]
    pub fn with_context(mut self, context: Json) -> Self {
        self.context = Some(context);
        self
    }

    /// Names the delivery as its sender does, so that a second one like it starts no second run.
    #[must_use]
    pub fn with_delivery_id(mut self, id: impl Into<String>) -> Self {
        self.delivery_id = Some(id.into());
        self
    }

    fn with_action(action: &str) -> Self {
        Self {
            action: action.into(),
            params: Vec::new(),
            context: None,
            delivery_id: None,
            reply: None,
            extra: None,
        }
    }
}

impl HttpReply {
    /// An answer with this status and body, and no headers yet.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), extra: None }
    }

    /// Adds a header; its name is given in lower case.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl toolbox::Tool {
    /// A tool with the JSON Schema of its arguments. Until [`Self::with_annotations`] says otherwise
    /// the gateway treats it as destructive.
    pub fn new(
        name: impl Into<String>,
        description: impl Into<String>,
        input_schema: impl Into<Json>,
    ) -> Self {
        Self {
            name: name.into(),
            title: None,
            description: description.into(),
            input_schema: input_schema.into(),
            output_schema: None,
            annotations: None,
            extra: None,
        }
    }

    /// Adds the JSON Schema of the tool's result.
    #[must_use]
    pub fn with_output_schema(mut self, schema: impl Into<Json>) -> Self {
        self.output_schema = Some(schema.into());
        self
    }

    /// Adds MCP annotations, a JSON object such as `{"readOnlyHint":true}`.
    #[must_use]
    pub fn with_annotations(mut self, annotations: impl Into<Json>) -> Self {
        self.annotations = Some(annotations.into());
        self
    }
}

impl verifier::Principal {
    /// Somebody whom the sender did not name.
    pub fn anonymous() -> Self {
        Self { id: None, attributes: None, extra: None }
    }

    /// Somebody of whom the sender gave an id.
    pub fn named(id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::anonymous() }
    }
}

impl about::Diagnostic {
    /// Something wrong with the setting at this RFC 6901 pointer.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), extra: None }
    }
}
