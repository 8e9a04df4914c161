//! Which Delayed are one task.
//!
//! Equal keys are one task. Making the key of a pure Delayed takes microseconds, and most are never
//! looked at. So pure Delayed are compared by what would make their keys: the function, the
//! scalars, the tasks that are their inputs; only arguments of other types need a token. The keys
//! themselves are compared where they exist: chosen ones, and those that came out of a pickle.

use crate::call::{Arg, Args, Call, Callee, Kwargs};
use crate::codec::{encode_scalar, write_bytes, write_varint};
use crate::delayed::Delayed;
use crate::delayed::key::tokenize;
use manyhands_graph::{GraphBuilder, TaskIndex};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A Delayed that may become a task.
pub(super) struct Candidate<'a, 'py> {
    pub(super) delayed: &'a Bound<'py, Delayed>,
    pub(super) call: &'a Call,
    pub(super) dependencies: &'a [TaskIndex],
    /// The number it would have.
    pub(super) task: TaskIndex,
}

/// The tasks so far.
pub(super) struct Earlier<'a> {
    pub(super) builder: &'a GraphBuilder,
    pub(super) calls: &'a [Call],
    pub(super) nodes: &'a [Py<Delayed>],
}

/// What is known of the tasks so far, for finding equal ones.
#[derive(Default)]
pub(super) struct Merger {
    by_content: HashMap<Vec<u8>, TaskIndex>,
    by_key: Option<Py<PyDict>>,
    /// By address; the objects are kept, so that no other one comes to lie there.
    tokens: HashMap<usize, (Py<PyAny>, String)>,
}

impl Merger {
    /// The task that the candidate is: itself, or an earlier one.
    pub(super) fn merge(
        &mut self,
        candidate: &Candidate<'_, '_>,
        earlier: &Earlier<'_>,
    ) -> PyResult<TaskIndex> {
        let py = candidate.delayed.py();
        let this = candidate.delayed.get();
        let key = this.key.get(py);
        let content = if this.is_pure && !this.has_chosen_key {
            Some(self.content(py, candidate.call, candidate.dependencies)?)
        } else {
            None
        };
        let with_content = content
            .as_ref()
            .and_then(|content| self.by_content.get(content).copied());
        let with_key = self.task_with_key(py, key)?;
        if let Some(known) = with_key
            && with_content != Some(known)
            && (this.has_chosen_key || earlier.nodes[known.as_usize()].get().has_chosen_key)
        {
            self.check_same(candidate, known, earlier)?;
        }
        let task = with_key.or(with_content).unwrap_or(candidate.task);
        if let (Some(content), None) = (content, with_content) {
            self.by_content.insert(content, task);
        }
        if let (Some(key), None) = (key, with_key) {
            let by_key = self.by_key.get_or_insert_with(|| PyDict::new(py).unbind());
            by_key.bind(py).set_item(key, task.0)?;
        }
        Ok(task)
    }

    fn task_with_key(
        &self,
        py: Python<'_>,
        key: Option<&Py<PyAny>>,
    ) -> PyResult<Option<TaskIndex>> {
        let (Some(by_key), Some(key)) = (&self.by_key, key) else {
            return Ok(None);
        };
        let known = by_key.bind(py).get_item(key)?;
        known
            .map(|known| Ok(TaskIndex(known.extract()?)))
            .transpose()
    }

    fn check_same(
        &mut self,
        candidate: &Candidate<'_, '_>,
        known: TaskIndex,
        earlier: &Earlier<'_>,
    ) -> PyResult<()> {
        let py = candidate.delayed.py();
        let known_call = &earlier.calls[known.as_usize()];
        let known_dependencies = earlier.builder.dependencies(known);
        let content = self.content(py, candidate.call, candidate.dependencies)?;
        if content == self.content(py, known_call, known_dependencies)? {
            return Ok(());
        }
        let key = Delayed::key(candidate.delayed)?.repr()?;
        Err(PyValueError::new_err(format!(
            "the key {key} was given to two different computations; \
             give each computation a dask_key_name of its own, or none"
        )))
    }

    /// Bytes that are equal for equal calls on equal inputs, and for no others.
    fn content(
        &mut self,
        py: Python<'_>,
        call: &Call,
        dependencies: &[TaskIndex],
    ) -> PyResult<Vec<u8>> {
        let mut writer = ContentWriter {
            py,
            dependencies,
            tokens: &mut self.tokens,
        };
        let mut out = Vec::with_capacity(64);
        match &call.func {
            Callee::Function(function) => writer.token(function, &mut out)?,
            Callee::Input(k) => writer.input(*k, &mut out),
        }
        match &call.args {
            Args::Template(args) => writer.all(args, &mut out)?,
            Args::Plain(args) => {
                let args = args.bind(py);
                write_varint(&mut out, args.len() as u64);
                for arg in args.iter() {
                    writer.value(&arg.unbind(), &mut out)?;
                }
            }
        }
        let mut named = Vec::new();
        match call.kwargs.as_deref() {
            None => {}
            Some(Kwargs::Template(kwargs)) => {
                for (name, arg) in kwargs {
                    named.push(writer.named(name.as_any(), arg)?);
                }
            }
            Some(Kwargs::Plain(kwargs)) => {
                for (name, value) in kwargs.bind(py).iter() {
                    named.push(writer.named(&name.unbind(), &Arg::Value(value.unbind()))?);
                }
            }
        }
        unordered(named, &mut out);
        Ok(out)
    }
}

// Tags of what is no scalar; those have the tags of the codec.
const INPUT: u8 = 0x80;
const TOKEN: u8 = 0x81;
const LIST: u8 = 0x82;
const TUPLE: u8 = 0x83;
const NAMED_TUPLE: u8 = 0x84;
const SET: u8 = 0x85;
const FROZEN_SET: u8 = 0x86;
const DICT: u8 = 0x87;
const MAPPING: u8 = 0x88;
const SLICE: u8 = 0x89;
const DATACLASS: u8 = 0x8a;

struct ContentWriter<'a, 'py> {
    py: Python<'py>,
    dependencies: &'a [TaskIndex],
    tokens: &'a mut HashMap<usize, (Py<PyAny>, String)>,
}

impl ContentWriter<'_, '_> {
    fn input(&self, k: u32, out: &mut Vec<u8>) {
        out.push(INPUT);
        write_varint(out, u64::from(self.dependencies[k as usize].0));
    }

    fn token(&mut self, object: &Py<PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
        let py = self.py;
        let (_, token) = match self.tokens.entry(object.as_ptr() as usize) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let token = tokenize(py, (object.bind(py),))?;
                place.insert((object.clone_ref(py), token))
            }
        };
        out.push(TOKEN);
        write_bytes(out, token.as_bytes());
        Ok(())
    }

    fn value(&mut self, object: &Py<PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
        if encode_scalar(object.bind(self.py), out) {
            return Ok(());
        }
        self.token(object, out)
    }

    fn all(&mut self, args: &[Arg], out: &mut Vec<u8>) -> PyResult<()> {
        write_varint(out, args.len() as u64);
        args.iter().try_for_each(|arg| self.arg(arg, out))
    }

    fn each(&mut self, args: &[Arg]) -> PyResult<Vec<Vec<u8>>> {
        let write = |arg| {
            let mut out = Vec::new();
            self.arg(arg, &mut out).map(|()| out)
        };
        args.iter().map(write).collect()
    }

    fn items(&mut self, items: &[(Arg, Arg)]) -> PyResult<Vec<Vec<u8>>> {
        let write = |(key, value): &(Arg, Arg)| {
            let mut out = Vec::new();
            self.arg(key, &mut out)?;
            self.arg(value, &mut out)?;
            Ok(out)
        };
        items.iter().map(write).collect()
    }

    fn named(&mut self, name: &Py<PyAny>, arg: &Arg) -> PyResult<Vec<u8>> {
        let mut out = Vec::new();
        self.value(name, &mut out)?;
        self.arg(arg, &mut out)?;
        Ok(out)
    }

    fn arg(&mut self, arg: &Arg, out: &mut Vec<u8>) -> PyResult<()> {
        match arg {
            Arg::Value(object) => self.value(object, out)?,
            Arg::Input(k) => self.input(*k, out),
            Arg::List(args) => {
                out.push(LIST);
                self.all(args, out)?;
            }
            Arg::Tuple(args) => {
                out.push(TUPLE);
                self.all(args, out)?;
            }
            Arg::Slice(args) => {
                out.push(SLICE);
                self.all(args.as_slice(), out)?;
            }
            Arg::NamedTuple(named) => {
                out.push(NAMED_TUPLE);
                self.token(named.0.as_any(), out)?;
                self.all(&named.1, out)?;
            }
            Arg::Set(args) => {
                out.push(SET);
                unordered(self.each(args)?, out);
            }
            Arg::FrozenSet(args) => {
                out.push(FROZEN_SET);
                unordered(self.each(args)?, out);
            }
            Arg::Dict(items) => {
                out.push(DICT);
                unordered(self.items(items)?, out);
            }
            Arg::Mapping(mapping) => {
                out.push(MAPPING);
                self.token(&mapping.0, out)?;
                unordered(self.items(&mapping.1)?, out);
            }
            Arg::Dataclass(dataclass) => {
                out.push(DATACLASS);
                self.token(&dataclass.blank, out)?;
                let fields = dataclass.fields.iter();
                let fields = fields.map(|(name, arg)| self.named(name.as_any(), arg));
                unordered(fields.collect::<PyResult<_>>()?, out);
            }
        }
        Ok(())
    }
}

fn unordered(mut parts: Vec<Vec<u8>>, out: &mut Vec<u8>) {
    parts.sort_unstable();
    write_varint(out, parts.len() as u64);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}
