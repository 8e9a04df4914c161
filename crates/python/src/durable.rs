//! Results that outlive the process: what a call with a checkpoint stores, and finds.
//!
//! A [`Recording`] is what the programs of a call see: they tell it how their tasks have ended, and it hands the bytes
//! to the thread that writes ([`manyhands_checkpoint::log`]). Results from workers are stored as they came; parts of
//! them that lie in shared memory are read there by that thread. Python meets the same file as
//! [`recorder::Recorder`], and others look at it through [`reader::CheckpointReader`]. [`resume`] takes out of a graph what
//! need not be computed.
//!
//! Tasks of such a call are timed where they run. In a worker that is asked for by two bytes before a task's own, which
//! no task begins with otherwise; the time follows the result, 8 bytes of nanoseconds.

pub(crate) mod reader;
pub(crate) mod recorder;
pub(crate) mod resume;

use crate::codec::{Pickler, Reader, decode_value, encode_value, marked_frame, write_pickle_head};
use crate::interpreter::{SIGNAL_PAUSE, detached};
use crate::kept::Kept;
use crate::mapped::lock;
use crate::payload::Outcome;
use crate::shared::receiving::{NoViews, open};
use manyhands_checkpoint::entry::{Entry, Identity, Task};
use manyhands_checkpoint::file::{AsDescriptor, File, OpenError};
use manyhands_checkpoint::log::{Log, Payload, WriteError};
use manyhands_executor::Stock;
use manyhands_executor::processes::Descriptor;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Before the bytes of a task that is timed. No encoder begins with it: it is a number of inputs, none, in more bytes
/// than it needs.
pub(crate) const TIMED: [u8; 2] = [0x80, 0];

/// Whether a task is timed, and its own bytes.
#[inline]
pub(crate) fn split_timed(bytes: &[u8]) -> (bool, &[u8]) {
    match bytes.strip_prefix(&TIMED) {
        Some(rest) => (true, rest),
        None => (false, bytes),
    }
}

/// Writes behind a result how long its task took.
pub(crate) fn write_elapsed(elapsed: Duration, out: &mut Vec<u8>) {
    let n_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    out.extend_from_slice(&n_ns.to_le_bytes());
}

/// A result, and how long its task took in seconds.
fn split_elapsed(bytes: &[u8]) -> (&[u8], f64) {
    match bytes.split_last_chunk() {
        Some((result, elapsed)) => (result, u64::from_le_bytes(*elapsed) as f64 / 1e9),
        None => (bytes, f64::NAN),
    }
}

/// A descriptor of a file that forked workers do not keep.
struct Listed(Descriptor);

impl AsDescriptor for Listed {
    fn descriptor(&self) -> &OwnedFd {
        &self.0
    }
}

/// A task that is to be stored.
struct Expected {
    identity: Identity,
    place: u32,
    label: String,
}

/// What one call stores.
pub(crate) struct Recording {
    log: Log,
    file: File,
    path: String,
    /// By the numbers that the tasks have in their job.
    tasks: Mutex<Vec<Expected>>,
    pickler: Kept<Pickler>,
}

/// What a program of a call that may have a checkpoint keeps.
pub(crate) type Slot = OnceLock<Arc<Recording>>;

impl Recording {
    fn expect(&self, identity: Identity, place: u32, label: String) {
        lock(&self.tasks).push(Expected {
            identity,
            place,
            label,
        });
    }

    /// The place that a task has in its map or graph.
    pub(crate) fn place(&self, task: u32) -> u32 {
        let tasks = lock(&self.tasks);
        tasks
            .get(task as usize)
            .map_or(task, |expected| expected.place)
    }

    /// The places of all tasks.
    pub(crate) fn places(&self) -> Vec<u32> {
        lock(&self.tasks)
            .iter()
            .map(|expected| expected.place)
            .collect()
    }

    fn task(&self, task: u32, duration_s: f64) -> Option<Task> {
        let tasks = lock(&self.tasks);
        let Expected {
            identity,
            place,
            label,
        } = tasks.get(task as usize)?;
        Some(Task {
            key: identity.key(),
            identity: Some(*identity),
            place: u64::from(*place),
            duration_s,
            ended_s: now_s(),
            label: label.clone(),
        })
    }

    /// A task has returned these bytes of a value, which refer to nothing else.
    fn returned(&self, task: u32, payload: Payload, duration_s: f64) {
        if let Some(task) = self.task(task, duration_s) {
            self.log.append(Entry::Result(task), payload);
        }
    }

    /// A task has ended in a worker. Never waits.
    pub(crate) fn ended(&self, task: u32, outcome: &Outcome, duration_s: f64, stock: &Arc<Stock>) {
        let payload = match outcome {
            Outcome::Returned(payload) => Payload::Bytes(payload.to_vec()),
            Outcome::Shared(result) => Payload::Pieces(result.pieces(stock)),
            Outcome::Pending | Outcome::NoRoom(_) | Outcome::Failed(_) | Outcome::Gone => return,
        };
        self.returned(task, payload, duration_s);
    }

    /// A task has returned a value in this process.
    ///
    /// # Errors
    ///
    /// If the value cannot be pickled.
    pub(crate) fn put(&self, task: u32, value: &Bound<'_, PyAny>, duration_s: f64) -> PyResult<()> {
        let mut bytes = Vec::new();
        encode_value(value, &mut bytes, &self.pickler).map_err(|error| {
            let py = value.py();
            let helper = py.import(intern!(py, "manyhands._checkpointing"));
            let explained = helper.and_then(|helper| {
                helper.call_method1(
                    intern!(py, "not_storable"),
                    (&self.path, value, error.value(py)),
                )
            });
            explained.map_or_else(|worse| worse, PyErr::from_value)
        })?;
        self.returned(task, Payload::Bytes(bytes), duration_s);
        Ok(())
    }

    /// A task has failed.
    pub(crate) fn failed(&self, task: u32, kind: String, text: String) {
        if let Some(task) = self.task(task, f64::NAN) {
            self.log
                .append(Entry::Failure(task, kind, text), Payload::Bytes(Vec::new()));
        }
    }

    /// A task has failed with this.
    pub(crate) fn raised(&self, py: Python<'_>, task: u32, error: &PyErr) {
        let kind = error.get_type(py).qualname().map(|name| name.to_string());
        let text = error
            .value(py)
            .str()
            .map(|text| text.to_string_lossy().into_owned());
        self.failed(task, kind.unwrap_or_default(), text.unwrap_or_default());
    }

    /// Waits until all that has been stored so far is durable.
    ///
    /// # Errors
    ///
    /// If it cannot be; what a signal's handler raises.
    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<()> {
        let number = self.log.newest();
        loop {
            let waited = detached(py, || self.log.wait(number, SIGNAL_PAUSE));
            if waited.map_err(|failure| not_written(py, &self.path, &failure))? {
                return Ok(());
            }
            py.check_signals()?;
        }
    }

    /// # Errors
    ///
    /// If something could not be stored.
    pub(crate) fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self.log.failure() {
            Some(failure) => Err(not_written(py, &self.path, &failure)),
            None => Ok(()),
        }
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.log.is_elsewhere() {
            // The lock is the parent's too.
            return Ok(());
        }
        let closed = py.detach(|| self.log.close());
        self.file.unlock();
        closed.map_err(|failure| not_written(py, &self.path, &failure))
    }
}

/// Takes the time off a task's result, if the call has a checkpoint.
#[inline]
pub(crate) fn untimed<'a>(slot: &Slot, is_ok: bool, bytes: &'a [u8]) -> (&'a [u8], f64) {
    match slot.get() {
        Some(_) if is_ok => split_elapsed(bytes),
        _ => (bytes, f64::NAN),
    }
}

fn now_s() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(f64::NAN, |since| since.as_secs_f64())
}

/// The value that stored bytes stand for.
fn decode_stored<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let framed = marked_frame(bytes);
    let (buffers, pickle) = match framed {
        Some(framed) => {
            let (buffers, pickle) = open(py, framed, &NoViews)?;
            (Some(buffers), pickle)
        }
        None => (None, bytes),
    };
    let is_by_value = pickle
        .windows(BY_VALUE.len())
        .any(|window| window == BY_VALUE);
    let pickle = match (framed, plain_pickle(bytes)) {
        (Some(_), _) => pickle,
        (None, Some(plain)) if is_by_value => plain,
        _ => return decode_value(py, bytes, &NoViews),
    };
    let helper = py.import(intern!(py, "manyhands._checkpointing"))?;
    let pickle = PyBytes::new(py, pickle);
    helper.call_method1(intern!(py, "load"), (pickle, buffers, is_by_value))
}

/// Names what rebuilds a class of the main program, which is stored by value: it is to be the program's own.
const BY_VALUE: &[u8] = b"_make_skeleton_";

/// The pickle of a value that is one.
fn plain_pickle(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let mut empty = Vec::new();
    write_pickle_head(&mut empty, 0);
    (reader.byte().ok()? == empty[0])
        .then(|| reader.counted_bytes().ok())
        .flatten()
}

fn helper_error<'py>(py: Python<'py>, name: &str, args: impl pyo3::call::PyCallArgs<'py>) -> PyErr {
    let helper = py.import(intern!(py, "manyhands._checkpointing"));
    let made = helper.and_then(|helper| helper.getattr(name)?.call1(args));
    made.map_or_else(|worse| worse, PyErr::from_value)
}

fn not_written(py: Python<'_>, path: &str, failure: &WriteError) -> PyErr {
    let WriteError {
        errno,
        text,
        n_bytes_file,
        n_bytes_more,
        n_bytes_free,
    } = failure;
    let args = (
        path,
        *errno,
        text,
        *n_bytes_file,
        *n_bytes_more,
        *n_bytes_free,
    );
    helper_error(py, "not_written", args)
}

fn not_opened(py: Python<'_>, path: &str, error: &OpenError) -> PyErr {
    let (kind, errno) = match error {
        OpenError::Io(error) => ("io", error.raw_os_error()),
        OpenError::InUse => ("in use", None),
        OpenError::NotACheckpoint => ("no checkpoint", None),
        OpenError::Version(_) => ("version", None),
        OpenError::Write(failure) => return not_written(py, path, failure),
    };
    helper_error(py, "not_opened", (path, kind, errno, error.to_string()))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<recorder::Recorder>()?;
    module.add_class::<reader::CheckpointReader>()?;
    module.add_function(wrap_pyfunction!(reader::salvage_checkpoint, module)?)
}
