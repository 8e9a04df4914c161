"""Jobs of Dask's collections, the same for every scheduler: how they are drawn, and what must come out.

Each job is given the keywords of ``compute`` that say where it runs.
"""

import bz2
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_FILES = 22
FIRST_YEAR = 1987
CARRIERS = ("AA", "AZ", "DL", "IB", "LX", "UA", "WN")
# Text that is not the same bytes in UTF-8.
TOWNS = ("Zürich", "Málaga", "São Paulo", "Orléans", "Düsseldorf", "Chicago", "Atlanta")
COLUMNS = "Year,Month,DayofMonth,DepTime,ArrTime,UniqueCarrier,FlightNum,ArrDelay,DepDelay,Origin,Dest,Distance"

Compute = dict[str, Any]
"""Keywords of ``compute``."""


def array_graph(n: int) -> Any:
    """An array expression over n × n blocks of 16 × 16, some of whose tasks read two blocks far apart."""
    import dask.array as da

    x = da.ones((16 * n, 16 * n), chunks=16)
    return ((x + 1) * 2 + x.T).sum()


def check_array(result: Any, n: int) -> None:
    """Compare with what must come out."""
    if float(result) != 5.0 * (16 * n) ** 2:
        raise AssertionError(f"the sum is {result}, not {5.0 * (16 * n) ** 2}")


def array(n: int, compute: Compute) -> None:
    """Draw an array, and compute it."""
    check_array(array_graph(n).compute(**compute), n)


@functools.cache
def ready_array(n: int) -> tuple[dict[Any, Any], list[Any]]:
    """The graph of the array as Dask has optimised it, and its keys."""
    import dask

    (optimised,) = dask.optimize(array_graph(n))
    return dict(optimised.__dask_graph__()), list(optimised.__dask_keys__())


def array_graph_alone(n: int, get: Callable[..., Any]) -> int:
    """Run the graph alone; how many tasks it has."""
    graph, keys = ready_array(n)
    check_array(get(graph, keys)[0], n)
    return len(graph)


@functools.cache
def shuffled_frame(n: int) -> Any:
    """A frame of n parts, each row of which goes to the part that its key says."""
    import dask.dataframe as dd
    import pandas as pd

    n_rows = 50 * n
    frame = pd.DataFrame({"key": [i * 7919 % n for i in range(n_rows)], "value": range(n_rows)})
    return dd.from_pandas(frame, npartitions=n)


def shuffle(n: int, compute: Compute) -> None:
    """Group the rows of a frame by their key, through all of its n parts: about n² small tasks."""
    import dask

    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        counts = shuffled_frame(n).shuffle("key").map_partitions(len).compute(**compute)
    if sum(counts) != 50 * n:
        raise AssertionError(f"{sum(counts)} rows have come back, of {50 * n}")


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
