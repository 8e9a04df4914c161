//! Streams of random numbers: from a seed and a task's number to a generator, the same on every machine.
//!
//! [`SeedSequence`] and the generators [`Pcg64`], [`Pcg64Dxsm`], [`Mt19937`], [`Philox`] and [`Sfc64`] give the numbers
//! of NumPy's classes of those names, bit for bit; [`Mrg32k3a`] those of R's `"L'Ecuyer-CMRG"`. Every state can be taken
//! out and put back as NumPy and R write it.
//!
//! ```
//! use manyhands_random::{BitGenerator, Pcg64, SeedSequence};
//!
//! // numpy.random.PCG64(numpy.random.SeedSequence(1).spawn(10)[9])
//! let stream = SeedSequence::new(&[1], &[9]);
//! let mut generator = Pcg64::seeded(&stream);
//! assert!(generator.next_double() < 1.0);
//! ```

mod mrg32k3a;
mod mt19937;
mod pcg;
mod philox;
mod seed_sequence;
mod sfc;

pub use mrg32k3a::{Mrg32k3a, NotAState};
pub use mt19937::{MT_WORDS, Mt19937, Mt19937State, mt19937_draws};
pub use pcg::{Pcg64, Pcg64Dxsm, PcgState};
pub use philox::{Philox, PhiloxState};
pub use seed_sequence::{SeedSequence, words};
pub use sfc::{Sfc64, Sfc64State};

/// The stream with this number: `numpy.random.PCG64(numpy.random.SeedSequence(seed).spawn(n)[number])` for any larger n.
///
/// It is made in the same time whatever its number, so a million tasks need no list of a million streams.
///
/// ```
/// use manyhands_random::{BitGenerator, stream};
///
/// // numpy.random.default_rng(numpy.random.SeedSequence(1).spawn(3)[2]).random()
/// assert_eq!(stream(1, 2).next_double(), 0.23316830360018304);
/// ```
pub fn stream(seed: u128, number: u64) -> Pcg64 {
    Pcg64::seeded(&SeedSequence::new(&words(seed), &words(number.into())))
}

/// A source of random bits.
pub trait BitGenerator {
    /// 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// 32 random bits. Generators that make 64 at a time keep the other half for the next call, as NumPy's do.
    fn next_u32(&mut self) -> u32;

    /// A number from 0 on and below 1, with 53 random bits.
    fn next_double(&mut self) -> f64 {
        double(self.next_u64())
    }
}

/// The upper 53 bits, as a number below 1.
fn double(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// The half of 64 bits that was not asked for yet. It is part of a generator's state: whoever draws 32 bits, as small
/// integers and permutations do, is given it first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Half {
    /// Whether there is one.
    pub is_held: bool,
    /// Its bits. They stay there once given out, as in NumPy.
    pub bits: u32,
}

impl Half {
    fn next(&mut self, next_u64: impl FnOnce() -> u64) -> u32 {
        if self.is_held {
            self.is_held = false;
            return self.bits;
        }
        let both = next_u64();
        self.is_held = true;
        self.bits = (both >> 32) as u32;
        both as u32
    }
}
