//! Runs a job in the calling thread, one task after the other.

use crate::job::{Failure, lock};
use crate::journal::{self, Alone};
use crate::program::{Feed, Program};
use crate::watch::Board;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{
    Command, Commands, Ending, Event, JobId, JobSpec, Report, Rules, Scheduler, TaskId, TimeNs,
    WorkerId,
};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WORKER: WorkerId = WorkerId(0);

/// What every task is said to have cost: so much that the scheduler sends one at a time. So tasks run
/// strictly by rank, and whoever runs alone gains nothing by batches.
const DURATION_NS: u64 = 1_000_000_000;

/// Runs all tasks of a job in scheduling order and returns when they are done: the wanted tasks without
/// a result, each with the failure that is to blame, where the job tolerates that.
///
/// A limit for how long tasks may run cannot be kept here, and is not.
///
/// # Errors
///
/// [`Failure::Task`] with the task that failed, by its own word or by a panic; nothing is run after it.
pub fn run(spec: JobSpec, program: &dyn Program) -> Result<Vec<(TaskIndex, Failure)>, Failure> {
    run_watched(spec, program, None, Resting::Aside)
}

/// What happens while a task rests that is to be tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resting {
    /// Others run.
    Aside,
    /// Nothing: the order is the one in which tasks run that never fail.
    InOrder,
}

/// The same, telling on a board how far it has come.
///
/// # Errors
///
/// See [`run`].
pub fn run_watched(
    mut spec: JobSpec,
    program: &dyn Program,
    board: Option<&Board>,
    resting: Resting,
) -> Result<Vec<(TaskIndex, Failure)>, Failure> {
    let rules = spec.rules;
    let rests_in_order = (resting == Resting::InOrder).then(|| {
        // The scheduler has the task run again at once.
        spec.rules.rest_ns = 0;
        RestsInOrder {
            rules,
            n_failures: HashMap::new(),
            due: None,
        }
    });
    spec.batch_size = None;
    spec.rules.limit_ns = None;
    let mut feed = InlineFeed {
        scheduler: Scheduler::new(),
        commands: Commands::default(),
        queue: VecDeque::new(),
        current: None,
        released: Vec::new(),
        failure: None,
        failures: HashMap::new(),
        lost: Vec::new(),
        started: (spec.rules.n_retries > 0).then(Instant::now),
        rests_in_order,
        program,
        board,
        alone: Alone::begin(),
    };
    let job = feed.scheduler.new_job_id();
    feed.on(Event::WorkerJoined(WORKER));
    feed.on(Event::Submit(job, spec));
    feed.show(job);
    while feed.rest_in_order(job) && (!feed.queue.is_empty() || feed.rest(job)) {
        if catch_unwind(AssertUnwindSafe(|| program.run(&mut feed))).is_err() {
            // Outside of a task it is the failure of the next, or it would be met again and again.
            if feed.current.is_none() {
                feed.current = feed.queue.pop_front();
            }
            feed.ended(Ending::Failed);
        }
    }
    match feed.failure {
        None => Ok(feed.lost),
        Some(failure) => Err(failure),
    }
}

/// The order in which [`run`] runs the tasks of a job.
pub fn order(spec: JobSpec) -> Vec<TaskIndex> {
    struct Order(Mutex<Vec<TaskIndex>>);
    impl Program for Order {
        fn run(&self, feed: &mut dyn Feed) {
            while let Some(task) = feed.next() {
                lock(&self.0).push(task);
                feed.ended(Ending::Returned);
            }
        }

        fn release(&self, _tasks: &[TaskIndex]) {}
    }
    let order = Order(Mutex::default());
    // This is no run of the job that somebody may keep a journal of.
    let noted = journal::enter(Vec::new());
    // Nothing fails here.
    let _ = run(spec, &order);
    journal::enter(noted);
    order.0.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs destructors of results. Should one panic, which its hook has told by then, the task or the
/// thread that happens to run it has nothing to do with it.
pub(crate) fn survive(drop_results: impl FnOnce()) {
    let _told = catch_unwind(AssertUnwindSafe(drop_results));
}

/// Tasks rest before anything else runs.
struct RestsInOrder {
    rules: Rules,
    n_failures: HashMap<TaskIndex, u32>,
    /// The task that runs next rests before, so long.
    due: Option<Duration>,
}

struct InlineFeed<'a> {
    scheduler: Scheduler,
    commands: Commands,
    queue: VecDeque<TaskId>,
    current: Option<TaskId>,
    released: Vec<TaskIndex>,
    failure: Option<Failure>,
    /// How tasks failed that the job goes on without.
    failures: HashMap<TaskIndex, Failure>,
    lost: Vec<(TaskIndex, Failure)>,
    /// When it began, where the time matters.
    started: Option<Instant>,
    rests_in_order: Option<RestsInOrder>,
    program: &'a dyn Program,
    /// Where it is told how far the job has come.
    board: Option<&'a Board>,
    /// Where its tasks are noted, if anybody keeps a journal of it.
    alone: Option<Alone>,
}

impl InlineFeed<'_> {
    fn now_ns(&self) -> TimeNs {
        (self.started).map_or(0, |started| started.elapsed().as_nanos() as TimeNs)
    }

    /// Waits until the next task can be tried again, where nothing runs before it; whether the job goes on.
    fn rest_in_order(&mut self, job: JobId) -> bool {
        let due = self.rests_in_order.as_mut();
        let due = due.and_then(|rests| rests.due.take());
        if let Some(left) = due
            && self.failure.is_none()
        {
            self.rest_for(job, left);
        }
        self.failure.is_none()
    }

    /// Rests, unless the caller has had enough.
    fn rest_for(&mut self, job: JobId, left: Duration) {
        if !left.is_zero() && !self.program.rest(left) {
            self.failure = Some(Failure::Cancelled);
            self.on(Event::Cancel { job, grace_ns: 0 });
        }
    }

    /// A task has failed: if it is the next to run, it rests before.
    fn note_failure(&mut self, task: TaskId) {
        if let Some(rests) = &mut self.rests_in_order
            && self.queue.front() == Some(&task)
        {
            let n_failures = rests.n_failures.entry(task.index).or_default();
            *n_failures += 1;
            let rest_ns = rests.rules.rest_after_ns(*n_failures);
            rests.due = Some(Duration::from_nanos(rest_ns));
        }
    }

    /// Waits until a task can be tried again, if there is one; whether there is something to run.
    fn rest(&mut self, job: JobId) -> bool {
        while self.queue.is_empty() && self.failure.is_none() {
            let Some(deadline_ns) = self.scheduler.deadline_ns() else {
                return false;
            };
            let left_ns = deadline_ns.saturating_sub(self.now_ns());
            self.rest_for(job, Duration::from_nanos(left_ns));
            if self.failure.is_some() {
                return false;
            }
            self.on(Event::Tick);
        }
        self.failure.is_none()
    }

    /// Tells how far the job has come, where somebody wants to know.
    fn show(&self, job: JobId) {
        if let Some(board) = self.board {
            let tally = self.scheduler.tally(job);
            board.set(tally.unwrap_or_else(|| self.scheduler.last_tally(job)));
        }
    }

    fn on(&mut self, event: Event<'_>) {
        self.commands.clear();
        let now_ns = self.now_ns();
        self.scheduler.on(event, now_ns, &mut self.commands);
        for command in self.commands.iter() {
            match command {
                Command::Start(_, range) => self.queue.extend(self.commands.tasks(range)),
                Command::Release(run) => self.released.extend(run.indices()),
                Command::Fail(task, loss) => {
                    self.failure = Some(Failure::Task(task.index, loss.n_tries));
                }
                Command::Lose(task, loss) => {
                    let failure = Failure::Task(task.index, loss.n_tries);
                    self.failures.insert(task.index, failure);
                }
                Command::DeliverLoss(task, culprit) => {
                    let failure = self.failures.get(culprit).cloned();
                    self.lost
                        .extend(failure.map(|failure| (task.index, failure)));
                }
                // The caller reads results when all is done; the one worker is this thread.
                Command::Deliver(_)
                | Command::JobDone(_)
                | Command::TakeBack(..)
                | Command::Kill(_)
                | Command::Look(_) => {}
            }
        }
        if !self.released.is_empty() {
            survive(|| self.program.release(&self.released));
            self.released.clear();
        }
    }
}

impl Feed for InlineFeed<'_> {
    fn next(&mut self) -> Option<TaskIndex> {
        let is_resting = self.rests_in_order.as_ref();
        let is_resting = is_resting.is_some_and(|rests| rests.due.is_some());
        if self.failure.is_some() || is_resting {
            return None;
        }
        self.current = self.queue.pop_front();
        if let Some(alone) = &mut self.alone {
            alone.task_begins();
        }
        self.current.map(|task| task.index)
    }

    fn ended(&mut self, ending: Ending) {
        if let Some(task) = self.current.take() {
            let ended = self.alone.as_ref().map(Alone::task_ends);
            let report = Report::one(task, DURATION_NS, ending);
            self.on(Event::Finished(WORKER, &[report]));
            if let (Some(alone), Some(ended)) = (&self.alone, ended) {
                alone.note(task, ended, journal::outcome(&report, &self.commands, true));
            }
            if ending == Ending::Retriable {
                self.note_failure(task);
            }
            self.show(task.job);
        }
    }
}
