"""What is kept in a checkpoint is what was computed, wherever that was."""

from __future__ import annotations

import os

import pytest

import manyhands as mh


def draw(x, rng):
    return x, float(rng.normal())


def noted(path, x):
    """Return `x`, and leave a line."""
    with open(path, "a") as file:
        file.write(f"{x}\n")
    return x


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.mh"


def test_a_map_goes_on_where_it_was(path):
    want = mh.map(draw, range(30), seed=3)
    assert mh.map(draw, range(12), seed=3, checkpoint=path) == want[:12]
    assert mh.map(draw, range(30), seed=3, checkpoint=path) == want
    assert len(mh.checkpoint.open(path)) == 30


def test_a_stream_goes_on_where_it_was(path):
    want = mh.map(draw, range(30), seed=3)
    assert list(mh.stream(draw, range(12), seed=3, checkpoint=path)) == want[:12]
    assert list(mh.stream(draw, range(30), seed=3, checkpoint=path)) == want
    assert sorted(mh.stream(draw, range(35), seed=3, checkpoint=path, ordered=False))[:30] == want


def test_a_graph_goes_on_where_it_was(path, tmp_path):
    log = str(tmp_path / "log")
    parts = [mh.delayed(noted)(log, k) for k in range(5)]
    assert mh.compute(*parts[:3], checkpoint=path) == (0, 1, 2)
    assert mh.compute(mh.delayed(sum)(parts), checkpoint=path) == (10,)
    with open(log) as file:
        assert sorted(file.read().split()) == ["0", "1", "2", "3", "4"]


def test_a_failure_leaves_what_was_there(path):
    def fails(x):
        if x == 6:
            raise ValueError("six")
        return x

    with pytest.raises(ValueError, match="six"):
        mh.map(fails, range(8), checkpoint=path, chunksize=1)
    study = mh.checkpoint.open(path)
    assert [task.error for task in study.failures] == [("ValueError", "six")]
    assert all(task.result() == task.index for task in study if task.error is None)


def test_results_are_kept_by_whoever_asked_for_them(path, where):
    def inner(x):
        return mh.map(abs, [-x, x], checkpoint=f"{path}.{x}"), os.getpid()

    results = mh.map(inner, [1, 2], checkpoint=path)
    assert [values for values, _ in results] == [[1, 1], [2, 2]]
    assert mh.map(inner, [1, 2], checkpoint=path) == results
    assert len(mh.checkpoint.open(f"{path}.2")) == 2


def test_an_object_that_changes_between_calls_is_another_argument(path):
    """By the consumer of a stream: what is kept must be what was asked for."""
    items = [1]
    for _ in mh.stream(sum, [items] * 5, checkpoint=path, buffersize=1):
        items[0] += 1
    kept = mh.map(sum, [[k] for k in range(1, 6)], checkpoint=path, scheduler="synchronous")
    assert kept == [1, 2, 3, 4, 5]


def test_results_of_a_closed_checkpoint_say_so(path):
    mh.map(abs, [-1], checkpoint=path)
    with mh.checkpoint.open(path) as study:
        (task,) = study.tasks
    with pytest.raises(ValueError, match="has been closed"):
        task.result()
