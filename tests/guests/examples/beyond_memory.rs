//! A getter that returns a string beyond the end of its memory.

use std::mem::ManuallyDrop;

guests::getter!(|path| {
    let length = if path == "long" { usize::MAX >> 1 } else { 16 };
    let start = (u32::MAX as usize - 64) as *mut u8;
    // SAFETY: none, on purpose. Nothing reads it before the host does.
    Ok(Some(ManuallyDrop::into_inner(ManuallyDrop::new(unsafe {
        String::from_raw_parts(start, length, length)
    }))))
});
