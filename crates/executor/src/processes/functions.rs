//! The functions that workers know, by number; equal bytes are one function.

use manyhands_store::SegmentId;
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// So many functions that no job uses are kept, in case they are used again.
const N_UNUSED_MAX: usize = 64;
/// Nor are larger ones kept, as their bytes hold data, or those that hold on to something.
const UNUSED_BYTES_MAX: usize = 1 << 20;

/// What a function's bytes refer to and that must stay until every worker has forgotten it. The mutex is
/// never locked: it lets references to what only one thread at a time may have be shared.
pub(crate) type Kept = Mutex<Box<dyn Any + Send>>;

#[derive(Debug)]
struct Entry {
    bytes: Arc<[u8]>,
    /// The segments that the bytes refer to.
    segments: Box<[SegmentId]>,
    kept: Option<Arc<Kept>>,
    /// Jobs that use it.
    n_jobs: usize,
    used_at: u64,
}

/// The table.
#[derive(Default, Debug)]
pub(crate) struct Functions {
    by_bytes: HashMap<Arc<[u8]>, u32>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    n_unused: usize,
    clock: u64,
}

impl Functions {
    /// The number of a function, kept until [`Functions::release`] as often as this was called.
    ///
    /// Equal bytes refer to the same places, which are kept already: then `keep` is dropped.
    pub(crate) fn acquire(
        &mut self,
        bytes: &[u8],
        segments: &[SegmentId],
        keep: Option<Box<dyn Any + Send>>,
    ) -> u32 {
        self.clock += 1;
        if let Some(&id) = self.by_bytes.get(bytes) {
            let entry = self.entries[id as usize]
                .as_mut()
                .expect("every number in the map has an entry");
            self.n_unused -= usize::from(entry.n_jobs == 0);
            entry.n_jobs += 1;
            entry.used_at = self.clock;
            return id;
        }
        let bytes: Arc<[u8]> = bytes.into();
        let entry = Entry {
            bytes: Arc::clone(&bytes),
            segments: segments.into(),
            kept: keep.map(|keep| Arc::new(Mutex::new(keep))),
            n_jobs: 1,
            used_at: self.clock,
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.entries.push(None);
                self.entries.len() as u32 - 1
            }
        };
        self.entries[id as usize] = Some(entry);
        self.by_bytes.insert(bytes, id);
        id
    }

    /// A function's bytes and the segments they refer to.
    pub(crate) fn get(&self, id: u32) -> Option<(&[u8], &[SegmentId])> {
        let entry = self.entries.get(id as usize)?.as_ref()?;
        Some((&entry.bytes, &entry.segments))
    }

    /// Lets go of a function; gives the number of one that is to be forgotten everywhere, if any, with
    /// what is kept until that is done.
    pub(crate) fn release(&mut self, id: u32) -> Option<(u32, Option<Arc<Kept>>)> {
        let entry = self.entries.get_mut(id as usize)?.as_mut()?;
        entry.n_jobs -= 1;
        if entry.n_jobs > 0 {
            return None;
        }
        if entry.bytes.len() > UNUSED_BYTES_MAX || entry.kept.is_some() {
            return self.remove(id);
        }
        self.n_unused += 1;
        if self.n_unused <= N_UNUSED_MAX {
            return None;
        }
        let unused = self.entries.iter().enumerate().filter_map(|(at, entry)| {
            let entry = entry.as_ref().filter(|entry| entry.n_jobs == 0)?;
            Some((entry.used_at, at as u32))
        });
        let (_, oldest) = unused.min()?;
        self.n_unused -= 1;
        self.remove(oldest)
    }

    fn remove(&mut self, id: u32) -> Option<(u32, Option<Arc<Kept>>)> {
        let entry = self.entries.get_mut(id as usize)?.take()?;
        self.by_bytes.remove(&entry.bytes);
        self.free.push(id);
        Some((id, entry.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(functions: &mut Functions, bytes: &[u8]) -> u32 {
        functions.acquire(bytes, &[], None)
    }

    fn release(functions: &mut Functions, id: u32) -> Option<u32> {
        functions.release(id).map(|(gone, _)| gone)
    }

    #[test]
    fn equal_bytes_are_one_function_and_the_oldest_unused_goes_first() {
        let mut functions = Functions::default();
        let a = acquire(&mut functions, b"a");
        assert_eq!(acquire(&mut functions, b"a"), a);
        assert_eq!(release(&mut functions, a), None);
        assert_eq!(release(&mut functions, a), None);
        for i in 0..N_UNUSED_MAX as u32 {
            let id = acquire(&mut functions, &i.to_le_bytes());
            let gone = release(&mut functions, id);
            assert_eq!(gone, (i as usize == N_UNUSED_MAX - 1).then_some(a));
        }
        assert!(functions.get(a).is_none());
        let new = acquire(&mut functions, b"new");
        assert_eq!(new, a, "the number is used again");
    }

    #[test]
    fn a_large_function_is_forgotten_at_once() {
        let mut functions = Functions::default();
        let id = acquire(&mut functions, &vec![0; UNUSED_BYTES_MAX + 1]);
        assert_eq!(release(&mut functions, id), Some(id));
    }

    #[test]
    fn what_a_function_holds_on_to_goes_with_it() {
        let mut functions = Functions::default();
        let held = Arc::new(());
        let hold = || Some(Box::new(Arc::clone(&held)) as Box<dyn Any + Send>);
        let segment = SegmentId::new(0, 3);
        let id = functions.acquire(b"a", &[segment], hold());
        assert_eq!(functions.acquire(b"a", &[segment], hold()), id);
        assert_eq!(Arc::strong_count(&held), 2, "the second was not needed");
        assert_eq!(functions.get(id), Some((&b"a"[..], &[segment][..])));
        assert!(functions.release(id).is_none());
        let kept = functions.release(id);
        assert!(functions.get(id).is_none());
        assert_eq!(Arc::strong_count(&held), 2, "workers may still need it");
        drop(kept);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
