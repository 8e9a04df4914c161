"""What holds for threads alone, or can be seen with them alone."""

from __future__ import annotations

import threading

import pytest
from scripts import PATIENCE_S, check, run, until

import manyhands as mh


def test_what_was_computed_before_an_error_elsewhere_comes_before_it():
    """With two threads, as with more the second call might begin before the first has ended."""
    for _ in range(20):
        is_computed, is_over = threading.Event(), threading.Event()

        def work(i, is_computed=is_computed, is_over=is_over):
            if i == 1:  # behind the first, in one chunk
                is_computed.set()
                assert is_over.wait(PATIENCE_S)
            if i == 2:
                assert is_computed.wait(PATIENCE_S)
                raise LookupError(i)
            return i

        seen = []
        with pytest.raises(LookupError):
            for result in mh.stream(work, range(4), chunksize=2, buffersize=4, scheduler="threads", num_workers=2):
                seen.append(result)
        is_over.set()
        assert seen == [0]


def test_a_task_that_is_the_first_to_import_threading_does_not_keep_the_program(tmp_path):
    source = """
    import sys
    import manyhands as mh

    def work(x):
        was_there = "threading" in sys.modules
        import threading
        return threading.current_thread() is threading.main_thread(), was_there

    assert "threading" not in sys.modules
    print(mh.map(work, [1], scheduler="threads"))
    """
    check(run(tmp_path, source), "[(False, True)]\n")


# What cannot be stopped


class Blocked:
    """A task that is inside of compiled code until the test has seen enough, and then goes on."""

    def __init__(self):
        self.lock = threading.Lock()
        self.lock.acquire()
        self.has_begun, self.went_on, self.has_ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, result=1):
        self.has_begun.set()
        try:
            with self.lock:
                self.went_on.set()
            return result
        finally:
            self.has_ended.set()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        if self.lock.locked():
            self.lock.release()


def all_threads_are_free(n_threads):
    """Whether so many calls run at once."""
    meeting = threading.Barrier(n_threads)
    mh.map(lambda _: meeting.wait(PATIENCE_S), range(n_threads), scheduler="threads", num_workers=n_threads)
    return True


def test_a_call_that_runs_cannot_be_cancelled_and_goes_on():
    with Blocked() as task, mh.config.set(scheduler="threads", num_workers=2):
        future = mh.submit(task, 7)
        assert task.has_begun.wait(PATIENCE_S)
        assert not future.cancel()
        assert not future.cancelled()
        task.lock.release()
        assert future.result(PATIENCE_S) == 7


def test_a_call_that_has_run_here_cannot_be_cancelled():
    with mh.config.set(scheduler="synchronous"):
        future = mh.submit(abs, -7)
    assert future.result() == 7
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result() == 7


@pytest.mark.parametrize("is_dropped", [False, True])
def test_a_stream_that_is_closed_interrupts_python_code(is_dropped):
    has_begun, is_over = threading.Event(), threading.Event()
    ends = []

    def loop(x):
        if x == 0:
            assert has_begun.wait(PATIENCE_S)
            return x
        try:
            has_begun.set()
            while not is_over.wait(0.01):
                pass
            ends.append("by itself")
        except BaseException:
            ends.append("interrupted")
            raise

    stream = mh.stream(loop, range(2), chunksize=1, scheduler="threads", num_workers=2)
    try:
        assert next(stream) == 0
        if is_dropped:
            del stream
        else:
            stream.close()
        until(lambda: ends, "the task has ended")
        assert ends == ["interrupted"]
        assert all_threads_are_free(2)
    finally:
        is_over.set()


def test_threads_in_compiled_code_are_replaced_when_a_stream_is_closed():
    with Blocked() as task:
        stream = mh.stream(
            lambda x: task() if x else task.has_begun.wait(PATIENCE_S),
            range(2),
            chunksize=1,
            scheduler="threads",
            num_workers=2,
        )
        assert next(stream)
        stream.close()
        assert all_threads_are_free(2)
        assert not task.has_ended.is_set()
        # The interruption meets it when it is in Python code again.
        task.lock.release()
        assert task.has_ended.wait(PATIENCE_S)


def test_what_runs_while_another_task_fails_goes_on_and_its_thread_is_replaced():
    with Blocked() as task:

        def work(x):
            if x == 1:
                assert task.has_begun.wait(PATIENCE_S)
                raise LookupError(x)
            return task()

        with pytest.raises(LookupError):
            mh.map(work, range(2), chunksize=1, scheduler="threads", num_workers=2)
        assert not task.went_on.is_set()
        assert all_threads_are_free(2)
        task.lock.release()
        assert task.went_on.wait(PATIENCE_S)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_task_that_ends_its_process_ends_the_program(tmp_path, scheduler):
    source = """
    import os, sys
    import manyhands as mh

    mh.map(lambda x: os._exit(3), [1], scheduler=sys.argv[1])
    print("not reached")
    """
    outcome = run(tmp_path, source, scheduler)
    assert (outcome.returncode, outcome.stdout) == (3, ""), outcome
