//! Results that outlive the process: an append-only file of frames, each with its own checksum.
//!
//! [`format`](mod@format) says what the bytes mean and [`scan`](mod@scan) finds what is whole among bytes that may be
//! anything; both are pure. [`log`] writes: one thread, which commits at once all that came while the disk was busy with
//! what came before. [`file`](mod@file) opens files, and keeps a second writer out; readers need no lock. [`index`] finds
//! results by what they are results of, and says why there is none.
//!
//! A file is never written to but at its end, its two headers apart. So what was durable once stays as it was,
//! whatever happens later, and others can read while the run goes on.

pub mod entry;
pub mod file;
pub mod format;
pub mod index;
pub mod log;
pub mod scan;
