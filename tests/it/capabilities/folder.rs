//! A plugin can access the folder that it is granted, and nothing outside of it.

use std::path::Path;

use serde_json::{Value, json};

use super::{agent, tool_result};
use crate::support::Gateway;

/// A folder to grant, with a sibling folder that is not granted and links that lead there.
struct FolderFixture(tempfile::TempDir);

impl FolderFixture {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (granted, beside) = (home.path().join("granted"), home.path().join("beside"));
        std::fs::create_dir_all(granted.join("below")).unwrap();
        std::fs::create_dir_all(&beside).unwrap();
        std::fs::write(granted.join("a.txt"), "for the plugin").unwrap();
        std::fs::write(beside.join("b.txt"), "for nobody").unwrap();
        std::os::unix::fs::symlink("../beside/b.txt", granted.join("link")).unwrap();
        std::os::unix::fs::symlink(&beside, granted.join("folder-link")).unwrap();
        std::os::unix::fs::symlink("a.txt", granted.join("inner-link")).unwrap();
        Self(home)
    }

    fn grants(&self, access: &str) -> String {
        let path = self.0.path().join("granted");
        format!("[folder]\npath = \"{}\"\naccess = \"{access}\"\n", path.display())
    }

    fn read_file(&self, below: &str) -> Option<String> {
        std::fs::read_to_string(self.0.path().join(below)).ok()
    }
}

#[tokio::test]
async fn a_granted_folder_can_be_read_and_nothing_else_be_reached() {
    let (gateway, fixture) = (Gateway::start().await, FolderFixture::new());
    let agent = agent(&gateway, "opens_files", &fixture.grants("read")).await;
    let result = async |arguments: Value| tool_result(&agent, "files", arguments).await;
    let read = |path: &str| json!({"do": "read", "path": path});
    assert_eq!(result(read("/data/a.txt")).await, json!({"ok": "for the plugin"}));
    assert_eq!(result(read("/data/inner-link")).await, json!({"ok": "for the plugin"}));
    let beside = fixture.0.path().join("beside/b.txt").display().to_string();
    for path in [
        "/data/../beside/b.txt",
        "/data/below/../../beside/b.txt",
        "/data/link",
        "/data/folder-link/b.txt",
        "/data//../../../../../../etc/passwd",
        "/etc/passwd",
        beside.as_str(),
        "/data/./../beside/b.txt",
        "a.txt",
        "/proc/self/environ",
    ] {
        let actual = result(read(path)).await;
        assert!(actual["error"].is_string(), "{path}: {actual}");
    }
    for change in [
        json!({"do": "write", "path": "/data/new.txt", "text": "x"}),
        json!({"do": "write", "path": "/data/a.txt", "text": "x"}),
        json!({"do": "delete", "path": "/data/a.txt"}),
        json!({"do": "rename", "path": "/data/c.txt", "text": "/data/a.txt"}),
        json!({"do": "link", "path": "/data/hard", "text": "/data/a.txt"}),
    ] {
        let actual = result(change.clone()).await;
        assert!(actual["error"].is_string(), "{change}: {actual}");
    }
    assert_eq!(fixture.read_file("granted/a.txt").as_deref(), Some("for the plugin"));
    assert_eq!(fixture.read_file("granted/new.txt"), None);
}

#[tokio::test]
async fn a_folder_granted_for_writing_keeps_writing_inside() {
    let (gateway, fixture) = (Gateway::start().await, FolderFixture::new());
    let agent = agent(&gateway, "opens_files", &fixture.grants("read-write")).await;
    let result = async |arguments: Value| tool_result(&agent, "files", arguments).await;
    let write = |path: &str| json!({"do": "write", "path": path, "text": "written"});
    assert!(result(write("/data/below/new.txt")).await["ok"].is_null());
    assert_eq!(fixture.read_file("granted/below/new.txt").as_deref(), Some("written"));
    for path in ["/data/../beside/b.txt", "/data/link", "/data/folder-link/new.txt", "/tmp/new"] {
        let actual = result(write(path)).await;
        assert!(actual["error"].is_string(), "{path}: {actual}");
    }
    for (to, from) in [("/data/../beside/moved", "/data/a.txt"), ("/data/got", "/data/link")] {
        result(json!({"do": "link", "path": to, "text": from})).await;
        result(json!({"do": "rename", "path": to, "text": from})).await;
    }
    assert_eq!(fixture.read_file("beside/b.txt").as_deref(), Some("for nobody"));
    let names = std::fs::read_dir(fixture.0.path().join("beside")).unwrap();
    assert_eq!(names.count(), 1, "nothing was put beside");
    let got = result(json!({"do": "read", "path": "/data/got"})).await;
    assert!(got["error"].is_string(), "{got}");
}

#[tokio::test]
async fn without_a_grant_there_is_no_folder() {
    let gateway = Gateway::start().await;
    let agent = agent(&gateway, "opens_files", "").await;
    for arguments in [
        json!({"do": "list", "path": "/"}),
        json!({"do": "list", "path": "/data"}),
        json!({"do": "read", "path": "/data/a.txt"}),
        json!({"do": "write", "path": "/tmp/a.txt", "text": "x"}),
    ] {
        let actual = tool_result(&agent, "files", arguments.clone()).await;
        assert!(actual["error"].is_string(), "{arguments}: {actual}");
    }
}

/// The usage of a folder: the bytes of its files, plus 4,096 for each entry.
fn folder_usage_bytes(folder: &Path) -> u64 {
    let entries =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    entries.map(|about| 4096 + if about.is_file() { about.len() } else { 0 }).sum()
}

#[tokio::test]
async fn a_plugin_makes_no_links_and_no_holes_in_its_folder() {
    let (gateway, fixture) = (Gateway::start().await, FolderFixture::new());
    let agent = agent(&gateway, "fills_folder", &fixture.grants("read-write")).await;
    let fill = async |what: &str, path: &str, bytes: u64| {
        tool_result(&agent, "fill", json!({"do": what, "path": path, "bytes": bytes})).await
    };
    let terabyte = 1 << 40;
    for (what, path, bytes) in [
        ("symlink", "made", 0),
        ("link", "made", 0),
        // The operator's own link would lead elsewhere if it were moved.
        ("rename", "inner-link", 0),
        ("set-size", "a.txt", terabyte),
        ("set-size", "a.txt", 15),
        ("write-at", "a.txt", terabyte),
        ("write-at", "a.txt", 15),
        ("stream-at", "a.txt", terabyte),
        ("stream-at", "a.txt", u64::MAX),
    ] {
        let actual = fill(what, path, bytes).await;
        assert_eq!(actual, json!({"error": "not-permitted"}), "{what} {path} {bytes}");
    }
    assert_eq!(fixture.read_file("granted/a.txt").as_deref(), Some("for the plugin"));
    assert!(!fixture.0.path().join("granted/made").is_symlink());
    assert!(fixture.0.path().join("granted/inner-link").is_symlink());

    assert_eq!(fill("write-at", "a.txt", 14).await, json!({"ok": 1}));
    assert_eq!(fill("stream-at", "a.txt", 15).await, json!({"ok": 1}));
    assert_eq!(fill("append", "a.txt", 2).await, json!({"ok": 2}));
    assert_eq!(fixture.read_file("granted/a.txt").as_deref(), Some("for the pluginxxxx"));
    assert_eq!(fill("set-size", "a.txt", 3).await, json!({"ok": 3}));
    assert_eq!(fill("rename", "a.txt", 0).await, json!({"ok": 0}));
    assert_eq!(fixture.read_file("granted/moved").as_deref(), Some("for"));
}

#[tokio::test]
async fn all_that_is_in_a_folder_stays_within_the_bytes_that_are_granted() {
    const BYTES: u64 = 100_000;
    let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
    // Files that existed before count as well.
    std::fs::write(home.path().join("theirs"), vec![b'x'; 40_000]).unwrap();
    let grants = format!(
        "[folder]\npath = \"{}\"\naccess = \"read-write\"\nbytes = {BYTES}\n",
        home.path().display()
    );
    let agent = agent(&gateway, "fills_folder", &grants).await;
    let fill = async |what: &str, path: &str, bytes: u64| {
        tool_result(&agent, "fill", json!({"do": what, "path": path, "bytes": bytes})).await
    };
    let full = json!({"error": "insufficient-space"});
    assert_eq!(fill("append", "a", 30_000).await, json!({"ok": 30_000}));
    assert_eq!(fill("append", "b", 30_000).await, full);
    assert_eq!(fill("append", "b", 30_000).await, full, "the next call finds it as full");
    assert_eq!(fill("append", "c", 1).await, full, "nor is there room for another file");
    assert!(
        (BYTES - 8_192..=BYTES).contains(&folder_usage_bytes(home.path())),
        "{}",
        folder_usage_bytes(home.path())
    );
    // Existing bytes may be overwritten, and truncation frees space.
    assert_eq!(fill("write-at", "a", 0).await, json!({"ok": 1}));
    assert_eq!(fill("cut", "b", 0).await, json!({"ok": 0}));
    assert_eq!(fill("append", "b", 17_000).await, json!({"ok": 17_000}));
    // So does another program that deletes a file.
    std::fs::remove_file(home.path().join("theirs")).unwrap();
    assert_eq!(fill("append", "b", 40_000).await, json!({"ok": 40_000}));
    assert!(folder_usage_bytes(home.path()) <= BYTES);
    // And the trace names the limit that was reached.
    let answer =
        agent.ask(json!({"prompt": r#"fill {"do":"append","path":"b","bytes":90000}"#})).await;
    let thread = agent.thread(&answer.task_id()).await;
    let step = thread.iter().find(|step| step["plugin"].is_string()).unwrap();
    let logs = step["logs"].to_string();
    assert!(logs.contains("more than the 100000 bytes") && logs.contains("[folder]"), "{logs}");
}

#[tokio::test]
async fn empty_files_folders_and_files_without_a_name_count_as_well() {
    for (what, bytes, most) in
        [("files", 1_000, 24), ("folders", 1_000, 24), ("unlinked", 20_000, 4), ("kept", 20_000, 4)]
    {
        let (gateway, home) = (Gateway::start().await, tempfile::tempdir().unwrap());
        let grants = format!(
            "[folder]\npath = \"{}\"\naccess = \"read-write\"\nbytes = 100000\n",
            home.path().display()
        );
        let agent = agent(&gateway, "fills_folder", &grants).await;
        let actual = tool_result(&agent, "fill", json!({"do": what, "bytes": bytes})).await;
        assert_eq!(actual, json!({"ok": most}), "{what}");
    }
}

#[tokio::test]
async fn a_folder_granted_for_reading_takes_nothing() {
    let (gateway, fixture) = (Gateway::start().await, FolderFixture::new());
    let agent = agent(&gateway, "fills_folder", &fixture.grants("read")).await;
    for what in ["symlink", "link", "rename", "cut", "set-size", "write-at", "append"] {
        let actual =
            tool_result(&agent, "fill", json!({"do": what, "path": "a.txt", "bytes": 1})).await;
        assert_eq!(actual, json!({"error": "not-permitted"}), "{what}");
    }
    assert_eq!(fixture.read_file("granted/a.txt").as_deref(), Some("for the plugin"));
}
