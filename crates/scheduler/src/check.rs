//! What must hold between any two events; the simulation checks it after each.

use crate::graphed::{Graphed, State};
use crate::job::{Job, Phase, Work};
use crate::worker::Sent;
use crate::{JobId, Scheduler, TaskId, TaskIndex, WorkerId};

impl Scheduler {
    /// Checks every invariant of the state. For tests: takes time proportional to the whole state.
    ///
    /// # Errors
    ///
    /// The first violation found, in words.
    pub fn check(&self) -> Result<(), String> {
        let held = self.check_workers()?;
        let mut n_ready = 0;
        for (at, job) in self.jobs.iter().enumerate() {
            if let Some(job) = job {
                let id = JobId(at as u32);
                self.check_job(id, job, &held)?;
                n_ready += job.n_ready();
            }
        }
        if n_ready != self.n_ready {
            return Err(format!("{n_ready} tasks ready, {} counted", self.n_ready));
        }
        let is_free = |task: &TaskId| {
            let job = self.jobs[task.job.0 as usize].as_ref();
            job.is_some_and(|job| job.needs_of(task.index).is_empty())
        };
        let is_waiting = self.n_ready > 0 || self.suspects.iter().any(is_free);
        let idle = self
            .workers
            .iter()
            .flatten()
            .filter(|w| w.is_idle())
            .count();
        let holding = self.workers.iter().flatten();
        let n_busy = holding.filter(|w| !w.queue.is_empty()).count();
        if let Some(id) = self.alone
            && n_busy > 1
        {
            return Err(format!("{id:?} should run alone, and {n_busy} are busy"));
        }
        if is_waiting && idle > 0 && !(self.is_held_for_memory() && n_busy > 0) {
            return Err(format!(
                "{idle} workers idle while {n_ready} tasks are ready"
            ));
        }
        self.check_supplies()
    }

    /// Checks that nothing is left of any job, for the end of a simulated run.
    ///
    /// # Errors
    ///
    /// What is left, in words.
    pub fn check_empty(&self) -> Result<(), String> {
        self.check()?;
        let n_jobs = self.jobs.iter().flatten().count();
        let n_held: usize = self
            .workers
            .iter()
            .flatten()
            .map(|w| w.queue.n_tasks())
            .sum();
        let n_aside = self.suspects.len() + self.resting.len();
        if n_jobs + n_held + n_aside > 0 || self.has_work() {
            return Err(format!(
                "{n_jobs} jobs, {n_held} tasks at workers, {} suspects and {} that rest are left",
                self.suspects.len(),
                self.resting.len()
            ));
        }
        Ok(())
    }

    /// Checks the queues; returns all tasks in them, in order.
    fn check_workers(&self) -> Result<Vec<TaskId>, String> {
        let mut held = Vec::new();
        let mut n_workers = 0;
        let mut n_recalls = 0;
        for (at, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            let id = WorkerId(at as u32);
            n_workers += 1;
            n_recalls += worker.n_recalls;
            let queue = &worker.queue;
            let expected_ns: u64 = queue.runs().map(Sent::expected_ns).sum();
            let n_tasks: usize = queue.runs().map(|sent| sent.run.n_tasks as usize).sum();
            if (expected_ns, n_tasks) != (queue.expected_ns(), queue.n_tasks()) {
                return Err(format!(
                    "{id:?} has {n_tasks} tasks of {expected_ns} ns, not {queue:?}"
                ));
            }
            if worker.is_exclusive && n_tasks != 1 {
                return Err(format!("{id:?} runs a suspect among {n_tasks}"));
            }
            held.extend(queue.runs().flat_map(|sent| sent.run.tasks()));
        }
        held.sort_unstable();
        if let Some(pair) = held.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{:?} is at two workers", pair[0]));
        }
        if n_workers != self.n_workers || n_recalls != self.n_recalls {
            return Err(format!(
                "{n_workers} workers and {n_recalls} recalls, counted {} and {}",
                self.n_workers, self.n_recalls
            ));
        }
        Ok(held)
    }

    fn check_job(&self, id: JobId, job: &Job, held: &[TaskId]) -> Result<(), String> {
        let start = held.partition_point(|task| task.job < id);
        let held = &held[start..];
        let held = &held[..held.partition_point(|task| task.job == id)];
        if held.len() != job.n_in_flight {
            let n_held = held.len();
            return Err(format!(
                "{id:?}: {n_held} in flight, counted {}",
                job.n_in_flight
            ));
        }
        match &job.work {
            Work::Abandoned if job.phase == Phase::Running => {
                return Err(format!("{id:?} runs and has been abandoned"));
            }
            Work::Abandoned => {}
            Work::Loose(loose) => {
                let ready = loose.ready(id).flat_map(|run| run.tasks());
                let aside = self.suspects.iter().filter(|task| task.job == id).copied();
                let aside = aside.chain(self.resting_of(id));
                let mut all: Vec<_> = ready.chain(aside).chain(held.iter().copied()).collect();
                all.sort_unstable();
                if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
                    return Err(format!("{:?} is in two places", pair[0]));
                }
                if all.len() != job.n_unfinished {
                    let n_unfinished = job.n_unfinished;
                    return Err(format!(
                        "{id:?}: {} unfinished, not {n_unfinished}",
                        all.len()
                    ));
                }
            }
            Work::Graphed(graphed) => self.check_graphed(id, job, graphed, held)?,
        }
        if (job.n_unfinished + job.n_abandoned) as u64 > job.n_added {
            return Err(format!("{id:?} has more tasks left than it was given"));
        }
        if job.n_unfinished == 0 && job.n_in_flight == 0 && !job.is_open {
            return Err(format!("{id:?} has ended and is still here"));
        }
        Ok(())
    }

    fn check_graphed(
        &self,
        id: JobId,
        job: &Job,
        graphed: &Graphed,
        held: &[TaskId],
    ) -> Result<(), String> {
        let mut n_unfinished = 0;
        let mut n_ready = 0;
        for index in graphed.graph.tasks() {
            let state = graphed.tasks[index.as_usize()].state;
            let task = TaskId { job: id, index };
            let is_held = held.binary_search(&task).is_ok();
            if (state == State::Sent) != is_held {
                return Err(format!("{task:?} is {state:?}, held: {is_held}"));
            }
            let is_resting = self.resting_of(id).any(|other| other == task);
            if (state == State::Resting) != is_resting {
                return Err(format!("{task:?} is {state:?}, resting: {is_resting}"));
            }
            n_unfinished += usize::from(!state.is_over());
            n_ready += usize::from(state == State::Ready && !self.suspects.contains(&task));
            check_counts(graphed, index)?;
        }
        let n_held_back = graphed.n_held_back();
        let counted = (job.n_unfinished, job.n_ready_of_any() + n_held_back);
        if (n_unfinished, n_ready) != counted {
            return Err(format!(
                "{id:?}: {n_unfinished} unfinished and {n_ready} ready, counted {counted:?}"
            ));
        }
        Ok(())
    }
}

/// A task's counts of dependencies and readers agree with its neighbours' states.
fn check_counts(graphed: &Graphed, index: TaskIndex) -> Result<(), String> {
    let task = &graphed.tasks[index.as_usize()];
    let n_unfinished_of = |row: &[TaskIndex]| {
        let is_unfinished = |other: &&TaskIndex| !graphed.tasks[other.as_usize()].state.is_over();
        row.iter().filter(is_unfinished).count() as u32
    };
    let n_unfinished = n_unfinished_of(graphed.graph.dependencies(index));
    let n_readers = n_unfinished_of(graphed.graph.dependents(index));
    if n_unfinished != task.n_unfinished_dependencies || n_readers != task.n_readers_left {
        return Err(format!("{index:?} has wrong counts: {task:?}"));
    }
    if (n_unfinished > 0) != (task.state == State::Waiting) {
        return Err(format!(
            "{index:?} is {:?} with {n_unfinished} unfinished",
            task.state
        ));
    }
    Ok(())
}
