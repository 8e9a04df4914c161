//! What tasks need while they run: one list for each class of tasks, and each task's class.

use crate::TaskIndex;

/// What each task of a class needs of a resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Need {
    /// Its place among the supplies.
    pub resource: u32,
    /// How many units, at least one.
    pub n_units: u32,
    /// Where each worker has units of its own: how many they are, at least as many.
    pub n_per_worker: u32,
}

impl Need {
    /// So many units, which are all of a worker's where each has its own.
    pub fn new(resource: u32, n_units: u32) -> Need {
        Need {
            resource,
            n_units,
            n_per_worker: n_units,
        }
    }
}

/// A class of a job's tasks: all of them need the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class(pub u16);

impl Class {
    /// The class of tasks that need nothing.
    pub const FREE: Class = Class(0);
    /// The only class of a job whose tasks all need the same.
    pub(crate) const SAME: Class = Class(1);

    pub(crate) fn as_usize(self) -> usize {
        usize::from(self.0)
    }
}

/// What the tasks of a job need while they run; by default nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Needs {
    /// By class, the first being [`Class::FREE`]. Empty if no task needs anything.
    classes: Vec<Vec<Need>>,
    /// By task; empty where all are of the class [`Class::SAME`].
    of_tasks: Vec<Class>,
}

impl Needs {
    /// The same for all tasks.
    pub fn same(needs: Vec<Need>) -> Needs {
        match needs.is_empty() {
            true => Needs::default(),
            false => Needs {
                classes: vec![Vec::new(), needs],
                of_tasks: Vec::new(),
            },
        }
    }

    /// For each task that of its class. The first class needs nothing; a later one may as well.
    ///
    /// # Panics
    ///
    /// If the first class needs something, or a task is of a class that is not there.
    pub fn each(classes: Vec<Vec<Need>>, of_tasks: Vec<Class>) -> Needs {
        let is_there = |class: &Class| class.as_usize() < classes.len();
        assert!(classes.first().is_none_or(Vec::is_empty), "{classes:?}");
        assert!(of_tasks.iter().all(is_there), "a class of {classes:?}");
        let is_free = |class: &Class| classes[class.as_usize()].is_empty();
        if of_tasks.iter().all(is_free) {
            return Needs::default();
        }
        let first = of_tasks[0];
        if of_tasks.iter().all(|class| *class == first) {
            return Needs::same(classes[first.as_usize()].clone());
        }
        let kept = |class: &Class| if is_free(class) { Class::FREE } else { *class };
        let of_tasks = of_tasks.iter().map(kept).collect();
        Needs { classes, of_tasks }
    }

    /// Whether no task needs anything.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// What a task needs.
    pub fn of(&self, task: TaskIndex) -> &[Need] {
        let class = self.of_tasks.get(task.as_usize()).copied();
        self.of_class(class.unwrap_or(Class::SAME))
    }

    /// What the tasks of a class need.
    pub(crate) fn of_class(&self, class: Class) -> &[Need] {
        self.classes
            .get(class.as_usize())
            .map_or(&[], Vec::as_slice)
    }

    /// What the tasks of all classes need.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Need> {
        self.classes.iter().flatten()
    }

    /// The classes whose tasks need something.
    pub(crate) fn classes(&self) -> impl Iterator<Item = Class> + use<> {
        let needing: Vec<_> = self.classes.iter().map(|needs| !needs.is_empty()).collect();
        let numbered = (0u16..).zip(needing);
        numbered.filter_map(|(class, needs)| needs.then_some(Class(class)))
    }

    /// Whether all tasks are of one class.
    pub(crate) fn are_same(&self) -> bool {
        self.of_tasks.is_empty()
    }

    /// Each of so many tasks' class; empty if no task needs anything.
    pub(crate) fn by_task(&self, n_tasks: usize) -> Vec<Class> {
        match (self.is_empty(), self.are_same()) {
            (true, _) => Vec::new(),
            (_, true) => vec![Class::SAME; n_tasks],
            (_, false) => {
                assert_eq!(self.of_tasks.len(), n_tasks, "one class for each task");
                self.of_tasks.clone()
            }
        }
    }
}
