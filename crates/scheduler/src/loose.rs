//! Tasks that do not depend on each other, are of one kind and all wanted: nothing is kept of each.
//!
//! A task is ready if its number is in a range, finished or sent otherwise: which of the two, the
//! queues of the workers know. So a job of ten million such tasks, or without end, takes no memory.

use crate::run::{Limits, Taken};
use crate::{JobId, KindId, TaskIndex, TaskRun};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which are ready.
#[derive(Debug)]
pub(crate) struct Loose {
    pub(crate) kind: KindId,
    /// The first task that was never sent, and how many follow it; numbers wrap.
    next: u32,
    n_left: u32,
    /// Tasks that were sent and came back: first number and how many. They go first.
    returned: BinaryHeap<Reverse<(u32, u32)>>,
    n_returned: usize,
}

impl Loose {
    pub(crate) fn new(kind: KindId, n_tasks: u32) -> Loose {
        Loose {
            kind,
            next: 0,
            n_left: n_tasks,
            returned: BinaryHeap::new(),
            n_returned: 0,
        }
    }

    pub(crate) fn extend(&mut self, n_more: u32) {
        self.n_left += n_more;
    }

    #[inline]
    pub(crate) fn n_ready(&self) -> usize {
        self.n_left as usize + self.n_returned
    }

    /// Tasks that were sent are ready again.
    pub(crate) fn put_back(&mut self, run: TaskRun) {
        self.returned.push(Reverse((run.first.0, run.n_tasks)));
        self.n_returned += run.n_tasks as usize;
    }

    /// Takes ready tasks, those with the lowest numbers first.
    #[inline]
    pub(crate) fn take<C: Fn(KindId) -> u64>(&mut self, limits: &Limits<C>) -> Option<Taken> {
        let each_ns = (limits.cost_ns)(self.kind);
        let n_fitting = limits.room_ns.div_ceil(each_ns.max(1));
        let n_most = n_fitting
            .min(limits.n_tasks as u64)
            .min(u64::from(u32::MAX)) as u32;
        let (first, n_tasks) = match self.returned.pop() {
            Some(Reverse((first, n_there))) => {
                let n_tasks = n_most.min(n_there);
                if n_tasks < n_there {
                    let rest = (first.wrapping_add(n_tasks), n_there - n_tasks);
                    self.returned.push(Reverse(rest));
                }
                self.n_returned -= n_tasks as usize;
                (first, n_tasks)
            }
            None => {
                let first = self.next;
                let n_tasks = n_most.min(self.n_left);
                self.next = first.wrapping_add(n_tasks);
                self.n_left -= n_tasks;
                (first, n_tasks)
            }
        };
        (n_tasks > 0).then_some(Taken {
            first: TaskIndex(first),
            n_tasks,
            each_ns,
        })
    }

    /// The ready tasks, for the checks.
    pub(crate) fn ready(&self, job: JobId) -> impl Iterator<Item = TaskRun> {
        let returned = self.returned.iter().map(|Reverse(run)| *run);
        let left = (self.n_left > 0).then_some((self.next, self.n_left));
        returned.chain(left).map(move |(first, n_tasks)| TaskRun {
            job,
            first: TaskIndex(first),
            n_tasks,
        })
    }
}
