//! What a tenant's agents have spent on models, day by day.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use super::super::extract::QueryParams;
use super::super::reply::json;
use super::super::responses::ReadErrors;
use super::{AdminAuth, AdminState};
use crate::clock::Day;
use crate::ids::AgentId;
use crate::store::DaySpending;

/// How many days are listed unless the query says otherwise.
const DAYS: u32 = 30;

/// The most days that can be listed.
const DAYS_MAX: u32 = 400;

/// The most rows of a list: one for each day and agent.
const ROWS_MAX: u32 = 10_000;

/// Selects the days.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// How many days to list, today (UTC) included. 30 by default.
    #[param(minimum = 1, maximum = 400)]
    days: Option<u32>,
}

/// What the runs of one agent have used on one day.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage)]
pub(super) struct UsageAnswer {
    /// The day, UTC.
    #[schema(format = Date)]
    day: String,
    agent_id: AgentId,
    /// Turns of models that cost something; those of `offline` are not counted.
    turns: u64,
    /// The tokens that budgets count: input that no cache of the provider held, and output.
    budget_tokens: u64,
    /// Turns whose provider did not report all tokens. Budgets count an estimate for them.
    estimated_turns: u64,
    /// The cost of all turns whose model has a price, in millionths of the currency that the operator's prices are in.
    cost_micros: u64,
    /// Turns whose model has no price. Their cost is unknown and not in `cost_micros`.
    unpriced_turns: u64,
    tokens: TokenCounts,
}

/// Tokens as the providers reported them. No token is in two classes.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenCounts {
    /// Input that no cache held.
    fresh_input: u64,
    /// Input from a cache of the provider.
    cache_read: u64,
    /// Input written to a cache of the provider.
    cache_write: u64,
    /// Output, without reasoning where the provider reports it separately.
    output: u64,
    /// Output of reasoning, where the provider reports it separately.
    reasoning: u64,
}

impl From<DaySpending> for UsageAnswer {
    fn from(day: DaySpending) -> Self {
        let [fresh_input, cache_read, cache_write, output, reasoning] = day.classes;
        Self {
            day: day.day.to_string(),
            agent_id: day.agent,
            turns: day.turns,
            budget_tokens: day.spent.tokens,
            estimated_turns: day.estimated_turns,
            cost_micros: day.spent.cost_micros,
            unpriced_turns: day.unpriced_turns,
            tokens: TokenCounts { fresh_input, cache_read, cache_write, output, reasoning },
        }
    }
}

/// List what a tenant's agents have used of their models: one row for each day and agent, the latest day first.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/usage",
    operation_id = "admin_list_usage", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"), UsageQuery),
    responses((status = 200, body = Vec<UsageAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    QueryParams(query): QueryParams<UsageQuery>,
) -> Result<Response, ApiError> {
    let days = query.days.unwrap_or(DAYS);
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(ApiError::caller(422, format!("days can be 1 to {DAYS_MAX}")));
    }
    let today = state.clock.now().day();
    let from = Day(today.0 - i64::from(days) + 1);
    let spending = state.store.spending(admin.tenant(), (from, today), ROWS_MAX).await?;
    let answer: Vec<UsageAnswer> = spending.into_iter().map(UsageAnswer::from).collect();
    Ok(json(StatusCode::OK, &answer))
}
