//! Single decisions, spelled out: which commands follow from which event.

use manyhands_scheduler::{
    Command, Commands, Event, Graph, JobId, JobSpec, KindId, Kinds, Need, Needs, Report, Rules,
    Scheduler, Supply, TaskId, TaskIndex, Wanted, WorkerId,
};
use std::num::NonZeroU32;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// A scheduler and the time; commands come back as text.
struct Rig {
    scheduler: Scheduler,
    now_ns: u64,
}

impl Rig {
    fn new(n_workers: u32) -> Rig {
        let scheduler = Scheduler::new();
        let mut rig = Rig {
            scheduler,
            now_ns: 0,
        };
        for worker in 0..n_workers {
            assert_eq!(rig.on(Event::WorkerJoined(WorkerId(worker))), "");
        }
        rig
    }

    fn on(&mut self, event: Event<'_>) -> String {
        let mut commands = Commands::default();
        self.scheduler.on(event, self.now_ns, &mut commands);
        if let Err(what) = self.scheduler.check() {
            panic!("{what}");
        }
        let list = |range| {
            let tasks = commands.tasks(range);
            tasks.map(|t| format!(" {t:?}")).collect::<String>()
        };
        let texts = commands.iter().map(|command| match command {
            Command::Start(worker, range) => format!("{worker:?} starts{}", list(range)),
            Command::TakeBack(worker, range) => format!("{worker:?} gives back{}", list(range)),
            Command::Kill(worker) => format!("{worker:?} ends"),
            Command::Deliver(run) => format!("deliver {run:?}"),
            Command::Release(run) => format!("release {run:?}"),
            Command::Fail(task, loss) => format!("{task:?} failed: {:?}", loss.cause),
            Command::Lose(task, loss) => {
                format!("{task:?} is lost: {:?}, {}", loss.cause, loss.n_tries)
            }
            Command::DeliverLoss(task, culprit) => format!("no {task:?} for {culprit:?}"),
            Command::Look(worker) => format!("look at {worker:?}"),
            Command::JobDone(job) => format!("{job:?} done"),
        });
        texts.collect::<Vec<_>>().join("; ")
    }

    fn submit(&mut self, spec: JobSpec) -> String {
        let id = self.scheduler.new_job_id();
        self.on(Event::Submit(id, spec))
    }

    /// A worker reports tasks of job 0, so long each.
    fn finish(
        &mut self,
        worker: u32,
        tasks: impl IntoIterator<Item = u32>,
        each_ns: u64,
    ) -> String {
        let report = |index| Report::one(task(index), each_ns, true);
        let reports: Vec<_> = tasks.into_iter().map(report).collect();
        self.now_ns += reports.iter().map(|report| report.duration_ns).sum::<u64>();
        self.on(Event::Finished(WorkerId(worker), &reports))
    }

    fn fail(&mut self, worker: u32, index: u32) -> String {
        let report = Report::one(task(index), US, false);
        self.on(Event::Finished(WorkerId(worker), &[report]))
    }

    fn give_back(&mut self, worker: u32, tasks: impl IntoIterator<Item = u32>) -> String {
        let tasks: Vec<_> = tasks.into_iter().map(task).collect();
        self.on(Event::TakenBack(WorkerId(worker), &tasks))
    }

    fn lose(&mut self, worker: u32, running: Option<u32>) -> String {
        let running = running.map(task);
        let worker = WorkerId(worker);
        self.on(Event::WorkerLost {
            worker,
            running,
            was_memory_short: false,
        })
    }

    fn starve(&mut self, worker: u32, running: u32) -> String {
        self.on(Event::WorkerLost {
            worker: WorkerId(worker),
            running: Some(task(running)),
            was_memory_short: true,
        })
    }
}

fn task(index: u32) -> TaskId {
    TaskId {
        job: JobId(0),
        index: TaskIndex(index),
    }
}

fn map(n_tasks: u32) -> JobSpec {
    JobSpec {
        graph: Graph::independent(n_tasks),
        wanted: Wanted::All,
        kinds: Kinds::One(KindId(0)),
        batch_size: None,
        is_open: false,
        rules: Rules::default(),
    }
}

#[test]
fn what_is_unknown_is_sent_one_at_a_time() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.submit(map(10)), "w1 starts j0.t0; w0 starts j0.t1");
}

#[test]
fn what_is_known_is_sent_by_the_batch_and_less_towards_the_end() {
    let mut rig = Rig::new(2);
    rig.submit(map(100));
    // 2 ms of work, and some more at once: the worker may keep its reports that long.
    let told = rig.finish(1, [0], 500 * US);
    assert_eq!(
        told,
        "deliver j0.t0; w1 starts j0.t2 j0.t3 j0.t4 j0.t5; w1 starts j0.t6 j0.t7 j0.t8 j0.t9"
    );
    let mut rig = Rig::new(2);
    rig.submit(map(10));
    // Eight are ready: a quarter of those, then a quarter of the rest.
    let told = rig.finish(1, [0], 900 * US);
    assert_eq!(
        told,
        "deliver j0.t0; w1 starts j0.t2 j0.t3; w1 starts j0.t4 j0.t5"
    );
}

#[test]
fn a_batch_size_that_the_caller_chose_is_kept() {
    let mut rig = Rig::new(2);
    let batch_size = NonZeroU32::new(3);
    let spec = JobSpec {
        batch_size,
        ..map(7)
    };
    assert_eq!(
        rig.submit(spec),
        "w1 starts j0.t0 j0.t1 j0.t2; w0 starts j0.t3 j0.t4 j0.t5"
    );
    assert_eq!(
        rig.finish(0, [3, 4, 5], 1),
        "deliver j0.t3+3; w0 starts j0.t6"
    );
}

#[test]
fn an_idle_worker_gets_half_of_what_another_has_not_begun() {
    let mut rig = Rig::new(1);
    rig.submit(map(9));
    rig.finish(0, [0], 100 * US);
    assert_eq!(
        rig.on(Event::WorkerJoined(WorkerId(1))),
        "w0 gives back j0.t5 j0.t6 j0.t7 j0.t8"
    );
    // It had begun all but the last two.
    assert_eq!(rig.give_back(0, [8, 7]), "w1 starts j0.t7; w1 starts j0.t8");
}

#[test]
fn what_waits_behind_a_slow_task_is_taken_back_and_sent_first() {
    let mut rig = Rig::new(2);
    rig.submit(map(100));
    rig.finish(0, [1], 500 * US);
    rig.finish(1, [0], 500 * US);
    // Worker 0 holds 2 to 9 and is silent; worker 1 goes on.
    assert_eq!(rig.scheduler.head(WorkerId(0)), Some(task(2)));
    let mut taken = String::new();
    for _ in 0..100 {
        rig.now_ns = rig.scheduler.deadline_ns().expect("it is watched");
        taken = rig.on(Event::Tick);
        if !taken.is_empty() {
            break;
        }
    }
    assert_eq!(
        taken.split("; ").find(|command| command.starts_with("w0")),
        Some("w0 gives back j0.t3 j0.t4 j0.t5 j0.t6 j0.t7 j0.t8 j0.t9")
    );
    assert!(rig.now_ns <= 100 * MS, "{}", rig.now_ns);
    assert_eq!(rig.give_back(0, (3..10).rev()), "");
    let head = rig
        .scheduler
        .head(WorkerId(1))
        .expect("it has work")
        .index
        .0;
    let told = rig.finish(1, head..head + 7, 500 * US);
    assert!(told.contains("w1 starts j0.t3 j0.t4"), "{told}");
}

#[test]
fn a_task_that_killed_its_worker_is_tried_alone_and_then_blamed() {
    let mut rig = Rig::new(2);
    rig.submit(map(100));
    rig.finish(1, [0], 100 * US);
    assert_eq!(rig.lose(0, Some(1)), "");
    // The other worker is low, but it gets no more until it is idle and has tried the suspect.
    let queue = 2..rig_head_end(&rig);
    let n_queued = queue.end - queue.start;
    let told = rig.finish(1, queue.clone().take(n_queued as usize - 1), US);
    assert!(!told.contains("starts"), "{told}");
    let told = rig.finish(1, [queue.end - 1], US);
    assert!(told.ends_with("w1 starts j0.t1"), "{told}");
    assert_eq!(rig.lose(1, Some(1)), "j0.t1 failed: WorkerDied; j0 done");
}

#[test]
fn a_task_that_memory_was_short_for_is_tried_while_nothing_else_runs() {
    let mut rig = Rig::new(3);
    let batch_size = NonZeroU32::new(1);
    rig.submit(JobSpec {
        batch_size,
        ..map(8)
    });
    // Workers 2, 1 and 0 run tasks 0, 1 and 2.
    assert_eq!(rig.starve(1, 1), "");
    assert_eq!(rig.finish(0, [2], US), "deliver j0.t2");
    assert_eq!(rig.on(Event::WorkerJoined(WorkerId(1))), "");
    let told = rig.finish(2, [0], US);
    // The one that joined last.
    assert_eq!(told, "deliver j0.t0; w1 starts j0.t1");
    assert_eq!(rig.on(Event::WorkerJoined(WorkerId(3))), "");
    let told = rig.finish(1, [1], US);
    assert!(told.starts_with("deliver j0.t1; w"), "{told}");
    assert_eq!(told.matches("starts").count(), 4, "{told}");
}

#[test]
fn before_a_task_runs_alone_all_that_waits_is_taken_back() {
    let mut rig = Rig::new(2);
    let batch_size = NonZeroU32::new(3);
    rig.submit(JobSpec {
        batch_size,
        ..map(6)
    });
    assert_eq!(rig.starve(1, 0), "w0 gives back j0.t4 j0.t5");
    assert_eq!(rig.give_back(0, [5, 4]), "");
    assert_eq!(rig.finish(0, [3], US), "deliver j0.t3; w0 starts j0.t0");
    assert_eq!(
        rig.finish(0, [0], US),
        "deliver j0.t0; w0 starts j0.t1 j0.t2 j0.t4"
    );
}

#[test]
fn a_task_that_memory_is_short_for_when_it_runs_alone_is_blamed_and_others_go_on() {
    let mut rig = Rig::new(2);
    let batch_size = NonZeroU32::new(1);
    rig.submit(JobSpec {
        batch_size,
        ..map(2)
    });
    let id = rig.scheduler.new_job_id();
    let spec = JobSpec {
        batch_size,
        ..map(1)
    };
    assert_eq!(rig.on(Event::Submit(id, spec)), "");
    assert_eq!(rig.starve(1, 0), "");
    assert_eq!(rig.finish(0, [1], US), "deliver j0.t1; w0 starts j0.t0");
    assert_eq!(rig.on(Event::WorkerJoined(WorkerId(1))), "");
    assert_eq!(
        rig.starve(0, 0),
        "j0.t0 failed: WorkerDied; j0 done; w1 starts j1.t0"
    );
}

/// One past the last task that worker 1 holds, of those sent in ascending order.
fn rig_head_end(rig: &Rig) -> u32 {
    let is_held = |&index: &u32| rig.scheduler.holder(task(index)).is_some();
    (0..100).rev().find(is_held).map_or(0, |last| last + 1)
}

#[test]
fn who_runs_at_an_unexplained_loss_is_suspected_and_others_are_not() {
    let mut rig = Rig::new(1);
    let batch_size = NonZeroU32::new(3);
    rig.submit(JobSpec {
        batch_size,
        ..map(3)
    });
    assert_eq!(rig.lose(0, None), "");
    assert_eq!(rig.on(Event::WorkerJoined(WorkerId(0))), "w0 starts j0.t0");
    assert_eq!(
        rig.finish(0, [0], US),
        "deliver j0.t0; w0 starts j0.t1 j0.t2"
    );
}

#[test]
fn a_task_lost_again_and_again_without_being_seen_to_run_is_given_up() {
    let mut rig = Rig::new(0);
    rig.submit(map(1));
    for _ in 0..3 {
        assert_eq!(rig.on(Event::WorkerJoined(WorkerId(0))), "w0 starts j0.t0");
        assert_eq!(rig.lose(0, None), "");
    }
    rig.on(Event::WorkerJoined(WorkerId(0)));
    assert_eq!(rig.lose(0, None), "j0.t0 failed: WorkerDied; j0 done");
}

#[test]
fn a_cancelled_job_is_asked_back_and_its_worker_ends_after_the_grace() {
    let mut rig = Rig::new(1);
    let batch_size = NonZeroU32::new(3);
    rig.submit(JobSpec {
        batch_size,
        ..map(5)
    });
    let grace_ns = 10 * MS;
    let job = JobId(0);
    // Even the first may still be on its way.
    let told = rig.on(Event::Cancel { job, grace_ns });
    assert_eq!(told, "w0 gives back j0.t0 j0.t1 j0.t2");
    assert_eq!(rig.give_back(0, [1, 2]), "");
    assert_eq!(rig.scheduler.deadline_ns(), Some(10 * MS));
    rig.now_ns = 10 * MS;
    assert_eq!(rig.on(Event::Tick), "w0 ends");
    assert_eq!(rig.lose(0, Some(0)), "j0 done");
    assert_eq!(rig.scheduler.check_empty(), Ok(()));
}

#[test]
fn a_grace_without_end_is_no_grace_that_overflows() {
    let mut rig = Rig::new(1);
    rig.now_ns = MS;
    rig.submit(map(1));
    let job = JobId(0);
    let grace_ns = u64::MAX;
    rig.on(Event::Cancel { job, grace_ns });
    assert_eq!(rig.scheduler.deadline_ns(), None);
    assert_eq!(rig.give_back(0, []), "");
    assert_eq!(rig.finish(0, [0], US), "j0 done");
}

#[test]
fn the_first_failure_ends_the_job_and_later_ones_are_not_told() {
    let mut rig = Rig::new(2);
    rig.submit(map(3));
    assert_eq!(rig.fail(0, 1), "j0.t1 failed: Failed; w1 gives back j0.t0");
    assert_eq!(rig.give_back(1, []), "");
    assert_eq!(rig.fail(1, 0), "j0 done");
}

#[test]
fn a_report_about_a_task_not_held_changes_nothing() {
    let mut rig = Rig::new(2);
    rig.submit(map(2));
    assert_eq!(rig.finish(1, [1], US), "");
    assert_eq!(rig.finish(0, [1], US), "deliver j0.t1");
    assert_eq!(rig.finish(0, [1], US), "");
}

/// A job of tasks that need so many units each of the only resource.
fn submit_needing(rig: &mut Rig, supply: Supply, n_tasks: u32, n_units: u32) -> String {
    rig.scheduler.set_supplies(&[supply]);
    let id = rig.scheduler.new_job_id();
    let needs = Needs::same(vec![Need::new(0, n_units)]);
    rig.scheduler.set_needs(id, needs);
    rig.on(Event::Submit(id, map(n_tasks)))
}

#[test]
fn no_more_tasks_run_than_there_are_resources_for() {
    let supply = Supply {
        n_units: 5,
        is_by_worker: false,
    };
    let mut rig = Rig::new(4);
    let started = submit_needing(&mut rig, supply, 4, 2);
    assert_eq!(started, "w3 starts j0.t0; w2 starts j0.t1");
    assert_eq!(rig.finish(3, [0], US), "deliver j0.t0; w3 starts j0.t2");
    assert_eq!(rig.lose(2, None), "w1 starts j0.t1");
}

#[test]
fn devices_belong_to_workers() {
    let supply = Supply {
        n_units: 2,
        is_by_worker: true,
    };
    // w0 and w2 have one device, w1 and w3 the other.
    let mut rig = Rig::new(4);
    let started = submit_needing(&mut rig, supply, 4, 1);
    assert_eq!(started, "w3 starts j0.t0; w2 starts j0.t1");
    assert_eq!(rig.finish(2, [1], US), "deliver j0.t1; w2 starts j0.t2");
}

#[test]
fn workers_run_dry_for_a_task_that_waits_for_one_alone() {
    let supply = Supply {
        n_units: 1,
        is_by_worker: false,
    };
    let mut rig = Rig::new(1);
    assert_eq!(rig.submit(map(50)), "w0 starts j0.t0");
    assert_eq!(submit_needing(&mut rig, supply, 1, 1), "");
    assert_eq!(rig.finish(0, [0], US), "deliver j0.t0; w0 starts j1.t0");
}

#[test]
fn what_was_never_told_of_waits() {
    let mut rig = Rig::new(1);
    let id = rig.scheduler.new_job_id();
    let needs = Needs::same(vec![Need::new(0, 2)]);
    rig.scheduler.set_needs(id, needs);
    assert_eq!(rig.on(Event::Submit(id, map(1))), "");
    rig.scheduler.set_supplies(&[Supply {
        n_units: 2,
        is_by_worker: false,
    }]);
    assert_eq!(rig.on(Event::Tick), "w0 starts j0.t0");
}

#[test]
fn what_a_job_was_promised_is_there_until_it_ends() {
    let supply = |n_units| Supply {
        n_units,
        is_by_worker: false,
    };
    let mut rig = Rig::new(2);
    let started = submit_needing(&mut rig, supply(4), 3, 2);
    assert_eq!(started, "w1 starts j0.t0; w0 starts j0.t1");
    rig.scheduler.set_supplies(&[supply(0)]);
    assert_eq!(rig.finish(0, [1], US), "deliver j0.t1");
    assert_eq!(rig.finish(1, [0], US), "deliver j0.t0; w1 starts j0.t2");
    // Nothing more is there for the next job than it was promised itself.
    assert_eq!(submit_needing(&mut rig, supply(0), 2, 1), "");
    let told = rig.finish(1, [2], US);
    assert_eq!(told, "deliver j0.t2; j0 done; w1 starts j1.t0");
}

#[test]
fn a_task_that_memory_was_short_for_gets_its_resources_while_nothing_else_runs() {
    let supply = Supply {
        n_units: 2,
        is_by_worker: false,
    };
    let mut rig = Rig::new(2);
    let started = submit_needing(&mut rig, supply, 3, 1);
    assert_eq!(started, "w1 starts j0.t0; w0 starts j0.t1");
    assert_eq!(rig.starve(1, 0), "");
    // There is a unit for the third, which has to wait all the same.
    assert_eq!(rig.on(Event::WorkerJoined(WorkerId(1))), "");
    assert_eq!(rig.finish(0, [1], US), "deliver j0.t1; w1 starts j0.t0");
    let told = rig.finish(1, [0], US);
    assert!(told.starts_with("deliver j0.t0; w"), "{told}");
    assert!(told.ends_with(" starts j0.t2"), "{told}");
}

#[test]
fn a_task_that_should_run_alone_gets_what_it_was_promised() {
    let supply = Supply {
        n_units: 2,
        is_by_worker: false,
    };
    let mut rig = Rig::new(2);
    assert_eq!(submit_needing(&mut rig, supply, 1, 2), "w1 starts j0.t0");
    let id = rig.scheduler.new_job_id();
    assert_eq!(rig.on(Event::Submit(id, map(1))), "w0 starts j1.t0");
    rig.scheduler.set_supplies(&[Supply {
        n_units: 1,
        ..supply
    }]);
    assert_eq!(rig.starve(1, 0), "");
    assert_eq!(rig.on(Event::WorkerJoined(WorkerId(1))), "");
    let other = TaskId {
        job: id,
        index: TaskIndex(0),
    };
    let ended = [Report::one(other, US, true)];
    let told = rig.on(Event::Finished(WorkerId(0), &ended));
    assert_eq!(told, "deliver j1.t0; j1 done; w1 starts j0.t0");
}
