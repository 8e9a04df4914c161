//! From the end of a job to the exception that its caller gets. The only place where the engine's
//! failures become Python's.

use crate::faults::Faults;
use manyhands_executor::{Death, Failure, MemoryStop, WorkerMemoryLimit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// How the caller is told which task it was.
#[derive(Default)]
pub(crate) struct TaskName {
    /// A short form of the call.
    pub(crate) text: String,
    /// Its key, where it has one.
    pub(crate) key: Option<String>,
    /// Where workers died under it: what was called, with what positional and keyword arguments, as far as
    /// they are at hand.
    pub(crate) called: Option<Py<PyAny>>,
}

/// What is known of how a task failed.
pub(crate) enum Evidence {
    /// The exception itself.
    Raised(PyErr),
    /// The exception as bytes from a worker.
    Packed(Vec<u8>),
    /// Nothing.
    None,
}

fn helpers(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(py.import(intern!(py, "manyhands._raising"))?.into_any())
}

fn from_helper(outcome: PyResult<Bound<'_, PyAny>>) -> PyErr {
    outcome.map_or_else(|error| error, PyErr::from_value)
}

/// The exception to raise for a failure.
pub(crate) fn exception(
    py: Python<'_>,
    failure: &Failure,
    evidence: Evidence,
    name: impl FnOnce() -> TaskName,
    scheduler: &str,
    faults: &Faults,
) -> PyErr {
    let helpers = match helpers(py) {
        Ok(helpers) => helpers,
        Err(error) => return error,
    };
    match failure {
        Failure::Task(_, n_tries) => {
            let TaskName { text, key, .. } = name();
            from_helper(match evidence {
                Evidence::Raised(error) => helpers.call_method1(
                    intern!(py, "raised"),
                    (error.into_value(py), text, key, scheduler, *n_tries),
                ),
                Evidence::Packed(bytes) => helpers.call_method1(
                    intern!(py, "raised_in_worker"),
                    (PyBytes::new(py, &bytes), text, key, scheduler, *n_tries),
                ),
                Evidence::None => helpers.call_method1(intern!(py, "lost"), (text, key)),
            })
        }
        Failure::WorkerDied(_, death) => {
            let TaskName { text, key, called } = name();
            let facts = facts(py, death);
            from_helper(facts.and_then(|facts| {
                let worker_died = intern!(py, "worker_died");
                helpers.call_method1(worker_died, (text, key, called, facts))
            }))
        }
        Failure::OutOfTime(_, n_tries) => {
            let TaskName { text, key, .. } = name();
            from_helper(helpers.call_method1(
                intern!(py, "out_of_time"),
                (text, key, scheduler, faults.limit_s(), *n_tries),
            ))
        }
        Failure::NoRoom(_, shortage) => {
            let TaskName { text, key, .. } = name();
            from_helper(helpers.call_method1(
                intern!(py, "no_room"),
                (
                    text,
                    key,
                    scheduler,
                    shortage.n_bytes,
                    shortage.n_bytes_waiting,
                    shortage.n_bytes_max,
                    shortage.folder.as_os_str(),
                    shortage.reason.as_str(),
                ),
            ))
        }
        Failure::NoWorkers(text) => {
            from_helper(helpers.call_method1(intern!(py, "no_workers"), (text,)))
        }
        Failure::Cancelled => from_helper(helpers.call_method0(intern!(py, "cancelled"))),
    }
}

/// What is known of a death, for Python.
fn facts<'py>(py: Python<'py>, death: &Death) -> PyResult<Bound<'py, PyDict>> {
    let facts = PyDict::new(py);
    facts.set_item("pid", death.pid)?;
    facts.set_item("exitcode", death.exit_code)?;
    facts.set_item("signal", death.signal)?;
    facts.set_item("output", death.last_output.as_str())?;
    facts.set_item("was_running", death.was_running)?;
    facts.set_item("peak_memory", death.n_bytes_peak)?;
    facts.set_item("memory_seen", death.n_bytes_seen)?;
    facts.set_item("report", death.stack.as_str())?;
    facts.set_item("is_oom_kill", death.is_oom_kill)?;
    facts.set_item("memory_there", death.n_bytes_there)?;
    let stop = death.stop.as_deref().map(|stop| stop_facts(py, stop));
    facts.set_item("stop", stop.transpose()?)?;
    let before = death
        .before
        .as_deref()
        .map(|before| self::facts(py, before));
    facts.set_item("before", before.transpose()?)?;
    Ok(facts)
}

fn stop_facts<'py>(py: Python<'py>, stop: &MemoryStop) -> PyResult<Bound<'py, PyDict>> {
    let facts = PyDict::new(py);
    let (limit, value) = match stop.limit {
        WorkerMemoryLimit::Auto => ("auto", None),
        WorkerMemoryLimit::Share(share) => ("share", Some(share)),
        WorkerMemoryLimit::Bytes(_) | WorkerMemoryLimit::None => ("bytes", None),
    };
    facts.set_item("n_bytes", stop.n_bytes)?;
    facts.set_item("n_bytes_all", stop.n_bytes_all)?;
    facts.set_item("n_workers", stop.n_workers)?;
    facts.set_item("n_bytes_max", stop.n_bytes_max)?;
    facts.set_item("n_bytes_there", stop.n_bytes_there)?;
    facts.set_item("n_bytes_available", stop.n_bytes_available)?;
    facts.set_item(
        "group",
        stop.group.as_deref().map(|group| group.as_os_str()),
    )?;
    facts.set_item("limit", limit)?;
    facts.set_item("share", value)?;
    Ok(facts)
}
