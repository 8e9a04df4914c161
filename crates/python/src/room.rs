//! A state that threads act on one at a time, while whoever does so may run anybody's code: the source of the
//! arguments, signal handlers, log handlers, destructors.
//!
//! That code may want to act on the same state, or wait for a thread that does. So a thread that is inside already is
//! told so rather than made to wait for itself; who waits for another hears of signals; and who has nothing to do but
//! to end it need not wait at all.

use crate::interpreter::{SIGNAL_PAUSE, detached, look_up, thread_number};
use crate::mapped::lock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::{Condvar, Mutex, PoisonError};

/// A state, and who is acting on it.
pub(crate) struct Room<T> {
    /// What is said to a thread that is inside already.
    refusal: &'static str,
    door: Door,
    /// Locked by the thread that is inside only.
    state: Mutex<T>,
}

#[derive(Default)]
struct Door {
    /// The thread that is inside, by the interpreter's number; zero if there is none. Never locked while Python code
    /// is run, nor while a thread waits for the interpreter's lock.
    inside: Mutex<u64>,
    left: Condvar,
}

impl<T> Room<T> {
    pub(crate) fn new(state: T, refusal: &'static str) -> Room<T> {
        Room {
            refusal,
            door: Door::default(),
            state: Mutex::new(state),
        }
    }

    /// Acts on the state once no other thread does.
    ///
    /// # Errors
    ///
    /// That of the act; if this thread is inside already; what a signal handler raises meanwhile.
    pub(crate) fn enter<R>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut T) -> PyResult<R>,
    ) -> PyResult<R> {
        let thread = thread_number(py)?;
        let door = &self.door;
        loop {
            if let Some(_stay) = door.enter(thread) {
                return act(&mut lock(&self.state));
            }
            if *lock(&door.inside) == thread {
                return Err(PyValueError::new_err(self.refusal));
            }
            detached(py, || door.wait());
            look_up(py)?;
        }
    }

    /// The state, for its only owner.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on the state unless a thread is inside.
    pub(crate) fn enter_if_free(&self, py: Python<'_>, act: impl FnOnce(&mut T)) -> PyResult<()> {
        if let Some(_stay) = self.door.enter(thread_number(py)?) {
            act(&mut lock(&self.state));
        }
        Ok(())
    }
}

impl Door {
    fn enter(&self, thread: u64) -> Option<Stay<'_>> {
        let mut inside = lock(&self.inside);
        if *inside != 0 {
            return None;
        }
        *inside = thread;
        Some(Stay(self))
    }

    /// Waits for a moment for the thread to leave that is inside.
    fn wait(&self) {
        let is_taken = |inside: &mut u64| *inside != 0;
        let waited = (self.left).wait_timeout_while(lock(&self.inside), SIGNAL_PAUSE, is_taken);
        drop(waited);
    }
}

/// While it lives, this thread is inside.
struct Stay<'a>(&'a Door);

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        *lock(&self.0.inside) = 0;
        self.0.left.notify_one();
    }
}
