//! Shared memory that comes with a pickle, as buffers to unpickle it with.

use super::buffer::{Memory, SharedBuffer};
use super::memory::Held;
use super::sending::{MARK, ReadPart, read_parts};
use crate::codec::Reader;
use manyhands_executor::worker::exit_now;
use manyhands_executor::{Stock, WorkerStock};
use manyhands_store::Place;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList};
use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Arc;

/// Where the memory of places is looked at.
pub(crate) trait Views {
    /// The memory of a place.
    fn view<'py>(&self, py: Python<'py>, place: Place) -> PyResult<Bound<'py, SharedBuffer>>;

    /// How long the largest is that was looked at.
    fn n_bytes_of_largest(&self) -> usize {
        0
    }

    /// Whether nothing must run that objects have run as they are unpickled: it may have ended a worker.
    fn is_wary(&self) -> bool {
        false
    }
}

/// Where no shared memory comes.
pub(crate) struct NoViews;

impl Views for NoViews {
    fn view<'py>(&self, _: Python<'py>, place: Place) -> PyResult<Bound<'py, SharedBuffer>> {
        Err(PyValueError::new_err(format!(
            "{place:?} was named where there is no shared memory"
        )))
    }
}

/// What one task, or one function, looks at in a worker.
pub(crate) struct WorkerViews<'a> {
    stock: &'a WorkerStock,
    opened: RefCell<Vec<Py<SharedBuffer>>>,
}

impl WorkerViews<'_> {
    pub(crate) fn new(stock: &WorkerStock) -> WorkerViews<'_> {
        WorkerViews {
            stock,
            opened: RefCell::default(),
        }
    }

    /// All that was looked at.
    pub(crate) fn opened(self) -> Vec<Py<SharedBuffer>> {
        self.opened.into_inner()
    }
}

impl Views for WorkerViews<'_> {
    fn view<'py>(&self, py: Python<'py>, place: Place) -> PyResult<Bound<'py, SharedBuffer>> {
        // What this worker has made itself it sees like anybody else: privately.
        let WorkerStock { arena, foreign, .. } = self.stock;
        if let Some(descriptor) = arena.descriptor(place.segment)
            && foreign.descriptor(place.segment).is_none()
        {
            foreign.adopt(place.segment, descriptor);
        }
        let view = foreign.view_private(place);
        let view = view.map_err(|error| cannot_map(place, &error))?;
        let buffer = Bound::new(py, SharedBuffer::new(Memory::Private(view)))?;
        self.opened.borrow_mut().push(buffer.clone().unbind());
        Ok(buffer)
    }

    fn n_bytes_of_largest(&self) -> usize {
        largest(&self.opened.borrow())
    }
}

pub(crate) fn largest(views: &[Py<SharedBuffer>]) -> usize {
    let sizes = views.iter().map(|view| view.get().n_bytes());
    sizes.max().unwrap_or(0)
}

/// Lets go of what a task has looked at. What somebody still refers to must keep its contents, whatever
/// becomes of the memory; where that is not to be had, this worker ends, before anybody reads there what
/// somebody else has written.
pub(crate) fn close(py: Python<'_>, opened: Vec<Py<SharedBuffer>>) {
    for buffer in opened {
        if is_referred_to(buffer.bind(py))
            && let Err(error) = buffer.get().detach()
        {
            let n_bytes = buffer.get().n_bytes();
            end_worker(&format!(
                "A task has kept a reference to its argument, of {n_bytes} bytes, and there is no memory \
                 to keep a copy of it: {error}. The worker ends, as the argument would change under it."
            ));
        }
    }
}

/// Ends this process at once: what it would answer from here on might be wrong.
fn end_worker(text: &str) -> ! {
    // Where nobody listens there is nothing more to do.
    let _ = writeln!(io::stderr(), "manyhands: {text}");
    exit_now(1)
}

/// Whether somebody has a reference to an object besides the caller.
#[allow(unsafe_code)]
fn is_referred_to(object: &Bound<'_, SharedBuffer>) -> bool {
    // SAFETY: an object that the caller has a reference to.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) > 1 }
}

/// A result, in the process that asked for it: its memory is that process's from now on.
pub(crate) struct ResultViews<'a> {
    stock: &'a Stock,
    /// In the order of the places.
    adopted: RefCell<std::vec::IntoIter<Held>>,
}

impl ResultViews<'_> {
    pub(crate) fn new(stock: &Stock, adopted: Vec<Held>) -> ResultViews<'_> {
        ResultViews {
            stock,
            adopted: RefCell::new(adopted.into_iter()),
        }
    }
}

impl Views for ResultViews<'_> {
    fn view<'py>(&self, py: Python<'py>, place: Place) -> PyResult<Bound<'py, SharedBuffer>> {
        let adopted = self.adopted.borrow_mut().next();
        let adopted = adopted.filter(|adopted| adopted.place() == place);
        let adopted = adopted
            .ok_or_else(|| PyValueError::new_err(format!("{place:?} was not taken over")))?;
        let foreign = &self.stock.foreign;
        let memory = match adopted.is_on_disk() {
            // What the program writes to its result is nothing for the disk.
            true => (foreign.view_private(place)).map(|view| Memory::OnDisk(view, adopted)),
            false => (foreign.view_shared(place)).map(|view| Memory::Shared(view, adopted)),
        };
        let memory = memory.map_err(|error| cannot_map(place, &error))?;
        Bound::new(py, SharedBuffer::new(memory))
    }
}

/// What this process has sent, looked at again to describe it.
pub(crate) struct OwnViews {
    pub(crate) stock: Arc<Stock>,
    pub(crate) is_wary: bool,
}

impl Views for OwnViews {
    fn view<'py>(&self, py: Python<'py>, place: Place) -> PyResult<Bound<'py, SharedBuffer>> {
        let foreign = &self.stock.foreign;
        if foreign.descriptor(place.segment).is_none()
            && let Some(descriptor) = self.stock.descriptor(place.segment)
        {
            foreign.adopt(place.segment, descriptor);
        }
        let view = foreign.view_private(place);
        let view = view.map_err(|error| cannot_map(place, &error))?;
        Bound::new(py, SharedBuffer::new(Memory::Private(view)))
    }

    fn is_wary(&self) -> bool {
        self.is_wary
    }
}

fn cannot_map(place: Place, error: &io::Error) -> PyErr {
    PyMemoryError::new_err(format!(
        "{} bytes of shared memory cannot be mapped: {error}",
        place.n_bytes
    ))
}

/// Whether shared memory comes with a pickle.
pub(crate) fn is_marked(framed: &[u8]) -> bool {
    framed.first() == Some(&MARK)
}

/// The buffers that come with a marked pickle, and the pickle.
pub(crate) fn open<'a, 'py>(
    py: Python<'py>,
    framed: &'a [u8],
    views: &dyn Views,
) -> PyResult<(Bound<'py, PyList>, &'a [u8])> {
    let mut reader = Reader::new(framed);
    let buffers = PyList::empty(py);
    for part in read_parts(&mut reader)? {
        match part {
            ReadPart::Place { place, .. } => buffers.append(views.view(py, place)?)?,
            ReadPart::Inline(bytes) => buffers.append(PyByteArray::new(py, bytes))?,
        }
    }
    Ok((buffers, reader.rest()))
}
