//! A getter whose value is not JSON.

guests::getter!(|_| Ok(Some("{ not json".into())));
