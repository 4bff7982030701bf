//! With this program and the package manager of a language, an author gets from nothing to an installed plugin: the
//! tests run the commands in the README.md of a generated project.
//!
//! They need npm for JavaScript, python3 with pip for Python, and the network if the packages are not installed yet.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::wardgate;

const ROLES: &str = "verifier,payload-mapper,response-getter,replier,toolbox,about";

/// Creates a project with every role in a fixed folder. Its subfolder `kept`, into which the package manager
/// installs, survives the test run, so that only the first run downloads packages.
fn project(language: &str, kept: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-new").join(language);
    let fresh = folder.with_extension("fresh");
    let _ = fs::remove_dir_all(&fresh);
    let path = fresh.to_str().unwrap();
    let arguments = ["plugin", "new", "order-desk", "--lang", language, "--role", ROLES];
    let output = wardgate(&[arguments.as_slice(), &["--folder", path]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let message = String::from_utf8(output.stdout).unwrap();
    assert!(message.contains("wardgate plugin test"), "it says what to do next: {message}");
    if folder.exists() {
        let _ = fs::rename(folder.join(kept), fresh.join(kept));
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::rename(&fresh, &folder).unwrap();
    folder
}

/// The first block of commands in this section of the project's README.md.
fn readme_commands(project: &Path, section: &str) -> String {
    let readme = fs::read_to_string(project.join("README.md")).unwrap();
    let (_, section) = readme.split_once(&format!("## {section}\n\n```sh\n")).unwrap();
    section.split_once("```").unwrap().0.to_owned()
}

/// Runs the commands of a section as an author would, with `wardgate` in the path.
fn run_readme_section(project: &Path, section: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let mut path = test.parent().and_then(Path::parent).unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let commands = readme_commands(project, section);
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &commands]).current_dir(project).env("PATH", path);
    // The cache for code that `plugin test` compiles.
    shell.env("XDG_CACHE_HOME", project.join("cache"));
    // Build settings of the gateway do not apply to a plugin.
    for outer in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "RUSTC_WRAPPER"] {
        shell.env_remove(outer);
    }
    let output = shell.output().unwrap();
    let [message, complained] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{section}:\n{commands}\n{message}\n{complained}");
    message
}

/// Builds the project, runs its golden cases, installs the plugin, and checks that it has every role.
fn build_test_and_install(project: &Path) {
    run_readme_section(project, "Build");
    let tested = run_readme_section(project, "Test");
    assert!(tested.ends_with("9 cases passed\n"), "{tested}");
    // A data folder with the code cache that `plugin test` has filled: compiling an interpreter takes a while. Not with
    // the cache that the tests share, since builds in JavaScript and Python are not reproducible: each run would leave
    // another 35 MB there.
    let (author, data) = (project.join("cache/wardgate"), project.join("data"));
    fs::create_dir(&data).unwrap();
    fs::copy(author.join("host.key"), data.join("host.key")).unwrap();
    symlink(author.join("cache"), data.join("cache")).unwrap();
    let tenant = wardgate(&["tenant", "create", "one", "--data", data.to_str().unwrap()]);
    assert!(tenant.status.success());
    let installed = run_readme_section(project, "Install");
    assert!(installed.starts_with("installed order-desk (sha256:"), "{installed}");
    assert!(installed.contains(&ROLES.replace(',', ", ")), "{installed}");
}

#[test]
fn a_project_in_rust_goes_from_nothing_to_installed() {
    let project = project("rust", "target");
    if !project.join("target").exists() {
        // The guests of these tests have the same dependencies, already built, which saves half a minute.
        let guests = Path::new(env!("GUESTS_DIR")).ancestors().nth(3).unwrap();
        symlink(guests, project.join("target")).unwrap();
    }
    build_test_and_install(&project);
}

#[test]
fn a_project_in_javascript_goes_from_nothing_to_installed() {
    build_test_and_install(&project("js", "node_modules"));
}

#[test]
fn a_project_in_python_goes_from_nothing_to_installed() {
    build_test_and_install(&project("python", ".venv"));
}

#[test]
fn a_project_has_what_its_roles_need_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    for (language, ending) in [("rust", "rs"), ("js", "js"), ("python", "py")] {
        let path = home.path().join(language);
        let arguments = ["plugin", "new", "a", "--lang", language, "--role", "toolbox", "--role"];
        let rest = ["verifier", "--folder", path.to_str().unwrap()];
        assert!(wardgate(&[arguments.as_slice(), &rest].concat()).status.success());
        let names = |folder: &str| {
            let entries = fs::read_dir(path.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        };
        let sources: Vec<_> = names("src").collect();
        for (role, wanted) in [("toolbox", true), ("verifier", true), ("replier", false)] {
            let file = format!("{role}.{ending}");
            assert_eq!(sources.contains(&file), wanted, "{file}: {sources:?}");
        }
        let mut fixtures: Vec<_> = names("fixtures").collect();
        fixtures.sort();
        let wanted = ["call-tool.json", "list-tools.json", "verify-forged.json", "verify.json"];
        assert_eq!(fixtures, wanted);
    }
}

#[test]
fn what_cannot_be_made_is_refused_and_nothing_is_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("project");
    let refusal = |name: &str, language: &str, role: &str| {
        let path = path.to_str().unwrap();
        let arguments = ["plugin", "new", name, "--lang", language, "--role", role];
        let output = wardgate(&[arguments.as_slice(), &["--folder", path]].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{name} {language} {role}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refusal("Not A Name", "rust", "toolbox").contains("lower-case letters"));
    assert!(refusal("7up", "rust", "toolbox").contains("digit"));
    assert!(refusal("wardgate-sdk", "rust", "toolbox").contains("SDK"));
    assert!(refusal("a", "cobol", "toolbox").contains("python"));
    assert!(refusal("a", "rust", "gatekeeper").contains("payload-mapper"));
    assert!(!path.exists(), "nothing was made");

    fs::create_dir(&path).unwrap();
    fs::write(path.join("README.md"), "mine").unwrap();
    assert!(refusal("a", "rust", "toolbox").contains("not empty"));
    assert_eq!(fs::read_to_string(path.join("README.md")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}
