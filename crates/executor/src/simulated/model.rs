//! What must happen, told from the events alone: a second, slower account of every job against
//! which each command of the scheduler is held.
//!
//! Deliveries, releases, failures and ends of jobs follow from the events exactly, so the model
//! foretells them and compares. Where and when tasks run is the scheduler's choice, so of those
//! commands the model only says whether they are allowed.

use super::case::Case;
use super::needs;
use manyhands_scheduler::{
    Cause, Command, Commands, JobId, Report, TaskId, TaskIndex, TimeNs, Wanted, WorkerId,
};
use std::collections::VecDeque;

/// A task that two workers died under is blamed.
const N_CRASHES_MAX: u32 = 2;
/// So is one that so many workers died with at the head of their queue.
const N_LOSSES_MAX: u32 = 4;

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
    Fail(TaskId, bool),
    JobDone(JobId),
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
            Command::Fail(task, cause) => Act::Fail(*task, *cause == Cause::WorkerDied),
            Command::JobDone(job) => Act::JobDone(*job),
        }]
    }

    fn job(&self) -> Option<JobId> {
        match self {
            Act::Deliver(task) | Act::Release(task) | Act::Fail(task, _) => Some(task.job),
            Act::JobDone(job) => Some(*job),
            Act::Start(..) | Act::TakeBack(..) | Act::Kill(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
struct TaskModel {
    holder: Option<WorkerId>,
    was_sent: bool,
    is_finished: bool,
    is_wanted: bool,
    n_inputs_missing: u32,
    n_readers_left: u32,
    n_crashes: u32,
    n_losses: u32,
    /// Whether memory was short when a worker was lost with it.
    is_heavy: bool,
}

impl TaskModel {
    fn is_suspect(&self) -> bool {
        self.n_crashes + self.n_losses > 0
    }
}

#[derive(Debug)]
struct JobModel {
    /// Its place among the case's jobs.
    plan: usize,
    tasks: Vec<TaskModel>,
    is_open: bool,
    n_unfinished: usize,
    n_held: usize,
    /// Set when it failed or was cancelled: when the workers that still hold a task of it must end.
    kill_at_ns: Option<TimeNs>,
}

#[derive(Debug)]
struct WorkerModel {
    /// What it holds, and since when.
    queue: VecDeque<(TaskId, TimeNs)>,
    idle_since_ns: TimeNs,
    is_killed: bool,
}

/// The account.
#[derive(Debug)]
pub(super) struct Model<'a> {
    case: &'a Case,
    jobs: Vec<Option<JobModel>>,
    workers: Vec<Option<WorkerModel>>,
    n_suspects_waiting: usize,
    /// Results that exist although nobody asked for them: a task has still to read them.
    n_kept: u64,
    pub(super) n_kept_max: u64,
    /// How large they are, all together.
    pub(super) kept_size: u64,
    pub(super) kept_size_max: u64,
    /// Whether they have piled up.
    pub(super) is_pressed: bool,
    /// What workers held before the event under way: it may be asked back by an event that tells
    /// of several tasks, one of which ends the job of another.
    let_go: Vec<(TaskId, WorkerId)>,
    expected: Vec<Act>,
    seen: Vec<Act>,
    /// Jobs whose end was told in the step under way.
    ended: Vec<JobId>,
}

impl<'a> Model<'a> {
    pub(super) fn new(case: &'a Case) -> Model<'a> {
        Model {
            case,
            jobs: Vec::new(),
            workers: Vec::new(),
            n_suspects_waiting: 0,
            n_kept: 0,
            n_kept_max: 0,
            kept_size: 0,
            kept_size_max: 0,
            is_pressed: false,
            let_go: Vec::new(),
            expected: Vec::new(),
            seen: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// The place of a job among the case's jobs, while it lives.
    pub(super) fn plan(&self, id: JobId) -> Option<usize> {
        Some(self.jobs.get(id.0 as usize)?.as_ref()?.plan)
    }

    pub(super) fn is_held_by(&self, task: TaskId, worker: WorkerId) -> bool {
        self.task(task)
            .is_some_and(|model| model.holder == Some(worker))
    }

    fn job(&self, id: JobId) -> Option<&JobModel> {
        self.jobs.get(id.0 as usize)?.as_ref()
    }

    fn task(&self, task: TaskId) -> Option<&TaskModel> {
        self.job(task.job)?.tasks.get(task.index.as_usize())
    }

    fn job_mut(&mut self, id: JobId) -> &mut JobModel {
        self.jobs[id.0 as usize].as_mut().expect("a live job")
    }

    fn worker_mut(&mut self, id: WorkerId) -> Option<&mut WorkerModel> {
        self.workers.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn submitted(&mut self, id: JobId, plan: usize) {
        let case = self.case;
        let spec = &case.jobs[plan].spec;
        let wants_all = matches!(spec.wanted, Wanted::All);
        let mut tasks: Vec<_> = (spec.graph.tasks())
            .map(|index| TaskModel {
                holder: None,
                was_sent: false,
                is_finished: false,
                is_wanted: wants_all,
                n_inputs_missing: spec.graph.dependencies(index).len() as u32,
                n_readers_left: spec.graph.dependents(index).len() as u32,
                n_crashes: 0,
                n_losses: 0,
                is_heavy: false,
            })
            .collect();
        if let Wanted::Tasks(wanted) = &spec.wanted {
            for index in wanted {
                tasks[index.as_usize()].is_wanted = true;
            }
        }
        let at = id.0 as usize;
        self.jobs.resize_with(self.jobs.len().max(at + 1), || None);
        self.jobs[at] = Some(JobModel {
            plan,
            n_unfinished: tasks.len(),
            tasks,
            is_open: spec.is_open,
            n_held: 0,
            kill_at_ns: None,
        });
        self.end_if_done(id);
    }

    pub(super) fn extended(&mut self, id: JobId, n_more: u32) {
        let job = self.job_mut(id);
        if job.kill_at_ns.is_none() {
            job.n_unfinished += n_more as usize;
            let task = TaskModel {
                holder: None,
                was_sent: false,
                is_finished: false,
                is_wanted: true,
                n_inputs_missing: 0,
                n_readers_left: 0,
                n_crashes: 0,
                n_losses: 0,
                is_heavy: false,
            };
            job.tasks.extend((0..n_more).map(|_| task.clone()));
        }
    }

    pub(super) fn closed(&mut self, id: JobId) {
        self.job_mut(id).is_open = false;
        self.end_if_done(id);
    }

    pub(super) fn cancelled(&mut self, id: JobId, kill_at_ns: TimeNs) {
        self.end_job(id, kill_at_ns);
        self.end_if_done(id);
    }

    pub(super) fn joined(&mut self, id: WorkerId, now_ns: TimeNs) {
        let at = id.0 as usize;
        self.workers
            .resize_with(self.workers.len().max(at + 1), || None);
        self.workers[at] = Some(WorkerModel {
            queue: VecDeque::new(),
            idle_since_ns: now_ns,
            is_killed: false,
        });
    }

    pub(super) fn finished(&mut self, id: WorkerId, reports: &[Report], now_ns: TimeNs) {
        for (task, is_ok) in reports
            .iter()
            .flat_map(|r| r.tasks.tasks().map(|t| (t, r.is_ok)))
        {
            if !self.is_held_by(task, id) {
                continue;
            }
            self.let_go(task, id, now_ns);
            let job = self.job_mut(task.job);
            if job.kill_at_ns.is_some() {
                // Nobody wants it any more.
            } else if is_ok {
                self.finish(task);
            } else {
                self.expected.push(Act::Fail(task, false));
                self.end_job(task.job, TimeNs::MAX);
            }
            self.end_if_done(task.job);
        }
    }

    pub(super) fn taken_back(&mut self, id: WorkerId, tasks: &[TaskId], now_ns: TimeNs) {
        for &task in tasks {
            if self.is_held_by(task, id) {
                self.let_go(task, id, now_ns);
                self.end_if_done(task.job);
            }
        }
    }

    pub(super) fn lost(
        &mut self,
        id: WorkerId,
        running: Option<TaskId>,
        was_memory_short: bool,
        now_ns: TimeNs,
    ) {
        let Some(worker) = self.workers.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        let head = worker.queue.front().map(|&(task, _)| task);
        for (task, _) in worker.queue {
            self.let_go(task, id, now_ns);
            let is_blamed = !worker.is_killed && running.or(head) == Some(task);
            let job = self.jobs[task.job.0 as usize].as_mut().expect("a live job");
            let is_running = job.kill_at_ns.is_none();
            let model = &mut job.tasks[task.index.as_usize()];
            if is_blamed && is_running {
                self.n_suspects_waiting += usize::from(!model.is_suspect());
                model.n_crashes += u32::from(running.is_some());
                model.n_losses += u32::from(running.is_none());
                model.is_heavy |= was_memory_short;
                if model.n_crashes >= N_CRASHES_MAX || model.n_losses >= N_LOSSES_MAX {
                    self.expected.push(Act::Fail(task, true));
                    self.end_job(task.job, TimeNs::MAX);
                }
            }
            self.end_if_done(task.job);
        }
    }

    /// A worker does not hold a task any more.
    fn let_go(&mut self, task: TaskId, id: WorkerId, now_ns: TimeNs) {
        self.let_go.push((task, id));
        if let Some(worker) = self.worker_mut(id) {
            // Nearly always the first.
            let place = worker.queue.iter().position(|&(held, _)| held == task);
            place.and_then(|at| worker.queue.remove(at));
            if worker.queue.is_empty() {
                worker.idle_since_ns = now_ns;
            }
        }
        let job = self.jobs[task.job.0 as usize].as_mut().expect("a live job");
        job.n_held -= 1;
        let is_running = job.kill_at_ns.is_none();
        let model = &mut job.tasks[task.index.as_usize()];
        model.holder = None;
        self.n_suspects_waiting += usize::from(model.is_suspect() && is_running);
    }

    fn finish(&mut self, task: TaskId) {
        let TaskId { job: id, index } = task;
        let case = self.case;
        let job = self.jobs[id.0 as usize].as_mut().expect("a live job");
        let graph = &case.jobs[job.plan].spec.graph;
        job.n_unfinished -= 1;
        let model = &mut job.tasks[index.as_usize()];
        model.is_finished = true;
        self.n_suspects_waiting -= usize::from(model.is_suspect());
        if model.is_wanted {
            self.expected.push(Act::Deliver(task));
        } else if model.n_readers_left == 0 {
            self.expected.push(Act::Release(task));
        } else {
            self.n_kept += 1;
            self.n_kept_max = self.n_kept_max.max(self.n_kept);
            self.kept_size += case.jobs[job.plan].size(index);
            self.kept_size_max = self.kept_size_max.max(self.kept_size);
        }
        if index.as_usize() >= graph.n_tasks() {
            return;
        }
        for &index in graph.dependents(index) {
            job.tasks[index.as_usize()].n_inputs_missing -= 1;
        }
        for &index in graph.dependencies(index) {
            let input = &mut job.tasks[index.as_usize()];
            input.n_readers_left -= 1;
            if input.n_readers_left == 0 && !input.is_wanted {
                self.n_kept -= 1;
                self.kept_size -= case.jobs[job.plan].size(index);
                self.expected.push(Act::Release(TaskId { job: id, index }));
            }
        }
    }

    fn end_job(&mut self, id: JobId, kill_at_ns: TimeNs) {
        let job = self.jobs[id.0 as usize].as_mut().expect("a live job");
        job.is_open = false;
        if job.kill_at_ns.is_none() {
            let waits =
                |task: &&TaskModel| task.is_suspect() && task.holder.is_none() && !task.is_finished;
            self.n_suspects_waiting -= job.tasks.iter().filter(waits).count();
        }
        job.kill_at_ns = Some(job.kill_at_ns.map_or(kill_at_ns, |at| at.min(kill_at_ns)));
    }

    fn end_if_done(&mut self, id: JobId) {
        let is_done = self.job(id).is_some_and(|job| {
            let is_over = job.n_unfinished == 0 || job.kill_at_ns.is_some();
            is_over && job.n_held == 0 && !job.is_open
        });
        if is_done {
            let job = self.jobs[id.0 as usize].take();
            let is_kept =
                |task: &&TaskModel| task.is_finished && !task.is_wanted && task.n_readers_left > 0;
            if let Some(job) = job {
                let plan = &self.case.jobs[job.plan];
                for (at, _) in job
                    .tasks
                    .iter()
                    .enumerate()
                    .filter(|(_, task)| is_kept(task))
                {
                    self.n_kept -= 1;
                    self.kept_size -= plan.size(TaskIndex(at as u32));
                }
            }
            self.expected.push(Act::JobDone(id));
        }
    }

    /// Takes note of a command; an error if it is not allowed.
    pub(super) fn commanded(&mut self, act: &Act, now_ns: TimeNs) -> Result<(), Fault> {
        match act {
            Act::Start(worker, tasks) => self.started(*worker, tasks, now_ns),
            Act::TakeBack(worker, tasks) => self.asked_back(*worker, tasks),
            Act::Kill(worker) => self.killed(*worker, now_ns),
            Act::Deliver(_) | Act::Release(_) | Act::Fail(..) | Act::JobDone(_) => {
                if act.job().is_some_and(|job| self.ended.contains(&job)) {
                    return fault(None, format!("{act:?} comes after the end of its job"));
                }
                if let Act::JobDone(job) = act {
                    self.ended.push(*job);
                }
                self.seen.push(act.clone());
                Ok(())
            }
        }
    }

    fn started(&mut self, id: WorkerId, tasks: &[TaskId], now_ns: TimeNs) -> Result<(), Fault> {
        let n_suspects_waiting = self.n_suspects_waiting;
        let Some(worker) = self.workers.get(id.0 as usize).and_then(Option::as_ref) else {
            return fault(
                tasks.first().copied(),
                format!("{id:?} gets tasks and is not there"),
            );
        };
        if tasks.is_empty() || worker.is_killed {
            let why = if worker.is_killed {
                "ending"
            } else {
                "given nothing"
            };
            return fault(tasks.first().copied(), format!("{id:?} is {why}"));
        }
        if n_suspects_waiting > 0 && !worker.queue.is_empty() {
            return fault(None, format!("{id:?} is given more while a suspect waits"));
        }
        let is_exclusive = (worker.queue.front())
            .and_then(|&(task, _)| self.task(task))
            .is_some_and(TaskModel::is_suspect);
        if is_exclusive {
            return fault(
                tasks.first().copied(),
                format!("{id:?} runs a suspect and gets more"),
            );
        }
        self.check_others(tasks)?;
        let is_idle = worker.queue.is_empty();
        let is_alone = is_idle && tasks.len() == 1;
        for &task in tasks {
            self.check_start(task, is_alone)?;
            let job = self.jobs[task.job.0 as usize].as_mut().expect("checked");
            job.n_held += 1;
            let model = &mut job.tasks[task.index.as_usize()];
            model.holder = Some(id);
            model.was_sent = true;
            self.n_suspects_waiting -= usize::from(model.is_suspect());
        }
        if let Some(worker) = self.worker_mut(id) {
            worker
                .queue
                .extend(tasks.iter().map(|&task| (task, now_ns)));
        }
        Ok(())
    }

    /// A task that memory was short for runs while nothing else does.
    fn check_others(&self, tasks: &[TaskId]) -> Result<(), Fault> {
        let is_heavy = |&task: &TaskId| self.task(task).is_some_and(|model| model.is_heavy);
        let busy = self.workers.iter().flatten();
        let mut held = busy.flat_map(|worker| worker.queue.iter().map(|(task, _)| task));
        let first = tasks.first().copied();
        if tasks.iter().any(is_heavy) && held.next().is_some() {
            return fault(first, "starts before it is alone although memory was short");
        }
        match held.find(|task| is_heavy(task)) {
            Some(alone) => fault(first, format!("starts while {alone:?} should be alone")),
            None => Ok(()),
        }
    }

    fn check_start(&self, task: TaskId, is_alone: bool) -> Result<(), Fault> {
        let refuse = |why: &str| fault(Some(task), format!("{task:?} is started {why}"));
        let Some(job) = self.job(task.job) else {
            return refuse("after its job has ended");
        };
        if job.kill_at_ns.is_some() {
            return refuse("although its job failed or was cancelled");
        }
        let Some(model) = job.tasks.get(task.index.as_usize()) else {
            return refuse("and does not exist");
        };
        if model.is_finished {
            return refuse("although it has finished");
        }
        if let Some(holder) = model.holder {
            return refuse(&format!("although {holder:?} holds it"));
        }
        if model.n_inputs_missing > 0 {
            return refuse("before its inputs");
        }
        if self.is_pressed && !model.was_sent && self.is_root(job, task.index) {
            let others = job.tasks.iter().enumerate();
            let is_runnable = |(at, other): (usize, &TaskModel)| {
                let is_free = other.holder.is_none() && !other.is_finished;
                let is_root = self.is_root(job, TaskIndex(at as u32));
                is_free && other.n_inputs_missing == 0 && (!is_root || other.was_sent)
            };
            if job.n_held > 0 || others.into_iter().any(is_runnable) {
                return refuse("although results have piled up and others can run");
            }
        }
        if model.is_suspect() && !is_alone {
            return refuse("among others although a worker died under it");
        }
        if !self.case.jobs[job.plan].needs.is_empty() && !is_alone {
            return refuse("among others although it needs resources");
        }
        Ok(())
    }

    /// Whether a task makes a result of nothing, in a graph where results are read.
    fn is_root(&self, job: &JobModel, index: TaskIndex) -> bool {
        let graph = &self.case.jobs[job.plan].spec.graph;
        graph.n_edges() > 0 && graph.dependencies(index).is_empty()
    }

    fn asked_back(&mut self, id: WorkerId, tasks: &[TaskId]) -> Result<(), Fault> {
        if tasks.is_empty() {
            return fault(None, format!("{id:?} is asked for nothing"));
        }
        for &task in tasks {
            if !self.is_held_by(task, id) && !self.let_go.contains(&(task, id)) {
                return fault(
                    Some(task),
                    format!("{id:?} is asked for {task:?}, which it does not hold"),
                );
            }
        }
        Ok(())
    }

    fn killed(&mut self, id: WorkerId, now_ns: TimeNs) -> Result<(), Fault> {
        let head = self.head(id);
        let is_overdue = head.is_some_and(|task| self.is_overdue(task, now_ns));
        match self.worker_mut(id) {
            Some(worker) if is_overdue && !worker.is_killed => {
                worker.is_killed = true;
                Ok(())
            }
            _ => fault(head, format!("{id:?} is ended without a reason")),
        }
    }

    /// No more is used of any resource than there is, and no worker is idle that a task could run on now.
    pub(super) fn check_needs(&self) -> Result<(), Fault> {
        let supplies = &self.case.machine.supplies;
        if supplies.is_empty() {
            return Ok(());
        }
        let mut used = needs::Used::new(supplies);
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
                let is_free = task.holder.is_none() && !task.is_finished;
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
            let is_alone = |task: &TaskModel| task.is_heavy && !task.is_finished;
            (job.tasks.iter()).any(|task| is_alone(task) && (is_wanted || task.holder.is_some()))
        })
    }

    fn head(&self, id: WorkerId) -> Option<TaskId> {
        let worker = self.workers.get(id.0 as usize)?.as_ref()?;
        worker.queue.front().map(|&(task, _)| task)
    }

    fn is_overdue(&self, task: TaskId, now_ns: TimeNs) -> bool {
        self.job(task.job)
            .and_then(|job| job.kill_at_ns)
            .is_some_and(|at| at <= now_ns)
    }

    /// No worker goes on with a task whose job's grace is over.
    pub(super) fn check_overdue(&self, now_ns: TimeNs) -> Result<(), Fault> {
        for (at, worker) in self.workers.iter().enumerate() {
            let id = WorkerId(at as u32);
            if worker.as_ref().is_some_and(|worker| !worker.is_killed)
                && let Some(head) = self.head(id)
                && self.is_overdue(head, now_ns)
            {
                return fault(
                    Some(head),
                    format!("{id:?} holds {head:?} after its job's grace"),
                );
            }
        }
        Ok(())
    }

    /// The scheduler believes of every worker that it runs what the commands made it run.
    pub(super) fn check_heads(
        &self,
        believed: impl Fn(WorkerId) -> Option<TaskId>,
    ) -> Result<(), Fault> {
        for at in 0..self.workers.len() {
            let id = WorkerId(at as u32);
            let (head, believed) = (self.head(id), believed(id));
            if head != believed {
                let what =
                    format!("{id:?} should run {head:?}, the scheduler believes {believed:?}");
                return fault(head.or(believed), what);
            }
        }
        Ok(())
    }

    /// What was to be told has been told, each once, and nothing else.
    pub(super) fn check_told(&mut self) -> Result<(), Fault> {
        self.expected.sort_unstable();
        self.seen.sort_unstable();
        if self.expected != self.seen {
            let odd = (self.expected.iter().zip(&self.seen)).find(|(a, b)| a != b);
            let n_same = self.expected.len().min(self.seen.len());
            let odd = odd
                .map(|(a, b)| a.min(b))
                .or_else(|| (self.expected.get(n_same)).or_else(|| self.seen.get(n_same)));
            let task = match odd {
                Some(Act::Deliver(task) | Act::Release(task) | Act::Fail(task, _)) => Some(*task),
                _ => None,
            };
            let what = format!(
                "{:?} should have been told, not {:?}",
                self.expected, self.seen
            );
            return fault(task, what);
        }
        self.expected.clear();
        self.seen.clear();
        self.ended.clear();
        self.let_go.clear();
        Ok(())
    }

    /// No worker has been idle, while a task waited behind another, for longer than it takes to
    /// notice (`notice_ns`) and to ask for half of a queue as often as that queue can be halved, every
    /// other loaded worker having had its turn (`ask_ns` each). `is_waiting` says whether a worker has really not begun a task.
    pub(super) fn check_waiting(
        &self,
        now_ns: TimeNs,
        notice_ns: u64,
        ask_ns: u64,
        is_waiting: impl Fn(WorkerId, TaskId) -> bool,
    ) -> Result<(), Fault> {
        let idle_since_ns = (self.workers.iter().flatten())
            .filter(|worker| worker.queue.is_empty() && !worker.is_killed)
            .map(|worker| worker.idle_since_ns)
            .min();
        let Some(idle_since_ns) = idle_since_ns else {
            return Ok(());
        };
        if idle_since_ns + notice_ns > now_ns {
            return Ok(());
        }
        let is_loaded = |worker: &&WorkerModel| worker.queue.len() > 1;
        let n_loaded = self.workers.iter().flatten().filter(is_loaded).count() as u64;
        for (at, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            let Some(&(task, sent_ns)) = worker.queue.get(1) else {
                continue;
            };
            let n_asks = u64::from(worker.queue.len().ilog2()) + 1 + n_loaded;
            let since_ns = sent_ns.max(idle_since_ns);
            let is_long = since_ns + notice_ns + n_asks * ask_ns < now_ns;
            let id = WorkerId(at as u32);
            if is_long && !worker.is_killed && is_waiting(id, task) {
                let what = format!(
                    "{task:?} waits at {id:?} behind another for {} us while a worker is idle",
                    (now_ns - since_ns) / 1000
                );
                return fault(Some(task), what);
            }
        }
        Ok(())
    }

    /// Which task of a job is not finished, for the story of a run that does not end.
    pub(super) fn unfinished(&self) -> Option<TaskId> {
        let job = self.jobs.iter().position(Option::is_some)?;
        let tasks = &self.jobs[job].as_ref()?.tasks;
        let index = tasks.iter().position(|task| !task.is_finished)?;
        Some(TaskId {
            job: JobId(job as u32),
            index: TaskIndex(index as u32),
        })
    }
}
