//! The submitter's end of a job.

use crate::owner::Owner;
use crate::program::Death;
use crate::relay::{Said, SaidList};
use crate::watch::{Standing, Watch};
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{Event, JobId, TimeNs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a caller stays awake for the end of a job.
const SOON: Duration = Duration::from_micros(200);

/// Locks, also after a panic elsewhere: every holder leaves the state consistent at each step.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a job ended early.
#[derive(Clone, PartialEq, Debug)]
pub enum Failure {
    /// This task failed; its program knows how. It was tried so many times.
    Task(TaskIndex, u32),
    /// This task ran for longer than it may, and its worker was ended. It was tried so many times.
    OutOfTime(TaskIndex, u32),
    /// Workers died under this task.
    WorkerDied(TaskIndex, Box<Death>),
    /// There is room for this task's result neither in memory nor on disk.
    NoRoom(TaskIndex, Box<Shortage>),
    /// No worker could be started.
    NoWorkers(String),
    /// The job was cancelled, or its pool was shut down.
    Cancelled,
}

impl Failure {
    /// The task that it is about, if it is about one.
    pub fn culprit(&self) -> Option<TaskIndex> {
        match self {
            Failure::Task(task, _)
            | Failure::OutOfTime(task, _)
            | Failure::WorkerDied(task, _)
            | Failure::NoRoom(task, _) => Some(*task),
            Failure::NoWorkers(_) | Failure::Cancelled => None,
        }
    }
}

/// Why there was no room for a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortage {
    /// How large the result is.
    pub n_bytes: u64,
    /// How much memory all results take that wait for their readers.
    pub n_bytes_waiting: u64,
    /// How much they may take.
    pub n_bytes_max: u64,
    /// Where it was to be written.
    pub folder: PathBuf,
    /// Why it could not.
    pub reason: String,
}

/// What has happened to a job since the last look.
#[derive(Default, Debug)]
pub struct News {
    /// Wanted tasks that have finished.
    pub delivered: Vec<TaskIndex>,
    /// Wanted tasks that have no result, each with the failure of the task that is to blame: itself, or
    /// one that it depends on. Only of jobs that tolerate failures.
    pub lost: Vec<(TaskIndex, Failure)>,
    /// Why the job ended early, if it did.
    pub failure: Option<Failure>,
    /// Whether all of it has finished.
    pub is_done: bool,
    /// What its tasks have said, up to now or later: all that was said before a result was delivered is
    /// here or was in earlier news.
    pub said: Vec<Said>,
}

impl News {
    fn is_any(&self) -> bool {
        !self.delivered.is_empty() || !self.lost.is_empty() || self.is_end()
    }

    fn is_end(&self) -> bool {
        self.failure.is_some() || self.is_done
    }
}

type Callback = Box<dyn FnOnce() + Send>;
type NewsCallback = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Pending {
    news: News,
    said: SaidList,
    on_end: Vec<Callback>,
    on_news: Option<NewsCallback>,
    /// How far it had come when it was done.
    last: Option<Standing>,
}

/// Where an executor puts the news of a job, and its submitter waits for them.
#[derive(Default)]
pub(crate) struct Inbox {
    pending: Mutex<Pending>,
    changed: Condvar,
    /// Whether the job was closed, and takes no more tasks. Changed by who has the pool's lock, as the scheduler must
    /// not be told of more tasks afterwards.
    is_closed: AtomicBool,
}

impl Inbox {
    pub(crate) fn deliver(&self, tasks: &mut Vec<TaskIndex>, lost: &mut Vec<(TaskIndex, Failure)>) {
        let mut pending = lock(&self.pending);
        pending.news.delivered.append(tasks);
        pending.news.lost.append(lost);
        let on_news = pending.on_news.clone();
        drop(pending);
        self.changed.notify_all();
        if let Some(on_news) = on_news {
            on_news();
        }
    }

    /// Whether the job takes no more tasks.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// To be called under the pool's lock.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub(crate) fn say(&self, said: Said) {
        lock(&self.pending).said.push(said);
        self.changed.notify_all();
    }

    pub(crate) fn fail(&self, failure: Failure) {
        let mut pending = lock(&self.pending);
        if pending.news.failure.is_none() && !pending.news.is_done {
            pending.news.failure = Some(failure);
        }
        self.end(pending);
    }

    pub(crate) fn done(&self, last: Standing) {
        let mut pending = lock(&self.pending);
        pending.last = Some(last);
        pending.news.is_done = true;
        self.end(pending);
    }

    /// How far the job had come when it was done, if it is.
    pub(crate) fn last(&self) -> Option<Standing> {
        lock(&self.pending).last
    }

    /// Whether it has ended, and if so, whether it has failed.
    pub(crate) fn outcome(&self) -> Option<bool> {
        let pending = lock(&self.pending);
        let has_failed = pending.news.failure.is_some();
        (has_failed || pending.news.is_done).then_some(has_failed)
    }

    fn end(&self, mut pending: MutexGuard<'_, Pending>) {
        let on_end = std::mem::take(&mut pending.on_end);
        let on_news = pending.on_news.take();
        drop(pending);
        self.changed.notify_all();
        if let Some(on_news) = on_news {
            on_news();
        }
        for on_end in on_end {
            on_end();
        }
    }
}

/// What a pool does for the holder of a job. The inbox tells whether the id still means that job.
pub(crate) trait Control: Send + Sync {
    /// Tells the scheduler something about the job; false if that is more tasks of one that was closed.
    fn on_job(&self, id: JobId, inbox: &Arc<Inbox>, event: Event<'_>) -> bool;
    fn is_running(&self, id: JobId, inbox: &Arc<Inbox>, task: TaskIndex) -> bool;
    fn standing(&self, id: JobId, inbox: &Arc<Inbox>) -> Option<Standing>;
}

/// A job that was submitted. Dropping it cancels what is left of it, unless it was [detached](Job::detach).
/// In a process forked from the one that submitted it, it looks cancelled.
pub struct Job {
    id: JobId,
    inbox: Arc<Inbox>,
    control: Arc<dyn Control>,
    owner: Owner,
    is_detached: AtomicBool,
}

impl Job {
    pub(crate) fn new(id: JobId, inbox: Arc<Inbox>, control: Arc<dyn Control>) -> Job {
        Job {
            id,
            inbox,
            control,
            owner: Owner::current(),
            is_detached: AtomicBool::new(false),
        }
    }

    /// Something that tells how far the job has come, from any thread and also after the job is gone.
    pub fn watch(&self) -> Watch {
        let (inbox, control) = (Arc::clone(&self.inbox), Arc::clone(&self.control));
        Watch::new(self.id, inbox, control, self.owner)
    }

    /// Adds tasks to a job that was submitted open. False, and nothing is added, if it was [closed](Job::close)
    /// meanwhile.
    pub fn extend(&self, n_more: u32) -> bool {
        if self.owner.is_elsewhere() {
            return true;
        }
        let event = Event::Extend(self.id, n_more);
        self.control.on_job(self.id, &self.inbox, event)
    }

    /// Says that an open job is complete. Any thread may say so at any time.
    pub fn close(&self) {
        if !self.owner.is_elsewhere() {
            let event = Event::Close(self.id);
            self.control.on_job(self.id, &self.inbox, event);
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Takes the news, waiting for some until the time is up. What was said counts as news.
    pub fn wait(&self, timeout: Duration) -> News {
        self.wait_for(timeout, News::is_any)
    }

    /// Takes the news, waiting for the end of the job until the time is up. Saves waking the caller
    /// for every result.
    pub fn wait_for_end(&self, timeout: Duration) -> News {
        self.wait_for(timeout, News::is_end)
    }

    fn wait_for(&self, timeout: Duration, is_enough: impl Fn(&News) -> bool) -> News {
        if self.owner.is_elsewhere() {
            return News {
                failure: Some(Failure::Cancelled),
                ..News::default()
            };
        }
        let deadline = Instant::now().checked_add(timeout);
        let mut pending = lock(&self.inbox.pending);
        while !is_enough(&pending.news) && pending.said.is_empty() {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            if left.is_zero() {
                break;
            }
            pending = match self.inbox.changed.wait_timeout(pending, left) {
                Ok((pending, _)) => pending,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        let said = pending.said.take();
        let news = &mut pending.news;
        News {
            delivered: std::mem::take(&mut news.delivered),
            lost: std::mem::take(&mut news.lost),
            failure: news.failure.clone(),
            is_done: news.is_done,
            said,
        }
    }

    /// Takes what has been said, without waiting.
    pub fn take_said(&self) -> Vec<Said> {
        if self.owner.is_elsewhere() {
            return Vec::new();
        }
        lock(&self.inbox.pending).said.take()
    }

    /// Whether the job has ended, and what has been said up to now, without waiting.
    pub fn look(&self) -> (bool, Vec<Said>) {
        if self.owner.is_elsewhere() {
            return (true, Vec::new());
        }
        let mut pending = lock(&self.inbox.pending);
        (pending.news.is_end(), pending.said.take())
    }

    /// Whether the job ends within a moment, for which the caller stays awake but lets others go first.
    ///
    /// A short call ends sooner than a sleeping processor wakes up: that would be half of its time.
    pub fn ends_soon(&self) -> bool {
        let deadline = Instant::now() + SOON;
        while !self.has_ended() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Waits for the end of the job, or until somebody says something or the time is up; takes no news.
    pub fn wait_until_ended(&self, timeout: Duration) {
        if self.owner.is_elsewhere() {
            return;
        }
        let pending = lock(&self.inbox.pending);
        let is_going_on = |pending: &mut Pending| !pending.news.is_end() && pending.said.is_empty();
        drop(
            self.inbox
                .changed
                .wait_timeout_while(pending, timeout, is_going_on),
        );
    }

    /// Waits for news until the time is up, and takes none.
    pub fn wait_until_news(&self, timeout: Duration) {
        if self.owner.is_elsewhere() {
            return;
        }
        let pending = lock(&self.inbox.pending);
        let is_quiet = |pending: &mut Pending| !pending.news.is_any();
        drop(
            self.inbox
                .changed
                .wait_timeout_while(pending, timeout, is_quiet),
        );
    }

    /// Whether the job has finished or failed, without waiting or taking anything.
    pub fn has_ended(&self) -> bool {
        if self.owner.is_elsewhere() {
            return true;
        }
        let pending = lock(&self.inbox.pending);
        pending.news.is_done || pending.news.failure.is_some()
    }

    /// Whether the job has ended, and if so, whether it has failed or was cancelled.
    pub fn outcome(&self) -> Option<bool> {
        match self.owner.is_elsewhere() {
            true => Some(true),
            false => self.inbox.outcome(),
        }
    }

    /// Whether a worker may have started this task.
    pub fn is_running(&self, task: TaskIndex) -> bool {
        !self.owner.is_elsewhere() && self.control.is_running(self.id, &self.inbox, task)
    }

    /// Whether the job was cancelled before it ended otherwise.
    pub fn is_cancelled(&self) -> bool {
        self.owner.is_elsewhere()
            || lock(&self.inbox.pending).news.failure == Some(Failure::Cancelled)
    }

    /// Has the job run to its end though nobody may be left to hear of it.
    pub fn detach(&self) {
        self.is_detached.store(true, Ordering::Relaxed);
    }

    /// Ends the job. Workers that still run one of its tasks after `grace` are ended.
    pub fn cancel(&self, grace: Duration) {
        if self.owner.is_elsewhere() {
            return;
        }
        let grace_ns = u64::try_from(grace.as_nanos()).unwrap_or(TimeNs::MAX / 2);
        self.inbox.fail(Failure::Cancelled);
        let job = self.id;
        let event = Event::Cancel { job, grace_ns };
        self.control.on_job(job, &self.inbox, event);
    }

    /// Calls back each time there are news, from whichever thread brings them; at once if there are some
    /// already. The last call comes with the end of the job. Replaces an earlier callback, and is as quick as
    /// that of [`on_end`](Job::on_end).
    pub fn on_news(&self, callback: impl Fn() + Send + Sync + 'static) {
        let callback: NewsCallback = Arc::new(callback);
        let mut pending = lock(&self.inbox.pending);
        let is_any = self.owner.is_elsewhere() || pending.news.is_any();
        if !pending.news.is_end() {
            pending.on_news = Some(Arc::clone(&callback));
        }
        drop(pending);
        if is_any {
            callback();
        }
    }

    /// Calls back once the job has finished or failed, from whichever thread finds out; at once if
    /// it has ended already. The callback must be quick and must not wait.
    pub fn on_end(&self, callback: impl FnOnce() + Send + 'static) {
        if self.owner.is_elsewhere() {
            callback();
            return;
        }
        let mut pending = lock(&self.inbox.pending);
        if pending.news.is_done || pending.news.failure.is_some() {
            drop(pending);
            callback();
        } else {
            pending.on_end.push(Box::new(callback));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_detached.load(Ordering::Relaxed) && !self.has_ended() {
            self.cancel(crate::CANCEL_GRACE);
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("id", &self.id).finish()
    }
}
