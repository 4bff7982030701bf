//! Formats what the gateway's responses report about a plugin's version.

use serde_json::Value;

use super::super::api::text;

/// The roles of a plugin, separated by commas.
pub(super) fn roles(installed: &Value) -> String {
    let roles = installed.get("roles").and_then(Value::as_array);
    let roles = roles.into_iter().flatten().filter_map(Value::as_str);
    roles.collect::<Vec<_>>().join(", ")
}

/// The notes about a version, each preceded by a line break.
pub(super) fn notes(installed: &Value) -> String {
    let notes = installed.get("notes").and_then(Value::as_array);
    let notes = notes.into_iter().flatten().filter_map(Value::as_str);
    notes.map(|note| format!("\nnote: {note}")).collect()
}

/// The signer of a version, with key id and trusted comment. None if it is unsigned.
pub(super) fn signer(version: &Value) -> Option<String> {
    let signer = version.get("signed_by").filter(|signer| signer.is_object())?;
    let (name, key) = (text(signer, "name"), text(signer, "key_id"));
    Some(format!("{name} ({key}): {}", text(signer, "trusted_comment")))
}
