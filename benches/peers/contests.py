"""Contests: several ways to the same result, by turns in one process: what else the machine does falls on all alike."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benches.measure import Timing, duration

HEADER = ("case", "size", "engine", "settings", "median", "runs", "times ours", "reach", "reached")

Record = dict[str, Any]
"""``{"row": cells}``, the last of which is "NO" where something is not reached."""


@dataclass(frozen=True)
class Way:
    """How one engine does it."""

    engine: str
    settings: str
    run: Callable[[], object]
    reach: float | None = None
    """How many times as long as ours it is to take at least, if that is promised."""


@dataclass(frozen=True)
class Contest:
    """Ways to the same result; the first is ours, which the others are compared with."""

    case: str
    size: str
    ways: list[Way]
    check: Callable[[Any], object] | None = None
    """Raises an error if a result is not what must come out."""
    n_runs: int = 5
    budget_s: float = 12.0
    long_s: float = 20.0
    """A first run that takes longer counts, and is the only one."""


def _seconds(contest: Contest, way: Way) -> float:
    gc.collect()
    begin = time.perf_counter()
    result = way.run()
    taken_s = time.perf_counter() - begin
    if contest.check is not None:
        contest.check(result)
    return taken_s


def measure_ways(contest: Contest) -> dict[Way, Timing | str]:
    """The times of each way, or what it has failed with.

    The first run of each does not count, unless it takes very long. Every way has its share of the budget, which one
    run may exceed.
    """
    found: dict[Way, list[float]] = {}
    failed: dict[Way, str] = {}
    firsts: dict[Way, float] = {}

    def take(way: Way) -> float | None:
        try:
            return _seconds(contest, way)
        except Exception as failure:
            failed[way] = f"{type(failure).__name__}: {' '.join(str(failure).split())}"[:160]
            return None

    for way in contest.ways:
        first_s = take(way)
        if first_s is not None:
            firsts[way], found[way] = first_s, []
    share_s = contest.budget_s / len(contest.ways)
    for turn in range(contest.n_runs):
        begin = turn % len(contest.ways)
        for way in [*contest.ways[begin:], *contest.ways[:begin]]:
            if way in failed or (
                firsts[way] > contest.long_s if not found[way] else sum(found[way]) + found[way][-1] > share_s
            ):
                continue
            taken_s = take(way)
            if taken_s is not None:
                found[way].append(taken_s)
    timings: dict[Way, Timing | str] = {}
    for way in contest.ways:
        runs_s = found.get(way) or ([firsts[way]] if way in firsts else [])
        timings[way] = failed[way] if way in failed else Timing(tuple(runs_s))
    return timings


def hold(contest: Contest) -> Iterator[Record]:
    """Measure all ways; a row for each."""
    timings = measure_ways(contest)
    ours = timings[contest.ways[0]]
    for way in contest.ways:
        timing = timings[way]
        cells = [contest.case, contest.size, way.engine, way.settings]
        reach = "" if way.reach is None else f"≥ {way.reach:g} ×"
        if isinstance(timing, str):
            yield {"row": [*cells, timing, "", "", reach, ""]}
            continue
        ratio = None if isinstance(ours, str) or way is contest.ways[0] else timing.median_s / ours.median_s
        cells += [duration(timing.median_s), str(len(timing.runs_s)), "" if ratio is None else times(ratio)]
        reached = "" if ratio is None or way.reach is None else "yes" if ratio >= way.reach else "NO"
        yield {"row": [*cells, reach, reached]}


def times(ratio: float) -> str:
    """A ratio, with two figures where it is small."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"
