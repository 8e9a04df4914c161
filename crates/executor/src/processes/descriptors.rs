//! The descriptors of the pools of this process, so that a worker forked from it can let go of them.
//!
//! A forked process has every descriptor of its parent, and "close on exec" closes none, as there is no
//! exec. As long as it held the parent's end of another worker's connection, that worker would not see
//! the connection end. So each descriptor of a pool is on a list while it is open, but
//! for the moment in which its worker is being started.

use crate::job::lock;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard};

/// Changed only while the descriptor is open, so that a number on it never means somebody else's file.
/// Locked for moments only, and not while a worker is started: a process that the program itself forks
/// at such a moment finds it locked for ever.
static OPEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// A descriptor that forked workers do not keep.
#[derive(Debug)]
pub struct Descriptor(ManuallyDrop<OwnedFd>);

impl Descriptor {
    /// Puts a descriptor on the list until it is dropped.
    pub fn new(fd: OwnedFd) -> Descriptor {
        hold_list().push(fd.as_raw_fd());
        Descriptor(ManuallyDrop::new(fd))
    }
}

impl Drop for Descriptor {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let mut open = hold_list();
        if let Some(at) = open.iter().position(|&fd| fd == self.0.as_raw_fd()) {
            open.swap_remove(at);
        }
        // Closed while the list is held, or somebody could fork in between.
        // SAFETY: dropped here alone, and not used again.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

impl Deref for Descriptor {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.0
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The list, which stays as it is for as long as it is held.
pub(super) fn hold_list() -> MutexGuard<'static, Vec<RawFd>> {
    lock(&OPEN)
}
