"""Tokens: equal for equal content in every process, different for everything else."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands._tokenize import tokenize


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


@dataclasses.dataclass
class OtherPoint:
    x: float
    y: float = 0.0


@dataclasses.dataclass(frozen=True)
class SlottedPoint:
    __slots__ = ("x",)
    x: float


Pair = collections.namedtuple("Pair", "a b")


class Plain:
    def __init__(self, value):
        self.value = value

    def method(self, x):
        return x

    def other_method(self, x):
        return x


class Tokenized:
    def __init__(self, content):
        self.content = content
        self.lock = threading.Lock()

    def __dask_tokenize__(self):
        return ("content", self.content)


def module_level(x):
    return x + 1


def module_level_2(x):
    return x + 1


class SubSet(set):
    pass


class SubDict(dict):
    pass


# All different from one another, each equal to itself when made afresh.
DISTINCT = {
    "None": lambda: None,
    "True": lambda: True,
    "1": lambda: 1,
    "1.0": lambda: 1.0,
    "1+0j": lambda: 1 + 0j,
    "'1'": lambda: "1",
    "b'1'": lambda: b"1",
    "bytearray": lambda: bytearray(b"1"),
    "0.0": lambda: 0.0,
    "-0.0": lambda: -0.0,
    "nan": lambda: math.nan,
    "big": lambda: 10**5000,
    "-big": lambda: -(10**5000),
    "NUL": lambda: "\0",
    "surrogate": lambda: "\ud800",
    "...": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "empty list": lambda: [],
    "empty tuple": lambda: (),
    "empty set": lambda: set(),
    "empty frozenset": lambda: frozenset(),
    "empty dict": lambda: {},
    "nested 1": lambda: [[1], 2],
    "nested 2": lambda: [1, [2]],
    "nested 3": lambda: [[1, 2]],
    "split 1": lambda: ["ab", "c"],
    "split 2": lambda: ["a", "bc"],
    "dict": lambda: {"a": 1, "b": 2},
    "dict swapped": lambda: {"a": 2, "b": 1},
    "items": lambda: [("a", 1), ("b", 2)],
    "ordered 1": lambda: collections.OrderedDict([("a", 1), ("b", 2)]),
    "ordered 2": lambda: collections.OrderedDict([("b", 2), ("a", 1)]),
    "defaultdict": lambda: collections.defaultdict(list, a=1),
    "counter": lambda: collections.Counter("aab"),
    "deque": lambda: collections.deque([1, 2]),
    "deque maxlen": lambda: collections.deque([1, 2], 2),
    "sub set": lambda: SubSet("abcdefgh"),
    "sub dict": lambda: SubDict(a=1),
    "Colour.RED": lambda: Colour.RED,
    "Colour.GREEN": lambda: Colour.GREEN,
    "Number.ONE": lambda: Number.ONE,
    "Colour": lambda: Colour,
    "Point": lambda: Point(1.0),
    "Point 2": lambda: Point(1.0, 2.0),
    "OtherPoint": lambda: OtherPoint(1.0),
    "slotted": lambda: SlottedPoint(1.0),
    "slotted 2": lambda: SlottedPoint(2.0),
    "namedtuple": lambda: Pair(1, 2),
    "tuple": lambda: (1, 2),
    "date": lambda: datetime.date(2026, 1, 1),
    "datetime": lambda: datetime.datetime(2026, 1, 1),
    "datetime utc": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    "timedelta": lambda: datetime.timedelta(1),
    "decimal": lambda: decimal.Decimal("1"),
    "fraction": lambda: fractions.Fraction(1),
    "uuid": lambda: uuid.UUID(int=1),
    "path": lambda: pathlib.PurePosixPath("a/b"),
    "regex": lambda: re.compile("a"),
    "regex flags": lambda: re.compile("a", re.I),
    "range": lambda: range(3),
    "slice": lambda: slice(1, 2),
    "len": lambda: len,
    "int": lambda: int,
    "str.upper": lambda: str.upper,
    "function": lambda: module_level,
    "same body, other name": lambda: module_level_2,
    "partial": lambda: functools.partial(module_level, 1),
    "partial 2": lambda: functools.partial(module_level, 2),
    "partial keyword": lambda: functools.partial(module_level, x=1),
    "class": lambda: Plain,
    "instance": lambda: Plain(1),
    "instance 2": lambda: Plain(2),
    "method": lambda: Plain(1).method,
    "method 2": lambda: Plain(2).method,
    "other method": lambda: Plain(1).other_method,
    "dask tokenize": lambda: Tokenized(1),
    "dask tokenize 2": lambda: Tokenized(2),
    "module": lambda: math,
}


def test_different_values_have_different_tokens():
    tokens = {name: tokenize(make()) for name, make in DISTINCT.items()}
    by_token = collections.defaultdict(list)
    for name, token in tokens.items():
        by_token[token].append(name)
    assert [names for names in by_token.values() if len(names) > 1] == []


@pytest.mark.parametrize("make", DISTINCT.values(), ids=DISTINCT.keys())
def test_equal_values_have_equal_tokens(make):
    token = tokenize(make())
    assert re.fullmatch("[0-9a-f]{32}", token)
    assert tokenize(make()) == token


def test_arguments_are_not_their_tuple_and_not_each_other():
    assert len({tokenize(), tokenize(()), tokenize(1, 2), tokenize((1, 2)), tokenize(2, 1), tokenize([1, 2])}) == 6


def test_the_order_of_dicts_and_sets_means_nothing():
    assert tokenize({"a": 1, "b": 2}) == tokenize({"b": 2, "a": 1})
    assert tokenize({1, 9, 17}) == tokenize({17, 9, 1})
    assert tokenize(SubDict(a=1, b=2)) == tokenize(SubDict(b=2, a=1))
    assert tokenize({(1, 2): {3}}, frozenset("ab")) == tokenize({(1, 2): {3}}, frozenset("ba"))


def test_sharing_means_nothing():
    shared = [1]
    assert tokenize([shared, shared]) == tokenize([[1], [1]])
    assert tokenize("ab" * 2) == tokenize("abab")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


def identical(a, b):
    """Equality that tells types apart, and -0.0 from 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, dict):
        return {(type(k), k) for k in a} == {(type(k), k) for k in b} and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, (float, complex)):
        return repr(a) == repr(b)
    return a == b


@given(VALUES, VALUES)
def test_tokens_are_equal_exactly_for_identical_values(a, b):
    assert (tokenize(a) == tokenize(b)) == identical(a, b)


# Functions


def make_lambda(constant):
    return lambda x: x + constant


def with_globals(source, **namespace):
    exec(source, namespace)
    return namespace["f"]


def test_lambdas_are_told_apart_by_code_closure_and_defaults():
    assert tokenize(make_lambda(1)) == tokenize(make_lambda(1))
    tokens = [
        tokenize(make_lambda(1)),
        tokenize(make_lambda(2)),
        tokenize(lambda x: x + 1),
        tokenize(lambda x: x + 2),
        tokenize(lambda x: x - 1),
        tokenize(lambda x: abs(x)),
        tokenize(lambda x: sum(x)),
        tokenize(lambda x, y=1: x),
        tokenize(lambda x, y=2: x),
        tokenize(lambda x, *, y=2: x),
        tokenize(lambda x: [v for v in x if v > 1]),
        tokenize(lambda x: [v for v in x if v > 2]),
    ]
    assert len(set(tokens)) == len(tokens)


def test_a_function_of_main_depends_on_the_globals_it_uses():
    source = "def f(x): return x * scale + helper(x)"
    helper = "def f(x): return {}"
    one = with_globals(source, __name__="__main__", scale=1, helper=with_globals(helper.format(1)), unused=1)
    same = with_globals(source, __name__="__main__", scale=1, helper=with_globals(helper.format(1)), unused=2)
    other_scale = with_globals(source, __name__="__main__", scale=2, helper=with_globals(helper.format(1)))
    other_helper = with_globals(source, __name__="__main__", scale=1, helper=with_globals(helper.format(2)))
    assert tokenize(one) == tokenize(same)
    assert len({tokenize(one), tokenize(other_scale), tokenize(other_helper)}) == 3


def test_where_a_function_stands_means_nothing():
    source = "def f(x): return x + 1"
    assert tokenize(with_globals(source)) == tokenize(with_globals("\n\n\n" + source))


def test_recursive_and_mutually_recursive_functions():
    source = "def f(n): return n and g(n - 1)\ndef g(n): return n and f(n - {})"
    one, same, other = (with_globals(source.format(step)) for step in (1, 1, 2))
    assert tokenize(one) == tokenize(same)
    assert tokenize(one) != tokenize(other)


def test_decorated_functions_depend_on_what_they_wrap():
    def loud(function):
        @functools.wraps(function)
        def wrapper(x):
            return function(x)

        return wrapper

    assert tokenize(loud(lambda x: x + 1)) != tokenize(loud(lambda x: x + 2))
    assert tokenize(functools.lru_cache(lambda x: x + 1)) != tokenize(functools.lru_cache(lambda x: x + 2))


def test_local_classes_depend_on_their_bodies():
    def make(constant):
        class Local:
            attribute = constant

            def method(self):
                return super().__hash__() + constant

        return Local

    assert tokenize(make(1)) == tokenize(make(1))
    assert tokenize(make(1)) != tokenize(make(2))
    assert tokenize(make(1)()) != tokenize(make(2)())


def test_a_delayed_value_is_its_key():
    class Delayed:
        def __init__(self, key):
            self.key = key
            self.lock = threading.Lock()

    Delayed.__module__ = "manyhands"
    assert tokenize([Delayed("f-1")]) == tokenize([Delayed("f-1")])
    assert tokenize([Delayed("f-1")]) != tokenize([Delayed("f-2")])
    assert tokenize(Delayed("f-1")) != tokenize("f-1")


# Cycles and objects that cannot be named


def cyclic(*content):
    value = list(content)
    value.append(value)
    return value


def test_cycles_end():
    assert tokenize(cyclic(1)) == tokenize(cyclic(1))
    assert tokenize(cyclic(1)) != tokenize(cyclic(2))
    one, other = Plain(None), Plain(None)
    one.value, other.value = other, one
    assert tokenize(one) == tokenize(other)


def test_a_shared_part_of_a_cycle_keeps_its_meaning_outside():
    #   a = [b, 1]    b = [a]    c = [b, 2]         d = [e, 2]    e = [d]
    a, b, d, e = [], [], [], []
    a += [b, 1]
    b += [a]
    c = [b, 2]
    d += [e, 2]
    e += [d]
    assert tokenize(a, c) != tokenize(a, d)


def test_many_objects_that_all_know_each_other():
    def clique(n, last):
        members = [Plain(i) for i in range(n)]
        for member in members:
            member.friends = members
            member.others = [other for other in members if other is not member]
        members[-1].value = last
        return members

    assert tokenize(clique(30, 1)) == tokenize(clique(30, 1))
    assert tokenize(clique(30, 1)) != tokenize(clique(30, 2))


def test_shared_parts_are_read_once():
    value = [1]
    for _ in range(80):
        value = [value, value]
    assert tokenize(value) == tokenize(value)


def test_deep_nesting_is_a_value_of_its_own():
    value = []
    for _ in range(100_000):
        value = [value]
    assert tokenize(value) != tokenize(value)
    while value:  # taken apart by hand: older interpreters free it recursively
        value = value[0]


class NoReduce:
    def __reduce__(self):
        raise ValueError("no")


class JunkReduce:
    def __reduce__(self):
        return 7


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        object,
        lambda: (i for i in ()),
        NoReduce,
        JunkReduce,
        lambda: [NoReduce()],
    ],
    ids=["lock", "object", "generator", "no reduce", "junk reduce", "inside"],
)
def test_what_cannot_be_read_is_equal_to_nothing(make):
    value = make()
    assert tokenize(value) != tokenize(value)


def test_an_error_in_dask_tokenize_is_not_hidden():
    class Broken:
        def __dask_tokenize__(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tokenize(Broken())


# NumPy and pandas


def test_arrays():
    import numpy as np

    base = np.arange(24.0)
    arrays = {
        "base": base,
        "shape": base.reshape(4, 6),
        "shape 2": base.reshape(6, 4),
        "F": np.asfortranarray(base.reshape(4, 6)),
        "float32": base.astype("f4"),
        "big endian": base.astype(">f8"),
        "int": base.astype("i8"),
        "same bytes": base.view("i8"),
        "strided": base[::2],
        "reversed": base[::-1],
        "zero-dimensional": np.array(1.0),
        "scalar": np.float64(1.0),
        "one": np.array([1.0]),
        "empty": np.empty((0, 3)),
        "empty 2": np.empty((3, 0)),
        "dates": base.astype("i8").view("M8[s]"),
        "text": np.array(["a", "b"]),
        "void": np.zeros(3, "V0"),
        "record": np.zeros(2, [("a", "i4"), ("b", "f8")]),
        "record names": np.zeros(2, [("a", "i4"), ("c", "f8")]),
        "objects": np.array([1, "a", None, [2]], dtype=object),
        "masked": np.ma.masked_array(base, base > 3),
        "masked 2": np.ma.masked_array(base, base > 4),
        "generator": np.random.default_rng(1),
        "generator 2": np.random.default_rng(2),
        "dtype": np.dtype("f8"),
        "ufunc": np.add,
        "ufunc 2": np.multiply,
        "function": np.mean,
    }
    tokens = {name: tokenize(array) for name, array in arrays.items()}
    assert len(set(tokens.values())) == len(tokens)
    assert {name: tokenize(array) for name, array in arrays.items()} == tokens
    assert tokenize(base[::2].copy()) == tokens["strided"]
    assert tokenize(np.array([1, "a", None, [2]], dtype=object)) == tokens["objects"]
    changed = base.copy()
    changed[7] += 1
    assert tokenize(changed) != tokens["base"]


def test_pandas():
    import pandas as pd

    frame = {"a": [1, 2, 3], "b": ["x", "y", None], "c": pd.Categorical(["u", "v", "u"])}
    values = {
        "frame": pd.DataFrame(frame),
        "other value": pd.DataFrame({**frame, "a": [1, 2, 4]}),
        "other name": pd.DataFrame({**frame, "d": 1}),
        "other index": pd.DataFrame(frame, index=[3, 4, 5]),
        "series": pd.Series([1, 2, 3]),
        "named series": pd.Series([1, 2, 3], name="n"),
        "index": pd.Index([1, 2, 3]),
        "dates": pd.date_range("2026-01-01", periods=3),
        "timestamp": pd.Timestamp("2026-01-01"),
    }
    tokens = {name: tokenize(value) for name, value in values.items()}
    assert len(set(tokens.values())) == len(tokens)
    assert tokenize(pd.DataFrame(frame)) == tokens["frame"]
    assert tokenize(values["frame"].copy()) == tokens["frame"]
    len(values["frame"]), values["frame"]["a"].sum(), values["index"].is_unique  # fills pandas' caches
    assert tokenize(values["frame"]) == tokens["frame"]
    assert tokenize(values["index"]) == tokens["index"]


# Other processes

PROGRAM = """
import dataclasses, datetime, enum, functools, math, re, sys
from manyhands._tokenize import tokenize

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    tags: set

class Plain:
    limit = 3
    def __init__(self): self.names = {"x", "y", "zz"}
    def method(self): return {"p", "q"}

table = {"one": 1, "two": {2, 3}}
def helper(x): return x in {"a", "b", "c"}
def f(x): return helper(x) and table and math.pi

values = [
    1, "a", {"a", "b", "c", "d"}, frozenset("xyz"), {"k": {"m", "n"}}, Colour.RED, Colour, Point(1, {"a", "b"}),
    Plain(), Plain, Plain().method, f, lambda x: x in {"a", "b", "c", "d"}, functools.partial(f, {"q", "r"}),
    re.compile("a"),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), functools.lru_cache(f),
]
try:
    import numpy as np
    values += [np.arange(5), np.array([{"a", "b"}], dtype=object), np.random.default_rng(3), np.mean]
except ImportError:
    pass
print([tokenize(value) for value in values], tokenize(*values))
"""


def test_tokens_do_not_depend_on_the_process():
    outputs = set()
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM)], env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        outputs.add(run.stdout)
    assert len(outputs) == 1
