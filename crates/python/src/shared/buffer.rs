//! Shared memory as a Python object with the buffer protocol.

use super::memory::Held;
use manyhands_store::{Lease, PrivateView, SharedView};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::sync::Arc;

/// Memory that a `SharedBuffer` shows.
pub(crate) enum Memory {
    /// Writes stay in this view.
    Private(PrivateView),
    /// Writes reach the memory itself, which this process alone uses; with what keeps it from being reused.
    Shared(SharedView, #[allow(dead_code)] Held),
    /// Of a file: writes stay in this view, and the file keeps the space for as long as it lives.
    OnDisk(PrivateView, #[allow(dead_code)] Held),
    /// A block of this process's own that only its pickler sees: it is filled, and sent.
    Own(Arc<Lease>),
}

/// Writable bytes in shared memory.
#[pyclass(frozen, weakref, module = "manyhands._native")]
pub(crate) struct SharedBuffer {
    memory: Memory,
}

impl SharedBuffer {
    pub(crate) fn new(memory: Memory) -> SharedBuffer {
        SharedBuffer { memory }
    }

    pub(crate) fn at(&self) -> *mut u8 {
        match &self.memory {
            Memory::Private(view) | Memory::OnDisk(view, _) => view.as_ptr(),
            Memory::Shared(view, _) => view.as_ptr(),
            Memory::Own(lease) => lease.as_ptr().cast_mut(),
        }
    }

    pub(crate) fn n_bytes(&self) -> usize {
        match &self.memory {
            Memory::Private(view) | Memory::OnDisk(view, _) => view.len(),
            Memory::Shared(view, _) => view.len(),
            Memory::Own(lease) => lease.place().n_bytes as usize,
        }
    }

    /// Has it keep what it shows, whatever becomes of the memory it came from.
    pub(crate) fn detach(&self) -> std::io::Result<()> {
        match &self.memory {
            Memory::Private(view) => view.detach(),
            Memory::Shared(..) | Memory::OnDisk(..) | Memory::Own(_) => Ok(()),
        }
    }
}

#[pymethods]
impl SharedBuffer {
    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no view to fill"));
        }
        let this = slf.get();
        let (at, n_bytes) = (this.at(), this.n_bytes());
        // SAFETY: the interpreter passes a view to be filled. The memory stays where it is for as long as
        // this object lives, and the view holds a reference to it.
        let code = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), at.cast(), n_bytes as isize, 0, flags)
        };
        match code {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }

    fn __len__(&self) -> usize {
        self.n_bytes()
    }

    fn __repr__(&self) -> String {
        let kind = match self.memory {
            Memory::Private(_) | Memory::OnDisk(..) => "private",
            Memory::Shared(..) => "shared",
            Memory::Own(_) => "own",
        };
        format!("<{kind} view of {} bytes of shared memory>", self.n_bytes())
    }
}
