//! `print` in tasks that run in threads: it writes a line in several pieces, between which other threads may write. What
//! is installed here writes it in one.
//!
//! Nothing is held back, and no stream is touched: one call of `print` is one of the stream's `write`.

use crate::interpreter::{in_task, is_of_pool};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyList, PyString, PyTuple};

/// The interpreter's own `print`, and ours.
struct Prints {
    own: Py<PyAny>,
    whole: Py<PyAny>,
}

static PRINTS: PyOnceLock<Prints> = PyOnceLock::new();

/// Has `print` be ours, unless somebody has put something else there. Called when a pool of threads is made; it stays for
/// good, as it does what the interpreter's own does for all others.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    let builtins = py.import(intern!(py, "builtins"))?;
    let name = intern!(py, "print");
    let there = builtins.getattr(name)?;
    if !there.is_instance_of::<PyCFunction>() {
        return Ok(());
    }
    let prints = PRINTS.get_or_try_init(py, || {
        let whole = wrap_pyfunction!(print, py)?;
        // It is pickled by its name: as the other process's own.
        whole.setattr(intern!(py, "__module__"), intern!(py, "builtins"))?;
        Ok::<_, PyErr>(Prints {
            own: there.clone().unbind(),
            whole: whole.into_any().unbind(),
        })
    })?;
    if there.is(&prints.own) {
        builtins.setattr(name, prints.whole.bind(py))?;
    }
    Ok(())
}

/// Ours in the place of the interpreter's own, which may have been taken before ours was there; any other function itself.
#[inline]
pub(crate) fn whole<'a, 'py: 'a>(function: &'a Bound<'py, PyAny>) -> &'a Bound<'py, PyAny> {
    let py = function.py();
    match PRINTS.get(py) {
        Some(prints) if function.is(&prints.own) => prints.whole.bind(py),
        _ => function,
    }
}

/// Prints the values to a stream, or to sys.stdout by default.
///
/// sep
///   string inserted between values, default a space.
/// end
///   string appended after the last value, default a newline.
/// file
///   a file-like object (stream); defaults to the current sys.stdout.
/// flush
///   whether to forcibly flush the stream.
#[pyfunction]
#[pyo3(signature = (*args, **kwargs), text_signature = "(*args, sep=' ', end='\\n', file=None, flush=False)")]
fn print(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    let py = args.py();
    if is_of_pool()
        && in_task()
        && let Some(wanted) = Wanted::of(py, kwargs)?
    {
        return wanted.print(args);
    }
    let Some(prints) = PRINTS.get(py) else {
        return Err(PyTypeError::new_err("print is not installed"));
    };
    prints.own.bind(py).call(args, kwargs).map(drop)
}

/// What the keywords say.
struct Wanted<'py> {
    sep: Bound<'py, PyString>,
    end: Bound<'py, PyString>,
    file: Bound<'py, PyAny>,
    is_flushed: bool,
}

impl<'py> Wanted<'py> {
    /// None where something is not as it should be: the interpreter's own says what, with its own words.
    fn of(py: Python<'py>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Option<Wanted<'py>>> {
        let mut n_known = 0;
        let mut find = |name: &Bound<'py, PyString>| -> PyResult<Option<Bound<'py, PyAny>>> {
            let found = kwargs
                .map(|kwargs| kwargs.get_item(name))
                .transpose()?
                .flatten();
            n_known += usize::from(found.is_some());
            Ok(found.filter(|value| !value.is_none()))
        };
        let sep = find(intern!(py, "sep"))?;
        let end = find(intern!(py, "end"))?;
        let file = find(intern!(py, "file"))?;
        let flush = find(intern!(py, "flush"))?;
        if kwargs.map_or(0, PyDictMethods::len) != n_known {
            return Ok(None);
        }
        let text = |value: Option<Bound<'py, PyAny>>, usual: &Bound<'py, PyString>| match value {
            Some(value) => value.cast_into::<PyString>().ok(),
            None => Some(usual.clone()),
        };
        let texts = (text(sep, intern!(py, " ")), text(end, intern!(py, "\n")));
        let (Some(sep), Some(end)) = texts else {
            return Ok(None);
        };
        let file = match file {
            Some(file) => Some(file),
            None => (py.import(intern!(py, "sys"))?).getattr_opt(intern!(py, "stdout"))?,
        };
        let Some(file) = file else {
            return Ok(None);
        };
        let is_flushed = flush.map_or(Ok(false), |flush| flush.is_truthy())?;
        Ok(Some(Wanted {
            sep,
            end,
            file,
            is_flushed,
        }))
    }

    fn print(&self, args: &Bound<'py, PyTuple>) -> PyResult<()> {
        let py = args.py();
        if self.file.is_none() {
            return Ok(());
        }
        let values = args.iter().map(|value| value.str());
        let values = PyList::new(py, values.collect::<PyResult<Vec<_>>>()?)?;
        let line = self.sep.call_method1(intern!(py, "join"), (values,))?;
        let line = line.add(&self.end)?;
        self.file.call_method1(intern!(py, "write"), (line,))?;
        if self.is_flushed {
            self.file.call_method0(intern!(py, "flush"))?;
        }
        Ok(())
    }
}
