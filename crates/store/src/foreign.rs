//! Segments of other processes, and views of ranges in them.
//!
//! A segment is mapped as a whole, once for private views and once for shared ones, and the mappings
//! stay: a view of something seen before finds its pages mapped. Private views alive at once never share
//! pages: one that overlaps another gets a mapping of its own.
//!
//! As in an arena, no lock is taken in a forked child: there the table is off.

use crate::mapping::{self, Mapping, Writes};
use crate::place::{Place, SegmentId};
use crate::view::{PrivateView, SharedView};
use rustix::fd::OwnedFd;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The segments that other processes have told this one of. Clones are the same table.
///
/// A process's own segments can be adopted too, to view them as others do.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    table: Arc<Table>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    segments: Mutex<HashMap<SegmentId, Arc<Segment>>>,
    is_off: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Segment {
    id: SegmentId,
    fd: Arc<OwnedFd>,
    n_bytes: u64,
    views: Mutex<Views>,
}

#[derive(Debug, Default)]
struct Views {
    private: Option<Arc<Mapping>>,
    shared: Option<Arc<Mapping>>,
    /// The ranges of the private mapping that are viewed: starts and ends, in whole pages.
    living: BTreeMap<u64, u64>,
    n_views: usize,
    is_forgotten: bool,
}

/// A part of a mapping, and the claim on it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) mapping: Arc<Mapping>,
    /// Where the place starts in the mapping.
    pub(crate) offset: usize,
    /// The whole pages around the place, in the mapping.
    pub(crate) pages: Range<usize>,
    /// Whether the pages stand in `living`, because the mapping is not this view's own.
    pub(crate) is_listed: bool,
    table: Arc<Table>,
    segment: Arc<Segment>,
}

impl Foreign {
    /// An empty table.
    pub fn new() -> Foreign {
        Foreign::default()
    }

    /// Takes note of a segment. One that is known already stays as it is.
    pub fn adopt(&self, id: SegmentId, fd: impl Into<Arc<OwnedFd>>) {
        let fd = fd.into();
        // A length that the kernel does not tell is none: views of it fail and say so.
        let n_bytes = rustix::fs::fstat(&fd).map_or(0, |stat| stat.st_size as u64);
        let segment = Segment {
            id,
            fd,
            n_bytes,
            views: Mutex::default(),
        };
        if let Some(mut segments) = self.table.segments() {
            segments.entry(id).or_insert_with(|| Arc::new(segment));
        }
    }

    /// Drops the segments of this owner that nobody views; the others go with their last view.
    pub fn forget_owner(&self, owner: u32) {
        if let Some(mut segments) = self.table.segments() {
            segments.retain(|id, segment| {
                if id.owner() != owner {
                    return true;
                }
                let mut views = segment.views();
                views.is_forgotten = true;
                views.n_views > 0
            });
        }
    }

    /// The descriptor of an adopted segment.
    pub fn descriptor(&self, id: SegmentId) -> Option<Arc<OwnedFd>> {
        let segments = self.table.segments()?;
        segments.get(&id).map(|segment| Arc::clone(&segment.fd))
    }

    /// The number of segments known.
    pub fn n_segments(&self) -> usize {
        self.table.segments().map_or(0, |segments| segments.len())
    }

    /// A view in which writes stay: neither the segment nor another view ever shows them.
    pub fn view_private(&self, place: Place) -> io::Result<PrivateView> {
        let part = self.part(place, Writes::Private)?;
        Ok(PrivateView::new(part, place.n_bytes as usize))
    }

    /// A view of the memory itself: writes reach it.
    pub fn view_shared(&self, place: Place) -> io::Result<SharedView> {
        let part = self.part(place, Writes::Shared)?;
        Ok(SharedView::new(part, place.n_bytes as usize))
    }

    /// Call it in a forked child before anything else runs there: from then on what the child writes
    /// to shared views stays in the child, the views that it inherited remain as they are, and there
    /// are no new ones.
    pub fn after_fork_in_child(&self) {
        self.table.is_off.store(true, Ordering::Release);
        mapping::keep_writes_here();
    }

    fn part(&self, place: Place, writes: Writes) -> io::Result<Part> {
        let segment = self.segment(place)?;
        let page_bytes = rustix::param::page_size() as u64;
        let start = place.offset - place.offset % page_bytes;
        let end = (place.offset + place.n_bytes).next_multiple_of(page_bytes);
        let pages = start..end.min(segment.n_bytes);
        let mut views = segment.views();
        let is_free = writes == Writes::Shared || views.is_free(&pages);
        let whole = if is_free {
            views.whole(&segment, writes)
        } else {
            None
        };
        let is_whole = whole.is_some();
        let is_listed = is_whole && writes == Writes::Private && !pages.is_empty();
        let (mapping, origin) = match whole {
            Some(mapping) => (mapping, 0),
            None => {
                let n_bytes = (pages.end - pages.start).max(page_bytes) as usize;
                let own = Mapping::new(&segment.fd, pages.start, n_bytes, writes)?;
                (Arc::new(own), pages.start)
            }
        };
        if is_listed {
            views.living.insert(pages.start, pages.end);
        }
        views.n_views += 1;
        drop(views);
        Ok(Part {
            mapping,
            offset: (place.offset - origin) as usize,
            pages: (pages.start - origin) as usize..(pages.end - origin) as usize,
            is_listed,
            table: Arc::clone(&self.table),
            segment,
        })
    }

    /// The segment of a place that lies inside it.
    fn segment(&self, place: Place) -> io::Result<Arc<Segment>> {
        let id = place.segment;
        let segments = self.table.segments().ok_or_else(|| {
            let what = "a forked child makes no views of its parent's segments";
            io::Error::new(io::ErrorKind::Unsupported, what)
        })?;
        let segment = segments.get(&id).ok_or_else(|| {
            let what = format!("{id:?} was not announced here, or has been forgotten");
            io::Error::new(io::ErrorKind::NotFound, what)
        })?;
        let end = place.offset.checked_add(place.n_bytes);
        if end.is_none_or(|end| end > segment.n_bytes) {
            let n_bytes = segment.n_bytes;
            let what = format!("{place:?} ends outside its segment of {n_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        Ok(Arc::clone(segment))
    }
}

impl Table {
    /// `None`: the table is off.
    fn segments(&self) -> Option<MutexGuard<'_, HashMap<SegmentId, Arc<Segment>>>> {
        if self.is_off.load(Ordering::Acquire) {
            return None;
        }
        Some(self.segments.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Drops a forgotten segment that nobody views any more.
    fn drop_unseen(&self, segment: &Arc<Segment>) {
        let Some(mut segments) = self.segments() else {
            return;
        };
        let is_same = segments
            .get(&segment.id)
            .is_some_and(|it| Arc::ptr_eq(it, segment));
        if is_same && segment.views().n_views == 0 {
            segments.remove(&segment.id);
        }
    }
}

impl Segment {
    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Views {
    /// Whether no living private view has any of these pages.
    fn is_free(&self, pages: &Range<u64>) -> bool {
        // The living ranges are disjoint, so the last one to start before the end ends last.
        let before = self.living.range(..pages.end).next_back();
        before.is_none_or(|(_, &end)| end <= pages.start)
    }

    /// The mapping of the whole segment, where there is address space for it.
    fn whole(&mut self, segment: &Segment, writes: Writes) -> Option<Arc<Mapping>> {
        let mapping = match writes {
            Writes::Private => &mut self.private,
            Writes::Shared => &mut self.shared,
        };
        if mapping.is_none() {
            let n_bytes = usize::try_from(segment.n_bytes).ok()?;
            let new = Mapping::new(&segment.fd, 0, n_bytes, writes).ok()?;
            *mapping = Some(Arc::new(new));
        }
        mapping.clone()
    }
}

impl Part {
    /// Whether this is a forked child of the process that made the view.
    pub(crate) fn is_inherited(&self) -> bool {
        self.table.is_off.load(Ordering::Acquire)
    }

    /// Ends the claim. Unless the pages are as if never viewed, they are not lent again.
    pub(crate) fn end(&self, is_clean: bool) {
        if self.is_inherited() {
            return;
        }
        let mut views = self.segment.views();
        if self.is_listed && is_clean {
            views.living.remove(&(self.pages.start as u64));
        }
        views.n_views -= 1;
        let is_unseen = views.is_forgotten && views.n_views == 0;
        drop(views);
        if is_unseen {
            self.table.drop_unseen(&self.segment);
        }
    }
}
