//! The pools as Python objects.

use crate::forked::ForkPool;
use crate::interpreter::{Level, ParkedStates, SIGNAL_PAUSE, end_parked, interrupt_running};
use crate::shared::stock::own;
use manyhands_executor::processes::{ProcessOptions, WorkerCommand, Workers};
use manyhands_executor::{Job, Program, processes, threads};
use manyhands_scheduler::{JobSpec, Need, Needs, Supply};
use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker may take until it is ready: an interpreter starts in moments, unless it comes over a network that
/// many others wait for.
const START_LIMIT: Duration = Duration::from_secs(300);

/// Threads of this process that run tasks.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct ThreadPool {
    pub(crate) pool: Arc<threads::ThreadPool>,
    /// What calls inside of the tasks are to know.
    pub(crate) level: Level,
    needs: Needs,
}

#[pymethods]
impl ThreadPool {
    #[new]
    fn new(py: Python<'_>, num_workers: usize) -> PyResult<ThreadPool> {
        crate::prints::install(py)?;
        let pool = py.detach(|| threads::ThreadPool::new(num_workers, Arc::new(ParkedStates)));
        Ok(ThreadPool {
            pool: Arc::new(pool),
            level: 0,
            needs: Needs::default(),
        })
    }

    /// The same pool, for calls whose tasks are to know this and need so much of some resources.
    #[pyo3(signature = (level, needs = vec![]))]
    fn at_level(&self, level: Level, needs: Vec<(u32, u32)>) -> ThreadPool {
        ThreadPool {
            pool: Arc::clone(&self.pool),
            level,
            needs: Needs::same(needs_of(needs)),
        }
    }

    /// How much there is of each resource.
    fn set_supplies(&self, py: Python<'_>, n_units: Vec<(u32, bool)>) {
        let supplies = supplies_of(n_units);
        py.detach(|| self.pool.set_supplies(&supplies));
    }

    /// Change the number of threads.
    fn resize(&self, py: Python<'_>, num_workers: usize) {
        py.detach(|| self.pool.resize(num_workers));
    }

    /// Whether there is nothing to do, nor anything running of what was cancelled.
    fn is_at_rest(&self) -> bool {
        self.pool.is_at_rest()
    }

    /// Cancel what has not started.
    fn cancel_waiting(&self, py: Python<'_>) {
        py.detach(|| self.pool.cancel_waiting());
    }

    /// Cancel everything and interrupt what runs; the next job finds threads that are free.
    fn kill_workers(&self, py: Python<'_>) -> PyResult<()> {
        interrupt_running(py)?;
        py.detach(|| self.pool.cancel_all());
        Ok(())
    }

    /// Cancel everything and end the threads as soon as their tasks end. With `wait`, waits a moment for those of
    /// all pools that are ending, and interrupts what they run.
    #[pyo3(signature = (wait = true))]
    fn shutdown(&self, py: Python<'_>, wait: bool) -> PyResult<()> {
        py.detach(|| self.pool.shutdown());
        if wait { end_parked(py) } else { Ok(()) }
    }
}

impl ThreadPool {
    pub(crate) fn submit(&self, spec: JobSpec, program: Arc<dyn Program>) -> Job {
        self.pool.submit_needing(spec, program, self.needs.clone())
    }
}

fn needs_of(needs: Vec<(u32, u32)>) -> Vec<Need> {
    let need = |(resource, n_units)| Need::new(resource, n_units);
    needs.into_iter().map(need).collect()
}

fn supplies_of(n_units: Vec<(u32, bool)>) -> Vec<Supply> {
    let supply = |(n_units, is_by_worker)| Supply {
        n_units,
        is_by_worker,
    };
    n_units.into_iter().map(supply).collect()
}

/// Worker processes.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct ProcessPool {
    pub(crate) pool: processes::ProcessPool,
}

fn duration(seconds: Option<f64>) -> Option<Duration> {
    seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[pymethods]
impl ProcessPool {
    #[new]
    fn new(
        py: Python<'_>,
        command: Vec<OsString>,
        environment: Vec<(OsString, OsString)>,
        num_workers: usize,
        idle_timeout: Option<f64>,
    ) -> PyResult<ProcessPool> {
        let mut command = command.into_iter();
        let program = command
            .next()
            .ok_or_else(|| PyTypeError::new_err("the command is empty"))?;
        let options = ProcessOptions {
            workers: Workers::Started(WorkerCommand {
                program,
                args: command.collect(),
                env: environment,
            }),
            n_workers: num_workers,
            idle_timeout: duration(idle_timeout),
            start_limit: START_LIMIT,
            stock: Some(Arc::clone(&own(py)?.stock)),
            ends_with_jobs: false,
        };
        let pool = processes::ProcessPool::new(options).map_err(|error| {
            PyOSError::new_err(format!("cannot set up worker processes: {error}"))
        })?;
        Ok(ProcessPool { pool })
    }

    /// Change the number of workers.
    fn resize(&self, py: Python<'_>, num_workers: usize) {
        py.detach(|| self.pool.resize(num_workers));
    }

    /// Change the environment variables of workers that will be started.
    fn set_environment(&self, environment: Vec<(OsString, OsString)>) {
        self.pool.set_environment(environment);
    }

    /// Change how long idle workers are kept, in seconds; None for ever.
    fn set_idle_timeout(&self, idle_timeout: Option<f64>) {
        self.pool.set_idle_timeout(duration(idle_timeout));
    }

    /// The same pool, for calls whose tasks have these surroundings and need so much of some resources.
    #[pyo3(signature = (context, needs = vec![]))]
    fn with_context(&self, context: &[u8], needs: Vec<(u32, u32)>) -> ProcessPool {
        ProcessPool {
            pool: self.pool.with_context(context, needs_of(needs)),
        }
    }

    /// How much there is of each resource, and whether each worker has units of its own.
    fn set_supplies(&self, py: Python<'_>, n_units: Vec<(u32, bool)>) {
        let supplies = supplies_of(n_units);
        py.detach(|| self.pool.set_supplies(&supplies));
    }

    /// The process ids of the workers that are alive.
    fn worker_pids(&self) -> Vec<u32> {
        self.pool.worker_pids()
    }

    /// Whether there is nothing to do, nor anything running of what was cancelled.
    fn is_at_rest(&self) -> bool {
        self.pool.is_at_rest()
    }

    /// Cancel what has not started.
    fn cancel_waiting(&self, py: Python<'_>) {
        py.detach(|| self.pool.cancel_waiting());
    }

    /// Whether there is neither a job nor a worker.
    fn is_empty(&self) -> bool {
        self.pool.is_empty()
    }

    /// End every worker at once; the next job starts new ones.
    fn kill_workers(&self, py: Python<'_>) {
        py.detach(|| self.pool.kill_workers());
    }

    /// Cancel everything and end the workers; returns when they are gone.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.pool.begin_shutdown();
        while !py.detach(|| self.pool.wait_for_shutdown(SIGNAL_PAUSE)) {
            if let Err(interrupt) = py.check_signals() {
                py.detach(|| self.pool.shutdown());
                return Err(interrupt);
            }
        }
        Ok(())
    }
}

/// Any kind of pool, as an argument.
#[derive(FromPyObject)]
pub(crate) enum AnyPool<'py> {
    Threads(Bound<'py, ThreadPool>),
    Processes(Bound<'py, ProcessPool>),
    Fork(Bound<'py, ForkPool>),
    /// None: tasks run in the calling thread, and their calls are to know this.
    Here(Level),
}
