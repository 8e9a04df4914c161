//! Looks through arguments for Delayed objects, and marks their places.
//!
//! Looked into are the collections that Dask looks into, and their nearest relatives: list, tuple,
//! named tuple, set, frozenset, dict, OrderedDict, defaultdict, slice and instances of dataclasses.
//! Everything else is opaque. Iterators over a list, a tuple or a set are read into one.

use crate::call::{Arg, DataclassArg, Items, NESTING_MAX, set_field, shallow_copy};
use crate::delayed::{Delayed, DelayedLeaf};
use pyo3::exceptions::PyRecursionError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyNone, PySet, PySlice, PyString,
    PyTuple, PyType,
};
use std::collections::HashMap;

/// Whether `object` is a Delayed.
#[inline]
pub(crate) fn is_delayed(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<Delayed>() || object.is_exact_instance_of::<DelayedLeaf>()
}

/// Whether nothing can be inside `object`, as far as its type tells at a glance.
#[inline]
pub(crate) fn is_atom(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyNone>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyBytes>()
}

/// What to do with the objects that the search is for.
type OnFound<'a, 'py> = dyn FnMut(&Bound<'py, PyAny>) -> PyResult<Arg> + 'a;

/// Collections in which nothing was found, by address; they are kept, so that no other one comes
/// to lie there.
pub(crate) type KnownPlain = HashMap<usize, Py<PyAny>>;

/// A search through one argument after another.
pub(crate) struct Scanner<'a, 'py> {
    is_wanted: fn(&Bound<'_, PyAny>) -> bool,
    on_found: &'a mut OnFound<'a, 'py>,
    /// Large collections known to hold nothing; only where nobody changes them between arguments.
    known_plain: Option<&'a mut KnownPlain>,
    /// The collections around the current object, to notice one that holds itself.
    path: Vec<usize>,
    met_cycle: bool,
}

impl<'a, 'py> Scanner<'a, 'py> {
    /// A search for Delayed objects.
    pub(crate) fn new(on_found: &'a mut OnFound<'a, 'py>) -> Scanner<'a, 'py> {
        Scanner::for_wanted(is_delayed, on_found)
    }

    pub(crate) fn for_wanted(
        is_wanted: fn(&Bound<'_, PyAny>) -> bool,
        on_found: &'a mut OnFound<'a, 'py>,
    ) -> Scanner<'a, 'py> {
        Scanner {
            is_wanted,
            on_found,
            known_plain: None,
            path: Vec::new(),
            met_cycle: false,
        }
    }

    /// Remembers large collections in which nothing was found, and skips them next time.
    pub(crate) fn remembering(self, known_plain: &'a mut KnownPlain) -> Scanner<'a, 'py> {
        Scanner {
            known_plain: Some(known_plain),
            ..self
        }
    }

    /// What `object` turns into; None where nothing is in it and it stays as it is.
    ///
    /// # Errors
    ///
    /// RecursionError for collections nested too deeply; what the callback raises.
    pub(crate) fn scan(&mut self, object: &Bound<'py, PyAny>) -> PyResult<Option<Arg>> {
        if is_atom(object) {
            return Ok(None);
        }
        if (self.is_wanted)(object) {
            return (self.on_found)(object).map(Some);
        }
        let shape = shape_of(object)?;
        if matches!(shape, Shape::Opaque) {
            return Ok(None);
        }
        let address = object.as_ptr() as usize;
        if self.path.contains(&address) {
            self.met_cycle = true;
            return Ok(None);
        }
        if self.path.len() >= NESTING_MAX {
            return Err(PyRecursionError::new_err(format!(
                "an argument holds collections nested more than {NESTING_MAX} deep"
            )));
        }
        if self
            .known_plain
            .as_ref()
            .is_some_and(|plain| plain.contains_key(&address))
        {
            return Ok(None);
        }
        self.path.push(address);
        let found = self.scan_inside(object, shape);
        self.path.pop();
        let found = found?;
        self.remember(object, found.is_none());
        Ok(found)
    }

    fn remember(&mut self, object: &Bound<'py, PyAny>, is_plain: bool) {
        const N_ITEMS_MIN: usize = 64;
        // Inside a cycle "nothing found" may mean "not looked at again".
        if !is_plain || self.met_cycle {
            return;
        }
        if let Some(plain) = &mut self.known_plain
            && object.len().is_ok_and(|n_items| n_items >= N_ITEMS_MIN)
        {
            plain.insert(object.as_ptr() as usize, object.clone().unbind());
        }
    }

    fn scan_inside(
        &mut self,
        object: &Bound<'py, PyAny>,
        shape: Shape<'py>,
    ) -> PyResult<Option<Arg>> {
        Ok(match shape {
            Shape::Opaque => None,
            Shape::List => {
                let list = object.cast::<PyList>()?;
                self.scan_all(&|i| item_of_list(list, i))?.map(Arg::List)
            }
            Shape::Tuple => {
                let tuple = object.cast::<PyTuple>()?;
                self.scan_all(&|i| item_of_tuple(tuple, i))?.map(Arg::Tuple)
            }
            Shape::NamedTuple => {
                let tuple = object.cast::<PyTuple>()?;
                let named_type = object.get_type().unbind();
                self.scan_all(&|i| item_of_tuple(tuple, i))?
                    .map(|items| Arg::NamedTuple(Box::new((named_type, items))))
            }
            Shape::Set => self.scan_set(object)?.map(Arg::Set),
            Shape::FrozenSet => self.scan_set(object)?.map(Arg::FrozenSet),
            Shape::Dict => self.scan_items(object.cast::<PyDict>()?)?.map(Arg::Dict),
            Shape::Mapping => match self.scan_items(object.cast::<PyDict>()?)? {
                None => None,
                Some(items) => {
                    let blank = shallow_copy(object)?;
                    blank.call_method0(intern!(object.py(), "clear"))?;
                    Some(Arg::Mapping(Box::new((blank.unbind(), items))))
                }
            },
            Shape::Slice => self.scan_slice(object)?,
            Shape::Dataclass => self.scan_dataclass(object)?,
            Shape::Iterator(collection) => {
                let collected = collection.call1((object,))?;
                match self.scan(&collected)? {
                    None => Some(Arg::Value(collected.unbind())),
                    found => found,
                }
            }
        })
    }

    /// The arguments that a sequence of items turns into; None where all stay as they are.
    fn scan_all(
        &mut self,
        item_at: &dyn Fn(usize) -> Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Box<[Arg]>>> {
        let mut found: Option<Vec<Arg>> = None;
        let mut i = 0;
        while let Some(item) = item_at(i) {
            let arg = self.scan(&item)?;
            match (&mut found, arg) {
                (None, None) => {}
                (None, Some(arg)) => {
                    let before = (0..i).map_while(item_at);
                    let mut args: Vec<_> = before.map(|item| Arg::Value(item.unbind())).collect();
                    args.push(arg);
                    found = Some(args);
                }
                (Some(args), arg) => args.push(arg.unwrap_or_else(|| Arg::Value(item.unbind()))),
            }
            i += 1;
        }
        Ok(found.map(Vec::into_boxed_slice))
    }

    fn scan_set(&mut self, set: &Bound<'py, PyAny>) -> PyResult<Option<Box<[Arg]>>> {
        // A set may not change while it is walked, and looking into an item may run code.
        let items = set.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        self.scan_all(&|i| items.get(i).cloned())
    }

    fn scan_items(&mut self, dict: &Bound<'py, PyDict>) -> PyResult<Option<Items>> {
        if dict
            .iter()
            .all(|(key, value)| is_atom(&key) && is_atom(&value))
        {
            return Ok(None);
        }
        // Nor may a dict; see above.
        let items: Vec<_> = dict.iter().collect();
        let mut is_plain = true;
        let mut args = Vec::with_capacity(items.len());
        for (key, value) in items {
            let key_arg = self.scan(&key)?;
            let value_arg = self.scan(&value)?;
            is_plain &= key_arg.is_none() && value_arg.is_none();
            args.push((
                key_arg.unwrap_or_else(|| Arg::Value(key.unbind())),
                value_arg.unwrap_or_else(|| Arg::Value(value.unbind())),
            ));
        }
        Ok((!is_plain).then(|| args.into_boxed_slice()))
    }

    fn scan_slice(&mut self, slice: &Bound<'py, PyAny>) -> PyResult<Option<Arg>> {
        let py = slice.py();
        let bounds = [
            slice.getattr(intern!(py, "start"))?,
            slice.getattr(intern!(py, "stop"))?,
            slice.getattr(intern!(py, "step"))?,
        ];
        let args = self.scan_all(&|i| bounds.get(i).cloned())?;
        let args = args.map(|args| args.into_vec().try_into());
        Ok(match args {
            Some(Ok(bounds)) => Some(Arg::Slice(Box::new(bounds))),
            _ => None,
        })
    }

    fn scan_dataclass(&mut self, instance: &Bound<'py, PyAny>) -> PyResult<Option<Arg>> {
        static FIELDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = instance.py();
        let fields_of = FIELDS.import(py, "dataclasses", "fields")?;
        let mut found = Vec::new();
        for field in fields_of.call1((instance,))?.try_iter()? {
            let name = field?
                .getattr(intern!(py, "name"))?
                .cast_into::<PyString>()?;
            // A field that was never set, or deleted, holds nothing.
            let Some(value) = instance.getattr_opt(&name)? else {
                continue;
            };
            if let Some(arg) = self.scan(&value)? {
                found.push((name.unbind(), arg));
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        let blank = shallow_copy(instance)?;
        let none = py.None().into_bound(py);
        for (name, _) in &found {
            set_field(&blank, name.bind(py), &none)?;
        }
        Ok(Some(Arg::Dataclass(Box::new(DataclassArg {
            blank: blank.unbind(),
            fields: found.into_boxed_slice(),
        }))))
    }
}

// Without the error that `get_item` would make at the end.

fn item_of_list<'py>(list: &Bound<'py, PyList>, i: usize) -> Option<Bound<'py, PyAny>> {
    (i < list.len()).then(|| list.get_item(i).ok()).flatten()
}

fn item_of_tuple<'py>(tuple: &Bound<'py, PyTuple>, i: usize) -> Option<Bound<'py, PyAny>> {
    (i < tuple.len()).then(|| tuple.get_item(i).ok()).flatten()
}

/// How to look into an object.
enum Shape<'py> {
    List,
    Tuple,
    NamedTuple,
    Set,
    FrozenSet,
    Dict,
    /// A dict of another type that is refilled after a copy was cleared.
    Mapping,
    Slice,
    Dataclass,
    /// An iterator over a collection of the type given here.
    Iterator(Bound<'py, PyType>),
    Opaque,
}

fn shape_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Shape<'py>> {
    let py = object.py();
    Ok(if object.is_exact_instance_of::<PyList>() {
        Shape::List
    } else if object.is_exact_instance_of::<PyTuple>() {
        Shape::Tuple
    } else if object.is_exact_instance_of::<PyDict>() {
        Shape::Dict
    } else if object.is_exact_instance_of::<PySet>() {
        Shape::Set
    } else if object.is_exact_instance_of::<PyFrozenSet>() {
        Shape::FrozenSet
    } else if object.is_exact_instance_of::<PySlice>() {
        Shape::Slice
    } else if object.is_instance_of::<PyTuple>() {
        let is_named = object.get_type().hasattr(intern!(py, "_fields"))?;
        if is_named {
            Shape::NamedTuple
        } else {
            Shape::Opaque
        }
    } else if object.is_instance_of::<PyDict>() {
        if is_refillable(object)? {
            Shape::Mapping
        } else {
            Shape::Opaque
        }
    } else if is_from_class_statement(object) {
        let class = object.get_type();
        // Asked of the class: objects with an answer to every question, mocks say, are no dataclasses.
        let is_dataclass = class.hasattr(intern!(py, "__dataclass_fields__"))?;
        if is_dataclass {
            Shape::Dataclass
        } else {
            Shape::Opaque
        }
    } else {
        iterator_shape(object)?
    })
}

/// Whether the class of `object` was made at run time, so that it can be a dataclass.
#[allow(unsafe_code)]
fn is_from_class_statement(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the type of a live object is a live type, and reading its flags has no conditions.
    let flags = unsafe { pyo3::ffi::PyType_GetFlags(object.get_type_ptr()) };
    flags & pyo3::ffi::Py_TPFLAGS_HEAPTYPE != 0
}

fn is_refillable(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    static ORDERED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static DEFAULT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = object.py();
    let class = object.get_type();
    Ok(class.is(ORDERED.import(py, "collections", "OrderedDict")?)
        || class.is(DEFAULT.import(py, "collections", "defaultdict")?))
}

fn iterator_shape<'py>(object: &Bound<'py, PyAny>) -> PyResult<Shape<'py>> {
    static TYPES: PyOnceLock<[(Py<PyType>, Py<PyType>); 3]> = PyOnceLock::new();
    let py = object.py();
    let types = TYPES.get_or_try_init(py, || -> PyResult<_> {
        let of = |collection: Bound<'py, PyType>| -> PyResult<_> {
            let iterator = collection.call0()?.try_iter()?;
            Ok((iterator.get_type().unbind(), collection.unbind()))
        };
        Ok([
            of(py.get_type::<PyList>())?,
            of(py.get_type::<PyTuple>())?,
            of(py.get_type::<PySet>())?,
        ])
    })?;
    let class = object.get_type_ptr();
    let found = types
        .iter()
        .find(|(iterator, _)| iterator.as_ptr() == class.cast());
    Ok(match found {
        Some((_, collection)) => Shape::Iterator(collection.bind(py).clone()),
        None => Shape::Opaque,
    })
}
