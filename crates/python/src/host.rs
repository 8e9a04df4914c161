//! What a worker process does with tasks: it loads functions, calls them and pickles what comes.
//!
//! A task's bytes are the number of its inputs, each input with its length, and the call.

use crate::call::{FewScalars, TaskInputs, decode_call, few_scalars};
use crate::codec::{Pickler, Reader, encode_result, encode_scalar, with_object};
use crate::durable::{split_timed, write_elapsed};
use crate::faults::{Faults, ending_in_worker};
use crate::forked::Inherited;
use crate::interpreter::{InTask, modules};
use crate::mapped::lock;
use crate::misuse::{self, OnMisuse};
use crate::relay::{MISUSE, WARNING};
use crate::seeding::{Roots, put_back, split};
use crate::shared::buffer::SharedBuffer;
use crate::shared::receiving::{NoViews, Views, WorkerViews, close, is_marked, largest, open};
use crate::shared::sending::Sink;
use crate::shared::{begin_sharing, memory, stock};
use manyhands_executor::WorkerStock;
use manyhands_executor::processes::DUMP_SIGNAL;
use manyhands_executor::worker::{Host, Reporter, serve};
use manyhands_scheduler::Ending;
use manyhands_wire as wire;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A function as it came, or as it is.
enum Function {
    Pickled(Vec<u8>),
    Loaded(Loaded),
}

struct Loaded {
    function: Py<PyAny>,
    /// The shared memory it refers to.
    views: Vec<Py<SharedBuffer>>,
    sizes: Sizes,
}

/// How large the data of a function is, as far as is known.
#[derive(Clone, Copy, Default)]
struct Sizes {
    /// The largest buffer it refers to.
    n_bytes_own: usize,
    /// The largest that it has returned.
    n_bytes_returned: usize,
}

pub(crate) struct PythonHost {
    /// By number: the parent keeps numbers small.
    functions: Vec<Option<Function>>,
    /// The surroundings as they came last.
    context: Vec<u8>,
    /// Why the present surroundings could not be taken over, if so: no task may run in others.
    astray: Option<PyErr>,
    pickler: Option<Pickler>,
    stock: Option<Arc<WorkerStock>>,
    /// Whether nothing is left to be done to have NumPy's arrays made in shared memory.
    is_sharing: bool,
    /// The module with what is better said in Python.
    helpers: Py<PyAny>,
    /// The tasks, in a worker that was forked.
    inherited: Option<(Arc<Inherited>, Arc<Faults>)>,
    /// What seeded tasks draw from.
    roots: Roots,
    /// What becomes of tasks without a seed that draw from a global state.
    on_misuse: OnMisuse,
}

/// Whether this process is a copy of a worker, made by a task. The connection is not its own.
static IS_FORKED: AtomicBool = AtomicBool::new(false);

/// Called in a process forked from a worker.
#[pyfunction]
pub(crate) fn note_fork() {
    IS_FORKED.store(true, Ordering::Relaxed);
    memory::after_fork_in_child();
}

/// Called in a worker that was forked: it is no copy, whatever it was copied from.
pub(crate) fn is_original() {
    misuse::forget();
    IS_FORKED.store(false, Ordering::Relaxed);
}

/// How this process's tasks say what is not part of their results, if it is a worker.
static REPORTER: Mutex<Option<Arc<Reporter>>> = Mutex::new(None);

fn reporter() -> Option<Arc<Reporter>> {
    match IS_FORKED.load(Ordering::Relaxed) {
        true => None,
        false => lock(&REPORTER).clone(),
    }
}

/// Whether a task has sent a warning.
static HAS_WARNED: AtomicBool = AtomicBool::new(false);

fn send_report(bytes: &[u8]) -> bool {
    if bytes.first() == Some(&WARNING) {
        HAS_WARNED.store(true, Ordering::Relaxed);
    }
    reporter().is_some_and(|reporter| reporter.report(bytes))
}

/// Send the parent a report of the task that is running. False if there is none, or this is no worker.
#[pyfunction]
pub(crate) fn report(py: Python<'_>, bytes: &[u8]) -> bool {
    py.detach(|| send_report(bytes))
}

/// Whether a report has its place among what is printed, which is to be written out before.
#[pyfunction]
pub(crate) fn reports_have_places() -> bool {
    reporter().is_some_and(|reporter| reporter.has_places())
}

/// Writes out what the C library holds back of the output of compiled code.
#[pyfunction]
#[allow(unsafe_code)]
pub(crate) fn flush_stdio() {
    // SAFETY: `fflush` is in every C library, with this signature. Given no stream, it flushes all.
    unsafe extern "C" {
        fn fflush(stream: *mut std::ffi::c_void) -> std::ffi::c_int;
    }
    // SAFETY: null stands for all streams, each of which the C library locks itself. Should one
    // fail, whoever wrote to it can find out, and nobody else.
    let _ = unsafe { fflush(std::ptr::null_mut()) };
}

/// Whether a standard stream of Python's has been written to since it was last flushed.
static IS_WRITTEN_TO: AtomicBool = AtomicBool::new(false);

/// Called as something is written to a standard stream of Python's.
#[pyfunction]
pub(crate) fn note_output() {
    IS_WRITTEN_TO.store(true, Ordering::Relaxed);
}

/// Whether the C library holds back something of what compiled code has printed.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn is_stdio_waiting() -> bool {
    use std::ffi::c_void;
    // SAFETY: both are in every C library for Linux, with these types.
    unsafe extern "C" {
        static stdout: *mut c_void;
        fn __fpending(stream: *mut c_void) -> usize;
    }
    // SAFETY: the C library sets `stdout` up before anything runs. To say how much waits there is to compare
    // two of the stream's pointers, not to follow them; should another thread be writing, the answer is
    // that of a moment before or after.
    unsafe { __fpending(stdout) > 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_stdio_waiting() -> bool {
    false
}

/// Serves the parent at the other end of a socket until it asks to stop.
#[pyfunction]
#[allow(unsafe_code)]
pub(crate) fn serve_parent(
    py: Python<'_>,
    socket: i32,
    parent: u32,
    helpers: Py<PyAny>,
) -> PyResult<()> {
    if socket < 0 {
        return Err(PyValueError::new_err("a descriptor is not negative"));
    }
    // SAFETY: the caller hands over a descriptor that it has just made and does not use again.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut host = PythonHost {
        functions: Vec::new(),
        context: Vec::new(),
        astray: None,
        pickler: None,
        stock: None,
        is_sharing: false,
        helpers,
        inherited: None,
        roots: Roots::default(),
        on_misuse: OnMisuse::Ignore,
    };
    // What its calls are to know comes with each job's context.
    let _in_task = InTask::enter(0);
    let outcome = serve(socket, parent, &mut host);
    outcome.map_err(|error| PyRuntimeError::new_err(format!("cannot serve: {error}")))?;
    py.check_signals()
}

impl PythonHost {
    /// A host that finds its tasks in memory.
    pub(crate) fn inheriting(
        py: Python<'_>,
        inherited: Arc<Inherited>,
        faults: Arc<Faults>,
        on_misuse: OnMisuse,
    ) -> PyResult<PythonHost> {
        misuse::watch(on_misuse);
        Ok(PythonHost {
            functions: Vec::new(),
            context: Vec::new(),
            astray: None,
            pickler: None,
            stock: None,
            is_sharing: false,
            helpers: py
                .import(intern!(py, "manyhands._worker"))?
                .into_any()
                .unbind(),
            inherited: Some((inherited, faults)),
            roots: Roots::default(),
            on_misuse,
        })
    }

    /// The function, loaded on first use: what goes wrong then is the failure of the task.
    fn load(&mut self, py: Python<'_>, id: u32) -> PyResult<(Py<PyAny>, Sizes)> {
        match self.functions.get(id as usize).and_then(Option::as_ref) {
            Some(Function::Loaded(loaded)) => Ok((loaded.function.clone_ref(py), loaded.sizes)),
            Some(Function::Pickled(bytes)) => {
                let helpers = self.helpers.bind(py);
                let loads = helpers.getattr(intern!(py, "load_function"))?;
                let (function, views) = load_function(py, &loads, bytes, self.stock.as_deref())?;
                let sizes = Sizes {
                    n_bytes_own: largest(&views),
                    n_bytes_returned: 0,
                };
                self.functions[id as usize] = Some(Function::Loaded(Loaded {
                    function: function.clone_ref(py),
                    views,
                    sizes,
                }));
                // What the function needs has been imported with it.
                self.share_arrays(py);
                Ok((function, sizes))
            }
            None => Err(PyRuntimeError::new_err(format!(
                "function {id} has not come"
            ))),
        }
    }

    /// Ends a copy of this worker that a task has forked and that has come out of the task: the
    /// result is the original's to send.
    fn leave_fork(&self, py: Python<'_>, outcome: PyResult<()>) -> ! {
        let error = outcome.err().map(|error| error.into_value(py));
        let leave = intern!(py, "leave_fork");
        if let Err(error) = self.helpers.bind(py).call_method1(leave, (error,)) {
            error.print(py);
        }
        std::process::abort()
    }

    fn try_call(
        &mut self,
        py: Python<'_>,
        id: u32,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> PyResult<()> {
        if let Some(error) = &self.astray {
            return Err(error.clone_ref(py));
        }
        if let Some((inherited, _)) = self.inherited.clone() {
            return self.call_inherited(py, id, &inherited, bytes, out);
        }
        let (function, sizes) = self.load(py, id)?;
        memory::begin_task(sizes.n_bytes_own, sizes.n_bytes_returned);
        if let Some(result) = call_with_scalars(function.bind(py), bytes) {
            let result = result?;
            self.judge(function.bind(py))?;
            return self.encode(id, &function, result, out);
        }
        self.share_arrays(py);
        let Some(stock) = self.stock.clone() else {
            let result = self.call_decoded(&function, py, bytes, &NoViews, sizes)?;
            return self.encode(id, &function, result, out);
        };
        let views = WorkerViews::new(&stock);
        let outcome = self
            .call_decoded(&function, py, bytes, &views, sizes)
            .and_then(|result| self.encode(id, &function, result, out));
        // Last of all: what the task's error refers to is referred to by somebody.
        close(py, views.opened());
        outcome
    }

    /// Has the next task warn as if nobody had before: the parent knows what to show again.
    #[cold]
    fn forget_warnings(&self, py: Python<'_>) {
        HAS_WARNED.store(false, Ordering::Relaxed);
        let forget = intern!(py, "forget_warnings");
        if let Err(error) = self.helpers.bind(py).call_method0(forget) {
            error.print(py);
        }
    }

    /// Makes any call.
    fn call_decoded<'py>(
        &mut self,
        function: &Py<PyAny>,
        py: Python<'py>,
        bytes: &[u8],
        views: &dyn Views,
        sizes: Sizes,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut reader = Reader::new(bytes);
        let mut inputs = TaskInputs::read(&mut reader)?;
        let mut input = |k: u32| inputs.get(py, k, views);
        let (seeded, call) = split(reader.rest())?;
        if seeded.is_none() {
            // Before the arguments are unpickled, which may run any code.
            put_back(py)?;
        }
        let call = decode_call(py, call, &mut input, views)?;
        let n_bytes_largest = views.n_bytes_of_largest().max(sizes.n_bytes_own);
        memory::begin_task(n_bytes_largest, sizes.n_bytes_returned);
        let function = call.func.as_ref().unwrap_or(function).bind(py);
        let result = (self.roots).call(seeded, function, &call.args, call.kwargs.as_ref())?;
        self.judge(function)?;
        Ok(result)
    }

    /// Acts on what a task that has just returned has drawn from, if it has no seed.
    #[inline]
    fn judge(&self, function: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.on_misuse == OnMisuse::Ignore {
            return Ok(());
        }
        let py = function.py();
        match (misuse::end(py), self.on_misuse) {
            (0, _) => Ok(()),
            (drawn, OnMisuse::Error) => Err(misuse::error(py, function, drawn)),
            (drawn, _) => {
                send_report(&[MISUSE, drawn]);
                Ok(())
            }
        }
    }

    /// The same for a task that is in memory already.
    fn call_inherited(
        &mut self,
        py: Python<'_>,
        id: u32,
        inherited: &Inherited,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> PyResult<()> {
        memory::begin_task(0, 0);
        self.share_arrays(py);
        let Some(stock) = self.stock.clone() else {
            let (function, result) = inherited.call(py, bytes, &NoViews, &mut self.roots)?;
            self.judge(function.bind(py))?;
            return self.encode(id, &function, result, out);
        };
        let views = WorkerViews::new(&stock);
        let outcome =
            inherited
                .call(py, bytes, &views, &mut self.roots)
                .and_then(|(function, result)| {
                    self.judge(function.bind(py))?;
                    self.encode(id, &function, result, out)
                });
        close(py, views.opened());
        outcome
    }

    /// Appends what a function has returned.
    #[inline]
    fn encode<'py>(
        &mut self,
        id: u32,
        function: &Py<PyAny>,
        result: Bound<'py, PyAny>,
        out: &mut Vec<u8>,
    ) -> PyResult<()> {
        if encode_scalar(&result, out) {
            return Ok(());
        }
        let py = result.py();
        self.share_arrays(py);
        let pickler = self
            .pickler
            .get_or_insert_with(|| Pickler::of_results(None));
        let outcome = encode_result(result, out, pickler).map_err(|(error, result)| {
            let helpers = self.helpers.bind(py);
            let explained = helpers.call_method1(
                intern!(py, "unpicklable_result"),
                (function, &result, error.value(py)),
            );
            explained.map_or_else(|worse| worse, PyErr::from_value)
        });
        self.note_returned(id);
        outcome
    }

    /// Learns how much a function returns. Functions that were inherited are not told apart.
    fn note_returned(&mut self, id: u32) {
        if let Some(Some(Function::Loaded(loaded))) = self.functions.get_mut(id as usize) {
            let returned = &mut loaded.sizes.n_bytes_returned;
            *returned = memory::n_bytes_returned().max(*returned);
        }
    }

    /// Has NumPy's large arrays made in shared memory, as soon as somebody has imported NumPy.
    #[inline]
    fn share_arrays(&mut self, py: Python<'_>) {
        if self.is_sharing || self.stock.is_none() {
            return;
        }
        let is_imported = || modules(py)?.contains(intern!(py, "numpy"));
        if is_imported().unwrap_or(false) {
            self.is_sharing = true;
            // Of a NumPy that cannot do this, results are copied once more: no reason to fail.
            let _ = begin_sharing(py);
        }
    }
}

/// Unpickles a function; with it, the shared memory that it refers to.
fn load_function(
    py: Python<'_>,
    loads: &Bound<'_, PyAny>,
    framed: &[u8],
    stock: Option<&WorkerStock>,
) -> PyResult<(Py<PyAny>, Vec<Py<SharedBuffer>>)> {
    let Some(stock) = stock.filter(|_| is_marked(framed)) else {
        let function = with_object(py, framed, |pickle| loads.call1((pickle,)))?;
        return Ok((function.unbind(), Vec::new()));
    };
    let views = WorkerViews::new(stock);
    let (buffers, pickle) = open(py, framed, &views)?;
    let function = with_object(py, pickle, |pickle| loads.call1((pickle, buffers)))?;
    Ok((function.unbind(), views.opened()))
}

/// Makes the plainest of calls, that of a map over scalars, without a tuple; `None` for any other.
fn call_with_scalars<'py>(
    function: &Bound<'py, PyAny>,
    bytes: &[u8],
) -> Option<PyResult<Bound<'py, PyAny>>> {
    let py = function.py();
    let (&n_inputs, call) = bytes.split_first()?;
    let arguments = if n_inputs == 0 {
        few_scalars(py, call)?
    } else {
        return None;
    };
    Some(arguments.and_then(|arguments| {
        put_back(py)?;
        match arguments {
            FewScalars::One(a) => function.call1((a,)),
            FewScalars::Two(a, b) => function.call1((a, b)),
        }
    }))
}

impl Host for PythonHost {
    fn stock(&mut self, own: Arc<WorkerStock>) {
        stock::become_worker(&own);
        let sink = Sink::of_worker(own.arena.clone());
        let sink = Python::attach(|py| Py::new(py, sink).ok());
        self.pickler = sink.map(|sink| Pickler::of_results(Some(sink)));
        self.stock = Some(own);
    }

    fn faults(&mut self, file: OwnedFd) {
        // Open for as long as this process lives: a fault handler writes to it.
        let file = file.into_raw_fd();
        Python::attach(|py| {
            let helpers = self.helpers.bind(py);
            let report = intern!(py, "report_crashes");
            if let Err(error) = helpers.call_method1(report, (file, DUMP_SIGNAL)) {
                // Reports go on to standard error.
                error.print(py);
            }
        });
    }

    fn reporter(&mut self, reporter: Reporter) {
        *lock(&REPORTER) = Some(Arc::new(reporter));
    }

    fn context(&mut self, bytes: &[u8]) {
        // Every call comes with its own, where output goes to the caller; they seldom differ.
        if self.inherited.is_some() || (bytes == self.context && self.astray.is_none()) {
            return;
        }
        self.context = bytes.to_vec();
        Python::attach(|py| {
            // This worker's number stands behind it.
            let (context, number) = bytes.split_last_chunk().unwrap_or((bytes, &[0; 4]));
            let arguments = (PyBytes::new(py, context), u32::from_le_bytes(*number));
            let helpers = self.helpers.bind(py);
            let outcome = helpers.call_method1(intern!(py, "set_context"), arguments);
            let on_misuse = outcome.and_then(|number| number.extract::<u8>());
            match on_misuse {
                Ok(number) => {
                    self.on_misuse = OnMisuse::numbered(number).unwrap_or(OnMisuse::Ignore);
                    misuse::watch(self.on_misuse);
                    self.astray = None;
                }
                Err(error) => self.astray = Some(error),
            }
        });
    }

    fn function(&mut self, function: u32, bytes: Vec<u8>) {
        let at = function as usize;
        if at >= self.functions.len() {
            self.functions.resize_with(at + 1, || None);
        }
        self.functions[at] = Some(Function::Pickled(bytes));
    }

    fn forget(&mut self, function: u32) {
        let slot = self.functions.get_mut(function as usize);
        let Some(function) = slot.and_then(Option::take) else {
            return;
        };
        Python::attach(|py| {
            if let Function::Loaded(loaded) = function {
                drop(loaded.function);
                close(py, loaded.views);
            }
        });
    }

    fn call(&mut self, function: u32, bytes: &[u8], out: &mut Vec<u8>) -> wire::Ending {
        Python::attach(|py| {
            let (is_timed, bytes) = split_timed(bytes);
            let began = is_timed.then(Instant::now);
            let outcome = self.try_call(py, function, bytes, out);
            if HAS_WARNED.load(Ordering::Relaxed) {
                self.forget_warnings(py);
            }
            if IS_FORKED.load(Ordering::Relaxed) {
                self.leave_fork(py, outcome);
            }
            let Err(error) = outcome else {
                if let Some(began) = began {
                    write_elapsed(began.elapsed(), out);
                }
                return wire::Ending::Returned;
            };
            let ending = match &self.inherited {
                Some((_, faults)) => faults.ending(py, &error),
                None => ending_in_worker(py, bytes, &error),
            };
            out.clear();
            let packed = self
                .helpers
                .bind(py)
                .call_method1(intern!(py, "pack"), (error.into_value(py),))
                .and_then(|packed| Ok(packed.cast_into::<PyBytes>()?));
            match packed {
                Ok(packed) => out.extend_from_slice(packed.as_bytes()),
                // Nothing is left to say it with but text.
                Err(worse) => out.extend_from_slice(worse.to_string().as_bytes()),
            }
            match ending {
                Ending::Retriable => wire::Ending::Retriable,
                Ending::Fatal => wire::Ending::Fatal,
                Ending::Failed | Ending::Returned => wire::Ending::Failed,
            }
        })
    }

    fn has_output(&self) -> bool {
        IS_WRITTEN_TO.load(Ordering::Relaxed) || is_stdio_waiting()
    }

    fn before_sending(&mut self) {
        // Before it is flushed: another thread's output may come in between.
        IS_WRITTEN_TO.store(false, Ordering::Relaxed);
        Python::attach(|py| {
            let helpers = self.helpers.bind(py);
            if let Err(error) = helpers.call_method0(intern!(py, "flush_output")) {
                error.print(py);
            }
        });
    }

    fn let_go(&mut self, wait: &mut dyn FnMut()) {
        struct Unattached<'a>(&'a mut dyn FnMut());
        // SAFETY: `wait` runs in this same thread, before `detach` returns; it is only moved past
        // the check that nothing bound to the interpreter goes along, and it holds nothing such.
        #[allow(unsafe_code)]
        unsafe impl Send for Unattached<'_> {}
        let mut wait = Unattached(wait);
        Python::attach(|py| {
            py.detach(move || {
                let wait = &mut wait;
                (wait.0)();
            });
        });
    }
}
