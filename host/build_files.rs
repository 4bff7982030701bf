//! Embeds folders of text files in the binary.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

/// Generates a constant that holds every file of a folder, by its path within the folder. The files are sorted, so
/// that the same files produce the same source. Hidden files, which editors leave behind, and `target` folders are
/// skipped.
pub(crate) fn constant(name: &str, doc: &str, folder: &Path) -> Result<String, Box<dyn Error>> {
    let folder = folder.canonicalize()?;
    let mut files = Vec::new();
    collect(&folder, &mut files)?;
    files.sort();
    let mut source = format!("/// {doc}\npub(crate) const {name}: &[(&str, &str)] = &[\n");
    for file in files {
        let within = Path::new(&file).strip_prefix(&folder)?;
        // With forward slashes on every system: these become paths of a new project.
        let within: Vec<_> = within.iter().map(|part| part.to_string_lossy()).collect();
        writeln!(source, "    ({:?}, include_str!({file:?})),", within.join("/"))?;
    }
    source.push_str("];\n");
    Ok(source)
}

fn collect(folder: &Path, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || path.ends_with("target") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            let path = path.into_os_string().into_string();
            files.push(path.map_err(|path| io::Error::other(format!("{path:?} is not UTF-8")))?);
        }
    }
    Ok(())
}
