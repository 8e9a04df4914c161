//! A second account of resources, unit by unit.

use manyhands_scheduler::{Need, Supply, WorkerId};

/// What is used of each resource.
pub(super) struct Used<'a> {
    supplies: &'a [Supply],
    n_used: Vec<u32>,
    units: Vec<Vec<u32>>,
}

impl Used<'_> {
    pub(super) fn new(supplies: &[Supply]) -> Used<'_> {
        Used {
            supplies,
            n_used: vec![0; supplies.len()],
            units: vec![Vec::new(); supplies.len()],
        }
    }

    /// Whether a task on this worker can have what it needs.
    pub(super) fn has(&self, worker: WorkerId, needs: &[Need]) -> bool {
        needs.iter().all(|need| {
            let at = need.resource as usize;
            let supply = &self.supplies[at];
            let is_enough = self.n_used[at] + need.n_units <= supply.n_units;
            let mut units = units_of(supply, worker, need.n_units);
            is_enough && (!supply.is_by_worker || !units.any(|unit| self.units[at].contains(&unit)))
        })
    }

    /// Takes what a task on this worker needs; whether it was there.
    pub(super) fn take(&mut self, worker: WorkerId, needs: &[Need]) -> bool {
        let is_there = self.has(worker, needs);
        for need in needs {
            let at = need.resource as usize;
            self.n_used[at] += need.n_units;
            self.units[at].extend(units_of(&self.supplies[at], worker, need.n_units));
        }
        is_there
    }
}

/// As the scheduler promises it.
fn units_of(supply: &Supply, worker: WorkerId, n_needed: u32) -> impl Iterator<Item = u32> + use<> {
    let (n_units, first) = (supply.n_units, worker.0 * n_needed);
    (first..first + n_needed).map(move |unit| unit % n_units)
}
