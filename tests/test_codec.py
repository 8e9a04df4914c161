"""Values and calls as bytes, the way they go to workers, and what damaged bytes do."""

import dataclasses
import math
import pickle
import sys
import threading
import types
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from manyhands import _native
from manyhands.delayed import delayed
from manyhands.errors import PicklingError

Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Plain:
    a: object
    b: object = None


def inc(x):
    return x + 1


def add(a, b=0):
    return a + b


def encoded(*args):
    return _native._probe_collect(*args, encoded=True)


def same(a, b):
    """Equal in type and in every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or (math.isnan(a) and math.isnan(b)))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, frozenset):
        # Not by equality alone: a NaN that is not the same object is in no set.
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    return a == b


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(st.characters()),
    st.binary(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner).map(tuple), st.lists(inner), st.dictionaries(st.text(), inner), st.frozensets(SCALARS)
    ),
)


class Number(int):
    pass


class TestCodec:
    @settings(max_examples=300, deadline=None)
    @given(VALUES)
    @example(-0.0)
    @example(math.nan)
    @example(2**63)
    @example(-(2**63))
    @example(2**63 - 1)
    @example("\x00a\x00")
    @example("\ud800")
    @example(((), ((),)))
    def test_round_trip(self, value):
        assert same(_native._probe_decode(_native._probe_encode(value)), value)

    def test_deep_tuples(self):
        value = ()
        for _ in range(200):
            value = (value,)
        assert _native._probe_decode(_native._probe_encode(value)) == value

    def test_subclasses_stay_what_they_are(self):
        for value in (Number(5), Point(1, 2), np.float64(1.5), OrderedDict(a=1), types.SimpleNamespace(a=1)):
            back = _native._probe_decode(_native._probe_encode(value))
            assert type(back) is type(value)
            assert back == value

    def test_identity_inside_a_tuple(self):
        held = [1]
        back = _native._probe_decode(_native._probe_encode((held, held)))
        assert back[0] is back[1]

    def test_scalars_are_small(self):
        assert len(_native._probe_encode(5)) == 2
        assert len(_native._probe_encode((1, "a", None, True))) <= 10

    def test_large_pickle(self):
        array = np.arange(100_000)
        assert (_native._probe_decode(_native._probe_encode(array)) == array).all()

    def test_what_main_defines_travels_by_value(self, monkeypatch):
        main = types.ModuleType("__main__")
        exec("class Model:\n    k = 5\n", main.__dict__)
        monkeypatch.setitem(sys.modules, "__main__", main)
        data = _native._probe_encode(main.Model())
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        assert _native._probe_decode(data).k == 5

    def test_unpicklable(self):
        with pytest.raises(PicklingError):
            _native._probe_encode(threading.Lock())

    def test_interrupts_pass_through(self):
        class Interrupting:
            def __reduce__(self):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _native._probe_encode(Interrupting())

    @settings(max_examples=500, deadline=None)
    @given(st.binary())
    @example(b"\x07\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
    @example(b"\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
    @example(b"\x07\x01" * 100)
    def test_any_bytes_decode_or_raise(self, data):
        assume(8 not in data)  # What is in a pickle is pickle's business.
        try:
            value = _native._probe_decode(data)
        except ValueError:
            return
        assert same(_native._probe_decode(_native._probe_encode(value)), value)

    @pytest.mark.parametrize("value", [5, 1.5, "text", b"bytes", (1, (2, "x")), None])
    def test_every_truncation_is_an_error(self, value):
        data = _native._probe_encode(value)
        for end in range(len(data)):
            with pytest.raises(ValueError, match="corrupt data"):
                _native._probe_decode(data[:end])
        with pytest.raises(ValueError, match="1 bytes too many"):
            _native._probe_decode(data + b"\x00")


def encoded_calls():
    one = delayed(inc)(1)
    lazy = [
        delayed(add)(1, b="x"),
        delayed(add)([1], b={2}),
        delayed(add)([one, (one, {one: [2]}), {one}], b=Plain(one, slice(one))),
        delayed(add)(Point(one, 1), OrderedDict(a=one)),
        one(2, [3]),
    ]
    return encoded(lazy)["calls"]


def decodes_or_raises(call):
    """Any damage is an error of an expected kind; but what is in a pickle is pickle's business."""
    mode, has_literals = call[0] & ~0x10, call[1:2] != b"\x00"
    assume(mode != 1 and not (mode == 2 and (has_literals or call[0] != 2)) and 8 not in call)
    try:
        _native._probe_decode_call(call)
    except (ValueError, TypeError, AttributeError):
        pass


class TestCalls:
    def test_truncated_calls(self):
        for data in encoded_calls():
            for end in range(len(data)):
                with pytest.raises((ValueError, TypeError, EOFError, pickle.UnpicklingError)):
                    _native._probe_decode_call(data[:end])

    @settings(max_examples=500, deadline=None)
    @given(st.data())
    def test_damaged_calls_decode_or_raise(self, data):
        one = delayed(inc)(1)
        lazy = [
            delayed(add)(1, b="x"),
            delayed(add)([one, (one, {one: 2.5}), {one}], b=slice(one)),
            one(2, (one, "x" * 5), k=frozenset([one])),
        ]
        call = bytearray(data.draw(st.sampled_from(encoded(lazy)["calls"])))
        for _ in range(data.draw(st.integers(1, 4))):
            call[data.draw(st.integers(0, len(call) - 1))] = data.draw(st.integers(0, 255))
        decodes_or_raises(bytes(call))

    @settings(max_examples=500, deadline=None)
    @given(st.binary(max_size=60))
    def test_random_templates_decode_or_raise(self, tail):
        decodes_or_raises(b"\x02\x00" + tail)

    def test_deep_template(self):
        with pytest.raises(ValueError, match="nested too deeply"):
            _native._probe_decode_call(b"\x02\x00\x01" + b"\x0b\x01" * 100_000)

    def test_unpicklable_argument_is_named(self):
        lock = threading.Lock()
        one = delayed(inc)(1)
        for lazy, name in (
            (delayed(add)(1, lock), "argument 'b'"),
            (delayed(add)(a=1, b=[lock]), "argument 'b'"),
            (delayed(add)([one, lock]), "argument 'a'"),
            (delayed(max)(1, lock), "argument 2"),
            (delayed(max)(one, lock), "argument 2"),
            (delayed(max)(1, key=lock), "argument 'key'"),
        ):
            with pytest.raises(PicklingError, match=name) as caught:
                encoded(lazy)
            assert "lock" in str(caught.value)


@pytest.mark.parametrize("n_per_block", [1, 3, 5, 8])
@pytest.mark.parametrize("n_before_the_end", [0, 1, 3, 4, 8])
def test_the_tasks_of_a_map_without_end_begin_anew_after_the_last_number(n_before_the_end, n_per_block):
    numbers = [(2**32 - n_before_the_end + i) % 2**32 for i in range(8)]
    sent, returned, n_held, n_bytes_waiting = _native._probe_map(numbers[0], 8, n_per_block)
    assert sent == [(number, number.to_bytes(4, "little")) for number in numbers]
    assert returned == numbers
    assert (n_held, n_bytes_waiting) == (0, 0)
