//! How far a call has come, for who shows it: `manyhands._progress`.

use crate::mapped::lock;
use crate::pending::Pending;
use manyhands_executor::{Board, Job, Standing, Watch};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Counts the tasks of one call, when asked.
#[pyclass(frozen, module = "manyhands._native")]
#[derive(Default)]
pub(crate) struct Tally {
    source: Mutex<Source>,
}

#[derive(Default)]
enum Source {
    /// Nothing has been submitted yet.
    #[default]
    Nothing,
    Elsewhere(Arc<Watch>),
    /// Calls that were submitted one by one.
    Many(Submitted),
    Here(Arc<Board>),
}

#[derive(Default)]
struct Submitted {
    n_all: u64,
    n_failed: u64,
    under_way: Vec<Py<Pending>>,
}

impl Submitted {
    fn counts(&self) -> Counts {
        let n_ended = self.n_all - self.under_way.len() as u64;
        (self.n_all, false, n_ended, self.n_failed, 0, 0, 0)
    }
}

/// Tasks so far, whether there may be more, ended, failed, tried again, running, and deaths of workers.
type Counts = (u64, bool, u64, u64, u64, u32, usize);

#[pymethods]
impl Tally {
    #[new]
    fn new() -> Tally {
        Tally::default()
    }

    /// The counts; None before anything was submitted, and in a forked process.
    fn counts(&self) -> Option<Counts> {
        let watch = match &*lock(&self.source) {
            Source::Nothing => return None,
            Source::Many(submitted) => return Some(submitted.counts()),
            Source::Elsewhere(watch) => Arc::clone(watch),
            Source::Here(board) => {
                let standing = |tally| Standing { tally, n_deaths: 0 };
                return board.tally().map(standing).as_ref().map(counts);
            }
        };
        watch.standing().as_ref().map(counts)
    }

    /// See which submitted calls have ended, and tell what their tasks have said: maybe nobody waits for them.
    fn look(&self, py: Python<'_>) {
        let before: Vec<Py<Pending>> = match &*lock(&self.source) {
            Source::Many(submitted) => {
                let under_way = submitted.under_way.iter();
                under_way.map(|pending| pending.clone_ref(py)).collect()
            }
            _ => return,
        };
        // Without the lock: what is told runs any code, and another thread may look meanwhile.
        let mut ended = HashMap::new();
        for pending in &before {
            let outcome = pending.get().outcome();
            // What the program's own streams and filters raise: nobody else is there to have it.
            if let Err(error) = pending.get().hear(py) {
                error.write_unraisable(py, None);
            }
            if let Some(has_failed) = outcome {
                ended.insert(pending.as_ptr() as usize, has_failed);
            }
        }
        if let Source::Many(submitted) = &mut *lock(&self.source) {
            let n_failed = &mut submitted.n_failed;
            // None is dropped here: `before` has them all.
            submitted.under_way.retain(|pending| {
                let has_failed = ended.get(&(pending.as_ptr() as usize));
                *n_failed += u64::from(has_failed == Some(&true));
                has_failed.is_none()
            });
        }
    }

    /// Count a submitted call, too.
    fn follow(&self, pending: Py<Pending>) {
        let source = &mut *lock(&self.source);
        if !matches!(source, Source::Many(_)) {
            *source = Source::Many(Submitted::default());
        }
        if let Source::Many(submitted) = source {
            submitted.n_all += 1;
            submitted.under_way.push(pending);
        }
    }

    /// Whether the job has ended, in whatever way.
    fn is_over(&self) -> bool {
        match &*lock(&self.source) {
            Source::Elsewhere(watch) => watch.outcome().is_some(),
            Source::Many(submitted) => submitted.under_way.is_empty(),
            Source::Nothing | Source::Here(_) => false,
        }
    }

    /// Whether the job has ended without having come to its end: one of its tasks failed, or it was cancelled.
    fn is_cut(&self) -> bool {
        match &*lock(&self.source) {
            Source::Elsewhere(watch) => watch.outcome() == Some(true),
            _ => false,
        }
    }
}

fn counts(standing: &Standing) -> Counts {
    let Standing { tally, n_deaths } = *standing;
    (
        tally.n_tasks,
        tally.is_open,
        tally.n_ended,
        tally.n_failed,
        tally.n_retried,
        tally.n_running,
        n_deaths,
    )
}

impl Tally {
    /// From now on it is about this job.
    pub(crate) fn watch(&self, job: &Job) {
        *lock(&self.source) = Source::Elsewhere(Arc::new(job.watch()));
    }

    /// From now on it is about a job in the calling thread, which is told of here.
    pub(crate) fn board(&self) -> Arc<Board> {
        let board = Arc::<Board>::default();
        *lock(&self.source) = Source::Here(Arc::clone(&board));
        board
    }
}
