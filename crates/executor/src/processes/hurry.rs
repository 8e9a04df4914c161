//! Whether output of workers that nobody takes is thrown away rather than waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are in a hurry just now: calls that end workers may overlap.
#[derive(Clone, Default, Debug)]
pub(super) struct Hurry(Arc<AtomicUsize>);

/// While it lives, there is a hurry.
pub(super) struct Hurrying<'a>(&'a Hurry);

impl Hurry {
    pub(super) fn begin(&self) -> Hurrying<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Hurrying(self)
    }

    /// There is a hurry from now on: the pool is ending.
    pub(super) fn begin_for_good(&self) {
        std::mem::forget(self.begin());
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Hurrying<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_be_done_does_not_slow_down_the_others() {
        let hurry = Hurry::default();
        let first = hurry.begin();
        let second = hurry.begin();
        drop(first);
        assert!(hurry.is_on());
        drop(second);
        assert!(!hurry.is_on());
    }

    #[test]
    fn the_end_of_the_pool_stays_hurried_when_others_are_done() {
        let hurry = Hurry::default();
        let other = hurry.begin();
        hurry.begin_for_good();
        drop(other);
        assert!(hurry.is_on());
    }
}
