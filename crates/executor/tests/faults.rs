//! Jobs that go on without failed tasks and try others again, in the calling thread and in threads.

mod counting;

use counting::{Random, Watchdog, random_job};
use manyhands_executor::inline::Resting;
use manyhands_executor::threads::ThreadPool;
use manyhands_executor::{Board, Failure, Feed, Program, inline};
use manyhands_graph::{Graph, TaskIndex};
use manyhands_scheduler::{Ending, JobSpec, Rules, Tally, Wanted};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const N_RETRIES: u32 = 2;

/// How often each task fails before it returns.
struct Flaky {
    n_failures: Vec<u32>,
    n_runs: Vec<AtomicU32>,
    released: Mutex<Vec<TaskIndex>>,
}

impl Flaky {
    fn random(graph: &Graph, random: &mut Random) -> Flaky {
        let mut draw = |_| match random.below(8) {
            0 => N_RETRIES + 1,
            1 => 1 + random.below(N_RETRIES as usize) as u32,
            _ => 0,
        };
        Flaky {
            n_failures: graph.tasks().map(&mut draw).collect(),
            n_runs: graph.tasks().map(|_| AtomicU32::new(0)).collect(),
            released: Mutex::default(),
        }
    }

    /// Which task each lost task is lost for.
    fn culprits(&self, graph: &Graph) -> BTreeMap<TaskIndex, TaskIndex> {
        let mut culprits: BTreeMap<TaskIndex, TaskIndex> = BTreeMap::new();
        for task in graph.tasks() {
            let mut inputs = graph.dependencies(task).iter();
            let inherited = inputs.find_map(|input| culprits.get(input).copied());
            let own = (self.n_failures[task.as_usize()] > N_RETRIES).then_some(task);
            if let Some(culprit) = inherited.or(own) {
                culprits.insert(task, culprit);
            }
        }
        culprits
    }

    /// What was told is what must have happened.
    fn check(&self, spec: &JobSpec, lost: Vec<(TaskIndex, Failure)>, seed: u64) {
        let culprits = self.culprits(&spec.graph);
        let is_wanted = |task: &TaskIndex| match &spec.wanted {
            Wanted::All => true,
            Wanted::Tasks(wanted) => wanted.contains(task),
        };
        let expected: BTreeMap<_, _> = (culprits.iter())
            .filter(|(task, _)| is_wanted(task))
            .map(|(task, culprit)| (*task, Failure::Task(*culprit, N_RETRIES + 1)))
            .collect();
        let n_lost = lost.len();
        let told: BTreeMap<_, _> = lost.into_iter().collect();
        assert_eq!((n_lost, &told), (expected.len(), &expected), "seed {seed}");
        for task in spec.graph.tasks() {
            let n_runs = self.n_runs[task.as_usize()].load(Ordering::SeqCst);
            let n_failures = self.n_failures[task.as_usize()];
            let n_expected = match culprits.get(&task) {
                Some(culprit) if *culprit != task => 0,
                Some(_) => N_RETRIES + 1,
                None => n_failures + 1,
            };
            assert_eq!(n_runs, n_expected, "runs of {task:?}, seed {seed}");
        }
        let released = self.released.lock().expect("no holder panics");
        let is_result = |task: &TaskIndex| !culprits.contains_key(task) && !is_wanted(task);
        assert!(released.iter().all(is_result), "seed {seed}");
    }

    /// What is told of how far the job has come is what happened.
    fn check_tally(&self, graph: &Graph, tally: Tally, seed: u64) {
        let culprits = self.culprits(graph);
        let n_failed = culprits.iter().filter(|(task, culprit)| task == culprit);
        let has_run = |task: &TaskIndex| culprits.get(task).is_none_or(|culprit| culprit == task);
        let n_retries = |task: TaskIndex| self.n_failures[task.as_usize()].min(N_RETRIES);
        let n_tasks = graph.n_tasks() as u64;
        let expected = Tally {
            n_tasks,
            is_open: false,
            n_ended: n_tasks,
            n_failed: n_failed.count() as u64,
            n_retried: graph.tasks().filter(has_run).map(n_retries).sum::<u32>() as u64,
            n_running: 0,
        };
        assert_eq!(tally, expected, "seed {seed}");
    }
}

impl Program for Flaky {
    fn run(&self, feed: &mut dyn Feed) {
        while let Some(task) = feed.next() {
            let n_before = self.n_runs[task.as_usize()].fetch_add(1, Ordering::SeqCst);
            feed.ended(match n_before < self.n_failures[task.as_usize()] {
                true => Ending::Retriable,
                false => Ending::Returned,
            });
        }
    }

    fn release(&self, tasks: &[TaskIndex]) {
        let mut released = self.released.lock().expect("no holder panics");
        released.extend_from_slice(tasks);
    }
}

fn case(seed: u64) -> (JobSpec, Flaky) {
    let mut random = Random::new(seed);
    let (mut spec, _) = random_job(&mut random, 50);
    spec.rules = Rules {
        is_tolerant: true,
        n_retries: N_RETRIES,
        rest_ns: [0, 10_000][random.below(2)],
        ..Rules::default()
    };
    let program = Flaky::random(&spec.graph, &mut random);
    (spec, program)
}

#[test]
fn in_the_calling_thread_what_depends_on_failures_is_lost_and_nothing_else() {
    let _watchdog = Watchdog::new("inline: failures that are tolerated");
    for seed in 0..500 {
        let (spec, program) = case(seed);
        let board = Board::default();
        let lost = inline::run_watched(spec.clone(), &program, Some(&board), Resting::Aside);
        program.check(&spec, lost.expect("failures are tolerated"), seed);
        program.check_tally(&spec.graph, board.tally().unwrap(), seed);
    }
}

/// Tells in which order tasks run, and how long they rest.
struct Telling {
    flaky: Flaky,
    started: Mutex<Vec<TaskIndex>>,
    rests: Mutex<Vec<Duration>>,
}

impl Program for Telling {
    fn run(&self, feed: &mut dyn Feed) {
        while let Some(task) = feed.next() {
            self.started.lock().expect("no holder panics").push(task);
            let n_before = self.flaky.n_runs[task.as_usize()].fetch_add(1, Ordering::SeqCst);
            feed.ended(match n_before < self.flaky.n_failures[task.as_usize()] {
                true => Ending::Retriable,
                false => Ending::Returned,
            });
        }
    }

    fn release(&self, tasks: &[TaskIndex]) {
        self.flaky.release(tasks);
    }

    fn rest(&self, duration: Duration) -> bool {
        self.rests.lock().expect("no holder panics").push(duration);
        true
    }
}

#[test]
fn in_order_nothing_runs_while_a_task_rests() {
    let _watchdog = Watchdog::new("inline: tasks that rest in order");
    for seed in 0..500 {
        let (mut spec, mut flaky) = case(seed);
        spec.rules.rest_ns = 1_000_000_000;
        for n_failures in &mut flaky.n_failures {
            *n_failures = (*n_failures).min(N_RETRIES);
        }
        let order = inline::order(spec.clone());
        let mut expected = Vec::new();
        let mut expected_rests = Vec::new();
        for task in order {
            let n_failures = flaky.n_failures[task.as_usize()];
            expected.extend((0..=n_failures).map(|_| task));
            let rests = (0..n_failures).map(|n| Duration::from_secs(1 << n));
            expected_rests.extend(rests);
        }
        let program = Telling {
            flaky,
            started: Mutex::default(),
            rests: Mutex::default(),
        };
        let lost = inline::run_watched(spec.clone(), &program, None, Resting::InOrder);
        program.flaky.check(&spec, lost.expect("all is done"), seed);
        let started = program.started.into_inner().expect("no holder panics");
        assert_eq!(started, expected, "seed {seed}");
        let rests = program.rests.into_inner().expect("no holder panics");
        assert_eq!(rests, expected_rests, "seed {seed}");
    }
}

#[test]
fn in_threads_what_depends_on_failures_is_lost_and_nothing_else() {
    let _watchdog = Watchdog::new("threads: failures that are tolerated");
    let pool = ThreadPool::new(3, Arc::new(()));
    for seed in 0..500 {
        let (spec, program) = case(seed);
        let program = Arc::new(program);
        let job = pool.submit(spec.clone(), Arc::clone(&program) as Arc<dyn Program>);
        let watch = job.watch();
        let mut n_ended = 0;
        while watch.outcome().is_none() {
            let tally = watch.standing().expect("this process has the job").tally;
            assert!(n_ended <= tally.n_ended && tally.n_ended <= tally.n_tasks);
            n_ended = tally.n_ended;
        }
        let news = job.wait_for_end(Duration::MAX);
        assert_eq!(news.failure, None, "seed {seed}");
        program.check(&spec, news.lost, seed);
        drop(job);
        let standing = watch.standing().expect("it is known afterwards");
        assert_eq!((watch.outcome(), standing.n_deaths), (Some(false), 0));
        program.check_tally(&spec.graph, standing.tally, seed);
    }
}

/// Fails for ever, and will not wait.
struct Impatient;

impl Program for Impatient {
    fn run(&self, feed: &mut dyn Feed) {
        while feed.next().is_some() {
            feed.ended(Ending::Retriable);
        }
    }

    fn release(&self, _tasks: &[TaskIndex]) {}

    fn rest(&self, _duration: Duration) -> bool {
        false
    }
}

#[test]
fn who_will_not_wait_for_the_next_try_ends_the_job() {
    let (mut spec, _) = random_job(&mut Random::new(1), 5);
    spec.rules.n_retries = 1;
    spec.rules.rest_ns = 1_000_000_000;
    let outcome = inline::run_watched(spec.clone(), &Impatient, None, Resting::InOrder);
    assert_eq!(outcome, Err(Failure::Cancelled));
    assert_eq!(inline::run(spec, &Impatient), Err(Failure::Cancelled));
}
