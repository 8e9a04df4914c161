//! Streams of random numbers for the tasks of a job: around each call, `manyhands._seeding` sets the scene.
//!
//! A task knows its stream by what the job's streams descend from and by its own number. So a task that is repeated, on
//! whatever worker, draws the same numbers. Both stand before the call in a task's bytes:
//!
//! ```text
//! seeded = SEEDED  length, root  number  call
//! ```
//!
//! A job without a seed has nothing of all this.

use crate::codec::{Reader, write_bytes, write_varint};
use crate::faults::strip;
use crate::misuse::{self, OnMisuse, Together};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handlers of the user's that raise so often in a row are meant to.
const N_TIMES_TO_LEAVE_MAX: usize = 100;

/// In the place of a call's mode, none of which it is.
const SEEDED: u8 = 0x40;

/// Where a task runs: what its global states are, and whose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Place {
    /// In the thread that called; the caller's global states are put back after each task.
    Here,
    /// In one of several threads, which share the global states: they are left alone.
    Thread,
    /// In a worker process; its global states are put back before a task without a seed.
    Worker,
}

/// Whether the global states of this worker are those of a seeded task.
static IS_DISPLACED: AtomicBool = AtomicBool::new(false);

/// What the streams of a job descend from: a `manyhands._seeding.Root`.
pub(crate) struct Seeding {
    root: Py<PyAny>,
    packed: Vec<u8>,
}

impl Seeding {
    pub(crate) fn new(root: &Bound<'_, PyAny>) -> PyResult<Seeding> {
        let packed = root.getattr(intern!(root.py(), "packed"))?;
        Ok(Seeding {
            root: root.clone().unbind(),
            packed: packed.cast::<PyBytes>()?.as_bytes().to_vec(),
        })
    }

    /// That of a job, if it has one.
    pub(crate) fn of(root: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Arc<Seeding>>> {
        root.map(|root| Seeding::new(root).map(Arc::new))
            .transpose()
    }

    /// Writes what stands before the call of a task with this number.
    pub(crate) fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.push(SEEDED);
        write_bytes(out, &self.packed);
        write_varint(out, number);
    }

    /// Calls a function as the task with this number.
    pub(crate) fn call<'py>(
        &self,
        place: Place,
        number: u64,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let root = self.root.bind(function.py());
        call_seeded(root, place, number, function, args, kwargs).0
    }

    /// The same in the thread that made the call; and what the task, or another at the same time, has drawn from of
    /// what could not be its alone.
    pub(crate) fn call_here<'py>(
        &self,
        on_misuse: OnMisuse,
        number: u64,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> (PyResult<Bound<'py, PyAny>>, u8) {
        let py = function.py();
        let root = self.root.bind(py);
        let (outcome, drawn) = call_seeded(root, Place::Here, number, function, args, kwargs);
        misuse::judged(py, on_misuse, function, outcome, drawn)
    }
}

/// Calls a function on a stream; and says from which global states has been drawn that it had to share with another
/// seeded task. No Python code of ours is on the stack meanwhile: tracebacks show the user's alone.
fn call_seeded<'py>(
    root: &Bound<'py, PyAny>,
    place: Place,
    number: u64,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> (PyResult<Bound<'py, PyAny>>, u8) {
    let py = root.py();
    if place == Place::Worker {
        misuse::skip();
        IS_DISPLACED.store(true, Ordering::Relaxed);
    }
    let made = py
        .import(intern!(py, "manyhands._seeding"))
        .and_then(|module| {
            let task = module.call_method1(intern!(py, "new_task"), (root, number))?;
            Ok((module, task))
        });
    let (module, task) = match made {
        Ok(made) => made,
        Err(error) => return (Err(error), 0),
    };
    let entered = module.call_method1(
        intern!(py, "enter"),
        (&task, function, args, kwargs, place as u8),
    );
    let mut drawn = 0;
    let outcome = entered
        .and_then(|kwargs| Ok(kwargs.extract::<Option<Bound<'py, PyDict>>>()?))
        .and_then(|kwargs| {
            if place != Place::Here {
                return function.call(args, kwargs.as_ref());
            }
            let has_states = task.getattr(intern!(py, "has_states"))?.is_truthy()?;
            let together = Together::begin(py, has_states);
            let outcome = function.call(args, kwargs.as_ref());
            drawn = together.end(py);
            outcome
        });
    let outcome = match leave(&module, &task) {
        // An interrupt that came while the scene was cleared is nobody else's to report.
        Err(error) if outcome.is_ok() || error.is_instance_of::<PyKeyboardInterrupt>(py) => {
            Err(error)
        }
        _ => outcome,
    };
    (outcome, drawn)
}

/// Before a global state is set from a task's stream, or put back.
#[pyfunction]
fn _settle_draws(py: Python<'_>) {
    misuse::settle(py);
}

/// After it.
#[pyfunction]
fn _note_states(py: Python<'_>) {
    misuse::note_set(py);
}

/// Clears the scene, whatever comes in between; the first error on the way.
fn leave(module: &Bound<'_, PyModule>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = module.py();
    let mut first = Ok(());
    // A signal's handler may raise before the function has begun; it does so once for each signal.
    for _ in 0..N_TIMES_TO_LEAVE_MAX {
        let left = module.call_method1(intern!(py, "leave"), (task,));
        first = first.and(left.map(drop));
        if task.getattr(intern!(py, "is_left"))?.is_truthy()? {
            break;
        }
    }
    first
}

/// Before a task without a seed in a worker: puts back the global states from before those with one, and has it
/// noticed what the task does with them.
#[inline]
pub(crate) fn put_back(py: Python<'_>) -> PyResult<()> {
    if IS_DISPLACED.load(Ordering::Relaxed) {
        IS_DISPLACED.store(false, Ordering::Relaxed);
        let module = py.import(intern!(py, "manyhands._seeding"))?;
        module.call_method0(intern!(py, "put_back_in_worker"))?;
    }
    misuse::begin_in_worker(py);
    Ok(())
}

/// What stands before a seeded call: the root of its streams, packed, and its number.
pub(crate) type Seeded<'a> = Option<(&'a [u8], u64)>;

/// What stands before a call, if anything does, and the call.
pub(crate) fn split(bytes: &[u8]) -> PyResult<(Seeded<'_>, &[u8])> {
    let (_, bytes) = strip(bytes)?;
    if bytes.first() != Some(&SEEDED) {
        return Ok((None, bytes));
    }
    let mut reader = Reader::new(&bytes[1..]);
    let n_bytes = reader.count()?;
    let packed = reader.take(n_bytes)?;
    let number = reader.varint()?;
    Ok((Some((packed, number)), reader.rest()))
}

/// The roots that a worker has met: the last of them, as the tasks of one job come together.
#[derive(Default)]
pub(crate) struct Roots {
    last: Option<(Vec<u8>, Py<PyAny>)>,
}

impl Roots {
    /// Calls a function in a worker, as what stood before the call has it.
    pub(crate) fn call<'py>(
        &mut self,
        seeded: Seeded<'_>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let Some((packed, number)) = seeded else {
            put_back(py)?;
            return function.call(args, kwargs);
        };
        let root = match &self.last {
            Some((known, root)) if known == packed => root.bind(py).clone(),
            _ => {
                let module = py.import(intern!(py, "manyhands._seeding"))?;
                let bytes = PyBytes::new(py, packed);
                let root = module.call_method1(intern!(py, "unpack"), (bytes,))?;
                self.last = Some((packed.to_vec(), root.clone().unbind()));
                root
            }
        };
        call_seeded(&root, Place::Worker, number, function, args, kwargs).0
    }
}

/// Streams for the tasks of a graph: which number each has, by its place in the graph.
pub(crate) struct GraphSeeding {
    pub(crate) seeding: Arc<Seeding>,
    pub(crate) numbers: Vec<u32>,
}

impl GraphSeeding {
    /// For tasks that were created in this order: each task's number is that of those created before it.
    pub(crate) fn new(seeding: Arc<Seeding>, created: &[u64]) -> GraphSeeding {
        let mut order: Vec<usize> = (0..created.len()).collect();
        order.sort_by_key(|&at| created[at]);
        let mut numbers = vec![0; created.len()];
        for (number, at) in order.into_iter().enumerate() {
            numbers[at] = number as u32;
        }
        GraphSeeding { seeding, numbers }
    }

    pub(crate) fn write(&self, at: usize, out: &mut Vec<u8>) {
        self.seeding.write(self.numbers[at].into(), out);
    }

    pub(crate) fn call<'py>(
        &self,
        place: Place,
        at: usize,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let number = self.numbers[at].into();
        (self.seeding).call(place, number, function, args, kwargs)
    }

    /// The same in the thread that made the call: see [`Seeding::call_here`].
    pub(crate) fn call_here<'py>(
        &self,
        on_misuse: OnMisuse,
        at: usize,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> (PyResult<Bound<'py, PyAny>>, u8) {
        let number = self.numbers[at].into();
        (self.seeding).call_here(on_misuse, number, function, args, kwargs)
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_settle_draws, module)?)?;
    module.add_function(wrap_pyfunction!(_note_states, module)?)
}
