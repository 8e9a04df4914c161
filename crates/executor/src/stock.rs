//! Shared memory as processes that have workers keep it, and as workers do.
//!
//! A result's memory belongs to the worker that allocated it, which keeps it until it is told that
//! nobody reads it any more. [`Adopted`] stands for the right to read it; dropping it queues that
//! message with the pool of the worker, whose reactor sends it.
//!
//! A file on disk is like a dead worker: what it has delivered can be read until nobody needs it.
//!
//! Locks here are leaves: nothing else is locked and nothing is called back while one is held. So an
//! [`Adopted`] may be dropped in any thread and under any lock; what it had on disk is given back by a
//! pool's own thread, as that may take a while. Two are not, and are only taken by a pool's own thread
//! that holds no other: `spilling` first, then `filling`.

use crate::job::lock;
use crate::owner::Owner;
use crate::processes::{Wake, WorkerMemoryLimit};
use crate::program::RemoteProgram;
use crate::shelf::{Shelf, SpillOptions, SpillStats, Strain, Waiting};
use manyhands_store::{
    Arena, ArenaOptions, Foreign, Pin, Pins, Place, SegmentId, SpillFile, SpillPart,
};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};

/// The shared memory of a process that has workers. It is one for all of its pools, which number their
/// workers through it. A process forked from this one needs a stock of its own.
pub struct Stock {
    /// The process's own memory.
    pub arena: Arena,
    /// The workers' memory.
    pub foreign: Foreign,
    /// The number of the worker that is started next.
    next_owner: AtomicU32,
    table: Mutex<Table>,
    process: Owner,
    shelf: Shelf,
    worker_limit: Mutex<WorkerMemoryLimit>,
    /// The file that results are written to at present.
    filling: Mutex<Option<Filling>>,
    /// Held while results are put on disk, by one pool at a time: no other would find anything else to do.
    spilling: Mutex<()>,
    /// Jobs that have ended and have had large results, which may not have been taken yet.
    ended: Mutex<Vec<Weak<dyn RemoteProgram>>>,
    /// Rights to what is on disk that have ended.
    discards: Mutex<Vec<Claim>>,
}

/// A file that results are written to.
struct Filling {
    file: SpillFile,
    folder: PathBuf,
    lender: Arc<Lender>,
}

/// A part of a result that is to be put on disk.
#[derive(Clone, Copy, Debug)]
pub enum DiskPart<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// What lies there.
    Place(Place),
}

#[derive(Default)]
struct Table {
    /// The workers that are alive, and the file that is being filled.
    lenders: HashMap<u32, Arc<Lender>>,
    pools: Vec<Weak<Returns>>,
    /// Rights that have ended here, but perhaps not in a process that was forked from this one.
    pins: Pins<Claim>,
}

/// A right to read a place.
struct Claim {
    place: Place,
    lender: Arc<Lender>,
}

/// A worker whose memory may be read here, or a file.
struct Lender {
    owner: u32,
    source: Source,
    claims: Mutex<Claims>,
}

enum Source {
    /// With how to tell it.
    Worker(Arc<Returns>),
    File(Arc<OwnedFd>),
}

#[derive(Default)]
struct Claims {
    n_adopted: usize,
    /// Whether nothing more will come: the worker is dead, the file full.
    is_gone: bool,
}

/// What a pool is to tell its workers about memory.
pub(crate) struct Returns {
    queued: Mutex<Queued>,
    is_any: AtomicBool,
    /// Makes the pool's reactor look.
    wake: Arc<Wake>,
}

/// See [`Returns`].
#[derive(Default)]
pub(crate) struct Queued {
    /// For the worker that owns each.
    pub(crate) places: Vec<Place>,
    /// For everybody: owners that are dead and of whom nothing is read any more.
    pub(crate) gone: Vec<u32>,
}

impl Returns {
    pub(crate) fn new(wake: Arc<Wake>) -> Returns {
        Returns {
            queued: Mutex::default(),
            is_any: AtomicBool::new(false),
            wake,
        }
    }

    fn queue(&self, add: impl FnOnce(&mut Queued)) {
        let mut queued = lock(&self.queued);
        add(&mut queued);
        // Both under the lock, so that nothing is ever queued while the flag says otherwise.
        let was_any = self.is_any.swap(true, Ordering::AcqRel);
        drop(queued);
        if !was_any {
            self.wake.wake();
        }
    }

    /// Takes what has been queued, if anything.
    pub(crate) fn take(&self) -> Option<Queued> {
        if !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        let mut queued = lock(&self.queued);
        self.is_any.store(false, Ordering::Release);
        Some(std::mem::take(&mut *queued))
    }
}

impl Stock {
    /// The stock of a process that allocates in `arena`, which it made under the number `owner`: zero,
    /// or what it was given if it is a worker itself.
    pub fn new(arena: Arena, owner: u32) -> Stock {
        Stock {
            arena,
            foreign: Foreign::default(),
            next_owner: AtomicU32::new(owner + 1),
            table: Mutex::default(),
            process: Owner::current(),
            shelf: Shelf::default(),
            worker_limit: Mutex::default(),
            filling: Mutex::default(),
            spilling: Mutex::default(),
            ended: Mutex::default(),
            discards: Mutex::default(),
        }
    }

    /// Changes what is done about results that pile up.
    pub fn set_spill_options(&self, options: SpillOptions) {
        self.shelf.set_options(options);
    }

    /// Changes how much memory workers may take for themselves.
    pub fn set_worker_limit(&self, limit: WorkerMemoryLimit) {
        *lock(&self.worker_limit) = limit;
    }

    pub(crate) fn worker_limit(&self) -> WorkerMemoryLimit {
        *lock(&self.worker_limit)
    }

    /// Counts a result of so many bytes as waiting in memory for its readers.
    pub fn waiting(&self, n_bytes: u64) -> Waiting {
        self.shelf.waiting(n_bytes)
    }

    /// What results take and have taken.
    pub fn spill_stats(&self) -> SpillStats {
        self.shelf.stats()
    }

    /// How it stands with the results that wait.
    pub(crate) fn strain(&self) -> Strain {
        self.shelf.strain()
    }

    /// Where results go that there is no memory for.
    pub(crate) fn spill_folder(&self) -> PathBuf {
        self.shelf.options().folder
    }

    /// Takes over a place in a worker's memory that the worker has given away: once for each time.
    /// Dropping what is returned lets the worker use the memory again.
    pub fn adopt(self: &Arc<Self>, place: Place) -> Adopted {
        let table = lock(&self.table);
        let lender = table.lenders.get(&place.segment.owner()).cloned();
        let born = table.pins.now();
        drop(table);
        if let Some(lender) = &lender {
            lock(&lender.claims).n_adopted += 1;
        }
        Adopted {
            place,
            lender,
            born,
            stock: Arc::clone(self),
        }
    }

    /// The right to put results on disk, unless another pool is at it.
    pub(crate) fn try_begin_spilling(&self) -> Option<MutexGuard<'_, ()>> {
        match self.spilling.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether results take more than they may, and are being put on disk: no moment to begin work that
    /// no pool could hold back.
    pub fn is_catching_up(&self) -> bool {
        self.shelf.is_catching_up()
    }

    /// A job has ended; its results may not have been taken yet.
    pub(crate) fn job_ended(&self, program: &Arc<dyn RemoteProgram>) {
        if !self.shelf.is_any_waiting() || !program.may_have_backlog() {
            return;
        }
        let mut ended = lock(&self.ended);
        if ended.len() == ended.capacity() {
            ended.retain(|program| program.strong_count() > 0);
        }
        ended.push(Arc::downgrade(program));
    }

    /// Jobs that have ended and have results that wait in memory.
    pub(crate) fn ended(&self) -> Vec<Arc<dyn RemoteProgram>> {
        let mut programs: Vec<_> = {
            let ended = lock(&self.ended);
            ended.iter().filter_map(Weak::upgrade).collect()
        };
        // Without the lock. What comes to wait no more does not come to wait again.
        programs.retain(|program| program.backlog().is_some());
        let is_one = |listed: &Weak<dyn RemoteProgram>| {
            programs
                .iter()
                .any(|program| std::ptr::addr_eq(listed.as_ptr(), Arc::as_ptr(program)))
        };
        lock(&self.ended).retain(is_one);
        programs
    }

    /// Writes the parts of a result to disk, all or none; the right to read each.
    ///
    /// # Errors
    ///
    /// If the disk is full, the folder not writable, or what else the system says.
    pub fn put_on_disk(self: &Arc<Self>, parts: &[DiskPart<'_>]) -> io::Result<Vec<Adopted>> {
        let descriptors = parts.iter().map(|part| match part {
            DiskPart::Bytes(_) => Ok(None),
            DiskPart::Place(place) => {
                let descriptor = self.descriptor(place.segment);
                let unknown = || {
                    let text = "its memory cannot be read here, where too many files were open";
                    io::Error::new(io::ErrorKind::NotFound, text)
                };
                descriptor.map(Some).ok_or_else(unknown)
            }
        });
        let descriptors = descriptors.collect::<io::Result<Vec<_>>>()?;
        let sources = parts.iter().zip(&descriptors).map(|pair| match pair {
            (DiskPart::Place(place), Some(fd)) => SpillPart::Range {
                fd: fd.as_ref(),
                offset: place.offset,
                n_bytes: place.n_bytes,
            },
            (DiskPart::Bytes(bytes), _) => SpillPart::Bytes(bytes),
            (DiskPart::Place(_), None) => unreachable!("its descriptor was found above"),
        });
        let sources: Vec<_> = sources.collect();
        let mut slot = lock(&self.filling);
        let filling = self.filling(&mut slot, SpillPart::n_bytes_in_file(&sources))?;
        let offsets = filling.file.append(&sources)?;
        let segment = SegmentId::new(filling.lender.owner, 0);
        let adopted = parts.iter().zip(offsets).map(|(part, offset)| {
            let n_bytes = match part {
                DiskPart::Bytes(bytes) => bytes.len() as u64,
                DiskPart::Place(place) => place.n_bytes,
            };
            self.shelf.wrote(n_bytes);
            self.adopt(Place {
                segment,
                offset,
                n_bytes,
            })
        });
        Ok(adopted.collect())
    }

    /// A file with room for so much.
    fn filling<'a>(
        &self,
        slot: &'a mut Option<Filling>,
        n_bytes: u64,
    ) -> io::Result<&'a mut Filling> {
        let folder = self.shelf.options().folder;
        if let Some(filling) = slot {
            if lock(&filling.lender.claims).n_adopted == 0 {
                filling.file.rewind();
            }
            if filling.folder != folder || !filling.file.has_room(n_bytes) {
                self.owner_died(filling.lender.owner);
                *slot = None;
            }
        }
        if slot.is_none() {
            let file = SpillFile::create(&folder, n_bytes)?;
            let owner = self.new_owner();
            let descriptor = Arc::clone(file.descriptor());
            (self.foreign).adopt(SegmentId::new(owner, 0), Arc::clone(&descriptor));
            let lender = self.add_lender(owner, Source::File(descriptor));
            *slot = Some(Filling {
                file,
                folder,
                lender,
            });
        }
        slot.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Reads what was put on disk as bytes.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn read_from_disk(&self, adopted: &Adopted) -> io::Result<Vec<u8>> {
        let place = adopted.place;
        let descriptor = self.descriptor(place.segment);
        let descriptor = descriptor.ok_or(io::ErrorKind::NotFound)?;
        SpillFile::read(&descriptor, place.offset, place.n_bytes as usize)
    }

    /// Before this process is forked: until what is returned is dropped, no memory that there is now is
    /// used again, neither this process's own nor what workers have given away to it.
    pub(crate) fn pin(self: &Arc<Self>) -> Pinned {
        Pinned {
            number: lock(&self.table).pins.pin(),
            _own: self.arena.pin(),
            stock: Arc::clone(self),
        }
    }

    /// Ends a right.
    fn end(&self, claim: Claim) {
        if matches!(claim.lender.source, Source::Worker(_)) {
            self.ended_claim(claim);
            return;
        }
        lock(&self.discards).push(claim);
        let pools = lock(&self.table).pools.clone();
        match pools.iter().find_map(Weak::upgrade) {
            Some(pool) => pool.wake.wake(),
            // Nor does anybody wait for this thread then.
            None => self.discard(),
        }
    }

    /// Gives back the space on disk that nobody needs any more. A pool's own thread does it, also at its end
    /// and after it has left the table: so somebody does, whoever ended the right.
    pub(crate) fn discard(&self) {
        let claims = std::mem::take(&mut *lock(&self.discards));
        for claim in claims {
            if let Source::File(file) = &claim.lender.source {
                // First of all: a file of which nothing is claimed is filled from the front again.
                SpillFile::discard(file, claim.place.offset, claim.place.n_bytes);
                let n_bytes = claim.place.n_bytes;
                (self.shelf.n_bytes_on_disk).fetch_sub(n_bytes, Ordering::Relaxed);
            }
            self.ended_claim(claim);
        }
    }

    fn ended_claim(&self, Claim { place, lender }: Claim) {
        let mut claims = lock(&lender.claims);
        claims.n_adopted -= 1;
        let (n_adopted, is_gone) = (claims.n_adopted, claims.is_gone);
        drop(claims);
        match &lender.source {
            Source::Worker(returns) if !is_gone => {
                returns.queue(|queued| queued.places.push(place));
            }
            _ if is_gone && n_adopted == 0 => self.forget(lender.owner),
            _ => {}
        }
    }

    /// The descriptor of a segment, this process's own or a worker's.
    pub fn descriptor(&self, segment: SegmentId) -> Option<Arc<OwnedFd>> {
        let own = self.arena.descriptor(segment);
        own.or_else(|| self.foreign.descriptor(segment))
    }

    /// Adds a pool, to be told what its workers need to know.
    pub(crate) fn add_pool(&self, returns: &Arc<Returns>) {
        let mut table = lock(&self.table);
        table.pools.retain(|pool| pool.strong_count() > 0);
        table.pools.push(Arc::downgrade(returns));
        drop(table);
        self.shelf.add_pool(&returns.wake);
    }

    /// A pool has ended: it has no workers that would need to know anything.
    pub(crate) fn remove_pool(&self, returns: &Arc<Returns>) {
        let is_other = |pool: &Weak<Returns>| !std::ptr::eq(pool.as_ptr(), Arc::as_ptr(returns));
        let mut table = lock(&self.table);
        table.pools.retain(is_other);
        let is_last = table.pools.is_empty();
        drop(table);
        self.discard();
        if is_last {
            self.close_unread();
        }
    }

    /// Lets go of the file that results are written to, unless somebody may read there.
    fn close_unread(&self) {
        let mut slot = lock(&self.filling);
        let is_unread = |filling: &mut Filling| lock(&filling.lender.claims).n_adopted == 0;
        if let Some(filling) = slot.take_if(is_unread) {
            self.owner_died(filling.lender.owner);
        }
    }

    /// The number of a new worker.
    pub(crate) fn new_owner(&self) -> u32 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a worker whose pool has these returns.
    pub(crate) fn add_owner(&self, owner: u32, returns: &Arc<Returns>) {
        self.add_lender(owner, Source::Worker(Arc::clone(returns)));
    }

    fn add_lender(&self, owner: u32, source: Source) -> Arc<Lender> {
        let lender = Arc::new(Lender {
            owner,
            source,
            claims: Mutex::default(),
        });
        let listed = Arc::clone(&lender);
        lock(&self.table).lenders.insert(owner, listed);
        lender
    }

    /// A worker is dead, and all that it has sent has been read; or a file is full. What it delivered stays
    /// readable.
    pub(crate) fn owner_died(&self, owner: u32) {
        let lender = lock(&self.table).lenders.remove(&owner);
        if let Some(lender) = lender {
            let mut claims = lock(&lender.claims);
            claims.is_gone = true;
            let is_unread = claims.n_adopted == 0;
            drop(claims);
            if is_unread {
                self.forget(owner);
            }
        }
    }

    /// A dead worker's memory is read by nobody any more.
    fn forget(&self, owner: u32) {
        self.foreign.forget_owner(owner);
        let pools: Vec<_> = lock(&self.table)
            .pools
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for pool in pools {
            pool.queue(|queued| queued.gone.push(owner));
        }
    }
}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stock").finish_non_exhaustive()
    }
}

/// The right to read a place in a worker's memory, or on disk. Dropping it ends the right, and tells the worker
/// soon, unless a forked process may be reading. A worker's death does not end it.
pub struct Adopted {
    place: Place,
    /// None where the worker died before.
    lender: Option<Arc<Lender>>,
    /// Before which pins it was taken over.
    born: u64,
    stock: Arc<Stock>,
}

impl Adopted {
    /// The place.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether it is in a file, rather than in memory.
    pub fn is_on_disk(&self) -> bool {
        let source = self.lender.as_ref().map(|lender| &lender.source);
        matches!(source, Some(Source::File(_)))
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        let Some(lender) = self.lender.take() else {
            return;
        };
        if self.stock.process.is_elsewhere() {
            // A copy made by a fork: the right is the original's to give up.
            return;
        }
        let place = self.place;
        let claim = Claim { place, lender };
        let unseen = lock(&self.stock.table).pins.keep(self.born, claim);
        if let Some(claim) = unseen {
            self.stock.end(claim);
        }
    }
}

/// See [`Stock::pin`].
pub(crate) struct Pinned {
    stock: Arc<Stock>,
    number: u64,
    _own: Pin,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.stock.process.is_elsewhere() {
            return;
        }
        let unseen = lock(&self.stock.table).pins.unpin(self.number);
        for claim in unseen {
            self.stock.end(claim);
        }
    }
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopted")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// The shared memory of a worker.
#[derive(Debug)]
pub struct WorkerStock {
    /// The worker's number.
    pub owner: u32,
    /// Its own memory: what it returns.
    pub arena: Arena,
    /// Others' memory: what its tasks are called with.
    pub foreign: Foreign,
}

impl WorkerStock {
    pub(crate) fn new(owner: u32) -> WorkerStock {
        WorkerStock {
            owner,
            arena: Arena::new(owner, ArenaOptions::default()),
            foreign: Foreign::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shelf::MemoryLimit;
    use proptest::prelude::*;

    fn stock() -> Arc<Stock> {
        Arc::new(Stock::new(Arena::new(0, ArenaOptions::default()), 0))
    }

    fn read(stock: &Stock, adopted: &Adopted) -> Vec<u8> {
        assert!(adopted.is_on_disk());
        stock.read_from_disk(adopted).expect("it was written")
    }

    fn put(stock: &Arc<Stock>, bytes: &[u8]) -> Adopted {
        let put = stock.put_on_disk(&[DiskPart::Bytes(bytes)]);
        put.expect("there is a disk").pop().expect("one part")
    }

    #[test]
    fn what_lies_in_memory_goes_to_disk_and_is_there_until_it_is_let_go() {
        let stock = stock();
        let contents: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
        let lease = stock.arena.copy_in(&contents).expect("there is memory");
        let parts = [DiskPart::Place(lease.place()), DiskPart::Bytes(b"beside")];
        let mut put = stock.put_on_disk(&parts).expect("there is a disk");
        drop(lease);
        assert_eq!(read(&stock, &put[0]), contents);
        assert_eq!(read(&stock, &put[1]), b"beside");
        assert_eq!(stock.spill_stats().n_bytes_on_disk, 100_006);
        put.pop();
        assert_eq!(stock.spill_stats().n_bytes_on_disk, 100_000);
        put.pop();
        let stats = stock.spill_stats();
        assert_eq!((stats.n_bytes_on_disk, stats.n_bytes_spilled), (0, 100_006));
    }

    #[test]
    fn what_is_not_known_here_cannot_be_put_on_disk() {
        let stock = stock();
        let nowhere = Place {
            segment: SegmentId::new(9, 9),
            offset: 0,
            n_bytes: 10,
        };
        let refused = stock.put_on_disk(&[DiskPart::Place(nowhere)]);
        assert_eq!(
            refused.expect_err("unknown").kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(stock.spill_stats(), SpillStats::default());
    }

    #[test]
    fn another_folder_means_another_file_and_the_old_one_goes_with_its_last_reader() {
        let stock = stock();
        let first = put(&stock, b"first");
        let folder = std::env::temp_dir().join(format!("manyhands-other-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("it is new");
        let limit = MemoryLimit::None;
        let options = SpillOptions {
            limit,
            folder: folder.clone(),
        };
        stock.set_spill_options(options);
        let second = put(&stock, b"second");
        std::fs::remove_dir(&folder).expect("nothing has a name there");
        assert_ne!(first.place().segment, second.place().segment);
        assert_eq!(read(&stock, &first), b"first");
        assert_eq!(stock.foreign.n_segments(), 2);
        drop(first);
        assert_eq!(stock.foreign.n_segments(), 1);
        assert_eq!(read(&stock, &second), b"second");
    }

    #[test]
    fn what_a_forked_process_may_read_stays_on_disk() {
        let stock = stock();
        let before = put(&stock, b"before");
        let pinned = stock.pin();
        let after = put(&stock, b"after");
        drop(before);
        drop(after);
        assert_eq!(stock.spill_stats().n_bytes_on_disk, 6);
        // Nothing is written over it meanwhile.
        let later = put(&stock, b"later");
        assert!(later.place().offset > 0);
        drop(pinned);
        assert_eq!(stock.spill_stats().n_bytes_on_disk, 5);
        drop(later);
        assert_eq!(stock.spill_stats().n_bytes_on_disk, 0);
        assert_eq!(put(&stock, b"anew").place().offset, 0);
    }

    proptest! {
        /// However things come and go, those that are there are as they were, and the rest takes no space.
        #[test]
        fn everything_on_disk_is_what_was_put_there(
            steps in prop::collection::vec((0usize..20_000, any::<usize>(), any::<bool>()), 1..60),
        ) {
            let stock = stock();
            let mut there: Vec<(Adopted, Vec<u8>)> = Vec::new();
            for (serial, (n_bytes, which, is_end)) in steps.into_iter().enumerate() {
                if is_end && !there.is_empty() {
                    there.swap_remove(which % there.len());
                } else {
                    let bytes: Vec<u8> = (0..n_bytes).map(|at| (at * 7 + serial) as u8).collect();
                    there.push((put(&stock, &bytes), bytes));
                }
                for (adopted, bytes) in &there {
                    prop_assert_eq!(&read(&stock, adopted), bytes);
                }
                let n_bytes: usize = there.iter().map(|(_, bytes)| bytes.len()).sum();
                prop_assert_eq!(stock.spill_stats().n_bytes_on_disk, n_bytes as u64);
            }
        }
    }
}
