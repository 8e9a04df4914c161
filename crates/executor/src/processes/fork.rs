//! Workers forked from this process, which have everything that it has.
//!
//! A forked process has one thread, the one that called: so it is not the reactor that forks, but a
//! thread of the caller's, which finds its own locks, its own thread-local data and its own stack there.

use super::child::Child;
use super::descriptors::{Descriptor, hold_list};
use super::guard::Watched;
use super::process::Process;
use super::reactor::Peer;
use super::{Line, ProcessPool, Shared};
use crate::job::lock;
use crate::owner::Owner;
use crate::relay::Surroundings;
use crate::stock::Pinned;
use crate::worker::{Host, exit_now, serve_forked};
use manyhands_scheduler::{Event, Needs, WorkerId};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, getpid, setpgid};
use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Forked {
    /// The one that called.
    Parent,
    /// The new one.
    Child(WorkerEnd),
}

/// A forked worker's end of the connection to its pool.
#[derive(Debug)]
pub struct WorkerEnd {
    socket: OwnedFd,
    parent: Pid,
}

impl WorkerEnd {
    /// Serves the pool until it asks to stop.
    ///
    /// # Errors
    ///
    /// If the connection breaks off before it is set up.
    pub fn serve(self, host: &mut dyn Host) -> io::Result<()> {
        let parent = self.parent.as_raw_pid().unsigned_abs();
        serve_forked(self.socket, parent, host)
    }
}

/// Descriptors below this stand for the standard streams, whatever they are.
const FIRST_FREE: RawFd = 3;

/// What a forked worker uses. Nothing of it is a standard stream, also where the parent has none.
struct Ends {
    socket: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    null: OwnedFd,
}

fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= FIRST_FREE {
        return Ok(fd);
    }
    Ok(fcntl_dupfd_cloexec(&fd, FIRST_FREE)?)
}

/// Where the workers of a pool are forked. Does not keep the pool from ending.
#[derive(Clone)]
pub struct Nursery {
    shared: Arc<Shared>,
    owner: Owner,
}

impl std::fmt::Debug for Nursery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nursery").finish_non_exhaustive()
    }
}

impl ProcessPool {
    /// Where the workers of this pool are forked.
    pub fn nursery(&self) -> Nursery {
        Nursery {
            shared: Arc::clone(&self.shared),
            owner: self.owner,
        }
    }
}

impl Nursery {
    /// How many workers should be forked now.
    pub fn n_missing(&self) -> usize {
        if self.owner.is_elsewhere() {
            return 0;
        }
        lock(&self.shared.state).n_missing()
    }

    /// Has the pool call for workers, if there should be more: it does so once for each that is gone, and
    /// who was called may not have been able to act.
    pub fn call_if_missing(&self) {
        if self.n_missing() > 0 {
            self.shared.wake_reactor();
        }
    }

    /// Whether the pool has ended, with all of its workers.
    pub fn is_over(&self) -> bool {
        self.owner.is_elsewhere() || !lock(&self.shared.state).has_reactor
    }

    /// From here on workers that are ready wait.
    pub fn hold(&self) {
        lock(&self.shared.state).is_held = true;
    }

    /// Workers that are ready wait no longer.
    pub fn let_out(&self) {
        if self.owner.is_elsewhere() {
            return;
        }
        let mut state = lock(&self.shared.state);
        state.is_held = false;
        let now_ns = self.shared.now_ns();
        for at in 0..state.lines.len() {
            if let Some(line) = &mut state.lines[at]
                && std::mem::take(&mut line.is_held)
            {
                let event = Event::WorkerJoined(WorkerId(at as u32));
                state.act(|core, hands| core.on(event, now_ns, hands));
            }
        }
        drop(state);
        self.shared.wake_reactor();
    }

    /// The pool, in other hands.
    pub fn pool(&self) -> ProcessPool {
        ProcessPool {
            shared: Arc::clone(&self.shared),
            owner: self.owner,
            is_first: false,
            context: Arc::new(Surroundings::here(&[])),
            needs: Needs::default(),
        }
    }

    /// No worker can be forked, nor will the next: what waits for one fails.
    pub fn give_up_forking(&self, text: String) {
        lock(&self.shared.state).starts.refused(text);
        self.shared.wake_reactor();
    }

    /// Forks this process; the new process is a worker of this pool once it [serves](WorkerEnd::serve).
    /// It has lost its standard input, and its output goes to this process; descriptors of pools
    /// stand for nothing there.
    ///
    /// # Safety
    ///
    /// The new process has none of the other threads. It must not touch what one of them may have been
    /// changing at this moment, nor return to whoever called this thread: it ends with
    /// [`exit_now`].
    ///
    /// # Errors
    ///
    /// If the system refuses another process or what it needs. Then this is the only process.
    #[allow(unsafe_code)]
    pub unsafe fn fork_worker(&self) -> io::Result<Forked> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let ours = Descriptor::new(above_standard(ours)?);
        let [stdout, stderr] = [above_standard(stdout)?, above_standard(stderr)?];
        rustix::io::ioctl_fionbio(&stdout, true)?;
        rustix::io::ioctl_fionbio(&stderr, true)?;
        let [stdout, stderr] = [stdout, stderr].map(Descriptor::new);
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let ends = Ends {
            socket: above_standard(theirs)?,
            stdout: above_standard(their_stdout)?,
            stderr: above_standard(their_stderr)?,
            null: above_standard(null)?,
        };
        let parent = getpid();
        let stock = lock(&self.shared.state).options.stock.clone();
        let pinned = stock.map(|stock| stock.pin());
        let mut list = hold_list();
        // SAFETY: `fork` is in every C library, with this signature. The caller promises what must
        // hold of the new process; the list is held, so that it is whole in both.
        let pid = unsafe { fork() };
        if pid == 0 {
            // Its locks may be held here for ever, and it is the parent's.
            std::mem::forget(pinned);
            let others = std::mem::take(&mut *list);
            drop(list);
            let socket = settle(ends, others);
            return Ok(Forked::Child(WorkerEnd { socket, parent }));
        }
        drop(list);
        drop(ends);
        // Negative where there is no new process, which is no number of one.
        let Some(pid) = (pid > 0).then_some(pid).and_then(Pid::from_raw) else {
            return Err(io::Error::last_os_error());
        };
        self.take_in(pid, ours, [Some(stdout), Some(stderr)], pinned);
        Ok(Forked::Parent)
    }

    fn take_in(
        &self,
        pid: Pid,
        ours: Descriptor,
        pipes: [Option<Descriptor>; 2],
        pinned: Option<Pinned>,
    ) {
        let process = Process::forked(pid);
        let owner = lock(&self.shared.state).new_owner();
        let (mut child, socket) = Child::new(process, ours, pipes, owner, &self.shared.ways);
        let socket = Arc::new(socket);
        let mut state = lock(&self.shared.state);
        if state.is_stopped {
            drop(state);
            child.kill();
            child.bury(false);
            return;
        }
        let at = state.add_line(Line::new(Arc::clone(&socket), &child, owner));
        let watched = Watched::forked(child.pid());
        let mut peer = Peer::new(child, owner, socket);
        peer.pinned = pinned;
        peer.watched = watched;
        state.arrivals.push((at, peer));
        drop(state);
        self.shared.wake_reactor();
    }
}

#[allow(unsafe_code)]
// SAFETY: the declaration is that of POSIX.
unsafe extern "C" {
    fn fork() -> i32;
}

/// Arranges the descriptors of a process that has just been forked; gives its connection.
fn settle(ends: Ends, others: Vec<RawFd>) -> OwnedFd {
    let settled = (|| {
        // With its own group goes whatever its tasks start, and a terminal's Ctrl-C does not reach it.
        setpgid(None, None)?;
        for fd in others {
            // Not closed: the inherited objects that own these numbers may be dropped one day, and
            // would then close whatever had taken the number.
            replace(fd, &ends.null, DupFlags::CLOEXEC)?;
        }
        replace(0, &ends.null, DupFlags::empty())?;
        replace(1, &ends.stdout, DupFlags::empty())?;
        replace(2, &ends.stderr, DupFlags::empty())
    })();
    match settled {
        Ok(()) => ends.socket,
        // A worker whose output went elsewhere would not be one.
        Err(_) => exit_now(1),
    }
}

#[allow(unsafe_code)]
fn replace(fd: RawFd, by: &OwnedFd, flags: DupFlags) -> io::Result<()> {
    // SAFETY: the number is one of this process's own, or a standard stream; whoever owns it goes on
    // owning it, as nothing is dropped here.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
    dup3(by, &mut target, flags)?;
    Ok(())
}
