"""Random numbers on threads: what streams of one's own gain over the one global generator, whose lock all share.

Three tasks draw normals, gammas and uniforms. Serially, then on two threads; with the task's own generator (``rng``),
then through ``numpy.random``'s functions. Run it on an idle machine with two cores at least::

    python -m benches.draws            # 10^8 numbers of each kind: 800 MB for each task
    python -m benches.draws --quick    # a size that says nothing about speed

Each task draws in blocks, so that memory does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import manyhands as mh

BLOCK = 100_000
KINDS = ("standard_normal", "gamma", "random")


def draw(source: Any, kind: str, n: int) -> float:
    """Draw so many numbers of a kind; their mean."""
    total = 0.0
    for _ in range(max(1, n // BLOCK)):
        size = min(n, BLOCK)
        block = source.gamma(2.0, 1.0, size) if kind == "gamma" else getattr(source, kind)(size)
        total += float(block.sum())
    return total / n


def with_rng(kind: str, n: int, rng: np.random.Generator) -> float:
    """A task that draws from its own stream."""
    return draw(rng, kind, n)


def with_global_state(kind: str, n: int) -> float:
    """A task that draws from the one generator of the process."""
    return draw(np.random, kind, n)


def seconds(function: Any, n: int, scheduler: str, n_turns: int) -> float:
    """The median time of the three tasks."""
    seed = 1 if function is with_rng else None
    times = []
    for _ in range(n_turns):
        begun = time.perf_counter()
        with mh.config.set(random_misuse="ignore"):
            mh.map(function, KINDS, [n] * len(KINDS), scheduler=scheduler, num_workers=2, seed=seed)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a size that says nothing about speed")
    parser.add_argument("-n", type=int, default=10**8, help="how many numbers each task draws")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured")
    options = parser.parse_args()
    n = 10 * BLOCK if options.quick else options.n
    n_turns = 1 if options.quick else options.turns
    for function, name in [(with_rng, "a generator for each task"), (with_global_state, "the global generator")]:
        serial = seconds(function, n, "synchronous", n_turns)
        threads = seconds(function, n, "threads", n_turns)
        print(f"{name}: {serial:.2f} s serially, {threads:.2f} s on 2 threads: {threads / serial:.2f} times as long")


if __name__ == "__main__":
    main()
