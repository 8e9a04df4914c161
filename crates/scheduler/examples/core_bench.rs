//! What the scheduler itself costs: time and memory per task, with workers that cost nothing.
//!
//! ```text
//! cargo run --release -p manyhands-scheduler --example core_bench [-- OPTIONS]
//!   --tasks N      tasks in each graph (1000000)
//!   --repeats N    runs of each, of which the median counts (7)
//!   --only TEXT    only the rows whose text contains this: "tree", "tree, 2, by batch"
//!   --large        also 10 000 000 independent tasks on 10 000 workers
//!   --json         a line of JSON for each row instead of the table
//! ```
//!
//! "build" is adding the tasks to a graph; "run" goes from submitting it to the end of the job, with
//! the static order, every start, report, delivery and release, and this program's own part as the
//! workers (about 5 ns a task). "CPU" is the part of that which this thread was running, where the
//! system tells: on a machine that others use, it is the figure to go by. Bytes are the most that were allocated at one time from before the
//! graph was built until the job's end.

mod drawn;

use drawn::{Draw, chains, cpu_ns, independent, tree};
use manyhands_graph::{Graph, GraphBuilder};
use manyhands_scheduler::{
    Command, Commands, Event, JobSpec, KindId, Kinds, Report, Rules, Scheduler, TaskRun, Wanted,
    WorkerId,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

struct Counting;

static N_BYTES: AtomicUsize = AtomicUsize::new(0);
static N_BYTES_MAX: AtomicUsize = AtomicUsize::new(0);

fn count(n_more: usize) {
    let n_bytes = N_BYTES.fetch_add(n_more, Ordering::Relaxed) + n_more;
    N_BYTES_MAX.fetch_max(n_bytes, Ordering::Relaxed);
}

// SAFETY: every call is handed on to the system's allocator unchanged; the counters touch no memory
// that it manages.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        N_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        N_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Workers that run a batch the moment they get it, and report it whole or task by task.
struct Workers {
    /// Batches sent and not yet reported, with the buffers used before to be used again.
    sent: VecDeque<(WorkerId, Vec<TaskRun>)>,
    spare: Vec<Vec<TaskRun>>,
    reports: Vec<Report>,
    is_single: bool,
}

/// What one task is reported to have taken: what the smallest tasks take.
const TASK_NS: u64 = 200;

impl Workers {
    /// Runs a job to its end; returns how many results were delivered or released.
    fn run(&mut self, scheduler: &mut Scheduler, spec: JobSpec, now_ns: &mut u64) -> usize {
        let mut commands = Commands::default();
        let job = scheduler.new_job_id();
        scheduler.on(Event::Submit(job, spec), *now_ns, &mut commands);
        let mut n_told = 0;
        loop {
            let mut is_done = false;
            for command in commands.iter() {
                match command {
                    Command::Start(worker, range) => {
                        let mut batch = self.spare.pop().unwrap_or_default();
                        batch.extend_from_slice(commands.runs(range));
                        self.sent.push_back((*worker, batch));
                    }
                    Command::Deliver(run) | Command::Release(run) => n_told += run.n_tasks as usize,
                    Command::JobDone(_) => is_done = true,
                    // Everything sent is under way, so there is nothing to give back.
                    Command::TakeBack(worker, _) => self.sent.push_back((*worker, Vec::new())),
                    Command::Kill(_)
                    | Command::Fail(..)
                    | Command::Lose(..)
                    | Command::DeliverLoss(..)
                    | Command::Look(_) => unreachable!("nothing goes wrong"),
                }
            }
            commands.clear();
            if is_done {
                self.sent.clear();
                return n_told;
            }
            self.report_next(scheduler, now_ns, &mut commands);
        }
    }

    fn report_next(
        &mut self,
        scheduler: &mut Scheduler,
        now_ns: &mut u64,
        commands: &mut Commands,
    ) {
        let (worker, mut batch) = self
            .sent
            .pop_front()
            .expect("a job that is not done is worked on");
        *now_ns += 1_000;
        if batch.is_empty() {
            scheduler.on(Event::TakenBack(worker, &[]), *now_ns, commands);
            return;
        }
        self.reports.clear();
        for task in batch.iter().flat_map(TaskRun::tasks) {
            let report = Report::one(task, TASK_NS, true);
            if self.is_single {
                scheduler.on(Event::Finished(worker, &[report]), *now_ns, commands);
            } else {
                report.push_to(&mut self.reports);
            }
        }
        if !self.is_single {
            scheduler.on(Event::Finished(worker, &self.reports), *now_ns, commands);
        }
        batch.clear();
        self.spare.push(batch);
    }
}

#[derive(Clone, Copy, Default)]
struct Figures {
    build_ns: f64,
    run_ns: f64,
    cpu_ns: f64,
    n_bytes: f64,
}

/// One task that reads the results of all others.
fn merge(n_tasks: u32) -> (Graph, Wanted) {
    let n_tasks = n_tasks as usize;
    let mut builder = GraphBuilder::with_capacity(n_tasks, n_tasks);
    let leaves: Vec<_> = (1..n_tasks).map(|_| builder.task(&[])).collect();
    let root = builder.task(&leaves);
    (builder.build(), Wanted::Tasks(vec![root]))
}

fn measure(draw: Draw, n_tasks: u32, n_workers: u32, is_single: bool) -> Figures {
    let mut scheduler = Scheduler::new();
    let mut now_ns = 0;
    let mut commands = Commands::default();
    for worker in 0..n_workers {
        scheduler.on(Event::WorkerJoined(WorkerId(worker)), now_ns, &mut commands);
    }
    let mut workers = Workers {
        sent: VecDeque::new(),
        spare: Vec::new(),
        reports: Vec::new(),
        is_single,
    };
    let n_bytes_before = N_BYTES.load(Ordering::Relaxed);
    N_BYTES_MAX.store(n_bytes_before, Ordering::Relaxed);
    let started = Instant::now();
    let (graph, wanted) = draw(n_tasks);
    let n_tasks = graph.n_tasks();
    let (built, cpu_built_ns) = (Instant::now(), cpu_ns());
    let spec = JobSpec {
        graph,
        wanted,
        kinds: Kinds::One(KindId(0)),
        batch_size: None,
        is_open: false,
        rules: Rules::default(),
    };
    let n_told = workers.run(&mut scheduler, spec, &mut now_ns);
    let (ended, cpu_ended_ns) = (Instant::now(), cpu_ns());
    assert_eq!(n_told, n_tasks, "each result is delivered or released");
    let n_bytes = N_BYTES_MAX.load(Ordering::Relaxed) - n_bytes_before;
    Figures {
        build_ns: (built - started).as_nanos() as f64 / n_tasks as f64,
        run_ns: (ended - built).as_nanos() as f64 / n_tasks as f64,
        cpu_ns: (cpu_ended_ns - cpu_built_ns) / n_tasks as f64,
        n_bytes: n_bytes as f64 / n_tasks as f64,
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

struct Options {
    n_tasks: u32,
    n_repeats: usize,
    only: String,
    is_large: bool,
    is_json: bool,
}

fn options() -> Options {
    let mut options = Options {
        n_tasks: 1_000_000,
        n_repeats: 7,
        only: String::new(),
        is_large: false,
        is_json: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--tasks" => options.n_tasks = value().parse().expect("a whole number of tasks"),
            "--repeats" => options.n_repeats = value().parse().expect("a whole number of runs"),
            "--only" => options.only = value(),
            "--large" => options.is_large = true,
            "--json" => options.is_json = true,
            other => {
                panic!("{other:?} is not an option: --tasks, --repeats, --only, --large, --json")
            }
        }
    }
    options
}

fn main() {
    let options = options();
    let shapes: [(&str, Draw); 4] = [
        ("independent", independent),
        ("merge", merge),
        ("tree", tree),
        ("chains", chains),
    ];
    let mut rows = Vec::new();
    for is_single in [false, true] {
        for (name, draw) in shapes {
            for n_workers in [2, 100] {
                rows.push((name, draw, options.n_tasks, n_workers, is_single));
            }
        }
    }
    if options.is_large {
        rows.push(("independent", independent, 10_000_000, 10_000, false));
    }
    if !options.is_json {
        println!(
            "| graph | tasks | workers | reports | build, ns a task | run, ns a task | CPU, ns a task | bytes a task |"
        );
        println!("|---|---|---|---|---|---|---|---|");
    }
    for (name, draw, n_tasks, n_workers, is_single) in rows {
        let reports = if is_single { "one by one" } else { "by batch" };
        let row = format!("{name}, {n_workers}, {reports}");
        if !row.contains(&options.only) {
            continue;
        }
        let runs: Vec<_> = (0..options.n_repeats)
            .map(|_| measure(draw, n_tasks, n_workers, is_single))
            .collect();
        let of = |pick: fn(&Figures) -> f64| median(runs.iter().map(pick).collect());
        let (build_ns, run_ns) = (of(|run| run.build_ns), of(|run| run.run_ns));
        let (cpu_ns, n_bytes) = (of(|run| run.cpu_ns), of(|run| run.n_bytes));
        if options.is_json {
            println!(
                "{{\"graph\": \"{name}\", \"tasks\": {n_tasks}, \"workers\": {n_workers}, \
                 \"reports\": \"{reports}\", \"build_ns\": {build_ns:.1}, \"run_ns\": {run_ns:.1}, \
                 \"cpu_ns\": {cpu_ns:.1}, \"bytes\": {n_bytes:.1}}}"
            );
        } else {
            println!(
                "| {name} | {n_tasks} | {n_workers} | {reports} \
                 | {build_ns:.0} | {run_ns:.0} | {cpu_ns:.0} | {n_bytes:.0} |"
            );
        }
    }
}
