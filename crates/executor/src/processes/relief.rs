//! What a pool does about results that pile up: it holds tasks back and puts results on disk.
//!
//! The reactor does it, between reading from workers: while it writes, no results come in and no tasks go
//! out, so workers soon stand still rather than make more.

use super::{Shared, State};
use crate::job::{Failure, Shortage, lock};
use crate::program::{RemoteProgram, Spilled};
use crate::stock::Stock;
use manyhands_scheduler::{Event, JobId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much is written before workers are listened to again, unless the limit has been passed.
const N_BYTES_AT_ONCE: u64 = 64 << 20;
/// How long not to try again after there was less to write than there should have been: all is needed by
/// tasks under way, or waits in other pools.
const REST: Duration = Duration::from_millis(20);
/// The same after something could not be written.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Relief {
    /// Whether the scheduler has been told to hold tasks back.
    is_pressed: bool,
    rests_until: Option<Instant>,
}

impl Relief {
    /// When to look again although nothing has happened.
    pub(super) fn is_due_in(&self) -> Option<Duration> {
        let until = self.rests_until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    pub(super) fn relieve(&mut self, shared: &Shared) {
        let Some(stock) = lock(&shared.state).options.stock.clone() else {
            return;
        };
        let strain = stock.strain();
        if strain.is_high != self.is_pressed {
            self.is_pressed = strain.is_high;
            press(shared, strain.is_high);
        }
        if strain.n_bytes_to_spill == 0 {
            self.rests_until = None;
            return;
        }
        let rest = self.is_due_in().unwrap_or_default();
        // Beyond the limit what could not be written is tried at once: then it has to be said.
        if rest.is_zero() || (rest > REST && strain.is_over()) {
            self.spill(shared, &stock);
        }
    }

    fn spill(&mut self, shared: &Shared, stock: &Arc<Stock>) {
        let _alone = stock.begin_spilling();
        // Another pool may have done it.
        let strain = stock.strain();
        let mut n_left = match strain.is_over() {
            true => strain.n_bytes_to_spill,
            false => strain.n_bytes_to_spill.min(N_BYTES_AT_ONCE),
        };
        self.rests_until = None;
        for (job, program) in programs(shared, stock) {
            if n_left == 0 {
                break;
            }
            let Spilled { n_bytes, failure } = program.spill(n_left);
            n_left = n_left.saturating_sub(n_bytes);
            let Some((task, n_bytes, error)) = failure else {
                continue;
            };
            let Some(job) = job else { continue };
            self.rests_until = Some(Instant::now() + REST_AFTER_FAILURE);
            // Others may have let go of theirs meanwhile.
            let strain = stock.strain();
            if strain.is_over() {
                let shortage = Shortage {
                    n_bytes,
                    n_bytes_waiting: strain.n_bytes_waiting,
                    n_bytes_max: strain.n_bytes_max,
                    folder: stock.spill_folder(),
                    reason: error.to_string(),
                };
                let failure = Failure::NoRoom(task, Box::new(shortage));
                abort(shared, job, &program, failure);
            }
        }
        if n_left > 0 && self.rests_until.is_none() {
            self.rests_until = Some(Instant::now() + REST);
        }
    }
}

fn press(shared: &Shared, is_high: bool) {
    let mut state = lock(&shared.state);
    let now_ns = shared.now_ns();
    state.act(|core, hands| core.on(Event::Pressure { is_high }, now_ns, hands));
}

/// Whatever may have results: the jobs under way, the newest first, as the oldest is waited for the longest;
/// and those that have ended and whose results nobody has taken.
fn programs(shared: &Shared, stock: &Stock) -> Vec<(Option<JobId>, Arc<dyn RemoteProgram>)> {
    let state = lock(&shared.state);
    let ids = state.core.job_ids().into_iter().rev();
    let running = ids.filter_map(|id| Some((Some(id), Arc::clone(&state.core.entry(id)?.program))));
    let mut programs: Vec<_> = running.collect();
    drop(state);
    programs.extend(stock.ended().into_iter().map(|program| (None, program)));
    programs
}

/// Ends a job, unless its number means another by now.
fn abort(shared: &Shared, id: JobId, program: &Arc<dyn RemoteProgram>, failure: Failure) {
    let state: &mut State = &mut lock(&shared.state);
    let entry = state.core.entry(id);
    if entry.is_some_and(|entry| Arc::ptr_eq(&entry.program, program)) {
        let now_ns = shared.now_ns();
        state.act(|core, hands| core.abort(id, failure, now_ns, hands));
    }
}
