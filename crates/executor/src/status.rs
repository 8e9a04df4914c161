//! A page of memory shared with a worker, in which it says what it runs.
//!
//! ```text
//! byte 0..8   the task being run: job in the upper half, number in the lower; all ones for none
//! ```
//!
//! The worker writes it before each task, so that a worker that dies without a word still names the
//! task it died of. The page is a memory file without a name: it is gone with its last user.

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

// SAFETY: the page is only accessed through one atomic, and unmapped by its one owner.
#[allow(unsafe_code)]
unsafe impl Send for StatusPage {}

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
    fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, longer than the word, and lives as long as `self`.
        // Both processes access the word atomically only.
        unsafe { &*self.at }
    }

    #[inline]
    pub(crate) fn set(&self, task: TaskKey) {
        // Relaxed: the word stands alone, and is read only after the writer's death.
        let packed = u64::from(task.job) << 32 | u64::from(task.index);
        self.word().store(packed, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Option<TaskKey> {
        let packed = self.word().load(Ordering::Relaxed);
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
        // SAFETY: mapped by `map` with this length, and no reference from `word` outlives `self`.
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
        other.set(NO_TASK);
        assert_eq!(page.get(), None);
    }
}
