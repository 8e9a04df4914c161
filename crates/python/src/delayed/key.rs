//! Names and keys of Delayed objects.
//!
//! A key is made when somebody asks for it. That of an impure call is its function's name and a
//! UUID; that of a pure call is the name and a token of its function and arguments, so that equal
//! calls have equal keys.

use super::{Delayed, Kind};
use crate::call::Arg;
use crate::scan::Scanner;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFloat, PyInt, PyString, PyTuple};
use std::sync::Mutex;

/// Names are cut to this many characters where they are part of a key.
const N_CHARACTERS_MAX: usize = 50;

impl Delayed {
    /// The key, made now if it was not needed before.
    pub(crate) fn key<'py>(slf: &Bound<'py, Delayed>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let delayed = slf.get();
        if let Some(key) = delayed.key.get(py) {
            return Ok(key.bind(py).clone());
        }
        if delayed.is_pure {
            return pure_key(slf);
        }
        let key = format!("{}-{}", delayed.key_name(py), uuid(py, delayed.sequence)?);
        Ok(delayed.key_or_set(PyString::new(py, &key).into_any()))
    }

    /// The name of what is called, or of the type of what is held.
    pub(crate) fn name(&self, py: Python<'_>) -> String {
        match self.kind {
            Kind::Data => held_name(self.args.bind(py)),
            Kind::Apply => "apply".to_owned(),
            Kind::Attribute => "getattr".to_owned(),
            Kind::Call => self
                .leaf_object(py)
                .map_or_else(|| "call".to_owned(), |object| callable_name(&object)),
            Kind::Operator | Kind::Method => self.callee.as_ref().map_or_else(
                || "call".to_owned(),
                |callee| {
                    let name = callable_name(callee.bind(py));
                    // `operator.and_` and `operator.or_` end so only because of the keywords.
                    name.strip_suffix('_').map(str::to_owned).unwrap_or(name)
                },
            ),
        }
    }

    fn key_name(&self, py: Python<'_>) -> String {
        let name = self.name(py);
        match name.char_indices().nth(N_CHARACTERS_MAX) {
            Some((end, _)) => name[..end].to_owned(),
            None => name,
        }
    }

    fn key_or_set<'py>(&self, key: Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        let py = key.py();
        self.key.get_or_init(py, || key.unbind()).bind(py).clone()
    }
}

/// How many wrappers around wrappers (partial objects) are looked through for a name.
const N_WRAPPERS_MAX: u32 = 8;

/// The name of what has one, a function or a class; else the name of its type.
fn held_name(args: &Bound<'_, PyTuple>) -> String {
    let Ok(held) = args.get_item(0) else {
        return "object".to_owned();
    };
    if held.is_callable()
        && let Some(name) = own_name(&held)
    {
        return name;
    }
    let class = held.get_type().name();
    class.map_or_else(|_| "object".to_owned(), |name| name.to_string())
}

fn own_name(object: &Bound<'_, PyAny>) -> Option<String> {
    // An attribute that raises is no name; nobody who reads a key could do anything about it.
    let name = object
        .getattr_opt(intern!(object.py(), "__name__"))
        .ok()??;
    let name = name.cast_into::<PyString>().ok()?;
    Some(name.to_string_lossy().trim_matches(['<', '>']).to_owned())
}

/// The name of a callable: of the function in a partial, "lambda" for a lambda.
///
/// Never fails: a name is only there to be read.
pub(crate) fn callable_name(callable: &Bound<'_, PyAny>) -> String {
    let py = callable.py();
    let mut callable = callable.clone();
    for _ in 0..N_WRAPPERS_MAX {
        if let Some(name) = own_name(&callable) {
            return name;
        }
        match callable.getattr_opt(intern!(py, "func")) {
            Ok(Some(function)) if function.is_callable() => callable = function,
            _ => break,
        }
    }
    let class = callable.get_type().name();
    class.map_or_else(|_| "call".to_owned(), |name| name.to_string())
}

/// The key of a pure Delayed.
///
/// It depends on the keys of the Delayed inside its arguments; these are made first, one after
/// another, so that long chains need no deep stack.
fn pure_key<'py>(root: &Bound<'py, Delayed>) -> PyResult<Bound<'py, PyAny>> {
    let py = root.py();
    let mut stack = vec![(root.clone(), false)];
    while let Some((delayed, is_ready)) = stack.pop() {
        if delayed.get().key.get(py).is_some() {
            continue;
        }
        if !delayed.get().is_pure {
            Delayed::key(&delayed)?;
        } else if is_ready {
            let key = token_key(&delayed)?;
            delayed.get().key_or_set(key);
        } else {
            stack.push((delayed.clone(), true));
            for inner in delayed_inside(&delayed)? {
                if inner.get().key.get(py).is_none() {
                    stack.push((inner, false));
                }
            }
        }
    }
    Delayed::key(root)
}

/// Key of a pure Delayed whose inner Delayed all have keys.
fn token_key<'py>(delayed: &Bound<'py, Delayed>) -> PyResult<Bound<'py, PyAny>> {
    let py = delayed.py();
    let this = delayed.get();
    let name = this.key_name(py);
    let function = match this.kind {
        Kind::Call => this.leaf_object(py),
        _ => this.callee.as_ref().map(|callee| callee.bind(py).clone()),
    };
    let kwargs = this.kwargs.as_ref().map(|kwargs| kwargs.bind(py));
    let token = tokenize(py, (&name, function, this.args.bind(py), kwargs))?;
    Ok(PyString::new(py, &format!("{name}-{token}")).into_any())
}

/// `manyhands._tokenize.tokenize(*args)`.
pub(crate) fn tokenize<'py>(
    py: Python<'py>,
    args: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<String> {
    let tokenize = py
        .import(intern!(py, "manyhands._tokenize"))?
        .getattr(intern!(py, "tokenize"))?;
    let args = args.into_pyobject(py)?;
    tokenize.call1(args)?.extract()
}

/// The Delayed objects among the arguments of `delayed`.
pub(crate) fn delayed_inside<'py>(
    delayed: &Bound<'py, Delayed>,
) -> PyResult<Vec<Bound<'py, Delayed>>> {
    let py = delayed.py();
    let this = delayed.get();
    let mut inside = Vec::new();
    if !this.holds_delayed {
        return Ok(inside);
    }
    let mut on_found = |found: &Bound<'py, PyAny>| {
        inside.push(found.cast::<Delayed>()?.clone());
        Ok(Arg::Value(found.clone().unbind()))
    };
    let mut scanner = Scanner::new(&mut on_found);
    scanner.scan(this.args.bind(py))?;
    if let Some(kwargs) = &this.kwargs {
        scanner.scan(kwargs.bind(py))?;
    }
    Ok(inside)
}

/// `key` if it may be one.
pub(crate) fn checked_key<'py>(what: &str, key: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    fn is_key(key: &Bound<'_, PyAny>) -> bool {
        key.is_instance_of::<PyString>()
            || key.is_instance_of::<PyInt>()
            || key.is_instance_of::<PyFloat>()
            || key
                .cast::<PyTuple>()
                .is_ok_and(|parts| parts.iter_borrowed().all(|part| is_key(&part)))
    }
    if is_key(&key) {
        return Ok(key);
    }
    Err(PyTypeError::new_err(format!(
        "{what} must be a str, a number or a tuple of these, not {}",
        key.get_type().name()?
    )))
}

/// Where the UUIDs of one process come from.
struct Base {
    process: u32,
    high: u64,
    low: u64,
}

/// A UUID for the `sequence`-th Delayed of this process.
fn uuid(py: Python<'_>, sequence: u64) -> PyResult<String> {
    let (high, low) = random_base(py)?;
    // Both halves are bijections of the sequence number: two numbers can only meet in the six bits
    // that the form of a UUID takes away.
    let high = mix(high.wrapping_add(sequence)) & !0xf000 | 0x4000;
    let low = mix(low ^ sequence.rotate_left(32)) & (u64::MAX >> 2) | 1 << 63;
    Ok(format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    ))
}

/// 128 random bits from the system, drawn once in each process: a forked child draws its own.
fn random_base(py: Python<'_>) -> PyResult<(u64, u64)> {
    static BASE: Mutex<Option<Base>> = Mutex::new(None);
    let process = std::process::id();
    {
        let base = BASE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(base) = &*base
            && base.process == process
        {
            return Ok((base.high, base.low));
        }
    }
    // Drawn with the lock free: the call may hand the interpreter to another thread.
    let drawn = py.import("os")?.call_method1("urandom", (16,))?;
    let drawn = drawn.cast::<PyBytes>()?.as_bytes();
    let mut halves = [[0; 8]; 2];
    halves[0].copy_from_slice(&drawn[..8]);
    halves[1].copy_from_slice(&drawn[8..16]);
    let [high, low] = halves.map(u64::from_le_bytes);
    let mut base = BASE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match &*base {
        Some(base) if base.process == process => Ok((base.high, base.low)),
        _ => {
            *base = Some(Base { process, high, low });
            Ok((high, low))
        }
    }
}

/// A bijection of 64 bits that spreads every input bit over all output bits (splitmix64's).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
