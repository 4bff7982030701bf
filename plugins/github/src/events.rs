//! What an event means, in words, and to which thread it belongs.

use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;

/// How many commits of a push are listed. A push can hold thousands; all that GitHub sends are in the
/// payload, which the agent sees as well.
const COMMITS_LISTED: usize = 10;

/// One sentence about the event, and what somebody wrote, where the event is about that.
pub(crate) fn prompt(host: &impl Host, event: &str, action: Option<&str>) -> String {
    let at = |pointer: &str| host.scalar(pointer).unwrap_or_default();
    let who = at("/sender/login");
    let place = host.scalar("/repository/full_name").or_else(|| host.scalar("/organization/login"));
    let place = place.map_or_else(Default::default, |place| format!(" in {place}"));
    let did = action.map_or_else(|| String::from("touched"), |action| action.replace('_', " "));
    let numbered = |kind: &str, pointer: &str| {
        let number = at(&format!("{pointer}/number"));
        let title = at(&format!("{pointer}/title"));
        format!("{kind} #{number} “{title}”")
    };
    let (sentence, text) = match event {
        "issues" => {
            let issue = numbered("issue", "/issue");
            (format!("{who} {did} {issue}{place}."), at("/issue/body"))
        }
        "issue_comment" => {
            // Pull requests are issues to GitHub here.
            let kind =
                if host.json("/issue/pull_request").is_some() { "pull request" } else { "issue" };
            let issue = numbered(kind, "/issue");
            (format!("{who} {did} a comment on {issue}{place}."), at("/comment/body"))
        }
        "pull_request" => {
            let pull = numbered("pull request", "/pull_request");
            let merged = at("/pull_request/merged") == "true" && did == "closed";
            let did = if merged { "merged" } else { &did };
            (format!("{who} {did} {pull}{place}."), at("/pull_request/body"))
        }
        "pull_request_review" => {
            let pull = numbered("pull request", "/pull_request");
            let state = at("/review/state").replace('_', " ");
            (format!("{who} {did} a review ({state}) of {pull}{place}."), at("/review/body"))
        }
        "pull_request_review_comment" => {
            let pull = numbered("pull request", "/pull_request");
            let path = at("/comment/path");
            (format!("{who} {did} a comment on {path} in {pull}{place}."), at("/comment/body"))
        }
        "discussion" => {
            let discussion = numbered("discussion", "/discussion");
            (format!("{who} {did} {discussion}{place}."), at("/discussion/body"))
        }
        "discussion_comment" => {
            let discussion = numbered("discussion", "/discussion");
            (format!("{who} {did} a comment on {discussion}{place}."), at("/comment/body"))
        }
        "push" => (format!("{who} pushed to {}{place}.", at("/ref")), commits(host)),
        "release" => {
            let tag = at("/release/tag_name");
            (format!("{who} {did} release {tag}{place}."), at("/release/body"))
        }
        "workflow_run" | "check_run" | "check_suite" | "workflow_job" => {
            (machine(host, event, &did, &place), String::new())
        }
        _ => {
            let action = action.map_or_else(Default::default, |action| format!(" ({action})"));
            (format!("GitHub event {event}{action}{place}, caused by {who}."), String::new())
        }
    };
    if text.is_empty() { sentence } else { format!("{sentence}\n\n{text}") }
}

/// What a machine did: a run of a workflow, or a check.
fn machine(host: &impl Host, event: &str, did: &str, place: &str) -> String {
    let part =
        |member: &str| host.scalar(&format!("/{event}/{member}")).filter(|text| !text.is_empty());
    let name = part("name").or_else(|| part("app/name"));
    let name = name.map_or_else(Default::default, |name| format!(" “{name}”"));
    let branch = part("head_branch").or_else(|| part("check_suite/head_branch"));
    let branch = branch.map_or_else(Default::default, |branch| format!(" on {branch}"));
    let conclusion = part("conclusion").map_or_else(Default::default, |found| format!(": {found}"));
    format!("The {}{name}{branch} was {did}{conclusion}{place}.", event.replace('_', " "))
}

/// The first lines of the commits that were pushed.
fn commits(host: &impl Host) -> String {
    let mut list = String::new();
    for index in 0..COMMITS_LISTED {
        let Some(message) = host.scalar(&format!("/commits/{index}/message")) else {
            return list;
        };
        let id = host.scalar(&format!("/commits/{index}/id")).unwrap_or_default();
        let short = id.get(..7).unwrap_or(&id);
        let first = message.lines().next().unwrap_or_default();
        list.push_str(&format!("- {short} {first}\n"));
    }
    if host.json(&format!("/commits/{COMMITS_LISTED}")).is_some() {
        list.push_str("- …\n");
    }
    list
}

/// `github:owner/name#12` for what has a number, `github:owner/name@refs/heads/main` for a push, else the
/// repository or the organization.
pub(crate) fn thread(host: &impl Host) -> Option<String> {
    let Some(repository) = host.scalar("/repository/full_name") else {
        return host.scalar("/organization/login").map(|login| format!("github:{login}"));
    };
    let number = ["/issue/number", "/pull_request/number", "/discussion/number"]
        .into_iter()
        .find_map(|pointer| host.scalar(pointer));
    Some(match (number, host.scalar("/ref")) {
        // A discussion has numbers of the same sequence as issues, so nothing is mixed up.
        (Some(number), _) => format!("github:{repository}#{number}"),
        (None, Some(reference)) => format!("github:{repository}@{reference}"),
        (None, None) => format!("github:{repository}"),
    })
}
