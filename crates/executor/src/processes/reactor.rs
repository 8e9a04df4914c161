//! The reactor: the thread that reads from workers, starts them and sees them to their end.

use super::child::{Child, Workers};
use super::guard::{Guard, Watched};
use super::outbox::Waiting;
use super::relief::Relief;
use super::{Descriptor, Line, Shared, Starts, State};
use crate::connection::{Breach, DESCRIPTORS_PAUSE, Descriptors};
use crate::job::{Failure, lock};
use crate::relay::Said;
use crate::stock::Pinned;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{Ending, Event, JobId, Report, TaskId, WorkerId};
use manyhands_store::SegmentId;
use manyhands_wire::{self as wire, FrameReader, Message, PROTOCOL_VERSION, ResultEntry, TaskKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

const READ_BYTES: usize = 1 << 18;
/// Whoever sleeps for so much longer than he wanted was stopped.
const STOPPED: Duration = Duration::from_secs(1);
/// How long workers may take to end by themselves when the pool is shut down.
const STOP_WAIT: Duration = Duration::from_millis(1000);

/// A worker, as far as reading from it goes.
pub(super) struct Peer {
    pub(super) child: Child,
    socket: Arc<Descriptor>,
    reader: FrameReader,
    descriptors: Descriptors,
    /// The number under which it allocates shared memory; zero for none.
    owner: u32,
    pub(super) is_ready: bool,
    since: Instant,
    /// It was not ready in time, and was ended.
    is_overdue: bool,
    is_gone: bool,
    /// Of a forked worker: what it sees of the memory of others stays as it is until it is gone.
    pub(super) pinned: Option<Pinned>,
    /// What is known of its memory.
    pub(super) watched: Watched,
}

impl Peer {
    pub(super) fn new(child: Child, owner: u32, socket: Arc<Descriptor>) -> Peer {
        Peer {
            child,
            socket,
            reader: FrameReader::default(),
            descriptors: Descriptors::default(),
            owner,
            is_ready: false,
            since: Instant::now(),
            is_overdue: false,
            is_gone: false,
            pinned: None,
            watched: Watched::default(),
        }
    }

    /// How much time it has left to become ready, if it has to.
    fn left_to_start(&self, limit: Duration) -> Option<Duration> {
        let is_starting = !self.is_ready && !self.is_overdue;
        is_starting.then(|| limit.saturating_sub(self.since.elapsed()))
    }
}

struct Reactor {
    wake: Arc<Descriptor>,
    peers: Vec<Option<Peer>>,
    reports: Vec<Report>,
    idle_since: Option<Instant>,
    relief: Relief,
    guard: Guard,
}

/// The thread's life.
pub(super) fn run(shared: &Shared) {
    let Some(wake) = shared.wake.descriptor() else {
        unreachable!("only the reactor closes it, at its end");
    };
    let mut reactor = Reactor {
        wake,
        peers: Vec::new(),
        reports: Vec::new(),
        idle_since: None,
        relief: Relief::default(),
        guard: Guard::default(),
    };
    // A defect here must end in errors, not in everybody waiting for ever.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        while !lock(&shared.state).is_over() {
            reactor.start_missing(shared);
            reactor.wait_and_read(shared);
            let before = Instant::now();
            reactor.relief.relieve(shared);
            reactor.guard.look(shared, &mut reactor.peers);
            reactor.forgive(before.elapsed());
            reactor.end_late_starters(shared);
            reactor.keep_time(shared);
        }
        let is_stopped = lock(&shared.state).is_stopped;
        reactor.stop_all(shared);
        if !is_stopped {
            reactor.relief.finish(shared);
        }
    }));
    let mut state = lock(&shared.state);
    state.is_stopped = true;
    state.has_reactor = false;
    let never = Workers::Forked(Arc::new(|| ()));
    let workers = std::mem::replace(&mut state.options.workers, never);
    if outcome.is_err() {
        state.starts.last_failure = "the engine met a defect of its own; please report it".into();
        give_up(shared, &mut state);
    }
    let stock = state.options.stock.take();
    let returns = Arc::clone(&state.returns);
    drop(state);
    shared.changed.notify_all();
    // Without the lock: whoever would have forked workers may hold on to the pool.
    drop(workers);
    // Whoever holds on to a job or a result of this pool need not hold what only workers need.
    if let Some(stock) = stock {
        stock.remove_pool(&returns);
    }
    drop(reactor);
    shared.wake.close();
}

impl Reactor {
    fn start_missing(&mut self, shared: &Shared) {
        let mut state = lock(&shared.state);
        self.take_arrivals(&mut state);
        while state.n_missing() > 0 {
            let workers = state.options.workers.clone();
            let command = match workers {
                Workers::Started(command) => command,
                Workers::Forked(call_for_workers) => {
                    drop(state);
                    call_for_workers();
                    return;
                }
            };
            let owner = state.new_owner();
            drop(state);
            let spawned = Child::spawn(&command, owner, &shared.ways);
            state = lock(&shared.state);
            match spawned {
                Ok((child, socket)) => self.add(&mut state, child, owner, Arc::new(socket)),
                Err(error) => {
                    let program = command.program.to_string_lossy();
                    let text = format!("cannot start a worker with {program:?}: {error}");
                    state.starts.refused(text);
                }
            }
        }
        // With fewer workers than wanted the work goes on; without any it cannot.
        if state.starts.is_hopeless() && state.n_live() == 0 {
            give_up(shared, &mut state);
        }
    }

    fn add(&mut self, state: &mut State, child: Child, owner: u32, socket: Arc<Descriptor>) {
        let at = state.add_line(Line::new(Arc::clone(&socket), &child, owner));
        self.put(at, Peer::new(child, owner, socket));
    }

    fn put(&mut self, at: usize, peer: Peer) {
        if at >= self.peers.len() {
            self.peers.resize_with(at + 1, || None);
        }
        self.peers[at] = Some(peer);
    }

    /// Takes over the workers that others have forked.
    fn take_arrivals(&mut self, state: &mut State) {
        for (at, peer) in std::mem::take(&mut state.arrivals) {
            self.put(at, peer);
        }
    }

    /// Sleeps until something can be read, written or ended, and does it.
    fn wait_and_read(&mut self, shared: &Shared) {
        let (mut timeout, is_blocked) = self.look(shared);
        for peer in self.peers.iter_mut().flatten() {
            if let Some(due) = peer.child.relay_old_parts() {
                let left = due.saturating_duration_since(Instant::now());
                timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
            }
        }
        let before = Instant::now();
        let ready = self.poll(timeout, &is_blocked, !self.relief.is_halting);
        let late = timeout.map_or(Duration::ZERO, |timeout| {
            before.elapsed().saturating_sub(timeout)
        });
        // This process was stopped, and its workers may have been as well; or nobody has listened to them.
        match self.relief.is_halting {
            true => self.forgive(before.elapsed()),
            false if late > STOPPED => self.forgive(late),
            false => {}
        }
        for (at, flags) in ready {
            let Some(peer) = self.peers[at].as_mut() else {
                continue;
            };
            if flags.is_readable {
                self.reports.clear();
                read(shared, at, peer, &mut self.reports);
            } else {
                peer.child.relay();
            }
            if flags.is_writable
                && let Some(Some(line)) = lock(&shared.state).lines.get_mut(at)
            {
                line.outbox.send(&line.socket);
            }
            if flags.is_ended || peer.is_gone {
                self.bury(shared, at);
            }
        }
    }

    /// How long to sleep, and which workers have unsent bytes.
    fn look(&mut self, shared: &Shared) -> (Option<Duration>, Vec<bool>) {
        let mut state = lock(&shared.state);
        state.send_all();
        self.guard.wake(&mut state);
        let waiting = |line: &Option<Line>| line.as_ref().map(|line| line.outbox.waiting());
        let is_for_room = |line| waiting(line) == Some(Waiting::Room);
        let is_blocked = state.lines.iter().map(is_for_room).collect();
        let is_pausing = |line| waiting(line) == Some(Waiting::Descriptors);
        let pause = (state.lines.iter().any(is_pausing)).then_some(DESCRIPTORS_PAUSE);
        let deadline =
            state.core.scheduler.deadline_ns().map(|deadline_ns| {
                Duration::from_nanos(deadline_ns.saturating_sub(shared.now_ns()))
            });
        let idle = self.idle_since.and_then(|since| {
            let idle_timeout = state.options.idle_timeout?;
            Some(idle_timeout.saturating_sub(since.elapsed()))
        });
        let limit = state.options.start_limit;
        // While nothing is read, nobody could say that he is ready.
        let starting = self
            .peers
            .iter()
            .flatten()
            .filter(|_| !self.relief.is_halting);
        let start = starting.filter_map(|peer| peer.left_to_start(limit)).min();
        let relief = self.relief.is_due_in();
        let guard = self.guard.is_due_in();
        let timeout = [deadline, idle, pause, start, relief, guard];
        let timeout = timeout.into_iter().flatten().min();
        (timeout, is_blocked)
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        is_blocked: &[bool],
        is_listening: bool,
    ) -> Vec<(usize, Ready)> {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        let mut owners = Vec::new();
        for (at, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            let mut wanted = match is_listening {
                true => PollFlags::IN,
                false => PollFlags::empty(),
            };
            if is_blocked.get(at) == Some(&true) {
                wanted |= PollFlags::OUT;
            }
            fds.push(PollFd::new(&peer.socket, wanted));
            owners.push((at, Role::Socket));
            if let Some(pidfd) = &peer.child.pidfd {
                fds.push(PollFd::new(pidfd, PollFlags::IN));
                owners.push((at, Role::Process));
            }
            for pipe in peer.child.pipes() {
                fds.push(PollFd::new(pipe, PollFlags::IN));
                owners.push((at, Role::Output));
            }
        }
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        // Interrupted or not, what is ready is found in the flags.
        let _ = poll(&mut fds, timeout.as_ref());
        if !fds[0].revents().is_empty() {
            let mut count = [0u8; 8];
            let _ = rustix::io::read(&self.wake, &mut count[..]);
        }
        gather(&fds[1..], &owners)
    }

    /// A worker has ended: takes its last words, tells the scheduler, and forgets it.
    fn bury(&mut self, shared: &Shared, at: usize) {
        let Some(mut peer) = self.peers[at].take() else {
            return;
        };
        self.reports.clear();
        while !peer.is_gone && read(shared, at, &mut peer, &mut self.reports) {}
        let mut was_retired = false;
        if let Some(Some(line)) = lock(&shared.state).lines.get_mut(at) {
            line.is_ended = true;
            was_retired = line.is_retired;
        }
        let mut death = peer.child.bury(was_retired);
        self.guard.explain(&mut death, &mut peer.watched);
        let running = peer.child.status.as_ref().and_then(|status| status.get());
        peer.child.give_up(running);
        let running = running.map(task_id);
        let mut state = lock(&shared.state);
        let line = state.lines.get_mut(at).and_then(Option::take);
        let was_held = line.as_ref().is_some_and(|line| line.is_held);
        let was_killed = line.is_some_and(|line| line.is_killed);
        if let Some(stock) = &state.options.stock {
            stock.owner_died(peer.owner);
        }
        if peer.is_ready && !was_retired && !was_held {
            state.starts = Starts::default();
            let now_ns = shared.now_ns();
            let worker = WorkerId(at as u32);
            state.act(|core, hands| {
                core.on_worker_lost(worker, running, death, now_ns, hands);
            });
        } else if !peer.is_ready && !was_killed {
            let limit = state.options.start_limit;
            let overdue = peer.is_overdue.then_some(limit);
            state.starts.failed(&death, overdue);
        }
        drop(state);
        shared.changed.notify_all();
    }

    /// For so long nobody has looked whether workers are ready: it does not count.
    fn forgive(&mut self, missed: Duration) {
        for peer in self.peers.iter_mut().flatten() {
            peer.since += missed;
        }
    }

    /// Ends workers that are not ready in time: nothing else would ever be heard of them.
    fn end_late_starters(&mut self, shared: &Shared) {
        let is_any_starting = self.peers.iter().flatten().any(|peer| !peer.is_ready);
        if !is_any_starting || self.relief.is_halting {
            return;
        }
        let limit = lock(&shared.state).options.start_limit;
        for peer in self.peers.iter_mut().flatten() {
            if peer.left_to_start(limit) == Some(Duration::ZERO) {
                peer.is_overdue = true;
                peer.child.kill();
            }
        }
    }

    /// Ticks, and the end of workers that have been idle for too long.
    fn keep_time(&mut self, shared: &Shared) {
        let mut state = lock(&shared.state);
        let now_ns = shared.now_ns();
        let deadline_ns = state.core.scheduler.deadline_ns();
        if deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            state.act(|core, hands| core.on(Event::Tick, now_ns, hands));
        }
        if state.core.scheduler.has_work() || state.n_live() == 0 {
            self.idle_since = None;
            return;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        let n_workers = state.options.n_workers;
        state.retire_idle(n_workers, now_ns);
        let is_over = |idle_timeout| since.elapsed() >= idle_timeout;
        if state.options.idle_timeout.is_some_and(is_over) {
            state.retire_idle(0, now_ns);
            self.idle_since = None;
        }
    }

    fn stop_all(&mut self, shared: &Shared) {
        let mut state = lock(&shared.state);
        // From here on nobody forks a worker for this pool.
        state.is_stopped = true;
        self.take_arrivals(&mut state);
        let now_ns = shared.now_ns();
        state.retire_idle(0, now_ns);
        for line in state.lines.iter_mut().flatten() {
            line.outbox.send(&line.socket);
            if !line.is_retired {
                line.kill();
            }
        }
        drop(state);
        let deadline = Instant::now() + STOP_WAIT;
        while self.peers.iter().any(Option::is_some) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                for peer in self.peers.iter_mut().flatten() {
                    peer.child.kill();
                }
            }
            let timeout = left.max(Duration::from_millis(20));
            for (at, flags) in self.poll(Some(timeout), &[], true) {
                let Some(peer) = self.peers[at].as_mut() else {
                    continue;
                };
                if flags.is_readable {
                    read(shared, at, peer, &mut self.reports);
                } else {
                    peer.child.relay();
                }
                if flags.is_ended || peer.is_gone {
                    self.bury(shared, at);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Role {
    Socket,
    Process,
    Output,
}

#[derive(Clone, Copy, Default)]
struct Ready {
    is_readable: bool,
    is_writable: bool,
    is_ended: bool,
}

/// What is ready, once for each worker, in the order of their numbers.
fn gather(fds: &[PollFd<'_>], owners: &[(usize, Role)]) -> Vec<(usize, Ready)> {
    let mut ready: Vec<(usize, Ready)> = Vec::new();
    for (fd, &(at, role)) in fds.iter().zip(owners) {
        let flags = fd.revents();
        if flags.is_empty() {
            continue;
        }
        if ready.last().is_none_or(|(last, _)| *last != at) {
            ready.push((at, Ready::default()));
        }
        let Some((_, entry)) = ready.last_mut() else {
            continue;
        };
        match role {
            Role::Socket => {
                entry.is_writable |= flags.contains(PollFlags::OUT);
                entry.is_readable |= flags.intersects(!PollFlags::OUT);
            }
            Role::Process => entry.is_ended = true,
            Role::Output => {}
        }
    }
    ready
}

pub(super) fn task_id(task: TaskKey) -> TaskId {
    TaskId {
        job: JobId(task.job),
        index: TaskIndex(task.index),
    }
}

/// Reads once from a worker and acts on whole messages; says whether there was anything to read.
fn read(shared: &Shared, at: usize, peer: &mut Peer, reports: &mut Vec<Report>) -> bool {
    let room = peer.reader.room(READ_BYTES);
    let n_room = room.len();
    let received = (peer.descriptors).receive(&peer.socket, room, RecvFlags::DONTWAIT);
    let n_bytes = match received {
        Ok(n_bytes) => n_bytes,
        Err(Errno::INTR | Errno::AGAIN) => {
            peer.reader.filled(n_room, 0);
            peer.child.relay();
            return false;
        }
        Err(_) => 0,
    };
    peer.reader.filled(n_room, n_bytes);
    // What was printed before these bytes were sent appears before they are acted upon.
    peer.child.relay();
    peer.child.relay_parts();
    if n_bytes == 0 {
        peer.is_gone = true;
        return false;
    }
    let was_ready = peer.is_ready;
    let mut state = lock(&shared.state);
    let is_sound = loop {
        match peer.reader.next_message() {
            Ok(None) => break peer.descriptors.check().is_ok(),
            Ok(Some(Message::Segment(id))) => {
                if take_segment(&state, peer.owner, &mut peer.descriptors, SegmentId(id)).is_err() {
                    break false;
                }
            }
            Ok(Some(message)) => {
                if !take(shared, &mut state, at, message, &mut peer.is_ready, reports) {
                    break false;
                }
            }
            Err(_) => break false,
        }
    };
    drop(state);
    if !is_sound {
        // Something else writes to the connection; the worker cannot be trusted.
        peer.child.kill();
        peer.is_gone = true;
    }
    if peer.is_ready && !was_ready {
        peer.watched.note(peer.child.pid());
    }
    if peer.is_ready {
        // Without the lock: whoever reads the output may be waiting for it.
        peer.child.let_out();
    }
    true
}

/// A worker has a new segment, of which results that follow may be part.
fn take_segment(
    state: &State,
    owner: u32,
    descriptors: &mut Descriptors,
    segment: SegmentId,
) -> Result<(), Breach> {
    let descriptor = descriptors.next()?;
    match (&state.options.stock, descriptor) {
        (Some(stock), Some(fd)) if segment.owner() == owner => stock.foreign.adopt(segment, fd),
        // Too many files are open here: whoever reads results in this segment is told.
        (Some(_), None) => {}
        _ => return Err(Breach),
    }
    Ok(())
}

/// Acts on a message; `false` if a worker has no business to send it.
fn take(
    shared: &Shared,
    state: &mut State,
    at: usize,
    message: Message<'_>,
    is_ready: &mut bool,
    reports: &mut Vec<Report>,
) -> bool {
    let worker = WorkerId(at as u32);
    let now_ns = shared.now_ns();
    match message {
        Message::Ready(version) if version == PROTOCOL_VERSION && !*is_ready => {
            *is_ready = true;
            state.starts = Starts::default();
            // The pool may have been made smaller since this worker was started.
            let is_too_many = state.n_live() > state.options.n_workers;
            let is_held = state.is_held;
            if let Some(Some(line)) = state.lines.get_mut(at) {
                line.is_ready = true;
                if is_too_many {
                    line.retire();
                    return true;
                }
                line.is_held = is_held;
            }
            if is_held {
                return true;
            }
            state.act(|core, hands| core.on(Event::WorkerJoined(worker), now_ns, hands));
        }
        Message::Results(results) => {
            reports.clear();
            let mut results = results.peekable();
            while let Some(job) = results.peek().map(|result| JobId(result.task.job)) {
                let own = |result: &ResultEntry<'_>| result.task.job == job.0;
                let group = std::iter::from_fn(|| results.next_if(own));
                let entry = state.core.entry(job);
                let goes_on = entry.is_some_and(|entry| entry.program.goes_on_after_failures());
                let mut reported = group.map(|result| {
                    let task = task_id(result.task);
                    let ending = match result.ending {
                        wire::Ending::Returned => Ending::Returned,
                        wire::Ending::Failed => Ending::Failed,
                        wire::Ending::Retriable => Ending::Retriable,
                        wire::Ending::Fatal => Ending::Fatal,
                    };
                    let counted = if goes_on { Ending::Returned } else { ending };
                    Report::one(task, result.duration_ns, counted).push_to(reports);
                    (task.index, ending.is_ok(), result.bytes)
                });
                match entry {
                    Some(entry) => entry.program.store(&mut reported),
                    None => reported.for_each(drop),
                }
            }
            state.act(|core, hands| core.on(Event::Finished(worker, reports), now_ns, hands));
        }
        Message::Report(report) => {
            if let Some(entry) = state.core.entry(JobId(report.task.job)) {
                entry.inbox.say(Said::Report {
                    task: TaskIndex(report.task.index),
                    number: report.number,
                    bytes: report.bytes.to_vec(),
                });
            }
        }
        Message::TakenBack(tasks) => {
            let tasks: Vec<_> = tasks.map(task_id).collect();
            state.act(|core, hands| core.on(Event::TakenBack(worker, &tasks), now_ns, hands));
        }
        Message::Forgotten(functions) => {
            let Some(Some(line)) = state.lines.get_mut(at) else {
                return true;
            };
            return functions
                .into_iter()
                .all(|function| line.forgotten(function));
        }
        _ => return false,
    }
    true
}

/// No worker will come: every job that waits for one fails.
fn give_up(shared: &Shared, state: &mut State) {
    let now_ns = shared.now_ns();
    // The next job tries again.
    let text = std::mem::take(&mut state.starts).last_failure;
    state.act(|core, hands| {
        for id in core.job_ids() {
            core.abort(id, Failure::NoWorkers(text.clone()), now_ns, hands);
        }
    });
}
