//! The state and its transitions: one method for each event.

use crate::batch::{Lists, SILENCE_NS};
use crate::cost::Costs;
use crate::faults::Limits;
use crate::job::{Job, Phase, Work};
use crate::pressure::Pressure;
use crate::supplies::Supplies;
use crate::tally::Tally;
use crate::worker::Worker;
use crate::{
    Cause, Command, Commands, Ending, Event, JobId, JobSpec, KindId, Report, TaskId, TaskIndex,
    TaskRun, TimeNs, WorkerId,
};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Decides which worker runs which task when. See the [crate documentation](crate).
#[derive(Default, Debug)]
pub struct Scheduler {
    pub(crate) jobs: Vec<Option<Job>>,
    free_jobs: Vec<u32>,
    pub(crate) workers: Vec<Option<Worker>>,
    pub(crate) n_workers: usize,
    n_joined: u64,
    /// Ready tasks of all jobs, suspects aside.
    pub(crate) n_ready: usize,
    /// Tasks under which a worker died; each is tried once more, alone.
    pub(crate) suspects: VecDeque<TaskId>,
    /// Tasks that failed and are to be tried again, with when.
    pub(crate) resting: BinaryHeap<Reverse<(TimeNs, JobId, TaskIndex)>>,
    pub(crate) limits: Limits,
    /// The worker that runs a suspect while no other may run anything, for the sake of memory.
    pub(crate) alone: Option<WorkerId>,
    pub(crate) costs: Costs,
    pub(crate) lists: Lists,
    /// When to look again, if nothing happens before.
    pub(crate) deadline_ns: Option<TimeNs>,
    /// Take-back requests that have not been answered.
    pub(crate) n_recalls: u32,
    n_draining: usize,
    pub(crate) pressure: Pressure,
    pub(crate) supplies: Supplies,
    /// By job's number, how far the last job under it had come when it was done.
    pub(crate) last_tallies: Vec<Tally>,
}

/// A task that two workers died under is not given to a third.
const N_CRASHES_MAX: u8 = 2;
/// Nor one that this many workers died with at the head of their queue, though none was seen to run
/// it: from the second of them on, it was all that the worker had.
const N_LOSSES_MAX: u8 = 4;

impl Scheduler {
    /// A scheduler without workers.
    pub fn new() -> Scheduler {
        Scheduler::default()
    }

    /// A number for a job to be submitted.
    pub fn new_job_id(&mut self) -> JobId {
        match self.free_jobs.pop() {
            Some(id) => JobId(id),
            None => {
                self.jobs.push(None);
                JobId(self.jobs.len() as u32 - 1)
            }
        }
    }

    /// When the executor must send [`Event::Tick`] at the latest.
    pub fn deadline_ns(&self) -> Option<TimeNs> {
        self.deadline_ns
    }

    /// Whether any job has work that is not finished.
    pub fn has_work(&self) -> bool {
        self.jobs
            .iter()
            .flatten()
            .any(|job| job.n_unfinished > 0 || job.n_in_flight > 0)
    }

    /// How many tasks wait for a worker.
    pub fn n_ready(&self) -> usize {
        self.n_ready + self.suspects.len()
    }

    /// The first task of a worker's queue: the one it runs, as far as can be told from here.
    pub fn head(&self, worker: WorkerId) -> Option<TaskId> {
        let worker = self.workers.get(worker.0 as usize)?.as_ref()?;
        worker.queue.head()
    }

    /// The worker that holds a task, and whether the task stands first in its queue.
    pub fn holder(&self, task: TaskId) -> Option<(WorkerId, bool)> {
        self.workers.iter().enumerate().find_map(|(at, worker)| {
            let queue = &worker.as_ref()?.queue;
            let is_first = queue.head() == Some(task);
            queue
                .contains(task)
                .then_some((WorkerId(at as u32), is_first))
        })
    }

    /// Whether a worker was commanded to end.
    pub fn is_killed(&self, worker: WorkerId) -> bool {
        let worker = self.workers.get(worker.0 as usize).and_then(Option::as_ref);
        worker.is_some_and(|worker| worker.is_killed)
    }

    /// Whether a job's last task stands first in a worker's queue: all that is left of the job may be running.
    pub fn is_last_begun(&self, job: JobId) -> bool {
        let own = self.jobs.get(job.0 as usize).and_then(Option::as_ref);
        let mut queues = self.workers.iter().flatten().map(|worker| &worker.queue);
        own.is_some_and(|own| !own.is_open && own.n_unfinished == 1)
            && queues.any(|queue| queue.head().is_some_and(|head| head.job == job))
    }

    /// Whether a worker holds no task.
    pub fn is_idle(&self, worker: WorkerId) -> bool {
        self.head(worker).is_none()
    }

    /// Forgets what tasks of a kind cost, so that its number can be used again.
    pub fn forget_kind(&mut self, kind: KindId) {
        self.costs.forget(kind);
    }

    /// Takes note of an event and appends what is to be done about it.
    pub fn on(&mut self, event: Event<'_>, now_ns: TimeNs, commands: &mut Commands) {
        match event {
            Event::Submit(job, spec) => self.on_submit(job, spec, now_ns, commands),
            Event::Extend(job, n_more) => self.on_extend(job, n_more),
            Event::Close(job) => self.on_close(job, commands),
            Event::Cancel { job, grace_ns } => {
                self.on_cancel(job, now_ns.saturating_add(grace_ns), commands);
            }
            Event::WorkerJoined(worker) => self.on_worker_joined(worker, now_ns),
            Event::Finished(worker, reports) => {
                self.on_finished(worker, reports, now_ns, commands);
            }
            Event::TakenBack(worker, tasks) => self.on_taken_back(worker, tasks, now_ns, commands),
            Event::WorkerLost {
                worker,
                running,
                was_memory_short,
            } => self.on_worker_lost(worker, running, was_memory_short, now_ns, commands),
            Event::Seen(worker, sight) => self.on_seen(worker, sight, now_ns, commands),
            Event::Pressure { is_high } => self.on_pressure(is_high),
            Event::Tick => {}
        }
        self.deadline_ns = None;
        if !self.resting.is_empty() {
            self.wake_resting(now_ns);
        }
        self.let_roots_go();
        self.end_overdue(now_ns, commands);
        self.look_at_overdue(now_ns, commands);
        self.dispatch(now_ns, commands);
    }

    fn on_submit(&mut self, id: JobId, spec: JobSpec, now_ns: TimeNs, commands: &mut Commands) {
        let limit_ns = spec.rules.limit_ns;
        let slot = &mut self.jobs[id.0 as usize];
        assert!(slot.is_none(), "{id:?} is in use");
        let needs = self.supplies.on_submit(id);
        let job = slot.insert(Job::new(spec, needs));
        self.pressure.on_submit(id, job);
        self.n_ready += job.n_ready();
        self.lists.list_job(id, job);
        if let Some(limit_ns) = limit_ns {
            self.limits.add(limit_ns.get(), now_ns);
        }
        self.retire_if_done(id, commands);
    }

    fn on_extend(&mut self, id: JobId, n_more: u32) {
        // A job that failed meanwhile takes no more.
        if let Some(job) = self.jobs[id.0 as usize].as_mut()
            && job.phase == Phase::Running
        {
            self.n_ready += job.extend(n_more);
            self.lists.list_job(id, job);
        }
    }

    fn on_close(&mut self, id: JobId, commands: &mut Commands) {
        if let Some(job) = self.jobs[id.0 as usize].as_mut() {
            job.is_open = false;
        }
        self.retire_if_done(id, commands);
    }

    fn on_cancel(&mut self, id: JobId, kill_at_ns: TimeNs, commands: &mut Commands) {
        if self.jobs[id.0 as usize].is_some() {
            self.drain(id, kill_at_ns, commands);
            self.retire_if_done(id, commands);
        }
    }

    fn on_worker_joined(&mut self, id: WorkerId, now_ns: TimeNs) {
        let at = id.0 as usize;
        if at >= self.workers.len() {
            self.workers.resize_with(at + 1, || None);
        }
        assert!(self.workers[at].is_none(), "{id:?} has joined already");
        let worker = self.workers[at].insert(Worker {
            heard_ns: now_ns,
            number: self.n_joined,
            ..Worker::default()
        });
        self.n_joined += 1;
        self.n_workers += 1;
        self.lists.list_idle(id, worker);
    }

    fn on_finished(
        &mut self,
        id: WorkerId,
        reports: &[Report],
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        for report in reports {
            let mut reported = report.tasks;
            // Tasks that this worker does not hold change nothing.
            while let Some(worker) = self.worker_mut(id)
                && let Some(run) = worker.queue.strike(&mut reported)
            {
                worker.heard_ns = now_ns;
                worker.is_exclusive = false;
                worker.is_overdue = false;
                self.let_go(id, run);
                self.end_alone(id);
                self.tasks_ended(run, report, now_ns, commands);
            }
        }
        self.relist(id);
    }

    #[inline]
    fn tasks_ended(
        &mut self,
        run: TaskRun,
        report: &Report,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let id = run.job;
        let each_ns = report.each_ns();
        let job = self.jobs[id.0 as usize]
            .as_mut()
            .expect("a job lives while a worker holds one of its tasks");
        job.n_in_flight -= run.n_tasks as usize;
        if job.phase != Phase::Running {
            // Nobody wants it any more.
        } else if report.ending.is_ok() {
            match &job.work {
                Work::Loose(loose) => self.costs.learn(loose.kind, each_ns, run.n_tasks),
                Work::Graphed(graphed) => run
                    .indices()
                    .for_each(|index| self.costs.learn(graphed.kind(index), each_ns, 1)),
                Work::Abandoned => {}
            }
            let n_made_ready = job.finish(run, commands);
            self.n_ready += n_made_ready;
            self.lists.list_job(id, job);
        } else {
            self.task_failed(run.first(), Cause::Failed, report.ending, now_ns, commands);
        }
        self.retire_if_done(id, commands);
    }

    fn on_taken_back(
        &mut self,
        id: WorkerId,
        tasks: &[TaskId],
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let Some(worker) = self.worker_mut(id) else {
            return;
        };
        if std::mem::take(&mut worker.is_relieved) {
            worker.has_given_back = !tasks.is_empty();
            if tasks.is_empty() {
                worker.rests_until_ns = now_ns + SILENCE_NS;
            }
        }
        if worker.n_recalls > 0 {
            worker.n_recalls -= 1;
            self.n_recalls -= 1;
        }
        self.lists.look_anew();
        for mut returned in TaskRun::join(tasks) {
            while let Some(worker) = self.worker_mut(id)
                && let Some(run) = worker.queue.strike(&mut returned)
            {
                worker.is_exclusive = false;
                self.let_go(id, run);
                self.end_alone(id);
                self.tasks_returned(run, commands);
            }
        }
        self.relist(id);
    }

    /// Tasks that were sent will not be run there: they are ready again, or gone with their job.
    fn tasks_returned(&mut self, run: TaskRun, commands: &mut Commands) {
        let id = run.job;
        let job = self.jobs[id.0 as usize]
            .as_mut()
            .expect("a job lives while a worker holds one of its tasks");
        job.n_in_flight -= run.n_tasks as usize;
        if job.phase != Phase::Running {
            self.retire_if_done(id, commands);
            return;
        }
        let mut rest = run;
        if job.has_suspect(run) {
            for task in run.tasks() {
                if job.is_suspect(task.index) {
                    job.set_aside(task.index);
                    self.suspects.push_back(task);
                } else {
                    self.n_ready += job.put_back(task.into());
                }
            }
            rest.n_tasks = 0;
        }
        if rest.n_tasks > 0 {
            self.n_ready += job.put_back(rest);
        }
        self.lists.list_job(id, job);
    }

    fn on_worker_lost(
        &mut self,
        id: WorkerId,
        running: Option<TaskId>,
        was_memory_short: bool,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let Some(mut worker) = self
            .workers
            .get_mut(id.0 as usize)
            .and_then(|slot| slot.take())
        else {
            return;
        };
        self.n_workers -= 1;
        self.n_recalls -= worker.n_recalls;
        self.lists.unlist_worker(id);
        self.let_go_all(worker.held.take());
        self.end_alone(id);
        // A worker that was told to end did not die of what it ran.
        let running = running.filter(|_| !worker.is_killed);
        let head = worker.queue.head().filter(|_| !worker.is_killed);
        let suspect = worker.out_of_time.or(running).or(head);
        for mut run in worker.queue.take_all() {
            let place = suspect.filter(|task| task.job == run.job);
            let n_before = place.map(|task| task.index.0.wrapping_sub(run.first.0));
            if let Some(n_before) = n_before.filter(|&n_before| n_before < run.n_tasks) {
                let before = run.split_first(n_before);
                if n_before > 0 {
                    self.tasks_returned(before, commands);
                }
                let blamed = run.split_first(1).first();
                match worker.out_of_time {
                    Some(_) => self.out_of_time(blamed, now_ns, commands),
                    None => {
                        let is_heavy = was_memory_short;
                        self.blame(blamed, running.is_some(), is_heavy, now_ns, commands);
                    }
                }
            }
            if run.n_tasks > 0 {
                self.tasks_returned(run, commands);
            }
        }
    }

    /// Decides about the task that a lost worker was running, or would have run next.
    fn blame(
        &mut self,
        task: TaskId,
        was_running: bool,
        was_memory_short: bool,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let job = self.jobs[task.job.0 as usize]
            .as_mut()
            .expect("a job lives while a worker holds one of its tasks");
        if job.phase == Phase::Running {
            let casualty = job.casualty_mut(task.index);
            casualty.n_crashes += u8::from(was_running);
            casualty.n_losses += u8::from(!was_running);
            casualty.is_heavy |= was_memory_short;
            if casualty.n_crashes >= N_CRASHES_MAX || casualty.n_losses >= N_LOSSES_MAX {
                // This one has come back already.
                job.n_in_flight -= 1;
                self.task_failed(task, Cause::WorkerDied, Ending::Failed, now_ns, commands);
                self.retire_if_done(task.job, commands);
                return;
            }
        }
        self.tasks_returned(task.into(), commands);
    }

    /// A worker holds nothing any more: others may run again, if they waited for it.
    #[inline]
    fn end_alone(&mut self, id: WorkerId) {
        if self.alone == Some(id) {
            self.alone = None;
        }
    }

    /// Ends a job: drops what has not been sent, asks back what has.
    pub(crate) fn drain(&mut self, id: JobId, kill_at_ns: TimeNs, commands: &mut Commands) {
        let job = self.jobs[id.0 as usize]
            .as_mut()
            .expect("only a job that exists is drained");
        if let Phase::Draining {
            kill_at_ns: earlier,
        } = &mut job.phase
        {
            *earlier = kill_at_ns.min(*earlier);
            return;
        }
        job.phase = Phase::Draining { kill_at_ns };
        if let Some(limit_ns) = job.rules.limit_ns {
            self.limits.remove(limit_ns.get());
        }
        self.n_draining += 1;
        self.n_ready -= job.n_ready();
        job.abandon();
        self.suspects.retain(|task| task.job != id);
        self.resting.retain(|Reverse((_, job, _))| *job != id);
        if job.n_in_flight > 0 {
            self.recall_job(id, commands);
        }
    }

    /// Asks every worker for the tasks of a job that it may not have started; even the first of a
    /// queue may still be on its way.
    fn recall_job(&mut self, id: JobId, commands: &mut Commands) {
        for (at, worker) in self.workers.iter_mut().enumerate() {
            let Some(worker) = worker else { continue };
            let mark = commands.mark();
            for sent in worker.queue.runs().filter(|sent| sent.run.job == id) {
                commands.push_run(mark, sent.run);
            }
            let range = commands.range_from(mark);
            if !range.is_empty() {
                worker.n_recalls += 1;
                self.n_recalls += 1;
                commands.push(Command::TakeBack(WorkerId(at as u32), range));
            }
        }
    }

    #[inline]
    pub(crate) fn retire_if_done(&mut self, id: JobId, commands: &mut Commands) {
        let slot = &mut self.jobs[id.0 as usize];
        let is_done = slot
            .as_ref()
            .is_some_and(|job| job.n_unfinished == 0 && job.n_in_flight == 0 && !job.is_open);
        if is_done {
            if let Some(job) = slot.take() {
                if let (Phase::Running, Some(limit_ns)) = (job.phase, job.rules.limit_ns) {
                    self.limits.remove(limit_ns.get());
                }
                self.n_draining -= usize::from(job.phase != Phase::Running);
                if job.is_listed {
                    self.lists.unlist_job(id);
                }
                if !job.needs.is_empty() {
                    self.supplies.forget(id);
                }
                self.keep_tally(id, job.tally());
            }
            self.free_jobs.push(id.0);
            commands.push(Command::JobDone(id));
        }
    }

    /// Ends the workers that hold a task of a cancelled job for too long.
    fn end_overdue(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        if self.n_draining == 0 {
            return;
        }
        for (at, worker) in self.workers.iter_mut().enumerate() {
            let Some(worker) = worker else { continue };
            let Some(head) = worker.queue.head() else {
                continue;
            };
            let job = self.jobs[head.job.0 as usize].as_ref();
            let Some(Phase::Draining { kill_at_ns }) = job.map(|job| job.phase) else {
                continue;
            };
            if worker.is_killed || kill_at_ns == TimeNs::MAX {
                continue;
            }
            if kill_at_ns <= now_ns {
                worker.is_killed = true;
                commands.push(Command::Kill(WorkerId(at as u32)));
            } else {
                self.deadline_ns = Some(self.deadline_ns.map_or(kill_at_ns, |d| d.min(kill_at_ns)));
            }
        }
    }

    /// What has to be looked at again has to be by then.
    pub(crate) fn look_again_at(&mut self, at_ns: TimeNs) {
        self.deadline_ns = Some(self.deadline_ns.map_or(at_ns, |d| d.min(at_ns)));
    }

    #[inline]
    pub(crate) fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(id.0 as usize)?.as_mut()
    }
}
