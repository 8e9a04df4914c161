//! One bit for each page of a segment.
//!
//! The words come from the allocator as zeros and are first touched when a bit is set, so a set for a
//! segment that is hardly used takes hardly any memory.

use std::ops::Range;

const WORD: u32 = u64::BITS;

#[derive(Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    /// One bit for each word that is not zero.
    summary: Vec<u64>,
}

impl Bits {
    pub(crate) fn new(n_bits: u32) -> Bits {
        let n_words = n_bits.div_ceil(WORD) as usize;
        Bits {
            words: vec![0; n_words],
            summary: vec![0; n_words.div_ceil(WORD as usize)],
        }
    }

    pub(crate) fn set(&mut self, range: Range<u32>) {
        for (at, mask) in masks(range) {
            self.words[at] |= mask;
            self.summary[at / 64] |= 1 << (at % 64);
        }
    }

    pub(crate) fn clear(&mut self, range: Range<u32>) {
        for (at, mask) in masks(range) {
            self.words[at] &= !mask;
            if self.words[at] == 0 {
                self.summary[at / 64] &= !(1 << (at % 64));
            }
        }
    }

    pub(crate) fn count(&self, range: Range<u32>) -> u32 {
        masks(range)
            .map(|(at, mask)| (self.words[at] & mask).count_ones())
            .sum()
    }

    /// The last set bit at or before `bit`.
    pub(crate) fn last_until(&self, bit: u32) -> Option<u32> {
        let at = (bit / WORD) as usize;
        if let Some(found) = last(self.words[at] & up_to(bit % WORD)) {
            return Some(at as u32 * WORD + found);
        }
        let before = at.checked_sub(1)?;
        let mut above = before / 64;
        let mut word = self.summary[above] & up_to((before % 64) as u32);
        loop {
            if let Some(found) = last(word) {
                let at = above as u32 * WORD + found;
                let bit = last(self.words[at as usize]).expect("the summary says so");
                return Some(at * WORD + bit);
            }
            above = above.checked_sub(1)?;
            word = self.summary[above];
        }
    }

    /// The start of the shortest end piece of `range` in which `n_bits` are set, and how many are: the
    /// whole range where it has fewer. The piece begins at a word, so it may have some more.
    pub(crate) fn end_with(&self, range: Range<u32>, n_bits: u32) -> (u32, u32) {
        let mut start = range.end;
        let mut n_found = 0;
        while start > range.start && n_found < n_bits {
            let next = ((start - 1) / WORD * WORD).max(range.start);
            n_found += self.count(next..start);
            start = next;
        }
        (start, n_found)
    }

    /// The runs of set bits in `range`.
    pub(crate) fn runs(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for (at, mask) in masks(range) {
            let mut word = self.words[at] & mask;
            while word != 0 {
                let start = word.trailing_zeros();
                let n_bits = (word >> start).trailing_ones();
                word &= !ones(start, n_bits);
                let start = at as u32 * WORD + start;
                match runs.last_mut() {
                    Some(run) if run.end == start => run.end += n_bits,
                    _ => runs.push(start..start + n_bits),
                }
            }
        }
        runs
    }
}

fn ones(start: u32, n_bits: u32) -> u64 {
    (u64::MAX >> (WORD - n_bits)) << start
}

fn up_to(bit: u32) -> u64 {
    u64::MAX >> (WORD - 1 - bit)
}

fn last(word: u64) -> Option<u32> {
    word.checked_ilog2()
}

/// The words that a range touches, each with the range's bits in it.
fn masks(range: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let n_bits = (WORD - start % WORD).min(range.end - start);
        let item = ((start / WORD) as usize, ones(start % WORD, n_bits));
        start += n_bits;
        Some(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_is_what_an_array_would_be(
            changes in prop::collection::vec((any::<bool>(), 0u32..20_000, 0u32..9_000), 1..20),
            ask in (0u32..20_000, 0u32..20_000),
            n_bits in 0u32..5_000,
        ) {
            let mut bits = Bits::new(20_000);
            let mut model = vec![false; 20_000];
            for (value, start, n) in changes {
                let range = start..(start + n).min(20_000);
                model[range.start as usize..range.end as usize].fill(value);
                if value { bits.set(range) } else { bits.clear(range) }
            }
            let range = ask.0.min(ask.1)..ask.0.max(ask.1);
            let inside = &model[range.start as usize..range.end as usize];
            let n_set = inside.iter().filter(|&&bit| bit).count() as u32;
            prop_assert_eq!(bits.count(range.clone()), n_set);
            let last = (0..=ask.0).rev().find(|&bit| model[bit as usize]);
            prop_assert_eq!(bits.last_until(ask.0), last);
            let mut rebuilt = vec![false; inside.len()];
            for run in bits.runs(range.clone()) {
                rebuilt[(run.start - range.start) as usize..(run.end - range.start) as usize].fill(true);
            }
            prop_assert_eq!(&rebuilt[..], inside);
            let (start, n_found) = bits.end_with(range.clone(), n_bits);
            prop_assert_eq!(bits.count(start..range.end), n_found);
            prop_assert!(n_found >= n_bits.min(n_set));
            prop_assert!(n_found < n_bits + 64 || n_bits == 0);
        }
    }
}
