//! Resources: what there is of them, and which tasks hold how much.
//!
//! A task that needs some holds it from when it is sent until it has ended, was given back, or its worker is lost. It is
//! sent alone and to a worker that is idle, so that it never holds what it does not use yet; while one waits that could
//! run, workers run dry until one is idle. A worker holds the resources of at most one task.
//!
//! Nobody waits for ever. Classes of tasks take turns, those that were served last coming last. A start *passes over* a
//! class if it leaves too little for it. One that was passed over so often that it is *due* has what it needs kept for
//! it, as that may never be free at once otherwise: others start as long as they leave so much. It is kept also while
//! the class waits for something else, or two that wait for each other's would never have both. And where all workers
//! but one run tasks that need something, that one is given such and others by turns.
//!
//! Of some resources, such as devices, each worker has units of its own, as a process cannot change which it sees: those
//! whose numbers follow from the worker's. Several workers have the same units where there are more workers than units.
//! What is kept of these are the units of one worker, the first that lives.

use crate::batch::UNKNOWN_NS;
use crate::run::Limits;
use crate::{
    Class, Command, Commands, JobId, Need, Needs, Scheduler, TaskId, TaskRun, TimeNs, WorkerId,
};

/// How many tasks that leave too little may be started, at most, before what a class of tasks needs is kept for it.
pub const N_PASSED_MAX: u32 = 16;

/// How much there is of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Supply {
    /// How many units.
    pub n_units: u32,
    /// Whether each worker has units of its own: worker `w`, where these are `n` for each worker, those with the
    /// numbers `w * n` to `w * n + n - 1`, counted round and round. A task that needs less than `n` has the first of
    /// them, and which is the first moves on by one from round to round: so such tasks use all units between them.
    pub is_by_worker: bool,
}

impl Supply {
    /// The units that a worker's task has.
    pub fn units_of(&self, worker: WorkerId, need: &Need) -> impl Iterator<Item = u32> + use<> {
        let n_units = u64::from(self.n_units.max(1));
        let n_own = u64::from(need.n_per_worker).clamp(1, n_units);
        let first = u64::from(worker.0) * n_own;
        let round = first / n_units;
        (0..u64::from(need.n_units))
            .map(move |at| ((first + (round + at) % n_own) % n_units) as u32)
    }
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
    /// At least as much as one task of each live job needs: that was promised when the job was accepted.
    supply: Supply,
    /// How many units there are by the last that was told.
    n_told: u32,
    /// What one task of a live job needs at most.
    promised: Vec<(JobId, u32)>,
    n_used: u32,
    /// By number, where units have numbers. Some may be left over from when there were more.
    is_used: Vec<bool>,
}

impl Stock {
    fn new(supply: Supply) -> Stock {
        Stock {
            supply,
            n_told: supply.n_units,
            promised: Vec::new(),
            n_used: 0,
            is_used: Vec::new(),
        }
    }

    fn count(&mut self) {
        let promised = self.promised.iter().map(|(_, n_units)| *n_units);
        self.supply.n_units = promised.fold(self.n_told, u32::max);
    }

    /// Whether a task on this worker can have what it needs beside what is used and kept.
    fn has(&self, worker: WorkerId, need: &Need, kept: &Kept) -> bool {
        let (is_by_worker, n_units) = (self.supply.is_by_worker, self.supply.n_units);
        let mut kept = kept.of(need.resource);
        if !is_by_worker {
            let n_kept = kept.map(|(_, kept)| u64::from(kept.n_units)).sum::<u64>();
            let n_free = n_units.saturating_sub(self.n_used);
            return u64::from(need.n_units) + n_kept <= u64::from(n_free);
        }
        let is_free = |unit: u32| !self.is_used.get(unit as usize).is_some_and(|used| *used);
        need.n_units <= n_units
            && self.supply.units_of(worker, need).all(is_free)
            && !kept.any(|(keeper, kept)| self.are_same(keeper, kept, worker, need))
    }

    /// Whether tasks on two workers would have some of the same units.
    fn are_same(&self, worker: WorkerId, need: &Need, other: WorkerId, others: &Need) -> bool {
        let mut units = self.supply.units_of(worker, need);
        units.any(|unit| {
            self.supply
                .units_of(other, others)
                .any(|other| other == unit)
        })
    }

    fn take(&mut self, worker: WorkerId, need: &Need) -> Units {
        if !self.supply.is_by_worker {
            self.n_used += need.n_units;
            return Units::Some(need.n_units);
        }
        let units: Vec<_> = self.supply.units_of(worker, need).collect();
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

/// What is kept for classes that are due, each for a task on one worker.
#[derive(Default, Debug)]
struct Kept(Vec<(WorkerId, Need)>);

impl Kept {
    const NOTHING: Kept = Kept(Vec::new());

    fn of(&self, resource: u32) -> impl Iterator<Item = (WorkerId, &Need)> {
        let of_this = self
            .0
            .iter()
            .filter(move |(_, need)| need.resource == resource);
        of_this.map(|(worker, need)| (*worker, need))
    }

    fn add(&mut self, worker: WorkerId, needs: &[Need]) {
        self.0.extend(needs.iter().map(|need| (worker, *need)));
    }
}

/// Tasks of a job that need the same.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    job: JobId,
    class: Class,
    /// How many others were started since that left too little for these, while some were ready.
    n_passed: u32,
}

/// All resources, and the tasks that need some.
#[derive(Default, Debug)]
pub(crate) struct Supplies {
    stocks: Vec<Stock>,
    /// What jobs need that are about to be submitted.
    coming: Vec<(JobId, Needs)>,
    /// Tasks that need something, those first that were served longest ago.
    waiting: Vec<Waiting>,
    /// How many workers hold something.
    n_holders: usize,
    /// The last that was started needed something.
    pub(crate) was_last_needing: bool,
    /// A task waits for a worker alone: they run dry until one is idle.
    pub(crate) is_awaiting_worker: bool,
}

impl Supplies {
    /// Whether a task on this worker can have what it needs now.
    pub(crate) fn has(&self, worker: WorkerId, needs: &[Need]) -> bool {
        self.has_beside(&Kept::NOTHING, worker, needs)
    }

    /// The same, beside what is kept for others.
    fn has_beside(&self, kept: &Kept, worker: WorkerId, needs: &[Need]) -> bool {
        needs.iter().all(|need| {
            let stock = self.stocks.get(need.resource as usize);
            stock.is_some_and(|stock| stock.has(worker, need, kept))
        })
    }

    /// Whether a task that was started on a worker has left too little for another one, where that has its units on
    /// this worker.
    fn is_passed(&self, at: WorkerId, needs: &[Need], started: (WorkerId, &[Need])) -> bool {
        needs.iter().any(|need| {
            let (worker, others) = started;
            let other = others.iter().find(|other| other.resource == need.resource);
            let stock = self.stocks.get(need.resource as usize);
            other
                .zip(stock)
                .is_some_and(|(other, stock)| match stock.supply.is_by_worker {
                    true => stock.are_same(at, need, worker, other),
                    false => !stock.has(at, need, &Kept::NOTHING),
                })
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
            let units = self.stocks[need.resource as usize].take(worker, need);
            (need.resource, units)
        };
        let units = needs.iter().map(take).collect();
        self.n_holders += 1;
        Box::new(Held { task, units })
    }

    fn give_back(&mut self, held: Held) {
        self.n_holders -= 1;
        for (resource, units) in held.units {
            self.stocks[resource as usize].give_back(units);
        }
    }

    /// Whether any job needs something.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        !self.waiting.is_empty() || self.is_awaiting_worker
    }

    /// What the job needs that is submitted now.
    pub(crate) fn on_submit(&mut self, id: JobId) -> Needs {
        let at = self.coming.iter().position(|(job, _)| *job == id);
        let needs = at.map_or(Needs::default(), |at| self.coming.swap_remove(at).1);
        let waiting = needs.classes().map(|class| Waiting {
            job: id,
            class,
            n_passed: 0,
        });
        self.waiting.extend(waiting);
        for need in needs.all() {
            if let Some(stock) = self.stocks.get_mut(need.resource as usize) {
                stock.promised.push((id, need.n_units));
                stock.count();
            }
        }
        needs
    }

    /// The job has ended.
    pub(crate) fn forget(&mut self, id: JobId) {
        self.waiting.retain(|waiting| waiting.job != id);
        for stock in &mut self.stocks {
            stock.promised.retain(|(job, _)| *job != id);
            stock.count();
        }
    }
}

impl Scheduler {
    /// How much there is of each resource, from now on. What is in use beyond that stays so until its tasks end, and
    /// there is never less than one task of a job needs that has not ended. Resources keep their places; those left
    /// out at the end stay as they are.
    pub fn set_supplies(&mut self, supplies: &[Supply]) {
        let stocks = &mut self.supplies.stocks;
        for (at, &supply) in supplies.iter().enumerate() {
            match stocks.get_mut(at) {
                Some(stock) => {
                    stock.n_told = supply.n_units;
                    stock.count();
                }
                None => stocks.push(Stock::new(supply)),
            }
        }
    }

    /// What the tasks of the job need that is to be submitted under this id next. The caller sees to it that there is
    /// so much: from when the job is submitted until it ends there is, even if less has been told meanwhile. A task
    /// that needs some of a resource that has never been told of waits.
    pub fn set_needs(&mut self, job: JobId, needs: Needs) {
        if !needs.is_empty() {
            self.supplies.coming.push((job, needs));
        }
    }

    /// Starts tasks that need resources which are there, on workers that are idle.
    pub(crate) fn start_needing(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        self.supplies.is_awaiting_worker = false;
        let mut kept = Kept::default();
        let mut at = 0;
        while let Some(&waiting) = self.supplies.waiting.get(at) {
            if let Some(worker) = self.start_next(&waiting, &mut kept, now_ns, commands) {
                self.count_passed(&waiting, worker);
                let served = &mut self.supplies.waiting[at..];
                served[0].n_passed = 0;
                served.rotate_left(1);
            } else {
                at += 1;
            }
        }
    }

    /// Starts a task of a class, if one is ready and can have what it needs beside what is kept for others; on which
    /// worker. Keeps what it needs for the class if it is due.
    fn start_next(
        &mut self,
        waiting: &Waiting,
        kept: &mut Kept,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) -> Option<WorkerId> {
        let needs = self.needs_of_ready(waiting)?;
        let worker = match self.is_turn_of_free() {
            true => None,
            false => self.idle_for(needs, kept),
        };
        let Some(worker) = worker else {
            let is_awaiting = self.may_run_somewhere(needs, kept);
            self.keep_if_due(kept, waiting, needs);
            self.supplies.is_awaiting_worker |= is_awaiting;
            return None;
        };
        self.unlist_idle(worker);
        self.start_one_needing(worker, waiting, now_ns, commands);
        Some(worker)
    }

    /// What the tasks of a class need; None if none is ready.
    fn needs_of_ready(&self, waiting: &Waiting) -> Option<&[Need]> {
        let job = self.jobs[waiting.job.0 as usize].as_ref()?;
        let is_ready = job.n_ready_needing(waiting.class) > 0;
        is_ready.then(|| job.needs.of_class(waiting.class))
    }

    /// Keeps what a class needs from those that come after it, if it is due.
    fn keep_if_due(&self, kept: &mut Kept, waiting: &Waiting, needs: &[Need]) {
        if waiting.n_passed >= N_PASSED_MAX
            && self.supplies.suffice(needs)
            && let Some(keeper) = self.keeper()
        {
            kept.add(keeper, needs);
        }
    }

    /// The worker whose units are kept, of what each worker has its own.
    fn keeper(&self) -> Option<WorkerId> {
        self.live_workers().next()
    }

    fn live_workers(&self) -> impl Iterator<Item = WorkerId> {
        let workers = (0..).map(WorkerId).zip(&self.workers);
        let live = workers.filter(|(_, worker)| worker.as_ref().is_some_and(|w| !w.is_killed));
        live.map(|(id, _)| id)
    }

    /// Whether the next idle worker is for tasks that need nothing, as some wait and all other workers run such as need
    /// something.
    fn is_turn_of_free(&self) -> bool {
        let is_last = self.supplies.n_holders + 1 >= self.n_workers;
        self.n_ready > 0 && self.supplies.was_last_needing && is_last
    }

    /// A task of a class was started: others wait that it has left too little for.
    fn count_passed(&mut self, started: &Waiting, worker: WorkerId) {
        let Some(keeper) = self.keeper() else { return };
        let job = self.jobs[started.job.0 as usize].as_ref();
        let Some(job) = job else { return };
        let started = (worker, job.needs.of_class(started.class));
        for at in 0..self.supplies.waiting.len() {
            let needs = self.needs_of_ready(&self.supplies.waiting[at]);
            let is_passed =
                needs.is_some_and(|needs| self.supplies.is_passed(keeper, needs, started));
            self.supplies.waiting[at].n_passed += u32::from(is_passed);
        }
    }

    fn start_one_needing(
        &mut self,
        worker: WorkerId,
        waiting: &Waiting,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let limits = Limits {
            n_tasks: 1,
            room_ns: u64::MAX,
            cost_ns: |_| UNKNOWN_NS,
        };
        let id = waiting.job;
        let job = self.jobs[id.0 as usize].as_mut();
        let job = job.expect("a job that needs something is listed while it lives");
        let taken = job.take_of(waiting.class, &limits);
        let taken = taken.expect("it has ready tasks");
        let task = TaskId {
            job: id,
            index: taken.first,
        };
        job.n_in_flight += 1;
        self.supplies.was_last_needing = true;
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
        ) && !job.needs_of(task.index).is_empty()
        {
            holder.held = Some(supplies.take(worker, task, job.needs_of(task.index)));
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

    /// The worker, last of those that have fallen idle, that a task with these needs can run on now, beside what is
    /// kept for others.
    fn idle_for(&self, needs: &[Need], kept: &Kept) -> Option<WorkerId> {
        self.lists.last_idle(|worker| {
            let model = self.workers.get(worker.0 as usize);
            let model = model.and_then(|slot| slot.as_ref());
            model.is_some_and(|model| model.is_listed_idle && model.is_idle())
                && self.supplies.has_beside(kept, worker, needs)
        })
    }

    /// Whether a task with these needs could run on some worker now, if it were idle.
    fn may_run_somewhere(&self, needs: &[Need], kept: &Kept) -> bool {
        let mut live = self.live_workers();
        live.any(|worker| self.supplies.has_beside(kept, worker, needs))
    }

    /// Whether a task may be waiting although it could run on this worker, as what it needs is kept for others. For
    /// tests.
    pub fn is_kept_waiting(&self, task: TaskId, worker: WorkerId) -> bool {
        let Some(job) = self.jobs[task.job.0 as usize].as_ref() else {
            return false;
        };
        let (class, needs) = (job.class_of(task.index), job.needs_of(task.index));
        let is_own = |waiting: &Waiting| waiting.job == task.job && waiting.class == class;
        let waiting = self.supplies.waiting.iter();
        let before = waiting.take_while(|waiting| !is_own(waiting));
        let mut kept = Kept::default();
        for other in before {
            if let Some(theirs) = self.needs_of_ready(other) {
                self.keep_if_due(&mut kept, other, theirs);
            }
        }
        !self.supplies.has_beside(&kept, worker, needs)
    }

    /// Checks that what is used is counted, and that nobody waits for what is there.
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
            if worker.is_idle() && !self.is_held_for_memory() {
                self.check_idle(id)?;
            }
        }
        let n_holders = self.workers.iter().flatten();
        let n_holders = n_holders.filter(|worker| worker.held.is_some()).count();
        if n_holders != self.supplies.n_holders {
            let n_counted = self.supplies.n_holders;
            return Err(format!(
                "{n_holders} workers hold something, not {n_counted}"
            ));
        }
        for (stock, n_used) in self.supplies.stocks.iter().zip(n_used) {
            let n_counted = match stock.supply.is_by_worker {
                true => stock.is_used.iter().filter(|used| **used).count() as u32,
                false => stock.n_used,
            };
            if n_counted != n_used {
                return Err(format!(
                    "{n_used} units are used, {n_counted} counted of {:?}",
                    stock.supply
                ));
            }
        }
        Ok(())
    }

    /// Checks that nobody waits for an idle worker who could run there.
    fn check_idle(&self, worker: WorkerId) -> Result<(), String> {
        for &task in &self.suspects {
            let job = self.jobs[task.job.0 as usize].as_ref();
            let needs = job.map_or(&[][..], |job| job.needs_of(task.index));
            if self.supplies.has(worker, needs) {
                return Err(format!("{worker:?} is idle, and {task:?} could run there"));
            }
        }
        let mut kept = Kept::default();
        for waiting in &self.supplies.waiting {
            let Some(needs) = self.needs_of_ready(waiting) else {
                continue;
            };
            if self.supplies.has_beside(&kept, worker, needs) {
                return Err(format!(
                    "{worker:?} is idle, and a task of {waiting:?} could run there"
                ));
            }
            self.keep_if_due(&mut kept, waiting, needs);
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
