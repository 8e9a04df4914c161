//! What becomes of tasks that fail or take too long, spelled out.

use manyhands_graph::GraphBuilder;
use manyhands_scheduler::{
    Cause, Command, Commands, Ending, Event, Graph, JobId, JobSpec, KindId, Kinds, Loss, Report,
    Rules, Scheduler, Sight, TaskId, TaskIndex, Wanted, WorkerId,
};
use std::num::{NonZeroU32, NonZeroU64};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// A scheduler and the time; commands come back as text.
struct Rig {
    scheduler: Scheduler,
    now_ns: u64,
}

impl Rig {
    fn new(n_workers: u32, spec: JobSpec) -> (Rig, String) {
        let scheduler = Scheduler::new();
        let now_ns = 0;
        let mut rig = Rig { scheduler, now_ns };
        for worker in 0..n_workers {
            rig.on(Event::WorkerJoined(WorkerId(worker)));
        }
        let id = rig.scheduler.new_job_id();
        let told = rig.on(Event::Submit(id, spec));
        (rig, told)
    }

    fn on(&mut self, event: Event<'_>) -> String {
        let mut commands = Commands::default();
        self.scheduler.on(event, self.now_ns, &mut commands);
        if let Err(what) = self.scheduler.check() {
            panic!("{what}");
        }
        let list = |range| {
            let tasks = commands.tasks(range);
            tasks.map(|t| format!(" {:?}", t.index)).collect::<String>()
        };
        let texts = commands.iter().map(|command| match command {
            Command::Start(worker, range) => format!("{worker:?} starts{}", list(range)),
            Command::TakeBack(worker, range) => format!("{worker:?} gives back{}", list(range)),
            Command::Kill(worker) => format!("{worker:?} ends"),
            Command::Deliver(run) => format!("deliver {run:?}"),
            Command::Release(run) => format!("release {run:?}"),
            Command::Fail(task, loss) => format!("{:?} failed: {}", task.index, how(*loss)),
            Command::Lose(task, loss) => format!("{:?} is lost: {}", task.index, how(*loss)),
            Command::DeliverLoss(task, culprit) => format!("no {:?} for {culprit:?}", task.index),
            Command::Look(worker) => format!("look at {worker:?}"),
            Command::JobDone(job) => format!("{job:?} done"),
        });
        texts.collect::<Vec<_>>().join("; ")
    }

    fn end(&mut self, worker: u32, index: u32, ending: Ending) -> String {
        let report = Report::one(task(index), US, ending);
        self.on(Event::Finished(WorkerId(worker), &[report]))
    }

    fn at(&mut self, now_ns: u64, event: Event<'_>) -> String {
        self.now_ns = now_ns;
        self.on(event)
    }

    fn lose(&mut self, worker: u32, running: u32) -> String {
        let (worker, running) = (WorkerId(worker), Some(task(running)));
        self.on(Event::WorkerLost {
            worker,
            running,
            was_memory_short: false,
        })
    }
}

fn how(loss: Loss) -> String {
    let cause = match loss.cause {
        Cause::Failed => "raised",
        Cause::WorkerDied => "its worker died",
        Cause::OutOfTime => "out of time",
    };
    format!("{cause}, {} tries", loss.n_tries)
}

fn task(index: u32) -> TaskId {
    TaskId {
        job: JobId(0),
        index: TaskIndex(index),
    }
}

fn spec(graph: Graph, rules: Rules) -> JobSpec {
    JobSpec {
        graph,
        wanted: Wanted::All,
        kinds: Kinds::One(KindId(0)),
        batch_size: None,
        is_open: false,
        rules,
    }
}

fn tolerant() -> Rules {
    Rules {
        is_tolerant: true,
        ..Rules::default()
    }
}

/// ```text
/// 0 ──► 2 ──► 4
///       ▲
/// 1 ────┘     3
/// ```
fn graph() -> Graph {
    let mut builder = GraphBuilder::default();
    let dependencies: [&[u32]; 5] = [&[], &[], &[0, 1], &[], &[2]];
    for row in dependencies {
        let row: Vec<_> = row.iter().map(|&index| TaskIndex(index)).collect();
        builder.task(&row);
    }
    builder.build()
}

#[test]
fn what_depends_on_a_failed_task_does_not_run_and_the_rest_does() {
    let mut wanted = spec(graph(), tolerant());
    wanted.wanted = Wanted::Tasks(vec![TaskIndex(3), TaskIndex(4)]);
    let (mut rig, told) = Rig::new(1, wanted);
    assert_eq!(told, "w0 starts t3");
    let told = rig.end(0, 3, Ending::Returned);
    assert_eq!(told, "deliver j0.t3; w0 starts t0; w0 starts t1");
    let told = rig.end(0, 0, Ending::Failed);
    assert_eq!(told, "t0 is lost: raised, 1 tries");
    // Now it is known that t2 will not run, nor t4; and nobody else reads t1.
    let told = rig.end(0, 1, Ending::Returned);
    assert_eq!(told, "release j0.t1; no t4 for t0; j0 done");
    assert_eq!(rig.scheduler.check_empty(), Ok(()));
}

#[test]
fn of_several_failures_that_of_the_first_argument_is_told_whichever_came_first() {
    for order in [[0, 1], [1, 0]] {
        let (mut rig, _) = Rig::new(2, spec(graph(), tolerant()));
        rig.end(u32::from(order[0] == 0), order[0], Ending::Failed);
        let told = rig.end(u32::from(order[1] == 0), order[1], Ending::Failed);
        let told: Vec<_> = told
            .split("; ")
            .filter(|part| part.starts_with("no"))
            .collect();
        let both = format!("no t{} for t{}", order[1], order[1]);
        assert_eq!(
            told,
            [both.as_str(), "no t2 for t0", "no t4 for t0"],
            "{order:?}"
        );
    }
}

#[test]
fn a_fatal_failure_ends_a_job_that_tolerates_others() {
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(3), tolerant()));
    let told = rig.end(0, 0, Ending::Fatal);
    assert_eq!(told, "t0 failed: raised, 1 tries; j0 done");
}

#[test]
fn a_task_rests_at_no_worker_twice_as_long_each_time() {
    let rules = Rules {
        n_retries: 3,
        rest_ns: 10 * MS,
        ..Rules::default()
    };
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(2), rules));
    // The other one has the worker meanwhile.
    assert_eq!(rig.end(0, 0, Ending::Retriable), "w0 starts t1");
    assert_eq!(rig.end(0, 1, Ending::Returned), "deliver j0.t1");
    for (n_before, rest_ns) in [(0, 10 * MS), (10 * MS, 20 * MS), (30 * MS, 40 * MS)] {
        assert_eq!(rig.scheduler.deadline_ns(), Some(n_before + rest_ns));
        assert_eq!(rig.at(n_before + rest_ns - 1, Event::Tick), "");
        assert_eq!(rig.at(n_before + rest_ns, Event::Tick), "w0 starts t0");
        let told = rig.end(0, 0, Ending::Retriable);
        let is_last = n_before == 30 * MS;
        let expected = if is_last {
            "t0 failed: raised, 4 tries; j0 done"
        } else {
            ""
        };
        assert_eq!(told, expected);
    }
}

#[test]
fn no_rest_is_longer_than_the_longest() {
    let rules = Rules {
        n_retries: u32::MAX,
        rest_ns: MS,
        ..Rules::default()
    };
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(1), rules));
    for n_failures in 1..200u32 {
        assert_eq!(rig.end(0, 0, Ending::Retriable), "");
        let rest_ns = rig.scheduler.deadline_ns().expect("it rests") - rig.now_ns;
        let doubled_ns = 2u64.saturating_pow(n_failures - 1).saturating_mul(MS);
        assert_eq!(rest_ns, doubled_ns.min(manyhands_scheduler::REST_NS_MAX));
        let now_ns = rig.now_ns + rest_ns;
        assert_eq!(rig.at(now_ns, Event::Tick), "w0 starts t0");
    }
}

#[test]
fn what_is_not_to_be_tried_again_is_not() {
    let rules = Rules {
        n_retries: 3,
        ..Rules::default()
    };
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(2), rules));
    let told = rig.end(0, 0, Ending::Failed);
    assert_eq!(told, "t0 failed: raised, 1 tries; j0 done");
}

#[test]
fn a_cancelled_job_forgets_what_rests() {
    let rules = Rules {
        n_retries: 3,
        rest_ns: MS,
        ..Rules::default()
    };
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(1), rules));
    rig.end(0, 0, Ending::Retriable);
    let (job, grace_ns) = (JobId(0), 0);
    assert_eq!(rig.on(Event::Cancel { job, grace_ns }), "j0 done");
    assert_eq!(rig.scheduler.deadline_ns(), None);
    assert_eq!(rig.scheduler.check_empty(), Ok(()));
}

fn limited(rules: Rules) -> Rules {
    Rules {
        limit_ns: NonZeroU64::new(100 * MS),
        ..rules
    }
}

/// Three tasks at one worker, of which one has ended and one runs since 5 ms.
fn amid_a_batch(rules: Rules) -> Rig {
    let mut spec = spec(Graph::independent(3), rules);
    spec.batch_size = NonZeroU32::new(3);
    let (mut rig, told) = Rig::new(1, spec);
    assert_eq!(told, "w0 starts t0 t1 t2");
    rig.now_ns = 6 * MS;
    assert_eq!(rig.end(0, 0, Ending::Returned), "deliver j0.t0");
    rig
}

#[test]
fn a_worker_is_looked_at_once_it_was_silent_for_as_long_as_a_task_may_run() {
    let mut rig = amid_a_batch(limited(tolerant()));
    assert_eq!(rig.scheduler.deadline_ns(), Some(100 * MS));
    assert_eq!(rig.at(100 * MS, Event::Tick), "");
    assert_eq!(rig.scheduler.deadline_ns(), Some(106 * MS));
    assert_eq!(rig.at(106 * MS, Event::Tick), "look at w0");
    let sight = Sight::Running(task(1), 5 * MS);
    assert_eq!(rig.on(Event::Seen(WorkerId(0), sight)), "w0 ends");
    // Whoever waited behind it is not blamed, and runs elsewhere.
    rig.on(Event::WorkerJoined(WorkerId(1)));
    let told = rig.lose(0, 1);
    assert_eq!(
        told,
        "t1 is lost: out of time, 1 tries; no t1 for t1; w1 starts t2"
    );
    assert_eq!(rig.scheduler.deadline_ns(), Some(206 * MS));
}

#[test]
fn the_time_of_a_task_begins_when_it_starts() {
    let mut rig = amid_a_batch(limited(tolerant()));
    rig.at(106 * MS, Event::Tick);
    // The report of t1 has not come; t2 has just begun.
    let sight = Sight::Running(task(2), 90 * MS);
    assert_eq!(rig.on(Event::Seen(WorkerId(0), sight)), "");
    assert_eq!(rig.scheduler.deadline_ns(), Some(190 * MS));
    assert_eq!(rig.at(190 * MS, Event::Tick), "look at w0");
    // It is t2 that is out of time, whatever stands first in the queue.
    assert_eq!(rig.on(Event::Seen(WorkerId(0), sight)), "w0 ends");
    rig.on(Event::WorkerJoined(WorkerId(1)));
    let told = rig.lose(0, 2);
    assert_eq!(
        told,
        "t2 is lost: out of time, 1 tries; no t2 for t2; w1 starts t1"
    );
}

#[test]
fn a_worker_that_has_not_begun_is_looked_at_again() {
    let mut rig = amid_a_batch(limited(tolerant()));
    rig.at(106 * MS, Event::Tick);
    assert_eq!(rig.on(Event::Seen(WorkerId(0), Sight::Nothing)), "");
    assert_eq!(rig.scheduler.deadline_ns(), Some(206 * MS));
    // Where nothing can be seen, the first in the queue is taken for what runs.
    assert_eq!(rig.at(206 * MS, Event::Tick), "look at w0");
    assert_eq!(rig.on(Event::Seen(WorkerId(0), Sight::Hidden)), "w0 ends");
}

#[test]
fn a_task_that_ends_just_in_time_is_delivered() {
    let mut rig = amid_a_batch(limited(Rules::default()));
    rig.at(106 * MS, Event::Tick);
    let sight = Sight::Running(task(1), 5 * MS);
    assert_eq!(rig.on(Event::Seen(WorkerId(0), sight)), "w0 ends");
    assert_eq!(rig.end(0, 1, Ending::Returned), "deliver j0.t1");
    rig.on(Event::WorkerJoined(WorkerId(1)));
    assert_eq!(rig.lose(0, 1), "w1 starts t2");
}

#[test]
fn tasks_out_of_time_are_tried_again_where_that_was_asked_for() {
    let rules = Rules {
        n_retries: 1,
        retries_out_of_time: true,
        ..Rules::default()
    };
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(1), limited(rules)));
    for n_times in [1, 2] {
        let from_ns = rig.now_ns;
        assert_eq!(rig.at(from_ns + 100 * MS, Event::Tick), "look at w0");
        let sight = Sight::Running(task(0), from_ns);
        assert_eq!(rig.on(Event::Seen(WorkerId(0), sight)), "w0 ends");
        let told = rig.lose(0, 0);
        if n_times == 1 {
            assert_eq!(told, "");
            let told = rig.on(Event::WorkerJoined(WorkerId(0)));
            assert_eq!(told, "w0 starts t0");
        } else {
            assert_eq!(told, "t0 failed: out of time, 2 tries; j0 done");
        }
    }
}

#[test]
fn deaths_of_workers_are_not_counted_as_tries() {
    let rules = Rules {
        n_retries: 1,
        ..tolerant()
    };
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(1), rules));
    assert_eq!(rig.end(0, 0, Ending::Retriable), "w0 starts t0");
    assert_eq!(rig.lose(0, 0), "");
    assert_eq!(rig.on(Event::WorkerJoined(WorkerId(0))), "w0 starts t0");
    let told = rig.end(0, 0, Ending::Retriable);
    assert_eq!(told, "t0 is lost: raised, 2 tries; no t0 for t0; j0 done");
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(1), rules));
    rig.lose(0, 0);
    rig.on(Event::WorkerJoined(WorkerId(0)));
    let told = rig.lose(0, 0);
    assert_eq!(
        told,
        "t0 is lost: its worker died, 1 tries; no t0 for t0; j0 done"
    );
}

#[test]
fn a_short_task_of_a_cancelled_job_ends_by_itself_and_keeps_its_worker() {
    let (mut rig, _) = Rig::new(1, spec(Graph::independent(1), Rules::default()));
    let (job, grace_ns) = (JobId(0), 100 * MS);
    assert_eq!(rig.on(Event::Cancel { job, grace_ns }), "w0 gives back t0");
    rig.on(Event::TakenBack(WorkerId(0), &[]));
    assert_eq!(rig.at(99 * MS, Event::Tick), "");
    assert_eq!(rig.end(0, 0, Ending::Returned), "j0 done");
    assert_eq!(rig.scheduler.deadline_ns(), None);
}
