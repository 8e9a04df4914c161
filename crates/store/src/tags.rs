//! What each page of a segment is the start or the end of, in one word a page.
//!
//! ```text
//! bits 0..32   n_pages   of the extent that starts or ends here
//! bits 32..34  kind      0 neither, 1 start of a free extent, 2 end of a free extent, 3 start of a block
//! bit  34      freed     block: its allocator has freed it
//! bits 35..64  count     block: leases; start of a free extent: pages whose memory is kept
//! ```
//!
//! Every page that is not the start of a block nor the start or end of a free extent has the word 0.
//! A free extent of one page has only the word of its start.
//!
//! Words are written under the arena's lock alone. They are atomic because sizes are read without it:
//! by anybody who asks whether an address is a block, and by a forked child in which the lock may be
//! held for ever by a thread that it does not have.

use std::sync::atomic::{AtomicU64, Ordering};

const KIND_SHIFT: u32 = 32;
const FREED: u64 = 1 << 34;
const COUNT_SHIFT: u32 = 35;

/// A count stays below this.
pub(crate) const COUNT_END: u32 = 1 << 29;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Interior,
    FreeStart { n_pages: u32, n_warm: u32 },
    FreeEnd { n_pages: u32 },
    Block(Block),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) n_pages: u32,
    pub(crate) is_freed: bool,
    pub(crate) n_leases: u32,
}

#[derive(Debug)]
pub(crate) struct Tags {
    words: Vec<AtomicU64>,
}

impl Tags {
    /// Words for so many pages, untouched so far.
    #[allow(unsafe_code)]
    pub(crate) fn new(n_pages: u32) -> Tags {
        // Zeros from the allocator take no memory until written; an iterator would write them.
        let mut words = std::mem::ManuallyDrop::new(vec![0_u64; n_pages as usize]);
        let (at, len, capacity) = (words.as_mut_ptr(), words.len(), words.capacity());
        const { assert!(align_of::<AtomicU64>() == align_of::<u64>()) };
        // SAFETY: the parts of a vector that is not dropped. An atomic has its integer's size and
        // values, and here its alignment.
        let words = unsafe { Vec::from_raw_parts(at.cast::<AtomicU64>(), len, capacity) };
        Tags { words }
    }

    pub(crate) fn get(&self, page: u32) -> Tag {
        // SYNC POINT: with `set`. Who sees a block freed sees what was written to it before.
        let word = self.words[page as usize].load(Ordering::Acquire);
        let n_pages = word as u32;
        let count = (word >> COUNT_SHIFT) as u32;
        match word >> KIND_SHIFT & 3 {
            0 => Tag::Interior,
            1 => Tag::FreeStart {
                n_pages,
                n_warm: count,
            },
            2 => Tag::FreeEnd { n_pages },
            _ => Tag::Block(Block {
                n_pages,
                is_freed: word & FREED != 0,
                n_leases: count,
            }),
        }
    }

    pub(crate) fn set(&self, page: u32, tag: Tag) {
        let (kind, n_pages, is_freed, count) = match tag {
            Tag::Interior => (0, 0, false, 0),
            Tag::FreeStart { n_pages, n_warm } => (1, n_pages, false, n_warm),
            Tag::FreeEnd { n_pages } => (2, n_pages, false, 0),
            Tag::Block(block) => (3, block.n_pages, block.is_freed, block.n_leases),
        };
        assert!(count < COUNT_END, "{tag:?} does not fit into its word");
        let freed = if is_freed { FREED } else { 0 };
        let word =
            u64::from(n_pages) | kind << KIND_SHIFT | freed | u64::from(count) << COUNT_SHIFT;
        self.words[page as usize].store(word, Ordering::Release);
    }

    /// The block that starts at this page.
    pub(crate) fn block(&self, page: u32) -> Option<Block> {
        match self.get(page) {
            Tag::Block(block) => Some(block),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_its_word() {
        let tags = Tags::new(3);
        assert_eq!(tags.get(1), Tag::Interior);
        let block = Block {
            n_pages: u32::MAX,
            is_freed: true,
            n_leases: COUNT_END - 1,
        };
        let free = Tag::FreeStart {
            n_pages: 7,
            n_warm: 5,
        };
        for tag in [
            Tag::Block(block),
            free,
            Tag::FreeEnd { n_pages: 9 },
            Tag::Interior,
        ] {
            tags.set(1, tag);
            assert_eq!(tags.get(1), tag);
        }
        assert_eq!((tags.get(0), tags.get(2)), (Tag::Interior, Tag::Interior));
    }
}
