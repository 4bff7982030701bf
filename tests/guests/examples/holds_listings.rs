//! A tool `hold` that calls WASI directly to open up to `most` streams, and holds all of them open: `do` is
//! `list` (listings of its folder), `read` or `write` (streams of the file `a.txt`). It returns how many it
//! holds, and the kind of the error if one was refused. `names` counts the entries of the folder instead.

use serde_json::{Value, json};
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DirectoryEntryStream, ErrorCode, OpenFlags, PathFlags,
};
use wasip2::io::streams::{InputStream, OutputStream};

/// A stream that is held open until the call returns.
enum Held {
    List { _stream: DirectoryEntryStream },
    Reader { _stream: InputStream },
    Writer { _stream: OutputStream },
}

guests::tool!("hold", |arguments| {
    let Some((folder, _)) = get_directories().into_iter().next() else {
        return Ok(json!({"error": "no folder"}).to_string());
    };
    let most = arguments["most"].as_u64().unwrap_or_default();
    Ok(match arguments["do"].as_str().unwrap_or_default() {
        "names" => names(&folder),
        "list" => held(most, || Ok(Held::List { _stream: folder.read_directory()? })),
        what => match open(&folder, what) {
            Ok(file) => held(most, || one(&file, what)),
            Err(code) => json!({"error": code.name()}),
        },
    }
    .to_string())
});

fn open(folder: &Descriptor, what: &str) -> Result<Descriptor, ErrorCode> {
    let flags = match what {
        "read" => DescriptorFlags::READ,
        _ => DescriptorFlags::READ | DescriptorFlags::WRITE,
    };
    folder.open_at(PathFlags::empty(), "a.txt", OpenFlags::empty(), flags)
}

fn one(file: &Descriptor, what: &str) -> Result<Held, ErrorCode> {
    Ok(match what {
        "read" => Held::Reader { _stream: file.read_via_stream(0)? },
        _ => Held::Writer { _stream: file.append_via_stream()? },
    })
}

fn held(most: u64, open: impl Fn() -> Result<Held, ErrorCode>) -> Value {
    let mut all = Vec::new();
    for _ in 0..most {
        match open() {
            Ok(one) => all.push(one),
            Err(code) => return json!({"held": all.len(), "error": code.name()}),
        }
    }
    json!({"held": all.len()})
}

fn names(folder: &Descriptor) -> Value {
    let listed = || -> Result<_, ErrorCode> {
        let stream = folder.read_directory()?;
        let mut names = Vec::new();
        while let Some(entry) = stream.read_directory_entry()? {
            names.push(entry.name);
        }
        names.sort();
        Ok(names)
    };
    match listed() {
        Ok(names) => json!({"count": names.len(), "first": names.first(), "last": names.last()}),
        Err(code) => json!({"error": code.name()}),
    }
}
