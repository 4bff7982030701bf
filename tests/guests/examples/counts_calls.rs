//! A mapper that counts its calls in a static. The count is always one, because each call has its own instance.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

static CALLS: AtomicU32 = AtomicU32::new(0);

guests::mapper!(|_| guests::prompt((CALLS.fetch_add(1, Relaxed) + 1).to_string()));
