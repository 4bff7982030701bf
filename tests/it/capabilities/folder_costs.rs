//! The host's work and memory for a plugin's folder are charged to the plugin: time counts as CPU time, memory
//! counts for its tenant, and nothing that the plugin creates makes the folder unusable for others.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{agent, tool_result};
use crate::support::{Client, Gateway, Setup};

fn granted(folder: &Path, access: &str, bytes: u64) -> String {
    let path = folder.display();
    format!("[folder]\npath = \"{path}\"\naccess = \"{access}\"\nbytes = {bytes}\n")
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn lists_and_streams_that_are_held_are_charged_to_the_tenant_until_they_are_dropped() {
    let setup = Setup::new().settings(|settings| settings.sandbox.tenant_memory_mib_max = 14);
    let (gateway, home) = (setup.start().await, tempfile::tempdir().unwrap());
    fs::write(home.path().join("a.txt"), "for the plugin").unwrap();
    let holds = agent(&gateway, "holds_listings", &granted(home.path(), "read-write", MIB)).await;
    for what in ["list", "read", "write"] {
        let hold =
            async |most: u64| tool_result(&holds, "hold", json!({"do": what, "most": most})).await;
        assert_eq!(hold(20).await, json!({"held": 20}), "{what}");
        let actual = hold(250).await;
        assert_eq!(actual["error"], "insufficient-memory", "{what}: {actual}");
        assert!(actual["held"].as_u64().unwrap() >= 20, "{what}: {actual}");
        // The memory was released when the call ended.
        assert_eq!(hold(20).await, json!({"held": 20}), "{what}");
    }
}

#[tokio::test]
async fn without_a_grant_nothing_is_listed_and_with_one_for_reading_nothing_written() {
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    fs::write(home.path().join("a.txt"), "for the plugin").unwrap();
    let without = agent(&gateway, "holds_listings", "").await;
    let none = tool_result(&without, "hold", json!({"do": "list", "most": 1})).await;
    assert_eq!(none, json!({"error": "no folder"}));
    let gateway = Gateway::start().await;
    let reads = agent(&gateway, "holds_listings", &granted(home.path(), "read", MIB)).await;
    let hold = async |what: &str| tool_result(&reads, "hold", json!({"do": what, "most": 1})).await;
    assert_eq!(hold("list").await, json!({"held": 1}));
    assert_eq!(hold("read").await, json!({"held": 1}));
    assert_eq!(hold("write").await, json!({"error": "not-permitted"}));
}

#[tokio::test]
async fn a_long_list_is_told_to_its_end() {
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    for number in 0..3_000 {
        fs::write(home.path().join(format!("{number:06}")), "").unwrap();
    }
    let lists = agent(&gateway, "holds_listings", &granted(home.path(), "read", MIB)).await;
    let names = tool_result(&lists, "hold", json!({"do": "names"})).await;
    assert_eq!(names, json!({"count": 3_000, "first": "000000", "last": "002999"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_that_files_take_is_the_plugins_computing_time() {
    const FILES: u64 = 20_000;
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    for number in 0..FILES {
        fs::write(home.path().join(number.to_string()), "").unwrap();
    }
    // The folder is full, so that each attempt to create a file counts its contents. The guest itself does next
    // to nothing.
    let grants = granted(home.path(), "read-write", FILES * 4096 + 1);
    let limits = "[limits]\ntool_cpu_ms = 100\ntool_wall_ms = 60000\n";
    let agent = gateway.agent_with_tool("fills_folder", &format!("{grants}{limits}")).await;
    let tries = async |times: u64| {
        let arguments = json!({"do": "again", "path": "more", "bytes": times});
        let answer = agent.ask(json!({"prompt": format!("fill {arguments}")})).await;
        answer.report()["tools"][0].clone()
    };
    assert_eq!(tries(0).await["result"], json!({"ok": 0}));
    let tool = tries(16).await;
    assert_eq!(tool["is_error"], true, "{tool}");
    let reported = tool["result"].as_str().unwrap();
    assert!(reported.contains("computed for longer than the 100 ms"), "{reported}");
}

/// Writes into the folder from a newly started gateway, which first counts the folder's contents.
async fn written(folder: &Path) -> Value {
    let gateway = Gateway::start().await;
    let writes = agent(&gateway, "nests_folders", &granted(folder, "read-write", 4 * MIB)).await;
    tool_result(&writes, "nest", json!({"do": "write"})).await
}

async fn nest(agent: &Client, top: &str, levels: u64, letters: u64) -> Value {
    tool_result(agent, "nest", json!({"top": top, "levels": levels, "letters": letters})).await
}

#[tokio::test]
async fn a_plugin_nests_folders_no_deeper_than_they_can_be_counted() {
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    let agent =
        agent(&gateway, "nests_folders", &granted(home.path(), "read-write", 4 * MIB)).await;
    let too_deep = json!({"deep": 64, "error": "not-permitted"});
    assert_eq!(nest(&agent, "", 100, 1).await, too_deep);
    // The path of a folder may be longer than the system's limit for paths.
    assert_eq!(nest(&agent, "", 60, 250).await, json!({"deep": 60}));
    assert_eq!(written(home.path()).await, json!({"ok": 1}));
}

#[tokio::test]
async fn a_folder_is_moved_to_where_all_in_it_lies_no_deeper_than_it_may() {
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    let agent =
        agent(&gateway, "nests_folders", &granted(home.path(), "read-write", 4 * MIB)).await;
    for (top, levels) in [("one", 40), ("two", 40), ("three", 2)] {
        assert_eq!(nest(&agent, top, levels, 1).await, json!({"deep": levels}));
    }
    let moved = async |from: &str, top: &str| {
        tool_result(&agent, "nest", json!({"do": "move", "from": from, "top": top, "to": "moved"}))
            .await
    };
    assert_eq!(moved("two", "one").await, json!({"error": "not-permitted"}));
    assert!(home.path().join("two").is_dir());
    assert_eq!(moved("missing", "one").await, json!({"error": "no-entry"}));
    assert_eq!(moved("three", "one").await, json!({"ok": null}));
    assert_eq!(moved("two", "").await, json!({"ok": null}));
    assert!(home.path().join("moved").is_dir());
    assert_eq!(written(home.path()).await, json!({"ok": 1}));
}

#[tokio::test]
async fn an_operators_own_deeper_folders_do_not_keep_a_plugin_from_writing() {
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    let deep = vec!["d"; 100].join("/");
    fs::create_dir_all(home.path().join(&deep)).unwrap();
    assert_eq!(written(home.path()).await, json!({"ok": 1}));
    let agent =
        agent(&gateway, "nests_folders", &granted(home.path(), "read-write", 4 * MIB)).await;
    // The plugin cannot add a folder below them.
    let refused = json!({"deep": 0, "error": "not-permitted"});
    assert_eq!(nest(&agent, &deep, 1, 1).await, refused);
    assert_eq!(nest(&agent, "beside", 1, 1).await, json!({"deep": 1}));
}

#[tokio::test]
async fn a_pipe_in_a_folder_is_not_opened() {
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    let made = std::process::Command::new("mkfifo").arg(home.path().join("pipe")).status();
    assert!(made.unwrap().success());
    fs::write(home.path().join("a.txt"), "for the plugin").unwrap();
    let opens = agent(&gateway, "opens_files", &granted(home.path(), "read-write", MIB)).await;
    // The pipe has no writer: opening it for reading would block for ever, and so would resolving a path below
    // it.
    for arguments in [
        json!({"do": "read", "path": "/data/pipe"}),
        json!({"do": "write", "path": "/data/pipe", "text": "x"}),
        json!({"do": "list", "path": "/data/pipe"}),
        json!({"do": "rename", "path": "/data/pipe/a.txt", "text": "/data/a.txt"}),
    ] {
        let actual = tool_result(&opens, "files", arguments.clone()).await;
        assert!(actual["error"].is_string(), "{arguments}: {actual}");
    }
    let read = tool_result(&opens, "files", json!({"do": "read", "path": "/data/a.txt"})).await;
    assert_eq!(read, json!({"ok": "for the plugin"}));
}
