//! A simulated worker: it runs its queue in order and reports in batches.

use manyhands_scheduler::{KindId, Report, TaskId, TimeNs};
use std::collections::VecDeque;

/// A worker from its start until the scheduler has been told of its loss.
#[derive(Debug)]
pub(super) struct Worker {
    /// Tells it from earlier and later workers of the same number.
    pub(super) incarnation: u32,
    pub(super) is_alive: bool,
    /// It has been stopped, and does nothing more.
    pub(super) is_frozen: bool,
    pub(super) queue: VecDeque<TaskId>,
    /// The task under way, and since when.
    pub(super) running: Option<(TaskId, TimeNs)>,
    /// How much computing it still needs, as of the last time it was looked at.
    pub(super) left_ns: u64,
    /// Finished and not yet reported; lost with the worker.
    pub(super) unreported: Vec<Report>,
    pub(super) is_flush_due: bool,
    /// When the last message in each direction arrives: none overtakes another.
    pub(super) inbound_ns: TimeNs,
    pub(super) outbound_ns: TimeNs,
    called: Vec<KindId>,
}

impl Worker {
    pub(super) fn new(incarnation: u32) -> Worker {
        Worker {
            incarnation,
            is_alive: true,
            is_frozen: false,
            queue: VecDeque::new(),
            running: None,
            left_ns: 0,
            unreported: Vec::new(),
            is_flush_due: false,
            inbound_ns: 0,
            outbound_ns: 0,
            called: Vec::new(),
        }
    }

    /// Whether this is the first time that this worker calls a function.
    pub(super) fn is_first_call(&mut self, kind: KindId) -> bool {
        let is_first = !self.called.contains(&kind);
        if is_first {
            self.called.push(kind);
        }
        is_first
    }

    /// Gives back those of these tasks that have not started.
    pub(super) fn give_back(&mut self, asked: &[TaskId]) -> Vec<TaskId> {
        let mut asked = asked.to_vec();
        asked.sort_unstable();
        let is_asked = |task: &TaskId| asked.binary_search(task).is_ok();
        let mut returned: Vec<_> = self.queue.iter().copied().filter(is_asked).collect();
        // The last first, as real workers do.
        returned.reverse();
        self.queue.retain(|task| !is_asked(task));
        returned
    }

    /// Whether it holds, runs or has yet to report a task for which this is true.
    pub(super) fn has(&self, is_meant: impl Fn(TaskId) -> bool) -> bool {
        self.queue.iter().any(|&task| is_meant(task))
            || self.running.is_some_and(|(task, _)| is_meant(task))
            || self
                .unreported
                .iter()
                .any(|report| report.tasks.tasks().any(&is_meant))
    }
}
