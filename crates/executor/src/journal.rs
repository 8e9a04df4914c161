//! What becomes of the tasks of a call, one by one, for whoever keeps a journal of calls.
//!
//! Such a call has an [`Account`] in each journal. The thread that makes the call [enters](enter) them, and the next job
//! that is submitted there is the call's: the pool holds on to the accounts, and writes down what it is told of the
//! job's tasks. All other jobs pay for is a look at an empty list each.
//!
//! A pool learns how long tasks took, and of their ends a moment later, of several at once. So what stands in an account
//! is reckoned backwards, for each worker, from when its reports came in.

use crate::job::lock;
use crate::owner::Owner;
use manyhands_scheduler::{Command, Commands, Ending, Report, TaskId, TaskRun, TimeNs};
use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

/// An account tells so many tasks apart, or groups of short ones; of what comes after, there are the sums alone.
pub const N_LINES_MAX: usize = 1 << 20;

/// A journal's moment zero.
#[derive(Clone, Copy, Debug)]
pub struct Zero {
    moment: Instant,
    since_epoch_s: f64,
}

impl Default for Zero {
    /// Now.
    fn default() -> Zero {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Zero {
            moment: Instant::now(),
            since_epoch_s: since_epoch.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Zero {
    /// How long ago it was.
    pub fn elapsed_ns(&self) -> u64 {
        self.moment.elapsed().as_nanos() as u64
    }

    /// A moment so long after it, in seconds since the epoch: by the system's clock as it was then, so that the order
    /// of moments is right however that is set meanwhile.
    pub fn wall_s(&self, after_ns: u64) -> f64 {
        self.since_epoch_s + after_ns as f64 * 1e-9
    }
}

/// How a task ended, or an attempt at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It returned.
    Returned,
    /// It failed for good.
    Failed,
    /// It failed, and is tried again.
    Retried,
    /// Its worker died under it.
    Died,
    /// It ran for longer than it may, and its worker was ended.
    OutOfTime,
    /// It was cancelled while it ran, and its worker ended, or somebody interrupted it.
    Stopped,
}

const N_OUTCOMES: usize = 6;

/// The end of a task, or of several short ones in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The number of the first task.
    pub first: u32,
    /// How many there are: of several, all have returned.
    pub n_tasks: u32,
    /// The number of the worker in its pool.
    pub worker: u32,
    /// How they ended.
    pub outcome: Outcome,
    /// When the last of them ended, in nanoseconds since the journal's moment zero.
    pub ended_ns: u64,
    /// How long they took, all together. Of one whose worker died or was ended: at most.
    pub duration_ns: u64,
}

impl Line {
    /// What one of them took.
    pub fn each_ns(&self) -> u64 {
        self.duration_ns / u64::from(self.n_tasks.max(1))
    }
}

/// What a worker did for a call.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WorkerSum {
    /// How many tasks ended there.
    pub n_tasks: u64,
    /// How long these took.
    pub work_ns: u64,
    /// When it was last known to be done with something, or to be given something while it had nothing.
    pub heard_ns: u64,
    n_under_way: u32,
}

/// What has become of a call, all in all.
#[derive(Clone, Default, Debug)]
pub struct Sums {
    n_ended: [u64; N_OUTCOMES],
    /// How many tasks were lost for good otherwise than by failing.
    pub n_lost: u64,
    /// How long all of them took, until the call ended.
    pub work_ns: u64,
    /// When the call began.
    pub began_ns: u64,
    /// When the first of its tasks began.
    pub first_began_ns: Option<u64>,
    /// When the call ended; `None` while it goes on.
    pub ended_ns: Option<u64>,
    /// How many tasks have no line.
    pub n_left_out: u64,
    /// One for each number of a worker.
    pub workers: Vec<WorkerSum>,
    /// The one that took longest.
    pub longest: Option<Line>,
}

impl Sums {
    /// How many tasks, or attempts, ended in this way.
    pub fn n_ended(&self, outcome: Outcome) -> u64 {
        self.n_ended[outcome as usize]
    }
}

#[derive(Default)]
struct State {
    sums: Sums,
    lines: Vec<Line>,
    /// How many jobs there have been, and of how many the end is not known.
    n_jobs: u32,
    n_open: u32,
    is_closed: bool,
    /// What the tasks call, where they call different things: names, and which of them each task calls.
    names: (Vec<String>, Vec<u32>),
}

/// What becomes of the tasks of a call, or of several that were submitted one by one.
pub struct Account {
    /// The journal's moment zero.
    pub zero: Zero,
    owner: Owner,
    state: Mutex<State>,
}

impl Account {
    /// An account of a call that begins now, in a journal with this moment zero.
    pub fn new(zero: Zero) -> Account {
        let account = Account {
            zero,
            owner: Owner::current(),
            state: Mutex::default(),
        };
        lock(&account.state).sums.began_ns = account.now_ns();
        account
    }

    /// Nanoseconds since the journal's moment zero.
    pub fn now_ns(&self) -> u64 {
        self.zero.elapsed_ns()
    }

    /// Whether this process was forked from the one whose account it is. Nothing else may be asked then: somebody may
    /// have been writing at that moment.
    pub fn is_elsewhere(&self) -> bool {
        self.owner.is_elsewhere()
    }

    /// A job of the call begins; gives the number that its first task has in the call.
    pub fn begin_job(&self) -> u32 {
        let mut state = lock(&self.state);
        state.n_open += 1;
        state.n_jobs = state.n_jobs.wrapping_add(1);
        state.n_jobs.wrapping_sub(1)
    }

    /// Tasks of the call begin to run without a job; gives the number that the first has in the call.
    pub fn begin_here(&self) -> u32 {
        let mut state = lock(&self.state);
        state.n_jobs = state.n_jobs.wrapping_add(1);
        state.n_jobs.wrapping_sub(1)
    }

    /// A job of the call has ended.
    pub fn end_job(&self) {
        let now_ns = self.now_ns();
        let mut state = lock(&self.state);
        state.n_open = state.n_open.saturating_sub(1);
        if !state.is_closed {
            state.sums.ended_ns = (state.n_open == 0).then_some(now_ns);
        }
    }

    /// The call has ended, whatever its tasks do.
    pub fn close(&self) {
        let now_ns = self.now_ns();
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.sums.ended_ns = Some(now_ns);
    }

    /// All of the call that there has been so far has ended, unless a job is under way.
    pub fn settle(&self) {
        let now_ns = self.now_ns();
        let mut state = lock(&self.state);
        if state.n_open == 0 && !state.is_closed {
            state.sums.ended_ns = Some(now_ns);
        }
    }

    /// Says what the tasks call: names, and which of them each task calls.
    pub fn name(&self, names: Vec<String>, which: Vec<u32>) {
        lock(&self.state).names = (names, which);
    }

    /// Writes down a line.
    pub fn note(&self, line: Line) {
        lock(&self.state).note(line);
    }

    /// A task that failed last is tried again after all.
    pub fn retried(&self, task: u32) {
        let mut state = lock(&self.state);
        state.sums.n_ended[Outcome::Failed as usize] -= 1;
        state.sums.n_ended[Outcome::Retried as usize] += 1;
        let is_it = |line: &&mut Line| line.first == task && line.outcome == Outcome::Failed;
        if let Some(line) = state.lines.iter_mut().rev().find(is_it) {
            line.outcome = Outcome::Retried;
        }
    }

    /// The lines, with the names of what tasks call where they call different things.
    pub fn lines(&self) -> (Vec<Line>, Vec<String>, Vec<u32>) {
        let state = lock(&self.state);
        let (names, which) = state.names.clone();
        (state.lines.clone(), names, which)
    }

    /// The names of what tasks call, where they call different things.
    pub fn names(&self) -> Vec<String> {
        lock(&self.state).names.0.clone()
    }

    /// The sums.
    pub fn sums(&self) -> Sums {
        lock(&self.state).sums.clone()
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").finish_non_exhaustive()
    }
}

impl State {
    fn note(&mut self, line: Line) {
        let sums = &mut self.sums;
        let began_ns = line.ended_ns.saturating_sub(line.duration_ns);
        // What goes on after a call has failed is no part of its time, and so no work of its.
        let end_ns = match self.is_closed {
            true => sums.ended_ns.unwrap_or(u64::MAX),
            false => u64::MAX,
        };
        let late_ns = line.ended_ns.saturating_sub(end_ns);
        let work_ns = line.duration_ns.saturating_sub(late_ns);
        sums.n_ended[line.outcome as usize] += u64::from(line.n_tasks);
        sums.work_ns += work_ns;
        sums.first_began_ns = Some(
            sums.first_began_ns
                .map_or(began_ns, |first| first.min(began_ns)),
        );
        if (sums.longest).is_none_or(|longest| longest.each_ns() < line.each_ns()) {
            sums.longest = Some(line);
        }
        let worker = self.worker(line.worker);
        worker.n_tasks += u64::from(line.n_tasks);
        worker.work_ns += work_ns;
        worker.heard_ns = worker.heard_ns.max(line.ended_ns.min(end_ns));
        worker.n_under_way = worker.n_under_way.saturating_sub(line.n_tasks);
        if self.lines.len() < N_LINES_MAX {
            self.lines.push(line);
        } else {
            self.sums.n_left_out += u64::from(line.n_tasks);
        }
    }

    fn worker(&mut self, number: u32) -> &mut WorkerSum {
        let at = number as usize;
        let workers = &mut self.sums.workers;
        if at >= workers.len() {
            workers.resize_with(at + 1, WorkerSum::default);
        }
        &mut workers[at]
    }
}

thread_local! {
    /// The accounts of the call that this thread is about to submit.
    static CURRENT: RefCell<Vec<Arc<Account>>> = const { RefCell::new(Vec::new()) };
}

/// Has the next job that this thread submits be that of these accounts. Gives what stood there, to be put back so.
pub fn enter(accounts: Vec<Arc<Account>>) -> Vec<Arc<Account>> {
    CURRENT.replace(accounts)
}

/// The accounts of the call that this thread is about to submit, if anybody keeps some.
pub fn current() -> Vec<Arc<Account>> {
    CURRENT.with_borrow(Clone::clone)
}

/// A job's place in an account.
pub(crate) struct Noted {
    account: Arc<Account>,
    /// What a moment of the pool's is more than the same of the journal's.
    ahead_ns: i128,
    /// The number that the job's first task has in the call.
    base: u32,
}

/// The accounts that a job is noted in which is being submitted at this moment of the pool's.
pub(crate) fn begin(now_ns: TimeNs) -> Vec<Noted> {
    let accounts = CURRENT.take();
    let mut noted = Vec::new();
    for account in accounts {
        if !account.is_elsewhere() {
            noted.push(Noted {
                ahead_ns: i128::from(now_ns) - i128::from(account.now_ns()),
                base: account.begin_job(),
                account,
            });
        }
    }
    noted
}

impl Noted {
    fn moment(&self, pool_ns: TimeNs) -> u64 {
        (i128::from(pool_ns) - self.ahead_ns).max(0) as u64
    }

    /// Tasks of the job have ended at once; the moment is the pool's.
    pub(crate) fn ended(&self, run: TaskRun, worker: u32, ns: Ended, outcome: Outcome) {
        self.account.note(Line {
            first: self.base.wrapping_add(run.first.0),
            n_tasks: run.n_tasks,
            worker,
            outcome,
            ended_ns: self.moment(ns.at_ns),
            duration_ns: ns.duration_ns,
        });
    }

    /// A worker was given tasks.
    pub(crate) fn sent(&self, worker: u32, n_tasks: u32) {
        let now_ns = self.account.now_ns();
        let mut state = lock(&self.account.state);
        let worker = state.worker(worker);
        if worker.n_under_way == 0 {
            worker.heard_ns = now_ns;
        }
        worker.n_under_way += n_tasks;
    }

    /// A worker has given a task back.
    pub(crate) fn taken_back(&self, worker: u32) {
        let mut state = lock(&self.account.state);
        let worker = state.worker(worker);
        worker.n_under_way = worker.n_under_way.saturating_sub(1);
    }

    /// A worker is gone, with what it was running.
    pub(crate) fn lost(&self, task: TaskId, worker: u32, at_ns: TimeNs, outcome: Outcome) {
        let ended_ns = self.moment(at_ns);
        let mut state = lock(&self.account.state);
        let began_ns = state.worker(worker).heard_ns;
        state.note(Line {
            first: self.base.wrapping_add(task.index.0),
            n_tasks: 1,
            worker,
            outcome,
            ended_ns,
            duration_ns: ended_ns.saturating_sub(began_ns),
        });
        state.worker(worker).n_under_way = 0;
    }

    /// A task is lost for good, otherwise than by failing.
    pub(crate) fn given_up(&self) {
        lock(&self.account.state).sums.n_lost += 1;
    }
}

impl Drop for Noted {
    /// The job is done, or its pool is gone.
    fn drop(&mut self) {
        if !self.account.is_elsewhere() {
            self.account.end_job();
        }
    }
}

/// When something ended, as the pool tells the time, and how long it took.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) at_ns: TimeNs,
    pub(crate) duration_ns: u64,
}

/// When each of a worker's reports happened that come in at one moment, the last just now.
pub(crate) fn moments(reports: &[Report], now_ns: TimeNs) -> impl Iterator<Item = Ended> + '_ {
    let sum_ns: u64 = reports.iter().map(|report| report.duration_ns).sum();
    let mut left_ns = sum_ns;
    reports.iter().map(move |report| {
        left_ns -= report.duration_ns;
        Ended {
            at_ns: now_ns.saturating_sub(left_ns),
            duration_ns: report.duration_ns,
        }
    })
}

/// The tasks of a report one by one, as if each had taken as long as the others.
pub(crate) fn each(report: &Report, ended: Ended) -> impl Iterator<Item = (TaskId, Ended)> {
    let n_tasks = u64::from(report.tasks.n_tasks.max(1));
    let each_ns = ended.duration_ns / n_tasks;
    report.tasks.tasks().zip(1..).map(move |(task, n)| {
        let ended = Ended {
            at_ns: ended.at_ns.saturating_sub((n_tasks - n) * each_ns),
            duration_ns: each_ns,
        };
        (task, ended)
    })
}

/// How a report is noted, after the scheduler has decided this about it.
pub(crate) fn outcome(report: &Report, commands: &Commands, goes_on: bool) -> Outcome {
    let task = report.tasks.first();
    let is_told = |command: &Command| match command {
        Command::Fail(failed, _) | Command::Lose(failed, _) => *failed == task,
        _ => false,
    };
    match report.ending {
        Ending::Returned => Outcome::Returned,
        Ending::Retriable if goes_on && !commands.iter().any(is_told) => Outcome::Retried,
        Ending::Retriable | Ending::Failed | Ending::Fatal => Outcome::Failed,
    }
}

/// Notes the tasks of a job that runs in the thread that calls, one after the other.
pub(crate) struct Alone {
    noted: Vec<Noted>,
    clock: Instant,
    began_ns: TimeNs,
}

impl Alone {
    /// For the job that this thread is about to run, if anybody keeps a journal of it.
    pub(crate) fn begin() -> Option<Alone> {
        let clock = Instant::now();
        let noted = begin(0);
        (!noted.is_empty()).then_some(Alone {
            noted,
            clock,
            began_ns: 0,
        })
    }

    fn now_ns(&self) -> TimeNs {
        self.clock.elapsed().as_nanos() as TimeNs
    }

    /// A task begins now.
    pub(crate) fn task_begins(&mut self) {
        self.began_ns = self.now_ns();
    }

    /// How long the task has taken that began last.
    pub(crate) fn task_ends(&self) -> Ended {
        let at_ns = self.now_ns();
        let duration_ns = at_ns.saturating_sub(self.began_ns);
        Ended { at_ns, duration_ns }
    }

    /// Writes down how a task has ended.
    pub(crate) fn note(&self, task: TaskId, ended: Ended, outcome: Outcome) {
        for noted in &self.noted {
            noted.ended(task.into(), 0, ended, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manyhands_scheduler::{JobId, TaskIndex};

    fn report(index: u32, duration_ns: u64) -> Report {
        let index = TaskIndex(index);
        let job = JobId(0);
        Report::one(TaskId { job, index }, duration_ns, true)
    }

    #[test]
    fn reports_that_come_together_are_reckoned_back_from_the_last() {
        let reports = [report(0, 30), report(1, 20), report(2, 50)];
        let ended: Vec<_> = moments(&reports, 1_000).map(|ended| ended.at_ns).collect();
        assert_eq!(ended, [930, 950, 1_000]);
    }

    fn line(first: u32, duration_ns: u64, outcome: Outcome) -> Line {
        Line {
            first,
            n_tasks: 1,
            worker: first % 2,
            outcome,
            ended_ns: 100 * u64::from(first + 1),
            duration_ns,
        }
    }

    #[test]
    fn sums_are_those_of_the_lines() {
        let account = Account::new(Zero::default());
        account.begin_job();
        account.note(line(0, 40, Outcome::Returned));
        account.note(line(1, 90, Outcome::Failed));
        account.retried(1);
        account.note(line(2, 10, Outcome::Returned));
        assert!(account.sums().ended_ns.is_none());
        account.end_job();
        let sums = account.sums();
        assert!(sums.ended_ns.is_some());
        assert_eq!(sums.work_ns, 140);
        assert_eq!(sums.n_ended(Outcome::Returned), 2);
        assert_eq!(
            (
                sums.n_ended(Outcome::Failed),
                sums.n_ended(Outcome::Retried)
            ),
            (0, 1)
        );
        assert_eq!(sums.first_began_ns, Some(60));
        assert_eq!(sums.longest.map(|line| line.first), Some(1));
        let of_worker = |at: usize| (sums.workers[at].n_tasks, sums.workers[at].work_ns);
        assert_eq!((of_worker(0), of_worker(1)), ((2, 50), (1, 90)));
        let outcomes: Vec<_> = account.lines().0.iter().map(|line| line.outcome).collect();
        assert_eq!(
            outcomes,
            [Outcome::Returned, Outcome::Retried, Outcome::Returned]
        );
    }

    #[test]
    fn what_a_lost_worker_ran_began_when_it_was_given_something_or_ended_something_before() {
        let account = Arc::new(Account::new(Zero::default()));
        let before = enter(vec![Arc::clone(&account)]);
        let noted = begin(1_000_000).pop().expect("it is the current one");
        assert!(begin(0).is_empty(), "only one job is the call's");
        enter(before);
        noted.sent(3, 2);
        let heard_ns = account.sums().workers[3].heard_ns;
        let task = report(0, 0).tasks.first();
        let at_ns = 1_000_000 + 3_600_000_000_000;
        noted.lost(task, 3, at_ns, Outcome::Died);
        let sums = account.sums();
        let longest = sums.longest.expect("a task has ended");
        assert_eq!(longest.ended_ns - longest.duration_ns, heard_ns);
        assert_eq!(sums.n_ended(Outcome::Died), 1);
        assert_eq!(sums.workers[3].n_under_way, 0);
    }

    #[test]
    fn what_goes_on_after_a_call_has_ended_is_no_work_of_it() {
        let account = Account::new(Zero::default());
        account.close();
        let end_ns = account.sums().ended_ns.expect("it is closed");
        for (first, ended_ns) in [(0, end_ns), (2, end_ns + 30), (4, end_ns + 1_000)] {
            account.note(Line {
                ended_ns,
                ..line(first, 100, Outcome::Returned)
            });
        }
        let sums = account.sums();
        assert_eq!((sums.work_ns, sums.workers[0].work_ns), (170, 170));
        assert_eq!(sums.workers[0].heard_ns, end_ns);
        assert!(account.lines().0.iter().all(|line| line.duration_ns == 100));
    }

    #[test]
    fn what_is_beyond_the_limit_is_in_the_sums() {
        let account = Account::new(Zero::default());
        for at in 0..N_LINES_MAX as u32 + 3 {
            account.note(Line {
                first: 2 * at,
                n_tasks: 2,
                worker: 0,
                outcome: Outcome::Returned,
                ended_ns: 2 * u64::from(at + 1),
                duration_ns: 2,
            });
        }
        let sums = account.sums();
        assert_eq!(account.lines().0.len(), N_LINES_MAX);
        assert_eq!(sums.n_left_out, 6);
        let n_tasks = 2 * (N_LINES_MAX as u64 + 3);
        assert_eq!(
            (sums.work_ns, sums.n_ended(Outcome::Returned)),
            (n_tasks, n_tasks)
        );
    }

    #[test]
    fn tasks_that_were_reported_together_share_their_time() {
        let mut reports = Vec::new();
        for index in 0..4 {
            report(index, 10).push_to(&mut reports);
        }
        let ended = moments(&reports, 100).next().expect("there is a report");
        let each: Vec<_> = each(&reports[0], ended)
            .map(|(task, ended)| (task.index.0, ended.at_ns, ended.duration_ns))
            .collect();
        assert_eq!(each, [(0, 70, 10), (1, 80, 10), (2, 90, 10), (3, 100, 10)]);
    }
}
