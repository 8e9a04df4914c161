//! What waits in a worker: runs of tasks, which both of its threads take from.
//!
//! The main thread claims the next task of the run under way, one by one; the reading thread takes
//! un-started tasks away from its end, while the main thread computes. One atomic word decides who
//! gets a task, so that claiming one costs next to nothing.

use crate::job::lock;
use manyhands_wire::{TaskKey, TaskRun, next_in_run};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Something for the main thread to do.
pub(super) enum Item {
    /// The route of what tasks write, whether it is marked, and the host's part.
    Context(u32, bool, Vec<u8>),
    Function(u32, Vec<u8>),
    Forget(Vec<u32>),
    Run(Arc<Run>),
}

/// Tasks with consecutive numbers that call one function.
pub(super) struct Run {
    pub(super) job: u32,
    pub(super) function: u32,
    first: u32,
    message: Arc<Vec<u8>>,
    /// Where the first task's bytes are in the message.
    start: usize,
    /// The next task to start in the upper half, the end of those that may be started in the lower,
    /// both counted from the first.
    left: AtomicU64,
}

fn pack(next: u32, end: u32) -> u64 {
    u64::from(next) << 32 | u64::from(end)
}

fn unpack(left: u64) -> (u32, u32) {
    ((left >> 32) as u32, left as u32)
}

impl Run {
    pub(super) fn new(run: &TaskRun, message: &Arc<Vec<u8>>) -> Run {
        Run {
            job: run.job,
            function: run.function,
            first: run.first,
            message: Arc::clone(message),
            start: run.start,
            left: AtomicU64::new(pack(0, run.n_tasks)),
        }
    }

    fn key(&self, k: u32) -> TaskKey {
        TaskKey {
            job: self.job,
            index: self.first + k,
        }
    }

    /// Claims the next task, for the main thread.
    #[inline]
    fn claim(&self) -> Option<u32> {
        // SYNC POINT: claiming and taking away are both changes of this one word, and nothing else is
        // read on the strength of it, so that no order beyond the word's own is needed.
        let mut left = self.left.load(Ordering::Relaxed);
        loop {
            let (next, end) = unpack(left);
            if next >= end {
                return None;
            }
            let claimed = pack(next + 1, end);
            match self.left.compare_exchange_weak(
                left,
                claimed,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(next),
                Err(now) => left = now,
            }
        }
    }

    /// Takes away all tasks from the `k`-th on that have not been claimed.
    fn take_from(&self, k: u32) -> Range<u32> {
        let mut left = self.left.load(Ordering::Relaxed);
        loop {
            let (next, end) = unpack(left);
            let kept = k.clamp(next.min(end), end);
            let shortened = pack(next, kept);
            match self.left.compare_exchange_weak(
                left,
                shortened,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return kept..end,
                Err(now) => left = now,
            }
        }
    }

    fn unclaimed(&self) -> Range<u32> {
        let (next, end) = unpack(self.left.load(Ordering::Relaxed));
        next..end
    }

    /// A run of its own of some of these tasks, which have been taken away from here.
    fn part(&self, tasks: Range<u32>) -> Run {
        let mut start = self.start;
        for _ in 0..tasks.start {
            // The message has been checked: all of the run is there.
            let _ = next_in_run(&self.message, &mut start);
        }
        Run {
            job: self.job,
            function: self.function,
            first: self.first + tasks.start,
            message: Arc::clone(&self.message),
            start,
            left: AtomicU64::new(pack(0, tasks.end - tasks.start)),
        }
    }

    /// Takes away the tasks that are asked for, last ones first; gives what is left behind them.
    fn give_back(&self, asked: &[TaskKey], returned: &mut Vec<TaskKey>) -> Vec<Run> {
        let is_asked = |k: &u32| {
            asked
                .binary_search_by_key(&sort_key(self.key(*k)), |key| sort_key(*key))
                .is_ok()
        };
        let Some(first_asked) = self.unclaimed().find(is_asked) else {
            return Vec::new();
        };
        let taken = self.take_from(first_asked);
        let mut rest = Vec::new();
        let mut kept: Option<Range<u32>> = None;
        for k in taken {
            if is_asked(&k) {
                returned.push(self.key(k));
                rest.extend(kept.take());
            } else {
                kept = Some(kept.map_or(k, |kept| kept.start)..k + 1);
            }
        }
        rest.extend(kept);
        rest.into_iter().map(|tasks| self.part(tasks)).collect()
    }
}

fn sort_key(task: TaskKey) -> (u32, u32) {
    (task.job, task.index)
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// The run that the main thread is taking tasks from.
    current: Option<Arc<Run>>,
}

/// What both threads share.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// Changed under the lock, so that a sleeper cannot miss it.
    is_stopped: AtomicBool,
}

/// What the main thread is to do next.
pub(super) enum Next {
    Item(Item),
    Nothing,
    Stop,
}

impl Queue {
    pub(super) fn add(&self, items: impl IntoIterator<Item = Item>) {
        lock(&self.waiting).items.extend(items);
        self.arrived.notify_one();
    }

    pub(super) fn stop(&self) {
        let waiting = lock(&self.waiting);
        self.is_stopped.store(true, Ordering::Relaxed);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// The next item; a run becomes the one under way.
    fn next(&self) -> Next {
        let mut waiting = lock(&self.waiting);
        waiting.current = None;
        if self.is_stopped() {
            return Next::Stop;
        }
        match waiting.items.pop_front() {
            Some(Item::Run(run)) => {
                waiting.current = Some(Arc::clone(&run));
                Next::Item(Item::Run(run))
            }
            Some(item) => Next::Item(item),
            None => Next::Nothing,
        }
    }

    #[inline]
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Whether there is anything to do.
    pub(super) fn is_any(&self) -> bool {
        !lock(&self.waiting).items.is_empty() || self.is_stopped()
    }

    /// Sleeps until there is something to do.
    pub(super) fn wait(&self) {
        let mut waiting = lock(&self.waiting);
        while waiting.items.is_empty() && !self.is_stopped() {
            waiting = (self.arrived.wait(waiting)).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Takes away those of these tasks that have not been started, the last first.
    pub(super) fn give_back(&self, mut asked: Vec<TaskKey>) -> Vec<TaskKey> {
        asked.sort_unstable_by_key(|key| sort_key(*key));
        let mut returned = Vec::new();
        let mut waiting = lock(&self.waiting);
        let mut kept = VecDeque::with_capacity(waiting.items.len());
        if let Some(current) = &waiting.current {
            let rest = current.give_back(&asked, &mut returned);
            kept.extend(rest.into_iter().map(|run| Item::Run(Arc::new(run))));
        }
        for item in waiting.items.drain(..) {
            let Item::Run(run) = item else {
                kept.push_back(item);
                continue;
            };
            let rest = run.give_back(&asked, &mut returned);
            if !run.unclaimed().is_empty() {
                kept.push_back(Item::Run(run));
            }
            kept.extend(rest.into_iter().map(|run| Item::Run(Arc::new(run))));
        }
        waiting.items = kept;
        drop(waiting);
        returned.reverse();
        returned
    }
}

/// The main thread's place in the queue.
#[derive(Default)]
pub(super) struct Cursor {
    run: Option<Arc<Run>>,
    /// Where the next task's bytes are in the run's message.
    at: usize,
}

/// A task that the main thread has claimed.
pub(super) struct Claimed<'a> {
    pub(super) task: TaskKey,
    pub(super) function: u32,
    pub(super) bytes: &'a [u8],
}

impl Cursor {
    /// Claims the next task of the run under way.
    #[inline]
    pub(super) fn claim(&mut self) -> Option<Claimed<'_>> {
        let run = self.run.as_ref()?;
        let k = run.claim()?;
        let range = next_in_run(&run.message, &mut self.at)?;
        Some(Claimed {
            task: run.key(k),
            function: run.function,
            bytes: &run.message[range],
        })
    }

    /// Leaves the run that is used up and takes the next item; a run is entered.
    pub(super) fn advance(&mut self, queue: &Queue) -> Next {
        self.run = None;
        let next = queue.next();
        if let Next::Item(Item::Run(run)) = &next {
            self.at = run.start;
            self.run = Some(Arc::clone(run));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manyhands_wire::{FrameReader, Message, TasksWriter};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Runs of so many tasks each, whose bytes are their numbers.
    fn items(lengths: &[u32]) -> Vec<Item> {
        let mut out = Vec::new();
        let mut writer = TasksWriter::new(&mut out);
        for (job, &n_tasks) in lengths.iter().enumerate() {
            for index in 0..n_tasks {
                let job = job as u32;
                writer.task(TaskKey { job, index }, job, |out| {
                    out.extend_from_slice(&index.to_le_bytes());
                });
            }
        }
        drop(writer);
        let mut reader = FrameReader::default();
        reader.push(&out);
        let Ok(Some(Message::Tasks(tasks))) = reader.next_message() else {
            panic!("tasks were written");
        };
        let message = Arc::new(tasks.as_bytes().to_vec());
        (tasks.runs())
            .map(|run| Item::Run(Arc::new(Run::new(&run, &message))))
            .collect()
    }

    fn claim(cursor: &mut Cursor, queue: &Queue) -> Option<TaskKey> {
        loop {
            if let Some(claimed) = cursor.claim() {
                assert_eq!(claimed.bytes, claimed.task.index.to_le_bytes());
                assert_eq!(claimed.function, claimed.task.job);
                return Some(claimed.task);
            }
            match cursor.advance(queue) {
                Next::Item(_) => {}
                Next::Nothing | Next::Stop => return None,
            }
        }
    }

    fn all(lengths: &[u32]) -> Vec<TaskKey> {
        let tasks = lengths.iter().enumerate().flat_map(|(job, &n_tasks)| {
            let job = job as u32;
            (0..n_tasks).map(move |index| TaskKey { job, index })
        });
        tasks.collect()
    }

    proptest! {
        #[test]
        fn every_task_is_claimed_or_given_back_and_in_order(
            lengths in vec(1u32..12, 1..5),
            steps in vec((0usize..6, vec(any::<prop::sample::Index>(), 0..6)), 0..8),
        ) {
            let everything = all(&lengths);
            let queue = Queue::default();
            queue.add(items(&lengths));
            let mut cursor = Cursor::default();
            let mut claimed = Vec::new();
            let mut returned = HashSet::new();
            for (n_claims, asked) in steps {
                for _ in 0..n_claims {
                    claimed.extend(claim(&mut cursor, &queue));
                }
                let asked: HashSet<_> = asked.iter().map(|at| *at.get(&everything)).collect();
                let given = queue.give_back(asked.iter().copied().collect());
                for task in &given {
                    prop_assert!(asked.contains(task) && returned.insert(*task));
                }
                // What is asked for and not started comes back.
                let gone: HashSet<_> = claimed.iter().chain(&returned).copied().collect();
                prop_assert!(asked.is_subset(&gone));
            }
            while let Some(task) = claim(&mut cursor, &queue) {
                claimed.push(task);
            }
            prop_assert!(claimed.is_sorted_by_key(|task| sort_key(*task)));
            prop_assert!(claimed.iter().all(|task| !returned.contains(task)));
            prop_assert_eq!(claimed.len() + returned.len(), everything.len());
        }
    }

    #[test]
    fn two_threads_share_out_every_task() {
        for _ in 0..200 {
            let lengths = [50, 1, 200];
            let everything = all(&lengths);
            let queue = Queue::default();
            queue.add(items(&lengths));
            let (claimed, returned) = std::thread::scope(|scope| {
                let main = scope.spawn(|| {
                    let mut cursor = Cursor::default();
                    let mut claimed = Vec::new();
                    while let Some(task) = claim(&mut cursor, &queue) {
                        claimed.push(task);
                    }
                    claimed
                });
                let asked = everything.iter().rev().step_by(3).copied();
                let mut returned = Vec::new();
                for task in asked {
                    returned.extend(queue.give_back(vec![task]));
                }
                (main.join().expect("it ends"), returned)
            });
            // A part that was put back after the main thread found nothing is claimed now.
            let mut cursor = Cursor::default();
            let late = std::iter::from_fn(|| claim(&mut cursor, &queue));
            let mut seen: Vec<_> = claimed.into_iter().chain(returned).chain(late).collect();
            seen.sort_unstable_by_key(|task| sort_key(*task));
            assert_eq!(seen, everything);
        }
    }

    #[test]
    fn a_stopped_queue_gives_nothing_more() {
        let queue = Queue::default();
        queue.add(items(&[3]));
        queue.stop();
        assert!(queue.is_any());
        assert!(matches!(Cursor::default().advance(&queue), Next::Stop));
    }
}
