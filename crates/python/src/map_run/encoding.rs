//! The bytes of a map's tasks.

use crate::call::{Callee, encode_one_scalar, encode_plain};
use crate::codec::Pickler;
use crate::durable::TIMED;
use crate::payload::Block;
use crate::seeding::Seeding;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// What stands before the call in a task's bytes.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    /// What there is about trying it again.
    pub(super) prefix: &'a [u8],
    pub(super) seeded: Option<(&'a Seeding, u64)>,
    pub(super) is_timed: bool,
}

impl Before<'_> {
    #[inline]
    fn write(self, out: &mut Vec<u8>) {
        if self.is_timed {
            out.extend_from_slice(&TIMED);
        }
        // No inputs.
        out.push(0);
        out.extend_from_slice(self.prefix);
        if let Some((seeding, number)) = self.seeded {
            seeding.write(number, out);
        }
    }
}

/// Adds a task to a block, without inputs.
pub(super) fn encode(
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    callee: &Callee,
    pickler: &Pickler,
    before: Before<'_>,
    block: &mut Block,
) -> PyResult<()> {
    block.push(|out| {
        before.write(out);
        encode_plain(args, kwargs, callee, out, pickler)
    })
}

/// Adds a task that is called with one scalar to a block; `false` if the argument is none.
#[inline]
pub(super) fn encode_one(arg: &Bound<'_, PyAny>, before: Before<'_>, block: &mut Block) -> bool {
    let pushed = block.push(|out| {
        before.write(out);
        encode_one_scalar(arg, out).then_some(()).ok_or(())
    });
    pushed.is_ok()
}
