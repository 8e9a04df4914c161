//! The graphs that the benchmarks of the scheduler have in common, and the clock that both go by.

use manyhands_graph::{Graph, GraphBuilder, TaskIndex};
use manyhands_scheduler::Wanted;

/// Builds a graph of so many tasks, and says what is wanted of it.
pub type Draw = fn(u32) -> (Graph, Wanted);

/// Tasks that have nothing to do with each other.
pub fn independent(n_tasks: u32) -> (Graph, Wanted) {
    (Graph::independent(n_tasks), Wanted::All)
}

/// Leaves and a tree of pairs above them; only the root is wanted.
pub fn tree(n_tasks: u32) -> (Graph, Wanted) {
    let n_tasks = n_tasks as usize;
    let mut builder = GraphBuilder::with_capacity(n_tasks, n_tasks);
    let mut level: Vec<_> = (0..n_tasks.div_ceil(2))
        .map(|_| builder.task(&[]))
        .collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| builder.task(pair)).collect();
    }
    (builder.build(), Wanted::Tasks(level))
}

/// Chains of ten.
pub fn chains(n_tasks: u32) -> (Graph, Wanted) {
    let mut builder = GraphBuilder::with_capacity(n_tasks as usize, n_tasks as usize);
    let mut ends = Vec::new();
    for _ in 0..n_tasks / 10 {
        let mut last: Option<TaskIndex> = None;
        for _ in 0..10 {
            last = Some(builder.task(last.as_slice()));
        }
        ends.extend(last);
    }
    (builder.build(), Wanted::Tasks(ends))
}

/// How long this thread has run; zero where that is not known.
pub fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|n| n.parse().ok());
    first.unwrap_or(0.0)
}
