//! From a graph of calls to a job and back to results; `compute` and `persist` of Delayed objects.

use crate::call::{Arg, Call, Callee, kind_of, leave_out, rebuild};
use crate::codec::{Pickler, decode_value, write_varint};
use crate::collect::{Collected, collect};
use crate::context::Context;
use crate::delayed::key::callable_name;
use crate::delayed::{Delayed, describe};
use crate::durable::Recording;
use crate::durable::resume::{Output, recorder_of, resume};
use crate::faults::{Faults, OnError};
use crate::forked::{ForkPool, Forking, Inherited};
use crate::graphed::{Finished, LocalGraph, RemoteGraph};
use crate::interpreter::{Level, SIGNAL_PAUSE, Turns, detached, in_task, look_up, raise_in_thread};
use crate::journal::name_tasks;
use crate::listening::Listening;
use crate::misuse::OnMisuse;
use crate::needs::TaskNeeds;
use crate::payload::Outcome;
use crate::pools::{AnyPool, ProcessPool, ThreadPool};
use crate::raising::{Evidence, TaskName, exception};
use crate::relay::{Hearing, Manner, Teller};
use crate::seeding::{GraphSeeding, Place, Seeding};
use crate::shared::functions::PickledFunction;
use crate::shared::receiving::NoViews;
use crate::shared::sending::{Keeps, Sink};
use crate::shared::stock::{Own, own};
use crate::tally::Tally;
use manyhands_executor::inline::{self, Resting};
use manyhands_executor::{CANCEL_GRACE, Failure, Job};
use manyhands_graph::{Graph, TaskIndex};
use manyhands_scheduler::{JobSpec, KindId, Kinds, Needs, Rules, Wanted};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Computes every Delayed in `args` and returns `args` with the results in their places.
#[pyfunction]
#[pyo3(signature = (args, traverse, pool, chunksize, scheduler, root, manner, faults, namer=None, asking=None, tally=None))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn compute<'py>(
    py: Python<'py>,
    args: &Bound<'py, PyTuple>,
    traverse: bool,
    pool: Option<AnyPool<'py>>,
    chunksize: Option<u32>,
    scheduler: &str,
    root: Option<Bound<'py, PyAny>>,
    manner: Manner,
    faults: Option<Bound<'py, PyAny>>,
    namer: Option<Bound<'py, PyAny>>,
    asking: Option<Bound<'py, PyAny>>,
    tally: Option<Bound<'py, Tally>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let collected = collect(args, traverse)?;
    let ways = (manner, Faults::of(faults.as_ref())?);
    let mut plan = Plan::of(collected, chunksize, scheduler, root.as_ref(), ways, namer)?;
    plan.tally = tally.map(Bound::unbind);
    let results = plan.run(py, pool, asking)?;
    let results = plan.settle(py, results)?;
    plan.rebuild(py, &results)
}

/// Computes every Delayed in `args` and returns `args` with a Delayed of the result, under the same
/// key, in their places.
#[pyfunction]
#[pyo3(signature = (args, traverse, pool, chunksize, scheduler, root, manner, faults, namer=None, asking=None, tally=None))]
#[allow(clippy::too_many_arguments)]
pub(crate) fn persist<'py>(
    py: Python<'py>,
    args: &Bound<'py, PyTuple>,
    traverse: bool,
    pool: Option<AnyPool<'py>>,
    chunksize: Option<u32>,
    scheduler: &str,
    root: Option<Bound<'py, PyAny>>,
    manner: Manner,
    faults: Option<Bound<'py, PyAny>>,
    namer: Option<Bound<'py, PyAny>>,
    asking: Option<Bound<'py, PyAny>>,
    tally: Option<Bound<'py, Tally>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let collected = collect(args, traverse)?;
    let ways = (manner, Faults::of(faults.as_ref())?);
    let mut plan = Plan::of(collected, chunksize, scheduler, root.as_ref(), ways, namer)?;
    plan.tally = tally.map(Bound::unbind);
    let results = plan.run(py, pool, asking)?;
    let results = plan.settle(py, results)?;
    let native = py.import(intern!(py, "manyhands._native"))?;
    let delayed = native.getattr(intern!(py, "_delayed"))?;
    let kept = results.into_iter().enumerate().map(|(at, result)| {
        let key = plan.output_key(py, at)?;
        let leaf = delayed.call1((result, key, false, py.None(), false))?;
        Ok(leaf.unbind())
    });
    let kept = kept.collect::<PyResult<Vec<_>>>()?;
    plan.rebuild(py, &kept)
}

/// What is to be computed, before it is known where.
pub(crate) struct Planned {
    pub(crate) graph: Graph,
    /// One for each task; its k-th input is the k-th dependency of the task in `graph`.
    pub(crate) calls: Vec<Call>,
    pub(crate) names: Names,
    /// What tasks need while they run.
    pub(crate) needs: TaskNeeds,
    /// The tasks whose results are asked for, each once.
    pub(crate) outputs: Vec<TaskIndex>,
    /// What is to be given back; the k-th input is the k-th of `outputs`.
    pub(crate) shape: Vec<Arg>,
    /// Called meanwhile with lists of the keys of tasks that have returned.
    pub(crate) on_finished: Option<Py<PyAny>>,
}

impl From<Collected> for Planned {
    fn from(collected: Collected) -> Planned {
        Planned {
            graph: collected.graph,
            calls: collected.calls,
            names: Names::Delayed(collected.nodes),
            needs: collected.needs,
            outputs: collected.outputs,
            shape: collected.shape,
            on_finished: None,
        }
    }
}

/// What tasks are called, one entry for each.
pub(crate) enum Names {
    /// The Delayed that each was made from.
    Delayed(Vec<Py<Delayed>>),
    Keys(Vec<Py<PyAny>>),
}

impl Names {
    fn key<'py>(&self, py: Python<'py>, task: TaskIndex) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Names::Delayed(nodes) => Delayed::key(nodes[task.as_usize()].bind(py)),
            Names::Keys(keys) => Ok(keys[task.as_usize()].bind(py).clone()),
        }
    }

    /// What says when each task was created: the later, the higher.
    fn sequence(&self) -> Vec<u64> {
        match self {
            Names::Delayed(nodes) => nodes.iter().map(|node| node.get().sequence).collect(),
            Names::Keys(keys) => (0..keys.len() as u64).collect(),
        }
    }
}

pub(crate) struct Plan<'a> {
    graph: Arc<Graph>,
    calls: Arc<Vec<Call>>,
    names: Names,
    needs: TaskNeeds,
    outputs: Vec<TaskIndex>,
    shape: Vec<Arg>,
    batch_size: Option<NonZeroU32>,
    scheduler: &'a str,
    seeding: Option<Arc<GraphSeeding>>,
    teller: Teller,
    faults: Arc<Faults>,
    finished: Option<(Arc<Finished>, Py<PyAny>)>,
    recording: Option<Arc<Recording>>,
    /// Where the results come from that are asked for, if some may be stored.
    sources: Option<Vec<Output>>,
    /// Where it is told how far the tasks have come, if anybody wants to know.
    pub(crate) tally: Option<Py<Tally>>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        planned: Planned,
        chunksize: Option<u32>,
        scheduler: &'a str,
        root: Option<&Bound<'_, PyAny>>,
        manner: Manner,
        faults: Arc<Faults>,
    ) -> PyResult<Plan<'a>> {
        let seeding = Seeding::of(root)?
            .map(|seeding| Arc::new(GraphSeeding::new(seeding, &planned.names.sequence())));
        let ranks = (manner.hearing == Hearing::Ordered).then(|| {
            let spec = JobSpec {
                graph: Graph::clone(&planned.graph),
                wanted: Wanted::Tasks(planned.outputs.clone()),
                kinds: Kinds::One(KindId(0)),
                batch_size: None,
                is_open: false,
                rules: Rules::default(),
            };
            let mut ranks = vec![0; planned.graph.n_tasks()];
            for (rank, task) in inline::order(spec).into_iter().enumerate() {
                ranks[task.as_usize()] = rank as u32;
            }
            ranks
        });
        Ok(Plan {
            graph: Arc::new(planned.graph),
            calls: Arc::new(planned.calls),
            names: planned.names,
            needs: planned.needs,
            outputs: planned.outputs,
            shape: planned.shape,
            batch_size: chunksize.and_then(NonZeroU32::new),
            scheduler,
            seeding,
            teller: Teller::new(manner, ranks, scheduler, &faults),
            faults,
            finished: planned
                .on_finished
                .map(|callback| (Arc::default(), callback)),
            recording: None,
            sources: None,
            tally: None,
        })
    }

    /// For what a call was given; with a namer, a `manyhands._checkpointing.GraphNamer`, for what is not stored yet.
    fn of(
        collected: Collected,
        chunksize: Option<u32>,
        scheduler: &'a str,
        root: Option<&Bound<'_, PyAny>>,
        (manner, faults): (Manner, Arc<Faults>),
        namer: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Plan<'a>> {
        let Some(namer) = &namer else {
            return Plan::new(collected.into(), chunksize, scheduler, root, manner, faults);
        };
        let seeding = Seeding::of(root)?.map(|seeding| {
            let created = collected.nodes.iter().map(|node| node.get().sequence);
            GraphSeeding::new(seeding, &created.collect::<Vec<_>>())
        });
        let numbers = seeding.as_ref().map(|seeding| &seeding.numbers[..]);
        let rest = resume(namer.py(), collected, numbers, namer)?;
        // A task's number is the one that it has among all.
        let seeding = seeding.map(|seeding| {
            let before = rest.before.iter();
            let numbers = before.map(|&at| seeding.numbers[at as usize]).collect();
            Arc::new(GraphSeeding { numbers, ..seeding })
        });
        Ok(Plan {
            seeding,
            recording: Some(Arc::clone(&recorder_of(namer)?.get().recording)),
            sources: Some(rest.outputs),
            ..Plan::new(
                rest.collected.into(),
                chunksize,
                scheduler,
                None,
                manner,
                faults,
            )?
        })
    }

    /// The key of a result that is asked for.
    fn output_key<'py>(&self, py: Python<'py>, at: usize) -> PyResult<Bound<'py, PyAny>> {
        match &self.sources {
            Some(sources) => Delayed::key(sources[at].node().bind(py)),
            None => self.names.key(py, self.outputs[at]),
        }
    }

    /// Waits until all that has been stored is durable, before it is taken.
    fn make_durable(&self, py: Python<'_>) -> PyResult<()> {
        let recording = self.recording.as_ref();
        recording.map_or(Ok(()), |recording| recording.wait(py))
    }

    /// What became of each output, in their order.
    /// `asking` is a `manyhands._resources.Asking`, which finds out where tasks run that need something.
    pub(crate) fn run<'py>(
        &self,
        py: Python<'py>,
        pool: Option<AnyPool<'py>>,
        asking: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Vec<Taken>> {
        let (pool, needs) = match (self.needs.is_empty(), asking) {
            (true, _) => (pool, None),
            (false, None) => {
                let unheard = "tasks that need resources, in a call that does not ask for them";
                return Err(PyRuntimeError::new_err(unheard));
            }
            (false, Some(asking)) => {
                let name = |task| {
                    let TaskName { text, key, .. } = self.name(py, task);
                    key.map_or_else(|| text.clone(), |key| format!("{text} (key {key})"))
                };
                let n_tasks = self.graph.n_tasks();
                let (pool, needs) = self.needs.resolve(py, n_tasks, &asking, name)?;
                (pool, Some(needs))
            }
        };
        let computed = self.run_rest(py, pool, needs)?;
        let Some(sources) = &self.sources else {
            return Ok(computed);
        };
        let result = |source: &Output| match source {
            Output::Stored(_, value) => Ok(value.clone_ref(py)),
            Output::Computed(_, at) => match &computed[*at] {
                Ok(value) => Ok(value.clone_ref(py)),
                Err(error) => Err(error.clone_ref(py)),
            },
        };
        Ok(sources.iter().map(result).collect())
    }

    fn run_rest(
        &self,
        py: Python<'_>,
        pool: Option<AnyPool<'_>>,
        needs: Option<Needs>,
    ) -> PyResult<Vec<Taken>> {
        name_tasks(py, &self.calls);
        match pool {
            _ if self.graph.n_tasks() == 0 => Ok(Vec::new()),
            None => self.run_inline(py, 0),
            Some(AnyPool::Here(level)) => self.run_inline(py, level),
            Some(AnyPool::Threads(threads)) => self.run_in_threads(py, threads.get(), needs),
            Some(AnyPool::Processes(processes)) => {
                self.run_in_processes(py, processes.get(), needs)
            }
            Some(AnyPool::Fork(fork)) => self.run_in_forks(py, fork.get()),
        }
    }

    /// Waits for the end of a job, looking up for signals and for workers to fork, and tells what its tasks say
    /// and which have returned.
    fn wait_for_end(&self, py: Python<'_>, job: &Job, forking: Option<&Forking>) -> PyResult<End> {
        let mut lost = Vec::new();
        let function = |py: Python<'_>, task: TaskIndex| {
            let call = self.calls.get(task.as_usize());
            call.map_or_else(|| py.None(), |call| call.function(py))
        };
        crate::halt::begin_to_wait(py)?;
        loop {
            if let Some(forking) = forking {
                forking.attend(py)?;
            }
            let news = detached(py, || job.wait_for_end(SIGNAL_PAUSE));
            self.teller.hear(py, news.said, &news.lost, &function)?;
            look_up(py)?;
            self.tell(py)?;
            if let (Some(recording), false) = (&self.recording, news.is_done) {
                recording.check(py)?;
            }
            lost.extend(news.lost);
            if news.failure.is_some() || news.is_done {
                self.teller.end(py, news.failure.as_ref(), &function)?;
                return Ok(match news.failure {
                    Some(failure) => End::Failed(failure),
                    None => End::Done(lost),
                });
            }
        }
    }

    /// The arguments with `results` in the places of the wanted tasks.
    fn rebuild<'py>(
        &self,
        py: Python<'py>,
        results: &[Py<PyAny>],
    ) -> PyResult<Bound<'py, PyTuple>> {
        let mut result = |k: u32| Ok(results[k as usize].clone_ref(py));
        let rebuilt = self.shape.iter().map(|arg| rebuild(py, arg, &mut result));
        PyTuple::new(py, rebuilt.collect::<PyResult<Vec<_>>>()?)
    }

    fn spec(&self, kinds: Vec<KindId>) -> JobSpec {
        JobSpec {
            graph: Graph::clone(&self.graph),
            wanted: Wanted::Tasks(self.outputs.clone()),
            kinds: Kinds::Each(kinds),
            batch_size: self.batch_size,
            is_open: false,
            rules: self.faults.rules,
        }
    }

    fn kinds(&self) -> Vec<KindId> {
        let kind = |call: &Call| match &call.func {
            Callee::Function(function) => kind_of(function),
            Callee::Input(_) => KindId(0),
        };
        self.calls.iter().map(kind).collect()
    }

    fn local(&self, py: Python<'_>, place: Place, level: Level) -> PyResult<Arc<LocalGraph>> {
        let calls = Arc::clone(&self.calls);
        let seeding = self.seeding.clone().map(|seeding| (seeding, place));
        let faults = Arc::clone(&self.faults);
        let mut manner = self.teller.manner();
        if place == Place::Here {
            if manner.hearing == Hearing::Ordered {
                // It is in order as it is.
                manner.hearing = Hearing::Here;
            }
            if in_task() {
                manner.on_misuse = OnMisuse::Ignore;
            }
        }
        let heard = (
            Listening::new(py, manner, &faults)?,
            Context::of_caller(py)?,
        );
        let graph = Arc::clone(&self.graph);
        let ranks = self.teller.ranks().map(Arc::from);
        let noting = self.noting();
        let faults = (faults, level);
        let program = LocalGraph::new(graph, calls, seeding, faults, heard, ranks, noting);
        program.record(self.recording.clone());
        Ok(Arc::new(program))
    }

    /// Tells of what tasks in this process have done, once they have.
    fn tell_local(
        &self,
        py: Python<'_>,
        program: &LocalGraph,
        failure: Option<&Failure>,
    ) -> PyResult<()> {
        let listening = program.listening();
        let failed = match failure {
            Some(Failure::Task(task, _)) => Some(task.as_usize()),
            _ => None,
        };
        let ranks = self.teller.ranks();
        let rank = failed.map(|at| ranks.map_or(at as u32, |ranks| ranks[at]));
        listening.end(py, failure.is_none(), rank)?;
        for (at, drawn) in listening.take_drawn() {
            let function = self.calls[at as usize].function(py);
            self.teller.tell_of_misuse(py, &function, drawn)?;
        }
        Ok(())
    }

    fn noting(&self) -> Option<Arc<Finished>> {
        let finished = self.finished.as_ref();
        finished.map(|(finished, _)| Arc::clone(finished))
    }

    fn tell(&self, py: Python<'_>) -> PyResult<()> {
        let Some((finished, callback)) = &self.finished else {
            return Ok(());
        };
        let finished = finished.take();
        if finished.is_empty() {
            return Ok(());
        }
        let keys = finished.iter().map(|&task| self.names.key(py, task));
        let keys = keys.collect::<PyResult<Vec<_>>>()?;
        callback.call1(py, (keys,)).map(drop)
    }

    fn run_inline(&self, py: Python<'_>, level: Level) -> PyResult<Vec<Taken>> {
        let program = self.local(py, Place::Here, level)?;
        let board = self.tally.as_ref().map(|tally| tally.get().board());
        let spec = self.spec(self.kinds());
        let resting = match self.teller.manner().hearing {
            Hearing::Ordered => Resting::InOrder,
            _ => Resting::Aside,
        };
        let outcome = inline::run_watched(spec, &*program, board.as_deref(), resting);
        self.tell(py)?;
        self.tell_local(py, &program, outcome.as_ref().err())?;
        match outcome {
            Ok(lost) => self.take_local(py, &program, lost),
            Err(failure) => Err(program
                .take_interrupt()
                .unwrap_or_else(|| self.local_exception(py, &failure, &program))),
        }
    }

    fn run_in_threads(
        &self,
        py: Python<'_>,
        threads: &ThreadPool,
        needs: Option<Needs>,
    ) -> PyResult<Vec<Taken>> {
        let program = self.local(py, Place::Thread, threads.level)?;
        let own = Arc::clone(&program);
        let spec = self.spec(self.kinds());
        let job = match needs {
            None => threads.submit(spec, own),
            Some(needs) => threads.pool.submit_needing(spec, own, needs),
        };
        self.watch(&job);
        let waited = self.wait_for_end(py, &job, None);
        match &waited {
            Ok(End::Done(_)) => self.tell_local(py, &program, None)?,
            Ok(End::Failed(failure)) => self.tell_local(py, &program, Some(failure))?,
            Err(_) => program.listening().end(py, false, None)?,
        }
        match waited {
            Ok(End::Done(lost)) => self.take_local(py, &program, lost),
            Ok(End::Failed(failure)) => Err(self.local_exception(py, &failure, &program)),
            Err(interrupt) => {
                for thread in program.threads() {
                    raise_in_thread(py, thread);
                }
                py.detach(|| job.cancel(Duration::ZERO));
                Err(interrupt)
            }
        }
    }

    fn run_in_processes(
        &self,
        py: Python<'_>,
        processes: &ProcessPool,
        needs: Option<Needs>,
    ) -> PyResult<Vec<Taken>> {
        let mut numbers = Numbers::new(py, processes)?;
        let (program, kinds) = match self.encode(py, &mut numbers) {
            Ok(encoded) => encoded,
            Err(error) => {
                processes.pool.forget_functions(&numbers.acquired);
                return Err(error);
            }
        };
        let own = Arc::clone(&program);
        let spec = self.spec(kinds);
        let relay = self.teller.manner().relay();
        let job = match needs {
            None => (processes.pool).submit_relayed(spec, own, numbers.acquired, relay),
            Some(needs) => {
                let pool = processes.pool.needing(needs);
                pool.submit_relayed(spec, own, numbers.acquired, relay)
            }
        };
        self.finish_remote(py, &job, &program, None)
    }

    /// Each worker has the calls already: a task's bytes are its number.
    fn run_in_forks(&self, py: Python<'_>, fork: &ForkPool) -> PyResult<Vec<Taken>> {
        let n_tasks = self.calls.len();
        let kinds = self.kinds();
        let mut bytes = Vec::with_capacity(2 * n_tasks);
        let mut ends = Vec::with_capacity(n_tasks);
        for number in 0..n_tasks {
            write_varint(&mut bytes, number as u64);
            ends.push(bytes.len());
        }
        let functions = kinds.iter().map(|kind| kind.0).collect();
        let graph = Arc::clone(&self.graph);
        let program = RemoteGraph::new(
            graph,
            functions,
            bytes,
            ends,
            Keeps::default(),
            Arc::clone(&own(py)?.stock),
            self.outputs.clone(),
        );
        program.record(self.recording.clone());
        let program = Arc::new(program.noting(self.noting()));
        let inherited = Inherited::Graph(Arc::clone(&self.calls), self.seeding.clone());
        let forking = fork.forking(py, inherited, &self.faults)?;
        forking.expect(n_tasks);
        let own = Arc::clone(&program);
        let job = (fork.pool).submit_relayed(
            self.spec(kinds),
            own,
            Vec::new(),
            self.teller.manner().relay(),
        );
        self.finish_remote(py, &job, &program, Some(&forking))
    }

    /// Waits for the end of a job in other processes; its results.
    fn finish_remote(
        &self,
        py: Python<'_>,
        job: &Job,
        program: &RemoteGraph,
        forking: Option<&Forking>,
    ) -> PyResult<Vec<Taken>> {
        self.watch(job);
        match self.wait_for_end(py, job, forking) {
            Ok(End::Done(lost)) => self.take_remote(py, program, lost),
            Ok(End::Failed(failure)) => Err(self.remote_exception(py, &failure, program)),
            Err(interrupt) => {
                py.detach(|| job.cancel(CANCEL_GRACE));
                Err(interrupt)
            }
        }
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        numbers: &mut Numbers<'_, 'py>,
    ) -> PyResult<(Arc<RemoteGraph>, Vec<KindId>)> {
        // A million of them take a second: Ctrl-C must not wait for the last.
        let mut turns = Turns::begin();
        let mut functions = Vec::with_capacity(self.calls.len());
        for call in self.calls.iter() {
            turns.give_way(py)?;
            functions.push(numbers.of(py, &call.func)?);
        }
        // Made after the functions were pickled: that may find out about local modules.
        let pickler = Pickler::with_sink(numbers.sink.clone().unbind());
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(self.calls.len());
        let prefix = self.faults.prefix(py)?;
        for (at, call) in self.calls.iter().enumerate() {
            turns.give_way(py)?;
            bytes.extend_from_slice(&prefix);
            if let Some(seeding) = &self.seeding {
                seeding.write(at, &mut bytes);
            }
            call.encode(py, &mut bytes, &pickler)
                .map_err(|error| self.name_in(py, error, TaskIndex(at as u32)))?;
            ends.push(bytes.len());
        }
        let kinds = functions.iter().map(|&number| KindId(number)).collect();
        let graph = Arc::clone(&self.graph);
        let keeps = pickler.take_keeps();
        let stock = Arc::clone(&numbers.own.stock);
        let wanted = self.outputs.clone();
        let program = RemoteGraph::new(graph, functions, bytes, ends, keeps, stock, wanted);
        program.record(self.recording.clone());
        Ok((Arc::new(program.noting(self.noting())), kinds))
    }

    /// Adds to an error before the run which task it is about.
    fn name_in(&self, py: Python<'_>, error: PyErr, task: TaskIndex) -> PyErr {
        let TaskName { text, .. } = self.name(py, task);
        let noted = py
            .import(intern!(py, "manyhands._raising"))
            .and_then(|helpers| {
                helpers.call_method1(intern!(py, "not_sent"), (error.value(py), text))
            });
        noted.map_or_else(|worse| worse, PyErr::from_value)
    }

    fn watch(&self, job: &Job) {
        if let Some(tally) = &self.tally {
            tally.get().watch(job);
        }
    }

    fn take_local(&self, py: Python<'_>, program: &LocalGraph, lost: Lost) -> PyResult<Vec<Taken>> {
        self.make_durable(py)?;
        let fail = |failure: &Failure| self.local_exception(py, failure, program);
        let take = |task: TaskIndex| program.take(task).unwrap_or_else(|| Err(missing(task)));
        self.take_all(py, lost, fail, take)
    }

    fn take_remote(
        &self,
        py: Python<'_>,
        program: &RemoteGraph,
        lost: Lost,
    ) -> PyResult<Vec<Taken>> {
        self.make_durable(py)?;
        let fail = |failure: &Failure| self.remote_exception(py, failure, program);
        self.take_all(py, lost, fail, |task| match program.take(task) {
            Outcome::Returned(payload) => Ok(decode_value(py, &payload, &NoViews)?.unbind()),
            Outcome::Shared(result) => result.decode(py, program.stock()),
            Outcome::NoRoom(shortage) => {
                let failure = Failure::NoRoom(task, shortage);
                Err(self.exception(py, &failure, Evidence::None, None))
            }
            _ => Err(missing(task)),
        })
    }

    /// What became of each wanted task. Those that are lost for one task get one exception.
    fn take_all(
        &self,
        py: Python<'_>,
        lost: Lost,
        fail: impl Fn(&Failure) -> PyErr,
        take: impl Fn(TaskIndex) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Vec<Taken>> {
        let lost: HashMap<_, _> = lost.into_iter().collect();
        let mut errors: HashMap<Option<TaskIndex>, Py<PyAny>> = HashMap::new();
        let mut taken = Vec::with_capacity(self.outputs.len());
        for &task in &self.outputs {
            taken.push(match lost.get(&task) {
                None => Ok(take(task)?),
                Some(failure) => {
                    let error = errors
                        .entry(failure.culprit())
                        .or_insert_with(|| fail(failure).into_value(py).into_any());
                    Err(error.clone_ref(py))
                }
            });
        }
        Ok(taken)
    }

    /// What stands in the places of the wanted tasks. Where places are to be left out, they are gone from
    /// the arguments after this.
    pub(crate) fn settle(&mut self, py: Python<'_>, taken: Vec<Taken>) -> PyResult<Vec<Py<PyAny>>> {
        if self.faults.on_error == OnError::Skip {
            let is_lost = |k: u32| taken[k as usize].is_err();
            for arg in &mut self.shape {
                if let Err(k) = leave_out(arg, &is_lost)
                    && let Err(error) = &taken[k as usize]
                {
                    let helpers = py.import(intern!(py, "manyhands._raising"))?;
                    let error =
                        helpers.call_method1(intern!(py, "not_left_out"), (error.bind(py),))?;
                    return Err(PyErr::from_value(error));
                }
            }
        }
        let settled = taken.into_iter();
        Ok(settled
            .map(|taken| taken.unwrap_or_else(|error| error))
            .collect())
    }

    fn name(&self, py: Python<'_>, task: TaskIndex) -> TaskName {
        let text = match &self.names {
            Names::Delayed(nodes) => describe(nodes[task.as_usize()].bind(py)),
            Names::Keys(_) => {
                let function = self.calls[task.as_usize()].function(py);
                format!("{}(…)", callable_name(function.bind(py)))
            }
        };
        TaskName {
            text,
            key: self.names.key(py, task).ok().map(|key| key.to_string()),
            called: None,
        }
    }

    /// What a task calls, and with what. In the places of other tasks' results stands how large they are.
    fn called(
        &self,
        py: Python<'_>,
        task: TaskIndex,
        program: &RemoteGraph,
    ) -> PyResult<Py<PyAny>> {
        let deaths = py.import(intern!(py, "manyhands._deaths"))?;
        let sizes = program.sizes_of_inputs(task);
        let mut input = |k: u32| {
            let n_bytes = sizes.get(k as usize).copied().flatten();
            Ok(deaths
                .call_method1(intern!(py, "Result"), (n_bytes,))?
                .unbind())
        };
        let call = &self.calls[task.as_usize()];
        call.invoke_by(py, &mut input, |function, args, kwargs| {
            Ok((function, args, kwargs).into_pyobject(py)?.into_any())
        })
    }

    fn local_exception(&self, py: Python<'_>, failure: &Failure, program: &LocalGraph) -> PyErr {
        let evidence = match failure {
            Failure::Task(task, _) => match program.take(*task) {
                Some(Err(error)) => Evidence::Raised(error),
                _ => Evidence::None,
            },
            _ => Evidence::None,
        };
        self.exception(py, failure, evidence, None)
    }

    fn remote_exception(&self, py: Python<'_>, failure: &Failure, program: &RemoteGraph) -> PyErr {
        let evidence = match failure {
            Failure::Task(task, _) => match program.take(*task) {
                Outcome::Failed(payload) => Evidence::Packed(payload.to_vec()),
                _ => Evidence::None,
            },
            _ => Evidence::None,
        };
        let called = match failure {
            Failure::WorkerDied(task, _) => self.called(py, *task, program).ok(),
            _ => None,
        };
        self.exception(py, failure, evidence, called)
    }

    fn exception(
        &self,
        py: Python<'_>,
        failure: &Failure,
        evidence: Evidence,
        called: Option<Py<PyAny>>,
    ) -> PyErr {
        let name = || match failure.culprit() {
            Some(task) => TaskName {
                called,
                ..self.name(py, task)
            },
            None => TaskName::default(),
        };
        let error = exception(py, failure, evidence, name, self.scheduler, &self.faults);
        if let (Some(recording), Some(task)) = (&self.recording, failure.culprit()) {
            recording.raised(py, task.0, &error);
        }
        error
    }
}

fn missing(task: TaskIndex) -> PyErr {
    PyRuntimeError::new_err(format!("task {} is done and has no result", task.0))
}

/// Wanted tasks that have no result, each with what is to blame.
type Lost = Vec<(TaskIndex, Failure)>;

/// The result of a wanted task, or the exception that stands for it.
pub(crate) type Taken = Result<Py<PyAny>, Py<PyAny>>;

/// How a job ended.
enum End {
    Done(Lost),
    Failed(Failure),
}

/// The numbers of the functions of one job; each function is pickled once.
struct Numbers<'a, 'py> {
    processes: &'a ProcessPool,
    own: Arc<Own>,
    sink: Bound<'py, Sink>,
    by_address: HashMap<usize, u32>,
    acquired: Vec<u32>,
}

impl<'a, 'py> Numbers<'a, 'py> {
    fn new(py: Python<'py>, processes: &'a ProcessPool) -> PyResult<Numbers<'a, 'py>> {
        let own = own(py)?;
        Ok(Numbers {
            processes,
            sink: Bound::new(py, Sink::of_parent(Arc::clone(&own)))?,
            own,
            by_address: HashMap::new(),
            acquired: Vec::new(),
        })
    }

    fn of(&mut self, py: Python<'py>, callee: &Callee) -> PyResult<u32> {
        let function = match callee {
            Callee::Function(function) => function.clone_ref(py),
            // The function comes as an input; None stands in its place.
            Callee::Input(_) => py.None(),
        };
        // The plan keeps the functions alive, so an address means one function.
        let address = function.as_ptr() as usize;
        if let Some(&number) = self.by_address.get(&address) {
            return Ok(number);
        }
        let number = match callee {
            Callee::Function(function) => {
                let pickled = PickledFunction::with_sink(function.bind(py), &self.sink)?;
                pickled.number(py, &self.processes.pool)
            }
            Callee::Input(_) => {
                let pickling = py.import(intern!(py, "manyhands._pickling"))?;
                let pickle = pickling.call_method1(intern!(py, "dumps"), (function,))?;
                let pickle = pickle.cast::<PyBytes>()?.as_bytes();
                self.processes.pool.function(pickle, &[], None)
            }
        };
        self.acquired.push(number);
        self.by_address.insert(address, number);
        Ok(number)
    }
}
