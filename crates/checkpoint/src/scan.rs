//! Finds the frames that are whole among bytes that may be anything.
//!
//! Pure but for [`Source`]: the same scan reads a file, a file that somebody is writing, and a slice in a test.
//!
//! Where a frame should begin and none does, the scan looks further: with a whole frame behind it, what lies between is
//! damaged; with none, it is the *tail*: a frame that is being written, or whose writing was cut short.

use crate::entry::Entry;
use crate::format::{
    self, Check, FRAMES_AT, HEAD_BYTES, HEADER_BYTES, HEADERS_AT, Head, Header, NoHeader,
};
use std::io;

/// Bytes that can be read from any place.
pub trait Source {
    /// How many there are.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn n_bytes(&self) -> io::Result<u64>;

    /// Reads bytes from this place on; how many, fewer at the end only.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Source for [u8] {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.len());
        let n_bytes = out.len().min(self.len() - at);
        out[..n_bytes].copy_from_slice(&self[at..at + n_bytes]);
        Ok(n_bytes)
    }
}

impl Source for Vec<u8> {
    fn n_bytes(&self) -> io::Result<u64> {
        self.as_slice().n_bytes()
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        self.as_slice().read_at(out, at)
    }
}

/// A frame that is whole, as far as can be told without its payload.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// What it is about.
    pub entry: Entry,
    /// Where it begins.
    pub at: u64,
    /// What comes with it.
    pub payload: Extent,
}

/// Where a payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where it begins.
    pub at: u64,
    /// How long it is.
    pub n_bytes: u64,
    /// Its checksum.
    pub check: u64,
}

/// Bytes that are no frame, though frames come after them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where they begin.
    pub at: u64,
    /// How many there are.
    pub n_bytes: u64,
}

/// The header of a file, from whichever copy is whole.
///
/// # Errors
///
/// What the system says.
pub fn read_header(source: &(impl Source + ?Sized)) -> io::Result<Result<Header, NoHeader>> {
    let mut found = Err(NoHeader::Unknown);
    for at in HEADERS_AT {
        let mut bytes = [0; HEADER_BYTES];
        let n_read = source.read_at(&mut bytes, at)?;
        match Header::decode(&bytes[..n_read]) {
            // A version that is being changed: the newer one is in force with the first copy.
            Ok(header) => {
                let is_newer = |known: &Header| known.version < header.version;
                if found.as_ref().map_or(true, is_newer) {
                    found = Ok(header);
                }
            }
            Err(NoHeader::Version(version)) => return Ok(Err(NoHeader::Version(version))),
            Err(NoHeader::Unknown) => {}
        }
    }
    Ok(found)
}

/// How far a file has been read.
#[derive(Clone, Debug)]
pub struct Scan {
    salt: [u8; 16],
    /// Where the next frame begins, if nothing is wrong there.
    at: u64,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

impl Scan {
    /// From the first frame on.
    pub fn new(header: &Header) -> Scan {
        Scan {
            salt: header.salt,
            at: FRAMES_AT,
            damage: Vec::new(),
        }
    }

    /// Where the last whole frame ends: what comes behind is the tail.
    pub fn end(&self) -> u64 {
        self.at
    }

    /// Shows the frames that there are now and have not been shown yet.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn advance(
        &mut self,
        source: &(impl Source + ?Sized),
        mut show: impl FnMut(Frame),
    ) -> io::Result<()> {
        let n_bytes = source.n_bytes()?;
        let mut window = Window::new(source, n_bytes);
        loop {
            if let Some((frame, end)) = self.frame_at(&mut window, self.at)? {
                self.at = end;
                show(frame);
                continue;
            }
            let Some(next) = self.search(&mut window)? else {
                return Ok(());
            };
            self.damage.push(Damage {
                at: self.at,
                n_bytes: next - self.at,
            });
            self.at = next;
        }
    }

    /// Takes the tail for damage if there is more in it than one write that was cut short, such as frames that have moved:
    /// nothing of it is to be overwritten then. Whether it does.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn keep_tail(&mut self, source: &(impl Source + ?Sized)) -> io::Result<bool> {
        let n_bytes = source.n_bytes()?;
        let mut window = Window::new(source, n_bytes);
        let mut from = self.at;
        loop {
            let bytes = window.rest(from)?;
            match format::any_head(bytes) {
                // There a frame may have been begun.
                Some(0) if from == self.at => from += 1,
                Some(_) => break,
                None if bytes.len() < HEAD_BYTES => return Ok(false),
                // A head may begin in the last of them.
                None => from += (bytes.len() - HEAD_BYTES + 1) as u64,
            }
        }
        let end = format::padded(n_bytes).unwrap_or(n_bytes);
        self.damage.push(Damage {
            at: self.at,
            n_bytes: n_bytes - self.at,
        });
        self.at = end;
        Ok(true)
    }

    /// The frame that begins here, and where it ends.
    fn frame_at<S: Source + ?Sized>(
        &self,
        window: &mut Window<'_, S>,
        at: u64,
    ) -> io::Result<Option<(Frame, u64)>> {
        let Some(head) = window.get(at, HEAD_BYTES)?.and_then(Head::peek) else {
            return Ok(None);
        };
        let end = head
            .frame_bytes()
            .and_then(|n_bytes| at.checked_add(n_bytes));
        let Some(end) = end.filter(|&end| end <= window.n_bytes_all) else {
            return Ok(None);
        };
        let n_bytes = HEAD_BYTES + head.n_meta as usize;
        let Some(bytes) = window.get(at, n_bytes)? else {
            return Ok(None);
        };
        if !Head::is_whole(bytes, &self.salt, at) {
            return Ok(None);
        }
        let Some(entry) = Entry::decode(head.kind, &bytes[HEAD_BYTES..]) else {
            return Ok(None);
        };
        let payload = Extent {
            at: at + head.payload_at(),
            n_bytes: head.n_payload,
            check: head.payload_check,
        };
        Ok(Some((Frame { entry, at, payload }, end)))
    }

    /// The next place behind `at` where a whole frame begins.
    fn search<S: Source + ?Sized>(&self, window: &mut Window<'_, S>) -> io::Result<Option<u64>> {
        let mut from = self.at + 8;
        loop {
            let bytes = window.rest(from)?;
            if bytes.len() < HEAD_BYTES {
                return Ok(None);
            }
            match format::next_candidate(bytes, from) {
                Some(at) => {
                    let candidate = from + at as u64;
                    if self.frame_at(window, candidate)?.is_some() {
                        return Ok(Some(candidate));
                    }
                    from = candidate + 8;
                }
                None => from += bytes.len() as u64 & !7,
            }
        }
    }
}

/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 18;

/// Part of a source, in memory.
struct Window<'a, S: ?Sized> {
    source: &'a S,
    n_bytes_all: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a, S: Source + ?Sized> Window<'a, S> {
    fn new(source: &'a S, n_bytes_all: u64) -> Window<'a, S> {
        Window {
            source,
            n_bytes_all,
            at: 0,
            bytes: Vec::new(),
        }
    }

    /// So many bytes from here; `None` where there are fewer.
    fn get(&mut self, at: u64, n_bytes: usize) -> io::Result<Option<&[u8]>> {
        let end = at.checked_add(n_bytes as u64);
        if end.is_none_or(|end| end > self.n_bytes_all) {
            return Ok(None);
        }
        self.load(at, n_bytes)?;
        let start = (at - self.at) as usize;
        Ok(self.bytes.get(start..start + n_bytes))
    }

    /// What there is in memory from here on, some at least unless it is the end.
    fn rest(&mut self, at: u64) -> io::Result<&[u8]> {
        let n_left = self.n_bytes_all.saturating_sub(at);
        if n_left == 0 {
            return Ok(&[]);
        }
        self.load(at, n_left.min(HEAD_BYTES as u64) as usize)?;
        Ok(&self.bytes[((at - self.at) as usize).min(self.bytes.len())..])
    }

    fn load(&mut self, at: u64, n_bytes: usize) -> io::Result<()> {
        let is_there = at >= self.at && at + n_bytes as u64 <= self.at + self.bytes.len() as u64;
        if is_there {
            return Ok(());
        }
        let n_left = self.n_bytes_all - at;
        let n_wanted = n_left.min(n_bytes.max(WINDOW_BYTES) as u64) as usize;
        self.bytes.resize(n_wanted, 0);
        self.at = at;
        let mut n_read = 0;
        while n_read < n_wanted {
            match self
                .source
                .read_at(&mut self.bytes[n_read..], at + n_read as u64)?
            {
                0 => break,
                n_more => n_read += n_more,
            }
        }
        // Somebody may have cut the file meanwhile.
        self.bytes.truncate(n_read);
        Ok(())
    }
}

/// Why a payload cannot be had.
#[derive(Debug)]
pub enum Unreadable {
    /// It is not what was written.
    Damaged,
    /// What the system says.
    Io(io::Error),
}

/// The payload there, if it is whole.
///
/// # Errors
///
/// If it is damaged, or cannot be read.
pub fn read_payload(
    source: &(impl Source + ?Sized),
    extent: Extent,
) -> Result<Vec<u8>, Unreadable> {
    let n_bytes_all = source.n_bytes().map_err(Unreadable::Io)?;
    let end = extent.at.checked_add(extent.n_bytes);
    if end.is_none_or(|end| end > n_bytes_all) {
        return Err(Unreadable::Damaged);
    }
    let n_bytes = usize::try_from(extent.n_bytes).map_err(|_| Unreadable::Damaged)?;
    let mut bytes = vec![0; n_bytes];
    let mut n_read = 0;
    while n_read < n_bytes {
        let read = source.read_at(&mut bytes[n_read..], extent.at + n_read as u64);
        match read.map_err(Unreadable::Io)? {
            0 => return Err(Unreadable::Damaged),
            n_more => n_read += n_more,
        }
    }
    let mut check = Check::new();
    check.add(&bytes);
    match check.finish() == extent.check {
        true => Ok(bytes),
        false => Err(Unreadable::Damaged),
    }
}
