//! A plugin sees the folder that it is granted, and nothing beside it.

use serde_json::{Value, json};

use super::{agent, told};
use crate::support::Gateway;

/// A folder to grant, with a neighbour that is not granted and links that lead there.
struct Shelf(tempfile::TempDir);

impl Shelf {
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

    fn granted(&self, access: &str) -> String {
        let path = self.0.path().join("granted");
        format!("[folder]\npath = \"{}\"\naccess = \"{access}\"\n", path.display())
    }

    fn read(&self, below: &str) -> Option<String> {
        std::fs::read_to_string(self.0.path().join(below)).ok()
    }
}

#[tokio::test]
async fn a_granted_folder_can_be_read_and_nothing_else_be_reached() {
    let (gateway, shelf) = (Gateway::start().await, Shelf::new());
    let agent = agent(&gateway, "opens_files", &shelf.granted("read")).await;
    let told = async |arguments: Value| told(&agent, "files", arguments).await;
    let read = |path: &str| json!({"do": "read", "path": path});
    assert_eq!(told(read("/data/a.txt")).await, json!({"ok": "for the plugin"}));
    assert_eq!(told(read("/data/inner-link")).await, json!({"ok": "for the plugin"}));
    let beside = shelf.0.path().join("beside/b.txt").display().to_string();
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
        let came = told(read(path)).await;
        assert!(came["error"].is_string(), "{path}: {came}");
    }
    for change in [
        json!({"do": "write", "path": "/data/new.txt", "text": "x"}),
        json!({"do": "write", "path": "/data/a.txt", "text": "x"}),
        json!({"do": "delete", "path": "/data/a.txt"}),
        json!({"do": "rename", "path": "/data/c.txt", "text": "/data/a.txt"}),
        json!({"do": "link", "path": "/data/hard", "text": "/data/a.txt"}),
    ] {
        let came = told(change.clone()).await;
        assert!(came["error"].is_string(), "{change}: {came}");
    }
    assert_eq!(shelf.read("granted/a.txt").as_deref(), Some("for the plugin"));
    assert_eq!(shelf.read("granted/new.txt"), None);
}

#[tokio::test]
async fn a_folder_granted_for_writing_keeps_writing_inside() {
    let (gateway, shelf) = (Gateway::start().await, Shelf::new());
    let agent = agent(&gateway, "opens_files", &shelf.granted("read-write")).await;
    let told = async |arguments: Value| told(&agent, "files", arguments).await;
    let write = |path: &str| json!({"do": "write", "path": path, "text": "written"});
    assert!(told(write("/data/below/new.txt")).await["ok"].is_null());
    assert_eq!(shelf.read("granted/below/new.txt").as_deref(), Some("written"));
    for path in ["/data/../beside/b.txt", "/data/link", "/data/folder-link/new.txt", "/tmp/new"] {
        let came = told(write(path)).await;
        assert!(came["error"].is_string(), "{path}: {came}");
    }
    for (to, from) in [("/data/../beside/moved", "/data/a.txt"), ("/data/got", "/data/link")] {
        told(json!({"do": "link", "path": to, "text": from})).await;
        told(json!({"do": "rename", "path": to, "text": from})).await;
    }
    assert_eq!(shelf.read("beside/b.txt").as_deref(), Some("for nobody"));
    let names = std::fs::read_dir(shelf.0.path().join("beside")).unwrap();
    assert_eq!(names.count(), 1, "nothing was put beside");
    let got = told(json!({"do": "read", "path": "/data/got"})).await;
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
        let came = told(&agent, "files", arguments.clone()).await;
        assert!(came["error"].is_string(), "{arguments}: {came}");
    }
}
