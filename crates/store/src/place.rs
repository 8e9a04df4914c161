//! Where shared bytes lie, as plain data.

use std::fmt;

/// A segment: the number of its owner in the upper half, its place among the owner's in the lower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// The `serial`-th segment of `owner`.
    pub fn new(owner: u32, serial: u32) -> SegmentId {
        SegmentId(u64::from(owner) << 32 | u64::from(serial))
    }

    /// The number of the process that allocates in this segment.
    pub fn owner(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Which of its owner's segments this is.
    pub fn serial(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SegmentId({}:{})", self.owner(), self.serial())
    }
}

/// A range of bytes inside one block of a segment.
///
/// ```text
/// byte 0..8    segment     all little-endian
/// byte 8..16   offset
/// byte 16..24  n_bytes
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The segment.
    pub segment: SegmentId,
    /// Where the range starts in the segment.
    pub offset: u64,
    /// How long it is.
    pub n_bytes: u64,
}

impl Place {
    /// What [`to_bytes`](Place::to_bytes) returns is this long.
    pub const N_BYTES: usize = 24;

    /// As bytes, for a message.
    pub fn to_bytes(self) -> [u8; Place::N_BYTES] {
        let mut bytes = [0; Place::N_BYTES];
        for (part, word) in
            bytes
                .chunks_exact_mut(8)
                .zip([self.segment.0, self.offset, self.n_bytes])
        {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From bytes. Any 24 bytes are a place; whether it exists is seen when it is used.
    pub fn from_bytes(bytes: [u8; Place::N_BYTES]) -> Place {
        let word = |at: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(part)
        };
        Place {
            segment: SegmentId(word(0)),
            offset: word(8),
            n_bytes: word(16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_owner_and_serial() {
        let id = SegmentId::new(7, u32::MAX);
        assert_eq!((id.owner(), id.serial()), (7, u32::MAX));
        assert_eq!(id.0, 0x7_ffff_ffff);
    }

    proptest! {
        #[test]
        fn a_place_survives_its_bytes(segment: u64, offset: u64, n_bytes: u64) {
            let place = Place { segment: SegmentId(segment), offset, n_bytes };
            prop_assert_eq!(Place::from_bytes(place.to_bytes()), place);
        }
    }
}
