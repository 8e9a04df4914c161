//! What callers ask for about tasks that fail or take too long: a `manyhands._faults.Faults`, as the engine
//! needs it.
//!
//! Which exceptions a task is tried again for is decided where the exception is. For worker processes this
//! stands before the call in a task's bytes, as what its random numbers descend from does:
//!
//! ```text
//! tried  = TRIED  length, pickle of the classes (none: any Exception)  rest
//! ```

use crate::call::TaskInputs;
use crate::codec::{Reader, write_bytes};
use manyhands_scheduler::{Ending, Rules};
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// In the place of a call's mode, none of which it is.
const TRIED: u8 = 0x60;

/// What comes in the place of a result that does not come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum OnError {
    /// Nothing: the call raises the exception.
    #[default]
    Raise,
    /// The exception.
    Return,
    /// Nothing: the place is left out.
    Skip,
    /// What says that it is to be left out, for calls that have places beside those of their tasks.
    Mark,
}

/// What holds for the tasks of one job. By default, nothing in particular.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) on_error: OnError,
    pub(crate) rules: Rules,
    /// For which exceptions a task is tried again; any `Exception` if it is none.
    retry_on: Option<Py<PyAny>>,
    /// The Python object.
    object: Option<Py<PyAny>>,
}

fn nanoseconds(seconds: f64) -> u64 {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Faults {
    /// What a call was given.
    pub(crate) fn of(object: Option<&Bound<'_, PyAny>>) -> PyResult<Arc<Faults>> {
        let Some(object) = object else {
            return Ok(Arc::default());
        };
        let py = object.py();
        let on_error: String = object.getattr(intern!(py, "on_error"))?.extract()?;
        let on_error = match on_error.as_str() {
            "raise" => OnError::Raise,
            "return" => OnError::Return,
            "skip" => OnError::Skip,
            "mark" => OnError::Mark,
            other => return Err(PyValueError::new_err(format!("on_error={other:?}"))),
        };
        let n_retries = object.getattr(intern!(py, "retries"))?.extract()?;
        let delay_s = object.getattr(intern!(py, "retry_delay"))?.extract()?;
        let limit_s: Option<f64> = object.getattr(intern!(py, "timeout"))?.extract()?;
        let retry_on: Option<Bound<'_, PyAny>> =
            object.getattr(intern!(py, "retry_on"))?.extract()?;
        let retries_out_of_time = object
            .getattr(intern!(py, "retries_timeouts"))?
            .is_truthy()?;
        Ok(Arc::new(Faults {
            on_error,
            rules: Rules {
                is_tolerant: on_error != OnError::Raise,
                n_retries,
                rest_ns: nanoseconds(delay_s),
                retries_out_of_time,
                limit_ns: limit_s.and_then(|limit_s| NonZeroU64::new(nanoseconds(limit_s))),
            },
            retry_on: retry_on.map(Bound::unbind),
            object: Some(object.clone().unbind()),
        }))
    }

    /// Tasks that fail leave the others alone.
    pub(crate) fn tolerant() -> Arc<Faults> {
        let mut faults = Faults::default();
        faults.rules.is_tolerant = true;
        Arc::new(faults)
    }

    /// How often a task is tried at most, not counting tries that its worker's death ended.
    pub(crate) fn n_tries_max(&self) -> u32 {
        self.rules.n_retries.saturating_add(1)
    }

    /// How long a task may run, in seconds; infinity for as long as it likes.
    pub(crate) fn limit_s(&self) -> f64 {
        (self.rules.limit_ns).map_or(f64::INFINITY, |limit_ns| limit_ns.get() as f64 / 1e9)
    }

    /// In what way a task ended that raised, in this process.
    pub(crate) fn ending(&self, py: Python<'_>, error: &PyErr) -> Ending {
        if !error.is_instance_of::<PyException>(py) {
            return Ending::Fatal;
        }
        let is_meant = match &self.retry_on {
            _ if self.rules.n_retries == 0 => false,
            None => true,
            Some(classes) => error
                .value(py)
                .is_instance(classes.bind(py))
                .unwrap_or(false),
        };
        match is_meant {
            true => Ending::Retriable,
            false => Ending::Failed,
        }
    }

    /// The same of an outcome.
    pub(crate) fn ending_of<T>(&self, py: Python<'_>, outcome: &PyResult<T>) -> Ending {
        match outcome {
            Ok(_) => Ending::Returned,
            Err(error) => self.ending(py, error),
        }
    }

    /// What stands before a task's call on its way to a worker process; nothing if it is not to be tried
    /// again.
    pub(crate) fn prefix(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        let mut prefix = Vec::new();
        if self.rules.n_retries > 0 {
            prefix.push(TRIED);
            match &self.object {
                Some(object) if self.retry_on.is_some() => {
                    let packed = object.bind(py).call_method0(intern!(py, "pack"))?;
                    write_bytes(&mut prefix, packed.cast::<PyBytes>()?.as_bytes());
                }
                _ => write_bytes(&mut prefix, b""),
            }
        }
        Ok(prefix)
    }
}

/// What stands before a call about trying it again, and the rest.
pub(crate) fn strip(bytes: &[u8]) -> PyResult<(Option<&[u8]>, &[u8])> {
    if bytes.first() != Some(&TRIED) {
        return Ok((None, bytes));
    }
    let mut reader = Reader::new(&bytes[1..]);
    let n_bytes = reader.count()?;
    let packed = reader.take(n_bytes)?;
    Ok((Some(packed), reader.rest()))
}

/// In what way a task ended that raised in a worker which was sent these bytes.
pub(crate) fn ending_in_worker(py: Python<'_>, bytes: &[u8], error: &PyErr) -> Ending {
    if !error.is_instance_of::<PyException>(py) {
        return Ending::Fatal;
    }
    let mut reader = Reader::new(bytes);
    let packed = TaskInputs::read(&mut reader).and_then(|_| Ok(strip(reader.rest())?.0));
    let is_meant = match packed {
        Ok(Some(b"")) => true,
        Ok(Some(packed)) => py
            .import(intern!(py, "manyhands._faults"))
            .and_then(|module| {
                let packed = PyBytes::new(py, packed);
                module
                    .call_method1(intern!(py, "is_meant"), (packed, error.value(py)))?
                    .is_truthy()
            })
            .unwrap_or(false),
        // Bytes that nobody can read are an error that has been told.
        Ok(None) | Err(_) => false,
    };
    match is_meant {
        true => Ending::Retriable,
        false => Ending::Failed,
    }
}
