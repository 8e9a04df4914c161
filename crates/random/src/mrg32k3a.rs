//! L'Ecuyer's combined multiple recursive generator, as R has it under the name "L'Ecuyer-CMRG".
//!
//! Two linear recurrences, modulo two primes just below 2³²; a stream is 2¹²⁷ draws long, a substream 2⁷⁶.

use crate::{BitGenerator, SeedSequence};

const M1: u64 = 4_294_967_087;
const M2: u64 = 4_294_944_443;
const A12: u64 = 1_403_580;
const A13: u64 = M1 - 810_728;
const A21: u64 = 527_612;
const A23: u64 = M2 - 1_370_589;
/// What R multiplies by, a little below 1 / M1.
const SCALE: f64 = 2.328_306_549_295_728e-10;

const LOG_STREAM: u32 = 127;
const LOG_SUBSTREAM: u32 = 76;

type Matrix = [[u64; 3]; 3];

const FIRST: Matrix = [[0, 1, 0], [0, 0, 1], [A13, A12, 0]];
const SECOND: Matrix = [[0, 1, 0], [0, 0, 1], [A23, 0, A21]];
/// A matrix to the powers 1, 2, 4 and so on: what skips so many streams is a product of these.
type Powers = [Matrix; 64];

static FIRST_STREAM: Powers = powers(squared_often(FIRST, M1, LOG_STREAM), M1);
static SECOND_STREAM: Powers = powers(squared_often(SECOND, M2, LOG_STREAM), M2);
static FIRST_SUBSTREAM: Powers = powers(squared_often(FIRST, M1, LOG_SUBSTREAM), M1);
static SECOND_SUBSTREAM: Powers = powers(squared_often(SECOND, M2, LOG_SUBSTREAM), M2);

/// R's "L'Ecuyer-CMRG".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mrg32k3a {
    state: [u32; 6],
}

/// Six words that are no state of the generator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAState;

impl std::fmt::Display for NotAState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the first three numbers must lie below {M1}, the last three below {M2}, and neither three may all be 0"
        )
    }
}

impl std::error::Error for NotAState {}

impl Mrg32k3a {
    /// In the state of R after `RNGkind("L'Ecuyer-CMRG"); set.seed(seed)`.
    pub fn from_r_seed(seed: i32) -> Mrg32k3a {
        let mut scrambled = seed as u32;
        let mut next = || {
            scrambled = scrambled.wrapping_mul(69069).wrapping_add(1);
            scrambled
        };
        for _ in 0..50 {
            next();
        }
        let state = std::array::from_fn(|_| {
            loop {
                let word = next();
                if u64::from(word) < M2 {
                    return word;
                }
            }
        });
        Mrg32k3a { state }
    }

    /// In a state drawn from a seed sequence.
    pub fn seeded(seeds: &SeedSequence) -> Mrg32k3a {
        let mut words = [0; 12];
        seeds.generate_u32(&mut words);
        Mrg32k3a::from_words(words)
    }

    /// In a state made of twelve random words: two for each number, so that all are equally likely.
    pub fn from_words(words: [u32; 12]) -> Mrg32k3a {
        let mut state = std::array::from_fn(|i| {
            let both = u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32;
            (both % if i < 3 { M1 } else { M2 }) as u32
        });
        // Never seen by anybody, as it takes 96 bits of zeros.
        for three in [0, 3] {
            if state[three..three + 3] == [0; 3] {
                state[three] = 1;
            }
        }
        Mrg32k3a { state }
    }

    /// In this state: the last six numbers of R's `.Random.seed`, taken as unsigned.
    ///
    /// # Errors
    ///
    /// If the generator has no such state.
    pub fn from_state(state: [u32; 6]) -> Result<Mrg32k3a, NotAState> {
        let (first, second) = state.split_at(3);
        let is_state = |three: &[u32], modulus: u64| {
            three.iter().all(|&word| u64::from(word) < modulus)
                && three.iter().any(|&word| word > 0)
        };
        if is_state(first, M1) && is_state(second, M2) {
            Ok(Mrg32k3a { state })
        } else {
            Err(NotAState)
        }
    }

    /// The present state.
    pub fn state(&self) -> [u32; 6] {
        self.state
    }

    /// R's `nextRNGStream`, so many times.
    #[must_use]
    pub fn nth_stream(&self, n_streams: u64) -> Mrg32k3a {
        self.skipped(&FIRST_STREAM, &SECOND_STREAM, n_streams)
    }

    /// R's `nextRNGSubStream`, so many times.
    #[must_use]
    pub fn nth_substream(&self, n_substreams: u64) -> Mrg32k3a {
        self.skipped(&FIRST_SUBSTREAM, &SECOND_SUBSTREAM, n_substreams)
    }

    fn skipped(&self, first: &Powers, second: &Powers, n_times: u64) -> Mrg32k3a {
        let [a, b, c, d, e, f] = self.state.map(u64::from);
        let first = applied_often(first, [a, b, c], M1, n_times);
        let second = applied_often(second, [d, e, f], M2, n_times);
        let mut state = [0; 6];
        for (word, value) in state.iter_mut().zip(first.into_iter().chain(second)) {
            *word = value as u32;
        }
        Mrg32k3a { state }
    }

    /// A draw: from 1 to M1.
    fn draw(&mut self) -> u64 {
        let [a, b, c, d, e, f] = self.state.map(u64::from);
        let first = (A12 * b + A13 * a) % M1;
        let second = (A21 * f + A23 * d) % M2;
        self.state = [b, c, first, e, f, second].map(|word| word as u32);
        if first > second {
            first - second
        } else {
            first + M1 - second
        }
    }
}

impl BitGenerator for Mrg32k3a {
    /// Two draws, as [`next_u32`](Self::next_u32) makes them.
    fn next_u64(&mut self) -> u64 {
        let high = self.next_u32();
        u64::from(high) << 32 | u64::from(self.next_u32())
    }

    /// One draw. There are 209 values fewer than of 32 bits: the highest never come.
    fn next_u32(&mut self) -> u32 {
        (self.draw() - 1) as u32
    }

    /// What R's `runif(1)` gives: one draw, between 0 and 1 and neither.
    fn next_double(&mut self) -> f64 {
        self.draw() as f64 * SCALE
    }
}

const fn product(left: &Matrix, right: &Matrix, modulus: u64) -> Matrix {
    let mut product = [[0; 3]; 3];
    let mut i = 0;
    while i < 3 {
        let mut j = 0;
        while j < 3 {
            let mut k = 0;
            while k < 3 {
                product[i][j] = (product[i][j] + left[i][k] * right[k][j] % modulus) % modulus;
                k += 1;
            }
            j += 1;
        }
        i += 1;
    }
    product
}

const fn squared_often(mut matrix: Matrix, modulus: u64, n_times: u32) -> Matrix {
    let mut i = 0;
    while i < n_times {
        matrix = product(&matrix, &matrix, modulus);
        i += 1;
    }
    matrix
}

const fn powers(matrix: Matrix, modulus: u64) -> Powers {
    let mut powers = [matrix; 64];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = product(&powers[i - 1], &powers[i - 1], modulus);
        i += 1;
    }
    powers
}

fn applied_often(powers: &Powers, vector: [u64; 3], modulus: u64, n_times: u64) -> [u64; 3] {
    let wanted = powers.iter().enumerate();
    let wanted = wanted.filter(|(bit, _)| n_times >> bit & 1 == 1);
    wanted.fold(vector, |vector, (_, matrix)| {
        applied(matrix, vector, modulus)
    })
}

fn applied(matrix: &Matrix, vector: [u64; 3], modulus: u64) -> [u64; 3] {
    matrix.map(|row| {
        let terms = row.iter().zip(vector).map(|(a, b)| a * b % modulus);
        terms.sum::<u64>() % modulus
    })
}
