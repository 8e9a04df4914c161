"""How many threads want to run at once where parallel calls are nested, and products of matrices have threads as well.

    .venvs/peers/bin/python -m benches.peers.nested [--seconds 5]

An outer call makes inner calls, whose tasks multiply matrices. Every engine is used as its user would write it: with as
many workers at each level as there are CPUs where a number has to be said, and with nothing said about the threads of
libraries. Meanwhile the states of all
threads of the process and its descendants are read: those that run, or wait for a CPU, should be no more than there are
CPUs. Each engine runs in a process of its own; the environment has no variables about numbers of threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benches.memory import end_family, family

SIZE = 700
PAUSE_S = 0.02
N_CPUS = len(os.sched_getaffinity(0))


def product(seed: int) -> float:
    """Products of a matrix for half a second."""
    import numpy as np

    matrix = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        matrix = np.tanh(matrix @ matrix)
    return float(matrix[0, 0])


def with_manyhands(plan: tuple[str, str]) -> Callable[[int], object]:
    """Calls of this engine, by a plan."""
    import manyhands as mh

    def outer(seed: int) -> float:
        return sum(mh.map(product, range(seed, seed + N_CPUS)))

    return lambda n: mh.map(outer, range(n), scheduler=plan)


def with_joblib() -> Callable[[int], object]:
    """Nested calls of joblib."""
    from joblib import Parallel, delayed

    return lambda n: Parallel(n_jobs=N_CPUS)(delayed(joblib_outer)(seed) for seed in range(n))


def joblib_outer(seed: int) -> float:
    """What its outer tasks do."""
    from joblib import Parallel, delayed

    return sum(Parallel(n_jobs=N_CPUS)(delayed(product)(seed + i) for i in range(N_CPUS)))


def with_dask() -> Callable[[int], object]:
    """Nested calls of Dask."""
    import dask

    return lambda n: dask.compute(
        [dask.delayed(dask_outer)(seed) for seed in range(n)], scheduler="processes", num_workers=N_CPUS
    )


def dask_outer(seed: int) -> float:
    """What its outer tasks do."""
    import dask

    (found,) = dask.compute(
        [dask.delayed(product)(seed + i) for i in range(N_CPUS)], scheduler="threads", num_workers=N_CPUS
    )
    return sum(found)


def with_futures() -> Callable[[int], object]:
    """Nested executors of the standard library."""
    from concurrent.futures import ProcessPoolExecutor

    def run(n: int) -> object:
        with ProcessPoolExecutor(N_CPUS) as executor:
            return list(executor.map(futures_outer, range(n)))

    return run


def futures_outer(seed: int) -> float:
    """What its outer tasks do."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(N_CPUS) as executor:
        return sum(executor.map(product, range(seed, seed + N_CPUS)))


ENGINES: dict[str, Callable[[], Callable[[int], object]]] = {
    "manyhands processes, threads": lambda: with_manyhands(("processes", "threads")),
    "manyhands processes, processes": lambda: with_manyhands(("processes", "processes")),
    "manyhands threads, threads": lambda: with_manyhands(("threads", "threads")),
    "joblib (loky, then threads)": with_joblib,
    "dask processes, threads": with_dask,
    "concurrent.futures processes, threads": with_futures,
}


def n_runnable(pid: int) -> int:
    """Threads of a process and its descendants that run or wait for a CPU."""
    states = []
    for member in family(pid):
        for stat in Path(f"/proc/{member}/task").glob("*/stat"):
            try:
                states.append(stat.read_text().rpartition(")")[2].split()[0])
            except OSError:  # it has just ended
                continue
    return states.count("R")


def watch(name: str, seconds: float) -> str:
    """Run an engine in a process of its own, and count its threads; a row of the table."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    command = [sys.executable, "-m", "benches.peers.nested", "--run", name]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if said != "warm":
            return f"| {name} | {said or 'failed'} | | |"
        seen = []
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            seen.append(n_runnable(process.pid))
            time.sleep(PAUSE_S)
        return f"| {name} | {statistics.median(seen):g} | {statistics.mean(seen):.1f} | {max(seen)} |"
    finally:
        end_family(process.pid)
        process.wait()


def run(name: str) -> None:
    """Be such a process, until it is ended."""
    try:
        call = ENGINES[name]()
    except ImportError as error:
        print(f"not installed: {error.name}", flush=True)
        return
    call(N_CPUS)
    print("warm", flush=True)
    while True:
        call(2 * N_CPUS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--run", metavar="ENGINE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run)
        return
    print(f"{N_CPUS} CPUs; threads that run or wait for a CPU\n")
    print("| engine | median | mean | most |\n|---|---|---|---|")
    for name in ENGINES:
        print(watch(name, options.seconds), flush=True)


if __name__ == "__main__":
    main()
