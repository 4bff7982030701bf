//! Golden cases of plugins: the call, the host's answers and the expected outcome. Cases run in a sandbox with all
//! limits in force and without a gateway, so that a plugin in any language can be tested with this program alone.

mod case;
mod compare;
pub(crate) mod distinct;
mod run;

pub use case::{Case, CaseError, Expected};
pub use compare::{Difference, changes, differences};
pub use run::{CaseResult, HarnessError, PluginHarness, outcome_of_tool, outcome_of_value};
pub(crate) use run::{mapped, placeholder};
