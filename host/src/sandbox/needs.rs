//! What a component asks of an operator, and which of it a grants file does not give.

use super::grants::Granted;
use super::{Binding, Loaded};

/// A page of linear memory, in bytes.
const WASM_PAGE_BYTES: u64 = 64 << 10;

/// A table of a grants file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Outgoing requests.
    Egress,
    /// Secrets to compare and sign with.
    Secrets,
    /// Values that outlive a call.
    KeyValue,
    /// One folder.
    Folder,
}

impl Grant {
    /// As it stands in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "[[egress]]",
            Self::Secrets => "[secrets]",
            Self::KeyValue => "[key-value]",
            Self::Folder => "[folder]",
        }
    }
}

/// Something that a component imports and that does nothing before it is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The interface, as the component imports it.
    pub import: String,
    /// What grants it.
    pub grant: Grant,
    /// What it is for, and what happens without it.
    pub what: &'static str,
    /// Whether a component that imports it uses it. The standard libraries of most languages import files
    /// and never open one.
    pub is_certain: bool,
}

/// What each interface takes to be of use: the beginning of its name, its grant, and what happens without.
const NEEDS: [(&str, Grant, &str); 5] = [
    (
        "wardgate:plugin/egress@",
        Grant::Egress,
        "it sends HTTP requests; without a rule that allows one, nothing is sent",
    ),
    (
        "wasi:http/outgoing-handler@",
        Grant::Egress,
        "it sends HTTP requests; without a rule that allows one, nothing is sent",
    ),
    (
        "wardgate:plugin/secrets@",
        Grant::Secrets,
        "it compares or signs with secrets; one that neither its grants nor a channel names cannot be opened",
    ),
    ("wasi:keyvalue/store@", Grant::KeyValue, "it keeps values; without a quota it can keep none"),
    ("wasi:filesystem/preopens@", Grant::Folder, "it can use files; without a folder it has none"),
];

impl Loaded {
    /// The interfaces that it imports, in its own order.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        let component = self.pre.component();
        let ty = component.component_type();
        ty.imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
    }

    /// What of its imports has to be granted.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        let of = |import: &String| {
            let (_, grant, what) = NEEDS.iter().find(|(name, ..)| import.starts_with(name))?;
            let is_certain = *grant != Grant::Folder;
            Some(Need { import: import.clone(), grant: *grant, what, is_certain })
        };
        self.imports().iter().filter_map(of).collect()
    }

    /// Which grants it certainly needs and are not there: one sentence each.
    fn missing(&self, has: impl Fn(Grant) -> bool) -> Vec<String> {
        let missing = self.needs().into_iter().filter(|need| need.is_certain && !has(need.grant));
        let sentence = |need: Need| {
            format!("no {} is granted: {} ({})", need.grant.as_str(), need.what, need.import)
        };
        missing.map(sentence).collect()
    }
}

impl Granted {
    /// Whether anything of this kind is granted.
    fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::Egress => self.egress().may_send(),
            Grant::Secrets => self.has_secrets(),
            Grant::KeyValue => self.values_bytes().is_some(),
            Grant::Folder => self.folder().is_some(),
        }
    }
}

impl Binding {
    /// See [`Loaded::imports`].
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        self.loaded.imports()
    }

    /// Which grants it needs and does not have: one sentence each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.loaded.missing(|grant| self.granted.has(grant))
    }

    /// Why its grants are not in force, what it lacks of what it needs, and what of it is not used: one sentence
    /// each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let withheld = self.granted.withheld_because().map(str::to_owned);
        let mut notes: Vec<_> = withheld.into_iter().chain(self.missing()).collect();
        notes.extend(self.loaded.left_out().iter().cloned());
        notes.extend(self.too_little_memory());
        notes.extend(self.cut_memory());
        notes
    }

    /// Says so where the file allows more memory than one call may have.
    fn cut_memory(&self) -> Option<String> {
        let (allowed, most) =
            (self.granted.memory_bytes_allowed(), self.granted.limits().memory_bytes);
        (allowed > most).then(|| {
            format!(
                "[limits] memory_mib is {}, and a call has {} at most (sandbox.memory_mib_max)",
                allowed >> 20,
                most >> 20
            )
        })
    }

    /// Says so where it is granted less memory than it begins with, so that no call of it can work.
    fn too_little_memory(&self) -> Option<String> {
        let required = self.loaded.pre.component().resources_required()?;
        let bytes = required.max_initial_memory_size?.saturating_mul(WASM_PAGE_BYTES);
        let granted = self.granted.limits().memory_bytes as u64;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        (bytes > granted).then(|| {
            format!(
                "it begins with {} MiB of memory and is granted {}, so no call of it can work: [limits] memory_mib",
                mib(bytes),
                mib(granted)
            )
        })
    }
}
