//! Jobs in threads: what a pool promises, under load, under failures and while it is being changed.

mod counting;

use counting::{Counting, Mishap, Random, Watchdog, flat_spec, keep_busy, random_job, wait_until};
use manyhands_executor::threads::ThreadPool;
use manyhands_executor::{Failure, Feed, Job, News, Program, ThreadGuard, ThreadHook};
use manyhands_graph::{Graph, GraphBuilder, TaskIndex};
use manyhands_scheduler::{JobSpec, KindId, Kinds, Wanted};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

fn pool(n_threads: usize) -> ThreadPool {
    ThreadPool::new(n_threads, Arc::new(()))
}

/// Waits for the end of a job; what was delivered, each task once, and why it ended.
fn wait(job: &Job) -> (BTreeSet<TaskIndex>, Option<Failure>) {
    let mut delivered = BTreeSet::new();
    loop {
        let News {
            delivered: tasks,
            failure,
            is_done,
            ..
        } = job.wait(Duration::MAX);
        for task in tasks {
            assert!(delivered.insert(task), "{task:?} was delivered twice");
        }
        if failure.is_some() || is_done {
            return (delivered, failure);
        }
    }
}

fn wanted_of(spec: &JobSpec) -> BTreeSet<TaskIndex> {
    match &spec.wanted {
        Wanted::All => spec.graph.tasks().collect(),
        Wanted::Tasks(tasks) => tasks.iter().copied().collect(),
    }
}

/// Runs a random job to its end and checks all there is to check.
fn run_random_job(pool: &ThreadPool, seed: u64, n_tasks_max: usize) {
    let (spec, program) = random_job(&mut Random::new(seed), n_tasks_max);
    let wanted = wanted_of(&spec);
    let program = Arc::new(program);
    let job = pool.submit(spec, Arc::<Counting>::clone(&program));
    assert_eq!(wait(&job), (wanted, None), "seed {seed}");
    program.check_success();
}

fn assert_usable(pool: &ThreadPool) {
    run_random_job(pool, 1, 60);
}

/// Opens once, for all who wait.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().expect("no holder panics") = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let is_open = self.is_open.lock().expect("no holder panics");
        drop(
            self.opened
                .wait_while(is_open, |is_open| !*is_open)
                .expect("no holder panics"),
        );
    }
}

/// A program of one closure, which gets the number of the task.
struct Each<F>(F);

impl<F: Fn(TaskIndex) + Send + Sync> Program for Each<F> {
    fn run(&self, feed: &mut dyn Feed) {
        while let Some(task) = feed.next() {
            (self.0)(task);
            feed.ended(true.into());
        }
    }

    fn release(&self, _tasks: &[TaskIndex]) {}
}

#[test]
fn random_graphs_give_what_a_serial_evaluation_gives() {
    let _watchdog = Watchdog::new("threads: random graphs");
    for n_threads in [1, 2, 3, 8] {
        let pool = pool(n_threads);
        for seed in 0..400 {
            run_random_job(&pool, seed, 100);
        }
    }
}

#[test]
fn many_jobs_from_many_threads_at_once() {
    let _watchdog = Watchdog::new("threads: many jobs at once");
    let pool = pool(3);
    std::thread::scope(|scope| {
        for submitter in 0..6 {
            let pool = &pool;
            scope.spawn(move || {
                for at in 0..150 {
                    run_random_job(pool, submitter * 1_000 + at, 40);
                }
            });
        }
    });
}

#[test]
fn jobs_of_one_task_each_reuse_numbers_and_are_not_mixed_up() {
    let _watchdog = Watchdog::new("threads: jobs of one task");
    let pool = pool(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    let has_run = Arc::new(AtomicBool::new(false));
                    let program = Each({
                        let has_run = Arc::clone(&has_run);
                        move |_| assert!(!has_run.swap(true, Ordering::SeqCst))
                    });
                    let job = pool.submit(flat_spec(1), Arc::new(program));
                    assert_eq!(wait(&job).1, None);
                    assert!(has_run.load(Ordering::SeqCst));
                }
            });
        }
    });
}

#[test]
fn a_failure_or_a_panic_anywhere_is_named_and_the_pool_goes_on() {
    let _watchdog = Watchdog::new("threads: failures");
    let pool = pool(2);
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let (spec, program) = random_job(&mut random, 60);
        let failing = TaskIndex(random.below(spec.graph.n_tasks()) as u32);
        let mishap = [Mishap::SaysSo, Mishap::Panics][random.below(2)];
        let dependents = spec.graph.dependents(failing).to_vec();
        let program = Arc::new(program.failing(failing, mishap));
        let job = pool.submit(spec, Arc::<Counting>::clone(&program));
        assert_eq!(wait(&job).1, Some(Failure::Task(failing, 1)), "seed {seed}");
        assert_eq!(program.n_started(failing), 1, "seed {seed}");
        for dependent in dependents {
            assert_eq!(program.n_started(dependent), 0, "seed {seed}");
        }
        program.check_complaints();
        if seed % 50 == 0 {
            assert_usable(&pool);
        }
    }
    assert_eq!(pool.n_threads(), 2);
}

#[test]
fn one_failing_job_does_not_harm_its_neighbours() {
    let _watchdog = Watchdog::new("threads: failing among others");
    let pool = pool(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..200 {
                run_random_job(&pool, seed, 40);
            }
        });
        for seed in 0..200 {
            let (spec, program) = random_job(&mut Random::new(seed), 40);
            let program = Arc::new(program.failing(TaskIndex(0), Mishap::Panics));
            let job = pool.submit(spec, Arc::<Counting>::clone(&program));
            assert_eq!(wait(&job).1, Some(Failure::Task(TaskIndex(0), 1)));
            program.check_complaints();
        }
    });
}

#[test]
fn cancelling_at_any_moment_ends_the_job_and_only_it() {
    let _watchdog = Watchdog::new("threads: cancel");
    let pool = pool(2);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let (spec, program) = random_job(&mut random, 100);
        let wanted = wanted_of(&spec);
        let program = Arc::new(program);
        let job = pool.submit(spec, Arc::<Counting>::clone(&program));
        let neighbour = (seed % 4 == 0).then(|| {
            let (spec, program) = random_job(&mut random, 20);
            let program = Arc::new(program);
            (pool.submit(spec, Arc::<Counting>::clone(&program)), program)
        });
        keep_busy(random.below(300) as u32);
        job.cancel(Duration::from_millis(100));
        let (delivered, failure) = wait(&job);
        assert!(delivered.is_subset(&wanted), "seed {seed}");
        if failure.is_none() {
            assert_eq!(delivered, wanted, "seed {seed}");
        } else {
            assert_eq!(failure, Some(Failure::Cancelled), "seed {seed}");
        }
        program.check_complaints();
        if let Some((job, program)) = neighbour {
            assert_eq!(wait(&job).1, None, "seed {seed}");
            program.check_success();
        }
    }
}

#[test]
fn nothing_starts_after_a_cancel_has_returned() {
    let _watchdog = Watchdog::new("threads: nothing after a cancel");
    let pool = pool(2);
    for _ in 0..100 {
        let gate = Arc::new(Gate::default());
        let n_started = Arc::new(AtomicU32::new(0));
        // Quick at first, so that many tasks wait in the lanes when both threads are held up.
        let program = Each({
            let (gate, n_started) = (Arc::clone(&gate), Arc::clone(&n_started));
            move |_| {
                if n_started.fetch_add(1, Ordering::SeqCst) >= 500 {
                    gate.pass();
                }
            }
        });
        let job = pool.submit(flat_spec(10_000), Arc::new(program));
        wait_until(|| n_started.load(Ordering::SeqCst) == 502);
        job.cancel(Duration::MAX);
        gate.open();
        assert_eq!(wait(&job).1, Some(Failure::Cancelled));
        assert_usable(&pool);
        assert_eq!(n_started.load(Ordering::SeqCst), 502);
    }
}

#[test]
fn dropping_the_handle_cancels() {
    let _watchdog = Watchdog::new("threads: drop of a handle");
    let pool = pool(2);
    let gate = Arc::new(Gate::default());
    let n_started = Arc::new(AtomicU32::new(0));
    let program = Arc::new(Each({
        let (gate, n_started) = (Arc::clone(&gate), Arc::clone(&n_started));
        move |_| {
            n_started.fetch_add(1, Ordering::SeqCst);
            gate.pass();
        }
    }));
    let job = pool.submit(flat_spec(1_000), Arc::<Each<_>>::clone(&program));
    wait_until(|| n_started.load(Ordering::SeqCst) == 2);
    drop(job);
    gate.open();
    // The pool lets go of the program once nothing of the job is left.
    wait_until(|| Arc::strong_count(&program) == 1);
    assert_eq!(n_started.load(Ordering::SeqCst), 2);
    assert_usable(&pool);
}

#[test]
fn a_thread_that_never_comes_back_is_replaced() {
    let _watchdog = Watchdog::new("threads: a task that blocks forever");
    let pool = pool(2);
    for n_stuck in [1, 2] {
        let gate = Arc::new(Gate::default());
        let n_started = Arc::new(AtomicU32::new(0));
        let n_ended = Arc::new(AtomicU32::new(0));
        let program = Each({
            let (gate, n_started, n_ended) = (
                Arc::clone(&gate),
                Arc::clone(&n_started),
                Arc::clone(&n_ended),
            );
            move |_| {
                n_started.fetch_add(1, Ordering::SeqCst);
                gate.pass();
                n_ended.fetch_add(1, Ordering::SeqCst);
            }
        });
        let stuck = pool.submit(flat_spec(n_stuck), Arc::new(program));
        wait_until(|| n_started.load(Ordering::SeqCst) == n_stuck);
        // These wait behind the stuck ones, in part in the same lanes.
        let (spec, behind) = random_job(&mut Random::new(3), 60);
        let behind = Arc::new(behind);
        let job = pool.submit(spec, Arc::<Counting>::clone(&behind));
        stuck.cancel(Duration::from_millis(5));
        assert_eq!(wait(&stuck).1, Some(Failure::Cancelled));
        assert_eq!(wait(&job).1, None);
        behind.check_success();
        assert_eq!(pool.n_threads(), 2);
        assert_usable(&pool);
        assert_eq!(n_ended.load(Ordering::SeqCst), 0);
        // What was given up ends without a word, and disturbs nobody.
        gate.open();
        wait_until(|| n_ended.load(Ordering::SeqCst) == n_stuck);
        assert_usable(&pool);
        assert_eq!(pool.n_threads(), 2);
    }
}

#[test]
fn a_given_up_thread_runs_nothing_of_what_waited_behind() {
    let _watchdog = Watchdog::new("threads: a given up lane");
    let pool = pool(1);
    let gate = Arc::new(Gate::default());
    let n_started = Arc::new(AtomicU32::new(0));
    let stuck_program = Each({
        let (gate, n_started) = (Arc::clone(&gate), Arc::clone(&n_started));
        move |_| {
            // The first is quick, so that the scheduler learns that many fit behind it.
            if n_started.fetch_add(1, Ordering::SeqCst) > 100 {
                gate.pass();
            }
        }
    });
    let stuck = pool.submit(flat_spec(1_000), Arc::new(stuck_program));
    wait_until(|| n_started.load(Ordering::SeqCst) == 102);
    let jobs: Vec<_> = (0..20)
        .map(|_| {
            let program = Arc::new(Counting::new(flat_spec(50).graph, &Wanted::All));
            let job = pool.submit(flat_spec(50), Arc::<Counting>::clone(&program));
            (job, program)
        })
        .collect();
    stuck.cancel(Duration::from_millis(1));
    for (job, program) in &jobs {
        assert_eq!(wait(job).1, None);
        program.check_success();
    }
    gate.open();
    assert_usable(&pool);
    for (_, program) in &jobs {
        program.check_success();
    }
    assert_eq!(n_started.load(Ordering::SeqCst), 102);
}

#[test]
fn resizing_under_load_loses_nothing_and_reaches_its_number() {
    let _watchdog = Watchdog::new("threads: resize");
    let pool = pool(2);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|submitter| {
                let pool = &pool;
                scope.spawn(move || {
                    for seed in 0..200 {
                        run_random_job(pool, submitter * 1_000 + seed, 60);
                    }
                })
            })
            .collect();
        let mut random = Random::new(9);
        while !workers.iter().all(|worker| worker.is_finished()) {
            pool.resize(1 + random.below(6));
            keep_busy(random.below(500) as u32);
        }
    });
    for n_threads in [5, 1, 3] {
        pool.resize(n_threads);
        assert_eq!(pool.n_threads(), n_threads);
        assert_usable(&pool);
    }
}

#[test]
fn threads_too_many_end_though_they_were_busy_when_resized() {
    let _watchdog = Watchdog::new("threads: resize while busy");
    let pool = pool(4);
    let gate = Arc::new(Gate::default());
    let n_started = Arc::new(AtomicU32::new(0));
    let program = Each({
        let (gate, n_started) = (Arc::clone(&gate), Arc::clone(&n_started));
        move |_| {
            n_started.fetch_add(1, Ordering::SeqCst);
            gate.pass();
        }
    });
    let job = pool.submit(flat_spec(4), Arc::new(program));
    wait_until(|| n_started.load(Ordering::SeqCst) == 4);
    pool.resize(1);
    assert_eq!(pool.n_threads(), 4);
    gate.open();
    assert_eq!(wait(&job).1, None);
    wait_until(|| pool.n_threads() == 1);
    assert_usable(&pool);
}

#[test]
fn a_result_is_reported_while_its_thread_is_busy_with_the_next() {
    let _watchdog = Watchdog::new("threads: a late report");
    let pool = pool(1);
    // Quick tasks, so that many are sent at once; the last waits until all others are delivered.
    let n_tasks = 2_000;
    let gate = Arc::new(Gate::default());
    let program = Each({
        let gate = Arc::clone(&gate);
        move |task: TaskIndex| {
            if task.0 == n_tasks - 1 {
                gate.pass();
            }
        }
    });
    let job = pool.submit(flat_spec(n_tasks), Arc::new(program));
    let mut n_delivered = 0;
    while n_delivered < n_tasks as usize - 1 {
        n_delivered += job.wait(Duration::MAX).delivered.len();
    }
    gate.open();
    assert_eq!(wait(&job).0.len(), 1);
}

#[test]
fn a_dependent_starts_elsewhere_while_its_input_s_thread_is_busy() {
    let _watchdog = Watchdog::new("threads: a dependent behind a busy thread");
    let pool = pool(2);
    for _ in 0..50 {
        // Roots, of which the middle one waits for the dependent of its neighbours.
        let n_roots = 40;
        let mut builder = GraphBuilder::default();
        let roots: Vec<_> = (0..n_roots).map(|_| builder.task(&[])).collect();
        let slow = roots[n_roots / 2];
        let others: Vec<_> = roots.iter().copied().filter(|&root| root != slow).collect();
        let dependent = builder.task(&others);
        let gate = Arc::new(Gate::default());
        let program = Each({
            let gate = Arc::clone(&gate);
            move |task| {
                if task == slow {
                    gate.pass();
                } else if task == dependent {
                    gate.open();
                }
            }
        });
        let spec = JobSpec {
            graph: builder.build(),
            wanted: Wanted::All,
            kinds: Kinds::One(KindId(11)),
            batch_size: None,
            is_open: false,
            rules: manyhands_scheduler::Rules::default(),
        };
        let job = pool.submit(spec, Arc::new(program));
        assert_eq!(wait(&job).1, None);
    }
}

#[test]
fn an_open_job_grows_until_it_is_closed() {
    let _watchdog = Watchdog::new("threads: open jobs");
    let pool = pool(2);
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let n_run = Arc::new(AtomicU32::new(0));
        let program = Each({
            let n_run = Arc::clone(&n_run);
            move |_| {
                n_run.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut spec = flat_spec(0);
        spec.is_open = true;
        let job = pool.submit(spec, Arc::new(program));
        let mut n_tasks = 0;
        let mut delivered = BTreeSet::new();
        for _ in 0..random.below(20) {
            let n_more = random.below(300) as u32;
            job.extend(n_more);
            n_tasks += n_more;
            if random.chance(50) {
                let news = job.wait(Duration::from_micros(random.next() % 200));
                assert!(!news.is_done, "an open job is never done");
                delivered.extend(news.delivered);
            }
            keep_busy(random.below(100) as u32);
        }
        assert!(!job.has_ended());
        job.close();
        assert!(!job.extend(1), "seed {seed}: none come after the end");
        let (rest, failure) = wait(&job);
        assert!(!job.extend(1), "seed {seed}: nor do they once it is over");
        assert_eq!(failure, None);
        assert!(delivered.is_disjoint(&rest), "seed {seed}");
        delivered.extend(rest);
        let expected: BTreeSet<_> = (0..n_tasks).map(TaskIndex).collect();
        assert_eq!(delivered, expected, "seed {seed}");
        assert_eq!(n_run.load(Ordering::SeqCst), n_tasks);
    }
}

#[test]
fn on_end_calls_back_exactly_once_however_the_job_ends() {
    let _watchdog = Watchdog::new("threads: on_end");
    let pool = pool(2);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let (spec, program) = random_job(&mut random, 40);
        let program = match random.below(3) {
            0 => program.failing(TaskIndex(0), Mishap::SaysSo),
            _ => program,
        };
        let n_calls = Arc::new(AtomicU32::new(0));
        let job = pool.submit(spec, Arc::new(program));
        keep_busy(random.below(100) as u32);
        job.on_end({
            let n_calls = Arc::clone(&n_calls);
            move || {
                n_calls.fetch_add(1, Ordering::SeqCst);
            }
        });
        if random.chance(30) {
            job.cancel(Duration::MAX);
        }
        wait(&job);
        drop(job);
        wait_until(|| n_calls.load(Ordering::SeqCst) > 0);
        // Whatever of the job was left is gone when the next one has run.
        assert_usable(&pool);
        assert_eq!(n_calls.load(Ordering::SeqCst), 1, "seed {seed}");
    }
}

#[test]
fn who_looks_only_when_told_of_news_misses_none() {
    let _watchdog = Watchdog::new("threads: on_news");
    let pool = pool(2);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let n_tasks = random.below(40) as u32;
        let program = Each(|_| keep_busy(1));
        let job = pool.submit(flat_spec(n_tasks), Arc::new(program));
        keep_busy(random.below(100) as u32);
        let (tell, told) = std::sync::mpsc::channel();
        job.on_news(move || {
            // Nobody listens any more once all is known.
            let _ = tell.send(());
        });
        let mut delivered = BTreeSet::new();
        loop {
            told.recv().expect("there are further news");
            let news = job.wait(Duration::ZERO);
            delivered.extend(news.delivered);
            if news.is_done {
                break;
            }
            if random.chance(50) {
                job.wait_until_news(Duration::from_millis(1));
            }
        }
        let expected: BTreeSet<_> = (0..n_tasks).map(TaskIndex).collect();
        assert_eq!(delivered, expected, "seed {seed}");
    }
}

#[test]
fn is_running_says_so_of_a_task_that_has_started() {
    let _watchdog = Watchdog::new("threads: is_running");
    let pool = pool(1);
    let gate = Arc::new(Gate::default());
    let has_started = Arc::new(AtomicBool::new(false));
    let program = Each({
        let (gate, has_started) = (Arc::clone(&gate), Arc::clone(&has_started));
        move |_| {
            has_started.store(true, Ordering::SeqCst);
            gate.pass();
        }
    });
    let job = pool.submit(flat_spec(2), Arc::new(program));
    wait_until(|| has_started.load(Ordering::SeqCst));
    assert!(job.is_running(TaskIndex(0)));
    assert!(!job.is_running(TaskIndex(1)));
    gate.open();
    wait(&job);
    assert!(!job.is_running(TaskIndex(1)));
}

#[test]
fn shutdown_cancels_what_runs_and_what_comes() {
    let _watchdog = Watchdog::new("threads: shutdown");
    for _ in 0..50 {
        let pool = pool(2);
        let gate = Arc::new(Gate::default());
        let n_started = Arc::new(AtomicU32::new(0));
        let program = Arc::new(Each({
            let (gate, n_started) = (Arc::clone(&gate), Arc::clone(&n_started));
            move |_| {
                n_started.fetch_add(1, Ordering::SeqCst);
                gate.pass();
            }
        }));
        let job = pool.submit(flat_spec(100), Arc::<Each<_>>::clone(&program));
        wait_until(|| n_started.load(Ordering::SeqCst) == 2);
        pool.shutdown();
        assert_eq!(wait(&job).1, Some(Failure::Cancelled));
        assert_eq!(pool.n_threads(), 0);
        let late = pool.submit(flat_spec(3), Arc::<Each<_>>::clone(&program));
        assert_eq!(wait(&late).1, Some(Failure::Cancelled));
        gate.open();
        drop(pool);
        wait_until(|| Arc::strong_count(&program) == 1);
        assert_eq!(n_started.load(Ordering::SeqCst), 2);
    }
}

/// Counts the threads that live between its calls.
struct Census(Arc<AtomicU32>);

struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ThreadHook for Census {
    fn started(&self) -> ThreadGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::new(Counted(Arc::clone(&self.0)))
    }
}

#[test]
fn threads_call_their_hook_and_none_outlives_the_pool() {
    let _watchdog = Watchdog::new("threads: hooks");
    let n_alive = Arc::new(AtomicU32::new(0));
    for _ in 0..50 {
        let pool = ThreadPool::new(3, Arc::new(Census(Arc::clone(&n_alive))));
        let barrier = Arc::new(Barrier::new(3));
        let program = Each({
            let barrier = Arc::clone(&barrier);
            move |_| {
                barrier.wait();
            }
        });
        let mut spec = flat_spec(3);
        // Of unknown cost, so that each thread gets one.
        spec.kinds = Kinds::One(KindId(99));
        let job = pool.submit(spec, Arc::new(program));
        assert_eq!(wait(&job).1, None);
        assert_eq!(n_alive.load(Ordering::SeqCst), 3);
        drop(pool);
        wait_until(|| n_alive.load(Ordering::SeqCst) == 0);
    }
}

/// Locks its pool when it is dropped, as user code may.
struct Curious {
    pool: Arc<ThreadPool>,
    n_dropped: Arc<AtomicU32>,
}

impl Program for Curious {
    fn run(&self, feed: &mut dyn Feed) {
        while feed.next().is_some() {
            feed.ended(true.into());
        }
    }

    fn release(&self, _tasks: &[TaskIndex]) {
        self.pool.n_threads();
        panic!("a destructor panics, as planned");
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        self.pool.n_threads();
        self.n_dropped.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn programs_and_results_are_dropped_outside_of_all_locks() {
    let _watchdog = Watchdog::new("threads: drops");
    let pool = Arc::new(pool(2));
    let n_dropped = Arc::new(AtomicU32::new(0));
    for at in 0..100 {
        let program = Curious {
            pool: Arc::clone(&pool),
            n_dropped: Arc::clone(&n_dropped),
        };
        let mut spec = flat_spec(20);
        spec.wanted = Wanted::Tasks(vec![TaskIndex(0)]);
        let job = pool.submit(spec, Arc::new(program));
        if at % 2 == 0 {
            assert_eq!(wait(&job).1, None);
        }
        drop(job);
    }
    wait_until(|| n_dropped.load(Ordering::SeqCst) == 100);
    assert_usable(&pool);
}

/// Panics before it asks for a task.
struct Hostile;

impl Program for Hostile {
    fn run(&self, _feed: &mut dyn Feed) {
        panic!("as planned");
    }

    fn release(&self, _tasks: &[TaskIndex]) {}
}

#[test]
fn a_program_that_panics_outside_of_its_tasks_fails() {
    let _watchdog = Watchdog::new("threads: a hostile program");
    let pool = pool(2);
    let job = pool.submit(flat_spec(5), Arc::new(Hostile));
    assert!(matches!(wait(&job).1, Some(Failure::Task(..))));
    assert_usable(&pool);
}

/// Panics after its first task, before it asks for the next.
struct Fickle;

impl Program for Fickle {
    fn run(&self, feed: &mut dyn Feed) {
        if feed.next().is_some() {
            feed.ended(true.into());
            panic!("as planned");
        }
    }

    fn release(&self, _tasks: &[TaskIndex]) {}
}

#[test]
fn what_was_computed_before_a_program_panics_is_delivered() {
    let _watchdog = Watchdog::new("threads: a fickle program");
    let pool = pool(1);
    let job = pool.submit(flat_spec(50), Arc::new(Fickle));
    // Tasks that come one by one are all the first; of those that come together the second fails.
    let (delivered, failure) = wait(&job);
    let Some(Failure::Task(failed, _)) = failure else {
        panic!("after the first tasks they come together: {delivered:?}, {failure:?}");
    };
    assert_eq!(delivered, (0..failed.0).map(TaskIndex).collect());
    assert_usable(&pool);
}

#[test]
fn nothing_is_a_job_too() {
    let pool = pool(1);
    let program = Counting::new(Graph::default(), &Wanted::All);
    let job = pool.submit(flat_spec(0), Arc::new(program));
    assert_eq!(wait(&job), (BTreeSet::new(), None));
}
