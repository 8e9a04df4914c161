//! Which Delayed the garbage collector needs to know.
//!
//! The collector looks at every object it tracks again and again while a program makes more; for a
//! million Delayed that takes several times as long as making them. So those that cannot be part
//! of a cycle are taken off its list. They are the ones whose function and arguments cannot lead
//! back to them: scalars and arrays cannot, nor can a function that sees nothing but its module,
//! for a module in `sys.modules` is never garbage. Where a program later ties such a function into
//! a cycle by hand, by an attribute for example, that cycle stays; nothing else can happen.

use super::Delayed;
use crate::scan::{is_atom, is_delayed};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyFunction, PyModule, PyTuple};

/// Whether nothing that `object` leads to can lead back to a Delayed made later.
#[inline]
pub(super) fn is_acyclic(object: &Bound<'_, PyAny>) -> bool {
    is_atom(object)
        || if is_delayed(object) {
            object
                .cast::<Delayed>()
                .is_ok_and(|delayed| delayed.get().is_acyclic)
        } else {
            !is_collectable(object)
        }
}

/// Whether `callable` sees nothing but its module, so that it may be called acyclic.
///
/// # Errors
///
/// None: what cannot be looked at is not acyclic.
pub(super) fn is_acyclic_callable(callable: &Bound<'_, PyAny>) -> bool {
    is_plain_function(callable).unwrap_or(false)
}

fn is_plain_function(callable: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = callable.py();
    if callable.is_exact_instance_of::<PyCFunction>() {
        let owner = callable.getattr(intern!(py, "__self__"))?;
        return Ok(owner.is_none() || owner.is_instance_of::<PyModule>());
    }
    if !callable.is_exact_instance_of::<PyFunction>() {
        return Ok(false);
    }
    let modules = py
        .import(intern!(py, "sys"))?
        .getattr(intern!(py, "modules"))?;
    let name = callable.getattr(intern!(py, "__module__"))?;
    let module = modules.call_method1(intern!(py, "get"), (name,))?;
    let globals = callable.getattr(intern!(py, "__globals__"))?;
    let sees_a_module = module
        .cast::<PyModule>()
        .is_ok_and(|module| module.dict().as_any().is(&globals));
    if !sees_a_module || !callable.getattr(intern!(py, "__dict__"))?.is_empty()? {
        return Ok(false);
    }
    if !callable.getattr(intern!(py, "__kwdefaults__"))?.is_none() {
        return Ok(false);
    }
    let defaults = callable.getattr(intern!(py, "__defaults__"))?;
    if let Ok(defaults) = defaults.cast::<PyTuple>()
        && !defaults.iter_borrowed().all(|value| is_acyclic(&value))
    {
        return Ok(false);
    }
    let closure = callable.getattr(intern!(py, "__closure__"))?;
    let Ok(cells) = closure.cast::<PyTuple>() else {
        return Ok(true);
    };
    for cell in cells.iter() {
        // An empty cell raises, and may be filled with anything later.
        if !is_acyclic(&cell.getattr(intern!(py, "cell_contents"))?) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[allow(unsafe_code)]
fn is_collectable(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the object is alive, and its type is asked for a fact without side effects.
    unsafe { pyo3::ffi::PyObject_IS_GC(object.as_ptr()) != 0 }
}

/// Takes an object off the collector's list.
#[allow(unsafe_code)]
pub(super) fn untrack(object: &Bound<'_, PyAny>) {
    // SAFETY: callers pass a Delayed or a tuple, whose types take part in collection; an object
    // that is off the list already stays so, and deallocation allows for it.
    unsafe { pyo3::ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) };
}
