//! `wardgate:plugin/request` and `wardgate:plugin/task`: the request and the task of a call.

use crate::sandbox::bindings::v0_1::wardgate::plugin::{request, task};
use crate::sandbox::call::state::CallState;

impl request::Host for CallState {
    fn method(&mut self) -> wasmtime::Result<String> {
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.method.to_string()).unwrap_or_default())
    }

    fn path(&mut self) -> wasmtime::Result<String> {
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.path.clone()).unwrap_or_default())
    }

    fn query(&mut self) -> wasmtime::Result<String> {
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.query.clone()).unwrap_or_default())
    }

    fn headers(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        let headers = self.subject.request.iter().flat_map(|request| request.headers.iter());
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Ok(headers.map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect())
    }

    fn header(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        let request = self.subject.request.as_ref();
        let value = request.and_then(|request| request.headers.get(name.as_str()));
        Ok(value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()))
    }

    fn body(&mut self) -> wasmtime::Result<Vec<u8>> {
        self.charge_look_up(self.document_bytes())?;
        self.read_bytes = true;
        let request = self.subject.request.as_ref();
        Ok(request.map(|request| request.body.to_vec()).unwrap_or_default())
    }

    fn json(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge_look_up(self.document_bytes().saturating_add(pointer.len()))?;
        self.record_missing_payload();
        let request = self.subject.request.as_ref();
        Ok(request.and_then(|request| request.payload.find(&pointer)).map(str::to_owned))
    }

    fn scalar(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge_look_up(self.document_bytes().saturating_add(pointer.len()))?;
        self.record_missing_payload();
        let request = self.subject.request.as_ref();
        Ok(request.and_then(|request| request.payload.scalar(&pointer)))
    }
}

impl task::Host for CallState {
    fn json(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        self.charge_look_up(self.document_bytes().saturating_add(pointer.len()))?;
        let task = self.subject.task.as_ref();
        Ok(task.and_then(|task| task.find(&pointer)).map(str::to_owned))
    }
}
