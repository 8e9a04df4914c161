//! Delayed objects in pickles.
//!
//! A Delayed is pickled as a flat list of all the Delayed it is made of, each one's arguments
//! naming others by their place in the list: long chains need no deep recursion.

use super::key::delayed_inside;
use super::{Delayed, Kind, N_MADE, known_key};
use crate::call::{Arg, no_input, rebuild, rebuild_tuple};
use crate::needs::{Amounts, Needed};
use crate::scan::Scanner;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for a Delayed earlier in the list.
#[pyclass(frozen, module = "manyhands._native")]
struct Link {
    place: usize,
}

#[pymethods]
impl Link {
    #[new]
    fn new(place: usize) -> Link {
        Link { place }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        (slf.get_type(), (slf.get().place,)).into_pyobject(slf.py())
    }
}

/// What a record holds, in order: when it was made, kind, flags, number of outputs, key, callee, args, kwargs, needs.
type Record<'py> = (
    u64,
    u8,
    (bool, bool, bool),
    Option<u32>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Bound<'py, PyTuple>,
    Option<Bound<'py, PyDict>>,
    Option<Amounts>,
);

pub(super) fn reduce<'py>(root: &Bound<'py, Delayed>) -> PyResult<Bound<'py, PyTuple>> {
    let py = root.py();
    let mut place_of: HashMap<usize, usize> = HashMap::new();
    let records = PyList::empty(py);
    let mut stack = vec![(root.clone(), false)];
    while let Some((delayed, is_ready)) = stack.pop() {
        if place_of.contains_key(&(delayed.as_ptr() as usize)) {
            continue;
        }
        if is_ready {
            records.append(record(&delayed, &place_of)?)?;
            place_of.insert(delayed.as_ptr() as usize, place_of.len());
            continue;
        }
        let mut inside = delayed_inside(&delayed)?;
        if let (Kind::Call, Some(leaf)) = (delayed.get().kind, &delayed.get().callee) {
            inside.push(leaf.bind(py).cast::<Delayed>()?.clone());
        }
        stack.push((delayed, true));
        stack.extend(inside.into_iter().map(|inner| (inner, false)));
    }
    let native = py.import(intern!(py, "manyhands._native"))?;
    let rebuild = native.getattr(intern!(py, "_rebuild_delayed"))?;
    (rebuild, (records,)).into_pyobject(py)
}

/// `delayed` with links in place of the Delayed inside it.
fn record<'py>(
    delayed: &Bound<'py, Delayed>,
    place_of: &HashMap<usize, usize>,
) -> PyResult<Record<'py>> {
    let py = delayed.py();
    let this = delayed.get();
    let link = |object: &Bound<'py, PyAny>| -> PyResult<Bound<'py, PyAny>> {
        let place = place_of.get(&(object.as_ptr() as usize)).copied();
        let place = place.ok_or_else(|| PyValueError::new_err("a Delayed changed meanwhile"))?;
        Ok(Bound::new(py, Link { place })?.into_any())
    };
    let mut on_found =
        |found: &Bound<'py, PyAny>| link(found).map(|link| Arg::Value(link.unbind()));
    let kwargs = this.kwargs.as_ref().map(|kwargs| kwargs.bind(py).clone());
    let (args, kwargs) = if this.holds_delayed {
        let mut scanner = Scanner::new(&mut on_found);
        replace_in(this.args.bind(py), kwargs.as_ref(), &mut scanner)?
    } else {
        (this.args.bind(py).clone(), kwargs)
    };
    let callee = match (this.kind, &this.callee) {
        (Kind::Call, Some(leaf)) => Some(link(leaf.bind(py))?),
        (_, callee) => callee.as_ref().map(|callee| callee.bind(py).clone()),
    };
    Ok((
        this.sequence,
        this.kind as u8,
        (this.is_pure, this.holds_delayed, this.has_chosen_key),
        this.n_outputs,
        Delayed::key(delayed)?,
        callee,
        args,
        kwargs,
        this.needs.map(Needed::amounts),
    ))
}

type Arguments<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

/// Arguments with what `scanner` finds in them replaced by what it makes of it.
fn replace_in<'py>(
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
    scanner: &mut Scanner<'_, 'py>,
) -> PyResult<Arguments<'py>> {
    let py = args.py();
    let mut replaced = Vec::with_capacity(args.len());
    for arg in args.iter() {
        let found = scanner.scan(&arg)?;
        replaced.push(found.unwrap_or_else(|| Arg::Value(arg.unbind())));
    }
    let args = rebuild_tuple(py, &replaced, &mut no_input)?;
    let Some(kwargs) = kwargs else {
        return Ok((args, None));
    };
    let named = PyDict::new(py);
    for (name, value) in kwargs.iter() {
        match scanner.scan(&value)? {
            Some(arg) => named.set_item(name, rebuild(py, &arg, &mut no_input)?)?,
            None => named.set_item(name, value)?,
        }
    }
    Ok((args, Some(named)))
}

fn is_link(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<Link>()
}

/// The last of the Delayed in a list of records.
#[pyfunction]
fn _rebuild_delayed<'py>(records: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyAny>> {
    let mut made: Vec<Bound<'py, PyAny>> = Vec::with_capacity(records.len());
    let unpacked_records = records.iter().map(|record| record.extract::<Record<'py>>());
    let records = unpacked_records.collect::<PyResult<Vec<_>>>()?;
    // They are made now, in the order in which they were made where they come from.
    let mut order: Vec<u64> = records.iter().map(|record| record.0).collect();
    order.sort_unstable();
    let first = N_MADE.fetch_add(records.len() as u64, Ordering::Relaxed);
    for record in records {
        let n_before = order.partition_point(|&other| other < record.0);
        let delayed = unpacked(record, first + n_before as u64, &made)?;
        made.push(delayed);
    }
    made.pop()
        .ok_or_else(|| PyValueError::new_err("no records of a Delayed"))
}

fn unpacked<'py>(
    record: Record<'py>,
    sequence: u64,
    made: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let (_, kind, flags, n_outputs, key, callee, args, kwargs, needs) = record;
    let (is_pure, holds_delayed, has_chosen_key) = flags;
    let py = key.py();
    let follow = |link: &Bound<'py, PyAny>| -> PyResult<Bound<'py, PyAny>> {
        let place = link.cast::<Link>()?.get().place;
        let delayed = made.get(place).cloned();
        delayed.ok_or_else(|| PyValueError::new_err(format!("no Delayed number {place}")))
    };
    let kind = kind_numbered(kind)?;
    let callee = match (kind, callee) {
        (Kind::Call, Some(link)) => Some(follow(&link)?),
        (_, callee) => callee,
    };
    let (args, kwargs) = if holds_delayed {
        let mut on_found =
            |link: &Bound<'py, PyAny>| follow(link).map(|it| Arg::Value(it.unbind()));
        let mut scanner = Scanner::for_wanted(is_link, &mut on_found);
        replace_in(&args, kwargs.as_ref(), &mut scanner)?
    } else {
        (args, kwargs)
    };
    if needs.is_some() {
        // Whoever computes it looks whether anybody has spoken of resources.
        py.import(intern!(py, "manyhands._resources"))?;
    }
    let delayed = Delayed {
        kind,
        is_pure,
        holds_delayed,
        has_chosen_key,
        is_acyclic: false,
        n_outputs,
        callee: callee.map(Bound::unbind),
        args: args.unbind(),
        kwargs: kwargs.map(Bound::unbind),
        needs: needs.map(Needed::new).transpose()?,
        key: known_key(key),
        sequence,
        mark: AtomicU64::new(0),
    };
    if kind == Kind::Data {
        return Ok(delayed.into_leaf(py)?.into_any());
    }
    Ok(Bound::new(py, delayed)?.into_any())
}

fn kind_numbered(number: u8) -> PyResult<Kind> {
    const KINDS: [Kind; 6] = [
        Kind::Data,
        Kind::Call,
        Kind::Apply,
        Kind::Operator,
        Kind::Attribute,
        Kind::Method,
    ];
    let kind = KINDS.into_iter().find(|kind| *kind as u8 == number);
    kind.ok_or_else(|| PyValueError::new_err(format!("no kind {number} of Delayed")))
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Link>()?;
    module.add_function(wrap_pyfunction!(_rebuild_delayed, module)?)
}
