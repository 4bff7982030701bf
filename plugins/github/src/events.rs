//! Describes an event in words, and derives its thread.

use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;

/// How many commits of a push are listed. A push can have thousands; the agent sees all that GitHub sends in
/// the payload.
const COMMITS_LISTED_MAX: usize = 10;

/// One sentence about the event, made of GitHub's own words and names. With `include_user_texts`, it also
/// includes text written by users: titles, and the body that the event is about.
pub(crate) fn prompt(
    host: &impl Host,
    event: &str,
    action: Option<&str>,
    include_user_texts: bool,
) -> String {
    let location = location_phrase(host);
    let Some((sentence, text)) = describe_event(host, event, action, include_user_texts) else {
        let action = action.map_or_else(String::new, |action| format!(" ({action})"));
        let sender = host.scalar("/sender/login");
        let sender = sender.map_or_else(String::new, |login| format!(", caused by {login}"));
        return format!("GitHub event {event}{action}{location}{sender}.");
    };
    match text.filter(|_| include_user_texts) {
        Some(text) => format!("{sentence}{location}.\n\n{text}"),
        None => format!("{sentence}{location}."),
    }
}

/// The beginning of a sentence, and the text that a user wrote.
type Description = (String, Option<String>);

/// The beginning of the sentence, and the text that a user wrote. `None` for events without a sentence of
/// their own.
fn describe_event(
    host: &impl Host,
    event: &str,
    action: Option<&str>,
    include_user_texts: bool,
) -> Option<Description> {
    let text_at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
    let sender = text_at("/sender/login").unwrap_or_default();
    let verb = action.map_or_else(|| String::from("touched"), |action| action.replace('_', " "));
    let numbered = |kind: &str, pointer: &str| {
        let number = text_at(&format!("{pointer}/number")).unwrap_or_default();
        match text_at(&format!("{pointer}/title")).filter(|_| include_user_texts) {
            Some(title) => format!("{kind} #{number} “{title}”"),
            None => format!("{kind} #{number}"),
        }
    };
    // In comment events, GitHub presents pull requests as issues.
    let issue_kind = match host.json("/issue/pull_request") {
        Some(_) => "pull request",
        None => "issue",
    };
    Some(match event {
        "issues" => {
            (format!("{sender} {verb} {}", numbered("issue", "/issue")), text_at("/issue/body"))
        }
        "issue_comment" => (
            format!("{sender} {verb} a comment on {}", numbered(issue_kind, "/issue")),
            text_at("/comment/body"),
        ),
        "pull_request" => {
            let is_merged =
                verb == "closed" && text_at("/pull_request/merged").as_deref() == Some("true");
            let verb = if is_merged { "merged" } else { &verb };
            let pull = numbered("pull request", "/pull_request");
            (format!("{sender} {verb} {pull}"), text_at("/pull_request/body"))
        }
        "pull_request_review" => {
            let state = text_at("/review/state").unwrap_or_default().replace('_', " ");
            let pull = numbered("pull request", "/pull_request");
            (format!("{sender} {verb} a review ({state}) of {pull}"), text_at("/review/body"))
        }
        "pull_request_review_comment" => {
            let pull = numbered("pull request", "/pull_request");
            (format!("{sender} {verb} a comment on the code of {pull}"), text_at("/comment/body"))
        }
        "discussion" => (
            format!("{sender} {verb} {}", numbered("discussion", "/discussion")),
            text_at("/discussion/body"),
        ),
        "discussion_comment" => (
            format!("{sender} {verb} a comment on {}", numbered("discussion", "/discussion")),
            text_at("/comment/body"),
        ),
        "push" => (
            format!("{sender} pushed to {}", text_at("/ref").unwrap_or_default()),
            commit_list(host),
        ),
        "release" => {
            let tag = text_at("/release/tag_name").unwrap_or_default();
            (format!("{sender} {verb} release {tag}"), text_at("/release/body"))
        }
        "workflow_run" | "check_run" | "check_suite" | "workflow_job" => {
            (describe_workflow_or_check(host, event, &verb, include_user_texts), None)
        }
        _ => return None,
    })
}

/// ` in ` and the repository or organization; empty if the event has neither.
fn location_phrase(host: &impl Host) -> String {
    host.scalar("/repository/full_name")
        .or_else(|| host.scalar("/organization/login"))
        .map_or_else(String::new, |name| format!(" in {name}"))
}

/// The sentence for a workflow run or a check. Users choose their names, so a name is included only with
/// `include_user_texts`.
fn describe_workflow_or_check(
    host: &impl Host,
    event: &str,
    verb: &str,
    include_user_texts: bool,
) -> String {
    let text_of =
        |member: &str| host.scalar(&format!("/{event}/{member}")).filter(|text| !text.is_empty());
    let name = text_of("name").or_else(|| text_of("app/name")).filter(|_| include_user_texts);
    let name = name.map_or_else(String::new, |name| format!(" “{name}”"));
    let branch = text_of("head_branch").or_else(|| text_of("check_suite/head_branch"));
    let branch = branch.map_or_else(String::new, |branch| format!(" on {branch}"));
    let conclusion = text_of("conclusion").map_or_else(String::new, |found| format!(": {found}"));
    format!("The {}{name}{branch} was {verb}{conclusion}", event.replace('_', " "))
}

/// A list of the pushed commits with the first line of each message.
fn commit_list(host: &impl Host) -> Option<String> {
    let mut list = String::new();
    for index in 0..COMMITS_LISTED_MAX {
        let Some(message) = host.scalar(&format!("/commits/{index}/message")) else {
            return (!list.is_empty()).then_some(list);
        };
        let id = host.scalar(&format!("/commits/{index}/id")).unwrap_or_default();
        let short = id.get(..7).unwrap_or(&id);
        let subject = message.lines().next().unwrap_or_default();
        list.push_str(&format!("- {short} {subject}\n"));
    }
    if host.json(&format!("/commits/{COMMITS_LISTED_MAX}")).is_some() {
        list.push_str("- …\n");
    }
    Some(list)
}

/// The thread of an event: `github:owner/name#12` for issues, pull requests and discussions,
/// `github:owner/name@refs/heads/main` for a push, `github:owner/name@0123456…` for events about a commit,
/// else the repository or the organization. Each alert has a thread of its own: few may see an alert, while
/// anyone may star a public repository and so reach the repository's thread.
pub(crate) fn thread_id(host: &impl Host, event: &str) -> Option<String> {
    let first_scalar = |pointers: &[&str]| pointers.iter().find_map(|pointer| host.scalar(pointer));
    let Some(repository) = host.scalar("/repository/full_name") else {
        return host.scalar("/organization/login").map(|login| format!("github:{login}"));
    };
    // Issues, pull requests and discussions share one sequence of numbers.
    if let Some(number) =
        first_scalar(&["/issue/number", "/pull_request/number", "/discussion/number"])
    {
        return Some(format!("github:{repository}#{number}"));
    }
    if let Some(alert) =
        first_scalar(&["/alert/number", "/alert/id", "/repository_advisory/ghsa_id"])
    {
        return Some(format!("github:{repository}:{event}:{alert}"));
    }
    Some(match first_scalar(&["/ref", "/comment/commit_id"]) {
        Some(git_ref) => format!("github:{repository}@{git_ref}"),
        None => format!("github:{repository}"),
    })
}
