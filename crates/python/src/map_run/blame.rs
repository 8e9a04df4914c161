//! How the tasks of a map have failed, as its caller hears of it.

use super::{MapRun, Side};
use crate::call::decode_call;
use crate::durable::split_timed;
use crate::faults::OnError;
use crate::mapped::Slot;
use crate::payload::Outcome;
use crate::raising::{Evidence, TaskName, exception};
use crate::seeding::split;
use crate::shared::receiving::OwnViews;
use manyhands_executor::Failure;
use manyhands_graph::TaskIndex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::Arc;

/// The arguments of a task.
type Args = (Py<PyTuple>, Option<Py<PyDict>>);

impl MapRun {
    /// The exception for how the job failed.
    pub(crate) fn exception(&self, py: Python<'_>, failure: &Failure, scheduler: &str) -> PyErr {
        let Some(task) = failure.culprit() else {
            let nobody = TaskName::default;
            return exception(py, failure, Evidence::None, nobody, scheduler, &self.faults);
        };
        let has_died = matches!(failure, Failure::WorkerDied(..));
        let (evidence, args) = self.evidence(py, task, has_died);
        let called = || self.called(py, args.as_ref()?).ok();
        let called = has_died.then(called);
        let name = || TaskName {
            text: self.describe(py, task.0, args),
            key: None,
            called: called.flatten(),
        };
        let error = exception(py, failure, evidence, name, scheduler, &self.faults);
        if let Some(recording) = &self.recording {
            recording.raised(py, task.0, &error);
        }
        error
    }

    /// What comes in the place of a result that does not come; nothing where it is left out.
    pub(crate) fn instead(
        &self,
        py: Python<'_>,
        lost: TaskIndex,
        failure: &Failure,
        scheduler: &str,
    ) -> Option<Py<PyAny>> {
        let instead = match self.faults.on_error {
            OnError::Skip => {
                let has_died = matches!(failure, Failure::WorkerDied(..));
                let none = self.evidence(py, lost, has_died);
                drop(none);
                None
            }
            OnError::Mark => {
                // A checkpoint is to know of it all the same.
                drop(self.exception(py, failure, scheduler));
                let faults = py.import(intern!(py, "manyhands._faults"));
                let left_out = faults.and_then(|faults| faults.getattr(intern!(py, "LEFT_OUT")));
                left_out.ok().map(Bound::unbind)
            }
            OnError::Raise | OnError::Return => {
                let error = self.exception(py, failure, scheduler);
                Some(error.into_value(py).into_any())
            }
        };
        if let Side::Remote { program, .. } = &self.side {
            program.give_up_on(lost.0);
        }
        instead
    }

    /// What is known of how a task failed, and its arguments where they are at hand.
    fn evidence(
        &self,
        py: Python<'_>,
        task: TaskIndex,
        has_died: bool,
    ) -> (Evidence, Option<Args>) {
        match &self.side {
            Side::Local(program) => match program.take(&[task]).pop() {
                Some((_, Slot::Failed(failed))) => {
                    let (error, args) = *failed;
                    let args = args.tuple(py).ok().map(Bound::unbind);
                    let kwargs = program.kwargs.as_ref().map(|kwargs| kwargs.clone_ref(py));
                    (Evidence::Raised(error), args.map(|args| (args, kwargs)))
                }
                _ => (Evidence::None, None),
            },
            Side::Remote { program, .. } => {
                let args = self.inherited_args(py, task.0).or_else(|| {
                    let bytes = program.task_bytes(task.0)?;
                    let mut none = |_| Ok(py.None());
                    let views = OwnViews {
                        stock: Arc::clone(program.stock()),
                        is_wary: has_died,
                    };
                    // Those that read results of others are not named with them.
                    let (&n_inputs, call) = split_timed(&bytes).1.split_first()?;
                    let (_, call) = (n_inputs == 0).then(|| split(call).ok())??;
                    let call = decode_call(py, call, &mut none, &views).ok()?;
                    Some((call.args.unbind(), call.kwargs.map(Bound::unbind)))
                });
                let evidence = match program.take(&[task]).pop() {
                    Some((_, Outcome::Failed(payload))) => Evidence::Packed(payload.to_vec()),
                    _ => Evidence::None,
                };
                (evidence, args)
            }
        }
    }

    fn inherited_args(&self, py: Python<'_>, index: u32) -> Option<Args> {
        let inherited = &self.forking.as_ref()?.inherited;
        let kwargs = inherited.kwargs().map(|kwargs| kwargs.clone_ref(py));
        let args = inherited.args(index)?.tuple(py).ok()?;
        Some((args.unbind(), kwargs))
    }

    /// What is called with these arguments, and they, for who tells how workers died.
    fn called(&self, py: Python<'_>, (args, kwargs): &Args) -> PyResult<Py<PyAny>> {
        let kwargs = kwargs.as_ref().map(|kwargs| kwargs.clone_ref(py));
        let called = (self.function.clone_ref(py), args.clone_ref(py), kwargs);
        Ok(called.into_pyobject(py)?.into_any().unbind())
    }

    fn describe(&self, py: Python<'_>, index: u32, args: Option<Args>) -> String {
        let describe = || {
            let helpers = py.import(intern!(py, "manyhands._raising"))?;
            let (args, kwargs) = match args {
                Some((args, kwargs)) => (Some(args), kwargs),
                None => (None, None),
            };
            let recording = self.recording.as_ref();
            let place = recording.map_or(index, |recording| recording.place(index));
            let index = (!self.is_single).then_some(place);
            helpers
                .call_method1(
                    intern!(py, "describe_call"),
                    (&self.function, args, kwargs, index),
                )?
                .extract()
        };
        describe().unwrap_or_else(|_: PyErr| format!("task {index}"))
    }
}
