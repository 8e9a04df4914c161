//! The tasks of a graph: their states, their readers, and which are ready.

use crate::run::{Limits, Taken};
use crate::{Command, Commands, JobId, KindId, Kinds, TaskId, TaskRun, Wanted};
use manyhands_graph::{Graph, TaskIndex, depth_first_ranks};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Where a task is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Waiting,
    Ready,
    Sent,
    /// It failed, and is to be tried again later.
    Resting,
    Finished,
    /// It failed for good, or one that it depends on did.
    Lost,
}

impl State {
    /// Whether it is at its end.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, State::Finished | State::Lost)
    }
}

/// What the end of a task led to.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Progress {
    /// How many tasks have become ready.
    pub(crate) n_made_ready: usize,
    /// How many are lost.
    pub(crate) n_lost: usize,
}

/// The critical record: a million of these are alive at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) n_unfinished_dependencies: u32,
    pub(crate) n_readers_left: u32,
    pub(crate) rank: u32,
    pub(crate) state: State,
    pub(crate) is_wanted: bool,
}

const _: () = assert!(size_of::<Task>() == 16);

/// A graph on its way.
#[derive(Debug)]
pub(crate) struct Graphed {
    pub(crate) graph: Graph,
    pub(crate) kinds: Kinds,
    pub(crate) tasks: Vec<Task>,
    /// Tasks without dependencies, in rank order, and how many of them have been taken.
    roots: Vec<TaskIndex>,
    n_roots_taken: usize,
    /// How many of the others may be taken: none, as a rule, while results pile up.
    n_roots_allowed: usize,
    /// Ready tasks that are not roots, or came back: rank and number, packed.
    ready: BinaryHeap<Reverse<u64>>,
    /// The same, for those that come first as long as results pile up.
    urgent: BinaryHeap<Reverse<u64>>,
    is_pressed: bool,
    made_ready: Vec<TaskIndex>,
    /// Of each lost task, which failed: itself, or one that it depends on.
    culprits: BTreeMap<u32, TaskIndex>,
    /// Tasks that are lost now, as they waited for nothing but others that are.
    doomed: Vec<TaskIndex>,
}

fn pack(rank: u32, index: TaskIndex) -> Reverse<u64> {
    Reverse(u64::from(rank) << 32 | u64::from(index.0))
}

impl Graphed {
    pub(crate) fn new(graph: Graph, kinds: Kinds, wanted: &Wanted) -> Graphed {
        let outputs = match wanted {
            Wanted::All => &[][..],
            Wanted::Tasks(tasks) => tasks,
        };
        let ranks = depth_first_ranks(&graph, outputs);
        let mut roots = Vec::new();
        let mut tasks = Vec::with_capacity(graph.n_tasks());
        for index in graph.tasks() {
            let n_dependencies = graph.dependencies(index).len() as u32;
            if n_dependencies == 0 {
                roots.push(index);
            }
            tasks.push(Task {
                n_unfinished_dependencies: n_dependencies,
                n_readers_left: graph.dependents(index).len() as u32,
                rank: ranks[index.as_usize()],
                state: if n_dependencies == 0 {
                    State::Ready
                } else {
                    State::Waiting
                },
                is_wanted: matches!(wanted, Wanted::All),
            });
        }
        for &index in outputs {
            tasks[index.as_usize()].is_wanted = true;
        }
        if !roots.is_sorted_by_key(|index| ranks[index.as_usize()]) {
            roots.sort_unstable_by_key(|index| ranks[index.as_usize()]);
        }
        Graphed {
            graph,
            kinds,
            tasks,
            roots,
            n_roots_taken: 0,
            n_roots_allowed: usize::MAX,
            ready: BinaryHeap::new(),
            urgent: BinaryHeap::new(),
            is_pressed: false,
            made_ready: Vec::new(),
            culprits: BTreeMap::new(),
            doomed: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn kind(&self, index: TaskIndex) -> KindId {
        match &self.kinds {
            Kinds::One(kind) => *kind,
            Kinds::Each(kinds) => kinds[index.as_usize()],
        }
    }

    #[inline]
    pub(crate) fn n_ready(&self) -> usize {
        let n_roots = self.n_roots_left().min(self.n_roots_allowed);
        n_roots + self.ready.len() + self.urgent.len()
    }

    /// How many tasks without dependencies were never sent.
    pub(crate) fn n_roots_left(&self) -> usize {
        self.roots.len() - self.n_roots_taken
    }

    /// How many of them are not to be sent for now.
    pub(crate) fn n_held_back(&self) -> usize {
        self.n_roots_left().saturating_sub(self.n_roots_allowed)
    }

    /// Holds tasks without dependencies back, and puts those first that let go of results; or ends that.
    pub(crate) fn press(&mut self, is_high: bool) {
        self.is_pressed = is_high;
        self.n_roots_allowed = if is_high { 0 } else { usize::MAX };
        let ready = std::mem::take(&mut self.ready);
        let urgent = std::mem::take(&mut self.urgent);
        for Reverse(packed) in ready.into_iter().chain(urgent) {
            self.enlist(TaskIndex(packed as u32));
        }
    }

    /// Lets one task go that was held back.
    pub(crate) fn allow_root(&mut self) {
        self.n_roots_allowed = 1;
    }

    /// Something else can run: holds back what was let go, if that has not been taken. Returns how many
    /// tasks it was.
    pub(crate) fn hold_again(&mut self) -> usize {
        if !self.is_pressed {
            return 0;
        }
        let n_allowed = self.n_roots_left().min(self.n_roots_allowed);
        self.n_roots_allowed = 0;
        n_allowed
    }

    /// Puts a task among the ready ones.
    #[inline]
    fn enlist(&mut self, index: TaskIndex) {
        let entry = pack(self.tasks[index.as_usize()].rank, index);
        if self.is_pressed && self.saves(index) {
            self.urgent.push(entry);
        } else {
            self.ready.push(entry);
        }
    }

    /// Whether a task, once finished, leaves fewer results to be kept than before.
    fn saves(&self, index: TaskIndex) -> bool {
        let task = &self.tasks[index.as_usize()];
        let is_last = |input: &&TaskIndex| {
            let input = &self.tasks[input.as_usize()];
            input.n_readers_left == 1 && !input.is_wanted
        };
        let n_freed = self
            .graph
            .dependencies(index)
            .iter()
            .filter(is_last)
            .count();
        let is_kept = !task.is_wanted && task.n_readers_left > 0;
        n_freed > usize::from(is_kept)
    }

    /// Tasks that were sent are ready again.
    pub(crate) fn put_back(&mut self, run: TaskRun) {
        for index in run.indices() {
            self.tasks[index.as_usize()].state = State::Ready;
            self.enlist(index);
        }
    }

    /// Marks a task sent that is not among the ready ones.
    pub(crate) fn mark_sent(&mut self, index: TaskIndex) {
        self.tasks[index.as_usize()].state = State::Sent;
    }

    /// Marks a task that failed and is to be tried again.
    pub(crate) fn rest(&mut self, index: TaskIndex) {
        self.tasks[index.as_usize()].state = State::Resting;
    }

    /// Marks a task ready without putting it among the ready ones.
    pub(crate) fn set_aside(&mut self, index: TaskIndex) {
        self.tasks[index.as_usize()].state = State::Ready;
    }

    /// Takes the ready task of the lowest rank.
    #[inline]
    pub(crate) fn take<C: Fn(KindId) -> u64>(&mut self, limits: &Limits<C>) -> Option<Taken> {
        if let Some(Reverse(packed)) = self.urgent.pop() {
            return Some(self.taken(TaskIndex(packed as u32), limits));
        }
        let root = self.roots.get(self.n_roots_taken);
        let root = root.filter(|_| self.n_roots_allowed > 0);
        let root = root.map(|&index| (self.tasks[index.as_usize()].rank, index));
        let index = match (root, self.ready.peek()) {
            (None, None) => return None,
            (Some((rank, index)), top) if top.is_none_or(|top| *top < pack(rank, index)) => {
                self.n_roots_taken += 1;
                self.n_roots_allowed -= usize::from(self.is_pressed);
                index
            }
            _ => TaskIndex(self.ready.pop()?.0 as u32),
        };
        Some(self.taken(index, limits))
    }

    #[inline]
    fn taken<C: Fn(KindId) -> u64>(&mut self, index: TaskIndex, limits: &Limits<C>) -> Taken {
        self.mark_sent(index);
        Taken {
            first: index,
            n_tasks: 1,
            each_ns: (limits.cost_ns)(self.kind(index)),
        }
    }

    /// Marks a task finished; tells which results are to be delivered and which nobody reads any
    /// more.
    #[inline]
    pub(crate) fn finish(
        &mut self,
        id: JobId,
        index: TaskIndex,
        commands: &mut Commands,
    ) -> Progress {
        let task = &mut self.tasks[index.as_usize()];
        task.state = State::Finished;
        if task.is_wanted {
            commands.deliver(TaskId { job: id, index }.into());
        } else if task.n_readers_left == 0 {
            commands.release(TaskId { job: id, index });
        }
        let mut progress = Progress::default();
        self.end(id, index, &mut progress, commands);
        if !self.doomed.is_empty() {
            self.lose_doomed(id, &mut progress, commands);
        }
        while let Some(dependent) = self.made_ready.pop() {
            self.enlist(dependent);
        }
        progress
    }

    /// Marks a task failed for good.
    pub(crate) fn lose(
        &mut self,
        id: JobId,
        index: TaskIndex,
        commands: &mut Commands,
    ) -> Progress {
        let mut progress = Progress::default();
        self.culprits.insert(index.0, index);
        self.doomed.push(index);
        self.lose_doomed(id, &mut progress, commands);
        while let Some(dependent) = self.made_ready.pop() {
            self.enlist(dependent);
        }
        progress
    }

    fn lose_doomed(&mut self, id: JobId, progress: &mut Progress, commands: &mut Commands) {
        while let Some(index) = self.doomed.pop() {
            let culprit = self.culprit_of(index);
            let task = &mut self.tasks[index.as_usize()];
            task.state = State::Lost;
            progress.n_lost += 1;
            if task.is_wanted {
                commands.push(Command::DeliverLoss(TaskId { job: id, index }, culprit));
            }
            self.culprits.insert(index.0, culprit);
            self.end(id, index, progress, commands);
        }
    }

    /// Which task a task is lost for: of those that it depends on, the first, whichever failed first in time.
    fn culprit_of(&self, index: TaskIndex) -> TaskIndex {
        let known = self.culprits.get(&index.0);
        let mut inputs = self.graph.dependencies(index).iter();
        let culprit = known.or_else(|| inputs.find_map(|input| self.culprits.get(&input.0)));
        *culprit.expect("a doomed task has failed itself or depends on one that has")
    }

    /// What follows for its neighbours from the end of a task.
    #[inline]
    fn end(
        &mut self,
        id: JobId,
        index: TaskIndex,
        progress: &mut Progress,
        commands: &mut Commands,
    ) {
        for &dependency in self.graph.dependencies(index) {
            let task = &mut self.tasks[dependency.as_usize()];
            task.n_readers_left -= 1;
            if task.n_readers_left == 0 && !task.is_wanted && task.state == State::Finished {
                commands.release(TaskId {
                    job: id,
                    index: dependency,
                });
            }
        }
        for &dependent in self.graph.dependents(index) {
            let task = &mut self.tasks[dependent.as_usize()];
            task.n_unfinished_dependencies -= 1;
            if task.n_unfinished_dependencies == 0 {
                let is_lost = |input: &TaskIndex| self.culprits.contains_key(&input.0);
                if !self.culprits.is_empty()
                    && self.graph.dependencies(dependent).iter().any(is_lost)
                {
                    self.doomed.push(dependent);
                    continue;
                }
                task.state = State::Ready;
                if self.is_pressed {
                    self.made_ready.push(dependent);
                } else {
                    self.ready.push(pack(task.rank, dependent));
                }
                progress.n_made_ready += 1;
            }
        }
    }
}
