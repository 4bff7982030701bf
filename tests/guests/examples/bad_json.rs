//! A mapper whose context is not JSON.

use guests::Mapped;

guests::mapper!(|_| Ok(Mapped::run().with_context("{ not json".into())));
