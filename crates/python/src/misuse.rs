//! Tasks without a seed that draw from a global generator of random numbers: noticed by a look at its state before
//! and after each task.
//!
//! `random` and NumPy's legacy functions each have one Mersenne twister for the whole process, whose state lies in an
//! object. Asking the object for it takes a hundred times as long as reading two words of it where they lie. What lies
//! where is no promise of either: so it is compared with what the object says, and not read again where it differs.
//!
//! torch's is asked, now and then. Nothing is imported here: what nobody has imported has not been drawn from.

use crate::interpreter::modules;
use crate::kept::Kept;
use crate::mapped::lock;
use manyhands_random::{MT_WORDS, mt19937_draws};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};
use std::cell::{Cell, RefCell};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// What becomes of a task that has drawn from a global state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnMisuse {
    Ignore,
    Warn,
    Error,
}

impl OnMisuse {
    /// As `manyhands._relay` numbers them.
    pub(crate) fn numbered(number: u8) -> Option<OnMisuse> {
        match number {
            0 => Some(OnMisuse::Ignore),
            1 => Some(OnMisuse::Warn),
            2 => Some(OnMisuse::Error),
            _ => None,
        }
    }
}

/// The generators, in the order of the bits by which they are reported.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Python,
    NumPy,
}

const KINDS: [Kind; 2] = [Kind::Python, Kind::NumPy];

impl Kind {
    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The module whose import brings it.
    fn module(self) -> &'static str {
        match self {
            Kind::Python => "random",
            Kind::NumPy => "numpy.random.mtrand",
        }
    }
}

/// Where one generator's words lie, once that is known.
struct Place {
    key: AtomicPtr<u32>,
    position: AtomicPtr<u32>,
}

static PLACES: [Place; 2] = [const {
    Place {
        key: AtomicPtr::new(std::ptr::null_mut()),
        position: AtomicPtr::new(std::ptr::null_mut()),
    }
}; 2];

/// A state, to see later what has become of it.
type Seen = Box<([u32; MT_WORDS], u32)>;

#[derive(Default)]
struct Found {
    /// Holds on to the object whose memory is read.
    _owner: Option<Kept<Py<PyAny>>>,
    /// Whether there is nothing to look for any more.
    is_settled: bool,
    seen: Option<Seen>,
}

static FOUND: Mutex<[Found; 2]> = Mutex::new(
    [const {
        Found {
            _owner: None,
            is_settled: false,
            seen: None,
        }
    }; 2],
);

/// How many modules there were at the last look.
static N_MODULES: AtomicUsize = AtomicUsize::new(0);
/// Whether tasks of this worker are to be watched at all.
static IS_WATCHED: AtomicBool = AtomicBool::new(false);
/// How often callers of jobs have begun to run code of their own while tasks may be running, and how many are at it.
static CALLER_STEPS: AtomicU64 = AtomicU64::new(0);
static N_CALLERS: AtomicUsize = AtomicUsize::new(0);
/// How much further a state is looked for, in rounds of the generator: twenty million draws, which takes some
/// hundredths of a second; and while that has been in vain lately, ten thousand.
const ROUNDS_MOST: u32 = 1 << 15;
const ROUNDS_LEAST: u32 = 16;
/// After a long search in vain, so many times as long no other: tasks that set a state each time are not to wait
/// each time.
const REST_TIMES: u32 = 20;
static REST: Mutex<Option<Instant>> = Mutex::new(None);

/// A few words of each state: by these it is seen that one has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Glance {
    words: [u64; 2],
    n_modules: usize,
    caller_steps: u64,
    /// Of [`N_DRAWN`].
    n_drawn: [u64; 2],
}

/// torch's generator is not to be read like that: asking it takes some microseconds. So it is asked before and after
/// a task now and then only, for a hundredth of the time at most.
const TORCH: u8 = 4;
const TORCH_TIMES: u32 = 100;
static NEXT_OF_TORCH: Mutex<Option<Instant>> = Mutex::new(None);

thread_local! {
    /// Its seed and its state before the task that runs in this thread.
    static TORCH_BEFORE: RefCell<Option<(Py<PyAny>, Instant)>> = const { RefCell::new(None) };
    static BEFORE: Cell<Option<Glance>> = const { Cell::new(None) };
}

impl Place {
    #[allow(unsafe_code)]
    fn glance(&self) -> u64 {
        let key = self.key.load(Ordering::Acquire);
        if key.is_null() {
            return 0;
        }
        // SAFETY: both were found to lie inside of an object that `FOUND` keeps alive, and are aligned. Compiled code
        // that draws in another thread may change them meanwhile: each is read once, as a whole, as it is or was.
        let (first, position) = unsafe {
            let position = self.position.load(Ordering::Relaxed);
            (key.read_volatile(), position.read_volatile())
        };
        u64::from(first) << 32 | u64::from(position)
    }

    /// The whole state.
    #[allow(unsafe_code)]
    fn state(&self) -> Option<Seen> {
        let key = self.key.load(Ordering::Acquire);
        if key.is_null() {
            return None;
        }
        let mut words = [0; MT_WORDS];
        // SAFETY: as above, for each of the words of the key.
        let position = unsafe {
            for (at, word) in words.iter_mut().enumerate() {
                *word = key.add(at).read_volatile();
            }
            self.position.load(Ordering::Relaxed).read_volatile()
        };
        Some(Box::new((words, position)))
    }
}

fn n_modules(py: Python<'_>) -> usize {
    modules(py).map_or(0, |modules| modules.len())
}

fn glance(py: Python<'_>) -> Glance {
    Glance {
        words: [PLACES[0].glance(), PLACES[1].glance()],
        n_modules: n_modules(py),
        caller_steps: CALLER_STEPS.load(Ordering::Relaxed),
        n_drawn: [0, 1].map(|at| N_DRAWN[at].load(Ordering::Relaxed)),
    }
}

/// A task without a seed begins in this thread.
#[inline]
pub(crate) fn begin_in_worker(py: Python<'_>) {
    if IS_WATCHED.load(Ordering::Relaxed) {
        begin(py);
    }
}

/// The same where it is known that it is watched.
#[inline]
pub(crate) fn begin(py: Python<'_>) {
    if N_MODULES.load(Ordering::Relaxed) != n_modules(py) {
        look(py);
    }
    settle(py);
    let now = glance(py);
    if now.words != [0; 2] {
        note(now);
    }
    BEFORE.set(Some(now));
    if HAS_TORCH.load(Ordering::Relaxed) {
        begin_torch(py);
    }
}

/// What was changed between tasks is nobody's misuse: that is what the states are now.
///
/// No Python runs in here, as the lock is held: whoever has the interpreter may be waiting for it.
fn note(now: Glance) {
    let found = &mut *lock(&FOUND);
    for (at, place) in PLACES.iter().enumerate() {
        if now.words[at] == 0 {
            continue;
        }
        let is_known = |seen: &Seen| seen.0[0] == (now.words[at] >> 32) as u32;
        match &mut found[at].seen {
            Some(seen) if is_known(seen) => seen.1 = now.words[at] as u32,
            seen => *seen = place.state(),
        }
    }
}

/// Whether torch has been imported.
static HAS_TORCH: AtomicBool = AtomicBool::new(false);

#[cold]
fn begin_torch(py: Python<'_>) {
    let begun = Instant::now();
    let is_due = lock(&NEXT_OF_TORCH).is_none_or(|next| begun >= next);
    let state = is_due.then(|| state_of_torch(py)).flatten();
    if is_due {
        // Also where nobody looks at what the task has done, as after a failure.
        let ended = Instant::now();
        *lock(&NEXT_OF_TORCH) = Some(ended + TORCH_TIMES * (ended - begun));
    }
    TORCH_BEFORE.set(state.map(|state| (state, begun)));
}

fn state_of_torch(py: Python<'_>) -> Option<Py<PyAny>> {
    let helpers = py.import(intern!(py, "manyhands._relay")).ok()?;
    let state = helpers.call_method0(intern!(py, "state_of_torch"));
    // A torch that has none is not watched.
    Some(state.ok()?.unbind())
}

/// Whether the task that has just ended has drawn from torch's global state, as far as that was looked at.
fn has_drawn_from_torch(py: Python<'_>) -> bool {
    let Some((before, begun)) = TORCH_BEFORE.take() else {
        return false;
    };
    let looked_at = Instant::now();
    let now = state_of_torch(py);
    let found = now.is_some_and(|now| is_drawn_from_torch(py, &before, &now));
    let ended = Instant::now();
    // Both looks took about as long.
    let pause = TORCH_TIMES * 2 * (ended - looked_at);
    *lock(&NEXT_OF_TORCH) = Some(ended.max(begun) + pause);
    found
}

/// Whether torch's state has changed by drawing: who sets another seed does so on purpose.
fn is_drawn_from_torch(py: Python<'_>, before: &Py<PyAny>, now: &Py<PyAny>) -> bool {
    let item = |state: &Py<PyAny>, at: usize| state.bind(py).get_item(at);
    let is_same = |at: usize| item(now, at)?.eq(item(before, at)?);
    let has_drawn = || PyResult::Ok(is_same(0)? && !is_same(1)?);
    has_drawn().unwrap_or(false)
}

/// What is to become of tasks of this worker that draw.
pub(crate) fn watch(on_misuse: OnMisuse) {
    IS_WATCHED.store(on_misuse != OnMisuse::Ignore, Ordering::Relaxed);
}

/// No task without a seed runs in this thread.
pub(crate) fn skip() {
    BEFORE.set(None);
    TORCH_BEFORE.set(None);
}

/// A task has ended in this thread: which states it has drawn from, a bit each.
#[inline]
pub(crate) fn end(py: Python<'_>) -> u8 {
    let Some(before) = BEFORE.take() else {
        return 0;
    };
    let from_torch = if HAS_TORCH.load(Ordering::Relaxed) && has_drawn_from_torch(py) {
        TORCH
    } else {
        0
    };
    let now = glance(py);
    // The caller may have drawn meanwhile, who is free to do so.
    if now.caller_steps != before.caller_steps || N_CALLERS.load(Ordering::Relaxed) > 0 {
        return 0;
    }
    let mut drawn = from_torch;
    if now == before {
        return drawn;
    }
    for (at, kind) in KINDS.into_iter().enumerate() {
        // What has come with the task may have had its state set by it: nobody knows where it began.
        let has_changed = before.words[at] != 0 && now.words[at] != before.words[at];
        if now.n_drawn[at] != before.n_drawn[at] || has_changed && is_drawn(at) {
            drawn |= kind.bit();
        }
    }
    drawn
}

/// Whether a state that has changed is what comes of drawing. Otherwise somebody has set it, on purpose.
fn is_drawn(at: usize) -> bool {
    let Some(now) = PLACES[at].state() else {
        return false;
    };
    let seen = lock(&FOUND)[at].seen.replace(now.clone());
    let Some(before) = seen else { return false };
    let begun = Instant::now();
    let is_resting = lock(&REST).is_some_and(|until| begun < until);
    let n_rounds = if is_resting {
        ROUNDS_LEAST
    } else {
        ROUNDS_MOST
    };
    let is_drawn = match mt19937_draws(&before.0, &now.0, n_rounds) {
        Some(0) => now.1 > before.1,
        Some(_) => true,
        None if is_resting => false,
        None => {
            let ended = Instant::now();
            *lock(&REST) = Some(ended + REST_TIMES * (ended - begun));
            false
        }
    };
    if is_drawn {
        count_drawn(at);
    }
    is_drawn
}

// Seeded tasks in several threads at once
//
// The global states are set for those of one thread only. Those of others draw from what has been set for these, or from
// the program's own, which is put back in between; and the numbers of both depend on who comes when. That is noticed
// however often states are set meanwhile: from one time to the next it is counted what has been drawn from.

/// Among the bits that are reported: seeded tasks had to share the states.
const SHARED: u8 = 8;

/// How many seeded tasks are running for which the global states are not set, as they are another thread's.
static N_WITHOUT: AtomicUsize = AtomicUsize::new(0);
/// How often a state was found to have been drawn from while there were any, in the order of the bits.
static N_DRAWN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
const TORCH_AT: usize = 2;
/// torch's seed and state when they were last looked at meanwhile.
static TORCH_SEEN: Mutex<Option<Kept<Py<PyAny>>>> = Mutex::new(None);

/// A seeded task in the thread that made the call.
pub(crate) struct Together {
    has_states: bool,
    n_drawn: [u64; 3],
}

impl Together {
    /// It begins; the global states have been set for it, or could not be.
    pub(crate) fn begin(py: Python<'_>, has_states: bool) -> Together {
        settle(py);
        if !has_states && N_WITHOUT.fetch_add(1, Ordering::Relaxed) == 0 {
            note_set(py);
        }
        let n_drawn = N_DRAWN.each_ref().map(|n| n.load(Ordering::Relaxed));
        Together {
            has_states,
            n_drawn,
        }
    }

    /// It has ended: which states were drawn from while seeded tasks had to share them.
    pub(crate) fn end(self, py: Python<'_>) -> u8 {
        settle(py);
        let mut drawn = 0;
        for (at, n) in N_DRAWN.iter().enumerate() {
            if n.load(Ordering::Relaxed) != self.n_drawn[at] {
                drawn |= 1 << at | SHARED;
            }
        }
        drawn
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        if !self.has_states {
            // A process forked meanwhile has been told that there is none.
            let less = |n: usize| n.checked_sub(1);
            let _ = N_WITHOUT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// Counts what has been drawn from since the states were last noted, if anybody has to know.
pub(crate) fn settle(py: Python<'_>) {
    if N_WITHOUT.load(Ordering::Relaxed) == 0 {
        return;
    }
    for at in 0..PLACES.len() {
        is_drawn(at);
    }
    if HAS_TORCH.load(Ordering::Relaxed) {
        let now = state_of_torch(py);
        let before = see_torch(py, now.as_ref());
        if let (Some(before), Some(now)) = (before, now)
            && is_drawn_from_torch(py, &before, &now)
        {
            count_drawn(TORCH_AT);
        }
    }
}

/// Notes the states as they are, if anybody has to know: somebody has set one.
pub(crate) fn note_set(py: Python<'_>) {
    if N_WITHOUT.load(Ordering::Relaxed) == 0 {
        return;
    }
    if N_MODULES.load(Ordering::Relaxed) != n_modules(py) {
        look(py);
    }
    {
        let found = &mut *lock(&FOUND);
        for (at, place) in PLACES.iter().enumerate() {
            found[at].seen = place.state();
        }
    }
    if HAS_TORCH.load(Ordering::Relaxed) {
        see_torch(py, state_of_torch(py).as_ref());
    }
}

fn see_torch(py: Python<'_>, now: Option<&Py<PyAny>>) -> Option<Py<PyAny>> {
    let now = now.map(|now| Kept::new(now.clone_ref(py)));
    let before = std::mem::replace(&mut *lock(&TORCH_SEEN), now);
    before.map(|before| before.clone_ref(py))
}

fn count_drawn(at: usize) {
    if N_WITHOUT.load(Ordering::Relaxed) > 0 {
        N_DRAWN[at].fetch_add(1, Ordering::Relaxed);
    }
}

/// Stands beside code of the caller's that runs while tasks may be running in threads.
pub(crate) struct CallersTurn(());

impl CallersTurn {
    pub(crate) fn begin() -> CallersTurn {
        N_CALLERS.fetch_add(1, Ordering::Relaxed);
        CALLER_STEPS.fetch_add(1, Ordering::Relaxed);
        CallersTurn(())
    }
}

impl Drop for CallersTurn {
    fn drop(&mut self) {
        // A process forked meanwhile has been told that there is none.
        let less = |n: usize| n.checked_sub(1);
        let _ = N_CALLERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Forgets where the generators are: they are others now.
pub(crate) fn forget() {
    for place in &PLACES {
        place.key.store(std::ptr::null_mut(), Ordering::Release);
    }
    for found in &mut *lock(&FOUND) {
        found.is_settled = false;
        found.seen = None;
    }
    N_MODULES.store(0, Ordering::Relaxed);
    N_CALLERS.store(0, Ordering::Relaxed);
    N_WITHOUT.store(0, Ordering::Relaxed);
    skip();
}

/// Looks for generators that have been imported since the last look.
#[cold]
fn look(py: Python<'_>) {
    N_MODULES.store(n_modules(py), Ordering::Relaxed);
    let has_torch = modules(py).and_then(|modules| modules.contains(intern!(py, "torch")));
    HAS_TORCH.store(has_torch.unwrap_or(false), Ordering::Relaxed);
    for (at, kind) in KINDS.into_iter().enumerate() {
        if lock(&FOUND)[at].is_settled {
            continue;
        }
        // What cannot be found out is left alone: tasks draw from it unnoticed.
        let found = find(py, kind).unwrap_or_default();
        let Some((owner, place)) = found else {
            continue;
        };
        let mut all = lock(&FOUND);
        all[at].is_settled = true;
        if let Some((key, position)) = place {
            let before = all[at]._owner.replace(Kept::new(owner.unbind()));
            PLACES[at].position.store(position, Ordering::Relaxed);
            PLACES[at].key.store(key, Ordering::Release);
            all[at].seen = PLACES[at].state();
            drop(all);
            // Without the lock: a destructor may run any code.
            drop(before);
        }
    }
}

type Pointers = (*mut u32, *mut u32);

/// The object that holds a generator's state, if it is there; and where, if that can be told for certain.
fn find<'py>(
    py: Python<'py>,
    kind: Kind,
) -> PyResult<Option<(Bound<'py, PyAny>, Option<Pointers>)>> {
    let Some(module) = modules(py)?.get_item(kind.module())? else {
        return Ok(None);
    };
    let (owner, place, says) = match kind {
        Kind::Python => {
            let Some(owner) = module.getattr_opt(intern!(py, "_inst"))? else {
                return Ok(None);
            };
            let state = owner.call_method0(intern!(py, "getstate"))?;
            let words: Vec<u32> = state.get_item(1)?.extract()?;
            let place = python_place(&owner);
            (owner, place, words)
        }
        Kind::NumPy => {
            let Some(numbers) = module.getattr_opt(intern!(py, "_rand"))? else {
                return Ok(None);
            };
            let owner = numbers.getattr(intern!(py, "_bit_generator"))?;
            if owner.get_type().name()? != "MT19937" {
                return Ok(Some((owner, None)));
            }
            let state = owner.getattr(intern!(py, "state"))?;
            let state = state.get_item("state")?;
            let mut words: Vec<u32> = state.get_item("key")?.call_method0("tolist")?.extract()?;
            words.push(state.get_item("pos")?.extract()?);
            let place = numpy_place(&owner)?;
            (owner, place, words)
        }
    };
    let place = place.filter(|place| is_there(*place, &says));
    Ok(Some((owner, place)))
}

fn basic_size(object: &Bound<'_, PyAny>) -> usize {
    let size = object
        .get_type()
        .getattr(intern!(object.py(), "__basicsize__"));
    size.and_then(|size| size.extract()).unwrap_or(0)
}

const KEY_BYTES: usize = MT_WORDS * size_of::<u32>();

/// Python's: behind the head of the object come the position and the words.
fn python_place(owner: &Bound<'_, PyAny>) -> Option<Pointers> {
    let head = size_of::<ffi::PyObject>();
    let end = head + size_of::<u32>() + KEY_BYTES;
    let base = owner.as_ptr().cast::<u8>();
    let is_inside = basic_size(owner) >= end;
    is_inside.then(|| {
        let position = base.wrapping_add(head).cast::<u32>();
        (position.wrapping_add(1), position)
    })
}

/// NumPy's: where the first word of its public interface points to, inside of the object, come the words and the
/// position.
#[allow(unsafe_code)]
fn numpy_place(owner: &Bound<'_, PyAny>) -> PyResult<Option<Pointers>> {
    let capsule = owner.getattr(intern!(owner.py(), "capsule"))?;
    let capsule = capsule.cast::<PyCapsule>()?;
    let interface = capsule
        .pointer_checked(Some(c"BitGenerator"))?
        .cast::<*mut u32>();
    // SAFETY: a capsule of this name holds NumPy's `bitgen_t`, whose first word is a pointer to the state; the
    // capsule's owner is alive.
    let key = unsafe { interface.as_ptr().read() };
    let (start, at) = (owner.as_ptr() as usize, key as usize);
    let end = start + basic_size(owner);
    let is_inside = at >= start && at + KEY_BYTES + size_of::<u32>() <= end;
    let is_aligned = key.is_aligned();
    Ok((is_inside && is_aligned).then(|| (key, key.wrapping_add(MT_WORDS))))
}

/// Whether the memory there says what the object says.
#[allow(unsafe_code)]
fn is_there((key, position): Pointers, says: &[u32]) -> bool {
    let Some((&n_used, words)) = says.split_last() else {
        return false;
    };
    // SAFETY: all of it lies inside of an object that is alive, as the type's size has it.
    let is_same = |at: usize| unsafe { key.wrapping_add(at).read_volatile() } == words[at];
    // SAFETY: the same.
    let found = unsafe { position.read_volatile() };
    words.len() == MT_WORDS && found == n_used && (0..MT_WORDS).all(is_same)
}

/// Calls a function as a task of the calling thread; what it has drawn from, where that matters.
pub(crate) fn watched<'py>(
    on_misuse: OnMisuse,
    function: &Bound<'py, PyAny>,
    call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> (PyResult<Bound<'py, PyAny>>, u8) {
    let py = function.py();
    if on_misuse == OnMisuse::Ignore {
        return (call(), 0);
    }
    begin(py);
    let outcome = call();
    let drawn = end(py);
    judged(py, on_misuse, function, outcome, drawn)
}

/// What becomes of a task that has drawn from these states, and what is to be reported of it.
pub(crate) fn judged<'py>(
    py: Python<'py>,
    on_misuse: OnMisuse,
    function: &Bound<'py, PyAny>,
    outcome: PyResult<Bound<'py, PyAny>>,
    drawn: u8,
) -> (PyResult<Bound<'py, PyAny>>, u8) {
    match on_misuse {
        _ if drawn == 0 || outcome.is_err() => (outcome, 0),
        OnMisuse::Ignore => (outcome, 0),
        OnMisuse::Warn => (outcome, drawn),
        OnMisuse::Error => (Err(error(py, function, drawn)), 0),
    }
}

/// What of these states is to be reported where these others have been; none if there is nothing new.
pub(crate) fn untold(states: u8, told: u8) -> Option<u8> {
    let new = states & !told & !SHARED;
    (new != 0).then_some(new | states & SHARED)
}

/// The exception for a task that has drawn from these states.
pub(crate) fn error(py: Python<'_>, function: &Bound<'_, PyAny>, drawn: u8) -> PyErr {
    let made = py
        .import(intern!(py, "manyhands._relay"))
        .and_then(|helpers| helpers.call_method1(intern!(py, "misuse_error"), (function, drawn)));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// Which global generators are watched, a bit each; for the tests.
#[pyfunction]
pub(crate) fn _probe_watched(py: Python<'_>) -> u8 {
    look(py);
    let is_found =
        |(at, kind): (usize, Kind)| match PLACES[at].key.load(Ordering::Acquire).is_null() {
            true => 0,
            false => kind.bit(),
        };
    KINDS.into_iter().enumerate().map(is_found).sum()
}
