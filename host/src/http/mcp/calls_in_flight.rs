//! Finds the run of a call that a client cancels. Only the process that received the call knows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{TaskId, TenantId};

/// A call of a session: the session's id, and the id that the client gave the request, as JSON text.
type Call = (TenantId, Box<str>, Box<str>);

/// The calls of sessions that wait for their runs. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct CallsInFlight(Arc<Mutex<HashMap<Call, TaskId>>>);

/// A call that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct CallInFlight {
    calls: CallsInFlight,
    call: Call,
    task: TaskId,
}

impl CallsInFlight {
    /// Notes that this call waits for the run of this task.
    pub(super) fn begin(
        &self,
        tenant: TenantId,
        session: &str,
        id: &str,
        task: TaskId,
    ) -> CallInFlight {
        let call = (tenant, session.into(), id.into());
        self.lock().insert(call.clone(), task);
        CallInFlight { calls: self.clone(), call, task }
    }

    /// The task that a call waits for.
    pub(super) fn task(&self, tenant: TenantId, session: &str, id: &str) -> Option<TaskId> {
        self.lock().get(&(tenant, session.into(), id.into())).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Call, TaskId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CallInFlight {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        // A client may have used the id once more.
        if calls.get(&self.call) == Some(&self.task) {
            calls.remove(&self.call);
        }
    }
}
