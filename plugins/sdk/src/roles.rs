//! One module for each role of a plugin, with the trait to implement.
//!
//! The bindings of each role come from a WIT world of its own, so that a plugin exports only the roles
//! it names. All roles share the imported types.

use crate::{HttpReply, Json};
use alloc::string::String;
use alloc::vec::Vec;

// build.rs writes the macro `generate_bindings!`, with the interface version from `wit/`.
include!(concat!(env!("OUT_DIR"), "/generate_bindings.rs"));

macro_rules! role {
    ($(#[$doc:meta])* $role:ident, $world:literal, $interface:ident) => {
        $(#[$doc])*
        pub mod $role {
            #[doc(hidden)]
            pub mod bindings {
                generate_bindings!($world);
            }

            pub use bindings::exports::wardgate::plugin::$interface::*;
        }
    };
}

role! {
    /// Authenticates the sender of a request. Exported by [`export_verifier!`](crate::export_verifier).
    verifier, "verifies", verifier
}
role! {
    /// Turns a payload into the parameters of a run. Exported by [`export_mapper!`](crate::export_mapper).
    mapper, "maps", payload_mapper
}
role! {
    /// Extracts one value from a finished task. Exported by [`export_getter!`](crate::export_getter).
    getter, "gets", response_getter
}
role! {
    /// Shapes and delivers answers in the provider's format. Exported by
    /// [`export_replier!`](crate::export_replier).
    replier, "replies", replier
}
role! {
    /// Offers tools that an agent may call. Exported by [`export_toolbox!`](crate::export_toolbox).
    toolbox, "tools", toolbox
}

role! {
    /// Describes and checks the plugin's settings. Exported by [`export_about!`](crate::export_about).
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

/// Exports a type that implements [`about::Guest`] as the plugin's description of its settings.
#[macro_export]
macro_rules! export_about {
    ($plugin:ident) => {
        $crate::export_role!($plugin as about);
    };
}

/// Exports a role on wasm32. Native linkers reject the export names, so a native build only checks that
/// the type implements the role: that is enough for a plugin's tests.
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
    /// Starts a run. The agent sees the payload as it arrived, unless [`Self::with_context`] replaces it.
    pub fn run() -> Self {
        Self::with_action("run")
    }

    /// Acknowledges the request without starting a run, for events that the agent need not handle.
    pub fn ignore() -> Self {
        Self::with_action("ignore")
    }

    /// Sends this response at once without starting a run, for handshakes.
    pub fn reply(reply: HttpReply) -> Self {
        Self { reply: Some(reply), ..Self::with_action("reply") }
    }

    /// Sets a parameter of the run: `task_id`, `user_id`, `user_email`, `user_first_name`,
    /// `user_last_name` or `prompt`.
    #[must_use]
    pub fn with_param(mut self, target: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((target.into(), value.into()));
        self
    }

    /// Replaces the payload in the agent's context with a JSON object.
    #[must_use]
    pub fn with_context(mut self, context: Json) -> Self {
        self.context = Some(context);
        self
    }

    /// Sets the sender's id of this delivery. A repeated delivery with the same id starts no second run.
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
    /// A response with this status and body, and no headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), extra: None }
    }

    /// Adds a header. The name must be in lower case.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl toolbox::Tool {
    /// A tool with the JSON Schema of its arguments. Without [`Self::with_annotations`], the gateway
    /// treats it as destructive.
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
    /// A verified sender without an id.
    pub fn anonymous() -> Self {
        Self { id: None, attributes: None, extra: None }
    }

    /// A verified sender with this id.
    pub fn with_id(id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::anonymous() }
    }
}

impl about::Diagnostic {
    /// A problem with the setting at this RFC 6901 pointer.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), extra: None }
    }
}
