//! Secrets as types. None of them implements `Display`, and `Debug` prints only the type's name.
//!
//! Keys and tokens have 256 bits, and the store holds their hashes. Because they are random and long, a fast hash is
//! safe; a slow one would let anyone consume our CPU by sending wrong keys.

mod binding;
mod uses;
mod versions;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

pub use binding::{
    KeyEncoding, KeyForm, KeyPrefix, KeyUse, KnownForms, SecretBinding, UnknownForm, WrittenBinding,
};
pub use uses::{ParseUsesError, SecretUse, SecretUses, TenantSecret, UseNotAllowed};
pub use versions::{SECRET_BYTES_MAX, SealBroken, SecretVersions};

/// The prefix of an API key, so that people and secret scanners recognize one.
const API_KEY_PREFIX: &str = "wgk_";
/// The prefix of an operator key.
const OPERATOR_KEY_PREFIX: &str = "wgo_";

/// The longest `user_tokens`, in bytes: a few tokens of a few kilobytes each.
const USER_TOKENS_BYTES_MAX: usize = 64 << 10;

macro_rules! silent_debug {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

/// The hash under which a key or token is stored and looked up.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; 32]);

silent_debug!(SecretHash);

impl SecretHash {
    /// Hashes a presented credential. Anything can be presented; only a real key's hash is found.
    #[must_use]
    pub fn of(presented: &str) -> Self {
        // The hash of the context is the same for every call.
        static CONTEXT: LazyLock<blake3::Hasher> =
            LazyLock::new(|| blake3::Hasher::new_derive_key("wardgate 2026 stored credential"));
        Self(*CONTEXT.clone().update(presented.as_bytes()).finalize().as_bytes())
    }

    /// The bytes, for the store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A key or token in clear. It exists when it is created, and is shown once.
#[derive(Clone)]
pub struct PlainSecret(Zeroizing<String>);

silent_debug!(PlainSecret);

impl PlainSecret {
    /// The text, to be shown only to its owner.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash that is stored.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }

    /// Generates an API key of a tenant.
    ///
    /// # Errors
    /// If the operating system provides no randomness.
    pub fn random_api_key() -> io::Result<Self> {
        Self::random(API_KEY_PREFIX)
    }

    /// Generates an operator key.
    ///
    /// # Errors
    /// If the operating system provides no randomness.
    pub fn random_operator_key() -> io::Result<Self> {
        Self::random(OPERATOR_KEY_PREFIX)
    }

    fn random(prefix: &str) -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(io::Error::other)?;
        Ok(Self::encode(prefix, &bytes))
    }

    fn encode(prefix: &str, bytes: &[u8; 32]) -> Self {
        let mut text = Zeroizing::new(prefix.to_owned());
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        Self(text)
    }
}

/// The tokens of the user that a run is for, by the id of the graph item of type `mcp` that each is for (CONTRACT
/// X8). They pass from the request to the run in memory and are never stored.
#[derive(Clone, Default)]
pub struct UserTokens(BTreeMap<String, UserToken>);

silent_debug!(UserTokens);

/// The credentials for calling one graph item.
#[derive(Clone)]
pub enum UserToken {
    /// Sent as `Authorization: Bearer`.
    Bearer(Zeroizing<String>),
    /// Replace the connection's own headers.
    Headers(Vec<(String, Zeroizing<String>)>),
}

silent_debug!(UserToken);

impl UserTokens {
    /// Parses an object whose values are tokens or objects of headers. The error repeats none of it.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence.
    pub fn parse(json: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "has a value that is neither a string nor an object of strings";
        if json.len() > USER_TOKENS_BYTES_MAX {
            return Err("is longer than 64 KiB");
        }
        let values: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(json).map_err(|_| "is not a JSON object")?;
        let mut tokens = BTreeMap::new();
        for (item, value) in values {
            let token = match value {
                serde_json::Value::Null => continue,
                serde_json::Value::String(token) => UserToken::Bearer(token.into()),
                serde_json::Value::Object(headers) => {
                    let headers = headers.into_iter().map(|(name, value)| match value {
                        serde_json::Value::String(value) => Ok((name, value.into())),
                        _ => Err(WRONG),
                    });
                    UserToken::Headers(headers.collect::<Result<_, _>>()?)
                }
                _ => return Err(WRONG),
            };
            tokens.insert(item, token);
        }
        Ok(Self(tokens))
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tokens as the JSON that [`UserTokens::parse`] reads, to be sealed.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<String> {
        let text = |secret: &Zeroizing<String>| serde_json::Value::from(secret.as_str());
        let tokens = self.0.iter().map(|(item, token)| {
            let token = match token {
                UserToken::Bearer(token) => text(token),
                UserToken::Headers(headers) => {
                    headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
                }
            };
            (item.clone(), token)
        });
        Zeroizing::new(serde_json::Value::Object(tokens.collect()).to_string())
    }

    /// The ids of the graph items that have tokens.
    pub fn items(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The token of this graph item.
    #[must_use]
    pub fn get(&self, item: &str) -> Option<&UserToken> {
        self.0.get(item)
    }

    /// Every secret text, for redaction elsewhere. A header such as `Bearer abc` yields both the whole value and the
    /// credential alone.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let texts = self.0.values().flat_map(|token| match token {
            UserToken::Bearer(token) => vec![token.as_str()],
            UserToken::Headers(headers) => {
                headers.iter().map(|(_, value)| value.as_str()).collect()
            }
        });
        texts.flat_map(|text| {
            let credential = text.split_once(' ').map(|(_scheme, credential)| credential.trim());
            std::iter::once(text).chain(credential)
        })
    }
}

/// The gateway's own 256-bit key, created at the first start and stored in its data folder. What is derived from it
/// stays the same across restarts without being stored: webhook tokens, the seal of the code cache, the demo's keys.
#[derive(Clone)]
pub struct HostKey(Zeroizing<[u8; 32]>);

silent_debug!(HostKey);

impl HostKey {
    /// Reads the key at `path`, or creates it there, readable by the owner only.
    ///
    /// # Errors
    /// If the file can be neither read nor created, or does not contain 32 bytes.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                let bytes = Zeroizing::new(bytes);
                let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| {
                    io::Error::other(format!("{} should hold 32 bytes", path.display()))
                })?;
                Ok(Self(Zeroizing::new(key)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(error),
        }
    }

    fn create(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(io::Error::other)?;
        // Written to a temporary file and linked into place: a crash leaves no partial key, and if two processes
        // start at once, both use the key of the first.
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes.as_ref())?;
        file.sync_all()?;
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => Ok(Self(bytes)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::load_or_create(path)
            }
            Err(error) => Err(error),
        }
    }

    /// Derives a separate key for one purpose; `purpose` is a constant in the code, never input.
    #[must_use]
    pub fn derive(&self, purpose: &'static str) -> DerivedKey {
        DerivedKey(Zeroizing::new(blake3::derive_key(purpose, self.0.as_ref())))
    }
}

/// A key derived for one purpose.
#[derive(Clone)]
pub struct DerivedKey(Zeroizing<[u8; 32]>);

silent_debug!(DerivedKey);

impl DerivedKey {
    /// The keyed hash of these parts. Each part's length is hashed too, so that no two lists of parts collide.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// A keyed hasher for one long input, such as a file.
    #[must_use]
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0)
    }

    /// Derives the webhook token of these parts: 256 bits, 43 characters. Without the key it is indistinguishable
    /// from random; with it, the same parts give the same token, so no token has to be stored in clear.
    #[must_use]
    pub fn webhook_token(&self, parts: &[&[u8]]) -> PlainSecret {
        PlainSecret::encode("", self.mac(parts).as_bytes())
    }

    /// Derives the API key of these parts; for the demo, whose key is printed at every start.
    #[must_use]
    pub fn api_key(&self, parts: &[&[u8]]) -> PlainSecret {
        PlainSecret::encode(API_KEY_PREFIX, self.mac(parts).as_bytes())
    }

    /// Derives the operator key of these parts.
    #[must_use]
    pub fn operator_key(&self, parts: &[&[u8]]) -> PlainSecret {
        PlainSecret::encode(OPERATOR_KEY_PREFIX, self.mac(parts).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_printed() {
        let key = PlainSecret::random_api_key().unwrap();
        assert!(key.reveal().starts_with("wgk_") && key.reveal().len() == 47);
        assert_eq!(format!("{key:?} {:?}", key.hash()), "PlainSecret(…) SecretHash(…)");
    }

    #[test]
    fn user_tokens_are_read_and_not_printed() {
        let tokens =
            UserTokens::parse(r#"{"a":"tok-1","b":{"x-h":"Bearer tok-2"},"c":null}"#).unwrap();
        assert_eq!(tokens.items().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tokens.secrets().collect::<Vec<_>>(), ["tok-1", "Bearer tok-2", "tok-2"]);
        assert!(matches!(tokens.get("a"), Some(UserToken::Bearer(_))));
        let again = UserTokens::parse(&tokens.to_json()).unwrap();
        assert_eq!(again.secrets().collect::<Vec<_>>(), tokens.secrets().collect::<Vec<_>>());
        assert_eq!(format!("{tokens:?} {:?}", tokens.get("b")), "UserTokens(…) Some(UserToken(…))");
        for wrong in [r#"{"a":7}"#, r#"{"a":{"x":1}}"#, "[]", "7", "{"] {
            assert!(UserTokens::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_host_key_survives_and_is_the_owners_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("wardgate-key-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("host.key");
        let first = HostKey::load_or_create(&path).unwrap().derive("test").webhook_token(&[b"a"]);
        let reloaded =
            HostKey::load_or_create(&path).unwrap().derive("test").webhook_token(&[b"a"]);
        assert_eq!(first.reveal(), reloaded.reveal());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::write(&path, b"short").unwrap();
        assert!(HostKey::load_or_create(&path).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = DerivedKey(Zeroizing::new([7; 32]));
        assert_ne!(key.mac(&[b"ab", b"c"]), key.mac(&[b"a", b"bc"]));
    }
}
