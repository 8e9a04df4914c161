//! Checkpoints as files.
//!
//! Whoever writes holds a lock on the file (`flock`), which ends with the process. Readers hold none.

use crate::entry::Entry;
use crate::format::{FRAMES_AT, HEADERS_AT, Header, NoHeader, VERSION};
use crate::index::Index;
use crate::log::{Log, Payload, Storage, WriteError};
use crate::scan::{Damage, Frame, Scan, Source, Unreadable, read_header, read_payload};
use rustix::fd::OwnedFd;
use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a file cannot be used.
#[derive(Debug)]
pub enum OpenError {
    /// What the system says.
    Io(io::Error),
    /// Somebody else is writing.
    InUse,
    /// It is something else; or both of its headers are damaged.
    NotACheckpoint,
    /// A later program has written it, in this version of the format.
    Version(u32),
    /// What was to be copied could not be written.
    Write(Arc<WriteError>),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        OpenError::Io(error)
    }
}

impl From<Errno> for OpenError {
    fn from(error: Errno) -> Self {
        OpenError::Io(error.into())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io(error) => error.fmt(f),
            OpenError::InUse => f.write_str("another run is writing to it"),
            OpenError::NotACheckpoint => {
                f.write_str("it is no checkpoint of manyhands, or both of its headers are damaged")
            }
            OpenError::Version(version) => write!(
                f,
                "it has format {version}, and this program knows formats up to {VERSION}"
            ),
            OpenError::Write(error) => f.write_str(&error.text),
        }
    }
}

impl std::error::Error for OpenError {}

/// An open file; whose descriptor it is, is the caller's business.
#[derive(Clone)]
pub struct File(Arc<dyn AsDescriptor>);

/// Has a descriptor that may be used from any thread.
pub trait AsDescriptor: Send + Sync {
    /// The descriptor.
    fn descriptor(&self) -> &OwnedFd;
}

impl AsDescriptor for OwnedFd {
    fn descriptor(&self) -> &OwnedFd {
        self
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("File").field(self.0.descriptor()).finish()
    }
}

impl File {
    /// A file that is open already.
    pub fn new(descriptor: Arc<dyn AsDescriptor>) -> File {
        File(descriptor)
    }

    /// Opens a file to read.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn to_read(path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(File(Arc::new(retry_on_intr(|| {
            fs::open(path, flags, Mode::empty())
        })?)))
    }

    /// Whether somebody is writing to it.
    pub fn is_in_use(&self) -> bool {
        let fd = self.0.descriptor();
        match fs::flock(fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                // A shared lock of a descriptor of one's own: nothing that could go wrong matters.
                let _ = fs::flock(fd, FlockOperation::Unlock);
                false
            }
            Err(error) => error == Errno::WOULDBLOCK,
        }
    }

    /// Ends the lock, also for descriptors that somebody has inherited.
    pub fn unlock(&self) {
        // Closing ends it otherwise.
        let _ = fs::flock(self.0.descriptor(), FlockOperation::Unlock);
    }
}

impl Source for File {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(fs::fstat(self.0.descriptor())?.st_size as u64)
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| {
            rustix::io::pread(self.0.descriptor(), &mut *out, at)
        })?)
    }
}

impl Storage for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut n_done = 0;
        while n_done < bytes.len() {
            let write =
                || rustix::io::pwrite(self.0.descriptor(), &bytes[n_done..], at + n_done as u64);
            match retry_on_intr(write)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n_more => n_done += n_more,
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fdatasync(self.0.descriptor()))?)
    }

    fn truncate(&self, n_bytes: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| {
            fs::ftruncate(self.0.descriptor(), n_bytes)
        })?)
    }

    fn n_bytes_free(&self) -> Option<u64> {
        let stat = fs::fstatvfs(self.0.descriptor()).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Opens a file to write, and makes it if there is none; nobody else has it open to write.
///
/// # Errors
///
/// If somebody has, or what the system says.
pub fn open_locked(path: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    let fd = retry_on_intr(|| fs::open(path, flags, mode))?;
    match retry_on_intr(|| fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(fd),
        Err(Errno::WOULDBLOCK) => Err(OpenError::InUse),
        Err(error) => Err(error.into()),
    }
}

/// What a file holds, and how it was found.
#[derive(Debug)]
pub struct Opened {
    /// The header.
    pub header: Header,
    /// How far it has been read.
    pub scan: Scan,
    /// What is in it.
    pub index: Index,
    /// How many bytes behind the last frame were cut off.
    pub n_bytes_cut: u64,
}

/// Makes a file that is locked ready to be written to: a new one gets its headers, one of an earlier version
/// becomes one of this, and what a write that was cut short has left goes.
///
/// # Errors
///
/// If it is no checkpoint, or what the system says. It is then as it was.
pub fn prepare(file: &File, path: &Path) -> Result<Opened, OpenError> {
    let n_bytes = file.n_bytes()?;
    if is_blank(file, n_bytes)? {
        create(file, path)?;
    }
    let header = read_header(file)?.map_err(refused)?;
    let mut scan = Scan::new(&header);
    let mut index = Index::default();
    scan.advance(file, |frame| index.add(frame))?;
    let mut n_bytes_cut = file.n_bytes()?.saturating_sub(scan.end());
    if n_bytes_cut > 0 {
        match scan.keep_tail(file)? {
            true => n_bytes_cut = 0,
            false => file.truncate(scan.end())?,
        }
    }
    write_headers(file, &header)?;
    // What is found is used; the run that wrote it may have ended before it was durable.
    file.sync()?;
    Ok(Opened {
        header,
        scan,
        index,
        n_bytes_cut,
    })
}

/// Reads a file, which somebody may be writing.
///
/// # Errors
///
/// If it is no checkpoint, or what the system says.
pub fn read(file: &File) -> Result<(Header, Scan), OpenError> {
    let header = read_header(file)?.map_err(refused)?;
    let scan = Scan::new(&header);
    Ok((header, scan))
}

fn refused(reason: NoHeader) -> OpenError {
    match reason {
        NoHeader::Unknown => OpenError::NotACheckpoint,
        NoHeader::Version(version) => OpenError::Version(version),
    }
}

/// Whether a file was made and nothing written to it, or nothing that has reached the disk.
fn is_blank(file: &File, n_bytes: u64) -> io::Result<bool> {
    if n_bytes > FRAMES_AT {
        return Ok(false);
    }
    let mut bytes = vec![0; n_bytes as usize];
    let n_read = file.read_at(&mut bytes, 0)?;
    Ok(bytes[..n_read].iter().all(|&byte| byte == 0))
}

fn create(file: &File, path: &Path) -> Result<(), OpenError> {
    let mut salt = [0; 16];
    // So many bytes come at once, from a system that has begun.
    retry_on_intr(|| {
        rustix::rand::getrandom(&mut salt[..], rustix::rand::GetRandomFlags::empty())
    })?;
    let header = Header {
        version: VERSION,
        salt,
        created: (SystemTime::now().duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs()),
    };
    file.write_at(&header.preamble(), 0)?;
    file.sync()?;
    // The name too has to be there after a power cut.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = fs::open(folder.unwrap_or(Path::new(".")), flags, Mode::empty())?;
    match fs::fsync(&folder) {
        // Some file systems have no such thing.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Has both copies be the header of this version: one after the other, so that one is whole at any time.
fn write_headers(file: &File, header: &Header) -> io::Result<()> {
    let newest = Header {
        version: VERSION,
        ..*header
    }
    .encode();
    for at in HEADERS_AT {
        let mut present = vec![0; newest.len()];
        let n_read = file.read_at(&mut present, at)?;
        if present[..n_read] != newest {
            file.write_at(&newest, at)?;
            file.sync()?;
        }
    }
    Ok(())
}

/// What [`salvage`] has copied, and what it could not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Salvaged {
    /// Results and other frames that are in the new file.
    pub n_results: u64,
    /// Results that were found damaged.
    pub n_damaged: u64,
    /// What could not be read at all.
    pub damage: Vec<Damage>,
    /// How much there was behind the last frame.
    pub n_bytes_tail: u64,
}

/// Copies all that is whole into a new file.
///
/// # Errors
///
/// If the new file is there already, or what the system says.
pub fn salvage(from: &Path, to: &Path) -> Result<Salvaged, OpenError> {
    let source = File::to_read(from)?;
    let (_, mut scan) = read(&source)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| fs::open(to, flags, Mode::from_raw_mode(0o666)))?;
    fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    let target = File::new(Arc::new(fd));
    let copied = copy(&source, &mut scan, target, to);
    if copied.is_err() {
        // Half of a copy is worse than none: the other half is still where it was.
        let _ = fs::unlink(to);
    }
    copied
}

fn copy(source: &File, scan: &mut Scan, target: File, to: &Path) -> Result<Salvaged, OpenError> {
    let opened = prepare(&target, to)?;
    let log = Log::start(Arc::new(target), opened.header.salt, opened.scan.end())?;
    let mut frames: Vec<Frame> = Vec::new();
    scan.advance(source, |frame| frames.push(frame))?;
    let mut salvaged = Salvaged {
        damage: scan.damage.clone(),
        n_bytes_tail: source.n_bytes()?.saturating_sub(scan.end()),
        ..Salvaged::default()
    };
    for frame in frames {
        let is_result = matches!(frame.entry, Entry::Result(_));
        if matches!(frame.entry, Entry::Unknown) {
            continue;
        }
        let payload = match read_payload(source, frame.payload) {
            Ok(payload) => payload,
            Err(Unreadable::Damaged) => {
                salvaged.n_damaged += 1;
                continue;
            }
            Err(Unreadable::Io(error)) => return Err(error.into()),
        };
        salvaged.n_results += u64::from(is_result);
        let is_large = payload.len() > 1 << 20;
        let number = log.append(frame.entry, Payload::Bytes(payload));
        if is_large {
            // Or the whole file would be in memory.
            log.wait(number, std::time::Duration::MAX)
                .map_err(OpenError::Write)?;
        }
    }
    log.close().map_err(OpenError::Write)?;
    Ok(salvaged)
}
