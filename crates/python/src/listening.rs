//! What is noted of tasks that run in threads of this process: whose output is whose, and who draws from a global state.

use crate::faults::Faults;
use crate::kept::Kept;
use crate::mapped::lock;
use crate::misuse::OnMisuse;
use crate::relay::Manner;
use manyhands_scheduler::Ending;
use pyo3::intern;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// For the tasks of one job.
pub(crate) struct Listening {
    on_misuse: OnMisuse,
    /// A `manyhands._relay.Recorder`, where output is kept apart.
    recorder: Kept<Option<(Py<PyAny>, Arc<Faults>)>>,
    has_drawn: AtomicBool,
    /// Tasks that have drawn, and from which states: one for each function would do.
    drawn: Mutex<Vec<(u32, u8)>>,
}

/// So many tasks are named at most.
const N_DRAWN_MAX: usize = 1000;

impl Listening {
    pub(crate) fn new(py: Python<'_>, manner: Manner, faults: &Arc<Faults>) -> PyResult<Listening> {
        let recorder = manner.recorder(py, faults.n_tries_max())?;
        Ok(Listening {
            on_misuse: manner.on_misuse,
            recorder: Kept::new(recorder.map(|recorder| (recorder, Arc::clone(faults)))),
            has_drawn: AtomicBool::new(false),
            drawn: Mutex::default(),
        })
    }

    /// Has a task called that has this number, and this place in the serial run. The call says which global states the
    /// task has drawn from where that matters.
    #[inline]
    pub(crate) fn call<'py>(
        &self,
        py: Python<'py>,
        (number, rank): (u32, u32),
        call: impl FnOnce(OnMisuse) -> (PyResult<Bound<'py, PyAny>>, u8),
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some((recorder, _)) = &*self.recorder {
            (recorder.bind(py)).call_method1(intern!(py, "begin"), (rank,))?;
        }
        let (outcome, drawn) = call(self.on_misuse);
        if drawn != 0 {
            let mut all = lock(&self.drawn);
            if all.len() < N_DRAWN_MAX {
                all.push((number, drawn));
            }
            self.has_drawn.store(true, Ordering::Release);
        }
        if let Some((recorder, faults)) = &*self.recorder {
            let may_follow = faults.ending_of(py, &outcome) == Ending::Retriable;
            (recorder.bind(py)).call_method1(intern!(py, "end"), (may_follow,))?;
        }
        outcome
    }

    /// Who has drawn since the last time.
    pub(crate) fn take_drawn(&self) -> Vec<(u32, u8)> {
        match self.has_drawn.swap(false, Ordering::AcqRel) {
            true => std::mem::take(&mut lock(&self.drawn)),
            false => Vec::new(),
        }
    }

    /// The job has ended: what is left of the output appears, all of it, or up to this place.
    pub(crate) fn end(&self, py: Python<'_>, is_done: bool, failed: Option<u32>) -> PyResult<()> {
        if let Some((recorder, _)) = &*self.recorder {
            (recorder.bind(py)).call_method1(intern!(py, "finish"), (is_done, failed))?;
        }
        Ok(())
    }
}
