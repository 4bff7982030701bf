//! What a component says of itself in its outermost sections: its version, and the names of what it imports
//! and exports.

use wasmparser::{Parser, Payload};

/// Longest version that is believed to be one.
const VERSION_BYTES_MAX: usize = 128;

/// What a component says of itself. Nothing of it is checked by anybody.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its custom section `version`, as the tool conventions of WebAssembly name it.
    pub version: Option<String>,
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
}

impl Metadata {
    /// Of this component. Bytes that are none say nothing.
    #[must_use]
    pub fn of(component: &[u8]) -> Self {
        let mut said = Self::default();
        // What is nested says something of its own parts.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(component) {
            match payload {
                Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
                Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
                Ok(Payload::CustomSection(section))
                    if depth == 0 && section.name() == "version" =>
                {
                    said.version = std::str::from_utf8(section.data()).ok().and_then(version);
                }
                Ok(Payload::ComponentImportSection(imports)) if depth == 0 => {
                    let names = imports.into_iter().flatten();
                    said.imports.extend(names.map(|import| import.name.name.to_owned()));
                }
                Ok(Payload::ComponentExportSection(exports)) if depth == 0 => {
                    let names = exports.into_iter().flatten();
                    said.exports.extend(names.map(|export| export.name.name.to_owned()));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        said
    }
}

/// A version that can be stored and shown: short, and without what steers a terminal.
#[must_use]
pub fn version(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= VERSION_BYTES_MAX;
    (fits && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component with nothing in it, and this custom section.
    fn with_section(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend([0, u8::try_from(1 + name.len() + data.len()).unwrap()]);
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend(name.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_version_is_read_where_it_is_one() {
        let version = |data: &[u8]| Metadata::of(&with_section("version", data)).version;
        assert_eq!(version(b"1.2.3-rc.1").as_deref(), Some("1.2.3-rc.1"));
        for none in [&b""[..], b"  ", b"1\x1b[2J", b"\xff\xfe", &[b'1'; 100]] {
            let read = version(none);
            assert!(none.len() == 100 || read.is_none(), "{none:?}: {read:?}");
        }
        assert_eq!(Metadata::of(&with_section("name", b"1.2.3")).version, None);
        assert_eq!(super::version(&"1".repeat(129)), None);
    }

    #[test]
    fn what_is_no_component_says_nothing() {
        for bytes in [&b""[..], b"not wasm", b"\0asm\x0d\0\x01\0\0\xff\xff\xff\xff\x0f"] {
            assert_eq!(Metadata::of(bytes), Metadata::default());
        }
    }
}
