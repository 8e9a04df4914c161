"""How many threads want to run at once where parallel calls are nested, and products of matrices have threads as well.

    .venvs/peers/bin/python -m benches.peers.nested [--quick]

An outer call makes inner calls, whose tasks multiply matrices. Every engine is used as its user would write it: with as
many workers at each level as there are CPUs where a number has to be said, and with nothing said about the threads of
libraries; then once more as their documentation advises, with one thread for each library. Meanwhile the states of all
threads of the process and its descendants are read: those that run, or wait for a CPU, should be no more than there are
CPUs. Each engine runs in a process of its own; the environment has no variables about numbers of threads but those
named. The work is the same for all, and so is its result.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.measure import duration
from benches.memory import end_family, family

SIZE = 700
N_PRODUCTS = 12
N_CALLS = 3
PAUSE_S = 0.02
LIMIT_S = 40.0
ONE_THREAD = ", OMP_NUM_THREADS=1"
N_CPUS = len(os.sched_getaffinity(0))
HEADER = (
    "engine",
    "CPUs",
    "threads that want to run: median",
    "mean",
    "most",
    "of one process",
    "processes",
    "time of a call",
)
MEDIAN = 2
"""The column of the median of threads."""


def product(seed: int) -> float:
    """So many products of a matrix, some tenths of a second all in all."""
    import numpy as np

    matrix = np.random.default_rng(seed).normal(size=(SIZE, SIZE)) / SIZE**0.5
    rotation, total = matrix, 0.0
    for _ in range(int(os.environ.get("BENCHES_N_PRODUCTS", N_PRODUCTS))):
        rotation = rotation @ matrix
        rotation /= np.abs(rotation).max()
        total += float(np.abs(rotation).mean())
    return total


def with_manyhands(plan: tuple[str, str]) -> Callable[[int], Any]:
    """Calls of this engine, by a plan."""
    import manyhands as mh

    def outer(seed: int) -> float:
        return sum(mh.map(product, range(seed, seed + N_CPUS)))

    return lambda n: mh.map(outer, range(n), scheduler=plan)


def with_joblib() -> Callable[[int], Any]:
    """Nested calls of joblib."""
    from joblib import Parallel, delayed

    return lambda n: Parallel(n_jobs=N_CPUS)(delayed(joblib_outer)(seed) for seed in range(n))


def joblib_outer(seed: int) -> float:
    """What its outer tasks do."""
    from joblib import Parallel, delayed

    return sum(Parallel(n_jobs=N_CPUS)(delayed(product)(seed + i) for i in range(N_CPUS)))


def with_dask() -> Callable[[int], Any]:
    """Nested calls of Dask, in a pool that is warm."""
    from concurrent.futures import ProcessPoolExecutor

    import dask

    pool = ProcessPoolExecutor(N_CPUS)
    return lambda n: dask.compute(
        *[dask.delayed(dask_outer)(seed) for seed in range(n)], scheduler="processes", pool=pool, chunksize=1
    )


def dask_outer(seed: int) -> float:
    """What its outer tasks do."""
    import dask

    (found,) = dask.compute(
        [dask.delayed(product)(seed + i) for i in range(N_CPUS)], scheduler="threads", num_workers=N_CPUS
    )
    return sum(found)


def with_futures() -> Callable[[int], Any]:
    """Nested executors of the standard library."""
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(N_CPUS)
    return lambda n: list(pool.map(futures_outer, range(n)))


def futures_outer(seed: int) -> float:
    """What its outer tasks do."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(N_CPUS) as executor:
        return sum(executor.map(product, range(seed, seed + N_CPUS)))


MANYHANDS = "manyhands processes, threads"
ENGINES: dict[str, Callable[[], Callable[[int], Any]]] = {
    MANYHANDS: lambda: with_manyhands(("processes", "threads")),
    "manyhands processes, processes": lambda: with_manyhands(("processes", "processes")),
    "manyhands threads, threads": lambda: with_manyhands(("threads", "threads")),
    "joblib (loky, then threads)": with_joblib,
    "Dask processes, threads": with_dask,
    "concurrent.futures processes, threads": with_futures,
    f"Dask processes, threads{ONE_THREAD}": with_dask,
    f"concurrent.futures processes, threads{ONE_THREAD}": with_futures,
}


def runnable(pid: int) -> list[int]:
    """Of a process and each of its descendants: how many threads run or wait for a CPU."""
    counts = []
    for member in family(pid):
        states = []
        for stat in Path(f"/proc/{member}/task").glob("*/stat"):
            try:
                states.append(stat.read_text().rpartition(")")[2].split()[0])
            except OSError:  # it has just ended
                continue
        counts.append(states.count("R"))
    return counts


def _environment(name: str, n_products: int) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    if name.endswith(ONE_THREAD):
        found.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return {**found, "BENCHES_N_PRODUCTS": str(n_products)}


def watch(name: str, n_calls: int = N_CALLS, n_products: int = N_PRODUCTS) -> tuple[str, ...]:
    """Run an engine in a process of its own, and count its threads; a row of the table.

    Raises
    ------
    RuntimeError
        If the engine is not there, has failed, takes longer than its limit, or its results are not those expected.
    """
    command = [sys.executable, "-m", "benches.peers.nested", "--run", name, "--calls", str(n_calls)]
    process = subprocess.Popen(command, env=_environment(name, n_products), stdout=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.strip())
        lines.put("ended")

    threading.Thread(target=read, daemon=True).start()
    try:
        said = lines.get(timeout=LIMIT_S)
        if said != "warm":
            raise RuntimeError(f"{name}: {said}")
        seen, until = [], time.monotonic() + LIMIT_S
        while lines.empty():
            if time.monotonic() > until:
                raise RuntimeError(f"{name}: stopped after {LIMIT_S:.0f} s")
            seen.append(runnable(process.pid))
            time.sleep(PAUSE_S)
        said, verdict = lines.get(), lines.get(timeout=LIMIT_S)
        if verdict != "right":
            raise RuntimeError(f"{name}: {said}, {verdict}")
    finally:
        end_family(process.pid)
        process.wait()
    totals = [sum(counts) for counts in seen]
    return (
        *(name, str(N_CPUS), f"{statistics.median(totals):g}", f"{statistics.mean(totals):.1f}", str(max(totals))),
        *(str(max(map(max, seen))), str(max(map(len, seen))), duration(float(said.split()[1]))),
    )


def run(name: str, n_calls: int) -> None:
    """Be such a process: say ``warm``, work, and say how long a call has taken."""
    try:
        call = ENGINES[name]()
    except ImportError as error:
        print(f"not installed: {error.name}", flush=True)
        return
    call(N_CPUS)
    print("warm", flush=True)
    times = []
    for _ in range(n_calls):
        begin = time.perf_counter()
        found = list(call(2 * N_CPUS))
        times.append(time.perf_counter() - begin)
    print("seconds", statistics.median(times), flush=True)
    products = [product(i) for i in range(3 * N_CPUS)]
    expected = [sum(products[i : i + N_CPUS]) for i in range(2 * N_CPUS)]
    # Products in several threads may differ in their last digits.
    if len(found) != len(expected) or any(abs(a - b) > 1e-6 * abs(b) for a, b in zip(found, expected)):
        print(f"the results are {found}, not {expected}"[:150], flush=True)
    else:
        print("right", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short calls, to see that it runs")
    parser.add_argument("--run", metavar="ENGINE", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=N_CALLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.calls)
        return
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for name in ENGINES:
        try:
            row = watch(name, 1, 1) if options.quick else watch(name)
        except RuntimeError as failure:
            row = (str(failure),)
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
