//! How much memory results may take that wait for their readers, and when they go to disk instead.
//!
//! Three things happen as results pile up, each from a share of the limit on: tasks that would only make
//! more of them are held back; results are written to disk, those that are needed last first; and beyond
//! the limit a pool that has something to write listens to no results until it is below again. What is
//! held back for longer than a moment is worth writing for: otherwise results that nobody reads would keep
//! all else waiting.

use crate::job::lock;
use crate::owner::Owner;
use crate::processes::Wake;
use manyhands_store::Memory;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// How much memory results may take that wait for their readers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// This share of what could be had if there were no such results.
    Share(f64),
    /// As much as there is.
    None,
}

/// What is done about results that pile up.
#[derive(Clone, PartialEq, Debug)]
pub struct SpillOptions {
    /// How much memory they may take.
    pub limit: MemoryLimit,
    /// Where they go beyond that.
    pub folder: PathBuf,
}

impl Default for SpillOptions {
    fn default() -> SpillOptions {
        SpillOptions {
            limit: MemoryLimit::Share(0.6),
            folder: default_folder(),
        }
    }
}

/// The folder for temporary files, unless it is in memory and there is one that is not.
fn default_folder() -> PathBuf {
    let usual = std::env::temp_dir();
    let longer = PathBuf::from("/var/tmp");
    let is_usual = std::env::var_os("TMPDIR").is_some() || !is_in_memory(&usual);
    match is_usual || !longer.is_dir() || is_in_memory(&longer) {
        true => usual,
        false => longer,
    }
}

fn is_in_memory(folder: &Path) -> bool {
    // TMPFS_MAGIC, whose type depends on the machine.
    rustix::fs::statfs(folder).is_ok_and(|stat| stat.f_type == 0x0102_1994)
}

/// Percent of the limit. Holding back begins before writing does and ends after it: what is held back
/// need not be written.
const HOLD_FROM: u64 = 70;
const HOLD_TO: u64 = 60;
const SPILL_FROM: u64 = 85;
const SPILL_TO: u64 = 50;

/// How long tasks are held back before results are written for them.
const HELD_FOR: Duration = Duration::from_millis(100);

/// Below this, the system is not asked what there is, where the limit is a share of that: a machine with so
/// little left has other worries.
const N_BYTES_UNASKED: u64 = 64 << 20;
/// How long an answer of the system's holds.
const ASKED_FOR: Duration = Duration::from_millis(100);
/// For so long after something was written, more is taken to be under way.
const WRITING_FOR: Duration = Duration::from_millis(200);

/// How it stands with the results that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Strain {
    pub(crate) n_bytes_waiting: u64,
    pub(crate) n_bytes_max: u64,
    /// Whether nothing new should be begun.
    pub(crate) is_high: bool,
    /// How much should be written to disk.
    pub(crate) n_bytes_to_spill: u64,
    /// When to judge anew although nothing has changed.
    pub(crate) look_again: Option<Instant>,
}

impl Strain {
    /// Whether nothing else should happen before something is on disk.
    pub(crate) fn is_over(&self) -> bool {
        self.n_bytes_waiting > self.n_bytes_max
    }
}

#[derive(Debug, Default)]
struct Gauge {
    high_since: Option<Instant>,
    is_spilling: bool,
    /// What could be had, and when that was.
    asked: Option<(Instant, u64)>,
}

fn percent(n_bytes: u64, share: u64) -> u64 {
    (u128::from(n_bytes) * u128::from(share) / 100) as u64
}

impl Gauge {
    fn judge(&mut self, n_bytes_waiting: u64, n_bytes_max: u64, now: Instant) -> Strain {
        let is_above = |was: bool, from: u64, to: u64| {
            n_bytes_waiting > percent(n_bytes_max, if was { to } else { from })
        };
        let is_high = is_above(self.high_since.is_some(), HOLD_FROM, HOLD_TO);
        self.high_since = is_high.then(|| self.high_since.unwrap_or(now));
        let held_until = self.high_since.map(|since| since + HELD_FOR);
        let is_overdue = held_until.is_some_and(|until| until <= now);
        self.is_spilling = is_overdue || is_above(self.is_spilling, SPILL_FROM, SPILL_TO);
        let n_bytes_to_spill = match self.is_spilling {
            true => n_bytes_waiting.saturating_sub(percent(n_bytes_max, SPILL_TO)),
            false => 0,
        };
        Strain {
            n_bytes_waiting,
            n_bytes_max,
            is_high,
            n_bytes_to_spill,
            look_again: held_until.filter(|_| !self.is_spilling),
        }
    }

    /// What could be had if no results waited.
    fn ask(&mut self, n_bytes_waiting: u64) -> u64 {
        let now = Instant::now();
        match self.asked {
            Some((then, n_bytes)) if now.duration_since(then) < ASKED_FOR => n_bytes,
            _ => {
                let available = Memory::now().map_or(u64::MAX, |memory| memory.n_bytes_available);
                let n_bytes = available.saturating_add(n_bytes_waiting);
                self.asked = Some((now, n_bytes));
                n_bytes
            }
        }
    }
}

/// Counts results that wait, and says how it stands with them.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    options: Mutex<SpillOptions>,
    gauge: Mutex<Gauge>,
    counter: Arc<Counter>,
    pub(crate) n_bytes_on_disk: AtomicU64,
    pub(crate) n_bytes_spilled: AtomicU64,
    /// When something was last written.
    written_at: Mutex<Option<Instant>>,
}

/// What waits, and whom to tell when it becomes less.
#[derive(Debug)]
struct Counter {
    n_bytes: AtomicU64,
    /// Whether a pool holds tasks back, and from how much down it need not.
    is_pressed: AtomicBool,
    n_bytes_low: AtomicU64,
    pools: Mutex<Vec<Weak<Wake>>>,
    process: Owner,
}

impl Default for Counter {
    fn default() -> Counter {
        Counter {
            n_bytes: AtomicU64::new(0),
            is_pressed: AtomicBool::new(false),
            n_bytes_low: AtomicU64::new(0),
            pools: Mutex::default(),
            process: Owner::current(),
        }
    }
}

impl Counter {
    fn wake_all(&self) {
        let pools: Vec<_> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        pools.iter().for_each(|wake| wake.wake());
    }
}

/// What results take and have taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpillStats {
    /// Bytes in memory that wait for their readers.
    pub n_bytes_waiting: u64,
    /// Bytes on disk now.
    pub n_bytes_on_disk: u64,
    /// Bytes that were written to disk so far.
    pub n_bytes_spilled: u64,
}

/// Counts a result as waiting in memory, while it lives.
#[derive(Debug)]
pub struct Waiting {
    n_bytes: u64,
    counter: Arc<Counter>,
}

impl Waiting {
    /// How large the result is.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let counter = &self.counter;
        if counter.process.is_elsewhere() {
            // A copy made by a fork: the result is the original's.
            return;
        }
        let before = counter.n_bytes.fetch_sub(self.n_bytes, Ordering::AcqRel);
        let n_bytes_low = counter.n_bytes_low.load(Ordering::Relaxed);
        let is_passed = before > n_bytes_low && before - self.n_bytes <= n_bytes_low;
        if is_passed && counter.is_pressed.load(Ordering::Acquire) {
            counter.wake_all();
        }
    }
}

impl Shelf {
    pub(crate) fn options(&self) -> SpillOptions {
        lock(&self.options).clone()
    }

    pub(crate) fn set_options(&self, options: SpillOptions) {
        *lock(&self.options) = options;
        *lock(&self.gauge) = Gauge::default();
        self.counter.wake_all();
    }

    /// Has a pool look again when it may go on.
    pub(crate) fn add_pool(&self, wake: &Arc<Wake>) {
        let mut pools = lock(&self.counter.pools);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(wake));
    }

    pub(crate) fn waiting(&self, n_bytes: u64) -> Waiting {
        self.counter.n_bytes.fetch_add(n_bytes, Ordering::AcqRel);
        Waiting {
            n_bytes,
            counter: Arc::clone(&self.counter),
        }
    }

    pub(crate) fn is_any_waiting(&self) -> bool {
        self.counter.n_bytes.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn strain(&self) -> Strain {
        let n_bytes_waiting = self.counter.n_bytes.load(Ordering::Acquire);
        let limit = lock(&self.options).limit;
        let mut gauge = lock(&self.gauge);
        let n_bytes_max = match limit {
            MemoryLimit::Bytes(n_bytes) => n_bytes,
            MemoryLimit::Share(share) if n_bytes_waiting > N_BYTES_UNASKED => {
                (gauge.ask(n_bytes_waiting) as f64 * share) as u64
            }
            MemoryLimit::Share(_) | MemoryLimit::None => u64::MAX,
        };
        let strain = gauge.judge(n_bytes_waiting, n_bytes_max, Instant::now());
        let counter = &self.counter;
        // The mark first: who sees the flag compares with it.
        (counter.n_bytes_low).store(percent(n_bytes_max, HOLD_TO), Ordering::Relaxed);
        (counter.is_pressed).store(strain.is_high, Ordering::Release);
        strain
    }

    /// So much has been written.
    pub(crate) fn wrote(&self, n_bytes: u64) {
        self.n_bytes_on_disk.fetch_add(n_bytes, Ordering::Relaxed);
        self.n_bytes_spilled.fetch_add(n_bytes, Ordering::Relaxed);
        *lock(&self.written_at) = Some(Instant::now());
    }

    /// Whether the limit is passed and somebody is at it.
    pub(crate) fn is_catching_up(&self) -> bool {
        let written_at = *lock(&self.written_at);
        self.strain().is_over() && written_at.is_some_and(|at| at.elapsed() < WRITING_FOR)
    }

    pub(crate) fn stats(&self) -> SpillStats {
        SpillStats {
            n_bytes_waiting: self.counter.n_bytes.load(Ordering::Relaxed),
            n_bytes_on_disk: self.n_bytes_on_disk.load(Ordering::Relaxed),
            n_bytes_spilled: self.n_bytes_spilled.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gauge: &mut Gauge, now: Instant, n_bytes_waiting: u64, expected: (bool, u64)) {
        let strain = gauge.judge(n_bytes_waiting, 1000, now);
        let judged = (strain.is_high, strain.n_bytes_to_spill);
        assert_eq!(judged, expected, "{n_bytes_waiting} of 1000");
        assert_eq!(strain.is_over(), n_bytes_waiting > 1000);
    }

    #[test]
    fn what_is_done_depends_on_how_much_waits_and_what_was_done_before() {
        let (mut gauge, now) = (Gauge::default(), Instant::now());
        let mut check = |n_bytes_waiting, expected| {
            check(&mut gauge, now, n_bytes_waiting, expected);
        };
        check(700, (false, 0));
        check(701, (true, 0));
        check(601, (true, 0));
        check(600, (false, 0));
        check(850, (true, 0));
        check(851, (true, 351));
        check(501, (false, 1));
        check(1500, (true, 1000));
        check(500, (false, 0));
        check(840, (true, 0));
    }

    #[test]
    fn nothing_is_held_back_for_long() {
        let (mut gauge, start) = (Gauge::default(), Instant::now());
        let strain = gauge.judge(750, 1000, start);
        assert_eq!(strain.look_again, Some(start + HELD_FOR));
        check(&mut gauge, start + HELD_FOR / 2, 750, (true, 0));
        check(&mut gauge, start + HELD_FOR, 750, (true, 250));
        assert_eq!(gauge.judge(750, 1000, start + HELD_FOR).look_again, None);
        check(&mut gauge, start + HELD_FOR, 500, (false, 0));
        check(&mut gauge, start + HELD_FOR, 750, (true, 0));
    }

    fn shelf(limit: MemoryLimit) -> Shelf {
        let shelf = Shelf::default();
        let folder = std::env::temp_dir();
        shelf.set_options(SpillOptions { limit, folder });
        shelf
    }

    #[test]
    fn without_a_limit_nothing_is_done() {
        let shelf = shelf(MemoryLimit::None);
        let waiting = shelf.waiting(u64::MAX / 2);
        assert_eq!(shelf.stats().n_bytes_waiting, u64::MAX / 2);
        let strain = shelf.strain();
        assert!(!strain.is_high && strain.n_bytes_to_spill == 0 && !strain.is_over());
        drop(waiting);
        assert_eq!(shelf.stats(), SpillStats::default());
    }

    #[test]
    fn a_share_is_one_of_what_there_would_be_without_what_waits() {
        let shelf = shelf(MemoryLimit::Share(0.5));
        let _few = shelf.waiting(N_BYTES_UNASKED);
        assert!(!shelf.strain().is_high);
        let there_is = Memory::now().expect("Linux says so").n_bytes_available;
        let _many = shelf.waiting(3 * there_is);
        // Were all of it waiting, the limit would be half of four times what is there.
        let strain = shelf.strain();
        assert!(strain.n_bytes_max > there_is && strain.n_bytes_max < 3 * there_is);
        assert!(strain.is_over() && strain.n_bytes_to_spill > there_is);
    }

    #[test]
    fn pools_are_woken_when_they_may_go_on_and_not_before() {
        let shelf = shelf(MemoryLimit::Bytes(1000));
        let wake = Arc::new(Wake::new().expect("the system has one"));
        shelf.add_pool(&wake);
        let is_woken = || {
            let descriptor = wake.descriptor().expect("it is open");
            rustix::io::read(&**descriptor, &mut [0u8; 8][..]).is_ok()
        };
        assert!(!is_woken());
        let mut waiting: Vec<_> = (0..8).map(|_| shelf.waiting(100)).collect();
        assert!(shelf.strain().is_high);
        waiting.pop();
        assert!(!is_woken());
        waiting.pop();
        assert!(is_woken());
        waiting.pop();
        assert!(!is_woken());
        shelf.set_options(SpillOptions::default());
        assert!(is_woken());
    }
}
