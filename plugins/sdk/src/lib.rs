//! What a Wardgate plugin is written with.
//!
//! A plugin is a WebAssembly component that exports one or more **roles**. Each role has a module here
//! with the trait to implement and a macro that exports it:
//!
//! | role | trait | macro | called |
//! |---|---|---|---|
//! | [`verifier`] | [`verifier::Guest`] | [`export_verifier!`] | once for each request, first |
//! | [`mapper`] | [`mapper::Guest`] | [`export_mapper!`] | once for each request, after verifying |
//! | [`getter`] | [`getter::Guest`] | [`export_getter!`] | once for each answer that asks for a value |
//! | [`replier`] | [`replier::Guest`] | [`export_replier!`] | once for each answer |
//! | [`toolbox`] | [`toolbox::Guest`] | [`export_toolbox!`] | for the list of tools, then for each tool call |
//! | [`about`] | [`about::Guest`] | [`export_about!`] | when settings are about to take effect |
//!
//! **Every call gets an instance of its own**, which is dropped afterwards: a `static` is fresh in each
//! call, nothing is left over from another tenant, and memory need not be freed. What a call is about
//! is therefore not passed but asked for: [`request`], [`task`], [`context`], [`config`]. Further doors
//! are [`secrets`], [`egress`], [`keyvalue`], [`clock`] and [`logging`]. A plugin that names none of a module's functions does
//! not import it, and what it does not import the operator need not grant.
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
//! Its `Cargo.toml` says `crate-type = ["cdylib"]`; `cargo build --release --target wasm32-wasip2` makes
//! the component. The standard library may be used; [`without_std!`] is for plugins that do without.
//!
//! # A provider's integration
//!
//! Verifier, mapper, settings and replier of one provider go well together in one plugin: see
//! [`integration`], with [`signature`], [`settings`], [`mapping`] and [`answer`] for what they have in
//! common, and [`host`] for how they are tested without a server.
//!
//! # Memory
//!
//! With the feature `bump-allocator` (on by default) memory is handed out and never taken back, since it
//! is gone when the call ends. A plugin that allocates and frees in a long loop, in sum more than its
//! memory limit, should turn the feature off; one without the standard library then brings an allocator.

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

/// The imports, generated once; the roles refer to these types.
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
