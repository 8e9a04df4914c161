//! Memory shared with a worker, in which it says what it runs, and how it crashed.
//!
//! ```text
//! byte 0..8     the task being run: job in the upper half, number in the lower; all ones for none
//! byte 8..16    since when, in nanoseconds of the monotonic clock, which all processes share
//! byte 16..24   whether the worker is to say since when; written by the parent
//! byte 4096..   text: what the worker's fault handler wrote, up to the first zero byte or the end
//! ```
//!
//! The worker writes the first before each task, so that a worker that dies without a word still names the
//! task it died of; the second, which takes longer, only where somebody may want to know. A fault handler
//! writes through a descriptor of the file, from byte 4096 on. It is a memory file without a name, gone
//! with its last user, and its length is sealed.

use manyhands_wire::{NO_TASK, TaskKey};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const PAGE_BYTES: usize = 4096;
/// Enough for the stacks of a hundred threads.
const FILE_BYTES: usize = 1 << 16;

/// The mapped memory. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct StatusPage {
    at: *mut AtomicU64,
}

// SAFETY: the memory is only accessed through atomics, and unmapped by its one owner.
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
    /// Makes the memory and the descriptor to hand to the worker.
    pub(crate) fn create() -> io::Result<(StatusPage, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("manyhands-status", flags)?;
        rustix::fs::ftruncate(&fd, FILE_BYTES as u64)?;
        // The worker keeps the descriptor, and whatever a task does with it must not take memory away that
        // is mapped here, nor make the file grow.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals)?;
        rustix::fs::seek(&fd, SeekFrom::Start(PAGE_BYTES as u64))?;
        let page = StatusPage::map(&fd)?;
        page.set(NO_TASK);
        Ok((page, fd))
    }

    /// Maps memory that somebody else made.
    #[allow(unsafe_code)]
    pub(crate) fn map(fd: impl AsFd) -> io::Result<StatusPage> {
        let is_long = rustix::fs::fstat(&fd)?.st_size >= FILE_BYTES as i64;
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        if !is_long || !seals.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a new mapping at an address that the kernel chooses overlaps no other memory. The file is
        // at least as long, and its seal keeps it so, so every access stays within the file.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                FILE_BYTES,
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

    #[allow(unsafe_code)]
    fn report(&self) -> &[AtomicU8] {
        // SAFETY: the part of the mapping behind the first page, which lives as long as `self`. This
        // process accesses it atomically only; what another writes through the file, the kernel writes.
        unsafe {
            let start = self.at.cast::<AtomicU8>().add(PAGE_BYTES);
            std::slice::from_raw_parts(start, FILE_BYTES - PAGE_BYTES)
        }
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

    /// What the worker's fault handler has written.
    pub(crate) fn text(&self) -> String {
        let bytes = self
            .report()
            .iter()
            .map(|byte| byte.load(Ordering::Relaxed));
        let written: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&written).into_owned()
    }

    /// How much that is.
    pub(crate) fn n_bytes_of_text(&self) -> usize {
        // What is written is text and has no zero in it.
        (self.report()).partition_point(|byte| byte.load(Ordering::Relaxed) != 0)
    }
}

impl Drop for StatusPage {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference from `words` or `report` outlives
        // `self`. Failing would leak the memory and nothing else.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), FILE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

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

    #[test]
    fn what_is_written_to_the_descriptor_is_read_behind_the_word() {
        let (page, fd) = StatusPage::create().expect("memory files work here");
        assert_eq!((page.text().as_str(), page.n_bytes_of_text()), ("", 0));
        for piece in ["Fatal error: ", "one\n"] {
            rustix::io::write(&fd, piece.as_bytes()).expect("there is room");
        }
        assert_eq!(page.text(), "Fatal error: one\n");
        assert_eq!(page.n_bytes_of_text(), 17);
        assert_eq!(page.get(), None);
    }

    #[test]
    fn whoever_has_the_descriptor_can_neither_shorten_nor_fill_the_memory() {
        let (page, fd) = StatusPage::create().expect("memory files work here");
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
        let line = [b'x'; 1000];
        while rustix::io::write(&fd, &line).is_ok_and(|n_bytes| n_bytes == line.len()) {}
        assert_eq!(page.text().len(), FILE_BYTES - PAGE_BYTES);
        assert_eq!(page.get(), None);
    }
}
