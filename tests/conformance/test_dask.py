"""Dask's collections and graphs with `manyhands.dask.get` as their scheduler."""

from __future__ import annotations

import io
import operator

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pandas as pd
import pytest
from dask._task_spec import Alias, DataNode, Dict, List, Set, Task, TaskRef, Tuple
from dask.callbacks import Callback
from dask.diagnostics import Profiler, ProgressBar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import manyhands as mh
import manyhands.dask

get = manyhands.dask.get


@pytest.fixture(autouse=True)
def ours():
    with dask.config.set(scheduler=get):
        yield


def test_an_array():
    x = da.from_array(np.arange(400.0).reshape(20, 20), chunks=(5, 7))
    expected = np.arange(400.0).reshape(20, 20)
    result = ((x + 1).T @ x - x.mean(axis=0)).compute()
    np.testing.assert_allclose(result, (expected + 1).T @ expected - expected.mean(axis=0))


def test_a_dataframe():
    import dask.dataframe as dd

    frame = pd.DataFrame({"key": [1, 2, 3, 1, 2, 3] * 5, "value": range(30), "name": ["a", "é", None] * 10})
    lazy = dd.from_pandas(frame, npartitions=4)
    lowest, highest, grouped = dask.compute(lazy.value.min(), lazy.value.max(), lazy.groupby("key").value.sum())
    assert (lowest, highest) == (0, 29)
    pd.testing.assert_series_equal(grouped.sort_index(), frame.groupby("key").value.sum())
    assert lazy.name.dropna().compute().tolist() == frame.name.dropna().tolist()


def test_a_bag():
    words = db.from_sequence(["many", "hands", "make", "light", "work"] * 4, npartitions=3)
    assert dict(words.map(str.upper).filter(lambda word: word < "N").frequencies().compute()) == {
        "MANY": 4,
        "HANDS": 4,
        "MAKE": 4,
        "LIGHT": 4,
    }


def test_delayed_calls():
    add = dask.delayed(operator.add)
    total = dask.delayed(sum)([add(i, i) for i in range(10)])
    nested = dask.delayed({"total": total, "list": [total, (add(1, 1), {"x": total})]})
    assert nested.compute() == {"total": 90, "list": [90, (2, {"x": 90})]}
    (kept,) = dask.persist(total)
    assert add(kept, 1).compute() == 91


def test_xarray_on_top():
    xarray = pytest.importorskip("xarray")
    values = np.arange(24.0).reshape(4, 6)
    lazy = xarray.DataArray(values, dims=("x", "y")).chunk({"x": 2, "y": 3})
    np.testing.assert_array_equal(lazy.mean("x").compute().values, values.mean(axis=0))


def test_legacy_tuples_are_taken_as_tasks():
    graph = {"x": 1, ("y", 0): (operator.add, "x", (operator.mul, "x", 10)), "z": [("y", 0), "x"], "t": (sum, "z")}
    assert get(graph, "t") == 12
    assert get(graph, [("y", 0), ["x", ["z", "t"]], []]) == (11, (1, ([11, 1], 12)), ())


def test_all_kinds_of_nodes():
    graph = {
        "data": DataNode("data", {"as": ["it", "is"]}),
        "alias": Alias("alias", "data"),
        "far": Alias("far", "alias"),
        "one": Task("one", operator.neg, -1),
        "list": List(TaskRef("one"), 2, List(TaskRef("one"))),
        "named": Task("named", dict, a=TaskRef("one"), b=Tuple(TaskRef("one"), Set(TaskRef("one")))),
        "dict": Task("dict", dict, Dict({"x": TaskRef("one"), "y": Alias("far")})),
        "inside": Task("inside", operator.add, Task(None, operator.mul, TaskRef("one"), 5), TaskRef("one")),
        "in list": Task("in list", sum, List(Task(None, operator.mul, TaskRef("one"), 5), TaskRef("one"), 3)),
    }
    assert get(graph, ["far", "one", "list"]) == ({"as": ["it", "is"]}, 1, [1, 2, [1]])
    assert get(graph, "named") == {"a": 1, "b": (1, {1})}
    assert get(graph, "dict") == {"x": 1, "y": {"as": ["it", "is"]}}
    assert get(graph, ["inside", "in list"]) == (6, 9)


class Doubled(Task):
    """A class of nodes that the engine does not know."""

    __slots__ = ()

    def __call__(self, values=()):
        return 2 * super().__call__(values)


def test_a_class_of_nodes_of_somebody_elses():
    graph = {"x": Task("x", abs, -3), "y": Doubled("y", operator.add, TaskRef("x"), 1)}
    graph["fused"] = Task.fuse(Doubled("a", abs, TaskRef("x")), Task("b", operator.add, TaskRef("a"), 1), key="fused")
    assert get(graph, ["y", "fused"]) == (8, 7)


def test_fused_tasks():
    tasks = [
        Task("a", operator.add, TaskRef("x"), 1),
        Task("b", operator.mul, TaskRef("a"), TaskRef("y")),
        Alias("c", "a"),
        Task("d", dict, result=List(TaskRef("b"), TaskRef("c"))),
    ]
    once = Task.fuse(*tasks)
    twice = Task.fuse(once, Task("e", len, TaskRef("d")))
    graph = {"x": 1, "y": DataNode("y", 10), "d": once, "e": twice}
    assert get(graph, ["d", "e"]) == ({"result": [20, 2]}, 1)


def test_a_fused_chain_may_be_long():
    n = 5000
    chain = [Task(0, operator.add, TaskRef("x"), 1), *(Task(i, operator.add, TaskRef(i - 1), 1) for i in range(1, n))]
    assert get({"x": DataNode("x", 0), "last": Task.fuse(*chain, key="last")}, "last") == n
    assert get({"x": DataNode("x", 0), **{task.key: task for task in chain}}, n - 1) == n


def test_only_what_is_asked_for_is_computed():
    graph = {"x": (abs, -1), "not wanted": (operator.truediv, 1, 0), "y": (abs, "x")}
    assert get(graph, "y") == 1


def test_a_result_that_is_known_is_not_computed():
    assert get({"x": (operator.truediv, 1, 0), "y": (abs, "x")}, "y", cache={"x": -5}) == 5


def test_a_key_that_is_not_there():
    with pytest.raises(KeyError, match="'z'"):
        get({"x": 1}, ["x", "z"])
    with pytest.raises(ValueError, match="Missing dependency 'z'"):
        get({"y": Task("y", abs, TaskRef("z"))}, "y")


@pytest.mark.parametrize(
    "graph",
    [
        {"a": Task("a", abs, TaskRef("b")), "b": Task("b", abs, TaskRef("a"))},
        {"a": Alias("a", "b"), "b": Alias("b", "a")},
        {"a": Task("a", abs, TaskRef("a"))},
    ],
)
def test_a_circle_is_an_error(graph):
    with pytest.raises(RuntimeError, match="Cycle detected"):
        get(graph, "a")


def test_an_error_names_the_task():
    with pytest.raises(ZeroDivisionError) as caught:
        get({("x", 3): (operator.truediv, 1, 0)}, [("x", 3)])
    assert any("('x', 3)" in note and "truediv" in note for note in caught.value.__notes__)


def test_a_pool_is_refused():
    with pytest.raises(TypeError, match="takes no pool"):
        dask.delayed(abs)(-1).compute(pool=object())


def test_the_keywords_of_dask_are_accepted():
    lazy = dask.delayed(abs)(-1)
    assert lazy.compute(num_workers=2, chunksize=-1, optimize_graph=False, priority=3, anything="else") == 1
    assert lazy.compute(chunksize=3) == 1


def test_a_graph_inside_of_a_task():
    def inner(n):
        return int(da.arange(n, chunks=3).sum().compute(scheduler=manyhands.dask.get))

    assert dask.compute(*[dask.delayed(inner)(n) for n in (5, 10)]) == (10, 45)


def test_a_configured_seed_is_that_of_the_tasks():
    def draw(rng):
        return float(rng.random())

    with mh.config.set(seed=1):
        results = get({f"t{i}": Task(f"t{i}", draw) for i in range(6)}, [f"t{i}" for i in range(6)])
    streams = np.random.SeedSequence(1).spawn(6)
    assert list(results) == [np.random.default_rng(stream).random() for stream in streams]


# Callbacks


class Story(Callback):
    """What callbacks are told."""

    def __init__(self):
        self.started = self.state_seen = 0
        self.keys = []
        self.ended = []

    def _start(self, dsk):
        self.started += 1

    def _start_state(self, dsk, state):
        self.state_seen += 1

    def _pretask(self, key, dsk, state):
        assert key in dsk
        self.keys.append(key)

    def _finish(self, dsk, state, failed):
        self.ended.append((failed, len(state["finished"])))


def test_callbacks_hear_of_every_task():
    graph = {"x": 1, "y": (abs, "x"), "z": (abs, "y"), "other": (abs, 3)}
    with Story() as story:
        assert get(graph, "z") == 1
    assert (story.started, story.state_seen, sorted(story.keys)) == (1, 1, ["y", "z"])
    assert story.ended == [(False, 2)]


def test_callbacks_hear_of_a_failure():
    with Story() as story, pytest.raises(ZeroDivisionError):
        get({"y": (operator.truediv, 1, 0)}, "y")
    assert story.ended == [(True, 0)]


def test_a_callback_that_raises_ends_the_call():
    def refuse(key, dsk, state):
        raise LookupError("not this one")

    with Callback(pretask=refuse), pytest.raises(LookupError, match="not this one"):
        get({f"t{i}": (abs, i) for i in range(20)}, [f"t{i}" for i in range(20)])


def test_a_progress_bar():
    out = io.StringIO()
    with ProgressBar(out=out):
        assert da.ones((8, 8), chunks=2).sum().compute() == 64
    assert "100% Completed" in out.getvalue()


def test_callbacks_that_see_results():
    with Profiler() as profile:
        assert get({"x": (abs, -1), "y": (abs, "x")}, "y") == 1
    assert sorted(record.key for record in profile.results) == ["x", "y"]
    with Profiler(), pytest.raises(ZeroDivisionError):
        get({"y": (operator.truediv, 1, 0)}, "y")


# Any graph


def combine(*args, **kwargs):
    """What depends on every argument and its place."""
    return [args, sorted(kwargs.items())]


@st.composite
def graphs(draw):
    """A graph of all kinds of nodes, in no particular order of keys."""
    graph = {}
    for i in range(draw(st.integers(1, 12))):
        earlier = list(graph)

        def argument(depth, earlier=earlier):
            kinds = ["literal"] + (["ref", "alias"] if earlier else [])
            kinds += ["list", "tuple", "dict", "task"] if depth else []
            kind = draw(st.sampled_from(kinds))
            if kind == "literal":
                return draw(st.sampled_from([None, 0, -1.5, "text", (1, 2), b"x"]))
            if kind in ("ref", "alias"):
                return {"ref": TaskRef, "alias": Alias}[kind](draw(st.sampled_from(earlier)))
            parts = [argument(depth - 1) for _ in range(draw(st.integers(0, 3)))]
            if kind == "dict":
                return Dict({f"k{j}": part for j, part in enumerate(parts)})
            return {"list": List, "tuple": Tuple}[kind](*parts) if kind != "task" else Task(None, combine, *parts)

        kind = draw(st.sampled_from(["task", "task", "data", "fused"] + (["alias"] if earlier else [])))
        key = draw(st.sampled_from([f"key-{i}", ("name", i), i]))
        if kind == "data":
            graph[key] = DataNode(key, draw(st.integers()))
        elif kind == "alias":
            graph[key] = Alias(key, draw(st.sampled_from(earlier)))
        else:
            args = [argument(2) for _ in range(draw(st.integers(0, 3)))]
            kwargs = {f"n{j}": argument(1) for j in range(draw(st.integers(0, 2)))}
            task = Task(key, combine, *args, **kwargs)
            if kind == "fused":
                first = Task(("inner", i), combine, *args, **kwargs)
                task = Task.fuse(first, Task(key, combine, TaskRef(first.key), TaskRef(first.key)), key=key)
            graph[key] = task
    return graph


def test_configured_retries_hold(tmp_path):
    def fail_once(path):
        if not path.exists():
            path.touch()
            raise ValueError("the first time")
        return 7

    graph = {"a": Task("a", fail_once, tmp_path / "mark"), "b": Task("b", operator.neg, TaskRef("a"))}
    with pytest.raises(ValueError, match="the first time"):
        get(graph, "b")
    (tmp_path / "mark").unlink()
    with mh.config.set(retries=1, retry_delay=0.001):
        assert get(graph, "b") == -7


def test_any_graph_gives_what_dask_gives(where):
    @given(graphs(), st.randoms())
    @settings(max_examples=30 if where.is_fork else 100, deadline=None, suppress_health_check=list(HealthCheck))
    def check(graph, random):
        keys = list(graph)
        random.shuffle(keys)
        shuffled = {key: graph[key] for key in keys}
        wanted = [keys[: len(keys) // 2 + 1], keys[0]]
        assert get(shuffled, wanted) == dask.local.get_sync(graph, wanted)

    check()
