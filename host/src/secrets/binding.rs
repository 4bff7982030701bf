//! Binds a tenant's secret to the name that a plugin uses for it: which secret it is, how its text encodes the key,
//! and what the plugin may do with it.
//!
//! All of this is chosen by the author of the binding, which is a channel's author or, in a grants file, the
//! operator; a plugin chooses none of it. With a free choice of prefix, the secret could be guessed one character
//! after another: every signature made with the rest of it shows whether the prefix matched. Prefixes are a short
//! fixed list so that a channel's author cannot do this with their own plugin either.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::SecretUses;
use crate::ids::SecretName;

/// A tenant's secret as a channel or a grants file binds it: only its name, or a table with more. What the table
/// omits is what a plugin shipped with the gateway is known to need, or else the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenBinding", into = "WrittenBinding")]
pub struct SecretBinding {
    /// The tenant's secret.
    pub secret: SecretName,
    /// What precedes the key in the secret's text. Nothing by default.
    pub prefix: Option<KeyPrefix>,
    /// How the text encodes the key. `text` by default: the key is the text.
    pub encoding: Option<KeyEncoding>,
    /// What the plugin may do with it. `verify` and `compare` by default.
    pub uses: Option<BTreeSet<KeyUse>>,
}

/// A binding as written: a secret's name, or a table.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = SecretBinding)]
#[serde(
    untagged,
    expecting = "a secret is bound by its name, or by a table: { secret = \"name\", prefix = \"whsec_\" or \
                 \"v1,whsec_\", encoding = \"text\", \"hex\", \"base64\" or \"base64url\", use = [\"verify\", \
                 \"sign\", \"compare\"] }, where only `secret` is required"
)]
pub enum WrittenBinding {
    /// The secret's name.
    #[schema(value_type = String)]
    Name(SecretName),
    /// The secret's name with further fields.
    Table(BindingTable),
}

/// A secret with its form and its uses.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BindingTable {
    /// The tenant's secret.
    #[schema(value_type = String)]
    secret: SecretName,
    /// What precedes the key in the secret's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<KeyPrefix>,
    /// How the text encodes the key. `text` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<KeyEncoding>,
    /// What the plugin may do with it. `verify` and `compare` by default.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<KeyUse>>)]
    uses: Option<BTreeSet<KeyUse>>,
}

impl From<WrittenBinding> for SecretBinding {
    fn from(written: WrittenBinding) -> Self {
        match written {
            WrittenBinding::Name(secret) => secret.into(),
            WrittenBinding::Table(BindingTable { secret, prefix, encoding, uses }) => {
                Self { secret, prefix, encoding, uses }
            }
        }
    }
}

impl From<SecretBinding> for WrittenBinding {
    fn from(binding: SecretBinding) -> Self {
        let SecretBinding { secret, prefix, encoding, uses } = binding;
        if prefix.is_none() && encoding.is_none() && uses.is_none() {
            return Self::Name(secret);
        }
        Self::Table(BindingTable { secret, prefix, encoding, uses })
    }
}

impl From<SecretName> for SecretBinding {
    fn from(secret: SecretName) -> Self {
        Self { secret, prefix: None, encoding: None, uses: None }
    }
}

/// What may precede the key in a secret's text. The list is fixed and short: see the module's comment. A secret with
/// any other prefix is stored without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum KeyPrefix {
    /// The prefix of symmetric secrets in Standard Webhooks 1.0.0. If the key is encoded, the version may precede it.
    #[serde(rename = "whsec_")]
    Whsec,
    /// The same prefix, preceded by the version of the signatures.
    #[serde(rename = "v1,whsec_")]
    V1Whsec,
}

impl KeyPrefix {
    const ALL: [Self; 2] = [Self::Whsec, Self::V1Whsec];

    /// The written form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Whsec => "whsec_",
            Self::V1Whsec => "v1,whsec_",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|prefix| prefix.as_str() == text)
    }
}

/// How a secret's text encodes the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyEncoding {
    /// The key is the text.
    #[default]
    Text,
    /// RFC 4648 section 8, in upper or lower case.
    Hex,
    /// RFC 4648 section 4, with or without padding.
    Base64,
    /// RFC 4648 section 5, with or without padding.
    Base64url,
}

impl KeyEncoding {
    const ALL: [Self; 4] = [Self::Text, Self::Hex, Self::Base64, Self::Base64url];

    /// The written form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Base64url => "base64url",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.as_str() == text)
    }

    fn decode(self, text: &[u8]) -> Option<Vec<u8>> {
        let unpadded = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
        match self {
            Self::Text => Some(text.to_vec()),
            Self::Hex => hex::decode(text).ok(),
            Self::Base64 => {
                STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(unpadded)).ok()
            }
            Self::Base64url => URL_SAFE_NO_PAD.decode(unpadded).ok(),
        }
    }
}

/// What a plugin may do with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyUse {
    /// Have a signature verified.
    Verify,
    /// Have a message signed. A plugin that can sign can forge what others verify.
    Sign,
    /// Have a token compared with it.
    Compare,
}

impl KeyUse {
    /// The uses of a binding that lists none.
    pub(super) const DEFAULT: [Self; 2] = [Self::Verify, Self::Compare];

    /// The written form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Sign => "sign",
            Self::Compare => "compare",
        }
    }
}

/// A resolved binding: how to extract the key from the secret's text, and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyForm {
    prefix: Option<KeyPrefix>,
    encoding: KeyEncoding,
    uses: KeyUses,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyUses {
    verify: bool,
    sign: bool,
    compare: bool,
}

impl fmt::Debug for KeyUses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.verify, "verify"), (self.sign, "sign"), (self.compare, "compare")];
        f.debug_set().entries(all.iter().filter(|(may, _)| *may).map(|(_, name)| name)).finish()
    }
}

impl KeyForm {
    /// Extracts the key from a secret's text. The prefix is removed if the text has it. `None` if the rest does not
    /// decode.
    #[must_use]
    pub fn key(&self, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let prefix = self.prefix.map(KeyPrefix::as_str).unwrap_or_default();
        let bare = text.strip_prefix(prefix.as_bytes());
        let bare = bare.or_else(|| self.strip_version(text)).unwrap_or(text);
        let bare = if self.encoding == KeyEncoding::Text { bare } else { bare.trim_ascii() };
        self.encoding.decode(bare).map(Zeroizing::new)
    }

    /// Some providers show the same secret with the version of its signatures, others without. A binding to the
    /// prefix without the version accepts both if the key is encoded, because an encoded key contains no comma.
    fn strip_version<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let is_bound_without = self.prefix == Some(KeyPrefix::Whsec);
        (is_bound_without && self.encoding != KeyEncoding::Text)
            .then(|| text.strip_prefix(KeyPrefix::V1Whsec.as_str().as_bytes()))
            .flatten()
    }

    /// The number of combinations of prefix and encoding.
    pub const COUNT: usize = (KeyPrefix::ALL.len() + 1) * KeyEncoding::ALL.len();

    /// The index of this form's combination, below [`Self::COUNT`].
    #[must_use]
    pub fn index(&self) -> usize {
        let prefix = match self.prefix {
            None => 0,
            Some(KeyPrefix::Whsec) => 1,
            Some(KeyPrefix::V1Whsec) => 2,
        };
        let encoding = match self.encoding {
            KeyEncoding::Text => 0,
            KeyEncoding::Hex => 1,
            KeyEncoding::Base64 => 2,
            KeyEncoding::Base64url => 3,
        };
        prefix * KeyEncoding::ALL.len() + encoding
    }

    /// Restricts the form to the uses that the secret allows.
    #[must_use]
    pub fn within(self, uses: &SecretUses) -> Self {
        let may = |wanted| self.allows(wanted) && uses.allow(wanted.into());
        let uses = KeyUses {
            verify: may(KeyUse::Verify),
            sign: may(KeyUse::Sign),
            compare: may(KeyUse::Compare),
        };
        Self { uses, ..self }
    }

    /// Whether the plugin may use it this way.
    #[must_use]
    pub fn allows(&self, wanted: KeyUse) -> bool {
        match wanted {
            KeyUse::Verify => self.uses.verify,
            KeyUse::Sign => self.uses.sign,
            KeyUse::Compare => self.uses.compare,
        }
    }

    /// Whether the form matches the prefix and encoding that a plugin asks for.
    #[must_use]
    pub fn reads_as(&self, prefix: &str, encoding: &str) -> bool {
        // A binding without a prefix matches any: the text is used as stored.
        self.encoding.as_str() == encoding
            && self.prefix.is_none_or(|bound| prefix.is_empty() || bound.as_str() == prefix)
    }
}

/// The secrets that a plugin shipped with the gateway opens, by the plugin's names for them, and the form of each.
/// Read from the file `secrets.toml` in the plugin's folder.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct KnownForms(BTreeMap<String, KnownForm>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct KnownForm {
    /// Whether the plugin works without the secret.
    #[serde(default)]
    optional: bool,
    prefix: Option<KeyPrefix>,
    encoding: Option<KeyEncoding>,
    /// The plugin's setting that selects the prefix.
    prefix_setting: Option<String>,
    /// The plugin's setting that selects the encoding.
    encoding_setting: Option<String>,
}

impl KnownForms {
    /// The plugin's names for the secrets that it opens, and whether it requires each.
    pub fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().map(|(name, known)| (name.as_str(), !known.optional))
    }
}

/// A setting with an unknown prefix or encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the setting `{setting}` is {value:?}, which is not one of {allowed}")]
pub struct UnknownForm {
    setting: String,
    value: String,
    allowed: &'static str,
}

impl UnknownForm {
    fn new(setting: &str, value: &str, allowed: &'static str) -> Self {
        Self { setting: setting.to_owned(), value: value.chars().take(40).collect(), allowed }
    }
}

impl SecretBinding {
    /// Resolves the binding. `known` describes the plugin if it is shipped with the gateway, and `settings` looks up
    /// the plugin's settings. The binding takes precedence over the settings, and those over `known`.
    ///
    /// # Errors
    /// [`UnknownForm`]; the secret cannot be used then.
    pub fn form<'s>(
        &self,
        name: &str,
        known: Option<&'static KnownForms>,
        settings: impl Fn(&str) -> Option<&'s str>,
    ) -> Result<KeyForm, UnknownForm> {
        let known = known.and_then(|known| known.0.get(name));
        let set = |setting: Option<&'static String>| {
            let value = settings(setting?).filter(|value| !value.is_empty())?;
            Some((setting?, value))
        };
        let prefix = match set(known.and_then(|known| known.prefix_setting.as_ref())) {
            _ if self.prefix.is_some() => self.prefix,
            Some((setting, value)) => {
                let unknown = || UnknownForm::new(setting, value, "whsec_ and v1,whsec_");
                Some(KeyPrefix::named(value).ok_or_else(unknown)?)
            }
            None => known.and_then(|known| known.prefix),
        };
        let set = set(known.and_then(|known| known.encoding_setting.as_ref()));
        let encoding = match (self.encoding, set) {
            (Some(encoding), _) => encoding,
            (None, Some((setting, value))) => {
                let all = "text, hex, base64 and base64url";
                KeyEncoding::named(value).ok_or_else(|| UnknownForm::new(setting, value, all))?
            }
            (None, None) => known.and_then(|known| known.encoding).unwrap_or_default(),
        };
        let may = |wanted| match &self.uses {
            Some(uses) => uses.contains(&wanted),
            None => KeyUse::DEFAULT.contains(&wanted),
        };
        let uses = KeyUses {
            verify: may(KeyUse::Verify),
            sign: may(KeyUse::Sign),
            compare: may(KeyUse::Compare),
        };
        Ok(KeyForm { prefix, encoding, uses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_binding(toml: &str) -> Result<SecretBinding, String> {
        #[derive(Deserialize)]
        struct File {
            a: SecretBinding,
        }
        toml::from_str::<File>(toml).map(|file| file.a).map_err(|error| error.to_string())
    }

    fn form(toml: &str, known: &str, settings: &[(&str, &str)]) -> Result<KeyForm, UnknownForm> {
        let known: &'static KnownForms = Box::leak(Box::new(toml::from_str(known).unwrap()));
        let set = |name: &str| settings.iter().find(|(set, _)| *set == name).map(|(_, v)| *v);
        read_binding(toml).unwrap().form("a", Some(known), set)
    }

    #[test]
    fn a_binding_is_a_name_or_a_table_and_stays_what_it_was() {
        let name = read_binding("a = \"partner\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"partner\"");
        let table =
            read_binding("a = { secret = \"partner\", encoding = \"hex\", use = [\"sign\"] }")
                .unwrap();
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(json, r#"{"secret":"partner","encoding":"hex","use":["sign"]}"#);
        assert_eq!(serde_json::from_str::<SecretBinding>(&json).unwrap(), table);
        for wrong in [
            "a = 7",
            "a = {}",
            "a = { secret = \"partner\", prefix = \"w\" }",
            "a = { secret = \"partner\", encoding = \"rot13\" }",
            "a = { secret = \"partner\", use = [\"read\"] }",
            "a = { secret = \"partner\", secrets = 1 }",
        ] {
            let error = read_binding(wrong).unwrap_err();
            assert!(error.contains("only `secret` is required"), "{wrong}: {error}");
        }
    }

    #[test]
    fn nothing_signs_unless_the_binding_says_so() {
        let plain = form("a = \"partner\"", "", &[]).unwrap();
        assert!(plain.allows(KeyUse::Verify) && plain.allows(KeyUse::Compare));
        assert!(!plain.allows(KeyUse::Sign));
        let signs = form("a = { secret = \"partner\", use = [\"sign\"] }", "", &[]).unwrap();
        assert!(signs.allows(KeyUse::Sign) && !signs.allows(KeyUse::Verify));
        let nothing = form("a = { secret = \"partner\", use = [] }", "", &[]).unwrap();
        assert!(!nothing.allows(KeyUse::Compare));
    }

    #[test]
    fn the_form_is_the_bindings_then_the_settings_then_what_the_shipped_plugin_needs() {
        let known = "[a]\nprefix = \"whsec_\"\nencoding = \"base64\"\nencoding-setting = \"enc\"";
        let key = |form: KeyForm| form.key(b"whsec_6869").map(|key| key.to_vec());
        let shipped = form("a = \"partner\"", known, &[]).unwrap();
        assert_eq!(key(shipped), Some(vec![0xeb, 0xce, 0xbd]));
        let set = form("a = \"partner\"", known, &[("enc", "hex")]).unwrap();
        assert_eq!(key(set), Some(b"hi".to_vec()));
        let said =
            form("a = { secret = \"partner\", encoding = \"text\" }", known, &[("enc", "hex")]);
        assert_eq!(key(said.unwrap()), Some(b"6869".to_vec()));
        let unknown = form("a = \"partner\"", known, &[("enc", "rot13")]).unwrap_err().to_string();
        assert!(unknown.contains("`enc`") && unknown.contains("rot13"), "{unknown}");
    }

    #[test]
    fn a_version_before_the_prefix_is_taken_away_with_it() {
        for (prefix, encoding, text, key) in [
            ("whsec_", "base64", "whsec_aw==", Some("k")),
            ("whsec_", "base64", "v1,whsec_aw==", Some("k")),
            ("whsec_", "base64", "v2,whsec_aw==", None),
            ("whsec_", "base64", "v1,aw==", None),
            ("whsec_", "text", "v1,whsec_aw==", Some("v1,whsec_aw==")),
            ("v1,whsec_", "base64", "v1,whsec_aw==", Some("k")),
            ("v1,whsec_", "base64", "whsec_aw==", None),
        ] {
            let toml = format!(
                "a = {{ secret = \"partner\", prefix = \"{prefix}\", encoding = \"{encoding}\" }}"
            );
            let found = form(&toml, "", &[]).unwrap().key(text.as_bytes());
            let found = found.map(|key| String::from_utf8(key.to_vec()).unwrap());
            assert_eq!(found.as_deref(), key, "{prefix} {encoding} {text}");
        }
    }

    #[test]
    fn keys_are_read_in_every_encoding_and_what_does_not_decode_is_no_key() {
        for (encoding, text, key) in [
            ("text", " k ", Some(" k ")),
            ("hex", " 6B\n", Some("k")),
            ("hex", "6", None),
            ("base64", "aw==", Some("k")),
            ("base64", "aw", Some("k")),
            ("base64", "-_8=", None),
            ("base64url", "aw", Some("k")),
            ("base64url", "aw==", Some("k")),
            ("base64url", "+/8=", None),
        ] {
            let toml = format!("a = {{ secret = \"partner\", encoding = \"{encoding}\" }}");
            let found = form(&toml, "", &[]).unwrap().key(text.as_bytes());
            let found = found.map(|key| String::from_utf8(key.to_vec()).unwrap());
            assert_eq!(found.as_deref(), key, "{encoding} {text}");
        }
    }
}
