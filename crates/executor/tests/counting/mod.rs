//! A program over a random graph that counts what is done with each of its tasks, and complains of
//! whatever should not have been done.

#![allow(dead_code, reason = "each test binary uses its part")]

use manyhands_executor::{Feed, Program};
use manyhands_graph::{Graph, GraphBuilder, TaskIndex};
use manyhands_scheduler::{JobSpec, KindId, Kinds, Wanted};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// SplitMix64: small, and good enough to draw graphs.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Ends the process with a message if what it watches hangs. No test asserts a time by it.
pub struct Watchdog {
    _alive: Sender<()>,
}

const HANG: Duration = Duration::from_secs(60);

impl Watchdog {
    pub fn new(what: impl Into<String>) -> Watchdog {
        let what = what.into();
        let (alive, ended) = channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
                eprintln!("hangs since {} s: {what}", HANG.as_secs());
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// Waits for something that happens soon after what the test saw. The watchdog ends the waiting.
pub fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// How a task is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    SaysSo,
    Panics,
}

#[derive(Default)]
struct Counts {
    n_started: AtomicU32,
    n_ended: AtomicU32,
    n_released: AtomicU32,
}

pub struct Counting {
    graph: Graph,
    is_wanted: Vec<bool>,
    counts: Vec<Counts>,
    results: Vec<Mutex<Option<u64>>>,
    mishap: Option<(TaskIndex, Mishap)>,
    /// How long each task keeps its thread, in microseconds.
    durations_us: Vec<u32>,
    complaints: Mutex<Vec<String>>,
}

impl Counting {
    pub fn new(graph: Graph, wanted: &Wanted) -> Counting {
        let n_tasks = graph.n_tasks();
        let mut is_wanted = vec![matches!(wanted, Wanted::All); n_tasks];
        if let Wanted::Tasks(tasks) = wanted {
            for task in tasks {
                is_wanted[task.as_usize()] = true;
            }
        }
        Counting {
            graph,
            is_wanted,
            counts: (0..n_tasks).map(|_| Counts::default()).collect(),
            results: (0..n_tasks).map(|_| Mutex::new(None)).collect(),
            mishap: None,
            durations_us: vec![0; n_tasks],
            complaints: Mutex::default(),
        }
    }

    pub fn failing(mut self, task: TaskIndex, mishap: Mishap) -> Counting {
        self.mishap = Some((task, mishap));
        self
    }

    pub fn lasting(mut self, durations_us: Vec<u32>) -> Counting {
        self.durations_us = durations_us;
        self
    }

    fn complain(&self, complaint: String) {
        let complaints = self.complaints.lock();
        complaints
            .unwrap_or_else(PoisonError::into_inner)
            .push(complaint);
    }

    fn result(&self, task: TaskIndex) -> Option<u64> {
        let result = self.results[task.as_usize()].lock();
        *result.unwrap_or_else(PoisonError::into_inner)
    }

    fn set_result(&self, task: TaskIndex, result: Option<u64>) {
        let slot = self.results[task.as_usize()].lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = result;
    }

    pub fn n_started(&self, task: TaskIndex) -> u32 {
        self.counts[task.as_usize()]
            .n_started
            .load(Ordering::SeqCst)
    }

    pub fn n_tasks_started(&self) -> u32 {
        self.graph.tasks().map(|task| self.n_started(task)).sum()
    }

    fn n_released(&self, task: TaskIndex) -> u32 {
        self.counts[task.as_usize()]
            .n_released
            .load(Ordering::SeqCst)
    }

    fn run_one(&self, task: TaskIndex) -> bool {
        let counts = &self.counts[task.as_usize()];
        if counts.n_started.fetch_add(1, Ordering::SeqCst) > 0 {
            self.complain(format!("{task:?} was run twice"));
        }
        let mut value = mix(u64::from(task.0));
        for &input in self.graph.dependencies(task) {
            match self.result(input) {
                Some(input) => value = mix(value ^ input),
                None => self.complain(format!("{task:?} was run without the result of {input:?}")),
            }
        }
        keep_busy(self.durations_us[task.as_usize()]);
        let is_ok = match self.mishap {
            Some((failing, Mishap::Panics)) if failing == task => panic!("as planned"),
            Some((failing, Mishap::SaysSo)) => failing != task,
            _ => true,
        };
        if is_ok {
            self.set_result(task, Some(value));
        }
        counts.n_ended.fetch_add(1, Ordering::SeqCst);
        is_ok
    }

    /// What each task gives, computed one after the other.
    pub fn serial(&self) -> Vec<u64> {
        let mut values: Vec<u64> = Vec::new();
        for task in self.graph.tasks() {
            let mut value = mix(u64::from(task.0));
            for input in self.graph.dependencies(task) {
                value = mix(value ^ values[input.as_usize()]);
            }
            values.push(value);
        }
        values
    }

    /// After a job that succeeded: each task was run once, the wanted results are there and right,
    /// the others are released once.
    pub fn check_success(&self) {
        wait_until(|| {
            let is_settled = |task| self.is_wanted[usize_of(task)] || self.n_released(task) > 0;
            self.graph.tasks().all(is_settled)
        });
        let serial = self.serial();
        for task in self.graph.tasks() {
            assert_eq!(self.n_started(task), 1, "runs of {task:?}");
            if self.is_wanted[task.as_usize()] {
                assert_eq!(self.n_released(task), 0, "releases of {task:?}");
                assert_eq!(self.result(task), Some(serial[task.as_usize()]), "{task:?}");
            } else {
                assert_eq!(self.n_released(task), 1, "releases of {task:?}");
            }
        }
        self.check_complaints();
    }

    /// After a job that ended early: nothing was run or released twice, nor without its inputs.
    pub fn check_complaints(&self) {
        let complaints = self.complaints.lock();
        let complaints = complaints.unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*complaints, Vec::<String>::new());
    }
}

fn usize_of(task: TaskIndex) -> usize {
    task.as_usize()
}

impl Program for Counting {
    fn run(&self, feed: &mut dyn Feed) {
        while let Some(task) = feed.next() {
            let is_ok = self.run_one(task);
            feed.ended(is_ok.into());
        }
    }

    fn release(&self, tasks: &[TaskIndex]) {
        for &task in tasks {
            let counts = &self.counts[task.as_usize()];
            if counts.n_released.fetch_add(1, Ordering::SeqCst) > 0 {
                self.complain(format!("{task:?} was released twice"));
            }
            if self.is_wanted[task.as_usize()] {
                self.complain(format!("{task:?} was released though it is wanted"));
            }
            let has_ended =
                |task: TaskIndex| self.counts[task.as_usize()].n_ended.load(Ordering::SeqCst) > 0;
            if !has_ended(task) {
                self.complain(format!("{task:?} was released before it ended"));
            }
            for &reader in self.graph.dependents(task) {
                if !has_ended(reader) {
                    self.complain(format!("{task:?} was released before {reader:?} read it"));
                }
            }
            self.set_result(task, None);
        }
    }
}

pub fn keep_busy(duration_us: u32) {
    let duration = Duration::from_micros(u64::from(duration_us));
    if duration >= Duration::from_millis(1) {
        std::thread::sleep(duration);
        return;
    }
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

pub fn random_graph(random: &mut Random, n_tasks_max: usize) -> Graph {
    let n_tasks = 1 + random.below(n_tasks_max);
    let n_dependencies_max = random.below(4);
    let reach = 1 + random.below(n_tasks);
    let mut builder = GraphBuilder::default();
    for at in 0..n_tasks {
        let n_dependencies = random.below(n_dependencies_max + 1).min(at);
        let dependencies: Vec<_> = (0..n_dependencies)
            .map(|_| TaskIndex((at - 1 - random.below(reach.min(at))) as u32))
            .collect();
        builder.task(&dependencies);
    }
    builder.build()
}

/// A job over a random graph: what is wanted, the kinds, the durations and the batches are drawn too.
pub fn random_job(random: &mut Random, n_tasks_max: usize) -> (JobSpec, Counting) {
    let graph = random_graph(random, n_tasks_max);
    let n_tasks = graph.n_tasks();
    let wanted = if random.chance(30) {
        Wanted::All
    } else {
        let percent = random.next() % 100;
        let drawn = graph.tasks().filter(|_| random.chance(percent)).collect();
        Wanted::Tasks(drawn)
    };
    let n_kinds = 1 + random.below(3) as u32;
    let kinds = if random.chance(50) {
        Kinds::One(KindId(random.below(4) as u32))
    } else {
        let drawn = |_| KindId(random.below(n_kinds as usize) as u32);
        Kinds::Each((0..n_tasks).map(drawn).collect())
    };
    let duration_us_max = [1, 1, 20, 200][random.below(4)];
    let durations_us = (0..n_tasks)
        .map(|_| {
            if random.chance(1) {
                1_000
            } else {
                random.below(duration_us_max) as u32
            }
        })
        .collect();
    let batch_size = NonZeroU32::new(random.below(12) as u32).filter(|_| random.chance(20));
    let program = Counting::new(graph.clone(), &wanted).lasting(durations_us);
    let spec = JobSpec {
        graph,
        wanted,
        kinds,
        batch_size,
        is_open: false,
        rules: manyhands_scheduler::Rules::default(),
    };
    (spec, program)
}

/// A job of `n_tasks` tasks that do not depend on each other, all wanted.
pub fn flat_spec(n_tasks: u32) -> JobSpec {
    JobSpec {
        graph: Graph::independent(n_tasks),
        wanted: Wanted::All,
        kinds: Kinds::One(KindId(7)),
        batch_size: None,
        is_open: false,
        rules: manyhands_scheduler::Rules::default(),
    }
}
