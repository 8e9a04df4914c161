//! The thread of a pool that looks when nobody else does: it sends the scheduler its ticks, and
//! reports for threads that are busy with their next task.

use super::Shared;
use super::lane::REPORT_AGE_MAX;
use crate::job::lock;
use manyhands_scheduler::{Event, TimeNs};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The clock's life.
pub(super) fn watch(shared: &Shared) {
    let mut state = lock(&shared.state);
    while !state.is_stopped {
        // First the flag, then the look: a thread that has reports after the look sees the flag down.
        shared.is_clock_awake.store(false, Ordering::SeqCst);
        let has_reports = (state.lanes.iter().flatten()).any(|lane| lane.has_reports());
        if has_reports {
            shared.is_clock_awake.store(true, Ordering::SeqCst);
        }
        let now_ns = shared.now_ns();
        let tick_ns = state.core.scheduler.deadline_ns().unwrap_or(TimeNs::MAX);
        let report_ns = match has_reports {
            true => now_ns + REPORT_AGE_MAX.as_nanos() as TimeNs,
            false => TimeNs::MAX,
        };
        let looks_at_ns = tick_ns.min(report_ns);
        state.clock_looks_at_ns = looks_at_ns;
        if looks_at_ns > now_ns {
            let wait = Duration::from_nanos(looks_at_ns - now_ns);
            let waited = shared.clock.wait_timeout(state, wait);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        if state.is_stopped {
            break;
        }
        drop(state);
        look(shared);
        state = lock(&shared.state);
    }
}

/// Reports what is overdue, and ticks if a tick is due.
fn look(shared: &Shared) {
    shared.update(|core, hands, now_ns| {
        let now = Instant::now();
        for at in 0..hands.lanes.len() {
            let Some(lane) = &hands.lanes[at] else {
                continue;
            };
            let (id, reports) = (lane.id, lane.take_overdue(now));
            if !reports.is_empty() {
                core.on(Event::Finished(id, &reports), now_ns, hands);
            }
        }
        if (core.scheduler.deadline_ns()).is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            core.on(Event::Tick, now_ns, hands);
        }
    });
}
