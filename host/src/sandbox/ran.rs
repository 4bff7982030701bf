//! What the trace keeps of a call: which component ran under which settings, what it cost, and what the
//! host answered it.

use sha2::{Digest as _, Sha256};

use super::outcome::{Called, refused};
use super::{Binding, ChannelFacts, Grants, Refusal};

impl Binding {
    /// Says which component gave this, and under which settings.
    pub(super) fn identify<T>(
        &self,
        mut called: Called<T>,
        channel: Option<&ChannelFacts>,
    ) -> Called<T> {
        self.digest_text().clone_into(&mut called.run.digest);
        called.run.settings = self.settings_digest(channel);
        called
    }

    /// A call of a role that the component does not have.
    pub(super) fn no_role<T>(&self, role: &'static str) -> Called<T> {
        self.identify(refused(Refusal::NoSuchRole { role }), None)
    }

    /// Tells whether a call has the same settings and grants as another one: a digest of the operator's
    /// grants file as it is written and, where the call is for a channel, of what the channel sets. The
    /// values of secrets are no part of it.
    #[must_use]
    pub fn settings_digest(&self, channel: Option<&ChannelFacts>) -> String {
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
        // Parts of both kinds come in pairs: this one tells where the secrets begin.
        add("secrets");
        for (name, bound) in &channel.secrets {
            add(name);
            // As it is written: the name alone, or the table with form and uses.
            let written = serde_json::to_string(bound.binding()).unwrap_or_default();
            add(written.trim_matches('"'));
        }
        format!("sha256:{}", hex::encode(digest.finalize()))
    }
}

impl Grants {
    /// Tells it from another file.
    #[must_use]
    pub fn digest(&self) -> String {
        self.digest.clone().unwrap_or_else(|| digest_of(""))
    }
}

/// The digest of a grants file.
pub(super) fn digest_of(grants: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(grants)))
}
