"""Random faults in random workers at random moments: every run ends, with the right results or the right error.

``N_FAULTS=5000`` tries so many, rather than those of a usual run; ``FAULTS_FROM=1234`` begins with that seed, which a
failure names.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
from scripts import children

import manyhands as mh

N_FAULTS = int(os.environ.get("N_FAULTS", "500"))
FIRST_SEED = int(os.environ.get("FAULTS_FROM", "0"))
N_PORTIONS = 20

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
    """Sends signals to random workers at random moments while a block runs."""

    def __init__(self, chance, numbers):
        self._plan = [(chance.uniform(0, 0.06), chance.random(), number) for number in numbers]
        self._thread = threading.Thread(target=self._strike)

    def _strike(self):
        for pause_s, at, number in self._plan:
            time.sleep(pause_s)
            workers = sorted(children(os.getpid()))
            if workers:
                try:
                    os.kill(workers[int(at * len(workers))], number)
                except ProcessLookupError:
                    pass

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_exc):
        self._thread.join()


def try_one(seed, scheduler, draw_signals, **options):
    """Run one random graph through faults; gives the error that it ended with, if any."""
    chance = random.Random(seed)
    roots, expected = random_graph(chance)
    with Assassin(chance, draw_signals(chance)):
        try:
            (found,) = mh.compute(roots, scheduler=scheduler, num_workers=2, **options)
        except Exception as error:
            return error
    assert is_whole(found), seed
    assert as_numbers(found) == expected, seed
    return None


def seeds(portion):
    n_each = -(-N_FAULTS // N_PORTIONS)
    return range(FIRST_SEED + portion * n_each, FIRST_SEED + (portion + 1) * n_each)


def scheduler_for(seed):
    return ["processes", "processes", "fork"][seed % 3]


@pytest.mark.parametrize("portion", range(N_PORTIONS // 2))
def test_a_worker_that_ends_at_any_moment_changes_no_result(portion):
    """One death may meet any task, which is then run once more."""
    for seed in seeds(portion):
        error = try_one(seed, scheduler_for(seed), lambda chance: [chance.choice(DEADLY)])
        assert error is None, (seed, error)


@pytest.mark.parametrize("portion", range(N_PORTIONS // 2, N_PORTIONS))
def test_workers_that_end_all_the_time_leave_right_results_or_the_right_error(portion):
    """A task whose worker died twice is not tried again; nor is a worker started after some that never were ready."""
    for seed in seeds(portion):
        error = try_one(seed, scheduler_for(seed), lambda chance: chance.choices(DEADLY, k=chance.randint(2, 6)))
        if isinstance(error, mh.WorkerDied):
            assert "combined" in str(error), (seed, error)
        elif error is not None:
            # On a machine so busy that workers take long to start, three crashes may meet three of these.
            assert "worker processes in a row ended before they could take tasks" in str(error), (seed, error)


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_workers_that_stop_at_any_moment_leave_right_results_where_there_is_a_limit(scheduler):
    """Amid a task, between two of them, while idle: they say nothing, and never end."""
    try:
        for seed in range(FIRST_SEED, FIRST_SEED + max(2, N_FAULTS // 50)):
            error = try_one(
                seed,
                scheduler,
                lambda chance: [signal.SIGSTOP] * chance.randint(1, 2),
                timeout=1.0,
                retries=5,
                retry_delay=0,
            )
            assert error is None, (seed, error)
    finally:
        # Those that stopped when all was done would keep calls without a limit waiting for ever.
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
