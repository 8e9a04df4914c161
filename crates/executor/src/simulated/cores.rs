//! Processors that workers take turns on, where there are fewer of them than workers.

use super::happening::Place;
use manyhands_scheduler::TimeNs;
use std::collections::VecDeque;

/// How long a worker computes before another has its turn, as a system with many processes does it.
const TURN_NS: u64 = 3_000_000;

/// A worker on a processor.
#[derive(Clone, Copy, Debug)]
struct Turn {
    place: Place,
    /// Since when its task's computing has been accounted for.
    since_ns: TimeNs,
    ends_ns: TimeNs,
}

/// Who computes and who waits for that.
#[derive(Debug)]
pub(super) struct Cores {
    n_cores: usize,
    turns: Vec<Turn>,
    waiting: VecDeque<Place>,
}

impl Cores {
    /// So many processors; `None` is one for each worker.
    pub(super) fn new(n_cores: Option<u32>) -> Cores {
        Cores {
            n_cores: n_cores.map_or(usize::MAX, |n| n as usize),
            turns: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    fn find(&self, place: Place) -> Option<usize> {
        self.turns.iter().position(|turn| turn.place == place)
    }

    /// A worker has something to compute: whether it may now, and until when at most.
    pub(super) fn want(&mut self, place: Place, now_ns: TimeNs) -> Option<TimeNs> {
        if self.n_cores == usize::MAX {
            return Some(TimeNs::MAX);
        }
        if let Some(at) = self.find(place) {
            return Some(self.turns[at].ends_ns);
        }
        if self.turns.len() < self.n_cores {
            self.turns.push(Turn {
                place,
                since_ns: now_ns,
                ends_ns: now_ns + TURN_NS,
            });
            return Some(now_ns + TURN_NS);
        }
        self.waiting.push_back(place);
        None
    }

    /// How long a worker has computed since it was last asked.
    pub(super) fn computed_ns(&mut self, place: Place, since_ns: TimeNs, now_ns: TimeNs) -> u64 {
        match self.find(place) {
            Some(at) => {
                let turn = &mut self.turns[at];
                let computed_ns = now_ns - turn.since_ns.max(since_ns);
                turn.since_ns = now_ns;
                computed_ns
            }
            None => now_ns - since_ns,
        }
    }

    /// A worker's turn is over, or it has nothing to compute: who is next, if anybody waits. Without
    /// somebody who waits, a worker that still has something to compute goes on.
    pub(super) fn leave(&mut self, place: Place, is_waiting_again: bool) -> Option<Place> {
        let at = self.find(place)?;
        self.turns.swap_remove(at);
        if is_waiting_again {
            self.waiting.push_back(place);
        }
        self.waiting.pop_front()
    }
}
