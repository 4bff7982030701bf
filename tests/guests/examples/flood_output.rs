//! A mapper whose result is 512 MiB long but takes 1 MiB of memory: each parameter is the same string.

use guests::Mapped;
use std::mem::ManuallyDrop;

guests::mapper!(|_| {
    let text = ManuallyDrop::new("x".repeat(1 << 20));
    let mut mapped = Mapped::run();
    for _ in 0..512 {
        // SAFETY: none, on purpose. No double free, because the SDK's allocator does not free these.
        let same =
            unsafe { String::from_raw_parts(text.as_ptr().cast_mut(), text.len(), text.len()) };
        mapped = mapped.with_param("prompt", same);
    }
    Ok(mapped)
});
