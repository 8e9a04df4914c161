//! Whose memory a buffer is, and whether that object is still there.

use super::buffer::SharedBuffer;
use crate::interpreter::modules;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyMemoryView, PyType};

/// The object whose own memory `exporter` shows: an array, or the part of a result; `None` where it is
/// something else, or not to be told.
///
/// Only arrays say what they are views of, all the way down, and take weak references.
pub(crate) fn owner_of<'py>(exporter: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = exporter.py();
    let Some(array_type) = array_type(py)? else {
        return Ok(None);
    };
    let mut object = exporter.clone();
    while object.is_instance(array_type)? {
        let base = object.getattr(intern!(py, "base"))?;
        if base.is_none() {
            return Ok(Some(object));
        }
        object = base;
    }
    if let Ok(view) = object.cast::<PyMemoryView>() {
        object = view.getattr(intern!(py, "obj"))?;
    }
    Ok(object.is_instance_of::<SharedBuffer>().then_some(object))
}

/// `numpy.ndarray`, if this program has imported NumPy.
pub(crate) fn array_type(py: Python<'_>) -> PyResult<Option<&Bound<'_, PyAny>>> {
    static ARRAY_TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if let Some(array_type) = ARRAY_TYPE.get(py) {
        return Ok(Some(array_type.bind(py).as_any()));
    }
    let Some(numpy) = modules(py)?.get_item(intern!(py, "numpy"))? else {
        return Ok(None);
    };
    let Some(found) = numpy.getattr_opt(intern!(py, "ndarray"))? else {
        return Ok(None);
    };
    let found = found.cast_into::<PyType>()?.unbind();
    Ok(Some(ARRAY_TYPE.get_or_init(py, || found).bind(py).as_any()))
}

/// A claim on an object, or the knowledge that it is still the one it was.
pub(crate) enum Alive {
    Weak(Py<PyAny>),
    Strong { _object: Py<PyAny> },
}

impl Alive {
    #[allow(unsafe_code)]
    pub(crate) fn weakly(object: &Bound<'_, PyAny>) -> PyResult<Alive> {
        // SAFETY: an object, and no callback; null comes with an exception.
        let weak = unsafe {
            let weak = ffi::PyWeakref_NewRef(object.as_ptr(), std::ptr::null_mut());
            Bound::from_owned_ptr_or_err(object.py(), weak)?
        };
        Ok(Alive::Weak(weak.unbind()))
    }

    /// Keeps the object.
    pub(crate) fn strongly(object: &Bound<'_, PyAny>) -> Alive {
        Alive::Strong {
            _object: object.clone().unbind(),
        }
    }

    /// Whether this keeps the object alive.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self, Alive::Strong { .. })
    }

    pub(crate) fn is_alive(&self, py: Python<'_>) -> PyResult<bool> {
        match self {
            Alive::Weak(weak) => Ok(!weak.call0(py)?.is_none(py)),
            Alive::Strong { .. } => Ok(true),
        }
    }
}
