"""What does not offer its buffers travels through shared memory as well: parts of arrays, dates, bytes deep inside."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import check, run, shared_info

import manyhands as mh

N = 100_000  # doubles: above the threshold
PLACES = {"scheduler": "processes", "num_workers": 2}


def total(x, *_):
    return float(np.sum(x))


def identity(x):
    return x


# Parts of arrays that lie apart


def parts_of(data):
    """Parts of an array of two dimensions, none of which is in one piece."""
    return {
        "rows": data[::2],
        "columns": data[:, 3:],
        "some of both": data[1::3, ::2],
        "backwards": data[::-1, ::-1],
        "transposed": data.T[2:],
        "three dimensions": data.reshape(-1, 5, data.shape[1]).transpose(1, 2, 0)[1:],
        "over and over": np.broadcast_to(data[0], (1000, data.shape[1])),
    }


@pytest.mark.parametrize("name", parts_of(np.empty((10, 10))))
def test_a_part_of_an_array_is_copied_once(name, counted):
    data = np.arange(4.0 * N).reshape(-1, 400)
    part = parts_of(data)[name]
    assert mh.map(total, [part] * 4, **PLACES) == [part.sum()] * 4
    assert counted() == (1, 3)
    assert mh.compute([mh.delayed(total)(part, i) for i in range(4)], **PLACES) == ([part.sum()] * 4,)
    if name != "over and over":  # a million bytes of three thousand: no two of them are looked at as the same
        assert counted() == (1, 7)


def test_the_memory_order_of_a_part_is_kept():
    def strides(x):
        return x.strides

    data = np.arange(4.0 * N).reshape(-1, 400)
    assert mh.map(strides, [data[:, ::2], data.T[::2], data[::-1, ::-1]], **PLACES) == [
        (1600, 8),
        (8, 1600),
        (3200, 8),
    ]
    cube = np.arange(4.0 * N).reshape(40, 100, 100).transpose(2, 0, 1)
    assert mh.map(strides, [cube, cube[::2]], **PLACES) == [cube.strides, (8, 40000, 400)]


def test_every_change_of_a_part_is_seen():
    data = np.zeros((400, 1000), np.uint8)
    part = data[1::2, 10:-10]
    for row, column in [(1, 10), (1, 989), (201, 500), (399, 10), (399, 989)]:
        for value in (1, 2):
            data[row, column] = value
            assert mh.map(total, [part] * 2, **PLACES) == [part.sum()] * 2
    data[0, 0] = data[2, 500] = data[1, 0] = 77
    assert mh.map(total, [part] * 2, **PLACES) == [part.sum()] * 2


def test_parts_that_begin_at_the_same_place_are_not_mixed_up():
    data = np.arange(4.0 * N).reshape(-1, 400)
    parts = [data[::2], data[::4], data[:, ::2], data[:, ::4], data[: len(data) // 2, ::2], data.T[:, ::2]]
    for _ in range(2):
        for back, part in zip(mh.map(identity, parts, **PLACES), parts, strict=True):
            np.testing.assert_array_equal(back, part)


def test_the_copy_of_a_part_goes_with_the_array():
    before = shared_info().n_bytes
    data = np.arange(4.0 * N).reshape(-1, 400)
    mh.map(total, [data[::2], data.T[::2]], **PLACES)
    assert mh.shared.info().n_bytes >= before + 2 * data.nbytes // 2
    del data
    assert mh.shared.info().n_bytes <= before


def test_memory_of_parts_that_is_used_again_is_another_array():
    for value in range(10):
        data = np.full((4, N), float(value))
        assert mh.map(total, [data[::2], data[1::2]], **PLACES) == [2.0 * value * N] * 2
        del data


def test_parts_of_results_are_copied_once(counted):
    def part(step):
        return np.arange(6.0 * N)[::step]

    (back,) = mh.map(part, [2], **PLACES)
    assert back.tolist() == list(range(0, 6 * N, 2))
    assert counted() == (1, 0)
    back[:] = 0
    assert mh.map(total, [back[::2]], **PLACES) == [0.0]


def test_parts_of_arrays_without_owner_are_not_taken_for_what_was_there_before(tmp_path):
    mapped = np.memmap(tmp_path / "data", "f8", "w+", shape=(4, N))
    data = np.frombuffer(bytearray(32 * N), "f8").reshape(4, N)
    for value in (1.0, 2.0):
        for array in (mapped, data):
            array[:] = value
            assert mh.map(total, [array[::2], array.T[::2]], **PLACES) == [2.0 * N * value, 2.0 * N * value]


def test_readonly_arrays_are_readonly_for_the_task():
    data = np.arange(4.0 * N).reshape(-1, 400)
    data.flags.writeable = False
    kinds = [data, data[::2], data.T[1:], data.view("M8[s]"), data.view("M8[s]")[::2]]
    assert mh.map(lambda x: x.flags.writeable, kinds, **PLACES) == [False] * len(kinds)
    assert mh.map(lambda x: x.flags.writeable, [kind.copy()[::2] for kind in kinds], **PLACES) == [True] * len(kinds)


def test_dates_are_copied_once(counted):
    dates = np.arange(2 * N).astype("M8[s]")
    frame = pd.DataFrame({"when": dates})
    assert mh.map(lambda x: (x[3], x.dtype), [dates] * 3, **PLACES) == [(dates[3], dates.dtype)] * 3
    assert counted() == (1, 2)
    assert mh.map(lambda x: x[3], [dates[::2]] * 3, **PLACES) == [dates[6]] * 3
    assert counted() == (2, 4)
    assert mh.map(lambda x: x["when"][3], [frame] * 3, **PLACES) == [frame["when"][3]] * 3
    assert counted()[0] == 3
    dates[3] = dates[0]
    assert mh.map(lambda x: x[3], [dates, dates[1::2]], **PLACES) == [dates[0], dates[7]]


# Bytes deep inside


class Holder:
    """A class that knows nothing of buffers."""

    def __init__(self, data):
        self.data = data


def test_bytes_deep_inside_are_copied_once(counted):
    def look(x):
        return hash(x["a"][0].data[1]), len(x["a"][0].data[2])

    data, other = os.urandom(8 * N), bytearray(os.urandom(8 * N))
    x = {"a": [Holder(("text", data, other))]}
    for _ in range(2):
        assert [n for _, n in mh.map(look, [x] * 4, **PLACES)] == [8 * N] * 4
    assert counted() == (2, 14)
    other[5] ^= 1
    (back,) = mh.map(identity, [x], **PLACES)
    assert back["a"][0].data == ("text", data, other)


def test_a_frame_of_polars_is_copied_once(tmp_path):
    program = """
        import numpy as np
        import polars as pl
        import manyhands as mh
        frame = pl.DataFrame({"numbers": np.arange(100_000.0)})
        for _ in range(2):
            sums = mh.map(lambda x: x["numbers"].sum(), [frame] * 4, scheduler="processes", num_workers=2)
            assert sums == [frame["numbers"].sum()] * 4
        info = mh.shared.info()
        assert (info.n_copies_made, info.n_copies_avoided) == (1, 7), info
        print("fine")
    """
    check(run(tmp_path, program), "fine\n")


LARGE = 1 << 16
# What a pickler writes before contents of this size, and frames.
LOOK_ALIKES = [
    b"\x94B" + LARGE.to_bytes(4, "little"),
    b"\x8e" + LARGE.to_bytes(8, "little"),
    b"\x96" + LARGE.to_bytes(8, "little"),
    b"\x80\x05\x95" + (LARGE - 20).to_bytes(8, "little"),
    b"\x95" + (9).to_bytes(8, "little") + b"(some...)B" + LARGE.to_bytes(4, "little"),
    b"cbuiltins\nbytes\n\x97\x85R",
    b"\x97\x98.",
]


def contents():
    """Bytes of lengths around the one from which on they travel apart, that look like pieces of a pickle."""
    sizes = st.sampled_from([0, 1, 3, LARGE - 9, LARGE - 1, LARGE, LARGE + 1, 2 * LARGE])
    parts = st.sampled_from([b"x", *LOOK_ALIKES])
    return st.builds(lambda n, start, end: (start + bytes(max(n - len(start + end), 0)) + end)[:n], sizes, parts, parts)


def nested():
    leaves = st.one_of(
        contents(),
        contents().map(bytearray),
        contents().map(lambda data: data.decode("latin-1")),
        contents().map(lambda data: np.frombuffer(data, "u1")[::2]),
        contents().map(lambda data: np.frombuffer(data, "u1")),
        st.sampled_from([None, 1, "text"]),
        st.sampled_from([8, 70_000]).map(lambda n_bits: 2**n_bits),
    )
    deeper = lambda inside: st.one_of(
        st.lists(inside, max_size=4),
        st.tuples(inside, inside),
        st.dictionaries(st.sampled_from("abc"), inside),
        inside.map(lambda x: [x, x]),
    )
    return st.recursive(leaves, deeper, max_leaves=6)


def equal(one, other):
    if isinstance(one, np.ndarray):
        return one.tobytes() == other.tobytes() and one.dtype == other.dtype
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other


@settings(max_examples=60, deadline=None)
@given(st.lists(nested(), min_size=1, max_size=3))
def test_whatever_is_inside_arrives_as_it_was(values):
    for back, value in zip(mh.map(identity, values, **PLACES), values, strict=True):
        assert equal(back, value)
    by_value = [(value, lambda: None) for value in values]  # that function takes another pickler
    for (back, _), value in zip(mh.map(identity, by_value, **PLACES), values, strict=True):
        assert equal(back, value)


def test_ways_to_pickle_that_a_program_registers_are_taken(tmp_path):
    program = """
        import copyreg
        import numpy as np
        import manyhands as mh

        class Odd:
            pass

        mh.config.set(scheduler="processes", num_workers=1)
        assert type(mh.map(lambda x: x, [Odd()])[0]).__name__ == "Odd"
        copyreg.pickle(Odd, lambda odd: (int, (5,)))
        assert mh.map(lambda x: x, [Odd(), [Odd()]]) == [5, [5]]
        copyreg.pickle(np.ndarray, lambda array: (int, (7,)))
        assert mh.map(lambda x: x, [np.zeros(100_000)[::2], (np.zeros(100_000), lambda: None)])[0] == 7
        print("fine")
    """
    check(run(tmp_path, program), "fine\n")
