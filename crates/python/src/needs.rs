//! What single tasks of a graph need: amounts by name, each different set of them under a number.

use crate::interpreter::in_task;
use crate::pools::AnyPool;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{Class, Need, Needs};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// How many units of each resource, at least one, in the order of the names.
pub(crate) type Amounts = BTreeMap<String, u32>;

/// Stands for what a task needs; zero for nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Needed(u16);

/// As many as there are numbers for, here and for the classes of a graph's tasks.
const N_NEEDS_MAX: usize = 65_000;

/// By number, from one on. They never go, at most [`N_NEEDS_MAX`].
static KNOWN: Mutex<Vec<Amounts>> = Mutex::new(Vec::new());

thread_local! {
    /// What the innermost block of `manyhands.resources` says in this thread.
    static BLOCK: Cell<Option<Needed>> = const { Cell::new(None) };
}

/// Only held for moments in which the interpreter is held too: whoever forks holds that, and not this.
fn known() -> MutexGuard<'static, Vec<Amounts>> {
    KNOWN
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Needed {
    /// Nothing.
    pub(crate) const NOTHING: Needed = Needed(0);

    /// The number for so much.
    pub(crate) fn new(mut amounts: Amounts) -> PyResult<Needed> {
        amounts.retain(|_, amount| *amount > 0);
        if amounts.is_empty() {
            return Ok(Needed::NOTHING);
        }
        let mut known = known();
        let at = known.iter().position(|other| *other == amounts);
        let at = at.unwrap_or(known.len());
        if at >= N_NEEDS_MAX {
            return Err(PyValueError::new_err(format!(
                "tasks of one program can have {N_NEEDS_MAX} different needs"
            )));
        }
        if at == known.len() {
            known.push(amounts);
        }
        Ok(Needed(at as u16 + 1))
    }

    /// How much that is.
    pub(crate) fn amounts(self) -> Amounts {
        let at = usize::from(self.0).checked_sub(1);
        at.map_or_else(Amounts::new, |at| known()[at].clone())
    }

    /// Of both, the larger amount of each resource.
    pub(crate) fn joined(self, other: Needed) -> PyResult<Needed> {
        if self == other || other == Needed::NOTHING {
            return Ok(self);
        }
        let mut amounts = self.amounts();
        for (name, amount) in other.amounts() {
            let own = amounts.entry(name).or_default();
            *own = amount.max(*own);
        }
        Needed::new(amounts)
    }

    /// What the innermost block says around whoever makes a task now. One around a task is not for what that makes.
    #[inline]
    pub(crate) fn in_block() -> Option<Needed> {
        let said = BLOCK.get();
        said.filter(|_| !in_task())
    }
}

/// Begin or end a block: what tasks made by this thread need from now on. Returns what held before.
#[pyfunction]
fn _enter_needs(amounts: Option<Amounts>) -> PyResult<Option<Amounts>> {
    let said = amounts.map(Needed::new).transpose()?;
    Ok(BLOCK.replace(said).map(Needed::amounts))
}

/// What the innermost block of this thread says.
#[pyfunction]
fn _needs_in_block() -> Option<Amounts> {
    BLOCK.get().map(Needed::amounts)
}

/// What the tasks of a graph need.
#[derive(Default, Debug)]
pub(crate) struct TaskNeeds {
    /// By task; those beyond the end need nothing. Empty, as a rule.
    of_tasks: Vec<Needed>,
}

impl TaskNeeds {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.of_tasks.is_empty()
    }

    pub(crate) fn of(&self, task: TaskIndex) -> Needed {
        let needed = self.of_tasks.get(task.as_usize());
        needed.copied().unwrap_or_default()
    }

    /// A task needs this; if it was known to need something, both.
    pub(crate) fn add(&mut self, task: TaskIndex, needed: Needed) -> PyResult<()> {
        let n_tasks = task.as_usize() + 1;
        let n_known = self.of_tasks.len();
        self.of_tasks.resize(n_known.max(n_tasks), Needed::NOTHING);
        let known = &mut self.of_tasks[task.as_usize()];
        *known = known.joined(needed)?;
        Ok(())
    }

    /// For some of the tasks, numbered anew.
    pub(crate) fn kept(&self, before: &[u32]) -> TaskNeeds {
        let of = |&task: &u32| self.of(TaskIndex(task));
        let of_tasks: Vec<_> = before.iter().map(of).collect();
        let is_any = of_tasks.iter().any(|needed| *needed != Needed::NOTHING);
        TaskNeeds {
            of_tasks: if is_any { of_tasks } else { Vec::new() },
        }
    }

    /// Finds the pool that tasks with these needs run in, and what they need there.
    ///
    /// `asking` is a `manyhands._resources.Asking`, or None where nobody has spoken of resources. `name` gives a text
    /// for a task.
    ///
    /// # Errors
    ///
    /// ConfigError if there is too little, or resources cannot be asked for.
    pub(crate) fn resolve<'py>(
        &self,
        py: Python<'py>,
        n_tasks: usize,
        asking: &Bound<'py, PyAny>,
        name: impl Fn(TaskIndex) -> String,
    ) -> PyResult<(Option<AnyPool<'py>>, Needs)> {
        let mut of_tasks = vec![Class::FREE; n_tasks];
        let mut classes: BTreeMap<Needed, Class> = BTreeMap::new();
        let mut asked = Vec::new();
        for (at, of_task) in of_tasks.iter_mut().enumerate() {
            let task = TaskIndex(at as u32);
            let needed = self.of(task);
            let next = Class(asked.len() as u16 + 1);
            // What the call asks for concerns those as well that need nothing else.
            *of_task = *classes.entry(needed).or_insert_with(|| {
                asked.push((needed.amounts(), name(task)));
                next
            });
        }
        let found = asking.call_method1(intern!(py, "for_graph"), (asked,))?;
        type Found<'py> = (Bound<'py, PyAny>, Vec<Vec<(u32, u32, u32)>>);
        let (pool, amounts): Found<'py> = found.extract()?;
        let need = |(resource, n_units, n_per_worker)| Need {
            resource,
            n_units,
            n_per_worker,
        };
        let needs = amounts
            .into_iter()
            .map(|of_class| of_class.into_iter().map(need).collect());
        let classes = std::iter::once(Vec::new()).chain(needs).collect();
        let pool = match pool.is_none() {
            true => None,
            false => Some(pool.extract()?),
        };
        Ok((pool, Needs::each(classes, of_tasks)))
    }
}

/// Adds what this module gives to Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_enter_needs, module)?)?;
    module.add_function(wrap_pyfunction!(_needs_in_block, module)?)
}
