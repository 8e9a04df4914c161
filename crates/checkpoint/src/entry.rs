//! What the meta of a frame says.
//!
//! | kind | meaning | payload |
//! |---|---|---|
//! | 1 | a result, as version 1 has it: key 16, duration f64, name | the result |
//! | 2 | a run begins: process u32, time f64, host | nothing |
//! | 3 | a function: digest 16, name, parts | nothing |
//! | 4 | a result: function 16, argument 16, stream 16, place u64, duration f64, time f64, label | the result |
//! | 5 | a failure: as a result; then its kind and text | nothing |
//!
//! Texts have their length before them, as u32. Frames of other kinds are for programs that know them.

use twox_hash::XxHash3_128;

/// Names a thing by its content.
pub type Digest = [u8; 16];

/// Of no kind that is written.
pub(crate) const RESULT_1: u8 = 1;
const RUN: u8 = 2;
const FUNCTION: u8 = 3;
pub(crate) const RESULT: u8 = 4;
pub(crate) const FAILURE: u8 = 5;

/// What one task is: equal keys mean equal results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Key(pub Digest);

/// What a key is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// What is called.
    pub function: Digest,
    /// What it is called with.
    pub argument: Digest,
    /// The random numbers it draws; without a seed, which of several equal calls it is.
    pub stream: Digest,
}

impl Identity {
    /// The key of a task.
    pub fn key(&self) -> Key {
        let parts = [self.function, self.argument, self.stream].concat();
        Key(XxHash3_128::oneshot(&parts).to_le_bytes())
    }
}

/// A task that has ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Task {
    /// Its key.
    pub key: Key,
    /// What the key is made of, which version 1 does not say.
    pub identity: Option<Identity>,
    /// Which place it has in its map or graph.
    pub place: u64,
    /// How long it took; not a number where that is not known.
    pub duration_s: f64,
    /// When it ended: seconds since 1970.
    pub ended_s: f64,
    /// What it is for people: its argument, as a rule.
    pub label: String,
}

/// A function that tasks call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Function {
    /// Its digest, which is that of all its parts.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// What it is made of, each with a digest: its code, its defaults, globals.
    pub parts: Vec<(String, Digest)>,
}

/// A run that has written to the file.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Run {
    /// The process.
    pub pid: u32,
    /// When it began: seconds since 1970.
    pub began_s: f64,
    /// On which machine.
    pub host: String,
}

/// What a frame is about.
#[derive(Clone, PartialEq, Debug)]
pub enum Entry {
    /// A task has returned; the payload is its result.
    Result(Task),
    /// A task has failed: with the type of its error, and its text.
    Failure(Task, String, String),
    /// A function.
    Function(Function),
    /// A run begins.
    Run(Run),
    /// Something that a later program of this version has written.
    Unknown,
}

impl Entry {
    /// Its kind, and its meta.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Vec::with_capacity(96);
        match self {
            Entry::Result(task) => {
                let kind = write_task(task, &mut out);
                (kind, out)
            }
            Entry::Failure(task, kind, text) => {
                write_task(task, &mut out);
                write_text(kind, &mut out);
                write_text(text, &mut out);
                (FAILURE, out)
            }
            Entry::Function(function) => {
                out.extend_from_slice(&function.digest);
                write_text(&function.name, &mut out);
                for (label, digest) in &function.parts {
                    write_text(label, &mut out);
                    out.extend_from_slice(digest);
                }
                (FUNCTION, out)
            }
            Entry::Run(run) => {
                out.extend_from_slice(&run.pid.to_le_bytes());
                out.extend_from_slice(&run.began_s.to_le_bytes());
                write_text(&run.host, &mut out);
                (RUN, out)
            }
            Entry::Unknown => (0, out),
        }
    }

    /// From a kind and a meta; `None` if they do not go together.
    pub fn decode(kind: u8, meta: &[u8]) -> Option<Entry> {
        let mut reader = Reader(meta);
        let entry = match kind {
            RESULT_1 => Entry::Result(Task {
                key: Key(reader.array()?),
                identity: None,
                place: 0,
                duration_s: f64::from_le_bytes(reader.array()?),
                ended_s: f64::NAN,
                label: reader.text()?,
            }),
            RESULT => Entry::Result(reader.task()?),
            FAILURE => Entry::Failure(reader.task()?, reader.text()?, reader.text()?),
            FUNCTION => {
                let mut function = Function {
                    digest: reader.array()?,
                    name: reader.text()?,
                    parts: Vec::new(),
                };
                while !reader.0.is_empty() {
                    function.parts.push((reader.text()?, reader.array()?));
                }
                Entry::Function(function)
            }
            RUN => Entry::Run(Run {
                pid: u32::from_le_bytes(reader.array()?),
                began_s: f64::from_le_bytes(reader.array()?),
                host: reader.text()?,
            }),
            _ => return Some(Entry::Unknown),
        };
        reader.0.is_empty().then_some(entry)
    }
}

/// Long texts are cut: they are for people.
const TEXT_BYTES_MAX: usize = 1 << 14;

fn write_text(text: &str, out: &mut Vec<u8>) {
    let mut n_bytes = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(n_bytes) {
        n_bytes -= 1;
    }
    out.extend_from_slice(&(n_bytes as u32).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..n_bytes]);
}

/// The kind that the task's result has.
fn write_task(task: &Task, out: &mut Vec<u8>) -> u8 {
    let Some(identity) = &task.identity else {
        out.extend_from_slice(&task.key.0);
        out.extend_from_slice(&task.duration_s.to_le_bytes());
        write_text(&task.label, out);
        return RESULT_1;
    };
    out.extend_from_slice(&identity.function);
    out.extend_from_slice(&identity.argument);
    out.extend_from_slice(&identity.stream);
    out.extend_from_slice(&task.place.to_le_bytes());
    out.extend_from_slice(&task.duration_s.to_le_bytes());
    out.extend_from_slice(&task.ended_s.to_le_bytes());
    write_text(&task.label, out);
    RESULT
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn text(&mut self) -> Option<String> {
        let n_bytes = u32::from_le_bytes(self.array()?) as usize;
        let (taken, rest) = self.0.split_at_checked(n_bytes)?;
        self.0 = rest;
        Some(str::from_utf8(taken).ok()?.to_owned())
    }

    fn task(&mut self) -> Option<Task> {
        let identity = Identity {
            function: self.array()?,
            argument: self.array()?,
            stream: self.array()?,
        };
        Some(Task {
            key: identity.key(),
            identity: Some(identity),
            place: u64::from_le_bytes(self.array()?),
            duration_s: f64::from_le_bytes(self.array()?),
            ended_s: f64::from_le_bytes(self.array()?),
            label: self.text()?,
        })
    }
}
