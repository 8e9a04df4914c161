//! From the end of a job to the exception that its caller gets. The only place where the engine's
//! failures become Python's.

use crate::faults::Faults;
use manyhands_executor::Failure;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// How the caller is told which task it was.
pub(crate) struct TaskName {
    /// A short form of the call.
    pub(crate) text: String,
    /// Its key, where it has one.
    pub(crate) key: Option<String>,
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
            let TaskName { text, key } = name();
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
            let TaskName { text, key } = name();
            from_helper(helpers.call_method1(
                intern!(py, "worker_died"),
                (
                    text,
                    key,
                    death.pid,
                    death.exit_code,
                    death.signal,
                    death.last_output.as_str(),
                ),
            ))
        }
        Failure::OutOfTime(_, n_tries) => {
            let TaskName { text, key } = name();
            from_helper(helpers.call_method1(
                intern!(py, "out_of_time"),
                (text, key, scheduler, faults.limit_s(), *n_tries),
            ))
        }
        Failure::NoRoom(_, shortage) => {
            let TaskName { text, key } = name();
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
