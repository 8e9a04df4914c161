//! A worker process as its parent has it: how it is started, what it writes, how it ended.

use super::descriptors::Descriptor;
use super::hurry::Hurry;
use super::output::Output;
use super::process::{End, Process};
use crate::connection;
use crate::program::Death;
use crate::relay::{Routes, Stream};
use crate::status::StatusPage;
use manyhands_wire::{Secret, TaskKey};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
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
pub(super) const TAIL_BYTES: usize = 1 << 14;
/// What a fault handler begins with.
const FAULT: &str = "Fatal Python error: ";
/// How long a process may take to be gone once its connection is.
const END_WAIT: Duration = Duration::from_millis(500);

/// The signal on which a worker writes down where it is. Hardly any program uses it; and a worker that
/// gets it is about to be ended.
pub const DUMP_SIGNAL: i32 = 63;
/// How long a worker may take for that, and how often to look.
const DUMP_WAIT: Duration = Duration::from_millis(100);
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
}

/// Where what the workers of a pool write goes.
#[derive(Clone)]
pub(crate) struct Ways {
    /// Whether output that nobody takes is to be thrown away rather than waited for.
    pub(crate) hurry: Hurry,
    /// Where goes what workers write.
    pub(crate) routes: Arc<Routes>,
}

impl Child {
    /// Starts a worker that allocates shared memory as `owner`; gives it and this end of the connection.
    pub(crate) fn spawn(
        command: &WorkerCommand,
        owner: u32,
        ways: &Ways,
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
        Ok(Child::new(process, ours, pipes, owner, ways))
    }

    /// Takes a process that has just come to be, with the connection to it and where its standard
    /// output and error come from: pipes whose reading does not wait.
    pub(super) fn new(
        mut process: Process,
        connection: Descriptor,
        [stdout, stderr]: [Option<Descriptor>; 2],
        owner: u32,
        ways: &Ways,
    ) -> (Child, Descriptor) {
        let status = greet(&connection, owner).unwrap_or_else(|_| {
            // It has ended already, or must not wait for what cannot be sent. Either way it is found
            // to have ended before it was ready.
            process.kill();
            None
        });
        let pidfd = as_pid(process.pid())
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let secret = Secret::new(owner, std::process::id());
        let child = Child {
            process,
            pidfd: pidfd.map(Descriptor::new),
            stdout: Output::new(stdout, Stream::Stdout, secret, ways),
            stderr: Output::new(stderr, Stream::Stderr, secret, ways),
            status: status.map(Arc::new),
            tail: Vec::new(),
            is_let_out: false,
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
        self.stdout.pipe().into_iter().chain(self.stderr.pipe())
    }

    /// Reads what the worker has written, remembers the end of it, and passes on whole lines.
    pub(crate) fn relay(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr] {
            // Only workers that are ready write marks.
            self.is_let_out |= output.read(&mut self.tail);
        }
        if self.is_let_out {
            self.stdout.pass_on_lines();
            self.stderr.pass_on_lines();
        }
    }

    /// Passes on the beginnings of lines as well: what comes next must not appear before them.
    pub(crate) fn relay_parts(&mut self) {
        if self.is_let_out {
            self.stdout.pass_on_all();
            self.stderr.pass_on_all();
        }
    }

    /// Passes on the beginnings of lines that have waited for long; says when there will be some.
    pub(crate) fn relay_old_parts(&mut self) -> Option<Instant> {
        let due = [self.stdout.due(), self.stderr.due()];
        let first = due.into_iter().flatten().min()?;
        if first > Instant::now() {
            return Some(first);
        }
        self.relay_parts();
        None
    }

    /// The worker is ready: what was held back while it was starting can be passed on.
    pub(crate) fn let_out(&mut self) {
        if !self.is_let_out {
            self.is_let_out = true;
            self.relay_parts();
        }
    }

    /// The worker is gone: what it has written last was written by the task it was running.
    pub(crate) fn give_up(&mut self, running: Option<TaskKey>) {
        self.stdout.give_up(running);
        self.stderr.give_up(running);
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
