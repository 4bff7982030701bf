//! Black-box tests of Wardgate's promises, one module for each promise. If a test covers a row of the wire contract,
//! its name starts with that row.
//!
//! | module | promise |
//! |---|---|
//! | `contract` | every row of the wire contract has a case |
//! | `traps` | common mistakes of webhook gateways, one case each |
//! | `upgrading` | a data folder of an earlier version opens with its contents and continues to work |
//! | `conveniences` | CloudEvents, limits on waiting, request ids, CORS, and errors that say whether to retry |
//! | `xpander_webhook` | `POST /` accepts the requests of the documented callers, in every format |
//! | `xpander_answers` | `POST /` responds as documented: at once, later, with one value, as JSON |
//! | `precedence` | the mapping takes precedence over the query, and the query over the body, for every parameter |
//! | `dot_paths` | a dot path finds every value of any JSON document |
//! | `real_payloads` | dot paths find every value of real payloads, unchanged |
//! | `threads` | a conversation continues across requests, and only its own callers can join it |
//! | `surfaces` | a key, a conversation or a task id is not valid on another surface |
//! | `user_tokens` | user tokens are validated and never stored |
//! | `docsgpt_webhook` | the agent's own webhook and its polling |
//! | `idempotency` | one idempotency key starts one run |
//! | `idempotency_model` | the same, against a model with concurrent requests |
//! | `bad_input` | invalid requests are refused with a reason and leave nothing behind |
//! | `bodies_in_flight` | the memory of bodies in flight is bounded, and no sender affects others |
//! | `bodies_read` | a body is decoded by its actual format, or refused with a reason |
//! | `compiling` | a component that is expensive to compile does not affect others |
//! | `connections` | no client can take all connections |
//! | `strangers` | requests of unverified senders count against those senders only |
//! | `long_requests` | long requests are processed at low priority and do not delay others |
//! | `seed_curls` | every documented curl command works as written |
//! | `store_down` | nothing is acknowledged while the store is unavailable |
//! | `durability` | acknowledged work survives `kill -9` |
//! | `crash_agents` | a run goes on where a kill interrupted it: what has ended is not repeated, and what may have changed something is not either |
//! | `load` | ten thousand requests, valid and invalid, are all accounted for |
//! | `tenants_apart` | another tenant's data looks as if it did not exist |
//! | `every_route_apart` | the same for every route of the OpenAPI document |
//! | `admin` | operators manage tenants and keys, a tenant's admin manages that tenant |
//! | `admin_agents` | agent definitions are validated, updated with optimistic locking, and disabled immediately |
//! | `admin_plugins` | admins install plugins, operators grant capabilities |
//! | `webhook_urls` | an agent's webhook URL is stable, and its revocation takes effect immediately |
//! | `commands` | the CLI does what the admin API does, on a folder or at a remote gateway |
//! | `plugins_installed` | integrations are components that an operator installs |
//! | `inspect` | a component's needs are visible before it is installed, and missing grants are reported |
//! | `readiness` | plugins are compiled before they are called, however many there are |
//! | `plugin_misbehaves` | a misbehaving component does not affect others |
//! | `integrations` | the bundled integrations match the published examples of their providers |
//! | `integrations_live` | the bundled integrations answer through their providers' APIs |
//! | `tenant_share` | the resources of a tenant's plugins are bounded together, and other tenants are not affected |
//! | `hostile_roles` | a hostile plugin does not delay others, in any role |
//! | `reload` | a call ends on the build that it started with |
//! | `quarantine` | the circuit breaker of a failing plugin opens, probes, and closes again |
//! | `metrics` | operators can see the calls and costs of each plugin |
//! | `author_loop` | authors test a plugin without a server, and reload new builds in a running one |
//! | `channels` | a channel's plugins verify, map and answer a provider's webhook |
//! | `plugin_replies` | a response of a plugin cannot act as the gateway in a browser |
//! | `secrets` | a secret can be used only where it is granted, and is never shown |
//! | `secret_uses` | a secret can be used only for the purposes of its binding |
//! | `secrets_unread` | a plugin learns nothing about the bytes of a secret |
//! | `plugin_new` | an author gets from nothing to an installed plugin in each language |
//! | `frozen_interface` | a plugin of an older interface version still works |
//! | `plugin_supply` | plugins come from files or registries, signed if required, and can be rolled back |
//! | `foreign_components` | components that were made for other hosts work as toolboxes |
//! | `foreign_egress` | requests through `wasi:http` are subject to the same grants |
//! | `plugins_guide` | docs/PLUGINS.md works command by command |
//! | `examples` | each folder in `examples` works as its README.md says |
//! | `egress` | a component can reach only what it was granted |
//! | `capabilities` | granted capabilities work, all others are refused |
//! | `agent_runs` | an agent with a model, tools and limits |
//! | `approvals` | a call that a person has to approve is made once, as it was shown, or not at all |
//! | `budgets` | runs stop at what they may spend, and what they have spent can be read |
//! | `model_protocols` | three protocols of models, and what their servers do wrong |
//! | `mcp_endpoint` | agents and published tools as tools of `/mcp`, in every revision |
//! | `mcp_servers` | tools of MCP servers, with keys and users' tokens, and what such servers do wrong |
//! | `output_schema` | answers have the required form |
//! | `tenant_models` | tenants bring models of their own, which reach nothing of the operator's |
//! | `rest` | agents, runs and tasks under each of their names, and access to them |
//! | `streams` | a task's events are streamed live, and replayed in full to later readers |
//! | `stop` | a task can be stopped, ended or deleted from outside in every state of its run |
//! | `trace` | every step of a run can be read |
//! | `telemetry` | runs are exported as traces, without secrets |
//! | `replay` | the plugin calls of a task are replayed without side effects, and differences are shown |
//! | `openapi` | the document matches the gateway, and the page that shows it needs no other server |
//! | `log_lines` | a log line names the request, tenant, task and plugin that it concerns |
//! | `no_secrets_in_logs` | keys and tokens are never logged |
//! | `house_rules` | the rules for the layout of the source code |
//!
//! Where to add a test, by what was changed:
//!
//! | a test for | goes to |
//! |---|---|
//! | reading of settings, exit codes, the first line on stdout | `durability`; bounds: `host/src/settings/tests.rs` |
//! | a setting of `[http]` | `bodies_read` and `bad_input` (one body, its time), `bodies_in_flight` (`held_…`), `connections`, `streams`, `xpander_answers` (`sync_wait_…`), `webhook_urls` (`public_url`), `durability` and `streams` (`drain_…`) |
//! | a setting of `[sandbox]` | `tenant_share` (calls, memory), `compiling`, `readiness` (`loaded_max`), `quarantine` |
//! | a setting of `[plugins]` | `plugin_supply`, `readiness` (`preload_max`), `inspect` (`install_wait_…`) |
//! | a setting of `[queue]` | `durability` (leases, attempts), `tenants_apart` (shares), `stop` |
//! | a setting of `[agent]` or `[models]` | `agent_runs`; what limits tokens or money: `budgets` |
//! | a setting of `[telemetry]` | `telemetry` |
//! | a response header, the format of an error | `conveniences` |
//! | `wardgate plugin …` | `plugin_new`, `author_loop` (test, try), `inspect`, `plugin_supply` (install, push, versions, rollback) |
//! | `wardgate replay`, `wardgate serve` | `replay`; `durability` and `stop` |
//! | any other command | `commands` |
//! | a route for callers | `xpander_webhook`, `docsgpt_webhook`, `rest`, `streams`; a row of the contract: `contract` |
//! | a route for admins | `admin`, `admin_agents`, `admin_plugins`, `channels`, `secrets` |
//! | access to a route | `every_route_apart::by_role`, which fails until the route is listed |

mod admin;
mod admin_agents;
mod admin_plugins;
mod agent_runs;
mod approvals;
mod author_loop;
mod bad_input;
mod bodies_in_flight;
mod bodies_read;
mod budgets;
mod capabilities;
mod channels;
mod commands;
mod compiling;
mod connections;
mod contract;
mod conveniences;
mod crash_agents;
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
mod log_lines;
mod long_requests;
mod mcp_endpoint;
mod mcp_servers;
mod metrics;
mod model_protocols;
mod no_secrets_in_logs;
mod openapi;
mod output_schema;
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
mod telemetry;
mod tenant_models;
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
