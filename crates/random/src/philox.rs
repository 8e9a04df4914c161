//! NumPy's `Philox`: Philox4x64-10, a cipher of a counter.

use crate::{BitGenerator, Half, SeedSequence};

const N_ROUNDS: usize = 10;
const MULTIPLIERS: [u64; 2] = [0xd2e7_470e_e14c_6c93, 0xca5a_8263_9512_1157];
const KEY_STEPS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// All there is to a generator of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhiloxState {
    /// The number of the block drawn last, the lowest word first.
    pub counter: [u64; 4],
    /// Which of its sequences the generator is on.
    pub key: [u64; 2],
    /// The block drawn last.
    pub buffer: [u64; 4],
    /// How much of it has been given out.
    pub n_used: u32,
    /// The half of 64 bits that is left over.
    pub half: Half,
}

/// NumPy's `Philox`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Philox(PhiloxState);

impl Philox {
    /// `numpy.random.Philox(seeds)`.
    pub fn seeded(seeds: &SeedSequence) -> Philox {
        Philox(PhiloxState {
            counter: [0; 4],
            key: seeds.generate_u64(),
            buffer: [0; 4],
            n_used: 4,
            half: Half::default(),
        })
    }

    /// One in this state.
    pub fn from_state(state: PhiloxState) -> Philox {
        Philox(state)
    }

    /// The present state.
    pub fn state(&self) -> PhiloxState {
        self.0
    }

    /// NumPy's `jumped(n_jumps)`: 2¹²⁸ blocks further, so many times; what is left of the present block is dropped.
    pub fn jumped(&self, n_jumps: u128) -> Philox {
        let [low, lower, high, higher] = self.0.counter;
        let upper = (u128::from(higher) << 64 | u128::from(high)).wrapping_add(n_jumps);
        Philox(PhiloxState {
            counter: [low, lower, upper as u64, (upper >> 64) as u64],
            key: self.0.key,
            buffer: [0; 4],
            n_used: 4,
            half: Half::default(),
        })
    }
}

impl BitGenerator for Philox {
    fn next_u64(&mut self) -> u64 {
        let state = &mut self.0;
        if let Some(&next) = state.buffer.get(state.n_used as usize) {
            state.n_used += 1;
            return next;
        }
        for word in &mut state.counter {
            *word = word.wrapping_add(1);
            if *word != 0 {
                break;
            }
        }
        state.buffer = enciphered(state.counter, state.key);
        state.n_used = 1;
        state.buffer[0]
    }

    fn next_u32(&mut self) -> u32 {
        let mut half = self.0.half;
        let next = half.next(|| self.next_u64());
        self.0.half = half;
        next
    }
}

fn enciphered(mut block: [u64; 4], mut key: [u64; 2]) -> [u64; 4] {
    for round in 0..N_ROUNDS {
        if round > 0 {
            key[0] = key[0].wrapping_add(KEY_STEPS[0]);
            key[1] = key[1].wrapping_add(KEY_STEPS[1]);
        }
        let first = u128::from(MULTIPLIERS[0]) * u128::from(block[0]);
        let second = u128::from(MULTIPLIERS[1]) * u128::from(block[2]);
        block = [
            (second >> 64) as u64 ^ block[1] ^ key[0],
            second as u64,
            (first >> 64) as u64 ^ block[3] ^ key[1],
            first as u64,
        ];
    }
    block
}
