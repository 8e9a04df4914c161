//! Which process something belongs to.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many times this process's line has been forked, as far as somebody cared.
static N_FORKS: AtomicU32 = AtomicU32::new(0);

/// Tells a process from those forked from it. There, a pool has no threads, its workers are another
/// process's, and its locks may be held for ever: whatever was inherited must be left alone.
///
/// Asked several times for each call, so that the system is not: the C library tells of forks. Who forks past it,
/// by a system call of his own, is not noticed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner(u32);

impl Owner {
    /// This process.
    pub(crate) fn current() -> Owner {
        static HEARS: Once = Once::new();
        HEARS.call_once(hear_of_forks);
        Owner(N_FORKS.load(Ordering::Relaxed))
    }

    /// Whether this process was forked from the owner.
    #[inline]
    pub(crate) fn is_elsewhere(self) -> bool {
        N_FORKS.load(Ordering::Relaxed) != self.0
    }
}

#[allow(unsafe_code)]
fn hear_of_forks() {
    extern "C" fn forked() {
        N_FORKS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler may run where nothing but signal handlers may: it changes one number. It is there for as
    // long as this library, which is never unloaded.
    let refused = unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    // There was no memory for an entry of three pointers. Going on would mean to share locks with a parent.
    assert_eq!(refused, 0, "the C library does not tell of forks");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn a_forked_process_is_elsewhere() {
        let owner = Owner::current();
        assert!(!owner.is_elsewhere());
        // SAFETY: the new process does nothing but look at numbers and leave.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let is_right = owner.is_elsewhere() && !Owner::current().is_elsewhere();
            // SAFETY: ends the process at once, without running anything of its parent's.
            unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child above, and writes to a number of this function.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        assert!(!owner.is_elsewhere());
    }
}
