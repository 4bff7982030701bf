//! Wardgate: any HTTP request can trigger an AI agent, and every integration is a sandboxed component.
//!
//! The program `wardgate` is this library behind a command line ([`cli`]). It can be embedded as well:
//!
//! ```no_run
#![doc = include_str!("../examples/embed.rs")]
//! ```
//!
//! Components are compiled by processes of the program `wardgate`, so an embedding program needs one beside its own
//! executable.
//!
//! Where to begin reading:
//!
//! | to learn | read |
//! |---|---|
//! | how the parts are made and served | [`gateway`] |
//! | what a request passes through | [`http`], then [`intake`], [`runs`], [`agent`] and [`answer`] |
//! | what a plugin can do, and what stops it | [`sandbox`], and [`plugins`] for names, versions and grants |
//! | how a provider's webhook is verified, mapped and answered | [`channel`] |
//! | what is stored, and how | [`store`] |
//!
//! The groups of modules, top down. A module imports only from lower ones; docs/ARCHITECTURE.md has the exact order and
//! the path of a request.

pub mod cli;
pub mod gateway;

pub mod channel;
pub mod http;
pub mod outbox;
pub mod runs;
pub mod watch;

pub mod access;
pub mod agent;
pub mod answer;
pub mod fixture;
pub mod intake;
pub mod mcp;
pub mod plugins;
pub mod replay;
pub mod vault;

mod outbound;
pub mod sandbox;
pub mod store;
pub mod telemetry;

pub mod approval;
pub mod fault;
pub mod request;
pub mod tasks;
pub mod tenants;
pub mod tool;
pub mod trace;

pub mod bulk;
pub mod clock;
pub mod disk;
pub mod ids;
mod invisible;
pub mod low_priority;
pub mod memory;
pub mod oci_reference;
pub mod secrets;
pub mod settings;
mod shares;
pub mod tls;
