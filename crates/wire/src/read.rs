//! Reading frames from bytes as they arrive.

use crate::frame::{HEADER_BYTES, Header};
use crate::{PlaceBytes, ResultEntries, TaskEntries, TaskKey, WireError, kind};

/// Gathers bytes from a connection and gives whole messages out of them.
#[derive(Default, Debug)]
pub struct FrameReader {
    /// Cleared when it grows and never again: reading must not cost more than what is read.
    buffer: Vec<u8>,
    /// Bytes of the buffer that have arrived.
    n_filled: usize,
    /// Bytes of these that have been given out.
    n_used: usize,
}

/// A buffer that one large message has grown beyond this is given up afterwards.
const BUFFER_BYTES_KEPT_MAX: usize = 1 << 22;
/// Room for a large message is made in steps of so many bytes: its length is only a claim until the
/// bytes have come.
const BUFFER_STEP_BYTES: usize = 1 << 24;

impl FrameReader {
    /// Room for at least `n_bytes` more; fill it and call [`FrameReader::filled`].
    pub fn room(&mut self, n_bytes: usize) -> &mut [u8] {
        self.forget_used();
        // The next frame's length is known as soon as its header is: make room for all of it.
        let n_missing = self.n_missing().unwrap_or(0).min(BUFFER_STEP_BYTES);
        let n_needed = self.n_filled + n_bytes.max(n_missing);
        if self.buffer.len() < n_needed {
            self.buffer.resize(n_needed, 0);
        }
        &mut self.buffer[self.n_filled..]
    }

    /// Says how many bytes of the `n_room` from [`FrameReader::room`] were filled.
    pub fn filled(&mut self, n_room: usize, n_bytes: usize) {
        assert!(n_bytes <= n_room, "more filled than there was room");
        self.n_filled += n_bytes;
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.room(bytes.len());
        let n_room = room.len();
        room[..bytes.len()].copy_from_slice(bytes);
        self.filled(n_room, bytes.len());
    }

    fn forget_used(&mut self) {
        if self.n_used > 0 {
            self.buffer.copy_within(self.n_used..self.n_filled, 0);
            self.n_filled -= self.n_used;
            self.n_used = 0;
        }
        if self.n_filled == 0 && self.buffer.len() > BUFFER_BYTES_KEPT_MAX {
            self.buffer = Vec::new();
        }
    }

    /// How many bytes the frame that has begun still lacks.
    fn n_missing(&self) -> Option<usize> {
        let rest = &self.buffer[self.n_used..self.n_filled];
        let header = Header::read(rest).ok()??;
        (header.body_bytes + HEADER_BYTES).checked_sub(rest.len())
    }

    /// The next whole message, if all of it has arrived.
    ///
    /// # Errors
    ///
    /// If the bytes are not a message; the connection is of no use any more.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, WireError> {
        let rest = &self.buffer[self.n_used..self.n_filled];
        let Some(header) = Header::read(rest)? else {
            return Ok(None);
        };
        let end = HEADER_BYTES + header.body_bytes;
        let Some(body) = rest.get(HEADER_BYTES..end) else {
            return Ok(None);
        };
        if !header.is_of(body) {
            return Err(WireError::Damaged(header.kind));
        }
        let start = self.n_used + HEADER_BYTES;
        self.n_used += end;
        Message::read(header.kind, &self.buffer[start..self.n_used]).map(Some)
    }

    /// To be called at the end of the connection, when all whole messages have been read.
    ///
    /// # Errors
    ///
    /// If it has ended within a message.
    pub fn finish(&self) -> Result<(), WireError> {
        match self.n_filled - self.n_used {
            0 => Ok(()),
            n_bytes => Err(WireError::Cut(n_bytes)),
        }
    }

    /// How many bytes of memory it takes.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

/// A message, borrowed from the bytes it came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// The surroundings in which tasks run from now on, and where what they write goes.
    Context(Context<'a>),
    /// A function and its number.
    Function(u32, &'a [u8]),
    /// Tasks to run, in this order.
    Tasks(TaskEntries<'a>),
    /// Give back those of these tasks that have not started.
    TakeBack(TaskKeys<'a>),
    /// Functions that may be forgotten.
    Forget(Vec<u32>),
    /// A memory segment that later messages refer to, whose descriptor has come with this one.
    Segment(u64),
    /// Places in the worker's own memory that nobody reads any more.
    Release(PlaceEntries<'a>),
    /// Nothing refers to the segments of this owner any more, and its process is gone.
    OwnerGone(u32),
    /// End.
    Stop,
    /// The worker speaks this version and can take tasks.
    Ready(u32),
    /// Results of tasks.
    Results(ResultEntries<'a>),
    /// Tasks that will not be run.
    TakenBack(TaskKeys<'a>),
    /// Functions of which nothing is left in the worker.
    Forgotten(Vec<u32>),
    /// What a task has to say beside its result.
    Report(Report<'a>),
}

/// The surroundings in which tasks run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context<'a> {
    /// Where what they write to the standard streams goes, by a number of the parent's.
    pub route: u32,
    /// Whether what each of them writes is to end with a mark.
    pub is_marked: bool,
    /// The rest, which is the worker's host's business.
    pub bytes: &'a [u8],
}

impl<'a> Context<'a> {
    fn read(mut cursor: Cursor<'a>) -> Option<Context<'a>> {
        let route = cursor.u32()?;
        let [is_marked] = cursor.array()?;
        Some(Context {
            route,
            is_marked: is_marked != 0,
            bytes: cursor.rest,
        })
    }
}

/// What a task has to say beside its result, which comes later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report<'a> {
    /// Its number among the reports of its worker.
    pub number: u32,
    /// The task that was running.
    pub task: TaskKey,
    /// What it says: the host's business, here and there.
    pub bytes: &'a [u8],
}

impl<'a> Report<'a> {
    fn read(mut cursor: Cursor<'a>) -> Option<Report<'a>> {
        Some(Report {
            number: cursor.u32()?,
            task: cursor.key()?,
            bytes: cursor.rest,
        })
    }
}

impl<'a> Message<'a> {
    fn read(kind: u8, body: &'a [u8]) -> Result<Message<'a>, WireError> {
        let truncated = WireError::Truncated(kind);
        let mut cursor = Cursor { rest: body };
        Ok(match kind {
            kind::CONTEXT => Message::Context(Context::read(cursor).ok_or(truncated)?),
            kind::FUNCTION => Message::Function(cursor.u32().ok_or(truncated)?, cursor.rest),
            kind::TASKS => Message::Tasks(TaskEntries::checked(body).ok_or(truncated)?),
            kind::TAKE_BACK => Message::TakeBack(TaskKeys::checked(kind, body)?),
            kind::FORGET => Message::Forget(cursor.all_u32().ok_or(truncated)?),
            kind::FORGOTTEN => Message::Forgotten(cursor.all_u32().ok_or(truncated)?),
            kind::SEGMENT => Message::Segment(u64::from_le_bytes(cursor.array().ok_or(truncated)?)),
            kind::RELEASE => Message::Release(PlaceEntries::checked(body)?),
            kind::OWNER_GONE => Message::OwnerGone(cursor.u32().ok_or(truncated)?),
            kind::STOP => Message::Stop,
            kind::READY => Message::Ready(cursor.u32().ok_or(truncated)?),
            kind::RESULTS => Message::Results(ResultEntries::checked(body).ok_or(truncated)?),
            kind::TAKEN_BACK => Message::TakenBack(TaskKeys::checked(kind, body)?),
            kind::REPORT => Message::Report(Report::read(cursor).ok_or(truncated)?),
            _ => return Err(WireError::UnknownKind(kind)),
        })
    }
}

/// Reads numbers off the front of a slice; `None` when it is too short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    #[inline]
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// All that is left, as numbers.
    fn all_u32(mut self) -> Option<Vec<u32>> {
        let is_whole = self.rest.len().is_multiple_of(4);
        is_whole.then(|| std::iter::from_fn(|| self.u32()).collect())
    }

    #[inline]
    fn key(&mut self) -> Option<TaskKey> {
        Some(TaskKey {
            job: self.u32()?,
            index: self.u32()?,
        })
    }
}

/// The tasks of a request to take back, or of its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskKeys<'a>(Cursor<'a>);

impl<'a> TaskKeys<'a> {
    fn checked(kind: u8, rest: &'a [u8]) -> Result<TaskKeys<'a>, WireError> {
        if !rest.len().is_multiple_of(8) {
            return Err(WireError::Truncated(kind));
        }
        Ok(TaskKeys(Cursor { rest }))
    }
}

impl Iterator for TaskKeys<'_> {
    type Item = TaskKey;

    fn next(&mut self) -> Option<TaskKey> {
        self.0.key()
    }
}

/// The places of a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlaceEntries<'a>(Cursor<'a>);

impl<'a> PlaceEntries<'a> {
    fn checked(rest: &'a [u8]) -> Result<PlaceEntries<'a>, WireError> {
        if !rest.len().is_multiple_of(size_of::<PlaceBytes>()) {
            return Err(WireError::Truncated(kind::RELEASE));
        }
        Ok(PlaceEntries(Cursor { rest }))
    }
}

impl Iterator for PlaceEntries<'_> {
    type Item = PlaceBytes;

    fn next(&mut self) -> Option<PlaceBytes> {
        self.0.array()
    }
}
