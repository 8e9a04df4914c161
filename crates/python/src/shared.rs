//! Shared memory, as far as Python objects are concerned.
//!
//! [`stock`] is the memory of this process, [`cache`] the copies of the caller's buffers in it. Buffers
//! leave pickles for it in [`sending`] and come back as [`buffer`]s in [`receiving`]; [`owners`] tells whose
//! they are, and [`functions`] takes those of functions along. What does not offer to travel apart by itself
//! is made to: `bytes` where they are [`written`], parts of arrays as [`strided`] has it. [`handler`] has
//! NumPy's arrays made in shared memory from the start.

pub(crate) mod buffer;
pub(crate) mod cache;
pub(crate) mod functions;
mod handler;
pub(crate) mod memory;
mod owners;
pub(crate) mod receiving;
pub(crate) mod sending;
pub(crate) mod stock;
pub(crate) mod strided;
pub(crate) mod written;

pub(crate) use handler::_begin_sharing as begin_sharing;

use manyhands_executor::{MemoryLimit, SpillOptions, WorkerMemoryLimit};
use memory::TALLY;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Have buffers of at least so many bytes travel through shared memory; None for none.
#[pyfunction]
fn _set_sharing(threshold: Option<usize>) {
    memory::set_threshold(threshold);
}

/// Have results beyond this limit go to this folder: so many bytes, or a share of what the machine has left;
/// None for as much as there is, and for the usual folder.
#[pyfunction]
fn _set_spilling(n_bytes: Option<u64>, share: Option<f64>, folder: Option<PathBuf>) {
    let limit = match (n_bytes, share) {
        (Some(n_bytes), _) => MemoryLimit::Bytes(n_bytes),
        (None, Some(share)) => MemoryLimit::Share(share),
        (None, None) => MemoryLimit::None,
    };
    let folder = folder.unwrap_or_else(|| SpillOptions::default().folder);
    stock::set_spill_options(SpillOptions { limit, folder });
}

/// Have workers take so much memory for themselves at most: so many bytes, or a share of what they could have; None
/// for as much as there is, unless it is to be found out.
#[pyfunction]
fn _set_worker_limit(n_bytes: Option<u64>, share: Option<f64>, is_auto: bool) {
    let limit = match (n_bytes, share) {
        (Some(n_bytes), _) => WorkerMemoryLimit::Bytes(n_bytes),
        (None, Some(share)) => WorkerMemoryLimit::Share(share),
        (None, None) if is_auto => WorkerMemoryLimit::Auto,
        (None, None) => WorkerMemoryLimit::None,
    };
    stock::set_worker_limit(limit);
}

/// Have this process be ready to make arrays in shared memory.
#[pyfunction]
fn _prepare_sharing(py: Python<'_>) -> PyResult<()> {
    stock::own(py).map(drop)
}

/// Called in a forked child.
#[pyfunction]
fn _sharing_after_fork() {
    memory::after_fork_in_child();
}

/// Whether the memory of these many bytes from this address on is shared memory of this process.
#[pyfunction]
fn _is_shared(address: usize, n_bytes: usize) -> bool {
    let lease = memory::arena().and_then(|arena| arena.lease(address as *const u8, n_bytes));
    lease.is_some()
}

/// What there is of shared memory, and what was copied into it.
#[pyfunction]
fn _sharing_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let stats = memory::arena()
        .map(|arena| arena.stats())
        .unwrap_or_default();
    let info = PyDict::new(py);
    info.set_item("n_segments", stats.n_segments)?;
    info.set_item("n_bytes", stats.bytes_in_use)?;
    info.set_item("n_bytes_kept", stats.bytes_free_warm)?;
    info.set_item("n_bytes_of_results", memory::n_result_bytes())?;
    let spilled = stock::spill_stats();
    info.set_item("n_bytes_waiting", spilled.n_bytes_waiting)?;
    info.set_item("n_bytes_on_disk", spilled.n_bytes_on_disk)?;
    info.set_item("n_bytes_spilled", spilled.n_bytes_spilled)?;
    for (name, counter) in [
        ("n_copies_made", &TALLY.n_copies),
        ("n_bytes_copied", &TALLY.n_bytes_copied),
        ("n_copies_avoided", &TALLY.n_copies_avoided),
        ("n_bytes_avoided", &TALLY.n_bytes_avoided),
    ] {
        info.set_item(name, counter.load(Ordering::Relaxed))?;
    }
    Ok(info)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<buffer::SharedBuffer>()?;
    module.add_class::<functions::PickledFunction>()?;
    module.add_class::<strided::Reducers>()?;
    module.add_function(wrap_pyfunction!(_set_sharing, module)?)?;
    module.add_function(wrap_pyfunction!(_set_spilling, module)?)?;
    module.add_function(wrap_pyfunction!(_set_worker_limit, module)?)?;
    module.add_function(wrap_pyfunction!(_prepare_sharing, module)?)?;
    module.add_function(wrap_pyfunction!(_sharing_after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(_is_shared, module)?)?;
    module.add_function(wrap_pyfunction!(_sharing_info, module)?)?;
    module.add_function(wrap_pyfunction!(handler::_begin_sharing, module)?)?;
    module.add_function(wrap_pyfunction!(handler::_end_sharing, module)?)
}
