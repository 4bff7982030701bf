//! `wasi:keyvalue`: values that outlive a call. Each plugin of each tenant has its own bucket, whose size the
//! operator sets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use wasmtime::component::Resource;

use crate::sandbox::bindings::v0_1::wasi::keyvalue::{atomics, store};
use crate::sandbox::call::state::CallState;
use crate::sandbox::quota::MemoryReservation;
use crate::sandbox::recording::{HostResponse, HostSource, lock};
use crate::sandbox::values::{Bucket, LISTED_KEYS_MAX, Operation, apply_in_memory, apply_to_store};

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 256 << 10;

/// Maximum number of operations in one call.
const OPERATIONS_MAX: u32 = 1_000;

type Outcome = Result<Value, store::Error>;

/// Checks the key and the value of an operation.
fn check(operation: &Operation) -> Result<(), store::Error> {
    let key_is_good = match operation {
        Operation::Keys(_) => true,
        other => (1..=KEY_BYTES_MAX).contains(&other.key().len()) && !other.key().contains('\0'),
    };
    if !key_is_good {
        return Err(other("a key has 1 to 512 bytes and no NUL"));
    }
    match operation {
        Operation::Set(_, value) if value.len() > VALUE_BYTES_MAX => {
            Err(other("a value has 256 KiB at most"))
        }
        _ => Ok(()),
    }
}

impl CallState {
    /// Performs an operation of the guest: on the store, on a test's values, or from a recording.
    async fn operate(&mut self, operation: Operation) -> wasmtime::Result<Outcome> {
        let Some(bytes_max) = self.values_bytes() else {
            return Ok(Err(store::Error::AccessDenied));
        };
        if let Err(wrong) = check(&operation) {
            return Ok(Err(wrong));
        }
        self.values_operations = self.values_operations.saturating_add(1);
        if self.values_operations > OPERATIONS_MAX {
            return Ok(Err(other("one call may do 1000 operations on its values")));
        }
        let outside = self.host_source();
        let outcome = match &outside {
            HostSource::Scripted(script) => {
                let mut script = lock(script);
                match script.value(operation.name(), &operation.key()) {
                    Some(recorded) => recorded,
                    None => apply_in_memory(&mut script.values, &operation, bytes_max)
                        .map_err(|error| error.to_string()),
                }
            }
            HostSource::Live(_) => {
                let (values, owner) = self.values();
                apply_to_store(&*values, &owner, &operation, bytes_max)
                    .await
                    .map_err(|error| error.to_string())
            }
        };
        outside.record(|| HostResponse::Value {
            operation: operation.name().to_owned(),
            key: operation.key(),
            outcome: outcome.clone(),
        });
        Ok(outcome.map_err(store::Error::Other))
    }
}

fn other(what: &str) -> store::Error {
    store::Error::Other(what.to_owned())
}

/// The error if a recorded outcome is not of the operation's type.
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
        // The host holds the value until it is written.
        let mut held = MemoryReservation::new(&self.binding.quota);
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
