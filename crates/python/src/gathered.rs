//! A map that runs by itself, and whose results are looked at one by one, in the order of the items: the
//! `map` of an executor. A call that fails has its place among the others, which go on.

use crate::faults::Faults;
use crate::interpreter::{SIGNAL_PAUSE, look_up};
use crate::items::Items;
use crate::map_run::{MapRun, Reader};
use crate::pools::AnyPool;
use crate::relay::{Manner, Teller};
use crate::room::Room;
use crate::seeding::Seeding;
use crate::shared::functions::PickledFunction;
use crate::tally::Tally;
use manyhands_executor::{Failure, Job};
use manyhands_graph::TaskIndex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REFUSAL: &str = "the results of the map are asked for from inside of itself";

/// Results of a function over arguments, by their numbers.
#[pyclass(frozen, weakref, module = "manyhands._native")]
pub(crate) struct Gathered {
    room: Room<State>,
    /// That of the run: it is closed and cancelled by whoever wants that, whoever is waiting inside.
    job: Arc<Job>,
    scheduler: String,
}

struct State {
    run: MapRun,
    items: Items,
    /// The next to be looked at.
    next: u32,
    /// Which are there, from the next on.
    there: VecDeque<bool>,
    /// What ended those among them that have no outcome of their own.
    lost: HashMap<u32, Failure>,
    failure: Option<Failure>,
}

#[pymethods]
impl Gathered {
    #[new]
    #[pyo3(signature = (pool, function, pickle, iterables, scheduler, root, manner, tally=None))]
    #[allow(clippy::too_many_arguments)]
    fn new<'py>(
        py: Python<'py>,
        pool: AnyPool<'py>,
        function: Py<PyAny>,
        pickle: Option<Bound<'py, PickledFunction>>,
        iterables: Bound<'py, PyTuple>,
        scheduler: String,
        root: Option<Bound<'py, PyAny>>,
        manner: Manner,
        tally: Option<Bound<'py, Tally>>,
    ) -> PyResult<Gathered> {
        // How each call ends is its result, its worker's death included.
        let terms = (Seeding::of(root.as_ref())?, Faults::tolerant());
        let items = Items::new(&iterables)?;
        let pickle = pickle.as_ref();
        let teller = Teller::new(manner, None, &scheduler, &terms.1);
        let reader = Reader::Looks;
        let run = MapRun::open(py, &pool, function, pickle, None, reader, terms, teller)?;
        if let Some(tally) = &tally {
            tally.get().watch(&run.job);
        }
        let job = Arc::clone(&run.job);
        let state = State {
            run,
            items,
            next: 0,
            there: VecDeque::new(),
            lost: HashMap::new(),
            failure: None,
        };
        Ok(Gathered {
            room: Room::new(state, REFUSAL),
            job,
            scheduler,
        })
    }

    /// Submit up to so many more calls, or all there are; whether there may be more.
    ///
    /// Nobody need take the results: what has been submitted runs in any case, unless it is cancelled.
    #[pyo3(signature = (n_more = None))]
    fn feed(&self, py: Python<'_>, n_more: Option<u32>) -> PyResult<bool> {
        self.room.enter(py, |state| state.feed(py, n_more))
    }

    /// The next result, waiting for it until the time is up. Raises what the call raised.
    #[pyo3(signature = (timeout = None))]
    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let timeout =
            timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let found = (self.room).enter(py, |state| state.next(py, deadline, &self.scheduler))?;
        let late = || {
            let futures = py.import(intern!(py, "concurrent.futures"))?;
            let error = futures.getattr(intern!(py, "TimeoutError"))?.call0()?;
            Err(PyErr::from_value(error))
        };
        found.map_or_else(late, Ok)
    }

    /// Whether every call that was submitted has been looked at.
    fn is_exhausted(&self, py: Python<'_>) -> PyResult<bool> {
        (self.room).enter(py, |state| Ok(state.next == state.run.n_sent()))
    }

    /// Submit no more than has been, and let that run whether or not anybody takes the results. Waits for nobody.
    fn stop_feeding(&self) {
        close(&self.job);
    }

    /// Whether everything has been submitted that there is, as far as is known.
    fn is_complete(&self, py: Python<'_>) -> PyResult<bool> {
        (self.room).enter(py, |state| {
            Ok(state.items.is_exhausted() && !state.run.is_cut())
        })
    }

    /// Whether `stop_feeding` has kept an item back.
    fn is_cut(&self, py: Python<'_>) -> PyResult<bool> {
        self.room.enter(py, |state| {
            if state.run.is_cut() || state.items.is_exhausted() {
                return Ok(state.run.is_cut());
            }
            Ok(state.items.next(py)?.is_some())
        })
    }

    /// End what has not started, and let the rest end.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.job.cancel(Duration::MAX));
    }

    /// End it now, as far as it can be ended.
    fn interrupt(&self, py: Python<'_>) -> PyResult<()> {
        self.room.enter(py, |state| {
            state.run.interrupt(py);
            Ok(())
        })
    }
}

fn close(job: &Job) {
    job.close();
    // Before that, nobody but the owner would ever say that it is complete.
    job.detach();
}

impl State {
    fn feed(&mut self, py: Python<'_>, n_more: Option<u32>) -> PyResult<bool> {
        let end = n_more.map(|n_more| self.run.n_sent().wrapping_add(n_more));
        loop {
            let n_left = match end {
                Some(end) => end.wrapping_sub(self.run.n_sent()) as usize,
                None => usize::MAX,
            };
            if self.run.job.is_closed() || self.items.is_exhausted() || n_left == 0 {
                break;
            }
            self.run.feed(py, &mut self.items, n_left)?;
            py.check_signals()?;
        }
        if self.items.is_exhausted() {
            close(&self.run.job);
        }
        Ok(!self.run.job.is_closed())
    }

    fn arrived(&mut self, task: TaskIndex) {
        let at = task.0.wrapping_sub(self.next) as usize;
        if at >= self.there.len() {
            self.there.resize(at + 1, false);
        }
        self.there[at] = true;
    }

    /// The next result once it is there; none when the time is up.
    fn next(
        &mut self,
        py: Python<'_>,
        deadline: Option<Instant>,
        scheduler: &str,
    ) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if self.there.front() == Some(&true) {
                let task = TaskIndex(self.next);
                self.there.pop_front();
                self.next = self.next.wrapping_add(1);
                if let Some(failure) = self.lost.remove(&task.0) {
                    return Err(self.run.exception(py, &failure, scheduler));
                }
                return self.run.take_one(py, task, scheduler);
            }
            if let Some(failure) = &self.failure {
                return Err(self.run.exception(py, failure, scheduler));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let pause = left.map_or(SIGNAL_PAUSE, |left| left.min(SIGNAL_PAUSE));
            let news = self.run.wait(py, pause, false)?;
            look_up(py)?;
            let is_any =
                !news.delivered.is_empty() || !news.lost.is_empty() || news.failure.is_some();
            for task in &news.delivered {
                self.arrived(*task);
            }
            for (task, failure) in news.lost {
                self.arrived(task);
                self.lost.insert(task.0, failure);
            }
            self.failure = news.failure;
            if !is_any && left == Some(Duration::ZERO) {
                return Ok(None);
            }
        }
    }
}
