//! Submitted calls on forked workers take turns: each has its worker from the moment it is submitted,
//! and so sees everything as it was then (but for what the parent writes to shared memory), while only so
//! many compute at a time.

use crate::interpreter::SIGNAL_PAUSE;
use crate::mapped::lock;
use manyhands_executor::Job;
use manyhands_executor::processes::Nursery;
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

/// So many calls may wait, each in a process, before submitting another waits as well.
const N_WAITING_MAX: usize = 64;

/// Who computes, and who is next.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Rota {
    shared: Arc<Shared>,
}

#[pymethods]
impl Rota {
    #[new]
    fn new() -> Rota {
        Rota {
            shared: Arc::default(),
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    n_computing: usize,
    n_entered: u64,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    number: u64,
    /// It may compute beside fewer than this.
    n_workers: usize,
    nursery: Nursery,
}

impl Rota {
    /// Waits for room, looking up for signals.
    pub(crate) fn wait_for_room(&self, py: Python<'_>) -> PyResult<()> {
        let shared = &*self.shared;
        while lock(&shared.state).waiting.len() >= N_WAITING_MAX {
            py.detach(|| {
                let is_full = |state: &mut State| state.waiting.len() >= N_WAITING_MAX;
                let state = lock(&shared.state);
                drop(
                    shared
                        .changed
                        .wait_timeout_while(state, SIGNAL_PAUSE, is_full),
                );
            });
            py.check_signals()?;
        }
        Ok(())
    }

    /// Lets the workers of a job compute when it is their turn.
    pub(crate) fn enter(&self, job: &Job, nursery: Nursery, n_workers: usize) {
        let mut state = lock(&self.shared.state);
        state.n_entered += 1;
        let number = state.n_entered;
        state.waiting.push_back(Waiting {
            number,
            n_workers,
            nursery,
        });
        let next = state.next();
        drop(state);
        next.iter().for_each(Nursery::let_out);
        let shared = Arc::clone(&self.shared);
        job.on_end(move || shared.leave(number));
    }
}

impl State {
    /// Those whose turn has come.
    fn next(&mut self) -> Vec<Nursery> {
        let mut next = Vec::new();
        while let Some(first) = self.waiting.front()
            && self.n_computing < first.n_workers
        {
            self.n_computing += 1;
            next.extend(self.waiting.pop_front().map(|first| first.nursery));
        }
        next
    }
}

impl Shared {
    /// A job has ended. Its pool may be locked: only pools that entered after it are touched.
    fn leave(&self, number: u64) {
        let mut state = lock(&self.state);
        let at = state.waiting.iter().position(|one| one.number == number);
        match at {
            Some(at) => drop(state.waiting.remove(at)),
            None => state.n_computing -= 1,
        }
        let next = state.next();
        drop(state);
        self.changed.notify_all();
        next.iter().for_each(Nursery::let_out);
    }
}
