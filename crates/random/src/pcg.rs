//! NumPy's `PCG64` and `PCG64DXSM`: a 128-bit congruential generator and a mixing of its state.

use crate::{BitGenerator, Half, SeedSequence};

const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
const CHEAP_MULTIPLIER: u64 = 0xda94_2042_e4dd_58b5;
/// How far a jump goes: the golden ratio of the period, so that many jumps stay far from each other.
const JUMP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// All there is to a generator of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcgState {
    /// Where the generator is.
    pub state: u128,
    /// Which of its sequences it is on; odd.
    pub increment: u128,
    /// The half of 64 bits that is left over.
    pub half: Half,
}

impl PcgState {
    /// Of either kind: NumPy seeds both with the steps of the first.
    fn seeded(seeds: &SeedSequence) -> PcgState {
        let [high, low, sequence_high, sequence_low] = seeds.generate_u64();
        let join = |high, low| u128::from(high) << 64 | u128::from(low);
        let mut seeded = PcgState {
            state: 0,
            increment: join(sequence_high, sequence_low) << 1 | 1,
            half: Half::default(),
        };
        seeded.step(MULTIPLIER);
        seeded.state = seeded.state.wrapping_add(join(high, low));
        seeded.step(MULTIPLIER);
        seeded
    }

    #[inline]
    fn step(&mut self, multiplier: u128) {
        self.state = self
            .state
            .wrapping_mul(multiplier)
            .wrapping_add(self.increment);
    }

    /// The state after a map, as it is for an increment of 1, so many times.
    fn after(&self, map: Map, n_times: u128) -> PcgState {
        let map = map.repeated(n_times);
        PcgState {
            state: self
                .state
                .wrapping_mul(map.factor)
                .wrapping_add(map.summand.wrapping_mul(self.increment)),
            increment: self.increment,
            half: Half::default(),
        }
    }
}

/// What becomes of a state by steps: a factor, and a summand that is as many times as large as the increment is.
#[derive(Clone, Copy)]
struct Map {
    factor: u128,
    summand: u128,
}

const STEP: Map = Map::step(MULTIPLIER);
const CHEAP_STEP: Map = Map::step(CHEAP_MULTIPLIER as u128);
const JUMPED: Map = STEP.repeated(JUMP);
const CHEAP_JUMPED: Map = CHEAP_STEP.repeated(JUMP);

impl Map {
    const fn step(multiplier: u128) -> Map {
        Map {
            factor: multiplier,
            summand: 1,
        }
    }

    /// This one, then another.
    const fn then(self, next: Map) -> Map {
        Map {
            factor: self.factor.wrapping_mul(next.factor),
            summand: self
                .summand
                .wrapping_mul(next.factor)
                .wrapping_add(next.summand),
        }
    }

    /// So many times, in the time of their logarithm: by squaring.
    const fn repeated(self, mut n_times: u128) -> Map {
        let mut repeated = Map {
            factor: 1,
            summand: 0,
        };
        let mut squared = self;
        while n_times > 0 {
            if n_times & 1 == 1 {
                repeated = repeated.then(squared);
            }
            squared = squared.then(squared);
            n_times >>= 1;
        }
        repeated
    }
}

/// NumPy's `PCG64`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pcg64(PcgState);

impl Pcg64 {
    /// `numpy.random.PCG64(seeds)`.
    pub fn seeded(seeds: &SeedSequence) -> Pcg64 {
        Pcg64(PcgState::seeded(seeds))
    }

    /// One in this state.
    pub fn from_state(state: PcgState) -> Pcg64 {
        Pcg64(state)
    }

    /// The present state.
    pub fn state(&self) -> PcgState {
        self.0
    }

    /// The generator after so many more draws of 64 bits.
    pub fn advanced(&self, n_draws: u128) -> Pcg64 {
        Pcg64(self.0.after(STEP, n_draws))
    }

    /// NumPy's `jumped(n_jumps)`: as if about 2¹²⁸ / φ numbers had been drawn, so many times.
    pub fn jumped(&self, n_jumps: u128) -> Pcg64 {
        Pcg64(self.0.after(JUMPED, n_jumps))
    }
}

impl BitGenerator for Pcg64 {
    fn next_u64(&mut self) -> u64 {
        self.0.step(MULTIPLIER);
        let (high, low) = ((self.0.state >> 64) as u64, self.0.state as u64);
        (high ^ low).rotate_right((high >> 58) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        let mut half = self.0.half;
        let next = half.next(|| self.next_u64());
        self.0.half = half;
        next
    }
}

/// NumPy's `PCG64DXSM`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pcg64Dxsm(PcgState);

impl Pcg64Dxsm {
    /// `numpy.random.PCG64DXSM(seeds)`.
    pub fn seeded(seeds: &SeedSequence) -> Pcg64Dxsm {
        Pcg64Dxsm(PcgState::seeded(seeds))
    }

    /// One in this state.
    pub fn from_state(state: PcgState) -> Pcg64Dxsm {
        Pcg64Dxsm(state)
    }

    /// The present state.
    pub fn state(&self) -> PcgState {
        self.0
    }

    /// The generator after so many more draws of 64 bits.
    pub fn advanced(&self, n_draws: u128) -> Pcg64Dxsm {
        Pcg64Dxsm(self.0.after(CHEAP_STEP, n_draws))
    }

    /// NumPy's `jumped(n_jumps)`.
    pub fn jumped(&self, n_jumps: u128) -> Pcg64Dxsm {
        Pcg64Dxsm(self.0.after(CHEAP_JUMPED, n_jumps))
    }
}

impl BitGenerator for Pcg64Dxsm {
    fn next_u64(&mut self) -> u64 {
        let (mut high, low) = ((self.0.state >> 64) as u64, self.0.state as u64 | 1);
        high ^= high >> 32;
        high = high.wrapping_mul(CHEAP_MULTIPLIER);
        high ^= high >> 48;
        high = high.wrapping_mul(low);
        self.0.step(u128::from(CHEAP_MULTIPLIER));
        high
    }

    fn next_u32(&mut self) -> u32 {
        let mut half = self.0.half;
        let next = half.next(|| self.next_u64());
        self.0.half = half;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_advances_by_their_length() {
        let seeds = SeedSequence::new(&[7], &[]);
        let (pcg, dxsm) = (Pcg64::seeded(&seeds), Pcg64Dxsm::seeded(&seeds));
        for n_jumps in [0, 1, 2, 3, 1_000_000, 1 << 64, (1 << 70) + 5, u128::MAX] {
            let n_draws = JUMP.wrapping_mul(n_jumps);
            assert_eq!(pcg.jumped(n_jumps), pcg.advanced(n_draws));
            assert_eq!(dxsm.jumped(n_jumps), dxsm.advanced(n_draws));
        }
        let mut drawn = pcg.clone();
        for n_draws in 1..5 {
            drawn.next_u64();
            assert_eq!(drawn, pcg.advanced(n_draws));
        }
    }
}
