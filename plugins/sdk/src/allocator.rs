//! Memory for a single call.
//!
//! An instance serves one call and is dropped with all its memory, so freeing buys nothing and
//! bookkeeping only costs: a small mapper took 17 µs a call with the allocator of libc, and 12 µs with
//! this one. What costs most is growing, hence the room that is there from the start: zeroes in the
//! plugin's data, which take no place in the file and are mapped, not copied, into an instance.
//!
//! There must not be a second allocator beside it: with the standard library, libc frees what the host
//! allocated (environment, folder listings) through Rust's allocator. So libc gets this one as well.

#![allow(unsafe_code, reason = "an allocator hands out raw memory; nothing else in the SDK does")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr;

/// Hands out memory front to back. The newest block can be resized in place and given back, which
/// covers a string or a list under construction; all other memory lives until the call ends.
pub(crate) struct BumpAllocator {
    next: Cell<*mut u8>,
    end: Cell<*mut u8>,
}

// A component has a single thread.
unsafe impl Sync for BumpAllocator {}

impl BumpAllocator {
    /// # Safety
    ///
    /// The bytes belong to this allocator alone, as long as it or anything it handed out lives.
    const unsafe fn over(start: *mut u8, size: usize) -> Self {
        Self { next: Cell::new(start), end: Cell::new(start.wrapping_add(size)) }
    }

    /// Takes `size` bytes of what is left, or none where too little is left.
    fn take(&self, size: usize, align: usize) -> Option<*mut u8> {
        let next = self.next.get();
        let padding = next.addr().wrapping_neg() & (align - 1);
        let end = next.addr().checked_add(padding)?.checked_add(size)?;
        if end > self.end.get().addr() {
            return None;
        }
        let block = next.wrapping_add(padding);
        self.next.set(block.wrapping_add(size));
        Some(block)
    }

    /// The same after growing the memory; none where the host refuses to grow it.
    #[cold]
    fn grow_and_take(&self, size: usize, align: usize) -> Option<*mut u8> {
        let memory_end = memory::end();
        // Where the memory ends with ours, what is left is continued, so that the newest block grows
        // in place. What is left of the room, or in front of memory that others grew, is given up.
        let continued = self.end.get() == memory_end;
        let start = if continued { self.next.get() } else { memory_end };
        let needed = start.addr().checked_add(align)?.checked_add(size)? - memory_end.addr();
        let new_end = memory::grow(needed)?;
        self.next.set(start);
        self.end.set(new_end);
        self.take(size, align)
    }
}

unsafe impl GlobalAlloc for BumpAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        self.take(size, align)
            .or_else(|| self.grow_and_take(size, align))
            .unwrap_or(ptr::null_mut())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if block.wrapping_add(layout.size()) == self.next.get() {
            self.next.set(block);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let end = block.wrapping_add(layout.size());
        let newest = end == self.next.get();
        if newest {
            // Given back first, the same place is found again wherever there is space behind it.
            self.next.set(block);
        } else if new_size <= layout.size() {
            return block;
        }
        // SAFETY: the caller vouches for the new size; the alignment has been in use.
        let new_block =
            unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if new_block.is_null() {
            if newest {
                self.next.set(end);
            }
        } else if new_block != block {
            // SAFETY: another place is a place behind the old block or in other memory.
            unsafe { ptr::copy_nonoverlapping(block, new_block, layout.size().min(new_size)) };
        }
        new_block
    }
}

/// The memory of the component.
#[cfg(target_arch = "wasm32")]
mod memory {
    use super::BumpAllocator;
    use core::arch::wasm32::{memory_grow, memory_size};
    use core::cell::UnsafeCell;
    use core::mem::MaybeUninit;
    use core::ptr;

    /// A mapping call uses some 2 KiB. What is not touched costs addresses and, with each instance, a
    /// look at its page table entries: 768 KiB instead of 256 KiB were 0.2 µs a call.
    const ROOM_BYTES: usize = 256 * 1024;

    /// The least by which the memory grows, 1 MiB: each growth is a system call on the host's side. No
    /// doubling, though, for that could reach for more than the limit while less would do.
    const GROWTH_PAGES: usize = 16;

    /// The size that WebAssembly gives a page.
    const PAGE_BYTES: usize = 64 * 1024;

    #[repr(align(16))]
    struct Room(UnsafeCell<MaybeUninit<[u8; ROOM_BYTES]>>);

    // A component has a single thread.
    unsafe impl Sync for Room {}

    static ROOM: Room = Room(UnsafeCell::new(MaybeUninit::uninit()));

    // SAFETY: nothing else refers to the room.
    #[global_allocator]
    pub(super) static ALLOCATOR: BumpAllocator =
        unsafe { BumpAllocator::over(ROOM.0.get().cast(), ROOM_BYTES) };

    pub(super) fn end() -> *mut u8 {
        ptr::with_exposed_provenance_mut(memory_size::<0>() * PAGE_BYTES)
    }

    /// Grows by at least so many bytes and says where the memory ends now.
    pub(super) fn grow(bytes: usize) -> Option<*mut u8> {
        let pages = bytes.div_ceil(PAGE_BYTES).max(GROWTH_PAGES);
        // Refused growth is told by the largest number.
        (memory_grow::<0>(pages) != usize::MAX).then(end)
    }
}

/// Natively, in tests, there is nothing to grow.
#[cfg(not(target_arch = "wasm32"))]
mod memory {
    pub(super) fn end() -> *mut u8 {
        core::ptr::null_mut()
    }

    pub(super) fn grow(_bytes: usize) -> Option<*mut u8> {
        None
    }
}

/// The allocator by its names in C. All of them, since libc brings its own allocator as soon as it
/// misses one, and then the linker complains of the others.
#[cfg(target_arch = "wasm32")]
mod c {
    use super::memory::{ALLOCATOR, end};
    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr;

    /// What C promises for any block.
    const ALIGN: usize = 16;

    #[unsafe(no_mangle)]
    extern "C" fn malloc(size: usize) -> *mut u8 {
        aligned_alloc(ALIGN, size)
    }

    #[unsafe(no_mangle)]
    extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut u8 {
        match Layout::from_size_align(size, align) {
            // SAFETY: this allocator does not mind a size of zero.
            Ok(layout) => unsafe { ALLOCATOR.alloc(layout) },
            Err(_) => ptr::null_mut(),
        }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(block: *mut *mut u8, align: usize, size: usize) -> i32 {
        const ENOMEM: i32 = 48;
        let found = aligned_alloc(align, size);
        if found.is_null() {
            return ENOMEM;
        }
        unsafe { *block = found };
        0
    }

    #[unsafe(no_mangle)]
    extern "C" fn calloc(count: usize, size: usize) -> *mut u8 {
        let Some(size) = count.checked_mul(size) else {
            return ptr::null_mut();
        };
        let block = malloc(size);
        if !block.is_null() {
            // SAFETY: the block is that large.
            unsafe { block.write_bytes(0, size) };
        }
        block
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(old: *mut u8, size: usize) -> *mut u8 {
        let block = malloc(size);
        if !old.is_null() && !block.is_null() {
            // C does not say how large the old block was. What lies behind it is copied along, which
            // does no harm as long as it is memory.
            let readable = end().addr() - old.addr();
            unsafe { ptr::copy(old, block, size.min(readable)) };
        }
        block
    }

    #[unsafe(no_mangle)]
    extern "C" fn free(_block: *mut u8) {}

    #[unsafe(no_mangle)]
    extern "C" fn __libc_malloc(size: usize) -> *mut u8 {
        malloc(size)
    }

    #[unsafe(no_mangle)]
    extern "C" fn __libc_calloc(count: usize, size: usize) -> *mut u8 {
        calloc(count, size)
    }

    #[unsafe(no_mangle)]
    extern "C" fn __libc_free(_block: *mut u8) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a check with an allocator over 64 bytes that start aligned to 16.
    fn with_64_bytes(check: impl FnOnce(&BumpAllocator, *mut u8)) {
        #[repr(align(16))]
        struct Room([u8; 64]);
        let mut room = Room([0; 64]);
        let start = room.0.as_mut_ptr();
        check(&unsafe { BumpAllocator::over(start, 64) }, start);
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_follow_each_other_aligned() {
        with_64_bytes(|allocator, start| unsafe {
            assert_eq!(allocator.alloc(layout(3, 1)), start);
            assert_eq!(allocator.alloc(layout(8, 8)), start.add(8));
            assert_eq!(allocator.alloc(layout(48, 1)), start.add(16));
            assert!(allocator.alloc(layout(1, 1)).is_null());
        });
    }

    #[test]
    fn the_newest_block_grows_and_shrinks_in_place() {
        with_64_bytes(|allocator, start| unsafe {
            let block = allocator.alloc(layout(4, 1));
            assert_eq!(allocator.realloc(block, layout(4, 1), 60), start);
            assert_eq!(allocator.realloc(block, layout(60, 1), 8), start);
            assert_eq!(allocator.alloc(layout(8, 8)), start.add(8));
        });
    }

    #[test]
    fn an_older_block_moves_with_its_bytes() {
        with_64_bytes(|allocator, start| unsafe {
            let older = allocator.alloc(layout(4, 1));
            older.copy_from(b"abcd".as_ptr(), 4);
            allocator.alloc(layout(4, 1));
            let moved = allocator.realloc(older, layout(4, 1), 8);
            assert_eq!(moved, start.add(8));
            assert_eq!(core::slice::from_raw_parts(moved, 4), b"abcd");
        });
    }

    #[test]
    fn a_refused_growth_leaves_the_block_alone() {
        with_64_bytes(|allocator, start| unsafe {
            let block = allocator.alloc(layout(4, 1));
            assert!(allocator.realloc(block, layout(4, 1), 100).is_null());
            assert!(allocator.alloc(layout(usize::MAX >> 1, 1)).is_null());
            assert_eq!(allocator.alloc(layout(1, 1)), start.add(4));
        });
    }

    #[test]
    fn the_newest_block_can_be_given_back() {
        with_64_bytes(|allocator, start| unsafe {
            let block = allocator.alloc(layout(64, 1));
            allocator.dealloc(block, layout(64, 1));
            assert_eq!(allocator.alloc(layout(64, 1)), start);
        });
    }
}
