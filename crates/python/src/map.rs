//! `map`, and the iterator behind `stream`.

use crate::durable::recorder::Recorder;
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
use manyhands_executor::Failure;
use pyo3::exceptions::{
    PyException, PyKeyboardInterrupt, PyRuntimeError, PyStopIteration, PyValueError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Arguments that wait for their tasks may take so much memory before more are asked for.
const WAITING_BYTES_MAX: usize = 1 << 28;

/// Runs a function over arguments and returns the results in their order.
#[pyfunction]
#[pyo3(signature = (pool, function, pickle, iterables, chunksize, scheduler, root, manner, faults, recorder=None, tally=None))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn map_all<'py>(
    py: Python<'py>,
    pool: AnyPool<'py>,
    function: Py<PyAny>,
    pickle: Option<Bound<'py, PickledFunction>>,
    iterables: Bound<'py, PyTuple>,
    chunksize: Option<u32>,
    scheduler: &str,
    root: Option<Bound<'py, PyAny>>,
    manner: Manner,
    faults: Option<Bound<'py, PyAny>>,
    recorder: Option<Bound<'py, Recorder>>,
    tally: Option<Bound<'py, Tally>>,
) -> PyResult<Bound<'py, PyList>> {
    let terms = (Seeding::of(root.as_ref())?, Faults::of(faults.as_ref())?);
    let recording = recorder.map(|recorder| Arc::clone(&recorder.get().recording));
    let mut items = Items::new(&iterables)?;
    let teller = Teller::new(manner, None, scheduler, &terms.1);
    let mut run = match &pool {
        AnyPool::Fork(fork) => {
            let listed = items.list(py)?;
            let recording = recording.clone();
            let fork = fork.get();
            MapRun::of_list(
                py, fork, function, listed, chunksize, terms, teller, recording,
            )?
        }
        _ => {
            let (pickle, reader) = (pickle.as_ref(), Reader::Waits);
            MapRun::open(
                py, &pool, function, pickle, chunksize, reader, terms, teller,
            )?
        }
    };
    run.record(recording);
    if let Some(tally) = &tally {
        tally.get().watch(&run.job);
    }
    let outcome = gather(py, &mut run, &mut items, scheduler);
    if outcome.is_err() && !run.job.has_ended() {
        run.abandon(py);
    }
    PyList::new(py, outcome?)
}

fn gather(
    py: Python<'_>,
    run: &mut MapRun,
    items: &mut Items,
    scheduler: &str,
) -> PyResult<Vec<Py<PyAny>>> {
    let mut results: Vec<Option<Py<PyAny>>> = Vec::new();
    results.resize_with(run.n_sent() as usize, || None);
    let mut is_closed = false;
    let mut n_left_out = 0;
    loop {
        let is_held = run.n_bytes_waiting() > WAITING_BYTES_MAX;
        if !items.is_exhausted() && !is_held {
            run.feed(py, items, usize::MAX)?;
            results.resize_with(run.n_sent() as usize, || None);
        }
        if items.is_exhausted() && !is_closed {
            run.job.close();
            is_closed = true;
        }
        let timeout = if is_closed || is_held {
            SIGNAL_PAUSE
        } else {
            Duration::ZERO
        };
        let news = run.wait(py, timeout, !run.is_remote() && !run.is_recording())?;
        look_up(py)?;
        run.take(py, &news.delivered, |index, value| {
            results[index as usize] = Some(value);
        })?;
        for (task, failure) in &news.lost {
            let instead = run.instead(py, *task, failure, scheduler);
            n_left_out += usize::from(instead.is_none());
            results[task.as_usize()] = instead;
        }
        if let Some(failure) = &news.failure {
            return Err(run.exception(py, failure, scheduler));
        }
        if news.is_done {
            break;
        }
    }
    let n_results = results.len() - n_left_out;
    let results: Vec<_> = results.into_iter().flatten().collect();
    assert_eq!(
        results.len(),
        n_results,
        "a map that is done has all results but those left out"
    );
    Ok(results)
}

/// A window that is used up faster than this grows; slower than [`WINDOW_SLOW`], it shrinks.
const WINDOW_FAST: Duration = Duration::from_millis(4);
const WINDOW_SLOW: Duration = Duration::from_millis(100);
const N_IN_WINDOW_MAX: usize = 1 << 16;
/// How many tasks a stream keeps records of before it waits for the oldest to end.
const N_HELD_MAX: usize = 1 << 18;

/// Results of a function over arguments without end, with a bounded number under way.
///
/// Threads may share one: each result goes to one of them.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Stream {
    room: Room<Flow>,
    is_closed: AtomicBool,
}

const REFUSAL: &str = "the stream is asked for its next result from inside of itself";

/// The place of a result in a stream.
#[derive(Default)]
enum Place {
    #[default]
    Open,
    Taken(Py<PyAny>),
    LeftOut,
}

/// What a stream is in the middle of.
struct Flow {
    run: Option<MapRun>,
    items: Items,
    scheduler: String,
    is_ordered: bool,
    /// How many tasks may be submitted and not yet returned.
    n_in_window: usize,
    n_in_window_min: usize,
    is_fixed: bool,
    /// Whether all there will ever be has been submitted.
    is_complete: bool,
    refilled: Instant,
    /// Results by number from `n_returned` on, or in the order in which they came.
    ready: VecDeque<Place>,
    n_returned: u32,
    failure: Option<Failure>,
    /// What the source of the arguments raised: it comes after the results of what came before.
    source_error: Option<PyErr>,
    /// Called once with how it ended: "done", "failed", "interrupted" or "closed".
    on_end: Option<Py<PyAny>>,
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (pool, function, pickle, iterables, chunksize, scheduler, ordered, buffersize, num_workers, root, manner, faults, recorder=None, tally=None, on_end=None))]
    #[allow(clippy::too_many_arguments)]
    fn new<'py>(
        py: Python<'py>,
        pool: AnyPool<'py>,
        function: Py<PyAny>,
        pickle: Option<Bound<'py, PickledFunction>>,
        iterables: Bound<'py, PyTuple>,
        chunksize: Option<u32>,
        scheduler: String,
        ordered: bool,
        buffersize: Option<usize>,
        num_workers: usize,
        root: Option<Bound<'py, PyAny>>,
        manner: Manner,
        faults: Option<Bound<'py, PyAny>>,
        recorder: Option<Bound<'py, Recorder>>,
        tally: Option<Bound<'py, Tally>>,
        on_end: Option<Py<PyAny>>,
    ) -> PyResult<Stream> {
        if buffersize == Some(0) {
            return Err(PyValueError::new_err("buffersize=0: at least 1 is needed"));
        }
        let n_least = 4 * num_workers.max(chunksize.unwrap_or(1) as usize);
        let items = Items::new(&iterables)?;
        let pickle = pickle.as_ref();
        let terms = (Seeding::of(root.as_ref())?, Faults::of(faults.as_ref())?);
        let teller = Teller::new(manner, None, &scheduler, &terms.1);
        let reader = Reader::Takes;
        let mut run = MapRun::open(
            py, &pool, function, pickle, chunksize, reader, terms, teller,
        )?;
        run.record(recorder.map(|recorder| Arc::clone(&recorder.get().recording)));
        if let Some(tally) = &tally {
            tally.get().watch(&run.job);
        }
        let flow = Flow {
            items,
            run: Some(run),
            scheduler,
            is_ordered: ordered,
            n_in_window: buffersize.unwrap_or(n_least),
            n_in_window_min: n_least,
            is_fixed: buffersize.is_some(),
            is_complete: false,
            refilled: Instant::now(),
            ready: VecDeque::new(),
            n_returned: 0,
            failure: None,
            source_error: None,
            on_end,
        };
        Ok(Stream {
            room: Room::new(flow, REFUSAL),
            is_closed: AtomicBool::new(false),
        })
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let outcome = self.room.enter(py, |flow| {
            let outcome = flow.advance(py, &self.is_closed);
            if !matches!(outcome, Ok(Some(_))) {
                flow.end(py, outcome.is_err());
                flow.tell_end(
                    py,
                    match &outcome {
                        Err(error) if error.is_instance_of::<PyException>(py) => "failed",
                        Err(_) => "interrupted",
                        Ok(_) if self.is_closed.load(Ordering::Acquire) => "closed",
                        Ok(_) => "done",
                    },
                );
            }
            if let Err(error) = &outcome
                && error.is_instance_of::<PyKeyboardInterrupt>(py)
            {
                py.import(intern!(py, "manyhands._pools"))?
                    .call_method1(intern!(py, "interrupted"), (&flow.scheduler,))?;
            }
            outcome
        });
        if self.is_closed.load(Ordering::Acquire) {
            // By a thread that has found this one inside.
            self.end_if_free(py)?;
        }
        match outcome {
            // From an iterator it would pass for the end of the results.
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                let end = PyRuntimeError::new_err("a task of the stream raised StopIteration");
                end.set_cause(py, Some(error));
                Err(end)
            }
            outcome => outcome,
        }
    }

    /// End the stream: what is under way is cancelled.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        // Whoever is inside sees this, at the latest when leaving: it may be amid the source of the arguments, which
        // may be waiting for this thread.
        self.is_closed.store(true, Ordering::Release);
        self.end_if_free(py)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(run) = self.room.get_mut().run.take()
            && !run.job.has_ended()
        {
            // Its job is cancelled as it is dropped, which stops nothing in threads. Whoever lets go of an
            // object is attached, but for the last moments of the interpreter.
            Python::try_attach(|py| run.interrupt_threads(py));
        }
    }
}

impl Stream {
    fn end_if_free(&self, py: Python<'_>) -> PyResult<()> {
        self.room.enter_if_free(py, |flow| {
            flow.end(py, true);
            flow.tell_end(py, "closed");
        })
    }
}

impl Flow {
    fn end(&mut self, py: Python<'_>, is_early: bool) {
        self.ready.clear();
        self.source_error = None;
        if let Some(run) = self.run.take()
            && is_early
            && !run.job.has_ended()
        {
            run.abandon(py);
        }
    }

    /// Says that it has ended, to who shows how far it is.
    fn tell_end(&mut self, py: Python<'_>, how: &str) {
        if let Some(on_end) = self.on_end.take()
            && let Err(error) = on_end.call1(py, (how,))
        {
            error.write_unraisable(py, Some(on_end.bind(py)));
        }
    }

    fn pop(&mut self) -> Option<Py<PyAny>> {
        loop {
            if matches!(self.ready.front(), None | Some(Place::Open)) {
                return None;
            }
            self.n_returned = self.n_returned.wrapping_add(1);
            if let Some(Place::Taken(value)) = self.ready.pop_front() {
                return Some(value);
            }
        }
    }

    fn put(&mut self, index: u32, place: Place) {
        if !self.is_ordered {
            self.ready.push_back(place);
            return;
        }
        let at = index.wrapping_sub(self.n_returned) as usize;
        if at >= self.ready.len() {
            self.ready.resize_with(at + 1, Place::default);
        }
        self.ready[at] = place;
    }

    fn advance(&mut self, py: Python<'_>, is_closed: &AtomicBool) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if self.failure.is_none() && !is_closed.load(Ordering::Acquire) {
                self.refill(py)?;
            }
            if is_closed.load(Ordering::Acquire) {
                self.end(py, true);
                return Ok(None);
            }
            let n_returned = self.n_returned;
            if let Some(value) = self.pop() {
                return Ok(Some(value));
            }
            if self.n_returned != n_returned {
                // Places that are left out make room as results do: with none in the window, no news would come.
                continue;
            }
            let Some(run) = &self.run else {
                return Ok(None);
            };
            if let Some(failure) = &self.failure {
                return Err(run.exception(py, failure, &self.scheduler));
            }
            if self.is_complete && run.n_sent() == self.n_returned {
                run.tell_rest(py, None)?;
                return self.source_error.take().map_or(Ok(None), Err);
            }
            let news = run.wait(py, SIGNAL_PAUSE, false)?;
            look_up(py)?;
            let mut places = Vec::with_capacity(news.delivered.len() + news.lost.len());
            run.take(py, &news.delivered, |index, value| {
                places.push((index, Place::Taken(value)));
            })?;
            places.extend(news.lost.iter().map(|(task, failure)| {
                let instead = run.instead(py, *task, failure, &self.scheduler);
                (task.0, instead.map_or(Place::LeftOut, Place::Taken))
            }));
            for (index, place) in places {
                self.put(index, place);
            }
            self.failure = news.failure;
        }
    }

    /// Submits more once half of the window has been used up. An interrupt is raised here and now; it is
    /// only errors that wait for the results of what came before.
    fn refill(&mut self, py: Python<'_>) -> PyResult<()> {
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        let n_out = run.n_sent().wrapping_sub(self.n_returned) as usize;
        if self.is_complete || n_out * 2 > self.n_in_window {
            return Ok(());
        }
        if !self.is_fixed && run.n_sent() > 0 {
            let elapsed = self.refilled.elapsed();
            if elapsed < WINDOW_FAST {
                self.n_in_window = (2 * self.n_in_window).min(N_IN_WINDOW_MAX);
            } else if elapsed > WINDOW_SLOW {
                self.n_in_window = (self.n_in_window / 2).max(self.n_in_window_min);
            }
        }
        self.refilled = Instant::now();
        let n_wanted = self.n_in_window.saturating_sub(n_out);
        // One slow call among many fast ones, whose results have been returned, holds their records.
        let is_full = run.n_held() > N_HELD_MAX || run.n_bytes_waiting() > WAITING_BYTES_MAX / 4;
        if !is_full || n_out == 0 {
            let fed = run.feed(py, &mut self.items, n_wanted);
            self.source_error = match fed {
                Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
                fed => fed.err(),
            };
        }
        if self.items.is_exhausted() || self.source_error.is_some() {
            run.job.close();
            self.is_complete = true;
        }
        Ok(())
    }
}
