//! How many CPUs this process may use: the smallest of what the system, a container, a batch system
//! and the person who runs the program allow.
//!
//! | source | what is read | counted as |
//! |---|---|---|
//! | affinity | `sched_getaffinity` (`taskset`, cpusets) | the CPUs in the mask |
//! | control group, version 2 | `cpu.max`, from the own group up to the root | quota / period, rounded up |
//! | control group, version 1 | `cpu.cfs_quota_us` and `cpu.cfs_period_us`, likewise | the same |
//! | Slurm | `SLURM_CPUS_PER_TASK` | the number |
//! | PBS | `NCPUS`, `PBS_NUM_PPN` | the number |
//! | Grid Engine | `NSLOTS` | the number |
//! | LSF | `LSB_DJOB_NUMPROC` | the number |
//! | OpenMP | `OMP_NUM_THREADS` | the first number of its list |
//! | OpenMP | `OMP_THREAD_LIMIT` | the number |
//!
//! A value that is not a number of at least 1 says nothing and is passed over.
//!
//! The decision, [`limits`] and the smallest of them, reads a [`Host`] that the tests make up; [`cpu_count`] and
//! [`cpu_limits`] read the real one.

/// What [`limit`] may ask of the machine it decides for.
pub struct Host<'a> {
    /// The number of CPUs that the system lets this process run on.
    pub affinity: usize,
    /// The content of a file, if there is one with this path.
    pub file: &'a dyn Fn(&str) -> Option<String>,
    /// The value of an environment variable, if it is set.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// One of the things that say how many CPUs this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `affinity`, the name of an environment variable, or the path of a control group's file.
    pub source: String,
    /// How many it allows, at least 1.
    pub n_cpus: usize,
}

const VARIABLES: [&str; 7] = [
    "SLURM_CPUS_PER_TASK",
    "NCPUS",
    "PBS_NUM_PPN",
    "NSLOTS",
    "LSB_DJOB_NUMPROC",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
];

/// How many levels of control groups are looked at; real hierarchies have fewer than ten.
const GROUP_DEPTH_MAX: usize = 64;

/// The number of CPUs that this process may use, at least 1.
///
/// Reads a few small files: keep the result where it is needed often.
pub fn cpu_count() -> usize {
    smallest(&cpu_limits())
}

/// Everything that limits the number of CPUs of this process, beginning with the CPUs that it is bound to.
pub fn cpu_limits() -> Vec<Limit> {
    limits(&Host {
        affinity: affinity(),
        file: &|path| std::fs::read_to_string(path).ok(),
        variable: &|name| std::env::var(name).ok(),
    })
}

/// Everything that limits the number of CPUs of a process on this host.
pub fn limits(host: &Host<'_>) -> Vec<Limit> {
    let affinity = Limit {
        source: "affinity".to_string(),
        n_cpus: host.affinity.max(1),
    };
    let variables = VARIABLES.iter().filter_map(|&name| {
        let n_cpus = first_number(&(host.variable)(name)?)?;
        let source = name.to_string();
        Some(Limit { source, n_cpus })
    });
    let mut found = vec![affinity];
    found.extend(group_limits(host));
    found.extend(variables);
    found
}

/// What several limits come to.
fn smallest(limits: &[Limit]) -> usize {
    limits.iter().map(|limit| limit.n_cpus).min().unwrap_or(1)
}

fn affinity() -> usize {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) if set.count() > 0 => set.count() as usize,
        // The machine has more CPUs than the mask has bits.
        _ => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// The first number of a comma-separated list, if it is at least 1.
fn first_number(text: &str) -> Option<usize> {
    let first = text.split(',').next()?;
    first.trim().parse().ok().filter(|&number| number >= 1)
}

/// The quotas of the control groups that this process is in.
fn group_limits(host: &Host<'_>) -> Vec<Limit> {
    let groups = (host.file)("/proc/self/cgroup").unwrap_or_default();
    let mounts = (host.file)("/proc/self/mountinfo").unwrap_or_default();
    groups
        .lines()
        .filter_map(Membership::parse)
        .flat_map(|membership| membership.limits(host, &mounts))
        .collect()
}

/// A control group of this process that can limit its CPU time.
struct Membership<'a> {
    is_version_2: bool,
    path: &'a str,
}

impl<'a> Membership<'a> {
    /// Reads a line `<id>:<controllers>:<path>`; version 2 has id 0 and no controllers.
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_version_2 = id == "0" && controllers.is_empty();
        let counts = is_version_2 || controllers.split(',').any(|controller| controller == "cpu");
        counts.then_some(Self { is_version_2, path })
    }

    /// The quotas from this group up to the root of its hierarchy.
    fn limits(&self, host: &Host<'_>, mounts: &str) -> Vec<Limit> {
        let found = mounts.lines().find_map(|line| self.mount(line));
        let default = Mount {
            root: "/",
            point: if self.is_version_2 {
                "/sys/fs/cgroup"
            } else {
                "/sys/fs/cgroup/cpu"
            },
        };
        let mount = found.unwrap_or(default);
        let mut group = mount.relative(self.path);
        let mut found = Vec::new();
        for _ in 0..GROUP_DEPTH_MAX {
            found.extend(self.quota(host, &format!("{}{group}", mount.point)));
            match group.rfind('/') {
                Some(end) => group = &group[..end],
                None => break,
            }
        }
        found
    }

    /// Reads a line of `mountinfo` if it mounts this group's hierarchy:
    /// `<id> <parent> <device> <root> <point> <options> <optional>* - <type> <source> <super options>`.
    fn mount<'m>(&self, line: &'m str) -> Option<Mount<'m>> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (kind, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
        let is_it = match self.is_version_2 {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
        };
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        is_it.then_some(Mount { root, point })
    }

    fn quota(&self, host: &Host<'_>, folder: &str) -> Option<Limit> {
        if self.is_version_2 {
            let source = format!("{folder}/cpu.max");
            let text = (host.file)(&source)?;
            let mut words = text.split_whitespace();
            let n_cpus = cpus(words.next()?, words.next()?)?;
            return Some(Limit { source, n_cpus });
        }
        let source = format!("{folder}/cpu.cfs_quota_us");
        let quota = (host.file)(&source)?;
        let period = (host.file)(&format!("{folder}/cpu.cfs_period_us"))?;
        let n_cpus = cpus(&quota, &period)?;
        Some(Limit { source, n_cpus })
    }
}

/// Where a hierarchy of control groups can be seen, and which of its groups is seen there.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
}

impl Mount<'_> {
    /// The path of a group below the mount point, empty for the mount point itself.
    fn relative<'g>(&self, group: &'g str) -> &'g str {
        let below = match self.root {
            "/" => group,
            // A container often sees its own group as the root, and its path from outside.
            root => match group.strip_prefix(root) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
                _ => "",
            },
        };
        below.trim_end_matches('/')
    }
}

/// A quota as a number of CPUs; `max` and negative quotas are no limit.
fn cpus(quota: &str, period: &str) -> Option<usize> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok()?;
    if quota == 0 || period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_MOUNT: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNT: &str =
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    fn check(affinity: usize, files: &[(&str, &str)], variables: &[(&str, &str)], expected: usize) {
        let find = |table: &[(&str, &str)], name: &str| {
            let row = table.iter().find(|(key, _)| *key == name);
            row.map(|(_, value)| (*value).to_string())
        };
        let host = Host {
            affinity,
            file: &|path| find(files, path),
            variable: &|name| find(variables, name),
        };
        assert_eq!(
            smallest(&limits(&host)),
            expected,
            "{files:?} {variables:?}"
        );
    }

    #[test]
    fn every_limit_names_its_source() {
        let host = Host {
            affinity: 8,
            file: &|path| match path {
                "/proc/self/cgroup" => Some("0::/a.slice/job\n".to_string()),
                "/proc/self/mountinfo" => Some(V2_MOUNT.to_string()),
                "/sys/fs/cgroup/a.slice/cpu.max" => Some("300000 100000\n".to_string()),
                _ => None,
            },
            variable: &|name| (name == "NSLOTS").then(|| "5".to_string()),
        };
        let found = limits(&host);
        let named: Vec<_> = found
            .iter()
            .map(|limit| (limit.source.as_str(), limit.n_cpus))
            .collect();
        let group = "/sys/fs/cgroup/a.slice/cpu.max";
        assert_eq!(named, [("affinity", 8), (group, 3), ("NSLOTS", 5)]);
    }

    #[test]
    fn affinity_alone() {
        check(8, &[], &[], 8);
        check(1, &[], &[], 1);
        check(0, &[], &[], 1);
    }

    #[test]
    fn each_variable_limits() {
        for name in VARIABLES {
            check(8, &[], &[(name, "3")], 3);
            check(8, &[], &[(name, " 3 ")], 3);
            check(2, &[], &[(name, "3")], 2);
        }
        check(8, &[], &[("OMP_NUM_THREADS", "4,2,1")], 4);
        check(
            8,
            &[],
            &[("OMP_NUM_THREADS", "6"), ("SLURM_CPUS_PER_TASK", "5")],
            5,
        );
    }

    #[test]
    fn values_that_say_nothing_are_passed_over() {
        for value in [
            "",
            "0",
            "-2",
            "abc",
            "2.5",
            ",",
            "0,4",
            "99999999999999999999999",
        ] {
            for name in VARIABLES {
                check(8, &[], &[(name, value)], 8);
            }
        }
    }

    fn version_2(group: &str, quotas: &[(&str, &str)], expected: usize) {
        let group = format!("0::{group}\n");
        let mut files = vec![
            ("/proc/self/cgroup", group.as_str()),
            ("/proc/self/mountinfo", V2_MOUNT),
        ];
        files.extend(quotas);
        check(8, &files, &[], expected);
    }

    #[test]
    fn a_quota_is_rounded_up() {
        for (quota, expected) in [
            ("max 100000", 8),
            ("200000 100000", 2),
            ("250000 100000", 3),
            ("1000 100000", 1),
            ("1600000 100000", 8),
            ("0 100000", 8),
            ("200000 0", 8),
            ("nonsense", 8),
            ("", 8),
        ] {
            version_2("/job", &[("/sys/fs/cgroup/job/cpu.max", quota)], expected);
        }
    }

    #[test]
    fn the_smallest_quota_up_to_the_root_counts() {
        let (root, slice, job) = (
            "/sys/fs/cgroup/cpu.max",
            "/sys/fs/cgroup/a.slice/cpu.max",
            "/sys/fs/cgroup/a.slice/job/cpu.max",
        );
        version_2(
            "/a.slice/job",
            &[(job, "max 100000"), (slice, "300000 100000")],
            3,
        );
        version_2(
            "/a.slice/job",
            &[(job, "200000 100000"), (slice, "300000 100000")],
            2,
        );
        version_2(
            "/a.slice/job",
            &[
                (job, "700000 100000"),
                (slice, "max 100000"),
                (root, "100000 100000"),
            ],
            1,
        );
        version_2("/", &[(root, "400000 100000")], 4);
        // A group beside the own one has no say.
        version_2(
            "/a.slice/job",
            &[("/sys/fs/cgroup/a.slice/other/cpu.max", "100000 100000")],
            8,
        );
    }

    fn version_1(groups: &str, mounts: &str, folder: &str, quota: &str, expected: usize) {
        let (quota_file, period_file) = (
            format!("{folder}/cpu.cfs_quota_us"),
            format!("{folder}/cpu.cfs_period_us"),
        );
        let files = [
            ("/proc/self/cgroup", groups),
            ("/proc/self/mountinfo", mounts),
            (quota_file.as_str(), quota),
            (period_file.as_str(), "100000\n"),
        ];
        check(8, &files, &[], expected);
    }

    #[test]
    fn version_1_quotas() {
        let groups = "5:memory:/m\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/c\n";
        version_1(
            groups,
            V1_MOUNT,
            "/sys/fs/cgroup/cpu,cpuacct/docker/abc",
            "150000\n",
            2,
        );
        version_1(
            groups,
            V1_MOUNT,
            "/sys/fs/cgroup/cpu,cpuacct/docker",
            "300000\n",
            3,
        );
        version_1(
            groups,
            V1_MOUNT,
            "/sys/fs/cgroup/cpu,cpuacct/docker/abc",
            "-1\n",
            8,
        );
        version_1(groups, "", "/sys/fs/cgroup/cpu/docker/abc", "200000\n", 2);
        version_1(
            "4:cpuacct:/x\n",
            V1_MOUNT,
            "/sys/fs/cgroup/cpu,cpuacct/x",
            "100000\n",
            8,
        );
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let inside = "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        version_1(
            "4:cpu:/docker/abc\n",
            inside,
            "/sys/fs/cgroup/cpu",
            "200000",
            2,
        );
        version_1(
            "4:cpu:/docker/abc/sub\n",
            inside,
            "/sys/fs/cgroup/cpu/sub",
            "300000",
            3,
        );
        version_1(
            "4:cpu:/docker/abcdef\n",
            inside,
            "/sys/fs/cgroup/cpu",
            "200000",
            2,
        );
    }

    #[test]
    fn both_versions_at_once() {
        let mounts =
            format!("{V1_MOUNT}40 31 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let files = [
            ("/proc/self/cgroup", "4:cpu:/a\n0::/b\n"),
            ("/proc/self/mountinfo", mounts.as_str()),
            ("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "400000"),
            ("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000"),
            ("/sys/fs/cgroup/unified/b/cpu.max", "300000 100000"),
        ];
        check(8, &files, &[], 3);
        check(8, &files[..4], &[], 4);
        check(8, &files, &[("NSLOTS", "2")], 2);
    }

    #[test]
    fn paths_without_end_and_broken_files_are_survived() {
        let deep = "/a".repeat(10_000);
        version_2(&deep, &[], 8);
        check(
            8,
            &[
                ("/proc/self/cgroup", "::\n0\nnonsense\n0::\n"),
                ("/proc/self/mountinfo", " - \n- -\n"),
            ],
            &[],
            8,
        );
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(cpu_count() >= 1);
        assert!(cpu_count() <= affinity());
    }
}
