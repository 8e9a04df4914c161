//! How much an arena may take, and what it has.

use crate::memory::Memory;
use std::thread::available_parallelism;

/// Memory of freed blocks that an arena keeps at most by default, for a moment, as a share of what the
/// machine has for each of its processors: there are about as many workers, each with an arena.
const WARM_SHARE: u64 = 8;

/// Memory of freed blocks that an arena keeps for good, by default.
const N_KEPT_BYTES: u64 = 32 << 20;

/// How much an arena may take, and how it takes it.
#[derive(Clone, Copy, Debug)]
pub struct ArenaOptions {
    /// Blocks in use never exceed this together.
    pub n_bytes_max: u64,
    /// Memory of freed blocks kept for the next ones; what exceeds it is given back at once.
    pub n_warm_bytes_max: u64,
    /// Of that memory, what is kept although nobody uses it; what exceeds it is given back soon.
    pub n_kept_bytes: u64,
    /// Address space of a segment, unless a block needs more. Later segments are longer, so that there
    /// are never many.
    pub n_segment_bytes: u64,
}

impl Default for ArenaOptions {
    fn default() -> ArenaOptions {
        let n_bytes = Memory::now().map_or(u64::MAX, |memory| memory.n_bytes);
        let n_processors = available_parallelism().map_or(1, |n| n.get() as u64);
        ArenaOptions {
            n_bytes_max: n_bytes,
            n_warm_bytes_max: n_bytes / WARM_SHARE / n_processors,
            n_kept_bytes: N_KEPT_BYTES,
            n_segment_bytes: 1 << 30,
        }
    }
}

/// What an arena holds at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Segments made.
    pub n_segments: usize,
    /// Blocks allocated or leased.
    pub n_blocks: usize,
    /// Leases alive, those given away included.
    pub n_leases: usize,
    /// Bytes in blocks that are allocated or leased, in whole pages.
    pub bytes_in_use: u64,
    /// Bytes of free pages whose memory is kept.
    pub bytes_free_warm: u64,
}
