//! A getter whose string is not UTF-8, against the interface.

guests::getter!(|_| {
    // SAFETY: none, on purpose. Nothing reads it before the host does.
    Ok(Some(unsafe { String::from_utf8_unchecked(vec![0x22, 0xff, 0xfe, 0xc0, 0x80, 0x22]) }))
});
