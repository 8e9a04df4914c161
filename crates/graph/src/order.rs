//! The static order: depth first, so that few intermediate results are alive at once.
//!
//! Each output is reached by a depth-first walk that visits the dependency that needs most room
//! first (R. Sethi and J. D. Ullman, "The generation of optimal code for arithmetic expressions",
//! J. ACM 17(4), 1970: optimal for trees, a heuristic where results are shared). A task's rank is
//! its place in the post-order of that walk; but where results are shared, a task that lets go of as
//! many results as it makes is ranked as soon as its inputs are, whoever needs it later.
//!
//! Outputs are walked in the order asked for, except that an output that shares what it needs with
//! earlier ones comes before those that need something new.

use crate::{Graph, TaskIndex};

/// The rank of every task: the smaller, the earlier it should run.
///
/// Tasks that no output needs come last, in their own order. The ranks are a permutation of
/// `0..n_tasks` and a topological order. Linear in tasks and edges but for the sorting of each task's
/// dependencies.
pub fn depth_first_ranks(graph: &Graph, outputs: &[TaskIndex]) -> Vec<u32> {
    let n_tasks = graph.n_tasks();
    if graph.n_edges() == 0 {
        return ranks_of_independent(n_tasks, outputs);
    }
    let weights = weights(graph);
    let is_shared = graph.tasks().any(|task| graph.dependents(task).len() > 1);
    let ranks = walk(graph, outputs, &weights, is_shared);
    if !is_shared || outputs.len() < 2 {
        return ranks;
    }
    let last_input = last_inputs(graph, &ranks);
    let place = |output: &TaskIndex| last_input[output.as_usize()];
    if outputs.is_sorted_by_key(place) {
        return ranks;
    }
    let mut outputs = outputs.to_vec();
    outputs.sort_by_key(|output| (place(output), ranks[output.as_usize()]));
    walk(graph, &outputs, &weights, is_shared)
}

const UNSEEN: u32 = u32::MAX;

fn ranks_of_independent(n_tasks: usize, outputs: &[TaskIndex]) -> Vec<u32> {
    let mut ranks = vec![UNSEEN; n_tasks];
    let mut n_ranked = 0;
    for task in outputs.iter().map(|t| t.as_usize()).chain(0..n_tasks) {
        if ranks[task] == UNSEEN {
            ranks[task] = n_ranked;
            n_ranked += 1;
        }
    }
    ranks
}

/// Which of a task's dependencies goes first: the one that needs most room, of equals the one with
/// most work below. The room in the upper half, the work, a positive float, in the lower.
fn weights(graph: &Graph) -> Vec<u64> {
    let mut needs: Vec<u32> = Vec::with_capacity(graph.n_tasks());
    let mut works: Vec<f32> = Vec::with_capacity(graph.n_tasks());
    let mut below = Vec::new();
    for task in graph.tasks() {
        let dependencies = graph.dependencies(task);
        needs.push(need(dependencies, &needs, &mut below));
        // What several tasks share counts for each in part.
        let share = |d: &TaskIndex| works[d.as_usize()] / graph.dependents(*d).len() as f32;
        works.push(1.0 + dependencies.iter().map(share).sum::<f32>());
    }
    let pack = |(need, work): (u32, f32)| u64::from(need) << 32 | u64::from(work.to_bits());
    needs.into_iter().zip(works).map(pack).collect()
}

/// How many results must be alive at once to compute a task: the Sethi-Ullman number, with
/// dependencies taken in the best order.
fn need(dependencies: &[TaskIndex], needs: &[u32], below: &mut Vec<u32>) -> u32 {
    match dependencies {
        [] => 1,
        [one] => needs[one.as_usize()],
        [one, two] => {
            let (a, b) = (needs[one.as_usize()], needs[two.as_usize()]);
            a.max(b).max(a.min(b) + 1)
        }
        _ => {
            below.clear();
            below.extend(dependencies.iter().map(|d| needs[d.as_usize()]));
            below.sort_unstable_by(|a, b| b.cmp(a));
            let held = below.iter().enumerate().map(|(i, need)| need + i as u32);
            held.max().unwrap_or(1)
        }
    }
}

/// For each task, the rank of the last task without dependencies that it needs.
fn last_inputs(graph: &Graph, ranks: &[u32]) -> Vec<u32> {
    let mut last: Vec<u32> = Vec::with_capacity(graph.n_tasks());
    for task in graph.tasks() {
        let dependencies = graph.dependencies(task).iter();
        let below = dependencies.map(|d| last[d.as_usize()]).max();
        last.push(below.unwrap_or(ranks[task.as_usize()]));
    }
    last
}

fn walk(graph: &Graph, outputs: &[TaskIndex], weights: &[u64], is_shared: bool) -> Vec<u32> {
    let mut walk = Walk {
        graph,
        weights,
        ranks: vec![UNSEEN; graph.n_tasks()],
        n_ranked: 0,
        open: Vec::new(),
        pending: Vec::new(),
        // In a forest the walk itself comes to such tasks at once.
        savings: is_shared.then(|| Savings::new(graph, outputs)),
    };
    for &output in outputs {
        walk.from(output);
    }
    for task in graph.tasks() {
        walk.from(task);
    }
    walk.ranks
}

struct Walk<'a> {
    graph: &'a Graph,
    weights: &'a [u64],
    ranks: Vec<u32>,
    n_ranked: u32,
    /// Tasks being visited, each with the length `pending` had before its dependencies were added.
    open: Vec<(TaskIndex, usize)>,
    /// Dependencies still to visit, the next one last.
    pending: Vec<TaskIndex>,
    savings: Option<Savings>,
}

impl Walk<'_> {
    fn from(&mut self, task: TaskIndex) {
        if self.ranks[task.as_usize()] != UNSEEN {
            return;
        }
        self.enter(task);
        while let Some(&(task, floor)) = self.open.last() {
            if self.pending.len() > floor {
                if let Some(next) = self.pending.pop()
                    && self.ranks[next.as_usize()] == UNSEEN
                {
                    self.enter(next);
                }
            } else {
                self.open.pop();
                self.rank(task);
            }
        }
    }

    fn enter(&mut self, task: TaskIndex) {
        let floor = self.pending.len();
        self.open.push((task, floor));
        let dependencies = self.graph.dependencies(task);
        self.pending.extend(
            dependencies
                .iter()
                .rev()
                .filter(|d| self.ranks[d.as_usize()] == UNSEEN),
        );
        let added = &mut self.pending[floor..];
        let weights = self.weights;
        let is_even = added
            .windows(2)
            .all(|pair| weights[pair[0].as_usize()] <= weights[pair[1].as_usize()]);
        if !is_even {
            added.sort_by_key(|d| weights[d.as_usize()]);
        }
    }

    /// Gives a task its rank, and then those that cost no room once it is done.
    fn rank(&mut self, task: TaskIndex) {
        let Some(savings) = &mut self.savings else {
            self.ranks[task.as_usize()] = self.n_ranked;
            self.n_ranked += 1;
            return;
        };
        savings.next.push(task);
        while let Some(task) = savings.next.pop() {
            if self.ranks[task.as_usize()] == UNSEEN {
                self.ranks[task.as_usize()] = self.n_ranked;
                self.n_ranked += 1;
                savings.done(self.graph, task, &self.ranks);
            }
        }
    }
}

/// Which tasks let go of as many results as they make, given those ranked so far.
struct Savings {
    is_wanted: Vec<bool>,
    /// How many dependencies of each task have no rank.
    n_missing: Vec<u32>,
    /// How many readers of each task have no rank.
    n_unread: Vec<u32>,
    /// How many results each task is the last to read.
    n_freed: Vec<u32>,
    /// Tasks to be ranked next, the first of them last.
    next: Vec<TaskIndex>,
    found: Vec<TaskIndex>,
}

impl Savings {
    fn new(graph: &Graph, outputs: &[TaskIndex]) -> Savings {
        let count = |row: fn(&Graph, TaskIndex) -> &[TaskIndex]| {
            let lengths = graph.tasks().map(|task| row(graph, task).len() as u32);
            lengths.collect::<Vec<_>>()
        };
        let mut savings = Savings {
            is_wanted: vec![false; graph.n_tasks()],
            n_missing: count(Graph::dependencies),
            n_unread: count(Graph::dependents),
            n_freed: vec![0; graph.n_tasks()],
            next: Vec::new(),
            found: Vec::new(),
        };
        for output in outputs {
            savings.is_wanted[output.as_usize()] = true;
        }
        for task in graph.tasks() {
            if let [reader] = graph.dependents(task)
                && !savings.is_wanted[task.as_usize()]
            {
                savings.n_freed[reader.as_usize()] += 1;
            }
        }
        savings
    }

    /// Takes note of a rank, and puts what is worth doing at once before all else.
    fn done(&mut self, graph: &Graph, task: TaskIndex, ranks: &[u32]) {
        self.found.clear();
        for &reader in graph.dependents(task) {
            let n_missing = &mut self.n_missing[reader.as_usize()];
            *n_missing -= 1;
            if *n_missing == 0 {
                self.found.push(reader);
            }
        }
        for &input in graph.dependencies(task) {
            let n_unread = &mut self.n_unread[input.as_usize()];
            *n_unread -= 1;
            if *n_unread == 1 && !self.is_wanted[input.as_usize()] {
                let mut readers = graph.dependents(input).iter();
                let last = readers.find(|reader| ranks[reader.as_usize()] == UNSEEN);
                if let Some(&last) = last {
                    self.n_freed[last.as_usize()] += 1;
                    if self.n_missing[last.as_usize()] == 0 {
                        self.found.push(last);
                    }
                }
            }
        }
        let gain = |task: TaskIndex| {
            let is_kept = !self.is_wanted[task.as_usize()] && !graph.dependents(task).is_empty();
            i64::from(self.n_freed[task.as_usize()]) - i64::from(is_kept)
        };
        self.found.retain(|&task| gain(task) >= 0);
        if self.found.len() > 1 {
            self.found
                .sort_unstable_by_key(|&task| (gain(task), std::cmp::Reverse(task)));
        }
        self.next.append(&mut self.found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GraphBuilder;

    /// The largest number of results alive at once when the tasks run one by one in rank order.
    fn peak_live(graph: &Graph, outputs: &[TaskIndex]) -> usize {
        let ranks = depth_first_ranks(graph, outputs);
        let mut by_rank = vec![TaskIndex(0); graph.n_tasks()];
        for task in graph.tasks() {
            by_rank[ranks[task.as_usize()] as usize] = task;
        }
        let mut readers: Vec<usize> = graph.tasks().map(|t| graph.dependents(t).len()).collect();
        let (mut live, mut peak) = (0, 0);
        for task in by_rank {
            for dependency in graph.dependencies(task) {
                let place = ranks[dependency.as_usize()];
                assert!(place < ranks[task.as_usize()], "not a topological order");
            }
            live += 1;
            peak = peak.max(live);
            for dependency in graph.dependencies(task) {
                readers[dependency.as_usize()] -= 1;
                live -= usize::from(readers[dependency.as_usize()] == 0);
            }
        }
        peak
    }

    fn tree(depth: u32) -> (Graph, TaskIndex) {
        let mut builder = GraphBuilder::default();
        let mut level: Vec<_> = (0..1u32 << depth).map(|_| builder.task(&[])).collect();
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| builder.task(pair)).collect();
        }
        (builder.build(), level[0])
    }

    #[test]
    fn a_tree_keeps_its_depth_alive_not_its_width() {
        let (graph, root) = tree(10);
        assert_eq!(peak_live(&graph, &[root]), 12);
    }

    #[test]
    fn the_deep_side_goes_first() {
        //  chain of pairs on the right, one leaf on the left: taking the leaf first would keep it.
        let mut builder = GraphBuilder::default();
        let leaf = builder.task(&[]);
        let (a, b) = (builder.task(&[]), builder.task(&[]));
        let (c, d) = (builder.task(&[]), builder.task(&[]));
        let (ab, cd) = (builder.task(&[a, b]), builder.task(&[c, d]));
        let right = builder.task(&[ab, cd]);
        let root = builder.task(&[leaf, right]);
        let graph = builder.build();
        assert_eq!(peak_live(&graph, &[root]), 4);
        assert_eq!(depth_first_ranks(&graph, &[root])[leaf.as_usize()], 7);
    }

    #[test]
    fn a_shared_result_is_read_by_all_while_it_is_there() {
        //   0     1     2  ..
        //  | \   | \   | \
        //  a  A  b  B  c  C    a + b + c + ..  and  A + B + C + ..
        let mut builder = GraphBuilder::default();
        let blocks: Vec<_> = (0..40).map(|_| builder.task(&[])).collect();
        let sums = [(); 2].map(|()| {
            let parts = blocks.iter().map(|&block| builder.task(&[block]));
            let first = parts.collect::<Vec<_>>().into_iter();
            first
                .reduce(|total, part| builder.task(&[total, part]))
                .expect("a sum")
        });
        let root = builder.task(&sums);
        // Either total, a block, and what has just been made of both.
        assert_eq!(peak_live(&builder.build(), &[root]), 5);
    }

    #[test]
    fn outputs_that_need_nothing_new_come_before_those_that_do() {
        let mut builder = GraphBuilder::default();
        let (a, b) = (builder.task(&[]), builder.task(&[]));
        let outputs = [[a, b], [a, a], [b, a]].map(|inputs| {
            let step = builder.task(&inputs);
            builder.task(&[step])
        });
        let graph = builder.build();
        let ranks = depth_first_ranks(&graph, &outputs);
        let order = outputs.map(|output| ranks[output.as_usize()]);
        assert!(order[1] < order[0] && order[0] < order[2], "{order:?}");
    }

    #[test]
    fn a_chain_of_a_million_does_not_overflow_the_stack() {
        let mut builder = GraphBuilder::default();
        let mut last = builder.task(&[]);
        for _ in 1..1_000_000 {
            last = builder.task(&[last]);
        }
        let ranks = depth_first_ranks(&builder.build(), &[last]);
        assert!(ranks.iter().enumerate().all(|(i, &rank)| rank == i as u32));
    }

    #[test]
    fn outputs_come_in_the_order_asked_for() {
        let mut builder = GraphBuilder::default();
        let tasks: Vec<_> = (0..4).map(|_| builder.task(&[])).collect();
        let ranks = depth_first_ranks(&builder.build(), &[tasks[2], tasks[0]]);
        assert_eq!(ranks, [1, 2, 0, 3]);
    }
}
