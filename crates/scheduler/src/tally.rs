//! How far jobs have come, for whoever wants to show it.
//!
//! Read from what the scheduler keeps in any case, when somebody asks: tasks pay nothing for it.

use crate::job::Job;
use crate::{JobId, Scheduler};

/// How far a job has come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// How many tasks there are, of an open job so far.
    pub n_tasks: u64,
    /// Whether there may be more.
    pub is_open: bool,
    /// How many have ended, those included that failed for good, or will not run as one that they depend on did.
    pub n_ended: u64,
    /// How many failed for good, by themselves.
    pub n_failed: u64,
    /// How often one that failed was put aside to be tried again.
    pub n_retried: u64,
    /// How many workers are busy with it.
    pub n_running: u32,
}

impl Job {
    pub(crate) fn tally(&self) -> Tally {
        let n_left = self.n_unfinished + self.n_abandoned;
        Tally {
            n_tasks: self.n_added,
            is_open: self.is_open,
            n_ended: self.n_added.saturating_sub(n_left as u64),
            n_failed: self.n_failed,
            n_retried: self.n_retried,
            n_running: 0,
        }
    }
}

impl Scheduler {
    /// How far a job has come; `None` once it is done.
    pub fn tally(&self, id: JobId) -> Option<Tally> {
        let job = self.jobs.get(id.0 as usize)?.as_ref()?;
        let heads = self.workers.iter().flatten();
        let heads = heads.filter_map(|worker| worker.queue.head());
        let n_running = heads.filter(|head| head.job == id).count() as u32;
        Some(Tally {
            n_running,
            ..job.tally()
        })
    }

    /// How far a job had come that has just been [done](crate::Command::JobDone): known until its number is used again.
    pub fn last_tally(&self, id: JobId) -> Tally {
        let last = self.last_tallies.get(id.0 as usize).copied();
        last.unwrap_or_default()
    }

    /// Keeps how far a job had come that is done.
    pub(crate) fn keep_tally(&mut self, id: JobId, tally: Tally) {
        let at = id.0 as usize;
        if at >= self.last_tallies.len() {
            self.last_tallies.resize_with(at + 1, Tally::default);
        }
        self.last_tallies[at] = tally;
    }
}
