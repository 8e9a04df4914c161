//! NumPy's `MT19937`, the Mersenne Twister.

mod jump;

use crate::{BitGenerator, SeedSequence};

/// How many words the state of a Mersenne twister has.
pub const MT_WORDS: usize = 624;
const N: usize = MT_WORDS;
const M: usize = 397;
const UPPER: u32 = 0x8000_0000;
const LOWER: u32 = 0x7fff_ffff;
const TWIST: u32 = 0x9908_b0df;

/// All there is to a generator of this kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mt19937State {
    /// The words of the state.
    pub key: [u32; N],
    /// How many of them have been given out; all 624 where new ones are due.
    pub n_used: u32,
}

/// NumPy's `MT19937`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mt19937(Box<Mt19937State>);

impl Mt19937 {
    /// `numpy.random.MT19937(seeds)`.
    pub fn seeded(seeds: &SeedSequence) -> Mt19937 {
        let mut key = [0; N];
        seeds.generate_u32(&mut key);
        // A state of zeros would stay one.
        key[0] = UPPER;
        // NumPy's loop over the key ends one early, and the last word of the seed is the first to be given out.
        let n_used = N as u32 - 1;
        Mt19937(Box::new(Mt19937State { key, n_used }))
    }

    /// One in this state.
    pub fn from_state(state: Mt19937State) -> Mt19937 {
        Mt19937(Box::new(state))
    }

    /// The present state.
    pub fn state(&self) -> &Mt19937State {
        &self.0
    }

    /// NumPy's `jumped(n_jumps)`: 2¹²⁸ draws further, so many times, in the time of the logarithm of their number.
    pub fn jumped(&self, n_jumps: u64) -> Mt19937 {
        Mt19937(Box::new(jump::jumped(&self.0, n_jumps)))
    }

    /// Makes the next 624 words.
    fn refill(&mut self) {
        refill(&mut self.0.key);
        self.0.n_used = 0;
    }
}

fn refill(key: &mut [u32; N]) {
    for i in 0..N {
        key[i] = key[(i + M) % N] ^ twisted(key[i], key[(i + 1) % N]);
    }
}

/// How often the words of a state have been replaced, at most `n_max` times, if drawing alone has led from
/// the first to the second: `None` if it has not, so that somebody has set the state.
pub fn mt19937_draws(before: &[u32; N], after: &[u32; N], n_max: u32) -> Option<u32> {
    let mut key = *before;
    for n in 0..=n_max {
        if key == *after {
            return Some(n);
        }
        refill(&mut key);
    }
    None
}

/// What the oldest word and the one after it contribute to the word that comes next.
fn twisted(oldest: u32, second: u32) -> u32 {
    let joined = oldest & UPPER | second & LOWER;
    joined >> 1 ^ if joined & 1 == 1 { TWIST } else { 0 }
}

impl BitGenerator for Mt19937 {
    fn next_u64(&mut self) -> u64 {
        let high = self.next_u32();
        u64::from(high) << 32 | u64::from(self.next_u32())
    }

    fn next_u32(&mut self) -> u32 {
        if self.0.n_used as usize >= N {
            self.refill();
        }
        let mut word = self.0.key[self.0.n_used as usize];
        self.0.n_used += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn next_double(&mut self) -> f64 {
        let high = self.next_u32() >> 5;
        let low = self.next_u32() >> 6;
        (f64::from(high) * f64::from(1 << 26) + f64::from(low)) / (1_u64 << 53) as f64
    }
}
