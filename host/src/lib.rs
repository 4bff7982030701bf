//! Wardgate: any HTTP request can trigger an AI agent, and every integration is a sandboxed component.
//!
//! The groups of modules, top down. A module imports only from lower ones; docs/ARCHITECTURE.md has the exact order.

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
pub mod plugins;
pub mod replay;
pub mod vault;

mod outbound;
pub mod sandbox;
pub mod store;

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
pub mod low_priority;
pub mod memory;
pub mod oci_reference;
pub mod secrets;
pub mod settings;
mod shares;
pub mod tls;
