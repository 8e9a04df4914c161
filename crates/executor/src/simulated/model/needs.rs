//! A second account of resources, unit by unit, and of who waits for them.

use super::{JobModel, Model, TaskModel, WorkerModel};
use crate::simulated::act::{Fault, fault};
use manyhands_scheduler::{JobId, N_PASSED_MAX, Need, Supply, TaskId, TaskIndex, WorkerId};
use std::collections::BTreeSet;

/// Tasks of a job that need the same, and how many others were started since that left too little for them.
#[derive(Debug)]
pub(super) struct Passed {
    job: JobId,
    needs: Vec<Need>,
    n_passed: u32,
}

impl Passed {
    pub(super) fn is_of_another(&self, job: JobId) -> bool {
        self.job != job
    }
}

impl Model<'_> {
    /// What a task needs.
    pub(super) fn needs(&self, task: TaskId) -> &[Need] {
        let job = self.job(task.job);
        job.map_or(&[], |job| self.case.jobs[job.plan].needs.of(task.index))
    }

    /// No more is used of any resource than there is, and no worker is idle that a task could run on now, unless
    /// what it needs is kept for another one.
    pub(in crate::simulated) fn check_needs(
        &self,
        is_kept_waiting: impl Fn(TaskId, WorkerId) -> bool,
    ) -> Result<(), Fault> {
        let supplies = &self.case.machine.supplies;
        if supplies.is_empty() {
            return Ok(());
        }
        let mut used = Used::new(supplies);
        for (at, worker) in self.workers.iter().enumerate() {
            for &(task, _) in worker.iter().flat_map(|worker| &worker.queue) {
                if !used.take(WorkerId(at as u32), self.needs(task)) {
                    return fault(Some(task), format!("{task:?} uses more than there is"));
                }
            }
        }
        if self.is_held_for_memory() {
            return Ok(());
        }
        for task in self.waiting() {
            for (at, worker) in self.workers.iter().enumerate() {
                let is_idle = |worker: &WorkerModel| worker.queue.is_empty() && !worker.is_killed;
                let id = WorkerId(at as u32);
                if worker.as_ref().is_some_and(is_idle)
                    && used.has(id, self.needs(task))
                    && !is_kept_waiting(task, id)
                {
                    let what = format!("{task:?} could run on {id:?}, which is idle");
                    return fault(Some(task), what);
                }
            }
        }
        Ok(())
    }

    /// Of all tasks that need the same and could run, one of each job; suspects apart.
    fn waiting(&self) -> Vec<TaskId> {
        let mut waiting = Vec::new();
        for (id, job) in self.jobs.iter().enumerate() {
            let Some(job) = job else { continue };
            let needs = &self.case.jobs[job.plan].needs;
            if needs.is_empty() || job.kill_at_ns.is_some() {
                continue;
            }
            let mut seen = BTreeSet::new();
            for (at, task) in job.tasks.iter().enumerate() {
                let index = TaskIndex(at as u32);
                let own = needs.of(index);
                if !own.is_empty()
                    && self.is_runnable(job, task, index)
                    && seen.insert((task.is_suspect(), own))
                {
                    let job = JobId(id as u32);
                    waiting.push(TaskId { job, index });
                }
            }
        }
        waiting
    }

    /// Whether a task makes a result of nothing, in a graph where results are read.
    pub(super) fn is_root(&self, job: &JobModel, index: TaskIndex) -> bool {
        let graph = &self.case.jobs[job.plan].spec.graph;
        graph.n_edges() > 0 && graph.dependencies(index).is_empty()
    }

    fn is_runnable(&self, job: &JobModel, task: &TaskModel, index: TaskIndex) -> bool {
        let may_go = !self.is_pressed || task.was_sent || !self.is_root(job, index);
        task.is_free() && task.n_inputs_missing == 0 && may_go
    }

    /// A task was started on a worker. Nobody whom it has left too little for may be passed over for ever; of what
    /// each worker has its own, that is counted at the first worker.
    pub(super) fn count_passed(&mut self, id: WorkerId, started: TaskId) -> Result<(), Fault> {
        let needs = self.needs(started).to_vec();
        if needs.is_empty() {
            return Ok(());
        }
        let waiting = self.waiting().into_iter();
        let waiting = waiting.filter(|&task| self.task(task).is_some_and(|one| !one.is_suspect()));
        let waiting: Vec<_> = waiting
            .map(|task| (task, self.needs(task).to_vec()))
            .collect();
        let mut used = Used::new(&self.case.machine.supplies);
        for (at, worker) in self.workers.iter().enumerate() {
            for &(task, _) in worker.iter().flat_map(|worker| &worker.queue) {
                used.take(WorkerId(at as u32), self.needs(task));
            }
        }
        used.take(id, &needs);
        let is_live = |worker: &Option<WorkerModel>| worker.as_ref().is_some_and(|w| !w.is_killed);
        let first = self.workers.iter().position(is_live);
        let first = WorkerId(first.unwrap_or_default() as u32);
        let is_passed = |own: &[Need]| {
            own.iter().any(|need| {
                let taken = needs.iter().find(|other| other.resource == need.resource);
                taken.is_some_and(|taken| used.is_too_little_left(first, need, id, taken))
            })
        };
        let n_most = N_PASSED_MAX as usize + self.n_classes();
        self.passed
            .retain(|passed| passed.job != started.job || passed.needs != needs);
        for (task, own) in waiting {
            let is_own = task.job == started.job && own == needs;
            if is_own || !is_passed(&own) {
                continue;
            }
            let known = self.passed.iter_mut();
            let mut known = known.filter(|passed| passed.job == task.job && passed.needs == own);
            match known.next() {
                None => self.passed.push(Passed {
                    job: task.job,
                    needs: own,
                    n_passed: 1,
                }),
                Some(passed) => {
                    passed.n_passed += 1;
                    if passed.n_passed as usize > n_most {
                        let n_passed = passed.n_passed;
                        return fault(
                            Some(task),
                            format!("{task:?} was passed over {n_passed} times"),
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// How many classes of tasks there are that need something, in all jobs.
    fn n_classes(&self) -> usize {
        let jobs = self.jobs.iter().flatten();
        let n_classes = |job: &JobModel| {
            let needs = &self.case.jobs[job.plan].needs;
            let indices = (0..job.tasks.len() as u32).map(TaskIndex);
            indices
                .map(|index| needs.of(index))
                .collect::<BTreeSet<_>>()
                .len()
        };
        jobs.map(n_classes).sum()
    }

    /// Whether nothing starts because a task that memory was short for runs alone, or is about to.
    fn is_held_for_memory(&self) -> bool {
        let mut jobs = self.jobs.iter().flatten();
        jobs.any(|job| {
            let is_wanted = job.kill_at_ns.is_none();
            let is_there =
                |task: &TaskModel| task.holder.is_some() || (is_wanted && task.is_free());
            job.tasks.iter().any(|task| task.is_heavy && is_there(task))
        })
    }
}

/// What is used of each resource.
struct Used<'a> {
    supplies: &'a [Supply],
    n_used: Vec<u32>,
    units: Vec<Vec<u32>>,
}

impl Used<'_> {
    fn new(supplies: &[Supply]) -> Used<'_> {
        Used {
            supplies,
            n_used: vec![0; supplies.len()],
            units: vec![Vec::new(); supplies.len()],
        }
    }

    /// Whether a task on this worker can have what it needs.
    fn has(&self, worker: WorkerId, needs: &[Need]) -> bool {
        needs.iter().all(|need| {
            let at = need.resource as usize;
            let supply = &self.supplies[at];
            let is_enough = self.n_used[at] + need.n_units <= supply.n_units;
            let mut units = units_of(supply, worker, need);
            is_enough && (!supply.is_by_worker || !units.any(|unit| self.units[at].contains(&unit)))
        })
    }

    /// Whether what a task has taken is missing for another one, where that has its units on this worker.
    fn is_too_little_left(&self, at: WorkerId, need: &Need, id: WorkerId, taken: &Need) -> bool {
        let supply = &self.supplies[need.resource as usize];
        let n_used = self.n_used[need.resource as usize];
        let taken: Vec<_> = units_of(supply, id, taken).collect();
        match supply.is_by_worker {
            true => units_of(supply, at, need).any(|unit| taken.contains(&unit)),
            false => n_used + need.n_units > supply.n_units,
        }
    }

    /// Takes what a task on this worker needs; whether it was there.
    fn take(&mut self, worker: WorkerId, needs: &[Need]) -> bool {
        let is_there = self.has(worker, needs);
        for need in needs {
            let at = need.resource as usize;
            self.n_used[at] += need.n_units;
            self.units[at].extend(units_of(&self.supplies[at], worker, need));
        }
        is_there
    }
}

/// As the scheduler promises it.
fn units_of(supply: &Supply, worker: WorkerId, need: &Need) -> impl Iterator<Item = u32> + use<> {
    let n_units = supply.n_units;
    let n_own = need.n_per_worker.min(n_units);
    let own: Vec<_> = (worker.0 * n_own..(worker.0 + 1) * n_own).collect();
    let n_rounds = own[0] / n_units;
    let from_first = own.into_iter().cycle().skip(n_rounds as usize);
    let units = from_first.map(move |unit| unit % n_units);
    units.take(need.n_units as usize)
}
