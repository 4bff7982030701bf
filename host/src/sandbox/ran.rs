//! Identifies the component and the settings of a call, for the trace.

use sha2::{Digest as _, Sha256};

use super::outcome::{Called, not_started};
use super::{Binding, ChannelContext, Grants, Refusal};

impl Binding {
    /// Adds the digests of the component and of its settings to a result.
    pub(super) fn identify<T>(
        &self,
        mut called: Called<T>,
        channel: Option<&ChannelContext>,
    ) -> Called<T> {
        self.digest_text().clone_into(&mut called.run.digest);
        called.run.settings = self.settings_digest(channel);
        called
    }

    /// The result of calling a role that the component does not have.
    pub(super) fn no_role<T>(&self, role: &'static str) -> Called<T> {
        self.identify(not_started(Refusal::NoSuchRole { role }), None)
    }

    /// A digest of the operator's grants file as it is written and, if the call is for a channel, of the channel's
    /// settings and secret bindings. Two calls with the same digest ran under the same settings and grants. The
    /// values of secrets are not part of it.
    #[must_use]
    pub fn settings_digest(&self, channel: Option<&ChannelContext>) -> String {
        let Some(channel) = channel else { return self.settings_digest.clone() };
        let mut digest = Sha256::new();
        let mut add = |part: &str| {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        };
        add(&self.settings_digest);
        for (name, value) in &channel.settings {
            add(name);
            add(value);
        }
        // Settings and secrets are both pairs: this separator marks where the secrets begin.
        add("secrets");
        for (name, bound) in &channel.secrets {
            add(name);
            // The binding as it is written: the name alone, or the table with form and uses.
            let written = serde_json::to_string(bound.binding()).unwrap_or_default();
            add(written.trim_matches('"'));
        }
        format!("sha256:{}", hex::encode(digest.finalize()))
    }
}

impl Grants {
    /// The digest of the file as it is written; that of an empty file if there is none or its grants are not in
    /// force.
    #[must_use]
    pub fn digest(&self) -> String {
        self.digest.clone().unwrap_or_else(|| digest_of(""))
    }
}

/// The digest of a grants file.
pub(super) fn digest_of(grants: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(grants)))
}
