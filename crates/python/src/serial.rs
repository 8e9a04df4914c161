//! Calls whose tasks run in the thread that makes them, one after the other.

use crate::interpreter::{InTask, Level, in_task};
use crate::misuse::{self, OnMisuse, watched};
use crate::relay::{Hearing, Manner};
use crate::seeding::Seeding;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::atomic::{AtomicU8, Ordering};

/// What the tasks of one such call have in common.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Serial {
    seeding: Option<Seeding>,
    manner: Manner,
    level: Level,
    /// Of which global states the caller has been told that tasks draw from them.
    told: AtomicU8,
}

#[pymethods]
impl Serial {
    #[new]
    #[pyo3(signature = (root, manner, level = None))]
    fn new(
        root: Option<&Bound<'_, PyAny>>,
        manner: Manner,
        level: Option<Level>,
    ) -> PyResult<Serial> {
        Ok(Serial {
            seeding: root.map(Seeding::new).transpose()?,
            manner,
            level: level.unwrap_or(0),
            told: AtomicU8::new(0),
        })
    }

    /// Whether nothing is to be heard of its tasks.
    #[getter]
    fn is_silent(&self) -> bool {
        self.manner.hearing == Hearing::Silent
    }

    /// Call a function as the task with this number, and act if it draws from a global state.
    fn call<'py>(
        &self,
        number: u64,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let on_misuse = match in_task() {
            // It is the outer task that is watched.
            true => OnMisuse::Ignore,
            false => self.manner.on_misuse,
        };
        let (outcome, drawn) = {
            let _in_task = InTask::enter(self.level);
            match &self.seeding {
                None => watched(on_misuse, function, || function.call(args, kwargs)),
                Some(seeding) => seeding.call_here(on_misuse, number, function, args, kwargs),
            }
        };
        if drawn != 0 {
            let told = self.told.fetch_or(drawn, Ordering::Relaxed);
            if let Some(states) = misuse::untold(drawn, told) {
                let helpers = py.import(intern!(py, "manyhands._relay"))?;
                let warn = intern!(py, "warn_of_misuse");
                helpers.call_method1(warn, (function, states, "synchronous"))?;
            }
        }
        outcome
    }
}
