//! A mapper that sets a parameter that mappers may not set.

use guests::Mapped;

guests::mapper!(|_| Ok(Mapped::run().with_param("x-api-key", "stolen")));
