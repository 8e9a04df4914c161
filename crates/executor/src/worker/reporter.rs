//! How tasks say what is not part of their results, while they run.

use super::{N_BYTES_FLUSHED, Shared};
use crate::job::lock;
use manyhands_wire::{FrameWriter, Mark, NO_TASK, Report, TaskKey};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Sends reports, each as one of the task that is running. May be used by any thread, at any time.
pub struct Reporter {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

/// A task in one word.
pub(super) fn pack(task: TaskKey) -> u64 {
    u64::from(task.job) << 32 | u64::from(task.index)
}

fn unpack(packed: u64) -> TaskKey {
    TaskKey {
        job: (packed >> 32) as u32,
        index: packed as u32,
    }
}

impl Reporter {
    pub(super) fn new(shared: Arc<Shared>) -> Reporter {
        Reporter { shared }
    }

    /// Whether reports have their places among what tasks write, which is to be written out before.
    pub fn has_places(&self) -> bool {
        self.shared.is_marked.load(Ordering::Relaxed)
    }

    /// Sends a report, before the result of the task. It may wait as long as a result does. `false` if no
    /// task is running, so that it is nobody's.
    pub fn report(&self, bytes: &[u8]) -> bool {
        let shared = &*self.shared;
        let task = unpack(shared.running.load(Ordering::Relaxed));
        if task == NO_TASK {
            return false;
        }
        let number = shared.n_reports.fetch_add(1, Ordering::Relaxed);
        if self.has_places() {
            shared.marks.write(Mark::Report(number), false);
        }
        let mut outgoing = lock(&shared.outgoing);
        // The lock keeps this frame from landing inside of an open frame of results.
        outgoing.end_results();
        FrameWriter::new(&mut outgoing.bytes).report(&Report {
            number,
            task,
            bytes,
        });
        if outgoing.bytes.len() >= N_BYTES_FLUSHED {
            shared.flush(&mut outgoing);
            return true;
        }
        drop(outgoing);
        shared.call_reader();
        true
    }
}
