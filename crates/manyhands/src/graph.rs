//! Graphs of closures: made task by task, then run at once.

use crate::engine::{self, KindKey};
use crate::error::{BoxError, Error, Mishap};
use crate::handles::{Handle, Handles};
use crate::options::Options;
use crate::results::{Closure, GraphProgram, Results, Value};
use manyhands_graph::{GraphBuilder, TaskIndex};
use manyhands_scheduler::{JobSpec, KindId, Kinds, Wanted};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tasks and what they read of each other.
///
/// Adding a task gives a [`Handle`] that stands for its result. Nothing runs before
/// [`run`](Graph::run), which runs what the wanted results need and nothing else. A result that is
/// not wanted is dropped the moment its last reader has ended.
///
/// ```
/// use manyhands::Graph;
///
/// let mut g = Graph::new();
/// let a = g.task(|| 40);
/// let b = g.task(|| 2);
/// let sum = g.task_with((a, b), |(a, b)| a + b);
/// assert_eq!(g.run(sum)?, 42);
/// # Ok::<(), manyhands::Error>(())
/// ```
///
/// Closures are `'static`, because a task that goes on after its run has failed must not see what
/// it refers to go away: move what they need into them, in an [`Arc`] where several need it.
pub struct Graph {
    id: u64,
    builder: GraphBuilder,
    closures: Vec<Closure>,
    kinds: Vec<KindId>,
    known_kinds: HashMap<KindKey, KindId>,
    /// The kind of the task added last: often the next is of the same.
    last_kind: Option<(KindKey, KindId)>,
    places: Vec<&'static Location<'static>>,
    names: HashMap<TaskIndex, String>,
    /// The inputs of the task that is being added.
    inputs: Vec<TaskIndex>,
}

/// Adds tasks under a name; see [`Graph::named`].
#[derive(Debug)]
pub struct Named<'a> {
    graph: &'a mut Graph,
    name: String,
}

impl Graph {
    /// A graph without tasks.
    pub fn new() -> Graph {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Graph {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            builder: GraphBuilder::default(),
            closures: Vec::new(),
            kinds: Vec::new(),
            known_kinds: HashMap::new(),
            last_kind: None,
            places: Vec::new(),
            names: HashMap::new(),
            inputs: Vec::new(),
        }
    }

    /// How many tasks have been added.
    pub fn len(&self) -> usize {
        self.builder.n_tasks()
    }

    /// Whether no task has been added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a task that reads nothing.
    #[track_caller]
    pub fn task<T, F>(&mut self, f: F) -> Handle<T>
    where
        T: Send + Sync + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.add::<F, T>(Box::new(move |_| Ok(value_of(f()))), Location::caller())
    }

    /// Adds a task that reads the results of others: a handle gives a reference, and a shape of
    /// handles the same shape of references. See [`Handles`].
    ///
    /// ```
    /// # let mut g = manyhands::Graph::new();
    /// let folds: Vec<_> = (0..10).map(|fold| g.task(move || f64::from(fold))).collect();
    /// let mean = g.task_with(folds, |folds| folds.into_iter().sum::<f64>() / 10.0);
    /// assert_eq!(g.run(mean)?, 4.5);
    /// # Ok::<(), manyhands::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If a handle belongs to another graph.
    #[track_caller]
    pub fn task_with<H, T, F>(&mut self, inputs: H, f: F) -> Handle<T>
    where
        H: Handles,
        T: Send + Sync + 'static,
        F: for<'a> FnOnce(H::Refs<'a>) -> T + Send + 'static,
    {
        self.read(&inputs);
        let closure: Closure = Box::new(move |results| {
            let held = inputs.hold(results);
            Ok(value_of(f(H::lend(&held))))
        });
        self.add::<F, T>(closure, Location::caller())
    }

    /// Adds a task that reads nothing and may fail; an error ends the run as [`Error::Failed`].
    ///
    /// ```
    /// use manyhands::{Error, Graph};
    ///
    /// let mut g = Graph::new();
    /// let n: manyhands::Handle<u32> = g.try_task(|| Ok("forty-two".parse()?));
    /// let error = g.run(n).unwrap_err();
    /// assert!(matches!(error, Error::Failed { .. }));
    /// assert!(error.to_string().ends_with("invalid digit found in string"));
    /// ```
    #[track_caller]
    pub fn try_task<T, F>(&mut self, f: F) -> Handle<T>
    where
        T: Send + Sync + 'static,
        F: FnOnce() -> Result<T, BoxError> + Send + 'static,
    {
        let closure: Closure = Box::new(move |_| f().map(value_of).map_err(Mishap::Failed));
        self.add::<F, T>(closure, Location::caller())
    }

    /// Adds a task that reads the results of others and may fail; an error ends the run as
    /// [`Error::Failed`].
    ///
    /// # Panics
    ///
    /// If a handle belongs to another graph.
    #[track_caller]
    pub fn try_task_with<H, T, F>(&mut self, inputs: H, f: F) -> Handle<T>
    where
        H: Handles,
        T: Send + Sync + 'static,
        F: for<'a> FnOnce(H::Refs<'a>) -> Result<T, BoxError> + Send + 'static,
    {
        self.read(&inputs);
        let closure: Closure = Box::new(move |results| {
            let held = inputs.hold(results);
            f(H::lend(&held)).map(value_of).map_err(Mishap::Failed)
        });
        self.add::<F, T>(closure, Location::caller())
    }

    /// Names the task that is added next, for errors. Without a name they tell where it was added.
    ///
    /// ```
    /// # let mut g = manyhands::Graph::new();
    /// let fit: manyhands::Handle<f64> = g.named("fit fold 3").task(|| panic!("singular matrix"));
    /// let error = g.run(fit).unwrap_err();
    /// assert_eq!(error.to_string(), "task \"fit fold 3\" panicked: singular matrix");
    /// ```
    pub fn named(&mut self, name: impl Into<String>) -> Named<'_> {
        Named {
            graph: self,
            name: name.into(),
        }
    }

    /// Runs what the wanted results need, and gives them: a handle gives a value, and a shape of
    /// handles the same shape of values. See [`Handles`].
    ///
    /// Inside of a task it runs in that task's thread, as all others have their work.
    ///
    /// # Errors
    ///
    /// [`Error::Panicked`] or [`Error::Failed`] for the first task that ended so. No task starts
    /// after it; some may go on for a while, and what they give is dropped. The other errors are
    /// found before any task runs.
    ///
    /// # Panics
    ///
    /// If a handle belongs to another graph, or is wanted twice: there is one value to give.
    pub fn run<H: Handles>(self, wanted: H) -> Result<H::Values, Error> {
        Options::new().run(self, wanted)
    }

    fn read(&mut self, handles: &impl Handles) {
        let (id, inputs) = (self.id, &mut self.inputs);
        handles.each(&mut |graph, index| {
            assert!(graph == id, "task {} belongs to another graph", index.0);
            inputs.push(index);
        });
    }

    fn add<F, T>(&mut self, f: Closure, place: &'static Location<'static>) -> Handle<T> {
        let kind = self.kind(KindKey::of::<F>(place));
        let index = self.builder.task(&self.inputs);
        self.inputs.clear();
        self.closures.push(f);
        self.kinds.push(kind);
        self.places.push(place);
        Handle {
            graph: self.id,
            index,
            result: PhantomData,
        }
    }

    fn kind(&mut self, key: KindKey) -> KindId {
        match self.last_kind {
            Some((last, kind)) if last == key => kind,
            _ => {
                let kind = *(self.known_kinds.entry(key)).or_insert_with(|| key.number());
                self.last_kind = Some((key, kind));
                kind
            }
        }
    }

    fn wanted(&self, handles: &impl Handles) -> Vec<TaskIndex> {
        let mut wanted = Vec::new();
        handles.each(&mut |graph, index| {
            assert!(
                graph == self.id,
                "task {} belongs to another graph",
                index.0
            );
            wanted.push(index);
        });
        wanted.sort_unstable();
        if let Some(twice) = wanted.windows(2).find(|pair| pair[0] == pair[1]) {
            let task = describe(twice[0], &self.names, &self.places);
            panic!("{task} is wanted twice, but there is one value to give");
        }
        wanted
    }
}

/// What errors call a task.
fn describe(
    index: TaskIndex,
    names: &HashMap<TaskIndex, String>,
    places: &[&'static Location<'static>],
) -> String {
    match names.get(&index) {
        Some(name) => format!("task {name:?}"),
        None => format!("task {} ({})", index.0, places[index.as_usize()]),
    }
}

fn value_of<T: Send + Sync + 'static>(value: T) -> Value {
    Arc::new(value)
}

impl Default for Graph {
    fn default() -> Self {
        Graph::new()
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("n_tasks", &self.len())
            .finish()
    }
}

impl Named<'_> {
    fn name<T>(self, handle: Handle<T>) -> Handle<T> {
        self.graph.names.insert(handle.index, self.name);
        handle
    }

    /// As [`Graph::task`].
    #[track_caller]
    pub fn task<T, F>(self, f: F) -> Handle<T>
    where
        T: Send + Sync + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let handle = self.graph.task(f);
        self.name(handle)
    }

    /// As [`Graph::task_with`].
    #[track_caller]
    pub fn task_with<H, T, F>(self, inputs: H, f: F) -> Handle<T>
    where
        H: Handles,
        T: Send + Sync + 'static,
        F: for<'a> FnOnce(H::Refs<'a>) -> T + Send + 'static,
    {
        let handle = self.graph.task_with(inputs, f);
        self.name(handle)
    }

    /// As [`Graph::try_task`].
    #[track_caller]
    pub fn try_task<T, F>(self, f: F) -> Handle<T>
    where
        T: Send + Sync + 'static,
        F: FnOnce() -> Result<T, BoxError> + Send + 'static,
    {
        let handle = self.graph.try_task(f);
        self.name(handle)
    }

    /// As [`Graph::try_task_with`].
    #[track_caller]
    pub fn try_task_with<H, T, F>(self, inputs: H, f: F) -> Handle<T>
    where
        H: Handles,
        T: Send + Sync + 'static,
        F: for<'a> FnOnce(H::Refs<'a>) -> Result<T, BoxError> + Send + 'static,
    {
        let handle = self.graph.try_task_with(inputs, f);
        self.name(handle)
    }
}

impl Options {
    /// As [`Graph::run`], with these options.
    ///
    /// ```
    /// use manyhands::{Graph, Options};
    ///
    /// let mut g = Graph::new();
    /// let squares: Vec<_> = (0..4).map(|x| g.task(move || x * x)).collect();
    /// let total = g.task_with(squares.clone(), |squares| squares.into_iter().sum::<i32>());
    /// let (squares, total) = Options::new().workers(2).run(g, (squares, total))?;
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// assert_eq!(total, 14);
    /// # Ok::<(), manyhands::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Graph::run`].
    ///
    /// # Panics
    ///
    /// As [`Graph::run`].
    pub fn run<H: Handles>(&self, graph: Graph, wanted: H) -> Result<H::Values, Error> {
        let settings = self.settings()?;
        let wanted_tasks = graph.wanted(&wanted);
        let Graph {
            builder,
            closures,
            kinds,
            places,
            names,
            ..
        } = graph;
        let job = Needed::of(builder.build(), kinds, wanted_tasks);
        let program = Arc::new(GraphProgram {
            results: Results::new(closures),
            numbers: job.numbers,
        });
        let spec = JobSpec {
            graph: job.graph,
            wanted: Wanted::Tasks(job.wanted),
            kinds: Kinds::Each(job.kinds),
            batch_size: settings.batch_size,
            is_open: false,
            rules: manyhands_scheduler::Rules::default(),
        };
        match engine::run(spec, &program, &settings)? {
            Ok(()) => Ok(wanted.take(&program.results)),
            Err(failed) => {
                let index = program.number(failed);
                let mishap = program.results.take_mishap(index);
                Err(mishap.of(describe(index, &names, &places)))
            }
        }
    }
}

/// The tasks that a run needs, numbered anew if they are not all.
struct Needed {
    graph: manyhands_graph::Graph,
    kinds: Vec<KindId>,
    wanted: Vec<TaskIndex>,
    numbers: Option<Vec<TaskIndex>>,
}

impl Needed {
    fn of(graph: manyhands_graph::Graph, kinds: Vec<KindId>, mut wanted: Vec<TaskIndex>) -> Needed {
        let mut is_needed = vec![false; graph.n_tasks()];
        for task in &wanted {
            is_needed[task.as_usize()] = true;
        }
        // Inputs have lower numbers, so one pass down finds them all.
        for task in (0..graph.n_tasks() as u32).rev().map(TaskIndex) {
            if is_needed[task.as_usize()] {
                for input in graph.dependencies(task) {
                    is_needed[input.as_usize()] = true;
                }
            }
        }
        if is_needed.iter().all(|&is_needed| is_needed) {
            return Needed {
                graph,
                kinds,
                wanted,
                numbers: None,
            };
        }
        let mut builder = GraphBuilder::default();
        let mut numbers = Vec::new();
        let mut new_index = vec![TaskIndex(0); graph.n_tasks()];
        for task in graph.tasks().filter(|task| is_needed[task.as_usize()]) {
            let inputs = graph.dependencies(task).iter();
            let inputs: Vec<_> = inputs.map(|input| new_index[input.as_usize()]).collect();
            new_index[task.as_usize()] = builder.task(&inputs);
            numbers.push(task);
        }
        for task in &mut wanted {
            *task = new_index[task.as_usize()];
        }
        Needed {
            graph: builder.build(),
            kinds: numbers.iter().map(|task| kinds[task.as_usize()]).collect(),
            wanted,
            numbers: Some(numbers),
        }
    }
}
