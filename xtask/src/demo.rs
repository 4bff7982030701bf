//! `cargo xtask run`: starts the gateway with a demo tenant and prints requests to try.
//!
//! This process becomes the gateway (`exec`), so that Ctrl-C, signals and the exit code are the gateway's own. A
//! second process, which ends with it, reads the gateway's stdout and prints the requests.

use std::io::{self, BufRead as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::tools::{self, say};

/// The hidden command that prints requests to try.
pub(crate) const SHOW: &str = "show-demo";
const LISTEN: &str = "127.0.0.1:8080";
/// The address if `LISTEN` is in use: a port that the operating system chooses.
const LISTEN_ANYWHERE: &str = "127.0.0.1:0";

/// Builds the gateway and replaces this process with it.
pub(crate) fn run(listen: Option<String>, arguments: &[String]) -> anyhow::Result<()> {
    tools::build_gateway()?;
    let listen = match listen {
        Some(listen) => listen,
        None if TcpListener::bind(LISTEN).is_ok() => LISTEN.to_owned(),
        None => {
            say(format_args!("{LISTEN} is taken: listening on a free port"))?;
            LISTEN_ANYWHERE.to_owned()
        }
    };
    let built = tools::built()?;
    let data = built.parent().unwrap_or(&built).join("demo");
    let (output, stdout) = io::pipe().context("no pipe can be made")?;
    let this = std::env::current_exe().context("this program cannot tell where it lies")?;
    Command::new(this).arg(SHOW).stdin(output).spawn().context("the teller cannot be started")?;
    let error = Command::new(built.join("wardgate"))
        .args(["serve", "--listen", &listen, "--demo", "--data"])
        .arg(data)
        .args(arguments)
        .stdout(stdout)
        .exec();
    Err(error).context("the gateway cannot be started")
}

/// Prints requests to try with the gateway whose stdout is this process's stdin. Passes further lines through.
pub(crate) fn show() -> anyhow::Result<()> {
    let mut lines = io::stdin().lock().lines();
    // Without a line, the gateway could not start, and has printed the reason to stderr.
    let Some(line) = lines.next() else { return Ok(()) };
    say(what_to_try(&line?)?)?;
    for line in lines {
        say(line?)?;
    }
    Ok(())
}

fn what_to_try(line: &str) -> anyhow::Result<String> {
    let field = |name| text_field(line, name).with_context(|| format!("no {name} in {line}"));
    let (listen, agent, key) = (field("listen")?, field("agent_id")?, field("api_key")?);
    let (webhook, status) = (field("webhook_url")?, field("task_status_url")?);
    let post = format!("http://{listen}/?agent_id={agent}");
    let key = format!("-H 'x-api-key: {key}'");
    Ok(format!(
        r#"
Wardgate listens on {listen}; Ctrl-C stops it. In another terminal, try:

A prompt that names a tool. The demo's model is offline and no language model; it calls the calculator:

curl -sS '{post}' {key} -d '{{"prompt": "calculate {{\"expression\": \"6*7\"}}"}}'

A message as Telegram sends it, its nested fields mapped to parameters, and only the answer's summary:

curl -sS -g '{post}&getter=result.summary&params_mapping={{"prompt":"message.text","task_id":"message.chat.id","user_id":"message.from.id"}}' {key} -d '{{"message": {{"chat": {{"id": 123456789}}, "from": {{"id": 42}}, "text": "Hello agent!"}}}}'

The agent's own webhook URL, which needs no key and answers at once, and then how its task stands:

id=$(curl -sS '{webhook}' -H 'content-type: application/json' -d '{{"event": "deploy", "status": "failed"}}' | tee /dev/stderr | sed 's/.*"task_id": *"\([^"]*\)".*/\1/'); sleep 1; curl -sS "{status}?task_id=$id"
"#
    ))
}

/// A field of a JSON object of strings. The strings are addresses, ids and URLs, which need no escapes in JSON or in
/// a shell.
pub(crate) fn text_field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = line.split_once(&format!("\"{name}\""))?;
    let value = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let (value, _) = value.split_once('"')?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_becomes_lines_to_paste() {
        let line = concat!(
            r#"{"listen":"127.0.0.1:4711","organization_id":"o","agent_id": "a","api_key":"wgk_k","#,
            r#""operator_key":"wgo_o","webhook_url":"http://h/api/webhooks/agents/t","#,
            r#""task_status_url":"http://h/api/task_status"}"#,
        );
        let text = what_to_try(line).unwrap();
        let curls: Vec<&str> = text.lines().filter(|line| line.contains("curl ")).collect();
        assert_eq!(curls.len(), 3, "{text}");
        assert_eq!(
            curls[0],
            "curl -sS 'http://127.0.0.1:4711/?agent_id=a' -H 'x-api-key: wgk_k' \
             -d '{\"prompt\": \"calculate {\\\"expression\\\": \\\"6*7\\\"}\"}'"
        );
        assert!(curls[2].contains("\"http://h/api/task_status?task_id=$id\""), "{text}");
        assert!(!text.contains("wgo_o"), "{text}");
    }

    #[test]
    fn another_line_is_shown_for_what_it_is() {
        let error = what_to_try("Hello").unwrap_err();
        assert_eq!(error.to_string(), "no listen in Hello");
    }
}
