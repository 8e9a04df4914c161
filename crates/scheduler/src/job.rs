//! A job: what is common to loose tasks and graphs, and what their counts are.

use crate::graphed::Graphed;
use crate::loose::Loose;
use crate::run::{Limits, Taken};
use crate::{
    Class, Command, Commands, JobSpec, KindId, Kinds, Loss, Need, Needs, Rules, TaskId, TaskIndex,
    TaskRun, TimeNs, Wanted,
};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// Whether a job is still being worked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Running,
    /// Failed or cancelled; waits for its tasks to come back. Workers that still hold one at this
    /// time are ended.
    Draining {
        kill_at_ns: TimeNs,
    },
}

/// How often workers were lost with a task.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Casualty {
    /// How many died while they ran it.
    pub(crate) n_crashes: u8,
    /// How many died with it next in their queue but not, as far as known, running.
    pub(crate) n_losses: u8,
    /// Whether memory was short when one of them was lost.
    pub(crate) is_heavy: bool,
}

/// The tasks.
#[derive(Debug)]
pub(crate) enum Work {
    Loose(Loose),
    Graphed(Box<Graphed>),
    /// The job has ended early: which task is where does not matter any more.
    Abandoned,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) batch_size: Option<NonZeroU32>,
    pub(crate) phase: Phase,
    pub(crate) is_open: bool,
    /// Whether the job stands in the rotation of jobs with ready tasks.
    pub(crate) is_listed: bool,
    /// Tasks that are not finished. None, for a draining job.
    pub(crate) n_unfinished: usize,
    /// Tasks that some worker holds.
    pub(crate) n_in_flight: usize,
    /// What its tasks need while they run.
    pub(crate) needs: Needs,
    /// Tasks that workers died with.
    casualties: BTreeMap<u32, Casualty>,
    pub(crate) rules: Rules,
    /// How often tasks have failed that are not finished.
    tries: BTreeMap<u32, u32>,
    /// How many tasks it was given.
    pub(crate) n_added: u64,
    /// How many it was left without when it was abandoned.
    pub(crate) n_abandoned: usize,
    /// How many tasks failed for good, by themselves.
    pub(crate) n_failed: u64,
    /// How often tasks were put aside to be tried again.
    pub(crate) n_retried: u64,
}

impl Job {
    pub(crate) fn new(spec: JobSpec, needs: Needs) -> Job {
        let n_tasks = spec.graph.n_tasks();
        if let Kinds::Each(kinds) = &spec.kinds {
            assert_eq!(kinds.len(), n_tasks, "one kind for each task");
        }
        let work = match one_kind(&spec.kinds) {
            Some(kind)
                if spec.graph.n_edges() == 0
                    && needs.are_same()
                    && wants_all(&spec.wanted, n_tasks) =>
            {
                Work::Loose(Loose::new(kind, n_tasks as u32))
            }
            _ => {
                assert!(!spec.is_open, "an open job has no edges and one kind");
                let classes = needs.by_task(n_tasks);
                let graphed = Graphed::new(spec.graph, spec.kinds, &spec.wanted, classes);
                Work::Graphed(Box::new(graphed))
            }
        };
        Job {
            work,
            batch_size: spec.batch_size,
            phase: Phase::Running,
            is_open: spec.is_open,
            is_listed: false,
            n_unfinished: n_tasks,
            n_in_flight: 0,
            needs,
            casualties: BTreeMap::new(),
            rules: spec.rules,
            tries: BTreeMap::new(),
            n_added: n_tasks as u64,
            n_abandoned: 0,
            n_failed: 0,
            n_retried: 0,
        }
    }

    /// Adds tasks to an open job; how many of them need nothing.
    pub(crate) fn extend(&mut self, n_more: u32) -> usize {
        assert!(self.is_open, "only an open job can be extended");
        let Work::Loose(loose) = &mut self.work else {
            unreachable!("an open job's tasks are loose");
        };
        loose.extend(n_more);
        self.n_unfinished += n_more as usize;
        self.n_added += u64::from(n_more);
        self.n_to_count(n_more as usize)
    }

    /// How many of so many loose tasks need nothing.
    #[inline]
    fn n_to_count(&self, n_tasks: usize) -> usize {
        if self.needs.is_empty() { n_tasks } else { 0 }
    }

    /// How many tasks are ready that need nothing, suspects aside.
    #[inline]
    pub(crate) fn n_ready(&self) -> usize {
        match &self.work {
            Work::Loose(loose) => self.n_to_count(loose.n_ready()),
            Work::Graphed(graphed) => graphed.n_ready(Class::FREE),
            Work::Abandoned => 0,
        }
    }

    /// How many tasks are ready of a class that needs something, suspects aside.
    pub(crate) fn n_ready_needing(&self, class: Class) -> usize {
        match &self.work {
            Work::Loose(loose) => loose.n_ready(),
            Work::Graphed(graphed) => graphed.n_ready(class),
            Work::Abandoned => 0,
        }
    }

    pub(crate) fn n_ready_of_any(&self) -> usize {
        match &self.work {
            Work::Loose(loose) => loose.n_ready(),
            Work::Graphed(graphed) => graphed.n_ready_of_any(),
            Work::Abandoned => 0,
        }
    }

    /// What a task needs; nothing once the job is ending.
    pub(crate) fn needs_of(&self, index: TaskIndex) -> &[Need] {
        self.needs.of_class(self.class_of(index))
    }

    /// What class a task is of.
    pub(crate) fn class_of(&self, index: TaskIndex) -> Class {
        match &self.work {
            Work::Loose(_) if self.needs.is_empty() => Class::FREE,
            Work::Loose(_) => Class::SAME,
            Work::Graphed(graphed) => graphed.class(index),
            Work::Abandoned => Class::FREE,
        }
    }

    /// Takes ready tasks to be sent that need nothing: one, or some with consecutive numbers.
    #[inline]
    pub(crate) fn take<C: Fn(KindId) -> u64>(&mut self, limits: &Limits<C>) -> Option<Taken> {
        self.take_of(Class::FREE, limits)
    }

    /// The same, of a class.
    #[inline]
    pub(crate) fn take_of<C: Fn(KindId) -> u64>(
        &mut self,
        class: Class,
        limits: &Limits<C>,
    ) -> Option<Taken> {
        match &mut self.work {
            Work::Loose(loose) => loose.take(limits),
            Work::Graphed(graphed) => graphed.take(class, limits),
            Work::Abandoned => None,
        }
    }

    /// Tasks that a worker held are ready again, but for suspects, which are set aside; how many of them need nothing.
    pub(crate) fn put_back(&mut self, run: TaskRun) -> usize {
        match &mut self.work {
            Work::Loose(loose) => {
                loose.put_back(run);
                self.n_to_count(run.n_tasks as usize)
            }
            Work::Graphed(graphed) => graphed.put_back(run),
            Work::Abandoned => 0,
        }
    }

    /// A suspect that a worker held is to be tried alone.
    pub(crate) fn set_aside(&mut self, index: TaskIndex) {
        if let Work::Graphed(graphed) = &mut self.work {
            graphed.set_aside(index);
        }
    }

    /// A task that was set aside is sent.
    pub(crate) fn take_aside(&mut self, index: TaskIndex) {
        if let Work::Graphed(graphed) = &mut self.work {
            graphed.mark_sent(index);
        }
    }

    /// Whether a worker died that may have been running this task.
    #[inline]
    pub(crate) fn is_suspect(&self, index: TaskIndex) -> bool {
        !self.casualties.is_empty() && self.casualties.contains_key(&index.0)
    }

    /// Whether any worker died that may have been running one of these.
    #[inline]
    pub(crate) fn has_suspect(&self, run: TaskRun) -> bool {
        !self.casualties.is_empty() && run.indices().any(|index| self.is_suspect(index))
    }

    /// Whether a worker was lost with this task because memory was short.
    pub(crate) fn is_heavy(&self, index: TaskIndex) -> bool {
        let casualty = self.casualties.get(&index.0);
        casualty.is_some_and(|casualty| casualty.is_heavy)
    }

    /// How often workers were lost with a task, to be counted up.
    pub(crate) fn casualty_mut(&mut self, index: TaskIndex) -> &mut Casualty {
        self.casualties.entry(index.0).or_default()
    }

    /// Counts a failure of a task; how many there have been.
    pub(crate) fn count_failure(&mut self, index: TaskIndex) -> u32 {
        if self.rules.n_retries == 0 {
            return 1;
        }
        let n_tries = self.tries.entry(index.0).or_default();
        *n_tries = n_tries.saturating_add(1);
        *n_tries
    }

    /// A task that failed is to be tried again, but not yet.
    pub(crate) fn rest(&mut self, index: TaskIndex) {
        self.n_retried += 1;
        if let Work::Graphed(graphed) = &mut self.work {
            graphed.rest(index);
        }
    }

    /// Marks a task failed for good, and those that depend on it as far as they wait for nothing else; tells
    /// which results will not be delivered, and which nobody reads any more. Returns how many tasks
    /// have become ready that need nothing.
    pub(crate) fn lose(&mut self, task: TaskId, loss: Loss, commands: &mut Commands) -> usize {
        self.forget_mishaps(task.into());
        self.n_failed += 1;
        commands.push(Command::Lose(task, loss));
        match &mut self.work {
            Work::Loose(_) => {
                self.n_unfinished -= 1;
                commands.push(Command::DeliverLoss(task, task.index));
                0
            }
            Work::Graphed(graphed) => {
                let progress = graphed.lose(task.job, task.index, commands);
                self.n_unfinished -= progress.n_lost;
                progress.n_made_ready
            }
            Work::Abandoned => 0,
        }
    }

    /// What went wrong with tasks that have ended does not matter any more.
    #[inline]
    fn forget_mishaps(&mut self, run: TaskRun) {
        if !self.casualties.is_empty() {
            run.indices().for_each(|index| {
                self.casualties.remove(&index.0);
            });
        }
        if !self.tries.is_empty() {
            run.indices().for_each(|index| {
                self.tries.remove(&index.0);
            });
        }
    }

    /// Marks tasks finished; tells which results are to be delivered and which nobody reads any
    /// more. Returns how many tasks have become ready that need nothing.
    #[inline]
    pub(crate) fn finish(&mut self, run: TaskRun, commands: &mut Commands) -> usize {
        self.n_unfinished -= run.n_tasks as usize;
        self.forget_mishaps(run);
        match &mut self.work {
            Work::Loose(_) => {
                commands.deliver(run);
                0
            }
            Work::Graphed(graphed) => {
                let mut n_made_ready = 0;
                for index in run.indices() {
                    let progress = graphed.finish(run.job, index, commands);
                    self.n_unfinished -= progress.n_lost;
                    n_made_ready += progress.n_made_ready;
                }
                n_made_ready
            }
            Work::Abandoned => 0,
        }
    }

    /// Forgets everything but how many tasks workers hold: the job is ending.
    pub(crate) fn abandon(&mut self) {
        self.work = Work::Abandoned;
        self.casualties.clear();
        self.tries.clear();
        self.is_open = false;
        self.n_abandoned = self.n_unfinished;
        self.n_unfinished = 0;
    }
}

/// The kind that all tasks are of, if they are of one.
fn one_kind(kinds: &Kinds) -> Option<KindId> {
    match kinds {
        Kinds::One(kind) => Some(*kind),
        Kinds::Each(kinds) => {
            let first = *kinds.first()?;
            kinds.iter().all(|kind| *kind == first).then_some(first)
        }
    }
}

fn wants_all(wanted: &Wanted, n_tasks: usize) -> bool {
    match wanted {
        Wanted::All => true,
        Wanted::Tasks(tasks) => {
            let is_next = |(at, task): (usize, &TaskIndex)| task.as_usize() == at;
            tasks.len() == n_tasks && tasks.iter().enumerate().all(is_next)
        }
    }
}
