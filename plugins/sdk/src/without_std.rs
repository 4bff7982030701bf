//! What a plugin needs that does without the standard library.

/// Makes a plugin that is `#![no_std]` complete: a panic handler, and the function through which the
/// host allocates what it hands over. Such a plugin imports nothing but what it uses itself, while the
/// standard library always imports a terminal, an environment and an exit.
///
/// Not for plugins that use the standard library, which brings both. Natively it expands to nothing;
/// say `#![cfg_attr(target_arch = "wasm32", no_std)]`, so that `cargo test` works.
#[macro_export]
macro_rules! without_std {
    () => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            // `memcmp` and its like come from libc on this target; nothing else is taken from it.
            #[link(name = "c")]
            unsafe extern "C" {}

            // Formatting the panic would cost more code than many plugins have. The host reports a
            // trap, with the names of the functions where the plugin was not stripped.
            #[panic_handler]
            fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
                ::core::arch::wasm32::unreachable()
            }

            #[unsafe(export_name = "cabi_realloc")]
            unsafe extern "C" fn cabi_realloc(
                old: *mut u8,
                old_size: usize,
                align: usize,
                new_size: usize,
            ) -> *mut u8 {
                unsafe { $crate::without_std::host_realloc(old, old_size, align, new_size) }
            }
        };
    };
}

/// Places what the host hands over: strings and lists.
///
/// # Safety
///
/// As for `GlobalAlloc::realloc`, where `old_size` is not zero; the alignment is a power of two.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "it is an allocating function of the canonical ABI")]
pub unsafe fn host_realloc(
    old: *mut u8,
    old_size: usize,
    align: usize,
    new_size: usize,
) -> *mut u8 {
    use alloc::alloc::{Layout, alloc, realloc};

    // SAFETY: the host keeps to the canonical ABI, which asks for the same.
    let block = unsafe {
        if old_size != 0 {
            realloc(old, Layout::from_size_align_unchecked(old_size, align), new_size)
        } else if new_size != 0 {
            alloc(Layout::from_size_align_unchecked(new_size, align))
        } else {
            core::ptr::without_provenance_mut(align)
        }
    };
    if block.is_null() {
        core::arch::wasm32::unreachable();
    }
    block
}
