//! What happens in virtual time, and in which order.

use manyhands_scheduler::{Report, TaskId, TimeNs, WorkerId};
use std::cmp::Ordering;

/// From the scheduler to a worker.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Start(Vec<TaskId>),
    TakeBack(Vec<TaskId>),
}

/// From a worker, or from the system about it, to the scheduler.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    Joined,
    Finished(Vec<Report>),
    TakenBack(Vec<TaskId>),
    /// Running what, as far as known, and whether memory was short.
    Lost(Option<TaskId>, bool),
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Submit(usize),
    Extend(usize, u32),
    Close(usize),
    Cancel(usize, u64),
    Up(Place),
    Order(Place, Order),
    /// A worker's task ends, or its turn on a processor.
    Computed(Place),
    Flush(Place),
    Die(Place),
    /// A worker stops, without ending.
    Freeze(Place),
    Notice(Place, Notice),
}

/// A worker in one of its incarnations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) id: WorkerId,
    pub(super) incarnation: u32,
}

#[derive(Debug)]
pub(super) struct Happening {
    pub(super) at_ns: TimeNs,
    /// What is entered first happens first.
    pub(super) number: u64,
    pub(super) what: What,
}

impl PartialEq for Happening {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Happening {}
impl PartialOrd for Happening {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Happening {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}
