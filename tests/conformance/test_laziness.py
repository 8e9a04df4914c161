"""When what a call uses is looked at: as it is computed, or as it is sent."""

from __future__ import annotations

import contextvars
import decimal
import time
import warnings

import numpy as np
import pytest

import manyhands as mh

HANG_S = 300
NUM_WORKERS = [2]


def space_of(code):
    """A namespace that is nobody's module, as a script or a notebook is to its workers."""
    namespace = {"__name__": "__main__", "mh": mh}
    exec(code, namespace)
    return namespace


@pytest.fixture
def hold_all(where, tmp_path):
    """Keep all workers busy; call what comes out of it to let them go."""
    (gate, begun) = (tmp_path / "open", tmp_path / "begun")
    begun.mkdir()

    def wait(i):
        (begun / str(i)).touch()
        deadline = time.monotonic() + HANG_S
        while not gate.exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def hold():
        if where.is_synchronous:
            return gate.touch  # a call that waits here would wait for ever
        futures.extend(mh.submit(wait, i) for i in range(where.num_workers))
        deadline = time.monotonic() + HANG_S
        while len(list(begun.iterdir())) < where.num_workers:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return gate.touch

    futures = []
    yield hold
    gate.touch()
    for future in futures:
        future.result()


# Lazy calls: Python's own rule for what a function refers to, up to the moment at which they are computed


def test_a_lazy_call_holds_its_arguments_not_their_names():
    xs = [1, 2]
    task = mh.delayed(sum)(xs)
    del xs
    assert task.compute() == 3


def test_a_lazy_call_sees_what_its_arguments_are_when_it_is_computed():
    xs = {"values": [1, 2]}
    task = mh.delayed(lambda found: sum(found["values"]), traverse=False)(xs)
    xs["values"].append(4)
    assert task.compute() == 7
    xs["values"].append(8)
    assert task.compute() == 15


def test_lists_that_are_looked_through_for_tasks_are_taken_as_they_are():
    """The list may change; what the task was made of does not."""
    one = mh.delayed(abs)(-1)
    parts = [one, 2]
    task = mh.delayed(sum)(parts)
    parts.append(4)
    assert task.compute() == 3


def test_a_lazy_call_looks_its_globals_up_when_it_is_computed():
    space = space_of("level = 1\n@mh.delayed\ndef f(x):\n    return x * level\ntask = f(10)\n")
    space["level"] = 2
    assert space["task"].compute() == 20
    space["level"] = 3
    assert space["task"].compute() == 30
    del space["level"]
    with pytest.raises(NameError, match="level"):
        space["task"].compute()


def test_what_is_to_be_frozen_is_an_argument():
    space = space_of("level = 1\n@mh.delayed\ndef f(x, level):\n    return x * level\ntask = f(10, level)\n")
    space["level"] = 2
    del space["level"]
    assert space["task"].compute() == 10


def test_what_was_persisted_stays():
    xs = [1, 2]
    task = mh.delayed(sum)(xs).persist()
    xs.append(4)
    assert task.compute() == 3


# Calls that are sent at once


def test_a_submitted_call_sees_what_was_there_then(where, hold_all):
    """Where something is sent. Threads share everything, as Python's own do."""
    space = space_of("level = 1\ndef helper(x):\n    return x\ndef f(xs):\n    return helper(list(xs)), level\n")
    release = hold_all()
    xs = [1]
    future = mh.submit(space["f"], xs)
    xs.append(2)
    space["level"] = 5
    if where.scheduler != "threads":
        del space["helper"]
    release()
    assert future.result() == (([1, 2], 5) if where.scheduler == "threads" else ([1], 1))


def test_submitting_does_not_wait_for_workers(where, hold_all):
    release = hold_all()
    futures = [mh.submit(abs, -i) for i in range(20 * where.num_workers)]
    assert where.is_synchronous or not any(future.done() for future in futures)
    release()
    assert [future.result() for future in futures] == list(range(len(futures)))


def test_asking_whether_a_call_has_ended_does_not_wait_and_is_never_taken_back(where, hold_all):
    release = hold_all()
    future = mh.submit(pow, 2, 3)
    for _ in range(100):
        assert future.done() is where.is_synchronous
    release()
    deadline = time.monotonic() + HANG_S
    seen = []
    while not (seen and seen[-1]):
        assert time.monotonic() < deadline
        seen.append(future.done())
        time.sleep(0.001)
    # Nobody has asked for the result so far.
    assert all(future.done() for _ in range(100))
    assert future.result() == 8
    assert future.done()


def test_asking_goes_on_while_others_are_submitted(where, hold_all):
    release = hold_all()
    futures = []
    for i in range(20):
        futures.append(mh.submit(abs, -i))
        assert [future.done() for future in futures] == [where.is_synchronous] * len(futures)
    release()
    assert [future.result() for future in futures] == list(range(20))


# Context variables, in which NumPy keeps `errstate`, and Python what `decimal` rounds to


VARIABLE = contextvars.ContextVar("VARIABLE", default="nothing")


def look_around(_):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quotient = str(np.float64(1) / np.float64(0)) if np.geterr()["divide"] == "ignore" else "would warn"
    return VARIABLE.get(), decimal.getcontext().prec, quotient


def every_look():
    return [
        *mh.map(look_around, range(3)),
        *mh.stream(look_around, range(2)),
        mh.submit(look_around, 0).result(),
        mh.delayed(look_around)(0).compute(),
        mh.delayed(look_around)(0).persist().compute(),
    ]


def has_errstate_in_context():
    return int(np.__version__.partition(".")[0]) >= 2


@pytest.mark.skipif(not has_errstate_in_context(), reason="before NumPy 2, its errstate is of a thread")
def test_tasks_see_the_callers_context_variables(where):
    """Not in processes of their own, which know nothing of what is around a call."""
    outside = ("nothing", 28, "would warn")
    assert every_look() == [outside] * 8
    token = VARIABLE.set("something")
    try:
        with decimal.localcontext() as context, np.errstate(divide="ignore"):
            context.prec = 7
            expected = outside if where.is_processes else ("something", 7, "inf")
            assert every_look() == [expected] * 8
            assert mh.map(lambda _: mh.map(look_around, range(2)), range(2)) == [[expected] * 2] * 2
    finally:
        VARIABLE.reset(token)
    assert every_look() == [outside] * 8


def change_variable(_):
    VARIABLE.set("changed")
    return VARIABLE.get()


def read_variable(_):
    return VARIABLE.get()


def test_what_a_task_sets_is_not_the_callers_but_in_the_callers_own_thread(where):
    token = VARIABLE.set("nothing")
    try:
        assert mh.map(change_variable, range(4)) == ["changed"] * 4
        assert VARIABLE.get() == ("changed" if where.is_synchronous else "nothing")
        if where.scheduler == "threads":
            assert mh.map(read_variable, range(4)) == ["nothing"] * 4
    finally:
        VARIABLE.reset(token)
