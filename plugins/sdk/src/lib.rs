//! The SDK for Wardgate plugins.
//!
//! A plugin is a WebAssembly component that exports one or more **roles**. Each role has a module here
//! with the trait to implement and a macro that exports it:
//!
//! | role | trait | macro | called |
//! |---|---|---|---|
//! | [`verifier`] | [`verifier::Guest`] | [`export_verifier!`] | once per request, first |
//! | [`mapper`] | [`mapper::Guest`] | [`export_mapper!`] | once per request, after verification |
//! | [`getter`] | [`getter::Guest`] | [`export_getter!`] | once per response whose caller sent a `getter` |
//! | [`replier`] | [`replier::Guest`] | [`export_replier!`] | once per response, and once per delivery attempt |
//! | [`toolbox`] | [`toolbox::Guest`] | [`export_toolbox!`] | for the list of tools, then for each tool call |
//! | [`about`] | [`about::Guest`] | [`export_about!`] | before new settings take effect |
//!
//! **Every call runs in its own instance**, which is dropped afterwards. A `static` is fresh in each
//! call, no state of another tenant is visible, and memory need not be freed. A call has few or no
//! parameters: the plugin reads what it needs from [`request`], [`task`], [`context`] and [`config`].
//! The other imports are [`secrets`], [`egress`], [`keyvalue`], [`clock`] and [`logging`]. A plugin
//! that calls no function of a module does not import it, so the operator need not grant it.
//!
//! # A complete plugin
//!
//! ```
//! use wardgate_sdk::mapper::{Guest, Mapped};
//! use wardgate_sdk::{Failure, Json, request};
//!
//! /// Starts a run for each message of a chat; one chat is one thread.
//! struct ChatMapper;
//!
//! impl Guest for ChatMapper {
//!     fn map_payload(_spec: Option<Json>) -> Result<Mapped, Failure> {
//!         let Some(text) = request::scalar("/message/text") else {
//!             return Ok(Mapped::ignore()); // a sticker, a member who left: nothing to answer
//!         };
//!         let chat = request::scalar("/message/chat/id")
//!             .ok_or_else(|| Failure::invalid_input("the message has no chat"))?;
//!         Ok(Mapped::run().with_param("prompt", text).with_param("task_id", chat))
//!     }
//! }
//!
//! wardgate_sdk::export_mapper!(ChatMapper);
//! ```
//!
//! Its `Cargo.toml` sets `crate-type = ["cdylib"]`; `cargo build --release --target wasm32-wasip2` builds
//! the component. A plugin may use the standard library. One that does not calls [`without_std!`].
//!
//! # A provider's integration
//!
//! The verifier, mapper, settings and replier of one provider fit well into one plugin; see
//! [`integration`]. The modules [`signature`], [`settings`], [`mapping`] and [`answer`] hold what
//! integrations share. [`host`] lets tests run their logic without a gateway.
//!
//! # Memory
//!
//! With the feature `bump-allocator` (on by default), only the newest block is ever freed: all memory is
//! released when the call ends. Disable the feature in a plugin whose allocations during one call add up
//! to more than its memory limit; without the standard library, the plugin must then provide an
//! allocator.

#![no_std]

extern crate alloc;

#[cfg(any(test, all(feature = "bump-allocator", target_arch = "wasm32")))]
mod allocator;
pub mod answer;
pub mod clock;
pub mod delivery;
mod failure;
pub mod host;
pub mod integration;
pub mod json;
pub mod mapping;
mod path;
mod roles;
pub mod settings;
pub mod signature;
#[cfg(feature = "testing")]
pub mod testing;
#[doc(hidden)]
pub mod without_std;

/// The bindings of the imports, generated once; the bindings of the roles reuse their types.
#[expect(missing_docs, reason = "generated from wit/, which documents what needs documenting")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "imports",
        generate_all,
        // `http-reply` is used by roles only.
        generate_unused_types: true,
    });
}

pub use bindings::wardgate::plugin::types::{Failure, Field, HttpReply, Json};
pub use bindings::wardgate::plugin::{context, egress, request, secrets, task};
pub use bindings::wasi::config::store as config;
pub use bindings::wasi::keyvalue;
pub use bindings::wasi::logging::logging;
pub use path::{DotPath, InvalidPath};
pub use roles::{about, getter, mapper, replier, toolbox, verifier};
