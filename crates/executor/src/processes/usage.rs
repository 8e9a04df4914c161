//! How much memory a process takes, as the kernel tells it.
//!
//! A process's *own* memory is what would be free without it: neither files nor memory files, and so no
//! shared memory. Of a forked process, memory that it still has in common with the one it was forked
//! from is not its own, which only a walk through all of its pages tells.

use std::fs;

/// The memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// All that is mapped and there.
    pub(super) n_bytes: u64,
    /// What is neither a file nor shared memory.
    pub(super) n_bytes_anonymous: u64,
}

/// What a process takes; `None` if it is gone or the system does not say.
pub(super) fn of_process(pid: u32) -> Option<Usage> {
    parse_statm(&fs::read_to_string(format!("/proc/{pid}/statm")).ok()?)
}

/// Pages: all that is mapped, what of it is there, what of that is shared; and more.
fn parse_statm(text: &str) -> Option<Usage> {
    let mut pages = text.split(' ').map(|word| word.parse::<u64>().ok());
    let (_, n_there, n_shared) = (pages.next()??, pages.next()??, pages.next()??);
    let page_bytes = rustix::param::page_size() as u64;
    Some(Usage {
        n_bytes: n_there * page_bytes,
        n_bytes_anonymous: n_there.saturating_sub(n_shared) * page_bytes,
    })
}

/// What of a process's anonymous memory no other process has. Takes time: it looks at each page.
pub(super) fn n_bytes_alone(pid: u32) -> Option<u64> {
    Some(sum_alone(
        &fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?,
    ))
}

/// Sums up what is both anonymous and private, mapping by mapping.
fn sum_alone(smaps: &str) -> u64 {
    let kib = |rest: &str| {
        let number = rest.trim().strip_suffix("kB").map(str::trim_end);
        number
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (mut sum, mut private) = (0, 0);
    for line in smaps.lines() {
        if let Some(rest) = line.strip_prefix("Private_Clean:") {
            private = kib(rest);
        } else if let Some(rest) = line.strip_prefix("Private_Dirty:") {
            private += kib(rest);
        } else if let Some(rest) = line.strip_prefix("Anonymous:") {
            sum += kib(rest).min(private);
        }
    }
    sum << 10
}

/// The most memory that this process has ever had.
pub(super) fn n_bytes_peak_here() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_not_anonymous() {
        let page = rustix::param::page_size() as u64;
        let usage = Usage {
            n_bytes: 200 * page,
            n_bytes_anonymous: 150 * page,
        };
        assert_eq!(parse_statm("1000 200 50 1 0 700 0\n"), Some(usage));
        assert_eq!(parse_statm("1000 200"), None);
        assert_eq!(parse_statm(""), None);
    }

    #[test]
    fn only_what_is_private_and_anonymous_counts() {
        let smaps = "55d0-55d1 rw-p 00000000 00:00 0 [heap]\nRss: 100 kB\nPrivate_Clean: 2 kB\n\
            Private_Dirty: 40 kB\nAnonymous: 100 kB\n7f00-7f01 rw-s 00000000 00:01 5 /memfd:x\n\
            Private_Clean: 0 kB\nPrivate_Dirty: 500 kB\nAnonymous: 0 kB\n";
        assert_eq!(sum_alone(smaps), 42 << 10);
        assert_eq!(sum_alone(""), 0);
    }

    #[test]
    fn memory_of_this_process_is_found() {
        let ballast = std::hint::black_box(vec![1u8; 32 << 20]);
        let pid = std::process::id();
        let usage = of_process(pid).expect("Linux says so");
        assert!(usage.n_bytes_anonymous >= 32 << 20, "{usage:?}");
        assert!(n_bytes_alone(pid).expect("Linux says so") >= 32 << 20);
        assert!(n_bytes_peak_here() >= 32 << 20);
        drop(ballast);
        assert_eq!(of_process(u32::MAX), None);
    }
}
