//! What changes while results pile up: graphs do not begin anything new unless they must.
//!
//! A graph's tasks without dependencies make results and let go of none. While memory is short they are
//! held back, but a graph of which nothing is under way and nothing else can run gets one at a time: so
//! it goes on, however little memory there is, and never stands still.

use crate::job::{Job, Phase, Work};
use crate::{JobId, Scheduler};

/// Whether results pile up, and which jobs hold tasks back for it.
#[derive(Default, Debug)]
pub(crate) struct Pressure {
    is_high: bool,
    holding: Vec<JobId>,
}

impl Pressure {
    /// A job is new.
    pub(crate) fn on_submit(&mut self, id: JobId, job: &mut Job) {
        if self.is_high {
            self.press(id, job);
        }
    }

    fn press(&mut self, id: JobId, job: &mut Job) {
        if let Work::Graphed(graphed) = &mut job.work
            && graphed.graph.n_edges() > 0
        {
            graphed.press(self.is_high);
            if self.is_high && !self.holding.contains(&id) {
                self.holding.push(id);
            }
        }
    }
}

impl Scheduler {
    pub(crate) fn on_pressure(&mut self, is_high: bool) {
        if self.pressure.is_high == is_high {
            return;
        }
        self.pressure.is_high = is_high;
        self.pressure.holding.clear();
        for (at, job) in self.jobs.iter_mut().enumerate() {
            let Some(job) = job else { continue };
            let id = JobId(at as u32);
            self.n_ready -= job.n_ready();
            self.pressure.press(id, job);
            self.n_ready += job.n_ready();
            self.lists.list_job(id, job);
        }
    }

    /// Lets a task go of each graph that would stand still otherwise.
    #[inline]
    pub(crate) fn let_roots_go(&mut self) {
        if !self.pressure.holding.is_empty() {
            self.let_held_roots_go();
        }
    }

    fn let_held_roots_go(&mut self) {
        let Scheduler { jobs, suspects, .. } = self;
        let (lists, n_ready) = (&mut self.lists, &mut self.n_ready);
        self.pressure.holding.retain(|&id| {
            let Some(job) = jobs[id.0 as usize].as_mut() else {
                return false;
            };
            let Work::Graphed(graphed) = &mut job.work else {
                return false;
            };
            if graphed.n_roots_left() == 0 {
                return false;
            }
            let is_still = job.n_in_flight == 0
                && graphed.n_ready_of_any() == 0
                && !suspects.iter().any(|task| task.job == id);
            if is_still && job.phase == Phase::Running {
                *n_ready += usize::from(graphed.allow_root());
                lists.list_job(id, job);
            }
            true
        });
    }
}
