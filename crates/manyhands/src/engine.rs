//! The way to the executors: the pool of the process, nested runs, and numbers for kinds of tasks.

use crate::error::{Error, Mishap};
use crate::options::{Scheduler, Settings};
use manyhands_executor::threads::ThreadPool;
use manyhands_executor::{Failure, Program, inline};
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{JobSpec, KindId};
use std::any::{Any, type_name};
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Locks, also after a panic elsewhere: no user code runs under a lock of this crate.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a job to its end; the task that failed, if one did.
pub(crate) fn run(
    spec: JobSpec,
    program: &Arc<impl Program + 'static>,
    settings: &Settings,
) -> Result<Result<(), TaskIndex>, Error> {
    let failure = if settings.scheduler == Scheduler::Synchronous || is_inside_task() {
        inline::run(spec, &**program).err()
    } else {
        let pool = PoolUse::new(settings.n_workers);
        let job = (pool.threads).submit(spec, Arc::clone(program) as Arc<dyn Program>);
        job.wait_for_end(Duration::MAX).failure
    };
    match failure {
        None => Ok(Ok(())),
        Some(Failure::Task(index, _)) => Ok(Err(index)),
        Some(Failure::NoWorkers(reason)) => Err(Error::NoWorkers(reason)),
        Some(
            failure @ (Failure::Cancelled
            | Failure::WorkerDied(..)
            | Failure::OutOfTime(..)
            | Failure::NoRoom(..)),
        ) => {
            unreachable!("nobody cancels this job, ends its threads or spills for it: {failure:?}")
        }
    }
}

/// Runs user code, and tells a panic.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Mishap> {
    // What the closure leaves half done is its own: the run ends, and nobody sees its inputs again.
    catch_unwind(AssertUnwindSafe(f))
        .map_err(|payload| Mishap::Panicked(panic_message(&*payload).to_owned()))
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(message) = payload.downcast_ref::<&str>() {
        message
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message
    } else {
        "(with a value that is not text)"
    }
}

thread_local! {
    static IS_INSIDE_TASK: Cell<bool> = const { Cell::new(false) };
}

fn is_inside_task() -> bool {
    IS_INSIDE_TASK.get()
}

/// While it lives, runs that this thread begins stay in this thread: all others are busy already.
pub(crate) struct InsideTask {
    was_inside: bool,
}

impl InsideTask {
    pub(crate) fn enter() -> InsideTask {
        InsideTask {
            was_inside: IS_INSIDE_TASK.replace(true),
        }
    }
}

impl Drop for InsideTask {
    fn drop(&mut self) {
        IS_INSIDE_TASK.set(self.was_inside);
    }
}

/// The pool of the process, once there is one.
struct Pool {
    /// Which process: in one forked from it, there is a pool but no threads.
    process: u32,
    threads: Option<Arc<ThreadPool>>,
    n_threads: usize,
    n_users: usize,
}

impl Pool {
    const NONE: Pool = Pool {
        process: 0,
        threads: None,
        n_threads: 0,
        n_users: 0,
    };

    /// Leaves alone what a parent process left here: its locks may be held for ever.
    fn disown_inherited(&mut self) {
        let process = std::process::id();
        if self.process != process {
            let inherited = std::mem::replace(self, Pool::NONE);
            std::mem::forget(inherited.threads);
            self.process = process;
        }
    }
}

static POOL: Mutex<Pool> = Mutex::new(Pool::NONE);

/// A pool with the right number of threads, for one run.
struct PoolUse {
    threads: Arc<ThreadPool>,
    is_common: bool,
}

impl PoolUse {
    fn new(n_threads: usize) -> PoolUse {
        let mut pool = lock(&POOL);
        pool.disown_inherited();
        if pool.n_users > 0 && pool.n_threads != n_threads {
            // Others run with another number at this moment: both get what they asked for.
            drop(pool);
            return PoolUse {
                threads: new_threads(n_threads),
                is_common: false,
            };
        }
        let threads = match &pool.threads {
            Some(threads) => Arc::clone(threads),
            None => {
                let threads = new_threads(n_threads);
                pool.threads = Some(Arc::clone(&threads));
                pool.n_threads = n_threads;
                threads
            }
        };
        if pool.n_threads != n_threads {
            threads.resize(n_threads);
            pool.n_threads = n_threads;
        }
        pool.n_users += 1;
        PoolUse {
            threads,
            is_common: true,
        }
    }
}

impl Drop for PoolUse {
    fn drop(&mut self) {
        if self.is_common {
            lock(&POOL).n_users -= 1;
        }
    }
}

fn new_threads(n_threads: usize) -> Arc<ThreadPool> {
    Arc::new(ThreadPool::new(n_threads, Arc::new(())))
}

/// What closures have in common of which the cost is learnt as one: where they are written, and the
/// name of their type, as addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KindKey(usize, usize);

impl KindKey {
    pub(crate) fn of<F>(place: &'static Location<'static>) -> KindKey {
        KindKey(
            ptr::from_ref(place).addr(),
            type_name::<F>().as_ptr().addr(),
        )
    }

    /// The number of the kind in this process.
    pub(crate) fn number(self) -> KindId {
        static KINDS: Mutex<Option<HashMap<KindKey, KindId>>> = Mutex::new(None);
        let mut kinds = lock(&KINDS);
        let kinds = kinds.get_or_insert_default();
        let next = KindId(kinds.len() as u32);
        *kinds.entry(self).or_insert(next)
    }
}
