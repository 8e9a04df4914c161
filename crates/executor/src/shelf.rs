//! How much memory results may take that wait for their readers, and when they go to disk instead.
//!
//! Three things happen as results pile up, each from a share of the limit on: tasks that would only make
//! more of them are held back; results are written to disk, those that are needed last first; and beyond
//! the limit a pool does nothing else until it is below again, or has nothing left to write.

use crate::job::lock;
use manyhands_store::Memory;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Below this, a limit that is a share of the machine's memory is not reached on any machine, and the
/// system is not asked.
const N_BYTES_UNASKED: u64 = 64 << 20;
/// How long an answer of the system's holds.
const ASKED_FOR: Duration = Duration::from_millis(100);

/// How it stands with the results that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Strain {
    pub(crate) n_bytes_waiting: u64,
    pub(crate) n_bytes_max: u64,
    /// Whether nothing new should be begun.
    pub(crate) is_high: bool,
    /// How much should be written to disk.
    pub(crate) n_bytes_to_spill: u64,
}

impl Strain {
    /// Whether nothing else should happen before something is on disk.
    pub(crate) fn is_over(&self) -> bool {
        self.n_bytes_waiting > self.n_bytes_max
    }
}

#[derive(Debug, Default)]
struct Gauge {
    is_high: bool,
    is_spilling: bool,
    /// What could be had, and when that was.
    asked: Option<(Instant, u64)>,
}

impl Gauge {
    fn judge(&mut self, n_bytes_waiting: u64, n_bytes_max: u64) -> Strain {
        let percent = |share: u64| (u128::from(n_bytes_max) * u128::from(share) / 100) as u64;
        let is_above =
            |was: bool, from: u64, to: u64| n_bytes_waiting > percent(if was { to } else { from });
        self.is_high = is_above(self.is_high, HOLD_FROM, HOLD_TO);
        self.is_spilling = is_above(self.is_spilling, SPILL_FROM, SPILL_TO);
        let n_bytes_to_spill = match self.is_spilling {
            true => n_bytes_waiting - percent(SPILL_TO),
            false => 0,
        };
        Strain {
            n_bytes_waiting,
            n_bytes_max,
            is_high: self.is_high,
            n_bytes_to_spill,
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
    n_bytes_waiting: Arc<AtomicU64>,
    pub(crate) n_bytes_on_disk: AtomicU64,
    pub(crate) n_bytes_spilled: AtomicU64,
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
    all: Arc<AtomicU64>,
}

impl Waiting {
    /// How large the result is.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

impl Shelf {
    pub(crate) fn options(&self) -> SpillOptions {
        lock(&self.options).clone()
    }

    pub(crate) fn set_options(&self, options: SpillOptions) {
        *lock(&self.options) = options;
        *lock(&self.gauge) = Gauge::default();
    }

    pub(crate) fn waiting(&self, n_bytes: u64) -> Waiting {
        self.n_bytes_waiting.fetch_add(n_bytes, Ordering::Relaxed);
        Waiting {
            n_bytes,
            all: Arc::clone(&self.n_bytes_waiting),
        }
    }

    pub(crate) fn strain(&self) -> Strain {
        let n_bytes_waiting = self.n_bytes_waiting.load(Ordering::Relaxed);
        let limit = lock(&self.options).limit;
        let mut gauge = lock(&self.gauge);
        let n_bytes_max = match limit {
            MemoryLimit::Bytes(n_bytes) => n_bytes,
            MemoryLimit::Share(share) if n_bytes_waiting > N_BYTES_UNASKED => {
                (gauge.ask(n_bytes_waiting) as f64 * share) as u64
            }
            MemoryLimit::Share(_) | MemoryLimit::None => u64::MAX,
        };
        gauge.judge(n_bytes_waiting, n_bytes_max)
    }

    pub(crate) fn stats(&self) -> SpillStats {
        SpillStats {
            n_bytes_waiting: self.n_bytes_waiting.load(Ordering::Relaxed),
            n_bytes_on_disk: self.n_bytes_on_disk.load(Ordering::Relaxed),
            n_bytes_spilled: self.n_bytes_spilled.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gauge: &mut Gauge, n_bytes_waiting: u64, expected: (bool, u64)) {
        let strain = gauge.judge(n_bytes_waiting, 1000);
        let judged = (strain.is_high, strain.n_bytes_to_spill);
        assert_eq!(judged, expected, "{n_bytes_waiting} of 1000");
        assert_eq!(strain.is_over(), n_bytes_waiting > 1000);
    }

    #[test]
    fn what_is_done_depends_on_how_much_waits_and_what_was_done_before() {
        let mut gauge = Gauge::default();
        check(&mut gauge, 700, (false, 0));
        check(&mut gauge, 701, (true, 0));
        check(&mut gauge, 601, (true, 0));
        check(&mut gauge, 600, (false, 0));
        check(&mut gauge, 850, (true, 0));
        check(&mut gauge, 851, (true, 351));
        check(&mut gauge, 501, (false, 1));
        check(&mut gauge, 1500, (true, 1000));
        check(&mut gauge, 500, (false, 0));
        check(&mut gauge, 840, (true, 0));
    }

    #[test]
    fn without_a_limit_nothing_is_done() {
        let shelf = Shelf::default();
        let limit = MemoryLimit::None;
        let folder = std::env::temp_dir();
        shelf.set_options(SpillOptions { limit, folder });
        let waiting = shelf.waiting(u64::MAX / 2);
        assert_eq!(shelf.stats().n_bytes_waiting, u64::MAX / 2);
        let strain = shelf.strain();
        assert!(!strain.is_high && strain.n_bytes_to_spill == 0 && !strain.is_over());
        drop(waiting);
        assert_eq!(shelf.stats(), SpillStats::default());
    }

    #[test]
    fn a_share_is_one_of_what_there_would_be_without_what_waits() {
        let shelf = Shelf::default();
        let limit = MemoryLimit::Share(0.5);
        let folder = std::env::temp_dir();
        shelf.set_options(SpillOptions { limit, folder });
        let _few = shelf.waiting(N_BYTES_UNASKED);
        assert!(!shelf.strain().is_high);
        let there_is = Memory::now().expect("Linux says so").n_bytes_available;
        let _many = shelf.waiting(3 * there_is);
        // Were all of it waiting, the limit would be half of four times what is there.
        let strain = shelf.strain();
        assert!(strain.n_bytes_max > there_is && strain.n_bytes_max < 3 * there_is);
        assert!(strain.is_over() && strain.n_bytes_to_spill > there_is);
    }
}
