"""Contests: several ways to the same result, by turns in one process: what else the machine does falls on all alike."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benches.measure import Timing, duration

HEADER = ("case", "size", "engine", "settings", "median", "runs", "times ours", "reach", "reached")

N_RUNS_MIN = 3
MODERATE_S = 3.5
"""So many runs of at most this are worth more than the budget."""

Record = dict[str, Any]
"""``{"row": cells}``, the last of which begins with "NO" where something is not reached."""


@dataclass(frozen=True)
class Way:
    """How one engine does it."""

    engine: str
    settings: str
    run: Callable[[], object]
    reach: float | None = None
    """How many times as long as ours it is to take at least, if that is promised."""
    n_workers: int | None = None
    """Of a way without workers: how many the others have. None of them can be faster than its share of this one."""


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

    The first run of each does not count, unless it takes very long. Every way has its share of the budget, which it
    may exceed for three runs of a few seconds, or for one.
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
            if way in failed or not _may_run_again(contest, firsts[way], found[way], share_s):
                continue
            taken_s = take(way)
            if taken_s is not None:
                found[way].append(taken_s)
    timings: dict[Way, Timing | str] = {}
    for way in contest.ways:
        runs_s = found.get(way) or ([firsts[way]] if way in firsts else [])
        timings[way] = failed[way] if way in failed else Timing(tuple(runs_s))
    return timings


def _may_run_again(contest: Contest, first_s: float, runs_s: list[float], share_s: float) -> bool:
    if not runs_s:
        return first_s <= contest.long_s
    return sum(runs_s) + runs_s[-1] <= share_s or (len(runs_s) < N_RUNS_MIN and runs_s[-1] < MODERATE_S)


def _least_s(timings: dict[Way, Timing | str]) -> float | None:
    """What no engine can do without, as far as it is known: a share of the time without any."""
    for way, timing in timings.items():
        if way.n_workers is not None and isinstance(timing, Timing):
            return timing.median_s / way.n_workers
    return None


def hold(contest: Contest) -> Iterator[Record]:
    """Measure all ways; a row for each."""
    timings = measure_ways(contest)
    ours = timings[contest.ways[0]]
    least_s = _least_s(timings)
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
        if reached == "NO" and way.reach and least_s and timing.median_s / least_s < way.reach:
            reached = f"NO (at best {times(timing.median_s / least_s)})"
        yield {"row": [*cells, reach, reached]}


def times(ratio: float) -> str:
    """A ratio, with two figures where it is small."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"
