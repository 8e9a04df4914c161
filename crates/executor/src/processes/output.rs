//! What a worker writes to one of its standard streams, and where it goes.

use super::child::{TAIL_BYTES, Ways};
use super::descriptors::Descriptor;
use super::hurry::Hurry;
use crate::relay::{Part, Route, Said, Stream};
use manyhands_graph::TaskIndex;
use manyhands_wire::{Mark, MarkReader, Piece, Secret, TaskKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, FdFlags};
use std::time::{Duration, Instant};

/// What a worker writes to a stream.
pub(super) struct Output {
    pipe: Option<Descriptor>,
    marks: MarkReader,
    way: Way,
    /// Whether reading stopped before the pipe was empty, in the middle of a line as likely as not.
    is_cut: bool,
}

/// Where it goes.
struct Way {
    stream: Stream,
    ways: Ways,
    route: Route,
    /// What has not been passed on: the beginning of a line, so that lines of several workers do not
    /// mix; or what was written before the worker was ready, as the error tells of one that does not start.
    held: Vec<u8>,
    /// Since when there has been the beginning of a line.
    since: Option<Instant>,
    /// What the task that is running has written, where tasks are told apart.
    parts: Vec<Part>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("pipe", &self.pipe)
            .finish_non_exhaustive()
    }
}

/// How much of what is held to pass on.
#[derive(Clone, Copy)]
enum HowMuch {
    Lines,
    All,
}

/// How long the beginning of a line may wait for its end.
const PART_WAIT: Duration = Duration::from_millis(100);
/// A longer beginning of a line is passed on.
const HELD_BYTES_MAX: usize = 1 << 16;
/// How much a pipe holds at most, unless somebody has changed it.
const PIPE_HOLDS_BYTES: usize = 1 << 16;

impl Output {
    pub(super) fn new(
        pipe: Option<Descriptor>,
        stream: Stream,
        secret: Secret,
        ways: &Ways,
    ) -> Output {
        Output {
            pipe,
            marks: MarkReader::new(secret),
            way: Way {
                stream,
                ways: ways.clone(),
                route: Route::Here,
                held: Vec::new(),
                since: None,
                parts: Vec::new(),
            },
            is_cut: false,
        }
    }

    /// Where it comes from, until it has ended.
    pub(super) fn pipe(&self) -> Option<&Descriptor> {
        self.pipe.as_ref()
    }

    /// Takes what the pipe holds now, and little of what somebody may go on writing without end; drops
    /// the pipe at its end. Says whether there were marks.
    pub(super) fn read(&mut self, tail: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 1 << 14];
        let mut n_read = 0;
        let mut is_marked = false;
        self.is_cut = false;
        while let Some(pipe) = &self.pipe {
            if n_read >= PIPE_HOLDS_BYTES {
                self.is_cut = true;
                break;
            }
            match rustix::io::read(pipe, &mut buffer[..]) {
                Ok(0) => self.pipe = None,
                Ok(n_bytes) => {
                    n_read += n_bytes;
                    let Output { marks, way, .. } = self;
                    marks.read(&buffer[..n_bytes], |piece| match piece {
                        Piece::Text(text) => way.take(text, tail),
                        Piece::Mark(mark) => {
                            is_marked = true;
                            way.meet(mark);
                        }
                    });
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.pipe = None,
            }
        }
        if self.pipe.is_none() {
            let Output { marks, way, .. } = self;
            marks.finish(|piece| {
                if let Piece::Text(text) = piece {
                    way.take(text, tail);
                }
            });
        }
        is_marked
    }

    /// When the beginning of a line has waited for long.
    pub(super) fn due(&self) -> Option<Instant> {
        self.way.since.map(|at| at + PART_WAIT)
    }

    pub(super) fn pass_on_lines(&mut self) {
        self.way.pass_on(HowMuch::Lines);
    }

    /// Passes on the beginning of a line as well, unless more of it is there to be read.
    pub(super) fn pass_on_all(&mut self) {
        let how_much = match self.is_cut {
            true => HowMuch::Lines,
            false => HowMuch::All,
        };
        self.way.pass_on(how_much);
    }

    /// Nothing more will come. What came last was written by this task, if any was running.
    pub(super) fn give_up(&mut self, running: Option<TaskKey>) {
        if let Some(task) = running {
            self.way.end(task, false, false);
        }
    }
}

impl Way {
    /// Takes text.
    fn take(&mut self, text: &[u8], tail: &mut Vec<u8>) {
        tail.extend_from_slice(text);
        if tail.len() > 2 * TAIL_BYTES {
            tail.drain(..tail.len() - TAIL_BYTES);
        }
        match &self.route {
            Route::Nowhere => {}
            Route::Here | Route::Caller(_, false) => self.held.extend_from_slice(text),
            Route::Caller(_, true) => match self.parts.last_mut() {
                Some(Part::Text(last)) => last.extend_from_slice(text),
                _ => self.parts.push(Part::Text(text.to_vec())),
            },
        }
    }

    fn meet(&mut self, mark: Mark) {
        match mark {
            Mark::Route(route) => {
                self.pass_on(HowMuch::All);
                self.held.clear();
                self.since = None;
                self.parts.clear();
                self.route = self.ways.routes.get(route);
            }
            Mark::Ended(task) => self.end(task, true, false),
            Mark::Tried(task) => self.end(task, true, true),
            Mark::Report(number) => self.parts.push(Part::Report(number)),
        }
    }

    /// All that came since the last mark was written by this task.
    fn end(&mut self, task: TaskKey, is_whole: bool, may_follow: bool) {
        let parts = std::mem::take(&mut self.parts);
        if !is_whole && parts.is_empty() {
            return;
        }
        if let Route::Caller(inbox, true) = &self.route
            && let Some(inbox) = inbox.upgrade()
        {
            inbox.say(Said::Wrote {
                task: TaskIndex(task.index),
                stream: self.stream,
                parts,
                is_whole,
                may_follow,
            });
        }
    }

    fn pass_on(&mut self, how_much: HowMuch) {
        if self.held.is_empty() {
            return;
        }
        let n_bytes = n_bytes_to_pass_on(&self.held, how_much);
        let text = &self.held[..n_bytes];
        match &self.route {
            Route::Here => Sink::new(self.stream, &self.ways.hurry).write_all(text),
            Route::Caller(inbox, _) => {
                if let Some(inbox) = inbox.upgrade().filter(|_| !text.is_empty()) {
                    inbox.say(Said::Text(self.stream, text.to_vec()));
                }
            }
            Route::Nowhere => {}
        }
        self.held.drain(..n_bytes);
        self.since = match (self.held.is_empty(), self.since, n_bytes) {
            (true, ..) => None,
            (false, Some(since), 0) => Some(since),
            _ => Some(Instant::now()),
        };
    }
}

/// How much of what is held to pass on now: whole lines. Only a line that is longer than what may be
/// held goes on in parts. How much is held says nothing, as reading stops anywhere in a line.
fn n_bytes_to_pass_on(held: &[u8], how_much: HowMuch) -> usize {
    let whole_lines = held.iter().rposition(|&byte| byte == b'\n');
    match (how_much, whole_lines) {
        (HowMuch::Lines, Some(at)) => at + 1,
        (HowMuch::Lines, None) if held.len() < HELD_BYTES_MAX => 0,
        // Whoever takes it may have to make characters of it.
        _ => held.len() - n_bytes_of_open_character(held),
    }
}

/// How much of the end of a text is the beginning of a character (of UTF-8) whose rest is missing.
fn n_bytes_of_open_character(text: &[u8]) -> usize {
    let is_inside = |byte: &&u8| **byte & 0xc0 == 0x80;
    let n_inside = text.iter().rev().take_while(is_inside).take(3).count();
    let n_whole = match text.iter().rev().nth(n_inside) {
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf7) => 4,
        _ => 1,
    };
    if n_inside + 1 < n_whole && text.len() > n_inside + 1 {
        n_inside + 1
    } else {
        0
    }
}

/// Where the output of workers goes: a standard stream of this process.
#[derive(Clone, Copy)]
struct Sink<'a> {
    to: BorrowedFd<'a>,
    hurry: &'a Hurry,
}

/// What every pipe takes at once that takes anything.
const PIPE_BYTES: usize = 4096;
/// How often to look up while nobody takes the output.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

impl<'a> Sink<'a> {
    fn new(stream: Stream, hurry: &'a Hurry) -> Sink<'a> {
        let to = match stream {
            Stream::Stdout => rustix::stdio::stdout(),
            Stream::Stderr => rustix::stdio::stderr(),
        };
        Sink { to, hurry }
    }

    /// Whether the descriptor is a standard stream. Where a program was started without it, a file of
    /// anybody's has the number by now; and such files close on exec.
    fn is_standard(self) -> bool {
        rustix::io::fcntl_getfd(self.to).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
    }

    /// Writes everything, or gives up: a closed standard output is no reason to stop working.
    fn write_all(self, mut bytes: &[u8]) {
        if bytes.is_empty() || !self.is_standard() {
            return;
        }
        while !bytes.is_empty() {
            let mut fds = [PollFd::from_borrowed_fd(self.to, PollFlags::OUT)];
            if matches!(poll(&mut fds, Some(&LOOK_UP)), Ok(0)) {
                if self.hurry.is_on() {
                    return;
                }
                continue;
            }
            match rustix::io::write(self.to, &bytes[..n_bytes_at_once(bytes)]) {
                Ok(n_bytes) => bytes = &bytes[n_bytes..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
    }
}

/// How much to write at once: whole lines, as others may write in between. Only a line that is longer
/// than what a pipe takes at once goes in parts.
fn n_bytes_at_once(bytes: &[u8]) -> usize {
    if bytes.len() <= PIPE_BYTES {
        return bytes.len();
    }
    let whole_lines = bytes[..PIPE_BYTES].iter().rposition(|&byte| byte == b'\n');
    whole_lines.map_or(PIPE_BYTES, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `n_bytes`, as a pipe may give it; gives the pieces that are passed on.
    fn passed_on(text: &[u8], n_bytes: usize) -> Vec<Vec<u8>> {
        let mut held = Vec::new();
        let mut pieces = Vec::new();
        for piece in text.chunks(n_bytes) {
            held.extend_from_slice(piece);
            let n_bytes = n_bytes_to_pass_on(&held, HowMuch::Lines);
            pieces.push(held.drain(..n_bytes).collect());
        }
        let n_bytes = n_bytes_to_pass_on(&held, HowMuch::All);
        pieces.push(held.drain(..n_bytes).collect());
        assert!(held.is_empty());
        pieces
    }

    #[test]
    fn lines_are_whole_however_much_is_read_at_once() {
        let text = [b"x".repeat(100), b"\n".to_vec()].concat().repeat(3000);
        for n_bytes in [
            1,
            1000,
            HELD_BYTES_MAX - 1,
            HELD_BYTES_MAX,
            2 * HELD_BYTES_MAX,
        ] {
            let pieces = passed_on(&text, n_bytes);
            assert!(
                pieces
                    .iter()
                    .all(|piece| piece.last().is_none_or(|&byte| byte == b'\n'))
            );
            assert_eq!(pieces.concat(), text);
        }
    }

    #[test]
    fn lines_are_written_whole() {
        for n_line in [1, 7, 100, 4095, 4096] {
            let text = [b"x".repeat(n_line - 1), b"\n".to_vec()]
                .concat()
                .repeat(100);
            let mut left = &text[..];
            while !left.is_empty() {
                let (piece, rest) = left.split_at(n_bytes_at_once(left));
                assert!(piece.len() <= PIPE_BYTES && piece.ends_with(b"\n"));
                left = rest;
            }
        }
    }

    #[test]
    fn a_line_without_end_is_not_held_for_ever() {
        let text = b"x".repeat(3 * HELD_BYTES_MAX);
        let pieces = passed_on(&text, 1 << 14);
        assert!(pieces.iter().all(|piece| piece.len() <= HELD_BYTES_MAX));
        assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() >= 3);
        assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn characters_are_not_cut() {
        for (text, n_open) in [
            ("aé".as_bytes(), 0),
            (&b"a\xc3"[..], 1),
            (&b"a\xe2\x82"[..], 2),
            (&b"a\xf0\x9f\x98"[..], 3),
            ("a😀".as_bytes(), 0),
            (&b"a\x80\x80\x80\x80"[..], 0),
            (&b"\xc3"[..], 0),
            (&b""[..], 0),
        ] {
            assert_eq!(n_bytes_of_open_character(text), n_open, "{text:?}");
        }
    }
}
