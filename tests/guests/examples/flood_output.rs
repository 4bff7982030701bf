//! A mapper whose answer is 512 MiB large, out of 1 MiB of memory: each parameter is the same text.

use guests::Mapped;
use std::mem::ManuallyDrop;

guests::mapper!(|_| {
    let text = ManuallyDrop::new("x".repeat(1 << 20));
    let mut mapped = Mapped::run();
    for _ in 0..512 {
        // SAFETY: none, on purpose. Nobody frees these twice, since the SDK's allocator never does.
        let same =
            unsafe { String::from_raw_parts(text.as_ptr().cast_mut(), text.len(), text.len()) };
        mapped = mapped.with_param("prompt", same);
    }
    Ok(mapped)
});
