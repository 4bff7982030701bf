//! Links by which a person decides about a tool call without a key. A link is signed with the gateway's own key, and is
//! good for one decision about one approval.

use crate::ids::ApprovalId;
use crate::secrets::{DerivedKey, SecretHash};

/// Signs and checks links.
#[derive(Debug, Clone)]
pub struct ApprovalLinks {
    key: DerivedKey,
    /// The base of URLs, without a trailing slash.
    public_url: String,
}

impl ApprovalLinks {
    /// Links that are signed with this key.
    #[must_use]
    pub fn new(key: DerivedKey, public_url: &str) -> Self {
        Self { key, public_url: public_url.to_owned() }
    }

    /// The URL that approves, or the one that denies.
    #[must_use]
    pub fn url(&self, id: ApprovalId, approves: bool) -> String {
        let (base, word) = (&self.public_url, word(approves));
        let signature = self.key.webhook_token(&[id.as_bytes(), word.as_bytes()]);
        format!("{base}/approvals/{id}/{word}?signature={}", signature.reveal())
    }

    /// Whether a signature is that of the link for this decision.
    #[must_use]
    pub fn is_signed(&self, id: ApprovalId, approves: bool, signature: &str) -> bool {
        let expected = self.key.webhook_token(&[id.as_bytes(), word(approves).as_bytes()]);
        // Hashes are compared, so that the time says nothing about the signature.
        expected.hash() == SecretHash::of(signature)
    }
}

fn word(approves: bool) -> &'static str {
    if approves { "approve" } else { "deny" }
}
