//! Keeps workers from taking so much memory that the kernel ends whom it likes: the one that takes the
//! most is stopped first.
//!
//! The reactor looks while there is work, the more often the less is left, and never in the first moment
//! of a call. What counts is what workers take for themselves ([`usage`]); results in
//! shared memory have [a limit of their own](super::relief).

use super::reactor::Peer;
use super::usage::{self, Usage};
use super::{Shared, State};
use crate::job::lock;
use crate::program::{Death, MemoryStop};
use manyhands_scheduler::WorkerId;
use manyhands_store::{Memory, OomKills};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How much memory workers may take for themselves, all together.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum WorkerMemoryLimit {
    /// All but a tenth of what they could have, or all but 4 GiB where that is less.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// This share of what they could have.
    Share(f64),
    /// As much as there is.
    None,
}

/// No look is taken in the first moment of a call.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// How far apart looks are, at least and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// For so long after the last work it is not forgotten that there was some.
const LINGER: Duration = Duration::from_secs(1);
/// How long an excess must last.
const SECOND_LOOK: Duration = Duration::from_millis(20);
/// How long to wait for one worker to let go of its memory before another has to.
const GRIEF: Duration = Duration::from_secs(2);
/// How fast a worker can take memory, in bytes a second.
const RATE: u64 = 4 << 30;
/// How much [`WorkerMemoryLimit::Auto`] leaves, at most.
const N_BYTES_LEFT_MAX: u64 = 4 << 30;
/// A worker that takes less is not what a machine runs out of memory for.
const N_BYTES_LEAST: u64 = 64 << 20;
/// What part of the time may be spent walking through the pages of forked workers.
const WALK_SHARE: u32 = 50;

/// What is known of one worker's memory.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// What a forked worker had in common with its parent when it was forked.
    n_bytes_before: Option<u64>,
    /// What it has copied of that since, by the last walk through its pages.
    n_bytes_copied: u64,
    walk_after: Option<Instant>,
    /// What it takes for itself.
    n_bytes: u64,
    /// The most it was seen to have at once, shared memory included.
    n_bytes_seen: u64,
    /// Why it was stopped, if it was.
    stop: Option<Box<MemoryStop>>,
    /// When it was stopped or asked to end.
    ends_since: Option<Instant>,
}

impl Watched {
    /// Of a worker that has just been forked.
    pub(super) fn forked(pid: u32) -> Watched {
        let usage = usage::of_process(pid).unwrap_or_default();
        Watched {
            n_bytes_before: Some(usage.n_bytes_anonymous),
            ..Watched::default()
        }
    }

    /// Of a worker that has become ready: it may die before the first look.
    pub(super) fn note(&mut self, pid: u32) {
        let usage = usage::of_process(pid).unwrap_or_default();
        self.n_bytes_seen = self.n_bytes_seen.max(usage.n_bytes);
    }

    fn look(&mut self, pid: u32) {
        let Some(usage) = usage::of_process(pid) else {
            return;
        };
        self.n_bytes_seen = self.n_bytes_seen.max(usage.n_bytes);
        let Some(n_bytes_before) = self.n_bytes_before else {
            self.n_bytes = usage.n_bytes_anonymous;
            return;
        };
        let n_bytes_more = usage.n_bytes_anonymous.saturating_sub(n_bytes_before);
        let now = Instant::now();
        if self.walk_after.is_none_or(|at| at <= now) {
            self.walk(pid, usage, n_bytes_more);
            let spent = now.elapsed();
            self.walk_after = Some(now + PAUSE.0 + spent * WALK_SHARE);
        }
        self.n_bytes = n_bytes_more + self.n_bytes_copied;
    }

    fn walk(&mut self, pid: u32, usage: Usage, n_bytes_more: u64) {
        if let Some(n_bytes_alone) = usage::n_bytes_alone(pid) {
            let n_bytes_alone = n_bytes_alone.min(usage.n_bytes_anonymous);
            self.n_bytes_copied = n_bytes_alone.saturating_sub(n_bytes_more);
        }
    }
}

/// Looks after the memory of a pool's workers.
#[derive(Default)]
pub(super) struct Guard {
    /// When to look next; `None` while nothing is done.
    next_look: Option<Instant>,
    busy_at: Option<Instant>,
    over_since: Option<Instant>,
    oom_kills: Option<Kills>,
}

/// Whom the kernel had ended for want of memory a while ago, and when that becomes a while ago which was
/// asked last. A process that was ended so takes its time to be gone.
#[derive(Clone, Copy)]
struct Kills {
    before: OomKills,
    last: OomKills,
    asked_at: Instant,
}

/// How long ago a while is, or twice that.
const WHILE: Duration = Duration::from_secs(10);

impl Kills {
    fn now() -> Kills {
        let now = OomKills::now();
        Kills {
            before: now,
            last: now,
            asked_at: Instant::now(),
        }
    }

    fn refresh(&mut self) {
        if self.asked_at.elapsed() >= 2 * WHILE {
            // Nobody has looked for long.
            *self = Kills::now();
        } else if self.asked_at.elapsed() >= WHILE {
            self.before = self.last;
            self.last = OomKills::now();
            self.asked_at = Instant::now();
        }
    }

    fn are_more_now(&self) -> bool {
        let now = OomKills::now();
        now.in_groups > self.before.in_groups || now.on_machine > self.before.on_machine
    }
}

/// What one look has found of a worker that is ready.
#[derive(Clone, Copy, Debug)]
struct Found {
    at: usize,
    is_idle: bool,
    /// It has been stopped, or asked to end.
    is_ending: bool,
    n_bytes: u64,
}

impl Guard {
    pub(super) fn is_due_in(&self) -> Option<Duration> {
        Some(self.next_look?.saturating_duration_since(Instant::now()))
    }

    /// Begins to look, if there is something to look after.
    pub(super) fn wake(&mut self, state: &mut State) {
        if !state.is_watched && state.core.scheduler.has_work() {
            state.is_watched = true;
            self.next_look = Some(Instant::now() + FIRST_LOOK);
        }
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, shared: &Shared, peers: &mut [Option<Peer>]) {
        let now = Instant::now();
        if self.next_look.is_none_or(|at| at > now) {
            return;
        }
        let mut state = lock(&shared.state);
        if !state.core.scheduler.has_work() {
            let is_recent = self.busy_at.is_some_and(|at| now < at + LINGER);
            self.next_look = is_recent.then_some(now + 2 * FIRST_LOOK);
            self.over_since = None;
            state.is_watched = is_recent;
            return;
        }
        let is_idle = |at: usize| state.core.scheduler.is_idle(WorkerId(at as u32));
        let idle: Vec<bool> = (0..peers.len()).map(is_idle).collect();
        let limit = state
            .options
            .stock
            .as_ref()
            .map(|stock| stock.worker_limit());
        drop(state);
        self.busy_at = Some(now);
        self.oom_kills.get_or_insert_with(Kills::now).refresh();
        let mut found = Vec::new();
        for (at, peer) in peers.iter_mut().enumerate() {
            let Some(peer) = peer.as_mut().filter(|peer| peer.is_ready) else {
                continue;
            };
            let pid = peer.child.pid();
            peer.watched.look(pid);
            found.push(Found {
                at,
                is_idle: idle[at],
                is_ending: peer.watched.ends_since.is_some(),
                n_bytes: peer.watched.n_bytes,
            });
        }
        let limit = limit.unwrap_or(WorkerMemoryLimit::None);
        let pause = self.judge(shared, peers, &found, limit);
        self.next_look = Some(Instant::now() + pause);
    }

    /// Stops a worker if that is what it takes; how long until the next look.
    fn judge(
        &mut self,
        shared: &Shared,
        peers: &mut [Option<Peer>],
        found: &[Found],
        limit: WorkerMemoryLimit,
    ) -> Duration {
        let n_bytes_all = found.iter().map(|one| one.n_bytes).sum();
        let Some(bounds) = Bounds::new(limit, n_bytes_all, Memory::scarcest) else {
            self.over_since = None;
            return PAUSE.1;
        };
        let is_ending = |peer: &Peer| {
            let since = peer.watched.ends_since;
            since.is_some_and(|since| since.elapsed() < GRIEF)
        };
        if n_bytes_all <= bounds.n_bytes_max || peers.iter().flatten().any(is_ending) {
            self.over_since = None;
            let n_busy = found.iter().filter(|one| !one.is_idle).count();
            return bounds.pause(n_bytes_all, n_busy);
        }
        let now = Instant::now();
        let since = *self.over_since.get_or_insert(now);
        if now < since + SECOND_LOOK && n_bytes_all < bounds.n_bytes_urgent {
            return SECOND_LOOK;
        }
        self.over_since = None;
        if let Some(victim) = choose(found, bounds.n_bytes_least) {
            let Found { at, n_bytes, .. } = victim;
            let stop = MemoryStop {
                n_bytes,
                n_bytes_all,
                n_bytes_max: bounds.n_bytes_max,
                n_workers: found.len(),
                limit,
                n_bytes_there: bounds.n_bytes_there,
                n_bytes_available: bounds.n_bytes_available,
                group: bounds.group,
            };
            if let Some(peer) = &mut peers[at] {
                end(shared, peer, victim, stop);
            }
        }
        PAUSE.0
    }

    /// Adds to how a worker died what is known of its memory.
    pub(super) fn explain(&mut self, death: &mut Death, watched: &mut Watched) {
        death.n_bytes_seen = watched.n_bytes_seen;
        death.stop = watched.stop.take();
        if death.signal == Some(9) && death.stop.is_none() {
            let memory = Memory::scarcest();
            death.n_bytes_there = memory.map(|(memory, _)| memory.n_bytes);
            death.is_oom_kill = self.oom_kills.is_some_and(|kills| kills.are_more_now());
        }
    }
}

/// Whom to stop: one that has nothing to do, if it keeps much or the most, and otherwise the largest.
fn choose(found: &[Found], n_bytes_least: u64) -> Option<Found> {
    let there = || found.iter().filter(|one| !one.is_ending);
    let large = there().filter(|one| one.n_bytes >= n_bytes_least);
    let largest = large.max_by_key(|one| one.n_bytes)?;
    let idle = there().filter(|one| one.is_idle && one.n_bytes >= N_BYTES_LEAST);
    let idle = idle.max_by_key(|one| one.n_bytes);
    Some(*idle.unwrap_or(largest))
}

/// Ends a worker: at once if it has a task, in good order otherwise.
fn end(shared: &Shared, peer: &mut Peer, victim: Found, stop: MemoryStop) {
    if victim.is_idle {
        let mut state = lock(&shared.state);
        let now_ns = shared.now_ns();
        // It may have been given something since.
        if state.retire_if_idle(victim.at, now_ns) {
            peer.watched.ends_since = Some(Instant::now());
        }
    } else {
        peer.watched.ends_since = Some(Instant::now());
        peer.child.dump_stack();
        peer.watched.stop = Some(Box::new(stop));
        peer.child.kill();
    }
}

/// What a limit comes to at the moment.
#[derive(Clone, PartialEq, Debug)]
struct Bounds {
    /// What the workers may take together.
    n_bytes_max: u64,
    /// Beyond this, nothing is waited for.
    n_bytes_urgent: u64,
    /// A worker that takes less is not stopped.
    n_bytes_least: u64,
    /// What there is in all, and what of it is left, where that matters; and in which control group.
    n_bytes_there: Option<u64>,
    n_bytes_available: Option<u64>,
    group: Option<PathBuf>,
}

impl Bounds {
    fn new(
        limit: WorkerMemoryLimit,
        n_bytes_all: u64,
        ask: impl FnOnce() -> Option<(Memory, Option<PathBuf>)>,
    ) -> Option<Bounds> {
        let share = match limit {
            WorkerMemoryLimit::None => return None,
            WorkerMemoryLimit::Bytes(n_bytes) => {
                return Some(Bounds {
                    n_bytes_max: n_bytes,
                    n_bytes_urgent: n_bytes.saturating_add(n_bytes / 8),
                    n_bytes_least: 0,
                    n_bytes_there: None,
                    n_bytes_available: None,
                    group: None,
                });
            }
            WorkerMemoryLimit::Share(share) => Some(share),
            WorkerMemoryLimit::Auto => None,
        };
        let (memory, group) = ask()?;
        let n_bytes_to_be_had = memory.n_bytes_available.saturating_add(n_bytes_all);
        let n_bytes_kept_free = match share {
            Some(share) => (n_bytes_to_be_had as f64 * (1.0 - share)) as u64,
            None => (n_bytes_to_be_had / 10).min(N_BYTES_LEFT_MAX),
        };
        let n_bytes_max = n_bytes_to_be_had - n_bytes_kept_free;
        Some(Bounds {
            n_bytes_max,
            n_bytes_urgent: n_bytes_max + n_bytes_kept_free / 2,
            n_bytes_least: N_BYTES_LEAST,
            n_bytes_there: Some(memory.n_bytes),
            n_bytes_available: Some(memory.n_bytes_available),
            group,
        })
    }

    /// How long nothing can go wrong.
    fn pause(&self, n_bytes_all: u64, n_busy: usize) -> Duration {
        let n_bytes_left = self.n_bytes_max.saturating_sub(n_bytes_all);
        let rate = RATE.saturating_mul(n_busy.max(1) as u64);
        let pause = Duration::from_secs_f64(n_bytes_left as f64 / rate as f64);
        pause.clamp(PAUSE.0, PAUSE.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn bounds(limit: WorkerMemoryLimit, n_bytes_all: u64, n_bytes_available: u64) -> Bounds {
        let memory = Memory {
            n_bytes: 32 * GIB,
            n_bytes_available,
        };
        Bounds::new(limit, n_bytes_all, || Some((memory, None))).expect("there is a limit")
    }

    #[test]
    fn a_tenth_is_left_or_what_is_plenty() {
        let of = |all, available| bounds(WorkerMemoryLimit::Auto, all, available).n_bytes_max;
        assert_eq!(of(0, 10 * GIB), 9 * GIB);
        assert_eq!(of(8 * GIB, 2 * GIB), 9 * GIB);
        assert_eq!(of(10 * GIB, 990 * GIB), 996 * GIB);
        let share = bounds(WorkerMemoryLimit::Share(0.5), 2 * GIB, 6 * GIB);
        assert_eq!(share.n_bytes_max, 4 * GIB);
        assert_eq!(share.n_bytes_urgent, 6 * GIB);
    }

    #[test]
    fn bytes_are_what_they_are_whatever_the_machine_has() {
        let limit = WorkerMemoryLimit::Bytes(GIB);
        let nobody = || panic!("there is no need to ask");
        let bounds = Bounds::new(limit, 3 * GIB, nobody).expect("there is a limit");
        assert_eq!(bounds.n_bytes_max, GIB);
        assert_eq!(Bounds::new(WorkerMemoryLimit::None, 0, nobody), None);
        let silent = || None;
        assert_eq!(Bounds::new(WorkerMemoryLimit::Auto, 0, silent), None);
    }

    #[test]
    fn the_less_is_left_the_sooner_the_next_look() {
        let bounds = bounds(WorkerMemoryLimit::Bytes(10 * GIB), 0, 0);
        assert_eq!(bounds.pause(0, 1), PAUSE.1);
        assert_eq!(bounds.pause(9 * GIB, 1), Duration::from_millis(250));
        assert_eq!(bounds.pause(9 * GIB, 5), Duration::from_millis(50));
        assert_eq!(bounds.pause(10 * GIB, 1), PAUSE.0);
        assert_eq!(bounds.pause(99 * GIB, 0), PAUSE.0);
    }

    #[test]
    fn who_has_nothing_to_do_goes_first_and_then_the_largest() {
        let one = |at, is_idle, n_bytes| Found {
            at,
            is_idle,
            is_ending: false,
            n_bytes,
        };
        let chosen = |found: &[Found], least| choose(found, least).map(|one| one.at);
        let busy = [one(0, false, GIB), one(1, false, 2 * GIB)];
        assert_eq!(chosen(&busy, N_BYTES_LEAST), Some(1));
        let idle = [busy[0], busy[1], one(2, true, GIB), one(3, true, 2)];
        assert_eq!(chosen(&idle, N_BYTES_LEAST), Some(2));
        let little = [busy[0], one(3, true, 2)];
        assert_eq!(chosen(&little, N_BYTES_LEAST), Some(0));
        let small = [one(0, false, 5), one(1, true, 3)];
        assert_eq!(chosen(&small, N_BYTES_LEAST), None);
        assert_eq!(chosen(&small, 0), Some(0));
        let ending = Found {
            is_ending: true,
            ..busy[1]
        };
        assert_eq!(chosen(&[busy[0], ending], 0), Some(0));
    }
}
