//! What tasks in other processes write and report, on its way to whoever is to see it.

use crate::job::{Inbox, lock};
use manyhands_graph::TaskIndex;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

/// Where goes what the tasks of a job write to their standard streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Relay {
    /// To those of this process, as it comes.
    #[default]
    Here,
    /// Nowhere.
    Nowhere,
    /// To whoever waits for the job, as it comes ([`Said::Text`]).
    Caller,
    /// To whoever waits for the job, told apart by tasks ([`Said::Wrote`]).
    CallerByTask,
}

/// A standard stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a job's tasks have to say beside their results.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// What some task has written: whole lines, as far as possible.
    Text(Stream, Vec<u8>),
    /// What one task has written to a stream.
    Wrote {
        /// The task.
        task: TaskIndex,
        /// The stream.
        stream: Stream,
        /// What it has written, in order.
        parts: Vec<Part>,
        /// Whether that is all. Otherwise its worker has died.
        is_whole: bool,
        /// Whether it has failed in a way that it is tried again after, as often as its job allows.
        may_follow: bool,
    },
    /// What a task's host has reported.
    Report {
        /// The task.
        task: TaskIndex,
        /// Its number among the reports of its worker.
        number: u32,
        /// What it says: the host's business.
        bytes: Vec<u8>,
    },
}

impl Said {
    fn n_bytes(&self) -> usize {
        let part = |part: &Part| match part {
            Part::Text(text) => text.len(),
            Part::Report(_) => size_of::<u32>(),
        };
        match self {
            Said::Text(_, text) => text.len(),
            Said::Wrote { parts, .. } => parts.iter().map(part).sum(),
            Said::Report { bytes, .. } => bytes.len(),
        }
    }
}

/// A part of what a task writes to a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Text.
    Text(Vec<u8>),
    /// The place of the report with this number.
    Report(u32),
}

/// So much is kept of what nobody takes: of a call that nobody waits for, say.
const SAID_BYTES_MAX: usize = 1 << 28;

/// What has been said and not been taken.
#[derive(Default, Debug)]
pub(crate) struct SaidList {
    said: Vec<Said>,
    n_bytes: usize,
    n_bytes_lost: usize,
}

impl SaidList {
    pub(crate) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    pub(crate) fn push(&mut self, said: Said) {
        let n_bytes = said.n_bytes();
        if self.n_bytes + n_bytes <= SAID_BYTES_MAX {
            self.n_bytes += n_bytes;
            self.said.push(said);
        } else {
            self.n_bytes_lost += n_bytes;
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Said> {
        self.n_bytes = 0;
        let n_lost = std::mem::take(&mut self.n_bytes_lost);
        if n_lost > 0 {
            let text = format!(
                "manyhands: {n_lost} bytes of what tasks said are lost, as nobody took them\n"
            );
            self.said
                .push(Said::Text(Stream::Stderr, text.into_bytes()));
        }
        std::mem::take(&mut self.said)
    }
}

/// The route of what goes to the streams of this process.
pub(crate) const HERE: u32 = 0;
/// The route of what goes nowhere.
pub(crate) const NOWHERE: u32 = 1;

/// Where text goes that a worker writes.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Here,
    Nowhere,
    /// To whoever waits for a job; told apart by tasks or not.
    Caller(Weak<Inbox>, bool),
}

/// The routes of the jobs under way that have one of their own, by number.
#[derive(Default)]
pub(crate) struct Routes {
    table: Mutex<(u32, HashMap<u32, Route>)>,
}

impl Routes {
    /// The number of the route for a job.
    pub(crate) fn add(&self, relay: Relay, inbox: &Arc<Inbox>) -> u32 {
        let is_by_task = match relay {
            Relay::Here => return HERE,
            Relay::Nowhere => return NOWHERE,
            Relay::Caller => false,
            Relay::CallerByTask => true,
        };
        let (last, routes) = &mut *lock(&self.table);
        loop {
            *last = last.wrapping_add(1).max(NOWHERE + 1);
            if !routes.contains_key(last) {
                break;
            }
        }
        routes.insert(*last, Route::Caller(Arc::downgrade(inbox), is_by_task));
        *last
    }

    /// The job of this route has ended.
    pub(crate) fn remove(&self, route: u32) {
        lock(&self.table).1.remove(&route);
    }

    /// The route with this number. What nobody waits for any more goes nowhere.
    pub(crate) fn get(&self, route: u32) -> Route {
        match route {
            HERE => Route::Here,
            _ => (lock(&self.table).1.get(&route).cloned()).unwrap_or(Route::Nowhere),
        }
    }
}

/// What jobs bring along for the workers that run their tasks.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) route: u32,
    pub(crate) is_marked: bool,
    pub(crate) bytes: Arc<[u8]>,
}

impl Surroundings {
    /// For jobs whose tasks write to the streams of this process.
    pub(crate) fn here(bytes: &[u8]) -> Surroundings {
        Surroundings {
            route: HERE,
            is_marked: false,
            bytes: bytes.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_numbers_of_their_own() {
        let routes = Routes::default();
        let inbox = Arc::new(Inbox::default());
        assert_eq!(routes.add(Relay::Here, &inbox), HERE);
        assert_eq!(routes.add(Relay::Nowhere, &inbox), NOWHERE);
        let first = routes.add(Relay::Caller, &inbox);
        let second = routes.add(Relay::CallerByTask, &inbox);
        assert!(first != second && first > NOWHERE && second > NOWHERE);
        assert!(matches!(routes.get(second), Route::Caller(_, true)));
        routes.remove(second);
        assert!(matches!(routes.get(second), Route::Nowhere));
        assert!(matches!(routes.get(HERE), Route::Here));
    }

    #[test]
    fn what_nobody_takes_does_not_grow_for_ever() {
        let mut list = SaidList::default();
        let large = Said::Text(Stream::Stdout, vec![0; SAID_BYTES_MAX / 2]);
        for _ in 0..5 {
            list.push(large.clone());
        }
        let taken = list.take();
        assert_eq!(taken[..2], [large.clone(), large.clone()]);
        assert!(
            matches!(&taken[2..], [Said::Text(Stream::Stderr, _)]),
            "it is told"
        );
        list.push(large.clone());
        assert_eq!(list.take(), [large]);
    }
}
