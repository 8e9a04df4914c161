//! How much memory the machine, or the part of it that this process may use, has and has left.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory in all, and what could be had now, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What there is.
    pub n_bytes: u64,
    /// What can be had without anything being killed.
    pub n_bytes_available: u64,
}

/// Below this share of all memory, what can be had counts as little.
const SHORT_SHARE: u64 = 8;

impl Memory {
    /// Whether so little is left that nobody should hold what it can do without.
    pub(crate) fn is_short(self) -> bool {
        self.n_bytes_available < self.n_bytes / SHORT_SHARE
    }

    /// Asks the kernel: the machine, and each control group above this process. `None` where it does
    /// not say.
    pub fn now() -> Option<Memory> {
        let least = |one: Memory, other: Memory| Memory {
            n_bytes: one.n_bytes.min(other.n_bytes),
            n_bytes_available: one.n_bytes_available.min(other.n_bytes_available),
        };
        Memory::limits()
            .into_iter()
            .map(|(_, memory)| memory)
            .reduce(least)
    }

    /// What the machine has, and what each control group above this process may use, with the file that says so. Empty
    /// where the kernel does not say what the machine has.
    pub fn limits() -> Vec<(PathBuf, Memory)> {
        let path = Path::new("/proc/meminfo");
        let text = fs::read_to_string(path).unwrap_or_default();
        let Some(machine) = of_machine(&text) else {
            return Vec::new();
        };
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = vec![(path.to_path_buf(), machine)];
        found.extend(
            groups
                .lines()
                .filter_map(folder_of_group)
                .flat_map(of_groups),
        );
        found
    }

    /// Of the machine and the control groups above this process, the one in which least is left, and the
    /// folder of the group if it is one.
    pub fn scarcest() -> Option<(Memory, Option<PathBuf>)> {
        let limits = Memory::limits().into_iter().enumerate();
        let scarcest = limits.min_by_key(|(_, (_, memory))| memory.n_bytes_available);
        let (at, (file, memory)) = scarcest?;
        // The machine comes first.
        let group = (at > 0).then(|| file.parent().map(Path::to_path_buf));
        Some((memory, group.flatten()))
    }
}

/// How many processes the kernel has ended so far because memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OomKills {
    /// In the control groups of this process.
    pub in_groups: u64,
    /// Anywhere on the machine.
    pub on_machine: u64,
}

impl OomKills {
    /// Asks the kernel; zero where it does not say.
    pub fn now() -> OomKills {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let in_group = |folder: PathBuf| {
            let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
            let text = read("memory.events").or_else(|| read("memory.oom_control"));
            n_oom_kills(&text?)
        };
        let in_groups = groups.lines().filter_map(folder_of_group);
        let on_machine = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        OomKills {
            in_groups: in_groups.filter_map(in_group).sum(),
            on_machine: n_oom_kills(&on_machine).unwrap_or(0),
        }
    }
}

/// The number in the line `oom_kill 3`.
fn n_oom_kills(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

fn of_machine(meminfo: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(Memory {
        n_bytes: kib("MemTotal:")? << 10,
        n_bytes_available: kib("MemAvailable:")? << 10,
    })
}

/// The folder that a line of `/proc/self/cgroup` names, if it is about memory: `0::/a/b` of version 2,
/// `4:memory:/a/b` of version 1.
fn folder_of_group(line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let root = match controllers {
        "" => "/sys/fs/cgroup",
        _ if controllers.split(',').any(|name| name == "memory") => "/sys/fs/cgroup/memory",
        _ => return None,
    };
    Some(Path::new(root).join(path.trim_start_matches('/')))
}

/// The limits of a group and of those above it, with the files that hold them.
fn of_groups(folder: PathBuf) -> Vec<(PathBuf, Memory)> {
    let above = folder.ancestors();
    above
        .take_while(|folder| folder.starts_with("/sys/fs/cgroup"))
        .filter_map(|folder| {
            let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            let (file, limit) = ["memory.max", "memory.limit_in_bytes"]
                .into_iter()
                .find_map(|name| Some((name, number(name)?)))?;
            let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
            let files = inactive_files(&read("memory.stat").unwrap_or_default());
            let memory = Memory {
                n_bytes: limit,
                n_bytes_available: limit.saturating_sub(used.saturating_sub(files)),
            };
            Some((folder.join(file), memory))
        })
        .collect()
}

/// Cached files count as used, but go as soon as somebody needs the memory.
fn inactive_files(stat: &str) -> u64 {
    let line = |name: &str| {
        stat.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    line("total_inactive_file ")
        .or_else(|| line("inactive_file "))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_what_it_has() {
        let meminfo = "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n";
        let memory = of_machine(meminfo).expect("both lines are there");
        assert_eq!(memory.n_bytes, 24_000_000 << 10);
        assert_eq!(memory.n_bytes_available, 20_000_000 << 10);
        assert_eq!(of_machine("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn groups_of_both_versions_are_found() {
        let folder = |line| folder_of_group(line).map(|path| path.display().to_string());
        assert_eq!(folder("0::/a/b").as_deref(), Some("/sys/fs/cgroup/a/b"));
        let one = folder("4:cpu,memory:/a");
        assert_eq!(one.as_deref(), Some("/sys/fs/cgroup/memory/a"));
        assert_eq!(folder("4:cpuset:/a"), None);
    }

    #[test]
    fn cached_files_are_not_counted() {
        assert_eq!(inactive_files("anon 5\ninactive_file 7\n"), 7);
        assert_eq!(
            inactive_files("inactive_file 7\ntotal_inactive_file 9\n"),
            9
        );
        assert_eq!(inactive_files(""), 0);
    }

    #[test]
    fn ended_processes_are_counted_in_both_versions() {
        let two = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 9\n";
        assert_eq!(n_oom_kills(two), Some(3));
        let one = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n";
        assert_eq!(n_oom_kills(one), Some(4));
        assert_eq!(n_oom_kills("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn the_scarcest_is_what_decides() {
        let (scarcest, _) = Memory::scarcest().expect("Linux says so");
        let memory = Memory::now().expect("Linux says so");
        assert!(memory.n_bytes <= scarcest.n_bytes);
    }

    #[test]
    fn this_machine_has_more_than_it_has_left() {
        let memory = Memory::now().expect("Linux says so");
        assert!(memory.n_bytes_available > 0);
        assert!(memory.n_bytes_available <= memory.n_bytes);
        let (source, machine) = &Memory::limits()[0];
        assert_eq!(source, Path::new("/proc/meminfo"));
        assert!(memory.n_bytes <= machine.n_bytes);
    }
}
