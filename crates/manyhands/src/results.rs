//! The tasks of a graph while it runs: closures become results, and results go when nobody reads them.

use crate::engine::{InsideTask, catch, lock};
use crate::error::Mishap;
use manyhands_executor::{Feed, Program};
use manyhands_graph::TaskIndex;
use std::any::Any;
use std::sync::{Arc, Mutex};

pub(crate) type Value = Arc<dyn Any + Send + Sync>;
pub(crate) type Closure = Box<dyn FnOnce(&Results) -> Result<Value, Mishap> + Send>;

/// Where a task is on its way from closure to result.
enum Slot {
    Waiting(Closure),
    Running,
    Ready(Value),
    Failed(Mishap),
    /// Nobody reads it any more, or it was taken.
    Gone,
}

/// One slot for each task of the graph.
pub struct Results {
    slots: Vec<Mutex<Slot>>,
}

impl Results {
    pub(crate) fn new(closures: Vec<Closure>) -> Results {
        let slots = closures.into_iter();
        Results {
            slots: slots.map(|f| Mutex::new(Slot::Waiting(f))).collect(),
        }
    }

    fn replace(&self, index: TaskIndex, slot: Slot) -> Slot {
        std::mem::replace(&mut *lock(&self.slots[index.as_usize()]), slot)
    }

    /// The result of a task that has run, for a reader of it.
    pub(crate) fn hold<T: Send + Sync + 'static>(&self, index: TaskIndex) -> Arc<T> {
        let value = match &*lock(&self.slots[index.as_usize()]) {
            Slot::Ready(value) => Arc::clone(value),
            _ => unreachable!("a task runs when its inputs are there, and they stay until it ends"),
        };
        downcast(value)
    }

    /// The result of a task, for good, after a run that wanted it.
    pub(crate) fn take<T: Send + Sync + 'static>(&self, index: TaskIndex) -> T {
        let Slot::Ready(value) = self.replace(index, Slot::Gone) else {
            unreachable!("a wanted result is kept, and taken once");
        };
        let value = Arc::into_inner(downcast(value));
        value.unwrap_or_else(|| unreachable!("readers let go of their inputs before they end"))
    }

    /// How this task failed; to be asked once.
    pub(crate) fn take_mishap(&self, index: TaskIndex) -> Mishap {
        match self.replace(index, Slot::Gone) {
            Slot::Failed(mishap) => mishap,
            _ => unreachable!("a task that is said to have failed has told how"),
        }
    }

    /// Runs a task; whether it returned.
    fn run_one(&self, index: TaskIndex) -> bool {
        let Slot::Waiting(closure) = self.replace(index, Slot::Running) else {
            unreachable!("each task is run once");
        };
        let outcome = catch(|| closure(self)).and_then(|outcome| outcome);
        let is_ok = outcome.is_ok();
        let slot = match outcome {
            Ok(value) => Slot::Ready(value),
            Err(mishap) => Slot::Failed(mishap),
        };
        self.replace(index, slot);
        is_ok
    }
}

fn downcast<T: Send + Sync + 'static>(value: Value) -> Arc<T> {
    let value = value.downcast();
    value.unwrap_or_else(|_| unreachable!("a handle has the type of its task's result"))
}

/// The part of a graph that a run needs.
pub(crate) struct GraphProgram {
    pub(crate) results: Results,
    /// The numbers in the graph of the job's tasks, where the job has not all of them.
    pub(crate) numbers: Option<Vec<TaskIndex>>,
}

impl GraphProgram {
    /// The number in the graph of a task of the job.
    pub(crate) fn number(&self, index: TaskIndex) -> TaskIndex {
        match &self.numbers {
            Some(numbers) => numbers[index.as_usize()],
            None => index,
        }
    }
}

impl Program for GraphProgram {
    fn run(&self, feed: &mut dyn Feed) {
        let _inside = InsideTask::enter();
        while let Some(index) = feed.next() {
            let is_ok = self.results.run_one(self.number(index));
            feed.ended(is_ok.into());
        }
    }

    fn release(&self, tasks: &[TaskIndex]) {
        for &index in tasks {
            let value = self.results.replace(self.number(index), Slot::Gone);
            drop(value);
        }
    }
}
