//! A mapper that reads only the raw body, and puts its length into the prompt.

use guests::{Mapped, request};

guests::mapper!(|_| {
    let bytes = request::body().len();
    Ok(Mapped::run()
        .with_param("prompt", format!("{bytes} bytes"))
        .with_context("{\"read\":true}".into()))
});
