//! What must happen, told from the events alone: a second, slower account of every job against
//! which each command of the scheduler is held.
//!
//! Deliveries, releases, failures and ends of jobs follow from the events exactly, so the model
//! foretells them and compares. Where and when tasks run is the scheduler's choice, so of those
//! commands the model only says whether they are allowed.

mod needs;

use super::act::{Act, Fault, How, fault};
use super::case::Case;
use manyhands_scheduler::{
    Cause, Ending, JobId, Loss, Report, Rules, Sight, TaskId, TaskIndex, TimeNs, Wanted, WorkerId,
};
use std::collections::VecDeque;

/// A task that two workers died under is blamed.
const N_CRASHES_MAX: u32 = 2;
/// So is one that so many workers died with at the head of their queue.
const N_LOSSES_MAX: u32 = 4;

/// A worker that begins nothing is ended so long, or another time, after the shortest limit.
const BEGIN_NS: u64 = 2_000_000_000;

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
    n_failures: u32,
    /// It failed, and is to be tried again then.
    rests_until_ns: Option<TimeNs>,
    /// It is lost, for the sake of this task.
    culprit: Option<TaskIndex>,
    /// Whether memory was short when a worker was lost with it.
    is_heavy: bool,
}

impl TaskModel {
    fn is_suspect(&self) -> bool {
        self.n_crashes + self.n_losses > 0
    }

    fn is_over(&self) -> bool {
        self.is_finished || self.culprit.is_some()
    }

    /// Whether it could run if its inputs were there.
    fn is_free(&self) -> bool {
        self.holder.is_none() && !self.is_over() && self.rests_until_ns.is_none()
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
    /// When it last reported a task, or was given work when it had none.
    heard_ns: TimeNs,
    is_killed: bool,
    /// The task that it was killed for, if it was for that it ran for too long.
    out_of_time: Option<TaskId>,
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
    /// A worker that must be ended in the step under way, as this task runs for too long.
    too_long: Option<(WorkerId, TaskId)>,
    /// A worker that must be ended in the step under way, as it begins nothing.
    stalled: Option<WorkerId>,
    /// How many tasks rest.
    n_resting: usize,
    /// Who waits for resources that others were given.
    passed: Vec<needs::Passed>,
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
            too_long: None,
            stalled: None,
            n_resting: 0,
            passed: Vec::new(),
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
        self.passed.retain(|passed| passed.is_of_another(id));
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
                n_failures: 0,
                rests_until_ns: None,
                culprit: None,
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
                n_failures: 0,
                rests_until_ns: None,
                culprit: None,
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
            heard_ns: now_ns,
            is_killed: false,
            out_of_time: None,
        });
    }

    pub(super) fn finished(&mut self, id: WorkerId, reports: &[Report], now_ns: TimeNs) {
        for (task, ending) in reports
            .iter()
            .flat_map(|r| r.tasks.tasks().map(|t| (t, r.ending)))
        {
            if !self.is_held_by(task, id) {
                continue;
            }
            self.let_go(task, id, now_ns);
            if let Some(worker) = self.worker_mut(id) {
                worker.heard_ns = now_ns;
            }
            let job = self.job_mut(task.job);
            if job.kill_at_ns.is_some() {
                // Nobody wants it any more.
            } else if ending.is_ok() {
                self.finish(task);
            } else {
                self.fail(task, Cause::Failed, ending, now_ns);
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
            if worker.out_of_time == Some(task) && self.job_mut(task.job).kill_at_ns.is_none() {
                let ending = match self.rules(task).retries_out_of_time {
                    true => Ending::Retriable,
                    false => Ending::Failed,
                };
                self.fail(task, Cause::OutOfTime, ending, now_ns);
            }
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
                    self.fail(task, Cause::WorkerDied, Ending::Failed, now_ns);
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

    fn rules(&self, task: TaskId) -> Rules {
        let plan = self.plan(task.job).expect("a live job");
        self.case.jobs[plan].spec.rules
    }

    /// A task that no worker holds any more has failed; its job goes on, or did until now.
    fn fail(&mut self, task: TaskId, cause: Cause, ending: Ending, now_ns: TimeNs) {
        let rules = self.rules(task);
        let job = self.jobs[task.job.0 as usize].as_mut().expect("a live job");
        let model = &mut job.tasks[task.index.as_usize()];
        model.n_failures += 1;
        let n_tries = model.n_failures;
        let is_suspect = model.is_suspect();
        if ending == Ending::Retriable && n_tries <= rules.n_retries {
            let longest_ns = 60_000_000_000;
            let mut rest_ns = rules.rest_ns;
            for _ in 1..n_tries {
                rest_ns = longest_ns.min(2 * rest_ns);
            }
            model.rests_until_ns = Some(now_ns + rest_ns.min(longest_ns));
            self.n_resting += 1;
            self.n_suspects_waiting -= usize::from(is_suspect);
            return;
        }
        // Where nothing is tried again, nobody counts.
        let n_tries = if rules.n_retries == 0 { 1 } else { n_tries };
        let how = How::from(Loss { cause, n_tries });
        if rules.is_tolerant && ending != Ending::Fatal {
            self.n_suspects_waiting -= usize::from(is_suspect);
            self.expected.push(Act::Lose(task, how));
            self.lose(task, task.index);
        } else {
            self.expected.push(Act::Fail(task, how));
            self.end_job(task.job, TimeNs::MAX);
        }
    }

    /// A task is lost, and with it those that waited for it last.
    fn lose(&mut self, task: TaskId, culprit: TaskIndex) {
        let TaskId { job: id, index } = task;
        let case = self.case;
        let job = self.jobs[id.0 as usize].as_mut().expect("a live job");
        job.n_unfinished -= 1;
        let model = &mut job.tasks[index.as_usize()];
        model.culprit = Some(culprit);
        if model.is_wanted {
            self.expected.push(Act::DeliverLoss(task, culprit));
        }
        let graph = &case.jobs[job.plan].spec.graph;
        if index.as_usize() < graph.n_tasks() {
            self.ended_for_neighbours(task);
        }
    }

    /// Whom the end of a task of a graph concerns: its inputs lose a reader, its readers an input.
    fn ended_for_neighbours(&mut self, task: TaskId) {
        let TaskId { job: id, index } = task;
        let case = self.case;
        let job = self.jobs[id.0 as usize].as_mut().expect("a live job");
        let plan = &case.jobs[job.plan];
        let graph = &plan.spec.graph;
        for &index in graph.dependencies(index) {
            let input = &mut job.tasks[index.as_usize()];
            input.n_readers_left -= 1;
            if input.n_readers_left == 0 && !input.is_wanted && input.is_finished {
                self.n_kept -= 1;
                self.kept_size -= plan.size(index);
                self.expected.push(Act::Release(TaskId { job: id, index }));
            }
        }
        let mut lost = Vec::new();
        for &reader in graph.dependents(index) {
            job.tasks[reader.as_usize()].n_inputs_missing -= 1;
            if job.tasks[reader.as_usize()].n_inputs_missing == 0 {
                let inputs = graph.dependencies(reader).iter();
                let culprits = inputs.filter_map(|input| job.tasks[input.as_usize()].culprit);
                lost.extend(culprits.into_iter().next().map(|culprit| (reader, culprit)));
            }
        }
        for (index, culprit) in lost {
            self.lose(TaskId { job: id, index }, culprit);
        }
    }

    /// Tasks that have rested for long enough may run again; how many there are.
    pub(super) fn wake(&mut self, now_ns: TimeNs) -> usize {
        if self.n_resting == 0 {
            return 0;
        }
        let n_before = self.n_resting;
        for job in self.jobs.iter_mut().flatten() {
            for task in &mut job.tasks {
                if task
                    .rests_until_ns
                    .is_some_and(|until_ns| until_ns <= now_ns)
                {
                    task.rests_until_ns = None;
                    self.n_resting -= 1;
                    self.n_suspects_waiting += usize::from(task.is_suspect());
                }
            }
        }
        n_before - self.n_resting
    }

    /// A worker is looked at: whether what it runs is out of time.
    pub(super) fn seen(&mut self, id: WorkerId, sight: Sight, now_ns: TimeNs) {
        let Some(worker) = self.workers.get(id.0 as usize).and_then(Option::as_ref) else {
            return;
        };
        let seen = match sight {
            Sight::Running(task, since_ns) => Some((task, since_ns)),
            Sight::Nothing => None,
            Sight::Hidden => (worker.queue.front()).map(|&(task, _)| (task, worker.heard_ns)),
        };
        let is_killed = worker.is_killed;
        let is_known = seen.is_some_and(|(task, _)| self.is_held_by(task, id));
        let least_ns = self.least_limit();
        let stalls_ns =
            least_ns.map(|least_ns| worker.heard_ns + least_ns + least_ns.max(BEGIN_NS));
        let is_stalled = stalls_ns.is_some_and(|stalls_ns| stalls_ns <= now_ns);
        self.stalled =
            (is_stalled && !is_known && !is_killed && !worker.queue.is_empty()).then_some(id);
        self.too_long = seen
            .filter(|&(task, since_ns)| {
                let is_too_long = |limit_ns| since_ns + limit_ns <= now_ns;
                !is_killed && self.is_held_by(task, id) && self.limit(task).is_some_and(is_too_long)
            })
            .map(|(task, _)| (id, task));
    }

    /// The shortest limit of all jobs that go on.
    fn least_limit(&self) -> Option<u64> {
        let going = self
            .jobs
            .iter()
            .flatten()
            .filter(|job| job.kill_at_ns.is_none());
        let limits = going.filter_map(|job| self.case.jobs[job.plan].spec.rules.limit_ns);
        limits.map(|limit_ns| limit_ns.get()).min()
    }

    /// How long a task may run, unless nobody wants it any more.
    fn limit(&self, task: TaskId) -> Option<u64> {
        let job = self.job(task.job).filter(|job| job.kill_at_ns.is_none())?;
        let rules = self.case.jobs[job.plan].spec.rules;
        rules.limit_ns.map(|limit_ns| limit_ns.get())
    }

    /// How long a task that a worker runs may run, unless the worker is being ended already.
    pub(super) fn limit_at(&self, task: TaskId, id: WorkerId) -> Option<u64> {
        let worker = self.workers.get(id.0 as usize)?.as_ref()?;
        let is_concerned = !worker.is_killed && self.is_held_by(task, id);
        self.limit(task).filter(|_| is_concerned)
    }

    /// Whether a worker is ended because its task ran for too long.
    pub(super) fn is_out_of_time(&self, id: WorkerId) -> bool {
        let worker = self.workers.get(id.0 as usize).and_then(Option::as_ref);
        worker.is_some_and(|worker| worker.out_of_time.is_some())
    }

    /// No task rests for longer than it should.
    pub(super) fn check_rest(&self, now_ns: TimeNs) -> Result<(), Fault> {
        if self.n_resting == 0 {
            return Ok(());
        }
        for (at, job) in self.jobs.iter().enumerate() {
            let tasks = job.iter().flat_map(|job| job.tasks.iter().enumerate());
            for (index, task) in tasks {
                if task
                    .rests_until_ns
                    .is_some_and(|until_ns| until_ns < now_ns)
                {
                    let job = JobId(at as u32);
                    let index = TaskIndex(index as u32);
                    let task = TaskId { job, index };
                    return fault(Some(task), format!("{task:?} rests for too long"));
                }
            }
        }
        Ok(())
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
        if index.as_usize() < graph.n_tasks() {
            self.ended_for_neighbours(task);
        }
    }

    fn end_job(&mut self, id: JobId, kill_at_ns: TimeNs) {
        let job = self.jobs[id.0 as usize].as_mut().expect("a live job");
        job.is_open = false;
        if job.kill_at_ns.is_none() {
            let waits = |task: &&TaskModel| task.is_suspect() && task.is_free();
            self.n_suspects_waiting -= job.tasks.iter().filter(waits).count();
            for task in &mut job.tasks {
                self.n_resting -= usize::from(task.rests_until_ns.take().is_some());
            }
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
            Act::Look(_) => Ok(()),
            Act::Deliver(_)
            | Act::Release(_)
            | Act::Fail(..)
            | Act::Lose(..)
            | Act::DeliverLoss(..)
            | Act::JobDone(_) => {
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
            let is_suspect = model.is_suspect();
            self.n_suspects_waiting -= usize::from(is_suspect);
            if !is_suspect {
                self.count_passed(id, task)?;
            }
        }
        if let Some(worker) = self.worker_mut(id) {
            if worker.queue.is_empty() {
                worker.heard_ns = now_ns;
            }
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
        if model.is_over() {
            return refuse("although it has finished or is lost");
        }
        if model.rests_until_ns.is_some() {
            return refuse("although it is to rest");
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
                let is_root = self.is_root(job, TaskIndex(at as u32));
                other.is_free() && other.n_inputs_missing == 0 && (!is_root || other.was_sent)
            };
            if job.n_held > 0 || others.into_iter().any(is_runnable) {
                return refuse("although results have piled up and others can run");
            }
        }
        if model.is_suspect() && !is_alone {
            return refuse("among others although a worker died under it");
        }
        if !self.needs(task).is_empty() && !is_alone {
            return refuse("among others although it needs resources");
        }
        Ok(())
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
        let too_long = self.too_long.take_if(|(worker, _)| *worker == id);
        let stalled = self.stalled.take_if(|worker| *worker == id);
        match self.worker_mut(id) {
            Some(worker) if too_long.is_some() && !worker.is_killed => {
                worker.is_killed = true;
                worker.out_of_time = too_long.map(|(_, task)| task);
                Ok(())
            }
            Some(worker) if (is_overdue || stalled.is_some()) && !worker.is_killed => {
                worker.is_killed = true;
                Ok(())
            }
            _ => fault(head, format!("{id:?} is ended without a reason")),
        }
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
        if let Some((id, task)) = self.too_long.take() {
            return fault(
                Some(task),
                format!("{id:?} goes on with {task:?} out of time"),
            );
        }
        if let Some(id) = self.stalled.take() {
            return fault(
                None,
                format!("{id:?} is not ended although it begins nothing"),
            );
        }
        self.expected.sort_unstable();
        self.seen.sort_unstable();
        if self.expected != self.seen {
            let odd = (self.expected.iter().zip(&self.seen)).find(|(a, b)| a != b);
            let n_same = self.expected.len().min(self.seen.len());
            let odd = odd
                .map(|(a, b)| a.min(b))
                .or_else(|| (self.expected.get(n_same)).or_else(|| self.seen.get(n_same)));
            let task = match odd {
                Some(
                    Act::Deliver(task)
                    | Act::Release(task)
                    | Act::Fail(task, _)
                    | Act::Lose(task, _)
                    | Act::DeliverLoss(task, _),
                ) => Some(*task),
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
        let index = tasks.iter().position(|task| !task.is_over())?;
        Some(TaskId {
            job: JobId(job as u32),
            index: TaskIndex(index as u32),
        })
    }
}
