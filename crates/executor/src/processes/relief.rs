//! What a pool does about results that pile up: it holds tasks back and puts results on disk.
//!
//! The reactor does it, a little at a time, between looking after workers. Beyond the limit it listens to
//! no results meanwhile: so no tasks go out, and workers soon stand still rather than make more.

use super::{Shared, State};
use crate::job::{Failure, Shortage, lock};
use crate::program::{Backlog, RemoteProgram, Spilled};
use crate::stock::Stock;
use manyhands_graph::TaskIndex;
use manyhands_scheduler::{Event, JobId};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How much is written before workers are looked after again.
const N_BYTES_AT_ONCE: u64 = 64 << 20;
/// How long not to try again after there was less to write than there should have been: all is needed by
/// tasks under way, or another pool is at it.
const REST: Duration = Duration::from_millis(20);
/// The same after something could not be written.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(100);
/// How long a job that was ended for lack of room may take to let go of its results before another is.
const GRIEF: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Relief {
    /// Whether the scheduler has been told to hold tasks back.
    is_pressed: bool,
    /// Whether to leave results unread for now.
    pub(super) is_halting: bool,
    /// When to look again although nothing has happened.
    look_again: Option<Instant>,
    /// Not to write anything before.
    rests_until: Option<Instant>,
    /// What was ended last for lack of room, and when.
    ended_last: Option<(Weak<dyn RemoteProgram>, Instant)>,
}

/// A job, unless it has ended, and its results.
type Piled = (Option<JobId>, Arc<dyn RemoteProgram>);

impl Relief {
    pub(super) fn is_due_in(&self) -> Option<Duration> {
        let next = [self.look_again, self.rests_until]
            .into_iter()
            .flatten()
            .min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    pub(super) fn relieve(&mut self, shared: &Shared) {
        let Some(stock) = lock(&shared.state).options.stock.clone() else {
            return;
        };
        stock.discard();
        let strain = stock.strain();
        if strain.is_high != self.is_pressed {
            self.is_pressed = strain.is_high;
            press(shared, strain.is_high);
        }
        self.is_halting = false;
        self.look_again = strain.look_again;
        if strain.n_bytes_to_spill == 0 {
            self.rests_until = None;
        } else if self.rests_until.is_none_or(|until| until <= Instant::now()) {
            let rest = self.spill(shared, &stock);
            self.rests_until = Some(Instant::now() + rest);
            self.is_halting = rest.is_zero() && strain.is_over();
        }
    }

    /// At the end of a pool that goes with its jobs, whose results may wait for longer: nobody may come
    /// after it to look after these.
    pub(super) fn finish(&mut self, shared: &Shared) {
        let Some(stock) = lock(&shared.state).options.stock.clone() else {
            return;
        };
        while !shared.ways.hurry.is_on() && stock.strain().n_bytes_to_spill > 0 {
            let rest = self.spill(shared, &stock);
            stock.discard();
            match rest {
                Duration::ZERO => {}
                // Another pool is at it, perhaps as its last deed as well.
                REST if stock.is_catching_up() => std::thread::sleep(REST),
                _ => return,
            }
        }
    }

    /// Puts some on disk; how long to rest after that.
    fn spill(&mut self, shared: &Shared, stock: &Stock) -> Duration {
        let Some(_alone) = stock.try_begin_spilling() else {
            return REST;
        };
        // Another pool may have done it.
        let strain = stock.strain();
        let mut n_left = strain.n_bytes_to_spill.min(N_BYTES_AT_ONCE);
        let piled = piled(shared, stock);
        let mut failure = None;
        for (_, program) in &piled {
            if n_left == 0 || failure.is_some() {
                break;
            }
            let spilled: Spilled = program.spill(n_left);
            n_left = n_left.saturating_sub(spilled.n_bytes);
            failure = spilled.failure;
        }
        match failure {
            Some(error) if self.failed(shared, stock, &piled, &error) => Duration::ZERO,
            Some(_) => REST_AFTER_FAILURE,
            None if n_left == 0 => Duration::ZERO,
            None => REST,
        }
    }

    /// There is no room on disk. Once there is none in memory either, whoever takes the most gives way;
    /// whether there is room now.
    fn failed(
        &mut self,
        shared: &Shared,
        stock: &Stock,
        piled: &[Piled],
        error: &std::io::Error,
    ) -> bool {
        let strain = stock.strain();
        let is_grieving = (self.ended_last.as_ref())
            .is_some_and(|(program, since)| since.elapsed() < GRIEF && program.strong_count() > 0);
        if !strain.is_over() || is_grieving {
            return false;
        }
        let loads = piled.iter().filter_map(|one| Some((one, one.1.backlog()?)));
        let Some(((job, program), backlog)) = loads.max_by_key(|(_, backlog)| backlog.n_bytes)
        else {
            return false;
        };
        let Backlog {
            largest: (task, n_bytes),
            ..
        } = backlog;
        let shortage = Shortage {
            n_bytes,
            n_bytes_waiting: strain.n_bytes_waiting,
            n_bytes_max: strain.n_bytes_max,
            folder: stock.spill_folder(),
            reason: error.to_string(),
        };
        match job {
            Some(job) => {
                self.ended_last = Some((Arc::downgrade(program), Instant::now()));
                abort(shared, *job, program, task, shortage);
            }
            // It is for whoever asks for that result to hear of it.
            None => program.give_up(task, &shortage),
        }
        job.is_none()
    }
}

fn press(shared: &Shared, is_high: bool) {
    let mut state = lock(&shared.state);
    let now_ns = shared.now_ns();
    state.act(|core, hands| core.on(Event::Pressure { is_high }, now_ns, hands));
}

/// Whatever may have results that wait: those of jobs that have ended, which nobody is in a hurry for, and
/// then those of the jobs under way.
fn piled(shared: &Shared, stock: &Stock) -> Vec<Piled> {
    let ended = stock.ended().into_iter().map(|program| (None, program));
    let mut piled: Vec<Piled> = ended.collect();
    let state = lock(&shared.state);
    let ids = state.core.job_ids().into_iter();
    piled.extend(ids.filter_map(|id| Some((Some(id), Arc::clone(&state.core.entry(id)?.program)))));
    piled
}

/// Ends a job, unless its number means another by now.
fn abort(
    shared: &Shared,
    id: JobId,
    program: &Arc<dyn RemoteProgram>,
    task: TaskIndex,
    shortage: Shortage,
) {
    let state: &mut State = &mut lock(&shared.state);
    let entry = state.core.entry(id);
    if entry.is_some_and(|entry| Arc::ptr_eq(&entry.program, program)) {
        let now_ns = shared.now_ns();
        let failure = Failure::NoRoom(task, Box::new(shortage));
        state.act(|core, hands| core.abort(id, failure, now_ns, hands));
    }
}
