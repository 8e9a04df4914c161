//! A checkpoint as those see it who only look.

use super::{decode_stored, not_opened};
use crate::mapped::lock;
use manyhands_checkpoint::file::{File, read, salvage};
use manyhands_checkpoint::format::Header;
use manyhands_checkpoint::index::{Index, Outcome};
use manyhands_checkpoint::scan::{Extent, Scan, Unreadable, read_payload};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use std::path::Path;
use std::sync::Mutex;

/// A file that may be growing.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct CheckpointReader {
    file: File,
    path: String,
    header: Header,
    seen: Mutex<(Scan, Index)>,
}

/// Function, place, label, duration and end in seconds, bytes, and how it failed if it did.
type Row = (String, u64, String, f64, f64, u64, Option<(String, String)>);

/// Place and length of each part.
type Parts = Vec<(u64, u64)>;

#[pymethods]
impl CheckpointReader {
    #[new]
    fn new(py: Python<'_>, path: &str) -> PyResult<CheckpointReader> {
        let refuse = |error| not_opened(py, path, &error);
        let file = File::to_read(Path::new(path)).map_err(|error| refuse(error.into()))?;
        let (header, scan) = read(&file).map_err(refuse)?;
        Ok(CheckpointReader {
            file,
            path: path.to_owned(),
            header,
            seen: Mutex::new((scan, Index::default())),
        })
    }

    /// Read what has come; how many tasks there are.
    fn refresh(&self, py: Python<'_>) -> PyResult<usize> {
        let read = py.detach(|| {
            let (scan, index) = &mut *lock(&self.seen);
            scan.advance(&self.file, |frame| index.add(frame))?;
            Ok(index.tasks.len())
        });
        read.map_err(|error: std::io::Error| not_opened(py, &self.path, &error.into()))
    }

    /// The tasks from this number on.
    fn tasks(&self, first: usize) -> Vec<Row> {
        let (_, index) = &*lock(&self.seen);
        let tasks = index.tasks.iter().skip(first);
        let row = |stored: &manyhands_checkpoint::index::Stored| {
            let task = &stored.task;
            let function = task
                .identity
                .and_then(|identity| index.functions.get(&identity.function));
            let (n_bytes, failure) = match &stored.outcome {
                Outcome::Returned(extent) => (extent.n_bytes, None),
                Outcome::Failed(kind, text) => (0, Some((kind.clone(), text.clone()))),
            };
            (
                function.map_or_else(String::new, |function| function.name.clone()),
                task.place,
                task.label.clone(),
                task.duration_s,
                task.ended_s,
                n_bytes,
                failure,
            )
        };
        tasks.map(row).collect()
    }

    /// Whether nothing is known of the task that came later.
    fn is_latest(&self, number: usize) -> bool {
        lock(&self.seen).1.is_latest(number)
    }

    /// The result of a task; None if it is damaged, else a tuple with it.
    fn result(&self, py: Python<'_>, number: usize) -> PyResult<Option<(Py<PyAny>,)>> {
        let extent = self
            .extent(number)
            .ok_or_else(|| PyIndexError::new_err("it has no result"))?;
        match py.detach(|| read_payload(&self.file, extent)) {
            Ok(bytes) => Ok(Some((decode_stored(py, &bytes)?.unbind(),))),
            Err(Unreadable::Damaged) => Ok(None),
            Err(Unreadable::Io(error)) => Err(not_opened(py, &self.path, &error.into())),
        }
    }

    /// Whether the result of a task is as it was written; true for one that has none.
    fn is_whole(&self, py: Python<'_>, number: usize) -> PyResult<bool> {
        let Some(extent) = self.extent(number) else {
            return Ok(true);
        };
        match py.detach(|| read_payload(&self.file, extent).map(drop)) {
            Ok(()) => Ok(true),
            Err(Unreadable::Damaged) => Ok(false),
            Err(Unreadable::Io(error)) => Err(not_opened(py, &self.path, &error.into())),
        }
    }

    /// What cannot be read: where, and how many bytes; and how many there are behind the last that can.
    fn damage(&self, py: Python<'_>) -> PyResult<(Parts, u64)> {
        use manyhands_checkpoint::scan::Source;
        let n_bytes = self.file.n_bytes();
        let n_bytes = n_bytes.map_err(|error| not_opened(py, &self.path, &error.into()))?;
        let (scan, _) = &*lock(&self.seen);
        let damage = scan.damage.iter().map(|damage| (damage.at, damage.n_bytes));
        Ok((damage.collect(), n_bytes.saturating_sub(scan.end())))
    }

    /// Whether somebody is writing.
    fn is_in_use(&self) -> bool {
        self.file.is_in_use()
    }

    /// Process, machine and beginning of the last run.
    fn run(&self) -> Option<(u32, String, f64)> {
        let (_, index) = &*lock(&self.seen);
        let run = index.run.as_ref()?;
        Some((run.pid, run.host.clone(), run.began_s))
    }

    #[getter]
    fn version(&self) -> u32 {
        self.header.version
    }
}

impl CheckpointReader {
    fn extent(&self, number: usize) -> Option<Extent> {
        match &lock(&self.seen).1.tasks.get(number)?.outcome {
            Outcome::Returned(extent) => Some(*extent),
            Outcome::Failed(..) => None,
        }
    }
}

/// Copy what is whole; how many results, how many were damaged, what could not be read, and how much was behind the
/// last that could.
#[pyfunction]
pub(crate) fn salvage_checkpoint(
    py: Python<'_>,
    source: &str,
    target: &str,
) -> PyResult<(u64, u64, Parts, u64)> {
    let salvaged = py.detach(|| salvage(Path::new(source), Path::new(target)));
    let salvaged = salvaged.map_err(|error| not_opened(py, source, &error))?;
    let damage = salvaged
        .damage
        .iter()
        .map(|damage| (damage.at, damage.n_bytes));
    Ok((
        salvaged.n_results,
        salvaged.n_damaged,
        damage.collect(),
        salvaged.n_bytes_tail,
    ))
}
