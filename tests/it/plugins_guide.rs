//! docs/PLUGINS.md works as written: the test writes its files, runs its commands in order in one shell, and compares
//! their output with what it shows.
//!
//! Like its readers, it needs curl, openssl and python3.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::Home;

/// A fenced block of the guide.
#[derive(Debug)]
enum Block {
    /// A file, with its path in bold in the line above.
    File { path: String, text: String },
    /// Commands.
    Run(String),
    /// Lines that the commands above print, among others; `…` stands for any text.
    Shown(String),
}

fn guide() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join("docs/PLUGINS.md")).unwrap()
}

/// The guide's blocks in order. Blocks that are neither file, commands nor output are excerpts and are skipped.
fn parse_blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut named = None;
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            let bold = line.strip_prefix("**").and_then(|rest| rest.strip_suffix("**"));
            named = bold.map(str::to_owned).or(named.filter(|_| line.is_empty()));
            continue;
        };
        let text: String = lines
            .by_ref()
            .take_while(|line| *line != "```")
            .map(|line| format!("{line}\n"))
            .collect();
        match (named.take(), language) {
            (Some(path), _) => blocks.push(Block::File { path, text }),
            (None, "sh") => blocks.push(Block::Run(text)),
            (None, "text") => blocks.push(Block::Shown(text)),
            (None, _) => {}
        }
    }
    blocks
}

/// The folder in which the guide is followed. It is fixed, so that cargo replaces its earlier build.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins-guide");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Free ports to replace those of the guide. They are below the ephemeral range, so that the system does not assign
/// them to another test in the meantime.
fn ports() -> [u16; 2] {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut free = (first..).filter(free);
    [free.next().unwrap(), free.next().unwrap()]
}

/// The shell that runs the guide. On drop, kills every process that the guide started, even after a failure.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

const BLOCK_MARK: &str = "@@ this was block";

/// Reuses existing builds, which saves a minute: the guests of these tests, which have the same dependencies, before
/// the first build, and the compiled bundled plugins before the gateway starts.
fn with_build_caches(commands: &str, home: &Home) -> String {
    let guests = Path::new(env!("GUESTS_DIR")).ancestors().nth(3).unwrap();
    let mut links = String::new();
    for (needed_by, name, target) in
        [("cargo build", "target", guests), ("wardgate serve", "data", home.path())]
    {
        if commands.contains(needed_by) {
            links += &format!("test -e {name} || ln -s '{}' {name}\n", target.display());
        }
    }
    links + commands
}

/// All blocks as one script, with a mark after each block's output. The script exits at the first failure.
fn script(blocks: &[Block], renumber: impl Fn(&str) -> String, home: &Home) -> String {
    let mut script = String::from("set -e\n");
    for (number, block) in blocks.iter().enumerate() {
        match block {
            Block::File { path, text } => {
                let text = renumber(text);
                script.push_str(&format!("cat > '{path}' <<'END OF FILE'\n{text}END OF FILE\n"));
            }
            Block::Run(commands) => {
                let commands = with_build_caches(&renumber(commands), home);
                script.push_str(&format!("{commands}echo\necho '{BLOCK_MARK} {number}'\n"));
            }
            Block::Shown(_) => {}
        }
    }
    script
}

/// Runs the script and returns its output.
fn run_script(folder: &Path, script: &str, port: u16) -> String {
    fs::write(folder.join("guide.sh"), script).unwrap();
    let output = fs::File::create(folder.join("output")).unwrap();
    let test = std::env::current_exe().unwrap();
    let mut path = test.parent().and_then(Path::parent).unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.arg("guide.sh").current_dir(folder).env("PATH", path).process_group(0);
    shell.env("WARDGATE_HTTP__LISTEN", format!("127.0.0.1:{port}"));
    shell.env("XDG_CACHE_HOME", folder.join("cache"));
    for outer in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "RUSTC_WRAPPER"] {
        shell.env_remove(outer);
    }
    shell.stdin(Stdio::null()).stderr(output.try_clone().unwrap()).stdout(output);
    let mut shell = Shell(shell.spawn().unwrap());
    let status = shell.0.wait().unwrap();
    let printed = fs::read(folder.join("output")).unwrap();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(status.success(), "the guide ends here:\n{printed}");
    printed
}

/// Whether a line matches the shown one, in which each `…` stands for any text.
pub(crate) fn is_shown(line: &str, shown: &str) -> bool {
    let (line, shown) = (line.trim(), shown.trim());
    let parts: Vec<_> = shown.split('…').collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return false };
    if parts.len() == 1 {
        return line == shown;
    }
    let inner = line.strip_prefix(first).and_then(|line| line.strip_suffix(last));
    let mut rest = inner;
    for part in &parts[1..parts.len() - 1] {
        rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, after)| after);
    }
    rest.is_some()
}

#[test]
fn every_command_runs_and_prints_what_is_shown() {
    let guide = guide();
    let blocks = parse_blocks(&guide);
    let [gateway, service] = ports().map(|port| port.to_string());
    let renumber = |text: &str| text.replace("8080", &gateway).replace("9000", &service);
    let (folder, home) = (folder(), Home::new());
    let printed = run_script(&folder, &script(&blocks, renumber, &home), gateway.parse().unwrap());

    let mut rest = printed.as_str();
    let (mut before, mut ran) = (None, 0);
    for (number, block) in blocks.iter().enumerate() {
        match block {
            Block::File { .. } => before = None,
            Block::Run(_) => {
                let mark = format!("\n{BLOCK_MARK} {number}\n");
                let (output, after) = rest.split_once(&mark).expect("each block ran");
                (before, rest, ran) = (Some(output), after, ran + 1);
            }
            Block::Shown(shown) => {
                let output = before.expect("what is shown follows commands");
                let mut lines = output.lines();
                for line in shown.lines() {
                    let actual = lines.any(|actual| is_shown(actual, line));
                    assert!(actual, "the guide shows\n{line}\nand what came is\n{output}");
                }
            }
        }
    }
    assert_eq!(ran, guide.matches("```sh").count(), "every block of commands is found and run");
    assert!(ran >= 10, "there are commands");
}

#[test]
fn a_line_that_differs_from_what_is_shown_is_told_apart() {
    for (line, shown, same) in [
        ("7 cases passed", "7 cases passed", true),
        ("6 of 7 cases failed", "7 cases passed", false),
        ("17 cases passed", "7 cases passed", false),
        ("ok  a.json  (1.2 ms)", "ok  a.json  (… ms)", true),
        ("ok  b.json  (1.2 ms)", "ok  a.json  (… ms)", false),
        ("ok  a.json  (1.2 s)", "ok  a.json  (… ms)", false),
        ("a then b then c", "a…b…c", true),
        ("a then c", "a…b…c", false),
        ("at the end", "…end", true),
        ("at the end.", "…end", false),
    ] {
        assert_eq!(is_shown(line, shown), same, "{line} / {shown}");
    }
}
