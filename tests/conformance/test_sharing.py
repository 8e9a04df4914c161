"""Large data arrive as they are, whatever they are, and results belong to who asked for them.

Where tasks run in other processes, most of this travels through shared memory (`test_shared.py` counts the copies);
here nothing is said of how.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scripts import check, run

import manyhands as mh

# Above the threshold set here, except for what travels apart from 64 KiB on.
N = 1000
N_BYTES = 1 << 16


@pytest.fixture(autouse=True)
def small_is_large(run_there):
    with mh.config.set({"shared_memory.threshold": 1024}):
        yield


@dataclasses.dataclass
class Study:
    """A class of the user's with large contents inside."""

    weights: np.ndarray
    notes: dict


def array_samples():
    base = np.random.default_rng(1).random((40, 50))
    readonly = base.copy()
    readonly.flags.writeable = False
    records = np.zeros(N, [("a", "i1"), ("b", "f8"), ("c", "U3")])
    records["b"] = np.arange(N)
    objects = np.array([1, "two", [3], None] * N, dtype=object)
    return {
        "C": base,
        "Fortran": np.asfortranarray(base),
        "empty": np.empty((0, 3)),
        "no dimensions": np.array(3.5),
        "rows": base[::2],
        "columns": base[:, 1:40:3],
        "transposed part": base.T[1:],
        "negative strides": base[::-1, ::-2],
        "three dimensions": base.reshape(10, 20, 10).transpose(1, 2, 0)[1:],
        "broadcast": np.broadcast_to(base[0], (30, 50)),
        "readonly": readonly,
        "part of a readonly one": readonly[::2],
        "records": records,
        "a field": records["b"],
        "part of records": records[::3],
        "dates": np.arange(N).astype("datetime64[h]"),
        "every other date": np.arange(2 * N).astype("datetime64[us]")[::2],
        "durations": np.arange(N).astype("timedelta64[s]"),
        "big-endian": base.astype(">f4"),
        "part of big-endian": base.astype(">i8")[:, ::2],
        "big-endian dates": np.arange(N).astype(">M8[s]"),
        "text": np.arange(N).astype("U5"),
        "part of text": np.arange(2 * N).astype("S5")[::2],
        "booleans": (base > 0.5)[::2],
        "complex": (base + 1j * base)[:, ::2],
        "half precision": base.astype("f2"),
        "masked": np.ma.masked_greater(base, 0.5),
        "part of masked": np.ma.masked_greater(base, 0.5)[::2],
        "matrix": np.asmatrix(base),
        "objects": objects,
        "part of objects": objects[::2],
    }


def frame_samples():
    frame = pd.DataFrame(np.random.default_rng(2).random((N, 4)), columns=list("abcd"))
    frame["text"] = [f"row {i}" for i in range(N)]
    frame["kind"] = pd.Categorical(["x", "y"] * (N // 2), categories=["y", "x", "z"], ordered=True)
    frame["when"] = pd.date_range("2020-01-01", periods=N, freq="h", tz="Europe/Vienna")
    frame["day"] = pd.date_range("2020-01-01", periods=N)
    frame["maybe"] = pd.array([1, None] * (N // 2), dtype="Int64")
    return {
        "frame": frame,
        "part of a frame": frame.iloc[::2, 1:],
        "Arrow-backed frame": frame.drop(columns="kind").convert_dtypes(dtype_backend="pyarrow"),
        "frame by several indices": frame.set_index(["kind", "text"]),
        "empty frame": frame.iloc[:0],
        "series": frame["a"],
        "text of objects": frame["text"].astype(object),
        "categories": frame["kind"],
    }


def table_samples():
    import pyarrow as pa

    words = [f"word {i}" for i in range(N)]
    table = pa.table({"n": np.arange(N), "words": words, "kinds": pa.array(words).dictionary_encode()})
    return {
        "Arrow table": table,
        "part of an Arrow table": table.slice(3, N // 2),
        "Arrow array": table["words"],
    }


def other_samples():
    from scipy import sparse

    matrix = sparse.random(200, 200, 0.1, random_state=3, format="csr")
    data = np.random.default_rng(4).bytes(N_BYTES)
    return {
        "csr": matrix,
        "csc": matrix.tocsc(),
        "coo": matrix.tocoo(),
        "empty csr": sparse.csr_matrix((100, 100)),
        "bytes": data,
        "bytearray": bytearray(data),
        "short bytes": b"short",
        "no bytes": b"",
        "bytes inside": [{"a": (data, bytearray(data))}, {"b": data}],
        "long text": "word " * N_BYTES,
        "text inside": ["word " * N_BYTES, data, "another" * N_BYTES],
        "object": Study(np.arange(float(N))[::2], {"raw": [data, bytearray(data)]}),
    }


SAMPLES = {"arrays": array_samples, "frames": frame_samples, "tables": table_samples, "others": other_samples}


def array_essence(array):
    if isinstance(array, np.ma.MaskedArray):
        return [type(array), array_essence(array.data), array_essence(array.mask), repr(array.fill_value)]
    content = array.tolist() if array.dtype.hasobject else array.tobytes()
    return [type(array), array.dtype, array.shape, content]


def essence(value):
    """What must stay the same, in plain objects."""
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, np.ndarray):
        return array_essence(value)
    if isinstance(value, pd.Series):
        return essence(value.to_frame())
    if isinstance(value, pd.DataFrame):
        return [repr(value.dtypes.to_dict()), repr(value.index.tolist()), repr(value.to_dict("list"))]
    if package == "pyarrow":
        return [repr(value.type if hasattr(value, "type") else value.schema), value.to_pylist()]
    if package == "scipy":
        return [value.format, value.dtype, value.shape, value.toarray().tobytes()]
    if isinstance(value, Study):
        return [essence(value.weights), repr(value.notes)]
    return [type(value), bytes(value) if isinstance(value, bytearray) else value]


def look(value):
    """What a task sees of its argument, and the argument."""
    writeable = value.flags.writeable if isinstance(value, np.ndarray) else None
    return essence(value), writeable, value


@pytest.mark.parametrize("kind", SAMPLES)
def test_data_arrive_and_return_as_they_were(kind):
    samples = SAMPLES[kind]()
    seen = mh.map(look, samples.values())
    again = mh.compute([mh.delayed(look)(value) for value in samples.values()])[0]
    for results in (seen, again):
        for (name, value), (arrived, writeable, returned) in zip(samples.items(), results, strict=True):
            assert arrived == essence(value), name
            assert essence(returned) == essence(value), name
            if type(value) is np.ndarray:
                assert writeable == value.flags.writeable, name


def test_memory_maps_arrive_as_they_were(tmp_path):
    mapped = np.memmap(tmp_path / "data", "f8", "w+", shape=(100, 20))
    mapped[:] = np.arange(2000).reshape(100, 20)
    for value in (mapped, mapped[::2], mapped.T[1:]):
        ((arrived, _, returned),) = mh.map(look, [value])
        assert arrived == essence(value)
        np.testing.assert_array_equal(returned, value)


def clear(value):
    if isinstance(value, bytearray):
        value[:] = bytes(len(value))
    elif isinstance(value, pd.DataFrame):
        value.iloc[:, 0] = 0.0
    elif isinstance(value, Study):
        value.weights[:] = 0
        value.notes["raw"][1][:] = b""
    elif hasattr(value, "data") and not isinstance(value, np.ndarray):
        value.data[:] = 0
    else:
        value[...] = 0


@pytest.mark.parametrize(
    "kind, name",
    [
        *[
            ("arrays", name)
            for name in ("C", "Fortran", "rows", "transposed part", "negative strides", "part of masked")
        ],
        *[("frames", name) for name in ("frame", "part of a frame")],
        *[("others", name) for name in ("csr", "coo", "bytearray", "object")],
    ],
)
def test_a_task_may_write_to_its_argument_and_nobody_elsewhere_sees_it(kind, name, where):
    value = SAMPLES[kind]()[name]
    before = essence(value)

    def write(value):
        arrived = essence(value)
        clear(value)
        return arrived, essence(value)

    for _ in range(2):
        ((arrived, written),) = mh.map(write, [value])
        assert arrived == before
        assert written != before
        if not where.is_elsewhere:
            # The argument itself.
            assert essence(value) == written
            break
        assert essence(value) == before


def test_results_can_be_written_to():
    def make(n):
        array = np.arange(float(n)).reshape(-1, 10)
        return array, array[::2].copy().T, array[1::2], array[:, ::3] + 1, (array + 1).astype("M8[s]"), bytearray(8 * n)

    (results,) = mh.map(make, [10 * N])
    for result in results:
        first = result[:1] + result[1:2] if isinstance(result, bytearray) else result[1:2].copy()
        result[:1] = first
        assert essence(result[: len(first)]) == essence(first)


def test_a_result_is_the_same_whether_it_is_all_of_an_array_or_a_part():
    def part(step):
        return np.arange(6.0 * N).reshape(3, -1)[:, ::step]

    for step, result in zip((1, 2, -1, -3), mh.map(part, [1, 2, -1, -3]), strict=True):
        np.testing.assert_array_equal(result, np.arange(6.0 * N).reshape(3, -1)[:, ::step])


@pytest.mark.parametrize(
    "kind, names",
    [("arrays", ["C", "rows", "dates", "masked"]), ("frames", ["frame"]), ("others", ["bytes", "bytearray"])],
)
def test_what_is_one_object_here_is_one_object_in_the_task(kind, names):
    def is_one(first, second, inside):
        return first is second and inside["a"][0] is first and inside["b"] is first

    samples = SAMPLES[kind]()
    for name in names:
        value = samples[name]
        assert mh.map(is_one, [value], [value], [{"a": [value], "b": value}]) == [True]
        assert mh.compute(mh.delayed(is_one)(value, value, {"a": [value], "b": value})) == (True,)
        assert mh.submit(is_one, value, value, {"a": [value], "b": value}).result()


def test_what_is_one_object_in_a_result_is_one_object_here():
    def twice(n):
        data, array = bytearray(n), np.arange(float(n))[::2]
        return data, [data, array], {"array": array}

    (result,) = mh.map(twice, [2 * N_BYTES])
    assert result[0] is result[1][0]
    assert result[1][1] is result[2]["array"]


def test_a_memoryview_is_pickled_as_bytes():
    data = bytes(range(256)) * (N_BYTES // 256)
    assert mh.map(bytes, [memoryview(data)[3:]]) == [data[3:]]
    (back,) = mh.map(memoryview, [data])
    assert bytes(back) == data


# Once it has computed, Polars has threads, which processes do not survive being forked with; so it does in a program
# of its own.
POLARS = """
    import sys
    import numpy as np
    import polars as pl
    import manyhands as mh

    def look(value):
        if isinstance(value, pl.LazyFrame):
            return repr(value.collect().to_dict(as_series=False))
        if isinstance(value, pl.Series):
            return repr((value.name, value.dtype, value.to_list()))
        return repr((value.schema, value.rows()))

    mh.config.set({"scheduler": sys.argv[1], "num_workers": int(sys.argv[2]), "shared_memory.threshold": 1024})
    words = [f"word {i}" for i in range(1000)]
    frame = pl.DataFrame({"n": np.arange(1000), "words": words}).with_columns(
        pl.col("words").str.slice(0, 6).cast(pl.Categorical).alias("kinds"),
        pl.col("n").cast(pl.Datetime("us")).alias("when"),
        pl.concat_list("n", "n").alias("lists"),
    )
    large = pl.DataFrame({"n": np.arange(10000.0)})
    samples = [frame, frame[::2], frame[:0], frame["words"], large, large["n"], large.lazy().filter(pl.col("n") > 3)]
    try:
        seen = mh.map(lambda value: (look(value), value), samples)
    except mh.ForkError as error:
        assert sys.argv[1] == "fork" and "Polars" in str(error)
    else:
        assert sys.argv[1] != "fork"
        for value, (arrived, returned) in zip(samples, seen, strict=True):
            assert arrived == look(returned) == look(value)
    print("right")
"""


def test_polars_frames_arrive_and_return_as_they_were(where, tmp_path):
    check(run(tmp_path, POLARS, where.scheduler, where.num_workers), "right\n")
