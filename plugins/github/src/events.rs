//! Describes an event in words, and derives its thread.

use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;

/// How many commits of a push are listed. A push can have thousands; the agent sees all that GitHub sends in
/// the payload.
const COMMITS_LISTED: usize = 10;

/// One sentence about the event, made of GitHub's own words and names. With `texts`, it also includes text
/// written by users: titles, and the body that the event is about.
pub(crate) fn prompt(host: &impl Host, event: &str, action: Option<&str>, texts: bool) -> String {
    let place = place(host);
    let Some((sentence, text)) = sentence(host, event, action, texts) else {
        let action = action.map_or_else(String::new, |action| format!(" ({action})"));
        let who = host.scalar("/sender/login");
        let who = who.map_or_else(String::new, |who| format!(", caused by {who}"));
        return format!("GitHub event {event}{action}{place}{who}.");
    };
    match text.filter(|_| texts) {
        Some(text) => format!("{sentence}{place}.\n\n{text}"),
        None => format!("{sentence}{place}."),
    }
}

/// The beginning of a sentence, and the text that a user wrote.
type Said = (String, Option<String>);

/// The beginning of the sentence, and the text that a user wrote. `None` for events without a sentence of
/// their own.
fn sentence(host: &impl Host, event: &str, action: Option<&str>, texts: bool) -> Option<Said> {
    let at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
    let who = at("/sender/login").unwrap_or_default();
    let did = action.map_or_else(|| String::from("touched"), |action| action.replace('_', " "));
    let numbered = |kind: &str, pointer: &str| {
        let number = at(&format!("{pointer}/number")).unwrap_or_default();
        match at(&format!("{pointer}/title")).filter(|_| texts) {
            Some(title) => format!("{kind} #{number} “{title}”"),
            None => format!("{kind} #{number}"),
        }
    };
    // In comment events, GitHub presents pull requests as issues.
    let commented = match host.json("/issue/pull_request") {
        Some(_) => "pull request",
        None => "issue",
    };
    Some(match event {
        "issues" => (format!("{who} {did} {}", numbered("issue", "/issue")), at("/issue/body")),
        "issue_comment" => (
            format!("{who} {did} a comment on {}", numbered(commented, "/issue")),
            at("/comment/body"),
        ),
        "pull_request" => {
            let merged = did == "closed" && at("/pull_request/merged").as_deref() == Some("true");
            let did = if merged { "merged" } else { &did };
            let pull = numbered("pull request", "/pull_request");
            (format!("{who} {did} {pull}"), at("/pull_request/body"))
        }
        "pull_request_review" => {
            let state = at("/review/state").unwrap_or_default().replace('_', " ");
            let pull = numbered("pull request", "/pull_request");
            (format!("{who} {did} a review ({state}) of {pull}"), at("/review/body"))
        }
        "pull_request_review_comment" => {
            let pull = numbered("pull request", "/pull_request");
            (format!("{who} {did} a comment on the code of {pull}"), at("/comment/body"))
        }
        "discussion" => (
            format!("{who} {did} {}", numbered("discussion", "/discussion")),
            at("/discussion/body"),
        ),
        "discussion_comment" => (
            format!("{who} {did} a comment on {}", numbered("discussion", "/discussion")),
            at("/comment/body"),
        ),
        "push" => (format!("{who} pushed to {}", at("/ref").unwrap_or_default()), commits(host)),
        "release" => {
            let tag = at("/release/tag_name").unwrap_or_default();
            (format!("{who} {did} release {tag}"), at("/release/body"))
        }
        "workflow_run" | "check_run" | "check_suite" | "workflow_job" => {
            (machine(host, event, &did, texts), None)
        }
        _ => return None,
    })
}

/// ` in ` and the repository or organization; empty if the event has neither.
fn place(host: &impl Host) -> String {
    host.scalar("/repository/full_name")
        .or_else(|| host.scalar("/organization/login"))
        .map_or_else(String::new, |place| format!(" in {place}"))
}

/// The sentence for a workflow run or a check. Users choose their names, so a name is included only with
/// `texts`.
fn machine(host: &impl Host, event: &str, did: &str, texts: bool) -> String {
    let part =
        |member: &str| host.scalar(&format!("/{event}/{member}")).filter(|text| !text.is_empty());
    let name = part("name").or_else(|| part("app/name")).filter(|_| texts);
    let name = name.map_or_else(String::new, |name| format!(" “{name}”"));
    let branch = part("head_branch").or_else(|| part("check_suite/head_branch"));
    let branch = branch.map_or_else(String::new, |branch| format!(" on {branch}"));
    let conclusion = part("conclusion").map_or_else(String::new, |found| format!(": {found}"));
    format!("The {}{name}{branch} was {did}{conclusion}", event.replace('_', " "))
}

/// A list of the pushed commits with the first line of each message.
fn commits(host: &impl Host) -> Option<String> {
    let mut list = String::new();
    for index in 0..COMMITS_LISTED {
        let Some(message) = host.scalar(&format!("/commits/{index}/message")) else {
            return (!list.is_empty()).then_some(list);
        };
        let id = host.scalar(&format!("/commits/{index}/id")).unwrap_or_default();
        let short = id.get(..7).unwrap_or(&id);
        let first = message.lines().next().unwrap_or_default();
        list.push_str(&format!("- {short} {first}\n"));
    }
    if host.json(&format!("/commits/{COMMITS_LISTED}")).is_some() {
        list.push_str("- …\n");
    }
    Some(list)
}

/// The thread of an event: `github:owner/name#12` for issues, pull requests and discussions,
/// `github:owner/name@refs/heads/main` for a push, `github:owner/name@0123456…` for events about a commit,
/// else the repository or the organization. Each alert has a thread of its own: few may see an alert, while
/// anyone may star a public repository and so reach the repository's thread.
pub(crate) fn thread(host: &impl Host, event: &str) -> Option<String> {
    let first = |pointers: &[&str]| pointers.iter().find_map(|pointer| host.scalar(pointer));
    let Some(repository) = host.scalar("/repository/full_name") else {
        return host.scalar("/organization/login").map(|login| format!("github:{login}"));
    };
    // Issues, pull requests and discussions share one sequence of numbers.
    if let Some(number) = first(&["/issue/number", "/pull_request/number", "/discussion/number"]) {
        return Some(format!("github:{repository}#{number}"));
    }
    if let Some(alert) = first(&["/alert/number", "/alert/id", "/repository_advisory/ghsa_id"]) {
        return Some(format!("github:{repository}:{event}:{alert}"));
    }
    Some(match first(&["/ref", "/comment/commit_id"]) {
        Some(place) => format!("github:{repository}@{place}"),
        None => format!("github:{repository}"),
    })
}
