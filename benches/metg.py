"""The smallest task at which half of the time is useful work (METG 50 %), found by halving.

Efficiency is the work of all tasks, by a calibrated loop, divided by what the workers could have done meanwhile. The
name is that of Task Bench (Slaughter et al., 2020): minimum effective task granularity.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

N_TASKS_MAX = 200_000
EFFICIENCY = 0.5
STEP = 4.0
N_HALVINGS = 5
SMALLEST_S = 1e-7


@dataclass(frozen=True)
class Found:
    """Between which two durations of a task the efficiency crosses one half."""

    too_small_s: float
    """The largest task tried that was too small; 0 where none was."""
    enough_s: float
    """The smallest task tried that was large enough; infinite where none was."""


def smallest_task(
    run: Callable[[int, int], object],
    *,
    turn_s: float,
    n_workers: int,
    first_s: float,
    work_s: float,
    n_runs: int,
    limit_s: float,
) -> Found:
    """Search from tasks of `first_s` downwards; `run(n_tasks, n_turns)` runs so many tasks of so many turns.

    Each run holds about `work_s` of work for each worker. When `limit_s` is over, what has been found so far counts.
    """
    end = time.perf_counter() + limit_s

    def is_enough(task_s: float) -> bool:
        n_turns = max(1, round(task_s / turn_s))
        n_tasks = min(N_TASKS_MAX, max(8 * n_workers, round(n_workers * work_s / task_s)))
        runs_s = []
        for _ in range(n_runs):
            begin = time.perf_counter()
            run(n_tasks, n_turns)
            runs_s.append(time.perf_counter() - begin)
            if time.perf_counter() > end:
                break
        return n_tasks * n_turns * turn_s >= EFFICIENCY * n_workers * statistics.median(runs_s)

    run(8 * n_workers, 1)
    too_small_s, enough_s, task_s = 0.0, math.inf, first_s
    while time.perf_counter() < end and task_s >= SMALLEST_S:
        if not is_enough(task_s):
            too_small_s = task_s
            break
        enough_s = task_s
        task_s /= STEP
    if too_small_s and math.isfinite(enough_s):
        for _ in range(N_HALVINGS):
            if time.perf_counter() > end:
                break
            middle_s = math.sqrt(too_small_s * enough_s)
            if is_enough(middle_s):
                enough_s = middle_s
            else:
                too_small_s = middle_s
    return Found(too_small_s, enough_s)
