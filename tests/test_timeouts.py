"""Tasks that run for too long, and tasks that nobody wants any more: their worker is ended, and nobody else suffers."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from scripts import PATIENCE_S, is_alive, until

import manyhands as mh

# A limit for tasks that end at once, on a machine that does ten other things.
AMPLE_S = 3.0
# A limit that every task is meant to pass.
SHORT_S = 0.3


@pytest.fixture(params=["processes", "fork"], autouse=True)
def scheduler(request):
    with mh.config.set(scheduler=request.param, num_workers=2):
        yield request.param


def functions():
    """Functions that travel by value, so that workers need not import this module and what it needs."""

    def hang(way):
        """Not return, in one of the ways there are."""
        if way == "sleep":
            time.sleep(3600)
        elif way == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
            time.sleep(3600)
        elif way == "compiled code":
            import re

            re.match(r"(a+)+$", "a" * 60 + "b")
        elif way == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)

    def hang_where(index, meant):
        if index in meant:
            time.sleep(3600)
        return index

    def hang_once(index, folder, meant, rng=None):
        drawn = None if rng is None else int(rng.integers(2**60))
        path = f"{folder}/{index}"
        if index in meant and not os.path.exists(path):
            open(path, "w").close()
            time.sleep(3600)
        return index, drawn

    return hang, hang_where, hang_once


HANG, HANG_WHERE, HANG_ONCE = functions()


@pytest.mark.parametrize("way", ["sleep", "deaf", "compiled code", "stopped"])
def test_a_task_that_runs_for_too_long_is_ended_and_named(way, scheduler):
    with pytest.raises(TimeoutError) as caught:
        mh.delayed(HANG)(way).compute(timeout=SHORT_S)
    assert f"hang({way!r})" in str(caught.value)
    assert "timeout=0.3 s" in str(caught.value)
    assert "key 'hang-" in str(caught.value)
    assert f"scheduler {scheduler!r}" in "\n".join(caught.value.__notes__)
    assert mh.map(abs, [-1, -2]) == [1, 2]


@pytest.mark.parametrize("chunksize", [None, 5])
def test_its_neighbours_are_redone_and_not_blamed(chunksize):
    meant = {3, 17}
    results = mh.map(
        HANG_WHERE, range(30), [meant] * 30, timeout=AMPLE_S, on_error="return", chunksize=chunksize, num_workers=3
    )
    for index, result in enumerate(results):
        if index in meant:
            assert type(result) is TimeoutError
            assert f"item {index} " in str(result)
        else:
            assert result == index


def test_a_stream_goes_on_without_it():
    stream = mh.stream(HANG_WHERE, range(12), [{2, 5}] * 12, timeout=AMPLE_S, on_error="skip")
    assert list(stream) == [index for index in range(12) if index not in (2, 5)]


def test_what_depends_on_it_fails_with_its_error():
    slow = mh.delayed(HANG)("sleep")
    (results,) = mh.compute([slow, mh.delayed(str)(slow), mh.delayed(abs)(-3)], timeout=AMPLE_S, on_error="return")
    assert type(results[0]) is TimeoutError
    assert results[0] is results[1]
    assert results[2] == 3


def test_it_is_tried_again_and_draws_the_same(tmp_path):
    for name in ("map", "graph"):
        (tmp_path / name).mkdir()
    keywords = {"timeout": AMPLE_S, "retries": 1, "retry_delay": 0, "seed": 7}
    calm = mh.map(HANG_ONCE, range(8), [""] * 8, [()] * 8, seed=7)
    assert mh.map(HANG_ONCE, range(8), [tmp_path / "map"] * 8, [(2, 3)] * 8, **keywords) == calm
    calls = [mh.delayed(HANG_ONCE)(index, tmp_path / "graph", (1,)) for index in range(8)]
    assert mh.compute(calls, **keywords) == (calm,)


def test_the_last_try_says_how_often_it_was_tried():
    with pytest.raises(TimeoutError) as caught:
        mh.map(HANG, ["sleep"], timeout=SHORT_S, retries=1, retry_delay=0)
    assert "It was tried 2 times" in "\n".join(caught.value.__notes__)


def test_it_is_not_tried_again_where_others_are_meant():
    with pytest.raises(TimeoutError) as caught:
        mh.map(HANG, ["sleep"], timeout=SHORT_S, retries=5, retry_on=(KeyError, ValueError))
    assert "tried" not in "\n".join(caught.value.__notes__)


def test_time_is_counted_from_the_start_of_each_task():
    """All of them together take longer than one may, at one worker and in one batch."""
    naps = [0.2] * 20
    assert mh.map(time.sleep, naps, timeout=3.5, num_workers=1, chunksize=20) == [None] * 20


def test_tasks_without_a_limit_run_beside_those_with_one(tmp_path):
    slow = [mh.submit(time.sleep, 1.5) for _ in range(2)]
    results = mh.map(HANG_WHERE, range(6), [{4}] * 6, timeout=AMPLE_S, on_error="return")
    assert [type(result) for result in results] == [int] * 4 + [TimeoutError, int]
    assert [future.result(PATIENCE_S) for future in slow] == [None, None]


def test_a_limit_may_be_configured():
    with mh.config.set(timeout=SHORT_S):
        future = mh.submit(HANG, "sleep")
        with pytest.raises(TimeoutError, match="hang"):
            future.result(PATIENCE_S)
    # That of the one who asks is another.
    future = mh.submit(HANG, "sleep")
    with pytest.raises(Exception) as caught:  # in Python 3.10 concurrent.futures has one of its own
        future.result(0.01)
    assert type(caught.value).__name__ == "TimeoutError"
    assert not future.done()
    future.cancel()


# What nobody wants any more


def begun(folder):
    return until(lambda: [int(path.name) for path in folder.iterdir()], "a task has begun")


def nap_and_tell():
    def nap(folder, index):
        if index < 0:
            return index
        open(f"{folder}/{os.getpid()}", "w").close()
        if index == 1:
            deadline = time.monotonic() + 120
            while len(os.listdir(folder)) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            raise ValueError("enough")
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
        time.sleep(3600)

    return nap


NAP = nap_and_tell()


def test_a_cancelled_call_that_runs_is_stopped(tmp_path):
    future = mh.submit(NAP, tmp_path, 0)
    (pid,) = begun(tmp_path)
    assert future.cancel()
    assert future.cancelled()
    until(lambda: not is_alive(pid), "its worker is gone")
    assert mh.map(abs, [-1, -2, -3]) == [1, 2, 3]


def test_a_cancelled_call_whose_process_is_stopped_is_ended(tmp_path):
    future = mh.submit(NAP, tmp_path, 0)
    (pid,) = begun(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    assert future.cancel()
    until(lambda: not is_alive(pid), "its worker is gone")


@pytest.mark.parametrize("is_dropped", [False, True])
def test_a_stream_that_is_closed_or_dropped_stops_what_runs(tmp_path, is_dropped):
    stream = mh.stream(NAP, [tmp_path] * 2, [-1, 0], chunksize=1)
    assert next(stream) == -1
    (pid,) = begun(tmp_path)
    if is_dropped:
        del stream
    else:
        stream.close()
    until(lambda: not is_alive(pid), "its worker is gone")
    assert mh.map(abs, [-1, -2, -3]) == [1, 2, 3]


def test_a_stream_that_is_interrupted_stops_what_runs(tmp_path):
    stream = mh.stream(NAP, [tmp_path] * 2, [0, 2])
    with pytest.raises(KeyError), mh.config.set():
        # Somebody has to ask before anything runs; the one who asks is told otherwise.
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyError()))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        next(stream)
    for pid in begun(tmp_path):
        until(lambda pid=pid: not is_alive(pid), "its worker is gone")
    assert mh.map(abs, [-1, -2, -3]) == [1, 2, 3]


def test_a_failure_stops_what_else_runs(tmp_path):
    with pytest.raises(ValueError, match="enough"):
        mh.map(NAP, [tmp_path] * 2, [0, 1])
    pids = begun(tmp_path)
    assert len(pids) == 2
    assert mh.map(abs, [-1, -2, -3]) == [1, 2, 3]
    until(lambda: sum(is_alive(pid) for pid in pids) <= 1, "the worker of the other is gone")


# All of it together


def test_tasks_of_every_fate_side_by_side(tmp_path):
    def act(index, fate, folder):
        path = f"{folder}/{index}"
        is_first = not os.path.exists(path)
        open(path, "w").close()
        if fate == "raises" or (fate == "raises once" and is_first):
            raise ValueError(index)
        if fate == "hangs":
            time.sleep(3600)
        if fate == "dies" or (fate == "dies once" and is_first):
            os.kill(os.getpid(), signal.SIGKILL)
        return index

    fates = ["returns"] * 50 + ["raises", "raises once", "dies", "dies once"] * 2 + ["hangs"]
    seed = random.randrange(10**6)
    random.Random(seed).shuffle(fates)
    expected = {"raises": ValueError, "hangs": TimeoutError, "dies": mh.WorkerDied}
    n_tasks = len(fates)
    results = mh.map(
        act, range(n_tasks), fates, [tmp_path] * n_tasks,
        on_error="return", retries=1, retry_on=ValueError, retry_delay=0.01, timeout=AMPLE_S,
    )  # fmt: skip
    for index, (fate, result) in enumerate(zip(fates, results)):
        assert type(result) is expected.get(fate, int), (seed, index, fate, result)
        assert fate in expected or result == index, (seed, index)
