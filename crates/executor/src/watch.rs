//! How far jobs have come, for whoever wants to show it now and then.
//!
//! Nothing is counted for it: who asks a pool takes its lock for a moment.

use crate::job::{Control, Inbox, lock};
use crate::owner::Owner;
use manyhands_scheduler::{JobId, Tally};
use std::sync::{Arc, Mutex};

/// How far a job has come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Standing {
    /// What the scheduler knows.
    pub tally: Tally,
    /// How many workers have died under tasks of it.
    pub n_deaths: usize,
}

/// Tells how far a job has come. It keeps neither the job nor its results.
pub struct Watch {
    id: JobId,
    inbox: Arc<Inbox>,
    control: Arc<dyn Control>,
    owner: Owner,
}

impl Watch {
    pub(crate) fn new(
        id: JobId,
        inbox: Arc<Inbox>,
        control: Arc<dyn Control>,
        owner: Owner,
    ) -> Watch {
        Watch {
            id,
            inbox,
            control,
            owner,
        }
    }

    /// How far it has come; `None` in a process forked from the one that submitted the job.
    pub fn standing(&self) -> Option<Standing> {
        if self.owner.is_elsewhere() {
            return None;
        }
        let now = || self.control.standing(self.id, &self.inbox);
        // Between the first look and the second it may have ended.
        let last = || self.inbox.last();
        last().or_else(now).or_else(last)
    }

    /// Whether it has ended, and if so, whether it has failed or was cancelled.
    pub fn outcome(&self) -> Option<bool> {
        match self.owner.is_elsewhere() {
            true => Some(true),
            false => self.inbox.outcome(),
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish()
    }
}

/// Where a job that runs in the calling thread is told of.
#[derive(Default, Debug)]
pub struct Board(Mutex<Option<Tally>>);

impl Board {
    pub(crate) fn set(&self, tally: Tally) {
        *lock(&self.0) = Some(tally);
    }

    /// How far the job has come; `None` before it was submitted.
    pub fn tally(&self) -> Option<Tally> {
        *lock(&self.0)
    }
}
