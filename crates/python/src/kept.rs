//! Python objects in what the engine's own threads may be the last to let go of.
//!
//! Such a thread is not attached to the interpreter. The binding puts what is dropped there on a list of its
//! own, for whoever next calls this module, which may be nobody; and it locks that list, so that a process
//! forked at this moment waits for a thread that it does not have. Here the list has no lock: a thing is on it
//! or not, at every instant. And the main thread is asked to see to it.

use pyo3::ffi;
use pyo3::prelude::*;
use std::any::Any;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Something with Python objects in it, which may be dropped in any thread.
pub(crate) struct Kept<T: Send + 'static>(ManuallyDrop<T>);

impl<T: Send + 'static> Kept<T> {
    pub(crate) fn new(value: T) -> Kept<T> {
        Kept(ManuallyDrop::new(value))
    }
}

impl<T: Send + 'static> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + 'static> Drop for Kept<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: nobody else takes the value, and it is not looked at again after this.
        let value = unsafe { ManuallyDrop::take(&mut self.0) };
        // SAFETY: both may be called by any thread, attached or not.
        let (is_attached, is_there) =
            unsafe { (ffi::PyGILState_Check() != 0, ffi::Py_IsInitialized() != 0) };
        match (is_attached, is_there) {
            (true, _) => drop(value),
            (false, true) => put_off(Box::new(value)),
            // It goes with the process.
            (false, false) => std::mem::forget(value),
        }
    }
}

/// What is to be dropped by a thread that is attached, newest first.
static PUT_OFF: AtomicPtr<Entry> = AtomicPtr::new(null_mut());
/// The process whose main thread has been asked to drop it, and has not come to it yet.
static ASKED: AtomicU32 = AtomicU32::new(0);

struct Entry {
    value: Box<dyn Any + Send>,
    /// The process that put it here: in one that was forked since, it is not to be dropped.
    process: u32,
    next: *mut Entry,
}

#[allow(unsafe_code)]
fn put_off(value: Box<dyn Any + Send>) {
    let process = std::process::id();
    let entry = Box::into_raw(Box::new(Entry {
        value,
        process,
        next: PUT_OFF.load(Ordering::Relaxed),
    }));
    // SAFETY: the entry was made above, and is this thread's alone until the exchange has put it on the list.
    // Entries are only taken all at once, so the one below it cannot be replaced by another in between.
    while let Err(newest) = unsafe {
        PUT_OFF.compare_exchange_weak((*entry).next, entry, Ordering::Release, Ordering::Relaxed)
    } {
        // SAFETY: as above.
        unsafe { (*entry).next = newest };
    }
    if ASKED.swap(process, Ordering::AcqRel) == process {
        return;
    }
    // SAFETY: may be called by any thread while there is an interpreter. Refused where others ask for too much
    // at once: then whoever puts something off next asks again.
    if unsafe { ffi::Py_AddPendingCall(Some(drop_put_off), null_mut()) } != 0 {
        ASKED.store(0, Ordering::Release);
    }
}

/// Called by the main thread, which is attached.
extern "C" fn drop_put_off(_: *mut c_void) -> c_int {
    ASKED.store(0, Ordering::Release);
    Python::attach(|_| drop_all());
    0
}

#[allow(unsafe_code)]
fn drop_all() {
    let mut next = PUT_OFF.swap(null_mut(), Ordering::Acquire);
    while !next.is_null() {
        // SAFETY: `put_off` made it from a box, and the exchange above has given it to this thread alone.
        let entry = unsafe { Box::from_raw(next) };
        next = entry.next;
        if entry.process == std::process::id() {
            drop(entry.value);
        } else {
            // Of a process that this one was forked from, which drops it there.
            std::mem::forget(entry.value);
        }
    }
}
