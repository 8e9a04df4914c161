//! A page of memory shared with a worker, in which it says what it runs.
//!
//! ```text
//! byte 0..8    the task being run: job in the upper half, number in the lower; all ones for none
//! byte 8..16   since when, in nanoseconds of the monotonic clock, which all processes share
//! byte 16..24  whether the worker is to say since when; written by the parent
//! ```
//!
//! The worker writes the first before each task, so that a worker that dies without a word still names the
//! task it died of; the second, which takes longer, only where somebody may want to know. The page is a memory file without a name: it is gone with its last user.

use manyhands_wire::{NO_TASK, TaskKey};
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE_BYTES: usize = 4096;

/// The mapped page. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct StatusPage {
    at: *mut AtomicU64,
}

// SAFETY: the page is only accessed through atomics, and unmapped by its one owner.
#[allow(unsafe_code)]
unsafe impl Send for StatusPage {}
// SAFETY: as above: atomics may be shared.
#[allow(unsafe_code)]
unsafe impl Sync for StatusPage {}

/// Now, by the clock that all processes of a machine share.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl StatusPage {
    /// Makes a page and the descriptor to hand to the worker.
    pub(crate) fn create() -> io::Result<(StatusPage, OwnedFd)> {
        let fd = rustix::fs::memfd_create("manyhands-status", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, PAGE_BYTES as u64)?;
        let page = StatusPage::map(&fd)?;
        page.set(NO_TASK);
        Ok((page, fd))
    }

    /// Maps a page that somebody else made.
    #[allow(unsafe_code)]
    pub(crate) fn map(fd: impl AsFd) -> io::Result<StatusPage> {
        if rustix::fs::fstat(&fd)?.st_size < PAGE_BYTES as i64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a new mapping at an address that the kernel chooses overlaps no other memory. It is
        // as long as the file, whose length nobody changes, so every access stays within the file.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )?
        };
        Ok(StatusPage { at: at.cast() })
    }

    #[allow(unsafe_code)]
    fn words(&self) -> &[AtomicU64; 3] {
        // SAFETY: the mapping is page-aligned, longer than the words, and lives as long as `self`.
        // Both processes access the words atomically only.
        unsafe { &*self.at.cast() }
    }

    /// Says that no task is being run, or which.
    #[inline]
    pub(crate) fn set(&self, task: TaskKey) {
        let [word, since, is_timed] = self.words();
        // Relaxed: the parent has written this before it sent any task that it matters for.
        if is_timed.load(Ordering::Relaxed) != 0 {
            since.store(monotonic_ns(), Ordering::Relaxed);
        }
        let packed = u64::from(task.job) << 32 | u64::from(task.index);
        // SYNC POINT: whoever reads this task reads the moment stored before, or a later one.
        word.store(packed, Ordering::Release);
    }

    /// Has the worker say from now on since when it runs a task.
    pub(crate) fn ask_since(&self) {
        self.words()[2].store(1, Ordering::Relaxed);
    }

    /// The task that is being run and since when, where the worker was asked to say so. The moment may be
    /// that of a later task, never that of an earlier one.
    pub(crate) fn get_since(&self) -> Option<(TaskKey, u64)> {
        let task = self.get()?;
        Some((task, self.words()[1].load(Ordering::Relaxed)))
    }

    pub(crate) fn get(&self) -> Option<TaskKey> {
        let packed = self.words()[0].load(Ordering::Acquire);
        let task = TaskKey {
            job: (packed >> 32) as u32,
            index: packed as u32,
        };
        (task != NO_TASK).then_some(task)
    }
}

impl Drop for StatusPage {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference from `words` outlives `self`.
        // Failing would leak a page and nothing else.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_see_the_same_word() {
        let (page, fd) = StatusPage::create().expect("memory files work here");
        let other = StatusPage::map(&fd).expect("it was just made");
        assert_eq!(other.get(), None);
        let task = TaskKey { job: 7, index: 9 };
        other.set(task);
        assert_eq!(page.get(), Some(task));
        assert_eq!(page.get_since(), Some((task, 0)), "nobody asked since when");
        page.ask_since();
        let before_ns = monotonic_ns();
        other.set(task);
        let since_ns = page.get_since().map(|(_, since_ns)| since_ns);
        assert!(since_ns.is_some_and(|since_ns| (before_ns..=monotonic_ns()).contains(&since_ns)));
        other.set(NO_TASK);
        assert_eq!(page.get(), None);
        assert_eq!(page.get_since(), None);
    }
}
