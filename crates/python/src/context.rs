//! The values of context variables that tasks in threads see: those of whoever called.
//!
//! NumPy's `errstate`, the context of `decimal`, and from Python 3.14 on the filters of warnings live in such
//! variables; a thread begins with none of them.

use crate::kept::Kept;
use pyo3::ffi;
use pyo3::prelude::*;
use std::thread::ThreadId;

/// The variables as they were in a thread at one moment.
pub(crate) struct Context {
    copied: Kept<Py<PyAny>>,
    thread: ThreadId,
}

impl Context {
    /// Those of this thread, as they are now; takes no longer for many of them.
    #[allow(unsafe_code)]
    pub(crate) fn of_caller(py: Python<'_>) -> PyResult<Context> {
        // SAFETY: this thread is attached. What is returned is a new reference, or null with an exception set.
        let copied = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }?;
        Ok(Context {
            copied: Kept::new(copied.unbind()),
            thread: std::thread::current().id(),
        })
    }

    /// Has this thread see them, until what is returned is dropped. Nothing in the thread that they are of, where
    /// tasks may change them as any function may.
    #[allow(unsafe_code)]
    pub(crate) fn enter<'py>(&self, py: Python<'py>) -> PyResult<Option<Entered<'py>>> {
        if std::thread::current().id() == self.thread {
            return Ok(None);
        }
        // Only one thread at a time may be in a context: each has a copy.
        //
        // SAFETY: this thread is attached, and what is copied is a context. What is returned is a new reference,
        // or null with an exception set.
        let own =
            unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_Copy(self.copied.as_ptr())) }?;
        // SAFETY: this thread is attached; it is a context, which no other thread knows.
        if unsafe { ffi::PyContext_Enter(own.as_ptr()) } < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(Some(Entered(own)))
    }
}

/// A context that a thread is in.
pub(crate) struct Entered<'py>(Bound<'py, PyAny>);

impl Drop for Entered<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: `Bound` says that this thread is attached, and cannot leave the thread that has entered.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } < 0 {
            // A task has left another one behind, by way of such calls as these: that is its own affair.
            drop(PyErr::take(self.0.py()));
        }
    }
}
