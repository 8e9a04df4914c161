//! Runs a job in the calling thread, one task after the other.

use crate::job::{Failure, lock};
use crate::program::{Feed, Program};
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{Command, Commands, Event, JobSpec, Report, Scheduler, TaskId, WorkerId};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

const WORKER: WorkerId = WorkerId(0);

/// What every task is said to have cost: so much that the scheduler sends one at a time. So tasks run
/// strictly by rank, and whoever runs alone gains nothing by batches.
const DURATION_NS: u64 = 1_000_000_000;

/// Runs all tasks of a job in scheduling order and returns when they are done.
///
/// # Errors
///
/// [`Failure::Task`] with the task that failed, by its own word or by a panic; nothing is run after it.
pub fn run(mut spec: JobSpec, program: &dyn Program) -> Result<(), Failure> {
    spec.batch_size = None;
    let mut feed = InlineFeed {
        scheduler: Scheduler::new(),
        commands: Commands::default(),
        queue: VecDeque::new(),
        current: None,
        released: Vec::new(),
        failure: None,
        program,
    };
    let job = feed.scheduler.new_job_id();
    feed.on(Event::WorkerJoined(WORKER));
    feed.on(Event::Submit(job, spec));
    while feed.failure.is_none() && !feed.queue.is_empty() {
        if catch_unwind(AssertUnwindSafe(|| program.run(&mut feed))).is_err() {
            // Outside of a task it is the failure of the next, or it would be met again and again.
            if feed.current.is_none() {
                feed.current = feed.queue.pop_front();
            }
            feed.ended(false);
        }
    }
    match feed.failure {
        None => Ok(()),
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
                feed.ended(true);
            }
        }

        fn release(&self, _tasks: &[TaskIndex]) {}
    }
    let order = Order(Mutex::default());
    // Nothing fails here.
    let _ = run(spec, &order);
    order.0.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs destructors of results. Should one panic, which its hook has told by then, the task or the
/// thread that happens to run it has nothing to do with it.
pub(crate) fn survive(drop_results: impl FnOnce()) {
    let _told = catch_unwind(AssertUnwindSafe(drop_results));
}

struct InlineFeed<'a> {
    scheduler: Scheduler,
    commands: Commands,
    queue: VecDeque<TaskId>,
    current: Option<TaskId>,
    released: Vec<TaskIndex>,
    failure: Option<Failure>,
    program: &'a dyn Program,
}

impl InlineFeed<'_> {
    fn on(&mut self, event: Event<'_>) {
        self.commands.clear();
        self.scheduler.on(event, 0, &mut self.commands);
        for command in self.commands.iter() {
            match command {
                Command::Start(_, range) => self.queue.extend(self.commands.tasks(range)),
                Command::Release(run) => self.released.extend(run.indices()),
                Command::Fail(task, _) => self.failure = Some(Failure::Task(task.index)),
                // The caller reads results when all is done; the one worker is this thread.
                Command::Deliver(_)
                | Command::JobDone(_)
                | Command::TakeBack(..)
                | Command::Kill(_) => {}
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
        if self.failure.is_some() {
            return None;
        }
        self.current = self.queue.pop_front();
        self.current.map(|task| task.index)
    }

    fn ended(&mut self, is_ok: bool) {
        if let Some(task) = self.current.take() {
            let report = Report::one(task, DURATION_NS, is_ok);
            self.on(Event::Finished(WORKER, &[report]));
        }
    }
}
