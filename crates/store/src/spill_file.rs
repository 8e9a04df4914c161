//! A file on disk without a name, for what memory is too short for.
//!
//! It is filled from front to back, in whole pages, so that its parts can be mapped like those of a memory
//! file; what is no longer needed is given back by punching holes. As it has no name, nothing of it is left
//! once the last process that has it open is gone, however that ends.

use crate::memory_file;
use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Resource;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Address space of a file, unless one thing needs more.
const N_FILE_BYTES: u64 = 1 << 30;

/// A file that is being filled.
#[derive(Debug)]
pub struct SpillFile {
    fd: Arc<OwnedFd>,
    n_bytes: u64,
    /// Everything from here on was never written.
    n_filled_bytes: u64,
}

impl SpillFile {
    /// An empty file in this folder, with room for at least so many bytes. It takes no space yet.
    ///
    /// # Errors
    ///
    /// What the system says: the folder is not there or not writable, or files may not be so large.
    pub fn create(folder: &Path, n_bytes_min: u64) -> io::Result<SpillFile> {
        let n_bytes_min = whole_pages(n_bytes_min);
        // Beyond this limit the kernel would send SIGXFSZ, which ends the process.
        let limit = rustix::process::getrlimit(Resource::Fsize).current;
        if limit.is_some_and(|limit| n_bytes_min > limit) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let n_bytes = N_FILE_BYTES.min(limit.unwrap_or(u64::MAX)).max(n_bytes_min);
        let fd = open_unnamed(folder)?;
        rustix::fs::ftruncate(&fd, n_bytes)?;
        Ok(SpillFile {
            fd: Arc::new(fd),
            n_bytes,
            n_filled_bytes: 0,
        })
    }

    /// The file.
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Gives the space of a part back. Where the file system cannot, it comes back with the whole file.
    pub fn discard(fd: &OwnedFd, offset: u64, n_bytes: u64) {
        let n_bytes = whole_pages(n_bytes);
        if n_bytes > 0 {
            drop(memory_file::punch(fd, offset, n_bytes));
        }
    }

    /// Reads a part.
    ///
    /// # Errors
    ///
    /// What the system says, and [`io::ErrorKind::UnexpectedEof`] where the file ends before the part.
    pub fn read(fd: &OwnedFd, offset: u64, n_bytes: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; n_bytes];
        read_into(fd, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// How long the file is, filled or not.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Whether so many bytes more have room.
    pub fn has_room(&self, n_bytes: u64) -> bool {
        whole_pages(n_bytes) <= self.n_bytes - self.n_filled_bytes
    }

    /// Begins again at the front. Nothing that was written is needed any more.
    pub fn rewind(&mut self) {
        self.n_filled_bytes = 0;
    }

    /// Appends parts, each from a page of its own on; where each begins. All or nothing.
    ///
    /// # Errors
    ///
    /// If there is no room ([`SpillFile::has_room`]), the disk is full, or what else the system says.
    pub fn append(&mut self, parts: &[SpillPart<'_>]) -> io::Result<Vec<u64>> {
        let n_bytes = SpillPart::n_bytes_in_file(parts);
        if !self.has_room(n_bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let start = self.n_filled_bytes;
        let written = self.reserve(start, n_bytes).and_then(|()| {
            let mut offset = start;
            let mut offsets = Vec::with_capacity(parts.len());
            for part in parts {
                part.write(&self.fd, offset)?;
                offsets.push(offset);
                offset += whole_pages(part.n_bytes());
            }
            Ok(offsets)
        });
        match &written {
            Ok(_) => self.n_filled_bytes += n_bytes,
            // What was written of it is given back; if that fails too, it is written over.
            Err(_) => drop(memory_file::punch(&self.fd, start, n_bytes)),
        }
        written
    }

    /// Asks for the space first: so a full disk is known before the time is spent.
    fn reserve(&self, offset: u64, n_bytes: u64) -> io::Result<()> {
        if n_bytes == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset, n_bytes) {
                Err(Errno::INTR) => {}
                // Not every file system can; there it shows when it is written.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                other => return Ok(other?),
            }
        }
    }
}

/// What is written to a [`SpillFile`].
#[derive(Clone, Copy, Debug)]
pub enum SpillPart<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// A range of another file: a segment.
    Range {
        /// The file.
        fd: &'a OwnedFd,
        /// Where the range starts.
        offset: u64,
        /// How long it is.
        n_bytes: u64,
    },
}

/// What is read at once to be written: as much as the processor's caches hold.
const N_COPIED_BYTES: usize = 1 << 18;

impl SpillPart<'_> {
    /// How much room parts take in a file.
    pub fn n_bytes_in_file(parts: &[SpillPart<'_>]) -> u64 {
        parts.iter().map(|part| whole_pages(part.n_bytes())).sum()
    }

    fn n_bytes(&self) -> u64 {
        match self {
            SpillPart::Bytes(bytes) => bytes.len() as u64,
            SpillPart::Range { n_bytes, .. } => *n_bytes,
        }
    }

    fn write(&self, file: &OwnedFd, at: u64) -> io::Result<()> {
        let (fd, offset, n_bytes) = match *self {
            SpillPart::Bytes(bytes) => return memory_file::write(file, at, bytes),
            SpillPart::Range {
                fd,
                offset,
                n_bytes,
            } => (fd, offset, n_bytes),
        };
        let mut buffer = vec![0; N_COPIED_BYTES.min(n_bytes as usize)];
        let mut n_copied = 0;
        while n_copied < n_bytes {
            let n_next = (n_bytes - n_copied).min(N_COPIED_BYTES as u64) as usize;
            read_into(fd, offset + n_copied, &mut buffer[..n_next])?;
            memory_file::write(file, at + n_copied, &buffer[..n_next])?;
            n_copied += n_next as u64;
        }
        Ok(())
    }
}

fn read_into(fd: &OwnedFd, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n_read = match rustix::io::pread(fd, &mut *bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n_read) => n_read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        offset += n_read as u64;
        bytes = &mut bytes[n_read..];
    }
    Ok(())
}

fn whole_pages(n_bytes: u64) -> u64 {
    n_bytes.next_multiple_of(rustix::param::page_size() as u64)
}

fn open_unnamed(folder: &Path) -> io::Result<OwnedFd> {
    let access = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(folder, access | OFlags::TMPFILE, mode) {
        // Not every file system can make files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            open_and_unlink(folder, access, mode)
        }
        other => Ok(other?),
    }
}

fn open_and_unlink(folder: &Path, access: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let pid = std::process::id();
    for attempt in 0u32.. {
        let path = folder.join(format!(".manyhands-{pid}-{attempt}"));
        match rustix::fs::open(&path, access | OFlags::CREATE | OFlags::EXCL, mode) {
            Err(Errno::EXIST) => {}
            opened => {
                let fd = opened?;
                rustix::fs::unlink(&path)?;
                return Ok(fd);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;

    fn page() -> u64 {
        rustix::param::page_size() as u64
    }

    fn n_bytes_on_disk(fd: &OwnedFd) -> u64 {
        fstat(fd).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }

    #[test]
    fn parts_are_read_as_they_were_written_and_take_no_space_afterwards() {
        let folder = std::env::temp_dir();
        let mut file = SpillFile::create(&folder, 1).expect("there is a folder for such files");
        let long: Vec<u8> = (0..N_COPIED_BYTES * 2 + 77).map(|at| at as u8).collect();
        let parts = [SpillPart::Bytes(b"short"), SpillPart::Bytes(&long)];
        let offsets = file.append(&parts).expect("there is room");
        assert_eq!(offsets, [0, page()]);
        let fd = Arc::clone(file.descriptor());
        assert_eq!(SpillFile::read(&fd, 0, 5).expect("it is there"), b"short");
        // From one file to the other, as results go.
        let mut copy = SpillFile::create(&folder, 1).expect("there is a folder for such files");
        let n_bytes = long.len() as u64;
        let range = SpillPart::Range {
            fd: &fd,
            offset: page(),
            n_bytes,
        };
        assert_eq!(copy.append(&[range]).expect("there is room"), [0]);
        let read = SpillFile::read(copy.descriptor(), 0, long.len());
        assert_eq!(read.expect("it is there"), long);
        assert!(n_bytes_on_disk(&fd) >= n_bytes + page());
        SpillFile::discard(&fd, 0, 5);
        SpillFile::discard(&fd, page(), n_bytes);
        assert_eq!(n_bytes_on_disk(&fd), 0);
        file.rewind();
        let again = file.append(&[SpillPart::Bytes(b"y")]);
        assert_eq!(again.expect("there is room"), [0]);
        assert!(SpillFile::read(&fd, N_FILE_BYTES, 1).is_err());
    }

    #[test]
    fn what_has_no_room_is_refused_and_leaves_nothing() {
        let folder = std::env::temp_dir();
        let mut file = SpillFile::create(&folder, 1).expect("there is a folder for such files");
        assert!(file.has_room(N_FILE_BYTES) && !file.has_room(N_FILE_BYTES + 1));
        file.n_filled_bytes = N_FILE_BYTES - page();
        let two = vec![1; 2 * page() as usize];
        let refused = file.append(&[SpillPart::Bytes(&two)]);
        let kind = refused.expect_err("there is one page left").kind();
        assert_eq!(kind, io::ErrorKind::StorageFull);
        assert_eq!(n_bytes_on_disk(file.descriptor()), 0);
    }

    #[test]
    fn files_have_no_name() {
        let folder = std::env::temp_dir().join(format!("manyhands-test-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("it is new");
        let file = SpillFile::create(&folder, 5 << 30).expect("there is a folder for such files");
        assert_eq!(file.n_bytes, 5 << 30);
        let unnamed = open_and_unlink(&folder, OFlags::RDWR, Mode::RUSR | Mode::WUSR);
        assert!(unnamed.is_ok());
        let n_names = std::fs::read_dir(&folder).expect("it is there").count();
        std::fs::remove_dir_all(&folder).expect("it is ours");
        assert_eq!(n_names, 0);
        assert!(SpillFile::create(&folder, 1).is_err());
    }
}
