//! A mapping of a memory file, unmapped when dropped.
//!
//! A mapping hands out no references: those who use its address say why they may.
//!
//! Shared mappings stand in a table of the process, so that a forked child can make them its own without
//! a lock: any lock may be held by a thread that the child does not have.

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// Whether what is written to a mapping reaches the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    Shared,
    Private,
}

#[derive(Debug)]
pub(crate) struct Mapping {
    at: NonNull<u8>,
    n_bytes: usize,
    entry: Option<Entry>,
}

// SAFETY: a mapping is an address and a length; it gives no access to what lies there.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `n_bytes` of the file from `offset`, which is a multiple of the page size.
    pub(crate) fn new(
        fd: &Arc<OwnedFd>,
        offset: u64,
        n_bytes: usize,
        writes: Writes,
    ) -> io::Result<Mapping> {
        let flags = match writes {
            Writes::Shared => MapFlags::SHARED,
            Writes::Private => MapFlags::PRIVATE,
        };
        let at = map_anywhere(fd, offset, n_bytes, flags)?;
        let mut mapping = Mapping {
            at,
            n_bytes,
            entry: None,
        };
        if writes == Writes::Shared {
            // Not to be had: the mapping goes again.
            mapping.entry = Some(Entry::new(&mapping, fd, offset)?);
        }
        Ok(mapping)
    }

    pub(crate) fn at(&self) -> NonNull<u8> {
        self.at
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The address of the byte at `offset`.
    #[allow(unsafe_code)]
    pub(crate) fn byte(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.n_bytes, "{offset} lies outside {self:?}");
        // SAFETY: the mapping is that long.
        unsafe { self.at.add(offset) }
    }
}

#[allow(unsafe_code)]
fn map_anywhere(
    fd: &Arc<OwnedFd>,
    offset: u64,
    n_bytes: usize,
    flags: MapFlags,
) -> io::Result<NonNull<u8>> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = flags | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address that the kernel chooses overlaps no other memory.
    let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), n_bytes, prot, flags, fd, offset)? };
    NonNull::new(at.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // Its entry goes first: it must never name memory that is somebody else's.
        self.entry = None;
        // SAFETY: mapped by `new` with this length; whoever uses an address in it keeps it alive.
        // Failing would leak address space and nothing else.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.n_bytes) };
    }
}

/// Shared mappings alive at once. Each is a segment, so this is beyond what descriptors allow.
const N_ENTRIES: usize = 8192;

/// `start` says what an entry is: free, being filled, no longer shared, or else the address.
const FREE: usize = 0;
const FILLING: usize = 1;
const PRIVATE: usize = 2;

struct EntryData {
    start: AtomicUsize,
    n_bytes: AtomicUsize,
    offset: AtomicU64,
    fd: AtomicI32,
}

static TABLE: [EntryData; N_ENTRIES] = [const {
    EntryData {
        start: AtomicUsize::new(FREE),
        n_bytes: AtomicUsize::new(0),
        offset: AtomicU64::new(0),
        fd: AtomicI32::new(-1),
    }
}; N_ENTRIES];

/// Entries at and after this one have never been used.
static N_USED: AtomicUsize = AtomicUsize::new(0);

/// A claim on an entry of the table, and on the descriptor that it names.
#[derive(Debug)]
struct Entry {
    index: usize,
    _fd: Arc<OwnedFd>,
}

impl Entry {
    fn new(mapping: &Mapping, fd: &Arc<OwnedFd>, offset: u64) -> io::Result<Entry> {
        let is_taken = |data: &EntryData| {
            data.start
                .compare_exchange(FREE, FILLING, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        let Some(index) = TABLE.iter().position(is_taken) else {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("there are {N_ENTRIES} shared mappings already"),
            ));
        };
        N_USED.fetch_max(index + 1, Ordering::Relaxed);
        let data = &TABLE[index];
        data.n_bytes.store(mapping.n_bytes, Ordering::Relaxed);
        data.offset.store(offset, Ordering::Relaxed);
        data.fd.store(fd.as_raw_fd(), Ordering::Relaxed);
        // SYNC POINT: with the child's walk. It sees an address only with the rest of its entry.
        data.start
            .store(mapping.at.as_ptr() as usize, Ordering::Release);
        Ok(Entry {
            index,
            _fd: Arc::clone(fd),
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        TABLE[self.index].start.store(FREE, Ordering::Release);
    }
}

/// In a forked child: from here on, what it writes to any shared mapping stays in the child. Once is
/// enough; later calls find nothing to do.
#[allow(unsafe_code)]
pub(crate) fn keep_writes_here() {
    for data in &TABLE[..N_USED.load(Ordering::Relaxed)] {
        let start = data.start.load(Ordering::Acquire);
        if start <= PRIVATE {
            continue;
        }
        let at = std::ptr::with_exposed_provenance_mut(start);
        let n_bytes = data.n_bytes.load(Ordering::Relaxed);
        let offset = data.offset.load(Ordering::Relaxed);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: an entry with an address names a mapping that is alive and a descriptor that it
        // keeps open. Replacing it by the same pages of the same file changes no contents.
        let done = unsafe {
            let fd = BorrowedFd::borrow_raw(data.fd.load(Ordering::Relaxed));
            rustix::mm::mmap(at, n_bytes, prot, flags, fd, offset)
        };
        if done.is_err() {
            // A child that dies of a write is better than one that changes its parent's data.
            // SAFETY: the same pages; reading stays possible.
            let _ = unsafe { rustix::mm::mprotect(at, n_bytes, MprotectFlags::READ) };
        }
        data.start.store(PRIVATE, Ordering::Release);
    }
}
