//! Hooks by which the tests look at the parts that Python does not see otherwise; nobody else uses them.

use crate::call::{Call, decode_call, rebuild_tuple};
use crate::codec::{Pickler, decode_value, encode_value};
use crate::collect::{Collected, collect};
use crate::mapped::RemoteMap;
use crate::payload::{Block, Outcome};
use crate::shared::receiving::NoViews;
use crate::shared::stock::own;
use manyhands_checkpoint::entry::{Entry, Task};
use manyhands_checkpoint::format::{Header, encode_frame};
use manyhands_checkpoint::scan::{Scan, read_header, read_payload};
use manyhands_executor::RemoteProgram;
use manyhands_graph::TaskIndex;
use manyhands_wire::{FrameReader, Message, TasksWriter};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use std::sync::Arc;

/// An object as bytes.
#[pyfunction]
fn _probe_encode<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let mut out = Vec::new();
    encode_value(object, &mut out, &Pickler::default())?;
    Ok(PyBytes::new(object.py(), &out))
}

/// The object of some bytes.
#[pyfunction]
fn _probe_decode<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    decode_value(py, data, &NoViews)
}

/// What bytes of a call hold; its inputs are their own numbers, below a thousand.
#[pyfunction]
fn _probe_decode_call<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    let mut input = |k: u32| match k {
        0..1000 => Ok(k.into_pyobject(py)?.into_any().unbind()),
        _ => Err(PyValueError::new_err(format!("no input {k}"))),
    };
    let call = decode_call(py, data, &mut input, &NoViews)?;
    (call.func, call.args, call.kwargs).into_pyobject(py)
}

/// Keys, descriptions, encoded calls and rows of dependencies of all tasks; and the wanted tasks.
#[pyfunction]
#[pyo3(signature = (*args, traverse = true, encoded = false))]
fn _probe_collect<'py>(
    args: &Bound<'py, PyTuple>,
    traverse: bool,
    encoded: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let py = args.py();
    let collected = collect(args, traverse)?;
    let found = PyDict::new(py);
    let outputs: Vec<u32> = collected.outputs.iter().map(|task| task.0).collect();
    found.set_item("outputs", outputs)?;
    found.set_item("n_tasks", collected.graph.n_tasks())?;
    if encoded {
        let calls = encode_all(py, &collected.calls)?;
        let calls: Vec<_> = calls.iter().map(|call| PyBytes::new(py, call)).collect();
        found.set_item("calls", calls)?;
    }
    Ok(found)
}

fn encode_all(py: Python<'_>, calls: &[Call]) -> PyResult<Vec<Vec<u8>>> {
    let pickler = Pickler::default();
    let encode = |call: &Call| {
        let mut out = Vec::new();
        call.encode(py, &mut out, &pickler).map(|()| out)
    };
    calls.iter().map(encode).collect()
}

/// Runs everything here and now, in order; with `through_bytes`, as a worker would see it.
#[pyfunction]
#[pyo3(signature = (*args, traverse = true, through_bytes = false))]
fn _probe_evaluate<'py>(
    args: &Bound<'py, PyTuple>,
    traverse: bool,
    through_bytes: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let py = args.py();
    let collected = collect(args, traverse)?;
    let encoded = if through_bytes {
        Some(encode_all(py, &collected.calls)?)
    } else {
        None
    };
    let mut results: Vec<Py<PyAny>> = Vec::with_capacity(collected.calls.len());
    for task in collected.graph.tasks() {
        let dependencies = collected.graph.dependencies(task);
        let mut input = |k: u32| result_of(dependencies, &results, k, py);
        let call = &collected.calls[task.as_usize()];
        let result = match &encoded {
            None => call.invoke(py, &mut input)?,
            Some(encoded) => run_encoded(py, call, &encoded[task.as_usize()], &mut input)?,
        };
        results.push(result);
    }
    let Collected { outputs, shape, .. } = collected;
    rebuild_tuple(py, &shape, &mut |k| result_of(&outputs, &results, k, py))
}

fn result_of(
    row: &[TaskIndex],
    results: &[Py<PyAny>],
    k: u32,
    py: Python<'_>,
) -> PyResult<Py<PyAny>> {
    let result = row
        .get(k as usize)
        .and_then(|task| results.get(task.as_usize()));
    let result = result.map(|result| result.clone_ref(py));
    result.ok_or_else(|| PyValueError::new_err(format!("no input {k}")))
}

fn run_encoded(
    py: Python<'_>,
    call: &Call,
    bytes: &[u8],
    input: &mut crate::call::Inputs<'_>,
) -> PyResult<Py<PyAny>> {
    let decoded = decode_call(py, bytes, input, &NoViews)?;
    let func = match (&call.func, decoded.func) {
        (crate::call::Callee::Function(func), None) => func.clone_ref(py),
        (crate::call::Callee::Input(_), Some(func)) => func,
        _ => return Err(PyValueError::new_err("the callee was lost in the bytes")),
    };
    let result = func.bind(py).call(decoded.args, decoded.kwargs.as_ref())?;
    Ok(result.unbind())
}

/// What workers are sent of a map whose first task has this number, where it keeps `n_tasks` in blocks of
/// `n_per_block` and is asked for all of them at once: each task's number and bytes. Their results are
/// stored and taken again, and told as well.
#[pyfunction]
fn _probe_map<'py>(
    py: Python<'py>,
    first: u32,
    n_tasks: u32,
    n_per_block: u32,
) -> PyResult<Bound<'py, PyTuple>> {
    let map = RemoteMap::beginning(first, 0, Arc::clone(&own(py)?.stock));
    let numbers = |n: std::ops::Range<u32>| n.map(move |i| TaskIndex(first.wrapping_add(i)));
    for start in (0..n_tasks).step_by(n_per_block.max(1) as usize) {
        let end = n_tasks.min(start + n_per_block.max(1));
        let mut block = Block::like(first.wrapping_add(start), 0, 0);
        for task in numbers(start..end) {
            block.push(|out| {
                out.extend_from_slice(&task.0.to_le_bytes());
                PyResult::Ok(())
            })?;
        }
        map.push(block);
    }
    let tasks: Vec<_> = numbers(0..n_tasks).collect();
    let mut message = Vec::new();
    let mut writer = TasksWriter::new(&mut message);
    map.write(0, &tasks, &mut writer, &mut Vec::new());
    drop(writer);
    let mut reader = FrameReader::default();
    reader.push(&message);
    let sent = match reader.next_message() {
        Ok(Some(Message::Tasks(tasks))) => tasks
            .entries()
            .map(|entry| (entry.task.index, PyBytes::new(py, entry.bytes)))
            .collect::<Vec<_>>(),
        other => return Err(PyValueError::new_err(format!("no tasks: {other:?}"))),
    };
    map.store(&mut tasks.iter().map(|&task| (task, true, &[1_u8][..])));
    let taken = map.take(&tasks).into_iter();
    let returned = taken.filter(|(_, outcome)| matches!(outcome, Outcome::Returned(_)));
    let returned: Vec<_> = returned.map(|(number, _)| number).collect();
    (sent, returned, map.n_held(), map.n_bytes_waiting()).into_pyobject(py)
}

/// Adds what this module gives to Python.
/// A checkpoint of the present format, as it would be in another: with its number, and its results as the first had
/// them.
#[pyfunction]
fn _probe_checkpoint_as<'py>(
    py: Python<'py>,
    data: Vec<u8>,
    version: u32,
) -> PyResult<Bound<'py, PyBytes>> {
    let corrupt = || PyValueError::new_err("the data is no checkpoint");
    let header = read_header(&data)?.map_err(|_| corrupt())?;
    let mut bytes = Header { version, ..header }.preamble();
    let mut frames = Vec::new();
    Scan::new(&header).advance(&data, |frame| frames.push(frame))?;
    for frame in frames {
        if let Entry::Result(task) = frame.entry {
            let payload = read_payload(&data, frame.payload).map_err(|_| corrupt())?;
            let task = Task {
                identity: None,
                ..task
            };
            let (kind, meta) = Entry::Result(task).encode();
            let at = bytes.len() as u64;
            encode_frame(&header.salt, at, kind, &meta, &payload, &mut bytes);
        }
    }
    Ok(PyBytes::new(py, &bytes))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_probe_encode, module)?)?;
    module.add_function(wrap_pyfunction!(_probe_decode, module)?)?;
    module.add_function(wrap_pyfunction!(_probe_decode_call, module)?)?;
    module.add_function(wrap_pyfunction!(_probe_collect, module)?)?;
    module.add_function(wrap_pyfunction!(_probe_evaluate, module)?)?;
    module.add_function(wrap_pyfunction!(_probe_map, module)?)?;
    module.add_function(wrap_pyfunction!(_probe_checkpoint_as, module)?)
}
