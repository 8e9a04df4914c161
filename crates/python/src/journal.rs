//! Journals of calls, as Python keeps them: `manyhands._journal`.

use crate::call::{Call, Callee};
use crate::delayed::key::callable_name;
use manyhands_executor::journal::{self, Line, Outcome, Zero};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

/// A journal's moment zero.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct JournalClock(Zero);

#[pymethods]
impl JournalClock {
    #[new]
    fn new() -> JournalClock {
        JournalClock(Zero::default())
    }

    /// What time it is, in seconds since the epoch, however the system's clock has been set meanwhile.
    fn now(&self) -> f64 {
        self.0.wall_s(self.0.elapsed_ns())
    }
}

/// What becomes of the tasks of a call.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Account {
    account: Arc<journal::Account>,
}

/// A task's number, its worker, when it began and ended, how long it took, how it ended, and the name of what it
/// called where tasks call different things.
type TaskLine = (u32, u32, f64, f64, f64, u8, Option<String>);

/// A worker's number, how many tasks ended there, how long they took, and when it was last heard of.
type WorkerLine = (u32, u64, f64, f64);

/// When the call began, when the first of its tasks did and when it ended, as far as they have; how long its tasks
/// took, the longest of them, how many have no line, how many ended in each way, and how many are lost otherwise.
type SumsLine = (f64, Option<f64>, Option<f64>, f64, f64, u64, Vec<u64>, u64);

/// In the order of their numbers in Python.
const OUTCOMES: [Outcome; 6] = [
    Outcome::Returned,
    Outcome::Failed,
    Outcome::Retried,
    Outcome::Died,
    Outcome::OutOfTime,
    Outcome::Stopped,
];

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

impl Account {
    fn moment(&self, ns: u64) -> f64 {
        self.account.zero.wall_s(ns)
    }

    fn own(&self) -> PyResult<&journal::Account> {
        if self.account.is_elsewhere() {
            let text = "a journal can be read in the process that keeps it, and not in one that was forked from it";
            return Err(PyRuntimeError::new_err(text));
        }
        Ok(&self.account)
    }
}

#[pymethods]
impl Account {
    #[new]
    fn new(clock: &JournalClock) -> Account {
        Account {
            account: Arc::new(journal::Account::new(clock.0)),
        }
    }

    /// Tasks of the call begin to run in this thread; the number of the first.
    fn begin_here(&self) -> u32 {
        match self.account.is_elsewhere() {
            true => 0,
            false => self.account.begin_here(),
        }
    }

    /// A task in this thread has just ended.
    fn note(&self, task: u32, duration_ns: u64, outcome: usize) -> PyResult<()> {
        let outcome = OUTCOMES.get(outcome).copied();
        let outcome = outcome.ok_or_else(|| PyValueError::new_err("no such outcome"))?;
        if !self.account.is_elsewhere() {
            self.account.note(Line {
                first: task,
                n_tasks: 1,
                worker: 0,
                outcome,
                ended_ns: self.account.now_ns(),
                duration_ns,
            });
        }
        Ok(())
    }

    /// A task in this thread that has just failed is tried again.
    fn retried(&self, task: u32) {
        if !self.account.is_elsewhere() {
            self.account.retried(task);
        }
    }

    /// The call has ended, whatever its tasks do.
    fn close(&self) {
        if !self.account.is_elsewhere() {
            self.account.close();
        }
    }

    /// All of the call that there has been so far has ended, unless it has been submitted.
    fn settle(&self) {
        if !self.account.is_elsewhere() {
            self.account.settle();
        }
    }

    /// The names of what the tasks of a graph call.
    fn names(&self) -> PyResult<Vec<String>> {
        Ok(self.own()?.names())
    }

    /// The tasks that have ended, in the order in which that became known.
    fn tasks(&self) -> PyResult<Vec<TaskLine>> {
        let (lines, names, which) = self.own()?.lines();
        let name = |task: u32| {
            let which = which.get(task as usize)?;
            names.get(*which as usize).cloned()
        };
        let mut tasks = Vec::with_capacity(lines.len());
        for line in lines {
            let each_ns = line.each_ns();
            for n in 0..line.n_tasks {
                let task = line.first.wrapping_add(n);
                let after_ns = u64::from(line.n_tasks - 1 - n) * each_ns;
                let ended_ns = line.ended_ns.saturating_sub(after_ns);
                let began = self.moment(ended_ns.saturating_sub(each_ns));
                let outcome = line.outcome as u8;
                let (ended, duration) = (self.moment(ended_ns), seconds(each_ns));
                tasks.push((
                    task,
                    line.worker,
                    began,
                    ended,
                    duration,
                    outcome,
                    name(task),
                ));
            }
        }
        Ok(tasks)
    }

    /// What each worker did.
    fn workers(&self) -> PyResult<Vec<WorkerLine>> {
        let sums = self.own()?.sums();
        let numbered = (0..).zip(&sums.workers);
        let busy = numbered.filter(|(_, worker)| worker.n_tasks > 0);
        let line = |(number, worker): (u32, &journal::WorkerSum)| {
            let heard = self.moment(worker.heard_ns);
            (number, worker.n_tasks, seconds(worker.work_ns), heard)
        };
        Ok(busy.map(line).collect())
    }

    fn sums(&self) -> PyResult<SumsLine> {
        let sums = self.own()?.sums();
        let longest_ns = sums.longest.map_or(0, |line| line.each_ns());
        Ok((
            self.moment(sums.began_ns),
            sums.first_began_ns.map(|ns| self.moment(ns)),
            sums.ended_ns.map(|ns| self.moment(ns)),
            seconds(sums.work_ns),
            seconds(longest_ns),
            sums.n_left_out,
            OUTCOMES.map(|outcome| sums.n_ended(outcome)).to_vec(),
            sums.n_lost,
        ))
    }
}

/// Have the next job that this thread submits be that of these accounts; gives what was to be before.
#[pyfunction]
fn enter_accounts(accounts: Vec<PyRef<'_, Account>>) -> Vec<Account> {
    let entered = accounts.iter().map(|account| Arc::clone(&account.account));
    let before = journal::enter(entered.collect());
    let account = |account| Account { account };
    before.into_iter().map(account).collect()
}

/// The name of a function, as that of a task.
#[pyfunction]
fn function_name(function: &Bound<'_, PyAny>) -> String {
    callable_name(function)
}

/// Says what the tasks call of the graph that this thread is about to submit, where somebody keeps a journal.
pub(crate) fn name_tasks(py: Python<'_>, calls: &[Call]) {
    let accounts = journal::current();
    if accounts.is_empty() {
        return;
    }
    let mut names = Vec::new();
    let mut numbers: HashMap<usize, u32> = HashMap::new();
    let which = calls.iter().map(|call| {
        let (address, function) = match &call.func {
            Callee::Function(function) => (function.as_ptr() as usize, Some(function)),
            Callee::Input(_) => (0, None),
        };
        *numbers.entry(address).or_insert_with(|| {
            // What is the result of another task has no name yet.
            names.push(function.map_or_else(
                || "…".to_owned(),
                |function| callable_name(function.bind(py)),
            ));
            (names.len() - 1) as u32
        })
    });
    let which: Vec<u32> = which.collect();
    for account in accounts {
        account.name(names.clone(), which.clone());
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<JournalClock>()?;
    module.add_class::<Account>()?;
    module.add_function(wrap_pyfunction!(enter_accounts, module)?)?;
    module.add_function(wrap_pyfunction!(function_name, module)?)
}
