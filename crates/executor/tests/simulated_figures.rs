//! How close to the ideal the scheduler comes, in virtual time, to the nanosecond and for ever the
//! same: nothing here depends on the machine that runs the test.

use manyhands_executor::simulated::{Case, Durations, JobPlan, Machine, Outcome, Random, run};
use manyhands_graph::GraphBuilder;
use manyhands_scheduler::{Graph, Wanted};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// What a message between two processes takes, and how long a busy worker keeps its results.
const DELAY_NS: u64 = 30 * US;
const FLUSH_NS: u64 = 2 * MS;

fn map(n_workers: u32, durations_ns: Vec<u64>) -> Case {
    map_with_first_call(n_workers, durations_ns, 0)
}

fn map_with_first_call(n_workers: u32, durations_ns: Vec<u64>, first_call_ns: u64) -> Case {
    let graph = Graph::independent(durations_ns.len() as u32);
    let mut job = JobPlan::new(graph, durations_ns);
    job.first_call_ns = first_call_ns;
    Case {
        seed: 1,
        machine: Machine::calm(n_workers, DELAY_NS, FLUSH_NS),
        jobs: vec![job],
    }
}

/// No schedule can be shorter: all workers busy to the end, or the longest task alone.
fn bound_ns(case: &Case) -> u64 {
    let job = &case.jobs[0];
    let n_workers = u64::from(case.machine.n_workers);
    let total_ns = job.durations_ns.iter().sum::<u64>() + n_workers * job.first_call_ns;
    let longest_ns = job.durations_ns.iter().max().copied().unwrap_or(0);
    (total_ns / n_workers).max(longest_ns)
}

/// What a scheduler comes to that knows no durations but has messages and decisions for nothing:
/// whoever is free takes the next task. Above the bound where slow tasks happen to come last.
fn list_schedule_ns(case: &Case) -> u64 {
    let mut free_at: BinaryHeap<_> = (0..case.machine.n_workers).map(|_| Reverse(0)).collect();
    let mut end_ns = 0;
    for duration_ns in &case.jobs[0].durations_ns {
        let Reverse(start_ns) = free_at.pop().expect("there are workers");
        free_at.push(Reverse(start_ns + duration_ns));
        end_ns = end_ns.max(start_ns + duration_ns);
    }
    end_ns
}

/// Runs the case; its time must not be over 1.05 times the best possible, a few messages aside.
fn check(what: &str, case: &Case, best_ns: u64) -> Outcome {
    let outcome = run(case).unwrap_or_else(|violation| panic!("{violation}"));
    let made_ns = outcome.makespan_ns;
    let ratio = made_ns as f64 / best_ns as f64;
    println!(
        "{what}: {:.3} ms, {ratio:.4} of the best, {} events, {} taken back",
        made_ns as f64 / 1e6,
        outcome.n_steps,
        outcome.n_taken_back
    );
    let n_messages = 20;
    let allowed_ns = best_ns / 100 * 105 + n_messages * DELAY_NS;
    assert!(made_ns <= allowed_ns, "{what}: {ratio:.4} of the best");
    outcome
}

#[test]
fn four_slow_and_twelve_fast_tasks_in_every_order() {
    for n_workers in [2, 4, 64] {
        let (mut worst, mut longest_ns) = (0.0f64, 0);
        for slow in 0u32..1 << 16 {
            if slow.count_ones() != 4 {
                continue;
            }
            let durations = (0..16).map(|i| if slow >> i & 1 == 1 { S } else { MS });
            let case = map(n_workers, durations.collect());
            let outcome = run(&case).unwrap_or_else(|violation| panic!("{violation}"));
            let ratio = outcome.makespan_ns as f64 / bound_ns(&case) as f64;
            assert!(
                ratio <= 1.05,
                "{ratio:.4} on {n_workers} in order {slow:016b}"
            );
            worst = worst.max(ratio);
            longest_ns = longest_ns.max(outcome.makespan_ns);
        }
        println!(
            "4 slow and 12 fast on {n_workers}: {:.3} ms, {worst:.4} of the best",
            longest_ns as f64 / 1e6
        );
    }
}

#[test]
fn four_slow_tasks_anywhere_among_ten_thousand() {
    let n_tasks = 10_000;
    // Together at any place, or spread; early, when nothing is known, and late, when it hurts most.
    let mut random = Random::new(3);
    let together = [0, 1, 4, 10, 100, 1000, 5000, 9000, 9900, 9990, 9996]
        .map(|at| [at, at + 1, at + 2, at + 3]);
    let spread = [(); 10].map(|()| [(); 4].map(|()| random.index(n_tasks)));
    for n_workers in [2, 4, 64] {
        for slow in together.iter().chain(&spread) {
            let mut durations = vec![100 * US; n_tasks];
            slow.iter().for_each(|&at| durations[at] = S);
            let case = map(n_workers, durations);
            // Nobody can know that the last slow one, far from the others, should begin earlier.
            let is_together = slow[3] == slow[0] + 3;
            let best_ns = match is_together {
                true => bound_ns(&case),
                false => list_schedule_ns(&case),
            };
            let what = format!("slow ones at {slow:?} on {n_workers}");
            check(&what, &case, best_ns);
        }
    }
}

#[test]
fn costs_that_vary_a_thousandfold() {
    for (n_workers, n_tasks) in [(2, 2_000), (4, 5_000), (64, 40_000)] {
        for low_ns in [US, 10 * US, 100 * US] {
            let mut random = Random::new(n_tasks);
            let spread = Durations::Thousandfold(low_ns);
            let durations = (0..n_tasks).map(|_| spread.draw(&mut random)).collect();
            let case = map(n_workers, durations);
            let what = format!("{n_tasks} tasks, {low_ns} ns to 1000 times that, on {n_workers}");
            check(&what, &case, bound_ns(&case));
        }
    }
}

#[test]
fn a_first_call_that_is_slow() {
    for n_workers in [2, 4, 64] {
        for (first_ns, task_ns) in [(S, MS), (100 * MS, 100 * US), (300 * MS, 10 * US)] {
            let n_tasks = (2 * S / task_ns) as usize;
            let case = map_with_first_call(n_workers, vec![task_ns; n_tasks], first_ns);
            let what = format!("{first_ns} ns once, then {task_ns} ns, on {n_workers}");
            check(&what, &case, bound_ns(&case));
        }
    }
}

/// Workers that wait for a processor are slow for no fault of their tasks: no schedule can be shorter
/// than all work divided by the processors.
#[test]
fn a_hundred_workers_on_two_cores() {
    let (n_workers, n_cores) = (100, 2);
    let mut random = Random::new(7);
    let mut thousandfold = |low_ns, n: usize| -> Vec<u64> {
        let durations = Durations::Thousandfold(low_ns);
        (0..n).map(|_| durations.draw(&mut random)).collect()
    };
    let mut four_slow = vec![100 * US; 10_000];
    for at in [0, 10, 5_000, 9_000] {
        four_slow[at] = S;
    }
    let jobs = [
        ("200 000 of 10 us", vec![10 * US; 200_000]),
        ("20 000 of 100 us", vec![100 * US; 20_000]),
        ("400 of 10 ms", vec![10 * MS; 400]),
        ("1 us to 1 ms", thousandfold(US, 20_000)),
        ("100 us to 100 ms", thousandfold(100 * US, 1_000)),
        ("four slow ones", four_slow),
    ];
    for (what, durations) in jobs {
        let best_ns = durations.iter().sum::<u64>() / n_cores;
        let mut case = map(n_workers, durations);
        case.machine.n_cores = Some(n_cores as u32);
        check(
            &format!("{what}, {n_workers} on {n_cores} cores"),
            &case,
            best_ns,
        );
    }
}

#[test]
fn many_equal_tasks_of_any_size() {
    for n_workers in [1, 2, 4, 16, 100] {
        for task_ns in [US, 10 * US, 100 * US, MS, 10 * MS] {
            let n_tasks = (u64::from(n_workers) * S / 2 / task_ns).min(400_000) as usize;
            let case = map(n_workers, vec![task_ns; n_tasks]);
            let what = format!("{n_tasks} tasks of {task_ns} ns on {n_workers}");
            let outcome = check(&what, &case, list_schedule_ns(&case));
            // A few milliseconds of work are sent ahead, and no more.
            let behind_ns = outcome.behind_ns_max;
            assert!(behind_ns <= 5 * MS + task_ns, "{what}: {behind_ns} ns");
        }
    }
}

/// What batches themselves cost, messages and decisions being all the overhead there is: half of the
/// time is work from a few hundred microseconds of work a worker on, however small the tasks. Tasks
/// shorter than it takes to move one are an exception on many workers: the first worker to report gets
/// more than its share, and it is not worth taking back.
#[test]
fn small_calls_are_half_work_from_a_third_of_a_millisecond_on() {
    for n_workers in [2, 4] {
        for (task_ns, n_each) in [(US, 350), (US, 3_000), (10 * US, 100), (100 * US, 10)] {
            let case = map(n_workers, vec![task_ns; (n_workers * n_each) as usize]);
            let outcome = run(&case).unwrap_or_else(|violation| panic!("{violation}"));
            let share = bound_ns(&case) as f64 / outcome.makespan_ns as f64;
            println!("{n_each} tasks of {task_ns} ns for each of {n_workers}: {share:.3}");
            assert!(
                share >= 0.5,
                "{share:.3} of {n_each} tasks of {task_ns} ns on {n_workers}"
            );
        }
    }
}

/// A tree of pairs keeps about its depth, and a batch or two for each worker: never its width.
#[test]
fn a_tree_keeps_few_results() {
    let n_leaves = 1 << 14;
    let mut builder = GraphBuilder::default();
    let mut level: Vec<_> = (0..n_leaves).map(|_| builder.task(&[])).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| builder.task(pair)).collect();
    }
    let graph = builder.build();
    for (n_workers, task_ns) in [(1, MS), (2, MS), (4, MS), (2, 100 * US), (4, 10 * US)] {
        let mut job = JobPlan::new(graph.clone(), vec![task_ns; graph.n_tasks()]);
        job.spec.wanted = Wanted::Tasks(level.clone());
        let machine = Machine::calm(n_workers, DELAY_NS, FLUSH_NS);
        let jobs = vec![job];
        let case = Case {
            seed: 1,
            machine,
            jobs,
        };
        let outcome = run(&case).unwrap_or_else(|violation| panic!("{violation}"));
        println!("{n_workers} workers, {task_ns} ns a task: {outcome:?}");
        // What is sent ahead is at most 5 ms of work for each worker.
        let n_ahead = u64::from(n_workers) * (5 * MS / task_ns + 1);
        let depth = 14;
        assert!(outcome.n_kept_max <= depth + 2 * n_ahead, "{outcome:?}");
        let bound_ns = 2 * n_leaves * task_ns / u64::from(n_workers);
        assert!(
            outcome.makespan_ns <= bound_ns / 100 * 105 + 3 * MS,
            "{outcome:?}"
        );
    }
}
