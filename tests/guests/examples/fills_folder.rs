//! A tool `fill` that calls WASI directly for one operation on its folder, and returns the result or the kind
//! of the error.
//!
//! `symlink`, `link` and `rename` create or move `path`. `set-size` and `write-at` extend the file to or write
//! at byte `bytes`, `stream-at` writes there by a stream, `append` appends `bytes` bytes, `cut` truncates the
//! file. `files` and `folders` create up to `bytes` entries. `unlinked` writes `bytes` bytes into each of many
//! unlinked files until it is refused; `kept` does the same with files that stay open for reading only. `again`
//! opens or creates the file `bytes` times.

use serde_json::json;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags, filesystem_error_code,
};
use wasip2::io::streams::{OutputStream, StreamError};

guests::tool!("fill", |arguments| {
    let Some((folder, _)) = get_directories().into_iter().next() else {
        return Ok(json!({"error": "no folder"}).to_string());
    };
    let path = arguments["path"].as_str().unwrap_or_default();
    let bytes = arguments["bytes"].as_u64().unwrap_or_default();
    let done = match arguments["do"].as_str().unwrap_or_default() {
        "symlink" => folder.symlink_at("../outside", path).map(|()| 0),
        "link" => folder.link_at(PathFlags::empty(), "a.txt", &folder, path).map(|()| 0),
        "rename" => folder.rename_at(path, &folder, "moved").map(|()| 0),
        "cut" => open(&folder, path, OpenFlags::TRUNCATE).map(|_| 0),
        "set-size" => open(&folder, path, OpenFlags::CREATE)
            .and_then(|file| file.set_size(bytes))
            .map(|()| bytes),
        "write-at" => {
            open(&folder, path, OpenFlags::CREATE).and_then(|file| file.write(b"x", bytes))
        }
        "stream-at" => open(&folder, path, OpenFlags::CREATE)
            .and_then(|file| write(&file.write_via_stream(bytes)?, 1)),
        "append" => open(&folder, path, OpenFlags::CREATE)
            .and_then(|file| write(&file.append_via_stream()?, bytes)),
        "files" => made(bytes, |name| open(&folder, name, OpenFlags::CREATE).map(drop)),
        "folders" => made(bytes, |name| folder.create_directory_at(name)),
        "kept" => kept(&folder, bytes),
        // Tries to create one file `bytes` times, and counts the successes.
        "again" => {
            Ok((0..bytes).filter(|_| open(&folder, path, OpenFlags::CREATE).is_ok()).count() as u64)
        }
        _ => unlinked(&folder, bytes),
    };
    Ok(match done {
        Ok(came) => json!({"ok": came}),
        Err(code) => json!({"error": code.name()}),
    }
    .to_string())
});

fn open(folder: &Descriptor, path: &str, how: OpenFlags) -> Result<Descriptor, ErrorCode> {
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    folder.open_at(PathFlags::empty(), path, how, flags)
}

/// Writes this many bytes, in pieces of 4 KiB.
fn write(stream: &OutputStream, bytes: u64) -> Result<u64, ErrorCode> {
    let piece = [b'x'; 4096];
    let mut left = bytes as usize;
    while left > 0 {
        let length = left.min(piece.len());
        stream.blocking_write_and_flush(&piece[..length]).map_err(|error| match error {
            StreamError::LastOperationFailed(error) => {
                filesystem_error_code(&error).unwrap_or(ErrorCode::Io)
            }
            StreamError::Closed => ErrorCode::Pipe,
        })?;
        left -= length;
    }
    Ok(bytes)
}

/// How many entries could be created before the first refusal.
fn made(most: u64, make: impl Fn(&str) -> Result<(), ErrorCode>) -> Result<u64, ErrorCode> {
    Ok((0..most).take_while(|number| make(&format!("n{number}")).is_ok()).count() as u64)
}

/// How many files of this size could be filled, all of them open and unlinked.
fn unlinked(folder: &Descriptor, bytes: u64) -> Result<u64, ErrorCode> {
    let mut held = Vec::new();
    for _ in 0..100 {
        let Ok(file) = open(folder, "held", OpenFlags::CREATE) else { break };
        folder.unlink_file_at("held")?;
        if write(&file.append_via_stream()?, bytes).is_err() {
            break;
        }
        held.push(file);
    }
    Ok(held.len() as u64)
}

/// How many files of this size could be filled, all of them unlinked and open for reading only.
fn kept(folder: &Descriptor, bytes: u64) -> Result<u64, ErrorCode> {
    let mut held = Vec::new();
    for _ in 0..100 {
        let Ok(file) = open(folder, "kept", OpenFlags::CREATE) else { break };
        let filled = write(&file.append_via_stream()?, bytes).is_ok();
        let (path, how) = (PathFlags::empty(), OpenFlags::empty());
        let reader = folder.open_at(path, "kept", how, DescriptorFlags::READ)?;
        drop(file);
        folder.unlink_file_at("kept")?;
        if !filled {
            break;
        }
        held.push(reader);
    }
    Ok(held.len() as u64)
}
