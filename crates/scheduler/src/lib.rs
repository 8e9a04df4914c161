//! The scheduler: a pure state machine that decides which worker runs which task when.
//!
//! [`Scheduler::on`] takes an [`Event`] and the time and appends [`Command`]s. It has no clock, no
//! thread, no file and no socket, and never sees what a task is: it holds ids and durations. Every
//! executor performs its commands; the simulated executor does so in virtual time.
//!
//! Life of a task: *waiting* (for dependencies) → *ready* → *sent* to a worker, perhaps *recalled*
//! from it and ready again → *finished*. A worker that is lost returns its tasks to ready; the one
//! that was running is suspected, tried once more alone, and then blamed. Where memory was what it
//! was lost for, *alone* means that no other worker runs anything meanwhile. A task that failed and may
//! be tried again *rests* first; one that failed for good ends its job, or, where the job tolerates
//! that, takes along only what depends on it.

mod batch;
mod check;
mod cost;
mod faults;
mod graphed;
mod job;
mod loose;
mod needs;
mod pressure;
mod ready;
mod run;
mod scheduler;
mod supplies;
mod tally;
mod worker;

pub use batch::REPORTS_WAIT_NS_MAX;
pub use faults::{REST_NS_MAX, Rules, Sight};
pub use manyhands_graph::{Graph, TaskIndex};
pub use needs::{Class, Need, Needs};
pub use run::{Ending, Report, TaskRun};
pub use scheduler::Scheduler;
pub use supplies::{N_PASSED_MAX, Supply};
pub use tally::Tally;

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;

/// A job: a graph of tasks submitted together. Numbers are used again after [`Command::JobDone`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u32);

/// A worker. Numbers are chosen by the executor, small and dense, and may be used again after
/// [`Event::WorkerLost`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

/// A kind of task, of which the cost is learnt: in practice, a function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KindId(pub u32);

/// A task of a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The job it belongs to.
    pub job: JobId,
    /// Its number in that job.
    pub index: TaskIndex,
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "j{}", self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{:?}", self.job, self.index)
    }
}

/// Nanoseconds since some moment that the executor chose.
pub type TimeNs = u64;

/// What a job consists of.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// The tasks and their dependencies.
    pub graph: Graph,
    /// The tasks whose results the caller wants.
    pub wanted: Wanted,
    /// What kind each task is.
    pub kinds: Kinds,
    /// Exactly so many tasks a batch, where the caller insists.
    pub batch_size: Option<NonZeroU32>,
    /// Whether more tasks will be added by [`Event::Extend`]. Only for graphs without edges.
    pub is_open: bool,
    /// What becomes of tasks that fail or take too long.
    pub rules: Rules,
}

/// Which results the caller wants.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// All of them.
    All,
    /// Those of these tasks.
    Tasks(Vec<TaskIndex>),
}

/// The kinds of a job's tasks.
#[derive(Clone, Debug)]
pub enum Kinds {
    /// All are of one kind.
    One(KindId),
    /// One entry for each task.
    Each(Vec<KindId>),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A job was submitted under an id from [`Scheduler::new_job_id`].
    Submit(JobId, JobSpec),
    /// An open job has so many tasks more.
    Extend(JobId, u32),
    /// An open job is complete.
    Close(JobId),
    /// Nobody wants the job's results any more. Workers that still run one of its tasks after
    /// `grace_ns` are ended.
    Cancel {
        /// Which job.
        job: JobId,
        /// How long its running tasks may still take.
        grace_ns: u64,
    },
    /// A worker is ready to take tasks.
    WorkerJoined(WorkerId),
    /// A worker finished tasks.
    Finished(WorkerId, &'a [Report]),
    /// A worker answers a [`Command::TakeBack`]: it will not run these tasks.
    TakenBack(WorkerId, &'a [TaskId]),
    /// A worker is gone.
    WorkerLost {
        /// Which worker.
        worker: WorkerId,
        /// The task it was running, if it was.
        running: Option<TaskId>,
        /// Whether it was lost because memory ran short: then what it was running is tried again while
        /// nothing else runs.
        was_memory_short: bool,
    },
    /// Answers [`Command::Look`]: what a worker is seen to run.
    Seen(WorkerId, Sight),
    /// Results have piled up, or no longer do. While they do, a graph's tasks without dependencies are
    /// held back unless nothing else of it can run, and tasks that let go of results come first.
    Pressure {
        /// Whether they have.
        is_high: bool,
    },
    /// The moment named by [`Scheduler::deadline_ns`] has come.
    Tick,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Run these tasks there, in this order. Ranges are for [`Commands::runs`] and
    /// [`Commands::tasks`].
    Start(WorkerId, Range<usize>),
    /// Ask for those of these tasks back that have not started.
    TakeBack(WorkerId, Range<usize>),
    /// End this worker; report it lost.
    Kill(WorkerId),
    /// Wanted tasks have finished.
    Deliver(TaskRun),
    /// Nobody will read these tasks' results any more.
    Release(TaskRun),
    /// This task failed for good; its job ends.
    Fail(TaskId, Loss),
    /// This task failed for good; its job goes on without it.
    Lose(TaskId, Loss),
    /// A wanted task has no result, as this one of its job failed: itself, or one that it depends on.
    DeliverLoss(TaskId, TaskIndex),
    /// Say at once, by [`Event::Seen`], what this worker runs and since when.
    Look(WorkerId),
    /// Nothing of this job is left anywhere; its id may be used again.
    JobDone(JobId),
}

/// Why a task failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Its worker said so.
    Failed,
    /// Its worker died under it, repeatedly.
    WorkerDied,
    /// It ran for longer than it may, and its worker was ended.
    OutOfTime,
}

/// How a task failed for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Why.
    pub cause: Cause,
    /// How often it was run to a failure of its own: more than once where it was tried again.
    pub n_tries: u32,
}

/// Commands in the order in which they must be performed.
#[derive(Default, Debug)]
pub struct Commands {
    list: Vec<Command>,
    runs: Vec<TaskRun>,
}

impl Commands {
    /// The commands.
    pub fn iter(&self) -> impl Iterator<Item = &Command> {
        self.list.iter()
    }

    /// The tasks that a command's range stands for.
    pub fn runs(&self, range: &Range<usize>) -> &[TaskRun] {
        &self.runs[range.clone()]
    }

    /// The same tasks one by one.
    pub fn tasks(&self, range: &Range<usize>) -> impl Iterator<Item = TaskId> {
        self.runs(range).iter().flat_map(TaskRun::tasks)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets all commands, keeping the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.runs.clear();
    }

    pub(crate) fn push(&mut self, command: Command) {
        self.list.push(command);
    }

    #[inline]
    pub(crate) fn deliver(&mut self, run: TaskRun) {
        if let Some(Command::Deliver(last)) = self.list.last_mut()
            && last.append(run)
        {
            return;
        }
        self.list.push(Command::Deliver(run));
    }

    #[inline]
    pub(crate) fn release(&mut self, task: TaskId) {
        if let Some(Command::Release(last)) = self.list.last_mut()
            && last.append(task.into())
        {
            return;
        }
        self.list.push(Command::Release(task.into()));
    }

    /// Where the next tasks go; with [`Commands::push_run`] and [`Commands::range_from`].
    pub(crate) fn mark(&self) -> usize {
        self.runs.len()
    }

    /// Adds tasks to those that stand from the mark on.
    #[inline]
    pub(crate) fn push_run(&mut self, mark: usize, run: TaskRun) {
        if let Some(last) = self.runs[mark..].last_mut()
            && last.append(run)
        {
            return;
        }
        self.runs.push(run);
    }

    pub(crate) fn range_from(&self, mark: usize) -> Range<usize> {
        mark..self.runs.len()
    }
}
