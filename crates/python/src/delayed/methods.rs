//! The methods that Python sees on a Delayed.

use super::{Delayed, DelayedLeaf, immutable};
use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

/// Any Python object, as an operand.
type Any<'py> = Bound<'py, PyAny>;
type Lazy<'py> = PyResult<Bound<'py, Delayed>>;

/// The function of this name in the `operator` module, looked up once.
macro_rules! operator {
    ($py:expr, $name:literal) => {{
        static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        FUNCTION.import($py, "operator", $name)?
    }};
}

#[pymethods]
impl Delayed {
    /// The name of the task in its graph, unique to it.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> mh.delayed(abs)(-1, dask_key_name="one").key
    /// 'one'
    #[getter(key)]
    fn get_key<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        Delayed::key(slf)
    }

    /// The tasks that this one needs, and it, as a read-only mapping: a `Graph`.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> one = mh.delayed(abs)(-1, dask_key_name="one")
    /// >>> dict(mh.delayed(sum)([one], dask_key_name="total").graph)
    /// {'one': 'abs(-1)', 'total': 'sum([<one>])'}
    #[getter]
    fn graph<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        static GRAPH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        GRAPH.import(py, "manyhands.graph", "Graph")?.call1((slf,))
    }

    /// Draw the tasks that this one needs, and it.
    ///
    /// Parameters
    /// ----------
    /// filename : str, optional
    ///     Where the picture goes; see `Graph.visualize`.
    /// format : str, optional
    ///     What kind of picture, where the name does not end in it.
    /// optimize_graph : bool
    ///     Accepted for programs written for Dask; changes nothing.
    ///
    /// Returns
    /// -------
    /// str
    ///     The name of the file; without `filename`, the graph in the language of Graphviz.
    ///
    /// Raises
    /// ------
    /// Error
    ///     If Graphviz is needed and is not there.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> print(mh.delayed(abs)(-1).visualize())
    /// digraph manyhands {
    ///     rankdir=BT
    ///     node [shape=box, fontname=Helvetica]
    ///     t0 [label="abs(-1)"]
    /// }
    #[pyo3(signature = (filename = None, format = None, optimize_graph = false))]
    fn visualize<'py>(
        slf: &Bound<'py, Self>,
        filename: Option<Any<'py>>,
        format: Option<Any<'py>>,
        optimize_graph: bool,
    ) -> PyResult<Any<'py>> {
        let _ = optimize_graph;
        let graph = Delayed::graph(slf)?;
        graph.call_method1(intern!(slf.py(), "visualize"), (filename, format))
    }

    /// The same as `graph`, by the name it has in Dask.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> list(mh.delayed(abs)(-1, dask_key_name="one").dask)
    /// ['one']
    #[getter]
    fn dask<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        Delayed::graph(slf)
    }

    /// Run the tasks that this one needs, and it, and return its result.
    ///
    /// Parameters
    /// ----------
    /// **kwargs
    ///     Those of `manyhands.compute`: `scheduler`, `num_workers` and so on.
    ///
    /// Returns
    /// -------
    /// object
    ///     The result.
    ///
    /// Raises
    /// ------
    /// Exception
    ///     What a task raised; see `manyhands.compute`.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> mh.delayed(sum)([1, 2]).compute(scheduler="threads")
    /// 3
    #[pyo3(signature = (**kwargs))]
    fn compute<'py>(
        slf: &Bound<'py, Self>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Any<'py>> {
        let run = slf.py().import(intern!(slf.py(), "manyhands._run"))?;
        let results = run.getattr("compute")?.call((slf,), kwargs)?;
        results.get_item(0)
    }

    /// Run the tasks that this one needs, and it, and return a Delayed that holds the result.
    ///
    /// Parameters
    /// ----------
    /// **kwargs
    ///     Those of `manyhands.persist`: `scheduler`, `num_workers` and so on.
    ///
    /// Returns
    /// -------
    /// Delayed
    ///     Under the same key.
    ///
    /// Raises
    /// ------
    /// Exception
    ///     What a task raised; see `manyhands.compute`.
    ///
    /// Examples
    /// --------
    /// >>> import manyhands as mh
    /// >>> total = mh.delayed(sum)([1, 2]).persist()
    /// >>> (total + 1).compute()
    /// 4
    #[pyo3(signature = (**kwargs))]
    fn persist<'py>(
        slf: &Bound<'py, Self>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Any<'py>> {
        let run = slf.py().import(intern!(slf.py(), "manyhands._run"))?;
        let results = run.getattr("persist")?.call((slf,), kwargs)?;
        results.get_item(0)
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> Lazy<'py> {
        Delayed::call(slf, args, kwargs)
    }

    fn __getattr__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyString>) -> Lazy<'py> {
        if name.to_string_lossy().starts_with('_') {
            return Err(PyAttributeError::new_err(format!(
                "Attribute {name} not found"
            )));
        }
        Delayed::attribute(slf, name)
    }

    fn __setattr__(&self, _name: &Any<'_>, _value: &Any<'_>) -> PyResult<()> {
        Err(immutable())
    }

    fn __delattr__(&self, _name: &Any<'_>) -> PyResult<()> {
        Err(immutable())
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, index: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "getitem"), &[slf, index])
    }

    fn __setitem__(&self, _index: &Any<'_>, _value: &Any<'_>) -> PyResult<()> {
        Err(immutable())
    }

    fn __delitem__(&self, _index: &Any<'_>) -> PyResult<()> {
        Err(immutable())
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        let py = slf.py();
        let Some(n_outputs) = slf.get().n_outputs else {
            return Err(PyTypeError::new_err(
                "Delayed objects of unspecified length are not iterable",
            ));
        };
        let outputs = PyList::empty(py);
        for i in 0..n_outputs {
            let index = i.into_pyobject(py)?.into_any();
            outputs.append(Delayed::operate(operator!(py, "getitem"), &[slf, &index])?)?;
        }
        Ok(outputs.try_iter()?.into_any())
    }

    fn __len__(&self) -> PyResult<usize> {
        let n_outputs = self.n_outputs.ok_or_else(|| {
            PyTypeError::new_err("Delayed objects of unspecified length have no len()")
        })?;
        Ok(n_outputs as usize)
    }

    fn __bool__(&self) -> PyResult<bool> {
        Err(PyTypeError::new_err(
            "Truth of Delayed objects is not supported",
        ))
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        Delayed::key(slf)?.hash()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("Delayed({})", Delayed::key(slf)?.repr()?))
    }

    /// Binds a decorated method to its instance.
    fn __get__<'py>(
        slf: &Bound<'py, Self>,
        instance: &Any<'py>,
        _owner: Option<&Any<'py>>,
    ) -> PyResult<Any<'py>> {
        static METHOD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if instance.is_none() {
            return Ok(slf.clone().into_any());
        }
        let method = METHOD.import(slf.py(), "types", "MethodType")?;
        method.call1((slf, instance))
    }

    fn __copy__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __deepcopy__<'py>(slf: &Bound<'py, Self>, _memo: &Any<'py>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        super::pickle::reduce(slf)
    }

    fn __dask_tokenize__<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        Delayed::key(slf)
    }

    fn __dir__<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        let py = slf.py();
        py.get_type::<PyAny>()
            .call_method1(intern!(py, "__dir__"), (slf,))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.callee)?;
        visit.call(&self.args)?;
        visit.call(&self.kwargs)
    }

    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Any<'py>,
        operation: CompareOp,
    ) -> Lazy<'py> {
        let py = slf.py();
        let operator = match operation {
            CompareOp::Lt => operator!(py, "lt"),
            CompareOp::Le => operator!(py, "le"),
            CompareOp::Eq => operator!(py, "eq"),
            CompareOp::Ne => operator!(py, "ne"),
            CompareOp::Gt => operator!(py, "gt"),
            CompareOp::Ge => operator!(py, "ge"),
        };
        Delayed::operate(operator, &[slf, other])
    }

    fn __pow__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>, modulus: &Any<'py>) -> Lazy<'py> {
        if modulus.is_none() {
            return Delayed::operate(operator!(slf.py(), "pow"), &[slf, other]);
        }
        let pow = slf
            .py()
            .import(intern!(slf.py(), "builtins"))?
            .getattr("pow")?;
        Delayed::operate(&pow, &[slf, other, modulus])
    }

    fn __rpow__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>, _modulus: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "pow"), &[other, slf])
    }

    fn __add__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "add"), &[slf, other])
    }

    fn __radd__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "add"), &[other, slf])
    }

    fn __sub__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "sub"), &[slf, other])
    }

    fn __rsub__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "sub"), &[other, slf])
    }

    fn __mul__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "mul"), &[slf, other])
    }

    fn __rmul__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "mul"), &[other, slf])
    }

    fn __truediv__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "truediv"), &[slf, other])
    }

    fn __rtruediv__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "truediv"), &[other, slf])
    }

    fn __floordiv__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "floordiv"), &[slf, other])
    }

    fn __rfloordiv__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "floordiv"), &[other, slf])
    }

    fn __mod__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "mod"), &[slf, other])
    }

    fn __rmod__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "mod"), &[other, slf])
    }

    fn __matmul__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "matmul"), &[slf, other])
    }

    fn __rmatmul__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "matmul"), &[other, slf])
    }

    fn __lshift__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "lshift"), &[slf, other])
    }

    fn __rlshift__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "lshift"), &[other, slf])
    }

    fn __rshift__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "rshift"), &[slf, other])
    }

    fn __rrshift__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "rshift"), &[other, slf])
    }

    fn __and__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "and_"), &[slf, other])
    }

    fn __rand__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "and_"), &[other, slf])
    }

    fn __or__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "or_"), &[slf, other])
    }

    fn __ror__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "or_"), &[other, slf])
    }

    fn __xor__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "xor"), &[slf, other])
    }

    fn __rxor__<'py>(slf: &Bound<'py, Self>, other: &Any<'py>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "xor"), &[other, slf])
    }

    fn __neg__<'py>(slf: &Bound<'py, Self>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "neg"), &[slf])
    }

    fn __pos__<'py>(slf: &Bound<'py, Self>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "pos"), &[slf])
    }

    fn __abs__<'py>(slf: &Bound<'py, Self>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "abs"), &[slf])
    }

    fn __invert__<'py>(slf: &Bound<'py, Self>) -> Lazy<'py> {
        Delayed::operate(operator!(slf.py(), "invert"), &[slf])
    }
}

#[pymethods]
impl DelayedLeaf {
    #[getter]
    fn __name__<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        let name = intern!(slf.py(), "__name__");
        match held_callable(slf)?.and_then(|held| held.getattr_opt(name).transpose()) {
            Some(name) => name,
            None => Err(absent("__name__")),
        }
    }

    /// The text of what is held.
    #[getter]
    fn __doc__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Any<'py>>> {
        let held = slf.as_super().get().leaf_object(slf.py());
        held.map_or(Ok(None), |held| {
            held.getattr_opt(intern!(slf.py(), "__doc__"))
        })
    }

    #[getter]
    fn __wrapped__<'py>(slf: &Bound<'py, Self>) -> PyResult<Any<'py>> {
        held_callable(slf)?.ok_or_else(|| absent("__wrapped__"))
    }
}

fn held_callable<'py>(leaf: &Bound<'py, DelayedLeaf>) -> PyResult<Option<Any<'py>>> {
    let held = leaf.as_super().get().leaf_object(leaf.py());
    Ok(held.filter(|held| held.is_callable()))
}

fn absent(name: &str) -> PyErr {
    PyAttributeError::new_err(format!("Attribute {name} not found"))
}
