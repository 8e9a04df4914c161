//! Ten thousand workers and ten million tasks in virtual time: what the scheduler costs, and how near
//! the run comes to the shortest possible.
//!
//! ```text
//! cargo run --release -p manyhands-scheduler --example scale_bench [-- OPTIONS]
//!   --tasks N      tasks in each job (10000000)
//!   --workers N    workers (10000)
//!   --only TEXT    only the rows whose text contains this
//! ```
//!
//! Messages take 30 µs, and busy workers keep reports for as long as they may, as real ones do. The scheduler's
//! time is what [`Scheduler::on`] takes, submission and static order included, measured from outside
//! (which adds about 40 ns an event). "In all" is the time that this thread was running, its workers
//! included, where the system tells: on a machine that others use, the scheduler's is less than that,
//! whatever the clock says. The bound is the larger of all work divided by the workers and the longest
//! task times the depth of the graph.

mod drawn;

use drawn::{Draw, chains, cpu_ns, independent, tree};
use manyhands_scheduler::{
    Command, Commands, Event, JobSpec, KindId, Kinds, REPORTS_WAIT_NS_MAX, Report, Rules,
    Scheduler, TaskId, TaskRun, WorkerId,
};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

const DELAY_NS: u64 = 30_000;
const MS: u64 = 1_000_000;

/// How long a task takes, by its number.
type Durations = fn(u32) -> u64;

/// A number in [0, 1) that looks random and is always the same for the same task.
fn unit(index: u32) -> f64 {
    let mut z = (u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn equal(_: u32) -> u64 {
    MS
}

fn exponential(index: u32) -> u64 {
    (-(1.0 - unit(index)).ln() * 10.0 * MS as f64) as u64
}

/// 100 µs to 100 ms, evenly on a logarithmic scale.
fn thousandfold(index: u32) -> u64 {
    (0.1 * MS as f64 * 1000f64.powf(unit(index))) as u64
}

enum Message {
    Start(Vec<TaskRun>),
    TakeBack(Vec<TaskRun>),
    Finished(Vec<Report>),
    TakenBack(Vec<TaskId>),
}

#[derive(Default)]
struct Worker {
    queue: VecDeque<TaskRun>,
    /// The task under way and when it ends.
    running: Option<(TaskId, u64)>,
    unreported: Vec<Report>,
    report_due_ns: u64,
    /// When it is to be looked at next; other entries of the agenda about it are out of date.
    look_at_ns: u64,
    /// Messages to it and from it, in order, with the time at which they arrive.
    inbound: VecDeque<Message>,
    outbound: VecDeque<Message>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives,
    IsHeard,
    Look,
}

struct World {
    scheduler: Scheduler,
    commands: Commands,
    workers: Vec<Worker>,
    agenda: BinaryHeap<Reverse<(u64, u64, What, u32)>>,
    n_entered: u64,
    now_ns: u64,
    durations: Durations,
    spent: Duration,
    n_taken_back: u64,
    is_done: bool,
}

impl World {
    fn new(n_workers: u32, durations: Durations) -> World {
        let mut world = World {
            scheduler: Scheduler::new(),
            commands: Commands::default(),
            workers: (0..n_workers).map(|_| Worker::default()).collect(),
            agenda: BinaryHeap::new(),
            n_entered: 0,
            now_ns: 0,
            durations,
            spent: Duration::ZERO,
            n_taken_back: 0,
            is_done: false,
        };
        for worker in 0..n_workers {
            world.tell(Event::WorkerJoined(WorkerId(worker)));
        }
        world
    }

    fn enter(&mut self, at_ns: u64, what: What, worker: u32) {
        self.n_entered += 1;
        self.agenda
            .push(Reverse((at_ns, self.n_entered, what, worker)));
    }

    fn tell(&mut self, event: Event<'_>) {
        let mut commands = std::mem::take(&mut self.commands);
        commands.clear();
        let started = Instant::now();
        self.scheduler.on(event, self.now_ns, &mut commands);
        self.spent += started.elapsed();
        for command in commands.iter() {
            let (worker, message) = match command {
                Command::Start(worker, range) => {
                    (worker.0, Message::Start(commands.runs(range).to_vec()))
                }
                Command::TakeBack(worker, range) => {
                    self.n_taken_back += commands.tasks(range).count() as u64;
                    (worker.0, Message::TakeBack(commands.runs(range).to_vec()))
                }
                Command::JobDone(_) => {
                    self.is_done = true;
                    continue;
                }
                Command::Deliver(_) | Command::Release(_) => continue,
                Command::Kill(_)
                | Command::Fail(..)
                | Command::Lose(..)
                | Command::DeliverLoss(..)
                | Command::Look(_) => unreachable!("nothing goes wrong"),
            };
            self.workers[worker as usize].inbound.push_back(message);
            self.enter(self.now_ns + DELAY_NS, What::Arrives, worker);
        }
        self.commands = commands;
    }

    fn run(&mut self) {
        while !self.is_done {
            let next_ns = self.agenda.peek().map(|Reverse(next)| next.0);
            if let Some(at_ns) = self.scheduler.deadline_ns()
                && next_ns.is_none_or(|next_ns| at_ns < next_ns)
            {
                self.now_ns = self.now_ns.max(at_ns);
                self.tell(Event::Tick);
                continue;
            }
            let Reverse((at_ns, _, what, worker)) =
                self.agenda.pop().expect("a job that is not done goes on");
            self.now_ns = at_ns;
            self.happen(what, worker);
        }
    }

    fn happen(&mut self, what: What, worker: u32) {
        let now_ns = self.now_ns;
        let state = &mut self.workers[worker as usize];
        match what {
            What::Look if state.look_at_ns != now_ns => {}
            What::Look => self.work(worker),
            What::Arrives => {
                match state.inbound.pop_front().expect("it was sent") {
                    Message::Start(runs) => state.queue.extend(runs),
                    Message::TakeBack(asked) => {
                        self.work(worker);
                        let tasks = self.workers[worker as usize].give_back(&asked);
                        self.send(worker, Message::TakenBack(tasks));
                    }
                    Message::Finished(_) | Message::TakenBack(_) => {
                        unreachable!("a worker says that")
                    }
                }
                self.work(worker);
            }
            What::IsHeard => {
                let message = state.outbound.pop_front().expect("it was sent");
                let id = WorkerId(worker);
                match message {
                    Message::Finished(reports) => self.tell(Event::Finished(id, &reports)),
                    Message::TakenBack(tasks) => self.tell(Event::TakenBack(id, &tasks)),
                    Message::Start(_) | Message::TakeBack(_) => {
                        unreachable!("the scheduler says that")
                    }
                }
            }
        }
    }

    fn send(&mut self, worker: u32, message: Message) {
        self.workers[worker as usize].outbound.push_back(message);
        self.enter(self.now_ns + DELAY_NS, What::IsHeard, worker);
    }

    /// Brings a worker up to now.
    fn work(&mut self, worker: u32) {
        let (now_ns, durations) = (self.now_ns, self.durations);
        let state = &mut self.workers[worker as usize];
        state.catch_up(now_ns, durations);
        let is_idle = state.running.is_none();
        if !state.unreported.is_empty() && (is_idle || state.report_due_ns <= now_ns) {
            let reports = std::mem::take(&mut state.unreported);
            self.send(worker, Message::Finished(reports));
        }
        let state = &mut self.workers[worker as usize];
        if let Some((_, end_ns)) = state.running {
            let is_last = state.queue.is_empty();
            let look_at_ns = match state.unreported.is_empty() {
                true => end_ns,
                false if is_last => end_ns.min(state.report_due_ns),
                false => state.report_due_ns,
            };
            state.look_at_ns = look_at_ns;
            self.enter(look_at_ns, What::Look, worker);
        }
    }
}

impl Worker {
    fn catch_up(&mut self, now_ns: u64, durations: Durations) {
        let mut free_ns = now_ns;
        while let Some((task, end_ns)) = self.running {
            if end_ns > now_ns {
                return;
            }
            if self.unreported.is_empty() {
                self.report_due_ns = end_ns + REPORTS_WAIT_NS_MAX;
            }
            Report::one(task, durations(task.index.0), true).push_to(&mut self.unreported);
            free_ns = end_ns;
            self.begin(free_ns, durations);
        }
        self.begin(free_ns, durations);
    }

    fn begin(&mut self, at_ns: u64, durations: Durations) {
        self.running = None;
        if let Some(run) = self.queue.front_mut() {
            let task = run.first();
            self.running = Some((task, at_ns + durations(task.index.0)));
            run.first.0 += 1;
            run.n_tasks -= 1;
            if run.n_tasks == 0 {
                self.queue.pop_front();
            }
        }
    }

    /// Gives back those of these tasks that have not begun, last first.
    fn give_back(&mut self, asked: &[TaskRun]) -> Vec<TaskId> {
        let is_asked = |task: TaskId| {
            let is_in = |run: &TaskRun| task.index.0.wrapping_sub(run.first.0) < run.n_tasks;
            asked.iter().any(is_in)
        };
        let held: Vec<TaskId> = self.queue.iter().flat_map(TaskRun::tasks).collect();
        let (returned, kept): (Vec<_>, Vec<_>) = held.into_iter().partition(|&t| is_asked(t));
        self.queue = kept.into_iter().map(TaskRun::from).collect();
        returned.into_iter().rev().collect()
    }
}

struct Row {
    name: &'static str,
    draw: Draw,
    durations: Durations,
    /// How many tasks follow each other at least.
    depth: fn(u32) -> u32,
}

const ROWS: &[Row] = &[
    Row {
        name: "independent, 1 ms each",
        draw: independent,
        durations: equal,
        depth: |_| 1,
    },
    Row {
        name: "independent, exponential around 10 ms",
        draw: independent,
        durations: exponential,
        depth: |_| 1,
    },
    Row {
        name: "independent, 0.1 ms to 100 ms",
        draw: independent,
        durations: thousandfold,
        depth: |_| 1,
    },
    Row {
        name: "chains of ten, 0.1 ms to 100 ms",
        draw: chains,
        durations: thousandfold,
        depth: |_| 1,
    },
    Row {
        name: "tree of pairs, 1 ms each",
        draw: tree,
        durations: equal,
        depth: |n_tasks| n_tasks.ilog2() + 1,
    },
];

fn main() {
    let (mut n_tasks, mut n_workers, mut only) = (10_000_000u32, 10_000u32, String::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--tasks" => n_tasks = value.parse().expect("a whole number of tasks"),
            "--workers" => n_workers = value.parse().expect("a whole number of workers"),
            "--only" => only = value,
            other => panic!("{other:?} is not an option: --tasks, --workers, --only"),
        }
    }
    println!(
        "| {n_tasks} tasks, {n_workers} workers | scheduler, ns a task | in all, ns a task | taken back | makespan | bound | over it |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in ROWS.iter().filter(|row| row.name.contains(&only)) {
        let (graph, wanted) = (row.draw)(n_tasks);
        let n_tasks = graph.n_tasks() as u32;
        let work_ns: u64 = (0..n_tasks).map(row.durations).sum();
        let longest_ns = (0..n_tasks).map(row.durations).max().unwrap_or(0);
        let deepest_ns = longest_ns * u64::from((row.depth)(n_tasks));
        let bound_ns = (work_ns / u64::from(n_workers)).max(deepest_ns);
        let mut world = World::new(n_workers, row.durations);
        let job = world.scheduler.new_job_id();
        let spec = JobSpec {
            graph,
            wanted,
            kinds: Kinds::One(KindId(0)),
            batch_size: None,
            is_open: false,
            rules: Rules::default(),
        };
        let cpu_started_ns = cpu_ns();
        world.tell(Event::Submit(job, spec));
        world.run();
        println!(
            "| {} | {:.0} | {:.0} | {} | {:.3} s | {:.3} s | {:.2} % |",
            row.name,
            world.spent.as_nanos() as f64 / f64::from(n_tasks),
            (cpu_ns() - cpu_started_ns) / f64::from(n_tasks),
            world.n_taken_back,
            world.now_ns as f64 / 1e9,
            bound_ns as f64 / 1e9,
            (world.now_ns as f64 / bound_ns as f64 - 1.0) * 100.0
        );
    }
}
