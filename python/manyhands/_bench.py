"""``manyhands bench``: the schedulers of this machine beside each other, and beside concurrent.futures."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import statistics
import sys
import time
import warnings
import zlib
from typing import TYPE_CHECKING

import manyhands as mh
from manyhands import config
from manyhands._doctor import duration
from manyhands._selftest import nothing, rounds, spin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

N_CALLS = 5_000
N_SUBMITTED = 50
N_BYTES_READ = 32 << 20
N_READERS = 8
WORK_S = 0.05
# Each figure is the median of so many runs, or of fewer where they take long.
N_RUNS = 3
RUNS_S = 0.5


class Engine:
    """Something that can run calls."""

    name = "a plain loop"

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Call a function with each item."""
        return [function(item) for item in items]

    def submit(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Call a function in the background, and wait for it."""
        return function(item)

    @contextlib.contextmanager
    def open(self, n_workers: int) -> Iterator[None]:
        """Have so many workers in the block."""
        yield


class Ours(Engine):
    """One of our schedulers."""

    def __init__(self, scheduler: str) -> None:
        self.name = scheduler

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Call a function with each item."""
        return mh.map(function, items)

    def submit(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Call a function in the background, and wait for it."""
        return mh.submit(function, item).result()

    @contextlib.contextmanager
    def open(self, n_workers: int) -> Iterator[None]:
        """Have so many workers in the block."""
        with config.set(scheduler=self.name, num_workers=n_workers):
            yield
        mh.shutdown()


class Executor(Engine):
    """An executor of the standard library, as it is by default."""

    def __init__(self, kind: type[concurrent.futures.Executor], name: str) -> None:
        self.name = name
        self._kind = kind
        self._executor: concurrent.futures.Executor | None = None

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Call a function with each item."""
        assert self._executor is not None
        return list(self._executor.map(function, items))

    def submit(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Call a function in the background, and wait for it."""
        assert self._executor is not None
        return self._executor.submit(function, item).result()

    @contextlib.contextmanager
    def open(self, n_workers: int) -> Iterator[None]:
        """Have so many workers in the block."""
        with self._kind(n_workers) as self._executor:  # type: ignore[call-arg]
            yield


def engines() -> list[Engine]:
    """All that are compared. Those of the standard library fork before there are threads of ours."""
    ours: list[Engine] = [Ours("threads"), Ours("processes")]
    if sys.platform.startswith("linux"):
        ours.append(Ours("fork"))
    futures = [
        Executor(concurrent.futures.ProcessPoolExecutor, "futures: processes"),
        Executor(concurrent.futures.ThreadPoolExecutor, "futures: threads"),
    ]
    return [Engine(), *futures, *ours]


def median(run: Callable[[], object]) -> float:
    """How many seconds something takes."""
    times: list[float] = []
    while len(times) < N_RUNS and sum(times) < RUNS_S:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


CASES = (
    "first result, from nothing",
    "a call that does nothing, in a map",
    "submit to result, one at a time",
    "Python code that takes {work}",
    "{n_readers} calls that read one object of {read} MiB",
)


def measure(engine: Engine, n_workers: int, n_rounds: int) -> list[float]:
    """The figures of an engine, in seconds, in the order of `CASES`."""
    begin = time.perf_counter()
    with engine.open(n_workers):
        engine.map(abs, [-1])
        first_s = time.perf_counter() - begin
        engine.map(nothing, range(2 * n_workers))  # until there are all workers
        call_s = median(lambda: engine.map(nothing, range(N_CALLS))) / N_CALLS
        submit_s = median(lambda: [engine.submit(abs, -1) for _ in range(N_SUBMITTED)]) / N_SUBMITTED
        work_s = median(lambda: engine.map(spin, [n_rounds] * (4 * n_workers)))
        # Other contents each time: what is known from before need not be copied again.
        fill = itertools.count(1)
        read_s = median(lambda: engine.map(zlib.crc32, [bytes([next(fill)]) * N_BYTES_READ] * N_READERS))
    return [first_s, call_s, submit_s, work_s, read_s]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows beneath their head, in columns."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows]
    first = "  ".join([head[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(head[1:], widths[1:]))])
    return "\n".join([first, "-" * len(first), *lines])


def main() -> int:
    """Measure, and print the table."""
    n_workers = config.resolve()[1]
    n_rounds = rounds(WORK_S)
    compared = engines()
    columns = []
    with warnings.catch_warnings():
        # concurrent.futures forks where there are threads: its own are meant.
        warnings.simplefilter("ignore", DeprecationWarning)
        for engine in compared:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[K{engine.name} ...")
                sys.stderr.flush()
            columns.append(measure(engine, n_workers, n_rounds))
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    work_said = f"{duration(WORK_S)}, {4 * n_workers} times"
    cases = [case.format(work=work_said, n_readers=N_READERS, read=N_BYTES_READ >> 20) for case in CASES]
    rows = [[case, *(duration(column[i]) for column in columns)] for i, case in enumerate(cases)]
    workers = "1 worker" if n_workers == 1 else f"{n_workers} workers"
    print(f"manyhands {mh.__version__}, Python {sys.version.split()[0]}, {workers}; less is better\n")
    print(table(["", *(engine.name for engine in compared)], rows))
    return 0
