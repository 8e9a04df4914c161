//! Lines of tasks that run in threads: while any thread of a pool works, `sys.stdout` and `sys.stderr` are stood for by
//! proxies (`manyhands._relay._Proxy`), which pass on whole lines, or keep apart who said what.
//!
//! The interpreter's lock protects what is here. Where making a proxy lets go of it, whoever makes it is counted already,
//! so that nobody takes off what is only half in place.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::interpreter::{in_task, is_of_pool};
use crate::mapped::lock;

/// Who needs the proxies: threads at work, and calls whose output is kept apart.
static N_USERS: AtomicUsize = AtomicUsize::new(0);

/// Proxies of streams that cannot hold them themselves.
static KEPT: Mutex<VecDeque<Py<PyAny>>> = Mutex::new(VecDeque::new());
const N_KEPT_MAX: usize = 64;

thread_local! {
    /// Whether this thread's task has begun a line that has not been passed on.
    static HAS_PART: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, tasks of threads write whole lines.
pub(crate) struct Lines<'py>(Python<'py>);

impl<'py> Lines<'py> {
    pub(crate) fn enter(py: Python<'py>) -> Lines<'py> {
        begin(py);
        Lines(py)
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        end(self.0);
    }
}

fn begin(py: Python<'_>) {
    N_USERS.fetch_add(1, Ordering::Relaxed);
    // Whoever came first may be about to do so.
    if let Err(error) = put_in_place(py) {
        // Lines may be torn then, and nothing else.
        error.write_unraisable(py, None);
    }
}

fn end(py: Python<'_>) {
    // A child may leave what its parent has entered.
    let less = |n_users: usize| Some(n_users.saturating_sub(1));
    let before = N_USERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    if before.is_ok_and(|n_users| n_users <= 1)
        && let Err(error) = take_off(py)
    {
        error.write_unraisable(py, None);
    }
}

fn sys(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static SYS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let import = || Ok::<_, PyErr>(py.import(intern!(py, "sys"))?.unbind());
    Ok(SYS.get_or_try_init(py, import)?.bind(py))
}

/// Reads the module that has the proxies, so that no task begins while it is being read.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    proxy_class(py).map(drop)
}

fn proxy_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let find = || {
        let module = py.import(intern!(py, "manyhands._relay"))?;
        Ok::<_, PyErr>(module.getattr(intern!(py, "_Proxy"))?.unbind())
    };
    Ok(CLASS.get_or_try_init(py, find)?.bind(py))
}

fn is_proxy(stream: &Bound<'_, PyAny>, class: &Bound<'_, PyAny>) -> bool {
    stream.get_type().is(class)
}

fn put_in_place(py: Python<'_>) -> PyResult<()> {
    let (sys, class) = (sys(py)?, proxy_class(py)?);
    let names = [intern!(py, "stdout"), intern!(py, "stderr")];
    for (at, name) in names.into_iter().enumerate() {
        if let Some(stream) = sys.getattr_opt(name)?
            && !stream.is_none()
            && !is_proxy(&stream, class)
        {
            sys.setattr(name, proxy_of(at, &stream, class)?)?;
        }
    }
    Ok(())
}

/// The stream's proxy. It lives as long as the stream: `print` holds on to neither, so that a proxy that went when it is
/// taken off would be gone under a thread that is just printing.
fn proxy_of<'py>(
    at: usize,
    stream: &Bound<'py, PyAny>,
    class: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = stream.py();
    let name = intern!(py, "_manyhands_proxy");
    // Those that stand for another stream may say that its attributes are theirs.
    let is_its_own = |proxy: &Bound<'py, PyAny>| {
        let original = proxy.getattr(intern!(py, "_original"));
        is_proxy(proxy, class) && original.is_ok_and(|original| original.is(stream))
    };
    if let Some(proxy) = stream.getattr_opt(name)?.filter(is_its_own) {
        return Ok(proxy);
    }
    let proxy = class.call1((at + 1, stream))?;
    if stream.setattr(name, &proxy).is_err() {
        let mut kept = lock(&KEPT);
        kept.push_back(proxy.clone().unbind());
        let last = (kept.len() > N_KEPT_MAX).then(|| kept.pop_front());
        drop(kept);
        drop(last);
    }
    Ok(proxy)
}

fn take_off(py: Python<'_>) -> PyResult<()> {
    let (sys, class) = (sys(py)?, proxy_class(py)?);
    for name in [intern!(py, "stdout"), intern!(py, "stderr")] {
        if let Some(stream) = sys.getattr_opt(name)?
            && is_proxy(&stream, class)
        {
            sys.setattr(name, stream.getattr(intern!(py, "_original"))?)?;
        }
    }
    Ok(())
}

/// A task has ended: what it has written of a line is passed on, if there is any.
///
/// # Errors
///
/// What the stream raises.
#[inline]
pub(crate) fn pass_on_part(py: Python<'_>) -> PyResult<()> {
    match HAS_PART.get() {
        true => pass_on_held(py),
        false => Ok(()),
    }
}

#[cold]
fn pass_on_held(py: Python<'_>) -> PyResult<()> {
    HAS_PART.set(false);
    let module = py.import(intern!(py, "manyhands._relay"))?;
    module.call_method0(intern!(py, "pass_on_parts")).map(drop)
}

/// This thread's task has begun a line, which `manyhands._relay.pass_on_parts` is to pass on when it ends.
#[pyfunction]
fn note_part() {
    HAS_PART.set(true);
}

/// Whether the calling thread is one of a pool that runs a task.
#[pyfunction]
fn is_task_of_thread() -> bool {
    is_of_pool() && in_task()
}

/// Whether anybody needs the proxies in the place of `sys.stdout` and `sys.stderr`.
#[pyfunction]
fn has_proxies() -> bool {
    N_USERS.load(Ordering::Relaxed) > 0
}

/// Put proxies there until `end_proxies` has been called as often.
#[pyfunction]
fn begin_proxies(py: Python<'_>) {
    begin(py);
}

#[pyfunction]
fn end_proxies(py: Python<'_>) {
    end(py);
}

/// In a forked child, which has none of the threads.
#[pyfunction]
fn forget_proxies(py: Python<'_>) -> PyResult<()> {
    N_USERS.store(0, Ordering::Relaxed);
    HAS_PART.set(false);
    take_off(py)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(note_part, module)?)?;
    module.add_function(wrap_pyfunction!(is_task_of_thread, module)?)?;
    module.add_function(wrap_pyfunction!(has_proxies, module)?)?;
    module.add_function(wrap_pyfunction!(begin_proxies, module)?)?;
    module.add_function(wrap_pyfunction!(end_proxies, module)?)?;
    module.add_function(wrap_pyfunction!(forget_proxies, module)?)
}
