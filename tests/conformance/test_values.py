"""Results are those of a plain loop: values, order, shapes."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import operator
import random
import time

import manyhands as mh

MIB = 1 << 20


def square(x):
    return x * x


def nothing(*_args):
    return None


def late_first(i):
    """The earlier tasks end the later."""
    time.sleep(0.02 if i == 0 else 0.0)
    return i


def named(*args, **kwargs):
    return args, kwargs


@dataclasses.dataclass
class Study:
    name: str
    estimate: object
    extra: object = None


Point = collections.namedtuple("Point", "x y")


# compute


def test_a_single_task():
    assert mh.compute(mh.delayed(square)(7)) == (49,)
    assert mh.delayed(square)(7).compute() == 49


def test_compute_of_nothing():
    assert mh.compute() == ()
    assert mh.compute([], {}, ()) == ([], {}, ())


def test_what_is_not_delayed_is_returned_as_it_is():
    thing = object()
    untouched = [1, {"a": thing}]
    results = mh.compute(1, untouched, "text", thing, None)
    assert results[0] == 1
    assert results[1] is untouched
    assert results[2:] == ("text", thing, None)


def test_many_independent_tasks_come_in_order():
    tasks = [mh.delayed(square)(i) for i in range(500)]
    assert mh.compute(tasks) == ([i * i for i in range(500)],)
    assert mh.compute(*tasks) == tuple(i * i for i in range(500))


def test_results_have_the_shape_of_the_arguments():
    two, three = mh.delayed(square)(2), mh.delayed(operator.add)(1, 2)
    arguments = (
        [two, [three, "x"]],
        (two, (three,)),
        {"a": two, three: "value", "deep": {"deeper": [two]}},
        {two, three, 5},
        frozenset([two]),
        slice(two, None, three),
        Point(two, [three]),
        Study("a", two, {"b": (three,)}),
        collections.OrderedDict([("z", two), ("a", three)]),
        two,
    )
    expected = (
        [4, [3, "x"]],
        (4, (3,)),
        {"a": 4, 3: "value", "deep": {"deeper": [4]}},
        {4, 3, 5},
        frozenset([4]),
        slice(4, None, 3),
        Point(4, [3]),
        Study("a", 4, {"b": (3,)}),
        collections.OrderedDict([("z", 4), ("a", 3)]),
        4,
    )
    results = mh.compute(*arguments)
    assert results == expected
    assert [type(result) for result in results] == [type(result) for result in expected]
    assert arguments[0][0] is two


def test_without_traversal_collections_stay():
    inside = [mh.delayed(square)(2)]
    assert mh.compute(inside, traverse=False)[0] is inside


def test_delayed_inside_of_arguments():
    one, two = mh.delayed(square)(1), mh.delayed(square)(2)
    call = mh.delayed(named)([one, (two, {"k": one})], Study("s", two), key={two}, other=slice(one, two))
    assert call.compute() == (([1, (4, {"k": 1})], Study("s", 4)), {"key": {4}, "other": slice(1, 4)})


def test_keyword_arguments():
    assert mh.delayed(named)(1, b=2, c=[3]).compute() == ((1,), {"b": 2, "c": [3]})
    assert mh.delayed(named)(scheduler="a", num_workers=2).compute() == ((), {"scheduler": "a", "num_workers": 2})


def test_operators_methods_items_and_attributes():
    words = mh.delayed(["light", "work"])
    text = mh.delayed(" ".join)(words)
    assert text.upper().compute() == "LIGHT WORK"
    assert text[::-1].compute() == "krow thgil"
    number = mh.delayed(square)(3)
    assert ((number + 1) * 2 - 20 // number).compute() == 18
    assert mh.compute(abs(-number), 2**number, number % 4, number == 9, number > 10) == (9, 512, 1, True, False)
    assert mh.delayed(complex)(1, 2).imag.compute() == 2.0
    assert mh.delayed({"a": 1})["a"].compute() == 1


def test_several_outputs():
    quotient, remainder = mh.delayed(divmod, nout=2)(17, 5)
    assert mh.compute(remainder, quotient) == (2, 3)
    assert mh.compute(*mh.delayed(list, nout=0)()) == ()


def test_none_is_a_result_like_any_other():
    assert mh.compute(mh.delayed(nothing)(), [mh.delayed(nothing)(1)]) == (None, [None])
    assert mh.map(nothing, range(3)) == [None, None, None]
    assert list(mh.stream(nothing, range(3))) == [None, None, None]
    assert mh.submit(nothing).result() is None


def test_a_long_chain():
    value = mh.delayed(0)
    for _ in range(3000):
        value = value + 1
    assert value.compute() == 3000


def test_a_tree_reduction():
    level = [mh.delayed(i) for i in range(256)]
    while len(level) > 1:
        level = [mh.delayed(operator.add)(a, b) for a, b in zip(level[::2], level[1::2])]
    assert level[0].compute() == sum(range(256))


def test_a_wide_merge():
    parts = [mh.delayed(square)(i) for i in range(2000)]
    assert mh.delayed(sum)(parts).compute() == sum(i * i for i in range(2000))


def test_random_graphs_have_the_values_of_a_serial_evaluation():
    for seed in range(20):
        rng = random.Random(seed)
        lazy, plain = [mh.delayed(1)], [1]
        for i in range(1, 80):
            parents = [rng.randrange(i) for _ in range(rng.randint(0, 4))]
            lazy.append(mh.delayed(sum)([lazy[p] for p in parents], i))
            plain.append(sum([plain[p] for p in parents], i))
        chosen = [rng.randrange(80) for _ in range(10)]
        (results,) = mh.compute([lazy[i] for i in chosen])
        assert results == [plain[i] for i in chosen], f"seed {seed}"


def test_persist_keeps_the_results_and_the_shape():
    root = mh.delayed(square)(3)
    held, (again, plain) = mh.persist(root, [root + 1, "plain"])
    assert isinstance(held, mh.Delayed)
    assert held.key == root.key
    assert len(held.graph) == 0  # nothing is left to be run
    assert plain == "plain"
    assert mh.compute(held + again, held) == (19, 9)
    assert root.persist().compute() == 9


# map


def test_map_comes_in_order():
    assert mh.map(square, range(1000)) == [i * i for i in range(1000)]
    assert mh.map(late_first, range(10)) == list(range(10))


def test_map_of_nothing():
    assert mh.map(square, []) == []
    assert mh.map(square, iter(())) == []
    assert mh.map(pow, [1, 2], []) == []


def test_map_of_one_item():
    assert mh.map(square, [3]) == [9]


def test_map_takes_several_iterables_of_any_kind():
    def countdown():
        yield from (3, 2, 1)

    assert mh.map(pow, (2, 3, 4), countdown()) == [8, 9, 4]
    assert mh.map(pow, {2: "a", 3: "b"}, itertools.repeat(2)) == [4, 9]
    assert mh.map(ord, "abc") == [97, 98, 99]
    assert mh.map(named, [1], [2], [3], [4]) == [((1, 2, 3, 4), {})]


def test_map_takes_iterables_like_zip_does():
    first, second = iter(range(5)), iter(range(3))
    assert mh.map(operator.add, first, second) == [0, 2, 4]
    # zip has taken a fourth item of the first before it found the second at its end.
    assert next(first) == 4


def test_map_gives_each_call_its_own_arguments():
    assert mh.map(named, [[1], (2, 3), {"a": 4}, None]) == [
        (([1],), {}),
        (((2, 3),), {}),
        (({"a": 4},), {}),
        ((None,), {}),
    ]


def test_map_of_items_that_come_slowly():
    def slow():
        for i in range(5):
            time.sleep(0.01)
            yield i

    assert mh.map(square, slow()) == [0, 1, 4, 9, 16]


def test_map_of_unequal_tasks():
    def work(i):
        time.sleep(0.03 if i % 10 == 0 else 0.0)
        return i

    assert mh.map(work, range(60)) == list(range(60))


# Any value


ODD_VALUES = [
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    2**200,
    1.5,
    float("inf"),
    -0.0,
    True,
    False,
    None,
    Ellipsis,
    NotImplemented,
    1 + 2j,
    "",
    "naïve ☃ 🎲",
    "\ud800",
    "\0",
    b"",
    b"\x00\xff",
    bytearray(b"ab"),
    (),
    ((((((1,),),),),),),
    (1, "a", None, 2.5, b"x", (True,)),
    [],
    [1, [2, [3]]],
    {},
    {1: {2: 3}},
    set(),
    {1, 2},
    frozenset([1]),
    range(3),
    slice(1, None),
    int,
    len,
    Study,
    Point(1, 2),
    Study("s", [1]),
    collections.Counter("aab"),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2], maxlen=3),
    operator,
]


def identity(x):
    return x


def same(a, b):
    return type(a) is type(b) and repr(a) == repr(b)


def test_any_value_goes_there_and_comes_back():
    for results in (
        mh.map(identity, ODD_VALUES),
        mh.compute(*[mh.delayed(identity)(mh.delayed(value, traverse=False)) for value in ODD_VALUES]),
        list(mh.stream(identity, ODD_VALUES)),
        [mh.submit(identity, value).result() for value in ODD_VALUES],
    ):
        assert len(results) == len(ODD_VALUES)
        for value, result in zip(ODD_VALUES, results):
            assert same(value, result), repr(value)


def test_values_as_plain_arguments():
    for value in ODD_VALUES:
        assert same(mh.delayed(identity)(value).compute(), value), repr(value)
        assert same(mh.delayed(identity)(x=value).compute(), value), repr(value)


def test_deeply_nested_values():
    deep = 0
    for _ in range(200):
        deep = (deep,)
    assert mh.map(identity, [deep]) == [deep]
    assert mh.submit(identity, deep).result() == deep


def test_large_arguments_and_results():
    large = random.Random(1).randbytes(8 * MIB)
    assert mh.map(len, [large] * 3) == [8 * MIB] * 3
    assert mh.map(identity, [large])[0] == large
    assert mh.delayed(identity)(large).compute() == large
    assert mh.submit(identity, large).result() == large
    assert next(iter(mh.stream(identity, [large]))) == large
    chained = mh.delayed(operator.add)(mh.delayed(identity)(large), b"!")
    assert chained.compute() == large + b"!"


def test_many_results_that_are_large_together():
    results = mh.map(bytes, [256 * 1024] * 40)
    assert [len(result) for result in results] == [256 * 1024] * 40


def test_one_object_in_two_arguments_stays_one():
    def are_one(a, b):
        return a is b

    shared = [1, 2]
    assert mh.delayed(are_one)(shared, shared).compute()
    assert mh.submit(are_one, shared, shared).result()
    # An input is one object wherever the call names it.
    made = mh.delayed(identity)([1])
    assert mh.delayed(are_one)(made, made).compute()


def test_numpy_arrays():
    import numpy as np

    base = np.arange(24.0).reshape(4, 6)
    arrays = [
        base,
        base[::2, ::3],
        base.T,
        np.asfortranarray(base),
        base[:0],
        np.array(5.0),
        np.array(["a", "bc"]),
        np.array([1, None, "x"], dtype=object),
        np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2], mask=[False, True]),
        np.float32(2.5),
        np.datetime64("2020-01-01"),
    ]
    for results in (
        mh.map(identity, arrays),
        mh.compute(*[mh.delayed(identity)(array) for array in arrays]),
        [mh.submit(identity, array).result() for array in arrays],
    ):
        for array, result in zip(arrays, results):
            assert type(result) is type(array)
            assert result.dtype == array.dtype
            np.testing.assert_array_equal(result, array)
    total = mh.delayed(np.sum)(mh.delayed(np.ones)((1000, 1000)))
    assert total.compute() == 1e6


def test_a_result_array_can_be_written_to():
    import numpy as np

    (result,) = mh.map(np.zeros, [200_000])
    result[0] = 1.0
    assert result.sum() == 1.0


def test_pandas_frames():
    import pandas as pd

    frame = pd.DataFrame({"g": ["a", "b", "a"], "x": [1.0, 2.0, 3.0]}, index=pd.Index([3, 1, 2], name="i"))
    lazy = mh.delayed(frame)
    means = lazy.groupby("g")["x"].mean()
    assert means.compute().to_dict() == {"a": 2.0, "b": 2.0}
    pd.testing.assert_frame_equal(mh.map(identity, [frame])[0], frame)
    parts = mh.map(lambda item: (item[0], item[1]["x"].sum()), frame.groupby("g"))
    assert parts == [("a", 4.0), ("b", 2.0)]
