//! Tasks and results, packed as runs: tasks of one job with consecutive numbers share one head.
//!
//! ```text
//! tasks    job: u32, function: u32, first: u32, n: u32, n times (length: varint, bytes)
//! results  job: u32, first: u32, n: u32,
//!          n times (length * 2 + is_ok: varint, duration_ns: varint, bytes); where it is not ok,
//!          the first of the bytes says in what way
//! ```

use crate::TaskKey;
use std::ops::Range;

const TASKS_HEAD_BYTES: usize = 16;
const RESULTS_HEAD_BYTES: usize = 12;

#[inline]
pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a number at `at` and moves past it; `None` where there is none.
#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let byte = *bytes.get(*at)?;
    *at += 1;
    if byte < 0x80 {
        return Some(u64::from(byte));
    }
    let mut value = u64::from(byte & 0x7f);
    let mut shift = 7;
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let payload = u64::from(byte & 0x7f);
        if shift > 63 || (shift == 63 && payload > 1) {
            return None;
        }
        value |= payload << shift;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

/// The place of the next `length` bytes after `at`, which moves past them.
#[inline]
fn counted(bytes: &[u8], at: &mut usize, length: u64) -> Option<Range<usize>> {
    let length = usize::try_from(length).ok()?;
    let end = at.checked_add(length).filter(|&end| end <= bytes.len())?;
    let range = *at..end;
    *at = end;
    Some(range)
}

/// Adds tasks to the end of a buffer, as runs.
#[derive(Debug)]
pub(crate) struct TaskRuns {
    /// Where the head of the run under way is.
    head: usize,
    next: Option<(TaskKey, u32)>,
    n_tasks: u32,
}

impl TaskRuns {
    pub(crate) fn new() -> TaskRuns {
        TaskRuns {
            head: 0,
            next: None,
            n_tasks: 0,
        }
    }

    #[inline]
    pub(crate) fn task(
        &mut self,
        out: &mut Vec<u8>,
        task: TaskKey,
        function: u32,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.begin(out, task, function);
        self.n_tasks += 1;
        // No run goes past the last number, so that its numbers ascend.
        self.next = task.index.checked_add(1).map(|index| {
            let next = TaskKey {
                job: task.job,
                index,
            };
            (next, function)
        });
        push_counted(out, write);
    }

    /// Adds tasks whose bytes, each with its length before it, are there already; see [`push_counted`].
    pub(crate) fn counted(
        &mut self,
        out: &mut Vec<u8>,
        first: TaskKey,
        n_tasks: u32,
        function: u32,
        counted: &[u8],
    ) {
        if n_tasks == 0 {
            return;
        }
        // The reader refuses a run whose numbers begin anew.
        debug_assert!(first.index.checked_add(n_tasks - 1).is_some());
        self.begin(out, first, function);
        self.n_tasks += n_tasks;
        self.next = first.index.checked_add(n_tasks).map(|index| {
            let job = first.job;
            (TaskKey { job, index }, function)
        });
        out.extend_from_slice(counted);
    }

    /// Begins a run with this task, unless it continues the one under way.
    #[inline]
    fn begin(&mut self, out: &mut Vec<u8>, task: TaskKey, function: u32) {
        if self.next != Some((task, function)) {
            self.end(out);
            self.head = out.len();
            out.extend_from_slice(&task.job.to_le_bytes());
            out.extend_from_slice(&function.to_le_bytes());
            out.extend_from_slice(&task.index.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
    }

    /// Ends the run under way.
    pub(crate) fn end(&mut self, out: &mut [u8]) {
        if self.n_tasks > 0 {
            let at = self.head + TASKS_HEAD_BYTES - 4;
            out[at..at + 4].copy_from_slice(&self.n_tasks.to_le_bytes());
            self.n_tasks = 0;
        }
        self.next = None;
    }
}

/// Appends what `write` appends, with its length before it.
#[inline]
pub fn push_counted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    let n_bytes = out.len() - at - 1;
    if n_bytes < 0x80 {
        out[at] = n_bytes as u8;
        return;
    }
    // Most lengths take one byte. A longer one pushes its bytes back.
    let mut length = Vec::with_capacity(10);
    push_varint(&mut length, n_bytes as u64);
    let n_more = length.len() - 1;
    out.resize(out.len() + n_more, 0);
    out.copy_within(at + 1..at + 1 + n_bytes, at + 1 + n_more);
    out[at..=at + n_more].copy_from_slice(&length);
}

/// A task to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskEntry<'a> {
    /// Which task.
    pub task: TaskKey,
    /// The function's number.
    pub function: u32,
    /// What it is called with.
    pub bytes: &'a [u8],
}

/// Tasks of one job with consecutive numbers, which call one function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskRun {
    /// The job's number.
    pub job: u32,
    /// The function's number.
    pub function: u32,
    /// The number of the first task.
    pub first: u32,
    /// How many tasks there are.
    pub n_tasks: u32,
    /// Where, in the bytes of the message, the first task's bytes begin; for [`next_in_run`].
    pub start: usize,
}

/// The place of the next task's bytes in a run; moves `at` past them. `None` where the bytes of the
/// message have an end.
#[inline]
pub fn next_in_run(message: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let length = varint(message, at)?;
    counted(message, at, length)
}

/// The tasks of a message, known to be whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskEntries<'a> {
    bytes: &'a [u8],
}

impl<'a> TaskEntries<'a> {
    /// `None` if the bytes are no tasks.
    pub(crate) fn checked(bytes: &'a [u8]) -> Option<TaskEntries<'a>> {
        let mut at = 0;
        while at < bytes.len() {
            run_at(bytes, &mut at)?;
        }
        Some(TaskEntries { bytes })
    }

    /// The bytes that hold the tasks.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The tasks by runs, whose places are places in [`TaskEntries::as_bytes`].
    pub fn runs(&self) -> impl Iterator<Item = TaskRun> + 'a {
        let bytes = self.bytes;
        let mut at = 0;
        std::iter::from_fn(move || (at < bytes.len()).then(|| run_at(bytes, &mut at)).flatten())
    }

    /// The tasks one by one.
    pub fn entries(&self) -> impl Iterator<Item = TaskEntry<'a>> + 'a {
        let bytes = self.bytes;
        self.runs().flat_map(move |run| {
            let mut at = run.start;
            (0..run.n_tasks).map_while(move |k| {
                let range = next_in_run(bytes, &mut at)?;
                Some(TaskEntry {
                    task: TaskKey {
                        job: run.job,
                        index: run.first + k,
                    },
                    function: run.function,
                    bytes: &bytes[range],
                })
            })
        })
    }
}

/// Reads the run at `at` and moves past it.
fn run_at(bytes: &[u8], at: &mut usize) -> Option<TaskRun> {
    let head = *at;
    let run = TaskRun {
        job: u32_at(bytes, head)?,
        function: u32_at(bytes, head + 4)?,
        first: u32_at(bytes, head + 8)?,
        n_tasks: u32_at(bytes, head + 12)?,
        start: head + TASKS_HEAD_BYTES,
    };
    // The numbers ascend; a task takes a byte at least, so a false count ends soon.
    run.first.checked_add(run.n_tasks.checked_sub(1)?)?;
    *at = run.start;
    for _ in 0..run.n_tasks {
        next_in_run(bytes, at)?;
    }
    Some(run)
}

/// Adds results to the end of a buffer, as runs.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ResultRuns {
    /// Where the head of the run under way is.
    head: usize,
    next: Option<TaskKey>,
    n_results: u32,
}

impl ResultRuns {
    #[inline]
    pub(crate) fn result(
        &mut self,
        out: &mut Vec<u8>,
        task: TaskKey,
        ending: Ending,
        duration_ns: u64,
        bytes: &[u8],
    ) {
        if self.next != Some(task) {
            self.head = out.len();
            self.n_results = 0;
            out.extend_from_slice(&task.job.to_le_bytes());
            out.extend_from_slice(&task.index.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        self.n_results += 1;
        let at = self.head + RESULTS_HEAD_BYTES - 4;
        out[at..at + 4].copy_from_slice(&self.n_results.to_le_bytes());
        self.next = task.index.checked_add(1).map(|index| TaskKey {
            job: task.job,
            index,
        });
        let way = match ending {
            Ending::Returned => None,
            Ending::Failed => Some(0),
            Ending::Retriable => Some(1),
            Ending::Fatal => Some(2),
        };
        let n_bytes = bytes.len() as u64 + u64::from(way.is_some());
        push_varint(out, n_bytes << 1 | u64::from(way.is_none()));
        push_varint(out, duration_ns);
        out.extend(way);
        out.extend_from_slice(bytes);
    }
}

/// In what way a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It returned.
    Returned,
    /// It failed.
    Failed,
    /// It failed, and may be tried again where that was asked for.
    Retriable,
    /// It failed in a way that is not to be tolerated.
    Fatal,
}

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResultEntry<'a> {
    /// Which task.
    pub task: TaskKey,
    /// In what way it ended.
    pub ending: Ending,
    /// How long it ran.
    pub duration_ns: u64,
    /// What it returned, or how it failed.
    pub bytes: &'a [u8],
}

/// The results of a message, known to be whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultEntries<'a> {
    bytes: &'a [u8],
    at: usize,
    next: TaskKey,
    n_left: u32,
}

impl<'a> ResultEntries<'a> {
    /// `None` if the bytes are no results.
    pub(crate) fn checked(bytes: &'a [u8]) -> Option<ResultEntries<'a>> {
        let entries = ResultEntries {
            bytes,
            at: 0,
            next: TaskKey { job: 0, index: 0 },
            n_left: 0,
        };
        let mut reading = entries.clone();
        while reading.next().is_some() {}
        (reading.at == bytes.len() && reading.n_left == 0).then_some(entries)
    }

    fn begin_run(&mut self) -> Option<()> {
        let job = u32_at(self.bytes, self.at)?;
        let index = u32_at(self.bytes, self.at + 4)?;
        let n_results = u32_at(self.bytes, self.at + 8)?;
        index.checked_add(n_results.checked_sub(1)?)?;
        self.at += RESULTS_HEAD_BYTES;
        self.next = TaskKey { job, index };
        self.n_left = n_results;
        Some(())
    }
}

impl<'a> Iterator for ResultEntries<'a> {
    type Item = ResultEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<ResultEntry<'a>> {
        if self.n_left == 0 {
            self.begin_run()?;
        }
        let head = varint(self.bytes, &mut self.at)?;
        let duration_ns = varint(self.bytes, &mut self.at)?;
        let mut range = counted(self.bytes, &mut self.at, head >> 1)?;
        let ending = if head & 1 == 1 {
            Ending::Returned
        } else {
            let way = self.bytes[range.clone()].first()?;
            range.start += 1;
            match way {
                0 => Ending::Failed,
                1 => Ending::Retriable,
                2 => Ending::Fatal,
                _ => return None,
            }
        };
        let entry = ResultEntry {
            task: self.next,
            ending,
            duration_ns,
            bytes: &self.bytes[range],
        };
        self.n_left -= 1;
        // The last number of all has none after it, and then nothing is left either.
        self.next.index = self.next.index.wrapping_add(1);
        Some(entry)
    }
}
