//! The tasks of a graph. [`LocalGraph`] keeps objects, for threads and the calling thread;
//! [`RemoteGraph`] keeps bytes, for processes.

use crate::call::Call;
use crate::codec::{write_bytes, write_varint};
use crate::interpreter::{DropsSoon, InTask, OnList, Turns};
use crate::mapped::lock;
use crate::payload::Outcome;
use crate::shared::sending::Keeps;
use manyhands_executor::{Feed, Program, RemoteProgram, Stock};
use manyhands_graph::{Graph, TaskIndex};
use manyhands_store::SegmentId;
use manyhands_wire::{TaskKey, TasksWriter};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex};

/// A graph of calls, in this process.
pub(crate) struct LocalGraph {
    graph: Arc<Graph>,
    calls: Arc<Vec<Call>>,
    results: Mutex<Vec<Option<PyResult<Py<PyAny>>>>>,
    threads: Mutex<Vec<u64>>,
    /// A thread of the pool may be the last to let go.
    _drops_soon: DropsSoon,
}

impl LocalGraph {
    pub(crate) fn new(graph: Arc<Graph>, calls: Arc<Vec<Call>>) -> LocalGraph {
        let n_tasks = graph.n_tasks();
        LocalGraph {
            graph,
            calls,
            results: Mutex::new(std::iter::repeat_with(|| None).take(n_tasks).collect()),
            threads: Mutex::default(),
            _drops_soon: DropsSoon::default(),
        }
    }

    /// Takes how a task has ended, if it has.
    pub(crate) fn take(&self, task: TaskIndex) -> Option<PyResult<Py<PyAny>>> {
        lock(&self.results)[task.as_usize()].take()
    }

    pub(crate) fn threads(&self) -> Vec<u64> {
        lock(&self.threads).clone()
    }

    fn run_one(&self, py: Python<'_>, task: TaskIndex) -> bool {
        let dependencies = self.graph.dependencies(task);
        let mut input = |k: u32| {
            let results = lock(&self.results);
            match &results[dependencies[k as usize].as_usize()] {
                Some(Ok(value)) => Ok(value.clone_ref(py)),
                _ => Err(PyRuntimeError::new_err("an input is not there")),
            }
        };
        let outcome = self.calls[task.as_usize()].invoke(py, &mut input);
        let is_ok = outcome.is_ok();
        lock(&self.results)[task.as_usize()] = Some(outcome);
        is_ok
    }
}

impl Program for LocalGraph {
    fn run(&self, feed: &mut dyn Feed) {
        Python::attach(|py| {
            let _in_task = InTask::enter();
            let _on_list = OnList::enter(py, &self.threads);
            let mut turns = Turns::begin();
            while let Some(task) = feed.next() {
                let is_ok = match turns.give_way(py) {
                    Ok(()) => self.run_one(py, task),
                    Err(interrupt) => {
                        lock(&self.results)[task.as_usize()] = Some(Err(interrupt));
                        false
                    }
                };
                feed.ended(is_ok);
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
    outcomes: Mutex<Vec<Outcome>>,
    stock: Arc<Stock>,
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
    ) -> RemoteGraph {
        let n_tasks = graph.n_tasks();
        RemoteGraph {
            graph,
            functions,
            bytes,
            ends,
            keeps,
            stock,
            outcomes: Mutex::new(
                std::iter::repeat_with(Outcome::default)
                    .take(n_tasks)
                    .collect(),
            ),
        }
    }

    pub(crate) fn stock(&self) -> &Stock {
        &self.stock
    }

    /// Takes how a task has ended.
    pub(crate) fn take(&self, task: TaskIndex) -> Outcome {
        std::mem::replace(&mut lock(&self.outcomes)[task.as_usize()], Outcome::Gone)
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
        let outcomes = lock(&self.outcomes);
        for &task in tasks {
            let key = TaskKey { job, index: task.0 };
            writer.task(key, self.function(task), |out| {
                let dependencies = self.graph.dependencies(task);
                write_varint(out, dependencies.len() as u64);
                for dependency in dependencies {
                    // The scheduler starts a task only when all of its inputs have returned.
                    match &outcomes[dependency.as_usize()] {
                        Outcome::Returned(payload) => write_bytes(out, payload),
                        Outcome::Shared(result) => {
                            write_bytes(out, &result.bytes);
                            segments.extend(result.segments());
                        }
                        Outcome::Pending | Outcome::Failed(_) | Outcome::Gone => {}
                    }
                }
                out.extend_from_slice(self.call_bytes(task));
            });
        }
    }

    fn store(&self, results: &mut dyn Iterator<Item = (TaskIndex, bool, &[u8])>) {
        let mut outcomes = lock(&self.outcomes);
        for (task, is_ok, bytes) in results {
            // Made in any case: what comes with it must be taken over to be given back.
            let ended = Outcome::new(is_ok, bytes, &self.stock);
            // A number that no task has is no reason for the engine to stop.
            if let Some(outcome) = outcomes.get_mut(task.as_usize()) {
                *outcome = ended;
            }
        }
    }

    fn release(&self, task: TaskIndex) {
        lock(&self.outcomes)[task.as_usize()] = Outcome::Gone;
    }
}
