//! Runs: tasks of one job with consecutive numbers, handled as one.

use crate::{JobId, KindId, TaskId, TaskIndex};
use std::fmt;

/// Tasks of a job with consecutive numbers, at least one. Numbers wrap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRun {
    /// The job they belong to.
    pub job: JobId,
    /// The first one's number.
    pub first: TaskIndex,
    /// How many there are.
    pub n_tasks: u32,
}

impl fmt::Debug for TaskRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.first())?;
        match self.n_tasks {
            1 => Ok(()),
            n_tasks => write!(f, "+{n_tasks}"),
        }
    }
}

impl From<TaskId> for TaskRun {
    fn from(task: TaskId) -> TaskRun {
        TaskRun {
            job: task.job,
            first: task.index,
            n_tasks: 1,
        }
    }
}

impl TaskRun {
    /// The first task.
    pub fn first(&self) -> TaskId {
        TaskId {
            job: self.job,
            index: self.first,
        }
    }

    /// The tasks' numbers.
    #[inline]
    pub fn indices(&self) -> impl ExactSizeIterator<Item = TaskIndex> + Clone + use<> {
        let first = self.first.0;
        (0..self.n_tasks).map(move |i| TaskIndex(first.wrapping_add(i)))
    }

    /// The tasks.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = TaskId> + Clone + use<> {
        let job = self.job;
        self.indices().map(move |index| TaskId { job, index })
    }

    /// The number after the last.
    #[inline]
    pub(crate) fn end(&self) -> u32 {
        self.first.0.wrapping_add(self.n_tasks)
    }

    /// Adds a run that begins where this one ends; whether it does.
    #[inline]
    pub(crate) fn append(&mut self, next: TaskRun) -> bool {
        let is_next = self.job == next.job && self.end() == next.first.0;
        self.n_tasks += if is_next { next.n_tasks } else { 0 };
        is_next
    }

    /// Splits off the first so many.
    #[inline]
    pub(crate) fn split_first(&mut self, n_tasks: u32) -> TaskRun {
        let first = TaskRun { n_tasks, ..*self };
        self.first.0 = self.first.0.wrapping_add(n_tasks);
        self.n_tasks -= n_tasks;
        first
    }

    /// Joins tasks that are listed one by one, upwards or downwards, into runs.
    pub(crate) fn join(tasks: &[TaskId]) -> Vec<TaskRun> {
        let mut runs: Vec<TaskRun> = Vec::new();
        for &task in tasks {
            let Some(last) = runs.last_mut() else {
                runs.push(task.into());
                continue;
            };
            if task.job == last.job && task.index.0.wrapping_add(1) == last.first.0 {
                last.first = task.index;
                last.n_tasks += 1;
            } else if !last.append(task.into()) {
                runs.push(task.into());
            }
        }
        runs
    }
}

/// The end of tasks, as their worker reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Which tasks. One of them only, unless all returned.
    pub tasks: TaskRun,
    /// How long they ran, all together.
    pub duration_ns: u64,
    /// In what way they ended.
    pub ending: Ending,
}

/// In what way a task ended by its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It returned.
    Returned,
    /// It failed.
    Failed,
    /// It failed in a way in which it may be tried again, where its job allows for that.
    Retriable,
    /// It failed in a way that ends its job, whatever the job tolerates.
    Fatal,
}

impl Ending {
    /// Whether it returned.
    #[inline]
    pub fn is_ok(self) -> bool {
        self == Ending::Returned
    }
}

impl From<bool> for Ending {
    /// Whether it returned, where more is not known.
    #[inline]
    fn from(is_ok: bool) -> Ending {
        if is_ok {
            Ending::Returned
        } else {
            Ending::Failed
        }
    }
}

/// Longer tasks are reported one by one, so that what each kind costs is not lost in a mean.
const JOINED_NS_MAX: u64 = 20_000;

impl Report {
    /// The end of one task.
    pub fn one(task: TaskId, duration_ns: u64, ending: impl Into<Ending>) -> Report {
        Report {
            tasks: task.into(),
            duration_ns,
            ending: ending.into(),
        }
    }

    /// Adds a task's end to a list, joining it with the last if both are short and neighbours.
    ///
    /// ```
    /// use manyhands_scheduler::{JobId, Report, TaskId, TaskIndex};
    ///
    /// let task = |index| TaskId { job: JobId(0), index: TaskIndex(index) };
    /// let mut reports = Vec::new();
    /// Report::one(task(0), 300, true).push_to(&mut reports);
    /// Report::one(task(1), 200, true).push_to(&mut reports);
    /// Report::one(task(3), 200, true).push_to(&mut reports);
    /// assert_eq!((reports.len(), reports[0].duration_ns), (2, 500));
    /// ```
    #[inline]
    pub fn push_to(self, reports: &mut Vec<Report>) {
        let is_short = |report: &Report| {
            report.ending.is_ok()
                && report.duration_ns <= JOINED_NS_MAX * u64::from(report.tasks.n_tasks)
        };
        if let Some(last) = reports.last_mut()
            && is_short(&self)
            && is_short(last)
            && last.tasks.append(self.tasks)
        {
            last.duration_ns += self.duration_ns;
        } else {
            reports.push(self);
        }
    }

    /// What one of the tasks took.
    #[inline]
    pub(crate) fn each_ns(&self) -> u64 {
        match self.tasks.n_tasks {
            1 => self.duration_ns,
            n_tasks => self.duration_ns / u64::from(n_tasks.max(1)),
        }
    }
}

/// Ready tasks taken from a job to be sent, with what is expected of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) first: TaskIndex,
    pub(crate) n_tasks: u32,
    pub(crate) each_ns: u64,
}

/// How much may be taken, and how to tell what a task costs.
pub(crate) struct Limits<C: Fn(KindId) -> u64> {
    pub(crate) n_tasks: usize,
    pub(crate) room_ns: u64,
    pub(crate) cost_ns: C,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(index: u32) -> TaskId {
        TaskId {
            job: JobId(0),
            index: TaskIndex(index),
        }
    }

    #[test]
    fn lists_become_runs_in_either_direction_and_over_the_end_of_numbers() {
        let list = [5, 6, 7, 3, 2, 9, u32::MAX, 0].map(task);
        let runs = TaskRun::join(&list)
            .iter()
            .map(|run| (run.first.0, run.n_tasks))
            .collect::<Vec<_>>();
        assert_eq!(runs, [(5, 3), (2, 2), (9, 1), (u32::MAX, 2)]);
    }

    #[test]
    fn long_tasks_and_failures_are_reported_alone() {
        let mut reports = Vec::new();
        for (index, duration_ns, is_ok) in [
            (0, 1, true),
            (1, 30_000, true),
            (2, 1, true),
            (3, 1, true),
            (4, 1, false),
            (5, 1, true),
        ] {
            Report::one(task(index), duration_ns, is_ok).push_to(&mut reports);
        }
        let n_tasks: Vec<_> = reports.iter().map(|report| report.tasks.n_tasks).collect();
        assert_eq!(n_tasks, [1, 1, 2, 1, 1]);
    }
}
