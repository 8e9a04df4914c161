//! What tasks print, warn of, log and draw, as the caller is to have it: `manyhands._relay` puts it where it belongs.
//!
//! Output that goes to this process's own streams as it comes is the executor's business. All else arrives at the
//! thread that waits for the job, as it comes or in the order of the serial run.

use crate::faults::Faults;
use crate::misuse::{OnMisuse, untold};
use manyhands_executor::{Failure, Part, Relay, Said, Stream};
use manyhands_graph::TaskIndex;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use crate::mapped::lock;

/// How the tasks of a call are heard, as `manyhands._relay` numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hearing {
    /// Output goes to the streams of this process.
    Here,
    /// Output goes to `sys.stdout` and `sys.stderr`.
    Caller,
    /// All that is said comes in the order of the serial run.
    Ordered,
    /// Nothing is heard.
    Silent,
}

/// What a call has said about its tasks beside what they compute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) hearing: Hearing,
    pub(crate) on_misuse: OnMisuse,
}

impl FromPyObject<'_, '_> for Manner {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Manner> {
        let number: u8 = object.extract()?;
        let hearing = match number & 3 {
            0 => Hearing::Here,
            1 => Hearing::Caller,
            2 => Hearing::Ordered,
            _ => Hearing::Silent,
        };
        let on_misuse = OnMisuse::numbered(number >> 2)
            .ok_or_else(|| PyValueError::new_err("no manner of hearing tasks"))?;
        Ok(Manner { hearing, on_misuse })
    }
}

impl Manner {
    /// Where workers of their own process send what tasks write.
    pub(crate) fn relay(self) -> Relay {
        match self.hearing {
            Hearing::Here => Relay::Here,
            Hearing::Caller => Relay::Caller,
            Hearing::Ordered => Relay::CallerByTask,
            Hearing::Silent => Relay::Nowhere,
        }
    }

    /// What keeps the output of threads apart, where it is to be kept apart.
    pub(crate) fn recorder(self, py: Python<'_>, n_tries_max: u32) -> PyResult<Option<Py<PyAny>>> {
        let is_ordered = match self.hearing {
            Hearing::Here | Hearing::Caller => return Ok(None),
            Hearing::Ordered => true,
            Hearing::Silent => false,
        };
        let helpers = py.import(intern!(py, "manyhands._relay"))?;
        let recorder = helpers.call_method1(intern!(py, "Recorder"), (is_ordered, n_tries_max))?;
        Ok(Some(recorder.unbind()))
    }
}

/// The first byte of a report, as `manyhands._reports` has it.
pub(crate) const WARNING: u8 = 1;
pub(crate) const MISUSE: u8 = 3;

/// Something to be put where it belongs.
enum Telling {
    Text(Stream, Vec<u8>),
    Report(TaskIndex, Vec<u8>),
}

/// Tells the caller of one job what its tasks have said.
pub(crate) struct Teller {
    manner: Manner,
    /// By task, its place in the serial run; none where tasks run in the order of their numbers.
    ranks: Option<Vec<u32>>,
    scheduler: String,
    /// How often a task is tried at most.
    n_tries_max: u32,
    order: Mutex<Order>,
    told: Told,
}

/// Of which functions the caller knows that they draw from a global state, and from which. Submitted calls that are one
/// call to the user have one of these among them.
#[pyclass(frozen, module = "manyhands._native")]
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<HashMap<usize, u8>>>);

#[pymethods]
impl Told {
    #[new]
    fn new() -> Told {
        Told::default()
    }
}

/// What has been said and is not due yet.
#[derive(Default)]
struct Order {
    /// By place in the serial run.
    heard: BTreeMap<u32, Heard>,
    /// Places of tasks that have ended without a last word, or with fewer tries than are seen to have been made: their
    /// worker has died, or they have run for too long.
    lost: BTreeSet<u32>,
    /// The place whose turn it is.
    next: u32,
}

/// What one task has said.
#[derive(Default)]
struct Heard {
    task: u32,
    /// When it failed and was tried again.
    earlier: Vec<Try>,
    last: Try,
}

/// What a task has said in one try.
#[derive(Default)]
struct Try {
    stdout: Written,
    stderr: Written,
    reports: HashMap<u32, Vec<u8>>,
}

#[derive(Default)]
struct Written {
    parts: Vec<Part>,
    is_whole: bool,
    /// Whether the task has failed in a way that it is tried again after.
    may_follow: bool,
}

/// By task, the function it calls.
pub(crate) type Functions<'a> = dyn Fn(Python<'_>, TaskIndex) -> Py<PyAny> + 'a;

impl Teller {
    pub(crate) fn new(
        manner: Manner,
        ranks: Option<Vec<u32>>,
        scheduler: &str,
        faults: &Faults,
    ) -> Teller {
        Teller {
            manner,
            ranks,
            scheduler: scheduler.to_owned(),
            n_tries_max: faults.n_tries_max(),
            order: Mutex::default(),
            told: Told::default(),
        }
    }

    /// The same, where some of it may have been told of other calls.
    pub(crate) fn told(mut self, told: Option<&Told>) -> Teller {
        self.told = told.cloned().unwrap_or_default();
        self
    }

    pub(crate) fn ranks(&self) -> Option<&[u32]> {
        self.ranks.as_deref()
    }

    pub(crate) fn manner(&self) -> Manner {
        self.manner
    }

    /// Tells what is due of what was said, of tasks of which these have been lost.
    ///
    /// # Errors
    ///
    /// What the program's own streams, handlers and filters raise: the first of it, once all is told.
    #[inline]
    pub(crate) fn hear(
        &self,
        py: Python<'_>,
        said: Vec<Said>,
        lost: &[(TaskIndex, Failure)],
        functions: &Functions<'_>,
    ) -> PyResult<()> {
        if said.is_empty() && (lost.is_empty() || self.manner.hearing != Hearing::Ordered) {
            return Ok(());
        }
        let due = self.due(said, lost);
        self.tell(py, due, functions)
    }

    /// The job has ended: tells what is left, in order, up to the task with which the serial run would have ended.
    pub(crate) fn end(
        &self,
        py: Python<'_>,
        failure: Option<&Failure>,
        functions: &Functions<'_>,
    ) -> PyResult<()> {
        if self.manner.hearing != Hearing::Ordered {
            return Ok(());
        }
        let last = match failure {
            None => u32::MAX,
            Some(failure) => match failure.culprit() {
                Some(task) => self.rank(task),
                // Nobody waits any more.
                None => return Ok(()),
            },
        };
        let mut due = Vec::new();
        let heard = std::mem::take(&mut lock(&self.order).heard);
        for (rank, heard) in heard {
            if rank <= last {
                heard.tell(&mut due);
            }
        }
        self.tell(py, due, functions)
    }

    fn rank(&self, task: TaskIndex) -> u32 {
        let ranks = self.ranks.as_ref();
        // A number that no task has is no reason for the engine to stop.
        ranks.map_or(task.0, |ranks| {
            ranks.get(task.as_usize()).copied().unwrap_or(u32::MAX)
        })
    }

    /// What is due now.
    fn due(&self, said: Vec<Said>, lost: &[(TaskIndex, Failure)]) -> Vec<Telling> {
        let mut due = Vec::new();
        let order = &mut *lock(&self.order);
        for said in said {
            let is_ordered = self.manner.hearing == Hearing::Ordered;
            let task = match &said {
                Said::Text(..) => None,
                Said::Wrote { task, .. } | Said::Report { task, .. } => Some(*task),
            };
            match (task, said) {
                // What has been told: of a task that is run once more, as its result was lost with its worker.
                (Some(task), _) if is_ordered && self.rank(task) < order.next => {}
                (Some(task), said) if is_ordered => {
                    let heard = order.heard.entry(self.rank(task)).or_default();
                    heard.task = task.0;
                    heard.take(said);
                }
                (_, Said::Text(stream, text)) => due.push(Telling::Text(stream, text)),
                (_, Said::Report { task, bytes, .. }) => due.push(Telling::Report(task, bytes)),
                (_, Said::Wrote { .. }) => {}
            }
        }
        if self.manner.hearing == Hearing::Ordered {
            let lost = lost.iter().map(|(task, _)| self.rank(*task));
            order.lost.extend(lost.filter(|rank| *rank >= order.next));
        }
        while order.is_next_whole(self.n_tries_max) {
            if let Some(heard) = order.heard.remove(&order.next) {
                heard.tell(&mut due);
            }
            order.next = order.next.wrapping_add(1);
        }
        due
    }

    fn tell(&self, py: Python<'_>, due: Vec<Telling>, functions: &Functions<'_>) -> PyResult<()> {
        if due.is_empty() {
            return Ok(());
        }
        let helpers = py.import(intern!(py, "manyhands._relay"))?;
        let mut first = Ok(());
        for telling in due {
            let told = match telling {
                Telling::Text(stream, text) => {
                    let number = match stream {
                        Stream::Stdout => 1,
                        Stream::Stderr => 2,
                    };
                    let text = PyBytes::new(py, &text);
                    helpers
                        .call_method1(intern!(py, "write"), (number, text))
                        .map(drop)
                }
                Telling::Report(task, bytes) => match bytes.split_first() {
                    Some((&MISUSE, states)) => {
                        let states = states.first().copied().unwrap_or_default();
                        self.tell_of_misuse(py, &functions(py, task), states)
                    }
                    _ if self.manner.hearing == Hearing::Silent => Ok(()),
                    _ => {
                        let bytes = PyBytes::new(py, &bytes);
                        helpers
                            .call_method1(intern!(py, "report"), (bytes,))
                            .map(drop)
                    }
                },
            };
            first = first.and(told);
        }
        first
    }

    /// Warns of a function that has drawn from these global states, once for each of them.
    pub(crate) fn tell_of_misuse(
        &self,
        py: Python<'_>,
        function: &Py<PyAny>,
        states: u8,
    ) -> PyResult<()> {
        let states = {
            let mut all = lock(&self.told.0);
            let told = all.entry(function.as_ptr() as usize).or_default();
            let before = *told;
            *told |= states;
            untold(states, before)
        };
        let Some(states) = states else { return Ok(()) };
        let helpers = py.import(intern!(py, "manyhands._relay"))?;
        let warn = intern!(py, "warn_of_misuse");
        helpers.call_method1(warn, (function, states, &self.scheduler))?;
        Ok(())
    }
}

impl Order {
    /// Whether the task whose turn it is says no more; that is asked once.
    fn is_next_whole(&mut self, n_tries_max: u32) -> bool {
        let heard = self.heard.get(&self.next);
        let is_lost = self.lost.remove(&self.next);
        is_lost || heard.is_some_and(|heard| heard.is_whole(n_tries_max))
    }
}

impl Heard {
    fn take(&mut self, said: Said) {
        if self.last.is_whole() && self.last.may_follow() {
            self.earlier.push(std::mem::take(&mut self.last));
        }
        self.last.take(said);
    }

    /// Whether the task has ended for good and all that it has said is here.
    fn is_whole(&self, n_tries_max: u32) -> bool {
        let n_tries = self.earlier.len() + 1;
        self.last.is_whole() && (!self.last.may_follow() || n_tries >= n_tries_max as usize)
    }

    fn tell(self, due: &mut Vec<Telling>) {
        let task = TaskIndex(self.task);
        for tried in self.earlier {
            tried.tell(task, due);
        }
        self.last.tell(task, due);
    }
}

impl Try {
    fn take(&mut self, said: Said) {
        match said {
            Said::Wrote {
                stream,
                parts,
                is_whole,
                may_follow,
                ..
            } => {
                let written = match stream {
                    Stream::Stdout => &mut self.stdout,
                    Stream::Stderr => &mut self.stderr,
                };
                // A task that is run once more, as its worker has died, says all of it again. And a worker may
                // end right after a task, whose last words these would be.
                if is_whole || !written.is_whole {
                    *written = Written {
                        parts,
                        is_whole,
                        may_follow,
                    };
                }
            }
            Said::Report { number, bytes, .. } => {
                self.reports.insert(number, bytes);
            }
            Said::Text(..) => {}
        }
    }

    fn may_follow(&self) -> bool {
        self.stdout.may_follow
    }

    /// Whether it has ended and all that was said is here.
    fn is_whole(&self) -> bool {
        let is_here = |part: &Part| match part {
            Part::Text(_) => true,
            Part::Report(number) => self.reports.contains_key(number),
        };
        self.stdout.is_whole && self.stderr.is_whole && self.stderr.parts.iter().all(is_here)
    }

    fn tell(mut self, task: TaskIndex, due: &mut Vec<Telling>) {
        for part in self.stdout.parts {
            if let Part::Text(text) = part {
                due.push(Telling::Text(Stream::Stdout, text));
            }
        }
        for part in self.stderr.parts {
            match part {
                Part::Text(text) => due.push(Telling::Text(Stream::Stderr, text)),
                Part::Report(number) => {
                    if let Some(bytes) = self.reports.remove(&number) {
                        due.push(Telling::Report(task, bytes));
                    }
                }
            }
        }
    }
}
