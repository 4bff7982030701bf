//! A mapper that looks at the bytes of the body and at nothing else, and gives the agent their number.

use guests::{Mapped, request};

guests::mapper!(|_| {
    let bytes = request::body().len();
    Ok(Mapped::run()
        .with_param("prompt", format!("{bytes} bytes"))
        .with_context("{\"read\":true}".into()))
});
