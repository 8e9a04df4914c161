"""The groups of cases of manyhands alone, and the row of the table that each figure becomes."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benches import makespan, measure, metg
from benches.measure import Timing, duration, spread
from benches.ours import cases, rust
from benches.shapes import all_shapes

Row = dict[str, str]
COLUMNS = ("case", "reach", "median", "middle half", "a task", "runs", "reached")


@dataclass(frozen=True)
class Effort:
    """How much of everything is done."""

    n_runs: int
    shrink: int
    """What sizes are divided by."""


def row(case: str, timing: Timing, *, n_tasks: int = 0, reach_s: float | None = None) -> Row:
    """A duration."""
    return {
        "case": case,
        "reach": "" if reach_s is None else f"≤ {duration(reach_s)}",
        "median": duration(timing.median_s),
        "middle half": spread(timing),
        "a task": duration(timing.median_s / n_tasks) if n_tasks else "",
        "runs": str(len(timing.runs_s)),
        "reached": verdict(timing.median_s, reach_s),
    }


def verdict(value: float, reach: float | None) -> str:
    """Whether a figure is within its reach, where it has one."""
    return "" if reach is None else "yes" if value <= reach else "NO"


def ratio_row(case: str, ratios: Timing, *, unit: str = "×", reach: float | None = None, decimals: int = 2) -> Row:
    """How many times as much as something else, run by run."""
    low, high = ratios.quartiles_s
    return {
        "case": case,
        "reach": "" if reach is None else f"≤ {reach:g} {unit}",
        "median": f"{ratios.median_s:.{decimals}f} {unit}",
        "middle half": f"{low:.{decimals}f} – {high:.{decimals}f}" if len(ratios.runs_s) > 1 else "",
        "runs": str(len(ratios.runs_s)),
        "reached": verdict(ratios.median_s, reach),
    }


def number_row(case: str, value: float, unit: str, reach: float | None = None) -> Row:
    """A figure that was counted or whose runs were summed up elsewhere."""
    return {
        "case": case,
        "reach": "" if reach is None else f"≤ {reach:g} {unit}",
        "median": f"{value:.0f} {unit}",
        "reached": verdict(value, reach),
    }


def by_turns(timing: Timing, base: Timing) -> Timing:
    """The ratio of each run to the run of the other that was its neighbour."""
    return Timing(tuple(run_s / base_s for run_s, base_s in zip(timing.runs_s, base.runs_s, strict=True)))


def graph(effort: Effort) -> Iterator[Row]:
    """Many tasks in one graph, and whether their cost is linear."""
    for scheduler in ("processes", "threads"):
        per_task_s = []
        for n in (10_000 // effort.shrink, 100_000 // effort.shrink, 1_000_000 // effort.shrink):
            creation, computation, both = cases.graph(scheduler, n, effort.n_runs)
            per_task_s.append(both.median_s / n)
            reach_s = 50e-3 if (scheduler, n) == ("processes", 10_000) else None
            yield row(f"{n:,} tasks, delayed + compute, {scheduler}", both, n_tasks=n, reach_s=reach_s)
            yield row("… creation", creation, n_tasks=n)
            yield row("… compute", computation, n_tasks=n)
        growth = per_task_s[-1] / per_task_s[0]
        yield {
            "case": f"… a task of the largest ÷ of the smallest, {scheduler}",
            "reach": "linear",
            "median": f"{growth:.2f}",
        }


def parallel_map(effort: Effort) -> Iterator[Row]:
    """Many calls in one map."""
    n = 100_000 // effort.shrink
    static = cases.static_pool(n, effort.n_runs)
    for scheduler in ("processes", "threads", "synchronous"):
        reach_s = 40e-3 if scheduler != "synchronous" and effort.shrink == 1 else None
        timing = cases.parallel_map(scheduler, n, effort.n_runs)
        yield row(f"{n:,} calls through map, {scheduler}", timing, n_tasks=n, reach_s=reach_s)
        if scheduler == "processes":
            ratio = Timing((timing.median_s / static.median_s,))
            yield ratio_row("… as a multiple of multiprocessing.Pool.map", ratio, reach=1)
    yield row(f"{n:,} calls through multiprocessing.Pool.map, static chunks", static, n_tasks=n)
    yield row(f"{n:,} calls in a plain loop", cases.plain_loop(n, effort.n_runs), n_tasks=n)


def latency(effort: Effort) -> Iterator[Row]:
    """One task at a time."""
    for scheduler, reach_s in (("processes", 60e-6), ("threads", None)):
        timing = cases.round_trip(scheduler, 2000 // effort.shrink)
        yield row(f"submit to result, idle pool, {scheduler}", timing, reach_s=reach_s)


def start(effort: Effort) -> Iterator[Row]:
    """What a short program pays before its first result."""
    fresh = cases.first_result("processes", max(5, 11 // effort.shrink))
    inside = cases.fresh_timing(fresh, lambda run: run.inside_s)
    yield row("fresh interpreter: import, start, first result, processes", inside, reach_s=150e-3)
    yield row("… with the interpreter's own start", cases.fresh_timing(fresh, lambda run: run.result_s))
    yield row("… and to its end", cases.fresh_timing(fresh, lambda run: run.exit_s))
    imported = measure.measure_import("import manyhands", max(5, 21 // effort.shrink))
    yield row("import manyhands, beyond an empty interpreter", imported, reach_s=20e-3)
    heavy = cases.heavy_modules_imported()
    yield {
        "case": "… heavy modules it imports",
        "reach": "none",
        "median": ", ".join(heavy) or "none",
        "reached": "NO" if heavy else "yes",
    }


def shared(effort: Effort) -> Iterator[Row]:
    """Eight analyses of one large array, as multiples of the time on threads."""
    n = cases.ARRAY_NUMBERS // effort.shrink
    found = cases.sharing(n, effort.n_runs)
    yield row(f"{cases.N_MEANS} × np.mean of one array of {n * 8 / 2**20:.0f} MiB, threads", found.threads)
    calls = (
        ("array not yet shared", found.first, 1.5, found.first_growth, 1.05),
        ("second call", found.second, 1.2, found.second_growth, 0.02),
        ("array born shared", found.born, 1.05, found.born_growth, 0.02),
    )
    for name, timing, reach, growth, growth_reach in calls:
        yield row(f"the same, processes, {name}", timing)
        yield ratio_row("… as a multiple of threads", by_turns(timing, found.threads), reach=reach)
        yield ratio_row(
            "… growth of the memory of all processes", Timing((growth,)), unit="× the array", reach=growth_reach
        )


def results(effort: Effort) -> Iterator[Row]:
    """Tasks that return large arrays."""
    n = max(8, cases.N_BLOCKS // effort.shrink)
    found = cases.returned_blocks(n, effort.n_runs)
    for scheduler, timing in found.items():
        yield row(f"{n} tasks that return 16 MiB each, {scheduler}", timing)
    yield ratio_row("… as a multiple of threads", by_turns(found["processes"], found["threads"]), reach=1.3)


def granularity(effort: Effort) -> Iterator[Row]:
    """The smallest task at which half of the time is useful work."""
    for name, run, reach_s in (("map", cases.spin_map, 3e-6), ("delayed tree", cases.spin_tree, 20e-6)):
        found = cases.smallest_task(run, min(effort.n_runs, 5), 0.2 / effort.shrink, limit_s=60 / effort.shrink)
        yield metg_row(f"METG 50 %, {name}, processes", found, reach_s)


def metg_row(case: str, found: metg.Found, reach_s: float) -> Row:
    """The smallest task that was large enough, and next to it the largest that was not."""
    is_found = math.isfinite(found.enough_s)
    return {
        "case": case,
        "reach": f"≤ {duration(reach_s)}",
        "median": duration(found.enough_s) if is_found else f"> {duration(found.too_small_s)}",
        "middle half": f"{duration(found.too_small_s)} – {duration(found.enough_s)}" if is_found else "",
        "reached": verdict(found.enough_s, reach_s),
    }


def makespans(effort: Effort) -> Iterator[Row]:
    """Tasks of very different lengths, as multiples of the time below which no schedule can come."""
    few, many = makespan.few(effort.shrink), makespan.many(effort.shrink)
    n_runs = min(effort.n_runs, 5)
    for kind, is_asleep, plans in (("computing", False, few + many), ("sleeping", True, [*few, many[-1]])):
        for name, ratios in cases.makespans(plans, n_runs, is_asleep=is_asleep):
            yield ratio_row(
                f"makespan, {name}, {kind}", Timing(tuple(ratios)), unit="× the bound", reach=1.05, decimals=3
            )


def graph_shapes(effort: Effort) -> Iterator[Row]:
    """Well-known graphs."""
    for shape in all_shapes(cases.calibrated_s()):
        n = shape.sizes[-1] if effort.shrink == 1 else shape.sizes[0]
        for scheduler in ("processes", "threads"):
            timing = cases.shape(shape, n, scheduler, min(effort.n_runs, 5))
            yield row(f"{shape.name}, {shape.label(n)}, {scheduler}", timing)


def core(effort: Effort) -> Iterator[Row]:
    """The scheduler core, on workers that cost nothing."""
    options = ["--tasks", str(1_000_000 // effort.shrink), "--repeats", str(effort.n_runs)]
    for found in rust.example("manyhands-scheduler", "core_bench", *options):
        is_promised = found["graph"] in ("tree", "merge")
        name = f"core: {found['graph']}, {found['workers']} workers, reports {found['reports']}"
        yield number_row(name, found["run_ns"], "ns a task", 300 if is_promised else None)
        yield number_row("… memory", found["bytes"], "bytes a task", 150 if is_promised else None)
    large = ["--large", "--only", "independent, 10000,", "--repeats", str(min(5, effort.n_runs))]
    if effort.shrink == 1:
        for found in rust.example("manyhands-scheduler", "core_bench", *large):
            name = f"core: {found['tasks']:,} independent tasks, {found['workers']:,} workers"
            yield number_row(name, found["run_ns"], "ns a task", 500)
            yield number_row("… memory", found["bytes"], "bytes a task")


def rust_face(effort: Effort) -> Iterator[Row]:
    """Closures, without Python."""
    for found in rust.example("manyhands", "map_bench", str(effort.n_runs)):
        kinds = (("map", "map_ns"), ("flat graph", "flat_ns"), ("tree graph", "tree_ns"))
        for kind, key in kinds:
            yield number_row(f"Rust face: {kind}, {found['way']}", found[key], "ns a task")
        yield number_row(f"Rust face: map of one item, {found['way']}", found["one_ns"], "ns")


def simulated(_effort: Effort) -> Iterator[Row]:
    """Makespans in virtual time."""
    for case, ratio in rust.simulated_makespans().items():
        yield ratio_row(
            f"makespan in simulation, {case}, the worst", Timing((ratio,)), unit="× the best", reach=1.05, decimals=3
        )


def alive(_effort: Effort) -> Iterator[Row]:
    """Results that exist at one time, beside those of Dask's static order."""
    shapes = rust.results_alive()
    pairs = [(ours, dask) for _, all_ours, all_dask in shapes for ours, dask in zip(all_ours, all_dask)]
    n_lower = sum(ours < dask for ours, dask in pairs)
    n_higher = sum(ours > dask for ours, dask in pairs)
    yield {
        "case": f"results alive at most, {len(shapes)} shapes × 1, 2 and 4 workers, beside Dask's order",
        "reach": "none higher",
        "median": f"{n_lower} lower, {len(pairs) - n_lower - n_higher} equal, {n_higher} higher",
        "reached": "NO" if n_higher else "yes",
    }
    for name, ours, dask in shapes:
        if any(own > other for own, other in zip(ours, dask)):
            yield {"case": f"… higher: {name}", "median": f"{ours}, Dask's {dask}"}


@dataclass(frozen=True)
class Group:
    """Cases that run in one process."""

    rows: Callable[[Effort], Iterator[Row]]
    limit_s: float
    needs_cargo: bool = False

    def at(self, effort: Effort) -> Callable[[], Iterator[Row]]:
        """The rows, to be run later."""
        return functools.partial(self.rows, effort)


GROUPS = {
    "graph": Group(graph, 120),
    "map": Group(parallel_map, 60),
    "latency": Group(latency, 30),
    "start": Group(start, 60),
    "shared": Group(shared, 120),
    "results": Group(results, 90),
    "metg": Group(granularity, 150),
    "makespan": Group(makespans, 180),
    "shapes": Group(graph_shapes, 120),
    # The first of these builds.
    "core": Group(core, 300, needs_cargo=True),
    "rust": Group(rust_face, 120, needs_cargo=True),
    "simulated": Group(simulated, 180, needs_cargo=True),
    "alive": Group(alive, 120, needs_cargo=True),
}
