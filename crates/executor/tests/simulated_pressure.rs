//! What holding tasks back does where results pile up faster than they are read.

use manyhands_executor::simulated::{Case, JobPlan, Machine, Outcome, run};
use manyhands_graph::GraphBuilder;
use manyhands_scheduler::{Graph, TaskIndex, Wanted};

const MS: u64 = 1_000_000;

fn outcome(
    graph: &Graph,
    durations_ns: &[u64],
    n_workers: u32,
    pressure_at: Option<u64>,
) -> Outcome {
    let mut job = JobPlan::new(graph.clone(), durations_ns.to_vec());
    let last = TaskIndex(graph.n_tasks() as u32 - 1);
    job.spec.wanted = Wanted::Tasks(vec![last]);
    job.sizes = vec![1000; graph.n_tasks()];
    let mut machine = Machine::calm(n_workers, 30_000, 2 * MS);
    machine.pressure_at = pressure_at;
    let case = Case {
        seed: 1,
        machine,
        jobs: vec![job],
    };
    run(&case).unwrap_or_else(|violation| panic!("{violation}"))
}

/// ```text
/// a   b   c   d        made in parallel,
/// |   |   |   |
/// 0 - 1 - 2 - 3 - ..   read one after the other
/// ```
fn sum_from_one_end(n_leaves: usize) -> (Graph, Vec<u64>) {
    let mut builder = GraphBuilder::default();
    let mut total = builder.task(&[]);
    let mut durations_ns = vec![5 * MS];
    for _ in 0..n_leaves {
        let leaf = builder.task(&[]);
        total = builder.task(&[total, leaf]);
        durations_ns.extend([5 * MS, 10 * MS]);
    }
    (builder.build(), durations_ns)
}

#[test]
fn results_do_not_pile_up_where_reading_them_is_slower() {
    let (graph, durations_ns) = sum_from_one_end(400);
    for n_workers in [2, 8, 32] {
        let free = outcome(&graph, &durations_ns, n_workers, None);
        let held = outcome(&graph, &durations_ns, n_workers, Some(40_000));
        println!("{n_workers} workers: {free:?}\n  held back: {held:?}");
        // Those that were under way when the limit was reached still come.
        let n_most = 40 + u64::from(n_workers);
        assert!(held.kept_size_max <= 1000 * n_most, "{held:?}");
        assert!(free.kept_size_max >= 150_000, "{free:?}");
        // The sum takes its time in any case.
        assert!(held.makespan_ns <= free.makespan_ns / 100 * 105, "{held:?}");
    }
}

#[test]
fn a_graph_that_needs_more_than_the_limit_runs_all_the_same() {
    let mut builder = GraphBuilder::default();
    let leaves: Vec<_> = (0..100).map(|_| builder.task(&[])).collect();
    builder.task(&leaves);
    let graph = builder.build();
    let durations_ns = vec![MS; graph.n_tasks()];
    let free = outcome(&graph, &durations_ns, 4, None);
    let held = outcome(&graph, &durations_ns, 4, Some(10_000));
    assert_eq!((free.kept_size_max, held.kept_size_max), (100_000, 100_000));
    assert_eq!((free.n_pressed, held.n_pressed), (0, 1));
    // One at a time from the limit on.
    assert!(held.makespan_ns >= 80 * MS, "{held:?}");
}
