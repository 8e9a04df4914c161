//! What the kernel does for us with anonymous memory files.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::Advice;
use rustix::process::Resource;
use std::io;
use std::ptr::NonNull;

/// A sparse memory file of this length. Nobody who gets its descriptor can shorten it, so no access
/// inside that length ever faults.
pub(crate) fn create(n_bytes: u64) -> io::Result<OwnedFd> {
    // Beyond this limit the kernel would send SIGXFSZ, which ends the process.
    let limit = rustix::process::getrlimit(Resource::Fsize).current;
    if limit.is_some_and(|limit| n_bytes > limit) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create("manyhands", flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know that flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create("manyhands", flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&fd, n_bytes)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Gives the memory of a range back. It reads as zeros from then on.
pub(crate) fn punch(fd: impl AsFd, offset: u64, n_bytes: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    retry(|| rustix::fs::fallocate(&fd, flags, offset, n_bytes))
}

/// Makes sure that there is memory for a range.
pub(crate) fn reserve(fd: impl AsFd, offset: u64, n_bytes: u64) -> io::Result<()> {
    retry(|| rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, offset, n_bytes))
}

/// Writes to the file, not through a mapping: no page fault, and no zeros written first.
pub(crate) fn write(fd: impl AsFd, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n_bytes = retry(|| rustix::io::pwrite(&fd, bytes, offset))?;
        if n_bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n_bytes..];
        offset += n_bytes as u64;
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether the kernel puts huge pages under memory files that ask for them.
pub(crate) fn has_huge_pages() -> bool {
    let read = |name: &str| {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let all = chosen(&read("shmem_enabled")).map(str::to_owned);
    let of_2_mib = read("hugepages-2048kB/shmem_enabled");
    match chosen(&of_2_mib) {
        Some("inherit") | None => is_on(all.as_deref()),
        own => is_on(own),
    }
}

fn is_on(setting: Option<&str>) -> bool {
    matches!(setting, Some("always" | "within_size" | "advise" | "force"))
}

/// The word in brackets: `always [never]` is `never`.
fn chosen(setting: &str) -> Option<&str> {
    let (_, rest) = setting.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word)
}

/// Whether the kernel promises no more memory than it has: then a page that was not reserved may be
/// refused when it is touched.
pub(crate) fn must_reserve() -> bool {
    std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2")
}

/// Advises the kernel about some mapped pages.
///
/// # Safety
///
/// The pages are mapped by the caller. Where the advice drops contents, nobody refers to them.
#[allow(unsafe_code)]
pub(crate) unsafe fn advise(at: NonNull<u8>, n_bytes: usize, advice: Advice) -> io::Result<()> {
    retry(|| {
        // SAFETY: passed on.
        unsafe { rustix::mm::madvise(at.as_ptr().cast(), n_bytes, advice) }
    })
}

/// Maps all pages of a range that have memory in the file. A range that is not mapped is an error.
#[allow(unsafe_code)]
pub(crate) fn map_all(at: NonNull<u8>, n_bytes: usize) -> io::Result<()> {
    // SAFETY: the advice changes no contents, and reads nothing that the kernel may not.
    match unsafe { advise(at, n_bytes, Advice::LinuxPopulateRead) } {
        // Linux before 5.14 does not know the advice: then each page faults as it is used.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_brackets_is_chosen() {
        let setting = "always within_size advise [never] deny force\n";
        assert_eq!(chosen(setting), Some("never"));
        assert!(!is_on(chosen(setting)));
        assert!(is_on(chosen("[always] never")));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn nobody_can_shorten_a_file() {
        let fd = create(1 << 20).expect("memory files work here");
        assert!(rustix::fs::ftruncate(&fd, 4096).is_err());
        assert!(rustix::fs::ftruncate(&fd, 1 << 21).is_err());
        write(&fd, 4096, b"hello").expect("there is memory");
        reserve(&fd, 0, 1 << 20).expect("there is memory");
        punch(&fd, 0, 1 << 20).expect("memory files have holes");
        let mut read = [1; 5];
        rustix::io::pread(&fd, &mut read, 4096).expect("it is inside");
        assert_eq!(read, [0; 5]);
    }
}
