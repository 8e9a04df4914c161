"""Jobs of Dask's collections, the same for every scheduler: how they are drawn, and what must come out.

A job is given the keywords of ``compute`` that say where it runs.
"""

import bz2
import collections
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

N_ROWS = 10
"""Rows of each part of a frame."""
N_FILES = 22
FIRST_YEAR = 1987
CARRIERS = ("AA", "AZ", "DL", "IB", "LX", "UA", "WN")
# Text that is not the same bytes in UTF-8.
TOWNS = ("Zürich", "Málaga", "São Paulo", "Orléans", "Düsseldorf", "Chicago", "Atlanta")
COLUMNS = "Year,Month,DayofMonth,DepTime,ArrTime,UniqueCarrier,FlightNum,ArrDelay,DepDelay,Origin,Dest,Distance"

Compute = dict[str, Any]
"""Keywords of ``compute``."""


@dataclass(frozen=True)
class Job:
    """A collection of a size, and what must come out."""

    name: str
    n: int
    """The size that gives at least 10 000 tasks."""
    draw: Callable[[int], Any]
    check: Callable[[Any, int], None]


def array(n: int) -> Any:
    """An expression over n × n blocks of 16 × 16, some of whose tasks read two blocks far apart."""
    import dask.array as da

    x = da.ones((16 * n, 16 * n), chunks=16)
    return ((x + 1) * 2 + x.T).sum()


def check_array(result: Any, n: int) -> None:
    """Compare with what must come out."""
    if float(result) != 5.0 * (16 * n) ** 2:
        raise AssertionError(f"the sum is {result}, not {5.0 * (16 * n) ** 2}")


@functools.cache
def frame_of(n: int) -> Any:
    """A frame of n parts."""
    import dask.dataframe as dd
    import pandas as pd

    n_rows = N_ROWS * n
    frame = pd.DataFrame({"key": [i * 7919 % n for i in range(n_rows)], "value": range(n_rows)})
    return dd.from_pandas(frame, npartitions=n)


def frame(n: int) -> Any:
    """The sum over all parts of two columns."""
    whole = frame_of(n)
    return (whole.value + whole.key).sum()


def check_frame(result: Any, n: int) -> None:
    """Compare with what must come out."""
    n_rows = N_ROWS * n
    expected = n_rows * (n_rows - 1) // 2 + sum(i * 7919 % n for i in range(n_rows))
    if int(result) != expected:
        raise AssertionError(f"the sum is {result}, not {expected}")


def shuffle(n: int) -> Any:
    """Each row goes to the part that its key says, through all parts."""
    return frame_of(n).shuffle("key", shuffle_method="tasks").map_partitions(len)


def check_shuffle(counts: Any, n: int) -> None:
    """Compare with what must come out."""
    if sum(counts) != N_ROWS * n:
        raise AssertionError(f"{sum(counts)} rows have come back, of {N_ROWS * n}")


ARRAY = Job("array", 75, array, check_array)
FRAME = Job("dataframe, a sum", 5000, frame, check_frame)
SHUFFLE = Job("dataframe, a shuffle", 260, shuffle, check_shuffle)


def ready(job: Job, n: int) -> tuple[dict[Any, Any], list[Any], Callable[[Any], Any]]:
    """The graph of a job as Dask has optimised it, the keys that are wanted, and what makes one result of theirs."""
    import dask

    collection = job.draw(n)
    # Of frames, the expression has to be optimised before there is a graph.
    optimised = collection.optimize() if hasattr(collection, "optimize") else dask.optimize(collection)[0]
    finish, args = optimised.__dask_postcompute__()
    graph = dict(optimised.__dask_graph__())
    return graph, list(optimised.__dask_keys__()), lambda results: finish(results, *args)


def loop(graph: dict[Any, Any], keys: list[Any]) -> Callable[[], list[Any]]:
    """What calls a graph's tasks one after the other, and returns what they take without any scheduler: the results.

    Order, and how many tasks read each result, are found beforehand. A result goes when its last reader has it.
    """
    from dask._task_spec import convert_legacy_graph
    from dask.order import order

    tasks = convert_legacy_graph(graph)
    rank = order(graph)
    turns = [(key, tasks[key], tuple(tasks[key].dependencies)) for key in sorted(tasks, key=rank.__getitem__)]
    n_readers = collections.Counter(key for _, _, inputs in turns for key in inputs) + collections.Counter(keys)

    def run() -> list[Any]:
        results: dict[Any, Any] = {}
        left = n_readers.copy()
        for key, task, inputs in turns:
            results[key] = task({name: results[name] for name in inputs})
            for name in inputs:
                left[name] -= 1
                if left[name] == 0:
                    del results[name]
        return [results[key] for key in keys]

    return run


def moments(n: int, compute: Compute) -> None:
    """Columns of random numbers in n blocks of 8 MB: standardised, and the matrix of their second moments."""
    import dask.array as da
    import numpy as np

    x = da.random.default_rng(1).normal(3.0, 2.0, size=(10_000 * n, 100), chunks=(10_000, 100))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    found = (z.T @ z / x.shape[0]).compute(**compute)
    if found.shape != (100, 100) or not np.allclose(np.diag(found), 1.0):
        raise AssertionError(f"the variances of columns that were standardised are {np.diag(found)}")


@functools.cache
def flights(n_rows: int) -> tuple[tempfile.TemporaryDirectory[str], str]:
    """A file for each year, in latin1 and compressed; made once, and gone with the process."""
    import numpy as np

    folder = tempfile.TemporaryDirectory(prefix="manyhands-flights-")
    for i in range(N_FILES):
        random = np.random.default_rng(i)
        delays = random.normal(7, 30, n_rows).astype(int)
        columns = [
            np.full(n_rows, FIRST_YEAR + i),
            random.integers(1, 13, n_rows),
            random.integers(1, 29, n_rows),
            random.integers(0, 2400, n_rows),
            random.integers(0, 2400, n_rows),
            random.choice(CARRIERS, n_rows),
            random.integers(1, 8000, n_rows),
            delays,
            delays + random.integers(-5, 6, n_rows),
            random.choice(TOWNS, n_rows),
            random.choice(TOWNS, n_rows),
            random.integers(50, 5000, n_rows),
        ]
        text = "\n".join([COLUMNS, *map(",".join, zip(*(column.astype(str) for column in columns)))])
        path = Path(folder.name, f"{FIRST_YEAR + i}.csv.bz2")
        path.write_bytes(bz2.compress((text + "\n").encode("latin1")))
    return folder, f"{folder.name}/*.csv.bz2"


@functools.cache
def expected_delays(n_rows: int) -> tuple[int, int, dict[str, float]]:
    """What pandas finds in all files, one after the other."""
    import pandas as pd

    paths = sorted(Path(flights(n_rows)[0].name).glob("*.csv.bz2"))
    frame = pd.concat([pd.read_csv(path, encoding="latin1") for path in paths])
    means = frame.groupby("Origin").ArrDelay.mean()
    return int(frame.ArrDelay.min()), int(frame.ArrDelay.max()), dict(means)


def airline(n_rows: int, compute: Compute) -> None:
    """The least and the greatest delay and the mean for each town, read from 22 files in one graph."""
    import dask
    import dask.dataframe as dd

    frame = dd.read_csv(flights(n_rows)[1], encoding="latin1", blocksize=None)
    delay = frame.ArrDelay
    least, greatest, means = dask.compute(delay.min(), delay.max(), frame.groupby("Origin").ArrDelay.mean(), **compute)
    expected = expected_delays(n_rows)
    if (least, greatest) != expected[:2] or set(means.index) != set(TOWNS):
        raise AssertionError(f"delays from {least} to {greatest} in {list(means.index)}, not {expected}")
    if any(abs(means[town] - mean) > 1e-9 for town, mean in expected[2].items()):
        raise AssertionError(f"the means are {dict(means)}, not {expected[2]}")
