//! The Python face of manyhands: `manyhands._native`. The only crate that knows Python exists.
//!
//! [`delayed`] and [`collect`] turn Python objects into graphs; [`call`] and [`codec`] say what one
//! task is, here and as bytes. [`plan`] runs graphs, [`map`] maps and streams of [`items`], [`gathered`] maps that go
//! on by themselves, [`pending`] single calls, [`halt`] ends them from elsewhere; [`mapped`] and [`graphed`] are the programs that the executors run. [`host`] is the other
//! end, in a worker process, and [`forked`] how such a process is made by forking;
//! [`rota`] has forked calls take turns. [`shared`] has large buffers travel through shared memory.
//! [`blas`] holds back the threads of libraries. [`random`] has the generators that NumPy lacks; [`seeding`] gives each
//! task its stream, and [`misuse`] notices tasks that have none and draw. [`relay`] brings what tasks print and report to
//! whoever waits. [`faults`] is what callers ask for about tasks that fail, [`needs`] what single
//! tasks need while they run. [`durable`] keeps results for runs to come.

mod blas;
mod call;
mod calls;
mod codec;
mod collect;
mod context;
mod dask;
mod delayed;
mod durable;
mod faults;
mod forked;
mod gathered;
mod graphed;
mod halt;
mod host;
mod interpreter;
mod items;
mod journal;
mod kept;
mod listening;
mod listing;
mod map;
mod map_run;
mod mapped;
mod misuse;
mod needs;
mod payload;
mod pending;
mod plan;
mod pools;
mod prints;
mod probe;
mod raising;
mod random;
mod relay;
mod room;
mod rota;
mod scan;
mod seeding;
mod serial;
mod shared;
mod tally;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// How many CPUs this process may use.
///
/// The least of: the CPUs it is bound to, the quota of its control group, and what the batch system
/// or variables such as OMP_NUM_THREADS allow. It is the default number of workers.
///
/// Returns
/// -------
/// int
///     At least 1.
///
/// Examples
/// --------
/// >>> import manyhands as mh
/// >>> mh.cpu_count() >= 1
/// True
#[pyfunction]
fn cpu_count() -> usize {
    manyhands_executor::cpus::cpu_count()
}

/// What limits the number of CPUs: the source of each limit, and the number.
#[pyfunction]
fn _cpu_limits() -> Vec<(String, usize)> {
    let limits = manyhands_executor::cpus::cpu_limits().into_iter();
    limits.map(|limit| (limit.source, limit.n_cpus)).collect()
}

/// What limits memory: the source of each limit, what there is and what is left of it, in bytes.
#[pyfunction]
fn _memory_limits() -> Vec<(String, u64, u64)> {
    let limits = manyhands_store::Memory::limits().into_iter();
    let said = limits.map(|(source, memory)| (source.display().to_string(), memory));
    said.map(|(source, memory)| (source, memory.n_bytes, memory.n_bytes_available))
        .collect()
}

/// Call a function as a task: what it computes in turn runs as its level says, else as that of what is around.
#[pyfunction]
#[pyo3(signature = (function, args, kwargs, level = None))]
fn call_as_task<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
    level: Option<interpreter::Level>,
) -> PyResult<Bound<'py, PyAny>> {
    let _in_task = interpreter::InTask::enter(level.unwrap_or(0));
    function.call(args, kwargs)
}

/// A short text for a call.
#[pyfunction]
fn describe_call(
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> String {
    delayed::describe_call(function, args, kwargs)
}

/// The engine under the package `manyhands`; not for use by itself.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.setattr("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<pools::ThreadPool>()?;
    module.add_class::<pools::ProcessPool>()?;
    module.add_class::<forked::ForkPool>()?;
    module.add_class::<rota::Rota>()?;
    module.add_class::<map::Stream>()?;
    module.add_class::<gathered::Gathered>()?;
    module.add_class::<shared::sending::Sink>()?;
    module.add_class::<pending::Pending>()?;
    module.add_class::<pending::Completions>()?;
    module.add_class::<tally::Tally>()?;
    module.add_class::<serial::Serial>()?;
    module.add_class::<relay::Told>()?;
    module.add_function(wrap_pyfunction!(cpu_count, module)?)?;
    module.add_function(wrap_pyfunction!(_cpu_limits, module)?)?;
    module.add_function(wrap_pyfunction!(_memory_limits, module)?)?;
    module.add_function(wrap_pyfunction!(call_as_task, module)?)?;
    module.add_function(wrap_pyfunction!(describe_call, module)?)?;
    module.add_function(wrap_pyfunction!(interpreter::in_task, module)?)?;
    module.add_function(wrap_pyfunction!(interpreter::task_level, module)?)?;
    module.add_function(wrap_pyfunction!(interpreter::_is_of_pool, module)?)?;
    module.add_function(wrap_pyfunction!(plan::compute, module)?)?;
    module.add_function(wrap_pyfunction!(plan::persist, module)?)?;
    module.add_function(wrap_pyfunction!(dask::run_graph, module)?)?;
    module.add_function(wrap_pyfunction!(map::map_all, module)?)?;
    module.add_function(wrap_pyfunction!(host::serve_parent, module)?)?;
    module.add_function(wrap_pyfunction!(host::note_fork, module)?)?;
    module.add_function(wrap_pyfunction!(host::report, module)?)?;
    module.add_function(wrap_pyfunction!(host::reports_have_places, module)?)?;
    module.add_function(wrap_pyfunction!(misuse::_probe_watched, module)?)?;
    module.add_function(wrap_pyfunction!(host::flush_stdio, module)?)?;
    module.add_function(wrap_pyfunction!(host::note_output, module)?)?;
    module.add_function(wrap_pyfunction!(interpreter::after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(forked::shutdown_forked, module)?)?;
    module.add_function(wrap_pyfunction!(interpreter::begin_exit, module)?)?;
    module.add_function(wrap_pyfunction!(listing::_graph, module)?)?;
    blas::register(module)?;
    calls::register(module)?;
    halt::register(module)?;
    collect::register(module)?;
    delayed::register(module)?;
    durable::register(module)?;
    journal::register(module)?;
    needs::register(module)?;
    random::register(module)?;
    seeding::register(module)?;
    shared::register(module)?;
    probe::register(module)
}
