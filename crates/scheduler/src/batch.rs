//! Who gets how much: batches by measured cost, and taking tasks back for idle workers.
//!
//! A batch holds about [`BATCH_NS`] of expected work, never more than a worker's share of half of
//! what is ready, so batches shrink towards the end. A worker whose queue is expected to last less
//! than [`LOW_NS`] gets its next batch early, which hides the round trip. A function whose cost is
//! unknown is sent one task at a time.
//!
//! Estimates may be wrong by any factor, so what has not started can be taken back. An idle worker
//! for which nothing is ready has half of a busy one's taken. And a worker that reports nothing for
//! [`PATIENCE_NS`] has met a slow task: all that waits behind it is taken back and, as its ranks are
//! low, sent elsewhere next, so that slow tasks that stand together run side by side.

use crate::job::{Job, Phase};
use crate::run::Limits;
use crate::worker::Worker;
use crate::{Command, Commands, JobId, Scheduler, TaskId, TaskRun, TimeNs, WorkerId};
use std::collections::VecDeque;

/// How much expected work a batch holds.
pub(crate) const BATCH_NS: u64 = 2_000_000;
/// How long workers may keep reports while they run on, so that several travel together. The executors
/// hold to it.
pub const REPORTS_WAIT_NS_MAX: u64 = 2_000_000;
/// A worker with less expected work than this is given more. Less than reports may wait would let
/// workers run dry before they are known to be low.
pub(crate) const LOW_NS: u64 = REPORTS_WAIT_NS_MAX + 500_000;
/// Tasks expected to start within this time are not worth taking back.
const WAIT_WORTH_TAKING_NS: u64 = 100_000;
/// A worker silent for so long has met a task slower than expected.
pub(crate) const SILENCE_NS: u64 = 3_000_000;
/// A worker silent for so long has all that waits there taken back, although nobody is idle. Longer
/// than the turns that threads of one interpreter, or processes of a busy machine, wait for.
const PATIENCE_NS: u64 = 20_000_000;
/// What it costs to move one task from worker to worker: cheaper ones had better stay.
const MOVE_NS: u64 = 400;
/// What a task of unknown cost counts as: enough that nothing is queued behind it.
pub(crate) const UNKNOWN_NS: u64 = 10_000_000;
/// At most so many tasks in one batch, whatever they cost.
const N_TASKS_PER_BATCH_MAX: usize = 32_768;
/// How many busy workers an idle one looks at in search of one to relieve.
const N_LOOKED_AT_MAX: usize = 32;

/// Standing lists, so that no decision scans all workers or all jobs.
///
/// Entries may be out of date; flags in the records say whether one is listed, and every use
/// checks the record.
#[derive(Default, Debug)]
pub(crate) struct Lists {
    /// Jobs with ready tasks, in turn.
    jobs: VecDeque<JobId>,
    idle: Vec<WorkerId>,
    low: VecDeque<WorkerId>,
    /// Workers with more than one task.
    loaded: VecDeque<WorkerId>,
    /// Workers with more than one task, and when to look whether they were silent till then.
    /// Nearly in the order of time: an entry may be looked at [`PATIENCE_NS`] late.
    watched: VecDeque<(TimeNs, WorkerId)>,
    /// How many of the loaded workers were looked at, one after the other, and not relieved, and
    /// when the first of them is due: until then there is no need to look again.
    n_looked_at: usize,
    first_due_ns: TimeNs,
}

impl Lists {
    #[inline]
    pub(crate) fn list_job(&mut self, id: JobId, job: &mut Job) {
        if !job.is_listed && job.phase == Phase::Running && job.n_ready() > 0 {
            job.is_listed = true;
            self.jobs.push_back(id);
        }
    }

    /// Removes a job whose id may be used again.
    pub(crate) fn unlist_job(&mut self, id: JobId) {
        self.jobs.retain(|&listed| listed != id);
    }

    /// Something has changed for a loaded worker: all have to be looked at again.
    pub(crate) fn look_anew(&mut self) {
        self.n_looked_at = 0;
        self.first_due_ns = TimeNs::MAX;
    }

    /// Removes a worker whose number may be used again.
    pub(crate) fn unlist_worker(&mut self, id: WorkerId) {
        self.idle.retain(|&listed| listed != id);
        self.low.retain(|&listed| listed != id);
        self.loaded.retain(|&listed| listed != id);
        self.watched.retain(|&(_, listed)| listed != id);
        self.look_anew();
    }

    /// The last of the idle workers that is suitable.
    pub(crate) fn last_idle(&self, is_suitable: impl Fn(WorkerId) -> bool) -> Option<WorkerId> {
        self.idle.iter().rev().copied().find(|&id| is_suitable(id))
    }

    pub(crate) fn list_idle(&mut self, id: WorkerId, worker: &mut Worker) {
        if !worker.is_listed_idle {
            worker.is_listed_idle = true;
            self.idle.push(id);
        }
    }
}

impl Scheduler {
    /// Puts a worker whose queue has changed on the lists where it belongs.
    pub(crate) fn relist(&mut self, id: WorkerId) {
        let lists = &mut self.lists;
        let Some(worker) = self
            .workers
            .get_mut(id.0 as usize)
            .and_then(|slot| slot.as_mut())
        else {
            return;
        };
        if worker.is_killed {
            return;
        }
        if worker.queue.is_empty() {
            lists.list_idle(id, worker);
        } else if worker.is_low() && !worker.is_listed_low {
            worker.is_listed_low = true;
            lists.low.push_back(id);
        }
        if worker.queue.n_tasks() > 1 {
            if !worker.is_listed_loaded {
                worker.is_listed_loaded = true;
                lists.loaded.push_back(id);
            }
            if !worker.is_watched {
                worker.is_watched = true;
                lists.watched.push_back((worker.heard_ns + PATIENCE_NS, id));
            }
        }
    }

    /// Gives ready tasks to workers that can take them; relieves busy workers for idle ones.
    pub(crate) fn dispatch(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        if !self.suspects.is_empty() {
            self.start_suspects(now_ns, commands);
        }
        let is_held = self.is_held_for_memory();
        let is_any_needing = self.supplies.is_any() && !is_held;
        if is_any_needing {
            self.start_needing(now_ns, commands);
        }
        while self.n_ready > 0 && !is_held {
            let mut worker = self.pop_idle();
            // While a suspect waits, workers run dry until one is idle; or a task for which all else is there.
            let is_awaited = !self.suspects.is_empty() || self.supplies.is_awaiting_worker;
            if worker.is_none() && !is_awaited {
                worker = self.pop_low();
            }
            let Some(worker) = worker else { break };
            self.start_batch(worker, now_ns, commands);
        }
        // Workers that were left to tasks which need nothing, and that those did not take.
        if is_any_needing && self.n_ready == 0 && !self.lists.idle.is_empty() {
            self.start_needing(now_ns, commands);
        }
        if is_held {
            self.run_dry(now_ns, commands);
        } else if self.n_ready == 0 && !self.lists.loaded.is_empty() {
            self.relieve(now_ns, commands);
        }
        if !self.lists.watched.is_empty() {
            self.watch(now_ns, commands);
        }
    }

    fn pop_idle(&mut self) -> Option<WorkerId> {
        loop {
            // The last to fall idle is the first to be used: its caches are warm.
            let id = self.lists.idle.pop()?;
            if let Some(worker) = self.worker_mut(id)
                && worker.is_listed_idle
            {
                worker.is_listed_idle = false;
                if worker.is_idle() {
                    return Some(id);
                }
            }
        }
    }

    /// The idle worker that joined last, of those that a task can run on now: the fewest tasks have left something
    /// behind in it.
    fn pop_newest_idle_for(&mut self, task: TaskId) -> Option<WorkerId> {
        let job = self.jobs[task.job.0 as usize].as_ref()?;
        let needs = job.needs_of(task.index);
        let there = self.workers.iter().enumerate();
        let idle = there.filter_map(|(at, worker)| {
            let worker = worker.as_ref().filter(|worker| worker.is_idle())?;
            let id = WorkerId(at as u32);
            (self.supplies.has(id, needs)).then_some((worker.number, id))
        });
        let (_, id) = idle.max()?;
        self.unlist_idle(id);
        Some(id)
    }

    /// Takes a worker off the list of idle ones.
    pub(crate) fn unlist_idle(&mut self, id: WorkerId) {
        self.lists.idle.retain(|&listed| listed != id);
        if let Some(worker) = self.worker_mut(id) {
            worker.is_listed_idle = false;
        }
    }

    fn pop_low(&mut self) -> Option<WorkerId> {
        loop {
            let id = self.lists.low.pop_front()?;
            if let Some(worker) = self.worker_mut(id)
                && worker.is_listed_low
            {
                if worker.has_given_back {
                    worker.has_given_back = false;
                    self.lists.low.push_back(id);
                    continue;
                }
                worker.is_listed_low = false;
                if worker.is_low() {
                    return Some(id);
                }
            }
        }
    }

    /// Starts suspects at idle workers that have what they need. One that memory was short for waits until
    /// all are idle, and those behind it wait for its end.
    fn start_suspects(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        let mut at = 0;
        while self.alone.is_none()
            && let Some(&suspect) = self.suspects.get(at)
        {
            let is_heavy = self.is_to_be_alone(suspect);
            let is_all_idle = || self.workers.iter().flatten().all(|w| w.queue.is_empty());
            if is_heavy && !is_all_idle() {
                return;
            }
            match self.pop_newest_idle_for(suspect) {
                Some(worker) => {
                    self.suspects.remove(at);
                    self.start_suspect(worker, suspect, now_ns, commands);
                    if is_heavy {
                        self.alone = Some(worker);
                    }
                }
                None if is_heavy => return,
                None => at += 1,
            }
        }
    }

    /// Whether nothing may run beside a task, as memory was short for it. All that it needs besides will be there once
    /// nothing else runs.
    fn is_to_be_alone(&self, task: TaskId) -> bool {
        let job = self.jobs[task.job.0 as usize].as_ref();
        job.is_some_and(|job| job.is_heavy(task.index))
    }

    /// Whether nothing is started because a task that needs much memory runs alone, or is about to.
    #[inline]
    pub(crate) fn is_held_for_memory(&self) -> bool {
        let mut suspects = self.suspects.iter();
        self.alone.is_some() || suspects.any(|&task| self.is_to_be_alone(task))
    }

    fn start_suspect(
        &mut self,
        id: WorkerId,
        suspect: TaskId,
        now_ns: TimeNs,
        commands: &mut Commands,
    ) {
        let (Some(job), Some(worker)) = (
            self.jobs[suspect.job.0 as usize].as_mut(),
            self.workers[id.0 as usize].as_mut(),
        ) else {
            return;
        };
        job.take_aside(suspect.index);
        job.n_in_flight += 1;
        worker.is_exclusive = true;
        self.send_alone(id, suspect, now_ns, commands);
        self.hold(id, suspect);
    }

    /// Fills a batch from the jobs that have ready tasks, each in turn at the head of a batch. A job
    /// whose caller insists on a batch size gets a batch of its own.
    fn start_batch(&mut self, id: WorkerId, now_ns: TimeNs, commands: &mut Commands) {
        let mark = commands.mark();
        let n_share = self.n_ready.div_ceil(2 * self.n_workers.max(1));
        let n_most = n_share.min(N_TASKS_PER_BATCH_MAX);
        let mut batch_ns = 0;
        let mut n_taken = 0;
        let worker = self.workers[id.0 as usize]
            .as_mut()
            .expect("only listed workers are given tasks");
        while n_taken < n_most && batch_ns < BATCH_NS {
            let Some(&job_id) = self.lists.jobs.front() else {
                break;
            };
            let Some(job) = self.jobs[job_id.0 as usize].as_mut() else {
                self.lists.jobs.pop_front();
                continue;
            };
            let fixed = job.batch_size.map(|size| size.get() as usize);
            if fixed.is_some() && n_taken > 0 {
                break;
            }
            let n_taken_before = n_taken;
            let n_most = fixed.unwrap_or(n_most);
            let costs = &self.costs;
            while n_taken < n_most && (batch_ns < BATCH_NS || fixed.is_some()) {
                let limits = Limits {
                    n_tasks: n_most - n_taken,
                    room_ns: fixed.map_or(BATCH_NS.saturating_sub(batch_ns), |_| u64::MAX),
                    cost_ns: |kind| match fixed {
                        // As much as keeps a second batch from being sent ahead.
                        Some(size) => LOW_NS / size as u64 + 1,
                        None => costs.get_ns(kind).unwrap_or(UNKNOWN_NS),
                    },
                };
                let Some(taken) = job.take(&limits) else {
                    break;
                };
                let run = TaskRun {
                    job: job_id,
                    first: taken.first,
                    n_tasks: taken.n_tasks,
                };
                send(worker, run, taken.each_ns, now_ns);
                commands.push_run(mark, run);
                job.n_in_flight += run.n_tasks as usize;
                n_taken += run.n_tasks as usize;
                batch_ns += taken.each_ns * u64::from(run.n_tasks);
            }
            self.n_ready -= n_taken - n_taken_before;
            if job.n_ready() == 0 {
                job.is_listed = false;
                self.lists.jobs.pop_front();
            }
            if fixed.is_some() {
                break;
            }
        }
        self.rotate_jobs();
        let range = commands.range_from(mark);
        self.supplies.was_last_needing = false;
        if !range.is_empty() {
            commands.push(Command::Start(id, range));
        }
        self.lists.look_anew();
        self.relist(id);
    }

    fn rotate_jobs(&mut self) {
        let Some(id) = self.lists.jobs.pop_front() else {
            return;
        };
        if let Some(job) = self.jobs[id.0 as usize].as_mut() {
            job.is_listed = false;
            self.lists.list_job(id, job);
        }
    }

    /// For each idle worker, asks one busy worker for half of what it has not started.
    fn relieve(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        // Each request under way will feed one idle worker.
        let n_coming = self.n_recalls as usize;
        let mut n_idle = self.lists.idle.len().saturating_sub(n_coming);
        let mut n_looked_at = 0;
        if self.lists.first_due_ns <= now_ns {
            self.lists.look_anew();
        }
        while n_idle > 0 && self.lists.n_looked_at < self.lists.loaded.len() {
            if n_looked_at == N_LOOKED_AT_MAX {
                self.look_again_at(now_ns + 1);
                return;
            }
            n_looked_at += 1;
            let Some(id) = self.lists.loaded.pop_front() else {
                return;
            };
            let Some(worker) = self.worker_mut(id) else {
                continue;
            };
            if worker.queue.n_tasks() < 2 || worker.is_killed {
                worker.is_listed_loaded = false;
                continue;
            }
            // What was sent that long ago should have run by now, whatever was expected of it.
            let moving_ns = MOVE_NS * worker.queue.n_tasks() as u64;
            let is_worth_taking = worker.queue.expected_ns() >= WAIT_WORTH_TAKING_NS + moving_ns;
            let due_ns = match is_worth_taking {
                true => worker.rests_until_ns,
                false => worker.rests_until_ns.max(worker.sent_ns + SILENCE_NS),
            };
            if worker.n_recalls > 0 {
                // Its answer will bring it back here.
            } else if due_ns <= now_ns {
                let n_taken = (worker.queue.n_tasks() - 1).div_ceil(2);
                take_back(id, worker, n_taken, commands);
                self.n_recalls += 1;
                n_idle -= 1;
            } else {
                self.lists.first_due_ns = self.lists.first_due_ns.min(due_ns);
            }
            self.lists.n_looked_at += 1;
            self.lists.loaded.push_back(id);
        }
        if n_idle > 0 && self.lists.first_due_ns < TimeNs::MAX {
            self.look_again_at(self.lists.first_due_ns);
        }
    }

    /// Takes back all that waits at any worker: a task is to run alone.
    fn run_dry(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        let mut again_ns = TimeNs::MAX;
        for (at, worker) in self.workers.iter_mut().enumerate() {
            let Some(worker) = worker else { continue };
            if worker.queue.n_tasks() < 2 || worker.is_killed || worker.n_recalls > 0 {
                continue;
            }
            // It had begun all that it has, as of its last answer.
            if worker.rests_until_ns > now_ns {
                again_ns = again_ns.min(worker.rests_until_ns);
                continue;
            }
            let n_taken = worker.queue.n_tasks() - 1;
            take_back(WorkerId(at as u32), worker, n_taken, commands);
            self.n_recalls += 1;
        }
        if again_ns < TimeNs::MAX {
            self.look_again_at(again_ns);
        }
    }

    /// Takes back all that waits at workers that were silent for too long.
    fn watch(&mut self, now_ns: TimeNs, commands: &mut Commands) {
        while let Some(&(at_ns, id)) = self.lists.watched.front() {
            let is_alone = self.n_workers == 1;
            let Some(worker) = self
                .workers
                .get_mut(id.0 as usize)
                .and_then(|slot| slot.as_mut())
            else {
                self.lists.watched.pop_front();
                continue;
            };
            if worker.queue.n_tasks() < 2 || worker.is_killed || is_alone {
                worker.is_watched = false;
                self.lists.watched.pop_front();
                continue;
            }
            if at_ns > now_ns {
                self.look_again_at(at_ns);
                return;
            }
            self.lists.watched.pop_front();
            let silent_at_ns = worker.heard_ns + PATIENCE_NS;
            if silent_at_ns > now_ns {
                self.lists.watched.push_back((silent_at_ns, id));
                continue;
            }
            worker.is_watched = false;
            let waiting = worker.queue.second();
            let job = waiting.and_then(|task| self.jobs[task.job.0 as usize].as_ref());
            // A batch of a size that the caller chose is left alone while nobody is idle.
            let is_fixed = job.is_some_and(|job| job.batch_size.is_some());
            if worker.n_recalls == 0 && !worker.is_overdue && !is_fixed {
                worker.is_overdue = true;
                take_back(id, worker, worker.queue.n_tasks() - 1, commands);
                self.n_recalls += 1;
            }
        }
    }
}

/// Adds tasks to a worker's queue.
#[inline]
pub(crate) fn send(worker: &mut Worker, run: TaskRun, each_ns: u64, now_ns: TimeNs) {
    if worker.queue.is_empty() {
        worker.heard_ns = now_ns;
    }
    worker.sent_ns = now_ns;
    worker.queue.push(run, each_ns);
}

/// Asks a worker for the last so many of its tasks.
fn take_back(id: WorkerId, worker: &mut Worker, n_taken: usize, commands: &mut Commands) {
    let mark = commands.mark();
    let mut n_left = n_taken;
    for sent in worker.queue.runs().rev() {
        let mut run = sent.run;
        run.split_first((run.n_tasks as usize).saturating_sub(n_left) as u32);
        if run.n_tasks == 0 {
            break;
        }
        n_left -= run.n_tasks as usize;
        commands.push_run(mark, run);
    }
    worker.n_recalls += 1;
    worker.is_relieved = true;
    commands.push(Command::TakeBack(id, commands.range_from(mark)));
}
