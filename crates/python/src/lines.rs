//! Lines of tasks that run in threads: each is passed on in one piece, though `print` writes it in several, between which
//! other threads may write.
//!
//! While any thread of a pool works, the streams that `sys.stdout` and `sys.stderr` are have doors in the place of their
//! methods `write` and `flush`, as attributes of their own. So they stay the objects that everybody knows. What a task
//! writes of a line is held until the line is ended, flushed, or moved in; until the task ends or waits for others, or the
//! program ends. What other threads write passes.

use crate::interpreter::{StayAtEnd, in_task, is_of_pool};
use crate::mapped::lock;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule, PyString, PyTuple};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads at work, counted under the interpreter's lock.
static N_WORKING: AtomicUsize = AtomicUsize::new(0);

/// Numbers threads, and moments: which of a task and a door was first.
static CLOCK: AtomicU64 = AtomicU64::new(1);

/// Doors that are in place, or were when others took theirs.
static OPEN: Mutex<Vec<Doors>> = Mutex::new(Vec::new());

/// The beginnings of lines. No Python runs under this lock, and nothing of Python's is dropped.
static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

/// A longer beginning of a line is passed on.
const HELD_BYTES_MAX: usize = 1 << 16;

/// What a thread's task has written of a line.
struct Held {
    thread: u64,
    door: Py<LineDoor>,
    text: String,
}

thread_local! {
    static THREAD: u64 = CLOCK.fetch_add(1, Ordering::Relaxed);
    /// When this thread's task began; zero outside of tasks.
    static BEGAN: Cell<u64> = const { Cell::new(0) };
    /// Whether something is held of what this thread has written.
    static HAS_PART: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, the calling thread works for a pool.
pub(crate) struct Working<'py>(Python<'py>);

impl<'py> Working<'py> {
    pub(crate) fn begin(py: Python<'py>) -> Working<'py> {
        let _stay = StayAtEnd;
        N_WORKING.fetch_add(1, Ordering::Relaxed);
        let working = Working(py);
        working.look();
        working
    }

    /// Sees that the streams that there are now have doors: to be called before the tasks of each job.
    pub(crate) fn look(&self) {
        let py = self.0;
        for name in [intern!(py, "stdout"), intern!(py, "stderr")] {
            // A stream that cannot have doors has none: its lines may be torn then, and nothing else.
            let _ = open_doors(py, name);
        }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let _stay = StayAtEnd;
        // A forked child may leave what its parent has entered.
        let less = |n_working: usize| n_working.checked_sub(1);
        let before = N_WORKING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if before == Ok(1) {
            close_doors(self.0);
        }
    }
}

/// The doors of one stream.
struct Doors {
    line: Py<LineDoor>,
    flush: Py<FlushDoor>,
}

/// The attributes of an object's own, if it can have any. Asked of its class, as the object may answer for another.
fn own_attributes<'py>(stream: &Bound<'py, PyAny>) -> Option<Bound<'py, PyDict>> {
    let py = stream.py();
    let offset = stream
        .get_type()
        .getattr(intern!(py, "__dictoffset__"))
        .ok()?;
    if offset.extract::<isize>().ok()? == 0 {
        return None;
    }
    let attributes = stream.getattr(intern!(py, "__dict__")).ok()?;
    attributes.cast_into::<PyDict>().ok()
}

fn open_doors(py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<()> {
    static SYS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let import = || Ok::<_, PyErr>(py.import(intern!(py, "sys"))?.unbind());
    let sys = SYS.get_or_try_init(py, import)?.bind(py);
    let Some(stream) = sys.getattr_opt(name)? else {
        return Ok(());
    };
    let stream = bare(stream)?;
    let Some(attributes) = own_attributes(&stream) else {
        return Ok(());
    };
    let (write, flush) = (intern!(py, "write"), intern!(py, "flush"));
    let found = attributes.get_item(write)?;
    if found
        .as_ref()
        .is_some_and(|found| found.is_instance_of::<LineDoor>())
    {
        return Ok(());
    }
    let line = LineDoor {
        original: stream.getattr(write)?.unbind(),
        found: found.map(Bound::unbind),
        stream: stream.clone().unbind(),
        since: CLOCK.fetch_add(1, Ordering::Relaxed),
    };
    let line = Bound::new(py, line)?;
    let of_flush = FlushDoor {
        original: stream.getattr(flush)?.unbind(),
        found: attributes.get_item(flush)?.map(Bound::unbind),
        line: line.clone().unbind(),
    };
    let of_flush = Bound::new(py, of_flush)?;
    // Another thread may have been faster while attributes were asked for.
    let now = attributes.get_item(write)?;
    if now.is_some_and(|now| now.is_instance_of::<LineDoor>()) {
        return Ok(());
    }
    attributes.set_item(write, &line)?;
    attributes.set_item(flush, &of_flush)?;
    lock(&OPEN).push(Doors {
        line: line.unbind(),
        flush: of_flush.unbind(),
    });
    Ok(())
}

/// The stream below one that keeps apart what is said (`manyhands._relay._Proxy`).
fn bare(stream: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    static PROXY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = stream.py();
    let find = || {
        let module = py.import(intern!(py, "manyhands._relay"))?;
        Ok::<_, PyErr>(module.getattr(intern!(py, "_Proxy"))?.unbind())
    };
    match stream
        .get_type()
        .is(PROXY.get_or_try_init(py, find)?.bind(py))
    {
        true => stream.getattr(intern!(py, "_original")),
        false => Ok(stream),
    }
}

/// Reads the module that streams are compared with, so that no task begins while it is being read.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    bare(py.None().into_bound(py)).map(drop)
}

fn close_doors(py: Python<'_>) {
    let open = std::mem::take(&mut *lock(&OPEN));
    // Those of one stream may stand on each other, with a bar's between them.
    for doors in open.iter().rev() {
        let line = doors.line.get();
        line.step_aside(py, doors.line.bind(py).as_any());
        let flush = doors.flush.get();
        flush.step_aside(py, doors.flush.bind(py).as_any());
    }
}

fn bound<'py>(py: Python<'py>, object: Option<&Py<PyAny>>) -> Option<Bound<'py, PyAny>> {
    object.map(|object| object.bind(py).clone())
}

/// Takes a door off, if it is in place; what is found below it takes its place, unless that has had its day, too.
fn take_off(
    stream: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    door: &Bound<'_, PyAny>,
    found: Option<&Py<PyAny>>,
) -> PyResult<()> {
    let py = stream.py();
    let Some(attributes) = own_attributes(stream) else {
        return Ok(());
    };
    if !attributes
        .get_item(name)?
        .is_some_and(|there| there.is(door))
    {
        return Ok(());
    }
    let mut below = bound(py, found);
    while let Some(candidate) = below.take() {
        if let Ok(door) = candidate.cast::<LineDoor>() {
            below = bound(py, door.get().found.as_ref());
        } else if let Ok(door) = candidate.cast::<FlushDoor>() {
            below = bound(py, door.get().found.as_ref());
        } else if candidate
            .getattr_opt(intern!(py, "_is_closed"))?
            .is_some_and(|closed| closed.is_truthy().unwrap_or(false))
        {
            // That of a bar, which could not take it off as ours was above it.
            below = candidate
                .getattr_opt(intern!(py, "_found"))?
                .filter(|found| !found.is_none());
        } else {
            return attributes.set_item(name, candidate);
        }
    }
    attributes.del_item(name)
}

/// Stands in the place of a stream's `write`.
#[pyclass(frozen, module = "manyhands._native")]
struct LineDoor {
    stream: Py<PyAny>,
    /// What was called before.
    original: Py<PyAny>,
    /// Where that was an attribute of the stream's own.
    found: Option<Py<PyAny>>,
    since: u64,
}

#[pymethods]
impl LineDoor {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let door = slf.get();
        // Where a task has put the stream there itself, it may look at once at what it has written.
        let is_held_here = BEGAN.get() > door.since && is_of_pool() && in_task();
        if !is_held_here {
            if N_WORKING.load(Ordering::Relaxed) == 0 {
                door.step_aside(py, slf.as_any());
            }
            return door.original.bind(py).call(args, kwargs);
        }
        let text = match args.len() {
            1 if kwargs.is_none() => args.get_item(0)?.cast_into::<PyString>().ok(),
            _ => None,
        };
        let Some(text) = text.filter(|text| door.can_wait(text)) else {
            pass_on_of(py, slf)?;
            return door.original.bind(py).call(args, kwargs);
        };
        door.take(slf, text.to_str()?)?;
        Ok(text.len()?.into_pyobject(py)?.into_any())
    }

    /// A copy of the stream has its own method.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        method_of_copy(py, slf.get().stream.clone_ref(py), "write")
    }
}

impl LineDoor {
    /// Whether nothing can be wrong with writing a text later: it is of whole characters, which the stream can encode.
    fn can_wait(&self, text: &Bound<'_, PyString>) -> bool {
        let py = text.py();
        let Ok(characters) = text.to_str() else {
            return false;
        };
        if characters.is_ascii() {
            return true;
        }
        let encoding = self.stream.bind(py).getattr(intern!(py, "encoding"));
        let Ok(encoding) = encoding.and_then(|encoding| encoding.extract::<Option<String>>())
        else {
            return false;
        };
        let is_utf8 = |name: String| matches!(name.to_ascii_lowercase().as_str(), "utf-8" | "utf8");
        encoding.is_none_or(is_utf8)
    }

    /// Passes on whole lines, and holds the rest.
    fn take(&self, slf: &Bound<'_, Self>, text: &str) -> PyResult<()> {
        let n_lines = text.rfind('\n').map_or(0, |at| at + 1);
        // It moves in its line, as a bar does.
        let n_now = if text[n_lines..].contains('\r') {
            text.len()
        } else {
            n_lines
        };
        if n_now == 0 && hold(slf, text) {
            return Ok(());
        }
        // A beginning that is too long goes on as well.
        let now = taken(slf) + &text[..n_now];
        if 0 < n_now && n_now < text.len() {
            hold(slf, &text[n_now..]);
        }
        if !now.is_empty() {
            self.original.bind(slf.py()).call1((now,))?;
        }
        Ok(())
    }

    fn step_aside(&self, py: Python<'_>, slf: &Bound<'_, PyAny>) {
        let stream = self.stream.bind(py);
        if let Err(error) = take_off(stream, intern!(py, "write"), slf, self.found.as_ref()) {
            error.write_unraisable(py, Some(stream));
        }
    }
}

/// How a door is pickled: a copy of the stream has the method of its own there.
fn method_of_copy<'py>(
    py: Python<'py>,
    stream: Py<PyAny>,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let getattr = py
        .import(intern!(py, "builtins"))?
        .getattr(intern!(py, "getattr"))?;
    Ok((getattr, (stream, name)).into_pyobject(py)?.into_any())
}

/// Holds a text behind what is held already; false if that is too long, as it is held now all the same.
fn hold(door: &Bound<'_, LineDoor>, text: &str) -> bool {
    HAS_PART.set(true);
    let thread = THREAD.with(|thread| *thread);
    let mut held = lock(&HELD);
    let is_it = |held: &&mut Held| held.thread == thread && held.door.is(door);
    if let Some(held) = held.iter_mut().find(is_it) {
        held.text.push_str(text);
        return held.text.len() <= HELD_BYTES_MAX;
    }
    held.push(Held {
        thread,
        door: door.clone().unbind(),
        text: text.to_owned(),
    });
    text.len() <= HELD_BYTES_MAX
}

/// What this thread has written of a line, to be passed on now.
fn taken(door: &Bound<'_, LineDoor>) -> String {
    if !HAS_PART.get() {
        return String::new();
    }
    let thread = THREAD.with(|thread| *thread);
    let mut held = lock(&HELD);
    let at = held
        .iter()
        .position(|held| held.thread == thread && held.door.is(door));
    let taken = at.map(|at| held.swap_remove(at));
    drop(held);
    taken.map_or_else(String::new, |taken| taken.text)
}

/// Passes on what this thread has written of a line to one stream.
fn pass_on_of(py: Python<'_>, door: &Bound<'_, LineDoor>) -> PyResult<()> {
    let text = taken(door);
    if !text.is_empty() {
        door.get().original.bind(py).call1((text,))?;
    }
    Ok(())
}

/// Stands in the place of a stream's `flush`: what its thread has written appears.
#[pyclass(frozen, module = "manyhands._native")]
struct FlushDoor {
    original: Py<PyAny>,
    found: Option<Py<PyAny>>,
    line: Py<LineDoor>,
}

#[pymethods]
impl FlushDoor {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let door = slf.get();
        if HAS_PART.get() {
            pass_on_of(py, door.line.bind(py))?;
        } else if N_WORKING.load(Ordering::Relaxed) == 0 {
            door.step_aside(py, slf.as_any());
        }
        door.original.bind(py).call(args, kwargs)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        method_of_copy(py, slf.get().line.get().stream.clone_ref(py), "flush")
    }
}

impl FlushDoor {
    fn step_aside(&self, py: Python<'_>, slf: &Bound<'_, PyAny>) {
        let stream = self.line.get().stream.bind(py);
        if let Err(error) = take_off(stream, intern!(py, "flush"), slf, self.found.as_ref()) {
            error.write_unraisable(py, Some(stream));
        }
    }
}

/// A task begins in this thread. Gives what [`end_task`] is to be given.
#[inline]
pub(crate) fn begin_task() -> u64 {
    BEGAN.replace(CLOCK.load(Ordering::Relaxed))
}

/// It has ended: what it has written of a line is passed on, if there is any.
///
/// # Errors
///
/// What a stream raises.
#[inline]
pub(crate) fn end_task(py: Python<'_>, outer: u64) -> PyResult<()> {
    BEGAN.set(outer);
    pass_on(py)
}

/// The task of this thread is going to wait: what it has written of a line comes before what others write.
#[inline]
pub(crate) fn before_waiting(py: Python<'_>) {
    if let Err(error) = pass_on(py) {
        error.write_unraisable(py, None);
    }
}

#[inline]
fn pass_on(py: Python<'_>) -> PyResult<()> {
    match HAS_PART.replace(false) {
        true => pass_on_held(py, Some(THREAD.with(|thread| *thread))),
        false => Ok(()),
    }
}

/// Passes on all that is held, of one thread or of all; the first error is raised in the end.
#[cold]
fn pass_on_held(py: Python<'_>, thread: Option<u64>) -> PyResult<()> {
    let is_meant = |held: &mut Held| thread.is_none_or(|thread| held.thread == thread);
    let all: Vec<Held> = lock(&HELD).extract_if(.., is_meant).collect();
    let mut outcome = Ok(());
    for Held { door, text, .. } in all {
        let passed = door.get().original.bind(py).call1((text,)).map(drop);
        outcome = outcome.and(passed);
    }
    outcome
}

/// What the calling thread has begun to write appears.
#[pyfunction]
fn pass_on_parts(py: Python<'_>) -> PyResult<()> {
    pass_on(py)
}

/// The program ends: what tasks have begun to write that will never end appears.
pub(crate) fn at_exit(py: Python<'_>) {
    if let Err(error) = pass_on_held(py, None) {
        error.write_unraisable(py, None);
    }
    close_doors(py);
}

/// In a forked child: it has none of the other threads, and is none of a pool's workers itself, so that nobody would pass
/// on what it holds. What was begun is the parent's.
pub(crate) fn after_fork(py: Python<'_>) {
    N_WORKING.store(0, Ordering::Relaxed);
    HAS_PART.set(false);
    BEGAN.set(0);
    // Whatever runs as these go is the parent's business, too.
    std::mem::take(&mut *lock(&HELD))
        .into_iter()
        .for_each(std::mem::forget);
    close_doors(py);
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(pass_on_parts, module)?)
}
