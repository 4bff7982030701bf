//! A plugin's tools: those of its toolbox, or the functions of a foreign component.

use std::sync::Arc;

use super::super::Binding;
use super::super::outcome::Called;
use super::answers::ExportResult;
use super::mismatch;
use super::run_call::ExportCall;
use crate::sandbox::subject::Subject;
use crate::tool::Tool;
use crate::trace::PluginRun;

impl Binding {
    /// Whether the operator publishes the plugin's tools at `/mcp`.
    #[must_use]
    pub fn publishes_tools(&self) -> bool {
        self.granted.publishes_tools()
    }

    /// Lists the plugin's tools. The functions of a foreign component are already known, so listing them takes no
    /// call.
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
        self.call(subject, ExportCall::ListTools).await.and_then(|answer| match answer {
            ExportResult::Tools(tools) => Ok(tools),
            _ => Err(mismatch()),
        })
    }

    /// Calls a tool. Arguments and result are JSON text.
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
        self.call(subject, ExportCall::CallTool { name, arguments }).await.and_then(|answer| {
            match answer {
                ExportResult::Json(json) => Ok(json),
                _ => Err(mismatch()),
            }
        })
    }
}
