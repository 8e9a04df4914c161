//! Takes out of a graph what need not be computed: tasks whose results are stored, and those that only such need.

use super::recorder::Recorder;
use crate::call::{Args, Call, Callee, Kwargs, rebuild, rebuild_tuple};
use crate::collect::Collected;
use crate::delayed::Delayed;
use manyhands_graph::{GraphBuilder, TaskIndex};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// What is left of a graph.
pub(crate) struct Rest {
    pub(crate) collected: Collected,
    /// The number that each task had before.
    pub(crate) before: Vec<u32>,
    /// Where each result comes from that is asked for.
    pub(crate) outputs: Vec<Output>,
}

/// Where a result comes from, and the key of its Delayed.
pub(crate) enum Output {
    Stored(Py<Delayed>, Py<PyAny>),
    Computed(Py<Delayed>, usize),
}

impl Output {
    pub(crate) fn node(&self) -> &Py<Delayed> {
        match self {
            Output::Stored(node, _) | Output::Computed(node, _) => node,
        }
    }
}

enum State {
    Unneeded,
    Stored(Py<PyAny>),
    /// With its number among those that are left, once it has one.
    Needed(Option<TaskIndex>),
}

/// The arguments of a call for its name, with the names of its inputs in their places.
fn named_args<'py>(
    py: Python<'py>,
    call: &Call,
    input: &mut dyn FnMut(u32) -> PyResult<Py<PyAny>>,
) -> PyResult<(Py<PyAny>, Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
    let function = match &call.func {
        Callee::Function(function) => function.clone_ref(py),
        Callee::Input(k) => input(*k)?,
    };
    let args = match &call.args {
        Args::Plain(args) => args.bind(py).clone(),
        Args::Template(args) => rebuild_tuple(py, args, input)?,
    };
    let kwargs = match call.kwargs.as_deref() {
        None => PyDict::new(py),
        Some(Kwargs::Plain(kwargs)) => kwargs.bind(py).clone(),
        Some(Kwargs::Template(named)) => {
            let kwargs = PyDict::new(py);
            for (name, arg) in named {
                kwargs.set_item(name, rebuild(py, arg, input)?)?;
            }
            kwargs
        }
    };
    Ok((function, args, kwargs))
}

/// What is left to do of a graph. `namer` is a `manyhands._checkpointing.GraphNamer`; `numbers` are those of the
/// tasks' streams.
pub(crate) fn resume(
    py: Python<'_>,
    collected: Collected,
    numbers: Option<&[u32]>,
    namer: &Bound<'_, PyAny>,
) -> PyResult<Rest> {
    let Collected {
        graph,
        calls,
        nodes,
        needs,
        outputs,
        shape,
    } = collected;
    let mut names: Vec<Py<PyAny>> = Vec::with_capacity(calls.len());
    for (at, call) in calls.iter().enumerate() {
        let task = TaskIndex(at as u32);
        let dependencies = graph.dependencies(task);
        let mut input = |k: u32| Ok(names[dependencies[k as usize].as_usize()].clone_ref(py));
        let (function, args, kwargs) = named_args(py, call, &mut input)?;
        let number = numbers.map(|numbers| numbers[at]);
        let name = namer.call_method1(intern!(py, "name"), (function, args, kwargs, number))?;
        names.push(name.unbind());
        if at % N_BETWEEN_SIGNALS == 0 {
            py.check_signals()?;
        }
    }
    let mut states: Vec<State> = calls.iter().map(|_| State::Unneeded).collect();
    let mut open: Vec<TaskIndex> = outputs.clone();
    while let Some(task) = open.pop() {
        if !matches!(states[task.as_usize()], State::Unneeded) {
            continue;
        }
        let found = namer.call_method1(intern!(py, "find"), (&names[task.as_usize()],))?;
        states[task.as_usize()] = match found.extract::<Option<(Py<PyAny>,)>>()? {
            Some((value,)) => State::Stored(value),
            None => {
                open.extend(graph.dependencies(task));
                State::Needed(None)
            }
        };
    }
    let mut builder = GraphBuilder::default();
    let mut rest_calls = Vec::new();
    let mut rest_nodes = Vec::new();
    let mut before = Vec::new();
    for (at, mut call) in calls.into_iter().enumerate() {
        if !matches!(states[at], State::Needed(_)) {
            continue;
        }
        let mut kept = Vec::new();
        let mut inputs = Vec::new();
        for dependency in graph.dependencies(TaskIndex(at as u32)) {
            inputs.push(match &states[dependency.as_usize()] {
                State::Stored(value) => Err(value.clone_ref(py)),
                State::Needed(Some(number)) => {
                    kept.push(*number);
                    Ok(kept.len() as u32 - 1)
                }
                State::Needed(None) | State::Unneeded => unreachable!("inputs come before"),
            });
        }
        call.fill(py, &inputs);
        states[at] = State::Needed(Some(builder.task(&kept)));
        namer.call_method1(intern!(py, "expect"), (&names[at], at))?;
        rest_calls.push(call);
        rest_nodes.push(nodes[at].clone_ref(py));
        before.push(at as u32);
    }
    let mut rest_outputs = Vec::new();
    let sources = outputs.iter().map(|task| {
        let node = nodes[task.as_usize()].clone_ref(py);
        match &states[task.as_usize()] {
            State::Stored(value) => Output::Stored(node, value.clone_ref(py)),
            State::Needed(Some(number)) => {
                rest_outputs.push(*number);
                Output::Computed(node, rest_outputs.len() - 1)
            }
            State::Needed(None) | State::Unneeded => {
                unreachable!("all that is asked for has been looked at")
            }
        }
    });
    let sources = sources.collect();
    namer.call_method0(intern!(py, "tell"))?;
    Ok(Rest {
        collected: Collected {
            graph: builder.build(),
            calls: rest_calls,
            nodes: rest_nodes,
            needs: needs.kept(&before),
            outputs: rest_outputs,
            shape,
        },
        before,
        outputs: sources,
    })
}

/// A million tasks take seconds.
const N_BETWEEN_SIGNALS: usize = 256;

/// The recorder of a namer.
pub(crate) fn recorder_of<'py>(namer: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Recorder>> {
    Ok(namer
        .getattr(intern!(namer.py(), "recorder"))?
        .cast_into::<Recorder>()?)
}
