//! Finds the pages of a private mapping that have been written to, and drops them.
//!
//! A page that was only read is still the file's, stays mapped, and costs the next reader nothing.
//! Dropping all pages to be sure would make every reader map them anew, which takes longer than many
//! read them. docs/decisions/0003-shared-memory.md has the figures.

use crate::memory_file;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::Advice;
use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

/// Up to here, dropping all pages is cheaper than looking which.
const SMALL_BYTES: usize = 64 << 10;

/// From here on, asking for the number of page faults is cheaper than looking at the pages.
const LARGE_BYTES: usize = 4 << 20;

/// The number of page faults of this process so far, where the range is large enough to ask. If it has
/// not grown, no page has been written to for the first time.
pub(crate) fn n_faults(n_bytes: usize) -> Option<u64> {
    if n_bytes < LARGE_BYTES {
        return None;
    }
    let stat = std::fs::read("/proc/self/stat").ok()?;
    faults_in(&stat)
}

/// Minor and major faults: the 10th and 12th field of `/proc/self/stat`. The second is a name in
/// parentheses that can contain anything.
fn faults_in(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')?;
    let text = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(7);
    let minor: u64 = fields.next()?.parse().ok()?;
    let major: u64 = fields.nth(1)?.parse().ok()?;
    Some(minor + major)
}

/// Drops the pages of a private mapping that were written to, so that it shows the file again.
/// `n_faults` is from when there were none.
///
/// # Safety
///
/// The pages are mapped privately from a file, and nobody refers to them.
#[allow(unsafe_code)]
pub(crate) unsafe fn drop_written(
    at: NonNull<u8>,
    n_bytes: usize,
    n_faults_before: Option<u64>,
) -> io::Result<()> {
    if n_bytes > SMALL_BYTES {
        if n_faults_before.is_some() && n_faults_before == n_faults(n_bytes) {
            return Ok(());
        }
        // SAFETY: passed on.
        if unsafe { scan_and_drop(at, n_bytes) }.is_ok() {
            return Ok(());
        }
        // Linux before 6.7 cannot scan, nor can a process without /proc.
    }
    // SAFETY: passed on.
    unsafe { memory_file::advise(at, n_bytes, Advice::LinuxDontNeed) }
}

/// # Safety
///
/// As for [`drop_written`].
#[allow(unsafe_code)]
unsafe fn scan_and_drop(at: NonNull<u8>, n_bytes: usize) -> io::Result<()> {
    // Opened each time: the descriptor shows the process that opened it, also in a forked child.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let pagemap = rustix::fs::open("/proc/self/pagemap", flags, Mode::empty())?;
    let start = at.as_ptr() as u64;
    let end = start + n_bytes as u64;
    let mut from = start;
    while from < end {
        let mut regions = [Region::default(); N_REGIONS];
        let scan = Scan::of_written(from, end, &mut regions);
        // SAFETY: the argument describes itself and `regions`, which outlives the call.
        let (n_regions, walked_to) = unsafe { rustix::ioctl::ioctl(&pagemap, scan)? };
        for region in &regions[..n_regions] {
            let n_before = (region.start - start) as usize;
            let n_region_bytes = (region.end - region.start) as usize;
            // SAFETY: the kernel found the region between `from` and `end`. The rest is passed on.
            unsafe {
                memory_file::advise(at.add(n_before), n_region_bytes, Advice::LinuxDontNeed)?
            };
        }
        if walked_to <= from {
            return Err(io::ErrorKind::Unsupported.into());
        }
        from = walked_to;
    }
    Ok(())
}

const N_REGIONS: usize = 128;

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

impl Scan {
    /// Asks for the pages that are there and not the file's.
    fn of_written(start: u64, end: u64, regions: &mut [Region]) -> Scan {
        Scan {
            size: size_of::<Scan>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: PAGE_IS_FILE,
            category_mask: PAGE_IS_FILE,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_FILE,
        }
    }
}

// SAFETY: PAGEMAP_SCAN reads and writes this struct, and the regions that it names.
#[allow(unsafe_code)]
unsafe impl Ioctl for Scan {
    /// The number of regions filled, and how far the scan went.
    type Output = (usize, u64);

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Scan>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, scan: *mut c_void) -> Result<(usize, u64), Errno> {
        // SAFETY: the pointer is the one from `as_ptr`.
        let walk_end = unsafe { (*scan.cast::<Scan>()).walk_end };
        Ok((out as usize, walk_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_counted_whatever_the_process_is_called() {
        let stat = b"123 (a) b (c) S 1 2 3 4 5 6 700 8 90 10 11\n";
        assert_eq!(faults_in(stat), Some(790));
        assert_eq!(faults_in(b"123 (a) S 1"), None);
        let before = n_faults(LARGE_BYTES).expect("Linux counts them");
        let touched = vec![1_u8; 8 << 20];
        assert!(touched.iter().all(|&byte| byte == 1));
        assert!(n_faults(LARGE_BYTES) > Some(before));
    }
}
