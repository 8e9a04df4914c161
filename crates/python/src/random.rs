//! Random numbers, as far as NumPy does not have them itself.
//!
//! [`Mrg32k3a`] is a bit generator in the sense of NumPy: an object with a lock, and a capsule with functions that draw.
//!
//! The generator lies in memory of its own, [`Source`], which the capsule and the Python object share. It is read and
//! written by whoever holds the Python lock in `lock`: NumPy takes it before it calls the functions of the capsule, also
//! where it has let go of the interpreter, and every method here takes it.

use manyhands_random::{BitGenerator, Mrg32k3a as Generator, Mt19937, Mt19937State, SeedSequence};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyInt, PyTuple};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_void};
use std::sync::Arc;

/// The first of so many words that `numpy.random.SeedSequence(entropy, spawn_key=key)` generates.
#[pyfunction]
fn _seed_words(entropy: Vec<u32>, key: Vec<u32>, n_words: usize) -> Vec<u32> {
    let mut words = vec![0; n_words];
    SeedSequence::new(&entropy, &key).generate_u32(&mut words);
    words
}

/// What `numpy.random.SeedSequence(entropy, spawn_key=(*key, child)).generate_state(4, numpy.uint64)` gives, for so many
/// children from the first on, one behind the other.
#[pyfunction]
fn _seed_states<'py>(
    py: Python<'py>,
    entropy: Vec<u32>,
    key: Vec<u32>,
    first: u64,
    n: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, n * 4 * size_of::<u64>(), |bytes| {
        let mut own = key.clone();
        for (child, bytes) in (first..).zip(bytes.chunks_exact_mut(4 * size_of::<u64>())) {
            own.truncate(key.len());
            own.extend(manyhands_random::words(child.into()));
            let words: [u64; 4] = SeedSequence::new(&entropy, &own).generate_u64();
            for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(size_of::<u64>())) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
        }
        Ok(())
    })
}

/// The key and the position of a Mersenne Twister after so many of NumPy's jumps.
#[pyfunction]
fn _mt19937_jumped<'py>(
    py: Python<'py>,
    key: &[u8],
    pos: u32,
    jumps: u64,
) -> PyResult<(Bound<'py, PyBytes>, u32)> {
    let words = key.chunks_exact(4).map(|word| {
        let word = word.try_into().expect("chunks of four bytes");
        u32::from_ne_bytes(word)
    });
    let words: Vec<u32> = words.collect();
    let key = words
        .try_into()
        .map_err(|_| PyValueError::new_err("a key has 624 words"))?;
    let state = Mt19937State { key, n_used: pos };
    let jumped = py.detach(|| Mt19937::from_state(state).jumped(jumps));
    let bytes: Vec<u8> = jumped
        .state()
        .key
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    Ok((PyBytes::new(py, &bytes), jumped.state().n_used))
}

/// NumPy's `bitgen_t`.
#[repr(C)]
struct Functions {
    state: *const Source,
    next_uint64: unsafe extern "C" fn(*mut c_void) -> u64,
    next_uint32: unsafe extern "C" fn(*mut c_void) -> u32,
    next_double: unsafe extern "C" fn(*mut c_void) -> f64,
    next_raw: unsafe extern "C" fn(*mut c_void) -> u64,
}

/// What the capsule holds: first what NumPy reads, then what keeps it valid.
#[repr(C)]
struct Held {
    functions: Functions,
    source: Arc<Source>,
}

// SAFETY: `functions.state` points into `source`, which goes along and may be sent.
#[allow(unsafe_code)]
unsafe impl Send for Held {}

struct Source(UnsafeCell<Generator>);

// SAFETY: whoever reads or writes it holds the generator's lock; see the top of this file.
#[allow(unsafe_code)]
unsafe impl Send for Source {}
// SAFETY: the same.
#[allow(unsafe_code)]
unsafe impl Sync for Source {}

/// # Safety
///
/// `state` is that of a capsule made here which exists, and the caller holds the generator's lock.
#[allow(unsafe_code)]
unsafe fn generator<'a>(state: *mut c_void) -> &'a mut Generator {
    // SAFETY: it points to a `Source`, and the lock makes this the only reference.
    unsafe { &mut *(*state.cast::<Source>()).0.get() }
}

#[allow(unsafe_code)]
unsafe extern "C" fn next_uint64(state: *mut c_void) -> u64 {
    // SAFETY: NumPy calls this with the capsule's state, and holds the lock.
    unsafe { generator(state) }.next_u64()
}

#[allow(unsafe_code)]
unsafe extern "C" fn next_uint32(state: *mut c_void) -> u32 {
    // SAFETY: NumPy calls this with the capsule's state, and holds the lock.
    unsafe { generator(state) }.next_u32()
}

#[allow(unsafe_code)]
unsafe extern "C" fn next_double(state: *mut c_void) -> f64 {
    // SAFETY: NumPy calls this with the capsule's state, and holds the lock.
    unsafe { generator(state) }.next_double()
}

#[allow(unsafe_code)]
unsafe extern "C" fn next_raw(state: *mut c_void) -> u64 {
    // SAFETY: NumPy calls this with the capsule's state, and holds the lock.
    u64::from(unsafe { generator(state) }.next_u32())
}

const CAPSULE_NAME: &CStr = c"BitGenerator";

/// L'Ecuyer's combined multiple recursive generator: R's "L'Ecuyer-CMRG", draw for draw.
///
/// A bit generator for `numpy.random.Generator`, which has the distributions. Its uniform numbers are those of R's
/// `runif`; other distributions are NumPy's, not R's.
///
/// Parameters
/// ----------
/// seed : int, sequence of six int, or numpy.random.SeedSequence, optional
///     An integer is taken as R's `set.seed` takes it. Six integers are a state: the last six of R's `.Random.seed`, as
///     they are there or modulo 2**32. From a seed sequence, a state is drawn. By default the system is asked for one.
///
/// Notes
/// -----
/// A draw has one of 2**32 - 209 values. Where NumPy wants 32 bits it is given one draw, so the 209 highest
/// values never come.
///
/// Examples
/// --------
/// >>> import manyhands as mh
/// >>> import numpy as np
/// >>> rng = np.random.Generator(mh.random.MRG32k3a(1))
/// >>> rng.random(3).round(6).tolist()  # set.seed(1); runif(3)
/// [0.677533, 0.427346, 0.910381]
#[pyclass(frozen, name = "MRG32k3a", module = "manyhands.random")]
struct Mrg32k3a {
    source: Arc<Source>,
    /// What other generators spawned from this one are made of: the state it was made with.
    origin: [u32; 6],
    n_spawned: std::sync::atomic::AtomicU32,
    lock: Py<PyAny>,
    capsule: Py<PyAny>,
}

impl Mrg32k3a {
    fn of(
        py: Python<'_>,
        generator: Generator,
        origin: [u32; 6],
        n_spawned: u32,
    ) -> PyResult<Mrg32k3a> {
        let source = Arc::new(Source(UnsafeCell::new(generator)));
        let held = Held {
            functions: Functions {
                state: Arc::as_ptr(&source),
                next_uint64,
                next_uint32,
                next_double,
                next_raw,
            },
            source: Arc::clone(&source),
        };
        let keep = |held: Held, _| drop(held.source);
        let capsule = PyCapsule::new_with_value_and_destructor(py, held, CAPSULE_NAME, keep)?;
        // Whoever has one may pickle NumPy's generator around it.
        let face = py.import(intern!(py, "manyhands.random"))?;
        face.call_method0(intern!(py, "_have_generators_pickled"))?;
        let threading = py.import(intern!(py, "_thread"))?;
        Ok(Mrg32k3a {
            source,
            origin,
            n_spawned: n_spawned.into(),
            lock: threading.call_method0(intern!(py, "RLock"))?.unbind(),
            capsule: capsule.into_any().unbind(),
        })
    }

    /// A new one in this state.
    fn at(py: Python<'_>, generator: Generator) -> PyResult<Mrg32k3a> {
        let origin = generator.state();
        Mrg32k3a::of(py, generator, origin, 0)
    }

    /// Uses the generator while holding its lock.
    #[allow(unsafe_code)]
    fn locked<T>(&self, py: Python<'_>, act: impl FnOnce(&mut Generator) -> T) -> PyResult<T> {
        let lock = self.lock.bind(py);
        lock.call_method0(intern!(py, "acquire"))?;
        // SAFETY: the lock is held. It lets the thread that holds it in again, but nothing that runs here calls Python.
        let result = act(unsafe { &mut *self.source.0.get() });
        lock.call_method0(intern!(py, "release"))?;
        Ok(result)
    }
}

#[pymethods]
impl Mrg32k3a {
    #[new]
    #[pyo3(signature = (seed = None))]
    fn new(py: Python<'_>, seed: Option<&Bound<'_, PyAny>>) -> PyResult<Mrg32k3a> {
        let generator = match seed {
            None => {
                let os = py.import(intern!(py, "os"))?;
                let bytes = os.call_method1(intern!(py, "urandom"), (16,))?;
                let bytes: [u8; 16] = bytes.extract()?;
                let words = manyhands_random::words(u128::from_ne_bytes(bytes));
                Generator::seeded(&SeedSequence::new(&words, &[]))
            }
            Some(seed) => seeded(seed)?,
        };
        Mrg32k3a::at(py, generator)
    }

    /// Held by whoever draws.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> with mh.random.MRG32k3a(1).lock:
    /// ...     pass  # nobody else draws from it
    #[getter]
    fn lock<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.lock.bind(py).clone()
    }

    /// What NumPy draws with: functions for compiled code.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> type(mh.random.MRG32k3a(1).capsule).__name__
    /// 'PyCapsule'
    #[getter]
    fn capsule<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.capsule.bind(py).clone()
    }

    /// The state: as NumPy's generators have theirs, a dict, with R's six numbers modulo 2**32.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> mh.random.MRG32k3a([1, 2, 3, 4, 5, 6]).state
    /// {'bit_generator': 'MRG32k3a', 'state': (1, 2, 3, 4, 5, 6)}
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let words = self.locked(py, |generator| generator.state())?;
        let state = PyDict::new(py);
        state.set_item("bit_generator", "MRG32k3a")?;
        state.set_item("state", PyTuple::new(py, words)?)?;
        Ok(state)
    }

    #[setter]
    fn set_state(&self, py: Python<'_>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        let words = state.get_item("state")?.ok_or_else(|| {
            PyValueError::new_err(
                "a state is a dict with the key 'state', as this property gives it",
            )
        })?;
        let new = in_state(&words)?;
        self.locked(py, |generator| *generator = new)
    }

    /// A generator at the beginning of the next stream, or the n-th from here: R's `nextRNGStream`.
    ///
    /// Streams are 2**127 draws long. This generator stays where it is.
    ///
    /// Parameters
    /// ----------
    /// n : int, default 1
    ///     How many streams further; the time it takes does not depend on it.
    ///
    /// Returns
    /// -------
    /// MRG32k3a
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> first = mh.random.MRG32k3a(1)
    /// >>> first.next_stream().next_stream().state == first.next_stream(2).state
    /// True
    #[pyo3(signature = (n = 1))]
    fn next_stream(&self, py: Python<'_>, n: u64) -> PyResult<Mrg32k3a> {
        let next = self.locked(py, |generator| generator.nth_stream(n))?;
        Mrg32k3a::at(py, next)
    }

    /// A generator at the beginning of the next substream, or the n-th from here: R's `nextRNGSubStream`.
    ///
    /// Substreams are 2**76 draws long. This generator stays where it is.
    ///
    /// Parameters
    /// ----------
    /// n : int, default 1
    ///     How many substreams further; the time it takes does not depend on it.
    ///
    /// Returns
    /// -------
    /// MRG32k3a
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> first = mh.random.MRG32k3a(1)
    /// >>> first.next_substream(2**51).state == first.next_stream().state
    /// True
    #[pyo3(signature = (n = 1))]
    fn next_substream(&self, py: Python<'_>, n: u64) -> PyResult<Mrg32k3a> {
        let next = self.locked(py, |generator| generator.nth_substream(n))?;
        Mrg32k3a::at(py, next)
    }

    /// New generators that have nothing to do with each other, as those of NumPy's `spawn`.
    ///
    /// They are seeded by hashing this one's first state with their numbers, so that they may spawn in turn. Streams
    /// one after the other, as R deals them out, are `next_stream`'s.
    ///
    /// Parameters
    /// ----------
    /// n_children : int
    ///     How many.
    ///
    /// Returns
    /// -------
    /// list of MRG32k3a
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> len(mh.random.MRG32k3a(1).spawn(3))
    /// 3
    fn spawn(&self, py: Python<'_>, n_children: u32) -> PyResult<Vec<Mrg32k3a>> {
        let first = self
            .n_spawned
            .fetch_add(n_children, std::sync::atomic::Ordering::Relaxed);
        let children = (0..n_children).map(|i| {
            let seeds = SeedSequence::new(&self.origin, &[first.wrapping_add(i)]);
            Mrg32k3a::at(py, Generator::seeded(&seeds))
        });
        children.collect()
    }

    fn __repr__(&self) -> &'static str {
        "MRG32k3a"
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let this = slf.get();
        let state = this.locked(py, |generator| generator.state())?;
        let n_spawned = this.n_spawned.load(std::sync::atomic::Ordering::Relaxed);
        let native = py.import(intern!(py, "manyhands._native"))?;
        let rebuild = native.getattr(intern!(py, "_rebuild_mrg32k3a"))?;
        (rebuild, (state, this.origin, n_spawned)).into_pyobject(py)
    }
}

#[pyfunction]
fn _rebuild_mrg32k3a(
    py: Python<'_>,
    state: [u32; 6],
    origin: [u32; 6],
    n_spawned: u32,
) -> PyResult<Mrg32k3a> {
    let generator = Generator::from_state(state);
    let generator = generator.map_err(|error| PyValueError::new_err(error.to_string()))?;
    Mrg32k3a::of(py, generator, origin, n_spawned)
}

/// What a seed stands for.
fn seeded(seed: &Bound<'_, PyAny>) -> PyResult<Generator> {
    let py = seed.py();
    if seed.hasattr(intern!(py, "generate_state"))? {
        // The words that the sequence itself would give, as it may be of another pool size.
        let words = seed.call_method1(intern!(py, "generate_state"), (12,))?;
        let words = words.call_method0(intern!(py, "tolist"))?;
        return Ok(Generator::from_words(words.extract()?));
    }
    if !seed.is_instance_of::<PyInt>() {
        return in_state(seed);
    }
    let seed = seed.extract().map_err(|_| {
        PyValueError::new_err(format!(
            "the seed {seed} is not one of R's: they go from -2**31 to 2**31 - 1. Any number can be the seed of a \
             numpy.random.SeedSequence, and that the seed of MRG32k3a."
        ))
    })?;
    Ok(Generator::from_r_seed(seed))
}

/// A generator in the state that six integers are.
fn in_state(words: &Bound<'_, PyAny>) -> PyResult<Generator> {
    let wrong = || {
        PyTypeError::new_err(format!(
            "a state of MRG32k3a is six integers from -2**31 to 2**32 - 1, not {words}"
        ))
    };
    let mut state = [0; 6];
    let mut n_words = 0;
    for word in words.try_iter().map_err(|_| wrong())? {
        let word: i64 = word?.extract().map_err(|_| wrong())?;
        let is_word = (i64::from(i32::MIN)..1 << 32).contains(&word);
        *state
            .get_mut(n_words)
            .filter(|_| is_word)
            .ok_or_else(wrong)? = word as u32;
        n_words += 1;
    }
    if n_words != 6 {
        return Err(wrong());
    }
    Generator::from_state(state).map_err(|error| PyValueError::new_err(error.to_string()))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Mrg32k3a>()?;
    module.add_function(wrap_pyfunction!(_rebuild_mrg32k3a, module)?)?;
    module.add_function(wrap_pyfunction!(_seed_words, module)?)?;
    module.add_function(wrap_pyfunction!(_seed_states, module)?)?;
    module.add_function(wrap_pyfunction!(_mt19937_jumped, module)?)
}
