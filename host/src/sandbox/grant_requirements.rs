//! Which grants a component needs, and which of them its grants file does not give.

use super::grants::EffectiveGrants;
use super::{Binding, Loaded};

/// A page of linear memory, in bytes.
const WASM_PAGE_BYTES: u64 = 64 << 10;

/// A table of a grants file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Outgoing requests.
    Egress,
    /// Secrets to compare, verify and sign with.
    Secrets,
    /// Values that outlive a call.
    KeyValue,
    /// Access to one folder.
    Folder,
}

impl Grant {
    /// The table as it is written in the file.
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

/// An import of a component that has no effect without a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRequirement {
    /// The interface, as the component imports it.
    pub import: String,
    /// The grant that it needs.
    pub grant: Grant,
    /// What the import is for, and what happens without the grant.
    pub explanation: &'static str,
    /// Whether a component that imports it certainly uses it. Files are the exception: the standard libraries of most
    /// languages import them and never open one.
    pub is_certain: bool,
}

/// The interfaces that need a grant: the prefix of the interface's name, the grant, and what happens without it.
const REQUIREMENTS: [(&str, Grant, &str); 5] = [
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
    /// The interfaces that the component imports, in the component's order.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        let component = self.pre.component();
        let ty = component.component_type();
        ty.imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
    }

    /// The imports that need a grant.
    #[must_use]
    pub fn grant_requirements(&self) -> Vec<GrantRequirement> {
        let of = |import: &String| {
            let (_, grant, explanation) =
                REQUIREMENTS.iter().find(|(name, ..)| import.starts_with(name))?;
            let is_certain = *grant != Grant::Folder;
            Some(GrantRequirement {
                import: import.clone(),
                grant: *grant,
                explanation,
                is_certain,
            })
        };
        self.imports().iter().filter_map(of).collect()
    }

    /// One sentence for each grant that the component certainly needs and does not have.
    fn missing(&self, has: impl Fn(Grant) -> bool) -> Vec<String> {
        let missing = self
            .grant_requirements()
            .into_iter()
            .filter(|need| need.is_certain && !has(need.grant));
        let sentence = |need: GrantRequirement| {
            format!("no {} is granted: {} ({})", need.grant.as_str(), need.explanation, need.import)
        };
        missing.map(sentence).collect()
    }
}

impl EffectiveGrants {
    /// Whether the plugin has a grant of this kind.
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

    /// One sentence for each grant that the plugin needs and does not have.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.loaded.missing(|grant| self.granted.has(grant))
    }

    /// Notes for the operator, one sentence each: why the grants are not in force, which grants are missing, which
    /// functions are not tools, and which memory limit cannot work as it is set.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let inactive_reason = self.granted.inactive_reason().map(str::to_owned);
        let mut notes: Vec<_> = inactive_reason.into_iter().chain(self.missing()).collect();
        notes.extend(self.loaded.skipped_functions().iter().cloned());
        notes.extend(self.too_little_memory());
        notes.extend(self.cut_memory());
        notes
    }

    /// A note if the file allows more memory than one call may have.
    fn cut_memory(&self) -> Option<String> {
        let (allowed, max) =
            (self.granted.memory_bytes_allowed(), self.granted.limits().memory_bytes);
        (allowed > max).then(|| {
            format!(
                "[limits] memory_mib is {}, and a call has {} at most (sandbox.memory_mib_max)",
                allowed >> 20,
                max >> 20
            )
        })
    }

    /// A note if the plugin is granted less memory than the component starts with, which fails every call.
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
