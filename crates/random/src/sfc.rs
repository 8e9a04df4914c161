//! NumPy's `SFC64`: a small, fast, chaotic generator with a counter. It has no jumps.

use crate::{BitGenerator, Half, SeedSequence};

/// How many numbers are thrown away after seeding.
const N_DISCARDED: usize = 12;

/// All there is to a generator of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sfc64State {
    /// Three words of state, and the counter.
    pub words: [u64; 4],
    /// The half of 64 bits that is left over.
    pub half: Half,
}

/// NumPy's `SFC64`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sfc64(Sfc64State);

impl Sfc64 {
    /// `numpy.random.SFC64(seeds)`.
    pub fn seeded(seeds: &SeedSequence) -> Sfc64 {
        let [a, b, c] = seeds.generate_u64();
        let mut seeded = Sfc64(Sfc64State {
            words: [a, b, c, 1],
            half: Half::default(),
        });
        for _ in 0..N_DISCARDED {
            seeded.next_u64();
        }
        seeded
    }

    /// One in this state.
    pub fn from_state(state: Sfc64State) -> Sfc64 {
        Sfc64(state)
    }

    /// The present state.
    pub fn state(&self) -> Sfc64State {
        self.0
    }
}

impl BitGenerator for Sfc64 {
    fn next_u64(&mut self) -> u64 {
        let [a, b, c, counter] = self.0.words;
        let next = a.wrapping_add(b).wrapping_add(counter);
        self.0.words = [
            b ^ b >> 11,
            c.wrapping_add(c << 3),
            c.rotate_left(24).wrapping_add(next),
            counter.wrapping_add(1),
        ];
        next
    }

    fn next_u32(&mut self) -> u32 {
        let mut half = self.0.half;
        let next = half.next(|| self.next_u64());
        self.0.half = half;
        next
    }
}
