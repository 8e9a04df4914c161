//! Copies bytes into a new block, the fastest way for the state its pages are in.
//!
//! Pages without memory are best written to the file: that spares the page fault, and the zeros that the
//! kernel would put into them first. The file takes one writer at a time, so where there are more
//! threads, the others go through the mapping. Pages with memory are best written through the mapping.
//! docs/decisions/0003-shared-memory.md has the figures.

use crate::memory_file;
use crate::threads;
use rustix::fd::OwnedFd;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one thread copies at a time.
const PART_BYTES: usize = 1 << 20;

/// What the pages of a block are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Most have no memory yet.
    Fresh,
    /// They have memory, but the mapping does not know it yet.
    Unmapped,
    /// They have memory and are mapped.
    Mapped,
}

/// Where to copy to: a block that nobody else knows yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) fd: &'a OwnedFd,
    pub(crate) offset: u64,
    pub(crate) at: NonNull<u8>,
    pub(crate) pages: Pages,
}

// SAFETY: its address is only written to in `copy`, and there by one thread for each part.
#[allow(unsafe_code)]
unsafe impl Sync for Block<'_> {}

/// Copies `bytes` to the start of the block.
///
/// # Safety
///
/// The block is at least as long as `bytes`, its address is where `fd` is mapped from `offset` on, and
/// nobody else uses it.
#[allow(unsafe_code)]
pub(crate) unsafe fn copy(block: Block<'_>, bytes: &[u8]) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = |may_write: bool| {
        loop {
            let start = next.fetch_add(PART_BYTES, Ordering::Relaxed);
            if start >= bytes.len() {
                return Ok(());
            }
            let part = &bytes[start..bytes.len().min(start + PART_BYTES)];
            // SAFETY: passed on. The counter gives each part to one thread.
            unsafe { copy_part(&block, start, part, may_write)? };
        }
    };
    let n_threads = threads::for_bytes(bytes.len());
    let mut results = threads::run(n_threads, |number| work(number == 0));
    results.drain(..).collect()
}

/// # Safety
///
/// As for [`copy`], for the part of the block that begins at `start`.
#[allow(unsafe_code)]
unsafe fn copy_part(
    block: &Block<'_>,
    start: usize,
    part: &[u8],
    may_write: bool,
) -> io::Result<()> {
    if block.pages == Pages::Fresh && may_write {
        return memory_file::write(block.fd, block.offset + start as u64, part);
    }
    // SAFETY: the block is that long.
    let at = unsafe { block.at.add(start) };
    if block.pages == Pages::Unmapped {
        // The block ends at the end of a page.
        memory_file::map_all(at, part.len())?;
    }
    // SAFETY: the part is inside the block, which nobody else uses, so it is not where `part` is.
    unsafe { at.copy_from_nonoverlapping(NonNull::from(part).cast(), part.len()) };
    Ok(())
}
