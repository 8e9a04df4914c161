//! How long tasks take.

/// Now, in nanoseconds since some moment.
#[inline]
pub(super) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Measures how long tasks take. Reading a clock would be a tenth of the smallest tasks' time: of these,
/// several are measured together.
pub(super) struct Pace {
    /// When the clock was last read.
    before_ns: u64,
    /// How long the tasks took on average that were last measured.
    mean_ns: u64,
    /// The function of the tasks that are being measured.
    function: u32,
    /// Whether a task like the next has just been measured: if not, the next is measured by itself.
    is_known: bool,
    /// Tasks that have ended since the clock was last read.
    n_unmeasured: u64,
}

/// Tasks shorter than this are measured several together.
const SHORT_NS: u64 = 1_000;
const N_TOGETHER: u64 = 8;

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            before_ns: now_ns(),
            mean_ns: 0,
            function: 0,
            is_known: false,
            n_unmeasured: 0,
        }
    }

    /// A task of this function begins.
    #[inline]
    pub(super) fn begin(&mut self, function: u32) {
        if function != self.function {
            self.function = function;
            self.is_known = false;
        }
    }

    /// The task has ended: how long it took, and what time it is if the clock was read. One that was not
    /// measured itself counts as the mean, so that the sum is right: the next that is makes up for it.
    #[inline]
    pub(super) fn ended(&mut self) -> (u64, Option<u64>) {
        self.n_unmeasured += 1;
        if self.is_known && self.mean_ns < SHORT_NS && self.n_unmeasured < N_TOGETHER {
            return (self.mean_ns, None);
        }
        let now_ns = now_ns();
        let took_ns = now_ns.saturating_sub(self.before_ns);
        let before_ns = (self.n_unmeasured - 1) * self.mean_ns;
        let duration_ns = took_ns.saturating_sub(before_ns);
        self.mean_ns = if self.is_known {
            took_ns / self.n_unmeasured
        } else {
            duration_ns
        };
        self.is_known = true;
        self.n_unmeasured = 0;
        self.before_ns = now_ns;
        (duration_ns, Some(now_ns))
    }

    /// What has passed until now was no task's time.
    pub(super) fn skip(&mut self) -> u64 {
        self.n_unmeasured = 0;
        self.is_known = false;
        self.before_ns = now_ns();
        self.before_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LONG: Duration = Duration::from_millis(5);

    /// As many of the shortest tasks as make them known to be short.
    fn after_short_tasks() -> Pace {
        let mut pace = Pace::new();
        pace.begin(1);
        for _ in 0..100 {
            pace.ended();
        }
        pace
    }

    #[test]
    fn the_times_of_tasks_add_up_to_the_time_that_passed() {
        let started_ns = now_ns();
        let mut pace = Pace::new();
        let mut sum_ns = 0;
        for k in 0..10_000 {
            if k == 5_003 {
                std::thread::sleep(Duration::from_millis(20));
            }
            pace.begin(k / 1_000);
            sum_ns += pace.ended().0;
        }
        assert!(sum_ns >= 20_000_000);
        // What is not measured yet counts as the mean; noise may make single tasks negative, as none.
        let passed_ns = now_ns() - started_ns;
        assert!(
            sum_ns <= 2 * passed_ns + N_TOGETHER * SHORT_NS,
            "{sum_ns} of {passed_ns}"
        );
    }

    #[test]
    fn long_tasks_are_measured_one_by_one() {
        let mut pace = Pace::new();
        for _ in 0..3 {
            std::thread::sleep(LONG);
            let (duration_ns, read_ns) = pace.ended();
            assert!(duration_ns >= LONG.as_nanos() as u64 && read_ns.is_some());
        }
    }

    #[test]
    fn a_long_task_that_comes_alone_after_short_ones_is_measured() {
        let mut pace = after_short_tasks();
        for _ in 0..3 {
            pace.skip();
            std::thread::sleep(LONG);
            assert!(pace.ended().0 >= LONG.as_nanos() as u64);
        }
    }

    #[test]
    fn a_function_is_not_taken_for_the_one_before() {
        let mut pace = after_short_tasks();
        pace.begin(2);
        std::thread::sleep(LONG);
        assert!(pace.ended().0 >= LONG.as_nanos() as u64);
    }
}
