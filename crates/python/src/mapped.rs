//! The tasks of a map, a stream or a submitted call: one function over many arguments.
//!
//! [`LocalMap`] keeps objects, for threads; [`RemoteMap`] keeps bytes, for processes. Both forget
//! arguments once a task is done, and results once they are taken.

use crate::blas::Busy;
use crate::context::Context;
use crate::durable::{Recording, Slot as RecordingSlot, untimed};
use crate::faults::Faults;
use crate::interpreter::{InTask, Level, OnList, StayAtEnd, Turns};
use crate::kept::Kept;
use crate::listening::Listening;
use crate::map_run::Terms;
use crate::misuse::watched;
use crate::payload::{Block, Blocks, Outcome, ToSpill, Window, backlog, spill};
use crate::prints;
use crate::seeding::{Place, Seeding};
use manyhands_executor::{Backlog, Feed, Program, RemoteProgram, Shortage, Spilled, Stock};
use manyhands_graph::TaskIndex;
use manyhands_scheduler::Ending;
use manyhands_store::SegmentId;
use manyhands_wire::{TaskKey, TasksWriter};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks: a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The arguments of a call. One needs no tuple.
#[derive(Debug)]
pub(crate) enum Arguments {
    One(Py<PyAny>),
    Many(Py<PyTuple>),
}

impl Arguments {
    pub(crate) fn tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        match self {
            Arguments::One(item) => PyTuple::new(py, [item]),
            Arguments::Many(items) => Ok(items.bind(py).clone()),
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Arguments {
        match self {
            Arguments::One(item) => Arguments::One(item.clone_ref(py)),
            Arguments::Many(items) => Arguments::Many(items.clone_ref(py)),
        }
    }

    pub(crate) fn call<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        match (self, kwargs) {
            (Arguments::One(item), None) => function.call1((item.bind_borrowed(py),)),
            (Arguments::One(_), Some(_)) => function.call(self.tuple(py)?, kwargs),
            (Arguments::Many(items), _) => function.call(items.bind(py), kwargs),
        }
    }

    /// The same on the stream with this number.
    pub(crate) fn call_seeded<'py>(
        &self,
        seeding: &Seeding,
        place: Place,
        number: u32,
        function: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let args = self.tuple(function.py())?;
        seeding.call(place, number.into(), function, &args, kwargs)
    }
}

/// A task of a [`LocalMap`].
#[derive(Debug)]
pub(crate) enum Slot {
    Waiting(Arguments),
    Returned(Py<PyAny>),
    /// The exception, and the arguments to name.
    Failed(Box<(PyErr, Arguments)>),
    Gone,
}

// There is one for each task of a map.
const _: () = assert!(size_of::<Slot>() <= 16);

/// A function over arguments, in this process.
pub(crate) struct LocalMap {
    pub(crate) function: Kept<Py<PyAny>>,
    pub(crate) kwargs: Kept<Option<Py<PyDict>>>,
    seeding: Kept<Option<Arc<Seeding>>>,
    level: Level,
    faults: Kept<Arc<Faults>>,
    slots: Kept<Mutex<Window<Slot>>>,
    pub(crate) listening: Listening,
    context: Context,
    /// Threads that are running tasks of this map, by the interpreter's numbers.
    threads: Mutex<Vec<u64>>,
    /// Whether how a call failed is kept for its place, and the others go on.
    goes_on: bool,
    recording: RecordingSlot,
}

impl LocalMap {
    pub(crate) fn new(
        function: Py<PyAny>,
        kwargs: Option<Py<PyDict>>,
        (seeding, faults): Terms,
        level: Level,
        (listening, context): (Listening, Context),
    ) -> LocalMap {
        LocalMap {
            function: Kept::new(function),
            kwargs: Kept::new(kwargs),
            seeding: Kept::new(seeding),
            level,
            faults: Kept::new(faults),
            slots: Kept::new(Mutex::default()),
            listening,
            context,
            threads: Mutex::default(),
            goes_on: false,
            recording: RecordingSlot::new(),
        }
    }

    /// The same, of calls that do not end with the first that fails.
    pub(crate) fn going_on(mut self, goes_on: bool) -> LocalMap {
        self.goes_on = goes_on;
        self
    }

    /// Stores what its tasks return. To be called before there are any.
    pub(crate) fn record(&self, recording: Arc<Recording>) {
        let _ = self.recording.set(recording);
    }

    pub(crate) fn push(&self, args: impl IntoIterator<Item = Arguments>) {
        let mut slots = lock(&self.slots);
        args.into_iter()
            .for_each(|args| slots.push(Slot::Waiting(args)));
    }

    /// Takes how tasks have ended, in the order asked.
    pub(crate) fn take(&self, tasks: &[TaskIndex]) -> Vec<(u32, Slot)> {
        let mut slots = lock(&self.slots);
        let taken = tasks.iter().map(|task| {
            let slot = slots.get_mut(task.0);
            let taken = slot.map_or(Slot::Gone, |slot| std::mem::replace(slot, Slot::Gone));
            (task.0, taken)
        });
        let taken = taken.collect();
        slots.trim(|slot| matches!(slot, Slot::Gone));
        taken
    }

    /// Whether this task has failed and has not been taken.
    pub(crate) fn has_failed(&self, task: TaskIndex) -> bool {
        matches!(lock(&self.slots).get_mut(task.0), Some(Slot::Failed(_)))
    }

    /// Drops how a task has ended, if it has: one that waits still runs.
    pub(crate) fn forget(&self, task: TaskIndex) {
        let mut slots = lock(&self.slots);
        let ended = slots
            .get_mut(task.0)
            .filter(|slot| matches!(slot, Slot::Returned(_) | Slot::Failed(_)))
            .map(|slot| std::mem::replace(slot, Slot::Gone));
        slots.trim(|slot| matches!(slot, Slot::Gone));
        drop(slots);
        // Without the lock: a destructor may run any code.
        drop(ended);
    }

    /// What a task has returned, which stays where it is.
    pub(crate) fn peek(&self, py: Python<'_>, task: TaskIndex) -> Option<Py<PyAny>> {
        match lock(&self.slots).get_mut(task.0) {
            Some(Slot::Returned(value)) => Some(value.clone_ref(py)),
            _ => None,
        }
    }

    /// How many tasks there are from the first that is not done and taken on.
    pub(crate) fn n_held(&self) -> usize {
        lock(&self.slots).len()
    }

    pub(crate) fn threads(&self) -> Vec<u64> {
        lock(&self.threads).clone()
    }

    fn run_one(&self, py: Python<'_>, index: u32) -> Ending {
        let args = match lock(&self.slots).get_mut(index) {
            Some(Slot::Waiting(args)) => args.clone_ref(py),
            // It is tried again.
            Some(Slot::Failed(failed)) => failed.1.clone_ref(py),
            _ => return Ending::Returned,
        };
        let kwargs = self.kwargs.as_ref().map(|kwargs| kwargs.bind(py));
        let recording = self.recording.get();
        let place = recording.map_or(index, |recording| recording.place(index));
        let began = recording.map(|_| Instant::now());
        let mut outcome = {
            let _stay = StayAtEnd;
            let function = prints::whole(self.function.bind(py));
            // A seed does not reach the global states, which threads share.
            (self.listening).call(py, (index, index), |on_misuse| {
                watched(on_misuse, function, || match &*self.seeding {
                    None => args.call(function, kwargs),
                    Some(seeding) => {
                        args.call_seeded(seeding, Place::Thread, place, function, kwargs)
                    }
                })
            })
        };
        if let (Some(recording), Some(began), Ok(value)) = (recording, began, &outcome)
            && let Err(error) = recording.put(index, value, began.elapsed().as_secs_f64())
        {
            outcome = Err(error);
        }
        let ending = self.faults.ending_of(py, &outcome);
        let mut ended = match outcome {
            Ok(value) => Slot::Returned(value.unbind()),
            Err(error) => Slot::Failed(Box::new((error, args))),
        };
        if let Some(slot) = lock(&self.slots).get_mut(index) {
            std::mem::swap(slot, &mut ended);
        }
        // Dropped without the lock: an argument's destructor may run any code.
        drop(ended);
        ending
    }
}

impl Program for LocalMap {
    fn run(&self, feed: &mut dyn Feed) {
        Python::attach(|py| {
            let _in_task = InTask::enter(self.level);
            let _busy = Busy::enter(py, self.level);
            let _on_list = OnList::enter(py, &self.threads);
            // Without memory for a copy, tasks see the thread's own variables.
            let _context = self.context.enter(py);
            let mut turns = Turns::begin();
            while let Some(index) = feed.next() {
                // A thread of a pool hears of no signals.
                let _ = turns.give_way(py);
                let ending = self.run_one(py, index.0);
                feed.ended(if self.goes_on {
                    Ending::Returned
                } else {
                    ending
                });
            }
        });
    }

    fn release(&self, _tasks: &[TaskIndex]) {
        // All results are wanted, and taken by their reader.
    }

    fn has_failed(&self, task: TaskIndex) -> bool {
        self.goes_on && LocalMap::has_failed(self, task)
    }
}

struct Tables {
    blocks: Blocks,
    outcomes: Window<Outcome>,
}

/// A function over arguments, as bytes.
pub(crate) struct RemoteMap {
    function: u32,
    stock: Arc<Stock>,
    tables: Mutex<Tables>,
    /// Whether there ever was a large result.
    has_large: AtomicBool,
    /// Whether how a call failed is kept for its place, and the others go on.
    goes_on: bool,
    recording: RecordingSlot,
}

impl RemoteMap {
    pub(crate) fn new(function: u32, stock: Arc<Stock>) -> RemoteMap {
        RemoteMap::beginning(0, function, stock)
    }

    /// One whose first task has this number.
    pub(crate) fn beginning(first: u32, function: u32, stock: Arc<Stock>) -> RemoteMap {
        let tables = Tables {
            blocks: Blocks::default(),
            outcomes: Window::beginning(first),
        };
        RemoteMap {
            function,
            stock,
            tables: Mutex::new(tables),
            has_large: AtomicBool::new(false),
            goes_on: false,
            recording: RecordingSlot::new(),
        }
    }

    /// The same, of calls that do not end with the first that fails.
    pub(crate) fn going_on(mut self, goes_on: bool) -> RemoteMap {
        self.goes_on = goes_on;
        self
    }

    /// Stores what its tasks return, all of which are timed. To be called before there are any.
    pub(crate) fn record(&self, recording: Arc<Recording>) {
        let _ = self.recording.set(recording);
    }

    pub(crate) fn stock(&self) -> &Arc<Stock> {
        &self.stock
    }

    /// Adds tasks. Their bytes begin with the number of inputs, which is none.
    pub(crate) fn push(&self, block: Block) {
        let mut tables = lock(&self.tables);
        tables.outcomes.push_new(block.n_tasks());
        tables.blocks.push(block);
    }

    /// Takes how tasks have ended, in the order asked.
    pub(crate) fn take(&self, tasks: &[TaskIndex]) -> Vec<(u32, Outcome)> {
        let mut tables = lock(&self.tables);
        let taken = tasks.iter().map(|task| {
            let outcome = tables.outcomes.get_mut(task.0);
            let gone = || Outcome::Gone;
            let taken = outcome.map_or_else(gone, |outcome| std::mem::replace(outcome, gone()));
            (task.0, taken)
        });
        let taken = taken.collect();
        tables
            .outcomes
            .trim(|outcome| matches!(outcome, Outcome::Gone));
        taken
    }

    /// A task has failed for good, and the error that names its arguments has been made.
    pub(crate) fn give_up_on(&self, task: u32) {
        lock(&self.tables).blocks.done(task);
    }

    /// Whether this task has failed and has not been taken.
    pub(crate) fn has_failed(&self, task: TaskIndex) -> bool {
        let mut tables = lock(&self.tables);
        matches!(tables.outcomes.get_mut(task.0), Some(Outcome::Failed(_)))
    }

    /// How a task has returned, if it has; that stays where it is.
    pub(crate) fn peek(&self, task: TaskIndex) -> Option<Outcome> {
        let mut tables = lock(&self.tables);
        tables.outcomes.get_mut(task.0)?.share()
    }

    /// How many tasks there are from the first that is not done and taken on.
    pub(crate) fn n_held(&self) -> usize {
        lock(&self.tables).outcomes.len()
    }

    /// The bytes of a task that is not done.
    pub(crate) fn task_bytes(&self, index: u32) -> Option<Vec<u8>> {
        lock(&self.tables).blocks.get(index).map(<[u8]>::to_vec)
    }

    /// How many bytes of arguments wait for their tasks to be done.
    pub(crate) fn n_bytes_waiting(&self) -> usize {
        lock(&self.tables).blocks.n_bytes()
    }
}

impl RemoteProgram for RemoteMap {
    fn function(&self, _task: TaskIndex) -> u32 {
        self.function
    }

    fn write(
        &self,
        job: u32,
        tasks: &[TaskIndex],
        writer: &mut TasksWriter<'_>,
        segments: &mut Vec<SegmentId>,
    ) {
        let mut tables = lock(&self.tables);
        // Numbers begin anew after the last: there a run ends.
        for run in tasks.chunk_by(|a, b| a.0.checked_add(1) == Some(b.0)) {
            let (mut index, end) = (run[0].0, run[run.len() - 1].0);
            loop {
                let n_left = (end - index) as usize + 1;
                let (n_tasks, bytes) = tables.blocks.run(index, n_left);
                let key = TaskKey { job, index };
                if n_tasks == 0 {
                    // A task that has no bytes fails in the worker, by its name.
                    writer.task(key, self.function, |_| {});
                } else {
                    writer.counted_tasks(key, n_tasks as u32, self.function, bytes);
                }
                for segment in tables.blocks.segments(index) {
                    if !segments.contains(segment) {
                        segments.push(*segment);
                    }
                }
                match index.checked_add(n_tasks.max(1) as u32) {
                    Some(next) if next <= end => index = next,
                    _ => break,
                }
            }
        }
    }

    fn store(&self, results: &mut dyn Iterator<Item = (TaskIndex, bool, &[u8])>) {
        let tables = &mut *lock(&self.tables);
        for (task, is_ok, bytes) in results {
            let (bytes, duration_s) = untimed(&self.recording, is_ok, bytes);
            // Made in any case: what comes with it must be taken over to be given back.
            let ended = Outcome::new(is_ok, bytes, &self.stock);
            if let Some(recording) = self.recording.get() {
                recording.ended(task.0, &ended, duration_s, &self.stock);
            }
            if matches!(ended, Outcome::Shared(_)) {
                self.has_large.store(true, Ordering::Relaxed);
            }
            let Some(outcome) = tables.outcomes.get_mut(task.0) else {
                continue;
            };
            *outcome = ended;
            // The arguments of a failed task are to be named in the error.
            if is_ok {
                tables.blocks.done(task.0);
            }
        }
    }

    fn goes_on_after_failures(&self) -> bool {
        self.goes_on
    }

    fn has_failed(&self, task: TaskIndex) -> bool {
        self.goes_on && RemoteMap::has_failed(self, task)
    }

    fn release(&self, _task: TaskIndex) {
        // All results are wanted, and taken by their reader.
    }

    fn spill(&self, n_bytes: u64) -> Spilled {
        let candidates = self.to_spill(n_bytes);
        let is_there = |task: TaskIndex, taken: &ToSpill| {
            let mut tables = lock(&self.tables);
            let outcome = tables.outcomes.get_mut(task.0);
            outcome.is_some_and(|outcome| outcome.is_origin_of(taken))
        };
        spill(
            &self.stock,
            n_bytes,
            candidates,
            is_there,
            |task, taken, result| {
                let mut tables = lock(&self.tables);
                let (is_replaced, unneeded) = match tables.outcomes.get_mut(task.0) {
                    Some(outcome) => outcome.replace(taken, result),
                    None => (false, result),
                };
                drop(tables);
                // Without the lock: it takes the system some time to have back what a result took.
                drop(unneeded);
                is_replaced
            },
        )
    }

    fn backlog(&self) -> Option<Backlog> {
        let tables = lock(&self.tables);
        let outcomes = tables.outcomes.iter_back();
        backlog(outcomes.map(|(index, outcome)| (TaskIndex(index), outcome)))
    }

    fn may_have_backlog(&self) -> bool {
        self.has_large.load(Ordering::Relaxed)
    }

    fn give_up(&self, task: TaskIndex, shortage: &Shortage) {
        let mut tables = lock(&self.tables);
        let outcome = tables.outcomes.get_mut(task.0);
        let dropped = outcome.and_then(|outcome| outcome.give_up(shortage));
        drop(tables);
        drop(dropped);
    }
}

impl RemoteMap {
    /// Results that take so much memory, those that are taken last first.
    fn to_spill(&self, n_bytes: u64) -> Vec<(TaskIndex, ToSpill)> {
        let mut n_left = n_bytes;
        let mut candidates = Vec::new();
        for (index, outcome) in lock(&self.tables).outcomes.iter_back() {
            if n_left == 0 {
                break;
            }
            if let Outcome::Shared(result) = outcome
                && let Some(taken) = result.to_spill()
            {
                n_left = n_left.saturating_sub(taken.n_bytes());
                candidates.push((TaskIndex(index), taken));
            }
        }
        candidates
    }
}
