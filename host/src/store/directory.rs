//! What operators and tenants set up: tenants, agents and keys, webhooks, channels, secrets, plugins and the
//! values that plugins keep. Few rows that are read often and change seldom.

mod channels;
mod keys;
mod plugins;
pub(super) mod secrets;
mod tenants;
pub(super) mod values;
mod webhooks;
