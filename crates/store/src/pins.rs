//! What must not be used again yet, because a process that was forked may still read it.
//!
//! A forked process goes on seeing the memory that both share, where it has not written to it. So before
//! each fork a pin is taken, and dropped when the process is gone. What was there when a pin was taken and
//! ends while it lives is kept; what came after the fork, no matter how often, is not.

use std::collections::BTreeSet;

/// The pins that live, and what is kept because of them.
#[derive(Debug)]
pub struct Pins<T> {
    /// Pins are numbered from 1 on. Things are born and end between two of them.
    n_taken: u64,
    living: BTreeSet<u64>,
    kept: Vec<Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    thing: T,
    /// The pins taken before it was born, and before it ended.
    n_before: u64,
    n_until: u64,
}

impl<T> Default for Pins<T> {
    fn default() -> Pins<T> {
        Pins {
            n_taken: 0,
            living: BTreeSet::new(),
            kept: Vec::new(),
        }
    }
}

impl<T> Pins<T> {
    /// Takes a pin; gives its number.
    pub fn pin(&mut self) -> u64 {
        self.n_taken += 1;
        self.living.insert(self.n_taken);
        self.n_taken
    }

    /// Ends a pin; gives what nobody sees any more.
    pub fn unpin(&mut self, number: u64) -> Vec<T> {
        let Pins { living, kept, .. } = self;
        living.remove(&number);
        let is_free = |kept: &mut Kept<T>| !is_seen(living, kept.n_before, kept.n_until);
        let free = kept.extract_if(.., is_free);
        free.map(|kept| kept.thing).collect()
    }

    /// When something is born that begins now; for [`Pins::keep`].
    pub fn now(&self) -> u64 {
        self.n_taken
    }

    /// Whether any pin lives.
    pub fn is_any(&self) -> bool {
        !self.living.is_empty()
    }

    /// Keeps what ends now and was born then, if somebody may see it; else gives it back.
    pub fn keep(&mut self, born: u64, thing: T) -> Option<T> {
        if !is_seen(&self.living, born, self.n_taken) {
            return Some(thing);
        }
        self.kept.push(Kept {
            thing,
            n_before: born,
            n_until: self.n_taken,
        });
        None
    }
}

/// Whether a living pin was taken between these.
fn is_seen(living: &BTreeSet<u64>, n_before: u64, n_until: u64) -> bool {
    let first = living.range(n_before + 1..).next();
    first.is_some_and(|&first| first <= n_until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Pin,
        Unpin(usize),
        Begin,
        End(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Pin),
            any::<usize>().prop_map(Step::Unpin),
            Just(Step::Begin),
            any::<usize>().prop_map(Step::End),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        /// Beside it, each pin holds a list of what was there when it was taken.
        #[test]
        fn what_a_pin_has_seen_is_kept_until_it_ends_and_no_longer(steps in steps()) {
            let mut pins = Pins::default();
            let (mut living, mut begun, mut kept) = (Vec::new(), Vec::new(), Vec::new());
            for (thing, step) in steps.into_iter().enumerate() {
                let mut free = Vec::new();
                match step {
                    Step::Pin => {
                        let seen: Vec<usize> = begun.iter().map(|&(thing, _)| thing).collect();
                        living.push((pins.pin(), seen));
                    }
                    Step::Unpin(at) if !living.is_empty() => {
                        let (number, _) = living.remove(at % living.len());
                        free = pins.unpin(number);
                    }
                    Step::Begin => begun.push((thing, pins.now())),
                    Step::End(at) if !begun.is_empty() => {
                        let (thing, born) = begun.remove(at % begun.len());
                        kept.push(thing);
                        free.extend(pins.keep(born, thing));
                    }
                    _ => {}
                }
                let is_seen = |thing: &usize| living.iter().any(|(_, seen)| seen.contains(thing));
                let mut expected: Vec<_> = kept.extract_if(.., |thing| !is_seen(thing)).collect();
                expected.sort_unstable();
                free.sort_unstable();
                prop_assert_eq!(free, expected);
                prop_assert_eq!(pins.is_any(), !living.is_empty());
            }
        }
    }
}
