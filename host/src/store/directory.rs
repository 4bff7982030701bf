//! What operators and tenants set up: tenants, agents and keys, webhooks, channels, secrets, plugins and the values
//! that plugins store. Few rows, read often and rarely changed.

mod channels;
mod definitions;
mod keys;
mod plugins;
pub(super) mod secrets;
mod tenants;
pub(super) mod values;
mod webhooks;
