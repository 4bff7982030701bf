//! The CLI commands use the admin API like any other client: on a data folder, whether or not a gateway serves
//! from it, and at a remote gateway with a key.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::web::Web;
use crate::support::{GatewayProcess, Home, guest_path, wardgate};

/// The arguments that say where commands are sent.
struct CommandTarget(Vec<String>);

impl CommandTarget {
    fn folder(home: &Home) -> Self {
        Self(vec!["--data".to_owned(), home.path().to_str().unwrap().to_owned()])
    }

    fn gateway(gateway: &GatewayProcess, key_file: &Path) -> Self {
        let url = format!("http://{}", gateway.listen);
        Self(["--url", &url, "--key-file", key_file.to_str().unwrap()].map(str::to_owned).into())
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let target = self.0.iter().map(String::as_str);
        wardgate(&arguments.iter().copied().chain(target).collect::<Vec<_>>())
    }

    /// Runs a command that must succeed, and returns its output.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Runs a command that must fail with a message on stderr, and returns the message.
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let message = stderr(&output);
        assert!(output.status.code().is_some_and(|code| code != 0), "{arguments:?} succeeded");
        assert!(output.stdout.is_empty(), "{arguments:?}: a complaint is for stderr");
        assert!(message.starts_with("wardgate: ") && !message.contains("panicked"), "{message}");
        message
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(arguments)).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn key_file(home: &Home, name: &str, key: &str) -> PathBuf {
    home.write(name, &format!("{key}\n"))
}

/// The two targets of an operator: the data folder itself, and the gateway that serves from it.
fn operator_targets(home: &Home, gateway: &GatewayProcess) -> [CommandTarget; 2] {
    let key = gateway.startup_line["operator_key"].as_str().unwrap();
    [
        CommandTarget::folder(home),
        CommandTarget::gateway(gateway, &key_file(home, "operator.key", key)),
    ]
}

/// Creates, shows, changes and removes everything that a tenant can have.
fn exercise_every_command(target: &CommandTarget, home: &Home, name: &str) {
    let tenant = target.run(&["tenant", "create", name]);
    assert!(target.run(&["tenant", "list"]).contains(&format!("{tenant}\t{name}")));
    let run_for_tenant =
        |arguments: &[&str]| target.run(&[arguments, &["--tenant", name]].concat());

    assert_eq!(run_for_tenant(&["usage", "--days", "7"]), "day\tagent\tturns\ttokens\tcost");

    let model = home
        .write("model.toml", "kind = \"anthropic\"\nmodel = \"claude\"\napi_key = \"provider\"\n");
    let model = model.to_str().unwrap();
    assert_eq!(run_for_tenant(&["model", "apply", "mine", model]), "model mine is set");
    assert_eq!(run_for_tenant(&["model", "list"]), "mine\tanthropic\tclaude\toperator");
    assert_eq!(run_for_tenant(&["model", "remove", "mine"]), "removed mine");

    let key = run_for_tenant(&["key", "create", "--name", "zap", "--admin"]);
    let listed = run_for_tenant(&["key", "list"]);
    let (id, _) = listed.split_once('\t').unwrap();
    assert!(listed.contains("\tadmin\tzap\t") && !listed.contains(&key), "{listed}");
    assert_eq!(run_for_tenant(&["key", "revoke", id]), format!("revoked {id}"));
    assert!(run_for_tenant(&["key", "list"]).contains("\trevoked 2"));

    let installed = run_for_tenant(&["plugin", "install", guest_path("ignores").to_str().unwrap()]);
    assert!(installed.starts_with("installed ignores (sha256:"), "{installed}");
    let file = home.write("agent.toml", "name = \"a b\"\nmapper = \"ignores\"\n");
    let applied = run_for_tenant(&["agent", "apply", file.to_str().unwrap()]);
    let agent: Value = serde_json::from_str(&applied).unwrap();
    let agent = agent["agent_id"].as_str().unwrap();
    assert_eq!(run_for_tenant(&["agent", "list"]), format!("{agent}\ta b"));
    run_for_tenant(&["agent", "disable", "a b"]);
    assert_eq!(run_for_tenant(&["agent", "list"]), format!("{agent}\ta b\tdisabled"));
    run_for_tenant(&["agent", "enable", agent]);
    let shown: Value = serde_json::from_str(&run_for_tenant(&["agent", "show", "a b"])).unwrap();
    assert_eq!((&shown["id"], &shown["enabled"]), (&json!(agent), &json!(true)));

    let url = run_for_tenant(&["webhook", "show", "a b"]);
    let rotated = run_for_tenant(&["webhook", "rotate", "a b"]);
    assert!(rotated != url && rotated.contains("/api/webhooks/agents/"), "{url}, {rotated}");
    assert_eq!(run_for_tenant(&["webhook", "show", agent]), rotated);
    run_for_tenant(&["webhook", "revoke", "a b"]);
    let revoked = target.fail(&["webhook", "show", "a b", "--tenant", name]);
    assert!(revoked.contains("webhook rotate"), "{revoked}");

    assert_eq!(run_for_tenant(&["plugin", "remove", "ignores"]), "removed ignores");
    assert!(run_for_tenant(&["plugin", "list"]).contains("calculator\tbundled"));
    assert_eq!(run_for_tenant(&["task", "list"]), "");
}

#[tokio::test]
async fn every_command_works_on_a_folder_that_nobody_serves() {
    let home = Home::new();
    exercise_every_command(&CommandTarget::folder(&home), &home, "offline tenant");
}

#[tokio::test]
async fn every_command_works_beside_a_gateway_and_through_one() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    for (number, target) in operator_targets(&home, &gateway).iter().enumerate() {
        exercise_every_command(target, &home, &format!("tenant {number}"));
    }
}

#[tokio::test]
async fn tasks_are_listed_shown_stopped_and_deleted() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    for target in operator_targets(&home, &gateway) {
        let id = gateway.ask(json!({"task_id": "chat 1", "prompt": "hi"})).await.task_id();
        let listed = target.run(&["task", "list", "--status", "completed"]);
        assert!(listed.starts_with(&format!("{id}\tcompleted\t{}\t", gateway.agent)), "{listed}");
        assert!(target.run(&["task", "list", "--status", "failed"]).is_empty());
        // By the task's id, and by the name of its thread.
        for task in [id.as_str(), "chat 1"] {
            assert_eq!(target.json(&["task", "show", task])["id"], id);
        }
        assert_eq!(target.run(&["task", "stop", &id]), "completed");
        assert_eq!(target.run(&["task", "delete", &id]), "deleted");
        assert!(target.fail(&["task", "show", &id]).contains("Task not found"));
    }
}

#[tokio::test]
async fn an_admins_key_manages_its_own_tenant_and_no_other() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let folder = CommandTarget::folder(&home);
    let own = gateway.startup_line["organization_id"].as_str().unwrap();
    let other = folder.run(&["tenant", "create", "other"]);
    let key = folder.run(&["key", "create", "--admin", "--tenant", "demo"]);
    let admin = CommandTarget::gateway(&gateway, &key_file(&home, "admin.key", &key));
    let file = home.write("agent.json", r#"{"name": "of the admin"}"#);
    let file = file.to_str().unwrap();
    let applied = admin.json(&["agent", "apply", file, "--tenant", own]);
    assert_eq!(applied["organization_id"], own);
    assert!(admin.run(&["webhook", "show", "of the admin", "--tenant", own]).contains("http://"));
    for refused in [
        &["agent", "apply", file, "--tenant", &other][..],
        &["agent", "list", "--tenant", &other],
        &["key", "create", "--operator"],
        &["tenant", "create", "mine"],
    ] {
        assert!(admin.fail(refused).contains("Invalid API key"), "{refused:?}");
    }
    // It sees only its own tenant, so `--tenant` may be omitted, or may be the tenant's name.
    assert_eq!(admin.run(&["tenant", "list"]), format!("{own}\tdemo"));
    assert!(admin.run(&["agent", "list"]).contains("of the admin"));
    assert!(admin.run(&["agent", "list", "--tenant", "demo"]).contains("of the admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_sent_to_the_gateway_that_was_named_and_nowhere_else() {
    use axum::response::{IntoResponse as _, Redirect};
    use axum::routing::any;
    let stolen = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&stolen);
    let thief = axum::Router::new().fallback(any(move || async move {
        seen.store(true, std::sync::atomic::Ordering::SeqCst);
        "[]"
    }));
    let thief = Web::serve(thief).await;
    let to = format!("http://127.0.0.1:{}/stolen", thief.port);
    let redirecting = axum::Router::new()
        .route("/page/admin/tenants", any(|| async { "hello, this is some other page" }))
        .fallback(any(move || async move { Redirect::temporary(&to).into_response() }));
    let redirecting = Web::serve(redirecting).await;
    let home = Home::new();
    let key = key_file(&home, "a.key", "wgo_a-key-that-is-worth-something");
    for (base, reason) in [("", "307"), ("/page", "not JSON")] {
        let url = format!("http://127.0.0.1:{}{base}", redirecting.port);
        let target = CommandTarget(vec![
            "--url".to_owned(),
            url,
            "--key-file".to_owned(),
            key.to_str().unwrap().to_owned(),
        ]);
        let message = target.fail(&["tenant", "list"]);
        assert!(message.contains(reason), "{message}");
    }
    assert!(!stolen.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn an_agent_that_is_applied_twice_is_the_same_agent() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let toml = home.write("sums.toml", "name = \"sums\"\ntools = [\"calculator\"]\n");
    let json = home.write("sums.json", r#"{"name": "sums", "tools": ["calculator"]}"#);
    let mut lines = Vec::new();
    for target in operator_targets(&home, &gateway) {
        for file in [&toml, &json, &toml] {
            let file = file.to_str().unwrap();
            lines.push(target.json(&["agent", "apply", file, "--tenant", "demo"]));
        }
    }
    assert_eq!(lines[0]["version"], 1);
    assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    gateway.post(lines[0]["webhook_path"].as_str().unwrap()).json(&json!({})).expect(200).await;
}

#[tokio::test]
async fn an_agent_that_many_apply_at_once_is_one_agent() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let file = home.write("new.toml", "name = \"new\"\n");
    let targets = operator_targets(&home, &gateway);
    let file = file.to_str().unwrap();
    let lines: Vec<Value> = std::thread::scope(|scope| {
        let apply = |target: &'_ CommandTarget| target.json(&["agent", "apply", file]);
        let applying: Vec<_> = targets
            .iter()
            .cycle()
            .take(10)
            .map(|target| scope.spawn(move || apply(target)))
            .collect();
        applying.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    let listed = targets[0].run(&["agent", "list"]);
    assert_eq!(listed.lines().filter(|line| line.ends_with("\tnew")).count(), 1, "{listed}");
}

#[tokio::test]
async fn what_goes_wrong_is_said_in_a_sentence_without_the_key() {
    const WRONG: &str = "wgo_a-key-that-nobody-has-0123456789";
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let [folder, through] = operator_targets(&home, &gateway);
    let wrong = key_file(&home, "wrong.key", WRONG);
    let nowhere = ["--url", "http://127.0.0.1:1", "--key-file", wrong.to_str().unwrap()];
    let [wrong, nowhere] = [
        CommandTarget::gateway(&gateway, &wrong),
        CommandTarget(nowhere.map(str::to_owned).into()),
    ];
    let no_file = CommandTarget::gateway(&gateway, &home.path().join("absent.key"));
    let misspelt = home.write("misspelt.toml", "name = \"a\"\nmodell = \"x\"\n");
    let misspelt = misspelt.to_str().unwrap();
    for (target, arguments, reason) in [
        (&wrong, &["tenant", "list"][..], "Invalid API key"),
        (&nowhere, &["tenant", "list"], "cannot be reached"),
        (&no_file, &["tenant", "list"], "absent.key"),
        (&folder, &["agent", "list", "--tenant", "nobody"], "no tenant \"nobody\""),
        (&through, &["agent", "list", "--tenant", "nobody"], "no tenant \"nobody\""),
        (&through, &["agent", "show", "nobody"], "no agent \"nobody\""),
        (&folder, &["webhook", "show", "nobody"], "no agent \"nobody\""),
        (&through, &["tenant", "create", "demo"], "name"),
        (&folder, &["tenant", "create", ""], "is empty"),
        (&through, &["agent", "apply", misspelt], "misspelt.toml is not an agent file"),
        (&through, &["agent", "apply", "absent.toml"], "cannot read absent.toml"),
        (&through, &["plugin", "install", misspelt], "not a WebAssembly component"),
        (&through, &["plugin", "remove", "absent"], "Plugin not found"),
        (&through, &["key", "create", "--expires", "2020-01-01T00:00:00Z"], "in the future"),
        (&through, &["key", "revoke", "nonsense"], "Key not found"),
        (&through, &["key", "folder"], "--data only"),
        (&folder, &["task", "stop", "absent"], "Task not found"),
    ] {
        let message = target.fail(arguments);
        assert!(message.contains(reason), "{arguments:?}: {message}");
        let keys = [WRONG, gateway.startup_line["operator_key"].as_str().unwrap()];
        assert!(keys.iter().all(|key| !message.contains(key)), "{arguments:?} shows a key");
    }
}

#[tokio::test]
async fn which_folder_or_gateway_has_to_be_said() {
    let home = Home::new();
    let folder = home.path().to_str().unwrap();
    for arguments in [
        &["tenant", "list"][..],
        &["tenant", "list", "--url", "http://127.0.0.1:1"],
        &["tenant", "list", "--data", folder, "--url", "http://127.0.0.1:1"],
        &["key", "create", "--admin", "--operator", "--data", folder],
    ] {
        let output = wardgate(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(stderr(&output).contains("Usage: wardgate"), "{}", stderr(&output));
    }
    for asked in [&["--version"][..], &["serve", "--help"]] {
        let output = wardgate(asked);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{asked:?}");
    }
    let several = CommandTarget::folder(&home);
    assert!(several.fail(&["agent", "list"]).contains("wardgate tenant create"));
    several.run(&["tenant", "create", "one"]);
    several.run(&["tenant", "create", "two"]);
    assert!(several.fail(&["agent", "list"]).contains("--tenant"));
}

/// The subcommands that a help text lists.
fn listed_commands(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = commands.take_while(|line| line.starts_with("  "));
    let names = names.filter(|line| !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_command_says_what_it_does() {
    let mut paths = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(path) = paths.pop() {
        let arguments: Vec<_> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let output = wardgate(&arguments);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && help.contains("Usage: wardgate"), "{path:?}: {help}");
        let first = help.lines().next().unwrap();
        assert!(
            first.contains(' ') && !first.starts_with("Usage"),
            "{path:?} says nothing: {help}"
        );
        let below = listed_commands(&help).into_iter().filter(|name| name != "help");
        paths.extend(below.map(|name| [path.clone(), vec![name]].concat()));
        seen += 1;
    }
    // The program itself, nine commands, and the subcommands of six of them.
    assert!(seen >= 30, "only {seen} help texts were found");
}
