//! What the trace keeps of a call: which component ran under which settings, what it cost, and what the
//! host answered it.

use sha2::{Digest as _, Sha256};

use super::{Binding, Called, ChannelFacts, Grants};
use crate::trace::PluginRun;

impl Binding {
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

impl<T> Called<T> {
    /// What the trace keeps of this call of the binding. The recording is taken out.
    #[must_use]
    pub fn ran(&mut self, binding: &Binding, channel: Option<&ChannelFacts>) -> PluginRun {
        let recording = self.recording.take();
        PluginRun {
            digest: binding.digest_text().to_owned(),
            settings: binding.settings_digest(channel),
            cost: self.cost,
            recording: recording.and_then(|recording| serde_json::to_value(recording).ok()),
        }
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
