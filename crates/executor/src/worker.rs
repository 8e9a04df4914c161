//! The worker's end of a connection: what a worker process runs.
//!
//! Two threads. The main thread runs tasks, one by one from a queue. The other thread reads from the
//! connection and never needs the interpreter: it fills the queue, gives tasks back from it while
//! the main thread computes, sends results that have waited for [`FLUSH`], and ends the process at
//! once when the parent is gone. A main thread that has just run out of tasks reads too, for a moment.

mod pace;
mod queue;
mod reporter;

pub use reporter::Reporter;

use crate::connection::{self, Breach, Descriptors};
use crate::job::lock;
use crate::processes::Descriptor;
use crate::status::StatusPage;
use crate::stock::WorkerStock;
use manyhands_store::{Place, SegmentId};
use manyhands_wire::{
    Ending, FrameReader, FrameWriter, Mark, Message, NO_TASK, OpenResults, ResultsWriter, Secret,
    TaskKey,
};
use pace::{Pace, now_ns};
use queue::{Cursor, Item, Next, Queue, Run};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A result waits for others about this long before it is sent, or twice as long behind a task that runs on.
pub const FLUSH: Duration = Duration::from_millis(1);
const FLUSH_NS: u64 = FLUSH.as_nanos() as u64;
const _: () = assert!(2 * FLUSH_NS <= manyhands_scheduler::REPORTS_WAIT_NS_MAX);
/// How long a worker that has run out of tasks stays awake for more.
const SOON: Duration = Duration::from_micros(150);
/// So many bytes of results are sent without waiting for more.
const N_BYTES_FLUSHED: usize = 1 << 18;
const READ_BYTES: usize = 1 << 16;

/// Knows what tasks are: calls functions.
pub trait Host {
    /// Called once, before anything else, where there is shared memory.
    fn stock(&mut self, stock: Arc<WorkerStock>) {
        drop(stock);
    }

    /// Called once, where there is a file for what a fault handler has to say, which the parent reads
    /// when this process has ended. On [`DUMP_SIGNAL`](crate::processes::DUMP_SIGNAL) it is to be written
    /// there where this process is.
    fn faults(&mut self, file: OwnedFd) {
        drop(file);
    }

    /// Called once, before any task: by this, tasks say what is not part of their results.
    fn reporter(&mut self, reporter: Reporter) {
        drop(reporter);
    }

    /// The surroundings in which tasks run from now on.
    fn context(&mut self, bytes: &[u8]);

    /// Takes a function that tasks will name.
    fn function(&mut self, function: u32, bytes: Vec<u8>);

    /// Forgets a function. Afterwards nothing may read what its bytes referred to.
    fn forget(&mut self, function: u32);

    /// Calls a function; appends what it returned, or how it failed, and says in what way it ended.
    fn call(&mut self, function: u32, bytes: &[u8], out: &mut Vec<u8>) -> Ending;

    /// Whether something that was printed has not left this process, as far as that is cheap to know.
    fn has_output(&self) -> bool {
        false
    }

    /// Called before results are sent: what tasks have printed must leave first.
    fn before_sending(&mut self);

    /// Calls `wait`, which may take long, without holding on to anything.
    fn let_go(&mut self, wait: &mut dyn FnMut());
}

/// Results that have not been sent: a frame that is still open.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    open: Option<OpenResults>,
    /// The segments that the parent knows.
    announced: Vec<SegmentId>,
}

impl Outgoing {
    /// Ends the open frame: something else follows, or it is sent.
    fn end_results(&mut self) {
        if let Some(open) = self.open.take() {
            open.end(&mut self.bytes);
        }
    }
}

/// What arrives.
#[derive(Default)]
struct Incoming {
    reader: FrameReader,
    descriptors: Descriptors,
}

struct Shared {
    socket: Descriptor,
    /// Readable once the parent is gone. Not everywhere to be had; then the end of the connection has
    /// to do.
    parent: Option<OwnedFd>,
    queue: Queue,
    outgoing: Mutex<Outgoing>,
    /// Tells the reading thread that results wait.
    wake: OwnedFd,
    /// Whether the reading thread knows that results wait.
    is_flush_due: AtomicBool,
    stock: Option<Arc<WorkerStock>>,
    /// Held by whoever reads: the reading thread, or the main thread while it has nothing else to do.
    incoming: Mutex<Incoming>,
    /// The task that is running.
    running: AtomicU64,
    /// Whether tasks are told apart in what they write.
    is_marked: AtomicBool,
    /// How many reports there have been.
    n_reports: AtomicU32,
    marks: Marks,
}

/// Where marks are written: the standard streams as they were, whatever tasks have done to them.
struct Marks {
    secret: Secret,
    streams: [Option<OwnedFd>; 2],
}

impl Marks {
    fn new(owner: u32, parent: u32) -> Marks {
        let keep = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok();
        Marks {
            secret: Secret::new(owner, parent),
            streams: [keep(rustix::stdio::stdout()), keep(rustix::stdio::stderr())],
        }
    }

    /// Writes a mark to both streams, or to standard error alone.
    fn write(&self, mark: Mark, is_for_both: bool) {
        let bytes = mark.to_bytes(self.secret);
        let streams = if is_for_both {
            &self.streams[..]
        } else {
            &self.streams[1..]
        };
        for stream in streams.iter().flatten() {
            // A pipe takes so little at once or not at all; where nobody reads, nobody misses it.
            let _ = retry(|| rustix::io::write(stream, &bytes));
        }
    }
}

/// Serves a parent until it asks to stop. The parent's process id tells when it is gone.
///
/// # Errors
///
/// If the connection is none, or breaks off before it is set up.
pub fn serve(socket: OwnedFd, parent: u32, host: &mut dyn Host) -> io::Result<()> {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    serve_forked(socket, parent, host)
}

/// The same for a worker that was forked: the thread that forked it may end long before its process
/// does, and the system's signal is about the thread.
pub(crate) fn serve_forked(socket: OwnedFd, parent: u32, host: &mut dyn Host) -> io::Result<()> {
    let parent_id = parent;
    let parent = open_parent(parent);
    if parent.is_some() {
        // The reading thread notices, and takes along what tasks have started. It only has to be awake
        // for it, should somebody have stopped this process.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::CONT));
    }
    let (owner, status, faults) = receive_greeting(&socket)?;
    if let Some(file) = faults {
        host.faults(file);
    }
    let stock = (owner != 0).then(|| Arc::new(WorkerStock::new(owner)));
    if let Some(stock) = &stock {
        host.stock(Arc::clone(stock));
    }
    let shared = Arc::new(Shared {
        socket: Descriptor::new(socket),
        parent,
        queue: Queue::default(),
        outgoing: Mutex::default(),
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        is_flush_due: AtomicBool::new(false),
        stock,
        incoming: Mutex::default(),
        running: AtomicU64::new(reporter::pack(NO_TASK)),
        is_marked: AtomicBool::new(false),
        n_reports: AtomicU32::new(0),
        marks: Marks::new(owner, parent_id),
    });
    host.reporter(Reporter::new(Arc::clone(&shared)));
    let reader = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name("manyhands-io".into());
    thread.spawn(move || {
        let life = AssertUnwindSafe(|| read_until_stop(&reader));
        if catch_unwind(life).is_err() {
            // A worker that hears nothing any more would look busy for ever.
            std::process::abort();
        }
    })?;
    let mut ready = Vec::new();
    FrameWriter::new(&mut ready).ready();
    shared.send(&ready);
    run_tasks(&shared, status.as_ref(), host);
    // Nobody reads any more who could notice.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The connection ends with the process and not before: its end tells the parent that the process
    // is gone, and what the program does at exit takes its time.
    std::mem::forget(shared);
    Ok(())
}

/// A connection begins with the number under which this worker allocates shared memory, zero for none;
/// along with it comes the status page, where there is one, and the file for what a fault handler writes.
fn receive_greeting(socket: &OwnedFd) -> io::Result<(u32, Option<StatusPage>, Option<OwnedFd>)> {
    let mut number = [0; 4];
    let mut n_read = 0;
    let mut descriptors = Descriptors::default();
    while n_read < number.len() {
        let room = &mut number[n_read..];
        match retry(|| descriptors.receive(socket, room, RecvFlags::empty()))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n_bytes => n_read += n_bytes,
        }
    }
    let file: Option<OwnedFd> = descriptors.next().unwrap_or_default();
    let status = file.as_ref().map(StatusPage::map).transpose()?;
    Ok((u32::from_le_bytes(number), status, file))
}

fn retry<T>(mut act: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match act() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Ends this process because its descriptors are not what they were.
fn end_without_connection() -> ! {
    let text = "manyhands: a task closed the connection of its worker, which therefore ends. \
        os.closerange() and the like may only be used in a process that a task has started.\n";
    // Where nobody listens there is nothing more to do.
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    exit_now(1)
}

/// Exits without running anybody's handlers, which may need what is gone.
#[allow(unsafe_code)]
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` is in every C library, with this signature, and may be called at any time.
    unsafe extern "C" {
        safe fn _exit(code: i32) -> !;
    }
    _exit(code)
}

/// Opens the process that tells when the parent is gone.
fn open_parent(parent: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(parent).ok().and_then(Pid::from_raw)?;
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Some(fd),
        // It died before anything here could have noticed.
        Err(Errno::SRCH) => end_process(),
        Err(_) => None,
    }
}

/// Ends this process, and what its tasks have started, without any ceremony: nobody is left to hear
/// of it.
fn end_process() -> ! {
    if rustix::process::getpgrp() == rustix::process::getpid() {
        let _ = rustix::process::kill_current_process_group(Signal::KILL);
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

impl Shared {
    /// Sends bytes, waiting as long as it takes; the parent never stops reading while it lives.
    fn send(&self, bytes: &[u8]) {
        self.send_with(bytes, None);
    }

    /// The same for a frame that a descriptor belongs to.
    fn send_with(&self, mut bytes: &[u8], mut descriptor: Option<BorrowedFd<'_>>) {
        while !bytes.is_empty() {
            match connection::send(&self.socket, bytes, descriptor, SendFlags::DONTWAIT) {
                Ok(n_bytes) => {
                    bytes = &bytes[n_bytes..];
                    descriptor = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_for_room(),
                // Others have to take their descriptors first.
                Err(Errno::TOOMANYREFS) => std::thread::sleep(connection::DESCRIPTORS_PAUSE),
                Err(Errno::BADF | Errno::NOTSOCK) => end_without_connection(),
                Err(_) => end_process(),
            }
        }
    }

    /// Waits until the socket takes more. A copy of the parent may keep the connection open, so its end
    /// alone would not tell that nobody reads any more.
    fn wait_for_room(&self) {
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::OUT)];
        fds.extend((self.parent.iter()).map(|parent| PollFd::new(parent, PollFlags::IN)));
        let _ = retry(|| poll(&mut fds, None));
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            end_process();
        }
    }

    fn flush(&self, outgoing: &mut Outgoing) {
        self.announce(&mut outgoing.announced);
        outgoing.end_results();
        self.send(&outgoing.bytes);
        outgoing.bytes.clear();
        // One huge result must not hold its memory for ever.
        outgoing.bytes.shrink_to(4 * N_BYTES_FLUSHED);
    }

    /// Has the reading thread send what waits, in a moment.
    fn call_reader(&self) {
        // SYNC POINT: the swap pairs with the reader's store; one of the two sees the result waiting. The
        // load before it saves the swap while the flag is up, and the reader takes it down only after it
        // has found nothing waiting.
        let flag = &self.is_flush_due;
        if !flag.load(Ordering::Acquire) && !flag.swap(true, Ordering::AcqRel) {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Sends the segments that the parent does not know yet: what is sent next may refer to them.
    fn announce(&self, announced: &mut Vec<SegmentId>) {
        let Some(stock) = &self.stock else { return };
        if stock.arena.n_segments() == announced.len() {
            return;
        }
        for segment in stock.arena.segments() {
            if announced.contains(&segment) {
                continue;
            }
            if let Some(descriptor) = stock.arena.descriptor(segment) {
                let mut frame = Vec::new();
                FrameWriter::new(&mut frame).segment(segment.0);
                self.send_with(&frame, Some(descriptor.as_fd()));
                announced.push(segment);
            }
        }
    }
}

/// The main thread, at work.
struct Main<'a> {
    shared: &'a Shared,
    status: Option<&'a StatusPage>,
    host: &'a mut dyn Host,
    cursor: Cursor,
    /// Where what tasks write goes, and whether it ends with a mark.
    route: u32,
    is_marked: bool,
    /// Where a result is made before it is kept.
    result: Vec<u8>,
    pace: Pace,
    /// When results were last sent.
    flushed_ns: u64,
}

fn run_tasks(shared: &Shared, status: Option<&StatusPage>, host: &mut dyn Host) {
    let mut main = Main {
        shared,
        status,
        host,
        cursor: Cursor::default(),
        route: 0,
        is_marked: false,
        result: Vec::new(),
        pace: Pace::new(),
        flushed_ns: now_ns(),
    };
    loop {
        while !shared.queue.is_stopped() && main.run_next() {}
        match main.cursor.advance(&shared.queue) {
            Next::Stop => return,
            Next::Item(Item::Run(_)) => {}
            Next::Item(Item::Context(route, is_marked, bytes)) => {
                main.turn(route, is_marked);
                main.host.context(&bytes);
            }
            Next::Item(Item::Function(function, bytes)) => main.host.function(function, bytes),
            Next::Item(Item::Forget(functions)) => {
                functions.iter().for_each(|&id| main.host.forget(id));
                tell_forgotten(shared, main.host, functions);
                main.flushed_ns = main.pace.skip();
            }
            Next::Nothing => main.idle(),
        }
    }
}

/// Tells the parent that nothing is left of some functions.
fn tell_forgotten(shared: &Shared, host: &mut dyn Host, functions: Vec<u32>) {
    host.before_sending();
    let mut outgoing = lock(&shared.outgoing);
    outgoing.end_results();
    FrameWriter::new(&mut outgoing.bytes).forgotten(functions);
    shared.flush(&mut outgoing);
}

impl Main<'_> {
    /// Runs the next task of the run under way; says whether there was one.
    fn run_next(&mut self) -> bool {
        let Some(claimed) = self.cursor.claim() else {
            return false;
        };
        let task = claimed.task;
        if let Some(status) = self.status {
            status.set(task);
        }
        let running = &self.shared.running;
        running.store(reporter::pack(task), Ordering::Relaxed);
        self.pace.begin(claimed.function);
        self.result.clear();
        let ending = (self.host).call(claimed.function, claimed.bytes, &mut self.result);
        if self.is_marked {
            self.host.before_sending();
            let mark = match ending {
                Ending::Retriable => Mark::Tried(task),
                Ending::Returned | Ending::Failed | Ending::Fatal => Mark::Ended(task),
            };
            self.shared.marks.write(mark, true);
        }
        let (duration_ns, now_ns) = self.pace.ended();
        let is_late = |now_ns: u64| now_ns.saturating_sub(self.flushed_ns) >= FLUSH_NS;
        let is_due = now_ns.is_some_and(is_late) || ending != Ending::Returned;
        // As soon as a result is kept, the reading thread may send it, which cannot see to the output.
        if is_due || self.host.has_output() {
            self.host.before_sending();
        }
        if keep(self.shared, task, ending, duration_ns, &self.result, is_due) {
            self.flushed_ns = self.pace.skip();
        }
        if self.result.capacity() > N_BYTES_FLUSHED {
            self.result = Vec::new();
        }
        true
    }

    /// Has what tasks write go another way.
    fn turn(&mut self, route: u32, is_marked: bool) {
        if route == self.route {
            return;
        }
        self.host.before_sending();
        self.shared.marks.write(Mark::Route(route), true);
        self.route = route;
        self.is_marked = is_marked;
        self.shared.is_marked.store(is_marked, Ordering::Relaxed);
    }

    fn idle(&mut self) {
        if let Some(status) = self.status {
            status.set(NO_TASK);
        }
        // What a thread reports that a task has left behind is nobody's.
        let running = &self.shared.running;
        running.store(reporter::pack(NO_TASK), Ordering::Relaxed);
        wait_for_items(self.shared, self.host);
        self.flushed_ns = self.pace.skip();
    }
}

/// Adds a result to the open frame; sends the frame if it is due.
fn keep(
    shared: &Shared,
    task: TaskKey,
    ending: Ending,
    duration_ns: u64,
    result: &[u8],
    is_due: bool,
) -> bool {
    let mut outgoing = lock(&shared.outgoing);
    let Outgoing { bytes, open, .. } = &mut *outgoing;
    let mut writer = match *open {
        Some(open) => ResultsWriter::resume(bytes, open),
        None => ResultsWriter::new(bytes),
    };
    writer.result(task, ending, duration_ns, result);
    *open = Some(writer.leave());
    if is_due || bytes.len() >= N_BYTES_FLUSHED {
        shared.flush(&mut outgoing);
        return true;
    }
    drop(outgoing);
    shared.call_reader();
    false
}

/// Sends what there is and sleeps until there is something to do.
fn wait_for_items(shared: &Shared, host: &mut dyn Host) {
    host.before_sending();
    let mut outgoing = lock(&shared.outgoing);
    if !outgoing.bytes.is_empty() {
        shared.flush(&mut outgoing);
    }
    drop(outgoing);
    host.let_go(&mut || {
        if !arrives_soon(shared) {
            shared.queue.wait();
        }
    });
}

/// Whether there is something to do within a moment, for which the thread stays awake but lets others
/// go first: a caller that waits for each result before its next call is not kept waiting for a
/// sleeping processor.
fn arrives_soon(shared: &Shared) -> bool {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        // Read here, what comes need not wake the other thread first.
        if let Ok(mut incoming) = shared.incoming.try_lock() {
            receive(shared, &mut incoming);
        }
        if shared.queue.is_any() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// The reading thread's life.
fn read_until_stop(shared: &Shared) {
    let mut is_flush_coming = false;
    loop {
        let mut fds = vec![
            PollFd::new(&shared.socket, PollFlags::IN),
            PollFd::new(&shared.wake, PollFlags::IN),
        ];
        fds.extend(
            shared
                .parent
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
        );
        let timeout = is_flush_coming.then_some(Timespec {
            tv_sec: 0,
            tv_nsec: 2 * FLUSH.as_nanos() as i64,
        });
        let _ = retry(|| poll(&mut fds, timeout.as_ref()));
        let is_readable = !fds[0].revents().is_empty();
        let is_woken = !fds[1].revents().is_empty();
        let is_orphan = fds.get(2).is_some_and(|fd| !fd.revents().is_empty());
        if is_orphan {
            end_process();
        }
        if is_woken {
            let mut count = [0u8; 8];
            let _ = rustix::io::read(&shared.wake, &mut count[..]);
            is_flush_coming = true;
        } else if is_flush_coming {
            is_flush_coming = flush_waiting(shared);
        }
        if is_readable && !receive(shared, &mut lock(&shared.incoming)) {
            return;
        }
        if shared.queue.is_stopped() {
            // The main thread has read it.
            return;
        }
    }
}

/// Sends waiting results; says whether there were any, so that more may be coming.
fn flush_waiting(shared: &Shared) -> bool {
    // The main thread holds this lock only for moments; if it is sending now, nothing waits long.
    let Ok(mut outgoing) = shared.outgoing.try_lock() else {
        return true;
    };
    let is_any = !outgoing.bytes.is_empty();
    if is_any {
        shared.flush(&mut outgoing);
    } else {
        shared.is_flush_due.store(false, Ordering::Release);
    }
    is_any
}

/// Reads what has arrived; `false` once the worker is to stop.
fn receive(shared: &Shared, incoming: &mut Incoming) -> bool {
    let Incoming {
        reader,
        descriptors,
    } = incoming;
    let room = reader.room(READ_BYTES);
    let n_room = room.len();
    let n_bytes = match descriptors.receive(&shared.socket, room, RecvFlags::DONTWAIT) {
        Ok(n_bytes) => n_bytes,
        Err(Errno::INTR | Errno::AGAIN) => {
            reader.filled(n_room, 0);
            return true;
        }
        Err(Errno::BADF | Errno::NOTSOCK) => end_without_connection(),
        Err(_) => 0,
    };
    if n_bytes == 0 {
        end_process();
    }
    reader.filled(n_room, n_bytes);
    loop {
        match reader.next_message() {
            Ok(None) if descriptors.check().is_err() => end_process(),
            Ok(None) => return true,
            Ok(Some(message)) => {
                if !take(shared, message, descriptors) {
                    return false;
                }
            }
            // The parent is not what it seems; without it there is nothing to do.
            Err(_) => end_process(),
        }
    }
}

/// Acts on a message; `false` once the worker is to stop.
fn take(shared: &Shared, message: Message<'_>, descriptors: &mut Descriptors) -> bool {
    let mut added = Vec::new();
    match message {
        Message::Context(context) => {
            let bytes = context.bytes.to_vec();
            added.push(Item::Context(context.route, context.is_marked, bytes));
        }
        Message::Function(id, bytes) => added.push(Item::Function(id, bytes.to_vec())),
        Message::Forget(ids) => added.push(Item::Forget(ids)),
        Message::Tasks(tasks) => {
            let message = Arc::new(tasks.as_bytes().to_vec());
            let runs = tasks.runs();
            added.extend(runs.map(|run| Item::Run(Arc::new(Run::new(&run, &message)))));
        }
        Message::Segment(_) | Message::Release(_) | Message::OwnerGone(_) => {
            if take_memory(shared, message, descriptors).is_err() {
                end_process();
            }
        }
        Message::TakeBack(tasks) => give_back(shared, tasks.collect()),
        Message::Stop => {
            shared.queue.stop();
            return false;
        }
        // What only workers say.
        Message::Ready(_)
        | Message::Results(_)
        | Message::TakenBack(_)
        | Message::Forgotten(_)
        | Message::Report(_) => end_process(),
    }
    if !added.is_empty() {
        shared.queue.add(added);
    }
    true
}

/// Acts on a message about shared memory, without waiting for the task under way.
fn take_memory(
    shared: &Shared,
    message: Message<'_>,
    descriptors: &mut Descriptors,
) -> Result<(), Breach> {
    let stock = shared.stock.as_ref().ok_or(Breach)?;
    match message {
        Message::Segment(segment) => {
            // Without a descriptor too many files are open here: tasks that need the segment are told.
            if let Some(fd) = descriptors.next()? {
                stock.foreign.adopt(SegmentId(segment), fd);
            }
        }
        Message::Release(places) => {
            places.for_each(|place| stock.arena.release(Place::from_bytes(place)));
        }
        Message::OwnerGone(owner) => stock.foreign.forget_owner(owner),
        _ => return Err(Breach),
    }
    Ok(())
}

fn give_back(shared: &Shared, asked: Vec<TaskKey>) {
    // The last first, which is the order in which the scheduler is quick to strike them out.
    let returned = shared.queue.give_back(asked);
    // The lock keeps this frame from landing inside of an open frame of results.
    let mut outgoing = lock(&shared.outgoing);
    outgoing.end_results();
    FrameWriter::new(&mut outgoing.bytes).taken_back(returned);
    shared.flush(&mut outgoing);
}
