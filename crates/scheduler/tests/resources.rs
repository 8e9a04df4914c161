//! Resources over whole runs: who comes when, and that nobody waits for ever.

use manyhands_scheduler::{
    Class, Command, Commands, Event, Graph, JobId, JobSpec, KindId, Kinds, N_PASSED_MAX, Need,
    Needs, Report, Rules, Scheduler, Supply, TaskId, TaskIndex, Wanted, WorkerId,
};
use std::collections::VecDeque;

const US: u64 = 1_000;

/// Workers that hold what they are sent, and everything that was started, batch by batch.
struct Rig {
    scheduler: Scheduler,
    now_ns: u64,
    held: Vec<VecDeque<TaskId>>,
    started: Vec<Vec<TaskId>>,
}

impl Rig {
    fn new(n_workers: u32, n_units: u32) -> Rig {
        let mut rig = Rig {
            scheduler: Scheduler::new(),
            now_ns: 0,
            held: vec![VecDeque::new(); n_workers as usize],
            started: Vec::new(),
        };
        rig.scheduler.set_supplies(&[Supply {
            n_units,
            is_by_worker: false,
        }]);
        for worker in 0..n_workers {
            rig.on(Event::WorkerJoined(WorkerId(worker)));
        }
        rig
    }

    fn on(&mut self, event: Event<'_>) {
        let mut commands = Commands::default();
        self.scheduler.on(event, self.now_ns, &mut commands);
        if let Err(what) = self.scheduler.check() {
            panic!("{what}");
        }
        for command in commands.iter() {
            if let Command::Start(worker, range) = command {
                let tasks: Vec<_> = commands.tasks(range).collect();
                self.held[worker.0 as usize].extend(tasks.iter().copied());
                self.started.push(tasks);
            }
        }
    }

    fn submit(&mut self, n_tasks: u32, needs: Needs) -> JobId {
        let id = self.scheduler.new_job_id();
        self.scheduler.set_needs(id, needs);
        let spec = JobSpec {
            graph: Graph::independent(n_tasks),
            wanted: Wanted::All,
            kinds: Kinds::One(KindId(0)),
            batch_size: None,
            is_open: false,
            rules: Rules::default(),
        };
        self.on(Event::Submit(id, spec));
        id
    }

    /// A worker ends the first of its tasks.
    fn finish(&mut self, worker: usize) {
        let task = self.held[worker].pop_front().expect("it runs something");
        self.now_ns += US;
        let report = Report::one(task, US, true);
        self.on(Event::Finished(WorkerId(worker as u32), &[report]));
    }

    /// Ends tasks by turns until all have.
    fn run_on(&mut self) {
        while let Some(at) = (0..self.held.len()).find(|&at| !self.held[at].is_empty()) {
            self.finish(at);
        }
    }

    fn place_of(&self, task: TaskId) -> Option<usize> {
        self.started.iter().position(|batch| batch.contains(&task))
    }
}

fn units(n_units: u32) -> Vec<Need> {
    vec![Need::new(0, n_units)]
}

fn first(job: JobId) -> TaskId {
    TaskId {
        job,
        index: TaskIndex(0),
    }
}

#[test]
fn tasks_of_one_job_that_need_nothing_are_batched_beside_those_that_do() {
    let mut rig = Rig::new(3, 1);
    // Every tenth task needs the only unit.
    let class = |at: u32| Class(u16::from(at.is_multiple_of(10)));
    let of_tasks = (0..1_000).map(class).collect();
    let job = rig.submit(1_000, Needs::each(vec![Vec::new(), units(1)], of_tasks));
    let needs = |task: &TaskId| task.index.0.is_multiple_of(10);
    rig.run_on();
    let started: Vec<_> = rig.started.iter().flatten().copied().collect();
    assert_eq!(started.len(), 1_000);
    assert!(started.iter().all(|task| task.job == job));
    for batch in &rig.started {
        assert!(batch.len() == 1 || !batch.iter().any(needs), "{batch:?}");
    }
    let largest = rig.started.iter().map(Vec::len).max();
    assert!(largest > Some(50), "{largest:?}");
}

#[test]
fn the_last_worker_is_for_tasks_with_and_without_needs_by_turns() {
    for n_workers in [1, 3] {
        let mut rig = Rig::new(n_workers, 100);
        rig.submit(40, Needs::same(units(1)));
        let free = rig.submit(1, Needs::default());
        rig.run_on();
        let place = rig.place_of(first(free));
        assert!(place <= Some(n_workers as usize), "{place:?}");
    }
}

#[test]
fn what_needs_much_is_not_passed_over_for_ever() {
    let mut rig = Rig::new(3, 2);
    rig.submit(500, Needs::same(units(1)));
    let large = rig.submit(1, Needs::same(units(2)));
    let mut at = 0;
    while rig.place_of(first(large)).is_none() {
        // One of the two units is always in use.
        at = (at + 1) % 3;
        if !rig.held[at].is_empty() {
            rig.finish(at);
        }
    }
    let place = rig.place_of(first(large)).unwrap_or(usize::MAX);
    assert!(place <= N_PASSED_MAX as usize + 3, "{place}");
    rig.run_on();
    assert_eq!(rig.started.len(), 501);
}

#[test]
fn no_more_is_kept_than_a_task_needs_that_is_due() {
    let mut rig = Rig::new(4, 3);
    let supply = |n_units| Supply {
        n_units,
        is_by_worker: false,
    };
    rig.scheduler.set_supplies(&[supply(3), supply(1)]);
    let long = rig.submit(1, Needs::same(vec![Need::new(1, 1)]));
    let own = rig.held.iter().position(|held| !held.is_empty());
    let own = own.expect("it is started");
    // Two units of three: passed over until it is due, and then it waits for the other resource.
    let both = rig.submit(1, Needs::same(vec![Need::new(0, 2), Need::new(1, 1)]));
    rig.submit(100, Needs::same(units(1)));
    let mut at = 0;
    while rig.started.len() < 90 {
        at = (at + 1) % 4;
        if at != own && !rig.held[at].is_empty() {
            rig.finish(at);
        }
        assert!(
            rig.held
                .iter()
                .any(|held| held.front().is_some_and(|task| task.job != long))
        );
    }
    let n_running = rig.held.iter().filter(|held| !held.is_empty()).count();
    assert_eq!(n_running, 2);
    assert_eq!(rig.place_of(first(both)), None);
    rig.finish(own);
    assert_eq!(rig.place_of(first(both)), Some(90));
    rig.run_on();
    assert_eq!(rig.started.len(), 102);
}

#[test]
fn tasks_that_need_one_of_several_devices_of_their_worker_use_all_between_them() {
    let supply = Supply {
        n_units: 4,
        is_by_worker: true,
    };
    let need = |n_units| Need {
        resource: 0,
        n_units,
        n_per_worker: 2,
    };
    let of = |worker, n_units| supply.units_of(WorkerId(worker), &need(n_units));
    let firsts: Vec<_> = (0..4).flat_map(|worker| of(worker, 1)).collect();
    assert_eq!(firsts, [0, 2, 1, 3]);
    let all: Vec<_> = (0..4).flat_map(|worker| of(worker, 2)).collect();
    assert_eq!(all, [0, 1, 2, 3, 1, 0, 3, 2]);
}

#[test]
fn two_that_are_due_and_need_some_of_the_same_do_not_block_each_other() {
    let mut rig = Rig::new(4, 3);
    let all: Vec<_> = [1, 2, 3, 3, 2]
        .into_iter()
        .map(|n_units| rig.submit(60, Needs::same(units(n_units))))
        .collect();
    rig.run_on();
    assert_eq!(rig.started.len(), 60 * all.len());
}

#[test]
fn a_job_in_which_no_class_needs_anything_needs_nothing() {
    let free = Needs::each(vec![Vec::new(), Vec::new()], vec![Class(1), Class::FREE]);
    assert_eq!(free, Needs::default());
    assert!(free.is_empty());
    let same = Needs::each(vec![Vec::new(), units(2)], vec![Class(1); 3]);
    assert_eq!(same, Needs::same(units(2)));
}
