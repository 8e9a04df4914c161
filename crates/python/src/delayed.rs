//! Delayed: a call that has been written down and not made yet.
//!
//! A Delayed is immutable. It holds the arguments as they were given; lists and other collections
//! that hold further Delayed are copied at that moment, so that changing them later changes
//! nothing. It is made a million times in a row by programs that loop over folds or replicates:
//! everything that is not needed at once (its key above all) is made when it is asked for.
//!
//! Every Delayed keeps what it is made of in its tuple of arguments. CPython destroys long chains
//! of tuples without deep recursion, and so chains of Delayed too.

mod cycles;
mod describe;
pub(crate) mod key;
mod methods;
mod pickle;

pub(crate) use describe::{describe, describe_call};

use crate::call::{Arg, no_input, rebuild, rebuild_tuple};
use crate::needs::{Amounts, Needed};
use crate::scan::{Scanner, is_atom, is_delayed};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a Delayed stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// An object, the only argument.
    Data,
    /// A call of the object in the leaf that is the callee.
    Call,
    /// A call of the first argument, a Delayed that is no leaf.
    Apply,
    /// A call of the callee, a function of the `operator` module.
    Operator,
    /// `getattr` of the two arguments.
    Attribute,
    /// A call of the callee, a [`MethodCaller`], on the object that is the first argument.
    Method,
}

/// A lazy value: an object, or a call with its arguments, that runs when it is computed.
///
/// Made by `manyhands.delayed`. Calling it, taking an attribute or an item of it, and using it in an
/// expression make further tasks; it cannot be changed, and has no truth and, unless it was made with
/// `nout`, no length.
///
/// Examples
/// --------
/// >>> import manyhands as mh
/// >>> words = mh.delayed(["light", "work"])
/// >>> both = words[0] + " " + words[1]
/// >>> isinstance(both, mh.Delayed)
/// True
/// >>> both.upper().compute()
/// 'LIGHT WORK'
#[pyclass(frozen, subclass, weakref, mapping, module = "manyhands")]
pub(crate) struct Delayed {
    pub(crate) kind: Kind,
    /// Whether equal arguments mean equal results, so that the content makes the key.
    pub(crate) is_pure: bool,
    /// Whether a Delayed is somewhere in the arguments.
    pub(crate) holds_delayed: bool,
    /// Whether the user chose the key.
    pub(crate) has_chosen_key: bool,
    /// Whether the garbage collector need not know it; see [`cycles`].
    pub(crate) is_acyclic: bool,
    pub(crate) n_outputs: Option<u32>,
    pub(crate) callee: Option<Py<PyAny>>,
    pub(crate) args: Py<PyTuple>,
    pub(crate) kwargs: Option<Py<PyDict>>,
    /// What the task needs while it runs; of a leaf, what the calls of it need. None where nobody has said.
    pub(crate) needs: Option<Needed>,
    pub(crate) key: PyOnceLock<Py<PyAny>>,
    /// The number of Delayed made before this one in this process.
    pub(crate) sequence: u64,
    /// For the walk that is collecting tasks: where it has put this one.
    pub(crate) mark: AtomicU64,
}

// A Delayed that holds an object, a function most often. No documentation of its own: `__doc__` is
// that of the object.
#[pyclass(frozen, extends = Delayed, name = "DelayedLeaf", module = "manyhands")]
pub(crate) struct DelayedLeaf;

/// Calls a method by its name; a stand-in for the function of a method call.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct MethodCaller {
    #[pyo3(get, name = "__name__")]
    name: Py<PyString>,
}

static N_MADE: AtomicU64 = AtomicU64::new(0);

/// What the keywords of a call say about the Delayed rather than to the function.
#[derive(Default)]
struct Directives<'py> {
    is_pure: Option<bool>,
    key: Option<Bound<'py, PyAny>>,
}

impl<'py> Directives<'py> {
    /// Takes `pure` and `dask_key_name` out of `kwargs`.
    fn take_from(kwargs: &Bound<'py, PyDict>) -> PyResult<Directives<'py>> {
        let py = kwargs.py();
        let mut directives = Directives::default();
        if let Some(pure) = kwargs.get_item(intern!(py, "pure"))? {
            kwargs.del_item(intern!(py, "pure"))?;
            directives.is_pure = (!pure.is_none()).then(|| pure.is_truthy()).transpose()?;
        }
        if let Some(key) = kwargs.get_item(intern!(py, "dask_key_name"))? {
            kwargs.del_item(intern!(py, "dask_key_name"))?;
            if !key.is_none() {
                directives.key = Some(key::checked_key("dask_key_name", key)?);
            }
        }
        Ok(directives)
    }
}

impl Delayed {
    /// A Delayed of this kind with these arguments; collections in them are copied where they
    /// hold a Delayed.
    fn build<'py>(
        kind: Kind,
        callee: Option<&Bound<'py, PyAny>>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Delayed> {
        let captured = captured_args(args)?;
        let mut holds_delayed = captured.holds_delayed;
        let mut is_acyclic = captured.is_acyclic;
        let kwargs = match kwargs {
            Some(kwargs) if !kwargs.is_empty() => {
                let captured: Seen = capture_kwargs(kwargs)?;
                holds_delayed |= captured.a_delayed;
                is_acyclic &= !captured.a_cyclic;
                Some(kwargs.clone().unbind())
            }
            _ => None,
        };
        Ok(Delayed {
            kind,
            is_pure: false,
            holds_delayed,
            has_chosen_key: false,
            is_acyclic: is_acyclic && callee.is_none_or(cycles::is_acyclic),
            n_outputs: None,
            callee: callee.map(|callee| callee.clone().unbind()),
            args: captured.args.unbind(),
            kwargs,
            needs: Needed::in_block(),
            key: PyOnceLock::new(),
            sequence: N_MADE.fetch_add(1, Ordering::Relaxed),
            mark: AtomicU64::new(0),
        })
    }

    fn with_key(self, key: Option<Bound<'_, PyAny>>) -> Delayed {
        match key {
            None => self,
            Some(key) => Delayed {
                has_chosen_key: true,
                key: known_key(key),
                ..self
            },
        }
    }

    fn into_bound<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, Delayed>> {
        let is_acyclic = self.is_acyclic;
        let args = is_acyclic.then(|| self.args.clone_ref(py));
        let delayed = Bound::new(py, self)?;
        if let Some(args) = args {
            cycles::untrack(args.bind(py));
            cycles::untrack(&delayed);
        }
        Ok(delayed)
    }

    /// The object of a leaf, or of the leaf that a call calls.
    pub(crate) fn leaf_object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match (self.kind, &self.callee) {
            (Kind::Data, _) => self.args.bind(py).get_item(0).ok(),
            (Kind::Call, Some(leaf)) => {
                let leaf = leaf.bind(py).cast::<Delayed>().ok()?;
                leaf.get().args.bind(py).get_item(0).ok()
            }
            _ => None,
        }
    }

    /// The function that is called, where it is known before the task runs.
    pub(crate) fn function(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let function = match self.kind {
            Kind::Call => self.leaf_object(py).map(Bound::unbind),
            _ => self.callee.as_ref().map(|callee| callee.clone_ref(py)),
        };
        function.ok_or_else(|| PyTypeError::new_err("this Delayed is no call of a known function"))
    }

    /// Whether this is an object without Delayed in it, and never becomes a task.
    pub(crate) fn is_plain_data(&self) -> bool {
        self.kind == Kind::Data && !self.holds_delayed
    }

    /// Calls a Delayed.
    fn call<'py>(
        slf: &Bound<'py, Delayed>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Delayed>> {
        let py = slf.py();
        let this = slf.get();
        let directives = match kwargs {
            Some(kwargs) => Directives::take_from(kwargs)?,
            None => Directives::default(),
        };
        let made = match this.kind {
            Kind::Data if !this.holds_delayed => {
                let called = Delayed::build(Kind::Call, Some(slf.as_any()), args, kwargs)?;
                Delayed {
                    is_pure: directives.is_pure.unwrap_or(this.is_pure),
                    n_outputs: this.n_outputs,
                    needs: this.needs.or(called.needs),
                    ..called
                }
            }
            Kind::Attribute => {
                let parts = this.args.bind(py);
                let callee = method_caller(parts.get_item(1)?.cast::<PyString>()?)?;
                let args = prefixed(&parts.get_item(0)?, args)?;
                let called = Delayed::build(Kind::Method, Some(&callee), &args, kwargs)?;
                // `model.fit(x)` needs what `model` was said to need.
                let said = leaf_needs(&parts.get_item(0)?);
                Delayed {
                    is_pure: directives.is_pure.unwrap_or(false),
                    needs: said.or(called.needs),
                    ..called
                }
            }
            _ => {
                let args = prefixed(slf.as_any(), args)?;
                let called = Delayed::build(Kind::Apply, None, &args, kwargs)?;
                Delayed {
                    is_pure: directives.is_pure.unwrap_or(false),
                    ..called
                }
            }
        };
        made.with_key(directives.key).into_bound(py)
    }

    /// An operator, a function of the `operator` module, applied to operands in this order.
    fn operate<'py>(
        operator: &Bound<'py, PyAny>,
        operands: &[&Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, Delayed>> {
        let operands = PyTuple::new(operator.py(), operands)?;
        Delayed::pure(Kind::Operator, operator, &operands)
    }

    fn attribute<'py>(
        slf: &Bound<'py, Delayed>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, Delayed>> {
        static GETATTR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        let getattr = GETATTR.import(py, "builtins", "getattr")?;
        let args = PyTuple::new(py, [slf.as_any(), name.as_any()])?;
        Delayed::pure(Kind::Attribute, getattr, &args)
    }

    fn pure<'py>(
        kind: Kind,
        callee: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, Delayed>> {
        let mut made = Delayed::build(kind, Some(callee), args, None)?;
        made.is_pure = true;
        // Operators and `getattr` are functions of built-in modules.
        made.is_acyclic = args.iter_borrowed().all(|arg| cycles::is_acyclic(&arg));
        if kind == Kind::Attribute {
            made.needs = leaf_needs(&args.get_item(0)?).or(made.needs);
        }
        made.into_bound(args.py())
    }
}

/// What calls of a leaf, and of its methods, need, if it was said.
fn leaf_needs(object: &Bound<'_, PyAny>) -> Option<Needed> {
    let leaf = object.cast::<Delayed>().ok()?.get();
    let is_leaf = leaf.kind == Kind::Data;
    leaf.needs.filter(|_| is_leaf)
}

fn known_key(key: Bound<'_, PyAny>) -> PyOnceLock<Py<PyAny>> {
    let cell = PyOnceLock::new();
    cell.get_or_init(key.py(), || key.clone().unbind());
    cell
}

fn prefixed<'py>(
    first: &Bound<'py, PyAny>,
    rest: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyTuple>> {
    let first = std::iter::once(first.clone());
    let all: Vec<_> = first.chain(rest.iter()).collect();
    PyTuple::new(rest.py(), all)
}

/// Arguments as they were at the time of the call.
struct Captured<'py> {
    args: Bound<'py, PyTuple>,
    holds_delayed: bool,
    is_acyclic: bool,
}

fn captured_args<'py>(args: &Bound<'py, PyTuple>) -> PyResult<Captured<'py>> {
    let mut seen = Seen::default();
    args.iter_borrowed().for_each(|arg| seen.see(&arg));
    let mut captured = Captured {
        args: args.clone(),
        holds_delayed: seen.a_delayed,
        is_acyclic: !seen.a_cyclic,
    };
    if !seen.a_collection {
        return Ok(captured);
    }
    let mut on_found = |found: &Bound<'py, PyAny>| {
        captured.holds_delayed = true;
        Ok(Arg::Value(found.clone().unbind()))
    };
    let mut scanner = Scanner::new(&mut on_found);
    let mut template = Vec::with_capacity(args.len());
    let mut is_changed = false;
    for arg in args.iter() {
        let found = scanner.scan(&arg)?;
        is_changed |= found.is_some() && !is_delayed(&arg);
        template.push(found.unwrap_or_else(|| Arg::Value(arg.unbind())));
    }
    if is_changed {
        captured.args = rebuild_tuple(args.py(), &template, &mut no_input)?;
    }
    Ok(captured)
}

/// Replaces the values of `kwargs` by what they are now.
fn capture_kwargs<'py>(kwargs: &Bound<'py, PyDict>) -> PyResult<Seen> {
    let py = kwargs.py();
    let mut seen = Seen::default();
    kwargs.iter().for_each(|(_, value)| seen.see(&value));
    if !seen.a_collection {
        return Ok(seen);
    }
    let mut on_found = |found: &Bound<'py, PyAny>| {
        seen.a_delayed = true;
        Ok(Arg::Value(found.clone().unbind()))
    };
    let mut scanner = Scanner::new(&mut on_found);
    for (name, value) in kwargs.iter().collect::<Vec<_>>() {
        if let Some(arg) = scanner.scan(&value)?
            && !is_delayed(&value)
        {
            kwargs.set_item(name, rebuild(py, &arg, &mut no_input)?)?;
        }
    }
    Ok(seen)
}

/// What there is among some arguments.
#[derive(Default)]
struct Seen {
    a_delayed: bool,
    /// Or anything else that must be looked into.
    a_collection: bool,
    a_cyclic: bool,
}

impl Seen {
    #[inline]
    fn see(&mut self, arg: &Bound<'_, PyAny>) {
        if is_atom(arg) {
            return;
        }
        if is_delayed(arg) {
            self.a_delayed = true;
        } else {
            self.a_collection = true;
        }
        self.a_cyclic |= !cycles::is_acyclic(arg);
    }
}

/// The method caller of this name: always the same, so that a job has it once.
fn method_caller<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    static CALLERS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let py = name.py();
    let callers = CALLERS
        .get_or_init(py, || PyDict::new(py).unbind())
        .bind(py);
    if let Some(caller) = callers.get_item(name)? {
        return Ok(caller);
    }
    let caller = Bound::new(
        py,
        MethodCaller {
            name: name.clone().unbind(),
        },
    )?;
    callers.set_item(name, &caller)?;
    Ok(caller.into_any())
}

#[pymethods]
impl MethodCaller {
    #[pyo3(signature = (object, *args, **kwargs))]
    fn __call__<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let method = object.getattr(self.name.bind(object.py()))?;
        method.call(args, kwargs)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<method caller {}>", self.name.bind(py))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let native = py.import(intern!(py, "manyhands._native"))?;
        let make = native.getattr(intern!(py, "_method_caller"))?;
        (make, (slf.get().name.bind(py),)).into_pyobject(py)
    }
}

/// The method caller of this name.
#[pyfunction]
fn _method_caller<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    method_caller(name)
}

/// `delayed(obj, ...)`, the arguments checked and filled in; `delayed.py` documents them.
#[pyfunction]
#[pyo3(signature = (obj, name, pure, nout, traverse, needs = None))]
fn _delayed<'py>(
    obj: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    pure: Option<bool>,
    nout: Option<&Bound<'py, PyAny>>,
    traverse: bool,
    needs: Option<Amounts>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = obj.py();
    let n_outputs = nout.map(checked_n_outputs).transpose()?;
    if is_delayed(obj) {
        return Ok(obj.clone());
    }
    let key = name
        .map(|name| key::checked_key("name", name))
        .transpose()?;
    let held = PyTuple::new(py, [obj])?;
    let captured = if traverse {
        captured_args(&held)?
    } else {
        Captured {
            args: held,
            holds_delayed: false,
            is_acyclic: false,
        }
    };
    let leaf = Delayed {
        kind: Kind::Data,
        is_pure: pure.unwrap_or(false),
        holds_delayed: captured.holds_delayed,
        has_chosen_key: false,
        is_acyclic: captured.is_acyclic || cycles::is_acyclic_callable(obj),
        n_outputs,
        callee: None,
        args: captured.args.unbind(),
        kwargs: None,
        needs: match needs {
            Some(amounts) => Some(Needed::new(amounts)?),
            // It becomes a task of its own, which puts together what it holds.
            None if captured.holds_delayed => Needed::in_block(),
            None => None,
        },
        key: PyOnceLock::new(),
        sequence: N_MADE.fetch_add(1, Ordering::Relaxed),
        mark: AtomicU64::new(0),
    };
    Ok(leaf.with_key(key).into_leaf(py)?.into_any())
}

impl Delayed {
    fn into_leaf(self, py: Python<'_>) -> PyResult<Bound<'_, DelayedLeaf>> {
        Bound::new(py, PyClassInitializer::from(self).add_subclass(DelayedLeaf))
    }
}

fn checked_n_outputs(nout: &Bound<'_, PyAny>) -> PyResult<u32> {
    let wrong = || {
        let shown = nout.repr().map(|text| text.to_string());
        let shown = shown.unwrap_or_else(|_| "something else".to_owned());
        PyValueError::new_err(format!(
            "nout must be None or a non-negative integer, got {shown}"
        ))
    };
    if !nout.is_exact_instance_of::<pyo3::types::PyInt>() {
        return Err(wrong());
    }
    nout.extract().map_err(|_| wrong())
}

fn immutable() -> PyErr {
    PyTypeError::new_err("Delayed objects are immutable")
}

/// Adds what this module gives to Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Delayed>()?;
    module.add_class::<DelayedLeaf>()?;
    module.add_class::<MethodCaller>()?;
    module.add_function(wrap_pyfunction!(_delayed, module)?)?;
    module.add_function(wrap_pyfunction!(_method_caller, module)?)?;
    describe::register(module)?;
    pickle::register(module)
}
