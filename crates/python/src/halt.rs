//! Ending, from another thread, what a thread waits for.

use crate::mapped::lock;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

thread_local! {
    /// What ends the calls that this thread waits for.
    static INNERMOST: RefCell<Option<Arc<State>>> = const { RefCell::new(None) };
}

struct State {
    /// Set once, by any thread; read by the one in the block.
    is_halted: AtomicBool,
    /// Called when the thread in the block begins to wait.
    on_wait: Mutex<Option<Py<PyAny>>>,
}

/// While a thread is in its block, whoever calls `halt` ends what the thread waits for there: as Ctrl-C would
/// in the main thread, but for what others wait for.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Halt {
    state: Arc<State>,
}

#[pymethods]
impl Halt {
    /// `on_wait` is called once, when the thread in the block first waits: what it waits for has been submitted.
    #[new]
    fn new(on_wait: Py<PyAny>) -> Halt {
        let state = State {
            is_halted: AtomicBool::new(false),
            on_wait: Mutex::new(Some(on_wait)),
        };
        Halt {
            state: Arc::new(state),
        }
    }

    /// End what is waited for in the block, also if that is yet to come.
    fn halt(&self) {
        self.state.is_halted.store(true, Ordering::Relaxed);
    }

    fn __enter__(&self) {
        INNERMOST.set(Some(Arc::clone(&self.state)));
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, _exc_info: &Bound<'_, PyTuple>) {
        INNERMOST.set(None);
    }
}

/// The thread is about to wait.
///
/// # Errors
///
/// What whoever wants to know raises.
pub(crate) fn begin_to_wait(py: Python<'_>) -> PyResult<()> {
    let state = INNERMOST.with_borrow(Option::clone);
    let on_wait = state.and_then(|state| lock(&state.on_wait).take());
    on_wait.map_or(Ok(()), |on_wait| on_wait.call0(py).map(drop))
}

/// Hears of a halt.
///
/// # Errors
///
/// `CancelledError`, once there was one.
pub(crate) fn hear(py: Python<'_>) -> PyResult<()> {
    let is_halted = |state: &Arc<State>| state.is_halted.load(Ordering::Relaxed);
    if !INNERMOST.with_borrow(|innermost| innermost.as_ref().is_some_and(is_halted)) {
        return Ok(());
    }
    let futures = py.import(intern!(py, "concurrent.futures"))?;
    let error = futures.getattr(intern!(py, "CancelledError"))?;
    Err(PyErr::from_value(error.call1(("the call was cancelled",))?))
}

/// Adds what this module gives to Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Halt>()
}
