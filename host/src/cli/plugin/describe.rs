//! What the gateway's answers say of a plugin's version, as commands print it.

use serde_json::Value;

use super::super::api::text;

/// The roles of a plugin, from the gateway's answer.
pub(super) fn roles(installed: &Value) -> String {
    let roles = installed.get("roles").and_then(Value::as_array);
    let roles = roles.into_iter().flatten().filter_map(Value::as_str);
    roles.collect::<Vec<_>>().join(", ")
}

/// What is to be known of a version, from the gateway's answer: a line each, with a line's end before it.
pub(super) fn notes(installed: &Value) -> String {
    let notes = installed.get("notes").and_then(Value::as_array);
    let notes = notes.into_iter().flatten().filter_map(Value::as_str);
    notes.map(|note| format!("\nnote: {note}")).collect()
}

/// Who signed a version, from the gateway's answer.
pub(super) fn signer(version: &Value) -> Option<String> {
    let signer = version.get("signed_by").filter(|signer| signer.is_object())?;
    let (name, key) = (text(signer, "name"), text(signer, "key_id"));
    Some(format!("{name} ({key}): {}", text(signer, "trusted_comment")))
}
