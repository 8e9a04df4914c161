//! A map under way: takes arguments from iterators, submits them in blocks, gathers results.

mod blame;
mod encoding;

use crate::call::{Call, Callee, kind_of};
use crate::codec::{Pickler, decode_value, write_bytes, write_varint};
use crate::context::Context;
use crate::durable::{Recording, TIMED};
use crate::faults::Faults;
use crate::forked::{ForkPool, Forking, Inherited};
use crate::interpreter::{detached, raise_in_thread};
use crate::items::Items;
use crate::listening::Listening;
use crate::mapped::{Arguments, LocalMap, RemoteMap, Slot};
use crate::misuse::CallersTurn;
use crate::payload::{Block, Outcome};
use crate::pools::{AnyPool, ProcessPool};
use crate::relay::Teller;
use crate::seeding::Seeding;
use crate::shared::functions::PickledFunction;
use crate::shared::receiving::NoViews;
use crate::shared::sending::{Keeps, Sink};
use crate::shared::stock::own;
use encoding::{Before, encode, encode_one};
use manyhands_executor::{CANCEL_GRACE, Failure, Job, News, Relay, Said, Stock, coarse_tick};
use manyhands_graph::{Graph, TaskIndex};
use manyhands_scheduler::{JobSpec, KindId, Kinds, Wanted};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const N_TASKS_PER_BLOCK_MAX: usize = 4096;
const BLOCK_BYTES: usize = 1 << 20;

/// What the reader of a map's results does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It waits for all of them, so that none of the caller's code runs meanwhile.
    Waits,
    /// It takes them as they come, and ends with the first failure.
    Takes,
    /// It looks at each in its place, failures among them.
    Looks,
}

/// The side of a map that depends on where it runs.
enum Side {
    Local(Arc<LocalMap>),
    Remote {
        program: Arc<RemoteMap>,
        pickler: Pickler,
        callee: Callee,
    },
}

/// One function over many arguments, submitted as an open job.
pub(crate) struct MapRun {
    side: Side,
    pub(crate) job: Arc<Job>,
    n_sent: u32,
    /// Whether some came too late, after the job was closed from elsewhere.
    is_cut: bool,
    /// Whether the caller waits for all results, so that none of its code runs meanwhile.
    is_blocking: bool,
    /// What the last block took, as a guess for the next.
    block_like: (usize, usize),
    function: Py<PyAny>,
    /// Where its workers are forked, if they are.
    forking: Option<Arc<Forking>>,
    /// Whether there is one task only, so that its number says nothing.
    is_single: bool,
    seeding: Option<Arc<Seeding>>,
    pub(crate) faults: Arc<Faults>,
    /// What stands before a task's bytes about trying it again.
    prefix: Vec<u8>,
    teller: Teller,
    recording: Option<Arc<Recording>>,
}

fn open_spec(kind: KindId, batch_size: Option<u32>, faults: &Faults) -> JobSpec {
    JobSpec {
        graph: Graph::independent(0),
        wanted: Wanted::All,
        kinds: Kinds::One(kind),
        batch_size: batch_size.and_then(NonZeroU32::new),
        is_open: true,
        rules: faults.rules,
    }
}

fn single_spec(kind: KindId, faults: &Faults) -> JobSpec {
    JobSpec {
        graph: Graph::independent(1),
        is_open: false,
        ..open_spec(kind, None, faults)
    }
}

/// Calls that run here, one after the other, are made in Python.
fn no_pool() -> PyErr {
    PyTypeError::new_err("a pool is needed")
}

/// What one job pickles with, and the memory it shares.
fn sharing(py: Python<'_>) -> PyResult<(Pickler, Arc<Stock>)> {
    let own = own(py)?;
    let stock = Arc::clone(&own.stock);
    let sink = Py::new(py, Sink::of_parent(own))?;
    Ok((Pickler::with_sink(sink), stock))
}

fn number_of(
    py: Python<'_>,
    processes: &ProcessPool,
    pickle: Option<&Bound<'_, PickledFunction>>,
) -> u32 {
    match pickle {
        Some(pickle) => pickle.get().number(py, &processes.pool),
        None => processes.pool.function(&[], &[], None),
    }
}

impl MapRun {
    /// Submits an empty open job for a function; for processes, with its pickle.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn open(
        py: Python<'_>,
        pool: &AnyPool<'_>,
        function: Py<PyAny>,
        pickle: Option<&Bound<'_, PickledFunction>>,
        batch_size: Option<u32>,
        reader: Reader,
        (seeding, faults): Terms,
        teller: Teller,
    ) -> PyResult<MapRun> {
        let goes_on = reader == Reader::Looks;
        let is_blocking = reader == Reader::Waits;
        let mut prefix = Vec::new();
        let (side, job) = match pool {
            AnyPool::Threads(threads) => {
                let threads = threads.get();
                let listening = Listening::new(py, teller.manner(), &faults)?;
                let heard = (listening, Context::of_caller(py)?);
                let (own, terms) = (
                    function.clone_ref(py),
                    (seeding.clone(), Arc::clone(&faults)),
                );
                let program = LocalMap::new(own, None, terms, threads.level, heard);
                let program = Arc::new(program.going_on(goes_on));
                let own = Arc::clone(&program);
                let spec = open_spec(kind_of(&function), batch_size, &faults);
                (Side::Local(program), threads.submit(spec, own))
            }
            AnyPool::Processes(processes) => {
                prefix = faults.prefix(py)?;
                let ways = (batch_size, goes_on, teller.manner().relay());
                Self::open_remote(py, processes.get(), &function, pickle, ways, &faults)?
            }
            AnyPool::Fork(fork) => {
                let inherited = Inherited::Stream(function.clone_ref(py));
                let fork = fork.get();
                let run =
                    Self::open_forked(py, fork, function, inherited, batch_size, faults, teller)?;
                return Ok(MapRun {
                    seeding,
                    is_blocking,
                    ..run
                });
            }
            AnyPool::Here(_) => return Err(no_pool()),
        };
        Ok(MapRun {
            side,
            job: Arc::new(job),
            n_sent: 0,
            is_cut: false,
            is_blocking,
            block_like: (0, 0),
            function,
            forking: None,
            is_single: false,
            seeding,
            faults,
            prefix,
            teller,
            recording: None,
        })
    }

    /// Submits an empty open job for workers that inherit what they need.
    fn open_forked(
        py: Python<'_>,
        fork: &ForkPool,
        function: Py<PyAny>,
        inherited: Inherited,
        batch_size: Option<u32>,
        faults: Arc<Faults>,
        teller: Teller,
    ) -> PyResult<MapRun> {
        let forking = fork.forking(py, inherited, &faults)?;
        let (pickler, stock) = sharing(py)?;
        let kind = kind_of(&function);
        let program = Arc::new(RemoteMap::new(kind.0, stock));
        let own = Arc::clone(&program);
        let spec = open_spec(kind, batch_size, &faults);
        let relay = teller.manner().relay();
        let job = (fork.pool).submit_relayed(spec, own, Vec::new(), relay);
        let side = Side::Remote {
            program,
            pickler,
            callee: Callee::Function(function.clone_ref(py)),
        };
        Ok(MapRun {
            side,
            job: Arc::new(job),
            n_sent: 0,
            is_cut: false,
            is_blocking: false,
            block_like: (0, 0),
            function,
            forking: Some(forking),
            is_single: false,
            seeding: None,
            faults,
            prefix: Vec::new(),
            teller,
            recording: None,
        })
    }

    /// Submits tasks whose arguments forked workers find by their numbers.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn of_list(
        py: Python<'_>,
        fork: &ForkPool,
        function: Py<PyAny>,
        items: Vec<Arguments>,
        batch_size: Option<u32>,
        (seeding, faults): Terms,
        teller: Teller,
        recording: Option<Arc<Recording>>,
    ) -> PyResult<MapRun> {
        let n_tasks = items.len() as u32;
        let inherited = Inherited::Map {
            function: function.clone_ref(py),
            kwargs: None,
            items,
            seeding,
            places: recording.as_ref().map(|recording| recording.places()),
        };
        let mut run = Self::open_forked(py, fork, function, inherited, batch_size, faults, teller)?;
        run.is_blocking = true;
        run.record(recording);
        run.send_numbers(n_tasks);
        Ok(run)
    }

    fn send_numbers(&mut self, n_tasks: u32) {
        while self.n_sent < n_tasks {
            let mut block = Block::like(self.n_sent, 0, 0);
            let end = n_tasks.min(self.n_sent + N_TASKS_PER_BLOCK_MAX as u32);
            for number in self.n_sent..end {
                let written: Result<(), Infallible> = block.push(|out| {
                    if self.recording.is_some() {
                        out.extend_from_slice(&TIMED);
                    }
                    // No inputs.
                    out.push(0);
                    write_varint(out, u64::from(number));
                    Ok(())
                });
                written.unwrap_or_else(|never| match never {});
            }
            self.send_remote(block);
        }
    }

    /// Submits a job of one task: a call.
    pub(crate) fn single(
        py: Python<'_>,
        pool: &AnyPool<'_>,
        function: Py<PyAny>,
        pickle: Option<&Bound<'_, PickledFunction>>,
        (args, kwargs): Given<'_, '_>,
        (seeding, faults): Terms,
        teller: Teller,
    ) -> PyResult<MapRun> {
        let mut prefix = Vec::new();
        let (side, job) = match pool {
            AnyPool::Threads(threads) => {
                let kwargs = kwargs.map(|kwargs| kwargs.clone().unbind());
                let threads = threads.get();
                let listening = Listening::new(py, teller.manner(), &faults)?;
                let heard = (listening, Context::of_caller(py)?);
                let (own, terms) = (
                    function.clone_ref(py),
                    (seeding.clone(), Arc::clone(&faults)),
                );
                let program = LocalMap::new(own, kwargs, terms, threads.level, heard);
                let program = Arc::new(program);
                program.push([Arguments::Many(args.clone().unbind())]);
                let own = Arc::clone(&program);
                let spec = single_spec(kind_of(&function), &faults);
                (Side::Local(program), threads.submit(spec, own))
            }
            AnyPool::Processes(processes) => {
                let processes = processes.get();
                let (pickler, stock) = sharing(py)?;
                let callee = Callee::Function(function.clone_ref(py));
                let mut block = Block::like(0, 64, 1);
                prefix = faults.prefix(py)?;
                let before = Before {
                    prefix: &prefix,
                    seeded: seeding.as_deref().map(|seeding| (seeding, 0)),
                    is_timed: false,
                };
                encode(args, kwargs, &callee, &pickler, before, &mut block)?;
                block.keep(pickler.take_keeps());
                let number = number_of(py, processes, pickle);
                let program = Arc::new(RemoteMap::new(number, stock));
                program.push(block);
                let own = Arc::clone(&program);
                let spec = single_spec(KindId(number), &faults);
                let relay = teller.manner().relay();
                let job = (processes.pool).submit_relayed(spec, own, vec![number], relay);
                let side = Side::Remote {
                    program,
                    pickler,
                    callee,
                };
                (side, job)
            }
            AnyPool::Fork(fork) => {
                let (given, terms) = ((args, kwargs), (seeding, faults));
                return Self::single_forked(py, fork.get(), function, given, terms, teller);
            }
            AnyPool::Here(_) => return Err(no_pool()),
        };
        Ok(MapRun {
            side,
            job: Arc::new(job),
            n_sent: 1,
            is_cut: false,
            is_blocking: false,
            block_like: (0, 0),
            function,
            forking: None,
            is_single: true,
            seeding,
            faults,
            prefix,
            teller,
            recording: None,
        })
    }

    /// Submits a job of one task that reads results of others, in processes.
    pub(crate) fn bound(
        py: Python<'_>,
        processes: &ProcessPool,
        pickle: &Bound<'_, PickledFunction>,
        call: &Call,
        inputs: &[Outcome],
        (seeding, faults): Terms,
        teller: Teller,
    ) -> PyResult<MapRun> {
        let (pickler, stock) = sharing(py)?;
        let prefix = faults.prefix(py)?;
        let mut keeps = Keeps::default();
        let mut block = Block::like(0, 64, 1);
        block.push(|out| {
            write_varint(out, inputs.len() as u64);
            for input in inputs {
                match input {
                    Outcome::Returned(payload) => write_bytes(out, payload),
                    Outcome::Shared(result) => {
                        write_bytes(out, &result.bytes(&stock));
                        let held = result.held().iter();
                        held.for_each(|held| keeps.hold(held.clone()));
                    }
                    _ => return Err(PyValueError::new_err("an input is not there")),
                }
            }
            out.extend_from_slice(&prefix);
            if let Some(seeding) = &seeding {
                seeding.write(0, out);
            }
            call.encode(py, out, &pickler)
        })?;
        keeps.extend(pickler.take_keeps());
        block.keep(keeps);
        let number = pickle.get().number(py, &processes.pool);
        let program = Arc::new(RemoteMap::new(number, stock));
        program.push(block);
        let own = Arc::clone(&program);
        let spec = single_spec(KindId(number), &faults);
        let relay = teller.manner().relay();
        let job = (processes.pool).submit_relayed(spec, own, vec![number], relay);
        let function = call.function(py);
        let callee = Callee::Function(function.clone_ref(py));
        Ok(MapRun {
            side: Side::Remote {
                program,
                pickler,
                callee,
            },
            job: Arc::new(job),
            n_sent: 1,
            is_cut: false,
            is_blocking: false,
            block_like: (0, 0),
            function,
            forking: None,
            is_single: true,
            seeding,
            faults,
            prefix,
            teller,
            recording: None,
        })
    }

    /// Forks a worker for one call, at once: the call sees everything as it is now.
    fn single_forked(
        py: Python<'_>,
        fork: &ForkPool,
        function: Py<PyAny>,
        (args, kwargs): Given<'_, '_>,
        (seeding, faults): Terms,
        teller: Teller,
    ) -> PyResult<MapRun> {
        let inherited = Inherited::Map {
            function: function.clone_ref(py),
            kwargs: kwargs.map(|kwargs| kwargs.clone().unbind()),
            items: vec![Arguments::Many(args.clone().unbind())],
            seeding,
            places: None,
        };
        fork.hold(py)?;
        let mut run = Self::open_forked(py, fork, function, inherited, None, faults, teller)?;
        run.is_single = true;
        run.send_numbers(1);
        run.job.close();
        if let Some(forking) = &run.forking {
            fork.leave_alone(py, &run.job, forking)?;
        }
        Ok(run)
    }

    fn open_remote(
        py: Python<'_>,
        processes: &ProcessPool,
        function: &Py<PyAny>,
        pickle: Option<&Bound<'_, PickledFunction>>,
        (batch_size, goes_on, relay): (Option<u32>, bool, Relay),
        faults: &Faults,
    ) -> PyResult<(Side, Job)> {
        let (pickler, stock) = sharing(py)?;
        let number = number_of(py, processes, pickle);
        let program = Arc::new(RemoteMap::new(number, stock).going_on(goes_on));
        let spec = open_spec(KindId(number), batch_size, faults);
        let own = Arc::clone(&program);
        let job = (processes.pool).submit_relayed(spec, own, vec![number], relay);
        let callee = Callee::Function(function.clone_ref(py));
        let side = Side::Remote {
            program,
            pickler,
            callee,
        };
        Ok((side, job))
    }

    /// Has what its tasks return stored. To be called before there are any.
    pub(crate) fn record(&mut self, recording: Option<Arc<Recording>>) {
        if let Some(recording) = &recording {
            match &self.side {
                Side::Local(program) => program.record(Arc::clone(recording)),
                Side::Remote { program, .. } => program.record(Arc::clone(recording)),
            }
        }
        self.recording = recording;
    }

    /// Whether the results of tasks are stored, so that it matters when they come.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// Whether arguments were taken that came too late, as the job had been closed from elsewhere.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// How many tasks have been submitted.
    pub(crate) fn n_sent(&self) -> u32 {
        self.n_sent
    }

    /// Whether tasks run in worker processes: these can be ended, and results come without keeping anybody who
    /// computes from it.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.side, Side::Remote { .. })
    }

    /// How many tasks there are from the first that is not done and taken on.
    pub(crate) fn n_held(&self) -> usize {
        match &self.side {
            Side::Local(program) => program.n_held(),
            Side::Remote { program, .. } => program.n_held(),
        }
    }

    /// How many bytes of arguments wait for their tasks.
    pub(crate) fn n_bytes_waiting(&self) -> usize {
        match &self.side {
            Side::Local(_) => 0,
            Side::Remote { program, .. } => program.n_bytes_waiting(),
        }
    }

    /// Submits up to `n_max` tasks: those whose arguments arrive within one tick of the clock. What
    /// came before an error is submitted all the same.
    pub(crate) fn feed(&mut self, py: Python<'_>, items: &mut Items, n_max: usize) -> PyResult<()> {
        let n_max = n_max.min(N_TASKS_PER_BLOCK_MAX);
        if self.seeding.is_some() && self.n_sent.checked_add(n_max as u32).is_none() {
            // Their numbers would begin anew, and so would their streams.
            return Err(PyOverflowError::new_err(
                "a call with a seed has 2**32 tasks at most: there is one stream for each number of a task",
            ));
        }
        match &self.side {
            Side::Local(_) => self.feed_local(py, items, n_max),
            Side::Remote { .. } => self.feed_remote(py, items, n_max),
        }
    }

    fn feed_local(&mut self, py: Python<'_>, items: &mut Items, n_max: usize) -> PyResult<()> {
        let tick = coarse_tick();
        let mut block = Vec::new();
        let mut outcome = Ok(());
        let _turn = (!items.is_quiet()).then(CallersTurn::begin);
        while block.len() < n_max && items.is_prompt(tick) {
            match items.next(py) {
                Ok(Some(args)) => block.push(args),
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.send_local(block);
        outcome
    }

    fn send_local(&mut self, block: Vec<Arguments>) {
        let n_tasks = block.len() as u32;
        if let Side::Local(program) = &self.side
            && n_tasks > 0
        {
            program.push(block);
            self.count_sent(n_tasks);
        }
    }

    /// Tells the scheduler of more tasks.
    fn count_sent(&mut self, n_tasks: u32) {
        if self.job.extend(n_tasks) {
            self.n_sent = self.n_sent.wrapping_add(n_tasks);
        } else {
            self.is_cut = true;
        }
    }

    fn feed_remote(&mut self, py: Python<'_>, items: &mut Items, n_max: usize) -> PyResult<()> {
        let Side::Remote { pickler, .. } = &self.side else {
            return Ok(());
        };
        if !self.is_blocking {
            pickler.begin_epoch();
        }
        let tick = coarse_tick();
        let (n_bytes_like, n_tasks_like) = self.block_like;
        let mut block = Block::like(self.n_sent, n_bytes_like, n_tasks_like);
        let mut outcome = Ok(());
        while block.n_tasks() < n_max
            && block.n_bytes() + pickler.n_bytes_copied() < BLOCK_BYTES
            && items.is_prompt(tick)
        {
            let args = match items.next(py) {
                Ok(Some(args)) => args,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            if !items.is_quiet() {
                pickler.begin_epoch();
            }
            outcome = self.encode(py, &args, &mut block);
            if outcome.is_err() {
                break;
            }
        }
        block.keep(pickler.take_keeps());
        self.send_remote(block);
        outcome
    }

    fn encode(&self, py: Python<'_>, args: &Arguments, block: &mut Block) -> PyResult<()> {
        match &self.side {
            Side::Remote {
                pickler, callee, ..
            } => {
                let number = u64::from(self.n_sent) + block.n_tasks() as u64;
                let recording = self.recording.as_ref();
                let number = match recording {
                    None => number,
                    Some(recording) => recording.place(number as u32).into(),
                };
                let before = Before {
                    prefix: &self.prefix,
                    seeded: self.seeding.as_deref().map(|seeding| (seeding, number)),
                    is_timed: recording.is_some(),
                };
                if let Arguments::One(arg) = args
                    && encode_one(arg.bind(py), before, block)
                {
                    return Ok(());
                }
                encode(&args.tuple(py)?, None, callee, pickler, before, block)
            }
            Side::Local(_) => Ok(()),
        }
    }

    fn send_remote(&mut self, block: Block) {
        let n_tasks = block.n_tasks() as u32;
        if let Side::Remote { program, .. } = &self.side
            && n_tasks > 0
        {
            self.block_like = (block.n_bytes(), block.n_tasks());
            program.push(block);
            self.count_sent(n_tasks);
            if let Some(forking) = &self.forking {
                forking.expect(self.n_sent as usize);
            }
        }
    }

    /// Turns delivered tasks into objects, each with its number.
    pub(crate) fn take(
        &self,
        py: Python<'_>,
        delivered: &[TaskIndex],
        mut put: impl FnMut(u32, Py<PyAny>),
    ) -> PyResult<()> {
        if let Some(recording) = self.recording.as_ref().filter(|_| !delivered.is_empty()) {
            // A result that is seen is durable; and what its reader writes to it is not stored.
            recording.wait(py)?;
        }
        match &self.side {
            Side::Local(program) => {
                for (index, slot) in program.take(delivered) {
                    if let Slot::Returned(value) = slot {
                        put(index, value);
                    }
                }
            }
            Side::Remote { program, .. } => {
                for (index, outcome) in program.take(delivered) {
                    if let Outcome::Returned(payload) = outcome {
                        put(index, decode_value(py, &payload, &NoViews)?.unbind());
                    } else if let Outcome::Shared(result) = outcome {
                        put(index, result.decode(py, program.stock())?);
                    } else if let Outcome::NoRoom(shortage) = outcome {
                        let failure = Failure::NoRoom(TaskIndex(index), shortage);
                        let scheduler = self.forking.as_ref().map_or("processes", |_| "fork");
                        return Err(self.exception(py, &failure, scheduler));
                    }
                }
            }
        }
        Ok(())
    }

    /// Turns one delivered task into what came of it, once; raises what it raised.
    pub(crate) fn take_one(
        &self,
        py: Python<'_>,
        task: TaskIndex,
        scheduler: &str,
    ) -> PyResult<Option<Py<PyAny>>> {
        let has_failed = match &self.side {
            Side::Local(program) => program.has_failed(task),
            Side::Remote { program, .. } => program.has_failed(task),
        };
        if has_failed {
            return Err(self.exception(py, &Failure::Task(task, 1), scheduler));
        }
        let mut taken = None;
        self.take(py, &[task], |_, value| taken = Some(value))?;
        Ok(taken)
    }

    /// What a task has returned, which stays where it is; None if it has not returned.
    pub(crate) fn peek(
        &self,
        py: Python<'_>,
        task: TaskIndex,
        scheduler: &str,
    ) -> PyResult<Option<Py<PyAny>>> {
        match &self.side {
            Side::Local(program) => Ok(program.peek(py, task)),
            Side::Remote { program, .. } => match program.peek(task) {
                Some(Outcome::Returned(payload)) => {
                    Ok(Some(decode_value(py, &payload, &NoViews)?.unbind()))
                }
                Some(Outcome::Shared(result)) => result.decode(py, program.stock()).map(Some),
                Some(Outcome::NoRoom(shortage)) => {
                    Err(self.exception(py, &Failure::NoRoom(task, shortage), scheduler))
                }
                _ => Ok(None),
            },
        }
    }

    /// The same as bytes, for another task to read; None where it is an object.
    pub(crate) fn share(&self, task: TaskIndex) -> Option<Outcome> {
        match &self.side {
            Side::Local(_) => None,
            Side::Remote { program, .. } => program.peek(task),
        }
    }

    /// Drops what a task has returned.
    pub(crate) fn forget(&self, task: TaskIndex) {
        match &self.side {
            Side::Local(program) => program.forget(task),
            Side::Remote { program, .. } => drop(program.take(&[task])),
        }
    }

    /// Ends the job, as far as it can be ended: what a worker process is about to finish, it may.
    pub(crate) fn abandon(&self, py: Python<'_>) {
        match &self.side {
            Side::Local(_) => self.interrupt(py),
            Side::Remote { .. } => py.detach(|| self.job.cancel(CANCEL_GRACE)),
        }
    }

    /// Ends the job now, as far as it can be ended.
    pub(crate) fn interrupt(&self, py: Python<'_>) {
        if let Side::Local(program) = &self.side {
            // The error that led here is the one to tell.
            let _ = program.listening.end(py, false, None);
        }
        self.interrupt_threads(py);
        py.detach(|| self.job.cancel(Duration::ZERO));
    }

    /// Interrupts its tasks that run in threads of this process.
    pub(crate) fn interrupt_threads(&self, py: Python<'_>) {
        if let Side::Local(program) = &self.side {
            for thread in program.threads() {
                raise_in_thread(py, thread);
            }
        }
    }

    /// News, waiting without the interpreter's lock.
    pub(crate) fn wait(&self, py: Python<'_>, timeout: Duration, for_end: bool) -> PyResult<News> {
        if let Some(forking) = &self.forking {
            forking.attend(py)?;
        }
        let mut news = match timeout.is_zero() {
            true => self.job.wait(timeout),
            false => detached(py, || match for_end {
                true => self.job.wait_for_end(timeout),
                false => self.job.wait(timeout),
            }),
        };
        self.hear(py, std::mem::take(&mut news.said), &news.lost)?;
        if news.failure.is_some() || news.is_done {
            self.end(py, news.failure.as_ref())?;
        }
        Ok(news)
    }

    /// Tells the caller what tasks have said, of which these have been lost.
    pub(crate) fn hear(
        &self,
        py: Python<'_>,
        said: Vec<Said>,
        lost: &[(TaskIndex, Failure)],
    ) -> PyResult<()> {
        if let Side::Local(program) = &self.side {
            for (_, drawn) in program.listening.take_drawn() {
                self.teller.tell_of_misuse(py, &self.function, drawn)?;
            }
        }
        let function = |py: Python<'_>, _| self.function.clone_ref(py);
        self.teller.hear(py, said, lost, &function)
    }

    /// Tells what is left of what tasks have said, once all of them have ended.
    pub(crate) fn tell_rest(&self, py: Python<'_>, failure: Option<&Failure>) -> PyResult<()> {
        let function = |py: Python<'_>, _| self.function.clone_ref(py);
        self.teller.end(py, failure, &function)
    }

    fn end(&self, py: Python<'_>, failure: Option<&Failure>) -> PyResult<()> {
        if let Side::Local(program) = &self.side {
            let failed = match failure {
                Some(Failure::Task(task, _)) => Some(task.0),
                _ => None,
            };
            program.listening.end(py, failure.is_none(), failed)?;
        }
        self.tell_rest(py, failure)
    }
}

/// What tasks draw from, and what becomes of those that fail.
pub(crate) type Terms = (Option<Arc<Seeding>>, Arc<Faults>);

/// The arguments of a call, as they are given.
type Given<'a, 'py> = (&'a Bound<'py, PyTuple>, Option<&'a Bound<'py, PyDict>>);
