//! Gives memory back that nobody has used for a moment.
//!
//! Fresh memory costs several times what copying into it does, so a program that goes on making arrays is
//! to find the memory of the last ones still there. One that has stopped should not hold it.

use crate::arena::Inner;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Memory that has been free for so long is given back, and after twice as long at the latest.
const PERIOD: Duration = Duration::from_secs(1);

/// The thread needs no more than a few calls.
const N_STACK_BYTES: usize = 128 << 10;

/// What an arena knows of its thread for that, which is there while there is something to give back.
#[derive(Debug, Default)]
pub(crate) struct Cooling {
    is_under_way: bool,
    /// The fewest pages that were free and warm at any moment since the last look.
    n_pages_least: u64,
}

impl Cooling {
    /// There is more memory than is to be kept: starts the thread, if need be.
    pub(crate) fn begin(&mut self, arena: &Arc<Inner>) {
        if self.is_under_way {
            return;
        }
        // Does not keep the arena.
        let arena = Arc::downgrade(arena);
        let thread = thread::Builder::new()
            .name("manyhands-cool".into())
            .stack_size(N_STACK_BYTES);
        let spawned = thread.spawn(move || {
            loop {
                thread::sleep(PERIOD);
                if !arena.upgrade().is_some_and(|arena| arena.cool()) {
                    return;
                }
            }
        });
        // Where there can be no thread, the next time may be better.
        self.is_under_way = spawned.is_ok();
        self.n_pages_least = 0;
    }

    /// There are so many free warm pages now.
    pub(crate) fn note(&mut self, n_pages_warm: u64) {
        self.n_pages_least = self.n_pages_least.min(n_pages_warm);
    }

    /// How many of so many free warm pages nobody has used since the last look.
    pub(crate) fn n_pages_unused(&self, n_pages_warm: u64) -> u64 {
        self.n_pages_least.min(n_pages_warm)
    }

    /// The thread has looked; whether it will look again.
    pub(crate) fn looked(&mut self, is_more: bool, n_pages_warm: u64) {
        self.is_under_way = is_more;
        self.n_pages_least = n_pages_warm;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_since_the_last_look_stays() {
        let mut cooling = Cooling::default();
        cooling.looked(true, 100);
        // Two blocks of 30 pages at a time, freed again.
        for n_pages in [70, 40] {
            cooling.note(n_pages);
        }
        assert_eq!(cooling.n_pages_unused(100), 40);
        cooling.looked(true, 60);
        assert_eq!(cooling.n_pages_unused(60), 60);
    }

    #[test]
    fn what_is_new_stays_until_the_second_look() {
        let mut cooling = Cooling::default();
        assert_eq!(cooling.n_pages_unused(100), 0);
        cooling.looked(true, 100);
        assert_eq!(cooling.n_pages_unused(100), 100);
        // Given back meanwhile for another reason.
        assert_eq!(cooling.n_pages_unused(10), 10);
    }
}
