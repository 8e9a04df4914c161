//! What a task is, to those who run it.

use crate::job::Shortage;
use crate::processes::WorkerMemoryLimit;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::Ending;
use manyhands_store::SegmentId;
use manyhands_wire::TasksWriter;
use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The tasks of a job, for executors that run them in this process.
///
/// The program keeps its own results, and finds the inputs of a task among them.
pub trait Program: Send + Sync {
    /// Runs the tasks that `feed` names, until it names none.
    ///
    /// What needs preparing for a run of tasks (an interpreter's lock, say) is prepared once here.
    fn run(&self, feed: &mut dyn Feed);

    /// Drops the results of these tasks: nobody will read them. Called outside of all locks.
    fn release(&self, tasks: &[TaskIndex]);

    /// Whether a task has failed whose failure is its result like any other, so that it counts as returned.
    fn has_failed(&self, task: TaskIndex) -> bool {
        let _ = task;
        false
    }

    /// Waits in the calling thread, which has nothing to run until then; `false` if the job is to end.
    fn rest(&self, duration: Duration) -> bool {
        std::thread::sleep(duration);
        true
    }
}

/// Where a [`Program`] gets its tasks from.
pub trait Feed {
    /// The next task to run. Its inputs have been computed.
    fn next(&mut self) -> Option<TaskIndex>;

    /// The task named last has ended, in this way. One that failed may be named again.
    fn ended(&mut self, ending: Ending);
}

/// The tasks of a job, for executors that run them elsewhere, as bytes.
///
/// All methods are called under the executor's lock, those about results on disk apart: they must be quick
/// and must not wait.
pub trait RemoteProgram: Send + Sync {
    /// The number of a task's function, from [`crate::processes::ProcessPool::function`].
    fn function(&self, task: TaskIndex) -> u32;

    /// Adds an entry for each task, with what its function is called with; and the segments of shared
    /// memory that these bytes refer to, which the worker will know before it reads them.
    fn write(
        &self,
        job: u32,
        tasks: &[TaskIndex],
        writer: &mut TasksWriter<'_>,
        segments: &mut Vec<SegmentId>,
    );

    /// Keeps how tasks ended: each task, whether it returned, and the bytes of what it returned or
    /// how it failed.
    ///
    /// Places in these bytes are to be [adopted](crate::Stock::adopt) at once, whether anybody wants the
    /// result or not: nobody else can tell the worker to use the memory again. The job's program is
    /// asked to store all that its tasks return, also after a cancel.
    fn store(&self, results: &mut dyn Iterator<Item = (TaskIndex, bool, &[u8])>);

    /// Whether how a task failed is its result like any other, so that the job goes on.
    fn goes_on_after_failures(&self) -> bool {
        false
    }

    /// Whether a task has failed, where that is its result like any other.
    fn has_failed(&self, task: TaskIndex) -> bool {
        let _ = task;
        false
    }

    /// Drops the result of a task: nobody will read it.
    fn release(&self, task: TaskIndex);

    /// Puts results on disk, those that are needed last first, until so many bytes of memory are free or
    /// nothing is left that can go there: a result cannot that a task has been sent and may be reading.
    ///
    /// Called by a pool's own thread, one at a time, and without the executor's lock: it takes as long as
    /// the disk takes.
    fn spill(&self, n_bytes: u64) -> Spilled {
        let _ = n_bytes;
        Spilled::default()
    }

    /// The results that wait in memory and could go to disk, if there are any.
    fn backlog(&self) -> Option<Backlog> {
        None
    }

    /// Whether there ever were such results.
    fn may_have_backlog(&self) -> bool {
        false
    }

    /// Drops a result that has room nowhere. Whoever asks for it is told.
    fn give_up(&self, task: TaskIndex, shortage: &Shortage) {
        let _ = (task, shortage);
    }
}

/// Results of one program that wait in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backlog {
    /// How much memory they take.
    pub n_bytes: u64,
    /// The largest of them, and how large it is.
    pub largest: (TaskIndex, u64),
}

/// What has been put on disk.
#[derive(Debug, Default)]
pub struct Spilled {
    /// How much memory is free now that was not.
    pub n_bytes: u64,
    /// Why there is not more, where something could not be written.
    pub failure: Option<std::io::Error>,
}

/// How a worker died.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Death {
    /// The process id it had.
    pub pid: u32,
    /// The exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The last lines it wrote to its standard output and error.
    pub last_output: String,
    /// Whether it was seen to run the task, rather than to have it next.
    pub was_running: bool,
    /// How much memory it had at most, shared memory included, if that is known.
    pub n_bytes_peak: Option<u64>,
    /// The most that it was seen to have.
    pub n_bytes_seen: u64,
    /// What its fault handler wrote.
    pub stack: String,
    /// Why it was stopped from here, if memory was the reason.
    pub stop: Option<Box<MemoryStop>>,
    /// Whether the kernel has ended processes about that time because memory ran out.
    pub is_oom_kill: bool,
    /// How much memory there is, of a worker that was killed by nobody known.
    pub n_bytes_there: Option<u64>,
    /// How the worker died that ran the same task before.
    pub before: Option<Box<Death>>,
}

impl Death {
    /// Whether it died because memory ran short.
    pub(crate) fn was_memory_short(&self) -> bool {
        self.stop.is_some() || self.is_oom_kill
    }

    /// What is kept of it until the same task's next worker dies.
    pub(crate) fn abridged(&self) -> Death {
        Death {
            last_output: String::new(),
            stack: String::new(),
            before: None,
            ..self.clone()
        }
    }
}

/// A worker was stopped before memory ran out.
#[derive(Clone, PartialEq, Debug)]
pub struct MemoryStop {
    /// What it took for itself, without shared memory.
    pub n_bytes: u64,
    /// What all workers took, and how many there were.
    pub n_bytes_all: u64,
    /// See there.
    pub n_workers: usize,
    /// What all of them may take.
    pub n_bytes_max: u64,
    /// What that follows from.
    pub limit: WorkerMemoryLimit,
    /// How much memory there is, where the limit is a share of that.
    pub n_bytes_there: Option<u64>,
    /// How much of it was left.
    pub n_bytes_available: Option<u64>,
    /// The control group in which that is so, if it is not the machine.
    pub group: Option<PathBuf>,
}

/// Called at the start of each thread of a pool.
pub trait ThreadHook: Send + Sync {
    /// Prepares the thread; what is returned is dropped in the same thread when it ends.
    fn started(&self) -> ThreadGuard;

    /// Takes turns for as long as there are any, with what they need at hand: what takes long to get, such as
    /// an interpreter's lock, is had once for all tasks that are there.
    fn stay(&self, turn: &mut dyn FnMut() -> bool) {
        while turn() {}
    }

    /// Drops what a thread is done with, if nobody else has it, where dropping needs preparing, too.
    fn let_go(&self, program: Arc<dyn Program>) {
        drop(program);
    }
}

/// Whatever a [`ThreadHook`] wants dropped at the end of the thread.
pub type ThreadGuard = Box<dyn Any>;

impl ThreadHook for () {
    fn started(&self) -> ThreadGuard {
        Box::new(())
    }
}
