//! The tasks of a graph, listed for `manyhands.Graph`.

use crate::collect::collect;
use crate::delayed::{Delayed, describe};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The tasks of some Delayed for `manyhands.Graph`: keys, descriptions, rows of dependencies; and what they need.
#[pyfunction]
#[pyo3(signature = (*args))]
pub(crate) fn _graph<'py>(args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
    let py = args.py();
    let collected = collect(args, true)?;
    let mut keys = Vec::with_capacity(collected.nodes.len());
    let mut descriptions = Vec::with_capacity(collected.nodes.len());
    let mut rows = Vec::with_capacity(collected.nodes.len());
    let mut needs = Vec::new();
    for (task, node) in collected.graph.tasks().zip(&collected.nodes) {
        let node: &Bound<'py, Delayed> = node.bind(py);
        keys.push(Delayed::key(node)?);
        descriptions.push(describe(node));
        if !collected.needs.is_empty() {
            needs.push(collected.needs.of(task).amounts());
        }
        let row = collected.graph.dependencies(task).iter();
        rows.push(row.map(|dependency| dependency.0).collect::<Vec<_>>());
    }
    (keys, descriptions, rows, needs).into_pyobject(py)
}
