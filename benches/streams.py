"""What a million streams of random numbers cost: to have, to draw from in tasks, to make by hand.

::

    python -m benches.streams            # a million streams
    python -m benches.streams --quick    # a size that says nothing about speed

The floor for a list of NumPy's generators is what NumPy takes for one, which is measured beside it. What the engine
takes for a state, without an object of Python's around it, is the business of
``cargo run --release -p manyhands-random --example streams``, which is run along where there is a cargo.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import manyhands as mh

ROOT = Path(__file__).resolve().parent.parent
N_RUNS = 3


def seconds(call: Callable[[], object]) -> float:
    """How long it takes, the middle of several times."""
    times = []
    for _ in range(N_RUNS):
        begun = time.perf_counter()
        made = call()
        times.append(time.perf_counter() - begun)
        del made
    return statistics.median(times)


def first_number(_: Any, rng: np.random.Generator) -> float:
    """The first number of a task's stream."""
    return float(rng.random())


def by_numpy(n: int) -> list[np.random.Generator]:
    """The same streams, by NumPy alone."""
    return [np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(1).spawn(n)]


def bare(n: int) -> None:
    """As many generators of NumPy's, each by itself."""
    for _ in range(n):
        np.random.Generator(np.random.PCG64(0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a size that says nothing about speed")
    options = parser.parse_args()
    n_all, n_listed = (2_000, 1_000) if options.quick else (1_000_000, 100_000)
    print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}, {mh.cpu_count()} CPUs")

    def say(what: str, n: int, call: Callable[[], object]) -> None:
        taken = seconds(call)
        print(f"{what}: {taken:.4f} s for {n}, {1e6 * taken / n:.2f} µs each", flush=True)

    say("the sequence", n_all, lambda: mh.random.streams(n_all, seed=1))
    for scheduler in ("processes", "synchronous"):
        where = {"scheduler": scheduler, "num_workers": 2}
        mh.map(abs, [1], **where)
        say(
            f"the first number of each in a task, {scheduler}",
            n_all,
            lambda: mh.map(first_number, range(n_all), seed=1, **where),  # noqa: B023
        )
    for bit_generator, method in (("PCG64", "spawn"), ("Philox", "spawn"), ("PCG64", "jumped"), ("MRG32k3a", "jumped")):
        say(
            f"a list of {bit_generator}, {method}",
            n_listed,
            lambda: list(mh.random.streams(n_listed, 1, bit_generator, method)),  # type: ignore[arg-type]  # noqa: B023
        )
    say("the same list of PCG64 by NumPy", n_listed, lambda: by_numpy(n_listed))
    say("numpy.random.Generator(numpy.random.PCG64(0))", n_listed, lambda: bare(n_listed))
    if not options.quick and shutil.which("cargo") is not None and (ROOT / "crates" / "random").is_dir():
        command = ["cargo", "run", "--release", "--locked", "-q", "-p", "manyhands-random", "--example", "streams"]
        print("The engine alone:", flush=True)
        subprocess.run([*command, "--", str(n_all)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
