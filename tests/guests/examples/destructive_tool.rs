//! A tool `wipe` without annotations, so that it counts as destructive. It deletes nothing.

guests::tool!("wipe", |_| Ok(r#"{"wiped":true}"#.into()));
