//! Ready tasks of a graph that need the same, in the order in which they are to be taken.

use crate::TaskIndex;
use crate::graphed::Task;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which tasks are ready.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Tasks without dependencies, in rank order, and how many of them have been taken.
    roots: Vec<TaskIndex>,
    n_roots_taken: usize,
    /// How many of the others may be taken: none, as a rule, while results pile up.
    n_roots_allowed: usize,
    /// Ready tasks that are not roots, or came back: rank and number, packed.
    queue: BinaryHeap<Reverse<u64>>,
    /// The same, for those that come first as long as results pile up.
    urgent: BinaryHeap<Reverse<u64>>,
}

fn pack(rank: u32, index: TaskIndex) -> Reverse<u64> {
    Reverse(u64::from(rank) << 32 | u64::from(index.0))
}

impl Ready {
    /// With these tasks without dependencies, in rank order.
    pub(crate) fn new(roots: Vec<TaskIndex>) -> Ready {
        Ready {
            roots,
            n_roots_taken: 0,
            n_roots_allowed: usize::MAX,
            queue: BinaryHeap::new(),
            urgent: BinaryHeap::new(),
        }
    }

    #[inline]
    pub(crate) fn n_ready(&self) -> usize {
        let n_roots = self.n_roots_left().min(self.n_roots_allowed);
        n_roots + self.queue.len() + self.urgent.len()
    }

    /// How many tasks without dependencies were never sent.
    pub(crate) fn n_roots_left(&self) -> usize {
        self.roots.len() - self.n_roots_taken
    }

    /// How many of them are not to be sent for now.
    pub(crate) fn n_held_back(&self) -> usize {
        self.n_roots_left().saturating_sub(self.n_roots_allowed)
    }

    /// The first of them.
    pub(crate) fn next_root(&self) -> Option<TaskIndex> {
        self.roots.get(self.n_roots_taken).copied()
    }

    /// How many tasks without dependencies may be sent from now on; returns how many could be.
    pub(crate) fn allow_roots(&mut self, n_allowed: usize) -> usize {
        let n_before = self.n_roots_left().min(self.n_roots_allowed);
        self.n_roots_allowed = n_allowed;
        n_before
    }

    /// Takes out all tasks but those that have no dependencies and were never sent.
    pub(crate) fn take_queued(&mut self) -> impl Iterator<Item = TaskIndex> + use<> {
        let queue = std::mem::take(&mut self.queue);
        let urgent = std::mem::take(&mut self.urgent);
        let all = queue.into_iter().chain(urgent);
        all.map(|Reverse(packed)| TaskIndex(packed as u32))
    }

    /// Adds a task.
    #[inline]
    pub(crate) fn push(&mut self, rank: u32, index: TaskIndex, is_urgent: bool) {
        match is_urgent {
            true => self.urgent.push(pack(rank, index)),
            false => self.queue.push(pack(rank, index)),
        }
    }

    /// Takes the task of the lowest rank.
    #[inline]
    pub(crate) fn take(&mut self, tasks: &[Task], is_pressed: bool) -> Option<TaskIndex> {
        if let Some(Reverse(packed)) = self.urgent.pop() {
            return Some(TaskIndex(packed as u32));
        }
        let root = self.roots.get(self.n_roots_taken);
        let root = root.filter(|_| self.n_roots_allowed > 0);
        let root = root.map(|&index| (tasks[index.as_usize()].rank, index));
        match (root, self.queue.peek()) {
            (None, None) => None,
            (Some((rank, index)), top) if top.is_none_or(|top| *top < pack(rank, index)) => {
                self.n_roots_taken += 1;
                self.n_roots_allowed -= usize::from(is_pressed);
                Some(index)
            }
            _ => Some(TaskIndex(self.queue.pop()?.0 as u32)),
        }
    }
}
