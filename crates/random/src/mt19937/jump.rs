//! Jumps of the Mersenne Twister: polynomials over the field of two elements.
//!
//! One step of the generator is a linear map T of its bits, and p(T) is zero for a polynomial p of degree 19937. So
//! T to the power of any n is g(T), where g is the remainder of xⁿ by p, and g(T) takes no more than 19936 steps.
//!
//! NumPy's `jumped` reads a state as a ring whose oldest word is where the next draw would be, and writes the result
//! into such a ring. Draws, though, read the state as a row. What comes out is a good generator, but not the one after
//! 2¹²⁸ draws unless the state begins a row; to give NumPy's numbers is to do the same.

use super::{M, Mt19937State, N, TWIST, twisted};
use std::sync::OnceLock;

/// The degree of p.
const DEGREE: usize = 19937;
const N_LIMBS: usize = DEGREE / 64 + 1;

/// The logarithm of how many steps a jump is.
const LOG_JUMP: u32 = 128;

/// A polynomial of degree below that of p: 64 coefficients in a limb, those of low powers first.
type Poly = [u64; N_LIMBS];

/// The state after so many of NumPy's jumps.
pub(super) fn jumped(state: &Mt19937State, n_jumps: u64) -> Mt19937State {
    if n_jumps == 0 {
        return state.clone();
    }
    let start = state.n_used as usize % N;
    let mut row: [u32; N] = std::array::from_fn(|i| state.key[(start + i) % N]);
    // Of the oldest word only the upper bit matters to what comes; NumPy carries the others along, so that they are
    // part of the state that it shows. They have nothing to do with the rest, unless the generator made that word.
    let stray = row[0] ^ made(&row);
    row[0] ^= stray;
    let one = one_jump();
    let many = if n_jumps == 1 {
        *one
    } else {
        squared_often(power(n_jumps), LOG_JUMP)
    };
    let mut after = applied(&many, &row);
    if one[0] & 1 == 1 {
        after[0] ^= stray;
    }
    // Each jump goes around the ring as far as it has steps.
    let n_steps = (degree(one) as u64 % N as u64) * (n_jumps % N as u64);
    let end = (start + (n_steps % N as u64) as usize) % N;
    let mut key = [0; N];
    for (i, word) in after.into_iter().enumerate() {
        key[(end + i) % N] = word;
    }
    Mt19937State {
        key,
        n_used: end as u32,
    }
}

/// The oldest word as it is where the generator has made it: its lower 31 bits went into the youngest word.
fn made(row: &[u32; N]) -> u32 {
    let twisted = row[N - 1] ^ row[M - 1];
    // The highest bit of a twisted word is the lowest before, as only the constant sets it.
    let is_odd = twisted >> 31 == 1;
    let shifted = if is_odd { twisted ^ TWIST } else { twisted };
    let joined = shifted << 1 | u32::from(is_odd);
    row[0] & super::UPPER | joined & super::LOWER
}

/// The sum of the states after as many steps as the polynomial has powers.
fn applied(poly: &Poly, row: &[u32; N]) -> [u32; N] {
    // The words that all these states consist of.
    let mut words = Vec::with_capacity(DEGREE + N);
    words.extend_from_slice(row);
    for i in 0..DEGREE {
        words.push(words[i + M] ^ twisted(words[i], words[i + 1]));
    }
    let mut sum = [0; N];
    for power in (0..DEGREE).filter(|power| poly[power / 64] >> (power % 64) & 1 == 1) {
        for (word, added) in sum.iter_mut().zip(&words[power..power + N]) {
            *word ^= added;
        }
    }
    sum
}

fn degree(poly: &Poly) -> usize {
    let highest = poly.iter().rposition(|&limb| limb != 0).unwrap_or(0);
    64 * highest + 63 - (poly[highest] | 1).leading_zeros() as usize
}

/// The remainder of x to the power of one jump's steps.
fn one_jump() -> &'static Poly {
    static ONE: OnceLock<Box<Poly>> = OnceLock::new();
    ONE.get_or_init(|| Box::new(squared_often(power(1), LOG_JUMP)))
}

/// The remainder of x to the power of `exponent`.
fn power(exponent: u64) -> Poly {
    let mut result = [0; N_LIMBS];
    result[0] = 1;
    for bit in (0..u64::BITS - exponent.leading_zeros()).rev() {
        result = squared(&result);
        if exponent >> bit & 1 == 1 {
            result = times_x(&result);
        }
    }
    result
}

fn squared_often(mut poly: Poly, n_times: u32) -> Poly {
    for _ in 0..n_times {
        poly = squared(&poly);
    }
    poly
}

fn times_x(poly: &Poly) -> Poly {
    let mut product = [0; N_LIMBS];
    let mut carried = 0;
    for (limb, &factor) in product.iter_mut().zip(poly) {
        *limb = factor << 1 | carried;
        carried = factor >> 63;
    }
    // The product's degree is at most that of p, which lies within the highest limb.
    if product[DEGREE / 64] >> (DEGREE % 64) & 1 == 1 {
        product[DEGREE / 64] ^= 1 << (DEGREE % 64);
        add_below(&mut product, 0, 1);
    }
    product
}

/// The square: over two elements, the same coefficients at twice the powers.
fn squared(poly: &Poly) -> Poly {
    let mut wide = [0_u64; 2 * N_LIMBS];
    for (i, &limb) in poly.iter().enumerate() {
        wide[2 * i] = spread(limb as u32);
        wide[2 * i + 1] = spread((limb >> 32) as u32);
    }
    reduce(&mut wide);
    std::array::from_fn(|i| wide[i])
}

/// A zero after each bit.
fn spread(bits: u32) -> u64 {
    let mut wide = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        wide = (wide | wide << shift) & mask;
    }
    wide
}

/// Takes the remainder by p, from the highest limb down: x to the degree of p is what p has below it.
fn reduce(wide: &mut [u64; 2 * N_LIMBS]) {
    const FIRST: usize = DEGREE / 64;
    for at in (FIRST + 1..2 * N_LIMBS).rev() {
        let limb = std::mem::take(&mut wide[at]);
        add_below(wide, 64 * at - DEGREE, limb);
    }
    let above = wide[FIRST] >> (DEGREE % 64);
    wide[FIRST] &= (1 << (DEGREE % 64)) - 1;
    add_below(wide, 0, above);
}

/// Adds what p has below its degree, times x to the power of `shift`, times the polynomial in `factor`.
fn add_below(target: &mut [u64], shift: usize, factor: u64) {
    if factor == 0 {
        return;
    }
    for power in terms_below() {
        let (limb, bit) = ((shift + power) / 64, (shift + power) % 64);
        target[limb] ^= factor << bit;
        // In two steps, as none of the bits is carried where `bit` is 0.
        let carried = factor >> 1 >> (63 - bit);
        if carried != 0 {
            target[limb + 1] ^= carried;
        }
    }
}

/// The powers that p has below its degree. They are few.
fn terms_below() -> &'static [usize] {
    static TERMS: OnceLock<Vec<usize>> = OnceLock::new();
    TERMS.get_or_init(|| {
        let coefficients = characteristic();
        (0..DEGREE).filter(|&power| coefficients[power]).collect()
    })
}

/// The coefficients of p, in the closed form that the inventors of the generator give in their paper.
///
/// With a = x⁶²⁴ + x³⁹⁷ and b = x⁶²³ + x³⁹⁶, and the bits cᵢ of the twist, it is
/// a·b³¹ + Σ cᵢ·a·b³⁰⁻ⁱ for i up to 30, + c₃₁.
fn characteristic() -> Vec<bool> {
    let times = |poly: &[bool], high: usize, low: usize| {
        let mut product = vec![false; poly.len() + high];
        for (power, _) in poly.iter().enumerate().filter(|(_, set)| **set) {
            product[power + high] ^= true;
            product[power + low] ^= true;
        }
        product
    };
    let is_set = |bit: usize| TWIST >> bit & 1 == 1;
    let mut sum = vec![false; DEGREE + 1];
    // a·b⁰, a·b¹ and so on.
    let mut product = times(&[true], N, M);
    for n_factors in 0..=31 {
        if n_factors == 31 || is_set(30 - n_factors) {
            let terms = product.iter().enumerate().filter(|(_, set)| **set);
            terms.for_each(|(power, _)| sum[power] ^= true);
        }
        product = times(&product, N - 1, M - 1);
    }
    sum[0] ^= is_set(31);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_row() -> [u32; N] {
        let mut word = 1_u32;
        std::array::from_fn(|_| {
            word = word.wrapping_mul(69069).wrapping_add(1);
            word
        })
    }

    fn stepped(row: &[u32; N], n_steps: usize) -> [u32; N] {
        let mut words = row.to_vec();
        for i in 0..n_steps {
            words.push(words[i + M] ^ twisted(words[i], words[i + 1]));
        }
        std::array::from_fn(|i| words[n_steps + i])
    }

    #[test]
    fn the_polynomial_has_the_known_number_of_terms() {
        assert_eq!(terms_below().len() + 1, 135);
        assert!(characteristic()[DEGREE]);
    }

    #[test]
    fn a_power_of_x_is_as_many_steps() {
        let row = some_row();
        for n_steps in [1, 5, DEGREE as u64 - 1, DEGREE as u64, 123_457] {
            let mut after = applied(&power(n_steps), &row);
            let mut expected = stepped(&row, n_steps as usize);
            // The lower bits of the oldest word are no part of the state.
            after[0] &= super::super::UPPER;
            expected[0] &= super::super::UPPER;
            assert!(after == expected, "{n_steps} steps");
        }
    }

    #[test]
    fn the_oldest_word_is_known_from_the_others() {
        let row = stepped(&some_row(), N);
        assert_eq!(made(&row), row[0]);
    }
}
