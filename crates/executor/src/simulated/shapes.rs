//! Graphs of the shapes that programs have, and durations of the kinds that tasks have.
//!
//! The names `crossv`, `fork_join`, `triplets`, `splitters`, `conflux` are those of the task graphs
//! that schedulers are usually compared on (J. Beránek, S. Böhm, V. Cima, "Analysis of workflow
//! schedulers in simulated distributed environments", J. Supercomputing 78, 2022).

use super::random::Random;
use manyhands_graph::{Graph, GraphBuilder, TaskIndex};

/// A way to draw a graph of about so many tasks.
type Draw = fn(&mut Random, usize) -> Graph;

const SHAPES: &[(&str, Draw)] = &[
    ("independent", independent),
    ("chain", chain),
    ("chains", chains),
    ("tree", tree),
    ("merge", merge),
    ("layers", layers),
    ("random", random_dag),
    ("crossv", crossv),
    ("nested_crossv", nested_crossv),
    ("fork_join", fork_join),
    ("triplets", triplets),
    ("splitters", splitters),
    ("conflux", conflux),
];

/// A graph of a random shape with about so many tasks, and the shape's name.
pub fn random_graph(random: &mut Random, n_tasks: usize) -> (&'static str, Graph) {
    let (name, draw) = SHAPES[random.index(SHAPES.len())];
    (name, draw(random, n_tasks.max(1)))
}

fn independent(_: &mut Random, n_tasks: usize) -> Graph {
    Graph::independent(n_tasks as u32)
}

fn chain(_: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    add_chain(&mut builder, None, n_tasks);
    builder.build()
}

fn add_chain(
    builder: &mut GraphBuilder,
    from: Option<TaskIndex>,
    n_tasks: usize,
) -> Option<TaskIndex> {
    let mut last = from;
    for _ in 0..n_tasks {
        last = Some(builder.task(last.as_slice()));
    }
    last
}

fn chains(random: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let n_chains = random.between(1, (n_tasks as u64 / 2).max(1)) as usize;
    for _ in 0..n_chains {
        add_chain(&mut builder, None, n_tasks / n_chains);
    }
    builder.build()
}

/// ```text
/// 0 1 2 3 4 5 6 7
/// |/  |/  |/  |/
/// 8   9  10  11
/// |  /    |  /
/// 12      13
/// |      /
/// 14
/// ```
fn tree(random: &mut Random, n_tasks: usize) -> Graph {
    let arity = random.between(2, 4) as usize;
    let mut builder = GraphBuilder::default();
    let n_leaves = n_tasks.div_ceil(2);
    let mut level: Vec<_> = (0..n_leaves).map(|_| builder.task(&[])).collect();
    while level.len() > 1 {
        level = level.chunks(arity).map(|row| builder.task(row)).collect();
    }
    builder.build()
}

fn merge(_: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let leaves: Vec<_> = (1..n_tasks).map(|_| builder.task(&[])).collect();
    builder.task(&leaves);
    builder.build()
}

fn some_of(random: &mut Random, from: &[TaskIndex], n_max: u64) -> Vec<TaskIndex> {
    let n = random.between(0, n_max);
    if from.is_empty() {
        return Vec::new();
    }
    (0..n).map(|_| from[random.index(from.len())]).collect()
}

fn layers(random: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let mut above: Vec<TaskIndex> = Vec::new();
    while builder.n_tasks() < n_tasks {
        let width = random.between(1, 8);
        let layer = (0..width).map(|_| {
            let dependencies = some_of(random, &above, 4);
            builder.task(&dependencies)
        });
        above = layer.collect();
    }
    builder.build()
}

fn random_dag(random: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let mut tasks = Vec::new();
    for _ in 0..n_tasks {
        let dependencies = some_of(random, &tasks, 3);
        tasks.push(builder.task(&dependencies));
    }
    builder.build()
}

/// Each fold trains on all chunks but one and is scored on that one; one task gathers the scores.
fn add_crossv(builder: &mut GraphBuilder, data: TaskIndex, n_folds: usize) -> TaskIndex {
    let chunks: Vec<_> = (0..n_folds).map(|_| builder.task(&[data])).collect();
    let mut scores = Vec::new();
    for fold in 0..n_folds {
        let others: Vec<_> = (0..n_folds)
            .filter(|&i| i != fold)
            .map(|i| chunks[i])
            .collect();
        let merged = builder.task(&others);
        let model = builder.task(&[merged]);
        scores.push(builder.task(&[model, chunks[fold]]));
    }
    builder.task(&scores)
}

fn crossv(_: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let data = builder.task(&[]);
    add_crossv(&mut builder, data, (n_tasks / 4).clamp(2, 24));
    builder.build()
}

fn nested_crossv(_: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let data = builder.task(&[]);
    let n_outer = (n_tasks / 20).clamp(1, 10);
    let outer: Vec<_> = (0..n_outer)
        .map(|_| {
            let part = builder.task(&[data]);
            add_crossv(&mut builder, part, 4)
        })
        .collect();
    builder.task(&outer);
    builder.build()
}

fn fork_join(random: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let mut last = builder.task(&[]);
    let width = random.between(2, 8) as usize;
    while builder.n_tasks() + width < n_tasks {
        let forks: Vec<_> = (0..width).map(|_| builder.task(&[last])).collect();
        last = builder.task(&forks);
    }
    builder.build()
}

fn triplets(_: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    for _ in 0..n_tasks.div_ceil(3) {
        add_chain(&mut builder, None, 3);
    }
    builder.build()
}

fn splitters(_: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let mut level = vec![builder.task(&[])];
    while builder.n_tasks() + 2 * level.len() <= n_tasks {
        level = level
            .iter()
            .flat_map(|&above| [builder.task(&[above]), builder.task(&[above])])
            .collect();
    }
    builder.build()
}

/// Pairs of neighbours merge, with an odd one left over carried down.
fn conflux(_: &mut Random, n_tasks: usize) -> Graph {
    let mut builder = GraphBuilder::default();
    let n_leaves = n_tasks.div_ceil(2);
    let mut level: Vec<_> = (0..n_leaves).map(|_| builder.task(&[])).collect();
    while level.len() > 1 {
        let merged: Vec<_> = level
            .windows(2)
            .step_by(2)
            .map(|w| builder.task(w))
            .collect();
        let left_over = (level.len() % 2 == 1).then(|| level[level.len() - 1]);
        level = merged.into_iter().chain(left_over).collect();
    }
    builder.build()
}

/// How long the tasks of a job take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durations {
    /// Nothing.
    Zero,
    /// All the same.
    Constant(u64),
    /// Exponentially distributed around this mean.
    Exponential(u64),
    /// From this to a thousand times as much, evenly on a logarithmic scale.
    Thousandfold(u64),
    /// All the same but for one in so many, which takes ten thousand times as long.
    FewSlow(u64, u64),
}

impl Durations {
    /// A random kind of durations.
    pub fn random(random: &mut Random) -> Durations {
        let typical_ns = random.log_uniform(200, 50_000.0);
        match random.below(8) {
            0 => Durations::Zero,
            1 | 2 => Durations::Constant(typical_ns),
            3 | 4 => Durations::Exponential(typical_ns),
            5 | 6 => Durations::Thousandfold(typical_ns / 30 + 1),
            _ => Durations::FewSlow(typical_ns / 100 + 1, random.between(4, 40)),
        }
    }

    /// The duration of one task.
    pub fn draw(self, random: &mut Random) -> u64 {
        match self {
            Durations::Zero => 0,
            Durations::Constant(duration_ns) => duration_ns,
            Durations::Exponential(mean_ns) => random.exponential(mean_ns),
            Durations::Thousandfold(low_ns) => random.log_uniform(low_ns, 1000.0),
            Durations::FewSlow(duration_ns, one_in) => {
                let n_times = if random.one_in(one_in) { 10_000 } else { 1 };
                duration_ns * n_times
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_about_the_tasks_asked_for() {
        for &(name, draw) in SHAPES {
            for n_tasks in [1, 2, 3, 10, 40, 100] {
                let graph = draw(&mut Random::new(5), n_tasks);
                assert!(graph.n_tasks() > 0, "{name} of {n_tasks}");
                let most = 3 * n_tasks + 30;
                assert!(graph.n_tasks() <= most, "{name}: {}", graph.n_tasks());
            }
        }
    }
}
