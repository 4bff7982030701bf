//! The allowed uses of a secret. They are set together with its value, by someone who knows it. A channel or a grants
//! file can bind the secret for fewer uses, but never for more.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{KeyUse, SecretBinding, SecretVersions};
use crate::ids::SecretName;

/// A use of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretUse {
    /// Plugins can have signatures verified with it.
    Verify,
    /// Plugins can have tokens compared with it.
    Compare,
    /// Plugins can have messages signed with it.
    Sign,
    /// It is sent with plugins' requests, as a credential that an operator grants them.
    Send,
}

impl SecretUse {
    const ALL: [Self; 4] = [Self::Verify, Self::Compare, Self::Sign, Self::Send];

    /// The written form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Compare => "compare",
            Self::Sign => "sign",
            Self::Send => "send",
        }
    }
}

impl From<KeyUse> for SecretUse {
    fn from(wanted: KeyUse) -> Self {
        match wanted {
            KeyUse::Verify => Self::Verify,
            KeyUse::Compare => Self::Compare,
            KeyUse::Sign => Self::Sign,
        }
    }
}

/// The uses of a secret, at least one. The default is all but signing, because a plugin that can sign with a
/// provider's key can impersonate the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "BTreeSet<SecretUse>", into = "BTreeSet<SecretUse>")]
#[schema(value_type = Vec<SecretUse>)]
pub struct SecretUses(BTreeSet<SecretUse>);

/// A text or set that is not a valid list of uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the uses of a secret are one or more of verify, compare, sign and send")]
pub struct ParseUsesError;

impl SecretUses {
    /// All uses.
    #[must_use]
    pub fn all() -> Self {
        Self(SecretUse::ALL.into())
    }

    /// Whether this use is allowed.
    #[must_use]
    pub fn allow(&self, wanted: SecretUse) -> bool {
        self.0.contains(&wanted)
    }

    /// Whether the others include all of these uses.
    #[must_use]
    pub fn is_subset(&self, others: &Self) -> bool {
        self.0.is_subset(&others.0)
    }

    /// Checks that a secret with these uses allows all the wanted ones.
    ///
    /// # Errors
    /// [`UseNotAllowed`].
    pub fn check(
        &self,
        secret: &SecretName,
        wanted: impl IntoIterator<Item = SecretUse>,
    ) -> Result<(), UseNotAllowed> {
        let beyond: BTreeSet<_> =
            wanted.into_iter().filter(|wanted| !self.allow(*wanted)).collect();
        if beyond.is_empty() {
            return Ok(());
        }
        let all = Self(self.0.union(&beyond).copied().collect());
        Err(UseNotAllowed { secret: secret.clone(), uses: self.clone(), beyond: Self(beyond), all })
    }
}

impl Default for SecretUses {
    fn default() -> Self {
        Self([SecretUse::Verify, SecretUse::Compare, SecretUse::Send].into())
    }
}

impl TryFrom<BTreeSet<SecretUse>> for SecretUses {
    type Error = ParseUsesError;

    fn try_from(uses: BTreeSet<SecretUse>) -> Result<Self, ParseUsesError> {
        if uses.is_empty() { Err(ParseUsesError) } else { Ok(Self(uses)) }
    }
}

impl From<SecretUses> for BTreeSet<SecretUse> {
    fn from(uses: SecretUses) -> Self {
        uses.0
    }
}

/// Comma-separated, as stored and as commands accept it.
impl FromStr for SecretUses {
    type Err = ParseUsesError;

    fn from_str(text: &str) -> Result<Self, ParseUsesError> {
        let named = |name: &str| SecretUse::ALL.into_iter().find(|one| one.as_str() == name);
        let uses: Option<BTreeSet<_>> = text.split(',').map(|name| named(name.trim())).collect();
        uses.ok_or(ParseUsesError)?.try_into()
    }
}

impl fmt::Display for SecretUses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, one) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}", one.as_str())?;
        }
        Ok(())
    }
}

/// A binding asks for more than the secret's allowed uses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret {secret} may be used for {uses}, and not for {beyond}: who sets it says what for \
     (`wardgate secret set {secret} --use {all}`)"
)]
pub struct UseNotAllowed {
    secret: SecretName,
    uses: SecretUses,
    beyond: SecretUses,
    all: SecretUses,
}

impl SecretBinding {
    /// Checks that a secret with these uses may be bound like this. A binding that lists no uses needs only one of
    /// the defaults to be allowed.
    ///
    /// # Errors
    /// [`UseNotAllowed`].
    pub fn check(&self, uses: &SecretUses) -> Result<(), UseNotAllowed> {
        match &self.uses {
            Some(wanted) => uses.check(&self.secret, wanted.iter().map(|one| (*one).into())),
            None if KeyUse::DEFAULT.iter().any(|one| uses.allow((*one).into())) => Ok(()),
            None => {
                let required = KeyUse::DEFAULT.map(SecretUse::from);
                uses.check(&self.secret, required)
            }
        }
    }
}

/// A tenant's secret, decrypted.
#[derive(Debug, Clone)]
pub struct TenantSecret {
    /// The values in force.
    pub versions: SecretVersions,
    /// The allowed uses.
    pub uses: SecretUses,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_written_as_they_are_read() {
        for (text, read) in [
            ("verify", Some("verify")),
            ("sign, verify,verify", Some("verify,sign")),
            ("verify,compare,sign,send", Some("verify,compare,sign,send")),
            ("", None),
            ("verify,", None),
            ("read", None),
            ("Verify", None),
        ] {
            let uses: Option<SecretUses> = text.parse().ok();
            assert_eq!(uses.map(|uses| uses.to_string()).as_deref(), read, "{text}");
        }
        assert_eq!(SecretUses::all().to_string(), "verify,compare,sign,send");
        assert_eq!(
            serde_json::to_string(&SecretUses::default()).unwrap(),
            r#"["verify","compare","send"]"#
        );
        assert!(serde_json::from_str::<SecretUses>("[]").is_err());
    }

    #[test]
    fn a_binding_is_for_what_the_secret_is_for_or_less() {
        for (binding, uses, beyond) in [
            (r#""partner""#, "verify", None),
            (r#""partner""#, "compare,send", None),
            (r#""partner""#, "send", Some("verify,compare")),
            (r#"{"secret": "partner", "use": ["verify"]}"#, "verify,compare", None),
            (r#"{"secret": "partner", "use": ["verify", "sign"]}"#, "verify,compare", Some("sign")),
            (r#"{"secret": "partner", "use": ["compare"]}"#, "verify", Some("compare")),
            (r#"{"secret": "partner", "use": []}"#, "send", None),
        ] {
            let bound: SecretBinding = serde_json::from_str(binding).unwrap();
            let checked = bound.check(&uses.parse().unwrap());
            let found = checked.as_ref().err().map(|error| error.beyond.to_string());
            assert_eq!(found.as_deref(), beyond, "{binding} {uses}");
            if let Err(error) = checked {
                assert!(
                    error.to_string().contains("wardgate secret set partner --use "),
                    "{error}"
                );
            }
        }
    }
}
