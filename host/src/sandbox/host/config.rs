//! `wasi:config/store`: the plugin's settings, from its channel, else from its grants.

use crate::sandbox::bindings::v0_1::wasi::config::store as config_store;
use crate::sandbox::call::state::CallState;

impl config_store::Host for CallState {
    fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<String>, config_store::Error>> {
        Ok(Ok(self.setting(&key).map(str::to_owned)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config_store::Error>> {
        let mut settings = self.binding.granted.settings().clone();
        if let Some(channel) = &self.subject.channel {
            settings.extend(channel.settings.clone());
        }
        Ok(Ok(settings.into_iter().collect()))
    }
}
