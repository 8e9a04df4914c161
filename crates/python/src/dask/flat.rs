//! Nodes that hold further tasks, as programs of steps that run one after the other.
//!
//! A program is a function: steps, each a function and the places of its arguments among what the program
//! is given and what earlier steps have returned. Data and inputs are what it is given. So the tasks of one
//! layer of Dask's, which differ in their data alone, share one program, which a worker gets once.

use super::{Known, Role, Walk, args_of, cycle, key_of, kwargs_of, target_of, value_of};
use crate::call::{Arg, Args, Call, Callee};
use crate::codec::{write_bytes, write_varint};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The programs that there are, by their structure. Each keeps the functions in it alive, by whose
/// addresses it is found.
#[derive(Default)]
pub(super) struct Programs {
    by_structure: HashMap<Vec<u8>, Py<PyAny>>,
}

/// Where a value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Given(u32),
    Step(u32),
}

struct Step<'py> {
    function: Bound<'py, PyAny>,
    places: Vec<Place>,
    /// Of the last arguments.
    names: Vec<Bound<'py, PyString>>,
}

/// A program that is being written.
#[derive(Default)]
struct Draft<'py> {
    given: Vec<Arg>,
    /// Where each input is among what is given.
    inputs: HashMap<u32, Place>,
    steps: Vec<Step<'py>>,
}

/// The keys of a fused graph, each with its place: not negative among what is given, else among the steps.
type Scope<'py> = Bound<'py, PyDict>;

impl Place {
    fn number(self) -> i64 {
        match self {
            Place::Given(at) => i64::from(at),
            Place::Step(at) => -1 - i64::from(at),
        }
    }

    fn of_number(number: i64) -> Place {
        match u32::try_from(number) {
            Ok(at) => Place::Given(at),
            Err(_) => Place::Step((-1 - number) as u32),
        }
    }

    fn index(self, n_given: usize) -> usize {
        match self {
            Place::Given(at) => at as usize,
            Place::Step(at) => n_given + at as usize,
        }
    }
}

impl<'py> Draft<'py> {
    fn give(&mut self, arg: Arg) -> Place {
        let place = Place::Given(self.given.len() as u32);
        if let Arg::Input(k) = arg {
            match self.inputs.entry(k) {
                Entry::Occupied(known) => return *known.get(),
                Entry::Vacant(slot) => slot.insert(place),
            };
        }
        self.given.push(arg);
        place
    }

    fn step(
        &mut self,
        function: Bound<'py, PyAny>,
        places: Vec<Place>,
        names: Vec<Bound<'py, PyString>>,
    ) -> Place {
        self.steps.push(Step {
            function,
            places,
            names,
        });
        Place::Step(self.steps.len() as u32 - 1)
    }

    /// Bytes that are equal for programs that do the same with what they are given, as far as is seen here.
    fn structure(&self, last: Place) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 * self.steps.len());
        let n_given = self.given.len();
        write_varint(&mut out, n_given as u64);
        write_varint(&mut out, last.index(n_given) as u64);
        for step in &self.steps {
            write_varint(&mut out, step.function.as_ptr() as u64);
            write_varint(&mut out, step.places.len() as u64);
            for place in &step.places {
                write_varint(&mut out, place.index(n_given) as u64);
            }
            write_varint(&mut out, step.names.len() as u64);
            for name in &step.names {
                write_bytes(&mut out, name.to_string_lossy().as_bytes());
            }
        }
        out
    }

    /// For each step, what nobody needs after it.
    fn unneeded_after(&self, last: Place) -> Vec<Vec<usize>> {
        let n_given = self.given.len();
        let mut last_uses = vec![None; n_given + self.steps.len()];
        for (at, step) in self.steps.iter().enumerate() {
            for place in &step.places {
                last_uses[place.index(n_given)] = Some(at);
            }
        }
        last_uses[last.index(n_given)] = None;
        let mut unneeded = vec![Vec::new(); self.steps.len()];
        for (place, last_use) in last_uses.into_iter().enumerate() {
            if let Some(at) = last_use {
                unneeded[at].push(place);
            }
        }
        unneeded
    }

    fn build(&self, py: Python<'py>, known: &Known<'py>, last: Place) -> PyResult<Py<PyAny>> {
        let n_given = self.given.len();
        let unneeded = self.unneeded_after(last);
        let steps = self.steps.iter().zip(unneeded).map(|(step, unneeded)| {
            let places = step.places.iter().map(|place| place.index(n_given));
            let places = PyTuple::new(py, places.collect::<Vec<_>>())?;
            let names = PyTuple::new(py, &step.names)?;
            let unneeded = PyTuple::new(py, unneeded)?;
            (&step.function, places, names, unneeded).into_pyobject(py)
        });
        let steps = PyTuple::new(py, steps.collect::<PyResult<Vec<_>>>()?)?;
        Ok(known.program.call1((steps, last.index(n_given)))?.unbind())
    }
}

impl<'py> Walk<'_, 'py> {
    /// The call of a program that does what a node says.
    pub(super) fn program(&mut self, node: &Bound<'py, PyAny>) -> PyResult<Call> {
        let mut draft = Draft::default();
        let last = self.value(node, None, &mut draft)?;
        let structure = draft.structure(last);
        let program = match self.programs.by_structure.entry(structure) {
            Entry::Occupied(known) => known.get().clone_ref(self.py),
            Entry::Vacant(place) => {
                let program = draft.build(self.py, self.known, last)?;
                place.insert(program).clone_ref(self.py)
            }
        };
        Ok(Call {
            func: Callee::Function(program),
            args: Args::Template(draft.given.into_boxed_slice()),
            kwargs: None,
        })
    }

    /// The place of what an argument stands for: data, a reference, or a node that is to be called.
    fn value(
        &mut self,
        object: &Bound<'py, PyAny>,
        scope: Option<&Scope<'py>>,
        draft: &mut Draft<'py>,
    ) -> PyResult<Place> {
        let known = self.known;
        let container = match known.role(object)? {
            Role::Plain => return Ok(draft.give(Arg::Value(object.clone().unbind()))),
            Role::Data => return Ok(draft.give(Arg::Value(value_of(object)?.unbind()))),
            Role::Reference => return self.named(&key_of(object)?, scope, draft),
            Role::Alias => return self.named(&target_of(object)?, scope, draft),
            Role::Task => return self.task(object, scope, draft),
            Role::Node => return self.unknown(object, scope, draft),
            Role::List => &known.list_of,
            Role::Tuple => &known.tuple_of,
            Role::Set => &known.set_of,
            Role::Dict => &known.dict_of,
        };
        let places = self.values(args_of(object)?.iter(), scope, draft)?;
        Ok(draft.step(container.clone(), places, Vec::new()))
    }

    fn values(
        &mut self,
        objects: impl Iterator<Item = Bound<'py, PyAny>>,
        scope: Option<&Scope<'py>>,
        draft: &mut Draft<'py>,
    ) -> PyResult<Vec<Place>> {
        objects
            .map(|object| self.value(&object, scope, draft))
            .collect()
    }

    /// The place of what a key stands for, in the fused graph where the key is used in one.
    fn named(
        &mut self,
        key: &Bound<'py, PyAny>,
        scope: Option<&Scope<'py>>,
        draft: &mut Draft<'py>,
    ) -> PyResult<Place> {
        let Some(scope) = scope else {
            let arg = self.refer(key)?;
            return Ok(draft.give(arg));
        };
        match scope.get_item(key)? {
            Some(number) => Ok(Place::of_number(number.extract()?)),
            None => Err(missing(key)?),
        }
    }

    fn task(
        &mut self,
        task: &Bound<'py, PyAny>,
        scope: Option<&Scope<'py>>,
        draft: &mut Draft<'py>,
    ) -> PyResult<Place> {
        let function = task.getattr(intern!(self.py, "func"))?;
        let args = args_of(task)?;
        if function.is(&self.known.execute_subgraph) && args.len() >= 3 {
            let inner = args.get_item(0)?.cast_into::<PyDict>()?;
            let places = self.values(args.iter().skip(3), scope, draft)?;
            let fused = PyDict::new(self.py);
            for (key, place) in args.get_item(2)?.try_iter()?.zip(places) {
                fused.set_item(key?, place.number())?;
            }
            return self.fused(&inner, &args.get_item(1)?, &fused, draft);
        }
        let mut places = self.values(args.iter(), scope, draft)?;
        let kwargs = kwargs_of(task)?;
        let mut names = Vec::with_capacity(kwargs.len());
        for (name, value) in kwargs.iter() {
            names.push(name.cast_into::<PyString>()?);
            places.push(self.value(&value, scope, draft)?);
        }
        Ok(draft.step(function, places, names))
    }

    /// The place of one key of a fused graph, after those it needs. Long chains are fused, too: no recursion.
    fn fused(
        &mut self,
        inner: &Bound<'py, PyDict>,
        key: &Bound<'py, PyAny>,
        scope: &Scope<'py>,
        draft: &mut Draft<'py>,
    ) -> PyResult<Place> {
        let opened = PyDict::new(self.py);
        let mut stack = vec![key.clone()];
        while let Some(top) = stack.last().cloned() {
            if scope.contains(&top)? {
                stack.pop();
                continue;
            }
            let node = inner
                .get_item(&top)?
                .map_or_else(|| Err(missing(&top)?), Ok)?;
            let mut keys = Vec::new();
            self.keys_in(&node, &mut keys)?;
            let n_before = stack.len();
            // The first is to be reached first.
            for key in keys.into_iter().rev() {
                if !scope.contains(&key)? {
                    stack.push(key);
                }
            }
            if stack.len() == n_before {
                let place = self.value(&node, Some(scope), draft)?;
                scope.set_item(&top, place.number())?;
                stack.pop();
            } else if opened.contains(&top)? {
                return Err(cycle(&stack)?);
            } else {
                opened.set_item(&top, true)?;
            }
        }
        self.named(key, Some(scope), draft)
    }

    /// The keys that a node refers to, in the order of its arguments.
    fn keys_in(
        &self,
        object: &Bound<'py, PyAny>,
        keys: &mut Vec<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        match self.known.role(object)? {
            Role::Plain | Role::Data => {}
            Role::Reference => keys.push(key_of(object)?),
            Role::Alias => keys.push(target_of(object)?),
            Role::List | Role::Tuple | Role::Set | Role::Dict => {
                for arg in args_of(object)?.iter() {
                    self.keys_in(&arg, keys)?;
                }
            }
            Role::Task => {
                for arg in args_of(object)?.iter() {
                    self.keys_in(&arg, keys)?;
                }
                for value in kwargs_of(object)?.values().iter() {
                    self.keys_in(&value, keys)?;
                }
            }
            Role::Node => keys.extend(dependencies(object)?),
        }
        Ok(())
    }

    /// A node of a class of which nothing is known but that it can be called with its dependencies.
    fn unknown(
        &mut self,
        node: &Bound<'py, PyAny>,
        scope: Option<&Scope<'py>>,
        draft: &mut Draft<'py>,
    ) -> PyResult<Place> {
        let keys = dependencies(node)?;
        let named = PyTuple::new(self.py, &keys)?;
        let mut places = vec![
            draft.give(Arg::Value(node.clone().unbind())),
            draft.give(Arg::Value(named.into_any().unbind())),
        ];
        for key in &keys {
            places.push(self.named(key, scope, draft)?);
        }
        Ok(draft.step(self.known.call_node.clone(), places, Vec::new()))
    }
}

fn dependencies<'py>(node: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let keys = node.getattr(intern!(node.py(), "dependencies"))?;
    keys.try_iter()?.collect()
}

fn missing(key: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    Ok(PyValueError::new_err(format!(
        "Missing dependency {}: a fused task needs it and does not hold it",
        key.repr()?
    )))
}
