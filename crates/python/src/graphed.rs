//! The tasks of a graph. [`LocalGraph`] keeps objects, for threads and the calling thread;
//! [`RemoteGraph`] keeps bytes, for processes.

use crate::blas::Busy;
use crate::call::Call;
use crate::codec::{write_bytes, write_varint};
use crate::context::Context;
use crate::durable::{Recording, Slot, TIMED, untimed};
use crate::faults::Faults;
use crate::interpreter::{InTask, Level, OnList, SIGNAL_PAUSE, Turns, detached, look_up};
use crate::kept::Kept;
use crate::listening::Listening;
use crate::mapped::lock;
use crate::misuse::watched;
use crate::payload::{Outcome, ToSpill, backlog, spill};
use crate::prints;
use crate::seeding::{GraphSeeding, Place};
use crate::shared::sending::Keeps;
use manyhands_executor::{Backlog, Feed, Program, RemoteProgram, Shortage, Spilled, Stock};
use manyhands_graph::{Graph, TaskIndex, depth_first_ranks};
use manyhands_scheduler::Ending;
use manyhands_store::SegmentId;
use manyhands_wire::{TaskKey, TasksWriter};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How tasks have ended, as far as they have.
type Results = Vec<Option<PyResult<Py<PyAny>>>>;

/// Takes note of tasks that have returned, for somebody who wants to know meanwhile.
#[derive(Default)]
pub(crate) struct Finished(Mutex<Vec<TaskIndex>>);

impl Finished {
    fn note(&self, task: TaskIndex) {
        lock(&self.0).push(task);
    }

    /// Those noted since the last time.
    pub(crate) fn take(&self) -> Vec<TaskIndex> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// A graph of calls, in this process.
pub(crate) struct LocalGraph {
    graph: Arc<Graph>,
    calls: Kept<Arc<Vec<Call>>>,
    seeding: Kept<Option<(Arc<GraphSeeding>, Place)>>,
    level: Level,
    faults: Kept<Arc<Faults>>,
    results: Kept<Mutex<Results>>,
    listening: Listening,
    context: Context,
    /// The place of each task in the serial run, where somebody asks for it.
    ranks: Option<Arc<[u32]>>,
    threads: Mutex<Vec<u64>>,
    /// What a signal's handler raised while nothing could be run.
    interrupt: Kept<Mutex<Option<PyErr>>>,
    finished: Option<Arc<Finished>>,
    recording: Slot,
}

impl LocalGraph {
    pub(crate) fn new(
        graph: Arc<Graph>,
        calls: Arc<Vec<Call>>,
        seeding: Option<(Arc<GraphSeeding>, Place)>,
        (faults, level): (Arc<Faults>, Level),
        (listening, context): (Listening, Context),
        ranks: Option<Arc<[u32]>>,
        finished: Option<Arc<Finished>>,
    ) -> LocalGraph {
        let n_tasks = graph.n_tasks();
        LocalGraph {
            graph,
            calls: Kept::new(calls),
            seeding: Kept::new(seeding),
            level,
            faults: Kept::new(faults),
            results: Kept::new(Mutex::new(
                std::iter::repeat_with(|| None).take(n_tasks).collect(),
            )),
            listening,
            context,
            ranks,
            threads: Mutex::default(),
            interrupt: Kept::new(Mutex::default()),
            finished,
            recording: Slot::new(),
        }
    }

    /// What a signal's handler raised while the graph was at rest.
    pub(crate) fn take_interrupt(&self) -> Option<PyErr> {
        lock(&self.interrupt).take()
    }

    /// Stores what its tasks return. To be called before they run.
    pub(crate) fn record(&self, recording: Option<Arc<Recording>>) {
        if let Some(recording) = recording {
            let _ = self.recording.set(recording);
        }
    }

    pub(crate) fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Takes how a task has ended, if it has.
    pub(crate) fn take(&self, task: TaskIndex) -> Option<PyResult<Py<PyAny>>> {
        lock(&self.results)[task.as_usize()].take()
    }

    pub(crate) fn threads(&self) -> Vec<u64> {
        lock(&self.threads).clone()
    }

    fn run_one(&self, py: Python<'_>, task: TaskIndex) -> Ending {
        let dependencies = self.graph.dependencies(task);
        let mut input = |k: u32| {
            let results = lock(&self.results);
            match &results[dependencies[k as usize].as_usize()] {
                Some(Ok(value)) => Ok(value.clone_ref(py)),
                _ => Err(PyRuntimeError::new_err("an input is not there")),
            }
        };
        let call = &self.calls[task.as_usize()];
        let recording = self.recording.get();
        let began = recording.map(|_| Instant::now());
        let mut outcome = call.invoke_by(py, &mut input, |func, args, kwargs| {
            let func = prints::whole(func);
            let ranks = self.ranks.as_ref();
            let rank = ranks.map_or(task.0, |ranks| ranks[task.as_usize()]);
            let at = task.as_usize();
            (self.listening).call(py, (task.0, rank), |on_misuse| match &*self.seeding {
                None => watched(on_misuse, func, || func.call(args, kwargs)),
                Some((seeding, Place::Here)) => {
                    seeding.call_here(on_misuse, at, func, args, kwargs)
                }
                // In threads a seed does not reach the global states: there it is told in any case.
                Some((seeding, place)) => watched(on_misuse, func, || {
                    seeding.call(*place, at, func, args, kwargs)
                }),
            })
        });
        if let (Some(recording), Some(began), Ok(value)) = (recording, began, &outcome)
            && let Err(error) = recording.put(task.0, value.bind(py), began.elapsed().as_secs_f64())
        {
            outcome = Err(error);
        }
        let ending = self.faults.ending_of(py, &outcome);
        let before = lock(&self.results)[task.as_usize()].replace(outcome);
        // Of an earlier try; dropped without the lock, as that may run any code.
        drop(before);
        if let (Some(finished), true) = (&self.finished, ending.is_ok()) {
            finished.note(task);
        }
        ending
    }
}

impl Program for LocalGraph {
    fn run(&self, feed: &mut dyn Feed) {
        Python::attach(|py| {
            let _in_task = InTask::enter(self.level);
            let _busy = Busy::enter(py, self.level);
            let _on_list = OnList::enter(py, &self.threads);
            // Without memory for a copy, tasks see the thread's own variables.
            let _context = self.context.enter(py);
            let mut turns = Turns::begin();
            while let Some(task) = feed.next() {
                let ending = match turns.give_way(py) {
                    Ok(()) => self.run_one(py, task),
                    Err(interrupt) => {
                        let before = lock(&self.results)[task.as_usize()].replace(Err(interrupt));
                        // Without the lock, as above.
                        drop(before);
                        Ending::Fatal
                    }
                };
                feed.ended(ending);
            }
        });
    }

    fn release(&self, tasks: &[TaskIndex]) {
        let mut results = lock(&self.results);
        let released: Vec<_> = tasks
            .iter()
            .map(|task| results[task.as_usize()].take())
            .collect();
        drop(results);
        // Dropped without the lock: a result's destructor may run any code.
        Python::attach(|_| drop(released));
    }

    fn rest(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        Python::attach(|py| {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return true;
                }
                detached(py, || std::thread::sleep(left.min(SIGNAL_PAUSE)));
                if let Err(interrupt) = look_up(py) {
                    let before = lock(&self.interrupt).replace(interrupt);
                    drop(before);
                    return false;
                }
            }
        })
    }
}

/// A graph of calls, as bytes.
pub(crate) struct RemoteGraph {
    graph: Arc<Graph>,
    functions: Vec<u32>,
    /// What each task is called with, end to end.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// What those bytes refer to.
    keeps: Keeps,
    tables: Mutex<Tables>,
    stock: Arc<Stock>,
    wanted: Vec<TaskIndex>,
    /// When each task runs, as a rule: the later, the higher. Asked for when results are put on disk.
    ranks: OnceLock<Vec<u32>>,
    /// Whether there ever was a large result.
    has_large: AtomicBool,
    finished: Option<Arc<Finished>>,
    recording: Slot,
}

struct Tables {
    outcomes: Vec<Outcome>,
    /// Whether a worker was given each task and has not said how it ended: it may be reading its inputs.
    is_sent: Vec<bool>,
}

impl RemoteGraph {
    /// One entry of `functions` and of `ends` for each task.
    pub(crate) fn new(
        graph: Arc<Graph>,
        functions: Vec<u32>,
        bytes: Vec<u8>,
        ends: Vec<usize>,
        keeps: Keeps,
        stock: Arc<Stock>,
        wanted: Vec<TaskIndex>,
    ) -> RemoteGraph {
        let n_tasks = graph.n_tasks();
        let tables = Tables {
            outcomes: std::iter::repeat_with(Outcome::default)
                .take(n_tasks)
                .collect(),
            is_sent: vec![false; n_tasks],
        };
        RemoteGraph {
            graph,
            functions,
            bytes,
            ends,
            keeps,
            stock,
            tables: Mutex::new(tables),
            wanted,
            ranks: OnceLock::new(),
            has_large: AtomicBool::new(false),
            finished: None,
            recording: Slot::new(),
        }
    }

    /// Stores what its tasks return, all of which are timed. To be called before they run.
    pub(crate) fn record(&self, recording: Option<Arc<Recording>>) {
        if let Some(recording) = recording {
            let _ = self.recording.set(recording);
        }
    }

    /// The same, taking note of tasks that have returned.
    pub(crate) fn noting(self, finished: Option<Arc<Finished>>) -> RemoteGraph {
        RemoteGraph { finished, ..self }
    }

    pub(crate) fn stock(&self) -> &Arc<Stock> {
        &self.stock
    }

    /// Takes how a task has ended.
    pub(crate) fn take(&self, task: TaskIndex) -> Outcome {
        let outcome = &mut lock(&self.tables).outcomes[task.as_usize()];
        std::mem::replace(outcome, Outcome::Gone)
    }

    /// How large the results are that a task reads, as bytes, where they are still there.
    pub(crate) fn sizes_of_inputs(&self, task: TaskIndex) -> Vec<Option<u64>> {
        let tables = lock(&self.tables);
        let size = |input: &TaskIndex| tables.outcomes[input.as_usize()].n_bytes();
        self.graph.dependencies(task).iter().map(size).collect()
    }

    fn call_bytes(&self, task: TaskIndex) -> &[u8] {
        let at = task.as_usize();
        let start = match at {
            0 => 0,
            _ => self.ends[at - 1],
        };
        &self.bytes[start..self.ends[at]]
    }
}

impl RemoteProgram for RemoteGraph {
    fn function(&self, task: TaskIndex) -> u32 {
        self.functions[task.as_usize()]
    }

    fn write(
        &self,
        job: u32,
        tasks: &[TaskIndex],
        writer: &mut TasksWriter<'_>,
        segments: &mut Vec<SegmentId>,
    ) {
        segments.extend(&self.keeps.segments);
        let Tables { outcomes, is_sent } = &mut *lock(&self.tables);
        for &task in tasks {
            is_sent[task.as_usize()] = true;
            let key = TaskKey { job, index: task.0 };
            writer.task(key, self.function(task), |out| {
                if self.recording.get().is_some() {
                    out.extend_from_slice(&TIMED);
                }
                let dependencies = self.graph.dependencies(task);
                write_varint(out, dependencies.len() as u64);
                for dependency in dependencies {
                    // The scheduler starts a task only when all of its inputs have returned.
                    match &outcomes[dependency.as_usize()] {
                        Outcome::Returned(payload) => write_bytes(out, payload),
                        Outcome::Shared(result) => {
                            write_bytes(out, &result.bytes(&self.stock));
                            segments.extend(result.segments());
                        }
                        Outcome::Pending
                        | Outcome::Failed(_)
                        | Outcome::NoRoom(_)
                        | Outcome::Gone => {}
                    }
                }
                out.extend_from_slice(self.call_bytes(task));
            });
        }
    }

    fn store(&self, results: &mut dyn Iterator<Item = (TaskIndex, bool, &[u8])>) {
        let Tables { outcomes, is_sent } = &mut *lock(&self.tables);
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
            // A number that no task has is no reason for the engine to stop.
            if let Some(outcome) = outcomes.get_mut(task.as_usize()) {
                *outcome = ended;
                is_sent[task.as_usize()] = false;
                if let (Some(finished), true) = (&self.finished, is_ok) {
                    finished.note(task);
                }
            }
        }
    }

    fn release(&self, task: TaskIndex) {
        lock(&self.tables).outcomes[task.as_usize()] = Outcome::Gone;
    }

    fn spill(&self, n_bytes: u64) -> Spilled {
        let candidates = self.to_spill(n_bytes);
        let is_there = |task: TaskIndex, taken: &ToSpill| {
            let tables = lock(&self.tables);
            tables.outcomes[task.as_usize()].is_origin_of(taken)
                && !tables.is_being_read(&self.graph, task)
        };
        spill(
            &self.stock,
            n_bytes,
            candidates,
            is_there,
            |task, taken, result| {
                let mut tables = lock(&self.tables);
                let (is_replaced, unneeded) = match tables.is_being_read(&self.graph, task) {
                    true => (false, result),
                    false => tables.outcomes[task.as_usize()].replace(taken, result),
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
        backlog(self.graph.tasks().zip(&tables.outcomes))
    }

    fn may_have_backlog(&self) -> bool {
        self.has_large.load(Ordering::Relaxed)
    }

    fn give_up(&self, task: TaskIndex, shortage: &Shortage) {
        let mut tables = lock(&self.tables);
        let dropped = match tables.is_being_read(&self.graph, task) {
            true => None,
            false => tables.outcomes[task.as_usize()].give_up(shortage),
        };
        drop(tables);
        drop(dropped);
    }
}

impl RemoteGraph {
    /// Results that take so much memory, those that are needed last first.
    fn to_spill(&self, n_bytes: u64) -> Vec<(TaskIndex, ToSpill)> {
        let ranks = (self.ranks).get_or_init(|| depth_first_ranks(&self.graph, &self.wanted));
        let tables = lock(&self.tables);
        let needed_at = |task: TaskIndex| {
            let is_pending = |reader: &&TaskIndex| {
                matches!(tables.outcomes[reader.as_usize()], Outcome::Pending)
            };
            let readers = self.graph.dependents(task).iter().filter(is_pending);
            // Nobody but the caller, at the end.
            readers
                .map(|reader| ranks[reader.as_usize()])
                .min()
                .unwrap_or(u32::MAX)
        };
        let is_in_memory = |task: &TaskIndex| match &tables.outcomes[task.as_usize()] {
            Outcome::Shared(result) => result.n_bytes_waiting().is_some(),
            _ => false,
        };
        let idle = |task: &TaskIndex| !tables.is_being_read(&self.graph, *task);
        let mut tasks: Vec<_> = self
            .graph
            .tasks()
            .filter(is_in_memory)
            .filter(idle)
            .collect();
        tasks.sort_by_cached_key(|&task| Reverse(needed_at(task)));
        let mut n_left = n_bytes;
        let mut candidates = Vec::new();
        for task in tasks {
            if n_left == 0 {
                break;
            }
            if let Outcome::Shared(result) = &tables.outcomes[task.as_usize()]
                && let Some(taken) = result.to_spill()
            {
                n_left = n_left.saturating_sub(taken.n_bytes());
                candidates.push((task, taken));
            }
        }
        candidates
    }
}

impl Tables {
    /// Whether a task that reads this result may be running.
    fn is_being_read(&self, graph: &Graph, task: TaskIndex) -> bool {
        let readers = graph.dependents(task).iter();
        readers
            .into_iter()
            .any(|reader| self.is_sent[reader.as_usize()])
    }
}
