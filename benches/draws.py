"""Random numbers on threads: what streams of one's own gain over the one global generator, whose lock all share.

Tasks draw gammas, normals and uniforms, serially and then on two threads; with the task's own generator (``rng``), and
through ``numpy.random``'s functions, on this engine and on the standard library's threads. Run it on an idle machine
with two cores at least::

    python -m benches.draws            # 10^8 numbers of each kind
    python -m benches.draws --quick    # a size that says nothing about speed

Each task draws in blocks, so that memory does not count. The gammas alone take about six tenths of the time of all:
with one task for each kind, two threads can do no better than that, whoever runs them. So each kind is also drawn by
four tasks, with a generator each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

import manyhands as mh

BLOCK = 100_000
N = 10**8
KINDS = ("gamma", "standard_normal", "random")
MEANS = {"gamma": 2.0, "standard_normal": 0.0, "random": 0.5}
REACH = 0.6
"""The time on two threads is to be at most so much of the serial one."""


def draw(source: Any, kind: str, n: int) -> float:
    """Draw so many numbers of a kind; their mean."""
    total, n_blocks = 0.0, max(1, n // BLOCK)
    size = min(n, BLOCK)
    for _ in range(n_blocks):
        block = source.gamma(2.0, 1.0, size) if kind == "gamma" else getattr(source, kind)(size)
        total += float(block.sum())
    return total / (n_blocks * size)


def with_rng(kind: str, n: int, rng: np.random.Generator) -> float:
    """A task that draws from its own stream."""
    return draw(rng, kind, n)


def with_global_state(kind: str, n: int) -> float:
    """A task that draws from the one generator of the process."""
    return draw(np.random, kind, n)


def _by_manyhands(function: Callable[..., float], kinds: list[str], n: int, *, is_parallel: bool) -> list[float]:
    seed, scheduler = 1 if function is with_rng else None, "threads" if is_parallel else "synchronous"
    with mh.config.set(random_misuse="ignore"):
        return mh.map(function, kinds, [n] * len(kinds), scheduler=scheduler, num_workers=2, seed=seed)


def _by_futures(function: Callable[..., float], kinds: list[str], n: int, *, is_parallel: bool) -> list[float]:
    if not is_parallel:
        return [function(kind, n) for kind in kinds]
    with ThreadPoolExecutor(2) as executor:
        return list(executor.map(function, kinds, [n] * len(kinds)))


@dataclass(frozen=True)
class Source:
    """Who runs the tasks, what they draw from, and how many of them draw the numbers of one kind."""

    run: Callable[..., list[float]]
    function: Callable[..., float]
    n_parts: int
    n_turns: int
    reach: float | None = None


SOURCES = {
    "manyhands threads, a generator for each task": Source(_by_manyhands, with_rng, 4, 3, REACH),
    "manyhands threads, a generator for each kind": Source(_by_manyhands, with_rng, 1, 3, REACH),
    "manyhands threads, the global generator": Source(_by_manyhands, with_global_state, 4, 2),
    "concurrent.futures threads, the global generator": Source(_by_futures, with_global_state, 4, 2),
}


@dataclass(frozen=True)
class Draws:
    """Medians of the time that all took."""

    serial_s: float
    threads_s: float


def measure_source(source: Source, n: int, n_turns: int) -> Draws:
    """Measure one way to draw n numbers of each kind, serially and on threads by turns; the means are checked."""
    times: dict[bool, list[float]] = {False: [], True: []}
    kinds = [kind for kind in KINDS for _ in range(source.n_parts)]
    n_each = max(BLOCK, n // source.n_parts)
    source.run(source.function, kinds, BLOCK, is_parallel=True)
    for _ in range(n_turns):
        for is_parallel, taken in times.items():
            begun = time.perf_counter()
            means = source.run(source.function, kinds, n_each, is_parallel=is_parallel)
            taken.append(time.perf_counter() - begun)
            # Several standard errors of what has the largest variance.
            if any(abs(mean - MEANS[kind]) > 10 / n_each**0.5 for kind, mean in zip(kinds, means)):
                raise AssertionError(f"the means of {kinds} are {means}")
    return Draws(statistics.median(times[False]), statistics.median(times[True]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a size that says nothing about speed")
    parser.add_argument("-n", type=int, default=N, help="how many numbers each task draws")
    options = parser.parse_args()
    n = 10 * BLOCK if options.quick else options.n
    for name, source in SOURCES.items():
        found = measure_source(source, n, 1 if options.quick else source.n_turns)
        ratio = found.threads_s / found.serial_s
        print(
            f"{name}: {found.serial_s:.2f} s serially, {found.threads_s:.2f} s on 2 threads: {ratio:.2f} times as long"
        )


if __name__ == "__main__":
    main()
