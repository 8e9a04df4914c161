//! How many threads the numeric libraries of this process may use: OpenBLAS, MKL, BLIS, OpenMP.
//!
//! `manyhands._blas` finds the libraries and says what is wanted; here it is carried out, as tasks in threads begin and
//! end many thousand times a second. What is wanted of a library is, from the strongest:
//!
//! | wanted | by whom |
//! |---|---|
//! | what was chosen | `manyhands.blas_threads`, for all libraries |
//! | the least of the shares of the tasks that run | each thread of a pool, while it runs tasks |
//! | the worker's share | the parent, in a worker process |
//! | what it was before | |
//!
//! All but the first leave libraries alone for which the person who runs the program has decided.
//!
//! The state is locked only by threads that are attached, so that nobody holds it while another thread forks.

use crate::interpreter::{Level, is_of_pool, modules, share_of, thread_number};
use crate::mapped::lock;
use pyo3::intern;
use pyo3::prelude::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The functions of a library that set and tell how many threads it uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Knob {
    set: usize,
    get: usize,
    /// Whether numbers have 64 bits rather than those of a C int.
    is_wide: bool,
}

/// A library, as far as one thread or the whole process is concerned.
#[derive(Clone, Copy, Debug)]
struct Library {
    knob: Knob,
    /// Whether each thread of the process has a number of its own, as with OpenMP.
    is_per_thread: bool,
    /// Whether the person who runs the program has left it to us.
    is_free: bool,
    /// What it used before anything was wanted of it.
    own: i32,
    /// What it has been set to; zero for what it used before.
    applied: i32,
}

#[derive(Default)]
struct State {
    libraries: Vec<Library>,
    chosen: i32,
    /// The shares of the tasks that run in threads of pools, and these threads, by the interpreter's numbers.
    shares: Vec<(u64, i32)>,
    base: i32,
    /// In a forked worker, where libraries are held to one thread as they would wait for others for ever.
    is_pinned: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    libraries: Vec::new(),
    chosen: 0,
    shares: Vec::new(),
    base: 0,
    is_pinned: false,
});
/// Counts the changes of what is wanted.
static GENERATION: AtomicUsize = AtomicUsize::new(0);
/// How many modules there were when libraries were last looked for.
static N_MODULES: AtomicUsize = AtomicUsize::new(0);
/// Whether some thread is looking for libraries.
static IS_LOOKING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The change that this thread has last followed, in libraries that have a number for each thread.
    static FOLLOWED: Cell<usize> = const { Cell::new(0) };
    /// Those libraries, as far as this thread is concerned.
    static OWN: RefCell<Vec<Library>> = const { RefCell::new(Vec::new()) };
}

impl Knob {
    #[allow(unsafe_code)]
    fn set(self, n_threads: i32) {
        // SAFETY: `_blas_register` is told addresses of functions of this kind, in libraries that are never
        // unloaded, as their finder keeps a handle on each. They may be called by any thread at any time.
        unsafe {
            if self.is_wide {
                let set: extern "C" fn(i64) = std::mem::transmute(self.set);
                set(n_threads.into());
            } else {
                let set: extern "C" fn(c_int) = std::mem::transmute(self.set);
                set(n_threads);
            }
        }
    }

    #[allow(unsafe_code)]
    fn get(self) -> i32 {
        // SAFETY: as above.
        unsafe {
            if self.is_wide {
                let get: extern "C" fn() -> i64 = std::mem::transmute(self.get);
                get() as i32
            } else {
                let get: extern "C" fn() -> c_int = std::mem::transmute(self.get);
                get()
            }
        }
    }
}

impl Library {
    fn apply(&mut self, wanted: i32) {
        if wanted == self.applied {
            return;
        }
        if self.applied == 0 {
            self.own = self.knob.get();
        }
        self.knob.set(if wanted == 0 { self.own } else { wanted });
        self.applied = wanted;
    }
}

impl State {
    /// What is wanted of a library; zero for what it used before. Shares count where tasks run.
    fn wanted(&self, library: &Library, counts_shares: bool) -> i32 {
        if self.chosen != 0 || !library.is_free {
            return self.chosen;
        }
        let shares = self.shares.iter().map(|&(_, share)| share);
        shares.min().filter(|_| counts_shares).unwrap_or(self.base)
    }

    fn remove(&mut self, at: usize) {
        let (_, share) = self.shares.swap_remove(at);
        if self.shares.iter().all(|&(_, other)| share < other) {
            self.apply();
        }
    }

    /// Has the libraries that have one number for the process follow.
    fn apply(&mut self) {
        GENERATION.fetch_add(1, Ordering::Relaxed);
        if self.is_pinned {
            return;
        }
        let mut libraries = std::mem::take(&mut self.libraries);
        for library in libraries
            .iter_mut()
            .filter(|library| !library.is_per_thread)
        {
            library.apply(self.wanted(library, true));
        }
        self.libraries = libraries;
    }

    /// Has the others follow, as far as the calling thread is concerned.
    fn apply_here(&self) {
        FOLLOWED.set(GENERATION.load(Ordering::Relaxed));
        if self.is_pinned {
            return;
        }
        OWN.with_borrow_mut(|own| {
            let of_thread = self
                .libraries
                .iter()
                .filter(|library| library.is_per_thread);
            for (at, library) in of_thread.enumerate() {
                if at == own.len() {
                    own.push(*library);
                }
                let own = &mut own[at];
                own.is_free = library.is_free;
                own.apply(self.wanted(library, is_of_pool()));
            }
        });
    }
}

/// While it lives, a thread of a pool runs tasks that may use a share of the CPUs each.
pub(crate) struct Busy<'py> {
    thread: u64,
    share: i32,
    _attached: Python<'py>,
}

impl<'py> Busy<'py> {
    /// Not counted where the share is not known, or tasks run in a thread of the user's own.
    pub(crate) fn enter(py: Python<'py>, level: Level) -> Busy<'py> {
        let share = if is_of_pool() { share_of(level) } else { 0 };
        let mut thread = 0;
        if share != 0 {
            // Without a number it cannot be interrupted, and nothing else is lost.
            thread = thread_number(py).unwrap_or(0);
            look(py);
            let mut state = lock(&STATE);
            let is_less = state.shares.iter().all(|&(_, other)| share < other);
            state.shares.push((thread, share));
            if is_less {
                state.apply();
            }
            if FOLLOWED.get() != GENERATION.load(Ordering::Relaxed) {
                state.apply_here();
            }
        }
        Busy {
            thread,
            share,
            _attached: py,
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.share != 0 {
            let mut state = lock(&STATE);
            let own = (self.thread, self.share);
            if let Some(at) = state.shares.iter().position(|&other| other == own) {
                state.remove(at);
            }
        }
    }
}

/// A thread is interrupted: it ends what it runs, or is given up and takes what time it likes, which is not to hold
/// back the libraries of others.
pub(crate) fn let_go_of(_attached: Python<'_>, thread: u64) {
    let mut state = lock(&STATE);
    while let Some(at) = state.shares.iter().position(|&(other, _)| other == thread) {
        state.remove(at);
    }
}

/// From time to time between the tasks of a thread: they may have loaded libraries, and others may have begun.
pub(crate) fn keep_up(py: Python<'_>) {
    look(py);
    if FOLLOWED.get() != GENERATION.load(Ordering::Relaxed) {
        lock(&STATE).apply_here();
    }
}

/// Looks for libraries, if modules have been imported since it was last done.
fn look(py: Python<'_>) {
    let Ok(modules) = modules(py) else { return };
    let n_modules = modules.len();
    if n_modules == N_MODULES.load(Ordering::Relaxed) || IS_LOOKING.swap(true, Ordering::Acquire) {
        return;
    }
    N_MODULES.store(n_modules, Ordering::Relaxed);
    let is_there = |name| modules.contains(name).unwrap_or(false);
    if is_there(intern!(py, "numpy")) || is_there(intern!(py, "torch")) {
        let found = py
            .import(intern!(py, "manyhands._blas"))
            .and_then(|module| module.call_method0(intern!(py, "find")));
        if let Err(error) = found {
            error.write_unraisable(py, None);
        }
        // This may have imported more.
        N_MODULES.store(modules.len(), Ordering::Relaxed);
    }
    IS_LOOKING.store(false, Ordering::Release);
}

/// In a forked child, where no other thread runs tasks.
pub(crate) fn after_fork() {
    let mut state = lock(&STATE);
    IS_LOOKING.store(false, Ordering::Release);
    if !state.shares.is_empty() {
        state.shares.clear();
        state.apply();
    }
}

/// Take note of a library; `own` is how many threads it uses by itself, or zero if that is what it uses now.
#[pyfunction]
fn _blas_register(
    set: usize,
    get: usize,
    is_wide: bool,
    is_per_thread: bool,
    is_free: bool,
    own: i32,
) {
    let knob = Knob { set, get, is_wide };
    let mut state = lock(&STATE);
    if state.libraries.iter().any(|library| library.knob == knob) {
        return;
    }
    let mut library = Library {
        knob,
        is_per_thread,
        is_free,
        own,
        applied: 0,
    };
    if own != 0 && !is_per_thread && !state.is_pinned {
        // As if it had been there before.
        library.knob.set(own);
    }
    library.own = library.knob.get();
    state.libraries.push(library);
    state.apply();
    if !is_of_pool() {
        state.apply_here();
    }
}

/// Have all libraries use so many threads from now on; zero for what would be wanted otherwise.
#[pyfunction]
fn _blas_choose(n_threads: i32) {
    let mut state = lock(&STATE);
    state.chosen = n_threads;
    state.apply();
    state.apply_here();
}

/// What libraries may use of which nothing else is wanted; zero for what they use by themselves.
#[pyfunction]
fn _blas_set_base(n_threads: i32) {
    let mut state = lock(&STATE);
    state.base = n_threads;
    state.apply();
    state.apply_here();
}

/// From now on leave libraries alone: this is a forked worker.
#[pyfunction]
fn _blas_pin() {
    lock(&STATE).is_pinned = true;
}

/// How many threads a library uses, as far as the calling thread is concerned.
#[pyfunction]
fn _blas_get(set: usize, get: usize, is_wide: bool) -> i32 {
    Knob { set, get, is_wide }.get()
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_blas_register, module)?)?;
    module.add_function(wrap_pyfunction!(_blas_choose, module)?)?;
    module.add_function(wrap_pyfunction!(_blas_set_base, module)?)?;
    module.add_function(wrap_pyfunction!(_blas_pin, module)?)?;
    module.add_function(wrap_pyfunction!(_blas_get, module)?)
}
