"""The cases, as functions of their size, to be run here alone and in `benches.peers` beside other engines."""

import functools
import gc
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import manyhands as mh
from benches import memory, metg, workload
from benches.makespan import Plan, bound_s, sleeping, spinning
from benches.measure import FreshRun, Timing, measure, measure_each, run_fresh
from benches.shapes import Shape, at_once
from benches.workload import block, check, check_blocks, check_means, mean, noop, turn_s

N_WORKERS = 2

FIRST_RESULT = """
import manyhands as mh
assert mh.map(abs, [-1], scheduler="{scheduler}", num_workers={n_workers}) == [1]
"""

# Modules that programs often do without and that are slow to import.
HEAVY_MODULES = (
    "numpy",
    "asyncio",
    "concurrent.futures",
    "cloudpickle",
    "pickle",
    "logging",
    "inspect",
    "subprocess",
)


def here(scheduler: str) -> "mh.config.set":
    """The settings of every case: this scheduler, two workers, no chunk size."""
    return mh.config.set(scheduler=scheduler, num_workers=N_WORKERS)


def graph(scheduler: str, n: int, n_runs: int) -> tuple[Timing, Timing, Timing]:
    """`n` tasks through `delayed` and one `compute`: creation, computation, and both together."""
    task = mh.delayed(noop)
    created, computed = [], []
    with here(scheduler):
        for _ in range(n_runs + 1):
            gc.collect()
            begin = time.perf_counter()
            tasks = [task(i) for i in range(n)]
            middle = time.perf_counter()
            (results,) = mh.compute(tasks)
            computed.append(time.perf_counter() - middle)
            created.append(middle - begin)
            check(results, n)
    together = [create_s + compute_s for create_s, compute_s in zip(created, computed, strict=True)]
    creation, computation, both = (Timing(tuple(runs[1:])) for runs in (created, computed, together))
    return creation, computation, both


def parallel_map(scheduler: str, n: int, n_runs: int) -> Timing:
    """`n` calls through `map`."""
    with here(scheduler):
        check(mh.map(noop, range(n)), n)
        return measure(lambda: mh.map(noop, range(n)), n_runs)


def static_pool(n: int, n_runs: int) -> Timing:
    """The same calls through the standard library's pool, which cuts them into static chunks beforehand."""
    with multiprocessing.Pool(N_WORKERS) as pool:
        return measure(lambda: pool.map(noop, range(n)), n_runs)


def round_trip(scheduler: str, n_runs: int) -> Timing:
    """One task from `submit` to its result, with nothing else to do."""
    with here(scheduler):
        return measure_each(lambda: mh.submit(noop, 1).result(), n_runs)


def plain_loop(n: int, n_runs: int) -> Timing:
    """The same calls in a list comprehension: what no engine can go below on one core."""
    return measure(lambda: [noop(i) for i in range(n)], n_runs)


def first_result(scheduler: str, n_runs: int) -> list[FreshRun]:
    """Import, start of the workers, first result, each time in a fresh interpreter."""
    program = FIRST_RESULT.format(scheduler=scheduler, n_workers=N_WORKERS)
    run_fresh(program)
    return [run_fresh(program) for _ in range(n_runs)]


def fresh_timing(runs: list[FreshRun], part: Callable[[FreshRun], float]) -> Timing:
    """One of the three durations of fresh runs."""
    return Timing(tuple(part(run) for run in runs))


def heavy_modules_imported() -> list[str]:
    """Which of the heavy modules `import manyhands` brings along, beyond those of an empty interpreter."""
    code = (
        "import sys; before = set(sys.modules); import manyhands\n"
        f"print(*[name for name in {HEAVY_MODULES!r} if name in set(sys.modules) - before])"
    )
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


ARRAY_NUMBERS = 50_000_000
N_MEANS = 8
N_BLOCKS = 64


def calibrated_s() -> float:
    """Seconds of a turn of `spin` while both workers spin."""
    with here("processes"):
        return turn_s(mh.map)


@dataclass(frozen=True)
class Sharing:
    """The same analyses of one array on threads and, three times, on processes."""

    threads: Timing
    first: Timing
    second: Timing
    born: Timing
    first_growth: float
    """Of the memory of all processes together, as a multiple of the array; a negative one is none."""
    second_growth: float
    born_growth: float


def sharing(n_numbers: int, n_runs: int) -> Sharing:
    """`np.mean` of one array eight times; a new array for each run, so that nothing of it can be known."""
    import numpy as np

    source = np.random.default_rng(1).random(n_numbers)
    expected, start = float(source.mean()), source[:1000]
    born = mh.shared.asarray(source)
    runs: dict[str, list[float]] = {"threads": [], "first": [], "second": [], "born": []}

    def means(scheduler: str, data: object) -> None:
        with here(scheduler):
            found = mh.map(mean, [data] * N_MEANS)
        if data is not start:
            check_means(found, expected, N_MEANS)

    def timed(name: str, scheduler: str, data: object) -> None:
        gc.collect()
        begin = time.perf_counter()
        means(scheduler, data)
        runs[name].append(time.perf_counter() - begin)

    # Before all else, while no memory of earlier arrays is kept for later ones; but workers import NumPy first.
    means("processes", start)
    means("threads", start)
    gc.collect()
    data = source.copy()
    first, second, at_birth = (
        memory.growth(functools.partial(means, "processes", array)) / source.nbytes for array in (data, data, born)
    )
    del data
    for _ in range(n_runs + 1):
        data = source.copy()
        timed("threads", "threads", data)
        timed("first", "processes", data)
        timed("second", "processes", data)
        timed("born", "processes", born)
        del data
    timings = {name: Timing(tuple(found[1:])) for name, found in runs.items()}
    return Sharing(**timings, first_growth=first, second_growth=second, born_growth=at_birth)


def returned_blocks(n_blocks: int, n_runs: int) -> dict[str, Timing]:
    """Tasks that return 16 MiB each, on both schedulers by turns."""
    runs: dict[str, list[float]] = {"threads": [], "processes": []}
    for _ in range(n_runs + 1):
        for scheduler, found in runs.items():
            gc.collect()
            with here(scheduler):
                begin = time.perf_counter()
                blocks = mh.map(block, range(n_blocks))
                found.append(time.perf_counter() - begin)
            check_blocks(blocks, n_blocks)
            del blocks
    return {scheduler: Timing(tuple(found[1:])) for scheduler, found in runs.items()}


def spin_map(n_tasks: int, n_turns: int) -> None:
    """Equal tasks through `map`."""
    workload.spin_map(mh.map, n_tasks, n_turns)


def spin_tree(n_tasks: int, n_turns: int) -> None:
    """Equal tasks as a tree of pairs, drawn and computed."""
    mh.compute(workload.spin_tree(mh.delayed, n_tasks, n_turns))


def smallest_task(run: Callable[[int, int], None], n_runs: int, work_s: float, limit_s: float) -> metg.Found:
    """METG 50 % on processes."""
    with here("processes"):
        return metg.smallest_task(
            run,
            turn_s=calibrated_s(),
            n_workers=N_WORKERS,
            first_s=1e-3,
            work_s=work_s,
            n_runs=n_runs,
            limit_s=limit_s,
        )


def makespans(plans: list[Plan], n_runs: int, *, is_asleep: bool) -> Iterator[tuple[str, list[float]]]:
    """The makespan of each plan on processes as multiples of the bound, which each run sets by its own tasks."""
    a_turn_s = calibrated_s()
    for plan in plans:
        ratios = []
        for _ in range(n_runs + 1):
            gc.collect()
            with here("processes"):
                begin = time.perf_counter()
                taken_s = sleeping(plan, mh.map) if is_asleep else spinning(plan, mh.map, a_turn_s)
                elapsed_s = time.perf_counter() - begin
            ratios.append(elapsed_s / bound_s(taken_s, N_WORKERS))
        yield plan.name, ratios[1:]


def shape(drawing: Shape, n: int, scheduler: str, n_runs: int) -> Timing:
    """One graph, drawn and computed."""
    expected = drawing.draw(at_once, n)

    def run() -> None:
        found = list(mh.compute(*drawing.draw(mh.delayed, n)))
        if found != expected:
            raise AssertionError(f"{drawing.name} gave {found}, not {expected}")

    with here(scheduler):
        return measure(run, n_runs)
