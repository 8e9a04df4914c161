//! Functions on their way to workers, with the large buffers that belong to them.

use super::sending::{Keeps, Sink, write_parts};
use super::stock::own;
use manyhands_executor::processes::ProcessPool;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::any::Any;
use std::sync::Arc;

/// A function's pickle. The large buffers among its globals, defaults and closure travel apart.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct PickledFunction {
    /// What stands before the pickle.
    head: Vec<u8>,
    pickle: Py<PyBytes>,
    keeps: Arc<Keeps>,
}

#[pymethods]
impl PickledFunction {
    #[new]
    pub(crate) fn new(py: Python<'_>, function: &Bound<'_, PyAny>) -> PyResult<PickledFunction> {
        let sink = Bound::new(py, Sink::of_parent(own(py)?))?;
        PickledFunction::with_sink(function, &sink)
    }
}

impl PickledFunction {
    pub(crate) fn with_sink<'py>(
        function: &Bound<'py, PyAny>,
        sink: &Bound<'py, Sink>,
    ) -> PyResult<PickledFunction> {
        let py = function.py();
        let pickling = py.import(intern!(py, "manyhands._pickling"))?;
        sink.get().clear();
        let pickle = pickling.call_method1(intern!(py, "dumps_function"), (function, sink))?;
        let mut keeps = Keeps::default();
        let parts = sink.get().take_kept(&mut keeps);
        let mut head = Vec::new();
        write_parts(&parts, &mut head);
        Ok(PickledFunction {
            head,
            pickle: pickle.cast_into::<PyBytes>()?.unbind(),
            keeps: Arc::new(keeps),
        })
    }

    /// The function's number in a pool.
    pub(crate) fn number(&self, py: Python<'_>, pool: &ProcessPool) -> u32 {
        let pickle = self.pickle.bind(py).as_bytes();
        if self.head.is_empty() {
            return pool.function(pickle, &[], None);
        }
        let keep: Box<dyn Any + Send> = Box::new(Arc::clone(&self.keeps));
        let framed = [&self.head, pickle].concat();
        pool.function(&framed, &self.keeps.segments, Some(keep))
    }
}
