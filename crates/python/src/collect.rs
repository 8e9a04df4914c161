//! From Delayed objects to a graph of calls.
//!
//! The walk keeps its own stack, so that chains may be as long as memory allows. A Delayed that is
//! met twice is one task; so are Delayed with equal keys, which [`merge`] decides.

mod merge;

use crate::call::{Arg, Args, Call, Callee, Kwargs, no_input, rebuild, rebuild_tuple};
use crate::delayed::{Delayed, Kind};
use crate::needs::{Needed, TaskNeeds};
use crate::scan::{KnownPlain, Scanner, is_delayed};
use manyhands_graph::{Graph, GraphBuilder, TaskIndex};
use merge::Merger;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule, PyString, PyTuple};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What the arguments of a `compute` come to.
pub(crate) struct Collected {
    pub(crate) graph: Graph,
    /// One for each task; its k-th input is the k-th dependency of the task in `graph`.
    pub(crate) calls: Vec<Call>,
    /// The Delayed that each task was made from, for its key and its description.
    pub(crate) nodes: Vec<Py<Delayed>>,
    /// What tasks need while they run.
    pub(crate) needs: TaskNeeds,
    /// The tasks whose results are asked for, each once.
    pub(crate) outputs: Vec<TaskIndex>,
    /// The arguments; their k-th input is the k-th of `outputs`.
    pub(crate) shape: Vec<Arg>,
}

/// Collects the tasks that `args` need.
///
/// With `traverse`, Delayed are also looked for in collections; else only among the arguments.
///
/// # Errors
///
/// ValueError for two computations with one key; RecursionError for collections nested too deeply;
/// what tokenizing the arguments of pure calls raises.
pub(crate) fn collect<'py>(args: &Bound<'py, PyTuple>, traverse: bool) -> PyResult<Collected> {
    let py = args.py();
    let mut walk = Walk::new(py);
    let mut wanted = Occurrences::new();
    let mut shape = Vec::with_capacity(args.len());
    for arg in args.iter() {
        let found = if traverse || is_delayed(&arg) {
            walk.scan(&arg, &mut wanted)?
        } else {
            None
        };
        shape.push(found.unwrap_or_else(|| Arg::Value(arg.unbind())));
    }
    for &slot in &wanted {
        walk.visit(slot)?;
    }
    let (outputs, numbers) = walk.tasks.numbered(&wanted);
    if let Some(numbers) = numbers {
        shape.iter_mut().for_each(|arg| arg.renumber(&numbers));
    }
    Ok(Collected {
        graph: walk.tasks.builder.build(),
        calls: walk.tasks.calls,
        nodes: walk.tasks.nodes,
        needs: walk.tasks.needs,
        outputs: outputs.into_vec(),
        shape,
    })
}

/// The slots of the Delayed met in some arguments, in the order of their places.
type Occurrences = SmallVec<[u32; 4]>;

/// Tasks in a row, those that one task depends on for example.
type Row = SmallVec<[TaskIndex; 4]>;

/// A Delayed that was met.
struct Slot {
    delayed: Py<Delayed>,
    task: TaskIndex,
}

/// No task yet. The graph's own limit lies below.
const UNSEEN: TaskIndex = TaskIndex(u32::MAX);

/// A Delayed whose call has been written down, while the tasks it needs are being visited.
struct Frame {
    slot: u32,
    call: Call,
    occurrences: Occurrences,
    n_visited: usize,
}

/// The walk over all that is wanted.
struct Walk<'py> {
    py: Python<'py>,
    stack: Vec<Frame>,
    tasks: Tasks<'py>,
    known_plain: KnownPlain,
}

/// What the walk has found so far.
struct Tasks<'py> {
    py: Python<'py>,
    builder: GraphBuilder,
    calls: Vec<Call>,
    nodes: Vec<Py<Delayed>>,
    needs: TaskNeeds,
    slots: Vec<Slot>,
    places: Places,
    merger: Merger,
    /// For each task, the last row that it was part of, and its number there.
    marks: Vec<(u32, u32)>,
    n_rows: u32,
}

impl<'py> Walk<'py> {
    fn new(py: Python<'py>) -> Walk<'py> {
        Walk {
            py,
            stack: Vec::new(),
            tasks: Tasks {
                py,
                builder: GraphBuilder::default(),
                calls: Vec::new(),
                nodes: Vec::new(),
                needs: TaskNeeds::default(),
                slots: Vec::new(),
                places: Places::new(),
                merger: Merger::default(),
                marks: Vec::new(),
                n_rows: 0,
            },
            known_plain: KnownPlain::new(),
        }
    }

    /// Makes a task of the Delayed in a slot, after those it depends on.
    fn visit(&mut self, slot: u32) -> PyResult<()> {
        if self.tasks.slots[slot as usize].task != UNSEEN {
            return Ok(());
        }
        let frame = self.open(slot)?;
        self.stack.push(frame);
        while let Some(frame) = self.stack.last_mut() {
            if let Some(&next) = frame.occurrences.get(frame.n_visited) {
                frame.n_visited += 1;
                if self.tasks.slots[next as usize].task == UNSEEN {
                    let frame = self.open(next)?;
                    self.stack.push(frame);
                }
            } else if let Some(frame) = self.stack.pop() {
                self.tasks
                    .close(frame.slot, frame.call, &frame.occurrences)?;
            }
        }
        Ok(())
    }

    /// Writes down the call of a Delayed; its inputs are numbered by their places.
    fn open(&mut self, slot: u32) -> PyResult<Frame> {
        let delayed = self.tasks.slots[slot as usize].delayed.clone_ref(self.py);
        let mut occurrences = Occurrences::new();
        let call = self.call(delayed.get(), &mut occurrences)?;
        Ok(Frame {
            slot,
            call,
            occurrences,
            n_visited: 0,
        })
    }

    fn call(&mut self, delayed: &Delayed, occurrences: &mut Occurrences) -> PyResult<Call> {
        let py = self.py;
        let args = delayed.args.bind(py);
        let (func, n_taken) = match delayed.kind {
            Kind::Data => (Callee::Function(identity(py)?), 0),
            Kind::Apply => (self.applied(args, occurrences)?, 1),
            Kind::Method => match method_of_module(delayed, py) {
                Some(function) => (Callee::Function(function), 1),
                None => (Callee::Function(delayed.function(py)?), 0),
            },
            Kind::Call | Kind::Operator | Kind::Attribute => {
                (Callee::Function(delayed.function(py)?), 0)
            }
        };
        let kwargs = delayed.kwargs.as_ref().map(|kwargs| kwargs.bind(py));
        Ok(Call {
            func,
            args: self.args(args, n_taken, occurrences)?,
            kwargs: match kwargs {
                Some(kwargs) => Some(Box::new(self.kwargs(kwargs, occurrences)?)),
                None => None,
            },
        })
    }

    fn applied(
        &mut self,
        args: &Bound<'py, PyTuple>,
        occurrences: &mut Occurrences,
    ) -> PyResult<Callee> {
        let callee = args.get_item(0)?;
        Ok(match self.scan(&callee, occurrences)? {
            Some(Arg::Input(k)) => Callee::Input(k),
            _ => Callee::Function(callee.unbind()),
        })
    }

    /// The arguments after the first `n_taken`.
    fn args(
        &mut self,
        args: &Bound<'py, PyTuple>,
        n_taken: usize,
        occurrences: &mut Occurrences,
    ) -> PyResult<Args> {
        let n_before = occurrences.len();
        let mut template = Vec::with_capacity(args.len());
        for arg in args.iter().skip(n_taken) {
            let found = self.scan(&arg, occurrences)?;
            template.push(found.unwrap_or_else(|| Arg::Value(arg.unbind())));
        }
        // Data held by a Delayed has taken its place by now: the rest may hold no input at all.
        if occurrences.len() == n_before {
            let args = rebuild_tuple(self.py, &template, &mut no_input)?;
            return Ok(Args::Plain(args.unbind()));
        }
        Ok(Args::Template(template.into_boxed_slice()))
    }

    fn kwargs(
        &mut self,
        kwargs: &Bound<'py, PyDict>,
        occurrences: &mut Occurrences,
    ) -> PyResult<Kwargs> {
        let py = self.py;
        let n_before = occurrences.len();
        let mut template = Vec::with_capacity(kwargs.len());
        for (name, value) in kwargs.iter() {
            let found = self.scan(&value, occurrences)?;
            let arg = found.unwrap_or_else(|| Arg::Value(value.unbind()));
            template.push((name.cast_into::<PyString>()?.unbind(), arg));
        }
        if occurrences.len() == n_before {
            let plain = PyDict::new(py);
            for (name, arg) in &template {
                plain.set_item(name, rebuild(py, arg, &mut no_input)?)?;
            }
            return Ok(Kwargs::Plain(plain.unbind()));
        }
        Ok(Kwargs::Template(template.into_boxed_slice()))
    }

    fn scan(
        &mut self,
        object: &Bound<'py, PyAny>,
        occurrences: &mut Occurrences,
    ) -> PyResult<Option<Arg>> {
        if let Some(delayed) = as_delayed(object) {
            return self.tasks.refer(delayed, occurrences).map(Some);
        }
        let tasks = &mut self.tasks;
        let mut on_found =
            |found: &Bound<'py, PyAny>| tasks.refer(found.cast::<Delayed>()?, occurrences);
        Scanner::new(&mut on_found)
            .remembering(&mut self.known_plain)
            .scan(object)
    }
}

impl<'py> Tasks<'py> {
    /// The argument for a Delayed at some place: the object it holds, or an input.
    fn refer(
        &mut self,
        delayed: &Bound<'py, Delayed>,
        occurrences: &mut Occurrences,
    ) -> PyResult<Arg> {
        let py = self.py;
        let this = delayed.get();
        if this.is_plain_data() {
            let held = this.args.bind(py).get_item(0)?;
            return Ok(Arg::Value(held.unbind()));
        }
        let next = self.slots.len() as u32;
        let slot = self.places.get_or_insert(delayed, next);
        if slot == next {
            self.slots.push(Slot {
                delayed: delayed.clone().unbind(),
                task: UNSEEN,
            });
            if !this.holds_delayed {
                let call = plain_call(this, py)?;
                self.close(slot, call, &Occurrences::new())?;
            }
        }
        let place = occurrences.len() as u32;
        occurrences.push(slot);
        Ok(Arg::Input(place))
    }

    /// Adds the task of a slot, or finds the one that it is equal to. Its inputs are tasks by now.
    fn close(&mut self, slot: u32, mut call: Call, occurrences: &Occurrences) -> PyResult<()> {
        let (dependencies, numbers) = self.numbered(occurrences);
        if let Some(numbers) = numbers {
            call.renumber(&numbers);
        }
        let delayed = &self.slots[slot as usize].delayed;
        let next = TaskIndex(self.builder.n_tasks() as u32);
        let candidate = merge::Candidate {
            delayed: delayed.bind(self.py),
            call: &call,
            dependencies: &dependencies,
            task: next,
        };
        let earlier = merge::Earlier {
            builder: &self.builder,
            calls: &self.calls,
            nodes: &self.nodes,
        };
        let task = self.merger.merge(&candidate, &earlier)?;
        if task == next {
            self.builder.task(&dependencies);
            self.calls.push(call);
            self.nodes.push(delayed.clone_ref(self.py));
            self.marks.push((0, 0));
            const N_TASKS_BETWEEN_SIGNALS: u32 = 1 << 16;
            if task.0 % N_TASKS_BETWEEN_SIGNALS == 0 {
                self.py.check_signals()?;
            }
        }
        if let Some(needed) = delayed.get().needs
            && needed != Needed::NOTHING
        {
            self.needs.add(task, needed)?;
        }
        // Of several that are one task, the first that was made says when the task was.
        let known = &mut self.nodes[task.as_usize()];
        if delayed.get().sequence < known.get().sequence {
            *known = delayed.clone_ref(self.py);
        }
        self.slots[slot as usize].task = task;
        Ok(())
    }

    /// The tasks at these places, each once; and for each place its number among them, where that
    /// is not the number of the place.
    fn numbered(&mut self, occurrences: &Occurrences) -> (Row, Option<Vec<u32>>) {
        self.n_rows += 1;
        let mut row = Row::with_capacity(occurrences.len());
        let mut numbers = None;
        for (place, &slot) in occurrences.iter().enumerate() {
            let task = self.slots[slot as usize].task;
            let mark = &mut self.marks[task.as_usize()];
            let is_new = mark.0 != self.n_rows;
            if is_new {
                *mark = (self.n_rows, row.len() as u32);
                row.push(task);
            }
            let number = mark.1;
            if !is_new && numbers.is_none() {
                numbers = Some((0..place as u32).collect::<Vec<_>>());
            }
            if let Some(numbers) = &mut numbers {
                numbers.push(number);
            }
        }
        (row, numbers)
    }
}

#[inline]
fn as_delayed<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, Delayed>> {
    if is_delayed(object) {
        object.cast::<Delayed>().ok()
    } else {
        None
    }
}

/// The call of a Delayed in whose arguments no Delayed is.
fn plain_call(delayed: &Delayed, py: Python<'_>) -> PyResult<Call> {
    Ok(Call {
        func: Callee::Function(delayed.function(py)?),
        args: Args::Plain(delayed.args.clone_ref(py)),
        kwargs: delayed
            .kwargs
            .as_ref()
            .map(|kwargs| Box::new(Kwargs::Plain(kwargs.clone_ref(py)))),
    })
}

/// `module.name` for a method call on a module held by a Delayed: a function that has a name of
/// its own to be pickled by. None where that is not what is called.
fn method_of_module(delayed: &Delayed, py: Python<'_>) -> Option<Py<PyAny>> {
    let object = delayed.args.bind(py).get_item(0).ok()?;
    let leaf = as_delayed(&object)?.get();
    let module = leaf.is_plain_data().then(|| leaf.leaf_object(py))??;
    let module = module.cast_into::<PyModule>().ok()?;
    let name = delayed.callee.as_ref()?.bind(py).getattr("__name__").ok()?;
    // Where the name is missing, the task says so when it runs.
    let function = module.getattr(name.cast::<PyString>().ok()?).ok()?;
    Some(function.unbind())
}

/// The function of a task that only puts results into a collection.
pub(crate) fn identity(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static IDENTITY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let identity = IDENTITY.import(py, "manyhands._native", "_identity")?;
    Ok(identity.clone().unbind())
}

#[pyfunction]
fn _identity(object: Py<PyAny>) -> Py<PyAny> {
    object
}

/// Adds what this module gives to Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_identity, module)?)
}

/// Which slot each Delayed is in.
///
/// One walk at a time writes the slots into the Delayed themselves, which it reads anyway; a walk
/// that begins while another one is under way, in another thread, keeps a table instead.
enum Places {
    Marks { walk: u32 },
    Table(HashMap<usize, u32>),
}

static MARKS_ARE_TAKEN: AtomicBool = AtomicBool::new(false);
static N_WALKS: AtomicU32 = AtomicU32::new(0);

impl Places {
    fn new() -> Places {
        // SYNC POINT: the marks that the last walk has written come before this one's.
        if MARKS_ARE_TAKEN.swap(true, Ordering::Acquire) {
            return Places::Table(HashMap::new());
        }
        // Zero is in the marks of Delayed that no walk has met.
        let walk = N_WALKS
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1)
            .max(1);
        Places::Marks { walk }
    }

    fn get_or_insert(&mut self, delayed: &Bound<'_, Delayed>, next: u32) -> u32 {
        match self {
            Places::Table(table) => *table.entry(delayed.as_ptr() as usize).or_insert(next),
            Places::Marks { walk } => {
                let mark = &delayed.get().mark;
                let known = mark.load(Ordering::Relaxed);
                if (known >> 32) as u32 == *walk {
                    return known as u32;
                }
                mark.store(u64::from(*walk) << 32 | u64::from(next), Ordering::Relaxed);
                next
            }
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if let Places::Marks { .. } = self {
            MARKS_ARE_TAKEN.store(false, Ordering::Release);
        }
    }
}
