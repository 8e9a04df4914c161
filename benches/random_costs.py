"""What random numbers cost a task that draws none: to be watched, to have a seed, to be given a generator.

Maps of no-ops, by turns; what is told is the difference for each task::

    python -m benches.random_costs            # 100 000 no-ops each
    python -m benches.random_costs --quick    # a size that says nothing about speed
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from typing import Any

import numpy as np

import manyhands as mh


def noop(_: Any) -> None:
    """Do nothing."""


def noop_with_rng(_: Any, rng: np.random.Generator) -> None:
    """Do nothing with a generator."""


# What is compared with the first: the function, and what the call is given.
CASES = {
    "not watched": (noop, "ignore", None),
    "watched": (noop, "warn", None),
    "with a seed": (noop, "warn", 1),
    "with a seed and `rng`": (noop_with_rng, "warn", 1),
}


def us_per_task(case: str, n_tasks: int, scheduler: str) -> float:
    """How long a task takes in this case."""
    function, on_misuse, seed = CASES[case]
    with mh.config.set(random_misuse=on_misuse, scheduler=scheduler, num_workers=2):
        begun = time.perf_counter()
        mh.map(function, range(n_tasks), seed=seed)
        return 1e6 * (time.perf_counter() - begun) / n_tasks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a size that says nothing about speed")
    parser.add_argument("--rounds", type=int, default=11, help="how often each is measured, all by turns")
    options = parser.parse_args()
    n_tasks, n_rounds = (500, 2) if options.quick else (100_000, options.rounds)
    # Both generators are there to be watched.
    random.random(), np.random.random()
    print(f"Python {sys.version.split()[0]}, {mh.cpu_count()} CPUs, 2 workers, {n_rounds} rounds of {n_tasks} no-ops")
    for scheduler in ("processes", "fork", "threads", "synchronous"):
        times: dict[str, list[float]] = {case: [] for case in CASES}
        for number in range(n_rounds + 1):
            for case in CASES:
                taken = us_per_task(case, n_tasks, scheduler)
                if number > 0:
                    times[case].append(taken)
        base = times["not watched"]
        for case, taken_each in times.items():
            more = [taken - without for taken, without in zip(taken_each, base, strict=True)]
            print(
                f"{scheduler}, {case}: {statistics.median(taken_each):.3f} µs a task, "
                f"{statistics.median(more):+.3f} µs more than not watched",
                flush=True,
            )


if __name__ == "__main__":
    main()
