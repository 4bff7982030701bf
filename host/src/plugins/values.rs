//! The key-value store of plugins, backed by the gateway's store.

use crate::sandbox::{LISTED_KEYS_MAX, Pending, Values, ValuesError, ValuesOwner, incremented};
use crate::store::{Store, StoreError, ValueChange};

/// The key-value pairs of all plugins in a store.
#[derive(Debug, Clone)]
pub struct StoreValues(Store);

impl StoreValues {
    /// The key-value pairs in this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(store)
    }
}

impl Values for StoreValues {
    fn get<'a>(&'a self, owner: &'a ValuesOwner, key: &'a str) -> Pending<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let value = self.0.plugin_value(owner.tenant, &owner.plugin, key).await;
            value.map_err(|error| unavailable(&error))
        })
    }

    fn set<'a>(
        &'a self,
        owner: &'a ValuesOwner,
        key: &'a str,
        value: Vec<u8>,
        bytes_max: u64,
    ) -> Pending<'a, ()> {
        Box::pin(self.put(owner, key, Some(value), bytes_max))
    }

    fn delete<'a>(&'a self, owner: &'a ValuesOwner, key: &'a str) -> Pending<'a, ()> {
        Box::pin(self.put(owner, key, None, u64::MAX))
    }

    fn increment<'a>(
        &'a self,
        owner: &'a ValuesOwner,
        key: &'a str,
        delta: u64,
        bytes_max: u64,
    ) -> Pending<'a, u64> {
        Box::pin(async move {
            let (tenant, plugin, key) = (owner.tenant, &owner.plugin, key.to_owned());
            let counted =
                self.0.count_plugin_value(tenant, plugin, key, incremented, delta, bytes_max).await;
            change_result(counted, bytes_max)
        })
    }

    fn keys<'a>(&'a self, owner: &'a ValuesOwner, skip: u64) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            let (tenant, plugin) = (owner.tenant, &owner.plugin);
            let keys = self.0.plugin_keys(tenant, plugin, skip, LISTED_KEYS_MAX).await;
            keys.map_err(|error| unavailable(&error))
        })
    }
}

impl StoreValues {
    async fn put(
        &self,
        owner: &ValuesOwner,
        key: &str,
        value: Option<Vec<u8>>,
        bytes_max: u64,
    ) -> Result<(), ValuesError> {
        let (tenant, plugin, key) = (owner.tenant, &owner.plugin, key.to_owned());
        let put = self.0.put_plugin_value(tenant, plugin, key, value, bytes_max).await;
        change_result(put, bytes_max).map(drop)
    }
}

fn change_result(
    change: Result<ValueChange, StoreError>,
    bytes_max: u64,
) -> Result<u64, ValuesError> {
    match change {
        Ok(ValueChange::Stored(number)) => Ok(number),
        Ok(ValueChange::Full) => Err(ValuesError::Full { granted_bytes: bytes_max }),
        Ok(ValueChange::NotANumber) => Err(ValuesError::NotANumber),
        Err(error) => Err(unavailable(&error)),
    }
}

fn unavailable(error: &StoreError) -> ValuesError {
    tracing::error!(%error, "a plugin's values cannot be reached");
    ValuesError::Unavailable
}
