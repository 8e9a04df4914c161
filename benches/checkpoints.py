"""What a checkpoint costs: ``python -m benches.checkpoints [number of tasks] [folder]``.

Maps of a function that does nothing, without and with a checkpoint, and once more with all results there. The folder,
by default the present one, should be on the disk that matters: each sync waits for it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import manyhands as mh

N_RUNS = 5
SCHEDULERS = ("synchronous", "threads", "processes", "fork")
REACH_S = 30e-6
"""What a task may cost more with a checkpoint."""


@dataclass(frozen=True)
class Cost:
    """Seconds a task, medians."""

    plain_s: float
    more_s: float
    """What it takes longer when results are kept."""
    again_s: float
    """With all results there already."""
    n_bytes: float = 0.0
    """What one takes in the file."""


def noop(x: int) -> float:
    """Return a small result."""
    return x * 0.5


def seconds(n_tasks: int, **where: object) -> float:
    """How long a map takes."""
    began = time.perf_counter()
    results = mh.map(noop, range(n_tasks), **where)  # type: ignore[arg-type]
    took = time.perf_counter() - began
    assert results == [x * 0.5 for x in range(n_tasks)]
    return took


def _medians(rows: list[tuple[float, ...]], n_tasks: int) -> Cost:
    return Cost(*(statistics.median(column) / n_tasks for column in zip(*rows)))


def measure(scheduler: str, n_tasks: int, folder: str, n_runs: int = N_RUNS) -> Cost:
    """What a checkpoint in this folder costs on a scheduler."""
    where = {"scheduler": scheduler, "num_workers": 2}
    seconds(n_tasks // 10 + 1, **where)
    rows = []
    for _ in range(n_runs):
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            path = Path(inside) / "study.mh"
            plain = seconds(n_tasks, **where)
            first = seconds(n_tasks, checkpoint=path, **where)
            again = seconds(n_tasks, checkpoint=path, **where)
            rows.append((plain, first - plain, again, float(path.stat().st_size)))
    return _medians(rows, n_tasks)


def measure_joblib(n_tasks: int, folder: Path, n_runs: int) -> Cost:
    """What joblib's cache costs, where each result is kept in files of its own, and survives the program as well."""
    import joblib

    def loop(function: object) -> float:
        began = time.perf_counter()
        results = [function(x) for x in range(n_tasks)]  # type: ignore[operator]
        took = time.perf_counter() - began
        assert results == [x * 0.5 for x in range(n_tasks)]
        return took

    rows = []
    for i in range(n_runs):
        cached = joblib.Memory(folder / str(i), verbose=0).cache(noop)
        plain, first = loop(noop), loop(cached)
        rows.append((plain, first - plain, loop(cached)))
    return _medians(rows, n_tasks)


def main(n_tasks: int, folder: str) -> None:
    """Print a table."""
    print(f"{n_tasks} tasks; microseconds a task, medians of {N_RUNS} runs")
    print(f"{'scheduler':12} {'without':>8} {'more with':>10} {'all there':>10} {'bytes':>6}")
    for scheduler in SCHEDULERS:
        cost = measure(scheduler, n_tasks, folder)
        plain, more, again = (1e6 * value for value in (cost.plain_s, cost.more_s, cost.again_s))
        print(f"{scheduler:12} {plain:8.2f} {more:10.2f} {again:10.2f} {cost.n_bytes:6.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, sys.argv[2] if len(sys.argv) > 2 else ".")
