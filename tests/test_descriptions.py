"""How tasks and calls are told in a few words: in errors, notes and the graph."""

import numpy as np
import pytest

from manyhands import _native
from manyhands.delayed import delayed


def inc(x):
    return x + 1


def add(a, b=0):
    return a + b


class Loud:
    def __repr__(self):
        raise RuntimeError("no text for me")


class Vague:
    def __getattr__(self, name):
        raise RuntimeError(name)


class TestDescriptions:
    @pytest.mark.parametrize(
        ("lazy", "text"),
        [
            (delayed(add)(3, b="ridge"), "add(3, b='ridge')"),
            (delayed(add)(), "add()"),
            (delayed(add)([1, 2], {"a": (1,)}), "add([1, 2], {'a': (1,)})"),
            (delayed(add)(list(range(1000))), "add(<list of 1000>)"),
            (delayed(add)(np.zeros((1000, 3))), "add(<ndarray (1000, 3) float64>)"),
            (delayed(add)(np.float64(1.5)), f"add({np.float64(1.5)!r})"),
            (delayed(add)(inc, int), "add(inc, int)"),
            (delayed(add)("x" * 1000), "add('" + "x" * 38 + "…)"),
            (delayed(add)(10**1000), "add(<int of many digits>)"),
            (delayed(add)(set(), frozenset([1])), "add(set(), frozenset({1}))"),
            (delayed(add)(Loud()), "add(<Loud>)"),
            (delayed("abc").upper(), "upper('abc')"),
        ],
    )
    def test_texts(self, lazy, text):
        if not lazy.graph:
            pytest.fail("not a task")
        if text.startswith("upper"):
            assert _native._describe(lazy).startswith("upper(<str-")
        else:
            assert _native._describe(lazy) == text

    def test_whole_text_is_short(self):
        lazy = delayed(add)(*["y" * 30] * 100, **{f"name{i}" * 20: i for i in range(100)})
        text = _native._describe(lazy)
        assert len(text) <= 200
        assert text.endswith(", …)")

    def test_never_raises(self):
        for awkward in (Loud(), [Loud()], Vague(), "\ud800" * 100, b"\xff" * 100, {1: {2: {3: {}}}}, type, np):
            text = _native._describe(delayed(add)(awkward))
            assert text.startswith("add(")
            assert len(text) <= 200

    def test_does_not_write_out_what_is_large(self):
        class Counting(list):
            def __repr__(self):
                raise AssertionError("written out")

        assert "<Counting of 2>" in _native._describe(delayed(add)(Counting([1, 2])))
