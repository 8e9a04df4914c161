//! Short texts for tasks: `fit(fold=3, method='ridge')`.
//!
//! They stand in error messages, where a long text hides the point and a failing one hides the
//! error. So nothing large is ever written out in full, and nothing here raises.

use super::key::callable_name;
use super::{Delayed, Kind};
use crate::scan::is_delayed;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyNone, PySet, PyString, PyTuple,
    PyType,
};

const N_CHARACTERS_PER_ARGUMENT_MAX: usize = 40;
const N_CHARACTERS_MAX: usize = 200;
/// Collections with more items are only counted.
const N_ITEMS_MAX: usize = 6;
const DEPTH_MAX: u32 = 2;
/// Integers of more bits are not written out: that takes quadratic time.
const N_BITS_MAX: usize = 256;

/// The text for what `delayed` will do.
pub(crate) fn describe(delayed: &Bound<'_, Delayed>) -> String {
    let py = delayed.py();
    let this = delayed.get();
    if this.kind == Kind::Data {
        return short(this.args.bind(py).as_any().get_item(0).ok());
    }
    let kwargs = this.kwargs.as_ref().map(|kwargs| kwargs.bind(py));
    parenthesised(&this.name(py), this.args.bind(py), kwargs)
}

/// The text for a call of `function`.
pub(crate) fn describe_call(
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> String {
    parenthesised(&callable_name(function), args, kwargs)
}

fn parenthesised(
    name: &str,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> String {
    let mut text = format!("{}(", cut(name, N_CHARACTERS_PER_ARGUMENT_MAX));
    let mut is_first = true;
    let positional = args.iter().map(|value| (None, value));
    let named = kwargs.into_iter().flat_map(|kwargs| kwargs.iter());
    let named = named.map(|(name, value)| (Some(name), value));
    for (name, value) in positional.chain(named) {
        let mut argument = String::new();
        if !is_first {
            argument.push_str(", ");
        }
        is_first = false;
        if let Some(name) = name {
            let name = name
                .cast::<PyString>()
                .map(|name| name.to_string_lossy().into_owned());
            argument.push_str(&cut(
                &name.unwrap_or_default(),
                N_CHARACTERS_PER_ARGUMENT_MAX,
            ));
            argument.push('=');
        }
        argument.push_str(&short(Some(value)));
        // Room is kept for the mark of what is left out.
        if text.chars().count() + argument.chars().count() + ", …)".chars().count()
            > N_CHARACTERS_MAX
        {
            text.push_str(if text.ends_with('(') { "…" } else { ", …" });
            break;
        }
        text.push_str(&argument);
    }
    text.push(')');
    text
}

fn short(object: Option<Bound<'_, PyAny>>) -> String {
    let text = object.map_or_else(|| "?".to_owned(), |object| shown(&object, 0));
    cut(&text, N_CHARACTERS_PER_ARGUMENT_MAX)
}

fn cut(text: &str, n_characters_max: usize) -> String {
    if text.chars().count() <= n_characters_max {
        return text.to_owned();
    }
    let kept = text.chars().take(n_characters_max - 1);
    kept.chain(['…']).collect()
}

fn shown(object: &Bound<'_, PyAny>, depth: u32) -> String {
    if is_delayed(object) {
        return delayed_mark(object);
    }
    if object.is_instance_of::<PyString>() || object.is_instance_of::<PyBytes>() {
        return shown_text(object);
    }
    if let Some(text) = shown_collection(object, depth) {
        return text;
    }
    if is_written_out(object) {
        return represented(object);
    }
    if object.is_instance_of::<PyType>() {
        return callable_name(object);
    }
    if let Some(size) = size_of(object) {
        return format!("<{} {size}>", type_name(object));
    }
    if is_function(object) {
        return callable_name(object);
    }
    represented(object)
}

/// `<fit-831c8c16…>`: enough of the key to find the task.
fn delayed_mark(object: &Bound<'_, PyAny>) -> String {
    const N_DIGITS: usize = 8;
    let key = object
        .cast::<Delayed>()
        .ok()
        .and_then(|delayed| Delayed::key(delayed).ok())
        .and_then(|key| key.str().ok())
        .map(|key| key.to_string_lossy().into_owned());
    let Some(key) = key else {
        return "<Delayed>".to_owned();
    };
    let name_end = match key.len().checked_sub(36) {
        // A name and a UUID.
        Some(start) if key.is_char_boundary(start) && key[start..].matches('-').count() == 4 => {
            start
        }
        _ => key.rfind('-').map_or(key.len(), |dash| dash + 1),
    };
    let name = cut(
        &key[..name_end],
        N_CHARACTERS_PER_ARGUMENT_MAX - N_DIGITS - 3,
    );
    let digits: String = key[name_end..].chars().take(N_DIGITS).collect();
    let is_cut = key[name_end..].chars().count() > N_DIGITS;
    format!("<{name}{digits}{}>", if is_cut { "…" } else { "" })
}

fn shown_text(text: &Bound<'_, PyAny>) -> String {
    let n_items = text.len().unwrap_or(0);
    if n_items <= N_CHARACTERS_PER_ARGUMENT_MAX {
        return represented(text);
    }
    let py = text.py();
    let start = pyo3::types::PySlice::new(py, 0, N_CHARACTERS_PER_ARGUMENT_MAX as isize, 1);
    match text.get_item(start) {
        Ok(start) => represented(&start),
        Err(_) => format!("<{} of {n_items}>", type_name(text)),
    }
}

/// Small collections item by item, large ones by their size.
fn shown_collection(object: &Bound<'_, PyAny>, depth: u32) -> Option<String> {
    let is_exact = object.is_exact_instance_of::<PyList>()
        || object.is_exact_instance_of::<PyTuple>()
        || object.is_exact_instance_of::<PyDict>()
        || object.is_exact_instance_of::<PySet>()
        || object.is_exact_instance_of::<PyFrozenSet>();
    if !is_exact {
        return None;
    }
    let n_items = object.len().unwrap_or(0);
    if depth >= DEPTH_MAX || n_items > N_ITEMS_MAX {
        return Some(format!("<{} of {n_items}>", type_name(object)));
    }
    if let Ok(dict) = object.cast::<PyDict>() {
        let items: Vec<_> = dict
            .iter()
            .map(|(key, value)| format!("{}: {}", shown(&key, depth + 1), shown(&value, depth + 1)))
            .collect();
        return Some(format!("{{{}}}", items.join(", ")));
    }
    let items: Vec<_> = object
        .try_iter()
        .ok()?
        .flatten()
        .map(|item| shown(&item, depth + 1))
        .collect();
    let items = items.join(", ");
    Some(if object.is_instance_of::<PyList>() {
        format!("[{items}]")
    } else if object.is_instance_of::<PyTuple>() {
        let comma = if n_items == 1 { "," } else { "" };
        format!("({items}{comma})")
    } else if object.is_instance_of::<PySet>() && n_items > 0 {
        format!("{{{items}}}")
    } else if n_items == 0 {
        format!("{}()", type_name(object))
    } else {
        format!("frozenset({{{items}}})")
    })
}

/// Whether the representation is short for certain.
fn is_written_out(object: &Bound<'_, PyAny>) -> bool {
    if object.is_exact_instance_of::<PyInt>() {
        let n_bits = object.call_method0(intern!(object.py(), "bit_length"));
        return n_bits
            .and_then(|n_bits| n_bits.extract::<usize>())
            .is_ok_and(|n_bits| n_bits <= N_BITS_MAX);
    }
    object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyNone>()
}

/// "of 1000", or "(1000, 3) float64" for what has a shape.
fn size_of(object: &Bound<'_, PyAny>) -> Option<String> {
    let py = object.py();
    if object.is_instance_of::<PyInt>() {
        return Some("of many digits".to_owned());
    }
    let shape = object.getattr_opt(intern!(py, "shape")).ok().flatten();
    if let Some(shape) = shape.filter(|shape| shape.is_exact_instance_of::<PyTuple>()) {
        if shape.len().is_ok_and(|n_axes| n_axes == 0) {
            // A scalar that looks like an array.
            return None;
        }
        let dtype = object.getattr_opt(intern!(py, "dtype")).ok().flatten();
        let dtype = dtype.and_then(|dtype| dtype.str().ok());
        let dtype = dtype.map_or_else(String::new, |dtype| format!(" {dtype}"));
        return Some(format!("{}{dtype}", represented(&shape)));
    }
    object.len().ok().map(|n_items| format!("of {n_items}"))
}

fn is_function(object: &Bound<'_, PyAny>) -> bool {
    object.is_callable()
        && object
            .hasattr(intern!(object.py(), "__name__"))
            .unwrap_or(false)
}

fn type_name(object: &Bound<'_, PyAny>) -> String {
    let name = object.get_type().name();
    name.map_or_else(|_| "object".to_owned(), |name| name.to_string())
}

fn represented(object: &Bound<'_, PyAny>) -> String {
    match object.repr() {
        Ok(text) => text.to_string_lossy().replace('\n', " "),
        Err(_) => format!("<{}>", type_name(object)),
    }
}

/// The text for what a Delayed will do.
#[pyfunction(name = "_describe")]
fn describe_for_python(delayed: &Bound<'_, Delayed>) -> String {
    describe(delayed)
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(describe_for_python, module)?)
}
