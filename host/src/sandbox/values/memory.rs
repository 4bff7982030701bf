//! Values in memory, for scripts and for calls outside a gateway.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::{
    LISTED_KEYS_MAX, Operation, Pending, Values, ValuesError, ValuesOwner, encoded, incremented,
};
use crate::sandbox::recording::lock;

/// Values in memory, for calls outside a gateway.
#[derive(Debug, Default)]
pub struct MemoryValues(Mutex<BTreeMap<String, Vec<u8>>>);

impl MemoryValues {
    fn operate(&self, operation: &Operation, bytes_max: u64) -> Result<Value, ValuesError> {
        let mut values = lock(&self.0);
        apply_in_memory(&mut values, operation, bytes_max)
    }
}

impl Values for MemoryValues {
    fn get<'a>(&'a self, _: &'a ValuesOwner, key: &'a str) -> Pending<'a, Option<Vec<u8>>> {
        Box::pin(async move { Ok(lock(&self.0).get(key).cloned()) })
    }

    fn set<'a>(
        &'a self,
        _: &'a ValuesOwner,
        key: &'a str,
        value: Vec<u8>,
        bytes_max: u64,
    ) -> Pending<'a, ()> {
        let operation = Operation::Set(key.to_owned(), value);
        Box::pin(async move { self.operate(&operation, bytes_max).map(drop) })
    }

    fn delete<'a>(&'a self, _: &'a ValuesOwner, key: &'a str) -> Pending<'a, ()> {
        let operation = Operation::Delete(key.to_owned());
        Box::pin(async move { self.operate(&operation, u64::MAX).map(drop) })
    }

    fn increment<'a>(
        &'a self,
        _: &'a ValuesOwner,
        key: &'a str,
        delta: u64,
        bytes_max: u64,
    ) -> Pending<'a, u64> {
        let operation = Operation::Increment(key.to_owned(), delta);
        Box::pin(async move {
            let sum = self.operate(&operation, bytes_max)?;
            sum.as_u64().ok_or(ValuesError::NotANumber)
        })
    }

    fn keys<'a>(&'a self, _: &'a ValuesOwner, skip: u64) -> Pending<'a, Vec<String>> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        Box::pin(async move {
            let values = lock(&self.0);
            Ok(values.keys().skip(skip).take(LISTED_KEYS_MAX as usize).cloned().collect())
        })
    }
}

/// Performs an operation on values in memory.
pub(in crate::sandbox) fn apply_in_memory(
    values: &mut BTreeMap<String, Vec<u8>>,
    operation: &Operation,
    bytes_max: u64,
) -> Result<Value, ValuesError> {
    fn set(
        values: &mut BTreeMap<String, Vec<u8>>,
        key: &str,
        value: Vec<u8>,
        bytes_max: u64,
    ) -> Result<(), ValuesError> {
        let others = values.iter().filter(|(other, _)| *other != key);
        let taken: usize = others.map(|(key, value)| key.len() + value.len()).sum();
        if (taken + key.len() + value.len()) as u64 > bytes_max {
            return Err(ValuesError::Full { granted_bytes: bytes_max });
        }
        values.insert(key.to_owned(), value);
        Ok(())
    }
    Ok(match operation {
        Operation::Get(key) => encoded(values.get(key).map(Vec::as_slice)),
        Operation::Exists(key) => json!(values.contains_key(key)),
        Operation::Set(key, value) => {
            set(values, key, value.clone(), bytes_max)?;
            Value::Null
        }
        Operation::Delete(key) => {
            values.remove(key);
            Value::Null
        }
        Operation::Increment(key, delta) => {
            let sum = incremented(values.get(key).map(Vec::as_slice), *delta);
            let sum = sum.ok_or(ValuesError::NotANumber)?;
            set(values, key, sum.to_string().into_bytes(), bytes_max)?;
            json!(sum)
        }
        Operation::Keys(skip) => {
            let skip = usize::try_from(*skip).unwrap_or(usize::MAX);
            json!(values.keys().skip(skip).take(LISTED_KEYS_MAX as usize).collect::<Vec<_>>())
        }
    })
}
