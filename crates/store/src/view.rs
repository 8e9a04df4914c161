//! Views of places in segments: where the bytes of another process can be read and written.
//!
//! A view hands out an address and no references: who uses it answers for the others who do. Its memory
//! is there until it is dropped, wherever the segment's owner and its descriptors have gone.

use crate::foreign::Part;
use crate::memory_file;
use crate::written;
use rustix::mm::Advice;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// A view of a place in which writes stay: nobody else ever sees them.
#[derive(Debug)]
pub struct PrivateView {
    part: Part,
    n_bytes: usize,
    /// The page faults of the process when none of the pages had been written to.
    n_faults: Option<u64>,
    /// Whether pages may have been written to without a fault that is counted.
    is_detached: AtomicBool,
}

impl PrivateView {
    pub(crate) fn new(part: Part, n_bytes: usize) -> PrivateView {
        let n_faults = written::n_faults(if part.is_listed { n_bytes } else { 0 });
        PrivateView {
            part,
            n_bytes,
            n_faults,
            is_detached: AtomicBool::new(false),
        }
    }

    /// The address of its first byte. Writable.
    pub fn as_ptr(&self) -> *mut u8 {
        self.part.mapping.byte(self.part.offset).as_ptr()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.n_bytes
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.n_bytes == 0
    }

    /// Makes all its memory its own: what becomes of the segment no longer matters to it.
    ///
    /// # Errors
    ///
    /// Where there is no memory for it. The view is then as before.
    pub fn detach(&self) -> io::Result<()> {
        let pages = &self.part.pages;
        if pages.is_empty() {
            return Ok(());
        }
        self.is_detached.store(true, Ordering::Relaxed);
        let at = self.part.mapping.byte(pages.start);
        // SAFETY: the pages are mapped while `self` lives, and the advice changes no contents.
        #[allow(unsafe_code)]
        let done = unsafe { memory_file::advise(at, pages.len(), Advice::LinuxPopulateWrite) };
        match done {
            // Linux before 5.14 does not know the advice.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.touch();
                Ok(())
            }
            other => other,
        }
    }

    /// Writes to each page what stands in it.
    fn touch(&self) {
        let pages = &self.part.pages;
        for offset in pages.clone().step_by(rustix::param::page_size()) {
            let at = self.part.mapping.byte(offset).as_ptr();
            // SAFETY: the byte is mapped while `self` lives, readable and writable.
            #[allow(unsafe_code)]
            let byte = unsafe { AtomicU8::from_ptr(at) };
            let value = byte.load(Ordering::Relaxed);
            // An exchange of a value for itself is a write for the page, and none for anybody who uses
            // the view meanwhile. If it fails, somebody has just written. (An `or` with zero would not
            // do: compilers make a load of it.)
            let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Drop for PrivateView {
    fn drop(&mut self) {
        let pages = &self.part.pages;
        let mut is_clean = true;
        if self.part.is_listed && !self.part.is_inherited() {
            let at = self.part.mapping.byte(pages.start);
            let n_faults = self.n_faults.filter(|_| !*self.is_detached.get_mut());
            // SAFETY: the pages are mapped privately from the segment. The view is gone, and until
            // `end` no other view has these pages.
            #[allow(unsafe_code)]
            let dropped = unsafe { written::drop_written(at, pages.len(), n_faults) };
            is_clean = dropped.is_ok();
        }
        self.part.end(is_clean);
    }
}

/// A view of a place in which writes reach the memory itself.
#[derive(Debug)]
pub struct SharedView {
    part: Part,
    n_bytes: usize,
}

impl SharedView {
    pub(crate) fn new(part: Part, n_bytes: usize) -> SharedView {
        SharedView { part, n_bytes }
    }

    /// The address of its first byte. Writable; who writes answers for everybody who reads.
    pub fn as_ptr(&self) -> *mut u8 {
        self.part.mapping.byte(self.part.offset).as_ptr()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.n_bytes
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.n_bytes == 0
    }
}

impl Drop for SharedView {
    fn drop(&mut self) {
        self.part.end(true);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Arena, ArenaOptions, Foreign};

    #[test]
    #[allow(unsafe_code)]
    fn touching_makes_pages_its_own() {
        let options = ArenaOptions {
            n_warm_bytes_max: 0,
            ..ArenaOptions::default()
        };
        let arena = Arena::new(1, options);
        let lease = arena.copy_in(&[5; 100_000]).expect("there is memory");
        let place = lease.place();
        let foreign = Foreign::new();
        let fd = arena.descriptor(place.segment);
        foreign.adopt(place.segment, fd.expect("it is the arena's"));
        let view = foreign.view_private(place).expect("the segment is known");
        view.touch();
        drop(lease);
        // SAFETY: nobody writes to the view.
        let bytes = unsafe { std::slice::from_raw_parts(view.as_ptr(), view.len()) };
        assert!(bytes.iter().all(|&byte| byte == 5));
    }
}
