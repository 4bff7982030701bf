//! Reads a component's outermost sections: its version, and the names of its imports and exports.

use wasmparser::{Parser, Payload};

/// The longest version that is accepted, in bytes.
const VERSION_BYTES_MAX: usize = 128;

/// What a component declares about itself. It is not verified.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its custom section `version`, as the tool conventions of WebAssembly name it.
    pub version: Option<String>,
    /// The names of its imports.
    pub imports: Vec<String>,
    /// The names of its exports.
    pub exports: Vec<String>,
}

impl Metadata {
    /// Reads the metadata of a component. Empty for bytes that are not a component.
    #[must_use]
    pub fn from_component(component: &[u8]) -> Self {
        let mut metadata = Self::default();
        // Sections of nested modules and components describe those, not this component.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(component) {
            match payload {
                Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
                Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
                Ok(Payload::CustomSection(section))
                    if depth == 0 && section.name() == "version" =>
                {
                    metadata.version = std::str::from_utf8(section.data()).ok().and_then(version);
                }
                Ok(Payload::ComponentImportSection(imports)) if depth == 0 => {
                    let names = imports.into_iter().flatten();
                    metadata.imports.extend(names.map(|import| import.name.name.to_owned()));
                }
                Ok(Payload::ComponentExportSection(exports)) if depth == 0 => {
                    let names = exports.into_iter().flatten();
                    metadata.exports.extend(names.map(|export| export.name.name.to_owned()));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        metadata
    }
}

/// The text as a version, if it is short and free of control characters, which could steer a terminal.
#[must_use]
pub fn version(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= VERSION_BYTES_MAX;
    (fits && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty component with this custom section.
    fn with_section(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend([0, u8::try_from(1 + name.len() + data.len()).unwrap()]);
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend(name.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_valid_version_is_read() {
        let version =
            |data: &[u8]| Metadata::from_component(&with_section("version", data)).version;
        assert_eq!(version(b"1.2.3-rc.1").as_deref(), Some("1.2.3-rc.1"));
        for none in [&b""[..], b"  ", b"1\x1b[2J", b"\xff\xfe", &[b'1'; 100]] {
            let read = version(none);
            assert!(none.len() == 100 || read.is_none(), "{none:?}: {read:?}");
        }
        assert_eq!(Metadata::from_component(&with_section("name", b"1.2.3")).version, None);
        assert_eq!(super::version(&"1".repeat(129)), None);
    }

    #[test]
    fn bytes_that_are_not_a_component_have_no_metadata() {
        for bytes in [&b""[..], b"not wasm", b"\0asm\x0d\0\x01\0\0\xff\xff\xff\xff\x0f"] {
            assert_eq!(Metadata::from_component(bytes), Metadata::default());
        }
    }
}
