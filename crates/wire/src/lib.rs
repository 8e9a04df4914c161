//! Messages between the engine and a worker process, as bytes. No input or output happens here.
//!
//! A stream is a sequence of frames, all numbers little-endian:
//!
//! ```text
//! byte  0..8   length of the body in bytes, at most BODY_BYTES_MAX
//!       8      kind of message
//!       9..13  check of the body
//!      13..17  check of what stands before it
//!      17..    body
//! ```
//!
//! The second check is looked at as soon as these bytes have come: without it, one wrong bit in a length
//! would have the reader wait for bytes that nobody sends. What is not as it was written is an error. Not
//! noticed is what a stream between two processes cannot do: leave whole frames out, or change their order.
//!
//! A memory segment's frame comes with a descriptor, attached to its first byte: whoever reads takes
//! descriptors in the order in which they arrive, one for each such frame.
//!
//! Bodies are a number or two, or entries packed end to end; see the functions that write them.
//! Reading checks every length: bytes that do not follow the format give an error, never a panic.

mod frame;
mod marks;
mod read;
mod runs;
mod write;

#[doc(hidden)]
pub use frame::{body_check, header};
pub use marks::{MARK_BYTES, Mark, MarkReader, Piece, Secret};
pub use read::{Context, FrameReader, Message, PlaceEntries, Report, TaskKeys};
pub use runs::{
    Ending, ResultEntries, ResultEntry, TaskEntries, TaskEntry, TaskRun, next_in_run, push_counted,
};
pub use write::{FrameWriter, OpenResults, ResultsWriter, TasksWriter};

/// Names a task on the wire: its job and its number in that job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskKey {
    /// The job's number.
    pub job: u32,
    /// The task's number in the job.
    pub index: u32,
}

/// No task, where the protocol has room for one.
pub const NO_TASK: TaskKey = TaskKey {
    job: u32::MAX,
    index: u32::MAX,
};

/// A range of shared memory, as the memory's keeper writes it down. Its meaning is none of this crate's
/// business.
pub type PlaceBytes = [u8; 24];

/// The version of this format; a worker of another version is refused.
pub const PROTOCOL_VERSION: u32 = 5;

/// The longest body: far above any real message, low enough to recognise nonsense.
pub const BODY_BYTES_MAX: u64 = 1 << 42;

pub(crate) mod kind {
    pub(crate) const CONTEXT: u8 = 1;
    pub(crate) const FUNCTION: u8 = 2;
    pub(crate) const TASKS: u8 = 3;
    pub(crate) const TAKE_BACK: u8 = 4;
    pub(crate) const FORGET: u8 = 5;
    pub(crate) const STOP: u8 = 6;
    pub(crate) const SEGMENT: u8 = 7;
    pub(crate) const RELEASE: u8 = 8;
    pub(crate) const OWNER_GONE: u8 = 9;
    pub(crate) const READY: u8 = 16;
    pub(crate) const RESULTS: u8 = 17;
    pub(crate) const TAKEN_BACK: u8 = 18;
    pub(crate) const FORGOTTEN: u8 = 19;
    pub(crate) const REPORT: u8 = 20;
}

/// Why bytes are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// The kind is none that is known.
    #[error("message of unknown kind {0}")]
    UnknownKind(u8),
    /// The length is beyond [`BODY_BYTES_MAX`].
    #[error("message of {0} bytes, more than any message may have")]
    TooLong(u64),
    /// The kind or the length are not those that were written.
    #[error("what stands before a message is damaged")]
    Header,
    /// The body is not what was written.
    #[error("message of kind {0} is damaged")]
    Damaged(u8),
    /// The connection has ended within a message.
    #[error("the connection ends within a message, after {0} bytes of it")]
    Cut(usize),
    /// An entry runs past the end of its message.
    #[error("message of kind {0} ends in the middle of an entry")]
    Truncated(u8),
}
