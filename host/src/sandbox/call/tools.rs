//! The tools of a plugin: those of its toolbox, or the functions of a component from elsewhere.

use std::sync::Arc;

use super::super::Binding;
use super::super::outcome::Called;
use super::answers::ExportResult;
use super::mismatch;
use super::perform::ExportCall;
use crate::sandbox::subject::Subject;
use crate::tool::Tool;
use crate::trace::PluginRun;

impl Binding {
    /// Asks the toolbox what it has. The functions of a component from elsewhere are known already, so
    /// that asking costs no call.
    pub async fn list_tools(self: &Arc<Self>, subject: Subject) -> Called<Vec<Tool>> {
        if let Some(foreign) = &self.loaded.roles.foreign {
            let (value, logs) = (Ok(foreign.tools()), Vec::new());
            let run = PluginRun::default();
            let called = Called { value, logs, run, recording: None, missed_payload: false };
            return self.identify(called, None);
        }
        if self.loaded.roles.toolbox.is_none() {
            return self.no_role("toolbox");
        }
        self.ask(subject, ExportCall::ListTools).await.and_then(|answer| match answer {
            ExportResult::Tools(tools) => Ok(tools),
            _ => Err(mismatch()),
        })
    }

    /// Calls a tool. Arguments and answer are JSON text.
    pub async fn call_tool(
        self: &Arc<Self>,
        subject: Subject,
        name: String,
        arguments: String,
    ) -> Called<String> {
        let roles = &self.loaded.roles;
        if roles.toolbox.is_none() && roles.foreign.is_none() {
            return self.no_role("toolbox");
        }
        self.ask(subject, ExportCall::CallTool { name, arguments }).await.and_then(|answer| {
            match answer {
                ExportResult::Json(json) => Ok(json),
                _ => Err(mismatch()),
            }
        })
    }
}
