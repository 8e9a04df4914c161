//! The arenas in which this process allocates, and what counts as large.
//!
//! A forked child begins without an arena of its own: it may read and free what it inherited, and that
//! changes nothing for its parent. So blocks are freed in whichever arena they come from.

use manyhands_executor::Adopted;
use manyhands_store::{Arena, Foreign, Memory, Place};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use std::ptr::null_mut;
use std::sync::Arc;
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

/// What lies in no shared memory goes along in a pickle, of which there are so many copies at once, in one
/// process or the other.
const N_COPIES_IN_PICKLES: u64 = 3;

/// Whether a buffer can be in memory at all, before all of it is read to find out whether it is there already:
/// one of a file that is mapped may be larger.
///
/// # Errors
///
/// MemoryError, where it cannot.
pub(crate) fn expect_possible(n_bytes: usize) -> PyResult<()> {
    let memory = (n_bytes >= N_BYTES_POSSIBLE).then(Memory::now).flatten();
    match memory.filter(|memory| n_bytes as u64 > memory.n_bytes) {
        Some(_) => expect_room(n_bytes),
        None => Ok(()),
    }
}

/// No machine has less memory than this.
const N_BYTES_POSSIBLE: usize = 1 << 28;

/// There is no shared memory for a buffer: whether there is memory to have it travel otherwise.
///
/// # Errors
///
/// MemoryError, where trying would only end in the system's killing somebody.
pub(crate) fn expect_room(n_bytes: usize) -> PyResult<()> {
    let memory = (n_bytes >= HUGE_BYTES).then(Memory::now).flatten();
    match memory.and_then(|memory| lack_of_room(n_bytes as u64, memory)) {
        Some(text) => Err(PyMemoryError::new_err(text)),
        None => Ok(()),
    }
}

fn lack_of_room(n_bytes: u64, memory: Memory) -> Option<String> {
    let gib = |n_bytes: u64| n_bytes as f64 / (1u64 << 30) as f64;
    let Memory {
        n_bytes: in_all,
        n_bytes_available: left,
    } = memory;
    (n_bytes.saturating_mul(N_COPIES_IN_PICKLES) > left).then(|| {
        format!(
            "data of {:.1} GiB has to be copied to reach another process, and of {:.1} GiB of memory {:.1} GiB are \
             left. Memory from manyhands.shared needs no copy; nor do the schedulers 'threads' and, for arguments, \
             'fork'.",
            gib(n_bytes),
            gib(in_all),
            gib(left)
        )
    })
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

/// The right to a part of a result; what lies in memory is counted while somebody holds it.
#[derive(Clone, Debug)]
pub(crate) struct Held(Arc<Counted>);

#[derive(Debug)]
struct Counted(Adopted);

impl Held {
    pub(crate) fn new(adopted: Adopted) -> Held {
        if !adopted.is_on_disk() {
            N_RESULT_BYTES.fetch_add(adopted.place().n_bytes, Ordering::Relaxed);
        }
        Held(Arc::new(Counted(adopted)))
    }

    pub(crate) fn adopted(&self) -> &Adopted {
        &self.0.0
    }

    pub(crate) fn place(&self) -> Place {
        self.adopted().place()
    }

    pub(crate) fn is_on_disk(&self) -> bool {
        self.adopted().is_on_disk()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.0.is_on_disk() {
            N_RESULT_BYTES.fetch_sub(self.0.place().n_bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_not_fit_even_once_more_is_refused() {
        let memory = Memory {
            n_bytes: 16 << 30,
            n_bytes_available: 3 << 30,
        };
        assert_eq!(lack_of_room(1 << 30, memory), None);
        let text = lack_of_room((1 << 30) + 1, memory).expect("it has no room");
        assert!(text.starts_with("data of 1.0 GiB has"), "{text}");
        assert!(
            text.contains("of 16.0 GiB of memory 3.0 GiB are left"),
            "{text}"
        );
        assert!(lack_of_room(u64::MAX, memory).is_some());
    }
}
