//! The tasks of a graph: their states, their readers, and which are ready.

use crate::ready::Ready;
use crate::run::{Limits, Taken};
use crate::{Class, Command, Commands, JobId, KindId, Kinds, TaskId, TaskRun, Wanted};
use manyhands_graph::{Graph, TaskIndex, depth_first_ranks};
use std::collections::BTreeMap;

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
    /// How many tasks have become ready that need nothing.
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
    /// Ready tasks that need nothing.
    free: Ready,
    /// Where there are tasks that need something.
    needing: Option<Box<Needing>>,
    is_pressed: bool,
    made_ready: Vec<TaskIndex>,
    /// Of each lost task, which failed: itself, or one that it depends on.
    culprits: BTreeMap<u32, TaskIndex>,
    /// Tasks that are lost now, as they waited for nothing but others that are.
    doomed: Vec<TaskIndex>,
}

/// Tasks that need something.
#[derive(Debug)]
struct Needing {
    /// Each task's class.
    of_tasks: Vec<Class>,
    /// Ready tasks of each class but the first.
    ready: Vec<Ready>,
}

impl Needing {
    /// Which tasks are ready that need the same as this one; None if it needs nothing.
    fn like(&mut self, index: TaskIndex) -> Option<&mut Ready> {
        let class = self.of_tasks[index.as_usize()];
        let at = class.as_usize().checked_sub(1)?;
        self.ready.get_mut(at)
    }
}

impl Graphed {
    /// With each task's class, or none if no task needs anything.
    pub(crate) fn new(
        graph: Graph,
        kinds: Kinds,
        wanted: &Wanted,
        of_tasks: Vec<Class>,
    ) -> Graphed {
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
        let mut needing = None;
        if let Some(last) = of_tasks.iter().max() {
            let mut roots_of = vec![Vec::new(); last.as_usize() + 1];
            for index in roots {
                roots_of[of_tasks[index.as_usize()].as_usize()].push(index);
            }
            roots = std::mem::take(&mut roots_of[0]);
            let ready = roots_of.into_iter().skip(1).map(Ready::new).collect();
            needing = Some(Box::new(Needing { of_tasks, ready }));
        }
        Graphed {
            graph,
            kinds,
            tasks,
            free: Ready::new(roots),
            needing,
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

    /// What class a task is of.
    pub(crate) fn class(&self, index: TaskIndex) -> Class {
        let needing = self.needing.as_ref();
        needing.map_or(Class::FREE, |needing| needing.of_tasks[index.as_usize()])
    }

    /// How many tasks of a class are ready.
    #[inline]
    pub(crate) fn n_ready(&self, class: Class) -> usize {
        self.ready(class).map_or(0, Ready::n_ready)
    }

    fn ready(&self, class: Class) -> Option<&Ready> {
        match class.as_usize().checked_sub(1) {
            None => Some(&self.free),
            Some(at) => self.needing.as_ref()?.ready.get(at),
        }
    }

    fn ready_mut(&mut self, class: Class) -> Option<&mut Ready> {
        match class.as_usize().checked_sub(1) {
            None => Some(&mut self.free),
            Some(at) => self.needing.as_mut()?.ready.get_mut(at),
        }
    }

    fn all_ready(&self) -> impl Iterator<Item = &Ready> {
        let needing = self.needing.iter().flat_map(|needing| &needing.ready);
        std::iter::once(&self.free).chain(needing)
    }

    /// How many tasks are ready of all classes.
    pub(crate) fn n_ready_of_any(&self) -> usize {
        self.all_ready().map(Ready::n_ready).sum()
    }

    /// How many tasks without dependencies were never sent.
    pub(crate) fn n_roots_left(&self) -> usize {
        self.all_ready().map(Ready::n_roots_left).sum()
    }

    /// How many of them are not to be sent for now.
    pub(crate) fn n_held_back(&self) -> usize {
        self.all_ready().map(Ready::n_held_back).sum()
    }

    /// Holds tasks without dependencies back, and puts those first that let go of results; or ends that.
    pub(crate) fn press(&mut self, is_high: bool) {
        self.is_pressed = is_high;
        let needing = self.needing.iter_mut();
        let needing = needing.flat_map(|needing| &mut needing.ready);
        let mut queued = Vec::new();
        for ready in std::iter::once(&mut self.free).chain(needing) {
            ready.allow_roots(if is_high { 0 } else { usize::MAX });
            queued.extend(ready.take_queued());
        }
        for index in queued {
            self.enlist(index);
        }
    }

    /// Lets one task go that was held back, that of the lowest rank; whether it needs nothing.
    pub(crate) fn allow_root(&mut self) -> bool {
        let rank_of = |ready: &Ready| Some(self.tasks[ready.next_root()?.as_usize()].rank);
        let classes = (0u16..).map(Class).zip(self.all_ready());
        let ranks = classes.filter_map(|(class, ready)| Some((rank_of(ready)?, class)));
        let Some((_, class)) = ranks.min() else {
            return false;
        };
        if let Some(ready) = self.ready_mut(class) {
            ready.allow_roots(1);
        }
        class == Class::FREE
    }

    /// Something else can run: holds back what was let go, if that has not been taken. Returns how many
    /// tasks it was that need nothing.
    pub(crate) fn hold_again(&mut self) -> usize {
        if !self.is_pressed {
            return 0;
        }
        let needing = self.needing.iter_mut();
        for ready in needing.flat_map(|needing| &mut needing.ready) {
            ready.allow_roots(0);
        }
        self.free.allow_roots(0)
    }

    /// Puts a task among the ready ones; whether it needs nothing.
    #[inline]
    fn enlist(&mut self, index: TaskIndex) -> bool {
        let is_urgent = self.is_pressed && self.saves(index);
        let rank = self.tasks[index.as_usize()].rank;
        if let Some(needing) = &mut self.needing
            && let Some(ready) = needing.like(index)
        {
            ready.push(rank, index, is_urgent);
            return false;
        }
        self.free.push(rank, index, is_urgent);
        true
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

    /// Tasks that were sent are ready again; how many of them need nothing.
    pub(crate) fn put_back(&mut self, run: TaskRun) -> usize {
        let mut n_free = 0;
        for index in run.indices() {
            self.tasks[index.as_usize()].state = State::Ready;
            n_free += usize::from(self.enlist(index));
        }
        n_free
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

    /// Takes the ready task of a class that has the lowest rank.
    #[inline]
    pub(crate) fn take<C: Fn(KindId) -> u64>(
        &mut self,
        class: Class,
        limits: &Limits<C>,
    ) -> Option<Taken> {
        let ready = match (class, &mut self.needing) {
            (Class::FREE, _) => &mut self.free,
            (class, needing) => needing.as_mut()?.ready.get_mut(class.as_usize() - 1)?,
        };
        let index = ready.take(&self.tasks, self.is_pressed)?;
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
                let (rank, needing) = (task.rank, self.needing.as_mut());
                let ready = needing.and_then(|needing| needing.like(dependent));
                progress.n_made_ready += usize::from(ready.is_none());
                match self.is_pressed {
                    true => self.made_ready.push(dependent),
                    false => ready.unwrap_or(&mut self.free).push(rank, dependent, false),
                }
            }
        }
    }
}
