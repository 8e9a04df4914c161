"""What a checkpoint costs: ``python -m benches.checkpoints [number of tasks] [folder]``.

Maps of a function that does nothing, without and with a checkpoint, and once more with all results there. The folder,
by default the present one, should be on the disk that matters: each sync waits for it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import manyhands as mh

N_RUNS = 5


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


def main(n_tasks: int, folder: str) -> None:
    """Print a table."""
    print(f"{n_tasks} tasks; microseconds a task, medians of {N_RUNS} runs")
    print(f"{'scheduler':12} {'without':>8} {'more with':>10} {'all there':>10} {'bytes':>6}")
    for scheduler in ("synchronous", "threads", "processes", "fork"):
        where = {"scheduler": scheduler, "num_workers": 2}
        seconds(n_tasks // 10 + 1, **where)
        rows = []
        for _ in range(N_RUNS):
            with tempfile.TemporaryDirectory(dir=folder) as inside:
                path = Path(inside) / "study.mh"
                plain = seconds(n_tasks, **where)
                first = seconds(n_tasks, checkpoint=path, **where)
                again = seconds(n_tasks, checkpoint=path, **where)
                rows.append((plain, first - plain, again, path.stat().st_size / 1e6))
        plain, more, again, size = (statistics.median(column) / n_tasks * 1e6 for column in zip(*rows))
        print(f"{scheduler:12} {plain:8.2f} {more:10.2f} {again:10.2f} {size:6.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, sys.argv[2] if len(sys.argv) > 2 else ".")
