//! `cargo xtask injection`: shows that what webhooks, tools and MCP servers say commands nothing. The goals and attacks are
//! AgentDojo's; the model obeys whatever it reads. `test` does not include this: the packages are some hundred megabytes.

use std::process::Command;

use crate::clients::{Gateway, run_script};
use crate::tools;

/// AgentDojo and its packages, with versions.
const REQUIREMENTS: &str = "tests/injection/requirements.txt";

/// Takes `URL key organization operator-key`.
const SCRIPT: &str = "tests/injection/injection.py";

/// Builds the gateway, installs AgentDojo and tries its attacks.
pub(crate) fn run() -> anyhow::Result<()> {
    tools::build_gateway()?;
    let built = tools::built()?;
    let folder = built.parent().unwrap_or(&built).join("injection");
    let python = tools::python(&folder, REQUIREMENTS)?;
    let gateway = Gateway::start(&built.join("wardgate"), &folder.join("data"), &[])?;
    let [url, key, organization, _] = &gateway.caller;
    let mut script = Command::new(python);
    run_script(SCRIPT, script.args([SCRIPT, url, key, organization, &gateway.operator_key]))
}
