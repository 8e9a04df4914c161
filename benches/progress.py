"""What it costs to be shown how far a call has come: the same calls with a bar and without, by turns.

The bar stands in a terminal of its own (a pseudo-terminal that somebody reads), so it costs what it costs a person::

    python -m benches.progress            # 100 000 no-ops, a million, and tasks that compute for 2 s in all
    python -m benches.progress --write    # and puts the table into benches/RESULTS.md
    python -m benches.progress --quick    # a size that says nothing about speed

A bar may cost a hundredth of a call at most. Calls that are over before it is first drawn, after a tenth of a second,
pay for the line that stays.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

import manyhands as mh
from benches import measure

TURN_S = 0.001

#: What a call may take with a bar, of what it takes without.
RATIO_MAX = 1.01
HEADER = ("scheduler", "tasks", "without a bar", "with one", "ratio", "reach", "reached")


def noop(_: Any) -> None:
    """Do nothing."""


def turn(_: Any) -> None:
    """Compute for a millisecond."""
    until = time.perf_counter() + TURN_S
    while time.perf_counter() < until:
        pass


def terminal() -> TextIO:
    """A file that is a terminal; what is written there is read and forgotten."""
    master, slave = pty.openpty()

    def read() -> None:
        try:
            while os.read(master, 1 << 16):
                pass
        except OSError:  # the program has ended
            pass

    threading.Thread(target=read, daemon=True).start()
    return open(slave, "w", encoding="utf-8")


def seconds(call: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def compare(call: Callable[[Any], object], shown: mh.ProgressBar, n_pairs: int) -> tuple[float, float, float]:
    """Medians of the times without and with, and of the ratios of neighbours. Who goes first changes."""
    call(False), call(shown)
    plain, drawn = [], []
    for pair in range(n_pairs):
        for is_drawn in (pair % 2 == 0, pair % 2 == 1):
            (drawn if is_drawn else plain).append(seconds(lambda: call(shown if is_drawn else False)))  # noqa: B023
    ratios = [with_bar / without for without, with_bar in zip(plain, drawn, strict=True)]
    return statistics.median(plain), statistics.median(drawn), statistics.median(ratios)


def row(scheduler: str, tasks: str, plain_s: float, drawn_s: float, ratio: float) -> tuple[str, ...]:
    """What is said of one case."""
    reached = "yes" if round(ratio, 4) <= RATIO_MAX else "NO"
    times = (measure.duration(plain_s), measure.duration(drawn_s))
    return scheduler, tasks, *times, f"{ratio:.4f}", f"≤ {RATIO_MAX:g}", reached


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a size that says nothing about speed")
    parser.add_argument("--write", action="store_true", help="put the table into benches/RESULTS.md")
    parser.add_argument("--pairs", type=int, default=31, help="how often each is measured, with and without by turns")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick says nothing that is worth writing down")
    scale, n_pairs = (100, 2) if options.quick else (1, options.pairs)
    shown = mh.ProgressBar(file=terminal())
    where = f"{measure.machine()}; 2 workers, {n_pairs} pairs of runs"
    print(where)
    rows = []
    for scheduler in ("processes", "threads", "synchronous"):
        cases = [("no-ops", noop, 100_000 // scale), ("no-ops", noop, 1_000_000 // scale)]
        cases.append(("tasks of 1 ms", turn, 2_000 // scale))
        for name, function, n_tasks in cases:

            def call(progress: Any, function: Any = function, n: int = n_tasks, where: str = scheduler) -> object:
                return mh.map(function, range(n), scheduler=where, num_workers=2, progress=progress)

            plain, drawn, ratio = compare(call, shown, n_pairs if n_tasks <= 100_000 else max(n_pairs // 3, 2))
            rows.append(row(scheduler, f"{n_tasks} {name}", plain, drawn, ratio))
            print("  ".join(rows[-1]), flush=True)
    text = measure.table(HEADER, rows)
    print(f"\n{text}")
    if options.write:
        about = "Medians; the ratio is that of neighbouring runs. A third as many pairs of a million tasks"
        measure.write_section("progress", f"## What a progress bar costs\n\n{where}. {about}.\n\n{text}")


if __name__ == "__main__":
    main()
