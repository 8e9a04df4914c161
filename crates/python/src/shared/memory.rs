//! The arenas in which this process allocates, and what counts as large.
//!
//! A forked child begins without an arena of its own: it may read and free what it inherited, and that
//! changes nothing for its parent. So blocks are freed in whichever arena they come from.

use manyhands_executor::Adopted;
use manyhands_store::{Arena, Foreign, Place};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// By default buffers of so many bytes travel through shared memory; smaller ones are copied faster than
/// looked up.
const THRESHOLD_DEFAULT: usize = 1 << 16;

static IS_ENABLED: AtomicBool = AtomicBool::new(true);
static THRESHOLD: AtomicUsize = AtomicUsize::new(THRESHOLD_DEFAULT);

/// Whether a buffer of so many bytes travels through shared memory.
#[inline]
pub(crate) fn is_large(n_bytes: usize) -> bool {
    n_bytes >= THRESHOLD.load(Ordering::Relaxed) && IS_ENABLED.load(Ordering::Relaxed)
}

/// From so many bytes on it matters where a task's arrays are made. Shared memory that was not used before
/// takes several times as long to get as ordinary memory, which comes in huge pages, and less is kept of it.
const HUGE_BYTES: usize = 4 << 20;

/// Arrays of [`HUGE_BYTES`] up to so many bytes are made in ordinary memory.
static N_ORDINARY_BYTES_MAX: AtomicUsize = AtomicUsize::new(0);
static N_BYTES_RETURNED: AtomicUsize = AtomicUsize::new(0);

/// A task begins whose largest argument is so large, and so the largest that its function has returned.
///
/// Huge arrays no larger than an argument are taken for intermediate ones, which nobody else will see,
/// unless the function has returned such an array before.
#[inline]
pub(crate) fn begin_task(n_bytes_passed: usize, n_bytes_returned: usize) {
    let is_returned = n_bytes_returned >= HUGE_BYTES;
    let n_ordinary_max = if is_returned { 0 } else { n_bytes_passed };
    N_ORDINARY_BYTES_MAX.store(n_ordinary_max, Ordering::Relaxed);
    N_BYTES_RETURNED.store(0, Ordering::Relaxed);
}

/// The task returns a buffer of so many bytes.
pub(crate) fn note_returned(n_bytes: usize) {
    N_BYTES_RETURNED.fetch_max(n_bytes, Ordering::Relaxed);
}

/// The largest buffer that the task has returned.
pub(crate) fn n_bytes_returned() -> usize {
    N_BYTES_RETURNED.load(Ordering::Relaxed)
}

/// Whether an array of so many bytes is to be made in shared memory.
pub(crate) fn is_to_be_shared(n_bytes: usize) -> bool {
    let is_ordinary =
        n_bytes >= HUGE_BYTES && n_bytes <= N_ORDINARY_BYTES_MAX.load(Ordering::Relaxed);
    is_large(n_bytes) && !is_ordinary
}

pub(crate) fn set_threshold(threshold: Option<usize>) {
    if let Some(threshold) = threshold {
        THRESHOLD.store(threshold.max(1), Ordering::Relaxed);
    }
    IS_ENABLED.store(threshold.is_some(), Ordering::Relaxed);
}

/// An arena, and those that this process inherited from the ones it was forked from.
struct Known {
    arena: Arena,
    foreign: Foreign,
    before: *const Known,
}

/// The present arena. Entries are never freed, so that an allocator may follow the pointers without a
/// lock, which a fork could leave locked for ever; there is one for each fork in this process's past.
static NEWEST: AtomicPtr<Known> = AtomicPtr::new(null_mut());

/// Allocates in this arena from now on, and looks at others' memory through this table.
pub(crate) fn use_memory(arena: Arena, foreign: Foreign) {
    let known = Box::leak(Box::new(Known {
        arena,
        foreign,
        before: NEWEST.load(Ordering::Acquire),
    }));
    NEWEST.store(known, Ordering::Release);
}

#[allow(unsafe_code)]
fn known() -> impl Iterator<Item = &'static Known> {
    let mut next: *const Known = NEWEST.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: null, or an entry that `use_memory` made and leaked before it stored the pointer.
        let known = unsafe { next.as_ref() }?;
        next = known.before;
        Some(known)
    })
}

/// The arena in which this process allocates, if it has one.
pub(crate) fn arena() -> Option<&'static Arena> {
    known().next().map(|known| &known.arena)
}

/// Frees a block of any arena that this process knows; `false` if it is of none.
pub(crate) fn free(at: *const u8) -> bool {
    known().any(|known| known.arena.free(at))
}

/// The capacity of a block of any arena.
pub(crate) fn size(at: *const u8) -> Option<usize> {
    known().find_map(|known| known.arena.size(at))
}

/// Keeps what a forked child writes from reaching its parent.
pub(crate) fn after_fork_in_child() {
    for known in known() {
        known.arena.after_fork_in_child();
        known.foreign.after_fork_in_child();
    }
}

/// How often a buffer was copied into shared memory, and how often that was not needed.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    pub(crate) n_copies: AtomicU64,
    pub(crate) n_bytes_copied: AtomicU64,
    pub(crate) n_copies_avoided: AtomicU64,
    pub(crate) n_bytes_avoided: AtomicU64,
}

pub(crate) static TALLY: Tally = Tally {
    n_copies: AtomicU64::new(0),
    n_bytes_copied: AtomicU64::new(0),
    n_copies_avoided: AtomicU64::new(0),
    n_bytes_avoided: AtomicU64::new(0),
};

impl Tally {
    pub(crate) fn copied(&self, n_bytes: usize) {
        self.n_copies.fetch_add(1, Ordering::Relaxed);
        self.n_bytes_copied
            .fetch_add(n_bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn avoided(&self, n_bytes: usize) {
        self.n_copies_avoided.fetch_add(1, Ordering::Relaxed);
        self.n_bytes_avoided
            .fetch_add(n_bytes as u64, Ordering::Relaxed);
    }
}

/// Workers' memory in which results lie.
static N_RESULT_BYTES: AtomicU64 = AtomicU64::new(0);

pub(crate) fn n_result_bytes() -> u64 {
    N_RESULT_BYTES.load(Ordering::Relaxed)
}

/// The right to a part of a result, counted while it lives.
#[derive(Debug)]
pub(crate) struct Held(Adopted);

impl Held {
    pub(crate) fn new(adopted: Adopted) -> Held {
        N_RESULT_BYTES.fetch_add(adopted.place().n_bytes, Ordering::Relaxed);
        Held(adopted)
    }

    pub(crate) fn place(&self) -> Place {
        self.0.place()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        N_RESULT_BYTES.fetch_sub(self.place().n_bytes, Ordering::Relaxed);
    }
}
