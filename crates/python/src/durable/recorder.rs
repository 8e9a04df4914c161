//! A checkpoint as a call that stores into it has it.

use super::{Listed, Recording, decode_stored, not_opened};
use crate::codec::Pickler;
use crate::kept::Kept;
use crate::mapped::lock;
use manyhands_checkpoint::entry::{Digest, Entry, Function, Identity, Run};
use manyhands_checkpoint::file::{File, open_locked, prepare};
use manyhands_checkpoint::index::{Index, Why, differences};
use manyhands_checkpoint::log::{Log, Payload};
use manyhands_checkpoint::scan::{Unreadable, read_payload};
use manyhands_executor::processes::Descriptor;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A file that is open to be written to, for one call.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Recorder {
    pub(crate) recording: Arc<Recording>,
    index: Mutex<Index>,
    /// Where the file is damaged, and how much: place and length of each part.
    #[pyo3(get)]
    damage: Vec<(u64, u64)>,
    #[pyo3(get)]
    n_bytes_cut: u64,
}

/// What is known about a task, as `manyhands._checkpointing` numbers it.
const FOUND: u8 = 0;
const NEW: u8 = 1;
const ARGUMENT: u8 = 2;
const FUNCTION: u8 = 3;
const STREAM: u8 = 4;
const FAILED: u8 = 5;
const DAMAGED: u8 = 6;
const UNREADABLE: u8 = 7;

pub(super) fn identity(parts: (&[u8], &[u8], &[u8])) -> PyResult<Identity> {
    let digest = |bytes: &[u8]| {
        Digest::try_from(bytes).map_err(|_| PyValueError::new_err("a digest has 16 bytes"))
    };
    Ok(Identity {
        function: digest(parts.0)?,
        argument: digest(parts.1)?,
        stream: digest(parts.2)?,
    })
}

#[pymethods]
impl Recorder {
    #[new]
    fn new(py: Python<'_>, path: &str, host: String) -> PyResult<Recorder> {
        let refuse = |error| not_opened(py, path, &error);
        let own = Path::new(path);
        let fd = open_locked(own).map_err(refuse)?;
        let file = File::new(Arc::new(Listed(Descriptor::new(fd))));
        let opened = py.detach(|| prepare(&file, own)).map_err(refuse)?;
        let storage = Arc::new(file.clone());
        let log = Log::start(storage, opened.header.salt, opened.scan.end())
            .map_err(|error| PyOSError::new_err(format!("no thread can be started: {error}")))?;
        let run = Run {
            pid: std::process::id(),
            began_s: super::now_s(),
            host,
        };
        log.append(Entry::Run(run), Payload::Bytes(Vec::new()));
        let damage = opened.scan.damage.iter();
        Ok(Recorder {
            recording: Arc::new(Recording {
                log,
                file,
                path: path.to_owned(),
                tasks: Mutex::default(),
                pickler: Kept::new(Pickler::default()),
            }),
            index: Mutex::new(opened.index),
            damage: damage.map(|damage| (damage.at, damage.n_bytes)).collect(),
            n_bytes_cut: opened.n_bytes_cut,
        })
    }

    /// Stores what a function is made of, unless that is known.
    fn declare(&self, digest: &[u8], name: String, parts: Vec<(String, Vec<u8>)>) -> PyResult<()> {
        let identity = identity((digest, digest, digest))?;
        let mut index = lock(&self.index);
        if index.functions.contains_key(&identity.function) {
            return Ok(());
        }
        let part = |(label, digest): (String, Vec<u8>)| {
            let digest = Digest::try_from(&digest[..]).ok()?;
            Some((label, digest))
        };
        let function = Function {
            digest: identity.function,
            name,
            parts: parts.into_iter().filter_map(part).collect(),
        };
        index.functions.insert(function.digest, function.clone());
        let entry = Entry::Function(function);
        self.recording.log.append(entry, Payload::Bytes(Vec::new()));
        Ok(())
    }

    /// What is known about a task: a number that says what, and the result, or what has changed.
    fn find(
        &self,
        py: Python<'_>,
        function: &[u8],
        argument: &[u8],
        stream: &[u8],
    ) -> PyResult<(u8, Py<PyAny>)> {
        let identity = identity((function, argument, stream))?;
        let key = identity.key();
        let found = lock(&self.index).find(key);
        let Some(extent) = found else {
            return self.why_not(py, &identity);
        };
        let file = &self.recording.file;
        match py.detach(|| read_payload(file, extent)) {
            Ok(bytes) => match decode_stored(py, &bytes) {
                Ok(value) => Ok((FOUND, value.unbind())),
                Err(error) => Ok((UNREADABLE, error.into_value(py).into_any())),
            },
            Err(Unreadable::Damaged) => {
                lock(&self.index).forget(key);
                Ok((DAMAGED, py.None()))
            }
            Err(Unreadable::Io(error)) => Err(not_opened(py, &self.recording.path, &error.into())),
        }
    }

    /// The next task of the job.
    fn expect(
        &self,
        function: &[u8],
        argument: &[u8],
        stream: &[u8],
        place: u32,
        label: String,
    ) -> PyResult<()> {
        let identity = identity((function, argument, stream))?;
        self.recording.expect(identity, place, label);
        Ok(())
    }

    /// Stores what a task has returned, in so many seconds.
    fn put(&self, task: u32, value: &Bound<'_, PyAny>, duration_s: f64) -> PyResult<()> {
        self.recording.put(task, value, duration_s)?;
        self.recording.check(value.py())
    }

    /// Stores that a task has failed.
    fn put_failure(&self, task: u32, kind: String, text: String) {
        self.recording.failed(task, kind, text);
    }

    /// Wait until all that has been stored is durable.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.recording.wait(py)
    }

    /// Have all durable, and let others write.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.recording.close(py)
    }

    /// How many results there were.
    #[getter]
    fn n_results(&self) -> usize {
        lock(&self.index).n_results()
    }
}

impl Recorder {
    fn why_not(&self, py: Python<'_>, identity: &Identity) -> PyResult<(u8, Py<PyAny>)> {
        let mut index = lock(&self.index);
        let code = match index.why_not(identity) {
            Why::New => NEW,
            Why::Argument => ARGUMENT,
            Why::Stream => STREAM,
            Why::Failed => FAILED,
            Why::Function(other) => {
                let pair = index
                    .functions
                    .get(&other)
                    .zip(index.functions.get(&identity.function));
                let changed =
                    pair.map_or_else(Vec::new, |(before, after)| differences(before, after));
                drop(index);
                return Ok((FUNCTION, changed.into_pyobject(py)?.into_any().unbind()));
            }
        };
        Ok((code, py.None()))
    }
}
