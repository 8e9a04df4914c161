//! Forked workers: pools of one call, whose workers find its tasks in the memory they inherited.
//!
//! A task's bytes are its inputs, as for other workers, and its number; only a stream's are its arguments.

use crate::call::{Call, TaskInputs, decode_call};
use crate::codec::Reader;
use crate::faults::Faults;
use crate::host::{PythonHost, is_original};
use crate::interpreter::{InTask, Level};
use crate::kept::Kept;
use crate::mapped::{Arguments, lock};
use crate::misuse::OnMisuse;
use crate::rota::Rota;
use crate::seeding::{GraphSeeding, Place, Roots, Seeding, put_back, split};
use crate::shared::receiving::Views;
use crate::shared::stock::own;
use manyhands_executor::Job;
use manyhands_executor::processes::{
    Forked, Nursery, ProcessOptions, ProcessPool, WorkerEnd, Workers,
};
use manyhands_executor::worker::exit_now;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{ffi, intern};
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What forked workers have of their job without being told.
pub(crate) enum Inherited {
    /// By number.
    Graph(Arc<Vec<Call>>, Option<Arc<GraphSeeding>>),
    /// One function, and what each task calls it with.
    Map {
        function: Py<PyAny>,
        kwargs: Option<Py<PyDict>>,
        items: Vec<Arguments>,
        seeding: Option<Arc<Seeding>>,
        /// Which place each task has in the map, where that is not its number.
        places: Option<Vec<u32>>,
    },
    /// A function; its arguments come.
    Stream(Py<PyAny>),
}

impl Inherited {
    /// Makes the call that a task's bytes stand for; gives what was called, and what came of it.
    pub(crate) fn call<'py>(
        &self,
        py: Python<'py>,
        bytes: &[u8],
        views: &dyn Views,
        roots: &mut Roots,
    ) -> PyResult<(Py<PyAny>, Bound<'py, PyAny>)> {
        let mut reader = Reader::new(bytes);
        let mut inputs = TaskInputs::read(&mut reader)?;
        let mut input = |k: u32| inputs.get(py, k, views);
        match self {
            Inherited::Graph(calls, seeding) => {
                let number = reader.number()?;
                let call = calls.get(number as usize).ok_or_else(|| unknown(number))?;
                let result = match seeding {
                    None => {
                        put_back(py)?;
                        call.invoke(py, &mut input)?
                    }
                    Some(seeding) => call.invoke_by(py, &mut input, |func, args, kwargs| {
                        seeding.call(Place::Worker, number as usize, func, args, kwargs)
                    })?,
                };
                let result = result.into_bound(py);
                Ok((call.function(py), result))
            }
            Inherited::Map {
                function,
                kwargs,
                seeding,
                places,
                ..
            } => {
                let number = reader.number()?;
                let args = self.args(number).ok_or_else(|| unknown(number))?;
                let kwargs = kwargs.as_ref().map(|kwargs| kwargs.bind(py));
                let function = function.bind(py);
                let result = match seeding {
                    None => {
                        put_back(py)?;
                        args.call(function, kwargs)?
                    }
                    Some(seeding) => {
                        let places = places.as_ref();
                        let place = places.and_then(|places| places.get(number as usize));
                        let place = *place.unwrap_or(&number);
                        args.call_seeded(seeding, Place::Worker, place, function, kwargs)?
                    }
                };
                Ok((function.clone().unbind(), result))
            }
            Inherited::Stream(function) => {
                let (seeded, call) = split(reader.rest())?;
                if seeded.is_none() {
                    put_back(py)?;
                }
                let call = decode_call(py, call, &mut input, views)?;
                let kwargs = call.kwargs.as_ref();
                let result = roots.call(seeded, function.bind(py), &call.args, kwargs)?;
                Ok((function.clone_ref(py), result))
            }
        }
    }

    /// What a task is called with, where it is here.
    pub(crate) fn args(&self, number: u32) -> Option<&Arguments> {
        match self {
            Inherited::Map { items, .. } => items.get(number as usize),
            Inherited::Graph(..) | Inherited::Stream(_) => None,
        }
    }

    pub(crate) fn kwargs(&self) -> Option<&Py<PyDict>> {
        match self {
            Inherited::Map { kwargs, .. } => kwargs.as_ref(),
            Inherited::Graph(..) | Inherited::Stream(_) => None,
        }
    }
}

/// How long a forked worker may take until it is ready: it is within moments, unless it was stopped, or one of the
/// other threads held a lock at the fork that it waits for.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often to look whether results have been put on disk.
const CATCHING_UP_PAUSE: Duration = Duration::from_millis(10);

fn unknown(number: u32) -> PyErr {
    PyRuntimeError::new_err(format!("there is no task {number}"))
}

/// The pools of this process that have not ended. Locked by threads only while they are attached, so
/// that nobody else holds it when one forks.
static LIVE: Mutex<Vec<Nursery>> = Mutex::new(Vec::new());

/// The workers of one call. It ends by itself with the call.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct ForkPool {
    pub(crate) pool: ProcessPool,
    n_workers_max: usize,
    caller: Arc<Caller>,
    rota: Py<Rota>,
    level: Level,
}

#[pymethods]
impl ForkPool {
    #[new]
    #[pyo3(signature = (num_workers, rota, level = 0))]
    fn new(py: Python<'_>, num_workers: usize, rota: Py<Rota>, level: Level) -> PyResult<ForkPool> {
        let caller = Arc::new(Caller::default());
        let called = Arc::clone(&caller);
        let options = ProcessOptions {
            workers: Workers::Forked(Arc::new(move || called.call())),
            n_workers: num_workers,
            idle_timeout: None,
            start_limit: START_LIMIT,
            ends_with_jobs: true,
            stock: Some(Arc::clone(&own(py)?.stock)),
        };
        let pool = ProcessPool::new(options).map_err(|error| {
            PyOSError::new_err(format!("cannot set up worker processes: {error}"))
        })?;
        let mut live = lock(&LIVE);
        live.retain(|nursery| !nursery.is_over());
        live.push(pool.nursery());
        Ok(ForkPool {
            pool,
            n_workers_max: num_workers,
            caller,
            rota,
            level,
        })
    }
}

impl ForkPool {
    /// Makes ready to fork workers that inherit this.
    pub(crate) fn forking(
        &self,
        py: Python<'_>,
        inherited: Inherited,
        faults: &Arc<Faults>,
    ) -> PyResult<Arc<Forking>> {
        Ok(Arc::new(Forking {
            nursery: self.pool.nursery(),
            inherited: Kept::new(Arc::new(inherited)),
            faults: Kept::new(Arc::clone(faults)),
            n_workers_max: self.n_workers_max,
            level: self.level,
            helpers: Kept::new(py.import(intern!(py, "manyhands._forked"))?.unbind().into()),
        }))
    }

    /// Before a job that nobody may be waiting for: waits until there is room for its worker, and has
    /// the worker wait for its turn.
    pub(crate) fn hold(&self, py: Python<'_>) -> PyResult<()> {
        self.pool.nursery().hold();
        let stock = Arc::clone(&own(py)?.stock);
        while stock.is_catching_up() {
            py.detach(|| std::thread::sleep(CATCHING_UP_PAUSE));
            py.check_signals()?;
        }
        self.rota.get().wait_for_room(py)
    }

    /// Forks the worker of such a job, and has it replaced if it dies.
    pub(crate) fn leave_alone(
        &self,
        py: Python<'_>,
        job: &Job,
        forking: &Arc<Forking>,
    ) -> PyResult<()> {
        forking.attend(py)?;
        *lock(&self.caller.forking) = Some(Arc::clone(forking));
        let nursery = self.pool.nursery();
        // One may have died in between, when nobody knew how to fork another.
        nursery.call_if_missing();
        self.rota.get().enter(job, nursery, self.n_workers_max);
        Ok(())
    }
}

/// Ends the workers of every call that is under way.
#[pyfunction]
pub(crate) fn shutdown_forked(py: Python<'_>) {
    let live = std::mem::take(&mut *lock(&LIVE));
    py.detach(|| {
        for nursery in live.iter().filter(|nursery| !nursery.is_over()) {
            nursery.pool().begin_shutdown();
        }
        for nursery in live {
            nursery.pool().shutdown();
        }
    });
}

/// Called in a forked process: the pools are its parent's.
pub(crate) fn forget_live() {
    // Not dropped, as it would close descriptors whose numbers may mean something else by now.
    std::mem::forget(std::mem::take(&mut *lock(&LIVE)));
}

/// Forks workers where no thread waits for the job: in one of its own.
#[derive(Default)]
struct Caller {
    is_calling: AtomicBool,
    forking: Mutex<Option<Arc<Forking>>>,
}

impl Caller {
    /// Called by the pool's own thread, without any lock, as often as it finds workers missing.
    fn call(self: &Arc<Caller>) {
        let Some(forking) = lock(&self.forking).clone() else {
            return;
        };
        if self.is_calling.swap(true, Ordering::AcqRel) {
            return;
        }
        let own = Arc::clone(self);
        let thread = std::thread::Builder::new().name("manyhands-fork".into());
        let spawned = thread.spawn(move || {
            Python::attach(|py| {
                if let Err(error) = forking.attend(py) {
                    forking.refuse(&error);
                }
            });
            own.is_calling.store(false, Ordering::Release);
            // A worker may have died after this thread had looked for the last time, when the pool's own
            // thread called and was told that somebody is at it.
            forking.nursery.call_if_missing();
        });
        if let Err(error) = spawned {
            self.is_calling.store(false, Ordering::Release);
            if let Some(forking) = &*lock(&self.forking) {
                forking.refuse(&error);
            }
        }
    }
}

/// Forks the workers of one job.
pub(crate) struct Forking {
    nursery: Nursery,
    pub(crate) inherited: Kept<Arc<Inherited>>,
    faults: Kept<Arc<Faults>>,
    n_workers_max: usize,
    level: Level,
    /// The module with what is better said in Python.
    helpers: Kept<Py<PyAny>>,
}

thread_local! {
    /// Whether this thread is between the preparations for a fork and what comes after it, where
    /// handlers of the user's run. Other threads that want to fork wait for each other.
    static IS_FORKING: Cell<bool> = const { Cell::new(false) };
}

impl Forking {
    /// There are so many tasks: no more workers are needed.
    pub(crate) fn expect(&self, n_tasks: usize) {
        self.nursery.pool().resize(n_tasks.min(self.n_workers_max));
    }

    /// Forks the workers that are missing, here and now: they see this process as this thread does.
    /// Where it cannot be forked, the job fails.
    ///
    /// # Errors
    ///
    /// What was raised on the way: handlers of signals run here.
    pub(crate) fn attend(&self, py: Python<'_>) -> PyResult<()> {
        while self.nursery.n_missing() > 0 {
            if let Err(error) = self.fork(py)? {
                self.refuse(&error);
            }
        }
        Ok(())
    }

    fn refuse(&self, error: &dyn std::fmt::Display) {
        let text = format!("cannot fork this process: {error}");
        self.nursery.give_up_forking(text);
    }

    #[allow(unsafe_code)]
    fn fork(&self, py: Python<'_>) -> PyResult<io::Result<()>> {
        let helpers = self.helpers.bind(py);
        if IS_FORKING.replace(true) {
            let text = "it is being forked already, by the call that runs this handler of the fork";
            return Ok(Err(io::Error::other(text)));
        }
        let mask = helpers.call_method0(intern!(py, "before_fork"));
        let mask = mask.inspect_err(|_| IS_FORKING.set(false))?;
        // SAFETY: this thread is attached, and calls what `os.fork` calls, in the same order.
        let forked = unsafe {
            ffi::PyOS_BeforeFork();
            let forked = self.nursery.fork_worker();
            match &forked {
                Ok(Forked::Child(_)) => ffi::PyOS_AfterFork_Child(),
                Ok(Forked::Parent) | Err(_) => ffi::PyOS_AfterFork_Parent(),
            }
            forked
        };
        IS_FORKING.set(false);
        if let Ok(Forked::Child(end)) = forked {
            self.live(py, end);
        }
        helpers.call_method1(intern!(py, "after_fork_in_parent"), (mask,))?;
        Ok(forked.map(|_| ()))
    }

    /// The life of a forked worker. Nobody who called this thread in the parent is returned to.
    fn live(&self, py: Python<'_>, end: WorkerEnd) -> ! {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work(py, end)));
        exit_now(match outcome {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => {
                error.print(py);
                1
            }
            // What was wrong has been written.
            Err(_) => 1,
        })
    }

    #[allow(unsafe_code)]
    fn work(&self, py: Python<'_>, end: WorkerEnd) -> PyResult<()> {
        // SAFETY: this thread is attached. An exception that is being handled in the parent is no
        // context of what tasks raise.
        unsafe {
            ffi::PyErr_SetExcInfo(
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        is_original();
        let helpers = self.helpers.bind(py);
        let on_misuse = helpers.call_method1(intern!(py, "begin"), (self.level,))?;
        let on_misuse = OnMisuse::numbered(on_misuse.extract()?).unwrap_or(OnMisuse::Ignore);
        let _in_task = InTask::enter(self.level);
        let (inherited, faults) = (Arc::clone(&self.inherited), Arc::clone(&self.faults));
        let mut host = PythonHost::inheriting(py, inherited, faults, on_misuse)?;
        end.serve(&mut host)?;
        helpers.call_method0(intern!(py, "end"))?;
        Ok(())
    }
}
