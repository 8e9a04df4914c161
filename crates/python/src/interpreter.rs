//! Living with the interpreter's lock: threads that keep a parked thread state, waiting without
//! the lock, and knowing whether this thread is running a task.

use crate::blas;
use crate::mapped::lock;
use manyhands_executor::threads::is_given_up;
use manyhands_executor::{Program, ThreadGuard, ThreadHook, coarse_tick};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `sys.modules`.
pub(crate) fn modules(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let find = || {
        let modules = py
            .import(intern!(py, "sys"))?
            .getattr(intern!(py, "modules"))?;
        Ok::<_, PyErr>(modules.cast_into::<PyDict>()?.unbind())
    };
    Ok(MODULES.get_or_try_init(py, find)?.bind(py))
}

/// How often a waiting main thread looks up for signals.
pub(crate) const SIGNAL_PAUSE: Duration = Duration::from_millis(50);

thread_local! {
    static TASK_DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What the calls of the task that this thread runs are to know of where they are made.
    static LEVEL: Cell<Level> = const { Cell::new(0) };
    /// Whether this thread is one of a pool.
    static IS_OF_POOL: Cell<bool> = const { Cell::new(false) };
}

/// What calls inside of a task are to know: which schedulers they use, and how many CPUs the task may use.
/// `manyhands._plans` says what the bits mean. Zero: nothing.
pub(crate) type Level = u128;

/// The CPUs that a task may use; zero if that is not known.
pub(crate) fn share_of(level: Level) -> i32 {
    const N_BITS: u32 = 14;
    (level & ((1 << N_BITS) - 1)) as i32
}

/// While it lives, this thread counts as running a task.
pub(crate) struct InTask {
    outer: Level,
}

impl InTask {
    /// With zero, the level is that of what is around.
    pub(crate) fn enter(level: Level) -> InTask {
        TASK_DEPTH.with(|depth| depth.set(depth.get() + 1));
        let outer = LEVEL.get();
        if level != 0 {
            LEVEL.set(level);
        }
        InTask { outer }
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        LEVEL.set(self.outer);
        TASK_DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// The level of the task that the calling thread is running; None if it runs none.
#[pyfunction]
pub(crate) fn task_level() -> Option<Level> {
    in_task().then(|| LEVEL.get())
}

/// Hears of signals, of a halt, and of the end of what this thread works for inside of a task, while it waits.
///
/// # Errors
///
/// What a signal handler raises, an interrupt, or that the call was cancelled.
pub(crate) fn look_up(py: Python<'_>) -> PyResult<()> {
    if is_given_up() {
        let text = "the call that this task belongs to has ended";
        return Err(pyo3::exceptions::PyKeyboardInterrupt::new_err(text));
    }
    crate::halt::hear(py)?;
    py.check_signals()
}

/// Whether the calling thread is running a task.
#[pyfunction]
pub(crate) fn in_task() -> bool {
    TASK_DEPTH.with(Cell::get) > 0
}

/// Whether the calling thread is one of a pool of threads.
#[pyfunction]
pub(crate) fn _is_of_pool() -> bool {
    is_of_pool()
}

pub(crate) fn is_of_pool() -> bool {
    IS_OF_POOL.with(Cell::get)
}

/// Pool threads that have a thread state and have not given it back.
static N_PARKED: AtomicUsize = AtomicUsize::new(0);

/// Gives each thread of a pool a Python thread state of its own, parked while it is not attached.
///
/// Attaching a thread that has none makes one and throws it away again, which takes fifty times as
/// long as a call.
pub(crate) struct ParkedStates;

struct Parked {
    gil_state: ffi::PyGILState_STATE,
    thread_state: *mut ffi::PyThreadState,
}

impl ThreadHook for ParkedStates {
    #[allow(unsafe_code)]
    fn started(&self) -> ThreadGuard {
        // SAFETY: the interpreter is initialised, because only its threads make pools. `Ensure` is
        // balanced by `Release` in `drop`, in this same thread: the guard is dropped where it is made.
        let parked = unsafe {
            let gil_state = ffi::PyGILState_Ensure();
            Parked {
                gil_state,
                thread_state: ffi::PyEval_SaveThread(),
            }
        };
        N_PARKED.fetch_add(1, Ordering::AcqRel);
        IS_OF_POOL.with(|is_of_pool| is_of_pool.set(true));
        Box::new(parked)
    }

    fn stay(&self, turn: &mut dyn FnMut() -> bool) {
        Python::attach(|py| {
            let mut turns = Turns::begin();
            while turn() {
                let _stay = StayAtEnd;
                // A thread of a pool hears of no signals.
                let _ = turns.give_way(py);
            }
        });
    }

    fn let_go(&self, program: Arc<dyn Program>) {
        // Nobody may be left who waits for this job, and the main thread may be waiting for what is dropped here.
        if Arc::strong_count(&program) == 1 {
            Python::attach(|_| {
                let _stay = StayAtEnd;
                drop(program);
            });
        }
    }
}

impl Drop for Parked {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: this thread parked this state with `SaveThread` and has not restored it since. While
        // the interpreter is being torn down the state is left alone: it goes with the process.
        unsafe {
            if ffi::Py_IsInitialized() != 0 {
                ffi::PyEval_RestoreThread(self.thread_state);
                ffi::PyGILState_Release(self.gil_state);
            }
        }
        N_PARKED.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Lets others have a turn between tasks that never enter the interpreter's own loop, which would
/// give way by itself: calls of builtins and of compiled functions.
pub(crate) struct Turns {
    tick: u64,
}

impl Turns {
    pub(crate) fn begin() -> Turns {
        Turns {
            tick: coarse_tick(),
        }
    }

    /// Once in a few milliseconds, gives way: to signal handlers in the main thread, elsewhere to
    /// other threads.
    ///
    /// # Errors
    ///
    /// What a signal handler raises.
    #[inline]
    pub(crate) fn give_way(&mut self, py: Python<'_>) -> PyResult<()> {
        let tick = coarse_tick();
        if tick == self.tick {
            return Ok(());
        }
        self.tick = tick;
        if IS_OF_POOL.with(Cell::get) {
            blas::keep_up(py);
            py.detach(|| ());
            return Ok(());
        }
        py.check_signals()
    }
}

/// Threads of pools that are running tasks, by the interpreter's numbers. Changed only by threads that are
/// attached, so that nobody holds this lock while another thread forks.
static RUNNING: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// How long to wait for threads to come out of their tasks when their pool ends.
const PARK_WAIT: Duration = Duration::from_millis(500);
/// How often a task that goes on is interrupted again: it may have taken the exception for its own.
const INTERRUPT_PAUSE: Duration = Duration::from_millis(20);

/// Waits until all pool threads have given their thread states back, for a moment at most. Tasks
/// that are still running are interrupted.
pub(crate) fn end_parked(py: Python<'_>) -> PyResult<()> {
    let deadline = Instant::now() + PARK_WAIT;
    while N_PARKED.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        interrupt_running(py)?;
        py.detach(|| {
            let again = Instant::now() + INTERRUPT_PAUSE;
            while N_PARKED.load(Ordering::Acquire) > 0 && Instant::now() < again {
                std::thread::sleep(Duration::from_micros(200));
            }
        });
    }
    Ok(())
}

/// Interrupts every other thread that is running a task.
pub(crate) fn interrupt_running(py: Python<'_>) -> PyResult<()> {
    let own = thread_number(py)?;
    let running = lock(&RUNNING).clone();
    let others = running.into_iter().filter(|&number| number != own);
    others.for_each(|number| raise_in_thread(py, number));
    Ok(())
}

/// Called in a forked child: no other thread is left.
#[pyfunction]
pub(crate) fn after_fork(py: Python<'_>) -> PyResult<()> {
    let own = thread_number(py)?;
    crate::forked::forget_live();
    blas::after_fork();
    N_PARKED.store(0, Ordering::Release);
    EXITING.store(0, Ordering::Release);
    if let Ok(mut running) = RUNNING.try_lock() {
        running.retain(|&number| number == own);
    }
    Ok(())
}

/// While it lives, a thread is on a list of those that run tasks, and one of a pool on the list of
/// all such.
pub(crate) struct OnList<'py, 'a> {
    threads: &'a Mutex<Vec<u64>>,
    number: u64,
    py: Python<'py>,
}

impl<'py, 'a> OnList<'py, 'a> {
    pub(crate) fn enter(py: Python<'py>, threads: &'a Mutex<Vec<u64>>) -> OnList<'py, 'a> {
        // Without a number the thread cannot be interrupted, and nothing else is lost.
        let number = thread_number(py).unwrap_or(0);
        // Whoever runs tasks in a thread of the user's own is interrupted by nobody but the user.
        if IS_OF_POOL.with(Cell::get) {
            lock(&RUNNING).push(number);
        }
        lock(threads).push(number);
        OnList {
            threads,
            number,
            py,
        }
    }
}

fn remove(numbers: &Mutex<Vec<u64>>, number: u64) {
    let mut numbers = lock(numbers);
    if let Some(at) = numbers.iter().rposition(|&other| other == number) {
        numbers.swap_remove(at);
    }
}

impl Drop for OnList<'_, '_> {
    fn drop(&mut self) {
        remove(self.threads, self.number);
        remove(&RUNNING, self.number);
        // An interrupt that found no Python code to end must not meet what the thread runs next.
        set_async_exception(self.py, self.number, std::ptr::null_mut());
    }
}

/// The thread that is ending the program, by the interpreter's number; zero while none is.
static EXITING: AtomicU64 = AtomicU64::new(0);

/// Called by the thread that ends the program, before it ends the pools.
#[pyfunction]
pub(crate) fn begin_exit(py: Python<'_>) -> PyResult<()> {
    EXITING.store(thread_number(py)?, Ordering::Release);
    Ok(())
}

/// Waits for something of a pool without the interpreter's lock.
///
/// Other threads than the one that ends the program do not come back once the pools are being ended: a
/// daemon thread that would go on in Python now might be in the middle of it when the interpreter is
/// torn down, and be unwound through code that cannot be.
pub(crate) fn detached<T: Send>(py: Python<'_>, wait: impl FnOnce() -> T + Send) -> T {
    let outcome = py.detach(wait);
    let exiting = EXITING.load(Ordering::Acquire);
    if exiting != 0 && thread_number(py).is_ok_and(|number| number != exiting) {
        py.detach(|| {
            loop {
                std::thread::park();
            }
        });
    }
    outcome
}

/// Stands beside a call into Python from a thread of a pool.
///
/// When the interpreter is being torn down, it ends any thread but its own that wants to run Python
/// code, before 3.14 by unwinding it; that must not go through code which believes itself attached.
/// A thread that meets this guard on its way stays here until the process is gone.
pub(crate) struct StayAtEnd;

impl Drop for StayAtEnd {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: may be called at any time, by any thread.
        while unsafe { ffi::Py_IsInitialized() } == 0 {
            std::thread::park();
        }
    }
}

/// The number by which the interpreter knows the calling thread. It stays the same for the thread's life, also
/// in a forked process, which goes on in it.
pub(crate) fn thread_number(py: Python<'_>) -> PyResult<u64> {
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
    let known = NUMBER.get();
    if known != 0 {
        return Ok(known);
    }
    let number = py
        .import(pyo3::intern!(py, "_thread"))?
        .call_method0(pyo3::intern!(py, "get_ident"))?
        .extract()?;
    NUMBER.set(number);
    Ok(number)
}

/// Has an exception raised in another thread the next time it runs Python code.
pub(crate) fn raise_in_thread(py: Python<'_>, thread: u64) {
    let exception = py.get_type::<pyo3::exceptions::PyKeyboardInterrupt>();
    set_async_exception(py, thread, exception.as_ptr());
    blas::let_go_of(py, thread);
}

#[allow(unsafe_code)]
fn set_async_exception(_attached: Python<'_>, thread: u64, exception: *mut ffi::PyObject) {
    // SAFETY: this thread is attached; a number that no thread has any more does nothing. The
    // exception is a class that lives for ever, or null, which takes a waiting one away.
    unsafe {
        ffi::PyThreadState_SetAsyncExc(thread as _, exception);
    }
}
