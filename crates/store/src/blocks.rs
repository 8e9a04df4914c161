//! Which pages of the segments are whose: the bookkeeping of an arena, without the memory.
//!
//! Blocks and free extents tile each segment; two free extents never touch. A block is taken from the
//! smallest free extent that is long enough, those with memory of their own first, and always from its
//! low end; memory is given back from the high ends. So what is warm stays together and is used again.

use crate::bits::Bits;
use crate::pins::Pins;
use crate::tags::{Block, COUNT_END, Tag, Tags};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// No segment is longer than this, so that its pages can be counted in a tag.
pub(crate) const N_SEGMENT_PAGES_MAX: u32 = COUNT_END - 1;

/// Some pages of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    pub(crate) n_pages: u32,
    pub(crate) segment: u32,
    pub(crate) page: u32,
}

impl Extent {
    fn pages(&self) -> Range<u32> {
        self.page..self.page + self.n_pages
    }
}

/// Where a block would go, and what its pages are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) extent: Extent,
    /// Pages that may have memory already, with anything in it. The others read as zeros.
    pub(crate) n_backed: u32,
    /// Whether all those are mapped too, as far as is known.
    pub(crate) is_mapped: bool,
    free: Extent,
}

#[derive(Debug, Default)]
pub(crate) struct Blocks {
    segments: Vec<Segment>,
    /// Free extents with memory.
    warm: BTreeSet<Extent>,
    /// Free extents without.
    cold: BTreeSet<Extent>,
    pub(crate) counts: Counts,
    /// Blocks that nobody here uses any more, but perhaps a forked process.
    pins: Pins<Start>,
    /// When those blocks were taken that were taken while there was a pin.
    births: HashMap<Start, u64>,
}

/// The segment of a block, and its first page.
type Start = (u32, u32);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) n_blocks: usize,
    pub(crate) n_leases: usize,
    pub(crate) n_pages_in_use: u64,
    pub(crate) n_pages_warm: u64,
}

#[derive(Debug)]
struct Segment {
    tags: Arc<Tags>,
    n_pages: u32,
    starts: Bits,
    backed: Bits,
    /// Pages written without the mapping, which has no entries for them yet.
    unmapped: Bits,
}

impl Blocks {
    pub(crate) fn add_segment(&mut self, n_pages: u32, tags: Arc<Tags>) {
        assert!(n_pages <= N_SEGMENT_PAGES_MAX);
        self.segments.push(Segment {
            tags,
            n_pages,
            starts: Bits::new(n_pages),
            backed: Bits::new(n_pages),
            unmapped: Bits::new(n_pages),
        });
        let extent = Extent {
            n_pages,
            segment: self.segments.len() as u32 - 1,
            page: 0,
        };
        self.insert_free(extent, 0);
    }

    /// The best place for a block. Nothing is taken yet.
    pub(crate) fn find(&self, n_pages: u32) -> Option<Found> {
        let least = Extent {
            n_pages,
            segment: 0,
            page: 0,
        };
        let fits = |set: &BTreeSet<Extent>| set.range(least..).next().copied();
        let free = fits(&self.warm).or_else(|| fits(&self.cold))?;
        let extent = Extent { n_pages, ..free };
        let segment = &self.segments[free.segment as usize];
        Some(Found {
            extent,
            n_backed: segment.backed.count(extent.pages()),
            is_mapped: segment.unmapped.count(extent.pages()) == 0,
            free,
        })
    }

    /// Takes what has just been found.
    pub(crate) fn take(&mut self, found: &Found) {
        let Found { extent, free, .. } = *found;
        let n_warm = self.remove_free(free) - found.n_backed;
        if free.n_pages > extent.n_pages {
            let rest = Extent {
                page: free.page + extent.n_pages,
                n_pages: free.n_pages - extent.n_pages,
                ..free
            };
            self.insert_free(rest, n_warm);
        }
        let segment = &mut self.segments[extent.segment as usize];
        segment.starts.set(extent.page..extent.page + 1);
        segment.backed.set(extent.pages());
        segment.unmapped.clear(extent.pages());
        let block = Block {
            n_pages: extent.n_pages,
            is_freed: false,
            n_leases: 0,
        };
        segment.tags.set(extent.page, Tag::Block(block));
        self.counts.n_blocks += 1;
        self.counts.n_pages_in_use += u64::from(extent.n_pages);
        self.counts.n_pages_warm -= u64::from(found.n_backed);
        if self.pins.is_any() {
            let start = (extent.segment, extent.page);
            self.births.insert(start, self.pins.now());
        }
    }

    /// Has no block that is there now used again before [`Blocks::unpin`] with the number returned.
    pub(crate) fn pin(&mut self) -> u64 {
        self.pins.pin()
    }

    pub(crate) fn unpin(&mut self, number: u64) {
        for (segment, page) in self.pins.unpin(number) {
            self.put_back(segment, page);
        }
        if !self.pins.is_any() {
            // Whatever is pinned from now on is younger than all that is there.
            self.births.clear();
        }
    }

    /// The runs of pages in which something may stand, before they are taken.
    pub(crate) fn backed(&self, extent: Extent) -> Vec<Range<u32>> {
        let segment = &self.segments[extent.segment as usize];
        segment.backed.runs(extent.pages())
    }

    /// These pages were written without the mapping.
    pub(crate) fn set_unmapped(&mut self, extent: Extent) {
        let segment = &mut self.segments[extent.segment as usize];
        segment.unmapped.set(extent.pages());
    }

    /// The first page of the block that has this page.
    pub(crate) fn start(&self, segment: u32, page: u32) -> Option<u32> {
        let segment = self.segments.get(segment as usize)?;
        if page >= segment.n_pages {
            return None;
        }
        let start = segment.starts.last_until(page)?;
        let block = segment.tags.block(start)?;
        (page - start < block.n_pages).then_some(start)
    }

    /// The block that starts at this page.
    pub(crate) fn block(&self, segment: u32, page: u32) -> Option<Block> {
        self.segments.get(segment as usize)?.tags.block(page)
    }

    /// Marks a block as freed by its allocator. `false`: there is none, or it is already.
    pub(crate) fn free(&mut self, segment: u32, page: u32) -> bool {
        match self.block(segment, page) {
            Some(block) if !block.is_freed => {
                let block = Block {
                    is_freed: true,
                    ..block
                };
                self.change(segment, page, block);
                true
            }
            _ => false,
        }
    }

    /// Counts one more lease. `None`: no block starts here, or it has too many.
    pub(crate) fn lease(&mut self, segment: u32, page: u32) -> Option<()> {
        let block = self.block(segment, page)?;
        let n_leases = block.n_leases + 1;
        if n_leases == COUNT_END {
            return None;
        }
        self.counts.n_leases += 1;
        self.change(segment, page, Block { n_leases, ..block });
        Some(())
    }

    /// Counts one lease less. `None`: there is none.
    pub(crate) fn release(&mut self, segment: u32, page: u32) -> Option<()> {
        let block = self.block(segment, page)?;
        let n_leases = block.n_leases.checked_sub(1)?;
        self.counts.n_leases -= 1;
        self.change(segment, page, Block { n_leases, ..block });
        Some(())
    }

    fn change(&mut self, at: u32, page: u32, block: Block) {
        let segment = &mut self.segments[at as usize];
        segment.tags.set(page, Tag::Block(block));
        if !block.is_freed || block.n_leases > 0 {
            return;
        }
        let born = self.births.get(&(at, page)).copied().unwrap_or(0);
        if self.pins.keep(born, (at, page)).is_some() {
            self.put_back(at, page);
        }
    }

    /// Makes a block a free extent.
    fn put_back(&mut self, at: u32, page: u32) {
        self.births.remove(&(at, page));
        let segment = &mut self.segments[at as usize];
        let block = segment.tags.block(page).expect("a block starts here");
        segment.tags.set(page, Tag::Interior);
        segment.starts.clear(page..page + 1);
        self.counts.n_blocks -= 1;
        self.counts.n_pages_in_use -= u64::from(block.n_pages);
        self.counts.n_pages_warm += u64::from(block.n_pages);
        let extent = Extent {
            n_pages: block.n_pages,
            segment: at,
            page,
        };
        self.join_free(extent, block.n_pages);
    }

    /// Takes out free pages whose memory is to be given back, about `n_pages` of them with memory, from
    /// the longest extent that has any. They belong to nobody until [`put_cold`](Blocks::put_cold) or
    /// [`put_warm`](Blocks::put_warm).
    pub(crate) fn take_warm(&mut self, n_pages: u32) -> Option<(Extent, u32)> {
        let free = *self.warm.last()?;
        let n_warm = self.remove_free(free);
        let backed = &self.segments[free.segment as usize].backed;
        let (start, n_found) = backed.end_with(free.pages(), n_pages);
        if start > free.page {
            let rest = Extent {
                n_pages: start - free.page,
                ..free
            };
            self.insert_free(rest, n_warm - n_found);
        }
        self.counts.n_pages_warm -= u64::from(n_found);
        let taken = Extent {
            page: start,
            n_pages: free.page + free.n_pages - start,
            ..free
        };
        Some((taken, n_found))
    }

    /// Puts back what [`take_warm`](Blocks::take_warm) took: its memory has been given back.
    pub(crate) fn put_cold(&mut self, extent: Extent) {
        let segment = &mut self.segments[extent.segment as usize];
        segment.backed.clear(extent.pages());
        segment.unmapped.clear(extent.pages());
        self.join_free(extent, 0);
    }

    /// Puts back what [`take_warm`](Blocks::take_warm) took, as it was.
    pub(crate) fn put_warm(&mut self, extent: Extent, n_warm: u32) {
        self.counts.n_pages_warm += u64::from(n_warm);
        self.join_free(extent, n_warm);
    }

    /// Inserts a free extent, as one with the free ones that it touches.
    fn join_free(&mut self, extent: Extent, mut n_warm: u32) {
        let mut joined = extent;
        let segment = &self.segments[extent.segment as usize];
        let before = extent.page.checked_sub(1).and_then(|page| {
            let n_pages = match segment.tags.get(page) {
                Tag::FreeEnd { n_pages } => n_pages,
                Tag::FreeStart { n_pages: 1, .. } => 1,
                _ => return None,
            };
            Some(Extent {
                n_pages,
                page: extent.page - n_pages,
                ..extent
            })
        });
        let end = extent.page + extent.n_pages;
        let after = match (end < segment.n_pages).then(|| segment.tags.get(end)) {
            Some(Tag::FreeStart { n_pages, .. }) => Some(Extent {
                n_pages,
                page: end,
                ..extent
            }),
            _ => None,
        };
        for other in [before, after].into_iter().flatten() {
            n_warm += self.remove_free(other);
            joined.n_pages += other.n_pages;
            joined.page = joined.page.min(other.page);
        }
        self.insert_free(joined, n_warm);
    }

    fn insert_free(&mut self, extent: Extent, n_warm: u32) {
        let Extent { n_pages, page, .. } = extent;
        let tags = &self.segments[extent.segment as usize].tags;
        tags.set(page + n_pages - 1, Tag::FreeEnd { n_pages });
        // After the end: with a single page, the start is the word that stays.
        tags.set(page, Tag::FreeStart { n_pages, n_warm });
        let set = if n_warm > 0 {
            &mut self.warm
        } else {
            &mut self.cold
        };
        set.insert(extent);
    }

    /// Removes a free extent and returns its number of warm pages.
    fn remove_free(&mut self, extent: Extent) -> u32 {
        let tags = &self.segments[extent.segment as usize].tags;
        let Tag::FreeStart { n_pages, n_warm } = tags.get(extent.page) else {
            panic!("{extent:?} is not free: {:?}", tags.get(extent.page));
        };
        assert_eq!(n_pages, extent.n_pages, "{extent:?} is not that long");
        tags.set(extent.page + n_pages - 1, Tag::Interior);
        tags.set(extent.page, Tag::Interior);
        let set = if n_warm > 0 {
            &mut self.warm
        } else {
            &mut self.cold
        };
        assert!(set.remove(&extent), "{extent:?} is not in the free list");
        n_warm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Blocks {
        /// Blocks and free extents tile each segment, and every set and count agrees with the tags.
        fn check(&self) {
            let mut counts = Counts::default();
            let (mut warm, mut cold) = (BTreeSet::new(), BTreeSet::new());
            for (at, segment) in self.segments.iter().enumerate() {
                let mut page = 0;
                let mut was_free = false;
                while page < segment.n_pages {
                    let tag = segment.tags.get(page);
                    let (n_pages, has_end) = match tag {
                        Tag::Block(block) => {
                            let is_used = !block.is_freed || block.n_leases > 0;
                            assert!(is_used || self.pins.is_any(), "page {page}");
                            counts.n_blocks += 1;
                            counts.n_leases += block.n_leases as usize;
                            counts.n_pages_in_use += u64::from(block.n_pages);
                            (block.n_pages, false)
                        }
                        Tag::FreeStart { n_pages, n_warm } => {
                            let extent = Extent {
                                n_pages,
                                segment: at as u32,
                                page,
                            };
                            assert!(!was_free, "{extent:?} touches another");
                            assert_eq!(segment.backed.count(extent.pages()), n_warm);
                            counts.n_pages_warm += u64::from(n_warm);
                            let set = if n_warm > 0 { &mut warm } else { &mut cold };
                            set.insert(extent);
                            (n_pages, n_pages > 1)
                        }
                        other => panic!("page {page} starts with {other:?}"),
                    };
                    was_free = matches!(tag, Tag::FreeStart { .. });
                    assert_eq!(segment.starts.count(page..page + 1) == 1, !was_free);
                    assert_eq!(segment.starts.count(page + 1..page + n_pages), 0);
                    for inside in page + 1..page + n_pages {
                        let is_end = has_end && inside == page + n_pages - 1;
                        let expected = if is_end {
                            Tag::FreeEnd { n_pages }
                        } else {
                            Tag::Interior
                        };
                        assert_eq!(segment.tags.get(inside), expected, "page {inside}");
                    }
                    page += n_pages;
                }
                assert_eq!(page, segment.n_pages);
            }
            assert_eq!(counts, self.counts);
            assert_eq!((&warm, &cold), (&self.warm, &self.cold));
        }
    }

    fn blocks(n_pages: u32) -> Blocks {
        let mut blocks = Blocks::default();
        blocks.add_segment(n_pages, Arc::new(Tags::new(n_pages)));
        blocks
    }

    fn take(blocks: &mut Blocks, n_pages: u32) -> Extent {
        let found = blocks.find(n_pages).expect("there is room");
        blocks.take(&found);
        found.extent
    }

    #[test]
    fn what_is_warm_is_used_again_before_what_is_not() {
        let mut blocks = blocks(100);
        let first = take(&mut blocks, 10);
        let second = take(&mut blocks, 20);
        let third = take(&mut blocks, 30);
        assert_eq!((first.page, second.page, third.page), (0, 10, 30));
        assert!(blocks.free(0, second.page));
        // The free end of the segment is cold; the gap fits and is warm.
        let found = blocks.find(15).expect("there is room");
        assert_eq!((found.extent.page, found.n_backed), (10, 15));
        let found = blocks.find(25).expect("there is room");
        assert_eq!((found.extent.page, found.n_backed), (60, 0));
        blocks.check();
    }

    #[test]
    fn memory_is_given_back_from_the_end() {
        let mut blocks = blocks(1000);
        let block = take(&mut blocks, 800);
        assert!(blocks.free(0, block.page));
        let (extent, n_warm) = blocks.take_warm(300).expect("800 pages are warm");
        assert!((300..364).contains(&n_warm), "{n_warm}");
        assert_eq!(
            (extent.page + n_warm, extent.page + extent.n_pages),
            (800, 1000)
        );
        blocks.put_cold(extent);
        assert_eq!(blocks.counts.n_pages_warm, u64::from(800 - n_warm));
        assert_eq!(take(&mut blocks, 1000).n_pages, 1000);
        blocks.check();
    }

    #[test]
    fn no_block_is_found_outside() {
        let mut blocks = blocks(100);
        let block = take(&mut blocks, 10);
        assert_eq!(blocks.start(0, 9), Some(block.page));
        assert_eq!(blocks.start(0, 10), None);
        assert_eq!(blocks.start(0, 100), None);
        assert_eq!(blocks.start(1, 0), None);
        assert_eq!(blocks.release(0, block.page), None);
        assert!(blocks.free(0, block.page));
        assert!(!blocks.free(0, block.page));
        assert_eq!(blocks.lease(0, block.page), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(u32),
        Free(usize),
        Lease(usize),
        Release(usize),
        GiveBack(u32, bool),
        AddSegment(u32),
        Pin,
        Unpin(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1..60_u32).prop_map(Step::Take),
            4 => any::<usize>().prop_map(Step::Free),
            2 => any::<usize>().prop_map(Step::Lease),
            2 => any::<usize>().prop_map(Step::Release),
            2 => (1..200_u32, any::<bool>()).prop_map(|(n, is_cold)| Step::GiveBack(n, is_cold)),
            1 => (1..300_u32).prop_map(Step::AddSegment),
            1 => Just(Step::Pin),
            1 => any::<usize>().prop_map(Step::Unpin),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn the_books_stay_in_order(steps in steps()) {
            let mut blocks = blocks(200);
            // Blocks by extent, with what is known of them.
            let mut model: Vec<(Extent, bool, usize)> = Vec::new();
            // Pins, with the blocks that each has seen.
            let mut pins: Vec<(u64, Vec<Extent>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(n_pages) => if let Some(found) = blocks.find(n_pages) {
                        blocks.take(&found);
                        model.push((found.extent, false, 0));
                    },
                    Step::Free(at) if !model.is_empty() => {
                        let at = at % model.len();
                        let (extent, is_freed, _) = &mut model[at];
                        prop_assert_eq!(blocks.free(extent.segment, extent.page), !*is_freed);
                        *is_freed = true;
                    }
                    Step::Lease(at) if !model.is_empty() => {
                        let at = at % model.len();
                        let (extent, is_freed, n_leases) = &mut model[at];
                        // Nobody has a claim that could be doubled.
                        if *is_freed && *n_leases == 0 { continue }
                        blocks.lease(extent.segment, extent.page).expect("it is there");
                        *n_leases += 1;
                    }
                    Step::Release(at) if !model.is_empty() => {
                        let at = at % model.len();
                        let (extent, _, n_leases) = &mut model[at];
                        let released = blocks.release(extent.segment, extent.page);
                        prop_assert_eq!(released.is_some(), *n_leases > 0);
                        *n_leases -= usize::from(*n_leases > 0);
                    }
                    Step::GiveBack(n_pages, is_cold) => if let Some((extent, n_warm)) = blocks.take_warm(n_pages) {
                        if is_cold { blocks.put_cold(extent) } else { blocks.put_warm(extent, n_warm) }
                    },
                    Step::AddSegment(n_pages) => blocks.add_segment(n_pages, Arc::new(Tags::new(n_pages))),
                    Step::Pin => {
                        let is_used = |of: &&(Extent, bool, usize)| !of.1 || of.2 > 0;
                        let seen = model.iter().filter(is_used).map(|of| of.0).collect();
                        pins.push((blocks.pin(), seen));
                    }
                    Step::Unpin(at) if !pins.is_empty() => {
                        let (number, _) = pins.remove(at % pins.len());
                        blocks.unpin(number);
                    }
                    _ => {}
                }
                let is_seen = |extent| pins.iter().any(|(_, seen)| seen.contains(&extent));
                model.retain(|&(extent, is_freed, n_leases)| {
                    !is_freed || n_leases > 0 || is_seen(extent)
                });
                blocks.check();
                prop_assert_eq!(blocks.counts.n_blocks, model.len());
                for &(extent, is_freed, n_leases) in &model {
                    let block = blocks.block(extent.segment, extent.page).expect("it is there");
                    prop_assert_eq!((block.n_pages, block.is_freed), (extent.n_pages, is_freed));
                    prop_assert_eq!(block.n_leases as usize, n_leases);
                    let last = extent.page + extent.n_pages - 1;
                    prop_assert_eq!(blocks.start(extent.segment, last), Some(extent.page));
                }
            }
        }
    }
}
