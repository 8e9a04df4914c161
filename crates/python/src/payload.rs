//! Results as bytes, small ones without an allocation of their own; tasks' bytes in blocks.

use crate::codec::{decode_value, marked_frame, write_pickle_head, write_pickled};
use crate::shared::memory::{Held, TALLY};
use crate::shared::receiving::ResultViews;
use crate::shared::sending::{InlinePart, Keeps, inline_parts, places, with_places};
use manyhands_checkpoint::scan::Source;
use manyhands_executor::{Backlog, DiskPart, Shortage, Spilled, Stock, Waiting};
use manyhands_graph::TaskIndex;
use manyhands_store::SegmentId;
use manyhands_wire::{next_in_run, push_counted};
use pyo3::prelude::*;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// How many bytes a result may have that needs no allocation of its own: a number does.
const N_BYTES_INSIDE_MAX: usize = 14;

/// The bytes of one result.
#[derive(Debug)]
pub(crate) enum Payload {
    Inside(u8, [u8; N_BYTES_INSIDE_MAX]),
    /// Boxed twice, so that the many small ones stay small.
    Outside(Box<Box<[u8]>>),
}

impl Payload {
    #[inline]
    pub(crate) fn new(bytes: &[u8]) -> Payload {
        if bytes.len() > N_BYTES_INSIDE_MAX {
            return Payload::Outside(Box::new(bytes.into()));
        }
        let mut inside = [0; N_BYTES_INSIDE_MAX];
        inside[..bytes.len()].copy_from_slice(bytes);
        Payload::Inside(bytes.len() as u8, inside)
    }
}

impl Deref for Payload {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Payload::Inside(n_bytes, bytes) => &bytes[..usize::from(*n_bytes)],
            Payload::Outside(bytes) => bytes,
        }
    }
}

/// How a task that travels as bytes has ended, if it has.
#[derive(Debug, Default)]
pub(crate) enum Outcome {
    #[default]
    Pending,
    Returned(Payload),
    /// Large: with memory of the worker's, as a rule.
    Shared(Box<SharedResult>),
    /// Dropped, as there was room for it neither in memory nor on disk.
    NoRoom(Box<Shortage>),
    Failed(Box<[u8]>),
    /// Taken by its reader, or nobody's business any more.
    Gone,
}

// There is one for each task of a map.
const _: () = assert!(size_of::<Outcome>() <= 24);

/// A result that is large: parts of it are in shared memory or on disk, or its own bytes are many.
#[derive(Debug)]
pub(crate) struct SharedResult {
    bytes: ResultBytes,
    /// In the order in which the bytes name them.
    adopted: Vec<Held>,
    /// While it waits in memory.
    waiting: Option<Arc<Waiting>>,
}

/// The pickle of a result, with what comes with it.
#[derive(Clone, Debug)]
enum ResultBytes {
    Here(Arc<[u8]>),
    OnDisk(Held),
}

/// From so many bytes on it matters where the pickle itself is.
const N_BYTES_LARGE: usize = 1 << 16;

impl SharedResult {
    fn new(bytes: &[u8], adopted: Vec<Held>, stock: &Stock) -> SharedResult {
        let places = adopted.iter().map(|adopted| adopted.place().n_bytes);
        let n_bytes = places.sum::<u64>() + bytes.len() as u64;
        SharedResult {
            bytes: ResultBytes::Here(bytes.into()),
            adopted,
            waiting: Some(Arc::new(stock.waiting(n_bytes))),
        }
    }

    /// The segments that the bytes refer to.
    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        self.adopted.iter().map(|adopted| adopted.place().segment)
    }

    /// The same result, held once more.
    pub(crate) fn share(&self) -> SharedResult {
        SharedResult {
            bytes: self.bytes.clone(),
            adopted: self.adopted.clone(),
            waiting: None,
        }
    }

    /// What its bytes refer to.
    pub(crate) fn held(&self) -> &[Held] {
        &self.adopted
    }

    /// The pickle; where it cannot be read, one that raises why when it is read itself.
    pub(crate) fn bytes(&self, stock: &Stock) -> Cow<'_, [u8]> {
        match &self.bytes {
            ResultBytes::Here(bytes) => Cow::Borrowed(bytes),
            ResultBytes::OnDisk(held) => {
                let read = stock.read_from_disk(held.adopted());
                Cow::Owned(read.unwrap_or_else(|error| unreadable(&error)))
            }
        }
    }

    /// The pickle, as one that refers to nothing: in pieces, each of which is read when it is needed.
    pub(crate) fn pieces(&self, stock: &Arc<Stock>) -> Vec<Box<dyn Source + Send>> {
        let ResultBytes::Here(bytes) = &self.bytes else {
            // A result is told of before it is put on disk.
            return vec![Box::new(self.bytes(stock).into_owned())];
        };
        let kept = Keeping {
            _waiting: self.waiting.clone(),
        };
        let Some(framed) = marked_frame(bytes) else {
            return vec![Box::new(WholePiece(Arc::clone(bytes), kept))];
        };
        let parts = inline_parts(framed, &self.adopted);
        let mut head = Vec::new();
        write_pickle_head(&mut head, parts.iter().map(InlinePart::n_bytes).sum());
        let mut pieces: Vec<Box<dyn Source + Send>> = vec![Box::new(head)];
        for part in parts {
            pieces.push(match part {
                InlinePart::Bytes(bytes) => Box::new(bytes),
                InlinePart::Place(held) => Box::new(PlacePiece {
                    held,
                    stock: Arc::clone(stock),
                    _kept: kept.clone(),
                }),
            });
        }
        pieces
    }

    pub(crate) fn decode(self, py: Python<'_>, stock: &Stock) -> PyResult<Py<PyAny>> {
        let bytes = self.bytes(stock);
        // What follows takes the result apart.
        let bytes = match bytes {
            Cow::Borrowed(_) => None,
            Cow::Owned(read) => Some(read),
        };
        let here = match &self.bytes {
            ResultBytes::Here(bytes) => Some(Arc::clone(bytes)),
            ResultBytes::OnDisk(_) => None,
        };
        let bytes = bytes.as_deref().or(here.as_deref()).unwrap_or_default();
        let views = ResultViews::new(stock, self.adopted);
        Ok(decode_value(py, bytes, &views)?.unbind())
    }

    /// How much memory it takes, if it waits there.
    pub(crate) fn n_bytes_waiting(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.n_bytes())
    }

    /// What there is to put on disk, with claims of its own, so that it can be done without a lock.
    pub(crate) fn to_spill(&self) -> Option<ToSpill> {
        let waiting = Arc::clone(self.waiting.as_ref()?);
        Some(ToSpill {
            bytes: self.bytes.clone(),
            adopted: self.adopted.clone(),
            waiting,
        })
    }

    /// Whether it is the one that this was taken from, and waits in memory.
    pub(crate) fn is_origin_of(&self, taken: &ToSpill) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_some_and(|waiting| Arc::ptr_eq(waiting, &taken.waiting))
    }
}

/// While a piece waits, so does the result that it is of.
#[derive(Clone)]
struct Keeping {
    _waiting: Option<Arc<Waiting>>,
}

/// The whole of a pickle.
struct WholePiece(Arc<[u8]>, #[allow(dead_code)] Keeping);

impl Source for WholePiece {
    fn n_bytes(&self) -> io::Result<u64> {
        self.0[..].n_bytes()
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        self.0[..].read_at(out, at)
    }
}

/// What lies in a worker's memory.
struct PlacePiece {
    held: Held,
    stock: Arc<Stock>,
    _kept: Keeping,
}

impl Source for PlacePiece {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.held.place().n_bytes)
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let place = self.held.place();
        let descriptor = self.stock.descriptor(place.segment);
        let descriptor = descriptor.ok_or(io::ErrorKind::NotFound)?;
        let n_left = place.n_bytes.saturating_sub(at).min(out.len() as u64) as usize;
        Ok(rustix::io::pread(
            &*descriptor,
            &mut out[..n_left],
            place.offset + at,
        )?)
    }
}

/// A result to be put on disk.
pub(crate) struct ToSpill {
    bytes: ResultBytes,
    adopted: Vec<Held>,
    waiting: Arc<Waiting>,
}

impl ToSpill {
    /// How much memory it takes.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.waiting.n_bytes()
    }

    /// Writes it; the result as it is from then on.
    pub(crate) fn spill(&self, stock: &Arc<Stock>) -> io::Result<SharedResult> {
        let ResultBytes::Here(bytes) = &self.bytes else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        let places = self.adopted.iter().map(Held::place).map(DiskPart::Place);
        let mut adopted: Vec<_> = (stock.put_on_disk(&places.collect::<Vec<_>>())?)
            .into_iter()
            .map(Held::new)
            .collect();
        let bytes = match marked_frame(bytes) {
            Some(framed) => {
                let n_before = bytes.len() - framed.len();
                let places = adopted.iter().map(Held::place);
                [&bytes[..n_before], &with_places(framed, places)]
                    .concat()
                    .into()
            }
            None => Arc::clone(bytes),
        };
        let bytes = match bytes.len() < N_BYTES_LARGE {
            true => ResultBytes::Here(bytes),
            false => {
                let whole = stock.put_on_disk(&[DiskPart::Bytes(&bytes)])?.pop();
                let whole = whole.ok_or(io::ErrorKind::NotFound)?;
                ResultBytes::OnDisk(Held::new(whole))
            }
        };
        adopted.shrink_to_fit();
        Ok(SharedResult {
            bytes,
            adopted,
            waiting: None,
        })
    }
}

/// A pickle that raises an error when it is read.
fn unreadable(error: &io::Error) -> Vec<u8> {
    // Text may hold no end of line in the oldest form of pickles, the only one made of plain text.
    let text = error.to_string().replace(['\\', '\n', '\r'], " ");
    let text: String = text.chars().filter(char::is_ascii).collect();
    let pickle = format!("cmanyhands._worker\nunreadable\n(V{text}\ntR.");
    let mut bytes = Vec::new();
    write_pickled(&mut bytes, pickle.as_bytes());
    bytes
}

/// What results of one program take that wait in memory.
pub(crate) fn backlog<'a>(
    outcomes: impl Iterator<Item = (TaskIndex, &'a Outcome)>,
) -> Option<Backlog> {
    let waiting = outcomes.filter_map(|(task, outcome)| match outcome {
        Outcome::Shared(result) => Some((task, result.n_bytes_waiting()?)),
        _ => None,
    });
    waiting.fold(None, |sum: Option<Backlog>, one| {
        let sum = sum.unwrap_or(Backlog {
            n_bytes: 0,
            largest: one,
        });
        let is_larger = one.1 > sum.largest.1;
        Some(Backlog {
            n_bytes: sum.n_bytes + one.1,
            largest: if is_larger { one } else { sum.largest },
        })
    })
}

/// Puts these on disk, in this order, until so much memory is free. `is_there` says whether a result still
/// is what it was; `replace` puts one in the place of that it was made from, unless that is no longer there
/// or no longer to be replaced, and says whether it did.
pub(crate) fn spill(
    stock: &Arc<Stock>,
    n_bytes: u64,
    candidates: Vec<(TaskIndex, ToSpill)>,
    is_there: impl Fn(TaskIndex, &ToSpill) -> bool,
    replace: impl Fn(TaskIndex, &ToSpill, SharedResult) -> bool,
) -> Spilled {
    let mut spilled = Spilled::default();
    for (task, candidate) in candidates {
        if spilled.n_bytes >= n_bytes {
            break;
        }
        // It takes a while to come to the last of them.
        if !is_there(task, &candidate) {
            continue;
        }
        match candidate.spill(stock) {
            Ok(result) => {
                if replace(task, &candidate, result) {
                    spilled.n_bytes += candidate.n_bytes();
                }
            }
            Err(error) => {
                spilled.failure = Some(error);
                break;
            }
        }
    }
    spilled
}

impl Outcome {
    /// What a task has ended with; its memory, if it has any, is taken over.
    #[inline]
    pub(crate) fn new(is_ok: bool, bytes: &[u8], stock: &Arc<Stock>) -> Outcome {
        if !is_ok {
            return Outcome::Failed(bytes.into());
        }
        match marked_frame(bytes) {
            Some(framed) => Outcome::shared(bytes, framed, stock),
            None if bytes.len() < N_BYTES_LARGE => Outcome::Returned(Payload::new(bytes)),
            None => Outcome::Shared(Box::new(SharedResult::new(bytes, Vec::new(), stock))),
        }
    }

    /// The same, if it has returned; it stays where it is.
    pub(crate) fn share(&self) -> Option<Outcome> {
        match self {
            Outcome::Returned(payload) => Some(Outcome::Returned(Payload::new(payload))),
            Outcome::Shared(result) => Some(Outcome::Shared(Box::new(result.share()))),
            Outcome::NoRoom(shortage) => Some(Outcome::NoRoom(shortage.clone())),
            Outcome::Pending | Outcome::Failed(_) | Outcome::Gone => None,
        }
    }

    #[cold]
    fn shared(bytes: &[u8], framed: &[u8], stock: &Arc<Stock>) -> Outcome {
        let places = places(framed);
        for &(place, is_copy) in &places {
            match is_copy {
                true => TALLY.copied(place.n_bytes as usize),
                false => TALLY.avoided(place.n_bytes as usize),
            }
        }
        let adopted = places
            .iter()
            .map(|&(place, _)| Held::new(stock.adopt(place)));
        let result = SharedResult::new(bytes, adopted.collect(), stock);
        Outcome::Shared(Box::new(result))
    }

    /// How large a result is as bytes, if it is in memory.
    pub(crate) fn n_bytes(&self) -> Option<u64> {
        match self {
            Outcome::Returned(payload) => Some(payload.len() as u64),
            Outcome::Shared(result) => result.n_bytes_waiting(),
            Outcome::Pending | Outcome::NoRoom(_) | Outcome::Failed(_) | Outcome::Gone => None,
        }
    }

    /// Whether it is the result that this was taken from, and waits in memory.
    pub(crate) fn is_origin_of(&self, taken: &ToSpill) -> bool {
        matches!(self, Outcome::Shared(own) if own.is_origin_of(taken))
    }

    /// Puts a result on disk in the place of the one in memory that it was made from; whether that is still
    /// there. Gives back which of the two is not needed any more.
    pub(crate) fn replace(
        &mut self,
        taken: &ToSpill,
        result: SharedResult,
    ) -> (bool, SharedResult) {
        match self {
            Outcome::Shared(own) if own.is_origin_of(taken) => {
                (true, std::mem::replace(&mut **own, result))
            }
            _ => (false, result),
        }
    }

    /// Drops a result that waits in memory and has room nowhere; gives it back.
    pub(crate) fn give_up(&mut self, shortage: &Shortage) -> Option<Outcome> {
        let is_waiting = matches!(self, Outcome::Shared(own) if own.n_bytes_waiting().is_some());
        let refused = || Outcome::NoRoom(Box::new(shortage.clone()));
        is_waiting.then(|| std::mem::replace(self, refused()))
    }
}

/// Numbered from zero; entries at the front that are done with can be dropped.
#[derive(Debug)]
pub(crate) struct Window<T> {
    entries: VecDeque<T>,
    first: u32,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Window::beginning(0)
    }
}

impl<T> Window<T> {
    /// One whose first entry has this number.
    pub(crate) fn beginning(first: u32) -> Window<T> {
        Window {
            entries: VecDeque::new(),
            first,
        }
    }

    /// How many entries there are, from the first that is not done with on.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn push(&mut self, entry: T) {
        self.entries.push_back(entry);
    }

    /// Adds so many new entries.
    pub(crate) fn push_new(&mut self, n_entries: usize)
    where
        T: Default,
    {
        let n_all = self.entries.len() + n_entries;
        self.entries.resize_with(n_all, T::default);
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries
            .get_mut(index.wrapping_sub(self.first) as usize)
    }

    /// All entries, the last first, each with its number.
    pub(crate) fn iter_back(&self) -> impl Iterator<Item = (u32, &T)> {
        let numbered = self.entries.iter().enumerate().rev();
        numbered.map(|(at, entry)| (self.first.wrapping_add(at as u32), entry))
    }

    /// Drops entries from the front for as long as they are done with.
    pub(crate) fn trim(&mut self, is_done_with: impl Fn(&T) -> bool) {
        while self.entries.front().is_some_and(&is_done_with) {
            self.entries.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

/// What a run of tasks is called with, as it is sent: bytes end to end, the length of each task's
/// before them.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) first: u32,
    bytes: Vec<u8>,
    /// Where each task's bytes end.
    ends: Vec<usize>,
    /// What the bytes refer to.
    keeps: Option<Box<Keeps>>,
    n_left: usize,
}

impl Block {
    /// An empty block, with room for as much as `like` held.
    pub(crate) fn like(first: u32, n_bytes: usize, n_tasks: usize) -> Block {
        Block {
            first,
            bytes: Vec::with_capacity(n_bytes),
            ends: Vec::with_capacity(n_tasks),
            keeps: None,
            n_left: 0,
        }
    }

    pub(crate) fn n_tasks(&self) -> usize {
        self.ends.len()
    }

    /// Holds on to what the bytes refer to until all tasks are done.
    pub(crate) fn keep(&mut self, keeps: Keeps) {
        if !keeps.is_empty() {
            self.keeps = Some(Box::new(keeps));
        }
    }

    /// How many bytes go with the block.
    pub(crate) fn n_bytes(&self) -> usize {
        let keeps = self.keeps.as_ref();
        self.bytes.len() + keeps.map_or(0, |keeps| keeps.n_bytes_copied)
    }

    /// Adds a task with the bytes that `write` appends; none if it fails.
    #[inline]
    pub(crate) fn push<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        let mut outcome = Ok(());
        push_counted(&mut self.bytes, |out| outcome = write(out));
        match outcome {
            Ok(()) => self.ends.push(self.bytes.len()),
            Err(_) => self.bytes.truncate(start),
        }
        outcome
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// The bytes of a task, without their length.
    fn get(&self, index: u32) -> Option<&[u8]> {
        let at = index.wrapping_sub(self.first) as usize;
        self.ends.get(at)?;
        let range = next_in_run(&self.bytes, &mut self.start(at))?;
        Some(&self.bytes[range])
    }

    /// As many of `n_tasks` tasks from `index` on as are in this block: how many, and their bytes as
    /// they are sent.
    fn run(&self, index: u32, n_tasks: usize) -> (usize, &[u8]) {
        let at = index.wrapping_sub(self.first) as usize;
        let end = self.ends.len().min(at.saturating_add(n_tasks));
        match end.checked_sub(at) {
            Some(n_tasks) if n_tasks > 0 => {
                let bytes = &self.bytes[self.start(at)..self.ends[end - 1]];
                (n_tasks, bytes)
            }
            _ => (0, &[]),
        }
    }
}

/// Blocks in ascending order. A block is dropped when all of its tasks are done.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: VecDeque<Block>,
    n_bytes: usize,
    /// Which block was asked for last: tasks come in runs.
    recent: usize,
}

impl Blocks {
    pub(crate) fn push(&mut self, mut block: Block) {
        block.n_left = block.n_tasks();
        self.n_bytes += block.n_bytes();
        self.blocks.push_back(block);
    }

    /// How many bytes the blocks hold that have not been dropped.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    #[inline]
    fn place(&mut self, index: u32) -> Option<usize> {
        let recent = self.recent;
        let is_recent =
            |block: &Block| (index.wrapping_sub(block.first) as usize) < block.ends.len();
        if self.blocks.get(recent).is_some_and(is_recent) {
            return Some(recent);
        }
        let found = self.search(index)?;
        self.recent = found;
        Some(found)
    }

    fn search(&self, index: u32) -> Option<usize> {
        let first = self.blocks.front()?.first;
        let distance = index.wrapping_sub(first);
        let after = self
            .blocks
            .partition_point(|block| block.first.wrapping_sub(first) <= distance);
        after.checked_sub(1)
    }

    pub(crate) fn get(&mut self, index: u32) -> Option<&[u8]> {
        let place = self.place(index)?;
        self.blocks[place].get(index)
    }

    /// As many of `n_tasks` tasks from `index` on as stand together: how many, and their bytes as they
    /// are sent.
    pub(crate) fn run(&mut self, index: u32, n_tasks: usize) -> (usize, &[u8]) {
        match self.place(index) {
            Some(place) => self.blocks[place].run(index, n_tasks),
            None => (0, &[]),
        }
    }

    /// The segments that the bytes of a task's block refer to.
    pub(crate) fn segments(&mut self, index: u32) -> &[SegmentId] {
        let block = self.place(index).map(|at| &self.blocks[at]);
        let keeps = block.and_then(|block| block.keeps.as_deref());
        keeps.map_or(&[], |keeps| &keeps.segments)
    }

    /// Counts a task as done.
    pub(crate) fn done(&mut self, index: u32) {
        let Some(at) = self.place(index) else { return };
        let block = &mut self.blocks[at];
        block.n_left = block.n_left.saturating_sub(1);
        if block.n_left == 0 {
            self.n_bytes -= block.n_bytes();
            block.bytes = Vec::new();
            block.ends = Vec::new();
            block.keeps = None;
        }
        while self.blocks.front().is_some_and(|block| block.n_left == 0) {
            self.blocks.pop_front();
        }
    }
}
