//! Faults put in on purpose, to show that the checks would find them.

use super::act::Act;
use manyhands_scheduler::{TaskId, TaskIndex};

/// What goes wrong between the scheduler and the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// A batch is never sent.
    LoseStart,
    /// A batch is sent again.
    RepeatStart,
    /// A batch is sent along with the batch after it, to the same worker, out of turn.
    StartUnready,
    /// A request to give tasks back is never sent.
    LoseTakeBack,
    /// A worker is not ended.
    LoseKill,
    /// A worker is ended that did nothing wrong.
    KillForNothing,
    /// A result does not arrive.
    LoseDeliver,
    /// A result arrives twice.
    RepeatDeliver,
    /// A result is kept for ever.
    LoseRelease,
    /// A result is dropped as soon as its first reader is sent.
    EarlyRelease,
    /// A failure is not told.
    LoseFail,
    /// The same of one that its job goes on without.
    LoseLoss,
    /// Nobody hears that a result will not come.
    LoseDeliverLoss,
    /// A worker is not looked at.
    LoseLook,
    /// The end of a job is not told.
    LoseJobDone,
    /// The end of a job is told twice.
    RepeatJobDone,
    /// The time to look again is let pass.
    MissTicks,
    /// Nobody says that results pile up.
    MissPressure,
    /// The scheduler does not hear of what a job needs.
    MissNeeds,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Sabotage; 19] = [
        Sabotage::LoseStart,
        Sabotage::RepeatStart,
        Sabotage::StartUnready,
        Sabotage::LoseTakeBack,
        Sabotage::LoseKill,
        Sabotage::KillForNothing,
        Sabotage::LoseDeliver,
        Sabotage::RepeatDeliver,
        Sabotage::LoseRelease,
        Sabotage::EarlyRelease,
        Sabotage::LoseFail,
        Sabotage::LoseLoss,
        Sabotage::LoseDeliverLoss,
        Sabotage::LoseLook,
        Sabotage::LoseJobDone,
        Sabotage::RepeatJobDone,
        Sabotage::MissTicks,
        Sabotage::MissPressure,
        Sabotage::MissNeeds,
    ];

    /// Spoils a step's commands; true if there was something to spoil.
    ///
    /// `graph` gives the inputs and the readers of a task.
    pub(super) fn spoil(
        self,
        acts: &mut Vec<Act>,
        inputs: impl Fn(TaskId) -> Vec<TaskIndex>,
        readers: impl Fn(TaskId) -> Vec<TaskIndex>,
    ) -> bool {
        let is_target = |act: &Act| match self {
            Sabotage::LoseStart | Sabotage::RepeatStart | Sabotage::KillForNothing => {
                matches!(act, Act::Start(..))
            }
            Sabotage::StartUnready => {
                matches!(act, Act::Start(_, tasks) if tasks.iter().any(|&t| !readers(t).is_empty()))
            }
            Sabotage::EarlyRelease => {
                matches!(act, Act::Start(_, tasks) if tasks.iter().any(|&t| !inputs(t).is_empty()))
            }
            Sabotage::LoseTakeBack => matches!(act, Act::TakeBack(..)),
            Sabotage::LoseKill => matches!(act, Act::Kill(_)),
            Sabotage::LoseDeliver | Sabotage::RepeatDeliver => matches!(act, Act::Deliver(_)),
            Sabotage::LoseRelease => matches!(act, Act::Release(_)),
            Sabotage::LoseFail => matches!(act, Act::Fail(..)),
            Sabotage::LoseLoss => matches!(act, Act::Lose(..)),
            Sabotage::LoseDeliverLoss => matches!(act, Act::DeliverLoss(..)),
            Sabotage::LoseLook => matches!(act, Act::Look(_)),
            Sabotage::LoseJobDone | Sabotage::RepeatJobDone => matches!(act, Act::JobDone(_)),
            Sabotage::MissTicks | Sabotage::MissPressure | Sabotage::MissNeeds => false,
        };
        let Some(at) = acts.iter().position(is_target) else {
            return false;
        };
        match (self, acts[at].clone()) {
            (Sabotage::RepeatStart | Sabotage::RepeatDeliver | Sabotage::RepeatJobDone, act) => {
                acts.insert(at, act);
            }
            (Sabotage::KillForNothing, Act::Start(worker, _)) => acts.push(Act::Kill(worker)),
            (Sabotage::StartUnready, Act::Start(worker, mut tasks)) => {
                let unready = (tasks.iter()).find_map(|&task| {
                    Some(TaskId {
                        index: *readers(task).first()?,
                        ..task
                    })
                });
                tasks.extend(unready);
                acts[at] = Act::Start(worker, tasks);
            }
            (Sabotage::EarlyRelease, Act::Start(_, tasks)) => {
                let input = (tasks.iter()).find_map(|&task| {
                    Some(TaskId {
                        index: *inputs(task).first()?,
                        ..task
                    })
                });
                acts.extend(input.map(Act::Release));
            }
            _ => {
                acts.remove(at);
            }
        }
        true
    }
}
