//! What the scheduler knows of a worker.

use crate::batch::LOW_NS;
use crate::supplies::Held;
use crate::{TaskId, TaskRun, TimeNs};
use std::collections::VecDeque;

/// Tasks that were sent, with the duration that was expected of each then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) run: TaskRun,
    pub(crate) each_ns: u32,
}

const _: () = assert!(size_of::<Sent>() == 16);

impl Sent {
    pub(crate) fn expected_ns(&self) -> u64 {
        u64::from(self.each_ns) * u64::from(self.run.n_tasks)
    }
}

/// What a worker holds: sent and not yet reported, in the order in which it runs them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    runs: VecDeque<Sent>,
    n_tasks: usize,
    expected_ns: u64,
}

/// A worker that has joined and not been lost.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) queue: Queue,
    /// What it holds for the first task of its queue.
    pub(crate) held: Option<Box<Held>>,
    /// How many had joined before it.
    pub(crate) number: u64,
    /// When it last reported a task, or was given work when it had none.
    pub(crate) heard_ns: TimeNs,
    /// When it was last given work.
    pub(crate) sent_ns: TimeNs,
    /// It had nothing to give back, and is not asked again before.
    pub(crate) rests_until_ns: TimeNs,
    /// Take-back requests that it has not answered.
    pub(crate) n_recalls: u32,
    /// The first of them is for other workers' sake, not because a job ended.
    pub(crate) is_relieved: bool,
    /// It runs a suspect, and gets nothing else meanwhile.
    pub(crate) is_exclusive: bool,
    /// It is being ended.
    pub(crate) is_killed: bool,
    /// The task that it is being ended for, as that ran for too long.
    pub(crate) out_of_time: Option<TaskId>,
    /// It is being looked at.
    pub(crate) is_looked_at: bool,
    /// What it runs is within its time until then, as far as it has been looked at.
    pub(crate) in_time_until_ns: TimeNs,
    /// It was silent for too long and gets nothing more before it reports.
    pub(crate) is_overdue: bool,
    /// It gave tasks back for others, which are to be asked first whether they can take them.
    pub(crate) has_given_back: bool,
    /// Whether it stands in the list of idle workers.
    pub(crate) is_listed_idle: bool,
    /// Whether it stands in the list of workers that could take more.
    pub(crate) is_listed_low: bool,
    /// Whether it stands in the list of workers that tasks might be taken back from.
    pub(crate) is_listed_loaded: bool,
    /// Whether it stands in the list of workers whose silence is watched.
    pub(crate) is_watched: bool,
}

impl Worker {
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.is_killed
    }

    /// Whether it should be given more before it runs dry.
    pub(crate) fn is_low(&self) -> bool {
        let may_get_more = !self.is_exclusive && !self.is_overdue && !self.is_killed;
        self.queue.expected_ns < LOW_NS && may_get_more
    }
}

impl Queue {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    #[inline]
    pub(crate) fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    /// How long all of it is expected to take.
    #[inline]
    pub(crate) fn expected_ns(&self) -> u64 {
        self.expected_ns
    }

    pub(crate) fn runs(&self) -> impl DoubleEndedIterator<Item = &Sent> {
        self.runs.iter()
    }

    /// The first task: the one it runs, as far as can be told from here.
    #[inline]
    pub(crate) fn head(&self) -> Option<TaskId> {
        self.runs.front().map(|sent| sent.run.first())
    }

    /// The task behind the first.
    pub(crate) fn second(&self) -> Option<TaskId> {
        let mut tasks = self
            .runs
            .iter()
            .take(2)
            .flat_map(|sent| sent.run.tasks().take(2));
        tasks.nth(1)
    }

    pub(crate) fn contains(&self, task: TaskId) -> bool {
        self.runs
            .iter()
            .any(|sent| offset(sent, task.into()).is_some())
    }

    #[inline]
    pub(crate) fn push(&mut self, run: TaskRun, each_ns: u64) {
        let each_ns = each_ns.min(u64::from(u32::MAX)) as u32;
        let sent = Sent { run, each_ns };
        self.n_tasks += run.n_tasks as usize;
        self.expected_ns += sent.expected_ns();
        if let Some(last) = self.runs.back_mut()
            && last.each_ns == each_ns
            && last.run.append(run)
        {
            return;
        }
        self.runs.push_back(sent);
    }

    /// Strikes out as many of the first of these tasks as stand here together; what is left of
    /// `run` comes after them. `None` once none of `run` is here.
    #[inline]
    pub(crate) fn strike(&mut self, run: &mut TaskRun) -> Option<TaskRun> {
        if run.n_tasks == 0 {
            return None;
        }
        // Reports come in running order: nearly always it is the first.
        if let Some(front) = self.runs.front_mut()
            && front.run.first == run.first
            && front.run.job == run.job
        {
            let n_tasks = run.n_tasks.min(front.run.n_tasks);
            self.n_tasks -= n_tasks as usize;
            self.expected_ns -= u64::from(front.each_ns) * u64::from(n_tasks);
            if n_tasks == front.run.n_tasks {
                self.runs.pop_front();
            } else {
                front.run.split_first(n_tasks);
            }
            return Some(run.split_first(n_tasks));
        }
        self.strike_behind(run)
    }

    fn strike_behind(&mut self, run: &mut TaskRun) -> Option<TaskRun> {
        while run.n_tasks > 0 {
            // Tasks are taken back from the end, last first: a search from the front would be quadratic.
            let is_here = |sent: &Sent| offset(sent, *run).is_some();
            match self.runs.iter().rposition(is_here) {
                Some(at) => return Some(self.strike_at(at, run)),
                None => run.split_first(1),
            };
        }
        None
    }

    fn strike_at(&mut self, at: usize, run: &mut TaskRun) -> TaskRun {
        let sent = &mut self.runs[at];
        let n_before = offset(sent, *run).unwrap_or(0);
        let before = Sent {
            run: sent.run.split_first(n_before),
            ..*sent
        };
        let struck = run.split_first(run.n_tasks.min(sent.run.n_tasks));
        sent.run.split_first(struck.n_tasks);
        self.n_tasks -= struck.n_tasks as usize;
        self.expected_ns -= u64::from(sent.each_ns) * u64::from(struck.n_tasks);
        match (n_before > 0, sent.run.n_tasks > 0) {
            (false, true) => {}
            (true, false) => *sent = before,
            (true, true) => self.runs.insert(at, before),
            (false, false) => {
                self.runs.remove(at);
            }
        }
        struck
    }

    /// Empties the queue.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = TaskRun> + use<> {
        let runs = std::mem::take(self).runs;
        runs.into_iter().map(|sent| sent.run)
    }
}

/// Where in these tasks the first of `run` stands.
#[inline]
fn offset(sent: &Sent, run: TaskRun) -> Option<u32> {
    let n_before = run.first.0.wrapping_sub(sent.run.first.0);
    (sent.run.job == run.job && n_before < sent.run.n_tasks).then_some(n_before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JobId, TaskIndex};

    fn run(first: u32, n_tasks: u32) -> TaskRun {
        TaskRun {
            job: JobId(0),
            first: TaskIndex(first),
            n_tasks,
        }
    }

    fn queue() -> Queue {
        let mut queue = Queue::default();
        queue.push(run(0, 4), 10);
        queue.push(run(4, 4), 10);
        queue.push(run(8, 2), 30);
        queue.push(run(20, 5), 10);
        queue
    }

    fn struck(queue: &mut Queue, mut asked: TaskRun) -> String {
        let parts: Vec<_> = std::iter::from_fn(|| queue.strike(&mut asked)).collect();
        let left: Vec<_> = queue.runs().map(|sent| sent.run).collect();
        let expected_ns: u64 = queue.runs().map(Sent::expected_ns).sum();
        let n_tasks: usize = left.iter().map(|run| run.n_tasks as usize).sum();
        assert_eq!((expected_ns, n_tasks), (queue.expected_ns, queue.n_tasks));
        format!("{parts:?} of which {left:?} stay")
    }

    #[test]
    fn tasks_are_struck_out_wherever_they_stand() {
        let check = |asked, expected: &str| assert_eq!(struck(&mut queue(), asked), expected);
        check(
            run(0, 2),
            "[j0.t0+2] of which [j0.t2+6, j0.t8+2, j0.t20+5] stay",
        );
        check(
            run(23, 2),
            "[j0.t23+2] of which [j0.t0+8, j0.t8+2, j0.t20+3] stay",
        );
        check(
            run(2, 2),
            "[j0.t2+2] of which [j0.t0+2, j0.t4+4, j0.t8+2, j0.t20+5] stay",
        );
        check(
            run(6, 4),
            "[j0.t6+2, j0.t8+2] of which [j0.t0+6, j0.t20+5] stay",
        );
        check(
            run(9, 12),
            "[j0.t9, j0.t20] of which [j0.t0+8, j0.t8, j0.t21+4] stay",
        );
        check(run(30, 3), "[] of which [j0.t0+8, j0.t8+2, j0.t20+5] stay");
    }

    #[test]
    fn the_second_task_may_stand_in_the_first_run_or_the_next() {
        let mut queue = queue();
        assert_eq!(queue.second().map(|task| task.index.0), Some(1));
        struck(&mut queue, run(0, 7));
        assert_eq!(queue.second().map(|task| task.index.0), Some(8));
    }
}
