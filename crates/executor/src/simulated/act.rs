//! What the scheduler commands, in a form that can be compared, and what was found to be wrong with it.

use manyhands_scheduler::{Cause, Command, Commands, JobId, Loss, TaskId, TaskIndex, WorkerId};

/// What was found to be wrong, and with which task if with one.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) what: String,
    pub(super) task: Option<TaskId>,
}

pub(super) fn fault<T>(task: Option<TaskId>, what: impl Into<String>) -> Result<T, Fault> {
    let what = what.into();
    Err(Fault { what, task })
}

/// A command with its tasks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Act {
    Start(WorkerId, Vec<TaskId>),
    TakeBack(WorkerId, Vec<TaskId>),
    Kill(WorkerId),
    Deliver(TaskId),
    Release(TaskId),
    Fail(TaskId, How),
    Lose(TaskId, How),
    DeliverLoss(TaskId, TaskIndex),
    Look(WorkerId),
    JobDone(JobId),
}

/// Why a task failed, and at which try.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct How {
    cause: &'static str,
    n_tries: u32,
}

impl From<Loss> for How {
    fn from(loss: Loss) -> How {
        let cause = match loss.cause {
            Cause::Failed => "failed",
            Cause::WorkerDied => "its worker died",
            Cause::OutOfTime => "out of time",
        };
        let n_tries = loss.n_tries;
        How { cause, n_tries }
    }
}

impl Act {
    /// What a command comes to, task by task.
    pub(super) fn from(command: &Command, commands: &Commands) -> Vec<Act> {
        let tasks = |range| commands.tasks(range).collect();
        vec![match command {
            Command::Deliver(run) => return run.tasks().map(Act::Deliver).collect(),
            Command::Release(run) => return run.tasks().map(Act::Release).collect(),
            Command::Start(worker, range) => Act::Start(*worker, tasks(range)),
            Command::TakeBack(worker, range) => Act::TakeBack(*worker, tasks(range)),
            Command::Kill(worker) => Act::Kill(*worker),
            Command::Fail(task, loss) => Act::Fail(*task, How::from(*loss)),
            Command::Lose(task, loss) => Act::Lose(*task, How::from(*loss)),
            Command::DeliverLoss(task, culprit) => Act::DeliverLoss(*task, *culprit),
            Command::Look(worker) => Act::Look(*worker),
            Command::JobDone(job) => Act::JobDone(*job),
        }]
    }

    pub(super) fn job(&self) -> Option<JobId> {
        match self {
            Act::Deliver(task)
            | Act::Release(task)
            | Act::Fail(task, _)
            | Act::Lose(task, _)
            | Act::DeliverLoss(task, _) => Some(task.job),
            Act::JobDone(job) => Some(*job),
            Act::Start(..) | Act::TakeBack(..) | Act::Kill(_) | Act::Look(_) => None,
        }
    }
}
