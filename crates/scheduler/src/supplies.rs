//! Resources: what there is of them, and which tasks hold how much.
//!
//! A task that needs some holds it from when it is sent until it has ended, was given back, or its worker is lost. It is
//! sent alone and to a worker that is idle, so that it never holds what it does not use yet; while one waits that could
//! run, workers run dry until one is idle. A worker holds the resources of at most one task.
//!
//! Of some resources, such as devices, each worker has units of its own, as a process cannot change which it sees: those
//! whose numbers follow from the worker's. Several workers have the same units where there are more workers than units.

use crate::batch::UNKNOWN_NS;
use crate::job::Job;
use crate::run::Limits;
use crate::{Command, Commands, JobId, Scheduler, TaskId, TaskRun, TimeNs, WorkerId};

/// How much there is of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Supply {
    /// How many units.
    pub n_units: u32,
    /// Whether each worker has units of its own: worker `w`, for a task that needs `n`, those with the numbers
    /// `w * n` to `w * n + n - 1`, counted round and round.
    pub is_by_worker: bool,
}

impl Supply {
    /// The units that a worker's task has that needs so many.
    pub fn units_of(&self, worker: WorkerId, n_needed: u32) -> impl Iterator<Item = u32> + use<> {
        let n_units = u64::from(self.n_units.max(1));
        let first = u64::from(worker.0) * u64::from(n_needed);
        (0..u64::from(n_needed)).map(move |at| ((first + at) % n_units) as u32)
    }
}

/// What each task of a job needs of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// Its place among the supplies.
    pub resource: u32,
    /// How many units, at least one.
    pub n_units: u32,
}

/// What a worker holds for the task it runs.
#[derive(Debug)]
pub(crate) struct Held {
    task: TaskId,
    /// Resources, each with the units' numbers, or a number of units where these have none.
    units: Vec<(u32, Units)>,
}

#[derive(Debug)]
enum Units {
    Some(u32),
    These(Vec<u32>),
}

/// A resource, and what is used of it.
#[derive(Debug)]
struct Stock {
    supply: Supply,
    n_used: u32,
    /// By number, where units have numbers. Some may be left over from when there were more.
    is_used: Vec<bool>,
}

impl Stock {
    fn has(&self, worker: WorkerId, n_needed: u32) -> bool {
        if !self.supply.is_by_worker {
            return self.n_used + n_needed <= self.supply.n_units;
        }
        let is_free = |unit: u32| !self.is_used.get(unit as usize).is_some_and(|used| *used);
        n_needed <= self.supply.n_units && self.supply.units_of(worker, n_needed).all(is_free)
    }

    fn take(&mut self, worker: WorkerId, n_needed: u32) -> Units {
        if !self.supply.is_by_worker {
            self.n_used += n_needed;
            return Units::Some(n_needed);
        }
        let units: Vec<_> = self.supply.units_of(worker, n_needed).collect();
        for &unit in &units {
            let at = unit as usize;
            self.is_used.resize(self.is_used.len().max(at + 1), false);
            self.is_used[at] = true;
        }
        Units::These(units)
    }

    fn give_back(&mut self, units: Units) {
        match units {
            Units::Some(n_units) => self.n_used -= n_units,
            Units::These(units) => {
                for unit in units {
                    self.is_used[unit as usize] = false;
                }
            }
        }
    }
}

/// All resources, and the jobs whose tasks need some.
#[derive(Default, Debug)]
pub(crate) struct Supplies {
    stocks: Vec<Stock>,
    /// What jobs need that are about to be submitted.
    coming: Vec<(JobId, Vec<Need>)>,
    /// Jobs whose tasks need something, in turn.
    jobs: Vec<JobId>,
    /// A task waits for a worker alone: they run dry until one is idle.
    pub(crate) is_awaiting_worker: bool,
}

impl Supplies {
    /// Whether a task on this worker can have what it needs now.
    pub(crate) fn has(&self, worker: WorkerId, needs: &[Need]) -> bool {
        needs.iter().all(|need| {
            let stock = self.stocks.get(need.resource as usize);
            stock.is_some_and(|stock| stock.has(worker, need.n_units))
        })
    }

    /// Whether there is what a task needs, once nothing else uses any.
    pub(crate) fn suffice(&self, needs: &[Need]) -> bool {
        needs.iter().all(|need| {
            let stock = self.stocks.get(need.resource as usize);
            stock.is_some_and(|stock| need.n_units <= stock.supply.n_units)
        })
    }

    fn take(&mut self, worker: WorkerId, task: TaskId, needs: &[Need]) -> Box<Held> {
        let take = |need: &Need| {
            let units = self.stocks[need.resource as usize].take(worker, need.n_units);
            (need.resource, units)
        };
        let units = needs.iter().map(take).collect();
        Box::new(Held { task, units })
    }

    fn give_back(&mut self, held: Held) {
        for (resource, units) in held.units {
            self.stocks[resource as usize].give_back(units);
        }
    }

    /// Whether any job needs something.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        !self.jobs.is_empty() || self.is_awaiting_worker
    }

    /// What the job needs that is submitted now.
    pub(crate) fn on_submit(&mut self, id: JobId) -> Vec<Need> {
        let at = self.coming.iter().position(|(job, _)| *job == id);
        let needs = at.map_or(Vec::new(), |at| self.coming.swap_remove(at).1);
        if !needs.is_empty() {
            self.jobs.push(id);
        }
        needs
    }

    /// The job has ended.
    pub(crate) fn forget(&mut self, id: JobId) {
        self.jobs.retain(|&job| job != id);
    }
}

impl Scheduler {
    /// How much there is of each resource, from now on. What is in use beyond that stays so until its tasks end.
    /// Resources keep their places; those left out at the end stay as they are.
    pub fn set_supplies(&mut self, supplies: &[Supply]) {
        let stocks = &mut self.supplies.stocks;
        for (at, &supply) in supplies.iter().enumerate() {
            match stocks.get_mut(at) {
                Some(stock) => stock.supply.n_units = supply.n_units,
                None => stocks.push(Stock {
                    supply,
                    n_used: 0,
                    is_used: Vec::new(),
                }),
            }
        }
    }

    /// What each task of the job needs that is to be submitted under this id next. One that there is too little of,
    /// with all workers idle, waits until there is more.
    pub fn set_needs(&mut self, job: JobId, needs: Vec<Need>) {
        if !needs.is_empty() {
            self.supplies.coming.push((job, needs));
        }
    }

    /// Starts tasks that need resources which are there, on workers that are idle.
    pub(crate) fn start_needing(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        self.supplies.is_awaiting_worker = false;
        for at in 0..self.supplies.jobs.len() {
            let id = self.supplies.jobs[at];
            while let Some(job) = self.jobs[id.0 as usize].as_ref()
                && job.n_ready_needing() > 0
            {
                let Some(worker) = self.pop_idle_for(id) else {
                    self.supplies.is_awaiting_worker |= self.may_run_somewhere(id);
                    break;
                };
                self.start_one_needing(worker, id, now_ns, commands);
            }
        }
        // The next time, others come first.
        if !self.supplies.jobs.is_empty() {
            self.supplies.jobs.rotate_left(1);
        }
    }

    fn start_one_needing(
        &mut self,
        worker: WorkerId,
        id: JobId,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let limits = Limits {
            n_tasks: 1,
            room_ns: u64::MAX,
            cost_ns: |_| UNKNOWN_NS,
        };
        let job = self.jobs[id.0 as usize].as_mut();
        let job = job.expect("a job that needs something is listed while it lives");
        let taken = job.take(&limits).expect("it has ready tasks");
        let task = TaskId {
            job: id,
            index: taken.first,
        };
        job.n_in_flight += 1;
        self.send_alone(worker, task, now_ns, commands);
        self.hold(worker, task);
        self.relist(worker);
    }

    /// Has a worker hold what a task needs that it was sent.
    pub(crate) fn hold(&mut self, worker: WorkerId, task: TaskId) {
        let Scheduler {
            jobs,
            workers,
            supplies,
            ..
        } = self;
        if let (Some(job), Some(holder)) = (
            jobs[task.job.0 as usize].as_ref(),
            workers[worker.0 as usize].as_mut(),
        ) && !job.needs.is_empty()
        {
            holder.held = Some(supplies.take(worker, task, &job.needs));
        }
    }

    /// Tasks are no longer at a worker.
    #[inline]
    pub(crate) fn let_go(&mut self, worker: WorkerId, run: TaskRun) {
        if let Some(worker) = self.worker_mut(worker)
            && worker.held.is_some()
        {
            let is_of_run = |held: &mut Box<Held>| contains(run, held.task);
            if let Some(held) = worker.held.take_if(is_of_run) {
                self.supplies.give_back(*held);
            }
        }
    }

    /// A worker is gone, with what it held.
    pub(crate) fn let_go_all(&mut self, held: Option<Box<Held>>) {
        if let Some(held) = held {
            self.supplies.give_back(*held);
        }
    }

    /// The worker, last of those that have fallen idle, that a job's tasks can run on now.
    fn pop_idle_for(&mut self, id: JobId) -> Option<WorkerId> {
        let needs = &self.jobs[id.0 as usize].as_ref()?.needs;
        let fits = |worker: &WorkerId| {
            let model = self.workers.get(worker.0 as usize);
            let model = model.and_then(|slot| slot.as_ref());
            model.is_some_and(|model| model.is_listed_idle && model.is_idle())
                && self.supplies.has(*worker, needs)
        };
        let worker = self.lists.take_idle(fits)?;
        if let Some(model) = self.worker_mut(worker) {
            model.is_listed_idle = false;
        }
        Some(worker)
    }

    /// Whether a job's tasks could run on some worker now, if it were idle.
    fn may_run_somewhere(&self, id: JobId) -> bool {
        let needs = self.jobs[id.0 as usize].as_ref().map(|job| &job.needs);
        needs.is_some_and(|needs| {
            let workers = self.workers.iter().enumerate();
            let mut live = workers
                .filter(|(_, worker)| worker.as_ref().is_some_and(|worker| !worker.is_killed));
            live.any(|(at, _)| self.supplies.has(WorkerId(at as u32), needs))
        })
    }

    /// Checks that nothing is used that is not there, and that nobody waits for what is there.
    pub(crate) fn check_supplies(&self) -> Result<(), String> {
        let mut n_used = vec![0; self.supplies.stocks.len()];
        for (at, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            let id = WorkerId(at as u32);
            if let Some(held) = &worker.held {
                if worker.queue.head() != Some(held.task) {
                    return Err(format!("{id:?} holds something for {:?}", held.task));
                }
                for (resource, units) in &held.units {
                    n_used[*resource as usize] += match units {
                        Units::Some(n_units) => *n_units,
                        Units::These(units) => units.len() as u32,
                    };
                }
            }
            let waiting = self
                .supplies
                .jobs
                .iter()
                .copied()
                .chain(self.suspects.iter().map(|task| task.job));
            let may_start = worker.is_idle() && !self.is_held_for_memory();
            for job_id in waiting.filter(|_| may_start) {
                let job = self.jobs[job_id.0 as usize].as_ref();
                let is_ready = |job: &&Job| {
                    let is_suspect = self.suspects.iter().any(|task| task.job == job_id);
                    job.n_ready_needing() > 0 || is_suspect
                };
                let job = job.filter(is_ready);
                if job.is_some_and(|job| self.supplies.has(id, &job.needs)) {
                    return Err(format!(
                        "{id:?} is idle, and a task of {job_id:?} could run there"
                    ));
                }
            }
        }
        for (stock, n_used) in self.supplies.stocks.iter().zip(n_used) {
            let n_counted = match stock.supply.is_by_worker {
                true => stock.is_used.iter().filter(|used| **used).count() as u32,
                false => stock.n_used,
            };
            if n_counted != n_used || n_used > stock.supply.n_units {
                return Err(format!(
                    "{n_used} units are used, {n_counted} counted of {:?}",
                    stock.supply
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn send_alone(
        &mut self,
        worker: WorkerId,
        task: TaskId,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let mark = commands.mark();
        if let Some(model) = self.worker_mut(worker) {
            crate::batch::send(model, task.into(), UNKNOWN_NS, now_ns);
            commands.push_run(mark, task.into());
            commands.push(Command::Start(worker, commands.range_from(mark)));
        }
    }
}

fn contains(run: TaskRun, task: TaskId) -> bool {
    run.job == task.job && task.index.0.wrapping_sub(run.first.0) < run.n_tasks
}
