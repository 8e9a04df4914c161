//! Tasks that read and return shared memory, for tests of processes; and the worker that runs them,
//! which is the test's own program.

#![allow(dead_code, reason = "each test uses a part of it")]

use manyhands_executor::processes::{ProcessOptions, ProcessPool, WorkerCommand, Workers};
use manyhands_executor::worker::{Host, serve};
use manyhands_executor::{Adopted, Failure, Job, RemoteProgram, Stock, WorkerStock};
use manyhands_graph::{Graph, TaskIndex};
use manyhands_scheduler::{JobSpec, KindId, Kinds, Wanted};
use manyhands_store::{Arena, ArenaOptions, Place, PrivateView, SegmentId};
use manyhands_wire::{Ending, TaskKey, TasksWriter};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a task does.
#[derive(Clone, Debug)]
pub enum Call {
    /// Adds up the bytes at these places.
    Sum(Vec<Place>),
    /// Adds up the bytes at the place that the function refers to.
    SumOfFunction,
    /// Returns so many bytes of this value in shared memory. Of many, only the first have it.
    Make(u64, u8),
    /// Takes this many milliseconds, and as many bytes of arguments.
    Wait(u64, usize),
    /// Says how the worker stands.
    Look,
    /// Opens as many files as the worker may, which is few from then on.
    OpenAll,
    /// Closes them again.
    CloseAll,
    /// Ends the worker.
    Die,
}

/// How a worker stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Its own segments, the bytes in use in them, and the leases on these.
    pub n_segments: u64,
    pub bytes_in_use: u64,
    pub n_leases: u64,
    /// Descriptors of memory files that are open in it.
    pub n_memory_files: u64,
    /// What the memory of functions added up to when they were forgotten.
    pub sums_at_forget: u64,
}

impl Call {
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Call::Sum(places) => {
                out.push(b'S');
                places.iter().for_each(|place| out.extend(place.to_bytes()));
            }
            Call::SumOfFunction => out.push(b'F'),
            Call::Make(n_bytes, value) => {
                out.push(b'M');
                out.extend(n_bytes.to_le_bytes());
                out.push(*value);
            }
            Call::Wait(ms, n_bytes) => {
                out.push(b'W');
                out.extend(ms.to_le_bytes());
                out.resize(out.len() + n_bytes, 0);
            }
            Call::Look => out.push(b'L'),
            Call::OpenAll => out.push(b'O'),
            Call::CloseAll => out.push(b'C'),
            Call::Die => out.push(b'D'),
        }
    }

    fn segments(&self) -> Vec<SegmentId> {
        match self {
            Call::Sum(places) => places.iter().map(|place| place.segment).collect(),
            _ => Vec::new(),
        }
    }
}

/// A function's bytes: the place that it refers to, or nothing.
struct Function {
    view: Option<PrivateView>,
}

#[derive(Default)]
struct MemoryHost {
    stock: Option<Arc<WorkerStock>>,
    functions: HashMap<u32, Function>,
    sums_at_forget: u64,
    opened: Vec<std::fs::File>,
}

/// Adds up bytes of a view.
#[allow(unsafe_code)]
pub fn sum(view: &PrivateView) -> u64 {
    // SAFETY: the view is mapped for as long as it lives, and nobody writes to it meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(view.as_ptr(), view.len()) };
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

impl MemoryHost {
    fn stock(&self) -> &WorkerStock {
        self.stock.as_deref().expect("there is shared memory")
    }

    fn look(&self, place: &[u8]) -> Result<PrivateView, String> {
        let place = Place::from_bytes(place.try_into().map_err(|_| "not a place")?);
        let view = self.stock().foreign.view_private(place);
        view.map_err(|error| error.to_string())
    }

    #[allow(unsafe_code)]
    fn make(&self, n_bytes: u64, value: u8) -> Option<Place> {
        let arena = &self.stock().arena;
        let n_bytes = n_bytes as usize;
        let at = arena.allocate(n_bytes)?;
        // What is huge is not to take memory.
        let n_written = n_bytes.min(1 << 24);
        // SAFETY: the block is new, at least that long and nobody else's.
        unsafe { at.write_bytes(value, n_written) };
        let lease = arena.lease(at.as_ptr(), n_bytes)?;
        assert!(arena.free(at.as_ptr()));
        Some(lease.give_away())
    }

    fn standing(&self) -> [u64; 5] {
        let stats = self.stock().arena.stats();
        [
            stats.n_segments as u64,
            stats.bytes_in_use,
            stats.n_leases as u64,
            n_open("") as u64,
            self.sums_at_forget,
        ]
    }

    fn try_call(&mut self, function: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let (&what, rest) = bytes.split_first().ok_or("an empty call")?;
        match what {
            b'S' => {
                let views = rest.chunks(Place::N_BYTES).map(|place| self.look(place));
                let views = views.collect::<Result<Vec<_>, _>>()?;
                let total: u64 = views.iter().map(sum).sum();
                out.extend(total.to_le_bytes());
            }
            b'F' => {
                let view = self.functions[&function].view.as_ref();
                out.extend(sum(view.ok_or("the function has no memory")?).to_le_bytes());
            }
            b'M' => {
                let place = self.make(number(rest), rest[8]).ok_or("no memory")?;
                out.extend(place.to_bytes());
            }
            b'W' => std::thread::sleep(Duration::from_millis(number(rest))),
            b'L' => self
                .standing()
                .iter()
                .for_each(|n| out.extend(n.to_le_bytes())),
            b'O' => {
                let limit = rustix::process::Rlimit {
                    current: Some(200),
                    ..rustix::process::getrlimit(rustix::process::Resource::Nofile)
                };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
                    .map_err(|error| error.to_string())?;
                let open = || std::fs::File::open("/dev/null").ok();
                self.opened.extend(std::iter::from_fn(open));
            }
            b'C' => self.opened.clear(),
            b'D' => std::process::abort(),
            other => return Err(format!("call {other}")),
        }
        Ok(())
    }
}

impl Host for MemoryHost {
    fn stock(&mut self, stock: Arc<WorkerStock>) {
        self.stock = Some(stock);
    }

    fn context(&mut self, _bytes: &[u8]) {}

    fn function(&mut self, function: u32, bytes: Vec<u8>) {
        let view = (bytes.len() == Place::N_BYTES).then(|| self.look(&bytes).ok());
        let view = view.flatten();
        self.functions.insert(function, Function { view });
    }

    fn forget(&mut self, function: u32) {
        let gone = self.functions.remove(&function).expect("it was sent");
        self.sums_at_forget += gone.view.as_ref().map_or(0, sum);
    }

    fn call(&mut self, function: u32, bytes: &[u8], out: &mut Vec<u8>) -> Ending {
        match self.try_call(function, bytes, out) {
            Ok(()) => Ending::Returned,
            Err(text) => {
                *out = text.into_bytes();
                Ending::Failed
            }
        }
    }

    fn before_sending(&mut self) {}

    fn let_go(&mut self, wait: &mut dyn FnMut()) {
        wait();
    }
}

/// How many descriptors of this process are memory files whose names begin like this.
pub fn n_open(name: &str) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("there is a /proc");
    let name = format!("/memfd:{name}");
    let is_memory = |entry: std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with(&name))
    };
    entries.flatten().map(is_memory).filter(|is| *is).count()
}

/// How many descriptors this process has.
pub fn n_descriptors() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("there is a /proc");
    entries.count()
}

/// The connection of a worker, which is its standard input.
pub fn take_connection() -> OwnedFd {
    let socket = rustix::io::dup(rustix::stdio::stdin()).expect("standard input is open");
    // The rest of the test program is not to read from it, and it closes with the process.
    #[allow(unsafe_code)]
    // SAFETY: the descriptor was just made and is given to nobody else.
    unsafe {
        OwnedFd::from_raw_fd(socket.into_raw_fd())
    }
}

/// Set for those that this program starts as workers.
pub const IS_WORKER: &str = "MANYHANDS_TEST_WORKER";

#[test]
#[ignore = "no test: the tests start this program again with its name, as their worker process"]
fn worker_process() {
    if std::env::var_os(IS_WORKER).is_some() {
        let parent = std::os::unix::process::parent_id();
        serve(take_connection(), parent, &mut MemoryHost::default()).expect("a connection");
    }
}

/// Starts this program again as the ignored test of this name, without what the test harness says.
pub fn command(test: &str) -> WorkerCommand {
    let program = std::env::current_exe().expect("it runs");
    let mut args = vec![
        "-c".into(),
        r#"exec "$0" "$@" > /dev/null"#.into(),
        OsString::from(program),
    ];
    args.extend(["--ignored", "--exact", test, "--nocapture"].map(OsString::from));
    WorkerCommand {
        program: "sh".into(),
        args,
        env: vec![(IS_WORKER.into(), "1".into())],
    }
}

/// A stock with segments so small that every block gets one of its own, or so large that one holds all.
pub fn stock(n_segment_bytes: u64) -> Arc<Stock> {
    let options = ArenaOptions {
        n_segment_bytes,
        ..ArenaOptions::default()
    };
    Arc::new(Stock::new(Arena::new(0, options), 0))
}

pub fn pool_of(command: WorkerCommand, stock: &Arc<Stock>, n_workers: usize) -> ProcessPool {
    pool_with(command, stock, n_workers, Duration::from_secs(60))
}

pub fn pool_with(
    command: WorkerCommand,
    stock: &Arc<Stock>,
    n_workers: usize,
    start_limit: Duration,
) -> ProcessPool {
    let options = ProcessOptions {
        workers: Workers::Started(command),
        n_workers,
        idle_timeout: None,
        start_limit,
        ends_with_jobs: false,
        stock: Some(Arc::clone(stock)),
    };
    ProcessPool::new(options).expect("a pool can be made")
}

pub fn pool(stock: &Arc<Stock>, n_workers: usize) -> ProcessPool {
    pool_of(command("memory::worker_process"), stock, n_workers)
}

/// How a task ended.
#[derive(Debug)]
pub enum Outcome {
    Returned(Vec<u8>),
    Made(Adopted),
    Failed(String),
}

impl Outcome {
    pub fn number(&self) -> u64 {
        match self {
            Outcome::Returned(bytes) => number(bytes),
            other => panic!("{other:?}"),
        }
    }

    pub fn made(self) -> Adopted {
        match self {
            Outcome::Made(adopted) => adopted,
            other => panic!("{other:?}"),
        }
    }

    pub fn standing(&self) -> Standing {
        match self {
            Outcome::Returned(bytes) => {
                let mut numbers = bytes.chunks(8).map(number);
                let mut next = || numbers.next().expect("five numbers");
                Standing {
                    n_segments: next(),
                    bytes_in_use: next(),
                    n_leases: next(),
                    n_memory_files: next(),
                    sums_at_forget: next(),
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Calls that do not depend on each other.
pub struct Calls {
    stock: Arc<Stock>,
    function: u32,
    calls: Vec<Call>,
    outcomes: Mutex<HashMap<u32, Outcome>>,
}

impl RemoteProgram for Calls {
    fn function(&self, _task: TaskIndex) -> u32 {
        self.function
    }

    fn write(
        &self,
        job: u32,
        tasks: &[TaskIndex],
        writer: &mut TasksWriter<'_>,
        segments: &mut Vec<SegmentId>,
    ) {
        for task in tasks {
            let call = &self.calls[task.as_usize()];
            let key = TaskKey { job, index: task.0 };
            writer.task(key, self.function, |out| call.write(out));
            segments.extend(call.segments());
        }
    }

    fn store(&self, results: &mut dyn Iterator<Item = (TaskIndex, bool, &[u8])>) {
        for (task, is_ok, bytes) in results {
            let call = &self.calls[task.as_usize()];
            let outcome = match (is_ok, call) {
                (false, _) => Outcome::Failed(String::from_utf8_lossy(bytes).into_owned()),
                (true, Call::Make(..)) => {
                    let place = Place::from_bytes(bytes.try_into().expect("a place"));
                    Outcome::Made(self.stock.adopt(place))
                }
                (true, _) => Outcome::Returned(bytes.to_vec()),
            };
            self.outcomes
                .lock()
                .expect("no panics")
                .insert(task.0, outcome);
        }
    }

    fn release(&self, task: TaskIndex) {
        self.outcomes.lock().expect("no panics").remove(&task.0);
    }
}

/// Submits calls of a function that the pool knows by this number.
pub fn submit(
    pool: &ProcessPool,
    stock: &Arc<Stock>,
    function: u32,
    calls: Vec<Call>,
) -> (Job, Arc<Calls>) {
    let spec = JobSpec {
        graph: Graph::independent(calls.len() as u32),
        wanted: Wanted::All,
        kinds: Kinds::One(KindId(function)),
        batch_size: None,
        is_open: false,
        rules: manyhands_scheduler::Rules::default(),
    };
    let calls = Arc::new(Calls {
        stock: Arc::clone(stock),
        function,
        calls,
        outcomes: Mutex::default(),
    });
    let program = Arc::<Calls>::clone(&calls);
    let job = pool.submit(spec, program, vec![function]);
    (job, calls)
}

/// Waits for the end; how each task ended, in order, or why the job failed.
pub fn finish(job: &Job, calls: &Calls) -> Result<Vec<Outcome>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the job does not end");
        let news = job.wait_for_end(Duration::from_secs(1));
        if let Some(failure) = news.failure {
            return Err(failure);
        }
        if news.is_done {
            break;
        }
    }
    let mut outcomes = calls.outcomes.lock().expect("no panics");
    let each = (0..calls.calls.len() as u32).map(|at| outcomes.remove(&at).expect("it returned"));
    Ok(each.collect())
}

/// Runs calls to their end.
pub fn run(pool: &ProcessPool, stock: &Arc<Stock>, calls: Vec<Call>) -> Vec<Outcome> {
    let function = pool.function(b"plain", &[], None);
    let (job, calls) = submit(pool, stock, function, calls);
    finish(&job, &calls).expect("the job succeeds")
}

/// Waits until `is_so`, for as long as patience lasts.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How the one worker of this pool stands.
pub fn look(pool: &ProcessPool, stock: &Arc<Stock>) -> Standing {
    run(pool, stock, vec![Call::Look])[0].standing()
}
