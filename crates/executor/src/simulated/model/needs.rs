//! A second account of resources, unit by unit.

use super::{Model, TaskModel, WorkerModel};
use crate::simulated::act::{Fault, fault};
use manyhands_scheduler::{JobId, Need, Supply, TaskId, TaskIndex, WorkerId};

impl Model<'_> {
    /// No more is used of any resource than there is, and no worker is idle that a task could run on now.
    pub(in crate::simulated) fn check_needs(&self) -> Result<(), Fault> {
        let supplies = &self.case.machine.supplies;
        if supplies.is_empty() {
            return Ok(());
        }
        let mut used = Used::new(supplies);
        for (at, worker) in self.workers.iter().enumerate() {
            for &(task, _) in worker.iter().flat_map(|worker| &worker.queue) {
                let Some(job) = self.job(task.job) else {
                    continue;
                };
                let needs = &self.case.jobs[job.plan].needs;
                if !used.take(WorkerId(at as u32), needs) {
                    return fault(Some(task), format!("{task:?} uses more than there is"));
                }
            }
        }
        if self.is_held_for_memory() {
            return Ok(());
        }
        for (id, job) in self.jobs.iter().enumerate() {
            let Some(job) = job else { continue };
            let needs = &self.case.jobs[job.plan].needs;
            if needs.is_empty() || job.kill_at_ns.is_some() {
                continue;
            }
            let is_runnable = |(at, task): &(usize, &TaskModel)| {
                let is_free = task.is_free();
                let may_go = !self.is_pressed || task.was_sent;
                is_free
                    && task.n_inputs_missing == 0
                    && (may_go || !self.is_root(job, TaskIndex(*at as u32)))
            };
            let Some((index, _)) = job.tasks.iter().enumerate().find(is_runnable) else {
                continue;
            };
            for (at, worker) in self.workers.iter().enumerate() {
                let is_idle = |worker: &WorkerModel| worker.queue.is_empty() && !worker.is_killed;
                let id_of_worker = WorkerId(at as u32);
                if worker.as_ref().is_some_and(is_idle) && used.has(id_of_worker, needs) {
                    let task = TaskId {
                        job: JobId(id as u32),
                        index: TaskIndex(index as u32),
                    };
                    let what = format!("{task:?} could run on {id_of_worker:?}, which is idle");
                    return fault(Some(task), what);
                }
            }
        }
        Ok(())
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
            let mut units = units_of(supply, worker, need.n_units);
            is_enough && (!supply.is_by_worker || !units.any(|unit| self.units[at].contains(&unit)))
        })
    }

    /// Takes what a task on this worker needs; whether it was there.
    fn take(&mut self, worker: WorkerId, needs: &[Need]) -> bool {
        let is_there = self.has(worker, needs);
        for need in needs {
            let at = need.resource as usize;
            self.n_used[at] += need.n_units;
            self.units[at].extend(units_of(&self.supplies[at], worker, need.n_units));
        }
        is_there
    }
}

/// As the scheduler promises it.
fn units_of(supply: &Supply, worker: WorkerId, n_needed: u32) -> impl Iterator<Item = u32> + use<> {
    let (n_units, first) = (supply.n_units, worker.0 * n_needed);
    (first..first + n_needed).map(move |unit| unit % n_units)
}
