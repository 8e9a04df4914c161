//! What the pools share: the scheduler, the jobs, and the carrying out of commands that concern
//! submitters. What concerns workers goes to the pool's [`Hands`].

use crate::job::{Failure, Inbox};
use crate::program::Death;
use crate::relay::Surroundings;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{
    Cause, Command, Commands, Event, JobId, JobSpec, Need, Scheduler, TaskId, TaskRun, TimeNs,
    WorkerId,
};
use std::sync::Arc;

/// A job that was submitted and has not left the scheduler.
pub(crate) struct Entry<P: ?Sized> {
    pub(crate) program: Arc<P>,
    pub(crate) inbox: Arc<Inbox>,
    /// Numbers of functions that the pool keeps for this job.
    pub(crate) functions: Vec<u32>,
    /// The surroundings of its tasks, where they run elsewhere.
    pub(crate) context: Option<Arc<Surroundings>>,
    delivered: Vec<TaskIndex>,
    /// How workers died under tasks of it.
    deaths: Vec<(TaskIndex, Death)>,
}

/// A pool's way to its workers.
pub(crate) trait Hands<P: ?Sized> {
    /// Hands a worker tasks, all of one job.
    fn start(&mut self, worker: WorkerId, job: JobId, entry: &Entry<P>, tasks: &[TaskIndex]);
    fn take_back(&mut self, worker: WorkerId, tasks: &[TaskId]);
    fn kill(&mut self, worker: WorkerId);
    /// Nobody will read this result.
    fn release(&mut self, program: &Arc<P>, task: TaskIndex);
    fn job_done(&mut self, entry: Entry<P>);
}

pub(crate) struct Core<P: ?Sized> {
    pub(crate) scheduler: Scheduler,
    jobs: Vec<Option<Entry<P>>>,
    commands: Commands,
    scratch: Vec<TaskIndex>,
    /// How the worker died that the commands under way are about.
    death: Death,
}

impl<P: ?Sized> Default for Core<P> {
    fn default() -> Self {
        Core {
            scheduler: Scheduler::new(),
            jobs: Vec::new(),
            commands: Commands::default(),
            scratch: Vec::new(),
            death: Death::default(),
        }
    }
}

impl<P: ?Sized> Core<P> {
    pub(crate) fn entry(&self, id: JobId) -> Option<&Entry<P>> {
        self.jobs.get(id.0 as usize)?.as_ref()
    }

    /// The ids of all jobs that have not ended.
    pub(crate) fn job_ids(&self) -> Vec<JobId> {
        let is_there = |at: &usize| self.jobs[*at].is_some();
        (0..self.jobs.len())
            .filter(is_there)
            .map(|at| JobId(at as u32))
            .collect()
    }

    /// Whether the id still means the job with this inbox.
    pub(crate) fn is_job(&self, id: JobId, inbox: &Arc<Inbox>) -> bool {
        self.entry(id)
            .is_some_and(|entry| Arc::ptr_eq(&entry.inbox, inbox))
    }

    /// Whether a worker may have started this task.
    pub(crate) fn is_running(&self, id: JobId, inbox: &Arc<Inbox>, index: TaskIndex) -> bool {
        let task = TaskId { job: id, index };
        let holder = self.is_job(id, inbox).then(|| self.scheduler.holder(task));
        holder.flatten().is_some_and(|(_, is_first)| is_first)
    }

    pub(crate) fn submit(
        &mut self,
        spec: JobSpec,
        program: Arc<P>,
        (functions, needs): (Vec<u32>, Vec<Need>),
        (inbox, context): (Arc<Inbox>, Option<Arc<Surroundings>>),
        now_ns: TimeNs,
        hands: &mut impl Hands<P>,
    ) -> JobId {
        let id = self.scheduler.new_job_id();
        let at = id.0 as usize;
        if at >= self.jobs.len() {
            self.jobs.resize_with(at + 1, || None);
        }
        self.jobs[at] = Some(Entry {
            program,
            inbox,
            functions,
            context,
            delivered: Vec::new(),
            deaths: Vec::new(),
        });
        self.scheduler.set_needs(id, needs);
        self.on(Event::Submit(id, spec), now_ns, hands);
        id
    }

    /// Gives the scheduler an event about a job, unless the id means another job by now.
    pub(crate) fn on_job(
        &mut self,
        inbox: &Arc<Inbox>,
        id: JobId,
        event: Event<'_>,
        now_ns: TimeNs,
        hands: &mut impl Hands<P>,
    ) {
        if self.is_job(id, inbox) {
            self.on(event, now_ns, hands);
        }
    }

    pub(crate) fn on_worker_lost(
        &mut self,
        worker: WorkerId,
        running: Option<TaskId>,
        death: Death,
        now_ns: TimeNs,
        hands: &mut impl Hands<P>,
    ) {
        self.death = death;
        self.death.was_running = running.is_some();
        let was_memory_short = self.death.was_memory_short();
        let event = Event::WorkerLost {
            worker,
            running,
            was_memory_short,
        };
        self.on(event, now_ns, hands);
        if let Some(task) = running
            && let Some(Some(entry)) = self.jobs.get_mut(task.job.0 as usize)
        {
            entry.deaths.push((task.index, self.death.abridged()));
        }
    }

    /// The last death, with the one before it under the same task.
    fn death_of(&self, task: TaskId) -> Box<Death> {
        let mut death = Box::new(self.death.clone());
        let earlier = self.entry(task.job).map(|entry| entry.deaths.iter().rev());
        let earlier = earlier.into_iter().flatten();
        let before = earlier.filter(|(index, _)| *index == task.index);
        death.before = before.map(|(_, death)| Box::new(death.clone())).next();
        death
    }

    /// Ends a job from here, for a reason that lies outside of its tasks.
    pub(crate) fn abort(
        &mut self,
        id: JobId,
        failure: Failure,
        now_ns: TimeNs,
        hands: &mut impl Hands<P>,
    ) {
        if let Some(entry) = self.entry(id) {
            entry.inbox.fail(failure);
            let event = Event::Cancel {
                job: id,
                grace_ns: 0,
            };
            self.on(event, now_ns, hands);
        }
    }

    /// Ends all jobs but those of which only a task is left that may be running. What runs is left to end.
    pub(crate) fn cancel_waiting(&mut self, now_ns: TimeNs, hands: &mut impl Hands<P>) {
        for job in self.job_ids() {
            if let Some(entry) = self.entry(job)
                && !self.scheduler.is_last_begun(job)
            {
                entry.inbox.fail(Failure::Cancelled);
                let grace_ns = TimeNs::MAX / 2;
                self.on(Event::Cancel { job, grace_ns }, now_ns, hands);
            }
        }
    }

    /// Gives the scheduler an event and carries out what it commands.
    pub(crate) fn on(&mut self, event: Event<'_>, now_ns: TimeNs, hands: &mut impl Hands<P>) {
        let mut commands = std::mem::take(&mut self.commands);
        commands.clear();
        self.scheduler.on(event, now_ns, &mut commands);
        let mut failed = Vec::new();
        let mut delivering: Option<JobId> = None;
        for command in commands.iter() {
            if let Command::Deliver(run) = command {
                if delivering != Some(run.job) {
                    self.post(delivering.replace(run.job));
                }
                if let Some(Some(entry)) = self.jobs.get_mut(run.job.0 as usize) {
                    entry.delivered.extend(run.indices());
                }
                continue;
            }
            self.perform(command, &commands, hands, &mut delivering, &mut failed);
        }
        self.post(delivering);
        self.commands = commands;
        for job in failed {
            let grace_ns = crate::CANCEL_GRACE.as_nanos() as TimeNs;
            self.on(Event::Cancel { job, grace_ns }, now_ns, hands);
        }
    }

    fn perform(
        &mut self,
        command: &Command,
        commands: &Commands,
        hands: &mut impl Hands<P>,
        delivering: &mut Option<JobId>,
        failed: &mut Vec<JobId>,
    ) {
        match command {
            Command::Deliver(_) => {}
            Command::Start(worker, range) => self.start(*worker, commands.runs(range), hands),
            Command::TakeBack(worker, range) => {
                let tasks: Vec<_> = commands.tasks(range).collect();
                hands.take_back(*worker, &tasks);
            }
            Command::Kill(worker) => hands.kill(*worker),
            Command::Release(run) => {
                if let Some(entry) = self.entry(run.job) {
                    let released = run.indices();
                    released.for_each(|index| hands.release(&entry.program, index));
                }
            }
            Command::Fail(task, cause) => {
                // Whoever hears of the failure finds what was computed before it.
                self.post(delivering.take());
                if let Some(entry) = self.entry(task.job) {
                    entry.inbox.fail(match cause {
                        Cause::Failed => Failure::Task(task.index),
                        Cause::WorkerDied => Failure::WorkerDied(task.index, self.death_of(*task)),
                    });
                    failed.push(task.job);
                }
            }
            Command::JobDone(id) => {
                self.post(delivering.take());
                if let Some(entry) = self.jobs.get_mut(id.0 as usize).and_then(Option::take) {
                    entry.inbox.done();
                    hands.job_done(entry);
                }
                failed.retain(|job| job != id);
            }
        }
    }

    fn start(&mut self, worker: WorkerId, runs: &[TaskRun], hands: &mut impl Hands<P>) {
        for group in runs.chunk_by(|a, b| a.job == b.job) {
            let Some(Some(entry)) = self.jobs.get(group[0].job.0 as usize) else {
                continue;
            };
            self.scratch.clear();
            self.scratch.extend(group.iter().flat_map(TaskRun::indices));
            hands.start(worker, group[0].job, entry, &self.scratch);
        }
    }

    fn post(&mut self, job: Option<JobId>) {
        let entry = job.and_then(|id| self.jobs.get_mut(id.0 as usize)?.as_mut());
        if let Some(entry) = entry
            && !entry.delivered.is_empty()
        {
            entry.inbox.deliver(&mut entry.delivered);
        }
    }
}
