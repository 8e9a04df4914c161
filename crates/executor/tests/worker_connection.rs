//! A worker's connection, byte by byte: descriptors arrive with their segments in whatever pieces bytes
//! come, and whoever does not keep to the agreement is shut out, with nothing left open.

mod memory;

use manyhands_executor::Failure;
use manyhands_store::{Arena, ArenaOptions, Foreign, Place, SegmentId};
use manyhands_wire::{Context, Ending, FrameReader, FrameWriter, Message, TaskKey, TasksWriter};
use memory::{Call, command, finish, pool_of, stock, submit, sum, take_connection, wait_until};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Bytes, and descriptors at their places among them.
#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
    descriptors: VecDeque<(usize, Arc<OwnedFd>)>,
}

impl Script {
    fn segment(&mut self, arena: &Arena, segment: SegmentId) {
        let fd = arena.descriptor(segment).expect("it exists");
        self.descriptors.push_back((self.bytes.len(), fd));
        FrameWriter::new(&mut self.bytes).segment(segment.0);
    }

    fn task(&mut self, index: u32, call: &Call) {
        let key = TaskKey { job: 0, index };
        TasksWriter::new(&mut self.bytes).task(key, 0, |out| call.write(out));
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[&OwnedFd]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let bytes = [IoSlice::new(bytes)];
    sendmsg(socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)
}

/// A worker, and this end of its connection in the hands of the test.
struct Rig {
    process: Child,
    socket: OwnedFd,
    reader: FrameReader,
    arrived: VecDeque<OwnedFd>,
    foreign: Foreign,
}

impl Rig {
    fn start(owner: u32) -> Rig {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let (socket, theirs) =
            socketpair(family, kind, SocketFlags::CLOEXEC, None).expect("sockets work here");
        let command = command("memory::worker_process");
        let process = Command::new(&command.program)
            .args(&command.args)
            .envs(command.env)
            .stdin(Stdio::from(theirs))
            .spawn()
            .expect("this program can be started");
        let patience = Some(memory::PATIENCE);
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, patience).expect("sockets have timeouts");
        }
        for byte in owner.to_le_bytes() {
            send(&socket, &[byte], &[]).expect("the worker listens");
        }
        Rig {
            process,
            socket,
            reader: FrameReader::default(),
            arrived: VecDeque::new(),
            foreign: Foreign::new(),
        }
    }

    /// Sends everything in pieces of `n_bytes`, each descriptor with the first byte of its frame.
    fn play(&self, script: &Script, n_bytes: usize) {
        let mut at = 0;
        let mut descriptors = script.descriptors.iter().peekable();
        while at < script.bytes.len() {
            let due = descriptors.next_if(|(place, _)| *place == at);
            let next = descriptors
                .peek()
                .map_or(script.bytes.len(), |(place, _)| *place);
            let end = next.min(at + n_bytes);
            let fds: Vec<_> = due.iter().map(|(_, fd)| &**fd).collect();
            at += send(&self.socket, &script.bytes[at..end], &fds).expect("the worker listens");
        }
    }

    /// Reads up to `n_bytes`; `false` at the end.
    fn read(&mut self, n_bytes: usize) -> bool {
        let mut bytes = vec![0; n_bytes];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut slices, &mut ancillary, flags);
        // A worker that ends with something unread resets the connection.
        let n_bytes = received.map_or(0, |received| received.bytes);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.arrived.extend(fds);
            }
        }
        self.reader.push(&bytes[..n_bytes]);
        n_bytes > 0
    }

    /// The results of the next `n_results` tasks, read in pieces of `n_bytes`.
    fn results(&mut self, n_results: usize, n_bytes: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while found.len() < n_results {
            while let Some(message) = self.reader.next_message().expect("a worker writes frames") {
                match message {
                    Message::Results(results) => found.extend(results.map(|result| {
                        let text = String::from_utf8_lossy(result.bytes);
                        assert_eq!(result.ending, Ending::Returned, "{text}");
                        result.bytes.to_vec()
                    })),
                    Message::Segment(id) => {
                        let fd = self.arrived.pop_front().expect("it comes along");
                        self.foreign.adopt(SegmentId(id), fd);
                    }
                    Message::Ready(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            if found.len() < n_results {
                assert!(self.read(n_bytes), "the worker has ended");
            }
        }
        assert!(self.arrived.is_empty(), "descriptors that nobody announced");
        found
    }

    /// What the next task, which fails, says.
    fn failure(&mut self) -> String {
        loop {
            while let Some(message) = self.reader.next_message().expect("a worker writes frames") {
                if let Message::Results(mut results) = message {
                    let result = results.next().expect("one result");
                    assert_eq!(result.ending, Ending::Failed, "it was to fail");
                    return String::from_utf8_lossy(result.bytes).into_owned();
                }
            }
            assert!(self.read(1 << 16), "the worker has ended");
        }
    }

    /// Waits for the worker to end by itself.
    fn see_end(mut self) {
        let mut status = None;
        wait_until("the worker ends", || {
            status = self.process.try_wait().expect("it is a child");
            status.is_some()
        });
        assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn arena() -> Arena {
    let options = ArenaOptions {
        n_segment_bytes: 4096,
        ..ArenaOptions::default()
    };
    Arena::new(0, options)
}

#[test]
fn descriptors_arrive_with_their_segments_in_any_pieces() {
    for n_bytes in [1, 2, 3, 16, 17, 18, 100, 1 << 16] {
        let mut rig = Rig::start(1);
        let arena = arena();
        let mut script = Script::default();
        FrameWriter::new(&mut script.bytes).function(0, &[]);
        let leases: Vec<_> = (1..=10)
            .map(|value| arena.copy_in(&[value; 100]).expect("there is memory"))
            .collect();
        for (at, lease) in leases.iter().enumerate() {
            let place = lease.place();
            script.segment(&arena, place.segment);
            script.task(at as u32, &Call::Sum(vec![place]));
        }
        rig.play(&script, n_bytes);
        let results = rig.results(10, n_bytes);
        let numbers: Vec<_> = results.iter().map(|bytes| number(bytes)).collect();
        let expected: Vec<_> = (1..=10).map(|value| value * 100).collect();
        assert_eq!(numbers, expected, "in pieces of {n_bytes}");
    }
}

#[test]
fn a_worker_announces_its_segments_before_results_in_them() {
    for n_bytes in [1, 5, 1 << 16] {
        let mut rig = Rig::start(7);
        let mut script = Script::default();
        FrameWriter::new(&mut script.bytes).function(0, &[]);
        // The second needs a segment of its own.
        let sizes = [5000, 3 << 30, 7000];
        for (at, n_bytes) in (0..).zip(sizes) {
            script.task(at, &Call::Make(n_bytes, 1));
        }
        rig.play(&script, 1 << 16);
        let mut places = Vec::new();
        for bytes in rig.results(3, n_bytes) {
            let place = Place::from_bytes(bytes.try_into().expect("a place"));
            assert_eq!(place.segment.owner(), 7);
            let view = rig.foreign.view_private(place).expect("it was announced");
            assert_eq!(view.len() as u64, sizes[places.len()]);
            if places.len() != 1 {
                assert_eq!(sum(&view), place.n_bytes);
            }
            places.push(place.to_bytes());
        }
        // Once it is released, nothing is in use.
        let mut script = Script::default();
        FrameWriter::new(&mut script.bytes).release(places);
        script.task(3, &Call::Look);
        rig.play(&script, 1);
        let standing = rig.results(1, n_bytes).remove(0);
        assert_eq!(
            (number(&standing[8..16]), number(&standing[16..24])),
            (0, 0)
        );
    }
}

/// What is wrong, the worker's number, and the descriptors and the frame that it is sent.
type Breach<'a> = (
    &'a str,
    u32,
    Vec<&'a OwnedFd>,
    &'a dyn Fn(&mut FrameWriter<'_>),
);

#[test]
fn a_worker_ends_when_its_parent_breaks_the_agreement() {
    let arena = arena();
    let lease = arena.copy_in(&[1; 10]).expect("there is memory");
    let segment = lease.place().segment;
    let fd = arena.descriptor(segment).expect("it exists");
    let segment_frame = |frames: &mut FrameWriter<'_>| frames.segment(segment.0);
    let nowhere = Place {
        segment: SegmentId::new(1, 99),
        offset: 1 << 60,
        n_bytes: u64::MAX,
    };
    let cases: [Breach<'_>; 7] = [
        ("no descriptor", 1, vec![], &segment_frame),
        (
            "too many descriptors",
            1,
            vec![&fd, &fd, &fd],
            &segment_frame,
        ),
        ("far too many descriptors", 1, vec![&fd; 8], &segment_frame),
        ("no shared memory", 0, vec![&fd], &segment_frame),
        ("a release without shared memory", 0, vec![], &|frames| {
            frames.release([lease.place().to_bytes()]);
        }),
        ("a release of what nobody leases", 1, vec![], &|frames| {
            frames.release([nowhere.to_bytes()]);
        }),
        ("what only workers say", 1, vec![], &|frames| {
            frames.forgotten([0])
        }),
    ];
    for (what, owner, fds, write) in cases {
        println!("{what}");
        let rig = Rig::start(owner);
        let mut bytes = Vec::new();
        write(&mut FrameWriter::new(&mut bytes));
        send(&rig.socket, &bytes, &fds).expect("the worker listens");
        rig.see_end();
    }
}

#[test]
fn a_worker_ends_when_one_bit_of_a_message_is_wrong() {
    let mut whole = Vec::new();
    FrameWriter::new(&mut whole).function(7, b"what it does");
    // A length that is too large is not waited for: the connection stays open, and nothing more comes.
    for (at, bit) in [
        (0, 0),
        (3, 7),
        (5, 1),
        (8, 0),
        (9, 3),
        (17, 0),
        (whole.len() - 1, 6),
    ] {
        println!("bit {bit} of byte {at}");
        let rig = Rig::start(1);
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        send(&rig.socket, &bytes, &[]).expect("the worker listens");
        rig.see_end();
    }
}

#[test]
fn descriptors_for_nothing_are_not_hoarded() {
    let rig = Rig::start(1);
    let (reader, writer) = rustix::pipe::pipe().expect("pipes work here");
    let mut bytes = Vec::new();
    FrameWriter::new(&mut bytes).context(&Context {
        route: 0,
        is_marked: false,
        bytes: b"",
    });
    // The worker ends at the second.
    let mut n_sent = 0;
    while send(&rig.socket, &bytes, &[&writer]).is_ok() {
        n_sent += 1;
        assert!(n_sent < 10_000, "the worker takes everything");
    }
    rig.see_end();
    drop(writer);
    assert_eq!(rustix::io::read(&reader, &mut [0; 1][..]), Ok(0));
}

#[test]
fn a_segment_that_never_came_fails_the_task_that_needs_it() {
    let mut rig = Rig::start(1);
    let arena = arena();
    let lease = arena.copy_in(&[1; 10]).expect("there is memory");
    let place = lease.place();
    let mut script = Script::default();
    FrameWriter::new(&mut script.bytes).function(0, &[]);
    script.task(0, &Call::Sum(vec![place]));
    rig.play(&script, 1 << 16);
    let text = rig.failure();
    assert!(text.contains(&format!("{:?}", place.segment)), "{text}");
    // The worker goes on.
    let mut script = Script::default();
    FrameWriter::new(&mut script.bytes).owner_gone(55);
    script.segment(&arena, place.segment);
    script.task(1, &Call::Sum(vec![place]));
    rig.play(&script, 1 << 16);
    assert_eq!(number(&rig.results(1, 1)[0]), 10);
}

#[test]
fn a_worker_without_room_for_a_descriptor_fails_the_tasks_that_need_it() {
    let mut rig = Rig::start(1);
    let arena = arena();
    let leases: Vec<_> = (0..3)
        .map(|value| arena.copy_in(&[value; 10]).expect("there is memory"))
        .collect();
    let mut script = Script::default();
    FrameWriter::new(&mut script.bytes).function(0, &[]);
    script.task(0, &Call::OpenAll);
    rig.play(&script, 1 << 16);
    rig.results(1, 1 << 16);
    // This one gets lost. The next finds room, and is not taken for it.
    let mut script = Script::default();
    script.segment(&arena, leases[1].place().segment);
    script.task(1, &Call::CloseAll);
    rig.play(&script, 1 << 16);
    rig.results(1, 1 << 16);
    let mut script = Script::default();
    script.segment(&arena, leases[2].place().segment);
    script.task(2, &Call::Sum(vec![leases[2].place()]));
    rig.play(&script, 1 << 16);
    assert_eq!(number(&rig.results(1, 1 << 16)[0]), 20);
    let mut script = Script::default();
    script.task(3, &Call::Sum(vec![leases[1].place()]));
    rig.play(&script, 1 << 16);
    let text = rig.failure();
    assert!(
        text.contains(&format!("{:?}", leases[1].place().segment)),
        "{text}"
    );
}

/// What a worker says before it is ready that no worker may say.
const LIES: [&str; 7] = [
    "none",
    "too many",
    "another's",
    "unasked",
    "nonsense",
    "a wrong length",
    "a wrong body",
];
const LIE: &str = "MANYHANDS_TEST_LIE";

#[test]
#[ignore = "no test: a test starts this program again with its name, as a worker that lies"]
fn lying_worker() {
    let Ok(lie) = std::env::var(LIE) else { return };
    let socket = take_connection();
    let mut greeting = [0; 4];
    rustix::io::read(&socket, &mut greeting[..]).expect("the parent greets");
    let owner = u32::from_le_bytes(greeting);
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("manyhands-lie", flags).expect("memory files work here");
    let mut bytes = Vec::new();
    let mut frames = FrameWriter::new(&mut bytes);
    let fds = match lie.as_str() {
        "none" => {
            frames.segment(SegmentId::new(owner, 0).0);
            vec![]
        }
        "too many" => {
            frames.segment(SegmentId::new(owner, 0).0);
            vec![&file; 3]
        }
        "another's" => {
            frames.segment(SegmentId::new(0, 0).0);
            vec![&file]
        }
        "unasked" => {
            frames.forgotten([3]);
            vec![]
        }
        // Sound, but for one bit.
        "a wrong length" | "a wrong body" => {
            frames.ready();
            let at = if lie == "a wrong length" {
                4
            } else {
                bytes.len() - 1
            };
            bytes[at] ^= 1;
            vec![]
        }
        _ => {
            frames.release([[0; 24]]);
            vec![&file]
        }
    };
    send(&socket, &bytes, &fds).expect("the parent listens");
    // It is up to the parent to end this.
    std::thread::sleep(memory::PATIENCE);
}

#[test]
fn a_worker_that_breaks_the_agreement_is_ended_and_leaves_nothing_open() {
    for lie in LIES {
        println!("{lie}");
        let stock = stock(1 << 20);
        let mut lying = command("lying_worker");
        lying.env.push((LIE.into(), lie.into()));
        let pool = pool_of(lying, &stock, 1);
        let function = pool.function(b"", &[], None);
        let (job, calls) = submit(&pool, &stock, function, vec![Call::Look]);
        let failure = finish(&job, &calls).expect_err("no worker is any good");
        assert!(
            matches!(failure, Failure::NoWorkers(_)),
            "{lie}: {failure:?}"
        );
        assert!(stock.descriptor(SegmentId::new(0, 0)).is_none());
        drop(pool);
        wait_until("its descriptors close", || {
            memory::n_open("manyhands-lie") == 0
        });
    }
}
