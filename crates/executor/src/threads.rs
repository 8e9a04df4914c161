//! Runs jobs in threads of this process.
//!
//! Each thread has a lane: the tasks it was given. It takes them one by one, so that they can
//! be taken back until they start, and reports in batches. The thread that reports is the one that
//! drives the scheduler; nobody else is needed but a clock that mostly sleeps.
//!
//! Locks are taken in this order: the pool's, a lane's, a job's inbox.

mod clock;
mod lane;

use crate::core::{Core, Entry, Hands};
use crate::inline::survive;
use crate::job::{Control, Failure, Inbox, Job, lock};
use crate::owner::Owner;
use crate::program::{Death, Program, ThreadHook};
use crate::watch::Standing;
pub use lane::is_given_up;
use lane::{Group, Lane};
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{Event, JobId, JobSpec, Needs, Sight, Supply, TaskId, TimeNs, WorkerId};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Instant;

/// A pool of threads. Dropping it ends the threads once their tasks have ended.
pub struct ThreadPool {
    shared: Arc<Shared>,
    owner: Owner,
}

struct Shared {
    state: Mutex<State>,
    epoch: Instant,
    hook: Arc<dyn ThreadHook>,
    /// Wakes the clock.
    clock: Condvar,
    /// Whether the clock will look at the lanes' reports without being woken.
    is_clock_awake: AtomicBool,
    own: Weak<Shared>,
}

struct State {
    core: Core<dyn Program>,
    lanes: Vec<Option<Arc<Lane>>>,
    n_lanes: usize,
    n_wanted: usize,
    is_stopped: bool,
    has_clock: bool,
    /// When the clock will look next, if nobody wakes it.
    clock_looks_at_ns: TimeNs,
    leftovers: Leftovers,
}

/// What is dropped, or has results dropped, once the lock is let go: user code runs at it.
#[derive(Default)]
struct Leftovers {
    released: Vec<(Arc<dyn Program>, TaskIndex)>,
    ended: Vec<Entry<dyn Program>>,
}

struct LaneHands<'a> {
    lanes: &'a mut Vec<Option<Arc<Lane>>>,
    n_lanes: &'a mut usize,
    leftovers: &'a mut Leftovers,
    is_stopped: bool,
    taken_back: Vec<(WorkerId, Vec<TaskId>)>,
    killed: Vec<WorkerId>,
}

impl Hands<dyn Program> for LaneHands<'_> {
    fn start(
        &mut self,
        worker: WorkerId,
        job: JobId,
        entry: &Entry<dyn Program>,
        tasks: &[TaskIndex],
    ) {
        if let Some(Some(lane)) = self.lanes.get(worker.0 as usize) {
            lane.give(Group {
                job,
                program: Arc::clone(&entry.program),
                tasks: tasks.iter().copied().collect(),
            });
        }
    }

    fn take_back(&mut self, worker: WorkerId, tasks: &[TaskId]) {
        if let Some(Some(lane)) = self.lanes.get(worker.0 as usize) {
            self.taken_back.push((worker, lane.take_back(tasks)));
        }
    }

    fn kill(&mut self, worker: WorkerId) {
        self.killed.push(worker);
    }

    fn look(&mut self, _worker: WorkerId) -> Sight {
        // A thread that runs for too long could not be ended: jobs have no limits here.
        Sight::Nothing
    }

    fn release(&mut self, program: &Arc<dyn Program>, task: TaskIndex) {
        let released = &mut self.leftovers.released;
        released.push((Arc::clone(program), task));
    }

    fn has_failed(&self, program: &dyn Program, task: TaskIndex) -> bool {
        program.has_failed(task)
    }

    fn job_done(&mut self, entry: Entry<dyn Program>) {
        self.leftovers.ended.push(entry);
    }
}

impl LaneHands<'_> {
    /// Whether this lane is still one of the pool's.
    fn is_lane(&self, lane: &Lane) -> bool {
        let own = self.lanes.get(lane.id.0 as usize);
        matches!(own, Some(Some(own)) if std::ptr::eq(&**own, lane))
    }

    /// Takes a lane from the pool. A thread cannot be ended: it is left to itself.
    fn give_up(&mut self, worker: WorkerId) {
        if let Some(lane) = self.lanes[worker.0 as usize].take() {
            lane.stop();
            *self.n_lanes -= 1;
        }
    }
}

impl Default for State {
    fn default() -> Self {
        State {
            core: Core::default(),
            lanes: Vec::new(),
            n_lanes: 0,
            n_wanted: 0,
            is_stopped: false,
            has_clock: false,
            clock_looks_at_ns: TimeNs::MAX,
            leftovers: Leftovers::default(),
        }
    }
}

impl State {
    /// Tells the scheduler, and then what its commands led to in turn.
    fn on(&mut self, shared: &Shared, act: impl FnOnce(&mut Core<dyn Program>, &mut LaneHands)) {
        let mut hands = LaneHands {
            lanes: &mut self.lanes,
            n_lanes: &mut self.n_lanes,
            leftovers: &mut self.leftovers,
            is_stopped: self.is_stopped,
            taken_back: Vec::new(),
            killed: Vec::new(),
        };
        act(&mut self.core, &mut hands);
        let now_ns = shared.now_ns();
        loop {
            if let Some((worker, tasks)) = hands.taken_back.pop() {
                let event = Event::TakenBack(worker, &tasks);
                self.core.on(event, now_ns, &mut hands);
            } else if let Some(worker) = hands.killed.pop() {
                hands.give_up(worker);
                let death = Death::default();
                self.core
                    .on_worker_lost(worker, None, death, now_ns, &mut hands);
            } else {
                break;
            }
        }
    }

    /// Ends all jobs for one reason.
    fn abort_all(&mut self, shared: &Shared, failure: &Failure) {
        let now_ns = shared.now_ns();
        self.on(shared, |core, hands| {
            for id in core.job_ids() {
                core.abort(id, failure.clone(), now_ns, hands);
            }
        });
    }

    /// Lets threads go that are too many and have nothing to do.
    fn end_surplus(&mut self, shared: &Shared) {
        for at in (0..self.lanes.len()).rev() {
            if self.n_lanes <= self.n_wanted {
                return;
            }
            let worker = WorkerId(at as u32);
            if self.lanes[at].is_some() && self.core.scheduler.is_idle(worker) {
                self.on(shared, |_, hands| hands.kill(worker));
            }
        }
    }
}

impl Shared {
    fn now_ns(&self) -> TimeNs {
        self.epoch.elapsed().as_nanos() as TimeNs
    }

    /// Changes the state, then does what must be done without the lock.
    fn update(&self, act: impl FnOnce(&mut Core<dyn Program>, &mut LaneHands, TimeNs)) {
        let mut state = lock(&self.state);
        let now_ns = self.now_ns();
        state.on(self, |core, hands| act(core, hands, now_ns));
        self.settle(state);
    }

    /// Brings the threads to their number, wakes the clock, lets the lock go and drops what is left over.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        if !state.is_stopped {
            state.end_surplus(self);
            self.start_missing(&mut state);
            let deadline_ns = state.core.scheduler.deadline_ns();
            if deadline_ns.is_some_and(|deadline_ns| deadline_ns < state.clock_looks_at_ns) {
                self.start_clock(&mut state);
                self.clock.notify_one();
            }
        }
        let Leftovers { released, ended } = std::mem::take(&mut state.leftovers);
        drop(state);
        for group in released.chunk_by(|a, b| Arc::ptr_eq(&a.0, &b.0)) {
            let tasks: Vec<_> = group.iter().map(|(_, task)| *task).collect();
            survive(|| group[0].0.release(&tasks));
        }
        survive(|| drop((released, ended)));
    }

    /// Sees to it that reports in the lanes grow no older than they may.
    fn wake_clock(&self) {
        if !self.is_clock_awake.swap(true, Ordering::SeqCst) {
            let mut state = lock(&self.state);
            self.start_clock(&mut state);
            self.clock.notify_one();
        }
    }

    fn start_clock(&self, state: &mut State) {
        if state.has_clock || state.is_stopped {
            return;
        }
        let Some(shared) = self.own.upgrade() else {
            return;
        };
        let builder = std::thread::Builder::new().name("manyhands-clock".into());
        // Without a clock, reports and the ending of overdue tasks are late; it is tried again.
        state.has_clock = builder.spawn(move || clock::watch(&shared)).is_ok();
        if !state.has_clock {
            self.is_clock_awake.store(false, Ordering::SeqCst);
        }
    }

    fn start_missing(&self, state: &mut State) {
        while state.n_lanes < state.n_wanted {
            if let Err(error) = self.start_thread(state) {
                // With fewer threads than wanted the work goes on; they are tried for again.
                if state.n_lanes == 0 {
                    let reason = format!("no thread could be started: {error}");
                    state.abort_all(self, &Failure::NoWorkers(reason));
                }
                return;
            }
        }
    }

    fn start_thread(&self, state: &mut State) -> io::Result<()> {
        let shared = (self.own.upgrade())
            .ok_or_else(|| io::Error::other("the pool of threads is being dropped"))?;
        let at = (state.lanes.iter().position(Option::is_none)).unwrap_or(state.lanes.len());
        let id = WorkerId(at as u32);
        let lane = Arc::new(Lane::new(id));
        let builder = std::thread::Builder::new().name(format!("manyhands-{at}"));
        builder.spawn({
            let lane = Arc::clone(&lane);
            move || lane::work(&shared, &lane)
        })?;
        if at == state.lanes.len() {
            state.lanes.push(None);
        }
        state.lanes[at] = Some(lane);
        state.n_lanes += 1;
        let now_ns = self.now_ns();
        state.on(self, |core, hands| {
            core.on(Event::WorkerJoined(id), now_ns, hands);
        });
        Ok(())
    }
}

impl ThreadPool {
    /// A pool of `n_threads` threads, each of which calls the hook first.
    pub fn new(n_threads: usize, hook: Arc<dyn ThreadHook>) -> ThreadPool {
        let shared = Arc::new_cyclic(|own| Shared {
            state: Mutex::default(),
            epoch: Instant::now(),
            hook,
            clock: Condvar::new(),
            is_clock_awake: AtomicBool::new(false),
            own: own.clone(),
        });
        let owner = Owner::current();
        let pool = ThreadPool { shared, owner };
        pool.resize(n_threads);
        pool
    }

    /// Changes the number of threads. Threads too many end as soon as they have nothing to do.
    pub fn resize(&self, n_threads: usize) {
        let mut state = lock(&self.shared.state);
        state.n_wanted = n_threads.max(1);
        self.shared.settle(state);
    }

    /// How many threads there are.
    pub fn n_threads(&self) -> usize {
        lock(&self.shared.state).n_lanes
    }

    /// How much there is of each resource, from now on; see [`Scheduler::set_supplies`].
    ///
    /// [`Scheduler::set_supplies`]: manyhands_scheduler::Scheduler::set_supplies
    pub fn set_supplies(&self, supplies: &[Supply]) {
        lock(&self.shared.state)
            .core
            .scheduler
            .set_supplies(supplies);
        self.shared
            .update(|core, hands, now_ns| core.on(Event::Tick, now_ns, hands));
    }

    /// Submits a job. After [`ThreadPool::shutdown`] it is cancelled at once.
    ///
    /// A limit for how long tasks may run cannot be kept here, and is not.
    pub fn submit(&self, spec: JobSpec, program: Arc<dyn Program>) -> Job {
        self.submit_needing(spec, program, Needs::default())
    }

    /// The same for a job whose tasks need something while they run. A thread that is given up lets go of
    /// it although its task may go on.
    pub fn submit_needing(
        &self,
        mut spec: JobSpec,
        program: Arc<dyn Program>,
        needs: Needs,
    ) -> Job {
        spec.rules.limit_ns = None;
        let mut submitted = None;
        self.shared.update(|core, hands, now_ns| {
            let inbox = Arc::new(Inbox::default());
            let known = (Arc::clone(&inbox), None);
            let id = core.submit(spec, program, (Vec::new(), needs), known, now_ns, hands);
            if hands.is_stopped {
                core.abort(id, Failure::Cancelled, now_ns, hands);
            }
            submitted = Some((id, inbox));
        });
        let (id, inbox) = submitted.unwrap_or_else(|| unreachable!("update runs its closure"));
        Job::new(id, inbox, Arc::<Shared>::clone(&self.shared))
    }

    /// Whether there is no job, nor a task of one that has been cancelled.
    pub fn is_at_rest(&self) -> bool {
        lock(&self.shared.state).core.job_ids().is_empty()
    }

    /// Cancels all jobs but those of which only a task is left that may be running. What runs is left to end.
    pub fn cancel_waiting(&self) {
        (self.shared).update(|core, hands, now_ns| core.cancel_waiting(now_ns, hands));
    }

    /// Cancels all jobs. Threads that are amid a task are left to themselves; others take their place.
    pub fn cancel_all(&self) {
        let mut state = lock(&self.shared.state);
        state.abort_all(&self.shared, &Failure::Cancelled);
        self.shared.settle(state);
    }

    /// Cancels all jobs and ends the threads as soon as their running tasks end. Does nothing in a
    /// process forked from the pool's.
    pub fn shutdown(&self) {
        if self.owner.is_elsewhere() {
            return;
        }
        let mut state = lock(&self.shared.state);
        state.is_stopped = true;
        state.abort_all(&self.shared, &Failure::Cancelled);
        for at in 0..state.lanes.len() {
            if state.lanes[at].is_some() {
                let worker = WorkerId(at as u32);
                state.on(&self.shared, |_, hands| hands.kill(worker));
            }
        }
        self.shared.clock.notify_all();
        self.shared.settle(state);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").finish_non_exhaustive()
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
