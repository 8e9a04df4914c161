//! How many intermediate results are alive at once, on graphs of the shapes that programs have, beside
//! what Dask's static order keeps (`benches/peers/dask_order.py` writes the figures down).

use manyhands_executor::simulated::{Case, JobPlan, Machine, run};
use manyhands_graph::GraphBuilder;
use manyhands_scheduler::{Graph, TaskIndex, Wanted};

/// Shapes and figures; see the second line of the file.
const SHAPES: &str = include_str!("data/order_shapes.txt");

struct Shape {
    name: &'static str,
    /// With 1, 2 and 4 workers.
    peaks: [u64; 3],
    graph: Graph,
    wanted: Vec<TaskIndex>,
}

fn numbers(text: &str) -> impl Iterator<Item = u32> {
    text.split_whitespace()
        .map(|word| word.parse().expect("a number"))
}

fn shapes() -> impl Iterator<Item = Shape> {
    let lines = SHAPES.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let parts: Vec<_> = line.split('|').collect();
        let mut builder = GraphBuilder::default();
        for row in parts[3].split(';') {
            builder.task(&numbers(row).map(TaskIndex).collect::<Vec<_>>());
        }
        let mut peaks = [0; 3];
        (peaks.iter_mut().zip(numbers(parts[1]))).for_each(|(peak, n)| *peak = u64::from(n));
        Shape {
            name: parts[0],
            peaks,
            graph: builder.build(),
            wanted: numbers(parts[2]).map(TaskIndex).collect(),
        }
    })
}

/// Where Dask's order is better, and by how much with 1, 2 and 4 workers.
///
/// Four reductions of the same twenty blocks: an order that goes through four blocks at a time for all
/// of the reductions keeps less than one that goes through a reduction at a time.
const WORSE_BY: &[(&str, [u64; 3])] = &[("common inputs", [2, 1, 0]), ("two moments", [0, 0, 1])];

/// How many results are kept at most that nobody asked for.
fn peak(shape: &Shape, n_workers: u32) -> u64 {
    // Long tasks: nothing is sent ahead, so that the order alone decides.
    let task_ns = 100_000_000;
    let n_tasks = shape.graph.n_tasks();
    let mut job = JobPlan::new(shape.graph.clone(), vec![task_ns; n_tasks]);
    job.spec.wanted = Wanted::Tasks(shape.wanted.clone());
    let case = Case {
        seed: 1,
        machine: Machine::calm(n_workers, 0, 0),
        jobs: vec![job],
    };
    let outcome = run(&case).unwrap_or_else(|violation| panic!("{violation}"));
    outcome.n_kept_max
}

#[test]
fn no_more_results_are_alive_than_with_dasks_order() {
    let mut wrong = Vec::new();
    let (mut n_lower, mut n_equal, mut n_higher) = (0, 0, 0);
    for shape in shapes() {
        let ours = [1, 2, 4].map(|n_workers| peak(&shape, n_workers));
        println!("{}: {ours:?}, Dask's {:?}", shape.name, shape.peaks);
        let exception = WORSE_BY.iter().find(|(name, _)| *name == shape.name);
        let worse_by = exception.map_or([0; 3], |(_, by)| *by);
        for ((ours, dask), by) in ours.into_iter().zip(shape.peaks).zip(worse_by) {
            n_lower += u32::from(ours < dask);
            n_equal += u32::from(ours == dask);
            n_higher += u32::from(ours > dask);
            if ours > dask + by {
                wrong.push(shape.name);
            }
        }
    }
    println!("{n_lower} lower, {n_equal} equal, {n_higher} higher");
    assert!(wrong.is_empty(), "more alive than with Dask: {wrong:?}");
    assert!(n_lower > n_equal / 2, "the figures are Dask's own");
}
