//! A tool whose result is not JSON.

guests::tool!("broken", |_| Ok("{ not json".into()));
