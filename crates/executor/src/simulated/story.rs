//! What happened to whom, kept only while a failed case is run again to be told.

use manyhands_scheduler::{TaskId, TimeNs, WorkerId};

#[derive(Debug)]
enum Whom {
    Job(usize),
    Task(Option<usize>, TaskId),
    Worker(WorkerId),
}

#[derive(Debug)]
struct Line {
    at_ns: TimeNs,
    whom: Whom,
    what: String,
}

/// The lines, if they are kept.
#[derive(Debug, Default)]
pub(super) struct Story(Option<Vec<Line>>);

impl Story {
    pub(super) fn told() -> Story {
        Story(Some(Vec::new()))
    }

    pub(super) fn is_told(&self) -> bool {
        self.0.is_some()
    }

    fn line(&mut self, at_ns: TimeNs, whom: Whom, what: &str) {
        if let Some(lines) = &mut self.0 {
            let what = what.to_string();
            lines.push(Line { at_ns, whom, what });
        }
    }

    pub(super) fn job(&mut self, at_ns: TimeNs, plan: usize, what: &str) {
        self.line(at_ns, Whom::Job(plan), what);
    }

    pub(super) fn task(&mut self, at_ns: TimeNs, plan: Option<usize>, task: TaskId, what: &str) {
        self.line(at_ns, Whom::Task(plan, task), what);
    }

    pub(super) fn worker(&mut self, at_ns: TimeNs, id: WorkerId, what: &str) {
        self.line(at_ns, Whom::Worker(id), what);
    }

    /// The lines about a task, its job, and the workers that had to do with it; all lines if no
    /// task is given.
    pub(super) fn about(&self, task: Option<TaskId>) -> Vec<String> {
        let lines = self.0.as_deref().unwrap_or_default();
        // Numbers of jobs are used again: the last job of this number is the one that is meant.
        let plan = lines.iter().rev().find_map(|line| match line.whom {
            Whom::Task(plan, other) if Some(other) == task => plan,
            _ => None,
        });
        let is_about = |line: &&Line| match line.whom {
            _ if task.is_none() => true,
            Whom::Job(job) => Some(job) == plan,
            Whom::Task(job, other) => Some(other) == task && job == plan,
            Whom::Worker(_) => true,
        };
        lines.iter().filter(is_about).map(Line::to_string).collect()
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>14.3} us  ", self.at_ns as f64 / 1e3)?;
        match self.whom {
            Whom::Job(plan) => write!(f, "job {plan} ")?,
            Whom::Task(_, task) => write!(f, "{task:?} ")?,
            Whom::Worker(id) => write!(f, "{id:?} ")?,
        }
        f.write_str(&self.what)
    }
}
