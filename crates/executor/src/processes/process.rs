//! A child process of this one: started by a command, or forked.

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

#[derive(Debug)]
pub(super) enum Process {
    Started(std::process::Child),
    Forked {
        pid: Pid,
        /// How it ended, once it has been waited for: its number may mean another process then.
        end: Option<End>,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> End {
        End {
            exit_code: status.code(),
            signal: status.signal(),
        }
    }
}

impl From<WaitStatus> for End {
    fn from(status: WaitStatus) -> End {
        End {
            exit_code: status.exit_status(),
            signal: status.terminating_signal(),
        }
    }
}

impl Process {
    pub(super) fn pid(&self) -> u32 {
        match self {
            Process::Started(child) => child.id(),
            Process::Forked { pid, .. } => pid.as_raw_pid().unsigned_abs(),
        }
    }

    pub(super) fn kill(&mut self) {
        // Fails only if the process is gone already.
        match self {
            Process::Started(child) => drop(child.kill()),
            Process::Forked { pid, end: None } => drop(kill_process(*pid, Signal::KILL)),
            Process::Forked { .. } => {}
        }
    }

    /// How it ended, if it has.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<End>> {
        self.wait_with(WaitOptions::NOHANG)
    }

    /// How it ended, once it has.
    pub(super) fn wait(&mut self) -> Option<End> {
        self.wait_with(WaitOptions::empty()).ok().flatten()
    }

    fn wait_with(&mut self, options: WaitOptions) -> io::Result<Option<End>> {
        match self {
            Process::Started(child) if options.is_empty() => Ok(Some(child.wait()?.into())),
            Process::Started(child) => Ok(child.try_wait()?.map(End::from)),
            Process::Forked { end: Some(end), .. } => Ok(Some(*end)),
            Process::Forked { pid, end } => {
                let waited = rustix::io::retry_on_intr(|| waitpid(Some(*pid), options))?;
                *end = waited.map(|(_, status)| End::from(status));
                Ok(*end)
            }
        }
    }
}
