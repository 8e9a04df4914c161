//! A worker process as its parent has it: how it is started, what it writes, how it ended.

use super::descriptors::Descriptor;
use super::hurry::Hurry;
use super::process::{End, Process};
use crate::connection;
use crate::program::Death;
use crate::status::StatusPage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, waitid};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How workers come to be.
#[derive(Clone)]
pub enum Workers {
    /// By a command.
    Started(WorkerCommand),
    /// Forked by whoever calls [`Nursery::fork_worker`](super::Nursery::fork_worker). Called
    /// with no lock held, quickly and perhaps often, while workers are missing.
    Forked(Arc<dyn Fn() + Send + Sync>),
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Workers::Started(command) => command.fmt(f),
            Workers::Forked(_) => f.write_str("Forked"),
        }
    }
}

/// How to start a worker. Its standard input will be the connection.
#[derive(Clone, Debug, Default)]
pub struct WorkerCommand {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables to set beyond those of this process.
    pub env: Vec<(OsString, OsString)>,
}

/// How much of what a worker wrote last is kept: the deepest stack that a fault handler writes has room.
const TAIL_BYTES: usize = 1 << 14;
/// What a fault handler begins with.
const FAULT: &str = "Fatal Python error: ";
/// How long a process may take to be gone once its connection is.
const END_WAIT: Duration = Duration::from_millis(500);

/// The signal on which a worker writes down where it is. Hardly any program uses it; and a worker that
/// gets it is about to be ended.
pub const DUMP_SIGNAL: i32 = 63;
/// How long a worker may take for that, and how often to look.
const DUMP_WAIT: Duration = Duration::from_millis(30);
const DUMP_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    /// Readable once the process has ended. Not everywhere to be had.
    pub(crate) pidfd: Option<Descriptor>,
    stdout: Output,
    stderr: Output,
    pub(crate) status: Option<Arc<StatusPage>>,
    tail: Vec<u8>,
    /// Whether the worker has been ready.
    is_let_out: bool,
    /// Whether output that nobody takes is to be thrown away rather than waited for.
    hurry: Hurry,
}

/// What a worker writes to one of its standard streams.
#[derive(Debug)]
struct Output {
    pipe: Option<Descriptor>,
    /// What has not been passed on: the beginning of a line, so that lines of several workers do not
    /// mix; or what was written before the worker was ready, as the error tells of one that does not start.
    held: Vec<u8>,
    /// Since when there has been the beginning of a line.
    since: Option<Instant>,
    /// Whether reading stopped before the pipe was empty, in the middle of a line as likely as not.
    is_cut: bool,
}

/// How much of what is held to pass on.
#[derive(Clone, Copy)]
enum Part {
    Lines,
    All,
}

/// How long the beginning of a line may wait for its end.
const PART_WAIT: Duration = Duration::from_millis(100);
/// A longer beginning of a line is passed on.
const HELD_BYTES_MAX: usize = 1 << 16;
/// How much a pipe holds at most, unless somebody has changed it.
const PIPE_HOLDS_BYTES: usize = 1 << 16;

impl Child {
    /// Starts a worker that allocates shared memory as `owner`; gives it and this end of the connection.
    pub(crate) fn spawn(
        command: &WorkerCommand,
        owner: u32,
        hurry: Hurry,
    ) -> io::Result<(Child, Descriptor)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let ours = Descriptor::new(ours);
        let mut process = Command::new(&command.program)
            .args(&command.args)
            .envs(command.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // With its own group goes whatever its tasks have started, and a terminal's Ctrl-C reaches
            // this process alone, which decides what becomes of the workers.
            .process_group(0)
            .spawn()?;
        let stdout = process.stdout.take().map(OwnedFd::from);
        let stderr = process.stderr.take().map(OwnedFd::from);
        let pipes = [stdout, stderr].map(|pipe| pipe.map(Descriptor::new));
        let mut process = Process::started(process)?;
        for pipe in pipes.iter().flatten() {
            if let Err(error) = rustix::io::ioctl_fionbio(pipe, true) {
                process.kill();
                process.wait();
                return Err(error.into());
            }
        }
        Ok(Child::new(process, ours, pipes, owner, hurry))
    }

    /// Takes a process that has just come to be, with the connection to it and where its standard
    /// output and error come from: pipes whose reading does not wait.
    pub(super) fn new(
        mut process: Process,
        connection: Descriptor,
        [stdout, stderr]: [Option<Descriptor>; 2],
        owner: u32,
        hurry: Hurry,
    ) -> (Child, Descriptor) {
        let status = greet(&connection, owner).unwrap_or_else(|_| {
            // It has ended already, or must not wait for what cannot be sent. Either way it is found
            // to have ended before it was ready.
            process.kill();
            None
        });
        let pidfd = as_pid(process.pid())
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let child = Child {
            process,
            pidfd: pidfd.map(Descriptor::new),
            stdout: Output::new(stdout),
            stderr: Output::new(stderr),
            status: status.map(Arc::new),
            tail: Vec::new(),
            is_let_out: false,
            hurry,
        };
        (child, connection)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the worker and what its tasks have started.
    pub(crate) fn kill(&mut self) {
        kill_pid(self.pid());
    }

    /// Has the worker write down where it is, and waits a moment for that: [`bury`](Child::bury) tells it.
    pub(crate) fn dump_stack(&self) {
        let Some(status) = &self.status else { return };
        let n_bytes_before = status.n_bytes_of_text();
        self.process.send(DUMP_SIGNAL);
        let deadline = Instant::now() + DUMP_WAIT;
        let mut n_bytes = n_bytes_before;
        while Instant::now() < deadline {
            std::thread::sleep(DUMP_PAUSE);
            let n_bytes_now = status.n_bytes_of_text();
            // Written line by line: whole once nothing more comes.
            if n_bytes_now > n_bytes_before && n_bytes_now == n_bytes {
                return;
            }
            n_bytes = n_bytes_now;
        }
    }

    /// Where its output comes from.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = &Descriptor> {
        self.stdout.pipe.iter().chain(&self.stderr.pipe)
    }

    /// Reads what the worker has written, remembers the end of it, and passes on whole lines.
    pub(crate) fn relay(&mut self) {
        self.stdout.read(&mut self.tail);
        self.stderr.read(&mut self.tail);
        self.pass_on(Part::Lines);
    }

    /// Passes on the beginnings of lines as well: what comes next must not appear before them.
    pub(crate) fn relay_parts(&mut self) {
        self.pass_on(Part::All);
    }

    /// Passes on the beginnings of lines that have waited for long; says when there will be some.
    pub(crate) fn relay_old_parts(&mut self) -> Option<Instant> {
        let due = [&self.stdout, &self.stderr].map(|output| output.since.map(|at| at + PART_WAIT));
        let first = due.into_iter().flatten().min()?;
        if first > Instant::now() {
            return Some(first);
        }
        self.pass_on(Part::All);
        None
    }

    /// The worker is ready: what was held back while it was starting can be passed on.
    pub(crate) fn let_out(&mut self) {
        if !self.is_let_out {
            self.is_let_out = true;
            self.pass_on(Part::All);
        }
    }

    fn pass_on(&mut self, part: Part) {
        if self.is_let_out {
            let stdout = Sink::new(rustix::stdio::stdout(), &self.hurry);
            self.stdout.pass_on(part, stdout);
            let stderr = Sink::new(rustix::stdio::stderr(), &self.hurry);
            self.stderr.pass_on(part, stderr);
        }
    }

    /// Sees the process to its end and says how it died. Unless it was asked to end, what its tasks
    /// have started ends with it.
    pub(crate) fn bury(&mut self, was_asked: bool) -> Death {
        let end = self.wait_or_kill(was_asked);
        self.relay();
        self.relay_parts();
        let start = self.tail.len().saturating_sub(TAIL_BYTES);
        let mut output = String::from_utf8_lossy(&self.tail[start..]).into_owned();
        let mut stack = self
            .status
            .as_deref()
            .map_or_else(String::new, StatusPage::text);
        let was_signalled = end.is_some_and(|end| end.signal.is_some());
        // A task may have had it written there.
        if was_signalled
            && !stack.contains(FAULT)
            && let Some(at) = output.rfind(FAULT)
        {
            stack.push_str(&output.split_off(at));
        }
        Death {
            pid: self.pid(),
            exit_code: end.and_then(|end| end.exit_code),
            signal: end.and_then(|end| end.signal),
            last_output: last_lines(&output),
            n_bytes_peak: end.and_then(|end| end.n_bytes_peak),
            stack,
            ..Death::default()
        }
    }

    fn wait_or_kill(&mut self, was_asked: bool) -> Option<End> {
        let pid = as_pid(self.pid())?;
        // Left in place until its group has been ended: while it is there, its number is not used again.
        let left = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let deadline = Instant::now() + END_WAIT;
        loop {
            match waitid(WaitId::Pid(pid), left) {
                Ok(None) if Instant::now() >= deadline => break,
                Ok(None) | Err(Errno::INTR) => std::thread::sleep(Duration::from_micros(200)),
                Ok(Some(_)) if was_asked => break,
                Ok(Some(_)) => {
                    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
                    break;
                }
                // Somebody else has waited for it: how it ended cannot be known.
                Err(_) => return None,
            }
        }
        if let Ok(Some(end)) = self.process.try_wait() {
            return Some(end);
        }
        self.kill();
        self.process.wait()
    }
}

/// Sends the first bytes of the connection: the worker's number as an owner of shared memory, with the
/// status page where there can be one.
fn greet(socket: &OwnedFd, owner: u32) -> io::Result<Option<StatusPage>> {
    let (page, fd) = match StatusPage::create() {
        Ok((page, fd)) => (Some(page), Some(fd)),
        Err(_) => (None, None),
    };
    let descriptor = fd.as_ref().map(AsFd::as_fd);
    // Nothing has been sent before: there is room for four bytes.
    connection::send(socket, &owner.to_le_bytes(), descriptor, SendFlags::empty())?;
    Ok(page)
}

impl Output {
    fn new(pipe: Option<Descriptor>) -> Output {
        Output {
            pipe,
            held: Vec::new(),
            since: None,
            is_cut: false,
        }
    }

    /// Takes what the pipe holds now, and little of what somebody may go on writing without end; drops
    /// the pipe at its end.
    fn read(&mut self, tail: &mut Vec<u8>) {
        let mut buffer = [0; 1 << 14];
        let mut n_read = 0;
        self.is_cut = false;
        while let Some(pipe) = &self.pipe {
            if n_read >= PIPE_HOLDS_BYTES {
                self.is_cut = true;
                return;
            }
            match rustix::io::read(pipe, &mut buffer[..]) {
                Ok(0) => self.pipe = None,
                Ok(n_bytes) => {
                    let bytes = &buffer[..n_bytes];
                    n_read += n_bytes;
                    self.held.extend_from_slice(bytes);
                    tail.extend_from_slice(bytes);
                    if tail.len() > 2 * TAIL_BYTES {
                        tail.drain(..tail.len() - TAIL_BYTES);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn pass_on(&mut self, part: Part, to: Sink<'_>) {
        if self.held.is_empty() {
            return;
        }
        let part = if self.is_cut { Part::Lines } else { part };
        let n_bytes = n_bytes_to_pass_on(&self.held, part);
        to.write_all(&self.held[..n_bytes]);
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
fn n_bytes_to_pass_on(held: &[u8], part: Part) -> usize {
    let whole_lines = held.iter().rposition(|&byte| byte == b'\n');
    match (part, whole_lines) {
        (Part::Lines, Some(at)) => at + 1,
        (Part::Lines, None) if held.len() < HELD_BYTES_MAX => 0,
        _ => held.len(),
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
    fn new(to: BorrowedFd<'a>, hurry: &'a Hurry) -> Sink<'a> {
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

/// The last lines of some output, whole ones as far as possible.
fn last_lines(text: &str) -> String {
    let n_lines_max = 20;
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(n_lines_max)..].join("\n")
}

fn as_pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// Ends a worker by number, and what its tasks have started. Only for children that have not been
/// waited for.
pub(crate) fn kill_pid(number: u32) {
    if let Some(pid) = as_pid(number) {
        // These fail only if the process is gone already, or has left its group.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
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
            let n_bytes = n_bytes_to_pass_on(&held, Part::Lines);
            pieces.push(held.drain(..n_bytes).collect());
        }
        let n_bytes = n_bytes_to_pass_on(&held, Part::All);
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
}
