//! From a graph of Dask's task objects to a graph of calls.
//!
//! `manyhands.dask` hands over a dict of keys and nodes, and Dask's classes: nothing here imports Dask. A
//! node that calls a function on results and data is a call; one that holds further tasks, as those that
//! Dask has fused do, is a program of several calls, see [`flat`]. The walk goes along the arguments, depth
//! first, with a stack of its own; what nobody asks for is not met.

mod flat;

use crate::call::{Arg, Args, Call, Callee, Kwargs};
use crate::collect::identity;
use crate::faults::Faults;
use crate::needs::{Needed, TaskNeeds};
use crate::plan::{Names, Plan, Planned};
use crate::pools::AnyPool;
use crate::relay::Manner;
use crate::scan::is_atom;
use crate::tally::Tally;
use flat::Programs;
use manyhands_graph::{GraphBuilder, TaskIndex};
use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple, PyType};
use smallvec::SmallVec;

/// Runs the part of a graph that some keys need; a list of their results. `needs` says what single tasks need, by
/// their keys; with it, there is a `manyhands._resources.Asking`, which finds out where they run.
#[pyfunction]
#[pyo3(signature = (
    graph, keys, known, pool, chunksize, scheduler, root, on_finished, manner, faults, tally=None, needs=None,
    asking=None,
))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn run_graph<'py>(
    py: Python<'py>,
    graph: &Bound<'py, PyDict>,
    keys: &Bound<'py, PyList>,
    known: Known<'py>,
    pool: Option<AnyPool<'py>>,
    chunksize: Option<u32>,
    scheduler: &str,
    root: Option<Bound<'py, PyAny>>,
    on_finished: Option<Py<PyAny>>,
    manner: Manner,
    faults: Option<Bound<'py, PyAny>>,
    tally: Option<Bound<'py, Tally>>,
    needs: Option<Bound<'py, PyDict>>,
    asking: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let mut walk = Walk::new(graph, &known, needs);
    let wanted = walk.wanted(keys)?;
    let mut outputs = Vec::with_capacity(wanted.len());
    for found in &wanted {
        if let Found::Slot(slot) = found {
            outputs.push(walk.visit(*slot)?);
        }
    }
    outputs.sort_unstable();
    outputs.dedup();
    let planned = Planned {
        graph: walk.builder.build(),
        calls: walk.calls,
        names: Names::Keys(walk.keys),
        needs: walk.needs,
        outputs: outputs.clone(),
        shape: Vec::new(),
        on_finished,
    };
    let slots = walk.slots;
    let faults = Faults::of(faults.as_ref())?;
    let mut plan = Plan::new(planned, chunksize, scheduler, root.as_ref(), manner, faults)?;
    plan.tally = tally.map(Bound::unbind);
    let results = plan.run(py, pool, asking)?;
    let results = plan.settle(py, results)?;
    let found = wanted.into_iter().map(|found| match found {
        Found::Value(value) => value,
        Found::Slot(slot) => {
            let at = outputs.binary_search(&slots[slot as usize].task);
            let at = at.unwrap_or_else(|_| unreachable!("a wanted task is an output"));
            results[at].bind(py).clone()
        }
    });
    PyList::new(py, found.collect::<Vec<_>>())
}

/// What Dask calls its things, and what stands for them here.
#[derive(FromPyObject)]
pub(crate) struct Known<'py> {
    /// Dask's classes of nodes and references.
    task: Bound<'py, PyType>,
    alias: Bound<'py, PyType>,
    data_node: Bound<'py, PyType>,
    task_ref: Bound<'py, PyType>,
    graph_node: Bound<'py, PyType>,
    list: Bound<'py, PyType>,
    tuple: Bound<'py, PyType>,
    set: Bound<'py, PyType>,
    dict: Bound<'py, PyType>,
    /// Dask's function of the tasks that hold a fused graph.
    execute_subgraph: Bound<'py, PyAny>,
    /// Ours: makes a program of steps.
    program: Bound<'py, PyAny>,
    /// Ours: calls a node of a kind unknown here with its dependencies.
    call_node: Bound<'py, PyAny>,
    /// Ours: collections of their arguments.
    list_of: Bound<'py, PyAny>,
    tuple_of: Bound<'py, PyAny>,
    set_of: Bound<'py, PyAny>,
    dict_of: Bound<'py, PyAny>,
}

/// What an object is in the arguments of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Plain,
    Reference,
    Alias,
    Data,
    List,
    Tuple,
    Set,
    Dict,
    Task,
    /// A node of another class.
    Node,
}

impl Role {
    fn is_container(self) -> bool {
        matches!(self, Role::List | Role::Tuple | Role::Set | Role::Dict)
    }
}

impl<'py> Known<'py> {
    fn role(&self, object: &Bound<'py, PyAny>) -> PyResult<Role> {
        if is_atom(object) {
            return Ok(Role::Plain);
        }
        let class = object.get_type();
        let exact = [
            (&self.task_ref, Role::Reference),
            (&self.task, Role::Task),
            (&self.alias, Role::Alias),
            (&self.data_node, Role::Data),
            (&self.list, Role::List),
            (&self.tuple, Role::Tuple),
            (&self.set, Role::Set),
            (&self.dict, Role::Dict),
        ];
        if let Some((_, role)) = exact.iter().find(|(known, _)| class.is(*known)) {
            return Ok(*role);
        }
        Ok(if object.is_instance(&self.graph_node)? {
            Role::Node
        } else if object.is_instance(&self.task_ref)? {
            Role::Reference
        } else {
            Role::Plain
        })
    }
}

/// The key that a reference names.
fn key_of<'py>(reference: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    reference.getattr(intern!(reference.py(), "key"))
}

fn target_of<'py>(alias: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    alias.getattr(intern!(alias.py(), "target"))
}

fn value_of<'py>(data_node: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    data_node.getattr(intern!(data_node.py(), "value"))
}

fn args_of<'py>(task: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    let args = task.getattr(intern!(task.py(), "args"))?;
    match args.cast_into::<PyTuple>() {
        Ok(args) => Ok(args),
        // Nested containers of Dask's may keep the collection that they were given.
        Err(other) => PyTuple::new(
            task.py(),
            other
                .into_inner()
                .try_iter()?
                .collect::<PyResult<Vec<_>>>()?,
        ),
    }
}

fn kwargs_of<'py>(task: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let kwargs = task.getattr(intern!(task.py(), "kwargs"))?;
    Ok(kwargs.cast_into::<PyDict>()?)
}

/// A node that becomes a task.
struct Slot<'py> {
    key: Bound<'py, PyAny>,
    node: Bound<'py, PyAny>,
    task: TaskIndex,
}

/// No task yet, and no task yet but its dependencies are being visited. The graph's own limit lies below.
const UNSEEN: TaskIndex = TaskIndex(u32::MAX);
const OPEN: TaskIndex = TaskIndex(u32::MAX - 1);

/// What a key leads to.
enum Found<'py> {
    Slot(u32),
    Value(Bound<'py, PyAny>),
}

/// Slots that a call reads, each once, in the order of its inputs.
type Row = SmallVec<[u32; 4]>;

/// A call that has been written down, while what it reads is being visited.
struct Frame {
    slot: u32,
    call: Call,
    row: Row,
    n_visited: usize,
}

struct Walk<'a, 'py> {
    py: Python<'py>,
    graph: &'a Bound<'py, PyDict>,
    known: &'a Known<'py>,
    builder: GraphBuilder,
    calls: Vec<Call>,
    keys: Vec<Py<PyAny>>,
    slots: Vec<Slot<'py>>,
    /// By key.
    slot_numbers: Bound<'py, PyDict>,
    /// For each slot, the last row that it was part of, and its number there.
    marks: Vec<(u32, u32)>,
    n_rows: u32,
    /// The row of the call that is being written down.
    row: Row,
    programs: Programs,
    /// What some keys' tasks need: a dict of amounts by name for each.
    needs_by_key: Option<Bound<'py, PyDict>>,
    needs: TaskNeeds,
}

impl<'a, 'py> Walk<'a, 'py> {
    fn new(
        graph: &'a Bound<'py, PyDict>,
        known: &'a Known<'py>,
        needs_by_key: Option<Bound<'py, PyDict>>,
    ) -> Walk<'a, 'py> {
        let py = graph.py();
        Walk {
            py,
            graph,
            known,
            builder: GraphBuilder::default(),
            calls: Vec::new(),
            keys: Vec::new(),
            slots: Vec::new(),
            slot_numbers: PyDict::new(py),
            marks: Vec::new(),
            n_rows: 0,
            row: Row::new(),
            programs: Programs::default(),
            needs_by_key,
            needs: TaskNeeds::default(),
        }
    }

    fn wanted(&mut self, keys: &Bound<'py, PyList>) -> PyResult<Vec<Found<'py>>> {
        let mut wanted = Vec::with_capacity(keys.len());
        for key in keys.iter() {
            match self.find(&key)? {
                Some(found) => wanted.push(found),
                None => return Err(PyKeyError::new_err(key.unbind())),
            }
        }
        Ok(wanted)
    }

    /// What a key leads to, through any aliases; None if it is not in the graph.
    fn find(&mut self, key: &Bound<'py, PyAny>) -> PyResult<Option<Found<'py>>> {
        let mut key = key.clone();
        for _ in 0..=self.graph.len() {
            if let Some(number) = self.slot_numbers.get_item(&key)? {
                return Ok(Some(Found::Slot(number.extract()?)));
            }
            let Some(node) = self.graph.get_item(&key)? else {
                return Ok(None);
            };
            match self.known.role(&node)? {
                Role::Alias => key = target_of(&node)?,
                Role::Data => return Ok(Some(Found::Value(value_of(&node)?))),
                Role::Plain | Role::Reference => {
                    return Err(PyValueError::new_err(format!(
                        "the graph holds, for the key {}, {} instead of a task of Dask's",
                        key.repr()?,
                        node.repr()?
                    )));
                }
                _ => {
                    let number = self.slots.len() as u32;
                    self.slot_numbers.set_item(&key, number)?;
                    self.marks.push((0, 0));
                    self.slots.push(Slot {
                        key,
                        node,
                        task: UNSEEN,
                    });
                    return Ok(Some(Found::Slot(number)));
                }
            }
        }
        Err(cycle(&[key])?)
    }

    /// The argument for a key that a task refers to: data, or an input.
    fn refer(&mut self, key: &Bound<'py, PyAny>) -> PyResult<Arg> {
        match self.find(key)? {
            Some(Found::Value(value)) => Ok(Arg::Value(value.unbind())),
            Some(Found::Slot(slot)) => Ok(Arg::Input(self.input(slot))),
            None => Err(PyValueError::new_err(format!(
                "Missing dependency {}: a task of the graph needs it, and the graph does not hold it",
                key.repr()?
            ))),
        }
    }

    /// The number of a slot among the inputs of the call that is being written down.
    fn input(&mut self, slot: u32) -> u32 {
        let mark = &mut self.marks[slot as usize];
        if mark.0 != self.n_rows {
            *mark = (self.n_rows, self.row.len() as u32);
            self.row.push(slot);
        }
        mark.1
    }

    /// Makes a task of a slot, after those it depends on.
    fn visit(&mut self, slot: u32) -> PyResult<TaskIndex> {
        if self.slots[slot as usize].task == UNSEEN {
            let mut stack = vec![self.open(slot)?];
            while let Some(frame) = stack.last_mut() {
                if let Some(&next) = frame.row.get(frame.n_visited) {
                    frame.n_visited += 1;
                    match self.slots[next as usize].task {
                        UNSEEN => {
                            let frame = self.open(next)?;
                            stack.push(frame);
                        }
                        OPEN => {
                            let keys = stack
                                .iter()
                                .map(|frame| &self.slots[frame.slot as usize].key);
                            return Err(cycle(&keys.cloned().collect::<Vec<_>>())?);
                        }
                        _ => {}
                    }
                } else if let Some(frame) = stack.pop() {
                    self.close(frame)?;
                }
            }
        }
        Ok(self.slots[slot as usize].task)
    }

    fn open(&mut self, slot: u32) -> PyResult<Frame> {
        self.slots[slot as usize].task = OPEN;
        let node = self.slots[slot as usize].node.clone();
        self.n_rows += 1;
        self.row.clear();
        let call = self.call(&node)?;
        Ok(Frame {
            slot,
            call,
            row: std::mem::take(&mut self.row),
            n_visited: 0,
        })
    }

    fn close(&mut self, frame: Frame) -> PyResult<()> {
        let row = frame.row.iter().map(|&slot| self.slots[slot as usize].task);
        let dependencies: SmallVec<[TaskIndex; 4]> = row.collect();
        let task = self.builder.task(&dependencies);
        self.calls.push(frame.call);
        let slot = &mut self.slots[frame.slot as usize];
        slot.task = task;
        self.keys.push(slot.key.clone().unbind());
        if let Some(needs) = &self.needs_by_key
            && let Some(amounts) = needs.get_item(&slot.key)?
        {
            self.needs.add(task, Needed::new(amounts.extract()?)?)?;
        }
        const N_TASKS_BETWEEN_SIGNALS: u32 = 1 << 14;
        if task.0.is_multiple_of(N_TASKS_BETWEEN_SIGNALS) {
            self.py.check_signals()?;
        }
        Ok(())
    }

    /// Writes down the call of a node.
    fn call(&mut self, node: &Bound<'py, PyAny>) -> PyResult<Call> {
        let role = self.known.role(node)?;
        if role.is_container() && self.is_direct(args_of(node)?.iter())? {
            let arg = self.arg(node)?;
            return Ok(Call {
                func: Callee::Function(identity(self.py)?),
                args: Args::Template(Box::new([arg])),
                kwargs: None,
            });
        }
        if role == Role::Task {
            let func = node.getattr(intern!(self.py, "func"))?;
            if !func.is(&self.known.execute_subgraph) {
                let args = args_of(node)?;
                let kwargs = kwargs_of(node)?;
                if self.is_direct(args.iter())? && self.is_direct(kwargs.values().iter())? {
                    return Ok(Call {
                        func: Callee::Function(func.unbind()),
                        args: self.args(args)?,
                        kwargs: self.kwargs(kwargs)?,
                    });
                }
            }
        }
        self.program(node)
    }

    /// Whether no further call is in these arguments.
    fn is_direct(&self, args: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<bool> {
        for arg in args {
            let role = self.known.role(&arg)?;
            let is_direct = match role {
                Role::Task | Role::Node => false,
                _ if role.is_container() => self.is_direct(args_of(&arg)?.iter())?,
                _ => true,
            };
            if !is_direct {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn args(&mut self, args: Bound<'py, PyTuple>) -> PyResult<Args> {
        let mut template: Option<Vec<Arg>> = None;
        for (at, arg) in args.iter().enumerate() {
            if self.known.role(&arg)? != Role::Plain && template.is_none() {
                let before = args.iter().take(at).map(|arg| Arg::Value(arg.unbind()));
                template = Some(before.collect());
            }
            if let Some(template) = &mut template {
                template.push(self.arg(&arg)?);
            }
        }
        Ok(match template {
            None => Args::Plain(args.unbind()),
            Some(template) => Args::Template(template.into_boxed_slice()),
        })
    }

    fn kwargs(&mut self, kwargs: Bound<'py, PyDict>) -> PyResult<Option<Box<Kwargs>>> {
        if kwargs.is_empty() {
            return Ok(None);
        }
        let mut template = Vec::with_capacity(kwargs.len());
        let mut is_plain = true;
        for (name, value) in kwargs.iter() {
            is_plain &= self.known.role(&value)? == Role::Plain;
            let arg = self.arg(&value)?;
            template.push((name.cast_into::<PyString>()?.unbind(), arg));
        }
        Ok(Some(Box::new(match is_plain {
            true => Kwargs::Plain(kwargs.unbind()),
            false => Kwargs::Template(template.into_boxed_slice()),
        })))
    }

    /// An argument in which no further call is.
    fn arg(&mut self, object: &Bound<'py, PyAny>) -> PyResult<Arg> {
        let role = self.known.role(object)?;
        Ok(match role {
            Role::Reference => self.refer(&key_of(object)?)?,
            Role::Alias => self.refer(&target_of(object)?)?,
            Role::Data => Arg::Value(value_of(object)?.unbind()),
            Role::List => Arg::List(self.items(object)?),
            Role::Tuple => Arg::Tuple(self.items(object)?),
            Role::Set => Arg::Set(self.items(object)?),
            Role::Dict => {
                let mut items = self.items(object)?.into_vec().into_iter();
                let mut pairs = Vec::with_capacity(items.len() / 2);
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Arg::Dict(pairs.into_boxed_slice())
            }
            Role::Plain | Role::Task | Role::Node => Arg::Value(object.clone().unbind()),
        })
    }

    fn items(&mut self, container: &Bound<'py, PyAny>) -> PyResult<Box<[Arg]>> {
        let items = args_of(container)?;
        items.iter().map(|item| self.arg(&item)).collect()
    }
}

fn cycle(keys: &[Bound<'_, PyAny>]) -> PyResult<PyErr> {
    const N_SHOWN_MAX: usize = 10;
    let shown = keys.iter().rev().take(N_SHOWN_MAX).rev();
    let shown = shown.map(|key| Ok(key.repr()?.to_string()));
    let shown = shown.collect::<PyResult<Vec<_>>>()?.join("\n  -> ");
    Ok(PyRuntimeError::new_err(format!(
        "Cycle detected between the following keys:\n  -> {shown}"
    )))
}
