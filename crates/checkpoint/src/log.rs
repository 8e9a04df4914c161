//! Writes entries, in one thread: it takes all that has come, writes it, has the disk keep it, and looks again.
//!
//! So a caller never waits for the disk unless it asks to, and the more there is to write, the more goes with each
//! sync. What is not durable when the process dies was never said to be.

use crate::entry::Entry;
use crate::format::{Check, Head, encode_frame, padded};
use crate::scan::Source;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is written to.
pub trait Storage: Send + Sync {
    /// Writes all of these bytes.
    ///
    /// # Errors
    ///
    /// What the system says; some bytes may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Returns when all that was written will be there after a power cut.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn sync(&self) -> io::Result<()>;

    /// Cuts off what comes behind.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn truncate(&self, n_bytes: u64) -> io::Result<()>;

    /// How much room is left, if that is known.
    fn n_bytes_free(&self) -> Option<u64> {
        None
    }
}

/// A result, as it is to be stored.
pub enum Payload {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What lies in several places, end to end: read when it is written.
    Pieces(Vec<Box<dyn Source + Send>>),
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Payload::Pieces(pieces) => write!(f, "{} pieces", pieces.len()),
        }
    }
}

struct Item {
    entry: Entry,
    payload: Payload,
}

/// Why nothing more is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteError {
    /// What the system says, as a number where it has one.
    pub errno: Option<i32>,
    /// What the system says.
    pub text: String,
    /// How long the file is: all of it is kept.
    pub n_bytes_file: u64,
    /// How much was to be written.
    pub n_bytes_more: u64,
    /// How much room there was, if that is known.
    pub n_bytes_free: Option<u64>,
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    n_appended: u64,
    n_durable: u64,
    failure: Option<Arc<WriteError>>,
    is_closing: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something has come, or is durable.
    changed: Condvar,
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Each holder leaves the queue as it should be, step by step.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is being written.
///
/// In a process that was forked from the one that opened it, nothing is written.
pub struct Log {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pid: u32,
}

impl Log {
    /// Writes at the end of a file: its salt, and where its last frame ends.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(storage: Arc<dyn Storage>, salt: [u8; 16], end: u64) -> io::Result<Log> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let mut writer = Writer {
            storage,
            salt,
            end,
            buffer: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("manyhands-store".into())
            .spawn(move || writer.run(&own))?;
        Ok(Log {
            shared,
            thread: Mutex::new(Some(thread)),
            pid: std::process::id(),
        })
    }

    /// Adds an entry; its number, for [`wait`](Log::wait). Never waits.
    pub fn append(&self, entry: Entry, payload: Payload) -> u64 {
        let mut queue = lock(&self.shared.queue);
        // Nobody is told that it is durable.
        if queue.failure.is_none() && !queue.is_closing {
            queue.items.push(Item { entry, payload });
        }
        queue.n_appended += 1;
        let number = queue.n_appended;
        drop(queue);
        self.shared.changed.notify_all();
        number
    }

    /// Whether this process was forked from the one that writes.
    pub fn is_elsewhere(&self) -> bool {
        self.pid != std::process::id()
    }

    /// The number of the entry that was added last.
    pub fn newest(&self) -> u64 {
        lock(&self.shared.queue).n_appended
    }

    /// Why nothing more is stored, if so.
    pub fn failure(&self) -> Option<Arc<WriteError>> {
        lock(&self.shared.queue).failure.clone()
    }

    /// Waits until an entry and all before it are durable, or the time is up; whether they are.
    ///
    /// # Errors
    ///
    /// If they will not be.
    pub fn wait(&self, number: u64, timeout: Duration) -> Result<bool, Arc<WriteError>> {
        if self.is_elsewhere() {
            return Ok(true);
        }
        let deadline = Instant::now().checked_add(timeout);
        let mut queue = lock(&self.shared.queue);
        loop {
            if queue.n_durable >= number {
                return Ok(true);
            }
            if let Some(failure) = &queue.failure {
                return Err(Arc::clone(failure));
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            if left.is_zero() {
                return Ok(false);
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes what is left, and ends. Entries that come later are not written.
    ///
    /// # Errors
    ///
    /// If something could not be written.
    pub fn close(&self) -> Result<(), Arc<WriteError>> {
        if self.is_elsewhere() {
            return Ok(());
        }
        lock(&self.shared.queue).is_closing = true;
        self.shared.changed.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panic has been printed, and what was not durable has not been said to be.
            drop(thread.join());
        }
        self.failure().map_or(Ok(()), Err)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if !self.is_elsewhere() {
            drop(self.close());
        } else if let Some(thread) = self.thread.get_mut().ok().and_then(Option::take) {
            // It is not here.
            std::mem::forget(thread);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// What is written at once, about.
const BUFFER_BYTES: usize = 1 << 22;

/// How much of a large result is in memory at once.
const CHUNK_BYTES: usize = 1 << 20;

struct Writer {
    storage: Arc<dyn Storage>,
    salt: [u8; 16],
    /// Up to where the file is written, the buffer apart.
    end: u64,
    buffer: Vec<u8>,
}

/// Says so, if the thread ends before its time.
struct AtEnd<'a>(&'a Shared);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        if queue.n_durable < queue.n_appended && queue.failure.is_none() {
            queue.failure = Some(Arc::new(WriteError {
                errno: None,
                text: "the thread that writes has ended".into(),
                n_bytes_file: 0,
                n_bytes_more: 0,
                n_bytes_free: None,
            }));
        }
        self.0.changed.notify_all();
    }
}

impl Writer {
    fn run(&mut self, shared: &Shared) {
        let _at_end = AtEnd(shared);
        loop {
            let mut queue = lock(&shared.queue);
            while queue.items.is_empty() && !queue.is_closing {
                let woken = shared.changed.wait(queue);
                queue = woken.unwrap_or_else(PoisonError::into_inner);
            }
            let items = std::mem::take(&mut queue.items);
            let number = queue.n_appended;
            if items.is_empty() {
                queue.n_durable = number;
                return;
            }
            drop(queue);
            let durable = self.end;
            let outcome = self.write_all(items).and_then(|()| self.storage.sync());
            let mut queue = lock(&shared.queue);
            match outcome {
                Ok(()) => queue.n_durable = number,
                Err(error) => {
                    let failure = self.give_up(durable, &error);
                    queue.failure = Some(Arc::new(failure));
                    queue.items.clear();
                }
            }
            let is_over = queue.failure.is_some();
            drop(queue);
            shared.changed.notify_all();
            if is_over {
                return;
            }
        }
    }

    /// Leaves the file as it was at the last commit, as far as the system lets it.
    fn give_up(&mut self, durable: u64, error: &io::Error) -> WriteError {
        let n_bytes_free = self.storage.n_bytes_free();
        // What remains is cut off when the file is opened next.
        let _ = self.storage.truncate(durable);
        WriteError {
            errno: error.raw_os_error(),
            text: error.to_string(),
            n_bytes_file: durable,
            n_bytes_more: (self.end - durable) + self.buffer.len() as u64,
            n_bytes_free,
        }
    }

    fn write_all(&mut self, items: Vec<Item>) -> io::Result<()> {
        for Item { entry, payload } in items {
            let (kind, meta) = entry.encode();
            match payload {
                Payload::Bytes(bytes) => {
                    let at = self.end + self.buffer.len() as u64;
                    encode_frame(&self.salt, at, kind, &meta, &bytes, &mut self.buffer);
                    if self.buffer.len() >= BUFFER_BYTES {
                        self.flush()?;
                    }
                }
                Payload::Pieces(pieces) => {
                    self.flush()?;
                    self.write_pieces(kind, &meta, &pieces)?;
                }
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.storage.write_at(&self.buffer, self.end)?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES);
        Ok(())
    }

    /// The head is written last: a frame is there when all of it is.
    fn write_pieces(
        &mut self,
        kind: u8,
        meta: &[u8],
        pieces: &[Box<dyn Source + Send>],
    ) -> io::Result<()> {
        let start = self.end;
        let mut head = Head {
            kind,
            n_meta: meta.len() as u32,
            n_payload: 0,
            payload_check: 0,
        };
        let mut check = Check::new();
        let mut chunk = Vec::new();
        let payload_at = start + head.payload_at();
        for piece in pieces {
            let n_bytes = piece.n_bytes()?;
            let mut n_done = 0;
            while n_done < n_bytes {
                chunk.resize((n_bytes - n_done).min(CHUNK_BYTES as u64) as usize, 0);
                let n_read = piece.read_at(&mut chunk, n_done)?;
                if n_read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                check.add(&chunk[..n_read]);
                // For the message, should there be no room.
                self.end = payload_at + head.n_payload + n_read as u64;
                self.storage
                    .write_at(&chunk[..n_read], payload_at + head.n_payload)?;
                head.n_payload += n_read as u64;
                n_done += n_read as u64;
            }
        }
        head.payload_check = check.finish();
        let end = padded(payload_at + head.n_payload).ok_or(io::ErrorKind::FileTooLarge)?;
        self.end = end;
        // The end of the file is where the frame's is.
        let n_padding = (end - payload_at - head.n_payload) as usize;
        self.storage
            .write_at(&vec![0; n_padding], payload_at + head.n_payload)?;
        let mut bytes = Vec::new();
        head.encode(&self.salt, start, meta, &mut bytes);
        self.storage.write_at(&bytes, start)
    }
}
