//! Approvals: what the routes for keys and for admins share, and the pages behind signed links.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::body::{BodyReader, parse_json};
use super::budget::Sender;
use super::error::{ApiError, ErrorBody};
use super::extract::{PathParams, QueryParams};
use super::reply::json;
use super::responses::LinkErrors;
use crate::access::approval_links::ApprovalLinks;
use crate::answer::approval::ApprovalAnswer;
use crate::approval::{Approval, ApprovalStatus, DecidedBy};
use crate::ids::{ApprovalId, TenantId};
use crate::invisible::is_invisible;
use crate::runs::Runs;
use crate::store::{DecideOutcome, Store};

/// The most approvals of a list.
const LISTED_MAX: u32 = 100;

/// The longest comment, in bytes.
const COMMENT_BYTES_MAX: usize = 2048;

/// The services that the pages behind signed links use.
#[derive(Debug)]
pub(super) struct ApprovalState {
    pub(super) store: Store,
    pub(super) runs: Runs,
    pub(super) links: ApprovalLinks,
}

/// Filters a list of approvals.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ApprovalsQuery {
    /// Only approvals with this status.
    #[param(inline)]
    status: Option<ApprovalStatus>,
    /// Only approvals of this task.
    task_id: Option<String>,
    /// Only approvals of this agent.
    agent_id: Option<String>,
}

/// What is said with a decision.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct Comment {
    /// A reason, at most 2,048 bytes. With a denial, the model is told.
    #[serde(default)]
    comment: Option<String>,
}

/// The newest approvals of a tenant.
pub(super) async fn list(
    store: &Store,
    links: &ApprovalLinks,
    tenant: TenantId,
    query: ApprovalsQuery,
) -> Result<Response, ApiError> {
    let approvals = match query.task_id.filter(|id| !id.is_empty()) {
        None => {
            let agent = query.agent_id.as_deref().filter(|id| !id.is_empty()).map(str::parse);
            match agent.transpose() {
                Ok(agent) => store.approvals(tenant, agent, query.status, LISTED_MAX).await?,
                // A text that cannot be an agent's id matches no approval.
                Err(_) => Vec::new(),
            }
        }
        Some(task) => {
            let task = match task.parse() {
                Ok(task) => store.task(tenant, task).await?,
                // A text that cannot be a task's id matches no task.
                Err(_) => None,
            };
            let mut approvals = match task {
                Some(task) => store.approvals_of_task(&task).await?,
                None => Vec::new(),
            };
            approvals.retain(|found| query.status.is_none_or(|status| found.status() == status));
            approvals
        }
    };
    let answer: Vec<_> =
        approvals.iter().map(|approval| ApprovalAnswer::new(approval, Some(links))).collect();
    Ok(json(StatusCode::OK, &answer))
}

/// Decides an approval of a tenant. `request` may have a comment.
pub(super) async fn decide(
    runs: &Runs,
    bodies: &BodyReader,
    (tenant, by): (TenantId, DecidedBy),
    path_params: &PathParams,
    is_approved: bool,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let id: ApprovalId = path_params.id("approval", "Approval")?;
    let (mut head, body) = request.into_parts();
    let body = bodies.read_body(Sender::from_head(&head), &mut head, body).await?;
    let comment = match body.iter().all(u8::is_ascii_whitespace) {
        true => Comment::default(),
        false => parse_json(body)?,
    };
    let comment = comment.comment.filter(|comment| !comment.is_empty());
    if comment.as_ref().is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX) {
        return Err(ApiError::caller(422, "comment is longer than 2,048 bytes"));
    }
    let approval = decided(runs.decide(tenant, id, is_approved, by, comment).await?)?;
    Ok(json(StatusCode::OK, &ApprovalAnswer::new(&approval, None)))
}

/// The approval that was decided.
fn decided(outcome: DecideOutcome) -> Result<Approval, ApiError> {
    match outcome {
        DecideOutcome::Done(approval) => Ok(approval),
        DecideOutcome::Unknown => Err(ApiError::not_found("Approval")),
        DecideOutcome::TooLate(approval) => Err(ApiError::caller(409, too_late(&approval))),
    }
}

fn too_late(approval: &Approval) -> String {
    match approval.status() {
        // Its run has not noted it yet.
        ApprovalStatus::Pending | ApprovalStatus::Expired => {
            format!("the time to decide ended at {}", approval.expires_at.iso())
        }
        ApprovalStatus::Withdrawn => "the task has ended".to_owned(),
        status => format!("it has been decided before: {status}"),
    }
}

/// The signature of a link.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SignatureQuery {
    /// The signature, from the link.
    signature: String,
}

/// Show the page of a signed link, on which a person confirms the decision.
///
/// Reading it decides nothing, so that programs which follow links do no harm. With `accept: application/json`, the
/// response is the approval.
#[utoipa::path(get, path = "/approvals/{approval}/{decision}",
    operation_id = "show_approval_page", tag = "approvals",
    params(("approval" = String, Path, description = "The approval's id"),
           ("decision" = String, Path, description = "`approve` or `deny`"), SignatureQuery),
    responses((status = 200, content((String = "text/html"), (ApprovalAnswer = "application/json"))),
              LinkErrors),
    security(()))]
pub(super) async fn show(
    State(state): State<Arc<ApprovalState>>,
    path_params: PathParams,
    QueryParams(query): QueryParams<SignatureQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (approval, approves) = signed(&state, &path_params, &query).await?;
    if !wants_page(&headers) {
        return Ok(json(StatusCode::OK, &ApprovalAnswer::new(&approval, None)));
    }
    let end = match approval.decided.is_some() {
        true => format!("<p>Nothing is left to decide: {}.</p>", too_late(&approval)),
        false => format!(
            "<form method=\"post\"><button>{} this call</button></form>",
            if approves { "Approve" } else { "Deny" }
        ),
    };
    Ok(page(&approval, &end))
}

/// Decide about a tool call by a signed link.
///
/// The first decision counts.
#[utoipa::path(post, path = "/approvals/{approval}/{decision}",
    operation_id = "decide_by_link", tag = "approvals",
    params(("approval" = String, Path, description = "The approval's id"),
           ("decision" = String, Path, description = "`approve` or `deny`"), SignatureQuery),
    responses((status = 200, content((String = "text/html"), (ApprovalAnswer = "application/json"))),
              (status = 409, body = ErrorBody, description = "It has been decided before, or the time is up. A page says so with status 200."),
              LinkErrors),
    security(()))]
pub(super) async fn decide_by_link(
    State(state): State<Arc<ApprovalState>>,
    path_params: PathParams,
    QueryParams(query): QueryParams<SignatureQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (approval, approves) = signed(&state, &path_params, &query).await?;
    let outcome =
        state.runs.decide(approval.tenant, approval.id, approves, DecidedBy::Link, None).await?;
    if !wants_page(&headers) {
        return Ok(json(StatusCode::OK, &ApprovalAnswer::new(&decided(outcome)?, None)));
    }
    Ok(match outcome {
        DecideOutcome::Done(approval) => {
            let end = format!("<p>The call is {}.</p>", approval.status());
            page(&approval, &end)
        }
        DecideOutcome::TooLate(approval) => {
            let end = format!("<p>Nothing has changed: {}.</p>", too_late(&approval));
            page(&approval, &end)
        }
        DecideOutcome::Unknown => return Err(ApiError::not_found("Approval")),
    })
}

/// The approval of a link, and whether the link approves.
async fn signed(
    state: &ApprovalState,
    path_params: &PathParams,
    query: &SignatureQuery,
) -> Result<(Approval, bool), ApiError> {
    let not_found = || ApiError::not_found("Approval");
    let id: ApprovalId = path_params.id("approval", "Approval")?;
    let approves = match path_params.text("decision") {
        Some("approve") => true,
        Some("deny") => false,
        _ => return Err(not_found()),
    };
    if !state.links.is_signed(id, approves, &query.signature) {
        return Err(not_found());
    }
    let approval = state.store.approval(id).await?.ok_or_else(not_found)?;
    Ok((approval, approves))
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

/// No script runs on these pages, no other page may frame them, and their forms go nowhere else: a page of another
/// origin cannot make a person press the button.
const PAGE_POLICY: &str =
    "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// A page about an approval, with this end.
fn page(approval: &Approval, end: &str) -> Response {
    let unknown = match approval.position.round {
        0 => "",
        _ => {
            "<p>The gateway stopped while this call was under way, so what it does may have been done. If it is \
             approved, it is made again.</p>"
        }
    };
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Approval of a tool call</title>\
         <h1>An agent wants to call {tool}</h1>{unknown}<p>With these arguments, which may contain text from outside:</p>\
         <p><textarea readonly rows=\"20\" cols=\"80\">{arguments}</textarea></p><p>Agent {agent}, task {task}. To be decided by {until}.</p>{end}</html>",
        tool = escaped(&approval.tool),
        arguments = escaped(&approval.arguments),
        agent = approval.agent,
        task = approval.task,
        until = approval.expires_at.iso(),
    );
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

/// Text for HTML.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            char if is_invisible(char) => html.push('\u{fffd}'),
            char => html.push(char),
        }
    }
    html
}
