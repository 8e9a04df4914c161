//! Task graphs: ids, dependencies in compressed rows, and the static order in which to run them.
//!
//! A graph knows nothing of what a task does. Tasks are numbered in the order in which they are
//! added, and a task may only name dependencies that exist already, so a graph cannot hold a cycle
//! and the numbers are a topological order. Everything else in this crate leans on that.

mod order;

pub use order::depth_first_ranks;

use std::fmt;

/// The number of a task within its graph, from zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIndex(pub u32);

impl TaskIndex {
    /// The number as an index into a table of tasks.
    #[inline]
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for TaskIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// The largest number of tasks, and of edges, in one graph.
///
/// One below `u32::MAX`, so that tables may use that value for "none".
pub const N_TASKS_MAX: usize = u32::MAX as usize - 1;

/// An immutable directed acyclic graph of tasks.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    n_tasks: u32,
    dependencies: Rows,
    dependents: Rows,
}

/// Rows of task numbers, packed end to end; empty tables stand for "every row is empty".
#[derive(Clone, Debug, Default)]
struct Rows {
    offsets: Vec<u32>,
    entries: Vec<TaskIndex>,
}

impl Rows {
    #[inline]
    fn row(&self, task: TaskIndex) -> &[TaskIndex] {
        if self.entries.is_empty() {
            return &[];
        }
        let start = self.offsets[task.as_usize()] as usize;
        let end = self.offsets[task.as_usize() + 1] as usize;
        &self.entries[start..end]
    }
}

impl Graph {
    /// A graph of `n_tasks` tasks that do not depend on each other; takes no memory per task.
    pub fn independent(n_tasks: u32) -> Graph {
        Graph {
            n_tasks,
            ..Graph::default()
        }
    }

    /// How many tasks the graph has.
    #[inline]
    pub fn n_tasks(&self) -> usize {
        self.n_tasks as usize
    }

    /// How many edges the graph has.
    pub fn n_edges(&self) -> usize {
        self.dependencies.entries.len()
    }

    /// The tasks whose results `task` reads, each once, in the order in which they were first named.
    #[inline]
    pub fn dependencies(&self, task: TaskIndex) -> &[TaskIndex] {
        self.dependencies.row(task)
    }

    /// The tasks that read the result of `task`, in ascending order.
    #[inline]
    pub fn dependents(&self, task: TaskIndex) -> &[TaskIndex] {
        self.dependents.row(task)
    }

    /// All task numbers, dependencies before dependents.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = TaskIndex> + use<> {
        (0..self.n_tasks).map(TaskIndex)
    }
}

/// Builds a [`Graph`] task by task.
///
/// ```
/// use manyhands_graph::GraphBuilder;
///
/// let mut builder = GraphBuilder::default();
/// let a = builder.task(&[]);
/// let b = builder.task(&[]);
/// let sum = builder.task(&[a, b]);
/// let graph = builder.build();
/// assert_eq!(graph.dependencies(sum), [a, b]);
/// assert_eq!(graph.dependents(a), [sum]);
/// ```
#[derive(Debug)]
pub struct GraphBuilder {
    offsets: Vec<u32>,
    entries: Vec<TaskIndex>,
}

impl Default for GraphBuilder {
    fn default() -> Self {
        GraphBuilder::with_capacity(0, 0)
    }
}

impl GraphBuilder {
    /// A builder with room for so many tasks and edges.
    pub fn with_capacity(n_tasks: usize, n_edges: usize) -> GraphBuilder {
        let mut offsets = Vec::with_capacity(n_tasks + 1);
        offsets.push(0);
        GraphBuilder {
            offsets,
            entries: Vec::with_capacity(n_edges),
        }
    }

    /// How many tasks have been added.
    pub fn n_tasks(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The dependencies of a task that has been added, each once.
    pub fn dependencies(&self, task: TaskIndex) -> &[TaskIndex] {
        let row = task.as_usize();
        &self.entries[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    /// Adds a task that reads the results of `dependencies`; naming one twice is naming it once.
    ///
    /// # Panics
    ///
    /// If a dependency has not been added before, or at [`N_TASKS_MAX`] tasks or edges.
    pub fn task(&mut self, dependencies: &[TaskIndex]) -> TaskIndex {
        let n_tasks = self.n_tasks();
        assert!(
            n_tasks < N_TASKS_MAX,
            "a graph holds at most {N_TASKS_MAX} tasks"
        );
        assert!(
            self.entries.len() + dependencies.len() <= N_TASKS_MAX,
            "a graph holds at most {N_TASKS_MAX} edges"
        );
        let start = self.entries.len();
        for &dependency in dependencies {
            assert!(
                dependency.as_usize() < n_tasks,
                "task {n_tasks} depends on {dependency:?}, which does not exist yet"
            );
            self.entries.push(dependency);
        }
        self.remove_repeats_from(start);
        self.offsets.push(self.entries.len() as u32);
        TaskIndex(n_tasks as u32)
    }

    /// Removes repeated entries of the last row, keeping the first of each.
    fn remove_repeats_from(&mut self, start: usize) {
        let row = &self.entries[start..];
        let n_compared_pairwise_max = 16;
        if row.len() <= n_compared_pairwise_max {
            let mut kept = start;
            for i in start..self.entries.len() {
                let entry = self.entries[i];
                if !self.entries[start..kept].contains(&entry) {
                    self.entries[kept] = entry;
                    kept += 1;
                }
            }
            self.entries.truncate(kept);
            return;
        }
        let is_ascending = row.windows(2).all(|pair| pair[0] < pair[1]);
        if !is_ascending {
            let mut seen = std::collections::HashSet::with_capacity(row.len());
            let mut kept = start;
            for i in start..self.entries.len() {
                let entry = self.entries[i];
                if seen.insert(entry) {
                    self.entries[kept] = entry;
                    kept += 1;
                }
            }
            self.entries.truncate(kept);
        }
    }

    /// The finished graph.
    pub fn build(self) -> Graph {
        let n_tasks = self.n_tasks() as u32;
        if self.entries.is_empty() {
            return Graph::independent(n_tasks);
        }
        let dependencies = Rows {
            offsets: self.offsets,
            entries: self.entries,
        };
        let dependents = transpose(n_tasks, &dependencies);
        Graph {
            n_tasks,
            dependencies,
            dependents,
        }
    }
}

/// The same edges seen from the other end; rows come out ascending.
fn transpose(n_tasks: u32, rows: &Rows) -> Rows {
    let n_tasks = n_tasks as usize;
    let mut offsets = vec![0u32; n_tasks + 1];
    for entry in &rows.entries {
        offsets[entry.as_usize() + 1] += 1;
    }
    for i in 0..n_tasks {
        offsets[i + 1] += offsets[i];
    }
    let mut next = offsets.clone();
    let mut entries = vec![TaskIndex(0); rows.entries.len()];
    for task in 0..n_tasks as u32 {
        for entry in rows.row(TaskIndex(task)) {
            let slot = &mut next[entry.as_usize()];
            entries[*slot as usize] = TaskIndex(task);
            *slot += 1;
        }
    }
    Rows { offsets, entries }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_same_edges_from_both_ends() {
        //   0   1
        //    \ / \
        //     2   3
        //      \ /
        //       4
        let mut builder = GraphBuilder::default();
        let t: Vec<_> = [&[][..], &[], &[0, 1], &[1], &[2, 3]]
            .iter()
            .map(|row: &&[u32]| {
                builder.task(&row.iter().map(|&i| TaskIndex(i)).collect::<Vec<_>>())
            })
            .collect();
        let graph = builder.build();
        assert_eq!(graph.dependents(t[1]), [t[2], t[3]]);
        assert_eq!(graph.dependencies(t[4]), [t[2], t[3]]);
        assert_eq!(graph.dependents(t[4]), []);
        assert_eq!(graph.n_edges(), 5);
    }

    #[test]
    fn repeated_dependencies_count_once_in_short_and_long_rows() {
        for n_leaves in [3u32, 40] {
            let mut builder = GraphBuilder::default();
            let leaves: Vec<_> = (0..n_leaves).map(|_| builder.task(&[])).collect();
            let named: Vec<_> = leaves.iter().rev().chain(leaves.iter()).copied().collect();
            let sum = builder.task(&named);
            let graph = builder.build();
            let first_named: Vec<_> = leaves.iter().rev().copied().collect();
            assert_eq!(graph.dependencies(sum), first_named);
            assert_eq!(graph.dependents(leaves[0]), [sum]);
        }
    }

    #[test]
    #[should_panic(expected = "does not exist yet")]
    fn a_dependency_must_exist() {
        GraphBuilder::default().task(&[TaskIndex(0)]);
    }
}
