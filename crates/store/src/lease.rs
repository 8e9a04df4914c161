//! A claim on a range of a block: while there is one, the block is not reused.

use crate::arena::Inner;
use crate::place::Place;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

/// Keeps the block in which its range lies from being reused, until dropped, or given away and
/// released. A clone is one more.
#[derive(Debug)]
pub struct Lease {
    arena: Arc<Inner>,
    place: Place,
    /// The first page of the block.
    page: u32,
    at: NonNull<u8>,
}

// SAFETY: a lease is a place and its address; the arena does its own locking.
#[allow(unsafe_code)]
unsafe impl Send for Lease {}
// SAFETY: as above; `as_slice` is unsafe and its caller answers for other threads.
#[allow(unsafe_code)]
unsafe impl Sync for Lease {}

impl Lease {
    /// The caller has counted this lease in the block, which starts at `page`.
    pub(crate) fn new(arena: Arc<Inner>, place: Place, page: u32, at: NonNull<u8>) -> Lease {
        Lease {
            arena,
            place,
            page,
            at,
        }
    }

    /// The range, for those who view it.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The address of the range in this process.
    pub fn as_ptr(&self) -> *const u8 {
        self.at.as_ptr()
    }

    /// The bytes of the range.
    ///
    /// # Safety
    ///
    /// Nobody writes to the range while the slice lives: neither who allocated the block and has not
    /// freed it, nor a shared view elsewhere.
    #[allow(unsafe_code)]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the range lies in a block of a segment that lives as long as the arena, and the
        // block is not reused while the lease lives. That nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.place.n_bytes as usize) }
    }

    /// Whether the block has been freed by who allocated it: nobody in this process can write to it
    /// any more. What [`Arena::copy_in`](crate::Arena::copy_in) made is so from the start.
    pub fn is_freed(&self) -> bool {
        self.arena.is_freed(self.place.segment.serial(), self.page)
    }

    /// Ends this value but not the lease: [`Arena::release`](crate::Arena::release) does, with the
    /// place, from wherever it has been sent.
    pub fn give_away(self) -> Place {
        let mut lease = ManuallyDrop::new(self);
        // SAFETY: `lease` is not dropped and not used again, so its arena is dropped here alone.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::drop_in_place(&mut lease.arena);
        }
        lease.place
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        self.arena
            .lease_again(self.place.segment.serial(), self.page);
        Lease {
            arena: Arc::clone(&self.arena),
            ..*self
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.arena.end_lease(self.place.segment.serial(), self.page);
    }
}
