//! The macro [`without_std!`](crate::without_std), for plugins without the standard library.

/// Completes a `#![no_std]` plugin: defines the panic handler, and the function by which the host allocates
/// memory for the values it passes. Such a plugin imports only what it uses, while the standard library
/// always imports a terminal, an environment and an exit.
///
/// Do not call it in a plugin with the standard library, which defines both. Natively it expands to
/// nothing. Write `#![cfg_attr(target_arch = "wasm32", no_std)]`, so that `cargo test` works.
#[macro_export]
macro_rules! without_std {
    () => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            // Functions such as `memcmp` come from libc on this target; nothing else is used from it.
            #[link(name = "c")]
            unsafe extern "C" {}

            // Formatting the panic message would take more code than many plugins have. The host reports
            // a trap, with function names if the plugin is not stripped.
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

/// Allocates memory for the values that the host passes: strings and lists.
///
/// # Safety
///
/// As for `GlobalAlloc::realloc` if `old_size` is not zero; the alignment must be a power of two.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "it is an allocating function of the canonical ABI")]
pub unsafe fn host_realloc(
    old: *mut u8,
    old_size: usize,
    align: usize,
    new_size: usize,
) -> *mut u8 {
    use alloc::alloc::{Layout, alloc, realloc};

    // SAFETY: the host follows the canonical ABI, which requires the same.
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
