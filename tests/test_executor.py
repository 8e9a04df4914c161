"""`manyhands.Executor`: what programs for `concurrent.futures` rely on, and what they could not do there."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool

import pytest
import scripts

import manyhands as mh

ALL = ["synchronous", "threads", "processes", "fork"]
PARALLEL = ["threads", "processes", "fork"]
POOLS = ["threads", "processes"]


def square(x):
    return x * x


def invert(x):
    return 1 / x


def nap(path, value=None):
    """Waits for a file, across processes."""
    scripts.until(path.exists, f"{path} is there")
    return value


def note_and_nap(began, path):
    began.touch()
    nap(path)


def leave(code):
    os._exit(code)


@pytest.mark.parametrize("scheduler", ALL)
def test_submit_and_map(scheduler):
    with mh.Executor(2, scheduler=scheduler) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        futures = [executor.submit(square, i) for i in range(5)]
        assert [future.result() for future in futures] == [0, 1, 4, 9, 16]
        assert executor.submit(dict, a=1, fn=2, self=3).result() == {"a": 1, "fn": 2, "self": 3}
        assert list(executor.map(pow, range(5), itertools.repeat(2))) == [0, 1, 4, 9, 16]
        assert list(executor.map(square, [])) == []
        assert list(executor.map(square)) == []


@pytest.mark.parametrize("scheduler", ALL)
def test_a_failed_call_of_a_map_has_its_place(scheduler):
    with mh.Executor(2, scheduler=scheduler) as executor:
        results = executor.map(invert, [1, 2, 0, 4])
        assert (next(results), next(results)) == (1, 0.5)
        with pytest.raises(ZeroDivisionError) as caught:
            next(results)
        assert "Raised by the task invert(0)" in "".join(caught.value.__notes__)
        assert list(results) == []
        # It has done no harm.
        assert list(executor.map(square, range(3))) == [0, 1, 4]


@pytest.mark.parametrize("scheduler", ALL)
def test_a_buffered_map_takes_items_as_results_are_taken(scheduler):
    taken = []

    def items():
        for i in itertools.count():
            taken.append(i)
            yield i

    with mh.Executor(2, scheduler=scheduler) as executor:
        results = executor.map(square, items(), buffersize=3)
        assert len(taken) == 3
        assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
        assert len(taken) <= 7
        results.close()


@pytest.mark.parametrize("scheduler", POOLS)
def test_a_buffered_map_that_is_left_alone_does_not_keep_the_executor(scheduler):
    executor = mh.Executor(2, scheduler=scheduler)
    results = executor.map(square, itertools.count(), buffersize=3)
    assert next(results) == 0
    executor.shutdown()
    assert next(results) == 1
    results.close()


@pytest.mark.parametrize("scheduler", ALL)
@pytest.mark.parametrize("n_items", [2, 3, 6])
def test_a_buffered_map_that_the_end_of_its_executor_cuts_off_says_so(scheduler, n_items):
    with mh.Executor(2, scheduler=scheduler) as executor:
        results = executor.map(square, range(n_items), buffersize=2)
    if n_items == 2:
        assert list(results) == [0, 1]
    else:
        with pytest.raises(RuntimeError, match="after shutdown"):
            list(results)


def draw(_, rng):
    return float(rng.random())


@pytest.mark.parametrize("buffersize", [None, 2])
def test_numbers_of_a_map_do_not_depend_on_where_or_how_it_runs(buffersize):
    """Calls that are tried again go another way, as do those of schedulers that have no pool."""
    drawn = {}
    for scheduler in ALL:
        for retries in (0, 1):
            with mh.config.set(seed=5, retries=retries), mh.Executor(2, scheduler=scheduler) as executor:
                maps = [executor.map(draw, range(n), **as_far_as_known(buffersize)) for n in (4, 3)]
                drawn[scheduler, retries] = [list(results) for results in maps]
    assert len({repr(each) for each in drawn.values()}) == 1, drawn


def as_far_as_known(buffersize):
    return {} if buffersize is None else {"buffersize": buffersize}


def fail_once(folder, number):
    path = folder / str(number)
    if not path.exists():
        path.touch()
        raise ValueError(number)
    return number


@pytest.mark.parametrize("scheduler", ALL)
def test_what_held_when_a_map_was_made_holds_to_its_end(scheduler, tmp_path):
    with mh.Executor(2, scheduler=scheduler) as executor:
        with mh.config.set(retries=1, retry_delay=0):
            results = executor.map(fail_once, itertools.repeat(tmp_path), range(6), buffersize=2)
        assert list(results) == list(range(6))


def touch_and_fail(path):
    path.touch()
    raise ValueError(path.name)


@pytest.mark.parametrize("scheduler", PARALLEL)
def test_cancelling_what_waits_starts_none_of_it_although_a_call_rests(scheduler, tmp_path):
    rested, go, waiting = tmp_path / "rested", tmp_path / "go", tmp_path / "waiting"
    with mh.config.set(retries=1, retry_delay=3600), mh.Executor(1, scheduler=scheduler) as executor:
        rests = executor.submit(touch_and_fail, rested)
        scripts.until(lambda: rested.exists() and not rests.running(), "it has been tried, and rests")
        first = executor.submit(nap, go)
        waits = [executor.submit(waiting.touch) for _ in range(3)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert rests.cancelled()
        assert all(call.cancelled() for call in waits)
        go.touch()
        concurrent.futures.wait([first, *waits], timeout=scripts.PATIENCE_S)
    assert not waiting.exists()


@pytest.mark.parametrize("scheduler", PARALLEL)
def test_timeouts(scheduler, tmp_path):
    with mh.Executor(2, scheduler=scheduler) as executor:
        try:
            with pytest.raises(concurrent.futures.TimeoutError):
                list(executor.map(nap, [tmp_path / "go"], timeout=0.01))
            with pytest.raises(concurrent.futures.TimeoutError):
                executor.submit(nap, tmp_path / "go").result(timeout=0.01)
        finally:
            (tmp_path / "go").touch()


@pytest.mark.parametrize("scheduler", ALL)
def test_wait_and_as_completed(scheduler):
    with mh.Executor(2, scheduler=scheduler) as executor:
        futures = [executor.submit(square, i) for i in range(6)]
        done, not_done = concurrent.futures.wait(futures, timeout=scripts.PATIENCE_S)
        assert (done, not_done) == (set(futures), set())
        assert {future.result() for future in concurrent.futures.as_completed(futures)} == {0, 1, 4, 9, 16, 25}


@pytest.mark.parametrize("scheduler", ALL)
def test_event_loops(scheduler):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, square, i) for i in range(4)))

    with mh.Executor(2, scheduler=scheduler) as executor:
        assert asyncio.run(main()) == [0, 1, 4, 9]


@pytest.mark.parametrize("scheduler", PARALLEL)
def test_no_more_workers_than_asked_for(scheduler, tmp_path):
    with mh.Executor(1, scheduler=scheduler) as executor:
        first = executor.submit(note_and_nap, tmp_path / "first", tmp_path / "go")
        second = executor.submit(note_and_nap, tmp_path / "second", tmp_path / "go")
        scripts.until((tmp_path / "first").exists, "the first call has begun")
        with pytest.raises(concurrent.futures.TimeoutError):
            second.result(timeout=0.1)
        assert not (tmp_path / "second").exists()
        (tmp_path / "go").touch()
        assert (first.result(), second.result()) == (None, None)


@pytest.mark.parametrize("scheduler", PARALLEL)
def test_cancelling_leaves_running_calls_alone(scheduler, tmp_path):
    with mh.Executor(1, scheduler=scheduler) as executor:
        running = executor.submit(note_and_nap, tmp_path / "began", tmp_path / "go")
        waiting = executor.submit(square, 2)
        scripts.until((tmp_path / "began").exists, "the first call has begun")
        assert not running.cancel()
        assert running.running()
        assert waiting.cancel()
        assert waiting.cancelled()
        (tmp_path / "go").touch()
        assert running.result() is None
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result()


@pytest.mark.parametrize("scheduler", PARALLEL)
def test_shutdown_cancels_what_has_not_started(scheduler, tmp_path):
    executor = mh.Executor(1, scheduler=scheduler)
    running = executor.submit(note_and_nap, tmp_path / "began", tmp_path / "go")
    waiting = [executor.submit(square, i) for i in range(4)]
    results = executor.map(square, range(3))
    scripts.until((tmp_path / "began").exists, "the first call has begun")
    executor.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in waiting] == [True] * 4
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    (tmp_path / "go").touch()
    assert running.result(timeout=scripts.PATIENCE_S) is None


@pytest.mark.parametrize("scheduler", ALL)
def test_shutdown_waits_and_there_are_no_more_calls(scheduler):
    executor = mh.Executor(2, scheduler=scheduler)
    futures = [executor.submit(square, i) for i in range(20)]
    results = executor.map(square, range(20))
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert list(results) == [i * i for i in range(20)]
    for call in (lambda: executor.submit(square, 1), lambda: executor.map(square, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            call()
    executor.shutdown()


@pytest.mark.parametrize("scheduler", PARALLEL)
def test_what_was_submitted_outlives_the_executor(scheduler, tmp_path):
    executor = mh.Executor(1, scheduler=scheduler)
    first = executor.submit(nap, tmp_path / "go", 1)
    second = executor.submit(square, 2)
    del executor
    (tmp_path / "go").touch()
    assert (first.result(timeout=scripts.PATIENCE_S), second.result(timeout=scripts.PATIENCE_S)) == (1, 4)


@pytest.mark.parametrize("scheduler", POOLS)
def test_a_map_whose_results_nobody_takes_runs(scheduler, tmp_path):
    def touch(name):
        (tmp_path / name).touch()

    with mh.Executor(2, scheduler=scheduler) as executor:
        executor.map(touch, "abcd")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "d"]


def test_processes_wait_for_the_next_executor():
    with mh.Executor(1, scheduler="processes") as executor:
        pid = executor.submit(os.getpid).result()
    with mh.Executor(1, scheduler="processes") as executor:
        assert executor.submit(os.getpid).result() == pid
        # Two at once do not share them.
        with mh.Executor(1, scheduler="processes") as other:
            assert other.submit(os.getpid).result() != pid
    with mh.Executor(1, scheduler="processes", initializer=square, initargs=(1,)) as executor:
        own = executor.submit(os.getpid).result()
    scripts.until(lambda: not scripts.is_alive(own), "the worker with an initializer has ended")


def test_mh_shutdown_ends_the_workers_of_executors(tmp_path):
    executor = mh.Executor(1, scheduler="processes")
    pid = executor.submit(os.getpid).result()
    future = executor.submit(nap, tmp_path / "never")
    mh.shutdown()
    assert not scripts.is_alive(pid)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=scripts.PATIENCE_S)
    assert executor.submit(square, 3).result() == 9
    executor.shutdown()


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_a_call_that_ends_its_worker_fails_alone(scheduler):
    with mh.Executor(1, scheduler=scheduler) as executor:
        futures = [executor.submit(leave, 3), executor.submit(square, 3)]
        with pytest.raises(mh.WorkerDied, match=r"leave\(3\).*exited with code 3") as caught:
            futures[0].result()
        assert isinstance(caught.value, BrokenProcessPool)
        assert caught.value.exitcode == 3
        assert futures[1].result() == 9
        with pytest.raises(mh.WorkerDied):
            list(executor.map(leave, [4]))
        assert list(executor.map(square, range(3))) == [0, 1, 4]


def touch_or_leave(path, is_fatal):
    if is_fatal:
        os._exit(5)
    path.touch()
    return path.name


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_a_call_of_a_map_that_ends_its_worker_leaves_the_others_alone(tmp_path, scheduler):
    paths = [tmp_path / str(number) for number in range(20)]
    with mh.Executor(2, scheduler=scheduler) as executor:
        results = executor.map(touch_or_leave, paths, [number in (7, 11) for number in range(20)])
        executor.shutdown()  # all of them have run then
        assert [next(results) for _ in range(7)] == [str(number) for number in range(7)]
        with pytest.raises(mh.WorkerDied, match="touch_or_leave.*exited with code 5") as caught:
            next(results)
        assert isinstance(caught.value, BrokenProcessPool)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [n for n in range(20) if n not in (7, 11)]


class EndsWhoUnpickles:
    def __init__(self, pid):
        self.pid = pid

    def __reduce__(self):
        return leave_unless, (self.pid, 7)


def leave_unless(pid, code):
    os._exit(code)


def test_naming_what_has_ended_a_worker_does_not_end_the_program():
    with mh.Executor(1, scheduler="processes") as executor:
        future = executor.submit(square, {"one": 1, "fatal": EndsWhoUnpickles(0)})
        with pytest.raises(mh.WorkerDied, match=r"square\(\{'one': 1, 'fatal': <leave_unless>\}\)"):
            future.result()


def test_what_cannot_be_pickled_is_the_errors_of_the_future():
    lock = threading.Lock()
    with mh.Executor(1, scheduler="processes") as executor:
        future = executor.submit(square, lock)
        assert isinstance(future.exception(), mh.PicklingError)
        results = executor.map(square, [1, 2, lock, 4])
        assert (next(results), next(results)) == (1, 4)
        with pytest.raises(mh.PicklingError, match="lock"):
            next(results)


def test_managers_of_multiprocessing_can_be_passed_on():
    import multiprocessing

    with multiprocessing.Manager() as manager, mh.Executor(1, scheduler="processes") as executor:
        shared = manager.dict()
        executor.submit(shared.update, {"a": 1}).result()
        assert dict(shared) == {"a": 1}


# The initializer

STATE = threading.local()


def set_state(value):
    STATE.value = value


def get_state(_=None):
    return getattr(STATE, "value", None)


def fail(text):
    raise ValueError(text)


@pytest.mark.parametrize("scheduler", ALL)
def test_the_initializer_is_called_in_each_worker(scheduler):
    with mh.Executor(2, scheduler=scheduler, initializer=set_state, initargs=("ready",)) as executor:
        assert [executor.submit(get_state).result() for _ in range(4)] == ["ready"] * 4
        assert list(executor.map(get_state, range(50))) == ["ready"] * 50
    STATE.__dict__.clear()


@pytest.mark.parametrize("scheduler", ALL)
def test_an_initializer_that_fails_ends_the_executor(scheduler, caplog, capfd):
    broken = BrokenThreadPool if scheduler in ("threads", "synchronous") else BrokenProcessPool
    with mh.Executor(1, scheduler=scheduler, initializer=fail, initargs=("no licence",)) as executor:
        with pytest.raises(broken, match="initializer has raised ValueError: no licence"):
            executor.submit(square, 1).result()
        for call in (lambda: executor.submit(square, 1), lambda: executor.map(square, [1])):
            with pytest.raises(broken, match="no licence"):
                call()
    with mh.Executor(1, scheduler=scheduler, initializer=fail, initargs=("no licence",)) as executor:
        with pytest.raises(broken, match="no licence"):
            list(executor.map(square, [1, 2]))


# What is not accepted


def test_wrong_arguments_say_what_is_accepted():
    with pytest.raises(ValueError, match="max_workers must be greater than 0, which -1 is not"):
        mh.Executor(-1)
    with pytest.raises(TypeError, match="max_workers='2' is not accepted: a whole number of at least 1"):
        mh.Executor("2")
    with pytest.raises(mh.ConfigError, match="scheduler='thread' is not a scheduler"):
        mh.Executor(scheduler="thread")
    with pytest.raises(TypeError, match="initializer must be callable, which 3 is not"):
        mh.Executor(initializer=3)
    with mh.Executor(1, scheduler="synchronous") as executor:
        with pytest.raises(TypeError, match=r"submit\(\) needs a function to call, not int 3"):
            executor.submit(3)
        with pytest.raises(ValueError, match="chunksize=0 is not accepted: a whole number of at least 1"):
            executor.map(square, [1], chunksize=0)
        with pytest.raises(TypeError, match="buffersize=1.5 is not accepted"):
            executor.map(square, [1], buffersize=1.5)


# Whole programs

WAITS = """
import sys, time
import manyhands as mh
def late(text):
    time.sleep(0.3)
    print(text, flush=True)
executor = mh.Executor(1, scheduler=sys.argv[1])
executor.submit(late, "one").add_done_callback(lambda future: print("told", flush=True))
executor.submit(late, "two")
executor.shutdown(wait=False)
"""


@pytest.mark.parametrize("scheduler", PARALLEL)
def test_the_program_ends_when_its_calls_have(scheduler, tmp_path):
    outcome = scripts.run(tmp_path, WAITS, scheduler)
    assert outcome.returncode == 0, outcome
    assert outcome.stderr == "", outcome
    assert sorted(outcome.stdout.split()) == ["one", "told", "two"], outcome


FORKS = """
import os, sys
import manyhands as mh
executor = mh.Executor(2, scheduler=sys.argv[1])
print(executor.submit(abs, -1).result(), flush=True)
pid = os.fork()
if pid == 0:
    print(executor.submit(abs, -2).result(), flush=True)
    executor.shutdown()
    sys.exit(0)
_, status = os.waitpid(pid, 0)
print(status, executor.submit(abs, -3).result(), flush=True)
"""


@pytest.mark.parametrize("scheduler", ALL)
def test_a_forked_child_has_workers_of_its_own(scheduler, tmp_path):
    outcome = scripts.run(tmp_path, FORKS, scheduler)
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == "1\n2\n0 3\n", outcome


NESTS = """
import manyhands as mh
def inner(x):
    return x + 1
def outer(x):
    with mh.Executor() as executor:
        return sum(executor.map(inner, range(x)))
with mh.Executor(2, scheduler="processes") as executor:
    print(list(executor.map(outer, range(4))))
with mh.Executor(2, scheduler="threads") as executor:
    print(list(executor.map(outer, range(4))))
"""


def test_an_executor_inside_of_a_call_makes_its_calls_there(tmp_path):
    scripts.check(scripts.run(tmp_path, NESTS), "[0, 1, 3, 6]\n[0, 1, 3, 6]\n")


INTERRUPTED = """
import sys, time
import manyhands as mh
def sleep(seconds):
    print("begun", flush=True)
    time.sleep(seconds)
try:
    with mh.Executor(1, scheduler=sys.argv[1]) as executor:
        getattr(sys.modules["__main__"], sys.argv[2])(executor)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
WAYS = {
    "result": "def result(executor): executor.submit(sleep, 1000).result()\n",
    "taking": "def taking(executor): list(executor.map(sleep, [1000, 1000]))\n",
    "leaving": "def leaving(executor): executor.submit(sleep, 1000)\n",
}


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_ends_calls_and_the_executor(way, scheduler, tmp_path):
    import signal

    begin, marker, rest = INTERRUPTED.partition("try:")
    with scripts.start(tmp_path, begin + "".join(WAYS.values()) + marker + rest, scheduler, way) as program:
        program.wait_for("begun")
        time.sleep(0.1)  # until it waits; sooner, it is interrupted elsewhere, and ends as well
        program.signal_all(signal.SIGINT)
        outcome = program.wait()
        # The keys reach the worker as well: with its end the turn may go to a call that waits, just before that is
        # cancelled, and what it prints may come in between.
        assert outcome.stdout.count("interrupted") == 1, outcome
        assert outcome.returncode == 0, outcome
