//! Values that outlive a call (`wasi:keyvalue`): each plugin of each tenant has a bucket of its own, as
//! large as the operator says.

mod memory;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wasmtime::component::Resource;

use super::bindings::v0_1::wasi::keyvalue::{atomics, store};
use super::host_calls::CallState;
use super::journal::{Answered, Outside, lock};
use super::share::HeldMemory;
use crate::ids::{PluginName, TenantId};
pub use memory::MemoryValues;
use memory::in_memory;

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 256 << 10;

/// Operations of one call.
const OPERATIONS_MAX: u32 = 1_000;

/// Keys in one answer of `list-keys`.
pub const LISTED_KEYS_MAX: u32 = 1_000;

/// Whose values they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValuesOwner {
    /// The tenant.
    pub tenant: TenantId,
    /// Its plugin.
    pub plugin: PluginName,
}

/// Why a value cannot be had or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ValuesError {
    /// There is no room for it.
    #[error("the plugin's values would take more than the {granted_bytes} bytes it is granted")]
    Full {
        /// What it is granted, in bytes.
        granted_bytes: u64,
    },
    /// A number was to be counted up that is none, or is too large.
    #[error("the value is no number that can be counted up")]
    NotANumber,
    /// The gateway's store failed.
    #[error("the values cannot be reached at the moment")]
    Unavailable,
}

/// What an operation comes to.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, ValuesError>> + Send + 'a>>;

/// Where values are kept. The sandbox knows no store; whoever starts it brings one along.
pub trait Values: Send + Sync + fmt::Debug {
    /// The value of a key.
    fn get<'a>(&'a self, owner: &'a ValuesOwner, key: &'a str) -> Pending<'a, Option<Vec<u8>>>;
    /// Keeps a value, durably, if all values of the owner together stay within `bytes_max`.
    fn set<'a>(
        &'a self,
        owner: &'a ValuesOwner,
        key: &'a str,
        value: Vec<u8>,
        bytes_max: u64,
    ) -> Pending<'a, ()>;
    /// Forgets a value.
    fn delete<'a>(&'a self, owner: &'a ValuesOwner, key: &'a str) -> Pending<'a, ()>;
    /// Adds to the number that a value spells in decimal digits, 0 where there is none, and gives the sum.
    fn increment<'a>(
        &'a self,
        owner: &'a ValuesOwner,
        key: &'a str,
        delta: u64,
        bytes_max: u64,
    ) -> Pending<'a, u64>;
    /// [`LISTED_KEYS_MAX`] keys at most in their order, leaving out this many.
    fn keys<'a>(&'a self, owner: &'a ValuesOwner, skip: u64) -> Pending<'a, Vec<String>>;
}

/// A plugin's bucket, as its guest holds it.
#[derive(Debug)]
pub struct Bucket;

type Outcome = Result<Value, store::Error>;

enum Operation {
    Get(String),
    Set(String, Vec<u8>),
    Delete(String),
    Exists(String),
    Increment(String, u64),
    Keys(u64),
}

impl Operation {
    fn name(&self) -> &'static str {
        match self {
            Self::Get(_) => "get",
            Self::Set(..) => "set",
            Self::Delete(_) => "delete",
            Self::Exists(_) => "exists",
            Self::Increment(..) => "increment",
            Self::Keys(_) => "list-keys",
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Get(key)
            | Self::Set(key, _)
            | Self::Delete(key)
            | Self::Exists(key)
            | Self::Increment(key, _) => key.clone(),
            Self::Keys(skip) => skip.to_string(),
        }
    }

    fn check(&self) -> Result<(), store::Error> {
        let key_is_good = match self {
            Self::Keys(_) => true,
            other => {
                (1..=KEY_BYTES_MAX).contains(&other.key().len()) && !other.key().contains('\0')
            }
        };
        if !key_is_good {
            return Err(other("a key has 1 to 512 bytes and no NUL"));
        }
        match self {
            Self::Set(_, value) if value.len() > VALUE_BYTES_MAX => {
                Err(other("a value has 256 KiB at most"))
            }
            _ => Ok(()),
        }
    }
}

impl CallState {
    /// Does what a guest asks of its values: in the store, in a test's own, or as it was recorded.
    async fn operate(&mut self, operation: Operation) -> wasmtime::Result<Outcome> {
        let Some(bytes_max) = self.values_bytes() else {
            return Ok(Err(store::Error::AccessDenied));
        };
        if let Err(wrong) = operation.check() {
            return Ok(Err(wrong));
        }
        self.values_operations = self.values_operations.saturating_add(1);
        if self.values_operations > OPERATIONS_MAX {
            return Ok(Err(other("one call may do 1000 operations on its values")));
        }
        let outside = self.outside();
        let outcome = match &outside {
            Outside::Scripted(script) => {
                let mut script = lock(script);
                match script.value(operation.name(), &operation.key()) {
                    Some(recorded) => recorded,
                    None => in_memory(&mut script.values, &operation, bytes_max)
                        .map_err(|error| error.to_string()),
                }
            }
            Outside::Live(_) => {
                let (values, owner) = self.values();
                in_store(&*values, &owner, &operation, bytes_max)
                    .await
                    .map_err(|error| error.to_string())
            }
        };
        outside.record(|| Answered::Value {
            operation: operation.name().to_owned(),
            key: operation.key(),
            outcome: outcome.clone(),
        });
        Ok(outcome.map_err(store::Error::Other))
    }
}

async fn in_store(
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

/// The sum of the number that these digits spell and what is added. None where they spell none.
#[must_use]
pub fn counted_up(digits: Option<&[u8]>, delta: u64) -> Option<u64> {
    let number = match digits {
        Some(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?,
        None => 0,
    };
    number.checked_add(delta)
}

fn encoded(value: Option<&[u8]>) -> Value {
    value.map_or(Value::Null, |value| STANDARD.encode(value).into())
}

fn other(what: &str) -> store::Error {
    store::Error::Other(what.to_owned())
}

/// What a recorded outcome holds where it is not what the operation gives.
fn unreadable() -> store::Error {
    other("the recorded answer cannot be read")
}

impl store::Host for CallState {
    fn open(
        &mut self,
        identifier: String,
    ) -> wasmtime::Result<Result<Resource<Bucket>, store::Error>> {
        if self.values_bytes().is_none() {
            return Ok(Err(store::Error::AccessDenied));
        }
        match identifier.as_str() {
            "" | "default" => Ok(Ok(self.table().push(Bucket)?)),
            _ => Ok(Err(store::Error::NoSuchStore)),
        }
    }
}

impl store::HostBucket for CallState {
    async fn get(
        &mut self,
        _bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, store::Error>> {
        Ok(self.operate(Operation::Get(key)).await?.and_then(|value| match value {
            Value::Null => Ok(None),
            Value::String(text) => STANDARD.decode(text).map(Some).map_err(|_| unreadable()),
            _ => Err(unreadable()),
        }))
    }

    async fn set(
        &mut self,
        _bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), store::Error>> {
        // The host holds it until it is written.
        let mut held = HeldMemory::of(&self.binding.share);
        if let Err(shortage) = held.take(value.len()) {
            return Ok(Err(store::Error::Other(shortage.to_string())));
        }
        Ok(self.operate(Operation::Set(key, value)).await?.map(drop))
    }

    async fn delete(
        &mut self,
        _bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), store::Error>> {
        Ok(self.operate(Operation::Delete(key)).await?.map(drop))
    }

    async fn exists(
        &mut self,
        _bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, store::Error>> {
        let outcome = self.operate(Operation::Exists(key)).await?;
        Ok(outcome.and_then(|value| value.as_bool().ok_or_else(unreadable)))
    }

    async fn list_keys(
        &mut self,
        _bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<store::KeyResponse, store::Error>> {
        let skip = cursor.unwrap_or_default();
        let outcome = self.operate(Operation::Keys(skip)).await?;
        Ok(outcome.and_then(|value| {
            let keys: Vec<String> = serde_json::from_value(value).map_err(|_| unreadable())?;
            let more = keys.len() as u64 == u64::from(LISTED_KEYS_MAX);
            let cursor = more.then(|| skip.saturating_add(keys.len() as u64));
            Ok(store::KeyResponse { keys, cursor })
        }))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table().delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for CallState {
    async fn increment(
        &mut self,
        _bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, store::Error>> {
        let outcome = self.operate(Operation::Increment(key, delta)).await?;
        Ok(outcome.and_then(|value| value.as_u64().ok_or_else(unreadable)))
    }
}

/// A place that several sandboxes share.
pub type SharedValues = Arc<dyn Values>;
