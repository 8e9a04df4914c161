//! NumPy's `SeedSequence`: seeds of any length, hashed into states that differ in every bit.

const POOL_SIZE: usize = 4;

const INIT_A: u32 = 0x43b0_d7e5;
const MULT_A: u32 = 0x931e_8875;
const INIT_B: u32 = 0x8b51_f9dd;
const MULT_B: u32 = 0x58f3_8ded;
const MIX_MULT_L: u32 = 0xca01_f9dd;
const MIX_MULT_R: u32 = 0x4973_f715;
const SHIFT: u32 = 16;

/// A seed and a place in the tree of its descendants, mixed.
///
/// The same as `numpy.random.SeedSequence(entropy, spawn_key=spawn_key)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeedSequence {
    pool: [u32; POOL_SIZE],
}

impl SeedSequence {
    /// Of a seed and a spawn key, each as 32-bit words; [`words`] makes them from integers.
    pub fn new(entropy: &[u32], spawn_key: &[u32]) -> SeedSequence {
        let mut hash = Hash {
            factor: INIT_A,
            multiplier: MULT_A,
        };
        let mut assembled = entropy.to_vec();
        if !spawn_key.is_empty() && assembled.len() < POOL_SIZE {
            // So that a short seed with a key is not the longer seed that has the key's words.
            assembled.resize(POOL_SIZE, 0);
        }
        assembled.extend_from_slice(spawn_key);
        let mut pool = [0; POOL_SIZE];
        for (i, word) in pool.iter_mut().enumerate() {
            *word = hash.next(assembled.get(i).copied().unwrap_or(0));
        }
        for source in 0..POOL_SIZE {
            for target in 0..POOL_SIZE {
                if source != target {
                    pool[target] = mix(pool[target], hash.next(pool[source]));
                }
            }
        }
        for &word in assembled.iter().skip(POOL_SIZE) {
            for target in &mut pool {
                *target = mix(*target, hash.next(word));
            }
        }
        SeedSequence { pool }
    }

    /// Fills `state` with 32-bit words, the first of as many as anybody may want.
    pub fn generate_u32(&self, state: &mut [u32]) {
        let mut hash = Hash {
            factor: INIT_B,
            multiplier: MULT_B,
        };
        for (word, source) in state.iter_mut().zip(self.pool.iter().cycle()) {
            *word = hash.next(*source);
        }
    }

    /// So many 64-bit words.
    pub fn generate_u64<const N: usize>(&self) -> [u64; N] {
        let mut halves = vec![0; 2 * N];
        self.generate_u32(&mut halves);
        std::array::from_fn(|i| u64::from(halves[2 * i]) | u64::from(halves[2 * i + 1]) << 32)
    }
}

/// A hash whose constant moves on with each word.
struct Hash {
    factor: u32,
    multiplier: u32,
}

impl Hash {
    fn next(&mut self, word: u32) -> u32 {
        let mixed = word ^ self.factor;
        self.factor = self.factor.wrapping_mul(self.multiplier);
        let mixed = mixed.wrapping_mul(self.factor);
        mixed ^ mixed >> SHIFT
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = MIX_MULT_L
        .wrapping_mul(x)
        .wrapping_sub(MIX_MULT_R.wrapping_mul(y));
    mixed ^ mixed >> SHIFT
}

/// An integer as 32-bit words, the lowest first; zero is one word.
///
/// ```
/// assert_eq!(manyhands_random::words(1 << 32 | 7), [7, 1]);
/// assert_eq!(manyhands_random::words(0), [0]);
/// ```
pub fn words(mut integer: u128) -> Vec<u32> {
    let mut words = vec![integer as u32];
    integer >>= 32;
    while integer > 0 {
        words.push(integer as u32);
        integer >>= 32;
    }
    words
}
