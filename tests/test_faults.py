"""Random faults in random workers at random moments: every run ends, with the right results or the right error.

Only runs count in which a signal was sent to a worker of the run's own while the call was under way; one that ended
before that is looked at all the same, and another seed takes its place.

``N_FAULTS=5000`` tries so many, rather than those of a usual run; ``FAULTS_FROM=1234`` begins with that seed, which a
failure names.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from scripts import children, is_alive

import manyhands as mh
from manyhands import _pools

N_FAULTS = int(os.environ.get("N_FAULTS", "500"))
FIRST_SEED = int(os.environ.get("FAULTS_FROM", "0"))
N_PORTIONS = 20
N_EACH = -(-N_FAULTS // N_PORTIONS)

#: No run takes a second where there is nothing else to do.
RUN_LIMIT_S = 120.0

#: Graphs take some 20 ms.
LAST_STRIKE_S = 0.02

DEADLY = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]

#: Enough for a buffer to travel through shared memory, and more than one page of it.
N_LARGE = 20_000


@mh.delayed
def combined(number, pause_s, is_large, *inputs):
    """A number that depends on all before it, as itself or as an array full of it."""
    time.sleep(pause_s)
    assert is_whole(inputs), "a result has been spoilt"
    total = float(combination(number, as_numbers(inputs)))
    for value in inputs:
        if np.ndim(value):
            value += 1  # nobody else may see this
    return np.full(N_LARGE, total) if is_large else total


def combination(number, inputs):
    return (number + sum(place * value for place, value in enumerate(inputs, 1))) % 1_000_003


def as_numbers(results):
    return [float(np.ravel(result)[0]) for result in results]


def is_whole(results):
    return all(np.ndim(result) == 0 or (result == result[0]).all() for result in results)


def random_graph(chance):
    """Tasks that need any of those before them; gives those that nothing needs, and what they should come to."""
    tasks, values, needed = [], [], set()
    for number in range(chance.randint(4, 30)):
        inputs = chance.sample(range(number), min(number, chance.choice([0, 1, 1, 2, 3])))
        needed.update(inputs)
        pause_s = chance.choice([0, 0, 0.001, 0.005])
        tasks.append(combined(number, pause_s, chance.random() < 0.3, *[tasks[at] for at in inputs]))
        values.append(combination(number, [values[at] for at in inputs]))
    roots = [number for number in range(len(tasks)) if number not in needed]
    return [tasks[at] for at in roots], [values[at] for at in roots]


class Assassin:
    """Sends signals to random workers of one call at random moments, until it ends."""

    def __init__(self, chance, scheduler, numbers):
        self._plan = [(chance.uniform(0, LAST_STRIKE_S), chance.random(), number) for number in numbers]
        self._scheduler = scheduler
        # Those of other pools, which are idle; the workers of a call on `fork` are its own.
        self._others = children(os.getpid())
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._strike)
        self.n_struck = 0

    def _workers(self):
        if self._scheduler == "fork":
            pids = children(os.getpid()) - self._others
        else:
            pids = _pools._processes.worker_pids() if _pools._processes is not None else ()
        return sorted(filter(is_alive, pids))

    def _strike(self):
        for pause_s, at, number in self._plan:
            if self._is_over.wait(pause_s):
                return
            while not (workers := self._workers()):
                if self._is_over.wait(0.001):
                    return
            try:
                os.kill(workers[int(at * len(workers))], number)
            except ProcessLookupError:
                continue
            self.n_struck += not self._is_over.is_set()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._is_over.set()
        self._thread.join()


@contextmanager
def limited(seed, scheduler):
    """Fail, and name the seed, when a run takes too long."""

    def fail(*_args):
        pytest.fail(f"seed {seed} on {scheduler} has not ended after {RUN_LIMIT_S} s")

    before = signal.signal(signal.SIGUSR1, fail)
    alarm = (threading.main_thread().ident, signal.SIGUSR1)
    timer = threading.Timer(RUN_LIMIT_S, signal.pthread_kill, alarm)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def try_one(seed, scheduler, draw_signals, **options):
    """Run one random graph through faults; gives whether any met it, and the error that it ended with, if any."""
    chance = random.Random(seed)
    roots, expected = random_graph(chance)
    error = found = None
    with limited(seed, scheduler), Assassin(chance, scheduler, draw_signals(chance)) as assassin:
        try:
            (found,) = mh.compute(roots, scheduler=scheduler, num_workers=2, **options)
        except Exception as raised:
            error = raised
    if error is None:
        assert is_whole(found), seed
        assert as_numbers(found) == expected, seed
    return assassin.n_struck > 0, error


def until_struck(n_wanted, first, try_seed):
    """Try seed after seed until so many runs were met by a fault."""
    n_struck = n_tried = 0
    for seed in itertools.count(first):
        n_struck += try_seed(seed)
        n_tried += 1
        if n_struck >= n_wanted:
            break
        assert n_tried < 20 + 4 * n_wanted, (
            f"only {n_struck} of {n_tried} runs from seed {first} on were met by a fault"
        )
    assert n_struck == n_wanted


def first_seed(portion):
    """Where a portion begins; far enough from the next for the seeds that stand in for others."""
    return FIRST_SEED + portion * 10 * N_EACH


def scheduler_for(seed):
    return ["processes", "processes", "fork"][seed % 3]


@pytest.mark.parametrize("portion", range(N_PORTIONS // 2))
def test_a_worker_that_ends_at_any_moment_changes_no_result(portion):
    """One death may meet any task, which is then run once more."""

    def try_seed(seed):
        was_struck, error = try_one(seed, scheduler_for(seed), lambda chance: [chance.choice(DEADLY)])
        assert error is None, (seed, error)
        return was_struck

    until_struck(N_EACH, first_seed(portion), try_seed)


@pytest.mark.parametrize("portion", range(N_PORTIONS // 2, N_PORTIONS))
def test_workers_that_end_all_the_time_leave_right_results_or_the_right_error(portion):
    """A task whose worker died twice is not tried again; nor is a worker started after some that never were ready."""

    def try_seed(seed):
        was_struck, error = try_one(
            seed, scheduler_for(seed), lambda chance: chance.choices(DEADLY, k=chance.randint(2, 6))
        )
        if isinstance(error, mh.WorkerDied):
            assert "combined" in str(error), (seed, error)
        elif error is not None:
            # On a machine so busy that workers take long to start, three crashes may meet three of these.
            assert "worker processes in a row ended before they could take tasks" in str(error), (seed, error)
        return was_struck

    until_struck(N_EACH, first_seed(portion), try_seed)


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_workers_that_stop_at_any_moment_leave_right_results_where_there_is_a_limit(scheduler):
    """Amid a task, between two of them, while idle: they say nothing, and never end."""
    # A worker that takes the place of another imports this module in its first task: that takes long on a busy machine.
    limit_s = 1.0 if scheduler == "fork" else 5.0

    def try_seed(seed):
        was_struck, error = try_one(
            seed,
            scheduler,
            lambda chance: [signal.SIGSTOP] * chance.randint(1, 2),
            timeout=limit_s,
            retries=5,
            retry_delay=0,
        )
        assert error is None, (seed, error)
        return was_struck

    try:
        until_struck(max(2, N_FAULTS // 50), FIRST_SEED, try_seed)
    finally:
        # Those that stopped when all was done would keep calls without a limit waiting for ever.
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
