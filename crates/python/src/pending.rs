//! A submitted call under way: what stands behind a `Future`.

use crate::faults::Faults;
use crate::interpreter::{SIGNAL_PAUSE, detached, look_up};
use crate::map_run::MapRun;
use crate::mapped::lock;
use crate::pools::AnyPool;
use crate::relay::{Manner, Teller, Told};
use crate::seeding::Seeding;
use crate::shared::functions::PickledFunction;
use manyhands_executor::CANCEL_GRACE;
use manyhands_graph::TaskIndex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ONLY: TaskIndex = TaskIndex(0);

/// One call that was submitted.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Pending {
    run: Arc<MapRun>,
    scheduler: String,
}

#[pymethods]
impl Pending {
    #[new]
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (pool, function, pickle, args, kwargs, scheduler, root, manner, faults, told = None))]
    fn new<'py>(
        py: Python<'py>,
        pool: AnyPool<'py>,
        function: Py<PyAny>,
        pickle: Option<Bound<'py, PickledFunction>>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
        scheduler: String,
        root: Option<Bound<'py, PyAny>>,
        manner: Manner,
        faults: Option<Bound<'py, PyAny>>,
        told: Option<Bound<'py, Told>>,
    ) -> PyResult<Pending> {
        let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
        let terms = (Seeding::of(root.as_ref())?, Faults::of(faults.as_ref())?);
        let teller = Teller::new(manner, None, &scheduler, &terms.1);
        let teller = teller.told(told.as_ref().map(|told| told.get()));
        let run = MapRun::single(
            py,
            &pool,
            function,
            pickle.as_ref(),
            (&args, kwargs.as_ref()),
            terms,
            teller,
        )?;
        // Whoever submits a call and forgets about it wants it done.
        run.job.detach();
        Ok(Pending {
            run: Arc::new(run),
            scheduler,
        })
    }

    /// Whether the call can be stopped while it runs.
    #[getter]
    fn stoppable(&self) -> bool {
        self.run.is_remote()
    }

    /// The name of the scheduler that runs it.
    #[getter]
    fn scheduler(&self) -> &str {
        &self.scheduler
    }

    /// Whether the call has ended.
    fn done(&self) -> bool {
        self.run.job.has_ended()
    }

    /// Whether the call was cancelled.
    fn cancelled(&self) -> bool {
        self.run.job.is_cancelled()
    }

    /// Whether a worker may have started the call.
    fn running(&self) -> bool {
        !self.run.job.has_ended() && self.run.job.is_running(ONLY)
    }

    /// Wait until the call has ended or the time is up; whether it has ended.
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let timeout =
            timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let (has_ended, said) = self.run.job.look();
            self.run.hear(py, said, &[])?;
            if has_ended {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            let pause = left.map_or(SIGNAL_PAUSE, |left| left.min(SIGNAL_PAUSE));
            detached(py, || {
                if !self.run.job.ends_soon() {
                    self.run.job.wait_until_ended(pause);
                }
            });
            look_up(py)?;
        }
    }

    /// The result of a call that has ended, once; raises what it raised.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let news = self.run.wait(py, Duration::ZERO, false)?;
        if let Some(failure) = &news.failure {
            return Err(self.run.exception(py, failure, &self.scheduler));
        }
        let mut result = None;
        self.run
            .take(py, &news.delivered, |_, value| result = Some(value))?;
        result.ok_or_else(|| {
            pyo3::exceptions::PyRuntimeError::new_err("the result has been taken already")
        })
    }

    /// End the call; `force` also ends it where it is running. Whether it will not return.
    fn cancel(&self, py: Python<'_>, force: bool) -> bool {
        if self.run.job.has_ended() || (!force && self.run.job.is_running(ONLY)) {
            return false;
        }
        // A worker that is about to be done had better be left to it than be ended and replaced.
        let grace = if self.run.is_remote() {
            CANCEL_GRACE
        } else {
            Duration::ZERO
        };
        py.detach(|| self.run.job.cancel(grace));
        // It may have ended on its own just before.
        self.run.job.is_cancelled()
    }

    /// End the call now, as far as it can be ended: also in a thread that runs Python code.
    fn interrupt(&self, py: Python<'_>) {
        self.run.interrupt(py);
    }

    /// Have `completions` give `token` once the call has ended.
    fn notify(&self, completions: &Completions, token: u64) {
        let sender = lock(&completions.sender).clone();
        self.run.job.on_end(move || {
            // Without a receiver nobody wants to know any more.
            let _ = sender.send(Some(token));
        });
    }
}

impl Pending {
    /// Whether the call has ended, and if so, whether it has failed.
    pub(crate) fn outcome(&self) -> Option<bool> {
        self.run.job.outcome()
    }

    /// Tells what its task has said so far.
    pub(crate) fn hear(&self, py: Python<'_>) -> PyResult<()> {
        self.run.hear(py, self.run.job.take_said(), &[])
    }
}

impl Completions {
    /// A way to have a token given.
    pub(crate) fn sender(&self) -> Sender<Option<u64>> {
        lock(&self.sender).clone()
    }
}

/// Tells which calls have ended.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Completions {
    sender: Mutex<Sender<Option<u64>>>,
    receiver: Mutex<Receiver<Option<u64>>>,
}

#[pymethods]
impl Completions {
    #[new]
    fn new() -> Completions {
        let (sender, receiver) = channel();
        Completions {
            sender: Mutex::new(sender),
            receiver: Mutex::new(receiver),
        }
    }

    /// Wait for the next token; None after `close`.
    fn next(&self, py: Python<'_>) -> Option<u64> {
        detached(py, || lock(&self.receiver).recv().ok().flatten())
    }

    /// Have `next` return None.
    fn close(&self) {
        // The receiver is in this same object.
        let _ = lock(&self.sender).send(None);
    }
}
