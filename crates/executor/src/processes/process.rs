//! A child process of this one: started by a command, or forked.

use super::usage::n_bytes_peak_here;
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    /// How it ended, once it has been waited for: its number may mean another process then.
    end: Option<End>,
    /// What the system may count as this process's memory although it was another's: a process that is
    /// started inherits the peak of the one that started it.
    n_bytes_inherited: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    /// How much memory it had at most, shared memory included, if that is known.
    pub(super) n_bytes_peak: Option<u64>,
}

impl Process {
    /// One that has just been started, or whose start has begun with this process's memory.
    pub(super) fn started(child: std::process::Child) -> io::Result<Process> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Process {
            pid: pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?,
            end: None,
            n_bytes_inherited: n_bytes_peak_here(),
        })
    }

    pub(super) fn forked(pid: Pid) -> Process {
        Process {
            pid,
            end: None,
            n_bytes_inherited: 0,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    pub(super) fn kill(&mut self) {
        if self.end.is_none() {
            // Fails only if the process is gone already.
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }

    /// Sends a signal of the kind that programs define themselves, if the process is still there.
    #[allow(unsafe_code)]
    pub(super) fn send(&self, number: i32) {
        if self.end.is_none() {
            // SAFETY: plain numbers; the process is a child that has not been waited for, so that its
            // number means no other.
            let _ = unsafe { libc::kill(self.pid.as_raw_pid(), number) };
        }
    }

    /// How it ended, if it has.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<End>> {
        self.wait_with(libc::WNOHANG)
    }

    /// How it ended, once it has.
    pub(super) fn wait(&mut self) -> Option<End> {
        self.wait_with(0).ok().flatten()
    }

    fn wait_with(&mut self, options: i32) -> io::Result<Option<End>> {
        if self.end.is_none() {
            let ended = loop {
                match wait4(self.pid, options) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            self.end = ended.map(|(status, n_bytes_peak)| End {
                exit_code: status.code(),
                signal: status.signal(),
                n_bytes_peak: (n_bytes_peak > self.n_bytes_inherited).then_some(n_bytes_peak),
            });
        }
        Ok(self.end)
    }
}

/// Waits for a child; its status and how much memory it had at most, if it has ended.
#[allow(unsafe_code)]
fn wait4(pid: Pid, options: i32) -> io::Result<Option<(ExitStatus, u64)>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both places are as large as the system expects and outlive the call.
    let waited = unsafe {
        libc::wait4(
            pid.as_raw_pid(),
            &raw mut status,
            options,
            usage.as_mut_ptr(),
        )
    };
    match waited {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => {
            // SAFETY: plain numbers, of which all bits at zero are valid ones.
            let usage = unsafe { usage.assume_init() };
            let n_bytes_peak = u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10;
            Ok(Some((ExitStatus::from_raw(status), n_bytes_peak)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn run(program: &str, args: &[&str]) -> Process {
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::null());
        let child = command.spawn().expect("it is everywhere");
        Process::started(child).expect("it has a number")
    }

    #[test]
    fn how_a_process_ends_is_told_as_often_as_asked() {
        let mut process = run("sh", &["-c", "exit 3"]);
        let end = process.wait().expect("it is a child");
        assert_eq!((end.exit_code, end.signal), (Some(3), None));
        let again = process.try_wait().expect("it is known");
        assert_eq!(again.and_then(|end| end.exit_code), Some(3));
        process.kill();
    }

    #[test]
    fn a_signal_is_told_as_one() {
        let mut process = run("sleep", &["1000"]);
        assert!(process.try_wait().expect("it is a child").is_none());
        process.send(libc::SIGTERM);
        let end = process.wait().expect("it is a child");
        assert_eq!((end.exit_code, end.signal), (None, Some(libc::SIGTERM)));
    }

    #[test]
    fn memory_that_was_inherited_is_not_counted() {
        let ballast = std::hint::black_box(vec![1u8; 64 << 20]);
        let child = Command::new("true").spawn().expect("it is everywhere");
        let mut process = Process::started(child).expect("it has a number");
        let end = process.wait().expect("it is a child");
        assert!(
            end.n_bytes_peak.is_none_or(|peak| peak < 32 << 20),
            "{end:?}"
        );
        drop(ballast);
    }
}
