//! The version of the plugin interface. `wit/types.wit` is the only file that decides it.

use std::error::Error;
use std::fs;
use std::path::Path;

/// Reads the version after `package wardgate:plugin@` in this folder's `types.wit`.
pub(crate) fn interface_version(wit: &Path) -> Result<String, Box<dyn Error>> {
    let path = wit.join("types.wit");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let package = text.lines().find_map(|line| line.strip_prefix("package wardgate:plugin@"));
    let version = package.and_then(|rest| rest.trim_end().strip_suffix(';'));
    let version = version.ok_or_else(|| {
        format!("{} has no line `package wardgate:plugin@VERSION;`", path.display())
    })?;
    Ok(version.to_owned())
}
