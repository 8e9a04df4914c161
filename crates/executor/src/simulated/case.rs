//! One case: the jobs, the machine they run on, and what goes wrong; all drawn from a seed.

use super::random::Random;
use super::shapes::{Durations, random_graph};
use manyhands_scheduler::{
    Class, Graph, JobSpec, KindId, Kinds, Need, Needs, Rules, Supply, TaskIndex, TimeNs, Wanted,
};
use std::num::{NonZeroU32, NonZeroU64};

/// What a task does when it is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It returns.
    Returns,
    /// It raises what is not to be tried again.
    Fails,
    /// It raises the first so many times, and may be tried again.
    FailsAtFirst(u8),
    /// It raises what ends its job, whatever that tolerates.
    Exits,
    /// It does not end, the first so many times. Only where there is a limit.
    Hangs(u8),
    /// It ends its worker the first so many times.
    KillsWorker(u8),
}

/// A job and when what happens to it.
#[derive(Clone, Debug)]
pub struct JobPlan {
    /// The shape's name, for the report.
    pub shape: &'static str,
    /// What is submitted.
    pub spec: JobSpec,
    /// What its tasks need.
    pub needs: Needs,
    /// When.
    pub submit_ns: TimeNs,
    /// When an open job gets how many tasks more.
    pub pieces: Vec<(TimeNs, u32)>,
    /// When an open job is closed; must come after its pieces.
    pub close_ns: TimeNs,
    /// When the job is cancelled, and its grace.
    pub cancel: Option<(TimeNs, u64)>,
    /// How long each task takes, pieces included.
    pub durations_ns: Vec<u64>,
    /// How large each task's result is; empty stands for 1 each.
    pub sizes: Vec<u64>,
    /// What each task does; empty stands for "returns".
    pub fates: Vec<Fate>,
    /// What the first call of a kind takes in addition, in each worker.
    pub first_call_ns: u64,
}

impl JobPlan {
    /// A job submitted at time zero that wants everything and in which nothing goes wrong.
    pub fn new(graph: Graph, durations_ns: Vec<u64>) -> JobPlan {
        JobPlan {
            shape: "given",
            spec: JobSpec {
                graph,
                wanted: Wanted::All,
                kinds: Kinds::One(KindId(0)),
                batch_size: None,
                is_open: false,
                rules: Rules::default(),
            },
            needs: Needs::default(),
            submit_ns: 0,
            pieces: Vec::new(),
            close_ns: 0,
            cancel: None,
            durations_ns,
            sizes: Vec::new(),
            fates: Vec::new(),
            first_call_ns: 0,
        }
    }

    /// How large a task's result is.
    pub fn size(&self, task: TaskIndex) -> u64 {
        self.sizes.get(task.as_usize()).copied().unwrap_or(1)
    }

    /// What a task does.
    pub fn fate(&self, task: TaskIndex) -> Fate {
        let fate = self.fates.get(task.as_usize());
        fate.copied().unwrap_or(Fate::Returns)
    }

    /// What kind a task is.
    pub fn kind(&self, task: TaskIndex) -> KindId {
        match &self.spec.kinds {
            Kinds::One(kind) => *kind,
            Kinds::Each(kinds) => kinds[task.as_usize()],
        }
    }
}

/// The machine: its workers, its messages, its mishaps.
#[derive(Clone, Debug)]
pub struct Machine {
    /// How many workers there are, unless some are lost.
    pub n_workers: u32,
    /// What resources there are.
    pub supplies: Vec<Supply>,
    /// How many of them compute at one time, taking turns; `None` is all of them.
    pub n_cores: Option<u32>,
    /// Results that nobody asked for are piled up from this size on, all together, until they are half
    /// of that; `None` is never.
    pub pressure_at: Option<u64>,
    /// How long a worker takes to start: from, to.
    pub startup_ns: (u64, u64),
    /// How long a message takes: from, to. Messages on one connection stay in order.
    pub delay_ns: (u64, u64),
    /// How long a worker that is busy may keep results.
    pub flush_ns: u64,
    /// How late ticks come at most.
    pub tick_late_ns_max: u64,
    /// How long it takes to end a worker: from, to.
    pub kill_ns: (u64, u64),
    /// How long workers live on average, as long as any may still be lost at random.
    pub mean_life_ns: u64,
    /// How many workers are lost at random at most.
    pub n_losses_max: u32,
    /// In how many cases of four it is known what a lost worker was running.
    pub knows_running_of_four: u64,
    /// How many workers stop for good at random, without ending. Only where all jobs have limits, or nobody
    /// would notice.
    pub n_freezes: u32,
    /// In how many cases of four it cannot be seen what a worker runs.
    pub hides_of_four: u64,
    /// In how many cases of four a lost worker is replaced if others are left.
    pub replaces_of_four: u64,
    /// One step in so many is followed by a late report about a task no longer held; 0 is never.
    pub stray_report_one_in: u64,
}

impl Machine {
    /// Workers that are there from the start, and nothing goes wrong.
    pub fn calm(n_workers: u32, delay_ns: u64, flush_ns: u64) -> Machine {
        Machine {
            n_workers,
            supplies: Vec::new(),
            n_cores: None,
            pressure_at: None,
            startup_ns: (0, 0),
            delay_ns: (delay_ns, delay_ns),
            flush_ns,
            tick_late_ns_max: 0,
            kill_ns: (0, 0),
            mean_life_ns: 0,
            n_losses_max: 0,
            knows_running_of_four: 4,
            hides_of_four: 0,
            n_freezes: 0,
            replaces_of_four: 4,
            stray_report_one_in: 0,
        }
    }

    fn random(random: &mut Random) -> Machine {
        let n_workers = match random.below(64) {
            0..8 => 1,
            8..40 => random.between(2, 4),
            40..56 => random.between(4, 10),
            56..63 => random.between(10, 40),
            // More than the scheduler looks at in one step.
            _ => random.between(40, 150),
        };
        let delay_ns = random.log_uniform(1_000, 1_000.0);
        let is_calm = random.one_in(2);
        Machine {
            n_workers: n_workers as u32,
            supplies: Vec::new(),
            pressure_at: random.one_in(3).then(|| random.between(1, 12)),
            n_cores: random.one_in(4).then(|| random.between(1, 4) as u32),
            startup_ns: [(0, 0), (0, 20_000_000)][random.index(2)],
            delay_ns: (delay_ns, delay_ns * random.between(1, 20)),
            flush_ns: [0, 200_000, 2_000_000][random.index(3)],
            tick_late_ns_max: [0, 1_000_000, 20_000_000][random.index(3)],
            kill_ns: (100_000, 30_000_000),
            mean_life_ns: random.log_uniform(100_000, 10_000.0),
            n_losses_max: if is_calm {
                0
            } else {
                random.between(1, 12) as u32
            },
            knows_running_of_four: [4, 4, 2, 0][random.index(4)],
            hides_of_four: [0, 0, 0, 2][random.index(4)],
            n_freezes: 0,
            replaces_of_four: [4, 4, 2, 0][random.index(4)],
            stray_report_one_in: [0, 0, 10][random.index(3)],
        }
    }
}

/// Everything that a run needs; the same case runs the same way every time.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where the case and the chances of its run come from.
    pub seed: u64,
    /// What it runs on.
    pub machine: Machine,
    /// What runs.
    pub jobs: Vec<JobPlan>,
}

impl Case {
    /// The random case of this seed.
    pub fn random(seed: u64) -> Case {
        let mut random = Random::new(seed);
        let mut machine = Machine::random(&mut random);
        // Small cases find nearly everything, and a thousand of them cost less than one large one.
        let n_tasks_max = match random.below(64) {
            0 => 600,
            1..=7 => 120,
            _ => 30,
        };
        let n_jobs = [1, 1, 2, 3, 6][random.index(5)];
        let mut jobs: Vec<_> = (0..n_jobs)
            .map(|_| random_job(&mut random, n_tasks_max))
            .collect();
        let has_limit = |job: &JobPlan| job.spec.rules.limit_ns.is_some();
        if jobs.iter().all(has_limit) && random.one_in(2) {
            machine.n_freezes = random.between(1, 4) as u32;
            // A stopped worker that cannot be seen is taken for one that works.
            machine.hides_of_four = 0;
        }
        draw_needs(seed, &mut machine, &mut jobs);
        Case {
            seed,
            machine,
            jobs,
        }
    }

    /// How many tasks there are in all.
    pub fn n_tasks(&self) -> usize {
        self.jobs.iter().map(|job| job.durations_ns.len()).sum()
    }
}

fn random_job(random: &mut Random, n_tasks_max: u64) -> JobPlan {
    let n_tasks = random.between(0, n_tasks_max) as usize;
    let mut plan = if random.one_in(4) {
        random_stream(random, n_tasks as u32)
    } else {
        random_closed(random, n_tasks)
    };
    if random.one_in(3) {
        plan.submit_ns = random.log_uniform(1_000, 10_000.0);
        plan.close_ns += plan.submit_ns;
        for (at_ns, _) in &mut plan.pieces {
            *at_ns += plan.submit_ns;
        }
    }
    if random.one_in(5) {
        plan.spec.batch_size = NonZeroU32::new(random.between(1, 12) as u32);
    }
    if random.one_in(4) {
        plan.sizes = (0..plan.durations_ns.len())
            .map(|_| random.between(0, 5))
            .collect();
    }
    if random.one_in(4) {
        plan.first_call_ns = random.log_uniform(10_000, 10_000.0);
    }
    if random.one_in(5) {
        let grace_ns = [0, 100_000, 10_000_000, 1 << 50][random.index(4)];
        let at_ns = plan.submit_ns + random.log_uniform(100, 1_000_000.0);
        plan.cancel = Some((at_ns, grace_ns));
    }
    draw_rules(random, &mut plan);
    draw_fates(random, &mut plan);
    plan
}

fn draw_rules(random: &mut Random, plan: &mut JobPlan) {
    let n_tasks = plan.durations_ns.len();
    let rules = &mut plan.spec.rules;
    rules.is_tolerant = random.one_in(3);
    if random.one_in(3) {
        rules.n_retries = random.between(1, 4) as u32;
        rules.rest_ns = [0, random.log_uniform(1_000, 1_000_000.0)][random.index(2)];
        rules.retries_out_of_time = random.one_in(2);
    }
    if random.one_in(4) && n_tasks > 0 {
        // About as long as tasks take, so that some of them take longer.
        let like_ns = plan.durations_ns[random.index(n_tasks)];
        let limit_ns = 1_000 + like_ns * random.between(1, 16) / 4;
        rules.limit_ns = NonZeroU64::new(limit_ns);
    }
}

fn random_closed(random: &mut Random, n_tasks: usize) -> JobPlan {
    let (shape, graph) = random_graph(random, n_tasks);
    // A job may be empty, too.
    let graph = if n_tasks == 0 {
        Graph::default()
    } else {
        graph
    };
    let n_tasks = graph.n_tasks();
    let first_kind = random.below(3) as u32;
    let n_kinds = [1, 1, 3][random.index(3)];
    let durations: Vec<_> = (0..n_kinds).map(|_| Durations::random(random)).collect();
    let kinds: Vec<_> = (0..n_tasks).map(|_| random.index(n_kinds)).collect();
    let durations_ns = kinds
        .iter()
        .map(|&kind| durations[kind].draw(random))
        .collect();
    let mut plan = JobPlan::new(graph, durations_ns);
    plan.shape = shape;
    plan.spec.kinds = match n_kinds {
        1 => Kinds::One(KindId(first_kind)),
        _ => Kinds::Each(
            kinds
                .iter()
                .map(|&kind| KindId(first_kind + kind as u32))
                .collect(),
        ),
    };
    plan.spec.wanted = match random.below(3) {
        0 => Wanted::All,
        1 => Wanted::Tasks(ends(&plan.spec.graph)),
        _ => Wanted::Tasks(
            (plan.spec.graph.tasks())
                .filter(|_| random.one_in(5))
                .collect(),
        ),
    };
    plan
}

/// The tasks that no other reads.
fn ends(graph: &Graph) -> Vec<TaskIndex> {
    graph
        .tasks()
        .filter(|&task| graph.dependents(task).is_empty())
        .collect()
}

/// An open job that grows in pieces.
fn random_stream(random: &mut Random, n_tasks: u32) -> JobPlan {
    let durations = Durations::random(random);
    let durations_ns = (0..n_tasks).map(|_| durations.draw(random)).collect();
    let n_first = random.between(0, u64::from(n_tasks)) as u32;
    let mut plan = JobPlan::new(Graph::independent(n_first), durations_ns);
    plan.shape = "stream";
    plan.spec.is_open = true;
    plan.spec.kinds = Kinds::One(KindId(random.below(3) as u32));
    let mut n_left = n_tasks - n_first;
    let mut at_ns = 0;
    let gap_ns = random.log_uniform(100, 100_000.0);
    while n_left > 0 {
        let n_more = random.between(1, u64::from(n_left)) as u32;
        at_ns += random.exponential(gap_ns);
        plan.pieces.push((at_ns, n_more));
        n_left -= n_more;
    }
    plan.close_ns = at_ns + random.exponential(gap_ns);
    plan
}

/// In one case of three there are resources, which some of the jobs need. Drawn apart: all else is as without.
fn draw_needs(seed: u64, machine: &mut Machine, jobs: &mut [JobPlan]) {
    let mut random = Random::new(seed ^ 0x5e55);
    if !random.one_in(3) {
        return;
    }
    for _ in 0..random.between(1, 3) {
        machine.supplies.push(Supply {
            n_units: random.between(1, 5) as u32,
            is_by_worker: random.one_in(2),
        });
    }
    for job in jobs.iter_mut() {
        // The tasks of an open job cannot differ.
        job.needs = if job.spec.is_open || random.one_in(2) {
            Needs::same(draw_need(&mut random, &machine.supplies))
        } else {
            draw_classes(&mut random, &machine.supplies, job.spec.graph.n_tasks())
        };
    }
}

/// What one task needs.
fn draw_need(random: &mut Random, supplies: &[Supply]) -> Vec<Need> {
    let mut needs = Vec::new();
    for (at, supply) in supplies.iter().enumerate() {
        if random.one_in(3) {
            let n_units = random.between(1, u64::from(supply.n_units)) as u32;
            let need = Need::new(at as u32, n_units);
            needs.push(match random.one_in(3) {
                true => Need {
                    n_per_worker: n_units + random.between(0, 3) as u32,
                    ..need
                },
                false => need,
            });
        }
    }
    needs
}

/// What each of so many tasks needs: about half of them nothing.
fn draw_classes(random: &mut Random, supplies: &[Supply], n_tasks: usize) -> Needs {
    let mut classes = vec![Vec::new()];
    for _ in 0..random.between(1, 4) {
        let needs = draw_need(random, supplies);
        if !classes.contains(&needs) {
            classes.push(needs);
        }
    }
    let n_classes = classes.len();
    let mut draw_class = || match random.one_in(2) {
        true => Class::FREE,
        false => Class(random.index(n_classes) as u16),
    };
    let of_tasks = (0..n_tasks).map(|_| draw_class()).collect();
    Needs::each(classes, of_tasks)
}

fn draw_fates(random: &mut Random, plan: &mut JobPlan) {
    let n_tasks = plan.durations_ns.len();
    if n_tasks == 0 {
        return;
    }
    let has_limit = plan.spec.rules.limit_ns.is_some();
    let mut change = |random: &mut Random, fate: Fate| {
        plan.fates.resize(n_tasks, Fate::Returns);
        plan.fates[random.index(n_tasks)] = fate;
    };
    if random.one_in(6) {
        change(random, Fate::Fails);
    }
    if random.one_in(4) {
        for _ in 0..random.between(1, 6) {
            let n_times = [1, 2, 3, u8::MAX][random.index(4)];
            change(random, Fate::FailsAtFirst(n_times));
        }
    }
    if random.one_in(20) {
        change(random, Fate::Exits);
    }
    if has_limit && random.one_in(2) {
        for _ in 0..random.between(1, 3) {
            let n_times = [1, 2, u8::MAX][random.index(3)];
            change(random, Fate::Hangs(n_times));
        }
    }
    if has_limit && let Some((_, grace_ns)) = &mut plan.cancel {
        // What does not end by itself would keep a worker for as long.
        *grace_ns = (*grace_ns).min(10_000_000);
    }
    if random.one_in(5) {
        for _ in 0..random.between(1, 3) {
            change(random, Fate::KillsWorker(1));
        }
    }
    if random.one_in(10) {
        change(random, Fate::KillsWorker(u8::MAX));
    }
}
