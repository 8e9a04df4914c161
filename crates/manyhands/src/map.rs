//! One closure over many items.

use crate::engine::{self, InsideTask, KindKey, catch, lock};
use crate::error::{BoxError, Error, Mishap};
use crate::options::Options;
use manyhands_executor::{Feed, Program};
use manyhands_graph::{Graph, N_TASKS_MAX, TaskIndex};
use manyhands_scheduler::{JobSpec, Kinds, Wanted};
use std::panic::Location;
use std::sync::{Arc, Mutex};

/// Calls `f` with each item, in parallel, and gives the results in the order of the items.
///
/// Items are handed out in batches that follow the measured time of a call, so one million short
/// calls and four long ones both keep all threads busy. Inside of a task, all calls are made in that
/// task's thread.
///
/// ```
/// let squares = manyhands::map(1..=5, |x| x * x)?;
/// assert_eq!(squares, [1, 4, 9, 16, 25]);
/// # Ok::<(), manyhands::Error>(())
/// ```
///
/// The closure is `'static`, because a call that goes on after its map has failed must not see what
/// it refers to go away: `move` what it needs into it, in an [`Arc`] where it is needed afterwards.
///
/// ```
/// use std::sync::Arc;
///
/// let data = Arc::new(vec![2.0, 3.0, 7.0]);
/// let leave_one_out = manyhands::map(0..data.len(), {
///     let data = Arc::clone(&data);
///     move |left_out| (data.iter().sum::<f64>() - data[left_out]) / (data.len() - 1) as f64
/// })?;
/// assert_eq!(leave_one_out, [5.0, 4.5, 2.5]);
/// # Ok::<(), manyhands::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Panicked`] with the number of the item on which the closure panicked first. No call is
/// begun after it. The other errors are found before the first call.
///
/// # Panics
///
/// If there are 2³² − 1 items or more.
#[track_caller]
pub fn map<I, F, R>(items: I, f: F) -> Result<Vec<R>, Error>
where
    I: IntoIterator<Item: Send + 'static>,
    F: Fn(I::Item) -> R + Send + Sync + 'static,
    R: Send + 'static,
{
    Options::new().map(items, f)
}

/// As [`map`], for a closure that may fail: the first error ends the map as [`Error::Failed`].
///
/// ```
/// let parsed = manyhands::try_map(["1", "2", "x"], |text| Ok(text.parse::<u8>()?));
/// assert!(parsed.unwrap_err().to_string().starts_with("item 2 of the map"));
/// ```
///
/// # Errors
///
/// [`Error::Failed`] with the number of the item and the error, and those of [`map`].
///
/// # Panics
///
/// As [`map`].
#[track_caller]
pub fn try_map<I, F, R>(items: I, f: F) -> Result<Vec<R>, Error>
where
    I: IntoIterator<Item: Send + 'static>,
    F: Fn(I::Item) -> Result<R, BoxError> + Send + Sync + 'static,
    R: Send + 'static,
{
    Options::new().try_map(items, f)
}

impl Options {
    /// As [`map`], with these options.
    ///
    /// # Errors
    ///
    /// As [`map`].
    ///
    /// # Panics
    ///
    /// As [`map`].
    #[track_caller]
    pub fn map<I, F, R>(&self, items: I, f: F) -> Result<Vec<R>, Error>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        let place = Location::caller();
        let kind = KindKey::of::<F>(place);
        self.map_outcomes(items, move |item| Ok(f(item)), kind, place)
    }

    /// As [`try_map`], with these options.
    ///
    /// # Errors
    ///
    /// As [`try_map`].
    ///
    /// # Panics
    ///
    /// As [`map`].
    #[track_caller]
    pub fn try_map<I, F, R>(&self, items: I, f: F) -> Result<Vec<R>, Error>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> Result<R, BoxError> + Send + Sync + 'static,
        R: Send + 'static,
    {
        let place = Location::caller();
        let kind = KindKey::of::<F>(place);
        self.map_outcomes(
            items,
            move |item| f(item).map_err(Mishap::Failed),
            kind,
            place,
        )
    }

    pub(crate) fn map_outcomes<I, F, R>(
        &self,
        items: I,
        f: F,
        kind: KindKey,
        place: &'static Location<'static>,
    ) -> Result<Vec<R>, Error>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> Result<R, Mishap> + Send + Sync + 'static,
        R: Send + 'static,
    {
        let settings = self.settings()?;
        let slots: Vec<_> = (items.into_iter())
            .map(|item| Mutex::new(Slot::Waiting(item)))
            .collect();
        assert!(
            slots.len() <= N_TASKS_MAX,
            "a map takes at most {N_TASKS_MAX} items"
        );
        let spec = JobSpec {
            graph: Graph::independent(slots.len() as u32),
            wanted: Wanted::All,
            kinds: Kinds::One(kind.number()),
            batch_size: settings.batch_size,
            is_open: false,
            rules: manyhands_scheduler::Rules::default(),
        };
        let program = Arc::new(MapProgram { f, slots });
        match engine::run(spec, &program, &settings)? {
            Ok(()) => Ok(program.slots.iter().map(take_result).collect()),
            Err(failed) => {
                let slot = &program.slots[failed.as_usize()];
                match std::mem::replace(&mut *lock(slot), Slot::Gone) {
                    Slot::Failed(mishap) => {
                        Err(mishap.of(format!("item {} of the map at {place}", failed.0)))
                    }
                    _ => unreachable!("a call that is said to have failed has told how"),
                }
            }
        }
    }
}

/// Where an item is on its way to a result.
enum Slot<T, R> {
    Waiting(T),
    Ready(R),
    Failed(Mishap),
    Gone,
}

fn take_result<T, R>(slot: &Mutex<Slot<T, R>>) -> R {
    match std::mem::replace(&mut *lock(slot), Slot::Gone) {
        Slot::Ready(result) => result,
        _ => unreachable!("a map that succeeded has all its results"),
    }
}

struct MapProgram<T, R, F> {
    f: F,
    slots: Vec<Mutex<Slot<T, R>>>,
}

impl<T, R, F> Program for MapProgram<T, R, F>
where
    T: Send,
    R: Send,
    F: Fn(T) -> Result<R, Mishap> + Send + Sync,
{
    fn run(&self, feed: &mut dyn Feed) {
        let _inside = InsideTask::enter();
        while let Some(index) = feed.next() {
            let slot = &self.slots[index.as_usize()];
            let Slot::Waiting(item) = std::mem::replace(&mut *lock(slot), Slot::Gone) else {
                unreachable!("each item is handed out once");
            };
            let outcome = catch(|| (self.f)(item)).and_then(|outcome| outcome);
            let is_ok = outcome.is_ok();
            *lock(slot) = match outcome {
                Ok(result) => Slot::Ready(result),
                Err(mishap) => Slot::Failed(mishap),
            };
            feed.ended(is_ok.into());
        }
    }

    fn release(&self, _tasks: &[TaskIndex]) {}
}
