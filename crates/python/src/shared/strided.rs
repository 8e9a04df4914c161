//! Parts of NumPy's arrays that lie apart from each other: every other row, some of the columns.
//!
//! NumPy has only arrays in one piece travel apart from a pickle; of others it pickles a copy. Here that
//! copy is made in shared memory, and is what NumPy is asked to pickle. Axes stay in the order in which they
//! lie in memory. In the parent a copy is used again while the array that it is a part of has the same
//! contents between the first and the last byte of the part: that is faster to tell than to copy.
//!
//! Dates have no buffer to offer either, and are sent as integers; nor do PyTorch's storages, which go as arrays.

use super::buffer::{Memory, SharedBuffer};
use super::cache::Range;
use super::memory;
use super::owners::{array_type, owner_of};
use super::sending::Sink;
use crate::interpreter::modules;
use manyhands_store::{Arena, Lease, digest};
use pyo3::exceptions::PyKeyError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use std::cmp::Reverse;
use std::sync::Arc;

/// Of a part whose bytes are spread over more than so many times as many, every copy is a new one: looking
/// at all that lies between takes as long.
const SPREAD_MAX: usize = 8;

/// The kinds of elements that are what their bytes say: booleans, numbers, text and bytes of fixed length,
/// records of these.
const PLAIN_KINDS: &str = "biufcSUV";

/// How to pickle objects, by their types: as was registered, and arrays as this module has it.
#[pyclass(frozen, mapping, module = "manyhands._native")]
pub(crate) struct Reducers {
    sink: Py<Sink>,
    registered: Py<PyAny>,
}

#[pymethods]
impl Reducers {
    #[new]
    pub(crate) fn new(sink: Py<Sink>, registered: Py<PyAny>) -> Reducers {
        Reducers { sink, registered }
    }

    fn __getitem__<'py>(&self, kind: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = kind.py();
        let registered = self.registered.bind(py);
        let found = match registered.cast_exact::<PyDict>() {
            Ok(registered) => registered.get_item(kind)?,
            Err(_) => match registered.get_item(kind) {
                Err(error) if error.is_instance_of::<PyKeyError>(py) => None,
                found => Some(found?),
            },
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if array_type(py)?.is_some_and(|array_type| kind.is(array_type)) {
            return self.sink.bind(py).getattr(intern!(py, "reduce_array"));
        }
        if storage_type(py)?.is_some_and(|storage_type| kind.is(storage_type)) {
            let tensors = py.import(intern!(py, "manyhands._tensors"))?;
            return tensors.getattr(intern!(py, "reduce_storage"));
        }
        Err(nothing_found(py))
    }
}

/// `torch.storage.TypedStorage`, if this program has imported PyTorch.
fn storage_type(py: Python<'_>) -> PyResult<Option<&Bound<'_, PyAny>>> {
    static STORAGE_TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if let Some(storage_type) = STORAGE_TYPE.get(py) {
        return Ok(Some(storage_type.bind(py)));
    }
    let Some(storage) = modules(py)?.get_item(intern!(py, "torch.storage"))? else {
        return Ok(None);
    };
    // Not there yet while the module is being imported.
    let found = storage.getattr_opt(intern!(py, "TypedStorage"))?;
    Ok(found.map(|found| STORAGE_TYPE.get_or_init(py, || found.unbind()).bind(py)))
}

/// The error that the pickler expects for most types, and drops at once: always the same, as making one
/// takes as long as pickling a small object.
fn nothing_found(py: Python<'_>) -> PyErr {
    static NOTHING_FOUND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let error = NOTHING_FOUND.get_or_init(py, || {
        let error = PyKeyError::new_err("no way to pickle this type was registered");
        error.into_value(py).into_any()
    });
    PyErr::from_value(error.bind(py).clone())
}

/// What an array is pickled as.
pub(crate) fn reduce<'py>(sink: &Sink, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match in_one_piece(sink, array)? {
        Some(reduced) => Ok(reduced),
        None => reduced(array),
    }
}

fn reduced<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    array.call_method1(intern!(array.py(), "__reduce_ex__"), (5,))
}

/// What an array is pickled as whose elements lie apart; `None` where NumPy's own way is the better one.
fn in_one_piece<'py>(
    sink: &Sink,
    array: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = array.py();
    let n_bytes = array.getattr(intern!(py, "nbytes"))?.extract()?;
    if !memory::is_large(n_bytes) {
        return Ok(None);
    }
    let dtype = array.getattr(intern!(py, "dtype"))?;
    if is_of_times(&dtype)? {
        return as_numbers(array, dtype).map(Some);
    }
    if is(array, "forc")? || !is_plain(&dtype)? {
        return Ok(None);
    }
    let axes = axes_as_they_lie(array)?;
    let is_in_order = axes.is_sorted();
    let arranged = match is_in_order {
        true => array.clone(),
        false => array.call_method1(intern!(py, "transpose"), (PyTuple::new(py, &axes)?,))?,
    };
    let piece = if is(&arranged, "c_contiguous")? {
        arranged
    } else {
        let source = Source {
            array: &arranged,
            n_bytes,
        };
        match sink.piece_of(&source)? {
            Some(lease) => source.over(lease)?,
            None => return Ok(None),
        }
    };
    if is_in_order {
        return reduced(&piece).map(Some);
    }
    let mut back = vec![0; axes.len()];
    for (at, &axis) in axes.iter().enumerate() {
        back[axis] = at;
    }
    let transpose = py
        .import(intern!(py, "numpy"))?
        .getattr(intern!(py, "transpose"))?;
    let args = (piece, PyTuple::new(py, back)?);
    Ok(Some((transpose, args).into_pyobject(py)?.into_any()))
}

/// Whether an array has a flag.
fn is(array: &Bound<'_, PyAny>, flag: &str) -> PyResult<bool> {
    let flags = array.getattr(intern!(array.py(), "flags"))?;
    flags.getattr(flag)?.is_truthy()
}

fn kind(dtype: &Bound<'_, PyAny>) -> PyResult<String> {
    dtype.getattr(intern!(dtype.py(), "kind"))?.extract()
}

fn is_plain(dtype: &Bound<'_, PyAny>) -> PyResult<bool> {
    let has_objects = dtype.getattr(intern!(dtype.py(), "hasobject"))?;
    Ok(!has_objects.is_truthy()? && PLAIN_KINDS.contains(&kind(dtype)?))
}

fn is_of_times(dtype: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(matches!(kind(dtype)?.as_str(), "m" | "M"))
}

/// Dates and durations as the integers that they are, with what makes them dates again: they do not offer
/// their buffer.
fn as_numbers<'py>(
    array: &Bound<'py, PyAny>,
    dtype: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let view = intern!(py, "view");
    let numbers = array.call_method1(view, (intern!(py, "i8"),))?;
    let back = array.get_type().getattr(view)?;
    Ok((back, (numbers, dtype)).into_pyobject(py)?.into_any())
}

fn strides(array: &Bound<'_, PyAny>) -> PyResult<Vec<isize>> {
    array.getattr(intern!(array.py(), "strides"))?.extract()
}

/// The axes, those with the longest steps first. Where elements lie on top of each other, as they are.
fn axes_as_they_lie(array: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let strides = strides(array)?;
    let mut axes: Vec<_> = (0..strides.len()).collect();
    if !strides.contains(&0) {
        axes.sort_by_key(|&axis| Reverse(strides[axis].unsigned_abs()));
    }
    Ok(axes)
}

/// An array that is to be copied.
pub(crate) struct Source<'a, 'py> {
    array: &'a Bound<'py, PyAny>,
    pub(crate) n_bytes: usize,
}

/// What lies between the first and the last byte of a part of an array.
pub(crate) struct Span<'py> {
    pub(crate) range: Range,
    /// The array that all of it belongs to.
    pub(crate) owner: Bound<'py, PyAny>,
    low: usize,
    n_bytes: usize,
}

impl Span<'_> {
    #[allow(unsafe_code)]
    pub(crate) fn digest(&self) -> u128 {
        // SAFETY: `Source::span` found the range within the memory of the owner, which is alive. This
        // thread is attached and stays so, and others write to arrays only while they are.
        let bytes = unsafe { std::slice::from_raw_parts(self.low as *const u8, self.n_bytes) };
        digest(bytes)
    }
}

impl<'py> Source<'_, 'py> {
    pub(crate) fn py(&self) -> Python<'py> {
        self.array.py()
    }

    /// A new block with the elements in order, held by the lease alone.
    pub(crate) fn copy(&self, arena: &Arena) -> PyResult<Option<Lease>> {
        let py = self.py();
        let Some(at) = arena.allocate(self.n_bytes) else {
            return Ok(None);
        };
        let lease = arena.lease(at.as_ptr(), self.n_bytes);
        arena.free(at.as_ptr());
        let Some(lease) = lease else { return Ok(None) };
        let target = self.array_in(Arc::new(lease.clone()))?;
        py.import(intern!(py, "numpy"))?
            .call_method1(intern!(py, "copyto"), (target, self.array))?;
        Ok(Some(lease))
    }

    /// An array of the same kind in one piece, over a block.
    fn array_in(&self, lease: Arc<Lease>) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py();
        let buffer = Bound::new(py, SharedBuffer::new(Memory::Own(lease)))?;
        let shape = self.array.getattr(intern!(py, "shape"))?;
        let dtype = self.array.getattr(intern!(py, "dtype"))?;
        self.array.get_type().call1((shape, dtype, buffer))
    }

    /// The copy in a block, to be pickled.
    fn over(&self, lease: Arc<Lease>) -> PyResult<Bound<'py, PyAny>> {
        let copy = self.array_in(lease)?;
        if !is(self.array, "writeable")? {
            copy.call_method1(intern!(self.py(), "setflags"), (false,))?;
        }
        Ok(copy)
    }

    /// Where the elements lie; `None` where that is not known, or nobody tells of its end.
    pub(crate) fn span(&self) -> PyResult<Option<Span<'py>>> {
        let py = self.py();
        let Some(owner) = owner_of(self.array)? else {
            return Ok(None);
        };
        let (owner_low, n_owner_bytes) = match owner.cast::<SharedBuffer>() {
            Ok(buffer) => (buffer.get().at() as usize, buffer.get().n_bytes()),
            Err(_) => {
                let n_bytes = owner.getattr(intern!(py, "nbytes"))?.extract()?;
                (address(&owner)?, n_bytes)
            }
        };
        let address = address(self.array)?;
        let shape: Vec<isize> = self.array.getattr(intern!(py, "shape"))?.extract()?;
        let strides = strides(self.array)?;
        let n_item_bytes: isize = self.array.getattr(intern!(py, "itemsize"))?.extract()?;
        let (mut n_before, mut n_after) = (0, n_item_bytes);
        for (&n, &stride) in shape.iter().zip(&strides) {
            let reach = (n - 1) * stride;
            n_before += (-reach).max(0);
            n_after += reach.max(0);
        }
        let (n_before, n_after) = (n_before as usize, n_after as usize);
        let n_bytes = n_before + n_after;
        let is_within =
            address >= owner_low + n_before && address + n_after <= owner_low + n_owner_bytes;
        if !is_within || n_bytes / SPREAD_MAX > self.n_bytes {
            return Ok(None);
        }
        let layout = std::iter::once(n_item_bytes).chain(shape).chain(strides);
        Ok(Some(Span {
            range: Range {
                address,
                n_bytes: self.n_bytes,
                layout: layout.collect(),
            },
            owner,
            low: address - n_before,
            n_bytes,
        }))
    }
}

/// Where the first element of an array lies.
fn address(array: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = array.py();
    let interface = array.getattr(intern!(py, "__array_interface__"))?;
    let data = interface.get_item(intern!(py, "data"))?;
    data.get_item(0)?.extract()
}
