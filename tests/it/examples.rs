//! The examples work as documented. The tests run the commands of each README.md unchanged against a gateway in its
//! own process, compare the output with what the README.md shows, and check the gateway's tasks and traces.
//!
//! Like their users, they need curl, openssl and python3.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::Uri;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::plugins_guide::is_shown;
use crate::support::web::Web;
use crate::support::{
    Client, GatewayProcess, Home, new_tenant, path_with_wardgate, poll_until, wardgate,
};

const EXAMPLES: [&str; 3] = ["github-triage", "telegram-bot", "zapier"];

fn examples_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples")
}

fn read_file(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The contents of the fenced blocks in this language.
fn code_blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let after_fences = text.split(&fence).skip(1);
    after_fences.map(|block| block.split_once("```").unwrap().0.to_owned()).collect()
}

/// Copies an example's folder, as a user would.
fn copy_example(example: &str, home: &Home) -> PathBuf {
    let copy = home.path().join(format!("copy of {example}"));
    let copied =
        Command::new("cp").arg("-r").arg(examples_folder().join(example)).arg(&copy).status();
    assert!(copied.unwrap().success());
    copy
}

/// Replaces a text in a file, which must contain it.
fn replace_in_file(path: &Path, part: &str, by: &str) {
    let text = read_file(path);
    assert!(text.contains(part), "{} has no {part}", path.display());
    fs::write(path, text.replace(part, by)).unwrap();
}

/// The response to a request of a script, as the script prints it.
#[derive(Debug, PartialEq)]
struct ScriptResponse {
    status: u16,
    task: Option<String>,
    is_replayed: bool,
    body: String,
}

/// What a script printed.
struct ScriptOutput(String);

impl ScriptOutput {
    /// The text under the heading that starts with this.
    fn section(&self, heading: &str) -> &str {
        let parts = self.0.split("\n== ").skip(1);
        let mut found = parts.filter(|part| part.starts_with(heading));
        let part = found.next().unwrap_or_else(|| panic!("nothing on {heading:?} in {}", self.0));
        assert!(found.next().is_none(), "{heading:?} is one step");
        part.split_once('\n').unwrap().1.trim_end()
    }

    fn request(&self, heading: &str) -> ScriptResponse {
        let mut lines = self.section(heading).lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let (mut shown, mut body) = ((None, false), Vec::new());
        for line in lines {
            match line.split_once(": ") {
                Some(("x-task-id", task)) => shown.0 = Some(task.to_owned()),
                Some(("idempotent-replayed", "true")) => shown.1 = true,
                _ => body.push(line),
            }
        }
        ScriptResponse { status, task: shown.0, is_replayed: shown.1, body: body.join("\n") }
    }
}

/// A gateway with a tenant for the examples.
struct ExampleRunner {
    gateway: GatewayProcess,
    home: Home,
    /// Calls the tenant's REST API.
    caller: Client,
}

impl ExampleRunner {
    fn start() -> Self {
        let home = Home::new();
        let gateway = GatewayProcess::serve(&home, &[]);
        new_tenant(&home, "examples");
        let key = run_on_folder(&home, &["key", "create", "--tenant", "examples"]);
        let caller = Client::new(&gateway.listen, "", &key, "");
        Self { gateway, home, caller }
    }

    /// Runs commands in an example's folder, in a shell that exits at the first failure.
    async fn try_run(&self, folder: &Path, commands: &str) -> Output {
        let url = format!("http://{}", self.gateway.listen);
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", commands]).current_dir(folder).env("PATH", path_with_wardgate());
        // Bypasses the machine's proxy.
        shell.env("no_proxy", "127.0.0.1").env("DATA", self.home.path()).env("GATEWAY", &url);
        if commands.contains("try-it.sh") {
            shell.env("WARDGATE_URL", url);
        }
        tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap()
    }

    async fn run(&self, folder: &Path, commands: &str) -> ScriptOutput {
        let output = self.try_run(folder, commands).await;
        let [printed, complained] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{commands}\n{printed}\n{complained}");
        // `key create` names the key there.
        let mut unexpected = complained.lines().filter(|line| !line.starts_with("created key "));
        assert_eq!(unexpected.next(), None, "{commands}\n{printed}");
        ScriptOutput(printed)
    }

    /// Runs the first command of an example's README.md, and checks that the output has the lines shown there.
    async fn try_it(&self, example: &str) -> ScriptOutput {
        let folder = examples_folder().join(example);
        let readme = read_file(&folder.join("README.md"));
        let command = code_blocks(&readme, "sh").remove(0);
        assert!(command.starts_with("sh try-it.sh --data ../../target/demo "), "{command}");
        let data = self.home.path().display().to_string();
        let printed = self.run(&folder, &command.replace("../../target/demo", &data)).await;
        let mut lines = printed.0.lines();
        for shown in code_blocks(&readme, "text").remove(0).lines() {
            let actual = lines.any(|line| is_shown(line, shown));
            assert!(actual, "{example} shows\n{shown}\nand what came is\n{}", printed.0);
        }
        let keys = run_on_folder(&self.home, &["key", "list", "--tenant", "examples"]);
        let mut script_keys = keys.lines().filter(|line| line.contains("\ttry-it ")).peekable();
        assert!(script_keys.peek().is_some(), "{keys}");
        assert!(script_keys.all(|line| line.contains("\trevoked 2")), "{keys}");
        printed
    }

    /// Checks that the task completed, that the script printed its run, and that its trace starts with this mapping.
    /// Returns the agent's report.
    async fn completed(&self, printed: &ScriptOutput, id: &str, mapping: Value) -> Value {
        let events = printed.section("What happened in the run");
        assert_eq!(events, "task_created\ntask_updated\nchunk\ntask_finished");
        let task = self.caller.task(id).await;
        assert_eq!(task["status"], "completed", "{task}");
        let result = task["result"].as_str().unwrap();
        assert_eq!(printed.section("Its result"), result);
        let trace = self.caller.thread(id).await;
        let mapped = (&trace[0]["mapping"]["plugin"], &trace[0]["mapping"]["params"]);
        assert_eq!(mapped, (&mapping["plugin"], &mapping["params"]), "{trace:?}");
        let roles: Vec<_> = trace.iter().take(3).map(|step| &step["role"]).collect();
        assert_eq!(roles, ["system", "user", "assistant"]);
        assert_eq!(trace[2]["content"], result);
        let shown = printed.section("The trace").lines().filter(|line| !line.starts_with(' '));
        assert_eq!(shown.count(), trace.len(), "{trace:?}");
        serde_json::from_str(result).unwrap()
    }
}

/// Runs a command on the data folder, and returns its output.
fn run_on_folder(home: &Home, arguments: &[&str]) -> String {
    let data = ["--data", home.path().to_str().unwrap()];
    let output = wardgate(&[arguments, &data].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Checks what an example prints for an accepted request, for its repetition, and for a wrong credential. Returns the
/// task that was started.
fn accepted_repeated_refused(
    printed: &ScriptOutput,
    headings: [&str; 3],
    refused: (u16, &str),
) -> String {
    let [first, again, wrong] = headings.map(|heading| printed.request(heading));
    assert_eq!((first.status, first.is_replayed), (200, false), "{first:?}");
    assert_eq!(again, ScriptResponse { is_replayed: true, ..printed.request(headings[0]) });
    let body = json!({"detail": refused.1}).to_string();
    assert_eq!(wrong, ScriptResponse { status: refused.0, task: None, is_replayed: false, body });
    first.task.unwrap()
}

#[tokio::test]
async fn telegram_bot_runs_what_its_readme_says_and_a_second_try_continues_the_conversation() {
    let runner = ExampleRunner::start();
    for earlier in 0..2 {
        let printed = runner.try_it("telegram-bot").await;
        let headings = ["A message to the bot", "The same update again", "A wrong token"];
        let refused = (401, "the secret token does not match");
        let task = accepted_repeated_refused(&printed, headings, refused);
        let body = printed.request(headings[0]).body;
        let typing = r#"{"chat_id":123456789,"method":"sendChatAction","action":"typing"}"#;
        assert_eq!(body, typing);
        let spoken = "Which of my orders are still on their way?";
        let mapping = json!({"plugin": "telegram", "params": {
            "prompt": spoken, "task_id": "telegram:123456789", "user_id": "123456789",
            "user_first_name": "Ada", "user_last_name": "Lovelace",
        }});
        let report = runner.completed(&printed, &task, mapping).await;
        assert_eq!(report["received"], spoken);
        assert_eq!(report["earlier_messages"].as_u64().unwrap_or(0), earlier, "{report}");
        // Nothing was sent to Telegram.
        let line =
            format!("{task}\tdead\t1\tplugin telegram: the credential \"bot\" is not granted");
        assert!(printed.section("The delivery of the answer").starts_with(&line), "{}", printed.0);
        let trace = runner.caller.thread(&task).await;
        assert_eq!((&trace[3]["call"], &trace[3]["is_error"]), (&json!("deliver"), &json!(true)));
    }
    assert_eq!(runner.caller.recent_tasks().await.len(), 2, "one run of each try");
}

#[tokio::test]
async fn github_triage_runs_what_its_readme_says() {
    let runner = ExampleRunner::start();
    let printed = runner.try_it("github-triage").await;
    let headings = ["An issue was opened", "The same delivery again", "Signed with another secret"];
    let refused = (401, "the signature does not match");
    let task = accepted_repeated_refused(&printed, headings, refused);
    let started = json!({"status": "Started", "task_id": task}).to_string();
    assert_eq!(printed.request(headings[0]).body, started);
    let ignored = printed.request("An event that channel.toml does not list");
    let body = r#"{"status":"Ignored"}"#.to_owned();
    assert_eq!(ignored, ScriptResponse { status: 200, task: None, is_replayed: false, body });
    let prompt = "octocat opened issue #1347 in octo-org/shop.";
    let mapping = json!({"plugin": "github", "params": {
        "prompt": prompt, "task_id": "github:octo-org/shop#1347", "user_id": "octocat",
    }});
    let report = runner.completed(&printed, &task, mapping).await;
    assert_eq!(report["received"], prompt, "what a stranger wrote is not in it");
    assert_eq!(report["payload"]["issue"]["number"], 1347);
    assert_eq!(runner.caller.recent_tasks().await.len(), 1);

    let folder = copy_example("github-triage", &runner.home);
    let [_, commands] = &code_blocks(&read_file(&folder.join("README.md")), "sh")[..] else {
        panic!()
    };
    let printed = runner.run(&folder, commands).await.0;
    assert!(printed.trim_end().lines().last().unwrap().starts_with("channel triage: /hooks/"));
}

#[tokio::test]
async fn zapier_runs_what_its_readme_says_with_an_operators_key_and_with_an_admins() {
    let runner = ExampleRunner::start();
    let printed = runner.try_it("zapier").await;
    let headings = ["A new ticket", "The same step replayed", "A wrong key"];
    let task = accepted_repeated_refused(&printed, headings, (403, "Invalid API key"));
    let ticket: Value =
        serde_json::from_str(&read_file(&examples_folder().join("zapier/ticket.json"))).unwrap();
    let spoken = &ticket["ticket"]["description"];
    assert_eq!(printed.request(headings[0]).body, spoken.to_string(), "one value, as JSON");
    let trace = runner.caller.thread(&task).await;
    let plugin = &trace[0]["mapping"]["plugin"];
    let params = json!({"task_id": "35436", "user_email": "ada@example.com", "prompt": spoken});
    let mapping = json!({"plugin": plugin, "params": params});
    let report = runner.completed(&printed, &task, mapping).await;
    assert_eq!(report["received"], *spoken);

    let key = run_on_folder(&runner.home, &["key", "create", "--admin", "--tenant", "examples"]);
    let key = runner.home.write("admin.key", &key);
    let command = format!("sh try-it.sh --key-file {} --tenant examples", key.display());
    runner.run(&examples_folder().join("zapier"), &command).await;
    assert_eq!(runner.caller.recent_tasks().await.len(), 2);

    let folder = copy_example("zapier", &runner.home);
    let [_, commands] = &code_blocks(&read_file(&folder.join("README.md")), "sh")[..] else {
        panic!()
    };
    let printed = runner.run(&folder, commands).await.0;
    assert!(printed.lines().last().unwrap().starts_with("wgk_"), "{printed}");
}

type Calls = Arc<Mutex<Vec<(String, String)>>>;

#[tokio::test]
async fn telegram_bot_delivers_once_it_is_turned_on_as_its_readme_says() {
    const TOKEN: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";
    async fn record(State(calls): State<Calls>, uri: Uri, body: String) -> Json<Value> {
        calls.lock().unwrap().push((uri.path().to_owned(), body));
        Json(json!({"ok": true}))
    }
    let calls = Calls::default();
    let api = Router::new().fallback(record).with_state(Arc::clone(&calls));
    let api = Web::serve(api).await;
    let runner = ExampleRunner::start();
    let folder = copy_example("telegram-bot", &runner.home);

    // A local server stands in for Telegram's Bot API.
    let url = format!("http://127.0.0.1:{}", api.port);
    let here = format!(
        "host = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\nnetworks = [\"127.0.0.0/8\"]\n",
        api.port
    );
    let grants = folder.join("grants/telegram.toml");
    replace_in_file(&grants, "host = \"api.telegram.org\"\n", &here);
    // A generous limit, for slow machines.
    replace_in_file(
        &grants,
        "[credentials.bot]\n",
        "[limits]\nwall_ms = 40000\n\n[credentials.bot]\n",
    );
    let settings = format!("[settings]\napi-url = \"{url}\"\n");
    replace_in_file(&folder.join("channel.toml"), "[settings]\n", &settings);
    replace_in_file(&folder.join("README.md"), "https://api.telegram.org", &url);
    fs::write(folder.join("bot-token.txt"), format!("{TOKEN}\n")).unwrap();

    let [_, commands] = &code_blocks(&read_file(&folder.join("README.md")), "sh")[..] else {
        panic!()
    };
    runner.run(&folder, commands).await;
    assert!(!folder.join("bot-token.txt").exists(), "no secret stays behind");
    let (path, form) = calls.lock().unwrap().remove(0);
    assert_eq!(path, format!("/bot{TOKEN}/setWebhook"));
    let form = reqwest::Url::parse(&format!("http://form?{form}")).unwrap();
    let field = |name| form.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let hook = field("url");
    let hook = hook.strip_prefix(&format!("http://{}", runner.gateway.listen)).unwrap();

    let update: Value = serde_json::from_str(&read_file(&folder.join("update.json"))).unwrap();
    let sent = runner.caller.post(hook).answered_by_a_plugin();
    let sent = sent.header("x-telegram-bot-api-secret-token", &field("secret_token"));
    let task = sent.json(&update).expect(200).await.task_id();
    let delivered = async || calls.lock().unwrap().first().cloned();
    let (path, message) = poll_until("the answer in the chat", delivered).await;
    assert_eq!(path, format!("/bot{TOKEN}/sendMessage"));
    let message: Value = serde_json::from_str(&message).unwrap();
    let result = runner.caller.wait_for_end(&task).await["result"].clone();
    assert_eq!((&message["chat_id"], &message["text"]), (&json!(123_456_789), &result));
}

#[tokio::test]
async fn a_script_makes_the_tenant_and_ends_with_the_first_sentence_that_says_no() {
    let runner = ExampleRunner::start();
    let folder = copy_example("zapier", &runner.home);
    replace_in_file(&folder.join("agent.toml"), "\"offline\"", "\"no such model\"");
    let output =
        runner.try_run(&folder, "sh try-it.sh --data \"$DATA\" --tenant 'a new one'").await;
    assert_eq!(output.status.code(), Some(1));
    let spoken = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        spoken,
        "wardgate: there is no model \"no such model\", neither in the gateway's settings nor of the tenant\n"
    );
    assert!(run_on_folder(&runner.home, &["tenant", "list"]).contains("\ta new one"));
    assert_eq!(run_on_folder(&runner.home, &["key", "list", "--tenant", "a new one"]), "");

    let wrong = ["", " --data", " --tenant examples", " --date \"$DATA\"", " \"$DATA\" --data"];
    for arguments in wrong {
        let output = runner.try_run(&folder, &format!("sh try-it.sh{arguments}")).await;
        let spoken = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {spoken}");
        assert!(spoken.contains("\n  sh try-it.sh --data DIR "), "{arguments}: {spoken}");
    }
}

#[test]
fn each_folder_is_whole_and_in_the_table_and_its_script_begins_as_the_others_do() {
    let entries = fs::read_dir(examples_folder()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut folders: Vec<_> =
        folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    folders.sort_unstable();
    assert_eq!(folders, EXAMPLES, "each has a test here");
    let table = read_file(&examples_folder().join("README.md"));
    let beginning = |script: &str| {
        let (_, script) = script.split_once("\nset -eu\n").unwrap();
        let end = "\n# What all examples begin with ends here.\n";
        script.split_once(end).unwrap().0.to_owned()
    };
    let first = beginning(&read_file(&examples_folder().join(EXAMPLES[0]).join("try-it.sh")));
    for name in EXAMPLES {
        let folder = examples_folder().join(name);
        assert!(table.contains(&format!("\n| [{name}]({name}) | ")), "{name}");
        for file in ["README.md", "agent.toml"] {
            assert!(folder.join(file).exists(), "{name}/{file}");
        }
        assert_eq!(beginning(&read_file(&folder.join("try-it.sh"))), first, "{name}");
    }
}
