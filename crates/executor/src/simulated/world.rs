//! Virtual time: the happenings of a case in their order, and the scheduler in their midst.

use super::act::{Act, Fault, fault};
use super::case::{Case, Fate, JobPlan};
use super::cores::Cores;
use super::happening::{Happening, Notice, Order, Place, What};
use super::model::Model;
use super::random::Random;
use super::sabotage::Sabotage;
use super::worker::Worker;
use super::{Outcome, story::Story};
use manyhands_scheduler::{
    Commands, Ending, Event, JobId, Report, Scheduler, Sight, TaskId, TaskIndex, TimeNs, WorkerId,
};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    NotSubmitted,
    Live(JobId),
    Done,
}

pub(super) struct World<'a> {
    case: &'a Case,
    scheduler: Scheduler,
    commands: Commands,
    model: Model<'a>,
    sabotage: Option<Sabotage>,
    random: Random,
    now_ns: TimeNs,
    agenda: BinaryHeap<Reverse<Happening>>,
    n_entered: u64,
    /// When the next tick comes, and for which deadline.
    tick: Option<(TimeNs, TimeNs)>,
    workers: Vec<Option<Worker>>,
    cores: Cores,
    n_incarnations: u32,
    n_losses_left: u32,
    n_freezes_left: u32,
    stages: Vec<Stage>,
    /// How often each task has failed, hung or killed its worker so far, by job.
    n_mishaps: Vec<Vec<u8>>,
    /// Workers that are to be looked at after the step under way.
    looks: Vec<WorkerId>,
    /// Reports made before, of which a late double may turn up.
    reported: Vec<(WorkerId, Report)>,
    pub(super) outcome: Outcome,
    pub(super) story: Story,
}

impl<'a> World<'a> {
    pub(super) fn new(case: &'a Case, sabotage: Option<Sabotage>, story: Story) -> World<'a> {
        let mut scheduler = Scheduler::new();
        scheduler.set_supplies(&case.machine.supplies);
        World {
            case,
            scheduler,
            commands: Commands::default(),
            model: Model::new(case),
            sabotage,
            random: Random::new(case.seed ^ 0x5eed),
            now_ns: 0,
            agenda: BinaryHeap::new(),
            n_entered: 0,
            tick: None,
            workers: Vec::new(),
            cores: Cores::new(case.machine.n_cores),
            n_incarnations: 0,
            n_losses_left: case.machine.n_losses_max,
            n_freezes_left: case.machine.n_freezes,
            stages: vec![Stage::NotSubmitted; case.jobs.len()],
            looks: Vec::new(),
            n_mishaps: (case.jobs.iter())
                .map(|job| {
                    vec![
                        0;
                        if job.fates.is_empty() {
                            0
                        } else {
                            job.durations_ns.len()
                        }
                    ]
                })
                .collect(),
            reported: Vec::new(),
            outcome: Outcome::default(),
            story,
        }
    }

    /// Lets everything happen, to the end.
    pub(super) fn run(&mut self) -> Result<(), Fault> {
        for _ in 0..self.case.machine.n_workers {
            self.start_worker(false);
        }
        for (plan, job) in self.case.jobs.iter().enumerate() {
            self.enter(job.submit_ns, What::Submit(plan));
            for &(at_ns, n_more) in &job.pieces {
                self.enter(at_ns, What::Extend(plan, n_more));
            }
            if job.spec.is_open {
                self.enter(job.close_ns, What::Close(plan));
            }
            if let Some((at_ns, grace_ns)) = job.cancel {
                self.enter(at_ns, What::Cancel(plan, grace_ns));
            }
        }
        let mut n_steps_max = 5_000 + 400 * self.case.n_tasks() as u64;
        let has_limit = |job: &JobPlan| job.spec.rules.limit_ns.is_some();
        if self.case.jobs.iter().any(has_limit) {
            // Ticks come as often as workers may be looked at.
            n_steps_max *= 20;
        }
        while let Some(what) = self.next() {
            // A tick had its chance before this.
            let late_ns = self.case.machine.tick_late_ns_max;
            self.model
                .check_overdue(self.now_ns.saturating_sub(late_ns + 1))?;
            self.model
                .check_rest(self.now_ns.saturating_sub(late_ns + 1))?;
            self.happen(what)?;
            // Each look may have taken a tick.
            if self.outcome.n_steps > n_steps_max + 2 * self.outcome.n_looks {
                let task = self.model.unfinished();
                return fault(task, format!("no end after {n_steps_max} steps"));
            }
        }
        self.check_end()
    }

    fn check_end(&self) -> Result<(), Fault> {
        if self.stages.iter().any(|stage| *stage != Stage::Done) {
            return fault(
                self.model.unfinished(),
                "nothing happens any more, and a job has not ended",
            );
        }
        if let Err(what) = self.scheduler.check_empty() {
            return fault(None, format!("after the last job: {what}"));
        }
        Ok(())
    }

    /// The next thing to happen; `None` means a tick is not counted as such a thing only if due.
    fn next(&mut self) -> Option<Option<What>> {
        let next_ns = self.agenda.peek().map(|Reverse(next)| next.at_ns);
        if let Some((at_ns, _)) = self.tick
            && self.sabotage != Some(Sabotage::MissTicks)
            && next_ns.is_none_or(|next_ns| at_ns <= next_ns)
        {
            self.now_ns = self.now_ns.max(at_ns);
            self.tick = None;
            return Some(None);
        }
        let Reverse(next) = self.agenda.pop()?;
        self.now_ns = next.at_ns;
        Some(Some(next.what))
    }

    fn enter(&mut self, at_ns: TimeNs, what: What) {
        self.n_entered += 1;
        let number = self.n_entered;
        self.agenda.push(Reverse(Happening {
            at_ns,
            number,
            what,
        }));
    }

    fn enter_in(&mut self, after_ns: u64, what: What) {
        self.enter(self.now_ns.saturating_add(after_ns), what);
    }

    fn happen(&mut self, what: Option<What>) -> Result<(), Fault> {
        let Some(what) = what else {
            return self.step(Event::Tick);
        };
        match what {
            What::Submit(plan) => self.submit(plan),
            What::Extend(plan, n_more) => match self.stages[plan] {
                Stage::Live(id) => {
                    self.model.extended(id, n_more);
                    self.step(Event::Extend(id, n_more))
                }
                _ => Ok(()),
            },
            What::Close(plan) => match self.stages[plan] {
                Stage::Live(id) => {
                    self.model.closed(id);
                    self.step(Event::Close(id))
                }
                _ => Ok(()),
            },
            What::Cancel(plan, grace_ns) => match self.stages[plan] {
                Stage::Live(job) => {
                    self.story.job(self.now_ns, plan, "is cancelled");
                    self.model.cancelled(job, self.now_ns + grace_ns);
                    self.step(Event::Cancel { job, grace_ns })
                }
                _ => Ok(()),
            },
            What::Up(place) => {
                self.notify(place, Notice::Joined);
                self.plan_loss(place);
                Ok(())
            }
            What::Order(place, order) => {
                self.carry_out(place, order);
                Ok(())
            }
            What::Computed(place) => {
                self.computed(place);
                Ok(())
            }
            What::Flush(place) => {
                self.flush(place);
                Ok(())
            }
            What::Die(place) => {
                self.die(place);
                Ok(())
            }
            What::Freeze(place) => {
                if let Some(worker) = self.alive(place) {
                    worker.is_frozen = true;
                    self.story.worker(self.now_ns, place.id, "stops");
                    self.leave_core(place, false);
                }
                Ok(())
            }
            What::Notice(place, notice) => self.hear(place, notice),
        }
    }

    fn submit(&mut self, plan: usize) -> Result<(), Fault> {
        let id = self.scheduler.new_job_id();
        self.stages[plan] = Stage::Live(id);
        self.story
            .job(self.now_ns, plan, &format!("is submitted as {id:?}"));
        self.model.submitted(id, plan);
        let needs = &self.case.jobs[plan].needs;
        if self.sabotage != Some(Sabotage::MissNeeds) {
            self.scheduler.set_needs(id, needs.clone());
        } else if !needs.is_empty() {
            self.outcome.is_spoilt = true;
        }
        self.step(Event::Submit(id, self.case.jobs[plan].spec.clone()))
    }

    /// Gives the scheduler an event that the model knows of, and checks all that comes of it.
    fn step(&mut self, event: Event<'_>) -> Result<(), Fault> {
        let now_ns = self.now_ns;
        self.outcome.n_steps += 1;
        self.commands.clear();
        self.scheduler.on(event, now_ns, &mut self.commands);
        self.outcome.n_retries += self.model.wake(now_ns) as u64;
        let commands = std::mem::take(&mut self.commands);
        let all = commands
            .iter()
            .flat_map(|command| Act::from(command, &commands));
        let mut acts: Vec<_> = all.collect();
        self.commands = commands;
        self.spoil(&mut acts);
        for act in acts {
            self.model.commanded(&act, now_ns)?;
            self.perform(act)?;
        }
        self.outcome.n_kept_max = self.model.n_kept_max;
        self.outcome.kept_size_max = self.model.kept_size_max;
        self.model.check_told()?;
        self.model.check_overdue(now_ns)?;
        self.model.check_heads(|id| self.scheduler.head(id))?;
        self.model
            .check_needs(|task, worker| self.scheduler.is_kept_waiting(task, worker))?;
        // The whole state is checked after each step, but for cases so large that this would take
        // all the time.
        let n_steps_per_check = match self.case.n_tasks() as u64 {
            ..1000 => 1,
            n_tasks => n_tasks / 200,
        };
        if self.outcome.n_steps.is_multiple_of(n_steps_per_check)
            && let Err(what) = self.scheduler.check()
        {
            return fault(None, what);
        }
        self.check_waiting()?;
        self.check_limits()?;
        self.look()?;
        self.set_tick()?;
        self.feel_pressure()
    }

    /// Answers at once what workers run.
    fn look(&mut self) -> Result<(), Fault> {
        while let Some(id) = self.looks.pop() {
            self.outcome.n_looks += 1;
            let is_hidden = self.random.below(4) < self.case.machine.hides_of_four;
            let running = (self.workers[id.0 as usize].as_ref()).and_then(|worker| worker.running);
            let sight = match running {
                _ if is_hidden => Sight::Hidden,
                Some((task, since_ns)) => Sight::Running(task, since_ns),
                None => Sight::Nothing,
            };
            let what = format!("is looked at: {sight:?}");
            self.story.worker(self.now_ns, id, &what);
            self.model.seen(id, sight, self.now_ns);
            self.step(Event::Seen(id, sight))?;
        }
        Ok(())
    }

    /// No worker goes on with a task that is out of time for longer than it takes to notice.
    fn check_limits(&self) -> Result<(), Fault> {
        let machine = &self.case.machine;
        let pause_ns = 1_000_000;
        let notice_ns = pause_ns + machine.flush_ns + machine.delay_ns.1 + machine.tick_late_ns_max;
        for (at, worker) in self.workers.iter().enumerate() {
            let id = WorkerId(at as u32);
            if self.looks.contains(&id) {
                continue;
            }
            if let Some(worker) = worker
                && worker.is_alive
                && let Some((task, since_ns)) = worker.running
                && let Some(limit_ns) = self.model.limit_at(task, id)
                && since_ns + limit_ns + notice_ns < self.now_ns
            {
                let what = format!("{id:?} runs {task:?} for longer than {limit_ns} ns");
                return fault(Some(task), what);
            }
        }
        Ok(())
    }

    /// Says so when results have begun or ceased to pile up.
    fn feel_pressure(&mut self) -> Result<(), Fault> {
        let Some(pressure_at) = self.case.machine.pressure_at else {
            return Ok(());
        };
        let is_high = match self.model.is_pressed {
            false => self.model.kept_size >= pressure_at,
            true => self.model.kept_size > pressure_at / 2,
        };
        if is_high == self.model.is_pressed {
            return Ok(());
        }
        self.model.is_pressed = is_high;
        self.outcome.n_pressed += u64::from(is_high);
        if is_high && self.sabotage == Some(Sabotage::MissPressure) {
            self.outcome.is_spoilt = true;
            return Ok(());
        }
        self.step(Event::Pressure { is_high })
    }

    fn spoil(&mut self, acts: &mut Vec<Act>) {
        let Some(sabotage) = self.sabotage else {
            return;
        };
        // Not always the first chance, so that all depths of a run are reached.
        if self.outcome.is_spoilt || self.random.one_in(3) {
            return;
        }
        let (model, case) = (&self.model, self.case);
        let row = |task: TaskId, is_input: bool| -> Vec<TaskIndex> {
            let Some(plan) = model.plan(task.job) else {
                return Vec::new();
            };
            let graph = &case.jobs[plan].spec.graph;
            match task.index.as_usize() < graph.n_tasks() {
                true if is_input => graph.dependencies(task.index).to_vec(),
                true => graph.dependents(task.index).to_vec(),
                false => Vec::new(),
            }
        };
        self.outcome.is_spoilt = sabotage.spoil(acts, |t| row(t, true), |t| row(t, false));
    }

    fn check_waiting(&self) -> Result<(), Fault> {
        let machine = &self.case.machine;
        if machine.n_freezes > 0 {
            // A stopped worker gives nothing back, though it may be the only one that was asked.
            return Ok(());
        }
        let silence_ns = 3_000_000;
        let batch_ns = 2_000_000;
        let ask_ns = 2 * machine.delay_ns.1;
        let notice_ns =
            silence_ns + batch_ns + machine.flush_ns + machine.tick_late_ns_max + ask_ns;
        self.model
            .check_waiting(self.now_ns, notice_ns, ask_ns, |id, task| {
                self.workers[id.0 as usize].as_ref().is_some_and(|worker| {
                    worker.is_alive && !worker.is_frozen && worker.queue.contains(&task)
                })
            })
    }

    fn set_tick(&mut self) -> Result<(), Fault> {
        let deadline_ns = self.scheduler.deadline_ns();
        if let Some(at_ns) = deadline_ns
            && at_ns <= self.now_ns
        {
            return fault(None, format!("the deadline {at_ns} ns has passed already"));
        }
        if self.tick.map(|(_, deadline_ns)| deadline_ns) != deadline_ns {
            self.tick = deadline_ns.map(|at_ns| {
                let late_ns = self.random.between(0, self.case.machine.tick_late_ns_max);
                (at_ns.saturating_add(late_ns), at_ns)
            });
        }
        Ok(())
    }

    fn perform(&mut self, act: Act) -> Result<(), Fault> {
        match act {
            Act::Start(id, tasks) => {
                for &task in &tasks {
                    self.tell(task, format_args!("is sent to {id:?}"));
                }
                self.send(id, Order::Start(tasks));
            }
            Act::TakeBack(id, tasks) => {
                self.outcome.n_taken_back += tasks.len() as u64;
                for &task in &tasks {
                    self.tell(task, format_args!("is asked back from {id:?}"));
                }
                self.send(id, Order::TakeBack(tasks));
            }
            Act::Look(id) => self.looks.push(id),
            Act::Kill(id) => {
                self.outcome.n_out_of_time += u64::from(self.model.is_out_of_time(id));
                self.story.worker(self.now_ns, id, "is to be ended");
                let (low, high) = self.case.machine.kill_ns;
                let after_ns = self.random.between(low, high);
                if let Some(place) = self.place(id) {
                    self.enter_in(after_ns, What::Die(place));
                }
            }
            Act::Deliver(task) => {
                self.outcome.n_delivered += 1;
                self.tell(task, format_args!("is delivered"));
            }
            Act::Release(task) => self.tell(task, format_args!("is released")),
            Act::Fail(task, _) => {
                self.outcome.n_failed += 1;
                self.tell(task, format_args!("is reported as failed"));
                let stage = Stage::Live(task.job);
                let plan = self.stages.iter().position(|s| *s == stage);
                // As executors do: what does not end by itself would keep the job for ever.
                if let Some(plan) = plan
                    && self.case.jobs[plan].spec.rules.limit_ns.is_some()
                {
                    self.enter_in(0, What::Cancel(plan, 1_000_000));
                }
            }
            Act::Lose(task, how) => {
                self.outcome.n_failed += 1;
                self.tell(task, format_args!("is lost: {how:?}"));
            }
            Act::DeliverLoss(task, culprit) => {
                self.outcome.n_lost += 1;
                self.tell(task, format_args!("will not come, because of {culprit:?}"));
            }
            Act::JobDone(id) => return self.job_done(id),
        }
        Ok(())
    }

    fn job_done(&mut self, id: JobId) -> Result<(), Fault> {
        let stage = Stage::Live(id);
        let Some(plan) = self.stages.iter().position(|s| *s == stage) else {
            return fault(None, format!("{id:?} ends and was not there"));
        };
        let is_of_job = |task: TaskId| task.job == id;
        for worker in self.workers.iter().flatten() {
            if worker.is_alive && worker.has(is_of_job) {
                return fault(None, format!("{id:?} ends while a worker has a task of it"));
            }
        }
        for Reverse(happening) in &self.agenda {
            if let What::Order(place, Order::Start(tasks)) = &happening.what
                && self.place(place.id) == Some(*place)
                && tasks.iter().any(|&task| is_of_job(task))
            {
                return fault(
                    None,
                    format!("{id:?} ends while a task of it is on its way"),
                );
            }
        }
        self.story.job(self.now_ns, plan, "is done");
        self.stages[plan] = Stage::Done;
        self.outcome.makespan_ns = self.outcome.makespan_ns.max(self.now_ns);
        Ok(())
    }

    fn tell(&mut self, task: TaskId, what: fmt::Arguments<'_>) {
        if self.story.is_told() {
            let plan = self.model.plan(task.job);
            let live = || self.stages.iter().position(|s| *s == Stage::Live(task.job));
            self.story
                .task(self.now_ns, plan.or_else(live), task, &what.to_string());
        }
    }

    // The workers' side.

    fn place(&self, id: WorkerId) -> Option<Place> {
        let worker = self.workers.get(id.0 as usize)?.as_ref()?;
        let incarnation = worker.incarnation;
        Some(Place { id, incarnation })
    }

    /// The worker, if it is still the one that was meant and alive.
    fn alive(&mut self, place: Place) -> Option<&mut Worker> {
        let worker = self.workers[place.id.0 as usize].as_mut()?;
        (worker.incarnation == place.incarnation && worker.is_alive).then_some(worker)
    }

    fn start_worker(&mut self, is_replacement: bool) {
        let free = self.workers.iter().position(Option::is_none);
        let at = match free {
            Some(at) if self.random.one_in(2) => at,
            _ => self.workers.len(),
        };
        if at == self.workers.len() {
            self.workers.push(None);
        }
        self.n_incarnations += 1;
        self.workers[at] = Some(Worker::new(self.n_incarnations));
        let place = Place {
            id: WorkerId(at as u32),
            incarnation: self.n_incarnations,
        };
        let (low, mut high) = self.case.machine.startup_ns;
        if is_replacement {
            high = high.max(2_000_000);
        }
        let after_ns = self.random.between(low, high);
        self.enter_in(after_ns, What::Up(place));
    }

    fn plan_loss(&mut self, place: Place) {
        if self.n_losses_left > 0 {
            let after_ns = self.random.exponential(self.case.machine.mean_life_ns);
            self.enter_in(after_ns, What::Die(place));
            self.n_losses_left -= 1;
        }
        if self.n_freezes_left > 0 {
            let after_ns = self.random.exponential(self.case.machine.mean_life_ns);
            self.enter_in(after_ns, What::Freeze(place));
            self.n_freezes_left -= 1;
        }
    }

    /// The worker, if it is alive and goes on.
    fn going(&mut self, place: Place) -> Option<&mut Worker> {
        self.alive(place).filter(|worker| !worker.is_frozen)
    }

    fn delay_ns(&mut self) -> u64 {
        let (low, high) = self.case.machine.delay_ns;
        self.random.between(low, high)
    }

    fn send(&mut self, id: WorkerId, order: Order) {
        let delay_ns = self.delay_ns();
        let now_ns = self.now_ns;
        let Some(place) = self.place(id) else { return };
        if let Some(worker) = self.alive(place) {
            worker.inbound_ns = worker.inbound_ns.max(now_ns + delay_ns);
            let at_ns = worker.inbound_ns;
            self.enter(at_ns, What::Order(place, order));
        }
    }

    fn notify(&mut self, place: Place, notice: Notice) {
        let delay_ns = self.delay_ns();
        let now_ns = self.now_ns;
        if let Some(worker) = &mut self.workers[place.id.0 as usize] {
            worker.outbound_ns = worker.outbound_ns.max(now_ns + delay_ns);
            let at_ns = worker.outbound_ns;
            self.enter(at_ns, What::Notice(place, notice));
        }
    }

    fn carry_out(&mut self, place: Place, order: Order) {
        let Some(worker) = self.going(place) else {
            return;
        };
        match order {
            Order::Start(tasks) => {
                worker.queue.extend(tasks);
                self.begin_next(place);
                self.note_behind(place);
            }
            Order::TakeBack(tasks) => {
                let returned = worker.give_back(&tasks);
                for &task in &returned {
                    self.tell(task, format_args!("is given back by {:?}", place.id));
                }
                self.notify(place, Notice::TakenBack(returned));
            }
        }
    }

    /// Takes note of how much work waits behind a worker's task.
    fn note_behind(&mut self, place: Place) {
        let case = self.case;
        let Some(Some(worker)) = self.workers.get(place.id.0 as usize) else {
            return;
        };
        let plan = |job| self.stages.iter().position(|s| *s == Stage::Live(job));
        let duration_ns = |task: &TaskId| {
            let job = plan(task.job).map(|plan| &case.jobs[plan]);
            job.map_or(0, |job| job.durations_ns[task.index.as_usize()])
        };
        let behind_ns = worker.queue.iter().map(duration_ns).sum();
        self.outcome.behind_ns_max = self.outcome.behind_ns_max.max(behind_ns);
    }

    fn begin_next(&mut self, place: Place) {
        let case = self.case;
        let Some(worker) = self.alive(place) else {
            return;
        };
        if worker.running.is_some() {
            return;
        }
        let Some(task) = worker.queue.pop_front() else {
            return;
        };
        let stage = Stage::Live(task.job);
        let Some(plan) = self.stages.iter().position(|s| *s == stage) else {
            unreachable!("a job does not end while a worker has a task of it");
        };
        let job = &case.jobs[plan];
        let now_ns = self.now_ns;
        let is_hanging = match job.fate(task.index) {
            Fate::Hangs(n_times) => self.has_mishap(plan, task.index, n_times),
            _ => false,
        };
        if let Some(worker) = self.alive(place) {
            worker.left_ns = job.durations_ns[task.index.as_usize()];
            if worker.is_first_call(job.kind(task.index)) {
                worker.left_ns += job.first_call_ns;
            }
            worker.running = Some((task, now_ns));
        }
        self.tell(task, format_args!("starts at {:?}", place.id));
        // What hangs computes nothing, and nothing more happens there by itself.
        if !is_hanging {
            self.compute(place);
        }
    }

    /// A worker has a task to compute, and goes on as soon as a processor is free.
    fn compute(&mut self, place: Place) {
        let now_ns = self.now_ns;
        let Some(until_ns) = self.cores.want(place, now_ns) else {
            return;
        };
        if let Some(worker) = self.alive(place) {
            let at_ns = now_ns.saturating_add(worker.left_ns).min(until_ns);
            self.enter(at_ns, What::Computed(place));
        }
    }

    /// A worker is at the end of its task, or of its turn.
    fn computed(&mut self, place: Place) {
        let now_ns = self.now_ns;
        let since_ns = self.going(place).and_then(|worker| worker.running);
        let Some((_, since_ns)) = since_ns else {
            return;
        };
        let computed_ns = self.cores.computed_ns(place, since_ns, now_ns);
        let Some(worker) = self.alive(place) else {
            return;
        };
        worker.left_ns = worker.left_ns.saturating_sub(computed_ns);
        if worker.left_ns == 0 {
            self.end_task(place);
        } else {
            self.leave_core(place, true);
        }
    }

    /// Gives a worker's processor to the next.
    fn leave_core(&mut self, place: Place, is_waiting_again: bool) {
        let mut left = Some((place, is_waiting_again));
        while let Some((place, is_waiting_again)) = left.take() {
            let Some(next) = self.cores.leave(place, is_waiting_again) else {
                return;
            };
            let is_there = self
                .alive(next)
                .is_some_and(|worker| worker.running.is_some());
            self.compute(next);
            if !is_there {
                left = Some((next, false));
            }
        }
    }

    fn end_task(&mut self, place: Place) {
        let case = self.case;
        let Some(worker) = self.alive(place) else {
            return;
        };
        let Some((task, since_ns)) = worker.running else {
            return;
        };
        // What a worker measures is the time that has passed, turns of others included.
        let duration_ns = self.now_ns - since_ns;
        let stage = Stage::Live(task.job);
        let plan = self.stages.iter().position(|s| *s == stage);
        let fate = plan.map_or(Fate::Returns, |plan| case.jobs[plan].fate(task.index));
        let is_mishap = match (fate, plan) {
            (Fate::KillsWorker(n_times) | Fate::FailsAtFirst(n_times), Some(plan)) => {
                self.has_mishap(plan, task.index, n_times)
            }
            (Fate::Fails | Fate::Exits, _) => true,
            _ => false,
        };
        let ending = match fate {
            _ if !is_mishap => Ending::Returned,
            Fate::KillsWorker(_) => {
                self.die(place);
                return;
            }
            Fate::FailsAtFirst(_) => Ending::Retriable,
            Fate::Exits => Ending::Fatal,
            Fate::Fails | Fate::Returns | Fate::Hangs(_) => Ending::Failed,
        };
        self.outcome.n_tasks_run += 1;
        self.outcome.busy_ns += duration_ns;
        self.tell(task, format_args!("ends at {:?}", place.id));
        let Some(worker) = self.alive(place) else {
            return;
        };
        worker.running = None;
        Report::one(task, duration_ns, ending).push_to(&mut worker.unreported);
        let is_idle = worker.queue.is_empty();
        if is_idle || case.machine.flush_ns == 0 {
            self.flush(place);
        } else if !worker.is_flush_due {
            worker.is_flush_due = true;
            self.enter_in(case.machine.flush_ns, What::Flush(place));
        }
        self.begin_next(place);
        if self
            .alive(place)
            .is_some_and(|worker| worker.running.is_none())
        {
            self.leave_core(place, false);
        }
    }

    /// Whether something happens to a task once more that happens the first so many times.
    fn has_mishap(&mut self, plan: usize, task: TaskIndex, n_times: u8) -> bool {
        let n_mishaps = &mut self.n_mishaps[plan][task.as_usize()];
        let is_due = *n_mishaps < n_times;
        *n_mishaps = n_mishaps.saturating_add(u8::from(is_due));
        is_due
    }

    fn flush(&mut self, place: Place) {
        let Some(worker) = self.going(place) else {
            return;
        };
        worker.is_flush_due = false;
        let reports = std::mem::take(&mut worker.unreported);
        if !reports.is_empty() {
            self.notify(place, Notice::Finished(reports));
        }
    }

    fn die(&mut self, place: Place) {
        if self.stages.iter().all(|stage| *stage == Stage::Done) {
            return;
        }
        let knows_running = self.random.below(4) < self.case.machine.knows_running_of_four;
        let was_memory_short = self.random.one_in(3);
        let Some(worker) = self.alive(place) else {
            return;
        };
        worker.is_alive = false;
        let running = worker.running.map(|(task, _)| task);
        self.outcome.n_losses += 1;
        let what = format!("dies running {running:?}");
        self.story.worker(self.now_ns, place.id, &what);
        self.leave_core(place, false);
        let running = running.filter(|_| knows_running);
        self.notify(place, Notice::Lost(running, was_memory_short));
    }

    fn hear(&mut self, place: Place, notice: Notice) -> Result<(), Fault> {
        let (id, now_ns) = (place.id, self.now_ns);
        match notice {
            Notice::Joined => {
                self.story.worker(now_ns, id, "joins");
                self.model.joined(id, now_ns);
                self.step(Event::WorkerJoined(id))
            }
            Notice::Finished(reports) => {
                for task in reports.iter().flat_map(|report| report.tasks.tasks()) {
                    self.tell(task, format_args!("is reported by {id:?}"));
                }
                self.model.finished(id, &reports, now_ns);
                self.step(Event::Finished(id, &reports))?;
                self.stray_report(id, &reports)
            }
            Notice::TakenBack(tasks) => {
                self.model.taken_back(id, &tasks, now_ns);
                self.step(Event::TakenBack(id, &tasks))
            }
            Notice::Lost(running, was_memory_short) => {
                let what = format!("is known to be lost, running {running:?} as far as known");
                self.story.worker(now_ns, id, &what);
                self.workers[id.0 as usize] = None;
                let is_last = !self.workers.iter().flatten().any(|worker| worker.is_alive);
                if is_last || self.random.below(4) < self.case.machine.replaces_of_four {
                    self.start_worker(true);
                }
                (self.model).lost(id, running, was_memory_short, now_ns);
                self.step(Event::WorkerLost {
                    worker: id,
                    running,
                    was_memory_short,
                })
            }
        }
    }

    /// Perhaps an old report turns up again, for a task that its worker does not hold.
    fn stray_report(&mut self, id: WorkerId, reports: &[Report]) -> Result<(), Fault> {
        let one_in = self.case.machine.stray_report_one_in;
        if one_in == 0 {
            return Ok(());
        }
        self.reported
            .extend(reports.iter().map(|report| (id, *report)));
        if !self.random.one_in(one_in) {
            return Ok(());
        }
        let (id, report) = self.reported[self.random.index(self.reported.len())];
        let mut tasks = report.tasks.tasks();
        if tasks.any(|task| self.model.is_held_by(task, id)) {
            return Ok(());
        }
        self.model.finished(id, &[report], self.now_ns);
        self.step(Event::Finished(id, &[report]))
    }
}
