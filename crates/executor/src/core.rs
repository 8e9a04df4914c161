//! What the pools share: the scheduler, the jobs, and the carrying out of commands that concern
//! submitters. What concerns workers goes to the pool's [`Hands`].

use crate::job::{Failure, Inbox};
use crate::journal::{self, Noted, Outcome};
use crate::program::Death;
use crate::relay::Surroundings;
use crate::watch::Standing;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{
    Cause, Command, Commands, Event, JobId, JobSpec, Loss, Needs, Report, Scheduler, Sight, TaskId,
    TaskRun, TimeNs, WorkerId,
};
use std::collections::HashMap;
use std::sync::Arc;

/// A job that was submitted and has not left the scheduler.
pub(crate) struct Entry<P: ?Sized> {
    pub(crate) program: Arc<P>,
    pub(crate) inbox: Arc<Inbox>,
    /// Numbers of functions that the pool keeps for this job.
    pub(crate) functions: Vec<u32>,
    /// The surroundings of its tasks, where they run elsewhere.
    pub(crate) context: Option<Arc<Surroundings>>,
    /// Whether its tasks may only run for so long.
    pub(crate) has_limit: bool,
    delivered: Vec<TaskIndex>,
    lost: Vec<(TaskIndex, Failure)>,
    /// How tasks failed that the job goes on without, as long as anybody may ask.
    failures: HashMap<TaskIndex, Failure>,
    has_edges: bool,
    /// How workers died under tasks of it.
    deaths: Vec<(TaskIndex, Death)>,
    /// Where it is noted what becomes of its tasks, if anybody keeps a journal.
    noted: Vec<Noted>,
}

impl<P: ?Sized> Entry<P> {
    /// A wanted task has no result, because this one failed.
    fn deliver_loss(&mut self, task: TaskIndex, culprit: TaskIndex) {
        // Nobody else depends on the tasks of a map, of which there may be any number.
        let failure = match self.has_edges {
            true => self.failures.get(&culprit).cloned(),
            false => self.failures.remove(&culprit),
        };
        if let Some(failure) = failure {
            self.lost.push((task, failure));
        }
    }
}

/// What commands lead to once all of them are carried out.
#[derive(Default)]
struct After {
    failed: Vec<JobId>,
    looked_at: Vec<WorkerId>,
}

/// A pool's way to its workers.
pub(crate) trait Hands<P: ?Sized> {
    /// Hands a worker tasks, all of one job.
    fn start(&mut self, worker: WorkerId, job: JobId, entry: &Entry<P>, tasks: &[TaskIndex]);
    fn take_back(&mut self, worker: WorkerId, tasks: &[TaskId]);
    fn kill(&mut self, worker: WorkerId);
    /// What a worker runs at this moment.
    fn look(&mut self, worker: WorkerId) -> Sight;
    /// Nobody will read this result.
    fn release(&mut self, program: &Arc<P>, task: TaskIndex);
    /// Whether a task that counts as returned has failed.
    fn has_failed(&self, program: &P, task: TaskIndex) -> bool;
    fn job_done(&mut self, entry: Entry<P>);
}

pub(crate) struct Core<P: ?Sized> {
    pub(crate) scheduler: Scheduler,
    jobs: Vec<Option<Entry<P>>>,
    commands: Commands,
    scratch: Vec<TaskIndex>,
    /// How the worker died that the commands under way are about.
    death: Death,
    /// How many jobs are noted in a journal.
    n_noted: usize,
}

impl<P: ?Sized> Default for Core<P> {
    fn default() -> Self {
        Core {
            scheduler: Scheduler::new(),
            jobs: Vec::new(),
            commands: Commands::default(),
            scratch: Vec::new(),
            death: Death::default(),
            n_noted: 0,
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

    /// How far a job has come, unless the id means another by now.
    pub(crate) fn standing(&self, id: JobId, inbox: &Arc<Inbox>) -> Option<Standing> {
        let entry = self.entry(id)?;
        Arc::ptr_eq(&entry.inbox, inbox).then_some(())?;
        Some(Standing {
            tally: self.scheduler.tally(id)?,
            n_deaths: entry.deaths.len(),
        })
    }

    pub(crate) fn submit(
        &mut self,
        spec: JobSpec,
        program: Arc<P>,
        (functions, needs): (Vec<u32>, Needs),
        (inbox, context): (Arc<Inbox>, Option<Arc<Surroundings>>),
        now_ns: TimeNs,
        hands: &mut impl Hands<P>,
    ) -> JobId {
        let id = self.scheduler.new_job_id();
        let at = id.0 as usize;
        if at >= self.jobs.len() {
            self.jobs.resize_with(at + 1, || None);
        }
        let noted = journal::begin(now_ns);
        self.n_noted += usize::from(!noted.is_empty());
        self.jobs[at] = Some(Entry {
            program,
            inbox,
            functions,
            context,
            has_limit: spec.rules.limit_ns.is_some(),
            delivered: Vec::new(),
            lost: Vec::new(),
            failures: HashMap::new(),
            has_edges: spec.graph.n_edges() > 0,
            deaths: Vec::new(),
            noted,
        });
        self.scheduler.set_needs(id, needs);
        self.on(Event::Submit(id, spec), now_ns, hands);
        id
    }

    /// Gives the scheduler an event about a job, unless the id means another job by now. False if that would be more
    /// tasks of a job that was closed.
    pub(crate) fn on_job(
        &mut self,
        inbox: &Arc<Inbox>,
        id: JobId,
        event: Event<'_>,
        now_ns: TimeNs,
        hands: &mut impl Hands<P>,
    ) -> bool {
        match event {
            Event::Extend(..) if inbox.is_closed() => return false,
            Event::Close(_) => inbox.close(),
            _ => {}
        }
        if self.is_job(id, inbox) {
            self.on(event, now_ns, hands);
        }
        true
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
        // One that was told to end did not die of what it ran.
        let is_killed = self.scheduler.is_killed(worker);
        self.note_lost(worker, running, is_killed, now_ns);
        let running = running.filter(|_| !is_killed);
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
        let told = match event {
            Event::Finished(worker, reports) if self.n_noted > 0 => Some((worker, reports)),
            _ => None,
        };
        if let Event::TakenBack(worker, tasks) = event {
            self.note_taken_back(worker, tasks);
        }
        self.scheduler.on(event, now_ns, &mut commands);
        if let Some((worker, reports)) = told {
            self.note(worker, reports, &commands, now_ns, hands);
        }
        let mut after = After::default();
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
            self.perform(command, &commands, hands, &mut delivering, &mut after);
        }
        self.post(delivering);
        self.commands = commands;
        for worker in after.looked_at {
            let sight = hands.look(worker);
            self.on(Event::Seen(worker, sight), now_ns, hands);
        }
        for job in after.failed {
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
        after: &mut After,
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
            Command::Look(worker) => after.looked_at.push(*worker),
            Command::Fail(task, loss) => {
                // Whoever hears of the failure finds what was computed before it.
                self.post(delivering.take());
                self.note_given_up(*task, *loss);
                if let Some(entry) = self.entry(task.job) {
                    entry.inbox.fail(self.failure(*task, *loss));
                    after.failed.push(task.job);
                }
            }
            Command::Lose(task, loss) => {
                self.note_given_up(*task, *loss);
                let failure = self.failure(*task, *loss);
                if let Some(Some(entry)) = self.jobs.get_mut(task.job.0 as usize) {
                    entry.failures.insert(task.index, failure);
                }
            }
            Command::DeliverLoss(task, culprit) => {
                if *delivering != Some(task.job) {
                    self.post(delivering.replace(task.job));
                }
                if let Some(Some(entry)) = self.jobs.get_mut(task.job.0 as usize) {
                    entry.deliver_loss(task.index, *culprit);
                }
            }
            Command::JobDone(id) => {
                self.post(delivering.take());
                if let Some(mut entry) = self.jobs.get_mut(id.0 as usize).and_then(Option::take) {
                    entry.inbox.done(Standing {
                        tally: self.scheduler.last_tally(*id),
                        n_deaths: entry.deaths.len(),
                    });
                    self.n_noted -= usize::from(!entry.noted.is_empty());
                    entry.noted.clear();
                    hands.job_done(entry);
                }
                after.failed.retain(|job| job != id);
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
            for noted in &entry.noted {
                noted.sent(worker.0, self.scratch.len() as u32);
            }
            hands.start(worker, group[0].job, entry, &self.scratch);
        }
    }

    fn failure(&self, task: TaskId, loss: Loss) -> Failure {
        match loss.cause {
            Cause::Failed => Failure::Task(task.index, loss.n_tries),
            Cause::WorkerDied => Failure::WorkerDied(task.index, self.death_of(task)),
            Cause::OutOfTime => Failure::OutOfTime(task.index, loss.n_tries),
        }
    }

    fn post(&mut self, job: Option<JobId>) {
        let entry = job.and_then(|id| self.jobs.get_mut(id.0 as usize)?.as_mut());
        if let Some(entry) = entry
            && (!entry.delivered.is_empty() || !entry.lost.is_empty())
        {
            (entry.inbox).deliver(&mut entry.delivered, &mut entry.lost);
        }
    }

    /// Notes the ends of tasks in the journals that are kept of their jobs, as the scheduler has just decided.
    fn note(
        &self,
        worker: WorkerId,
        reports: &[Report],
        commands: &Commands,
        now_ns: TimeNs,
        hands: &impl Hands<P>,
    ) {
        for (report, ended) in reports.iter().zip(journal::moments(reports, now_ns)) {
            let Some(entry) = self.entry(report.tasks.job) else {
                continue;
            };
            let goes_on = entry.inbox.outcome().is_none();
            let outcome = journal::outcome(report, commands, goes_on);
            let has_failed = |index: TaskIndex| hands.has_failed(&entry.program, index);
            for noted in &entry.noted {
                if !report.tasks.indices().any(has_failed) {
                    noted.ended(report.tasks, worker.0, ended, outcome);
                    continue;
                }
                for (task, ended) in journal::each(report, ended) {
                    let outcome = match has_failed(task.index) {
                        true => Outcome::Failed,
                        false => outcome,
                    };
                    noted.ended(task.into(), worker.0, ended, outcome);
                }
            }
        }
    }

    fn note_taken_back(&self, worker: WorkerId, tasks: &[TaskId]) {
        if self.n_noted > 0 {
            let entries = tasks.iter().filter_map(|task| self.entry(task.job));
            entries.for_each(|entry| entry.noted.iter().for_each(|it| it.taken_back(worker.0)));
        }
    }

    /// Notes what a worker was running that is gone; `is_killed` if it was told to end.
    fn note_lost(
        &self,
        worker: WorkerId,
        running: Option<TaskId>,
        is_killed: bool,
        now_ns: TimeNs,
    ) {
        let Some((task, entry)) = running.and_then(|task| Some((task, self.entry(task.job)?)))
        else {
            return;
        };
        for noted in &entry.noted {
            let outcome = match (is_killed, entry.inbox.outcome()) {
                (false, _) => Outcome::Died,
                (true, None) => Outcome::OutOfTime,
                (true, Some(_)) => Outcome::Stopped,
            };
            noted.lost(task, worker.0, now_ns, outcome);
        }
    }

    /// Notes that a task is lost for good, where nothing was noted of its end that says so.
    fn note_given_up(&self, task: TaskId, loss: Loss) {
        if loss.cause != Cause::Failed
            && let Some(entry) = self.entry(task.job)
        {
            entry.noted.iter().for_each(Noted::given_up);
        }
    }
}
