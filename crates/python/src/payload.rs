//! Results as bytes, small ones without an allocation of their own; tasks' bytes in blocks.

use crate::codec::{decode_value, marked_frame};
use crate::shared::memory::{Held, TALLY};
use crate::shared::receiving::ResultViews;
use crate::shared::sending::{Keeps, places};
use manyhands_executor::Stock;
use manyhands_store::SegmentId;
use manyhands_wire::{next_in_run, push_counted};
use pyo3::prelude::*;
use std::collections::VecDeque;
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
    /// With memory of the worker's.
    Shared(Box<SharedResult>),
    Failed(Box<[u8]>),
    /// Taken by its reader, or nobody's business any more.
    Gone,
}

// There is one for each task of a map.
const _: () = assert!(size_of::<Outcome>() <= 24);

/// A result parts of which are in shared memory.
#[derive(Debug)]
pub(crate) struct SharedResult {
    pub(crate) bytes: Box<[u8]>,
    /// In the order in which the bytes name them.
    pub(crate) adopted: Vec<Held>,
}

impl SharedResult {
    /// The segments that the bytes refer to.
    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        self.adopted.iter().map(|adopted| adopted.place().segment)
    }

    pub(crate) fn decode(self, py: Python<'_>, stock: &Stock) -> PyResult<Py<PyAny>> {
        let views = ResultViews::new(stock, self.adopted);
        Ok(decode_value(py, &self.bytes, &views)?.unbind())
    }
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
            None => Outcome::Returned(Payload::new(bytes)),
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
        Outcome::Shared(Box::new(SharedResult {
            bytes: bytes.into(),
            adopted: adopted.collect(),
        }))
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
