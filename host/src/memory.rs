//! Returns freed memory to the operating system.

/// From this size on, in bytes, an allocation is a mapping of its own, which is unmapped when it is freed. glibc's
/// own initial value.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: i32 = 128 << 10;

/// How many bytes may be free at the end of a heap before they are returned. Each thread may have a heap, so this is
/// a few megabytes in all; with less, heaps would shrink and grow with every other request.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_MAX: i32 = 2 << 20;

/// Keeps glibc's allocator from retaining freed memory. By default it raises both thresholds, to 32 and 64 MiB, as
/// soon as something large is freed: bodies of some megabytes are then allocated in heaps, between small allocations
/// that live longer, and hundreds of megabytes stay with the process after all callers have disconnected. Other
/// allocators are left as they are.
pub fn release_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(
            unsafe_code,
            reason = "mallopt takes two numbers and may be called at any time; it is a C function, so \
                      there is no safe way to it"
        )]
        let set = |parameter, bytes| unsafe { libc::mallopt(parameter, bytes) };
        // Setting either threshold disables the dynamic adjustment. It cannot fail with these values, and if it did,
        // the process would only be larger.
        let _ = set(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        let _ = set(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
    }
}
