//! Memory that was freed goes back to the system.

/// From which size on, in bytes, an allocation is a mapping of its own, which is gone when it is freed.
/// glibc's own value at a start.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: i32 = 128 << 10;

/// How much may lie free at a heap's end before it is given back. Each thread may have a heap, so it is a few
/// megabytes in all; with less, heaps would shrink and grow with every other request.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_MAX: i32 = 2 << 20;

/// Keeps glibc's allocator from holding on to memory. By itself it raises both bounds, to 32 and 64 MiB, as
/// soon as something large is freed: bodies of some megabytes lie in heaps from then on, between small things
/// that live longer, and hundreds of them stay with the process after everybody has hung up. Other allocators
/// are left as they are.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(
            unsafe_code,
            reason = "mallopt takes two numbers and may be called at any time; it is a C function, so \
                      there is no safe way to it"
        )]
        let set = |parameter, bytes| unsafe { libc::mallopt(parameter, bytes) };
        // To set either of them is to end their growing. It cannot fail with these numbers, and the process
        // is only larger if it did.
        let _ = set(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        let _ = set(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
    }
}
