//! What one Python task is: a function, its arguments, and where the results of others go in them.
//!
//! A call runs in this process ([`Call::invoke`]), or its arguments travel as bytes
//! ([`Call::encode`], [`decode_call`]) to a worker that has the function already.

mod bytes;

pub(crate) use bytes::{
    FewScalars, TaskInputs, decode_call, encode_one_scalar, encode_plain, few_scalars,
};

use crate::interpreter::StayAtEnd;
use manyhands_scheduler::KindId;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFrozenSet, PyList, PySet, PySlice, PyString, PyTuple, PyType};

/// Collections nested deeper than this are refused, here and where arguments are looked through.
pub(crate) const NESTING_MAX: usize = 1000;

/// The keys and values of a mapping.
pub(crate) type Items = Box<[(Arg, Arg)]>;

/// An argument, with the results of other tasks marked in it.
#[derive(Debug)]
pub(crate) enum Arg {
    /// An object as it is.
    Value(Py<PyAny>),
    /// The result of the k-th dependency of the task.
    Input(u32),
    List(Box<[Arg]>),
    Tuple(Box<[Arg]>),
    NamedTuple(Box<(Py<PyType>, Box<[Arg]>)>),
    Set(Box<[Arg]>),
    FrozenSet(Box<[Arg]>),
    Dict(Items),
    /// A mapping of another type: an empty one like it, and its items.
    Mapping(Box<(Py<PyAny>, Items)>),
    /// Start, stop and step.
    Slice(Box<[Arg; 3]>),
    Dataclass(Box<DataclassArg>),
}

/// An instance of a dataclass, some of whose fields hold results of other tasks.
#[derive(Debug)]
pub(crate) struct DataclassArg {
    /// The instance without those fields.
    pub(crate) blank: Py<PyAny>,
    pub(crate) fields: Box<[(Py<PyString>, Arg)]>,
}

/// A kind for a function that has no number: by its address. Where two functions meet in one kind,
/// their batches follow the mean of their costs, and nothing worse happens.
pub(crate) fn kind_of(function: &Py<PyAny>) -> KindId {
    const N_KINDS: usize = 4096;
    KindId((function.as_ptr() as usize / 16 % N_KINDS) as u32)
}

/// What is called.
#[derive(Debug)]
pub(crate) enum Callee {
    Function(Py<PyAny>),
    /// The result of the k-th dependency of the task.
    Input(u32),
}

/// Positional arguments.
#[derive(Debug)]
pub(crate) enum Args {
    /// None of them holds the result of another task.
    Plain(Py<PyTuple>),
    Template(Box<[Arg]>),
}

/// Keyword arguments.
#[derive(Debug)]
pub(crate) enum Kwargs {
    Plain(Py<PyDict>),
    Template(Box<[(Py<PyString>, Arg)]>),
}

/// One task.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) func: Callee,
    pub(crate) args: Args,
    pub(crate) kwargs: Option<Box<Kwargs>>,
}

/// Where results of other tasks come from, by their number among the dependencies of the task.
pub(crate) type Inputs<'a> = dyn FnMut(u32) -> PyResult<Py<PyAny>> + 'a;

impl Call {
    /// Calls the function.
    ///
    /// # Errors
    ///
    /// What the function raises, and what `input` raises.
    pub(crate) fn invoke(&self, py: Python<'_>, input: &mut Inputs<'_>) -> PyResult<Py<PyAny>> {
        self.invoke_by(py, input, |func, args, kwargs| func.call(args, kwargs))
    }

    /// Has `call` call the function.
    ///
    /// # Errors
    ///
    /// What `call` returns, and what `input` raises.
    #[inline]
    pub(crate) fn invoke_by<'py>(
        &self,
        py: Python<'py>,
        input: &mut Inputs<'_>,
        call: impl FnOnce(
            &Bound<'py, PyAny>,
            &Bound<'py, PyTuple>,
            Option<&Bound<'py, PyDict>>,
        ) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let from_input;
        let func = match &self.func {
            Callee::Function(func) => func.bind(py),
            Callee::Input(k) => {
                from_input = input(*k)?;
                from_input.bind(py)
            }
        };
        let filled_args;
        let args = match &self.args {
            Args::Plain(args) => args.bind(py),
            Args::Template(args) => {
                filled_args = rebuild_tuple(py, args, input)?;
                &filled_args
            }
        };
        let filled_kwargs;
        let kwargs = match self.kwargs.as_deref() {
            None => None,
            Some(Kwargs::Plain(kwargs)) => Some(kwargs.bind(py)),
            Some(Kwargs::Template(kwargs)) => {
                filled_kwargs = PyDict::new(py);
                for (name, arg) in kwargs {
                    filled_kwargs.set_item(name, rebuild(py, arg, input)?)?;
                }
                Some(&filled_kwargs)
            }
        };
        let _stay = StayAtEnd;
        Ok(call(func, args, kwargs)?.unbind())
    }
}

impl Call {
    /// What is called; None where it is an input.
    pub(crate) fn function(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.func {
            Callee::Function(function) => function.clone_ref(py),
            Callee::Input(_) => py.None(),
        }
    }

    /// Renumbers the inputs: the k-th becomes the `numbers[k]`-th.
    pub(crate) fn renumber(&mut self, numbers: &[u32]) {
        if let Callee::Input(k) = &mut self.func {
            *k = numbers[*k as usize];
        }
        if let Args::Template(args) = &mut self.args {
            args.iter_mut().for_each(|arg| arg.renumber(numbers));
        }
        if let Some(Kwargs::Template(kwargs)) = self.kwargs.as_deref_mut() {
            kwargs.iter_mut().for_each(|(_, arg)| arg.renumber(numbers));
        }
    }
}

/// Inputs by their numbers so far: the number from now on, or the result itself.
pub(crate) type Filling = [Result<u32, Py<PyAny>>];

impl Call {
    /// Puts results that are there in the places of inputs, and renumbers the others.
    pub(crate) fn fill(&mut self, py: Python<'_>, inputs: &Filling) {
        if let Callee::Input(k) = &mut self.func {
            match &inputs[*k as usize] {
                Ok(number) => *k = *number,
                Err(value) => self.func = Callee::Function(value.clone_ref(py)),
            }
        }
        if let Args::Template(args) = &mut self.args {
            args.iter_mut().for_each(|arg| arg.fill(py, inputs));
        }
        if let Some(Kwargs::Template(kwargs)) = self.kwargs.as_deref_mut() {
            kwargs.iter_mut().for_each(|(_, arg)| arg.fill(py, inputs));
        }
    }
}

impl Arg {
    /// Puts results that are there in the places of inputs, and renumbers the others.
    fn fill(&mut self, py: Python<'_>, inputs: &Filling) {
        if let Arg::Input(k) = self {
            match &inputs[*k as usize] {
                Ok(number) => *k = *number,
                Err(value) => *self = Arg::Value(value.clone_ref(py)),
            }
            return;
        }
        self.for_each_part(&mut |part| part.fill(py, inputs));
    }

    /// Shows what an argument is made of, for it to be changed.
    fn for_each_part(&mut self, change: &mut dyn FnMut(&mut Arg)) {
        match self {
            Arg::Value(_) | Arg::Input(_) => {}
            Arg::List(args) | Arg::Tuple(args) | Arg::Set(args) | Arg::FrozenSet(args) => {
                args.iter_mut().for_each(change);
            }
            Arg::Slice(args) => args.iter_mut().for_each(change),
            Arg::NamedTuple(named) => named.1.iter_mut().for_each(change),
            Arg::Dict(items) => items.iter_mut().for_each(|(key, value)| {
                change(key);
                change(value);
            }),
            Arg::Mapping(mapping) => mapping.1.iter_mut().for_each(|(key, value)| {
                change(key);
                change(value);
            }),
            Arg::Dataclass(dataclass) => {
                let fields = dataclass.fields.iter_mut();
                fields.for_each(|(_, arg)| change(arg));
            }
        }
    }

    /// Shows every object that is part of the argument beforehand.
    pub(crate) fn for_each_object(&self, see: &mut dyn FnMut(&Py<PyAny>)) {
        match self {
            Arg::Value(value) => see(value),
            Arg::Input(_) => {}
            Arg::List(args) | Arg::Tuple(args) | Arg::Set(args) | Arg::FrozenSet(args) => {
                args.iter().for_each(|arg| arg.for_each_object(see));
            }
            Arg::Slice(args) => args.iter().for_each(|arg| arg.for_each_object(see)),
            Arg::NamedTuple(named) => {
                see(named.0.as_any());
                named.1.iter().for_each(|arg| arg.for_each_object(see));
            }
            Arg::Dict(items) => {
                for (key, value) in items {
                    key.for_each_object(see);
                    value.for_each_object(see);
                }
            }
            Arg::Mapping(mapping) => {
                see(&mapping.0);
                for (key, value) in &mapping.1 {
                    key.for_each_object(see);
                    value.for_each_object(see);
                }
            }
            Arg::Dataclass(dataclass) => {
                see(&dataclass.blank);
                let fields = dataclass.fields.iter();
                fields.for_each(|(_, arg)| arg.for_each_object(see));
            }
        }
    }

    /// The same argument.
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Arg {
        let all = |args: &[Arg]| args.iter().map(|arg| arg.clone_ref(py)).collect();
        let pairs = |items: &Items| -> Items {
            let pairs = items.iter();
            pairs
                .map(|(key, value)| (key.clone_ref(py), value.clone_ref(py)))
                .collect()
        };
        match self {
            Arg::Value(value) => Arg::Value(value.clone_ref(py)),
            Arg::Input(k) => Arg::Input(*k),
            Arg::List(args) => Arg::List(all(args)),
            Arg::Tuple(args) => Arg::Tuple(all(args)),
            Arg::Set(args) => Arg::Set(all(args)),
            Arg::FrozenSet(args) => Arg::FrozenSet(all(args)),
            Arg::NamedTuple(named) => {
                Arg::NamedTuple(Box::new((named.0.clone_ref(py), all(&named.1))))
            }
            Arg::Dict(items) => Arg::Dict(pairs(items)),
            Arg::Mapping(mapping) => {
                Arg::Mapping(Box::new((mapping.0.clone_ref(py), pairs(&mapping.1))))
            }
            Arg::Slice(args) => Arg::Slice(Box::new([
                args[0].clone_ref(py),
                args[1].clone_ref(py),
                args[2].clone_ref(py),
            ])),
            Arg::Dataclass(dataclass) => Arg::Dataclass(Box::new(DataclassArg {
                blank: dataclass.blank.clone_ref(py),
                fields: dataclass
                    .fields
                    .iter()
                    .map(|(name, arg)| (name.clone_ref(py), arg.clone_ref(py)))
                    .collect(),
            })),
        }
    }

    /// Renumbers the inputs: the k-th becomes the `numbers[k]`-th.
    pub(crate) fn renumber(&mut self, numbers: &[u32]) {
        self.replace_inputs(&mut |k| Arg::Input(numbers[k as usize]));
    }

    /// Puts something else in the place of each input.
    pub(crate) fn replace_inputs(&mut self, with: &mut dyn FnMut(u32) -> Arg) {
        match self {
            Arg::Input(k) => *self = with(*k),
            _ => self.for_each_part(&mut |part| part.replace_inputs(with)),
        }
    }
}

/// The object that `arg` stands for once the results it waits for are there.
pub(crate) fn rebuild(py: Python<'_>, arg: &Arg, input: &mut Inputs<'_>) -> PyResult<Py<PyAny>> {
    Ok(match arg {
        Arg::Value(value) => value.clone_ref(py),
        Arg::Input(k) => input(*k)?,
        Arg::List(args) => PyList::new(py, rebuild_all(py, args, input)?)?.into(),
        Arg::Tuple(args) => rebuild_tuple(py, args, input)?.into(),
        Arg::NamedTuple(named) => {
            let items = rebuild_tuple(py, &named.1, input)?;
            named_tuple(named.0.bind(py), &items)?.unbind()
        }
        Arg::Set(args) => PySet::new(py, rebuild_all(py, args, input)?)?.into(),
        Arg::FrozenSet(args) => PyFrozenSet::new(py, rebuild_all(py, args, input)?)?.into(),
        Arg::Dict(items) => {
            let dict = PyDict::new(py);
            for (key, value) in items {
                let key = rebuild(py, key, input)?;
                dict.set_item(key, rebuild(py, value, input)?)?;
            }
            dict.into()
        }
        Arg::Mapping(mapping) => {
            let filled = shallow_copy(mapping.0.bind(py))?;
            for (key, value) in &mapping.1 {
                let key = rebuild(py, key, input)?;
                filled.set_item(key, rebuild(py, value, input)?)?;
            }
            filled.unbind()
        }
        Arg::Slice(bounds) => {
            let [start, stop, step] = bounds.as_ref();
            slice(
                rebuild(py, start, input)?.into_bound(py),
                rebuild(py, stop, input)?.into_bound(py),
                rebuild(py, step, input)?.into_bound(py),
            )?
            .unbind()
        }
        Arg::Dataclass(dataclass) => {
            let filled = shallow_copy(dataclass.blank.bind(py))?;
            for (name, arg) in &dataclass.fields {
                let value = rebuild(py, arg, input)?;
                set_field(&filled, name.bind(py), value.bind(py))?;
            }
            filled.unbind()
        }
    })
}

/// Takes out of a list, a tuple, a set, or a mapping what comes directly from an input that is lost.
///
/// # Errors
///
/// The number of a lost input that stands where nothing can be left out.
pub(crate) fn leave_out(arg: &mut Arg, is_lost: &impl Fn(u32) -> bool) -> Result<(), u32> {
    let is_gone = |arg: &Arg| matches!(arg, Arg::Input(k) if is_lost(*k));
    match arg {
        Arg::Value(_) => Ok(()),
        Arg::Input(k) if is_lost(*k) => Err(*k),
        Arg::Input(_) => Ok(()),
        Arg::List(args) | Arg::Tuple(args) | Arg::Set(args) | Arg::FrozenSet(args) => {
            let mut left = std::mem::take(args).into_vec();
            left.retain(|arg| !is_gone(arg));
            *args = left.into();
            args.iter_mut().try_for_each(|arg| leave_out(arg, is_lost))
        }
        Arg::Dict(items) => leave_out_items(items, is_lost),
        Arg::Mapping(mapping) => leave_out_items(&mut mapping.1, is_lost),
        Arg::NamedTuple(named) => {
            let mut items = named.1.iter_mut();
            items.try_for_each(|arg| leave_out(arg, is_lost))
        }
        Arg::Slice(bounds) => bounds
            .iter_mut()
            .try_for_each(|arg| leave_out(arg, is_lost)),
        Arg::Dataclass(dataclass) => {
            let mut fields = dataclass.fields.iter_mut();
            fields.try_for_each(|(_, arg)| leave_out(arg, is_lost))
        }
    }
}

fn leave_out_items(items: &mut Items, is_lost: &impl Fn(u32) -> bool) -> Result<(), u32> {
    let is_gone = |arg: &Arg| matches!(arg, Arg::Input(k) if is_lost(*k));
    let mut left = std::mem::take(items).into_vec();
    left.retain(|(key, value)| !is_gone(key) && !is_gone(value));
    *items = left.into();
    items.iter_mut().try_for_each(|(key, value)| {
        leave_out(key, is_lost)?;
        leave_out(value, is_lost)
    })
}

/// The inputs of templates in which nothing but values can be.
pub(crate) fn no_input(k: u32) -> PyResult<Py<PyAny>> {
    Err(PyValueError::new_err(format!(
        "input {k} was asked for where there are none"
    )))
}

fn rebuild_all(py: Python<'_>, args: &[Arg], input: &mut Inputs<'_>) -> PyResult<Vec<Py<PyAny>>> {
    args.iter().map(|arg| rebuild(py, arg, input)).collect()
}

pub(crate) fn rebuild_tuple<'py>(
    py: Python<'py>,
    args: &[Arg],
    input: &mut Inputs<'_>,
) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, rebuild_all(py, args, input)?)
}

/// A named tuple of exactly this type, made without running a constructor of its own.
fn named_tuple<'py>(
    named_type: &Bound<'py, PyType>,
    items: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = items.py();
    py.get_type::<PyTuple>()
        .call_method1(intern!(py, "__new__"), (named_type, items))
}

fn slice<'py>(
    start: Bound<'py, PyAny>,
    stop: Bound<'py, PyAny>,
    step: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = start.py();
    py.get_type::<PySlice>().call1((start, stop, step))
}

/// `copy.copy(object)`.
pub(crate) fn shallow_copy<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    COPY.import(object.py(), "copy", "copy")?.call1((object,))
}

/// Sets a field of a dataclass instance, of a frozen one too.
pub(crate) fn set_field<'py>(
    instance: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    value: &Bound<'py, PyAny>,
) -> PyResult<()> {
    let py = instance.py();
    py.get_type::<PyAny>()
        .call_method1(intern!(py, "__setattr__"), (instance, name, value))?;
    Ok(())
}
