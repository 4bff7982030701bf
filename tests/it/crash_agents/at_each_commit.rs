//! The gateway is killed at each commit of a run, once before it has happened and once after.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{ALL, Fixture};
use crate::support::model_server::Reply;
use crate::support::{Client, GatewayProcess, Home, poll_until};

/// More commits than a run of this test has.
const COMMITS_MAX: usize = 40;

/// Compiles the library that kills a process at a commit.
fn kill_at_commit(home: &Home) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/it/crash_agents/kill_at_commit.c");
    let library = home.path().join("kill_at_commit.so");
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(compile.status().unwrap().success(), "cc, which links Rust programs, is needed");
    library
}

/// Submits a task, unless the gateway dies of it.
async fn submit(agent: &Client, key: &str) -> Option<String> {
    let call = agent.webhook("&asynchronous=true").idempotent(key).json(&json!({"prompt": "go"}));
    let answer = call.request.send().await.ok()?;
    let id = answer.headers()["x-task-id"].to_str().unwrap().to_owned();
    Some(id)
}

/// What has come of a run that was killed once.
struct Resumed {
    /// For failures.
    at: String,
    /// Every message of the run's thread.
    thread: Vec<Value>,
    /// How many turns were asked for, in all attempts.
    turns: usize,
    /// The tools that have written to the ledger.
    effects: Vec<String>,
}

impl Resumed {
    fn with_role(&self, role: &str) -> Vec<&Value> {
        self.thread.iter().filter(|message| message["role"] == role).collect()
    }
}

/// Kills the gateway at every commit of this run, before and after it, lets the next one finish the run with this result,
/// and hands over what has come of it. Returns the numbers of commits.
async fn kill_at_every_commit(
    fixture: &Fixture,
    result: &str,
    check: impl Fn(&Resumed),
) -> [usize; 2] {
    let library = kill_at_commit(&fixture.home);
    let armed = fixture.home.path().join("armed");
    let agent = fixture.agent(&fixture.serve());
    let agent_of = |gateway: &GatewayProcess| {
        Client::new(&gateway.listen, &agent.agent, &agent.key, &agent.token)
    };
    let mut killed = [0, 0];
    for (before, killed) in [true, false].into_iter().zip(&mut killed) {
        for commit in 1..COMMITS_MAX {
            let _ = std::fs::remove_file(&armed);
            let (turns, effects) = (fixture.model.requests().len(), fixture.ledger.effects().len());
            let mut environment = vec![
                ("LD_PRELOAD", library.clone().into_os_string()),
                ("KILL_ARMED", armed.clone().into_os_string()),
                ("KILL_AT", commit.to_string().into()),
            ];
            environment.extend(before.then(|| ("KILL_BEFORE", "1".into())));
            let mut gateway = fixture.serve_with(&environment);
            std::fs::write(&armed, "").unwrap();
            let key = format!("{before}-{commit}");
            let task = submit(&agent_of(&gateway), &key).await;
            let survived = poll_until("a death or the end", async || {
                if gateway.has_exited() {
                    return Some(false);
                }
                let request = agent_of(&gateway).get(&format!("/v1/tasks/{}", task.as_ref()?));
                let answer = request.key(&agent.key).request.send().await.ok()?;
                let task: Value = answer.json().await.ok()?;
                (task["status"] == "completed").then_some(true)
            })
            .await;
            if survived {
                gateway.kill();
                break;
            }
            *killed += 1;

            let gateway = fixture.serve();
            let agent = agent_of(&gateway);
            let task = submit(&agent, &key).await.unwrap();
            let ended = agent.wait_for_end(&task).await;
            let at = format!("{key}: {ended}");
            assert_eq!(
                (&ended["status"], &ended["result"]),
                (&json!("completed"), &json!(result)),
                "{at}"
            );
            let effects = fixture.ledger.effects().split_off(effects);
            check(&Resumed {
                at,
                thread: agent.thread(&task).await,
                turns: fixture.model.requests().len() - turns,
                effects: effects.into_iter().map(|(tool, _)| tool).collect(),
            });
            gateway.kill();
        }
    }
    killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_step_is_lost_or_repeated_at_whichever_commit_it_is_killed() {
    let fixture = Fixture::new(ALL, "").await;
    fixture.script(&["record", "look"]);
    let killed = kill_at_every_commit(&fixture, "done", |resumed| {
        let Resumed { at, turns, effects, .. } = resumed;
        let calls = resumed.with_role("tool");
        let tools: Vec<&str> =
            calls.iter().map(|call| call["tool_name"].as_str().unwrap()).collect();
        assert_eq!(tools, ["record", "look"], "{at}");
        assert_eq!(resumed.with_role("assistant").len(), 3, "{at}");
        assert!((3..=4).contains(turns), "{turns} turns asked for; {at}");
        let count = |tool: &str| effects.iter().filter(|name| *name == tool).count();
        let is_unknown = calls[0]["content"].to_string().contains("outcome is unknown");
        assert!(count("record") == 1 || (is_unknown && count("record") == 0), "{at}");
        assert!((1..=2).contains(&count("look")), "{at}");
    })
    .await;
    // Acceptance, claim, two turns that call tools, an intent, two results, the end. Others may share their commits.
    assert!(killed.iter().all(|killed| (8..COMMITS_MAX - 1).contains(killed)), "{killed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_corrected_is_not_asked_for_again_and_the_conversation_stays_the_same() {
    let fixture = Fixture::new(ALL, "output_schema = { required = [\"n\"] }\n").await;
    let replies = vec![
        fixture.calls(&["look"]),
        Reply::Text("It is 1."),
        fixture.calls(&["look"]),
        Reply::Text("{\"n\": 1}"),
    ];
    fixture.model.set_reply(Reply::ByTurn(Arc::new(replies)));
    let killed = kill_at_every_commit(&fixture, "{\"n\": 1}", |resumed| {
        let Resumed { at, turns, .. } = resumed;
        assert_eq!(resumed.with_role("assistant").len(), 4, "{at}");
        assert_eq!(resumed.with_role("tool").len(), 2, "{at}");
        assert_eq!(resumed.with_role("system").len(), 1, "the note on the correction; {at}");
        assert!((4..=5).contains(turns), "{turns} turns asked for; {at}");
    })
    .await;
    assert!(killed.iter().all(|killed| (8..COMMITS_MAX - 1).contains(killed)), "{killed:?}");
    // Whenever it was killed: the last turn of each run has the same conversation, byte for byte.
    let requests = fixture.model.requests().into_iter().map(|(request, _)| request.to_string());
    let longest: Vec<String> =
        requests.filter(|request| request.matches("\"role\":\"assistant\"").count() == 3).collect();
    assert!(longest.len() > killed.iter().sum(), "{}", longest.len());
    assert!(longest.iter().all(|request| *request == longest[0]));
}
