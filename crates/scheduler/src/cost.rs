//! What a task of each kind costs, learnt from reports.

use crate::KindId;

/// After so many equal durations, the estimate is as good as equal to them.
const N_STEPS_MAX: u32 = 64;

/// The running estimates, by kind.
#[derive(Default, Debug)]
pub(crate) struct Costs {
    by_kind: Vec<Option<u64>>,
}

impl Costs {
    /// The expected duration of one task, if any of its kind has been seen.
    #[inline]
    pub(crate) fn get_ns(&self, kind: KindId) -> Option<u64> {
        self.by_kind.get(kind.0 as usize).copied().flatten()
    }

    /// Learns from so many tasks of the same duration.
    ///
    /// Falls faster than it rises: a function that is slow only on its first call (imports,
    /// compilation) is recognised as fast after a few calls, while a too small estimate is mended
    /// by taking tasks back.
    #[inline]
    pub(crate) fn learn(&mut self, kind: KindId, duration_ns: u64, n_tasks: u32) {
        let at = kind.0 as usize;
        if at >= self.by_kind.len() {
            self.by_kind.resize(at + 1, None);
        }
        let slot = &mut self.by_kind[at];
        let mut cost_ns = slot.unwrap_or(duration_ns);
        for _ in 0..n_tasks.min(N_STEPS_MAX) {
            if duration_ns < cost_ns {
                cost_ns -= (cost_ns - duration_ns).div_ceil(2);
            } else if duration_ns > cost_ns {
                cost_ns += (duration_ns - cost_ns) / 16;
            } else {
                break;
            }
        }
        *slot = Some(cost_ns);
    }

    /// Forgets a kind, so that its number can be used again.
    pub(crate) fn forget(&mut self, kind: KindId) {
        if let Some(slot) = self.by_kind.get_mut(kind.0 as usize) {
            *slot = None;
        }
    }
}
