//! Golden cases of plugins: what a plugin is called with, what the host answers it, and what is expected.
//! They run in a sandbox with every limit in force and without a gateway, so that a plugin in any
//! language can be tested with nothing but the program.

mod case;
mod compare;
pub(crate) mod distinct;
mod run;

pub use case::{Case, CaseError, Expected};
pub use compare::{Difference, changes, differences};
pub use run::{Ran, Stage, StageError, outcome_of_tool, outcome_of_value};
pub(crate) use run::{mapped, placeholder};
