//! What Wardgate promises, from outside. One module is one promise; a test's name begins with the row
//! of the wire contract that it holds, where it holds one.
//!
//! | module | promise |
//! |---|---|
//! | `contract` | every row of the wire contract, one case each |
//! | `traps` | what others get wrong, one case each |
//! | `upgrading` | a data folder of an earlier version opens, holds what it held, and goes on |
//! | `conveniences` | CloudEvents, waiting, request ids, browsers, errors that say what to do |
//! | `xpander_webhook` | `POST /` takes what the documented callers send, in every shape |
//! | `xpander_answers` | and answers it as documented: at once, later, one value, as JSON |
//! | `precedence` | mapping before query before body, for every parameter |
//! | `dot_paths` | a path leads to every value of any JSON |
//! | `real_payloads` | nothing of a real payload is out of reach, and nothing of it changes on the way |
//! | `threads` | a conversation goes on, and nobody else's can be joined |
//! | `surfaces` | a key, a conversation or a task's id means nothing on another surface |
//! | `user_tokens` | tokens of users are checked and kept nowhere |
//! | `docsgpt_webhook` | the agent's own webhook and its polling |
//! | `idempotency` | one key, one run, whatever happens |
//! | `idempotency_model` | and that as a model, for whatever arrives at once |
//! | `bad_input` | what is wrong is refused with a reason, and leaves nothing behind |
//! | `bodies_in_flight` | what bodies hold together is bounded, and whoever holds much of it harms nobody else |
//! | `bodies_read` | a body is read as what it is, or refused with a reason |
//! | `compiling` | a component that is a bomb for compilers harms nobody |
//! | `connections` | no client takes all connections |
//! | `strangers` | what an unverified sender sends is held against the sender alone |
//! | `long_requests` | a long request is worked on at low priority, and holds up nobody |
//! | `seed_curls` | every documented curl works as it is written |
//! | `store_down` | without a store nothing is acknowledged |
//! | `durability` | what was acknowledged survives `kill -9` |
//! | `load` | ten thousand requests at once, good and bad, add up |
//! | `tenants_apart` | what belongs to another tenant does not exist |
//! | `every_route_apart` | and no route of the document makes an exception |
//! | `admin` | an operator manages tenants and keys, a tenant's admin what is the tenant's |
//! | `admin_agents` | agents are checked, changed one after the other, and switched off at once |
//! | `admin_plugins` | plugins are installed by admins, and granted something by operators |
//! | `webhook_urls` | an agent's own URL stays the same, and ends at once |
//! | `commands` | the command line does what the admin surface does, on a folder or elsewhere |
//! | `plugins_installed` | integrations are components that an operator installs |
//! | `inspect` | what a component asks for is seen before it is installed, and what it lacks is said |
//! | `readiness` | plugins are ready when they are called, however many there are |
//! | `plugin_misbehaves` | a bad component harms nobody else |
//! | `integrations` | the shipped integrations hold to what their providers publish |
//! | `integrations_live` | and answer through their providers' own APIs |
//! | `tenant_share` | what a tenant's plugins hold together is bounded, and no other tenant notices |
//! | `hostile_roles` | and in no role, at no moment, does it hold up anybody else |
//! | `reload` | a call ends on the build that it began with |
//! | `quarantine` | a plugin that keeps failing is cut off, tried again, and comes back |
//! | `metrics` | an operator can watch what each plugin does and costs |
//! | `author_loop` | an author tests a plugin without a server, and sees each new build in a running one |
//! | `channels` | a provider's webhook is verified, mapped, answered and its answer delivered |
//! | `plugin_replies` | an answer of a plugin cannot act as the gateway in a browser |
//! | `secrets` | a secret is used by whom it was granted to, and shown to nobody |
//! | `secret_uses` | and for what it was set for |
//! | `secrets_unread` | and a plugin learns nothing of its bytes |
//! | `plugin_new` | an author gets from nothing to an installed plugin in each language |
//! | `frozen_interface` | a plugin of an older interface works as it did |
//! | `plugin_supply` | a plugin comes from a file or a registry, signed where that is asked for, and goes back |
//! | `foreign_components` | components that were made for other hosts are tools as they are |
//! | `foreign_egress` | and what they send by `wasi:http` is held to the same grants |
//! | `plugins_guide` | docs/PLUGINS.md does what it says, command by command |
//! | `examples` | each folder in `examples` does what its README.md says, to the last line of its script |
//! | `egress` | a component reaches what it was granted, and nothing else |
//! | `capabilities` | what a component is granted works, and nothing else does |
//! | `agent_runs` | an agent with a model, tools and limits |
//! | `rest` | agents, runs and tasks under each of their names, and who may see them |
//! | `streams` | what happens in a task is told live, and the same to whoever comes later |
//! | `stop` | a task is stopped, ended or deleted from outside, wherever its run stands |
//! | `trace` | every step of a run can be read |
//! | `replay` | what plugins did is played again without the world, and what differs is shown |
//! | `openapi` | the document says what the gateway does, and the page that shows it stands alone |
//! | `no_secrets_in_logs` | no key and no token is written down in clear |
//! | `house_rules` | the layout that the rest stands on |
//!
//! By what was changed:
//!
//! | a test for | goes to |
//! |---|---|
//! | how settings are read, exit codes, the first line on stdout | `durability`; bounds: `host/src/settings.rs` |
//! | a setting of `[http]` | `bodies_read` and `bad_input` (one body, its time), `bodies_in_flight` (`held_…`), `connections`, `streams`, `xpander_answers` (`sync_wait_…`), `webhook_urls` (`public_url`), `durability` and `streams` (`drain_…`) |
//! | a setting of `[sandbox]` | `tenant_share` (calls, memory), `compiling`, `readiness` (`loaded_max`), `quarantine` |
//! | a setting of `[plugins]` | `plugin_supply`, `readiness` (`preload_max`), `inspect` (`install_wait_…`) |
//! | a setting of `[queue]` | `durability` (leases, attempts), `tenants_apart` (shares), `stop` |
//! | a setting of `[agent]` or `[models]` | `agent_runs` |
//! | a header that answers have, an error's form | `conveniences` |
//! | `wardgate plugin …` | `plugin_new`, `author_loop` (test, try), `inspect`, `plugin_supply` (install, push, versions, rollback) |
//! | `wardgate replay`, `wardgate serve` | `replay`; `durability` and `stop` |
//! | any other command | `commands` |
//! | a route of callers | `xpander_webhook`, `docsgpt_webhook`, `rest`, `streams`; a row of the contract: `contract` |
//! | a route of admins | `admin`, `admin_agents`, `admin_plugins`, `channels`, `secrets` |
//! | who may call a route | `every_route_apart::by_role`, which fails until the route is in it |

mod admin;
mod admin_agents;
mod admin_plugins;
mod agent_runs;
mod author_loop;
mod bad_input;
mod bodies_in_flight;
mod bodies_read;
mod capabilities;
mod channels;
mod commands;
mod compiling;
mod connections;
mod contract;
mod conveniences;
mod docsgpt_webhook;
mod dot_paths;
mod durability;
mod egress;
mod every_route_apart;
mod examples;
mod foreign_components;
mod foreign_egress;
mod frozen_interface;
mod hostile_roles;
mod house_rules;
mod idempotency;
mod idempotency_model;
mod inspect;
mod integrations;
mod integrations_live;
mod load;
mod long_requests;
mod metrics;
mod no_secrets_in_logs;
mod openapi;
mod plugin_misbehaves;
mod plugin_new;
mod plugin_replies;
mod plugin_supply;
mod plugins_guide;
mod plugins_installed;
mod precedence;
mod quarantine;
mod readiness;
mod real_payloads;
mod reload;
mod replay;
mod rest;
mod secret_uses;
mod secrets;
mod secrets_unread;
mod seed_curls;
mod stop;
mod store_down;
mod strangers;
mod streams;
mod support;
mod surfaces;
mod tenant_share;
mod tenants_apart;
mod threads;
mod trace;
mod traps;
mod upgrading;
mod user_tokens;
mod webhook_urls;
mod xpander_answers;
mod xpander_webhook;
