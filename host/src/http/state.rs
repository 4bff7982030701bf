//! The state of each surface: the services that its handlers use, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::sync::CancellationToken;

use super::admin::AdminState;
use super::approvals::ApprovalState;
use super::body::BodyReader;
use super::budget::BodyBudget;
use super::concurrency::{Operations, Streams};
use super::hooks::HookState;
use super::layers::LayerState;
use super::mcp::{CallsInFlight, McpServices, McpState};
use super::metrics::MetricsState;
use super::rest::RestState;
use super::rest::follow::EventStreams;
use super::submission::Submitter;
use super::webhook::WebhookState;
use super::webhook_url::WebhookUrlState;
use crate::access::Access;
use crate::access::approval_links::ApprovalLinks;
use crate::access::webhooks::Webhooks;
use crate::answer::PostRunRecorder;
use crate::bulk::BulkLane;
use crate::channel::Channels;
use crate::clock::Clock;
use crate::mcp::McpServers;
use crate::plugins::Plugins;
use crate::runs::Runs;
use crate::settings::{HttpSettings, ModelSettings};
use crate::store::Store;
use crate::vault::Vault;

/// The services behind the HTTP surface. The gateway creates them, and [`super::router`] gives each surface those
/// that it uses. Clones share them.
#[derive(Debug, Clone)]
pub struct Services {
    /// Authenticates callers.
    pub access: Access,
    /// The plugins of all tenants.
    pub plugins: Plugins,
    /// Accepts, follows and ends tasks.
    pub runs: Runs,
    /// Stores tasks and the directory of tenants.
    pub store: Store,
    /// Tokens and URLs of agents' own webhooks.
    pub webhooks: Webhooks,
    /// Links by which a person decides about a tool call.
    pub approval_links: ApprovalLinks,
    /// The secrets of tenants.
    pub vault: Vault,
    /// The MCP servers of tenants.
    pub mcp: McpServers,
    /// Channels for providers' webhooks.
    pub channels: Channels,
    /// Records plugin calls after a run.
    pub post_run: PostRunRecorder,
    /// The models of the settings, which all agents may use.
    pub models: Arc<BTreeMap<String, ModelSettings>>,
    /// The base of URLs in responses, without a trailing slash.
    pub public_url: String,
    /// The clock.
    pub clock: Clock,
    /// The settings of the surface.
    pub settings: HttpSettings,
    /// Cancelled shortly before a gateway that is shutting down drops its connections. Requests that wait for a task
    /// then respond with its state so far.
    pub shutdown_deadline: CancellationToken,
    /// Maximum number of concurrent direct tool calls of one tenant: as many as its runs, which call tools too.
    pub operations_per_tenant_max: usize,
    /// The budget for bytes of request bodies.
    pub bodies: BodyBudget,
    /// Handles requests with long bodies, and runs with long payloads.
    pub bulk: Arc<BulkLane>,
}

/// The state of the router: one handle to the states of all surfaces.
#[derive(Debug, Clone)]
pub(super) struct HttpState(Arc<States>);

#[derive(Debug)]
struct States {
    access: Access,
    bodies: BodyReader,
    store: Store,
    webhook: Arc<WebhookState>,
    webhook_url: Arc<WebhookUrlState>,
    hooks: Arc<HookState>,
    rest: Arc<RestState>,
    admin: Arc<AdminState>,
    approvals: Arc<ApprovalState>,
    metrics: Arc<MetricsState>,
    layers: Arc<LayerState>,
    mcp: Arc<McpState>,
}

impl HttpState {
    pub(super) fn new(services: &Services) -> Self {
        let Services {
            access,
            plugins,
            runs,
            store,
            webhooks,
            approval_links,
            vault,
            mcp,
            channels,
            post_run,
            models,
            public_url,
            clock,
            settings,
            shutdown_deadline,
            operations_per_tenant_max,
            bodies: budget,
            bulk,
        } = services.clone();
        let bodies = BodyReader::new(budget.clone(), &settings);
        let submitter = Submitter {
            runs: runs.clone(),
            sync_wait_max: settings.sync_wait_max,
            shutdown_deadline: shutdown_deadline.clone(),
        };
        let streams = Streams::new(settings.streams_per_tenant_max);
        let webhook = WebhookState {
            access: access.clone(),
            bodies: bodies.clone(),
            plugins: plugins.clone(),
            submitter: submitter.clone(),
            post_run: post_run.clone(),
        };
        let webhook_url = WebhookUrlState {
            access: access.clone(),
            store: store.clone(),
            webhooks: webhooks.clone(),
        };
        let hooks = HookState {
            channels: channels.clone(),
            bodies: bodies.clone(),
            plugins: plugins.clone(),
            submitter: submitter.clone(),
            post_run,
            clock: clock.clone(),
        };
        let events = EventStreams {
            store: store.clone(),
            runs: runs.clone(),
            clock: clock.clone(),
            approval_links: approval_links.clone(),
            limit: streams.clone(),
            shutdown_deadline: shutdown_deadline.clone(),
        };
        let operations = Operations::new(operations_per_tenant_max);
        let services = McpServices {
            access: access.clone(),
            store: store.clone(),
            plugins: plugins.clone(),
            submitter: submitter.clone(),
            operations: operations.clone(),
            calls: CallsInFlight::default(),
        };
        let mcp_server = McpState::new(access.clone(), bodies.clone(), services, &public_url);
        let rest = RestState {
            access: access.clone(),
            bodies: bodies.clone(),
            plugins: plugins.clone(),
            store: store.clone(),
            runs: runs.clone(),
            submitter,
            events,
            operations,
            approval_links: approval_links.clone(),
            public_url,
            shutdown_deadline,
        };
        let approvals = ApprovalState {
            store: store.clone(),
            runs: runs.clone(),
            links: approval_links.clone(),
        };
        let metrics = MetricsState {
            access: access.clone(),
            plugins: plugins.clone(),
            streams,
            bodies: budget.clone(),
        };
        let admin = AdminState {
            access: access.clone(),
            bodies: bodies.clone(),
            plugins,
            store: store.clone(),
            runs,
            channels,
            vault,
            mcp,
            webhooks,
            approval_links,
            models,
            clock,
        };
        let layers = LayerState { bodies: budget, bulk };
        Self(Arc::new(States {
            access,
            bodies,
            store,
            webhook: Arc::new(webhook),
            webhook_url: Arc::new(webhook_url),
            hooks: Arc::new(hooks),
            rest: Arc::new(rest),
            admin: Arc::new(admin),
            approvals: Arc::new(approvals),
            metrics: Arc::new(metrics),
            layers: Arc::new(layers),
            mcp: Arc::new(mcp_server),
        }))
    }

    /// Authenticates callers, for extractors.
    pub(super) fn access(&self) -> &Access {
        &self.0.access
    }

    /// Reads bodies, for extractors.
    pub(super) fn bodies(&self) -> &BodyReader {
        &self.0.bodies
    }
}

impl FromRef<HttpState> for Store {
    fn from_ref(state: &HttpState) -> Self {
        state.0.store.clone()
    }
}

/// Lets the handlers of a surface extract its state.
macro_rules! surface_states {
    ($($field:ident: $state:ty),* $(,)?) => {$(
        impl FromRef<HttpState> for Arc<$state> {
            fn from_ref(state: &HttpState) -> Self {
                Arc::clone(&state.0.$field)
            }
        }
    )*};
}

surface_states! {
    webhook: WebhookState,
    webhook_url: WebhookUrlState,
    hooks: HookState,
    rest: RestState,
    admin: AdminState,
    approvals: ApprovalState,
    metrics: MetricsState,
    layers: LayerState,
    mcp: McpState,
}
