//! A call as bytes.
//!
//! ```text
//! encoded = mode  [input of the callee]  body
//! mode    = one of MODE_*, plus CALLEE_IS_INPUT where the function is the result of a task
//! scalars : n, n values, m, m times (name, value)
//! pickle  : a pickle of (args, kwargs or None)
//! template: pickled tuple of literals or nothing, n, n nodes, m, m times (name, node)
//! ```
//!
//! The literals of one call that are no scalars make one pickle, so that an object named twice is
//! one object on the other side too.

use super::{Arg, Args, Call, Callee, Inputs, Kwargs, NESTING_MAX, named_tuple, set_field, slice};
use crate::codec::{self, Pickler, Reader};
use crate::shared::receiving::Views;
use pyo3::exceptions::{PyException, PyMemoryError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyList, PySet, PyString, PyTuple, PyType};
use std::collections::HashMap;

const MODE_SCALARS: u8 = 0;
const MODE_PICKLE: u8 = 1;
const MODE_TEMPLATE: u8 = 2;
const CALLEE_IS_INPUT: u8 = 0x10;

const TAG_INPUT: u8 = codec::TAG_FREE;
const TAG_LITERAL: u8 = codec::TAG_FREE + 1;
const TAG_LIST: u8 = codec::TAG_FREE + 2;
const TAG_NODE_TUPLE: u8 = codec::TAG_FREE + 3;
const TAG_NAMED_TUPLE: u8 = codec::TAG_FREE + 4;
const TAG_SET: u8 = codec::TAG_FREE + 5;
const TAG_FROZEN_SET: u8 = codec::TAG_FREE + 6;
const TAG_DICT: u8 = codec::TAG_FREE + 7;
const TAG_MAPPING: u8 = codec::TAG_FREE + 8;
const TAG_SLICE: u8 = codec::TAG_FREE + 9;
const TAG_DATACLASS: u8 = codec::TAG_FREE + 10;

impl Call {
    /// Appends the arguments to `out`, and not the function where it is known beforehand.
    ///
    /// # Errors
    ///
    /// PicklingError naming the argument that cannot be pickled; `out` is then as it was.
    pub(crate) fn encode(
        &self,
        py: Python<'_>,
        out: &mut Vec<u8>,
        pickler: &Pickler,
    ) -> PyResult<()> {
        let start = out.len();
        let result = self.encode_parts(py, out, pickler);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn encode_parts(&self, py: Python<'_>, out: &mut Vec<u8>, pickler: &Pickler) -> PyResult<()> {
        match (&self.args, self.kwargs.as_deref()) {
            (Args::Plain(args), None) => {
                encode_plain(args.bind(py), None, &self.func, out, pickler)
            }
            (Args::Plain(args), Some(Kwargs::Plain(kwargs))) => encode_plain(
                args.bind(py),
                Some(kwargs.bind(py)),
                &self.func,
                out,
                pickler,
            ),
            (args, kwargs) => encode_template(py, args, kwargs, &self.func, out, pickler),
        }
    }
}

fn write_head(func: &Callee, mode: u8, out: &mut Vec<u8>) {
    match func {
        Callee::Function(_) => out.push(mode),
        Callee::Input(k) => {
            out.push(mode | CALLEE_IS_INPUT);
            codec::write_varint(out, u64::from(*k));
        }
    }
}

/// Encodes a call whose arguments hold no results of other tasks, known function assumed.
///
/// # Errors
///
/// PicklingError naming the argument that cannot be pickled; `out` may then hold a part.
pub(crate) fn encode_plain(
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    func: &Callee,
    out: &mut Vec<u8>,
    pickler: &Pickler,
) -> PyResult<()> {
    let start = out.len();
    write_head(func, MODE_SCALARS, out);
    if encode_scalars(args, kwargs, out) {
        return Ok(());
    }
    out.truncate(start);
    write_head(func, MODE_PICKLE, out);
    let py = args.py();
    let whole = (args, kwargs).into_pyobject(py)?;
    let pickled = pickler.pickle(whole.as_any()).map_err(|error| {
        let named = kwargs.into_iter().flat_map(|kwargs| {
            kwargs
                .iter()
                .map(|(name, value)| (ArgName::Keyword(name), value))
        });
        let args = args.iter().enumerate();
        let args = args.map(|(i, value)| (ArgName::Position(i), value));
        blame(args.chain(named), func, error, pickler, py)
    })?;
    pickled.write(out);
    Ok(())
}

fn encode_scalars(
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    out: &mut Vec<u8>,
) -> bool {
    codec::write_varint(out, args.len() as u64);
    if !args
        .iter_borrowed()
        .all(|arg| codec::encode_scalar(&arg, out))
    {
        return false;
    }
    let n_kwargs = kwargs.map_or(0, |kwargs| kwargs.len());
    codec::write_varint(out, n_kwargs as u64);
    kwargs.is_none_or(|kwargs| {
        kwargs.iter().all(|(name, value)| {
            codec::encode_scalar(&name, out) && codec::encode_scalar(&value, out)
        })
    })
}

/// How an argument is called in an error.
enum ArgName<'py> {
    Position(usize),
    Keyword(Bound<'py, PyAny>),
}

impl ArgName<'_> {
    /// "argument 'model'", or "argument 2" where the name cannot be told.
    fn text(&self, func: &Callee, py: Python<'_>) -> String {
        match self {
            ArgName::Keyword(name) => format!("argument '{name}'"),
            ArgName::Position(i) => match parameter_name(func, *i, py) {
                Some(name) => format!("argument '{name}'"),
                None => format!("argument {}", i + 1),
            },
        }
    }
}

/// The name of the parameter that the i-th positional argument goes to, for a plain function.
fn parameter_name(func: &Callee, i: usize, py: Python<'_>) -> Option<String> {
    let Callee::Function(func) = func else {
        return None;
    };
    // Only a name in an error message is at stake: a strange function does without.
    let code = func.bind(py).getattr_opt("__code__").ok()??;
    let n_positional: usize = code.getattr("co_argcount").ok()?.extract().ok()?;
    if i >= n_positional {
        return None;
    }
    let names = code.getattr("co_varnames").ok()?;
    names.get_item(i).ok()?.extract().ok()
}

/// The error for arguments that cannot be pickled together: it names the first that cannot alone.
fn blame<'py>(
    args: impl Iterator<Item = (ArgName<'py>, Bound<'py, PyAny>)>,
    func: &Callee,
    error: PyErr,
    pickler: &Pickler,
    py: Python<'py>,
) -> PyErr {
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    for (name, value) in args {
        let Err(cause) = pickler.try_out(&value) else {
            continue;
        };
        let what = name.text(func, py);
        let function = match func {
            Callee::Function(function) => Some(function),
            Callee::Input(_) => None,
        };
        let built = py
            .import(intern!(py, "manyhands._pickling"))
            .and_then(|pickling| {
                let cause = cause.value(py);
                if cause.is_instance_of::<PyMemoryError>() {
                    return pickling.call_method1("no_memory", (what, function, cause));
                }
                pickling.call_method1("fail", (what, value, cause))
            });
        return match built {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        };
    }
    error
}

/// Collects what of a template must be pickled.
struct TemplateWriter<'a, 'py> {
    py: Python<'py>,
    nodes: Vec<u8>,
    literals: Vec<&'a Bound<'py, PyAny>>,
    number_of: HashMap<usize, u64>,
}

impl<'a, 'py> TemplateWriter<'a, 'py> {
    fn literal(&mut self, value: &'a Bound<'py, PyAny>) {
        let next = self.literals.len() as u64;
        let number = *self
            .number_of
            .entry(value.as_ptr() as usize)
            .or_insert(next);
        if number == next {
            self.literals.push(value);
        }
        self.nodes.push(TAG_LITERAL);
        codec::write_varint(&mut self.nodes, number);
    }

    fn tagged(&mut self, tag: u8, args: &'a [Arg]) {
        self.nodes.push(tag);
        codec::write_varint(&mut self.nodes, args.len() as u64);
        for arg in args {
            self.node(arg);
        }
    }

    fn items(&mut self, items: &'a [(Arg, Arg)]) {
        codec::write_varint(&mut self.nodes, items.len() as u64);
        for (key, value) in items {
            self.node(key);
            self.node(value);
        }
    }

    fn named(&mut self, named: &'a [(Py<PyString>, Arg)]) {
        codec::write_varint(&mut self.nodes, named.len() as u64);
        for (name, arg) in named {
            self.value(name.bind(self.py).as_any());
            self.node(arg);
        }
    }

    fn value(&mut self, value: &'a Bound<'py, PyAny>) {
        if !codec::encode_scalar(value, &mut self.nodes) {
            self.literal(value);
        }
    }

    fn node(&mut self, arg: &'a Arg) {
        match arg {
            Arg::Value(value) => self.value(value.bind(self.py)),
            Arg::Input(k) => {
                self.nodes.push(TAG_INPUT);
                codec::write_varint(&mut self.nodes, u64::from(*k));
            }
            Arg::List(args) => self.tagged(TAG_LIST, args),
            Arg::Tuple(args) => self.tagged(TAG_NODE_TUPLE, args),
            Arg::Set(args) => self.tagged(TAG_SET, args),
            Arg::FrozenSet(args) => self.tagged(TAG_FROZEN_SET, args),
            Arg::Slice(args) => self.tagged(TAG_SLICE, args.as_slice()),
            Arg::NamedTuple(named) => {
                self.tagged(TAG_NAMED_TUPLE, &named.1);
                self.literal(named.0.bind(self.py).as_any());
            }
            Arg::Dict(items) => {
                self.nodes.push(TAG_DICT);
                self.items(items);
            }
            Arg::Mapping(mapping) => {
                self.nodes.push(TAG_MAPPING);
                self.items(&mapping.1);
                self.literal(mapping.0.bind(self.py));
            }
            Arg::Dataclass(dataclass) => {
                self.nodes.push(TAG_DATACLASS);
                self.named(&dataclass.fields);
                self.literal(dataclass.blank.bind(self.py));
            }
        }
    }
}

fn encode_template(
    py: Python<'_>,
    args: &Args,
    kwargs: Option<&Kwargs>,
    func: &Callee,
    out: &mut Vec<u8>,
    pickler: &Pickler,
) -> PyResult<()> {
    // Plain halves are looked at through a template too; these own what the writer borrows.
    let plain_args;
    let args = match args {
        Args::Template(args) => args,
        Args::Plain(args) => {
            let values = args.bind(py).iter();
            plain_args = values.map(|value| Arg::Value(value.unbind())).collect();
            &plain_args
        }
    };
    let plain_kwargs;
    let kwargs: &[(Py<PyString>, Arg)] = match kwargs {
        None => &[],
        Some(Kwargs::Template(kwargs)) => kwargs,
        Some(Kwargs::Plain(kwargs)) => {
            let items = kwargs.bind(py).iter();
            plain_kwargs = items
                .map(|(name, value)| Ok((name.cast_into()?.unbind(), Arg::Value(value.unbind()))))
                .collect::<PyResult<Vec<_>>>()?;
            &plain_kwargs
        }
    };
    let mut writer = TemplateWriter {
        py,
        nodes: Vec::with_capacity(16 * (args.len() + kwargs.len())),
        literals: Vec::new(),
        number_of: HashMap::new(),
    };
    codec::write_varint(&mut writer.nodes, args.len() as u64);
    for arg in args {
        writer.node(arg);
    }
    writer.named(kwargs);
    let TemplateWriter {
        nodes, literals, ..
    } = writer;

    write_head(func, MODE_TEMPLATE, out);
    if literals.is_empty() {
        codec::write_varint(out, 0);
    } else {
        let literals = PyTuple::new(py, literals)?;
        let pickled = pickler.pickle(literals.as_any()).map_err(|error| {
            let literals = literals_by_argument(py, args, kwargs);
            blame(literals.into_iter(), func, error, pickler, py)
        })?;
        pickled.write_counted(out);
    }
    out.extend_from_slice(&nodes);
    Ok(())
}

/// All literals of a template with the name of the argument that each is a part of.
fn literals_by_argument<'py>(
    py: Python<'py>,
    args: &[Arg],
    kwargs: &[(Py<PyString>, Arg)],
) -> Vec<(ArgName<'py>, Bound<'py, PyAny>)> {
    let mut found = Vec::new();
    for (i, arg) in args.iter().enumerate() {
        arg.for_each_object(&mut |object| {
            found.push((ArgName::Position(i), object.bind(py).clone()));
        });
    }
    for (name, arg) in kwargs {
        arg.for_each_object(&mut |object| {
            let name = name.bind(py).clone().into_any();
            found.push((ArgName::Keyword(name), object.bind(py).clone()));
        });
    }
    found
}

/// A call as a worker gets it; the function is the one it has already, unless told here.
pub(crate) struct DecodedCall<'py> {
    pub(crate) func: Option<Py<PyAny>>,
    pub(crate) args: Bound<'py, PyTuple>,
    pub(crate) kwargs: Option<Bound<'py, PyDict>>,
}

/// The results of other tasks that come with a task's bytes.
pub(crate) struct TaskInputs<'a> {
    bytes: Vec<&'a [u8]>,
    /// An input that stands in several places is one object there, as it is in the parent.
    known: Vec<Option<Py<PyAny>>>,
}

impl<'a> TaskInputs<'a> {
    /// Reads the number of inputs, and each with its length.
    pub(crate) fn read(reader: &mut Reader<'a>) -> PyResult<TaskInputs<'a>> {
        let n_inputs = reader.count()?;
        let mut bytes = Vec::with_capacity(n_inputs.min(codec::N_RESERVED_MAX));
        for _ in 0..n_inputs {
            bytes.push(reader.counted_bytes()?);
        }
        let known = bytes.iter().map(|_| None).collect();
        Ok(TaskInputs { bytes, known })
    }

    pub(crate) fn get(&mut self, py: Python<'_>, k: u32, views: &dyn Views) -> PyResult<Py<PyAny>> {
        let at = k as usize;
        let missing = || PyValueError::new_err(format!("input {k} has not come"));
        let known = self.known.get_mut(at).ok_or_else(missing)?;
        if known.is_none() {
            *known = Some(codec::decode_value(py, self.bytes[at], views)?.unbind());
        }
        known
            .as_ref()
            .map(|known| known.clone_ref(py))
            .ok_or_else(missing)
    }
}

/// Reads what [`Call::encode`] wrote, all of it. `input` gives one and the same object for a number each
/// time.
///
/// # Errors
///
/// ValueError for bytes that it did not write; what unpickling and `input` raise.
pub(crate) fn decode_call<'py>(
    py: Python<'py>,
    bytes: &[u8],
    input: &mut Inputs<'_>,
    views: &dyn Views,
) -> PyResult<DecodedCall<'py>> {
    let mut reader = Reader::new(bytes);
    let mode = reader.byte()?;
    let func = if mode & CALLEE_IS_INPUT != 0 {
        Some(input(reader.number()?)?)
    } else {
        None
    };
    let (args, kwargs) = match mode & !CALLEE_IS_INPUT {
        MODE_SCALARS => read_scalars(py, &mut reader)?,
        MODE_PICKLE => {
            let (args, kwargs) = codec::loads(py, reader.rest(), views)?.extract()?;
            (args, kwargs)
        }
        MODE_TEMPLATE => read_template(py, &mut reader, input, views)?,
        _ => return Err(codec::corrupt(0, &format!("unknown mode {mode}"))),
    };
    reader.finish()?;
    Ok(DecodedCall { func, args, kwargs })
}

/// The arguments of the plainest of calls.
pub(crate) enum FewScalars<'py> {
    One(Bound<'py, PyAny>),
    Two(Bound<'py, PyAny>, Bound<'py, PyAny>),
}

/// Reads a call of one or two scalars and nothing else; `None` for any other.
#[inline]
pub(crate) fn few_scalars<'py>(py: Python<'py>, bytes: &[u8]) -> Option<PyResult<FewScalars<'py>>> {
    let (&[MODE_SCALARS, n_args @ 1..=2], values) = bytes.split_first_chunk()? else {
        return None;
    };
    let mut reader = Reader::new(values);
    let mut read = || {
        let first = codec::read_value(py, &mut reader)?;
        let few = match n_args {
            1 => FewScalars::One(first),
            _ => FewScalars::Two(first, codec::read_value(py, &mut reader)?),
        };
        if reader.count()? > 0 {
            return Ok(None);
        }
        reader.finish()?;
        Ok(Some(few))
    };
    read().transpose()
}

/// Encodes a call of one scalar as [`encode_plain`] does, without a tuple; `false` if the argument is
/// none, and then `out` is as it was.
#[inline]
pub(crate) fn encode_one_scalar(arg: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.extend_from_slice(&[MODE_SCALARS, 1]);
    if codec::encode_scalar(arg, out) {
        out.push(0);
        return true;
    }
    out.truncate(start);
    false
}

type Arguments<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

fn read_scalars<'py>(py: Python<'py>, reader: &mut Reader<'_>) -> PyResult<Arguments<'py>> {
    let n_args = reader.count()?;
    let mut args = Vec::with_capacity(n_args.min(codec::N_RESERVED_MAX));
    for _ in 0..n_args {
        args.push(codec::read_value(py, reader)?);
    }
    let args = PyTuple::new(py, args)?;
    let n_kwargs = reader.count()?;
    if n_kwargs == 0 {
        return Ok((args, None));
    }
    let kwargs = PyDict::new(py);
    for _ in 0..n_kwargs {
        let name = codec::read_value(py, reader)?;
        kwargs.set_item(name, codec::read_value(py, reader)?)?;
    }
    Ok((args, Some(kwargs)))
}

fn read_template<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    input: &mut Inputs<'_>,
    views: &dyn Views,
) -> PyResult<Arguments<'py>> {
    let pickle = reader.counted_bytes()?;
    let literals = if pickle.is_empty() {
        PyTuple::empty(py)
    } else {
        codec::loads(py, pickle, views)?.cast_into()?
    };
    let mut template = TemplateReader {
        py,
        reader,
        literals,
        input,
        depth: 0,
    };
    let args = template.nodes()?;
    let args = PyTuple::new(py, args)?;
    let n_kwargs = template.reader.count()?;
    if n_kwargs == 0 {
        return Ok((args, None));
    }
    let kwargs = PyDict::new(py);
    for _ in 0..n_kwargs {
        let name = template.node()?;
        kwargs.set_item(name, template.node()?)?;
    }
    Ok((args, Some(kwargs)))
}

/// Builds the arguments of a template while reading it.
struct TemplateReader<'a, 'b, 'c, 'py> {
    py: Python<'py>,
    reader: &'a mut Reader<'b>,
    literals: Bound<'py, PyTuple>,
    input: &'a mut Inputs<'c>,
    depth: usize,
}

impl<'py> TemplateReader<'_, '_, '_, 'py> {
    fn nodes(&mut self) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let n_nodes = self.reader.count()?;
        let mut nodes = Vec::with_capacity(n_nodes.min(codec::N_RESERVED_MAX));
        for _ in 0..n_nodes {
            nodes.push(self.node()?);
        }
        Ok(nodes)
    }

    fn literal(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let position = self.reader.position();
        let number = self.reader.number()? as usize;
        if number >= self.literals.len() {
            let what = format!("literal {number} of {}", self.literals.len());
            return Err(codec::corrupt(position, &what));
        }
        self.literals.get_item(number)
    }

    fn node(&mut self) -> PyResult<Bound<'py, PyAny>> {
        if self.depth > NESTING_MAX {
            let position = self.reader.position();
            return Err(codec::corrupt(
                position,
                "collections are nested too deeply",
            ));
        }
        self.depth += 1;
        let tag = self.reader.byte()?;
        let node = self.tagged(tag)?;
        self.depth -= 1;
        Ok(node)
    }

    fn tagged(&mut self, tag: u8) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        Ok(match tag {
            TAG_INPUT => {
                let k = self.reader.number()?;
                (self.input)(k)?.into_bound(py)
            }
            TAG_LITERAL => self.literal()?,
            TAG_LIST => PyList::new(py, self.nodes()?)?.into_any(),
            TAG_NODE_TUPLE => PyTuple::new(py, self.nodes()?)?.into_any(),
            TAG_SET => PySet::new(py, self.nodes()?)?.into_any(),
            TAG_FROZEN_SET => PyFrozenSet::new(py, self.nodes()?)?.into_any(),
            TAG_NAMED_TUPLE => {
                let items = PyTuple::new(py, self.nodes()?)?;
                let named_type = self.node()?.cast_into::<PyType>()?;
                named_tuple(&named_type, &items)?
            }
            TAG_SLICE => {
                let position = self.reader.position();
                let [start, stop, step] = <[_; 3]>::try_from(self.nodes()?)
                    .map_err(|_| codec::corrupt(position, "a slice has three parts"))?;
                slice(start, stop, step)?
            }
            TAG_DICT => {
                let items = self.nodes_in_pairs()?;
                let dict = PyDict::new(py);
                for (key, value) in items {
                    dict.set_item(key, value)?;
                }
                dict.into_any()
            }
            TAG_MAPPING => {
                let items = self.nodes_in_pairs()?;
                let mapping = self.node()?;
                for (key, value) in items {
                    mapping.set_item(key, value)?;
                }
                mapping
            }
            TAG_DATACLASS => {
                let fields = self.nodes_in_pairs()?;
                let instance = self.node()?;
                for (name, value) in fields {
                    set_field(&instance, name.cast::<PyString>()?, &value)?;
                }
                instance
            }
            _ => codec::read_tagged(py, tag, self.reader, 0)?,
        })
    }

    fn nodes_in_pairs(&mut self) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let n_pairs = self.reader.count()?;
        let mut pairs = Vec::with_capacity(n_pairs.min(codec::N_RESERVED_MAX));
        for _ in 0..n_pairs {
            pairs.push((self.node()?, self.node()?));
        }
        Ok(pairs)
    }
}
