//! Where the arguments of a map come from.

use crate::interpreter::Turns;
use crate::mapped::Arguments;
use manyhands_executor::coarse_tick;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyRange, PyTuple};

/// After how many items that come at once to look at the clock.
const N_BETWEEN_LOOKS: u32 = 32;

/// Where arguments come from.
pub(crate) struct Items {
    iterators: Vec<Py<PyIterator>>,
    is_exhausted: bool,
    /// Whether none of the caller's code runs while the next arguments are fetched.
    is_quiet: bool,
    /// Until the next look at the clock: asking a list for its next item takes less.
    n_until_look: u32,
}

impl Items {
    pub(crate) fn new(iterables: &Bound<'_, PyTuple>) -> PyResult<Items> {
        let iterators = iterables
            .iter()
            .map(|iterable| Ok(iterable.try_iter()?.unbind()));
        Ok(Items {
            iterators: iterators.collect::<PyResult<_>>()?,
            is_exhausted: false,
            is_quiet: iterables.iter().all(|iterable| is_quiet(&iterable)),
            n_until_look: 0,
        })
    }

    /// Whether the clock still shows this tick, so that more items can be taken before those there
    /// are begun.
    #[inline]
    pub(crate) fn is_prompt(&mut self, tick: u64) -> bool {
        if self.n_until_look > 0 {
            self.n_until_look -= 1;
            return true;
        }
        self.n_until_look = if self.is_quiet {
            N_BETWEEN_LOOKS - 1
        } else {
            0
        };
        coarse_tick() == tick
    }

    /// Whether none of the caller's code runs while the next arguments are fetched.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// All arguments, at once.
    pub(crate) fn list(&mut self, py: Python<'_>) -> PyResult<Vec<Arguments>> {
        let mut listed = Vec::new();
        let mut turns = Turns::begin();
        while let Some(args) = self.next(py)? {
            listed.push(args);
            turns.give_way(py)?;
        }
        Ok(listed)
    }

    /// The next arguments: one of each iterable, until the shortest ends.
    pub(crate) fn next(&mut self, py: Python<'_>) -> PyResult<Option<Arguments>> {
        let next = self.try_next(py);
        self.is_exhausted = !matches!(next, Ok(Some(_)));
        next
    }

    fn try_next(&mut self, py: Python<'_>) -> PyResult<Option<Arguments>> {
        if let [only] = &self.iterators[..] {
            let item = only.bind_borrowed(py).to_owned().next();
            return Ok(item.transpose()?.map(|item| Arguments::One(item.unbind())));
        }
        let mut items = Vec::with_capacity(self.iterators.len());
        for iterator in &self.iterators {
            match iterator.bind(py).clone().next() {
                Some(item) => items.push(item?),
                None => return Ok(None),
            }
        }
        match items.len() {
            0 => Ok(None),
            _ => Ok(Some(Arguments::Many(PyTuple::new(py, items)?.unbind()))),
        }
    }
}

/// Whether iterating runs none of the caller's code.
fn is_quiet(iterable: &Bound<'_, PyAny>) -> bool {
    iterable.is_exact_instance_of::<PyList>()
        || iterable.is_exact_instance_of::<PyTuple>()
        || iterable.is_exact_instance_of::<PyRange>()
}
