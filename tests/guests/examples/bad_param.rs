//! A mapper that tries to set a parameter that is not for payloads to set.

use guests::Mapped;

guests::mapper!(|_| Ok(Mapped::run().with_param("x-api-key", "stolen")));
