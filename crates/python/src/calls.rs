//! Calls that were submitted together, whose results stay with the engine until they are asked for: what
//! stands behind the futures of `manyhands.distributed`.

use crate::call::{Arg, Args, Call, Callee, Kwargs, rebuild, rebuild_tuple};
use crate::faults::Faults;
use crate::interpreter::{SIGNAL_PAUSE, detached, look_up};
use crate::items::Items;
use crate::map_run::{MapRun, Reader};
use crate::mapped::lock;
use crate::payload::Outcome;
use crate::pending::Completions;
use crate::pools::AnyPool;
use crate::relay::{Manner, Teller};
use crate::scan::Scanner;
use crate::seeding::Seeding;
use crate::shared::functions::PickledFunction;
use manyhands_executor::{Failure, Said};
use manyhands_graph::TaskIndex;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Stands for the result of a call in the arguments of others; futures are made from it.
#[pyclass(frozen, subclass, weakref, module = "manyhands._native")]
pub(crate) struct Promise;

#[pymethods]
impl Promise {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Promise {
        Promise
    }
}

fn is_promise(object: &Bound<'_, PyAny>) -> bool {
    object.is_instance_of::<Promise>()
}

/// Arguments with promises in them.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Template {
    /// The k-th input stands for the k-th promise.
    args: Vec<Arg>,
    kwargs: Vec<(Py<PyString>, Arg)>,
    promises: Vec<Py<PyAny>>,
}

#[pymethods]
impl Template {
    /// Arguments in which promises are, looked for in collections too; None if there are none.
    #[staticmethod]
    fn of(
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Option<Template>> {
        let mut promises: Vec<Py<PyAny>> = Vec::new();
        let mut on_found = |found: &Bound<'_, PyAny>| {
            let known = promises.iter().position(|promise| promise.is(found));
            let at = known.unwrap_or_else(|| {
                promises.push(found.clone().unbind());
                promises.len() - 1
            });
            Ok(Arg::Input(at as u32))
        };
        let mut scanner = Scanner::for_wanted(is_promise, &mut on_found);
        let mut scanned = Vec::with_capacity(args.len());
        for arg in args.iter() {
            let found = scanner.scan(&arg)?;
            scanned.push(found.unwrap_or_else(|| Arg::Value(arg.unbind())));
        }
        let mut named = Vec::new();
        for (name, value) in kwargs.into_iter().flat_map(|kwargs| kwargs.iter()) {
            let found = scanner.scan(&value)?;
            let arg = found.unwrap_or_else(|| Arg::Value(value.unbind()));
            named.push((name.cast_into::<PyString>()?.unbind(), arg));
        }
        Ok((!promises.is_empty()).then_some(Template {
            args: scanned,
            kwargs: named,
            promises,
        }))
    }

    /// The promises, each once.
    #[getter]
    fn promises(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let promises = self.promises.iter();
        promises.map(|promise| promise.clone_ref(py)).collect()
    }

    /// The arguments with values in the places of the promises.
    fn fill<'py>(
        &self,
        py: Python<'py>,
        values: Vec<Py<PyAny>>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let mut input = |k: u32| match values.get(k as usize) {
            Some(value) => Ok(value.clone_ref(py)),
            None => Err(PyValueError::new_err(format!("no value for promise {k}"))),
        };
        let args = rebuild_tuple(py, &self.args, &mut input)?;
        let kwargs = PyDict::new(py);
        for (name, arg) in &self.kwargs {
            kwargs.set_item(name, rebuild(py, arg, &mut input)?)?;
        }
        Ok((args, kwargs))
    }
}

impl Template {
    /// The call of a function. Inputs that are values are part of it, the others are numbered anew.
    fn call(&self, py: Python<'_>, function: &Py<PyAny>, inputs: &[Input]) -> Call {
        let mut numbers = 0..;
        let places: Vec<_> = inputs
            .iter()
            .map(|input| match input {
                Input::Stored(_) => Arg::Input(numbers.next().unwrap_or_default()),
                Input::Value(value) => Arg::Value(value.clone_ref(py)),
            })
            .collect();
        let mut place = |k: u32| places[k as usize].clone_ref(py);
        let mut args = Vec::with_capacity(self.args.len());
        for arg in &self.args {
            let mut arg = arg.clone_ref(py);
            arg.replace_inputs(&mut place);
            args.push(arg);
        }
        let named = self.kwargs.iter().map(|(name, arg)| {
            let mut arg = arg.clone_ref(py);
            arg.replace_inputs(&mut place);
            (name.clone_ref(py), arg)
        });
        let named: Box<[_]> = named.collect();
        Call {
            func: Callee::Function(function.clone_ref(py)),
            args: Args::Template(args.into_boxed_slice()),
            kwargs: (!named.is_empty()).then(|| Box::new(Kwargs::Template(named))),
        }
    }
}

/// Where a promise's value is.
enum Input {
    Stored(Outcome),
    Value(Py<PyAny>),
}

/// What is known of calls by now.
#[derive(Default)]
struct State {
    is_done: Vec<bool>,
    /// Those that are done, in the order in which that became known.
    log: Vec<u32>,
    failure: Option<Failure>,
    /// What they have said and nobody has been told.
    said: Vec<Said>,
}

/// Calls of one function, submitted together.
#[pyclass(frozen, module = "manyhands._native")]
pub(crate) struct Calls {
    run: MapRun,
    scheduler: String,
    state: Mutex<State>,
}

impl Calls {
    fn of(run: MapRun, scheduler: String) -> Calls {
        run.job.detach();
        let state = State {
            is_done: vec![false; run.n_sent() as usize],
            ..State::default()
        };
        Calls {
            run,
            scheduler,
            state: Mutex::new(state),
        }
    }

    /// Tells the caller what the calls have said.
    fn hear(&self, py: Python<'_>) -> PyResult<()> {
        let (said, is_over, failure) = {
            let mut state = lock(&self.state);
            let said = std::mem::take(&mut state.said);
            let is_over = state.failure.is_some() || state.log.len() == state.is_done.len();
            (said, is_over, state.failure.clone())
        };
        self.run.hear(py, said, &[])?;
        if is_over {
            self.run.tell_rest(py, failure.as_ref())?;
        }
        Ok(())
    }

    /// Takes note of the news; whether a call, or all, need not be waited for any longer.
    fn look(&self, index: Option<u32>) -> bool {
        let mut state = lock(&self.state);
        let news = self.run.job.wait(Duration::ZERO);
        state.said.extend(news.said);
        for task in news.delivered {
            if let Some(is_done) = state.is_done.get_mut(task.as_usize()) {
                *is_done = true;
                state.log.push(task.0);
            }
        }
        if news.failure.is_some() {
            state.failure = news.failure;
        }
        state.failure.is_some()
            || match index {
                Some(index) => state.is_done.get(index as usize).is_none_or(|done| *done),
                None => state.log.len() == state.is_done.len(),
            }
    }
}

#[pymethods]
impl Calls {
    /// A call for each item of the shortest of some iterables.
    #[staticmethod]
    #[pyo3(signature = (pool, function, pickle, iterables, chunksize, scheduler, root, manner, faults))]
    #[allow(clippy::too_many_arguments)]
    fn many<'py>(
        py: Python<'py>,
        pool: AnyPool<'py>,
        function: Py<PyAny>,
        pickle: Option<Bound<'py, PickledFunction>>,
        iterables: &Bound<'py, PyTuple>,
        chunksize: Option<u32>,
        scheduler: String,
        root: Option<Bound<'py, PyAny>>,
        manner: Manner,
        faults: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Calls> {
        refuse_fork(&pool)?;
        let terms = (Seeding::of(root.as_ref())?, Faults::of(faults.as_ref())?);
        let mut items = Items::new(iterables)?;
        let pickle = pickle.as_ref();
        let teller = Teller::new(manner, None, &scheduler, &terms.1);
        let reader = Reader::Takes;
        let mut run = MapRun::open(
            py, &pool, function, pickle, chunksize, reader, terms, teller,
        )?;
        while !items.is_exhausted() {
            run.feed(py, &mut items, usize::MAX)?;
            py.check_signals()?;
        }
        run.job.close();
        Ok(Calls::of(run, scheduler))
    }

    /// A single call.
    #[staticmethod]
    #[pyo3(signature = (pool, function, pickle, args, kwargs, scheduler, root, manner, faults))]
    #[allow(clippy::too_many_arguments)]
    fn one<'py>(
        py: Python<'py>,
        pool: AnyPool<'py>,
        function: Py<PyAny>,
        pickle: Option<Bound<'py, PickledFunction>>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        scheduler: String,
        root: Option<Bound<'py, PyAny>>,
        manner: Manner,
        faults: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Calls> {
        refuse_fork(&pool)?;
        let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
        let terms = (Seeding::of(root.as_ref())?, Faults::of(faults.as_ref())?);
        let pickle = pickle.as_ref();
        let teller = Teller::new(manner, None, &scheduler, &terms.1);
        let run = MapRun::single(py, &pool, function, pickle, (args, kwargs), terms, teller)?;
        Ok(Calls::of(run, scheduler))
    }

    /// A single call in a worker process that reads results of others as they are stored. For each promise of
    /// the template, `inputs` has its calls and the number there, or None and the value.
    #[staticmethod]
    #[pyo3(signature = (pool, function, pickle, template, inputs, scheduler, root, manner, faults))]
    #[allow(clippy::too_many_arguments)]
    fn bound<'py>(
        py: Python<'py>,
        pool: AnyPool<'py>,
        function: Py<PyAny>,
        pickle: &Bound<'py, PickledFunction>,
        template: &Template,
        inputs: Vec<(Option<PyRef<'py, Calls>>, Bound<'py, PyAny>)>,
        scheduler: String,
        root: Option<Bound<'py, PyAny>>,
        manner: Manner,
        faults: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Calls> {
        let AnyPool::Processes(processes) = &pool else {
            return Err(PyTypeError::new_err("only processes read stored results"));
        };
        let inputs = inputs.into_iter().map(|(calls, at)| match calls {
            None => Ok(Input::Value(at.unbind())),
            Some(calls) => {
                let stored = calls.run.share(TaskIndex(at.extract()?));
                let stored =
                    stored.ok_or_else(|| PyValueError::new_err("an input is not there"))?;
                Ok(Input::Stored(stored))
            }
        });
        let inputs = inputs.collect::<PyResult<Vec<_>>>()?;
        let call = template.call(py, &function, &inputs);
        let stored = inputs.into_iter().filter_map(|input| match input {
            Input::Stored(outcome) => Some(outcome),
            Input::Value(_) => None,
        });
        let stored: Vec<_> = stored.collect();
        let terms = (Seeding::of(root.as_ref())?, Faults::of(faults.as_ref())?);
        let teller = Teller::new(manner, None, &scheduler, &terms.1);
        let processes = processes.get();
        let run = MapRun::bound(py, processes, pickle, &call, &stored, terms, teller)?;
        Ok(Calls::of(run, scheduler))
    }

    /// Wait until a call, or all of them, have returned, or until they cannot any more, or the time is up; whether
    /// it is one of the first two.
    #[pyo3(signature = (index, timeout))]
    fn wait(&self, py: Python<'_>, index: Option<u32>, timeout: Option<f64>) -> PyResult<bool> {
        let timeout =
            timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let is_over = self.look(index);
            self.hear(py)?;
            if is_over {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            let pause = left.map_or(SIGNAL_PAUSE, |left| left.min(SIGNAL_PAUSE));
            detached(py, || self.run.job.wait_until_news(pause));
            look_up(py)?;
        }
    }

    /// Whether a call has returned.
    fn is_done(&self, index: u32) -> bool {
        self.look(Some(index));
        let state = lock(&self.state);
        state.is_done.get(index as usize).is_some_and(|done| *done)
    }

    /// Whether the result of a call is here as bytes, for others to read.
    fn is_stored(&self, index: u32) -> bool {
        let shared = self.run.share(TaskIndex(index));
        matches!(shared, Some(Outcome::Returned(_) | Outcome::Shared(_)))
    }

    /// Whether the result of a call is more than a few bytes, which are not an object here yet.
    fn is_large(&self, index: u32) -> bool {
        matches!(self.run.share(TaskIndex(index)), Some(Outcome::Shared(_)))
    }

    /// Those that have returned, from the n-th on.
    fn done_from(&self, n: usize) -> Vec<u32> {
        self.look(None);
        let state = lock(&self.state);
        state.log.get(n..).unwrap_or_default().to_vec()
    }

    /// Why no further call returns: the number of the one to blame, if there is one, and the exception; None if all
    /// is well.
    fn failure(&self, py: Python<'_>) -> Option<(Option<u32>, Py<PyAny>)> {
        self.look(None);
        let failure = lock(&self.state).failure.clone()?;
        let blamed = failure.culprit().map(|task| task.0);
        let error = self.run.exception(py, &failure, &self.scheduler);
        Some((blamed, error.into_value(py).into_any()))
    }

    /// What a call has returned. It stays there.
    fn value(&self, py: Python<'_>, index: u32) -> PyResult<Py<PyAny>> {
        self.hear(py)?;
        let value = self.run.peek(py, TaskIndex(index), &self.scheduler)?;
        value.ok_or_else(|| PyValueError::new_err(format!("there is no result {index}")))
    }

    /// Drop what a call has returned.
    fn forget(&self, index: u32) {
        self.run.forget(TaskIndex(index));
    }

    /// End all that has not returned, also where it runs, as far as that can be done.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.run.job.cancel(Duration::ZERO));
    }

    /// The same, in threads that run Python code too.
    fn interrupt(&self, py: Python<'_>) {
        self.run.interrupt(py);
    }

    /// Have `completions` give `token` each time calls have returned, and at the end.
    fn notify(&self, completions: &Completions, token: u64) {
        let sender = completions.sender();
        let sender = Mutex::new(sender);
        self.run.job.on_news(move || {
            // Without a receiver nobody wants to know any more.
            let _ = lock(&sender).send(Some(token));
        });
    }
}

fn refuse_fork(pool: &AnyPool<'_>) -> PyResult<()> {
    match pool {
        AnyPool::Fork(_) => Err(PyTypeError::new_err("forked workers live for one call")),
        _ => Ok(()),
    }
}

/// Adds what this module gives to Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Promise>()?;
    module.add_class::<Template>()?;
    module.add_class::<Calls>()
}
