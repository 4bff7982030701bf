//! A mapper that returns an action that does not exist.

use guests::Mapped;

guests::mapper!(|_| Ok(Mapped { action: "explode".into(), ..Mapped::run() }));
