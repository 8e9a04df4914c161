//! Copies of the caller's buffers in shared memory, kept so that an unchanged buffer is not copied again.
//!
//! A copy of what belongs to an object that tells of its end is found by where its original lies, and goes
//! with that object; whether it still is a copy, the contents decide, every time. Any other copy is found by
//! its contents alone, as `bytes` that were made for one pickle lie elsewhere in the next; of those the ones
//! that have not been used for longest go once there are too many.

use manyhands_store::{Arena, Lease, digest};
use pyo3::ffi;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many bytes of copies are kept that nobody uses and whose originals may be gone.
const UNOWNED_BYTES_MAX: usize = 256 << 20;

/// Above that, this share of it goes beyond what must, so that not every copy has the others looked through.
const ROOM_SHARE: usize = 8;

/// Where contents lie in this process's memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Range {
    pub(crate) address: usize,
    pub(crate) n_bytes: usize,
    /// For contents that lie apart from each other: the size of an element, and the shape and the strides.
    pub(crate) layout: Box<[isize]>,
}

impl Range {
    pub(crate) fn of(bytes: &[u8]) -> Range {
        Range {
            address: bytes.as_ptr() as usize,
            n_bytes: bytes.len(),
            layout: Box::default(),
        }
    }
}

/// What a copy is found by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Key {
    Place(Range),
    Contents { n_bytes: usize, digest: u128 },
}

impl Key {
    fn n_bytes(&self) -> usize {
        match self {
            Key::Place(range) => range.n_bytes,
            Key::Contents { n_bytes, .. } => *n_bytes,
        }
    }
}

struct Entry {
    lease: Arc<Lease>,
    /// Of the original as it was copied; found when it is first asked for, where the copy tells it.
    digest: Option<u128>,
    /// A weak reference to the object that the original belongs to, whose end ends the entry.
    owner: Option<Py<PyAny>>,
    serial: u64,
    used_at: u64,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// Of entries without an owner.
    n_unowned_bytes: usize,
    clock: u64,
}

/// The copies of one process.
#[derive(Default)]
pub(crate) struct Cache {
    entries: Mutex<Entries>,
}

/// Whether a copy has the same bytes as its original, from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Likeness {
    Exact,
    /// Only parts of the original were copied.
    Other,
}

/// Where a buffer's contents are in shared memory now.
pub(crate) enum Found {
    /// There already.
    Known(Arc<Lease>),
    /// Copied for this.
    Copied(Arc<Lease>),
    /// There is no shared memory for it.
    Nowhere,
}

impl Cache {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the contents of `bytes` in shared memory. `owner` is the object that they belong to, where that
    /// can tell of its end.
    pub(crate) fn find(
        &self,
        arena: &Arena,
        bytes: &[u8],
        owner: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Found> {
        let copy = || {
            Ok(arena
                .copy_in(bytes)
                .filter(|lease| n_bytes(lease) == bytes.len()))
        };
        let Some(owner) = owner else {
            return self.find_by_contents(bytes, copy);
        };
        let range = Range::of(bytes);
        self.find_by_place(range, owner, || digest(bytes), Likeness::Exact, copy)
    }

    /// Has what lies in a range in shared memory. A digest decides whether it has changed.
    pub(crate) fn find_by_place(
        &self,
        range: Range,
        owner: &Bound<'_, PyAny>,
        digest_now: impl Fn() -> u128,
        likeness: Likeness,
        copy: impl Fn() -> PyResult<Option<Lease>>,
    ) -> PyResult<Found> {
        let key = Key::Place(range);
        let known = self.entries().look_up(&key);
        let mut now = None;
        if let Some((lease, kept)) = known {
            let kept = kept.unwrap_or_else(|| digest(slice(&lease)));
            now = Some(digest_now());
            let mut entries = self.entries();
            if let Some(entry) = entries.by_key.get_mut(&key)
                && Arc::ptr_eq(&entry.lease, &lease)
            {
                entry.digest = Some(kept);
            }
            if now == Some(kept) {
                return Ok(Found::Known(lease));
            }
        }
        // Before the copy: what is written to the original meanwhile is to be noticed the next time.
        if likeness == Likeness::Other && now.is_none() {
            now = Some(digest_now());
        }
        // What is out of date makes room first.
        drop(self.remove(&key, None));
        // Of an exact copy the copy itself tells: the caller's threads may have written to the original.
        let digest = now.filter(|_| likeness == Likeness::Other);
        self.copy(key, digest, Some(owner), copy)
    }

    fn find_by_contents(
        &self,
        bytes: &[u8],
        copy: impl Fn() -> PyResult<Option<Lease>>,
    ) -> PyResult<Found> {
        let digest = digest(bytes);
        let key = Key::Contents {
            n_bytes: bytes.len(),
            digest,
        };
        let known = self.entries().look_up(&key);
        match known {
            Some((lease, _)) => Ok(Found::Known(lease)),
            None => self.copy(key, None, None, copy),
        }
    }

    /// Makes a copy, and an entry for it.
    fn copy(
        &self,
        key: Key,
        digest: Option<u128>,
        owner: Option<&Bound<'_, PyAny>>,
        copy: impl Fn() -> PyResult<Option<Lease>>,
    ) -> PyResult<Found> {
        let mut lease = copy()?;
        if lease.is_none() {
            self.make_room(0);
            lease = copy()?;
        }
        let Some(lease) = lease.map(Arc::new) else {
            return Ok(Found::Nowhere);
        };
        let key = match key {
            // For the same reason.
            Key::Contents { n_bytes, .. } => Key::Contents {
                n_bytes,
                digest: manyhands_store::digest(slice(&lease)),
            },
            Key::Place(_) => key,
        };
        let serial = self.entries().tick();
        let owner = owner
            .map(|owner| self.watch(owner, &key, serial))
            .transpose()?;
        let entry = Entry {
            lease: Arc::clone(&lease),
            digest,
            owner,
            serial,
            used_at: serial,
        };
        let replaced = self.entries().insert(key, entry);
        drop(replaced);
        // Now, not only at the end of a job: one may pass more than there is memory for.
        self.tidy();
        Ok(Found::Copied(lease))
    }

    /// A weak reference that ends an entry with its object.
    #[allow(unsafe_code)]
    fn watch(&self, owner: &Bound<'_, PyAny>, key: &Key, serial: u64) -> PyResult<Py<PyAny>> {
        let py = owner.py();
        let key = key.clone();
        let departure = Bound::new(py, Departure { key, serial })?;
        // SAFETY: both are objects; null comes with an exception.
        unsafe {
            let weak = ffi::PyWeakref_NewRef(owner.as_ptr(), departure.as_ptr());
            Bound::from_owned_ptr_or_err(py, weak).map(Bound::unbind)
        }
    }

    /// Takes an entry out, to be dropped without the lock.
    fn remove(&self, key: &Key, serial: Option<u64>) -> Option<Entry> {
        let mut entries = self.entries();
        let entry = entries.by_key.get(key)?;
        let is_meant = serial.is_none_or(|serial| entry.serial == serial);
        is_meant.then(|| entries.remove(key)).flatten()
    }

    /// Drops copies that nobody uses any more and whose originals may be gone, if there are too many.
    pub(crate) fn tidy(&self) {
        if self.entries().n_unowned_bytes > UNOWNED_BYTES_MAX {
            self.make_room(UNOWNED_BYTES_MAX - UNOWNED_BYTES_MAX / ROOM_SHARE);
        }
    }

    /// Drops copies that nobody uses, the oldest first, until at most so many bytes are left of those
    /// whose originals may be gone; with none left over, those of living originals too.
    fn make_room(&self, n_bytes_kept: usize) {
        let mut dropped = Vec::new();
        let mut entries = self.entries();
        let is_all = n_bytes_kept == 0;
        let unused = entries.by_key.iter().filter(|(_, entry)| {
            Arc::strong_count(&entry.lease) == 1 && (is_all || entry.owner.is_none())
        });
        let mut unused: Vec<_> = unused
            .map(|(key, entry)| (entry.used_at, key.clone()))
            .collect();
        let mut n_bytes: usize = unused.iter().map(|(_, key)| key.n_bytes()).sum();
        if n_bytes > n_bytes_kept {
            unused.sort_unstable_by_key(|(used_at, _)| *used_at);
            for (_, key) in unused {
                if n_bytes <= n_bytes_kept {
                    break;
                }
                n_bytes -= key.n_bytes();
                dropped.extend(entries.remove(&key));
            }
        }
        drop(entries);
        drop(dropped);
    }
}

impl Entries {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn insert(&mut self, key: Key, entry: Entry) -> Option<Entry> {
        let replaced = self.remove(&key);
        if entry.owner.is_none() {
            self.n_unowned_bytes += key.n_bytes();
        }
        self.by_key.insert(key, entry);
        replaced
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.by_key.remove(key)?;
        if entry.owner.is_none() {
            self.n_unowned_bytes -= key.n_bytes();
        }
        Some(entry)
    }

    fn look_up(&mut self, key: &Key) -> Option<(Arc<Lease>, Option<u128>)> {
        let now = self.tick();
        let entry = self.by_key.get_mut(key)?;
        entry.used_at = now;
        Some((Arc::clone(&entry.lease), entry.digest))
    }
}

fn n_bytes(lease: &Lease) -> usize {
    lease.place().n_bytes as usize
}

/// The bytes of a copy.
#[allow(unsafe_code)]
fn slice(lease: &Lease) -> &[u8] {
    // SAFETY: `Arena::copy_in` made it and nobody but its lease knows it; workers view it privately.
    unsafe { lease.as_slice() }
}

/// Called when the object that a copy's original belongs to has gone.
#[pyclass(frozen, module = "manyhands._native")]
struct Departure {
    key: Key,
    serial: u64,
}

#[pymethods]
impl Departure {
    fn __call__(&self, _weak: &Bound<'_, PyAny>) {
        // A forked child may have no shared memory of its own: the entry is its parent's there.
        if let Some(own) = super::stock::current() {
            drop(own.cache.remove(&self.key, Some(self.serial)));
        }
    }
}
