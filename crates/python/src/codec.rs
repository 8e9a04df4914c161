//! The value codec: one Python object as bytes.
//!
//! The scalars that statistical code passes by the million (None, bool, int, float, str, bytes and
//! tuples of these) have a tag and a fixed layout, so that neither side enters the pickle machinery
//! for them. Only exact types qualify: a subclass may carry state, and goes the way of everything
//! else, as one pickle.
//!
//! | tag | meaning | followed by |
//! |---|---|---|
//! | 0, 1, 2 | None, False, True | nothing |
//! | 3 | int that fits 64 bits | zigzag varint |
//! | 4 | float | 8 bytes, little-endian |
//! | 5, 6 | str (UTF-8), bytes | varint length, the bytes |
//! | 7 | tuple | varint length, that many values |
//! | 8 | any other object | varint length, a pickle |
//!
//! Large buffers in a pickle travel apart from it, through shared memory: [`crate::shared::sending`] says
//! what then stands before the pickle.

use crate::mapped::lock;
use crate::shared::memory;
use crate::shared::receiving::{self, NoViews, Views};
use crate::shared::sending::{Keeps, Part, Sink, write_parts};
use crate::shared::strided::Reducers;
use crate::shared::written::N_BYTES_UNFRAMED_MIN;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyMemoryView, PyString, PyTuple};
use std::sync::Mutex;

const TAG_NONE: u8 = 0;
const TAG_FALSE: u8 = 1;
const TAG_TRUE: u8 = 2;
const TAG_INT: u8 = 3;
const TAG_FLOAT: u8 = 4;
const TAG_STR: u8 = 5;
const TAG_BYTES: u8 = 6;
const TAG_TUPLE: u8 = 7;
const TAG_PICKLE: u8 = 8;
/// The first tag that other formats built on this one may use for their own purposes.
pub(crate) const TAG_FREE: u8 = 9;

/// Tuples nested deeper than this are pickled; decoding refuses them.
const DEPTH_MAX: u32 = 32;

/// Room made for items before they are read: nested counts of corrupt data must not add up.
pub(crate) const N_RESERVED_MAX: usize = 1024;

const PICKLE_PROTOCOL: u8 = 5;

/// A pickler is used again unless it has written more than this: it keeps room for what it has seen.
const N_BYTES_OF_SPARE_MAX: usize = 1 << 12;

/// Turns objects into pickles that another process can load.
///
/// Made for one job. It reads once, when the first object is pickled, which modules exist in this
/// process only; a job should therefore pickle its functions before.
pub(crate) struct Pickler {
    ways: PyOnceLock<Ways>,
    /// Where large buffers go.
    sink: Option<Py<Sink>>,
    keeps: Mutex<Keeps>,
    /// Whether what it pickles goes to the process that a forked worker is a copy of.
    is_of_results: bool,
}

impl Default for Pickler {
    fn default() -> Self {
        Pickler {
            ways: PyOnceLock::new(),
            sink: None,
            keeps: Mutex::default(),
            is_of_results: false,
        }
    }
}

struct Ways {
    dumps: Py<PyAny>,
    pickler_type: Py<PyAny>,
    /// Types that are pickled in a way of their own, as this process has registered them.
    registered: Py<PyAny>,
    /// A pickler that writes to the sink, while nobody uses it.
    spare: Mutex<Option<SinkPickler>>,
    /// Decides anew, slowly, how an object may travel; its errors are the ones to report.
    thorough_dumps: Py<PyAny>,
    /// Whether an object leads to something that only this process has, or a text just says so.
    leads_to_local: Py<PyAny>,
    /// Set when modules are registered to travel by value: plain pickle would send their
    /// functions and classes by name.
    is_always_thorough: bool,
    /// Names of modules that no other process can import.
    local_modules: Vec<Py<PyBytes>>,
}

/// The methods of a pickler that writes to a sink.
struct SinkPickler {
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
}

impl Ways {
    fn find(py: Python<'_>, is_of_results: bool) -> PyResult<Ways> {
        let pickling = py.import(intern!(py, "manyhands._pickling"))?;
        let mut local_modules = vec![PyBytes::new(py, b"__main__").unbind()];
        for name in pickling.call_method0("_local_modules")?.try_iter()? {
            local_modules.push(name?.cast_into::<PyBytes>()?.unbind());
        }
        let pickle = py.import(intern!(py, "_pickle"))?;
        let registered = py.import(intern!(py, "copyreg"))?.getattr("dispatch_table");
        Ok(Ways {
            dumps: pickle.getattr("dumps")?.unbind(),
            pickler_type: pickle.getattr("Pickler")?.unbind(),
            registered: registered?.unbind(),
            spare: Mutex::default(),
            thorough_dumps: pickling
                .getattr(match is_of_results {
                    false => "dumps",
                    true => "dumps_result",
                })?
                .unbind(),
            leads_to_local: pickling.getattr("leads_to_local")?.unbind(),
            is_always_thorough: pickling.call_method0("_by_value_registered")?.is_truthy()?,
            local_modules,
        })
    }

    /// `object` as a pickle.
    ///
    /// Plain pickles that name a module which only this process has, `__main__` first of all, are
    /// thrown away in favour of one that holds the definitions themselves.
    fn dumps<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        sink: Option<&Bound<'py, Sink>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let py = object.py();
        let mut is_known_local = false;
        if !self.is_always_thorough {
            match self.dumps_plain(object, sink) {
                Ok(pickle) => {
                    // Looking takes less than pickling once more.
                    is_known_local = !self.is_portable(&pickle)?
                        && self.leads_to_local.bind(py).call1((object,))?.is_truthy()?;
                    if !is_known_local {
                        return Ok(pickle);
                    }
                }
                // The reason is found again, and reported, by the thorough pickler.
                Err(error) if error.is_instance_of::<PyException>(py) => {}
                Err(error) => return Err(error),
            }
        }
        let thorough_dumps = self.thorough_dumps.bind(py);
        let pickle = thorough_dumps.call1((object, sink, is_known_local))?;
        Ok(pickle.cast_into::<PyBytes>()?)
    }

    fn dumps_plain<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        sink: Option<&Bound<'py, Sink>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let py = object.py();
        let Some(sink) = sink else {
            let pickle = self.dumps.bind(py).call1((object, PICKLE_PROTOCOL))?;
            return Ok(pickle.cast_into::<PyBytes>()?);
        };
        let spare = lock(&self.spare).take();
        let pickler = match spare {
            Some(spare) => spare,
            None => self.new_pickler(sink)?,
        };
        // One that has failed is not used again.
        pickler.dump.bind(py).call1((object,))?;
        let pickle = sink.get().take_pickle(py);
        if pickle.as_bytes().len() <= N_BYTES_OF_SPARE_MAX {
            pickler.clear_memo.bind(py).call0()?;
            let before = lock(&self.spare).replace(pickler);
            drop(before);
        }
        Ok(pickle)
    }

    fn new_pickler(&self, sink: &Bound<'_, Sink>) -> PyResult<SinkPickler> {
        let py = sink.py();
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "buffer_callback"), sink)?;
        let args = (sink, PICKLE_PROTOCOL);
        let pickler = self.pickler_type.bind(py).call(args, Some(&keywords))?;
        let reducers = Reducers::new(sink.clone().unbind(), self.registered.clone_ref(py));
        pickler.setattr(intern!(py, "dispatch_table"), Bound::new(py, reducers)?)?;
        Ok(SinkPickler {
            dump: pickler.getattr(intern!(py, "dump"))?.unbind(),
            clear_memo: pickler.getattr(intern!(py, "clear_memo"))?.unbind(),
        })
    }

    /// Errs on the safe side: text that looks like the name of such a module counts as one.
    fn is_portable(&self, pickle: &Bound<'_, PyBytes>) -> PyResult<bool> {
        const N_BYTES_SEARCHED_HERE_MAX: usize = 256;
        let py = pickle.py();
        let bytes = pickle.as_bytes();
        for name in &self.local_modules {
            let name = name.bind(py);
            let is_named = if bytes.len() <= N_BYTES_SEARCHED_HERE_MAX {
                let name = name.as_bytes();
                !name.is_empty() && bytes.windows(name.len()).any(|window| window == name)
            } else {
                // Python's own search is the faster one where there is much to search.
                pickle.as_any().contains(name)?
            };
            if is_named {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A pickle, and the buffers that travel apart from it.
pub(crate) struct Pickled<'py> {
    pickle: Bound<'py, PyBytes>,
    /// What stands before the pickle.
    head: Vec<u8>,
}

impl Pickled<'_> {
    fn new<'py>(pickle: Bound<'py, PyBytes>, parts: &[Part]) -> Pickled<'py> {
        let mut head = Vec::new();
        write_parts(parts, &mut head);
        Pickled { pickle, head }
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.head.len() + self.pickle.as_bytes().len()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(self.pickle.as_bytes());
    }

    pub(crate) fn write_counted(&self, out: &mut Vec<u8>) {
        write_varint(out, self.n_bytes() as u64);
        self.write(out);
    }
}

impl Pickler {
    /// One that has large buffers travel apart.
    pub(crate) fn with_sink(sink: Py<Sink>) -> Pickler {
        Pickler {
            sink: Some(sink),
            ..Pickler::default()
        }
    }

    /// One for what a worker's tasks return, which has large buffers travel apart if there is a sink.
    pub(crate) fn of_results(sink: Option<Py<Sink>>) -> Pickler {
        Pickler {
            sink,
            is_of_results: true,
            ..Pickler::default()
        }
    }

    /// `object` as a pickle; buffers that travel apart are in the sink.
    fn dumps<'py>(&self, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = object.py();
        let sink = self.sink.as_ref().map(|sink| sink.bind(py));
        if let Some(sink) = sink {
            sink.get().clear();
        }
        self.ways
            .get_or_try_init(py, || Ways::find(py, self.is_of_results))?
            .dumps(object, sink)
    }

    /// `object` as a pickle whose buffers are kept until [`Pickler::take_keeps`].
    ///
    /// # Errors
    ///
    /// What the thorough pickler raises.
    pub(crate) fn pickle<'py>(&self, object: &Bound<'py, PyAny>) -> PyResult<Pickled<'py>> {
        let pickle = self.dumps(object)?;
        let parts = match &self.sink {
            Some(sink) => sink.get().take_kept(&mut lock(&self.keeps)),
            None => Vec::new(),
        };
        Ok(Pickled::new(pickle, &parts))
    }

    /// Whether `object` can be pickled; nothing is kept of it.
    ///
    /// # Errors
    ///
    /// What the thorough pickler raises.
    pub(crate) fn try_out(&self, object: &Bound<'_, PyAny>) -> PyResult<()> {
        let outcome = self.dumps(object).map(drop);
        if let Some(sink) = &self.sink {
            sink.get().clear();
        }
        outcome
    }

    /// What has been pickled since the last call refers to this.
    pub(crate) fn take_keeps(&self) -> Keeps {
        std::mem::take(&mut lock(&self.keeps))
    }

    /// How many bytes have been copied for what has been pickled since [`Pickler::take_keeps`].
    pub(crate) fn n_bytes_copied(&self) -> usize {
        lock(&self.keeps).n_bytes_copied
    }

    /// The caller's code may have run: what it passed before may have changed.
    pub(crate) fn begin_epoch(&self) {
        if let Some(sink) = &self.sink {
            sink.get().begin_epoch();
        }
    }
}

/// The object of a pickle, with the buffers that travel apart from it.
pub(crate) fn loads<'py>(
    py: Python<'py>,
    framed: &[u8],
    views: &dyn Views,
) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static LOAD_WARILY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let loads = match views.is_wary() {
        false => LOADS.import(py, "_pickle", "loads")?,
        true => LOAD_WARILY.import(py, "manyhands._wary", "loads")?,
    };
    if receiving::is_marked(framed) {
        let (buffers, pickle) = receiving::open(py, framed, views)?;
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "buffers"), buffers)?;
        return with_object(py, pickle, |pickle| loads.call((pickle,), Some(&keywords)));
    }
    with_object(py, framed, |pickle| loads.call1((pickle,)))
}

/// Calls `use_it` with an object that shows `bytes`, until it returns: a copy of few, a view of many.
pub(crate) fn with_object<'py, T>(
    py: Python<'py>,
    bytes: &[u8],
    use_it: impl FnOnce(Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<T> {
    const N_BYTES_COPIED_MAX: usize = 1 << 16;
    if bytes.len() <= N_BYTES_COPIED_MAX {
        return use_it(PyBytes::new(py, bytes).into_any());
    }
    let view = borrowed_view(py, bytes)?;
    let outcome = use_it(view.clone());
    view.call_method0(intern!(py, "release"))?;
    outcome
}

/// A read-only memoryview of `bytes`; the caller must release it before `bytes` goes away.
#[allow(unsafe_code)]
fn borrowed_view<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the pointer and the length come from one slice, and `PyBUF_READ` forbids writing.
    // The unpickler copies what it keeps, and `with_object` releases the view while the slice still
    // lives: after that the view answers every use with an error instead of reading memory.
    let view = unsafe {
        let view = ffi::PyMemoryView_FromMemory(
            bytes.as_ptr().cast_mut().cast(),
            bytes.len() as isize,
            ffi::PyBUF_READ,
        );
        Bound::from_owned_ptr_or_err(py, view)?
    };
    Ok(view.cast_into::<PyMemoryView>()?.into_any())
}

/// Appends `object` to `out`.
///
/// # Errors
///
/// Whatever pickling raises; `out` is then as it was.
pub(crate) fn encode_value(
    object: &Bound<'_, PyAny>,
    out: &mut Vec<u8>,
    pickler: &Pickler,
) -> PyResult<()> {
    if encode_scalar(object, out) {
        return Ok(());
    }
    let pickled = pickler.pickle(object)?;
    out.push(TAG_PICKLE);
    pickled.write_counted(out);
    Ok(())
}

/// Appends a result to `out`, whose memory changes hands where nobody else has it.
///
/// # Errors
///
/// Whatever pickling raises, with the object; `out` is then as it was.
pub(crate) fn encode_result<'py>(
    result: Bound<'py, PyAny>,
    out: &mut Vec<u8>,
    pickler: &Pickler,
) -> Result<(), (PyErr, Bound<'py, PyAny>)> {
    if encode_scalar(&result, out) {
        return Ok(());
    }
    let pickle = match pickler.dumps(&result) {
        Ok(pickle) => pickle,
        Err(error) => return Err((error, result)),
    };
    drop(result);
    let parts = match &pickler.sink {
        Some(sink) => sink.get().take_given(),
        None => Vec::new(),
    };
    out.push(TAG_PICKLE);
    Pickled::new(pickle, &parts).write_counted(out);
    Ok(())
}

/// Appends the value that a pickle stands for.
pub(crate) fn write_pickled(out: &mut Vec<u8>, pickle: &[u8]) {
    out.push(TAG_PICKLE);
    write_bytes(out, pickle);
}

/// Appends what stands before a pickle of so many bytes.
pub(crate) fn write_pickle_head(out: &mut Vec<u8>, n_bytes: u64) {
    out.push(TAG_PICKLE);
    write_varint(out, n_bytes);
}

/// The frame of a value's pickle, if it is one with buffers that travel apart.
pub(crate) fn marked_frame(value: &[u8]) -> Option<&[u8]> {
    if value.first() != Some(&TAG_PICKLE) {
        return None;
    }
    let mut reader = Reader::new(&value[1..]);
    let framed = reader.counted_bytes().ok()?;
    receiving::is_marked(framed).then_some(framed)
}

/// Appends `object` to `out` if it is a scalar or a tuple of scalars; else leaves `out` alone.
#[inline]
pub(crate) fn encode_scalar(object: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let is_scalar = encode_nested_scalar(object, out, 0);
    if !is_scalar {
        out.truncate(start);
    }
    is_scalar
}

fn encode_nested_scalar(object: &Bound<'_, PyAny>, out: &mut Vec<u8>, depth: u32) -> bool {
    if object.is_exact_instance_of::<PyInt>() {
        let Ok(value) = object.extract::<i64>() else {
            return false;
        };
        out.push(TAG_INT);
        write_varint(out, ((value << 1) ^ (value >> 63)) as u64);
        true
    } else if let Ok(float) = object.cast_exact::<PyFloat>() {
        out.push(TAG_FLOAT);
        out.extend_from_slice(&float.value().to_le_bytes());
        true
    } else if let Ok(string) = object.cast_exact::<PyString>() {
        // Lone surrogates have no UTF-8; pickle has its own way with them.
        let Ok(utf8) = string.to_str() else {
            return false;
        };
        out.push(TAG_STR);
        write_bytes(out, utf8.as_bytes());
        true
    } else if object.is_none() {
        out.push(TAG_NONE);
        true
    } else if let Ok(boolean) = object.cast_exact::<PyBool>() {
        out.push(if boolean.is_true() {
            TAG_TRUE
        } else {
            TAG_FALSE
        });
        true
    } else if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        let n_bytes = bytes.as_bytes().len();
        if n_bytes >= N_BYTES_UNFRAMED_MIN && memory::is_large(n_bytes) {
            return false;
        }
        out.push(TAG_BYTES);
        write_bytes(out, bytes.as_bytes());
        true
    } else if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        if depth >= DEPTH_MAX {
            return false;
        }
        out.push(TAG_TUPLE);
        write_varint(out, tuple.len() as u64);
        tuple
            .iter_borrowed()
            .all(|item| encode_nested_scalar(&item, out, depth + 1))
    } else {
        false
    }
}

/// The object that `bytes`, all of them, stand for.
///
/// # Errors
///
/// ValueError for bytes that [`encode_value`] did not write; what unpickling raises.
pub(crate) fn decode_value<'py>(
    py: Python<'py>,
    bytes: &[u8],
    views: &dyn Views,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(framed) = marked_frame(bytes) {
        return loads(py, framed, views);
    }
    let mut reader = Reader::new(bytes);
    let object = read_value(py, &mut reader)?;
    reader.finish()?;
    Ok(object)
}

/// Reads one value, leaving `reader` behind it.
pub(crate) fn read_value<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
) -> PyResult<Bound<'py, PyAny>> {
    let tag = reader.byte()?;
    read_tagged(py, tag, reader, 0)
}

/// Reads the rest of a value whose tag has been read already.
pub(crate) fn read_tagged<'py>(
    py: Python<'py>,
    tag: u8,
    reader: &mut Reader<'_>,
    depth: u32,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(match tag {
        TAG_NONE => py.None().into_bound(py),
        TAG_FALSE => PyBool::new(py, false).to_owned().into_any(),
        TAG_TRUE => PyBool::new(py, true).to_owned().into_any(),
        TAG_INT => {
            let zigzag = reader.varint()?;
            let value = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            value.into_pyobject(py)?.into_any()
        }
        TAG_FLOAT => {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(reader.take(8)?);
            PyFloat::new(py, f64::from_le_bytes(bytes)).into_any()
        }
        TAG_STR => {
            let position = reader.position;
            let utf8 = std::str::from_utf8(reader.counted_bytes()?)
                .map_err(|error| corrupt(position, &format!("text is not UTF-8: {error}")))?;
            PyString::new(py, utf8).into_any()
        }
        TAG_BYTES => PyBytes::new(py, reader.counted_bytes()?).into_any(),
        TAG_TUPLE => {
            if depth >= DEPTH_MAX {
                return Err(corrupt(reader.position, "tuples are nested too deeply"));
            }
            let n_items = reader.count()?;
            let mut items = Vec::with_capacity(n_items.min(N_RESERVED_MAX));
            for _ in 0..n_items {
                let tag = reader.byte()?;
                items.push(read_tagged(py, tag, reader, depth + 1)?);
            }
            PyTuple::new(py, items)?.into_any()
        }
        TAG_PICKLE => loads(py, reader.counted_bytes()?, &NoViews)?,
        _ => {
            let position = reader.position.saturating_sub(1);
            return Err(corrupt(position, &format!("unknown tag {tag}")));
        }
    })
}

/// A cursor over bytes that may be anything: every read is checked.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, position: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> PyResult<u8> {
        let byte = *self
            .bytes
            .get(self.position)
            .ok_or_else(|| corrupt(self.position, "the data ends too early"))?;
        self.position += 1;
        Ok(byte)
    }

    pub(crate) fn take(&mut self, n_bytes: usize) -> PyResult<&'a [u8]> {
        let end = self.position.checked_add(n_bytes);
        let taken = end
            .and_then(|end| self.bytes.get(self.position..end))
            .ok_or_else(|| corrupt(self.position, "the data ends too early"))?;
        self.position += n_bytes;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> PyResult<u64> {
        let start = self.position;
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            let payload = u64::from(byte & 0x7f);
            if shift > 63 || (shift == 63 && payload > 1) {
                return Err(corrupt(start, "a number does not fit 64 bits"));
            }
            value |= payload << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    /// A number of items to follow, each of which takes a byte at least.
    pub(crate) fn count(&mut self) -> PyResult<usize> {
        let start = self.position;
        let count = self.varint()?;
        let n_left = self.bytes.len() - self.position;
        if count > n_left as u64 {
            return Err(corrupt(start, &format!("{count} items in {n_left} bytes")));
        }
        Ok(count as usize)
    }

    /// A u32 number, of an input for example.
    pub(crate) fn number(&mut self) -> PyResult<u32> {
        let start = self.position;
        u32::try_from(self.varint()?).map_err(|_| corrupt(start, "a number does not fit 32 bits"))
    }

    pub(crate) fn counted_bytes(&mut self) -> PyResult<&'a [u8]> {
        let n_bytes = self.count()?;
        self.take(n_bytes)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.position..];
        self.position = self.bytes.len();
        rest
    }

    /// Checks that nothing follows.
    pub(crate) fn finish(&self) -> PyResult<()> {
        let n_left = self.bytes.len() - self.position;
        if n_left > 0 {
            return Err(corrupt(self.position, &format!("{n_left} bytes too many")));
        }
        Ok(())
    }
}

/// The error for bytes that no encoder wrote.
pub(crate) fn corrupt(position: usize, what: &str) -> PyErr {
    PyValueError::new_err(format!("corrupt data at byte {position}: {what}"))
}

#[inline]
pub(crate) fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
