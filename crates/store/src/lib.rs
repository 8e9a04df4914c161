//! Memory that processes share: blocks in anonymous memory files, leases on them, views of them.
//!
//! A *segment* is one memory file without a name, and a *block* a range of whole pages in it. The
//! process that made a segment owns it: only there is memory allocated, in an [`Arena`]. A [`Lease`]
//! keeps a block from being reused; its [`Place`] is plain data and goes to other processes, which
//! look at it through [`Foreign`], copy-on-write or not. What memory is too short for goes to a [`SpillFile`],
//! which is looked at in the same way.

mod arena;
mod bits;
mod blocks;
mod cooling;
mod copying;
mod digest;
mod foreign;
mod lease;
mod mapping;
mod memory;
mod memory_file;
mod options;
mod pins;
mod place;
mod spill_file;
mod tags;
mod threads;
mod view;
mod written;

pub use arena::{Arena, Pin};
pub use digest::digest;
pub use foreign::Foreign;
pub use lease::Lease;
pub use memory::{Memory, OomKills};
pub use options::{ArenaOptions, ArenaStats};
pub use pins::Pins;
pub use place::{Place, SegmentId};
pub use spill_file::{SpillFile, SpillPart};
pub use view::{PrivateView, SharedView};
