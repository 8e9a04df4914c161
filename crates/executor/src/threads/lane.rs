//! A thread of the pool and its lane: the tasks it was given, and what it has to report.

use super::{LaneHands, Shared};
use crate::core::Core;
use crate::inline::survive;
use crate::job::lock;
use crate::program::{Feed, Program};
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{Ending, Event, JobId, Report, TaskId, TimeNs, WorkerId};
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How old a report may grow while its thread has more tasks to run.
pub(super) const REPORT_AGE_MAX: Duration = Duration::from_millis(1);

/// What a thread shares with the pool.
pub(super) struct Lane {
    pub(super) id: WorkerId,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    groups: VecDeque<Group>,
    /// Ends of tasks that the scheduler has not heard of. Taken only under the lock of the pool, so
    /// that what the scheduler holds for first in a lane is never behind what it was told.
    reports: Vec<Report>,
    /// Since when there are such reports.
    unreported_since: Option<Instant>,
    is_stopped: bool,
}

/// Tasks of one job, next to each other in a lane.
pub(super) struct Group {
    pub(super) job: JobId,
    pub(super) program: Arc<dyn Program>,
    pub(super) tasks: VecDeque<TaskIndex>,
}

impl Lane {
    pub(super) fn new(id: WorkerId) -> Lane {
        Lane {
            id,
            queue: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    pub(super) fn give(&self, group: Group) {
        let mut queue = lock(&self.queue);
        let was_empty = queue.groups.is_empty();
        queue.groups.push_back(group);
        drop(queue);
        // A thread waits only while it has nothing.
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Takes back those of these tasks that have not started, last first, which is the order in which
    /// the scheduler is quick to strike them out.
    pub(super) fn take_back(&self, tasks: &[TaskId]) -> Vec<TaskId> {
        let asked: HashSet<TaskId> = tasks.iter().copied().collect();
        let mut returned = Vec::new();
        let mut queue = lock(&self.queue);
        for group in &mut queue.groups {
            let job = group.job;
            group.tasks.retain(|&index| {
                let task = TaskId { job, index };
                let is_asked = asked.contains(&task);
                if is_asked {
                    returned.push(task);
                }
                !is_asked
            });
        }
        queue.groups.retain(|group| !group.tasks.is_empty());
        drop(queue);
        returned.reverse();
        returned
    }

    /// Lets the thread end once its task has ended; it starts none after this.
    pub(super) fn stop(&self) {
        let mut queue = lock(&self.queue);
        queue.is_stopped = true;
        queue.groups.clear();
        drop(queue);
        self.arrived.notify_all();
    }

    /// Takes the reports that have waited for longer than they may.
    pub(super) fn take_overdue(&self, now: Instant) -> Vec<Report> {
        let mut queue = lock(&self.queue);
        match queue.unreported_since {
            Some(since) if now >= since + REPORT_AGE_MAX => queue.take_reports(),
            _ => Vec::new(),
        }
    }

    pub(super) fn has_reports(&self) -> bool {
        lock(&self.queue).unreported_since.is_some()
    }

    /// Waits until there is a job, or the thread is to end; whether there is one.
    fn wait(&self) -> bool {
        let mut queue = lock(&self.queue);
        while !queue.is_stopped && queue.groups.is_empty() {
            queue = (self.arrived.wait(queue)).unwrap_or_else(|e| e.into_inner());
        }
        !queue.is_stopped
    }

    /// The job at the front, if there is one.
    fn front(&self) -> Option<(Arc<dyn Program>, JobId)> {
        let queue = lock(&self.queue);
        let group = queue.groups.front().filter(|_| !queue.is_stopped)?;
        Some((Arc::clone(&group.program), group.job))
    }
}

impl Queue {
    fn take_reports(&mut self) -> Vec<Report> {
        self.unreported_since = None;
        std::mem::take(&mut self.reports)
    }

    /// The next task, if it belongs to this job. Numbers of jobs are used again, hence the program.
    fn pop(&mut self, job: JobId, program: &Arc<dyn Program>) -> Option<TaskIndex> {
        if self.is_stopped {
            return None;
        }
        let group = self.groups.front_mut()?;
        if group.job != job || !Arc::ptr_eq(&group.program, program) {
            return None;
        }
        let task = group.tasks.pop_front();
        if group.tasks.is_empty() {
            self.groups.pop_front();
        }
        task
    }
}

thread_local! {
    /// The lane of this thread, if it is one of a pool.
    static OWN: RefCell<Option<Arc<Lane>>> = const { RefCell::new(None) };
}

/// Whether the calling thread belongs to a pool that has given it up: nobody wants what its task
/// will return, so there is no point in waiting for something in the task.
pub fn is_given_up() -> bool {
    let is_stopped = |lane: &Arc<Lane>| lock(&lane.queue).is_stopped;
    OWN.with_borrow(|own| own.as_ref().is_some_and(is_stopped))
}

/// A thread's life.
pub(super) fn work(shared: &Shared, lane: &Arc<Lane>) {
    OWN.set(Some(Arc::clone(lane)));
    let _guard = shared.hook.started();
    while lane.wait() {
        shared.hook.stay(&mut || {
            let Some((program, job)) = lane.front() else {
                return false;
            };
            run(shared, lane, program, job);
            true
        });
    }
}

/// Runs the tasks at the front that belong to one job.
fn run(shared: &Shared, lane: &Lane, program: Arc<dyn Program>, job: JobId) {
    let started = Instant::now();
    let mut feed = LaneFeed {
        shared,
        lane,
        job,
        program: &program,
        current: None,
        ended: None,
        started,
        reported: started,
    };
    // A panic is the task's failure, not the thread's. Outside of a task it is the failure of
    // the next, or it would be met again and again.
    if catch_unwind(AssertUnwindSafe(|| program.run(&mut feed))).is_err() {
        if feed.current.is_none() {
            feed.current = feed.pop();
        }
        feed.ended(Ending::Failed);
    }
    feed.report();
    survive(|| shared.hook.let_go(program));
}

struct LaneFeed<'a> {
    shared: &'a Shared,
    lane: &'a Lane,
    job: JobId,
    program: &'a Arc<dyn Program>,
    current: Option<TaskIndex>,
    /// The task that ended last, until the next is taken.
    ended: Option<Report>,
    started: Instant,
    reported: Instant,
}

impl LaneFeed<'_> {
    /// Reports all there is to report, from this thread.
    fn report(&mut self) {
        let lane = self.lane;
        let has_failed = self
            .ended
            .as_ref()
            .is_some_and(|ended| !ended.ending.is_ok());
        let mut queue = lock(&lane.queue);
        if let Some(ended) = self.ended.take() {
            ended.push_to(&mut queue.reports);
        }
        if queue.reports.is_empty() {
            return;
        }
        drop(queue);
        self.shared.update(|core, hands, now_ns| {
            if has_failed {
                // A failure ends its job: what others have computed before must not be lost by it.
                report_others(core, hands, lane, now_ns);
            }
            let reports = lock(&lane.queue).take_reports();
            // The number of a lane that was given up may mean another one by now.
            if hands.is_lane(lane) {
                core.on(Event::Finished(lane.id, &reports), now_ns, hands);
            }
        });
        self.reported = Instant::now();
    }

    /// The next task in the lane. What has ended goes where the clock finds it should the next take long.
    fn pop(&mut self) -> Option<TaskIndex> {
        let mut queue = lock(&self.lane.queue);
        let task = queue.pop(self.job, self.program)?;
        if let Some(ended) = self.ended.take() {
            ended.push_to(&mut queue.reports);
            if queue.unreported_since.is_none() {
                queue.unreported_since = Some(self.started);
                drop(queue);
                self.shared.wake_clock();
            }
        }
        Some(task)
    }
}

/// Reports what all lanes but this one have to report.
fn report_others(
    core: &mut Core<dyn Program>,
    hands: &mut LaneHands<'_>,
    own: &Lane,
    now_ns: TimeNs,
) {
    for at in 0..hands.lanes.len() {
        let other = hands.lanes[at].as_ref();
        if let Some(other) = other.filter(|other| other.id != own.id) {
            let (id, reports) = (other.id, lock(&other.queue).take_reports());
            if !reports.is_empty() {
                core.on(Event::Finished(id, &reports), now_ns, hands);
            }
        }
    }
}

impl Feed for LaneFeed<'_> {
    fn next(&mut self) -> Option<TaskIndex> {
        self.current = self.pop();
        if self.current.is_none() {
            // Reporting brings more work, which saves leaving and entering the program again.
            self.report();
            self.current = self.pop();
            self.started = Instant::now();
        }
        self.current
    }

    fn ended(&mut self, ending: Ending) {
        let Some(index) = self.current.take() else {
            return;
        };
        let now = Instant::now();
        let job = self.job;
        let duration_ns = (now - self.started).as_nanos() as u64;
        self.ended = Some(Report::one(TaskId { job, index }, duration_ns, ending));
        self.started = now;
        if !ending.is_ok() || now - self.reported > REPORT_AGE_MAX {
            self.report();
            self.started = Instant::now();
        }
    }
}
