//! Secrets as types. None of them has a `Display`, and `Debug` prints the type's name only.
//!
//! Keys and tokens hold 256 bits. A store keeps their hashes; because they are random and long, a
//! fast hash is right (a slow one would let anybody spend our CPU by sending wrong keys).

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
pub use uses::{BeyondItsUses, NoUses, SecretUse, SecretUses, TenantSecret};
pub use versions::{SECRET_BYTES_MAX, SealBroken, SecretVersions};

/// What an API key begins with, so that people and secret scanners recognise one.
const API_KEY_PREFIX: &str = "wgk_";
/// What an operator key begins with.
const OPERATOR_KEY_PREFIX: &str = "wgo_";

/// Longest `user_tokens`: a few tokens, each a few kilobytes.
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
    /// The hash of what a caller presented. Anything may be presented; only a real key's hash is found.
    #[must_use]
    pub fn of(presented: &str) -> Self {
        // The context's own hash is the same each time.
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

/// A key or token in clear: exists when it is minted, and is shown once.
#[derive(Clone)]
pub struct PlainSecret(Zeroizing<String>);

silent_debug!(PlainSecret);

impl PlainSecret {
    /// The text, to be shown to its owner and to nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the store keeps of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }

    /// A new random API key of a tenant.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random_api_key() -> io::Result<Self> {
        Self::random(API_KEY_PREFIX)
    }

    /// A new random key of an operator.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random_operator_key() -> io::Result<Self> {
        Self::random(OPERATOR_KEY_PREFIX)
    }

    fn random(prefix: &str) -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(io::Error::other)?;
        Ok(Self::spell(prefix, &bytes))
    }

    fn spell(prefix: &str, bytes: &[u8; 32]) -> Self {
        let mut text = Zeroizing::new(prefix.to_owned());
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        Self(text)
    }
}

/// Tokens of the user whom a run is for, each by the id of the graph item of type `mcp` that it is for
/// (CONTRACT X8). They travel from the request to the run in memory and are kept nowhere.
#[derive(Clone, Default)]
pub struct UserTokens(BTreeMap<String, UserToken>);

silent_debug!(UserTokens);

/// What one graph item is called with.
#[derive(Clone)]
pub enum UserToken {
    /// Sent as `Authorization: Bearer`.
    Bearer(Zeroizing<String>),
    /// Take the place of the connection's own headers.
    Headers(Vec<(String, Zeroizing<String>)>),
}

silent_debug!(UserToken);

impl UserTokens {
    /// Reads an object whose values are tokens or objects of headers. The error repeats nothing of it.
    ///
    /// # Errors
    /// What is wrong with it.
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

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids of the graph items that there are tokens for.
    pub fn items(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What this graph item is called with.
    #[must_use]
    pub fn of(&self, item: &str) -> Option<&UserToken> {
        self.0.get(item)
    }

    /// Every secret text in it, for whoever takes them out of something else. Of a header like
    /// `Bearer abc` that is the whole and the credential alone.
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

/// The gateway's own 256-bit key, made at the first start and kept in its data folder. What is derived
/// from it stays the same over restarts without being stored: webhook tokens, the seal of the code
/// cache, the demo's keys.
#[derive(Clone)]
pub struct HostKey(Zeroizing<[u8; 32]>);

silent_debug!(HostKey);

impl HostKey {
    /// Reads the key at `path`, or makes it there with access for the owner only.
    ///
    /// # Errors
    /// When the file can be neither read nor made, or does not hold 32 bytes.
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
        // Written beside and linked into place: a crash leaves no half a key, and of two processes
        // that start at once both end with the first one's.
        let beside = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes.as_ref())?;
        file.sync_all()?;
        let linked = fs::hard_link(&beside, path);
        fs::remove_file(&beside)?;
        match linked {
            Ok(()) => Ok(Self(bytes)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::load_or_create(path)
            }
            Err(error) => Err(error),
        }
    }

    /// A key of its own for one purpose; `purpose` is a constant of the code, never input.
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
    /// The keyed hash of these parts. Each part's length goes in too, so that no two lists of parts
    /// collide.
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

    /// The webhook token that these parts name: 256 bits, 43 characters. Without the key it is as good
    /// as random; with it, the same parts give the same token, so none has to be stored in clear.
    #[must_use]
    pub fn webhook_token(&self, parts: &[&[u8]]) -> PlainSecret {
        PlainSecret::spell("", self.mac(parts).as_bytes())
    }

    /// The API key that these parts name; for the demo, whose key is printed at every start.
    #[must_use]
    pub fn api_key(&self, parts: &[&[u8]]) -> PlainSecret {
        PlainSecret::spell(API_KEY_PREFIX, self.mac(parts).as_bytes())
    }

    /// The operator key that these parts name.
    #[must_use]
    pub fn operator_key(&self, parts: &[&[u8]]) -> PlainSecret {
        PlainSecret::spell(OPERATOR_KEY_PREFIX, self.mac(parts).as_bytes())
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
        assert!(matches!(tokens.of("a"), Some(UserToken::Bearer(_))));
        assert_eq!(format!("{tokens:?} {:?}", tokens.of("b")), "UserTokens(…) Some(UserToken(…))");
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
        let again = HostKey::load_or_create(&path).unwrap().derive("test").webhook_token(&[b"a"]);
        assert_eq!(first.reveal(), again.reveal());
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
