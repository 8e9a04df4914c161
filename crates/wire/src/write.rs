//! Writing frames into a byte buffer.

use crate::frame::{begin, end};
use crate::runs::{Ending, ResultRuns, TaskRuns};
use crate::{Context, PROTOCOL_VERSION, PlaceBytes, Report, TaskKey, kind};

/// Appends frames to a buffer.
#[derive(Debug)]
pub struct FrameWriter<'a> {
    out: &'a mut Vec<u8>,
}

#[inline]
fn push_key(out: &mut Vec<u8>, task: TaskKey) {
    out.extend_from_slice(&task.job.to_le_bytes());
    out.extend_from_slice(&task.index.to_le_bytes());
}

impl<'a> FrameWriter<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> FrameWriter<'a> {
        FrameWriter { out }
    }

    fn whole(&mut self, kind: u8, write_body: impl FnOnce(&mut Vec<u8>)) {
        let start = begin(self.out, kind);
        write_body(self.out);
        end(self.out, start);
    }

    /// The surroundings in which tasks run from now on: `route: u32, is_marked: u8`, bytes.
    pub fn context(&mut self, context: &Context<'_>) {
        self.whole(kind::CONTEXT, |out| {
            out.extend_from_slice(&context.route.to_le_bytes());
            out.push(context.is_marked.into());
            out.extend_from_slice(context.bytes);
        });
    }

    /// What a task has to say beside its result: `number: u32, job: u32, index: u32`, bytes.
    pub fn report(&mut self, report: &Report<'_>) {
        self.whole(kind::REPORT, |out| {
            out.extend_from_slice(&report.number.to_le_bytes());
            push_key(out, report.task);
            out.extend_from_slice(report.bytes);
        });
    }

    /// A function that tasks will name: `function: u32`, bytes.
    pub fn function(&mut self, function: u32, bytes: &[u8]) {
        self.whole(kind::FUNCTION, |out| {
            out.extend_from_slice(&function.to_le_bytes());
            out.extend_from_slice(bytes);
        });
    }

    fn functions(&mut self, kind: u8, functions: impl IntoIterator<Item = u32>) {
        self.whole(kind, |out| {
            for function in functions {
                out.extend_from_slice(&function.to_le_bytes());
            }
        });
    }

    /// Functions that no task will name any more: `function: u32` each.
    pub fn forget(&mut self, functions: impl IntoIterator<Item = u32>) {
        self.functions(kind::FORGET, functions);
    }

    /// Answers a request to forget functions once nothing of them is left: `function: u32` each.
    pub fn forgotten(&mut self, functions: impl IntoIterator<Item = u32>) {
        self.functions(kind::FORGOTTEN, functions);
    }

    /// A memory segment that later frames refer to: `segment: u64`. Its descriptor is to be attached to
    /// the frame's first byte.
    pub fn segment(&mut self, segment: u64) {
        self.whole(kind::SEGMENT, |out| {
            out.extend_from_slice(&segment.to_le_bytes());
        });
    }

    /// Places in the worker's own memory that nobody reads any more: 24 bytes each.
    pub fn release(&mut self, places: impl IntoIterator<Item = PlaceBytes>) {
        self.whole(kind::RELEASE, |out| {
            for place in places {
                out.extend_from_slice(&place);
            }
        });
    }

    /// Nothing refers to the segments of this owner any more, and its process is gone: `owner: u32`.
    pub fn owner_gone(&mut self, owner: u32) {
        self.whole(kind::OWNER_GONE, |out| {
            out.extend_from_slice(&owner.to_le_bytes());
        });
    }

    fn keys(&mut self, kind: u8, tasks: impl IntoIterator<Item = TaskKey>) {
        self.whole(kind, |out| {
            for task in tasks {
                push_key(out, task);
            }
        });
    }

    /// Asks for tasks that have not been started: `job: u32, index: u32` each.
    pub fn take_back(&mut self, tasks: impl IntoIterator<Item = TaskKey>) {
        self.keys(kind::TAKE_BACK, tasks);
    }

    /// Answers a request to give back tasks, with those that will not be run here.
    pub fn taken_back(&mut self, tasks: impl IntoIterator<Item = TaskKey>) {
        self.keys(kind::TAKEN_BACK, tasks);
    }

    /// Asks the worker to end.
    pub fn stop(&mut self) {
        self.whole(kind::STOP, |_| {});
    }

    /// Tells that the worker can take tasks: `version: u32`.
    pub fn ready(&mut self) {
        self.whole(kind::READY, |out| {
            out.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        });
    }
}

/// Appends one frame of tasks; the frame is complete when this is dropped. Tasks with consecutive
/// numbers that call one function take the least room.
#[derive(Debug)]
pub struct TasksWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    runs: TaskRuns,
}

impl<'a> TasksWriter<'a> {
    /// Begins a frame at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> TasksWriter<'a> {
        let start = begin(out, kind::TASKS);
        TasksWriter {
            out,
            start,
            runs: TaskRuns::new(),
        }
    }

    /// Adds a task; `write` appends what its function is called with.
    #[inline]
    pub fn task(&mut self, task: TaskKey, function: u32, write: impl FnOnce(&mut Vec<u8>)) {
        self.runs.task(self.out, task, function, write);
    }

    /// Adds tasks with consecutive numbers, whose bytes are as [`push_counted`](crate::push_counted)
    /// writes them, end to end.
    pub fn counted_tasks(&mut self, first: TaskKey, n_tasks: u32, function: u32, counted: &[u8]) {
        (self.runs).counted(self.out, first, n_tasks, function, counted);
    }
}

impl Drop for TasksWriter<'_> {
    fn drop(&mut self) {
        self.runs.end(self.out);
        end(self.out, self.start);
    }
}

/// Where a frame of results stands that is to be continued or ended.
#[must_use = "the frame is to be ended"]
#[derive(Clone, Copy, Debug)]
pub struct OpenResults {
    start: usize,
    runs: ResultRuns,
}

impl OpenResults {
    /// Ends the frame, to which nothing was added.
    pub fn end(self, out: &mut [u8]) {
        end(out, self.start);
    }
}

/// Appends one frame of results, one by one; the frame is complete when this is dropped.
#[derive(Debug)]
pub struct ResultsWriter<'a> {
    out: &'a mut Vec<u8>,
    open: OpenResults,
    is_left: bool,
}

impl<'a> ResultsWriter<'a> {
    /// Begins a frame at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> ResultsWriter<'a> {
        let start = begin(out, kind::RESULTS);
        let runs = ResultRuns::default();
        ResultsWriter::resume(out, OpenResults { start, runs })
    }

    /// Continues a frame that was left with [`ResultsWriter::leave`] and to which nothing was added.
    pub fn resume(out: &'a mut Vec<u8>, open: OpenResults) -> ResultsWriter<'a> {
        let is_left = false;
        ResultsWriter { out, open, is_left }
    }

    /// Leaves the frame as it is: to be continued, or ended with [`OpenResults::end`] before it is sent.
    pub fn leave(mut self) -> OpenResults {
        self.is_left = true;
        self.open
    }

    /// Adds a result of known bytes.
    #[inline]
    pub fn result(&mut self, task: TaskKey, ending: Ending, duration_ns: u64, bytes: &[u8]) {
        (self.open.runs).result(self.out, task, ending, duration_ns, bytes);
    }
}

impl Drop for ResultsWriter<'_> {
    fn drop(&mut self) {
        // A check of the whole frame with each result would cost as much as all results.
        if !self.is_left {
            end(self.out, self.open.start);
        }
    }
}
