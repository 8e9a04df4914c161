//! A fingerprint of large contents, to recognise them.

use crate::threads;
use std::sync::atomic::{AtomicUsize, Ordering};
use twox_hash::XxHash3_128;

/// Contents longer than this are digested in parts of this length. The split depends on nothing else,
/// so the value does not depend on the number of threads.
const PART_BYTES: usize = 1 << 20;

/// A 128-bit fingerprint (XXH3) of `bytes`: equal for equal contents, in every process of this
/// version of manyhands, and different for different ones unless somebody works at it.
pub fn digest(bytes: &[u8]) -> u128 {
    with_threads(bytes, threads::for_bytes(bytes.len()))
}

fn with_threads(bytes: &[u8], n_threads: usize) -> u128 {
    if bytes.len() <= PART_BYTES {
        return XxHash3_128::oneshot(bytes);
    }
    let n_parts = bytes.len().div_ceil(PART_BYTES);
    let next = AtomicUsize::new(0);
    let found = threads::run(n_threads, |_| {
        let mut mine = Vec::new();
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= n_parts {
                return mine;
            }
            let end = bytes.len().min((part + 1) * PART_BYTES);
            mine.push((part, XxHash3_128::oneshot(&bytes[part * PART_BYTES..end])));
        }
    });
    let mut words = vec![0; n_parts * size_of::<u128>()];
    for (part, value) in found.into_iter().flatten() {
        words[part * 16..][..16].copy_from_slice(&value.to_le_bytes());
    }
    XxHash3_128::oneshot_with_seed(bytes.len() as u64, &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_changes_it() {
        let mut bytes: Vec<u8> = (0..9 * PART_BYTES + 17).map(|i| (i % 251) as u8).collect();
        let before = digest(&bytes);
        for at in [
            0,
            PART_BYTES - 1,
            PART_BYTES,
            5 * PART_BYTES + 3,
            bytes.len() - 1,
        ] {
            bytes[at] ^= 1;
            assert_ne!(digest(&bytes), before, "byte {at}");
            bytes[at] ^= 1;
        }
        assert_eq!(digest(&bytes), before);
        assert_ne!(digest(&bytes[1..]), before);
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let bytes: Vec<u8> = (0..5 * PART_BYTES + 1).map(|i| (i % 253) as u8).collect();
        assert_eq!(with_threads(&bytes, 1), with_threads(&bytes, 3));
    }

    #[test]
    fn known_values_stay() {
        // XXH3-128 of nothing, from its specification.
        assert_eq!(digest(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
    }
}
