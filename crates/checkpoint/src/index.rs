//! Finds results by what they are results of; where there is none, says why.

use crate::entry::{Digest, Entry, Function, Identity, Key, Run, Task};
use crate::scan::{Extent, Frame};
use std::collections::{HashMap, HashSet};

/// A task that has ended, and where its result is.
#[derive(Clone, PartialEq, Debug)]
pub struct Stored {
    /// The task.
    pub task: Task,
    /// Its result, or how it failed.
    pub outcome: Outcome,
}

/// How a task has ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It has returned what lies there.
    Returned(Extent),
    /// It has failed: the type of its error, and its text.
    Failed(String, String),
}

/// Why there is no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// Nothing like it has been stored.
    New,
    /// Results of this function have been stored, for other arguments.
    Argument,
    /// A result for this argument and stream has been stored, of a function with the same name and this digest.
    Function(Digest),
    /// A result of this function for this argument has been stored, on another stream.
    Stream,
    /// It has failed.
    Failed,
}

/// What a file holds.
#[derive(Default, Debug)]
pub struct Index {
    /// In the order in which they have ended.
    pub tasks: Vec<Stored>,
    /// By digest.
    pub functions: HashMap<Digest, Function>,
    /// The last run that has begun.
    pub run: Option<Run>,
    by_key: HashMap<Key, u32>,
    similar: Option<Similar>,
}

/// What is looked up where there is no result. Made when it is first asked for.
#[derive(Default, Debug)]
struct Similar {
    n_seen: usize,
    /// Those that there are results of.
    stored: HashSet<Digest>,
    /// With a number for the name of each.
    functions: HashMap<Digest, u32>,
    names: HashMap<String, u32>,
    /// By the name of the function, argument and stream.
    other_functions: HashMap<(u32, Digest, Digest), Digest>,
    /// By function and argument.
    other_streams: HashSet<(Digest, Digest)>,
}

impl Similar {
    /// A number for the name of a function.
    fn name(&mut self, functions: &HashMap<Digest, Function>, digest: Digest) -> u32 {
        let names = &mut self.names;
        *self.functions.entry(digest).or_insert_with(|| {
            let n_names = names.len() as u32;
            let name = functions.get(&digest).map(|function| function.name.clone());
            *names.entry(name.unwrap_or_default()).or_insert(n_names)
        })
    }
}

impl Index {
    /// Adds a frame.
    pub fn add(&mut self, frame: Frame) {
        let (task, outcome) = match frame.entry {
            Entry::Result(task) => (task, Outcome::Returned(frame.payload)),
            Entry::Failure(task, kind, text) => (task, Outcome::Failed(kind, text)),
            Entry::Function(function) => {
                self.functions.insert(function.digest, function);
                return;
            }
            Entry::Run(run) => {
                self.run = Some(run);
                return;
            }
            Entry::Unknown => return,
        };
        let at = self.tasks.len() as u32;
        let known = self.by_key.entry(task.key).or_insert(at);
        let is_replaced = match (&self.tasks.get(*known as usize), &outcome) {
            // A failure that was tried again changes nothing about what was returned before.
            (Some(before), Outcome::Failed(..)) => !matches!(before.outcome, Outcome::Returned(_)),
            _ => true,
        };
        if is_replaced {
            *known = at;
        }
        self.tasks.push(Stored { task, outcome });
    }

    /// The result of a task.
    pub fn find(&self, key: Key) -> Option<Extent> {
        match &self.stored(key)?.outcome {
            Outcome::Returned(extent) => Some(*extent),
            Outcome::Failed(..) => None,
        }
    }

    fn stored(&self, key: Key) -> Option<&Stored> {
        self.tasks.get(*self.by_key.get(&key)? as usize)
    }

    /// Forgets a result, which is damaged.
    pub fn forget(&mut self, key: Key) {
        self.by_key.remove(&key);
    }

    /// Why there is no result of a task.
    pub fn why_not(&mut self, identity: &Identity) -> Why {
        let stored = self.stored(identity.key());
        if stored.is_some_and(|stored| matches!(stored.outcome, Outcome::Failed(..))) {
            return Why::Failed;
        }
        let similar = self.similar.get_or_insert_default();
        for stored in &self.tasks[similar.n_seen..] {
            if let (Some(known), Outcome::Returned(_)) = (&stored.task.identity, &stored.outcome) {
                let name = similar.name(&self.functions, known.function);
                similar.stored.insert(known.function);
                let call = (name, known.argument, known.stream);
                similar.other_functions.insert(call, known.function);
                similar
                    .other_streams
                    .insert((known.function, known.argument));
            }
        }
        similar.n_seen = self.tasks.len();
        let Identity {
            function,
            argument,
            stream,
        } = *identity;
        if similar.other_streams.contains(&(function, argument)) {
            return Why::Stream;
        }
        let is_known = similar.stored.contains(&function);
        let name = similar.name(&self.functions, function);
        match similar.other_functions.get(&(name, argument, stream)) {
            // A damaged one of its own is forgotten, and no other.
            Some(&other) if other != function => Why::Function(other),
            _ if is_known => Why::Argument,
            _ => Why::New,
        }
    }

    /// How many results can be found.
    pub fn n_results(&self) -> usize {
        let places = self.by_key.values();
        let outcomes = places.filter_map(|&at| self.tasks.get(at as usize));
        outcomes
            .filter(|stored| matches!(stored.outcome, Outcome::Returned(_)))
            .count()
    }

    /// Whether this is what is known of its key now: it has not been computed, or tried, again.
    pub fn is_latest(&self, at: usize) -> bool {
        let key = self.tasks.get(at).map(|stored| stored.task.key);
        key.and_then(|key| self.by_key.get(&key)) == Some(&(at as u32))
    }
}

/// What has changed from one function to another, by the labels of the parts; those that only one has too.
pub fn differences(before: &Function, after: &Function) -> Vec<String> {
    let digest = |function: &Function, label: &str| {
        let mut parts = function.parts.iter();
        parts.find(|part| part.0 == label).map(|part| part.1)
    };
    let labels = after.parts.iter().chain(&before.parts).map(|part| &part.0);
    let mut changed: Vec<String> = Vec::new();
    for label in labels {
        if digest(before, label) != digest(after, label) && !changed.contains(label) {
            changed.push(label.clone());
        }
    }
    changed
}
