//! The segments of this process, and the blocks in them.
//!
//! Who may touch what: the bookkeeping ([`Blocks`]) is under one lock. The slots of segments are written
//! once, under that lock, and read without it. The memory of a block belongs to whoever allocated it; a
//! free extent's memory is touched by nobody but the thread that has taken it out to give it back.
//!
//! In a forked child the lock may be held by a thread that does not exist there. So nothing takes the
//! lock once the arena is off, and what must work in a child does without.

use crate::blocks::{Blocks, Extent, Found, N_SEGMENT_PAGES_MAX};
use crate::cooling::Cooling;
use crate::copying::{self, Pages};
use crate::lease::Lease;
use crate::mapping::{self, Mapping, Writes};
use crate::memory::Memory;
use crate::memory_file;
use crate::options::{ArenaOptions, ArenaStats};
use crate::place::{Place, SegmentId};
use crate::tags::Tags;
use rustix::fd::OwnedFd;
use rustix::mm::Advice;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// An arena never has more segments than this. After every 256 they are twice as long.
const N_SEGMENTS_MAX: usize = 1024;
const N_SEGMENTS_BEFORE_LONGER: usize = 256;

/// Fresh memory granted between two looks at what the machine has left.
const N_UNCHECKED_BYTES: u64 = 256 << 20;

/// For so long what the machine has not had left is not asked for again, unless memory is given back here.
const REFUSAL_HOLDS: Duration = Duration::from_millis(100);

/// What an arena leaves to others, as a share of what the machine has.
const LEFT_SHARE: u64 = 64;

/// Above the limit of warm memory, this share of it is given back beyond what must be, so that not
/// every free block gives something back.
const TRIM_SHARE: u64 = 8;

/// This process's own segments. Clones are the same arena; its memory goes with the last clone and the
/// last lease, whatever is allocated in it.
///
/// ```
/// use manyhands_store::{Arena, ArenaOptions};
///
/// let arena = Arena::new(0, ArenaOptions::default());
/// let lease = arena.copy_in(b"some bytes").expect("there is memory");
/// assert_eq!(lease.place().n_bytes, 10);
/// assert_eq!(arena.stats().n_blocks, 1);
/// drop(lease);
/// assert_eq!(arena.stats().n_blocks, 0);
/// ```
#[derive(Clone, Debug)]
pub struct Arena {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    owner: u32,
    options: ArenaOptions,
    page_bytes: usize,
    must_reserve: bool,
    has_huge_pages: OnceLock<bool>,
    slots: Box<[Slot]>,
    n_segments: AtomicUsize,
    /// All segments lie between these addresses.
    low: AtomicUsize,
    high: AtomicUsize,
    is_off: AtomicBool,
    /// Whether a thread is giving memory back.
    is_trimming: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Slot {
    start: AtomicUsize,
    n_bytes: AtomicUsize,
    segment: OnceLock<Segment>,
}

#[derive(Debug)]
struct Segment {
    mapping: Mapping,
    fd: Arc<OwnedFd>,
    tags: Arc<Tags>,
}

#[derive(Debug)]
struct State {
    blocks: Blocks,
    n_unchecked_bytes: u64,
    /// So much fresh memory was not to be had, and when that was.
    refused: Option<(u64, Instant)>,
    can_punch: bool,
    cooling: Cooling,
}

/// A block that has just been taken.
struct Taken {
    extent: Extent,
    at: NonNull<u8>,
    found: Found,
    /// The runs of its pages in which something may stand, where that was asked for.
    backed: Vec<Range<u32>>,
}

impl Arena {
    /// An arena of the process with this number. Makes no segment yet.
    pub fn new(owner: u32, options: ArenaOptions) -> Arena {
        let slot = || Slot {
            start: AtomicUsize::new(0),
            n_bytes: AtomicUsize::new(0),
            segment: OnceLock::new(),
        };
        let state = State {
            blocks: Blocks::default(),
            n_unchecked_bytes: 0,
            refused: None,
            can_punch: true,
            cooling: Cooling::default(),
        };
        Arena {
            inner: Arc::new(Inner {
                owner,
                options,
                page_bytes: rustix::param::page_size(),
                must_reserve: memory_file::must_reserve(),
                has_huge_pages: OnceLock::new(),
                slots: std::iter::repeat_with(slot).take(N_SEGMENTS_MAX).collect(),
                n_segments: AtomicUsize::new(0),
                low: AtomicUsize::new(usize::MAX),
                high: AtomicUsize::new(0),
                is_off: AtomicBool::new(false),
                is_trimming: AtomicBool::new(false),
                state: Mutex::new(state),
            }),
        }
    }

    /// A block of at least `n_bytes`, page-aligned, with undefined contents. `None`: not to be had,
    /// use ordinary memory.
    pub fn allocate(&self, n_bytes: usize) -> Option<NonNull<u8>> {
        let taken = self.inner.take(n_bytes, false)?;
        self.inner.prepare(&taken)?;
        Some(taken.at)
    }

    /// A block of at least `n_bytes` zeros.
    pub fn allocate_zeroed(&self, n_bytes: usize) -> Option<NonNull<u8>> {
        let taken = self.inner.take(n_bytes, true)?;
        let page_bytes = self.inner.page_bytes;
        for run in taken.backed {
            let n_before = (run.start - taken.extent.page) as usize * page_bytes;
            // SAFETY: the run lies in the block, which nobody else knows yet.
            #[allow(unsafe_code)]
            unsafe {
                let n_run_bytes = run.len() * page_bytes;
                taken.at.add(n_before).write_bytes(0, n_run_bytes);
            }
        }
        Some(taken.at)
    }

    /// The capacity of the allocated block that starts here: what was asked for, in whole pages.
    /// `None`: not ours. Takes no lock.
    pub fn size(&self, ptr: *const u8) -> Option<usize> {
        let (segment, page) = self.inner.block_at(ptr)?;
        let block = self.inner.segment(segment)?.tags.block(page)?;
        (!block.is_freed).then_some(block.n_pages as usize * self.inner.page_bytes)
    }

    /// Frees the block that starts here. `false`: not ours, nothing done.
    pub fn free(&self, ptr: *const u8) -> bool {
        let Some((segment, page)) = self.inner.block_at(ptr) else {
            return false;
        };
        let Some(mut state) = self.inner.state() else {
            return self.size(ptr).is_some();
        };
        let was_allocated = state.blocks.free(segment, page);
        self.inner.trim(state);
        was_allocated
    }

    /// A lease on a range inside one allocated block. `None`: it is not that.
    pub fn lease(&self, ptr: *const u8, n_bytes: usize) -> Option<Lease> {
        let (segment, offset) = self.inner.find(ptr)?;
        let page = (offset / self.inner.page_bytes) as u32;
        let mut state = self.inner.state()?;
        let start = state.blocks.start(segment, page)?;
        let block = state.blocks.block(segment, start)?;
        let n_before = offset - start as usize * self.inner.page_bytes;
        let n_block_bytes = block.n_pages as usize * self.inner.page_bytes;
        if block.is_freed || n_bytes > n_block_bytes - n_before {
            return None;
        }
        state.blocks.lease(segment, start)?;
        drop(state);
        Some(self.inner.new_lease(segment, start, offset, n_bytes))
    }

    /// A new block with these contents, held by the lease alone.
    pub fn copy_in(&self, bytes: &[u8]) -> Option<Lease> {
        let Taken {
            extent, at, found, ..
        } = self.inner.take(bytes.len(), false)?;
        let is_large = extent.n_pages as usize * self.inner.page_bytes >= 2 << 20;
        let pages = if found.n_backed < extent.n_pages / 2 && !(is_large && self.inner.huge()) {
            Pages::Fresh
        } else if !found.is_mapped {
            Pages::Unmapped
        } else {
            Pages::Mapped
        };
        let offset = extent.page as usize * self.inner.page_bytes;
        let block = copying::Block {
            fd: &self.inner.segment(extent.segment)?.fd,
            offset: offset as u64,
            at,
            pages,
        };
        // SAFETY: the block is that long, lies there in the file, and nobody else knows it yet.
        #[allow(unsafe_code)]
        let copied = unsafe { copying::copy(block, bytes) };
        let mut state = self.inner.state()?;
        let leased = match copied {
            Ok(()) => state.blocks.lease(extent.segment, extent.page),
            // There was no memory after all.
            Err(_) => None,
        };
        if pages == Pages::Fresh {
            state.blocks.set_unmapped(extent);
        }
        state.blocks.free(extent.segment, extent.page);
        self.inner.trim(state);
        leased?;
        let lease = self
            .inner
            .new_lease(extent.segment, extent.page, offset, bytes.len());
        Some(lease)
    }

    /// Ends a lease that was given away.
    ///
    /// # Panics
    ///
    /// If there is no such lease: going on would hand out memory that somebody reads.
    pub fn release(&self, place: Place) {
        let segment = place.segment.serial();
        let Some(mut state) = self.inner.state() else {
            return;
        };
        let page = u32::try_from(place.offset / self.inner.page_bytes as u64).ok();
        let start = page.and_then(|page| state.blocks.start(segment, page));
        let is_ours = place.segment.owner() == self.inner.owner;
        let released = start
            .filter(|_| is_ours)
            .and_then(|start| state.blocks.release(segment, start));
        assert!(
            released.is_some(),
            "{place:?} was released, but nobody leases it"
        );
        self.inner.trim(state);
    }

    /// Keeps all blocks that are there now from being used again until the pin is dropped, also those
    /// that are freed meanwhile: what a process that is forked from here on reads stays as it is, as far as
    /// nobody writes to it.
    pub fn pin(&self) -> Pin {
        let number = self.inner.state().map(|mut state| state.blocks.pin());
        Pin {
            arena: Arc::clone(&self.inner),
            number,
        }
    }

    /// The segments made so far, in order of their making.
    pub fn segments(&self) -> Vec<SegmentId> {
        (0..self.n_segments() as u32)
            .map(|serial| SegmentId::new(self.inner.owner, serial))
            .collect()
    }

    /// The descriptor of a segment of this arena.
    pub fn descriptor(&self, id: SegmentId) -> Option<Arc<OwnedFd>> {
        let segment = self.inner.segment(id.serial())?;
        (id.owner() == self.inner.owner).then(|| Arc::clone(&segment.fd))
    }

    /// The number of segments made so far. One atomic load.
    pub fn n_segments(&self) -> usize {
        // SYNC POINT: with `add_segment`. Who sees the number sees the segments.
        self.inner.n_segments.load(Ordering::Acquire)
    }

    /// What the arena holds at the moment.
    pub fn stats(&self) -> ArenaStats {
        let Some(state) = self.inner.state() else {
            return ArenaStats::default();
        };
        let counts = state.blocks.counts;
        let page_bytes = self.inner.page_bytes as u64;
        ArenaStats {
            n_segments: self.n_segments(),
            n_blocks: counts.n_blocks,
            n_leases: counts.n_leases,
            bytes_in_use: counts.n_pages_in_use * page_bytes,
            bytes_free_warm: counts.n_pages_warm * page_bytes,
        }
    }

    /// Call it in a forked child before anything else runs there: from then on what the child writes to
    /// shared memory stays in the child, and the arena allocates nothing and frees nothing.
    ///
    /// What the child has not written to, it still reads from its parent's memory: see [`Arena::pin`].
    pub fn after_fork_in_child(&self) {
        self.inner.is_off.store(true, Ordering::Release);
        mapping::keep_writes_here();
    }
}

/// See [`Arena::pin`].
#[derive(Debug)]
pub struct Pin {
    arena: Arc<Inner>,
    /// None where the arena was off.
    number: Option<u64>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(number) = self.number
            && let Some(mut state) = self.arena.state()
        {
            state.blocks.unpin(number);
            self.arena.trim_elsewhere(state);
        }
    }
}

impl Inner {
    /// The bookkeeping, locked. `None`: the arena is off.
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        if self.is_off.load(Ordering::Acquire) {
            return None;
        }
        // Whoever panicked had found the bookkeeping wrong, and the lock is poisoned for that.
        Some(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn segment(&self, at: u32) -> Option<&Segment> {
        self.slots.get(at as usize)?.segment.get()
    }

    fn huge(&self) -> bool {
        *self.has_huge_pages.get_or_init(memory_file::has_huge_pages)
    }

    /// The segment in which an address lies, and where.
    fn find(&self, ptr: *const u8) -> Option<(u32, usize)> {
        let address = ptr as usize;
        if address < self.low.load(Ordering::Relaxed)
            || address >= self.high.load(Ordering::Relaxed)
        {
            return None;
        }
        let n_segments = self.n_segments.load(Ordering::Acquire);
        let mut slots = self.slots[..n_segments].iter().enumerate();
        slots.find_map(|(segment, slot)| {
            let offset = address.wrapping_sub(slot.start.load(Ordering::Relaxed));
            (offset < slot.n_bytes.load(Ordering::Relaxed)).then_some((segment as u32, offset))
        })
    }

    /// The segment and page that start at this address.
    fn block_at(&self, ptr: *const u8) -> Option<(u32, u32)> {
        let (segment, offset) = self.find(ptr)?;
        let is_aligned = offset.is_multiple_of(self.page_bytes);
        is_aligned.then_some((segment, (offset / self.page_bytes) as u32))
    }

    fn take(self: &Arc<Inner>, n_bytes: usize, must_know_backed: bool) -> Option<Taken> {
        let n_pages = u32::try_from(n_bytes.max(1).div_ceil(self.page_bytes)).ok()?;
        if n_pages > N_SEGMENT_PAGES_MAX {
            return None;
        }
        let mut state = self.state()?;
        let n_pages_after = state.blocks.counts.n_pages_in_use + u64::from(n_pages);
        if n_pages_after > self.options.n_bytes_max / self.page_bytes as u64 {
            return None;
        }
        let found = match state.blocks.find(n_pages) {
            Some(found) => found,
            None => {
                self.add_segment(&mut state, n_pages).ok()?;
                state.blocks.find(n_pages)?
            }
        };
        let n_fresh_bytes = u64::from(n_pages - found.n_backed) * self.page_bytes as u64;
        if !state.grants(n_fresh_bytes) {
            return None;
        }
        let backed = if must_know_backed {
            state.blocks.backed(found.extent)
        } else {
            Vec::new()
        };
        state.blocks.take(&found);
        let n_warm = state.blocks.counts.n_pages_warm;
        state.cooling.note(n_warm);
        drop(state);
        let extent = found.extent;
        if self.must_reserve && n_fresh_bytes > 0 {
            self.reserve(extent)?;
        }
        let segment = self.segment(extent.segment)?;
        Some(Taken {
            extent,
            at: segment.mapping.byte(extent.page as usize * self.page_bytes),
            found,
            backed,
        })
    }

    /// Makes sure of the memory of a block that has been taken, or frees it.
    fn reserve(self: &Arc<Inner>, extent: Extent) -> Option<()> {
        let segment = self.segment(extent.segment)?;
        let (offset, n_bytes) = self.bytes(extent);
        let done = memory_file::reserve(&segment.fd, offset, n_bytes);
        self.keep_if(done.is_ok(), extent)
    }

    /// Maps the pages of a block that has been taken, if it has memory that was written without the
    /// mapping: once for all is faster than a page fault for each. Other memory is had when it is written
    /// to: who asks for a block may not use it all.
    fn prepare(self: &Arc<Inner>, taken: &Taken) -> Option<()> {
        let Found {
            n_backed,
            is_mapped,
            ..
        } = taken.found;
        if is_mapped || n_backed < taken.extent.n_pages {
            return Some(());
        }
        let n_bytes = taken.extent.n_pages as usize * self.page_bytes;
        let is_there = memory_file::map_all(taken.at, n_bytes).is_ok();
        self.keep_if(is_there, taken.extent)
    }

    /// Frees a block that has been taken, unless its memory could be had.
    fn keep_if(self: &Arc<Inner>, is_there: bool, extent: Extent) -> Option<()> {
        if !is_there {
            let mut state = self.state()?;
            state.blocks.free(extent.segment, extent.page);
            self.trim(state);
        }
        is_there.then_some(())
    }

    fn bytes(&self, extent: Extent) -> (u64, u64) {
        let page_bytes = self.page_bytes as u64;
        (
            u64::from(extent.page) * page_bytes,
            u64::from(extent.n_pages) * page_bytes,
        )
    }

    /// Adds a segment in which a block of so many pages has room.
    fn add_segment(&self, state: &mut State, n_pages: u32) -> io::Result<()> {
        let serial = self.n_segments.load(Ordering::Relaxed);
        let slot = self.slots.get(serial).ok_or(io::ErrorKind::OutOfMemory)?;
        let page_bytes = self.page_bytes;
        let wanted = self.options.n_segment_bytes << (serial / N_SEGMENTS_BEFORE_LONGER).min(20);
        let wanted = (wanted / page_bytes as u64).clamp(1, u64::from(N_SEGMENT_PAGES_MAX)) as u32;
        let mut n_segment_pages = wanted.max(n_pages);
        let segment = loop {
            match Segment::create(n_segment_pages, page_bytes) {
                // Where address space is scarce, a shorter one may do.
                Err(_) if n_segment_pages > n_pages => {
                    n_segment_pages = (n_segment_pages / 2).max(n_pages);
                }
                other => break other?,
            }
        };
        state
            .blocks
            .add_segment(n_segment_pages, Arc::clone(&segment.tags));
        let start = segment.mapping.at().as_ptr() as usize;
        let n_bytes = segment.mapping.n_bytes();
        slot.start.store(start, Ordering::Relaxed);
        slot.n_bytes.store(n_bytes, Ordering::Relaxed);
        self.low.fetch_min(start, Ordering::Relaxed);
        self.high.fetch_max(start + n_bytes, Ordering::Relaxed);
        slot.segment
            .set(segment)
            .expect("slots are filled once, in order");
        // SYNC POINT: with `find` and `Arena::n_segments`. Comes last.
        self.n_segments.store(serial + 1, Ordering::Release);
        Ok(())
    }

    fn n_pages_warm_max(&self) -> u64 {
        self.options.n_warm_bytes_max / self.page_bytes as u64
    }

    /// Whether more is warm than may be.
    fn is_to_be_trimmed(&self, state: &State) -> bool {
        state.blocks.counts.n_pages_warm > self.n_pages_warm_max()
    }

    /// Gives memory back to the system where more is warm than may be.
    fn trim<'a>(self: &'a Arc<Inner>, mut state: MutexGuard<'a, State>) {
        if self.is_to_be_trimmed(&state) {
            let n_max = self.n_pages_warm_max();
            self.trim_to(state, n_max - n_max / TRIM_SHARE);
        } else {
            self.cool_soon(&mut state);
        }
    }

    /// Has what is free given back, beyond what is kept, unless it is used soon.
    fn cool_soon(self: &Arc<Inner>, state: &mut State) {
        if state.blocks.counts.n_pages_warm > self.n_pages_kept() {
            state.cooling.begin(self);
        }
    }

    fn n_pages_kept(&self) -> u64 {
        self.options.n_kept_bytes / self.page_bytes as u64
    }

    /// Gives back the memory that has been free since the last call, or all that is free if the machine is
    /// short of memory, except for what is kept; says whether there is more.
    pub(crate) fn cool(&self) -> bool {
        let is_short = Memory::now().is_some_and(|memory| memory.is_short());
        let Some(state) = self.state() else {
            return false;
        };
        let n_warm = state.blocks.counts.n_pages_warm;
        let n_unused = state.cooling.n_pages_unused(n_warm);
        let n_used = if is_short { 0 } else { n_warm - n_unused };
        self.trim_to(state, n_used.max(self.n_pages_kept()));
        let Some(mut state) = self.state() else {
            return false;
        };
        let n_warm = state.blocks.counts.n_pages_warm;
        let is_more = state.can_punch && n_warm > self.n_pages_kept();
        state.cooling.looked(is_more, n_warm);
        is_more
    }

    /// Gives memory back to the system until no more than so many free pages are warm.
    fn trim_to<'a>(&'a self, mut state: MutexGuard<'a, State>, n_kept: u64) {
        while state.can_punch && state.blocks.counts.n_pages_warm > n_kept {
            let n_pages = state.blocks.counts.n_pages_warm - n_kept;
            let n_pages = n_pages.min(u64::from(u32::MAX)) as u32;
            let Some((extent, n_warm)) = state.blocks.take_warm(n_pages) else {
                return;
            };
            drop(state);
            let (offset, n_bytes) = self.bytes(extent);
            let segment = self.segment(extent.segment).expect("it has blocks");
            let is_cold = memory_file::punch(&segment.fd, offset, n_bytes).is_ok();
            let Some(again) = self.state() else {
                return;
            };
            state = again;
            if is_cold {
                state.blocks.put_cold(extent);
                state.refused = None;
            } else {
                // A kernel that cannot is not asked again: memory stays with the arena.
                state.blocks.put_warm(extent, n_warm);
                state.can_punch = false;
            }
        }
    }

    /// The same in a thread made for it, where there is much to do: a lease may end under a lock that
    /// others wait for, and giving hundreds of megabytes back takes a while.
    fn trim_elsewhere(self: &Arc<Inner>, mut state: MutexGuard<'_, State>) {
        if !self.is_to_be_trimmed(&state) {
            self.cool_soon(&mut state);
            return;
        }
        if self.is_trimming.swap(true, Ordering::AcqRel) {
            return;
        }
        drop(state);
        let own = Arc::clone(self);
        let thread = std::thread::Builder::new().name("manyhands-trim".into());
        let spawned = thread.spawn(move || {
            // First of all: what comes too late for this thread finds that there is none.
            own.is_trimming.store(false, Ordering::Release);
            if let Some(state) = own.state() {
                own.trim(state);
            }
        });
        if spawned.is_err() {
            self.is_trimming.store(false, Ordering::Release);
            if let Some(state) = self.state() {
                self.trim(state);
            }
        }
    }

    fn new_lease(
        self: &Arc<Inner>,
        segment: u32,
        page: u32,
        offset: usize,
        n_bytes: usize,
    ) -> Lease {
        let place = Place {
            segment: SegmentId::new(self.owner, segment),
            offset: offset as u64,
            n_bytes: n_bytes as u64,
        };
        let at = self.slots[segment as usize].segment.get();
        let at = at.expect("it has a block").mapping.byte(offset);
        Lease::new(Arc::clone(self), place, page, at)
    }

    /// Counts a second lease of a block that is leased.
    pub(crate) fn lease_again(&self, segment: u32, page: u32) {
        if let Some(mut state) = self.state() {
            let leased = state.blocks.lease(segment, page);
            leased.expect("a leased block is there, and nobody has 500 million leases");
        }
    }

    pub(crate) fn end_lease(self: &Arc<Inner>, segment: u32, page: u32) {
        if let Some(mut state) = self.state() {
            let released = state.blocks.release(segment, page);
            released.expect("a lease that is alive is counted");
            self.trim_elsewhere(state);
        }
    }

    /// Whether a leased block has been freed.
    pub(crate) fn is_freed(&self, segment: u32, page: u32) -> bool {
        let block = self.segment(segment).and_then(|it| it.tags.block(page));
        block.is_some_and(|block| block.is_freed)
    }
}

impl State {
    /// Whether so much fresh memory can be had without somebody being killed for it.
    fn grants(&mut self, n_bytes: u64) -> bool {
        if n_bytes <= self.n_unchecked_bytes {
            self.n_unchecked_bytes -= n_bytes;
            return true;
        }
        // Asking reads several files, and all who allocate wait for the lock meanwhile.
        if let Some((n_refused_bytes, at)) = self.refused
            && n_bytes >= n_refused_bytes
            && at.elapsed() < REFUSAL_HOLDS
        {
            return false;
        }
        let Some(memory) = Memory::now() else {
            // Nobody to ask: the kernel decides when the pages are touched.
            return true;
        };
        let n_left = memory
            .n_bytes_available
            .saturating_sub(memory.n_bytes / LEFT_SHARE);
        if n_bytes > n_left {
            self.refused = Some((n_bytes, Instant::now()));
            return false;
        }
        self.n_unchecked_bytes = N_UNCHECKED_BYTES.min((n_left - n_bytes) / 4);
        true
    }
}

impl Segment {
    #[allow(unsafe_code)]
    fn create(n_pages: u32, page_bytes: usize) -> io::Result<Segment> {
        let n_bytes = n_pages as usize * page_bytes;
        let fd = Arc::new(memory_file::create(n_bytes as u64)?);
        let mapping = Mapping::new(&fd, 0, n_bytes, Writes::Shared)?;
        // SAFETY: the advice changes no contents. A kernel without huge pages refuses, and that is all.
        let _ = unsafe { memory_file::advise(mapping.at(), n_bytes, Advice::LinuxHugepage) };
        Ok(Segment {
            mapping,
            fd,
            tags: Arc::new(Tags::new(n_pages)),
        })
    }
}
