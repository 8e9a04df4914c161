"""How often a call runs: shared ones once, equal ones each, pure ones together."""

from __future__ import annotations

import collections
import random

import pytest

import manyhands as mh


@pytest.fixture
def log(tmp_path):
    """Counts calls across processes: each appends a line to a file."""
    return Log(str(tmp_path / "calls"))


class Log:
    def __init__(self, path):
        self.path = path

    def add(self, name):
        with open(self.path, "a") as file:
            file.write(f"{name}\n")

    def count(self):
        try:
            with open(self.path) as file:
                return dict(collections.Counter(file.read().split()))
        except FileNotFoundError:
            return {}


def logged(log, name, result=1):
    log.add(name)
    return result


def draw():
    return random.SystemRandom().getrandbits(64)


def test_a_shared_task_runs_once(log):
    shared = mh.delayed(logged)(log, "shared")
    uses = [shared + i for i in range(20)]
    assert mh.compute(uses, shared, shared, [shared]) == (list(range(1, 21)), 1, 1, [1])
    assert log.count() == {"shared": 1}


def test_every_map_item_runs_once(log):
    mh.map(lambda i: log.add(f"item{i}"), range(100))
    assert log.count() == {f"item{i}": 1 for i in range(100)}


def test_every_graph_task_runs_once(log):
    layer = [mh.delayed(logged)(log, f"leaf{i}") for i in range(50)]
    middle = [mh.delayed(sum)(layer[i : i + 5]) for i in range(0, 50, 5)]
    assert mh.delayed(sum)(middle).compute() == 50
    assert log.count() == {f"leaf{i}": 1 for i in range(50)}


def test_only_what_is_asked_for_runs(log):
    wanted, _unwanted = mh.delayed(logged)(log, "wanted"), mh.delayed(logged)(log, "unwanted")
    wanted.compute()
    assert log.count() == {"wanted": 1}


def test_each_compute_runs_anew(log):
    task = mh.delayed(logged)(log, "task")
    task.compute()
    task.compute()
    assert log.count() == {"task": 2}


def test_persisted_tasks_do_not_run_again(log):
    (held,) = mh.persist(mh.delayed(logged)(log, "held"))
    assert log.count() == {"held": 1}
    assert mh.compute(held, held + 1) == (1, 2)
    assert log.count() == {"held": 1}


def test_equal_calls_of_an_impure_function_all_run():
    draws = mh.compute([mh.delayed(draw)() for _ in range(8)])[0]
    assert len(set(draws)) == 8
    assert len(set(mh.map(lambda _: draw(), [0] * 8))) == 8
    assert len({mh.submit(draw).result() for _ in range(8)}) == 8


def test_equal_calls_of_a_pure_function_run_once(log):
    pure = mh.delayed(logged, pure=True)
    results = mh.compute([pure(log, "pure", [1, 2]) for _ in range(8)], pure(log, "other"))
    assert results == ([[1, 2]] * 8, 1)
    assert log.count() == {"pure": 1, "other": 1}
    assert len(set(mh.compute([mh.delayed(draw)(pure=True) for _ in range(8)])[0])) == 1


def test_pure_calls_are_told_apart_by_their_arguments(log):
    pure = mh.delayed(logged, pure=True)
    mh.compute([pure(log, name, result) for name in "ab" for result in (1, 1.0, True, "1", [1], (1,))])
    assert log.count() == {"a": 6, "b": 6}


def test_pure_calls_on_equal_pure_calls_are_one(log):
    pure = mh.delayed(logged, pure=True)
    chains = [pure(log, "second", pure(log, "first")) for _ in range(4)]
    assert mh.compute(chains) == ([1] * 4,)
    assert log.count() == {"first": 1, "second": 1}


def test_pure_calls_on_impure_calls_stay_apart(log):
    pure = mh.delayed(logged, pure=True)
    chains = [pure(log, "second", mh.delayed(logged)(log, "first")) for _ in range(4)]
    assert mh.compute(chains) == ([1] * 4,)
    assert log.count() == {"first": 4, "second": 4}


def test_one_function_pure_here_and_impure_there():
    task = mh.delayed(draw)
    pure, also_pure, impure = mh.compute(task(pure=True), task(pure=True), task())
    assert pure == also_pure != impure


def test_a_task_is_itself_under_a_chosen_key(log):
    task = mh.delayed(logged)(log, "task", dask_key_name="the-task")
    assert task.key == "the-task"
    assert mh.compute(task, [task, {"again": task}]) == (1, [1, {"again": 1}])
    assert log.count() == {"task": 1}


def test_two_different_tasks_under_one_key_are_refused():
    tasks = [mh.delayed(abs)(-i, dask_key_name="twice") for i in (1, 2)]
    with pytest.raises(ValueError, match="twice"):
        mh.compute(tasks)
