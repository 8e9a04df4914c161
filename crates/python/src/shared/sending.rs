//! Buffers that leave a pickle for shared memory.
//!
//! A [`Sink`] is what the pickler calls with each buffer that offers to travel apart. What it then has of
//! them becomes [`Part`]s, which stand before the pickle:
//!
//! ```text
//! framed = pickle | MARK, n, n parts, pickle        (no pickle begins with MARK)
//! part   = HANDED, place | COPIED, place | INLINE, length, bytes
//! ```
//!
//! In the parent a buffer's memory is leased for as long as tasks may read it, and told by address from
//! those that were leased before. In a worker memory of its own arena is handed over for good, provided
//! that nothing in the worker can write to it any more once the result has been dropped.
//!
//! A sink is also the file that the pickler writes to, as that is how it comes by large `bytes`
//! ([`super::written`]), and has parts of arrays copied into one piece ([`super::strided`]).

use super::cache::{Found, Likeness, Range};
use super::memory::{self, Held, TALLY};
use super::owners::{Alive, owner_of};
use super::stock::Own;
use super::strided;
use super::written::Written;
use crate::codec::{Reader, corrupt, write_bytes, write_varint};
use crate::mapped::lock;
use manyhands_store::{Arena, Lease, Place, SegmentId};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

/// So many bytes of objects that cannot be watched are kept alive, to know them by their addresses.
const SEEN_BYTES_MAX: usize = 256 << 20;

pub(crate) const MARK: u8 = 1;
const HANDED: u8 = 0;
const COPIED: u8 = 1;
const INLINE: u8 = 2;

/// Where the contents of one buffer are.
#[derive(Debug)]
pub(crate) enum Part {
    Place { place: Place, is_copy: bool },
    Inline(Vec<u8>),
}

/// A buffer that the pickler has let go of.
enum Sent {
    /// Leased in the parent.
    Leased { lease: Arc<Lease>, is_copy: bool },
    /// Allocated by a task; may still be written to.
    Allocated(Lease),
    /// Copied from a task's ordinary memory.
    Copied(Lease),
}

/// What a job holds on to for its tasks.
#[derive(Default, Debug)]
pub(crate) struct Keeps {
    /// Leases, and rights to parts of results of other calls: what ends when it is dropped.
    claims: Vec<Arc<dyn Any + Send + Sync>>,
    /// The segments in which all that lies.
    pub(crate) segments: Vec<SegmentId>,
    /// Bytes that were copied for these tasks and nobody else so far.
    pub(crate) n_bytes_copied: usize,
}

impl Keeps {
    pub(crate) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Holds a part of a result that the bytes of a task refer to.
    pub(crate) fn hold(&mut self, held: Held) {
        let segment = held.place().segment;
        if !self.segments.contains(&segment) {
            self.segments.push(segment);
        }
        self.claims.push(Arc::new(held));
    }

    /// Holds what another holds, too.
    pub(crate) fn extend(&mut self, other: Keeps) {
        for segment in other.segments {
            if !self.segments.contains(&segment) {
                self.segments.push(segment);
            }
        }
        self.claims.extend(other.claims);
        self.n_bytes_copied += other.n_bytes_copied;
    }

    fn add(&mut self, lease: Arc<Lease>, is_copy: bool) {
        let place = lease.place();
        if !self.segments.contains(&place.segment) {
            self.segments.push(place.segment);
        }
        if is_copy {
            self.n_bytes_copied += place.n_bytes as usize;
        }
        self.claims.push(lease);
    }
}

enum Side {
    Parent(Arc<Own>),
    Worker(Arena),
}

impl Side {
    fn arena(&self) -> &Arena {
        match self {
            Side::Parent(own) => &own.stock.arena,
            Side::Worker(arena) => arena,
        }
    }
}

/// A buffer that has been seen since the caller's code last had a chance to change it.
struct Seen {
    /// Whoever uses the copy holds it: a job whose tasks are done with it does not.
    lease: Weak<Lease>,
    alive: Alive,
}

#[derive(Default)]
struct Gathered {
    sent: Vec<Sent>,
    seen: HashMap<Range, Seen>,
    /// How many there may be in `seen` before those whose copies are gone are dropped.
    n_seen_max: usize,
    /// Of what is in `seen` and kept alive by that.
    n_seen_bytes_kept: usize,
    /// Contiguous copies of parts of arrays, by address; the pickler is about to come upon them.
    pieces: HashMap<usize, Piece>,
}

/// A copy that is in shared memory already.
#[derive(Clone)]
struct Piece {
    lease: Arc<Lease>,
    /// Whether it was made for this pickle.
    is_copy: bool,
}

impl Gathered {
    /// Remembers a buffer; gives what is not worth remembering any more, to be dropped without the lock.
    fn note(&mut self, range: Range, seen: Seen) -> Vec<Seen> {
        let mut dropped = Vec::new();
        if self.n_seen_bytes_kept + seen.n_bytes_kept(&range) > SEEN_BYTES_MAX {
            dropped.extend(self.seen.drain().map(|(_, seen)| seen));
            self.n_seen_bytes_kept = 0;
        }
        if self.seen.len() >= self.n_seen_max {
            let gone = |_: &Range, seen: &mut Seen| seen.lease.strong_count() == 0;
            for (range, seen) in self.seen.extract_if(gone) {
                self.n_seen_bytes_kept -= seen.n_bytes_kept(&range);
                dropped.push(seen);
            }
            self.n_seen_max = 2 * self.seen.len() + N_SEEN_MIN;
        }
        dropped.extend(self.take(&range));
        self.n_seen_bytes_kept += seen.n_bytes_kept(&range);
        self.seen.insert(range, seen);
        dropped
    }

    /// Forgets a buffer.
    fn take(&mut self, range: &Range) -> Option<Seen> {
        let seen = self.seen.remove(range)?;
        self.n_seen_bytes_kept -= seen.n_bytes_kept(range);
        Some(seen)
    }
}

impl Seen {
    /// How many bytes are kept alive by this.
    fn n_bytes_kept(&self, range: &Range) -> usize {
        if self.alive.is_kept() {
            range.n_bytes
        } else {
            0
        }
    }
}

/// So many buffers are remembered before any is forgotten.
const N_SEEN_MIN: usize = 64;

/// Called by the pickler with each buffer that offers to travel apart.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Sink {
    side: Side,
    gathered: Mutex<Gathered>,
    written: Mutex<Written>,
}

impl Sink {
    pub(crate) fn of_parent(own: Arc<Own>) -> Sink {
        Sink::new(Side::Parent(own))
    }

    pub(crate) fn of_worker(arena: Arena) -> Sink {
        Sink::new(Side::Worker(arena))
    }

    fn new(side: Side) -> Sink {
        Sink {
            side,
            gathered: Mutex::default(),
            written: Mutex::default(),
        }
    }

    /// The caller's code may have run: what was seen before may have changed.
    pub(crate) fn begin_epoch(&self) {
        let mut gathered = lock(&self.gathered);
        if !gathered.seen.is_empty() {
            let seen = std::mem::take(&mut gathered.seen);
            gathered.n_seen_bytes_kept = 0;
            drop(gathered);
            drop(seen);
        }
    }

    /// The buffers of the last pickle: in the parent, where `keeps` holds them from now on.
    pub(crate) fn take_kept(&self, keeps: &mut Keeps) -> Vec<Part> {
        let sent = self.take_sent();
        let part = |sent| match sent {
            Sent::Leased { lease, is_copy } => {
                let place = lease.place();
                keeps.add(lease, is_copy);
                Part::Place { place, is_copy }
            }
            Sent::Allocated(lease) | Sent::Copied(lease) => given_away(lease, true),
        };
        sent.into_iter().map(part).collect()
    }

    /// The buffers of the last pickle: in a worker, where they change hands. Everything that the pickled
    /// object consists of must have been dropped.
    #[allow(unsafe_code)]
    pub(crate) fn take_given(&self) -> Vec<Part> {
        let sent = self.take_sent();
        let part = |sent| match sent {
            Sent::Leased { lease, is_copy } => Part::Place {
                place: lease.place(),
                is_copy,
            },
            Sent::Copied(lease) => given_away(lease, true),
            Sent::Allocated(lease) if lease.is_freed() => given_away(lease, false),
            Sent::Allocated(lease) => {
                // SAFETY: the lease keeps the memory. Of writes meanwhile see `Contents::bytes`.
                let bytes = unsafe { lease.as_slice() };
                match self.copy(bytes) {
                    Some(copy) => given_away(copy, true),
                    None => Part::Inline(bytes.to_vec()),
                }
            }
        };
        sent.into_iter().map(part).collect()
    }

    fn take_sent(&self) -> Vec<Sent> {
        let mut gathered = lock(&self.gathered);
        let sent = std::mem::take(&mut gathered.sent);
        if !gathered.pieces.is_empty() {
            let pieces = std::mem::take(&mut gathered.pieces);
            drop(gathered);
            drop(pieces);
        }
        sent
    }

    fn copy(&self, bytes: &[u8]) -> Option<Lease> {
        self.side.arena().copy_in(bytes)
    }

    /// Finds or makes room for a buffer; `None` if there is none.
    fn place(&self, buffer: &Contents<'_>) -> PyResult<Option<Sent>> {
        let bytes = buffer.bytes();
        if let Some(piece) = self.piece(bytes) {
            return Ok(Some(piece));
        }
        match &self.side {
            Side::Worker(arena) => {
                memory::note_returned(bytes.len());
                // A small part of a large block would keep all of it.
                let leased = arena
                    .lease(bytes.as_ptr(), bytes.len())
                    .filter(|_| buffer.n_bytes_of_owner() / 2 <= bytes.len());
                if let Some(lease) = leased {
                    return Ok(Some(Sent::Allocated(lease)));
                }
                memory::expect_possible(bytes.len())?;
                Ok(arena.copy_in(bytes).map(Sent::Copied))
            }
            Side::Parent(own) => self.lease(own, buffer, bytes),
        }
    }

    /// A copy that was made in shared memory for this pickle, or for one before.
    fn piece(&self, bytes: &[u8]) -> Option<Sent> {
        let gathered = lock(&self.gathered);
        let Piece { lease, is_copy } = gathered.pieces.get(&(bytes.as_ptr() as usize))?.clone();
        if lease.place().n_bytes != bytes.len() as u64 {
            return None;
        }
        Some(match self.side {
            Side::Parent(_) => Sent::Leased { lease, is_copy },
            Side::Worker(_) => Sent::Copied(Lease::clone(&lease)),
        })
    }

    fn lease(&self, own: &Own, buffer: &Contents<'_>, bytes: &[u8]) -> PyResult<Option<Sent>> {
        let py = buffer.py;
        let arena = &own.stock.arena;
        if let Some(lease) = arena.lease(bytes.as_ptr(), bytes.len()) {
            TALLY.avoided(bytes.len());
            let lease = Arc::new(lease);
            return Ok(Some(Sent::Leased {
                lease,
                is_copy: false,
            }));
        }
        let range = Range::of(bytes);
        if let Some(lease) = self.seen(py, &range)? {
            return Ok(Some(Sent::Leased {
                lease,
                is_copy: false,
            }));
        }
        memory::expect_possible(bytes.len())?;
        let owner = owner_of(&buffer.exporter)?;
        let found = own.cache.find(arena, bytes, owner.as_ref())?;
        let alive = match &owner {
            Some(owner) => Alive::weakly(owner)?,
            None => Alive::strongly(&buffer.exporter),
        };
        let leased = self.note_found(range, found, alive);
        Ok(leased.map(|Piece { lease, is_copy }| Sent::Leased { lease, is_copy }))
    }

    /// What a range holds in shared memory, if it has been seen in this epoch.
    fn seen(&self, py: Python<'_>, range: &Range) -> PyResult<Option<Arc<Lease>>> {
        let seen = lock(&self.gathered).take(range);
        let Some(seen) = seen else { return Ok(None) };
        let Some(lease) = seen.lease.upgrade() else {
            return Ok(None);
        };
        if !seen.alive.is_alive(py)? {
            return Ok(None);
        }
        let forgotten = lock(&self.gathered).note(range.clone(), seen);
        drop(forgotten);
        TALLY.avoided(range.n_bytes);
        Ok(Some(lease))
    }

    /// Counts what was found for a range, and remembers it for this epoch.
    fn note_found(&self, range: Range, found: Found, alive: Alive) -> Option<Piece> {
        let (lease, is_copy) = match found {
            Found::Known(lease) => (lease, false),
            Found::Copied(lease) => (lease, true),
            Found::Nowhere => return None,
        };
        let n_bytes = range.n_bytes;
        match is_copy {
            true => TALLY.copied(n_bytes),
            false => TALLY.avoided(n_bytes),
        }
        let seen = Seen {
            lease: Arc::downgrade(&lease),
            alive,
        };
        let forgotten = lock(&self.gathered).note(range, seen);
        // Outside of the lock, as this may end objects.
        drop(forgotten);
        Some(Piece { lease, is_copy })
    }

    /// Has parts of an array that lie apart in one block; `None` if there is none to be had.
    pub(crate) fn piece_of(
        &self,
        source: &strided::Source<'_, '_>,
    ) -> PyResult<Option<Arc<Lease>>> {
        let piece = match &self.side {
            Side::Worker(arena) => {
                memory::note_returned(source.n_bytes);
                source.copy(arena)?.map(|lease| Piece {
                    lease: Arc::new(lease),
                    is_copy: true,
                })
            }
            Side::Parent(own) => self.piece_in_parent(own, source)?,
        };
        let Some(piece) = piece else { return Ok(None) };
        let lease = Arc::clone(&piece.lease);
        lock(&self.gathered)
            .pieces
            .insert(lease.as_ptr() as usize, piece);
        Ok(Some(lease))
    }

    fn piece_in_parent(
        &self,
        own: &Own,
        source: &strided::Source<'_, '_>,
    ) -> PyResult<Option<Piece>> {
        let arena = &own.stock.arena;
        let Some(span) = source.span()? else {
            // Nobody knows how long the memory stays what it is.
            let lease = source.copy(arena)?.map(Arc::new);
            return Ok(lease.map(|lease| {
                TALLY.copied(source.n_bytes);
                Piece {
                    lease,
                    is_copy: true,
                }
            }));
        };
        if let Some(lease) = self.seen(source.py(), &span.range)? {
            return Ok(Some(Piece {
                lease,
                is_copy: false,
            }));
        }
        let found = own.cache.find_by_place(
            span.range.clone(),
            &span.owner,
            || span.digest(),
            Likeness::Other,
            || source.copy(arena),
        )?;
        let alive = Alive::weakly(&span.owner)?;
        Ok(self.note_found(span.range, found, alive))
    }
}

fn given_away(lease: Lease, is_copy: bool) -> Part {
    Part::Place {
        place: lease.give_away(),
        is_copy,
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // The job is over, as a rule, and nobody uses what was copied for it.
        lock(&self.gathered).seen.clear();
        if let Side::Parent(own) = &self.side {
            own.cache.tidy();
        }
    }
}

#[pymethods]
impl Sink {
    /// Whether the buffer stays in the pickle.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        let buffer = Contents::of(buffer)?;
        if !memory::is_large(buffer.bytes().len()) {
            return Ok(true);
        }
        let Some(sent) = self.place(&buffer)? else {
            memory::expect_room(buffer.bytes().len())?;
            return Ok(true);
        };
        lock(&self.gathered).sent.push(sent);
        Ok(false)
    }

    /// Take up a part of the pickle.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        if lock(&self.written).may_leave_out(data) {
            let contents = Contents::of(data)?;
            let sent = match memory::is_large(contents.bytes().len()) {
                true => self.place(&contents)?,
                false => None,
            };
            let mut written = lock(&self.written);
            match sent {
                Some(sent) => {
                    written.leave_out(py);
                    drop(written);
                    lock(&self.gathered).sent.push(sent);
                }
                None => {
                    memory::expect_room(contents.bytes().len())?;
                    written.add_contents(py, contents.bytes());
                }
            }
        } else if let Ok(piece) = data.cast_exact::<PyBytes>() {
            lock(&self.written).add_piece(piece);
        } else {
            let contents = Contents::of(data)?;
            lock(&self.written).add_contents(py, contents.bytes());
        }
        Ok(())
    }

    /// All of the pickle, once it has been written.
    pub(crate) fn take_pickle<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let written = std::mem::take(&mut *lock(&self.written));
        written.into_pickle(py)
    }

    /// What an array is to be pickled as.
    fn reduce_array<'py>(&self, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        strided::reduce(self, array)
    }

    /// Forget the buffers of a pickle that is not sent.
    pub(crate) fn clear(&self) {
        let mut written = lock(&self.written);
        if !written.is_empty() {
            let forgotten = std::mem::take(&mut *written);
            drop(written);
            drop(forgotten);
        }
        drop(self.take_sent());
    }
}

/// The bytes of an object with the buffer protocol, all in one piece.
struct Contents<'py> {
    view: Box<ffi::Py_buffer>,
    /// The object that the bytes belong to, as far as the buffer protocol knows.
    exporter: Bound<'py, PyAny>,
    py: Python<'py>,
}

impl<'py> Contents<'py> {
    #[allow(unsafe_code)]
    fn of(object: &Bound<'py, PyAny>) -> PyResult<Contents<'py>> {
        let py = object.py();
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: the view is there to be filled, and released in `drop`. A filled view names an object.
        unsafe {
            let flags = ffi::PyBUF_ANY_CONTIGUOUS;
            if ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, flags) != 0 {
                return Err(PyErr::fetch(py));
            }
            let exporter = match Bound::from_borrowed_ptr_or_opt(py, view.obj) {
                Some(exporter) => exporter,
                None => object.clone(),
            };
            Ok(Contents { view, exporter, py })
        }
    }

    #[allow(unsafe_code)]
    fn bytes(&self) -> &[u8] {
        if self.view.len == 0 {
            return &[];
        }
        // SAFETY: a contiguous view of so many bytes, which stay where they are while it is held. This
        // thread holds the interpreter's lock, so Python code does not write to them meanwhile; compiled
        // code of other threads may, as NumPy's loops do without the lock. That is a race in the caller's
        // program, which shows in its task whichever way the bytes travel. Here it can make a copy, or a
        // digest, of some old and some new bytes, and no more: those who get this slice only pass it to
        // code that moves or digests bytes, looks at no byte to decide where to read or write, and takes
        // nothing read once for what it would read again.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast(), self.view.len as usize) }
    }

    /// How many bytes the array has whose memory this is, where it is one.
    fn n_bytes_of_owner(&self) -> usize {
        // An estimate for a decision about memory: what cannot tell counts as small.
        let owner = owner_of(&self.exporter).ok().flatten();
        let n_bytes = owner.and_then(|owner| owner.getattr("nbytes").ok()?.extract().ok());
        n_bytes.unwrap_or(0)
    }
}

impl Drop for Contents<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: it was filled, is released once, and this thread is attached.
        unsafe { ffi::PyBuffer_Release(&mut *self.view) }
    }
}

/// Writes what stands before a pickle: nothing where no buffer travels apart.
pub(crate) fn write_parts(parts: &[Part], out: &mut Vec<u8>) {
    if parts.is_empty() {
        return;
    }
    out.push(MARK);
    write_varint(out, parts.len() as u64);
    for part in parts {
        match part {
            Part::Place { place, is_copy } => {
                out.push(if *is_copy { COPIED } else { HANDED });
                out.extend_from_slice(&place.to_bytes());
            }
            Part::Inline(bytes) => {
                out.push(INLINE);
                write_varint(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// A part as it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadPart<'a> {
    Place { place: Place, is_copy: bool },
    Inline(&'a [u8]),
}

/// Reads what [`write_parts`] wrote, leaving the reader at the pickle.
///
/// # Errors
///
/// ValueError for anything else.
pub(crate) fn read_parts<'a>(reader: &mut Reader<'a>) -> PyResult<Vec<ReadPart<'a>>> {
    reader.byte()?;
    let n_parts = reader.count()?;
    let mut parts = Vec::new();
    for _ in 0..n_parts {
        let position = reader.position();
        let kind = reader.byte()?;
        parts.push(match kind {
            HANDED | COPIED => {
                let mut bytes = [0; Place::N_BYTES];
                bytes.copy_from_slice(reader.take(Place::N_BYTES)?);
                ReadPart::Place {
                    place: Place::from_bytes(bytes),
                    is_copy: kind == COPIED,
                }
            }
            INLINE => ReadPart::Inline(reader.counted_bytes()?),
            _ => return Err(corrupt(position, &format!("unknown kind of part {kind}"))),
        });
    }
    Ok(parts)
}

/// The same frame with other places, one for each that it names and in their order.
pub(crate) fn with_places(framed: &[u8], places: impl IntoIterator<Item = Place>) -> Vec<u8> {
    let mut changed = framed.to_vec();
    let mut reader = Reader::new(framed);
    let mut places = places.into_iter();
    let mut replace = || -> PyResult<()> {
        reader.byte()?;
        for _ in 0..reader.count()? {
            if reader.byte()? == INLINE {
                reader.counted_bytes()?;
                continue;
            }
            let at = reader.position();
            reader.take(Place::N_BYTES)?;
            if let Some(place) = places.next() {
                changed[at..at + Place::N_BYTES].copy_from_slice(&place.to_bytes());
            }
        }
        Ok(())
    };
    // Bytes that no encoder wrote name nothing; whoever decodes them hears of it.
    drop(replace());
    changed
}

/// The places that a frame names, and whether what lies there is a copy.
pub(crate) fn places(framed: &[u8]) -> Vec<(Place, bool)> {
    // Bytes that no encoder wrote name nothing; whoever decodes them hears of it.
    let parts = read_parts(&mut Reader::new(framed)).unwrap_or_default();
    let places = parts.into_iter().filter_map(|part| match part {
        ReadPart::Place { place, is_copy } => Some((place, is_copy)),
        ReadPart::Inline(_) => None,
    });
    places.collect()
}

/// A part of a frame that refers to nothing.
pub(crate) enum InlinePart {
    Bytes(Vec<u8>),
    /// What lies there.
    Place(Held),
}

impl InlinePart {
    pub(crate) fn n_bytes(&self) -> u64 {
        match self {
            InlinePart::Bytes(bytes) => bytes.len() as u64,
            InlinePart::Place(held) => held.place().n_bytes,
        }
    }
}

/// A frame whose buffers, in their order these, are in it and not elsewhere.
pub(crate) fn inline_parts(framed: &[u8], adopted: &[Held]) -> Vec<InlinePart> {
    let mut reader = Reader::new(framed);
    let mut adopted = adopted.iter();
    let mut inline = Vec::new();
    // Bytes that no encoder wrote name nothing; whoever decodes them hears of it.
    let parts = read_parts(&mut reader).unwrap_or_default();
    let mut bytes = vec![MARK];
    write_varint(&mut bytes, parts.len() as u64);
    for part in parts {
        bytes.push(INLINE);
        match part {
            ReadPart::Inline(buffer) => write_bytes(&mut bytes, buffer),
            ReadPart::Place { place, .. } => {
                write_varint(&mut bytes, place.n_bytes);
                if let Some(held) = adopted.next() {
                    inline.push(InlinePart::Bytes(std::mem::take(&mut bytes)));
                    inline.push(InlinePart::Place(held.clone()));
                }
            }
        }
    }
    bytes.extend_from_slice(reader.rest());
    inline.push(InlinePart::Bytes(bytes));
    inline
}
