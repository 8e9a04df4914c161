//! The shared memory of this process: one stock for all of its pools, and the copies it keeps.

use super::cache::Cache;
use super::memory;
use crate::mapped::lock;
use manyhands_executor::{SpillOptions, SpillStats, Stock, WorkerMemoryLimit, WorkerStock};
use manyhands_store::{Arena, ArenaOptions};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use std::sync::{Arc, Mutex};

/// What this process shares with its workers.
pub(crate) struct Own {
    pub(crate) stock: Arc<Stock>,
    pub(crate) cache: Cache,
    pid: u32,
}

/// Locked by threads that are attached only, so that nobody holds this lock while another thread forks.
static OWN: Mutex<Option<Arc<Own>>> = Mutex::new(None);

/// What is done about results that pile up, once the program has said so. Locked as the one above.
static SPILL_OPTIONS: Mutex<Option<SpillOptions>> = Mutex::new(None);

/// From here on, in this process and those forked from it.
pub(crate) fn set_spill_options(options: SpillOptions) {
    *lock(&SPILL_OPTIONS) = Some(options.clone());
    if let Some(own) = current() {
        own.stock.set_spill_options(options);
    }
}

/// How much workers may take for themselves, once the program has said so. Locked as those above.
static WORKER_LIMIT: Mutex<Option<WorkerMemoryLimit>> = Mutex::new(None);

/// From here on, in this process and those forked from it.
pub(crate) fn set_worker_limit(limit: WorkerMemoryLimit) {
    *lock(&WORKER_LIMIT) = Some(limit);
    if let Some(own) = current() {
        own.stock.set_worker_limit(limit);
    }
}

/// What results take and have taken.
pub(crate) fn spill_stats() -> SpillStats {
    current()
        .map(|own| own.stock.spill_stats())
        .unwrap_or_default()
}

/// The shared memory of this process, made on first use.
pub(crate) fn own(py: Python<'_>) -> PyResult<Arc<Own>> {
    if let Some(own) = current() {
        return Ok(own);
    }
    // Before anything is made that a child could inherit; once in a process and all its children.
    static IS_REGISTERED: PyOnceLock<()> = PyOnceLock::new();
    IS_REGISTERED.get_or_try_init(py, || register_at_fork(py))?;
    let mut own = lock(&OWN);
    Ok(match &*own {
        Some(own) if own.pid == std::process::id() => Arc::clone(own),
        _ => {
            let arena = Arena::new(0, ArenaOptions::default());
            let stock = Stock::new(arena.clone(), 0);
            memory::use_memory(arena, stock.foreign.clone());
            replace(&mut own, stock)
        }
    })
}

fn register_at_fork(py: Python<'_>) -> PyResult<()> {
    let native = py.import(intern!(py, "manyhands._native"))?;
    let keywords = PyDict::new(py);
    let call = native.getattr(intern!(py, "_sharing_after_fork"))?;
    keywords.set_item(intern!(py, "after_in_child"), call)?;
    py.import(intern!(py, "os"))?.call_method(
        intern!(py, "register_at_fork"),
        (),
        Some(&keywords),
    )?;
    Ok(())
}

/// The shared memory of this process, if any has been made.
pub(crate) fn current() -> Option<Arc<Own>> {
    let pid = std::process::id();
    lock(&OWN).clone().filter(|own| own.pid == pid)
}

/// In a worker: allocates in the arena that it was given, under its number.
pub(crate) fn become_worker(own: &WorkerStock) {
    memory::use_memory(own.arena.clone(), own.foreign.clone());
    replace(&mut lock(&OWN), Stock::new(own.arena.clone(), own.owner));
}

fn replace(own: &mut Option<Arc<Own>>, stock: Stock) -> Arc<Own> {
    if let Some(options) = &*lock(&SPILL_OPTIONS) {
        stock.set_spill_options(options.clone());
    }
    if let Some(limit) = *lock(&WORKER_LIMIT) {
        stock.set_worker_limit(limit);
    }
    let new = Arc::new(Own {
        stock: Arc::new(stock),
        cache: Cache::default(),
        pid: std::process::id(),
    });
    // What was inherited in a fork belongs to the parent: it is not to be taken down here.
    std::mem::forget(own.replace(Arc::clone(&new)));
    new
}
