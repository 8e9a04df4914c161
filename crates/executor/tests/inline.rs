//! Jobs in the calling thread: strictly one after the other, by rank, and released on time.

mod counting;

use counting::{Counting, Mishap, Random, Watchdog, flat_spec, random_job};
use manyhands_executor::{Failure, Feed, Program, inline};
use manyhands_graph::{GraphBuilder, TaskIndex, depth_first_ranks};
use manyhands_scheduler::{Ending, JobSpec, KindId, Kinds, Wanted};
use std::sync::Mutex;

#[test]
fn random_graphs_give_what_a_serial_evaluation_gives() {
    let _watchdog = Watchdog::new("inline: random graphs");
    for seed in 0..2_000 {
        let (spec, program) = random_job(&mut Random::new(seed), 60);
        assert_eq!(inline::run(spec, &program), Ok(Vec::new()), "seed {seed}");
        program.check_success();
    }
}

#[test]
fn a_failure_or_a_panic_anywhere_is_named_and_nothing_runs_after_it() {
    let _watchdog = Watchdog::new("inline: failures");
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let (spec, program) = random_job(&mut random, 40);
        let failing = TaskIndex(random.below(spec.graph.n_tasks()) as u32);
        let mishap = [Mishap::SaysSo, Mishap::Panics][random.below(2)];
        let dependents = spec.graph.dependents(failing).to_vec();
        let program = program.failing(failing, mishap);
        let outcome = inline::run(spec, &program);
        assert_eq!(outcome, Err(Failure::Task(failing, 1)), "seed {seed}");
        assert_eq!(program.n_started(failing), 1, "seed {seed}");
        for dependent in dependents {
            assert_eq!(program.n_started(dependent), 0, "seed {seed}");
        }
        program.check_complaints();
    }
}

#[test]
fn the_order_is_known_without_running_anything() {
    let _watchdog = Watchdog::new("inline: order");
    struct Noting<'a>(&'a Counting, Mutex<Vec<TaskIndex>>);
    impl Program for Noting<'_> {
        fn run(&self, feed: &mut dyn Feed) {
            struct Noted<'a>(&'a mut dyn Feed, &'a Mutex<Vec<TaskIndex>>);
            impl Feed for Noted<'_> {
                fn next(&mut self) -> Option<TaskIndex> {
                    let task = self.0.next();
                    self.1.lock().expect("no holder panics").extend(task);
                    task
                }

                fn ended(&mut self, ending: Ending) {
                    self.0.ended(ending);
                }
            }
            self.0.run(&mut Noted(feed, &self.1));
        }

        fn release(&self, tasks: &[TaskIndex]) {
            self.0.release(tasks);
        }
    }
    for seed in 0..500 {
        let (spec, program) = random_job(&mut Random::new(seed), 60);
        let known = inline::order(spec.clone());
        let noting = Noting(&program, Mutex::default());
        assert_eq!(inline::run(spec, &noting), Ok(Vec::new()), "seed {seed}");
        let noted = noting.1.into_inner().expect("no holder panics");
        assert_eq!(known, noted, "seed {seed}");
    }
}

#[test]
fn nothing_is_a_job_too() {
    assert_eq!(
        inline::run(
            flat_spec(0),
            &Counting::new(flat_spec(0).graph, &Wanted::All)
        ),
        Ok(Vec::new())
    );
}

/// Notes the order of events and computes nothing.
#[derive(Default)]
struct Story(Mutex<Vec<String>>);

impl Story {
    fn tell(&self, event: String) {
        self.0.lock().expect("no holder panics").push(event);
    }
}

impl Program for Story {
    fn run(&self, feed: &mut dyn Feed) {
        while let Some(task) = feed.next() {
            self.tell(format!("run {}", task.0));
            feed.ended(true.into());
        }
    }

    fn release(&self, tasks: &[TaskIndex]) {
        for task in tasks {
            self.tell(format!("release {}", task.0));
        }
    }
}

#[test]
fn tasks_run_by_rank_and_results_go_at_once() {
    //   0   1   2   3
    //    \ /     \ /
    //     4       5
    //      \     /
    //         6
    let mut builder = GraphBuilder::default();
    let leaves: Vec<_> = (0..4).map(|_| builder.task(&[])).collect();
    let left = builder.task(&leaves[..2]);
    let right = builder.task(&leaves[2..]);
    let top = builder.task(&[left, right]);
    let graph = builder.build();
    let mut by_rank: Vec<_> = graph.tasks().collect();
    let ranks = depth_first_ranks(&graph, &[top]);
    by_rank.sort_by_key(|task| ranks[task.as_usize()]);

    let story = Story::default();
    let spec = JobSpec {
        graph,
        wanted: Wanted::Tasks(vec![top]),
        kinds: Kinds::One(KindId(0)),
        batch_size: None,
        is_open: false,
        rules: manyhands_scheduler::Rules::default(),
    };
    assert_eq!(inline::run(spec, &story), Ok(Vec::new()));
    let story = story.0.into_inner().expect("no holder panics");
    let runs: Vec<_> = (story.iter())
        .filter_map(|event| event.strip_prefix("run "))
        .collect();
    let expected: Vec<_> = by_rank.iter().map(|task| task.0.to_string()).collect();
    assert_eq!(runs, expected);
    // A pair of leaves goes as soon as their sum is there, before any further task.
    assert_eq!(
        story,
        [
            "run 0",
            "run 1",
            "run 4",
            "release 0",
            "release 1",
            "run 2",
            "run 3",
            "run 5",
            "release 2",
            "release 3",
            "run 6",
            "release 4",
            "release 5"
        ]
    );
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
    let _watchdog = Watchdog::new("inline: a hostile program");
    let outcome = inline::run(flat_spec(3), &Hostile);
    assert_eq!(outcome, Err(Failure::Task(TaskIndex(0), 1)));
}
