//! Values that outlive a call. Each plugin of each tenant has its own bucket, whose size the operator sets.

mod memory;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::ids::{PluginName, TenantId};
pub use memory::MemoryValues;
pub(super) use memory::apply_in_memory;

/// Maximum number of keys in one answer of `list-keys`.
pub const LISTED_KEYS_MAX: u32 = 1_000;

/// The owner of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValuesOwner {
    /// The tenant.
    pub tenant: TenantId,
    /// The tenant's plugin.
    pub plugin: PluginName,
}

/// Why a value cannot be read or stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ValuesError {
    /// The value does not fit into the plugin's quota.
    #[error("the plugin's values would take more than the {granted_bytes} bytes it is granted")]
    Full {
        /// The plugin's quota, in bytes.
        granted_bytes: u64,
    },
    /// The value to increment is not a number, or the sum is too large.
    #[error("the value is not a number that can be incremented")]
    NotANumber,
    /// The gateway's store failed.
    #[error("the values cannot be reached at the moment")]
    Unavailable,
}

/// The future result of an operation.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, ValuesError>> + Send + 'a>>;

/// Storage for values. The sandbox does not depend on a store: the code that starts it supplies one.
pub trait Values: Send + Sync + fmt::Debug {
    /// Returns the value of a key, or `None` if there is none.
    fn get<'a>(&'a self, owner: &'a ValuesOwner, key: &'a str) -> Pending<'a, Option<Vec<u8>>>;
    /// Stores a value durably, if all values of the owner together stay within `bytes_max`.
    fn set<'a>(
        &'a self,
        owner: &'a ValuesOwner,
        key: &'a str,
        value: Vec<u8>,
        bytes_max: u64,
    ) -> Pending<'a, ()>;
    /// Deletes a value.
    fn delete<'a>(&'a self, owner: &'a ValuesOwner, key: &'a str) -> Pending<'a, ()>;
    /// Adds `delta` to a value in decimal digits, 0 if there is none, and returns the sum.
    fn increment<'a>(
        &'a self,
        owner: &'a ValuesOwner,
        key: &'a str,
        delta: u64,
        bytes_max: u64,
    ) -> Pending<'a, u64>;
    /// Returns at most [`LISTED_KEYS_MAX`] keys in order, after skipping `skip`.
    fn keys<'a>(&'a self, owner: &'a ValuesOwner, skip: u64) -> Pending<'a, Vec<String>>;
}

/// The guest's handle to its plugin's bucket.
#[derive(Debug)]
pub struct Bucket;

/// An operation on a bucket.
pub(super) enum Operation {
    Get(String),
    Set(String, Vec<u8>),
    Delete(String),
    Exists(String),
    Increment(String, u64),
    Keys(u64),
}

impl Operation {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Get(_) => "get",
            Self::Set(..) => "set",
            Self::Delete(_) => "delete",
            Self::Exists(_) => "exists",
            Self::Increment(..) => "increment",
            Self::Keys(_) => "list-keys",
        }
    }

    pub(super) fn key(&self) -> String {
        match self {
            Self::Get(key)
            | Self::Set(key, _)
            | Self::Delete(key)
            | Self::Exists(key)
            | Self::Increment(key, _) => key.clone(),
            Self::Keys(skip) => skip.to_string(),
        }
    }
}

/// Performs an operation on stored values.
pub(super) async fn apply_to_store(
    values: &dyn Values,
    owner: &ValuesOwner,
    operation: &Operation,
    bytes_max: u64,
) -> Result<Value, ValuesError> {
    Ok(match operation {
        Operation::Get(key) => encoded(values.get(owner, key).await?.as_deref()),
        Operation::Exists(key) => json!(values.get(owner, key).await?.is_some()),
        Operation::Set(key, value) => {
            values.set(owner, key, value.clone(), bytes_max).await?;
            Value::Null
        }
        Operation::Delete(key) => {
            values.delete(owner, key).await?;
            Value::Null
        }
        Operation::Increment(key, delta) => {
            json!(values.increment(owner, key, *delta, bytes_max).await?)
        }
        Operation::Keys(skip) => json!(values.keys(owner, *skip).await?),
    })
}

/// The number in decimal digits, 0 if there is none, plus `delta`. `None` if the digits are not a number or the sum
/// overflows.
#[must_use]
pub fn incremented(digits: Option<&[u8]>, delta: u64) -> Option<u64> {
    let number = match digits {
        Some(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?,
        None => 0,
    };
    number.checked_add(delta)
}

fn encoded(value: Option<&[u8]>) -> Value {
    value.map_or(Value::Null, |value| STANDARD.encode(value).into())
}

/// Values that several sandboxes share.
pub type SharedValues = Arc<dyn Values>;
