//! Tasks that fail are tried again or given up; tasks that take too long are ended.
//!
//! A task that may be tried again *rests* first, at no worker. One that failed for good ends its job, or,
//! where the job tolerates that, takes along only what depends on it.
//!
//! When a task starts is not reported, as that would cost too much. But it is known that a worker runs
//! nothing for longer than it has been silent. So a worker that was silent for as long as any task may
//! run is looked at ([`Command::Look`]), and what is seen decides. One that has tasks and begins none is
//! ended as well, and nobody is blamed.

use crate::job::{Phase, Work};
use crate::{
    Cause, Command, Commands, Ending, Loss, Scheduler, TaskId, TaskIndex, TimeNs, WorkerId,
};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// No task rests for longer than this before it is tried again.
pub const REST_NS_MAX: u64 = 60_000_000_000;

/// A worker that has tasks and begins none is given so much time beyond the shortest limit, or that limit
/// again, before it is ended: it may have been stopped, and hears of nothing.
const BEGIN_NS: u64 = 2_000_000_000;
/// Nobody is looked at more often than this, however short the limits.
const LOOK_PAUSE_NS: u64 = 1_000_000;

/// What becomes of a job's tasks that fail or take too long. By default, a failure ends the job, and
/// any task may take as long as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    /// Whether the job goes on without tasks that failed, and those that depend on them.
    pub is_tolerant: bool,
    /// How often a task that failed in a [retriable](Ending::Retriable) way is tried again.
    pub n_retries: u32,
    /// How long a task rests after its first failure; twice as long after each one more, up to
    /// [`REST_NS_MAX`].
    pub rest_ns: u64,
    /// Whether tasks that took too long are tried again as well.
    pub retries_out_of_time: bool,
    /// How long a task may run.
    pub limit_ns: Option<NonZeroU64>,
}

impl Rules {
    /// How long a task rests that has failed so many times.
    pub fn rest_after_ns(&self, n_failures: u32) -> u64 {
        let factor = 1u64.checked_shl(n_failures.saturating_sub(1));
        let rest_ns = factor.and_then(|factor| self.rest_ns.checked_mul(factor));
        let is_none = self.rest_ns == 0;
        let longest_ns = if is_none { 0 } else { REST_NS_MAX };
        rest_ns.unwrap_or(u64::MAX).min(longest_ns)
    }
}

/// What a worker is seen to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// This task, since this moment.
    Running(TaskId, TimeNs),
    /// None.
    Nothing,
    /// There is no way to see it: what is first in its queue is taken for it.
    Hidden,
}

/// How long tasks may run, over all jobs that go on.
#[derive(Default, Debug)]
pub(crate) struct Limits {
    /// How many jobs have each limit.
    n_jobs: BTreeMap<u64, usize>,
    /// No worker needs to be looked at before.
    due_ns: TimeNs,
}

impl Limits {
    /// A job with a limit is there.
    pub(crate) fn add(&mut self, limit_ns: u64, now_ns: TimeNs) {
        let due_ns = now_ns.saturating_add(limit_ns);
        self.due_ns = if self.n_jobs.is_empty() {
            due_ns
        } else {
            self.due_ns.min(due_ns)
        };
        *self.n_jobs.entry(limit_ns).or_default() += 1;
    }

    /// A job with a limit has ended, or is ending.
    pub(crate) fn remove(&mut self, limit_ns: u64) {
        if let Some(n_jobs) = self.n_jobs.get_mut(&limit_ns) {
            *n_jobs -= 1;
            if *n_jobs == 0 {
                self.n_jobs.remove(&limit_ns);
            }
        }
    }

    /// The shortest.
    fn least_ns(&self) -> Option<u64> {
        self.n_jobs.first_key_value().map(|(limit_ns, _)| *limit_ns)
    }
}

impl Scheduler {
    /// How long a task may run; only of jobs that go on.
    fn limit_of(&self, task: TaskId) -> Option<u64> {
        let job = self.jobs[task.job.0 as usize].as_ref()?;
        let limit_ns = job.rules.limit_ns?;
        (job.phase == Phase::Running).then_some(limit_ns.get())
    }

    /// A task of a job that goes on, which no worker holds any more, has failed.
    pub(crate) fn task_failed(
        &mut self,
        task: TaskId,
        cause: Cause,
        ending: Ending,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let job = self.jobs[task.job.0 as usize]
            .as_mut()
            .expect("a job lives while one of its tasks has not ended");
        let n_tries = job.count_failure(task.index);
        let rules = job.rules;
        if ending == Ending::Retriable && n_tries <= rules.n_retries {
            job.rest(task.index);
            let at_ns = now_ns.saturating_add(rules.rest_after_ns(n_tries));
            self.resting.push(Reverse((at_ns, task.job, task.index)));
            return;
        }
        let loss = Loss { cause, n_tries };
        if rules.is_tolerant && ending != Ending::Fatal {
            let n_made_ready = job.lose(task, loss, commands);
            self.n_ready += n_made_ready;
            self.lists.list_job(task.job, job);
        } else {
            job.n_failed += 1;
            commands.push(Command::Fail(task, loss));
            self.drain(task.job, TimeNs::MAX, commands);
        }
    }

    /// A worker was ended for the sake of a task that ran for too long.
    pub(crate) fn out_of_time(&mut self, task: TaskId, now_ns: TimeNs, commands: &mut Commands) {
        let job = self.jobs[task.job.0 as usize]
            .as_mut()
            .expect("a job lives while a worker holds one of its tasks");
        job.n_in_flight -= 1;
        if job.phase == Phase::Running {
            let ending = match job.rules.retries_out_of_time {
                true => Ending::Retriable,
                false => Ending::Failed,
            };
            self.task_failed(task, Cause::OutOfTime, ending, now_ns, commands);
        }
        self.retire_if_done(task.job, commands);
    }

    /// Has tasks be ready again that have rested for long enough.
    pub(crate) fn wake_resting(&mut self, now_ns: TimeNs) {
        while let Some(&Reverse((at_ns, id, index))) = self.resting.peek() {
            if at_ns > now_ns {
                self.look_again_at(at_ns);
                return;
            }
            self.resting.pop();
            let job = self.jobs[id.0 as usize]
                .as_mut()
                .expect("what rests is forgotten with its job");
            let task = TaskId { job: id, index };
            if let Work::Graphed(graphed) = &mut job.work {
                let n_held = graphed.hold_again();
                self.n_ready -= n_held;
            }
            if job.is_suspect(index) {
                job.set_aside(index);
                self.suspects.push_back(task);
            } else {
                self.n_ready += job.put_back(task.into());
                self.lists.list_job(id, job);
            }
        }
    }

    /// Looks at workers that were silent for as long as a task may run.
    #[inline]
    pub(crate) fn look_at_overdue(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        if let Some(limit_ns) = self.limits.least_ns() {
            if self.limits.due_ns <= now_ns {
                self.look_at_all(limit_ns, now_ns, commands);
            }
            self.look_again_at(self.limits.due_ns);
        }
    }

    fn look_at_all(&mut self, limit_ns: u64, now_ns: TimeNs, commands: &mut Commands) {
        // What starts from now on is within its time until then.
        let mut due_ns = now_ns.saturating_add(limit_ns.max(LOOK_PAUSE_NS));
        for (at, worker) in self.workers.iter_mut().enumerate() {
            let Some(worker) = worker else { continue };
            if worker.queue.is_empty() || worker.is_killed || worker.is_looked_at {
                continue;
            }
            let silent_ns = worker.heard_ns.saturating_add(limit_ns);
            let worker_due_ns = silent_ns.max(worker.in_time_until_ns);
            if worker_due_ns > now_ns {
                due_ns = due_ns.min(worker_due_ns);
            } else {
                worker.is_looked_at = true;
                commands.push(Command::Look(WorkerId(at as u32)));
            }
        }
        self.limits.due_ns = due_ns;
    }

    pub(crate) fn on_seen(
        &mut self,
        id: WorkerId,
        sight: Sight,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let least_ns = self.limits.least_ns();
        let Some(worker) = self.worker_mut(id) else {
            return;
        };
        worker.is_looked_at = false;
        let seen = match sight {
            Sight::Running(task, since_ns) => Some((task, since_ns)),
            Sight::Nothing => None,
            Sight::Hidden => worker.queue.head().map(|task| (task, worker.heard_ns)),
        };
        // What has been taken from it meanwhile is nobody's concern.
        let seen = seen.filter(|(task, _)| worker.queue.contains(*task) && !worker.is_killed);
        let due_ns = seen.and_then(|(task, since_ns)| {
            let limit_ns = self.limit_of(task)?;
            Some((task, since_ns.saturating_add(limit_ns)))
        });
        let least_ns = least_ns.unwrap_or(u64::MAX);
        let mut in_time_until_ns = now_ns.saturating_add(least_ns);
        let Some(worker) = self.worker_mut(id) else {
            return;
        };
        let stalls_ns = least_ns.saturating_add(least_ns.max(BEGIN_NS));
        let is_stalled = seen.is_none() && worker.heard_ns.saturating_add(stalls_ns) <= now_ns;
        if is_stalled && !worker.queue.is_empty() && !worker.is_killed {
            // None of its tasks is to blame.
            worker.is_killed = true;
            commands.push(Command::Kill(id));
            return;
        }
        match due_ns {
            Some((task, due_ns)) if due_ns <= now_ns => {
                worker.is_killed = true;
                worker.out_of_time = Some(task);
                commands.push(Command::Kill(id));
                return;
            }
            Some((_, due_ns)) => in_time_until_ns = in_time_until_ns.min(due_ns),
            None => {}
        }
        let again_ns = in_time_until_ns.max(now_ns.saturating_add(LOOK_PAUSE_NS));
        worker.in_time_until_ns = again_ns;
        self.limits.due_ns = self.limits.due_ns.min(again_ns);
    }

    /// The tasks of a job that rest.
    pub(crate) fn resting_of(&self, id: crate::JobId) -> impl Iterator<Item = TaskId> {
        let of_job = self.resting.iter().filter(move |entry| entry.0.1 == id);
        of_job.map(
            |Reverse((_, job, index)): &Reverse<(_, _, TaskIndex)>| TaskId {
                job: *job,
                index: *index,
            },
        )
    }
}
