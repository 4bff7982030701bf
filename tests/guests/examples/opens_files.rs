//! A tool `files` that reads, writes, lists, deletes, links or renames a path, and returns the result or the
//! kind of the error.

use serde_json::json;
use std::{fs, io};

guests::tool!("files", |arguments| {
    let path = arguments["path"].as_str().unwrap_or_default();
    let text = arguments["text"].as_str().unwrap_or_default();
    let done: io::Result<serde_json::Value> = match arguments["do"].as_str().unwrap_or_default() {
        "read" => fs::read_to_string(path).map(Into::into),
        "write" => fs::write(path, text).map(Into::into),
        "delete" => fs::remove_file(path).map(Into::into),
        "link" => fs::hard_link(text, path).map(Into::into),
        "rename" => fs::rename(text, path).map(Into::into),
        _ => fs::read_dir(path).map(|entries| {
            let names = entries.flatten().map(|entry| entry.file_name());
            names.map(|name| name.to_string_lossy().into_owned()).collect()
        }),
    };
    Ok(match done {
        Ok(value) => json!({"ok": value}),
        Err(error) => json!({"error": error.kind().to_string()}),
    }
    .to_string())
});
