//! Runs jobs in worker processes, which are started on first use and kept warm.
//!
//! Each worker hangs on a Unix socket. One thread, the reactor, reads from all of them, starts
//! workers and notices deaths; whoever submits a job sends its first tasks directly. Both go
//! through one lock, under which nothing waits: what a socket does not take at once stays in that
//! worker's outbox until the reactor finds it writable.
//!
//! Nothing outlives the parent: a worker ends itself when its connection or its parent is gone.

mod child;
mod descriptors;
mod fork;
mod functions;
mod guard;
mod hurry;
mod outbox;
mod output;
mod process;
mod reactor;
mod relief;
mod usage;
mod wake;

pub use child::{DUMP_SIGNAL, WorkerCommand, Workers};
pub use descriptors::Descriptor;
pub use fork::{Forked, Nursery, WorkerEnd};
pub use guard::WorkerMemoryLimit;

pub(crate) use wake::Wake;

use crate::core::{Core, Entry, Hands};
use crate::job::{Control, Failure, Inbox, Job, lock};
use crate::owner::Owner;
use crate::program::{Death, RemoteProgram};
use crate::relay::{self, Relay, Routes, Surroundings};
use crate::status::{StatusPage, monotonic_ns};
use crate::stock::{Queued, Returns, Stock};
use crate::watch::Standing;
use child::Ways;
use functions::{Functions, Kept};
use hurry::Hurry;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{
    Event, JobId, JobSpec, Need, Needs, Sight, Supply, TaskId, TimeNs, WorkerId,
};
use manyhands_store::{Place, SegmentId};
use manyhands_wire::{Context, FrameWriter, TaskKey, TasksWriter};
use outbox::Outbox;
use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What a pool of processes needs to know.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// How workers come to be.
    pub workers: Workers,
    /// How many workers there are while there is work.
    pub n_workers: usize,
    /// How long workers are kept without work; `None` for as long as the pool lives.
    pub idle_timeout: Option<Duration>,
    /// How long a worker may take until it is ready. One that takes longer, as it was stopped or waits for a lock that
    /// nobody will give back, is ended, and another takes its place.
    pub start_limit: Duration,
    /// The shared memory of this process; `None` to have all data go through sockets.
    pub stock: Option<Arc<Stock>>,
    /// Whether the pool ends by itself with its last job, rather than when it is dropped.
    pub ends_with_jobs: bool,
}

/// How long to wait for workers that were killed. They are gone sooner, on any machine that works.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// How long to wait for the reactor to end its workers, gently and then not.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(4);

/// A pool of worker processes. Dropping it ends them. In a process forked from the one that made it,
/// it must not be used, and dropping it does nothing.
pub struct ProcessPool {
    shared: Arc<Shared>,
    owner: Owner,
    /// Whether it ends the pool when it is dropped, rather than being one of the pool's other holders.
    is_first: bool,
    /// The surroundings for the tasks of what is submitted here.
    context: Arc<Surroundings>,
    /// What each of them needs while it runs.
    needs: Needs,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Tells that a worker has come or gone, or that the reactor has ended.
    changed: Condvar,
    epoch: Instant,
    /// Makes the reactor look at the state.
    wake: Arc<Wake>,
    /// Where goes what workers write.
    ways: Ways,
}

pub(crate) struct State {
    core: Core<dyn RemoteProgram>,
    lines: Vec<Option<Line>>,
    /// Forked workers that the reactor has not taken over, each with its number.
    arrivals: Vec<(usize, reactor::Peer)>,
    functions: Functions,
    options: ProcessOptions,
    is_stopped: bool,
    has_reactor: bool,
    /// Whether the reactor looks after the memory of workers.
    is_watched: bool,
    /// Whether there has been a job.
    has_begun: bool,
    /// Whether workers that are ready must wait for [`Nursery::let_out`].
    is_held: bool,
    starts: Starts,
    /// What workers are to be told about shared memory.
    returns: Arc<Returns>,
    /// The pool's moment zero, by the clock that workers read.
    epoch_ns: u64,
    /// Where goes what workers write.
    routes: Arc<Routes>,
}

/// After so many workers in a row that ended before they were ready, no more are started.
const N_FAILED_STARTS_MAX: usize = 3;
/// The same for workers that somebody killed, who may have had enough after a few.
const N_KILLED_STARTS_MAX: usize = 30;

/// Workers that ended before they were ready, in a row.
#[derive(Default)]
struct Starts {
    n_failed: usize,
    n_killed: usize,
    /// What became of the last of them.
    last_failure: String,
}

impl Starts {
    /// Whether there is no point in starting another.
    fn is_hopeless(&self) -> bool {
        self.n_failed >= N_FAILED_STARTS_MAX || self.n_killed >= N_KILLED_STARTS_MAX
    }

    /// A worker could not be started at all, and nor will the next.
    fn refused(&mut self, text: String) {
        self.n_failed = N_FAILED_STARTS_MAX;
        self.last_failure = text;
    }

    /// A worker has ended before it was ready; ended from here if it took longer than `overdue`.
    fn failed(&mut self, death: &Death, overdue: Option<Duration>) {
        let is_killed = death.signal == Some(9) && overdue.is_none();
        self.n_killed += usize::from(is_killed);
        self.n_failed += usize::from(!is_killed);
        let how = match (overdue, death.exit_code, death.signal) {
            (Some(limit), ..) => format!("was not ready after {limit:?}, and was ended"),
            (None, Some(code), _) => format!("exited with code {code}"),
            (None, None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None, None) => "ended".to_owned(),
        };
        let output = match death.last_output.as_str() {
            "" => "It wrote nothing.".to_owned(),
            output => format!("It wrote:\n{output}"),
        };
        self.last_failure = format!(
            "{} worker processes in a row ended before they could take tasks; the last {how}. {output}",
            self.n_failed + self.n_killed
        );
    }
}

/// A worker, as far as sending to it goes.
struct Line {
    socket: Arc<Descriptor>,
    /// Where the worker says what it runs.
    status: Option<Arc<StatusPage>>,
    pid: u32,
    /// The number under which it allocates shared memory; zero for none.
    owner: u32,
    is_ready: bool,
    /// It is ready, and the scheduler does not know of it.
    is_held: bool,
    outbox: Outbox,
    /// By number: whether the worker has been sent the function.
    known: Vec<bool>,
    /// What it has been asked to forget and has not yet, in order, and what it keeps until then.
    leaving: VecDeque<(u32, Option<Arc<Kept>>)>,
    /// The segments it has been sent.
    segments: HashSet<SegmentId>,
    context: Option<Arc<Surroundings>>,
    /// It has been asked to stop.
    is_retired: bool,
    /// It was killed from here, perhaps before it was ready.
    is_killed: bool,
    /// It may have been waited for: its number may mean another process.
    is_ended: bool,
}

struct LineHands<'a> {
    lines: &'a mut Vec<Option<Line>>,
    functions: &'a mut Functions,
    stock: Option<&'a Stock>,
    epoch_ns: u64,
    routes: &'a Routes,
    finished: Vec<Entry<dyn RemoteProgram>>,
}

impl Hands<dyn RemoteProgram> for LineHands<'_> {
    fn start(
        &mut self,
        worker: WorkerId,
        job: JobId,
        entry: &Entry<dyn RemoteProgram>,
        tasks: &[TaskIndex],
    ) {
        let Some(Some(line)) = self.lines.get_mut(worker.0 as usize) else {
            return;
        };
        if let Some(context) = &entry.context {
            line.refresh_context(context, worker);
        }
        if entry.has_limit
            && let Some(status) = &line.status
        {
            status.ask_since();
        }
        for &task in tasks {
            let function = entry.program.function(task);
            if !line.knows(function)
                && let Some((bytes, segments)) = self.functions.get(function)
            {
                line.announce(self.stock, segments, line.outbox.bytes.len());
                FrameWriter::new(&mut line.outbox.bytes).function(function, bytes);
                line.known[function as usize] = true;
            }
        }
        let start = line.outbox.bytes.len();
        let mut segments = Vec::new();
        let mut writer = TasksWriter::new(&mut line.outbox.bytes);
        entry
            .program
            .write(job.0, tasks, &mut writer, &mut segments);
        drop(writer);
        line.announce(self.stock, &segments, start);
    }

    fn take_back(&mut self, worker: WorkerId, tasks: &[TaskId]) {
        if let Some(Some(line)) = self.lines.get_mut(worker.0 as usize) {
            let keys = tasks.iter().map(|task| key(*task));
            FrameWriter::new(&mut line.outbox.bytes).take_back(keys);
        }
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some(Some(line)) = self.lines.get_mut(worker.0 as usize) {
            line.kill();
        }
    }

    fn look(&mut self, worker: WorkerId) -> Sight {
        let line = self.lines.get(worker.0 as usize).and_then(Option::as_ref);
        let Some(status) = line.and_then(|line| line.status.as_ref()) else {
            return Sight::Hidden;
        };
        status.get_since().map_or(Sight::Nothing, |(task, at_ns)| {
            let since_ns = at_ns.saturating_sub(self.epoch_ns);
            Sight::Running(reactor::task_id(task), since_ns)
        })
    }

    fn release(&mut self, program: &Arc<dyn RemoteProgram>, task: TaskIndex) {
        program.release(task);
    }

    fn has_failed(&self, program: &dyn RemoteProgram, task: TaskIndex) -> bool {
        program.has_failed(task)
    }

    fn job_done(&mut self, entry: Entry<dyn RemoteProgram>) {
        if let Some(context) = &entry.context {
            self.routes.remove(context.route);
        }
        self.finished.push(entry);
    }
}

fn key(task: TaskId) -> TaskKey {
    TaskKey {
        job: task.job.0,
        index: task.index.0,
    }
}

impl Line {
    fn new(socket: Arc<Descriptor>, child: &child::Child, owner: u32) -> Line {
        Line {
            socket,
            status: child.status.clone(),
            pid: child.pid(),
            owner,
            is_ready: false,
            is_held: false,
            outbox: Outbox::default(),
            known: Vec::new(),
            leaving: VecDeque::new(),
            segments: HashSet::new(),
            context: None,
            is_retired: false,
            is_killed: false,
            is_ended: false,
        }
    }

    fn kill(&self) {
        if !self.is_ended {
            child::kill_pid(self.pid);
        }
    }

    fn knows(&mut self, function: u32) -> bool {
        let at = function as usize;
        if at >= self.known.len() {
            self.known.resize(at + 1, false);
        }
        self.known[at]
    }

    /// Has the worker know these segments before it reads what stands in the outbox from `at` on.
    fn announce(&mut self, stock: Option<&Stock>, segments: &[SegmentId], at: usize) {
        let Some(stock) = stock else { return };
        let mut added = Vec::new();
        for &segment in segments {
            // One that has no descriptor any more shows in the tasks that need it.
            if !self.segments.contains(&segment)
                && let Some(descriptor) = stock.descriptor(segment)
            {
                self.segments.insert(segment);
                added.push((segment, descriptor));
            }
        }
        if !added.is_empty() {
            self.outbox.insert_segments(at, added);
        }
    }

    /// Has the worker forget a function that it knows; it keeps what belongs to it until it answers.
    fn forget(&mut self, function: u32, kept: Option<Arc<Kept>>) {
        self.known[function as usize] = false;
        self.leaving.push_back((function, kept));
        FrameWriter::new(&mut self.outbox.bytes).forget([function]);
    }

    /// The worker has forgotten a function; `false` if it was not asked to, or not in this order.
    fn forgotten(&mut self, function: u32) -> bool {
        let first = self.leaving.pop_front();
        first.is_some_and(|(asked, _)| asked == function)
    }

    /// Asks the worker to end.
    fn retire(&mut self) {
        self.is_retired = true;
        FrameWriter::new(&mut self.outbox.bytes).stop();
        self.outbox.send(&self.socket);
    }

    fn refresh_context(&mut self, context: &Arc<Surroundings>, own: WorkerId) {
        let is_current = self
            .context
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, context));
        if !is_current {
            let bytes = [&context.bytes, &own.0.to_le_bytes()[..]].concat();
            FrameWriter::new(&mut self.outbox.bytes).context(&Context {
                route: context.route,
                is_marked: context.is_marked,
                bytes: &bytes,
            });
            self.context = Some(Arc::clone(context));
        }
    }
}

impl State {
    /// Lets the core act, then sends what came of it.
    fn act(&mut self, act: impl FnOnce(&mut Core<dyn RemoteProgram>, &mut LineHands)) {
        let mut hands = LineHands {
            lines: &mut self.lines,
            functions: &mut self.functions,
            stock: self.options.stock.as_deref(),
            epoch_ns: self.epoch_ns,
            routes: &self.routes,
            finished: Vec::new(),
        };
        act(&mut self.core, &mut hands);
        let finished = std::mem::take(&mut hands.finished);
        for entry in finished {
            if let Some(stock) = &self.options.stock {
                stock.job_ended(&entry.program);
            }
            for function in entry.functions {
                self.release_function(function);
            }
        }
        self.send_all();
    }

    /// Sends what there is to send, as far as it goes without waiting.
    fn send_all(&mut self) {
        if let Some(queued) = self.returns.take() {
            self.write_returns(queued);
        }
        for line in self.lines.iter_mut().flatten() {
            line.outbox.send(&line.socket);
        }
    }

    fn write_returns(&mut self, mut queued: Queued) {
        queued.places.sort_unstable_by_key(|place| place.segment);
        let by_owner = |a: &Place, b: &Place| a.segment.owner() == b.segment.owner();
        for places in queued.places.chunk_by(by_owner) {
            let owner = places[0].segment.owner();
            let is_owner = |line: &&mut Line| line.owner == owner;
            if let Some(line) = self.lines.iter_mut().flatten().find(is_owner) {
                let places = places.iter().map(|place| place.to_bytes());
                FrameWriter::new(&mut line.outbox.bytes).release(places);
            }
        }
        for owner in queued.gone {
            for line in self.lines.iter_mut().flatten() {
                let n_before = line.segments.len();
                line.segments.retain(|segment| segment.owner() != owner);
                if line.segments.len() < n_before {
                    FrameWriter::new(&mut line.outbox.bytes).owner_gone(owner);
                }
            }
        }
    }

    fn release_function(&mut self, function: u32) {
        let Some((gone, kept)) = self.functions.release(function) else {
            return;
        };
        self.core
            .scheduler
            .forget_kind(manyhands_scheduler::KindId(gone));
        for line in self.lines.iter_mut().flatten() {
            if line.knows(gone) {
                line.forget(gone, kept.clone());
            }
        }
    }

    /// The number under which the next worker allocates shared memory; zero for none.
    fn new_owner(&self) -> u32 {
        (self.options.stock.as_ref()).map_or(0, |stock| stock.new_owner())
    }

    /// Takes a worker in; gives its number.
    fn add_line(&mut self, line: Line) -> usize {
        if let Some(stock) = &self.options.stock {
            stock.add_owner(line.owner, &self.returns);
        }
        let at = (self.lines.iter().position(Option::is_none)).unwrap_or(self.lines.len());
        if at == self.lines.len() {
            self.lines.push(None);
        }
        self.lines[at] = Some(line);
        at
    }

    /// Whether nothing is left to do, now or ever.
    fn is_over(&self) -> bool {
        let ends_now = self.options.ends_with_jobs && self.has_begun;
        self.is_stopped || (ends_now && self.core.job_ids().is_empty())
    }

    fn n_live(&self) -> usize {
        let is_live = |line: &&Line| !line.is_retired;
        self.lines.iter().flatten().filter(is_live).count()
    }

    /// How many workers should be started now.
    fn n_missing(&self) -> usize {
        let is_hopeless = self.starts.is_hopeless();
        if self.is_stopped || is_hopeless || !self.core.scheduler.has_work() {
            return 0;
        }
        self.options.n_workers.saturating_sub(self.n_live())
    }

    /// Asks idle workers beyond `n_kept` to end.
    fn retire_idle(&mut self, n_kept: usize, now_ns: TimeNs) {
        for at in (0..self.lines.len()).rev() {
            if self.n_live() <= n_kept {
                return;
            }
            self.retire_if_idle(at, now_ns);
        }
    }

    /// Asks a worker to end, if it is idle; whether it has been.
    fn retire_if_idle(&mut self, at: usize, now_ns: TimeNs) -> bool {
        let worker = WorkerId(at as u32);
        let is_idle = self.core.scheduler.is_idle(worker);
        if let Some(line) = &mut self.lines[at]
            && line.is_ready
            && !line.is_retired
            && (is_idle || line.is_held)
        {
            line.retire();
            if !std::mem::take(&mut line.is_held) {
                self.act(|core, hands| {
                    let death = Death::default();
                    core.on_worker_lost(worker, None, death, now_ns, hands);
                });
            }
            return true;
        }
        false
    }
}

impl Shared {
    fn now_ns(&self) -> TimeNs {
        self.epoch.elapsed().as_nanos() as TimeNs
    }

    fn wake_reactor(&self) {
        self.wake.wake();
    }

    /// Lets the core act; wakes the reactor if it has something to do about it.
    fn update(&self, act: impl FnOnce(&mut Core<dyn RemoteProgram>, &mut LineHands, TimeNs)) {
        let mut state = lock(&self.state);
        let now_ns = self.now_ns();
        state.act(|core, hands| act(core, hands, now_ns));
        // Among it the end: a job that is cancelled while its workers are idle ends here, without a report.
        let is_anything_left = state.n_missing() > 0
            || state.is_over()
            || state.core.scheduler.deadline_ns().is_some()
            || (!state.is_watched && state.core.scheduler.has_work())
            || state
                .lines
                .iter()
                .flatten()
                .any(|line| !line.outbox.is_empty());
        drop(state);
        if is_anything_left {
            self.wake_reactor();
        }
    }
}

impl ProcessPool {
    /// A pool that will start its workers when there is work.
    ///
    /// # Errors
    ///
    /// If the system refuses what the pool itself needs.
    pub fn new(options: ProcessOptions) -> io::Result<ProcessPool> {
        let wake = Arc::new(Wake::new()?);
        let returns = Arc::new(Returns::new(Arc::clone(&wake)));
        if let Some(stock) = &options.stock {
            stock.add_pool(&returns);
        }
        let routes = Arc::<Routes>::default();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                core: Core::default(),
                lines: Vec::new(),
                arrivals: Vec::new(),
                functions: Functions::default(),
                options,
                is_stopped: false,
                has_reactor: true,
                is_watched: false,
                has_begun: false,
                is_held: false,
                starts: Starts::default(),
                returns,
                epoch_ns: monotonic_ns(),
                routes: Arc::clone(&routes),
            }),
            changed: Condvar::new(),
            epoch: Instant::now(),
            wake,
            ways: Ways {
                hurry: Hurry::default(),
                routes,
            },
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("manyhands-reactor".into())
            .spawn(move || reactor::run(&own))?;
        let owner = Owner::current();
        Ok(ProcessPool {
            shared,
            owner,
            is_first: true,
            context: Arc::new(Surroundings::here(&[])),
            needs: Needs::default(),
        })
    }

    /// Changes the number of workers. Workers too many end as soon as they are idle.
    pub fn resize(&self, n_workers: usize) {
        let n_workers = n_workers.max(1);
        let mut state = lock(&self.shared.state);
        if state.options.n_workers == n_workers {
            return;
        }
        state.options.n_workers = n_workers;
        let now_ns = self.shared.now_ns();
        state.retire_idle(n_workers, now_ns);
        drop(state);
        self.shared.wake_reactor();
    }

    /// Changes the environment variables that workers started from now on get beyond those of this process.
    pub fn set_environment(&self, env: Vec<(OsString, OsString)>) {
        if let Workers::Started(command) = &mut lock(&self.shared.state).options.workers {
            command.env = env;
        }
    }

    /// Changes how long workers are kept without work.
    pub fn set_idle_timeout(&self, idle_timeout: Option<Duration>) {
        lock(&self.shared.state).options.idle_timeout = idle_timeout;
        self.shared.wake_reactor();
    }

    /// How much there is of each resource, from now on; see [`Scheduler::set_supplies`].
    ///
    /// [`Scheduler::set_supplies`]: manyhands_scheduler::Scheduler::set_supplies
    pub fn set_supplies(&self, supplies: &[Supply]) {
        lock(&self.shared.state)
            .core
            .scheduler
            .set_supplies(supplies);
        (self.shared).update(|core, hands, now_ns| core.on(Event::Tick, now_ns, hands));
    }

    /// The same pool for jobs whose tasks have these surroundings and need this while they run. A worker
    /// is told of the surroundings, with its own number behind them, when they are others than those of
    /// the task before; so hold on to what this gives.
    pub fn with_context(&self, bytes: &[u8], needs: Vec<Need>) -> ProcessPool {
        ProcessPool {
            shared: Arc::clone(&self.shared),
            owner: self.owner,
            is_first: false,
            context: Arc::new(Surroundings::here(bytes)),
            needs: Needs::same(needs),
        }
    }

    /// The same pool, with the same surroundings, for jobs whose tasks need this.
    pub fn needing(&self, needs: Needs) -> ProcessPool {
        ProcessPool {
            shared: Arc::clone(&self.shared),
            owner: self.owner,
            is_first: false,
            context: Arc::clone(&self.context),
            needs,
        }
    }

    /// The number of a function, for [`RemoteProgram::function`]; to be given to
    /// [`ProcessPool::submit`], which lets go of it when the job has ended.
    ///
    /// `segments` are those that the bytes refer to. `keep` is what must not go before every worker has
    /// forgotten the function, or is gone. It is dropped in any thread and under the pool's lock: that
    /// must be quick and must not wait.
    pub fn function(
        &self,
        bytes: &[u8],
        segments: &[SegmentId],
        keep: Option<Box<dyn Any + Send>>,
    ) -> u32 {
        let mut state = lock(&self.shared.state);
        state.functions.acquire(bytes, segments, keep)
    }

    /// Lets go of functions that will not be given to [`ProcessPool::submit`] after all.
    pub fn forget_functions(&self, functions: &[u32]) {
        let mut state = lock(&self.shared.state);
        for &function in functions {
            state.release_function(function);
        }
        state.send_all();
        drop(state);
        self.shared.wake_reactor();
    }

    /// Submits a job that uses these functions. After [`ProcessPool::shutdown`] it is cancelled at once.
    pub fn submit(
        &self,
        spec: JobSpec,
        program: Arc<dyn RemoteProgram>,
        functions: Vec<u32>,
    ) -> Job {
        self.submit_relayed(spec, program, functions, Relay::Here)
    }

    /// The same, and says where goes what its tasks write to their standard streams.
    pub fn submit_relayed(
        &self,
        spec: JobSpec,
        program: Arc<dyn RemoteProgram>,
        functions: Vec<u32>,
        relay: Relay,
    ) -> Job {
        let mut submitted = None;
        let inbox = Arc::new(Inbox::default());
        // Whatever kept workers from starting may have been mended.
        lock(&self.shared.state).starts = Starts::default();
        let context = match self.shared.ways.routes.add(relay, &inbox) {
            relay::HERE => Arc::clone(&self.context),
            route => Arc::new(Surroundings {
                route,
                is_marked: relay == Relay::CallerByTask,
                bytes: Arc::clone(&self.context.bytes),
            }),
        };
        let known = (Arc::clone(&inbox), Some(context));
        let of_job = (functions, self.needs.clone());
        self.shared.update(|core, hands, now_ns| {
            submitted = Some(core.submit(spec, program, of_job, known, now_ns, hands));
        });
        let id = submitted.unwrap_or_else(|| unreachable!("update runs its closure"));
        let mut state = lock(&self.shared.state);
        // Now that the job is there, or has ended already: before, the pool would have seen its last.
        state.has_begun = true;
        let (is_stopped, ends_with_jobs) = (state.is_stopped, state.options.ends_with_jobs);
        drop(state);
        if is_stopped {
            self.abort_all();
        } else if ends_with_jobs {
            self.shared.wake_reactor();
        }
        Job::new(id, inbox, Arc::<Shared>::clone(&self.shared))
    }

    /// The process ids of the workers that are alive.
    pub fn worker_pids(&self) -> Vec<u32> {
        let state = lock(&self.shared.state);
        state.lines.iter().flatten().map(|line| line.pid).collect()
    }

    /// Whether there is neither a job nor a worker.
    pub fn is_empty(&self) -> bool {
        let state = lock(&self.shared.state);
        state.core.job_ids().is_empty() && state.lines.iter().all(Option::is_none)
    }

    /// Whether there is no job, nor a task of one that has been cancelled.
    pub fn is_at_rest(&self) -> bool {
        lock(&self.shared.state).core.job_ids().is_empty()
    }

    /// Cancels all jobs but those of which only a task is left that may be running. What runs is left to end.
    pub fn cancel_waiting(&self) {
        (self.shared).update(|core, hands, now_ns| core.cancel_waiting(now_ns, hands));
    }

    /// Ends every worker at once, whatever it does; the next job starts new ones. Jobs under way
    /// fail as cancelled. Returns when all are gone.
    pub fn kill_workers(&self) {
        // First of all: the reactor may be waiting for somebody to take a worker's output.
        let _hurrying = self.shared.ways.hurry.begin();
        self.abort_all();
        let mut state = lock(&self.shared.state);
        let mut killed = Vec::new();
        for line in state.lines.iter_mut().flatten() {
            line.is_killed = true;
            line.kill();
            killed.push(line.pid);
        }
        let is_any_left = |state: &mut State| {
            let mut lines = state.lines.iter().flatten();
            state.has_reactor && lines.any(|line| killed.contains(&line.pid))
        };
        let changed = &self.shared.changed;
        drop(changed.wait_timeout_while(state, KILL_WAIT, is_any_left));
    }

    /// Cancels all jobs and begins to end the workers, busy ones by force.
    pub fn begin_shutdown(&self) {
        if !self.owner.is_elsewhere() {
            lock(&self.shared.state).is_stopped = true;
            self.abort_all();
            self.shared.wake_reactor();
        }
    }

    /// After [`ProcessPool::begin_shutdown`]: whether all workers are gone, waiting for it. It takes
    /// as long as somebody takes to read what they have written last.
    pub fn wait_for_shutdown(&self, timeout: Duration) -> bool {
        if self.owner.is_elsewhere() {
            return true;
        }
        let state = lock(&self.shared.state);
        let is_going_on = |state: &mut State| state.has_reactor;
        let waited = (self.shared.changed).wait_timeout_while(state, timeout, is_going_on);
        !waited.unwrap_or_else(|e| e.into_inner()).0.has_reactor
    }

    /// Cancels all jobs and ends the workers; returns when they are gone. Does not wait for somebody
    /// to read what they have written last.
    pub fn shutdown(&self) {
        self.shared.ways.hurry.begin_for_good();
        self.begin_shutdown();
        self.wait_for_shutdown(SHUTDOWN_WAIT);
    }

    fn abort_all(&self) {
        self.shared.update(|core, hands, now_ns| {
            for id in core.job_ids() {
                core.abort(id, Failure::Cancelled, now_ns, hands);
            }
        });
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        if !self.is_first || self.owner.is_elsewhere() {
            return;
        }
        let mut state = lock(&self.shared.state);
        if !state.options.ends_with_jobs {
            drop(state);
            self.shutdown();
        } else if !state.has_begun {
            state.is_stopped = true;
            drop(state);
            self.shared.wake_reactor();
        }
    }
}

impl std::fmt::Debug for ProcessPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessPool").finish_non_exhaustive()
    }
}

impl Control for Shared {
    fn on_job(&self, id: JobId, inbox: &Arc<Inbox>, event: Event<'_>) -> bool {
        let mut is_taken = true;
        self.update(|core, hands, now_ns| {
            is_taken = core.on_job(inbox, id, event, now_ns, hands);
        });
        is_taken
    }

    fn is_running(&self, id: JobId, inbox: &Arc<Inbox>, index: TaskIndex) -> bool {
        lock(&self.state).core.is_running(id, inbox, index)
    }

    fn standing(&self, id: JobId, inbox: &Arc<Inbox>) -> Option<Standing> {
        lock(&self.state).core.standing(id, inbox)
    }
}
