"""The cases an engine gets by what it offers, each bounded in time, and the figures they give.

Where an engine is slow, it gets fewer runs, and then a smaller size: sizes grow for as long as the next can be expected
to take no longer than `LARGEST_RUN_S`. manyhands is measured at every size by the same code.
"""

import functools
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from benches import makespan, measure, memory, metg
from benches.measure import Timing
from benches.peers.engines import N_MEANS, N_WORKERS, Engine, Graph, Map, Offer
from benches.shapes import Shape, all_shapes, at_once
from benches.workload import (
    SPIN_TURNS,
    block,
    check,
    check_blocks,
    check_means,
    noop,
    spin_map,
    spin_timed,
    spin_tree,
    turn_s,
)

Figure = dict[str, Any]

ARRAY_NUMBERS = 50_000_000
N_BLOCKS = 64
LARGEST_RUN_S = 6.0
N_RUNS = 5
"""Runs of each case, no more than fit into this:"""
BUDGET_S = 4.0
SLOW_MEANS_S = 5.0
METG_LIMIT_S = 7.0


def figure(case: str, settings: str, size: str, timing: Timing, *, unit: str = "s", **more: Any) -> Figure:
    """What a case gave."""
    value, n_runs = timing.median_s, len(timing.runs_s)
    return {"case": case, "settings": settings, "size": size, "value": value, "runs": n_runs, "unit": unit, **more}


def seconds(run: Callable[[], object]) -> float:
    """Time one run."""
    gc.collect()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def append_seconds(runs_s: list[float], run: Callable[[], object]) -> None:
    """Time one run and note it."""
    runs_s.append(seconds(run))


def grown(run: Callable[[int], object], sizes: list[int], *, is_every: bool) -> Iterator[tuple[int, Timing]]:
    """Measure at the largest size that a run can stand, or at every one up to that."""
    for n, larger in itertools.zip_longest(sizes, sizes[1:]):
        once_s = seconds(functools.partial(run, n))
        is_last = larger is None or once_s * larger / n > LARGEST_RUN_S
        if is_last or is_every:
            yield n, measure.measure_within(functools.partial(run, n), N_RUNS, BUDGET_S)
        if is_last:
            return


class Cases:
    """All cases for one opened engine."""

    def __init__(self, offer: Offer, *, is_ours: bool, computes_in_parallel: bool, shrink: int):
        self.offer = offer
        self.is_ours = is_ours
        self.computes_in_parallel = computes_in_parallel
        """Whether two tasks of Python code can run at once, as on threads they cannot."""
        self.shrink = shrink

    @functools.cached_property
    def turn_s(self) -> float:
        """Seconds of a turn of `spin` on this engine's workers, all busy."""
        if self.offer.maps:
            return turn_s(next(iter(self.offer.maps.values())))
        return spin_timed(SPIN_TURNS) / SPIN_TURNS

    def sizes(self, *full: int) -> list[int]:
        """These sizes, or smaller ones in a quick run."""
        return [max(10, n // self.shrink) for n in full]

    def map(self) -> Iterator[Figure]:
        """No-op calls, in each way the engine offers."""
        for settings, run_map in self.offer.maps.items():

            def run(n: int, run_map: Map = run_map) -> None:
                check(list(run_map(noop, range(n))), n)

            if self.offer.graph is None or "delayed" not in settings:
                for n, timing in grown(run, self.sizes(1000, 10_000, 100_000), is_every=self.is_ours):
                    yield figure("map", settings, f"{n:,}", timing)

    def graph(self) -> Iterator[Figure]:
        """No-op tasks of one graph, drawn and computed."""
        graph = self.offer.graph
        if graph is None:
            return

        def run(n: int) -> None:
            task = graph.lazy(noop)
            check(graph.compute([task(i) for i in range(n)]), n)

        for n, timing in grown(run, self.sizes(1000, 10_000), is_every=self.is_ours):
            yield figure("graph", graph.settings, f"{n:,}", timing)

    def round_trip(self) -> Iterator[Figure]:
        """One task at a time on an idle pool."""
        run = self.offer.round_trip
        if run is not None:
            run()
            n = int(min(2000, max(20, BUDGET_S / 2 / seconds(run)))) // self.shrink
            yield figure("submit to result", "idle pool", "1", measure.measure_each(run, max(5, n)))

    def means(self) -> Iterator[Figure]:
        """Analyses of one array that the engine has not seen, the same again, and the memory that takes."""
        if not self.offer.means:
            return
        import numpy as np

        n = ARRAY_NUMBERS // self.shrink
        source = np.random.default_rng(1).random(n)
        size = f"{n * 8 / 2**20:.0f} MiB"
        expected = float(source.mean())
        first: list[float]
        second: list[float]
        case = f"{N_MEANS} × np.mean of one array"

        def run(means: Callable[[Any], list[float]], data: Any) -> None:
            found = means(data)
            if data.size == n:
                check_means(found, expected, N_MEANS)

        for settings, means in self.offer.means.items():
            # Workers import NumPy now; nothing of the array's size is left lying about.
            run(means, source[:1000].copy())
            first, second = [], []
            data = source.copy()
            n_bytes = memory.growth(functools.partial(append_seconds, first, functools.partial(run, means, data)))
            if first[0] < SLOW_MEANS_S:
                # Not that one: while memory is watched everything takes a little longer.
                first.clear()
                for _ in range(3):
                    data = source.copy()
                    append_seconds(first, functools.partial(run, means, data))
                    append_seconds(second, functools.partial(run, means, data))
            yield figure(f"{case}, first call", settings, size, Timing(tuple(first)))
            if second:
                yield figure(f"{case}, second call", settings, size, Timing(tuple(second)))
            growth = Timing((n_bytes / source.nbytes,))
            yield figure(f"{case}, growth of memory", settings, size, growth, unit="× the array")
            del data

    def blocks(self) -> Iterator[Figure]:
        """Tasks that return large arrays."""
        n = max(8, N_BLOCKS // self.shrink)
        for settings, run_map in itertools.islice(self.offer.maps.items(), 1):

            def run(run_map: Map = run_map) -> None:
                check_blocks(list(run_map(block, range(n))), n)

            timing = measure.measure_within(run, 3, BUDGET_S)
            yield figure("tasks that return 16 MiB each", settings, str(n), timing)

    def _granularity(self, case: str, settings: str, run: Callable[[int, int], object]) -> Figure:
        found = metg.smallest_task(
            run,
            turn_s=self.turn_s,
            n_workers=N_WORKERS,
            first_s=1.6e-2,
            work_s=0.1 / self.shrink,
            n_runs=3 if self.is_ours else 1,
            limit_s=METG_LIMIT_S * (4 if self.is_ours else 1) / self.shrink,
        )
        is_found = math.isfinite(found.enough_s)
        timing = Timing((found.enough_s if is_found else found.too_small_s,))
        return figure(case, settings, "a task", timing, prefix="" if is_found else "> ")

    def metg_map(self) -> Iterator[Figure]:
        """The smallest task worth a call, in the engine's default way."""
        if not self.computes_in_parallel:
            return
        for settings, run_map in itertools.islice(self.offer.maps.items(), 1):
            run = functools.partial(spin_map, run_map)
            yield self._granularity("METG 50 %, map", settings, run)

    def metg_tree(self) -> Iterator[Figure]:
        """The smallest task worth a place in a graph."""
        if self.computes_in_parallel and self.offer.graph is not None:
            graph = self.offer.graph

            def run(n_tasks: int, n_turns: int) -> None:
                graph.compute([spin_tree(graph.lazy, n_tasks, n_turns)])

            yield self._granularity("METG 50 %, tree", graph.settings, run)

    def _makespans(self, plans: list[makespan.Plan], n_runs: int) -> Iterator[Figure]:
        for settings, run_map in itertools.islice(self.offer.maps.items(), int(self.computes_in_parallel)):
            for plan in plans:
                ratios = []
                for _ in range(n_runs):
                    begin = time.perf_counter()
                    taken_s = makespan.spinning(plan, run_map, self.turn_s)
                    ratios.append((time.perf_counter() - begin) / makespan.bound_s(taken_s, N_WORKERS))
                yield figure(f"makespan, {plan.name}", settings, "", Timing(tuple(ratios)), unit="× the bound")

    def makespan_few(self) -> Iterator[Figure]:
        """4 slow and 12 fast tasks."""
        yield from self._makespans(makespan.few(self.shrink), 3)

    def makespan_many(self) -> Iterator[Figure]:
        """10 000 tasks of 100 µs with four slow ones at the end."""
        yield from self._makespans(makespan.many(self.shrink)[-1:], 3 if self.is_ours else 1)

    def shape(self, name: str) -> Iterator[Figure]:
        """A well-known graph."""
        graph = self.offer.graph
        if graph is None:
            return
        shape = next(shape for shape in all_shapes(self.turn_s) if shape.name.startswith(name))
        for n, timing in grown(functools.partial(drawn, shape, graph), self.sizes_of(shape), is_every=self.is_ours):
            yield figure(shape.name, graph.settings, shape.label(n), timing)

    def sizes_of(self, shape: Shape) -> list[int]:
        """The sizes of a shape, only the smallest in a quick run."""
        return list(shape.sizes if self.shrink == 1 else shape.sizes[:1])


def drawn(shape: Shape, graph: Graph, n: int) -> None:
    """Draw a shape, compute it, and compare with what it gives without an engine."""
    found = graph.compute(shape.draw(graph.lazy, n))
    expected = expected_of(shape.name, shape.draw, n)
    if found != expected:
        raise AssertionError(f"{shape.name} gave {found}, not {expected}")


_EXPECTED: dict[tuple[str, int], list[Any]] = {}


def expected_of(name: str, draw: Callable[[Any, int], list[Any]], n: int) -> list[Any]:
    """The results of a shape, computed at once when first asked for."""
    if (name, n) not in _EXPECTED:
        _EXPECTED[name, n] = draw(at_once, n)
    return _EXPECTED[name, n]


def first_result(engine: Engine, shrink: int) -> Iterator[Figure]:
    """Import, start and one task, in fresh interpreters."""
    if not engine.first_result:
        return
    runs_s: list[float] = []
    begin = time.perf_counter()
    while len(runs_s) < N_RUNS and (not runs_s or time.perf_counter() - begin < 2 * BUDGET_S / shrink):
        runs_s.append(measure.run_fresh(engine.first_result).inside_s)
    yield figure("first result, fresh", "import, start, one task", "1", Timing(tuple(runs_s)))


SHAPE_NAMES = ("tree", "merge", "nested loops", "merge_slow", "bag", "crossv", "nestedcrossv", "groupby", "join")

CASES: dict[str, Callable[[Cases], Iterator[Figure]]] = {
    "map": Cases.map,
    "graph": Cases.graph,
    "submit": Cases.round_trip,
    "means": Cases.means,
    "blocks": Cases.blocks,
    "METG map": Cases.metg_map,
    "METG tree": Cases.metg_tree,
    "makespan of few": Cases.makespan_few,
    "makespan of many": Cases.makespan_many,
    **{f"shape {name}": functools.partial(Cases.shape, name=name) for name in SHAPE_NAMES},
}
LIMITS_S = {
    "open": 60.0,
    "first result": 40.0,
    "means": 90.0,
    "map": 60.0,
}
LIMIT_S = 40.0
