//! Marks that a worker puts between what its tasks write to its standard streams.
//!
//! A stream is text of anybody's, so a mark begins with sixteen bytes that nobody else writes:
//!
//! ```text
//! byte  0..16  the secret, whose first byte is zero
//!      16      kind of mark
//!      17..25  a task's job and index, or a number and zero; little-endian
//! ```

use crate::TaskKey;

const SECRET_BYTES: usize = 16;
/// The length of a mark.
pub const MARK_BYTES: usize = SECRET_BYTES + 9;

const ROUTE: u8 = 1;
const ENDED: u8 = 2;
const REPORT: u8 = 3;
const TRIED: u8 = 4;

/// What marks of one worker begin with; both ends know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// That of a worker, by its own number and its parent's process.
    pub fn new(owner: u32, parent: u32) -> Secret {
        let mut state = u64::from(owner) << 32 | u64::from(parent);
        let mut next = || {
            // SplitMix64: numbers that no text has by chance.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)).to_le_bytes()
        };
        let mut secret = [0; SECRET_BYTES];
        secret[..8].copy_from_slice(&next());
        secret[8..].copy_from_slice(&next());
        secret[0] = 0;
        Secret(secret)
    }
}

/// What stands between pieces of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// What follows goes this way.
    Route(u32),
    /// What came since the mark before was written by this task, which has ended.
    Ended(TaskKey),
    /// The same of a task that has failed, and is run once more if it may be.
    Tried(TaskKey),
    /// Here belongs the report with this number, which comes by itself.
    Report(u32),
}

impl Mark {
    /// The mark as bytes, to be written at once.
    pub fn to_bytes(self, secret: Secret) -> [u8; MARK_BYTES] {
        let (kind, a, b) = match self {
            Mark::Route(route) => (ROUTE, route, 0),
            Mark::Ended(task) => (ENDED, task.job, task.index),
            Mark::Tried(task) => (TRIED, task.job, task.index),
            Mark::Report(number) => (REPORT, number, 0),
        };
        let mut bytes = [0; MARK_BYTES];
        bytes[..SECRET_BYTES].copy_from_slice(&secret.0);
        bytes[SECRET_BYTES] = kind;
        bytes[SECRET_BYTES + 1..SECRET_BYTES + 5].copy_from_slice(&a.to_le_bytes());
        bytes[SECRET_BYTES + 5..].copy_from_slice(&b.to_le_bytes());
        bytes
    }

    /// The mark in these bytes, if they are one.
    fn read(bytes: &[u8; MARK_BYTES], secret: Secret) -> Option<Mark> {
        let rest = bytes.strip_prefix(&secret.0)?;
        let number = |at: usize| {
            let four = rest.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(four))
        };
        let (a, b) = (number(1)?, number(5)?);
        match rest[0] {
            ROUTE => Some(Mark::Route(a)),
            ENDED => Some(Mark::Ended(TaskKey { job: a, index: b })),
            TRIED => Some(Mark::Tried(TaskKey { job: a, index: b })),
            REPORT => Some(Mark::Report(a)),
            _ => None,
        }
    }
}

/// A part of a marked stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// Text, not empty.
    Text(&'a [u8]),
    /// A mark.
    Mark(Mark),
}

/// Tells marks from text, in whatever pieces they arrive.
#[derive(Debug)]
pub struct MarkReader {
    secret: Secret,
    /// What may be the beginning of a mark.
    held: Vec<u8>,
}

impl MarkReader {
    /// Reads a stream whose marks begin with this.
    pub fn new(secret: Secret) -> MarkReader {
        MarkReader {
            secret,
            held: Vec::new(),
        }
    }

    /// Takes what has arrived and gives its pieces, in order.
    pub fn read(&mut self, bytes: &[u8], mut give: impl FnMut(Piece<'_>)) {
        if self.held.is_empty() {
            let n_used = self.split(bytes, &mut give);
            self.held.extend_from_slice(&bytes[n_used..]);
            return;
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        let n_used = self.split(&joined, &mut give);
        joined.drain(..n_used);
        self.held = joined;
    }

    /// Gives what has been held back at the end of the stream: it was text after all.
    pub fn finish(&mut self, mut give: impl FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            give(Piece::Text(&held));
        }
    }

    /// Gives the pieces of some bytes; how many of these are settled. The rest may begin a mark.
    fn split(&self, bytes: &[u8], give: &mut dyn FnMut(Piece<'_>)) -> usize {
        let mut text_start = 0;
        let mut at = 0;
        while let Some(found) = bytes[at..].iter().position(|&byte| byte == 0) {
            at += found;
            let rest = &bytes[at..];
            let mark = match rest.first_chunk() {
                Some(whole) => Mark::read(whole, self.secret),
                None if self.may_begin_mark(rest) => break,
                None => None,
            };
            let Some(mark) = mark else {
                at += 1;
                continue;
            };
            give_text(&bytes[text_start..at], give);
            give(Piece::Mark(mark));
            at += MARK_BYTES;
            text_start = at;
        }
        let is_open = bytes[at..].first() == Some(&0) && bytes.len() - at < MARK_BYTES;
        let end = if is_open && self.may_begin_mark(&bytes[at..]) {
            at
        } else {
            bytes.len()
        };
        give_text(&bytes[text_start..end], give);
        end
    }

    fn may_begin_mark(&self, rest: &[u8]) -> bool {
        let n_bytes = rest.len().min(SECRET_BYTES);
        rest[..n_bytes] == self.secret.0[..n_bytes]
    }
}

fn give_text(text: &[u8], give: &mut dyn FnMut(Piece<'_>)) {
    if !text.is_empty() {
        give(Piece::Text(text));
    }
}
