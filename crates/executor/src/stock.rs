//! Shared memory as processes that have workers keep it, and as workers do.
//!
//! A result's memory belongs to the worker that allocated it, which keeps it until it is told that
//! nobody reads it any more. [`Adopted`] stands for the right to read it; dropping it queues that
//! message with the pool of the worker, whose reactor sends it.
//!
//! Locks here are leaves: nothing else is locked and nothing is called back while one is held. So an
//! [`Adopted`] may be dropped in any thread and under any lock.

use crate::job::{Owner, lock};
use crate::processes::Wake;
use manyhands_store::{Arena, ArenaOptions, Foreign, Pin, Pins, Place, SegmentId};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

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
}

#[derive(Default)]
struct Table {
    /// The workers that are alive.
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

/// A worker whose memory may be read here.
struct Lender {
    owner: u32,
    returns: Arc<Returns>,
    claims: Mutex<Claims>,
}

#[derive(Default)]
struct Claims {
    n_adopted: usize,
    /// Whether the worker is dead.
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
        }
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
    fn end(&self, Claim { place, lender }: Claim) {
        let mut claims = lock(&lender.claims);
        claims.n_adopted -= 1;
        let (n_adopted, is_gone) = (claims.n_adopted, claims.is_gone);
        drop(claims);
        match (is_gone, n_adopted) {
            (false, _) => (lender.returns).queue(|queued| queued.places.push(place)),
            (true, 0) => self.forget(lender.owner),
            (true, _) => {}
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
    }

    /// A pool has ended: it has no workers that would need to know anything.
    pub(crate) fn remove_pool(&self, returns: &Arc<Returns>) {
        let is_other = |pool: &Weak<Returns>| !std::ptr::eq(pool.as_ptr(), Arc::as_ptr(returns));
        lock(&self.table).pools.retain(is_other);
    }

    /// The number of a new worker.
    pub(crate) fn new_owner(&self) -> u32 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a worker whose pool has these returns.
    pub(crate) fn add_owner(&self, owner: u32, returns: &Arc<Returns>) {
        let lender = Arc::new(Lender {
            owner,
            returns: Arc::clone(returns),
            claims: Mutex::default(),
        });
        lock(&self.table).lenders.insert(owner, lender);
    }

    /// A worker is dead, and all that it has sent has been read. What it delivered stays readable.
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

/// The right to read a place in a worker's memory. Dropping it ends the right, and tells the worker
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
