//! A tool `nest` that creates nested folders, `levels` deep, each with a name of `letters` letters, below the
//! folder `top` (or its own), and returns how deep it got. With `move`, it moves the folder `from` to `to` in the
//! innermost folder below `top`, and returns the kind of the error if that is refused. With `write`, it writes
//! one byte to the file `a` in its folder.

use serde_json::{Value, json};
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

guests::tool!("nest", |arguments| {
    let Some((folder, _)) = get_directories().into_iter().next() else {
        return Ok(json!({"error": "no folder"}).to_string());
    };
    let text = |name: &str| arguments[name].as_str().unwrap_or_default();
    let number = |name: &str| arguments[name].as_u64().unwrap_or_default();
    let name = "d".repeat(number("letters").max(1) as usize);
    let done = match text("do") {
        "write" => write(&folder),
        "move" => moved(&folder, text("from"), text("top"), text("to")),
        _ => nested(&folder, text("top"), number("levels"), &name),
    };
    Ok(done.unwrap_or_else(|code| json!({"error": code.name()})).to_string())
});

fn enter(folder: &Descriptor, path: &str) -> Result<Descriptor, ErrorCode> {
    let flags = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
    folder.open_at(PathFlags::empty(), path, OpenFlags::DIRECTORY, flags)
}

fn start(folder: &Descriptor, top: &str) -> Result<Descriptor, ErrorCode> {
    enter(folder, if top.is_empty() { "." } else { top })
}

fn nested(folder: &Descriptor, top: &str, levels: u64, name: &str) -> Result<Value, ErrorCode> {
    if !top.is_empty() {
        let _ = folder.create_directory_at(top);
    }
    let mut place = start(folder, top)?;
    for deep in 0..levels {
        if let Err(code) = place.create_directory_at(name) {
            return Ok(json!({"deep": deep, "error": code.name()}));
        }
        place = enter(&place, name)?;
    }
    Ok(json!({"deep": levels}))
}

fn moved(folder: &Descriptor, from: &str, top: &str, to: &str) -> Result<Value, ErrorCode> {
    let mut place = start(folder, top)?;
    while let Ok(below) = enter(&place, "d") {
        place = below;
    }
    folder.rename_at(from, &place, to)?;
    Ok(json!({"ok": null}))
}

fn write(folder: &Descriptor) -> Result<Value, ErrorCode> {
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let file = folder.open_at(PathFlags::empty(), "a", OpenFlags::CREATE, flags)?;
    Ok(json!({"ok": file.write(b"x", 0)?}))
}
