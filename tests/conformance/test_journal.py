"""A journal says of every task when it ran, where and how it ended, wherever that was."""

from __future__ import annotations

import collections
import operator
import os
import threading
import time

import pytest

import manyhands as mh

NAP_S = 0.05
LIMIT_S = 0.5
# Rounding, and nothing else: no worker works for longer than the call takes.
FULL = 1.01


def nap(x):
    time.sleep(NAP_S)
    return x


def invert(x):
    return 1 / x


def double(x):
    return 2 * x


def call_more(x):
    return sum(mh.map(double, range(x))) + mh.submit(double, x).result()


def die(x):
    if x == 1:
        os._exit(3)
    return x


def never_end(x):
    while x == 1:
        time.sleep(0.01)
    return x


def outcomes(journal):
    """How often the tasks ended in each way."""
    return dict(collections.Counter(task.outcome for task in journal.tasks))


def numbers(journal):
    return sorted(task.task for task in journal.tasks)


def until_ended(journal):
    """The calls of a journal, once none of them goes on."""
    deadline = time.monotonic() + 60
    while any(call.ended is None for call in journal.calls):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return journal.calls


def test_each_task_of_a_map_is_there_with_its_times(where):
    before = time.time()
    with mh.journal() as journal:
        mh.map(nap, range(6))
    after = time.time()
    [call] = journal.calls
    assert (call.kind, call.function, call.scheduler) == ("map", "nap", where.scheduler)
    assert (call.tasks, call.failed, call.retried, call.workers) == (6, 0, 0, where.num_workers)
    tasks = journal.tasks
    assert numbers(journal) == list(range(6))
    for task in tasks:
        assert (task.call, task.function, task.scheduler, task.outcome) == (0, "nap", where.scheduler, "returned")
        assert task.duration >= NAP_S
        assert task.ended - task.began == pytest.approx(task.duration, abs=1e-5)
        # The system's clock may be set meanwhile, but not by an hour.
        assert before - 3600 < call.began <= task.began < task.ended <= call.ended < after + 3600
    assert call.work == pytest.approx(sum(task.duration for task in tasks))
    assert call.work >= 6 * NAP_S
    assert call.longest == pytest.approx(max(task.duration for task in tasks))


def test_the_figures_of_a_call_follow_from_each_other(where):
    with mh.journal() as journal:
        mh.map(nap, range(4))
    [call] = journal.calls
    assert call.wall == pytest.approx(call.ended - call.began)
    assert call.speed_up == pytest.approx(call.work / call.wall)
    assert call.efficiency == pytest.approx(call.speed_up / where.num_workers)
    assert 0 < call.efficiency <= FULL
    assert 0 <= call.startup <= call.wall
    assert 0 <= call.tail <= call.wall
    workers = journal.workers
    assert 1 <= len(workers) <= where.num_workers
    assert sum(worker.tasks for worker in workers) == 4
    assert sum(worker.work for worker in workers) == pytest.approx(call.work)
    assert all(0 < worker.busy <= FULL for worker in workers)
    assert {worker.worker for worker in workers} == {task.worker for task in journal.tasks}


def test_the_shortest_tasks_are_there_one_by_one():
    with mh.journal() as journal:
        mh.map(double, range(5000))
    [call] = journal.calls
    assert call.tasks == 5000
    assert numbers(journal) == list(range(5000))
    assert call.work == pytest.approx(sum(task.duration for task in journal.tasks), rel=1e-2, abs=1e-4)


def test_the_tasks_of_a_graph_have_the_names_of_their_functions():
    with mh.journal() as journal:
        parts = [mh.delayed(double)(i) for i in range(3)]
        assert mh.delayed(sum)(parts).compute() == 6
        mh.compute([mh.delayed(double)(i) for i in range(2)])
        mh.persist(mh.delayed(double)(1))
    kinds = [(call.kind, call.tasks) for call in journal.calls]
    assert kinds == [("compute", 4), ("compute", 2), ("persist", 1)]
    assert journal.calls[1].function == "double"
    names = [task.function for task in journal.tasks if task.call == 0]
    assert sorted(names) == ["double", "double", "double", "sum"]


def test_a_task_that_fails_is_told_from_one_that_is_tried_again():
    with mh.journal() as journal:
        mh.map(invert, [1, 0, 2], on_error="return", retries=2, retry_delay=0)
        mh.compute([mh.delayed(invert)(x) for x in (0, 1)], on_error="return", retries=1, retry_delay=0)
    first, second = journal.calls
    assert (first.tasks, first.failed, first.retried) == (3, 1, 2)
    assert (second.tasks, second.failed, second.retried) == (2, 1, 1)
    assert outcomes(journal) == {"returned": 3, "failed": 2, "retried": 3}
    of_failed = [task.outcome for task in journal.tasks if task.call == 0 and task.task == 1]
    assert of_failed == ["retried", "retried", "failed"]


def test_the_failure_that_ends_a_call_is_there():
    with mh.journal() as journal, pytest.raises(ZeroDivisionError):
        mh.map(invert, [1, 0])
    [call] = journal.calls
    assert call.failed == 1
    assert call.ended is not None
    assert [task.task for task in journal.tasks if task.outcome == "failed"] == [1]


def nap_or_fail(x):
    if x == 0:
        raise ValueError(x)
    return nap(x)


def test_what_goes_on_after_a_call_has_failed_is_no_work_of_it():
    with mh.journal() as journal:
        for _ in range(5):
            with pytest.raises(ValueError, match="0"):
                mh.map(nap_or_fail, [1, 0, 1], chunksize=1)
    # The pool is given time to hear of the rest.
    mh.map(nap, range(6), chunksize=1)
    assert all(call.efficiency <= FULL for call in journal.calls)


def test_a_stream_is_there_as_far_as_it_has_come():
    with mh.journal() as journal:
        assert list(mh.stream(double, range(20))) == [2 * i for i in range(20)]
        with_failures = mh.stream(invert, [1, 0, 2], on_error="skip")
        assert list(with_failures) == [1, 0.5]
    calls = until_ended(journal)
    assert [(call.kind, call.tasks, call.failed) for call in calls] == [("stream", 20, 0), ("stream", 3, 1)]


def test_submitted_calls_of_one_function_are_one(where):
    with mh.journal() as journal:
        futures = [mh.submit(double, i) for i in range(5)] + [mh.submit(invert, 0)]
        for future in futures:
            future.exception()
    doubled, inverted = until_ended(journal)
    assert (doubled.kind, doubled.function, doubled.tasks, doubled.failed) == ("submit", "double", 5, 0)
    assert (inverted.kind, inverted.function, inverted.tasks, inverted.failed) == ("submit", "invert", 1, 1)
    assert (doubled.workers, doubled.scheduler) == (where.num_workers, where.scheduler)
    assert sorted(task.task for task in journal.tasks if task.call == 0) == list(range(5))


def test_the_calls_of_an_executor_are_there():
    with mh.journal() as journal, mh.Executor() as executor:
        assert executor.submit(double, 2).result() == 4
        assert list(executor.map(double, range(3))) == [0, 2, 4]
        results = executor.map(invert, [1, 2, 0])
        assert (next(results), next(results)) == (1, 0.5)
        with pytest.raises(ZeroDivisionError):
            next(results)
    calls = until_ended(journal)
    assert sum(call.tasks for call in calls) == 7
    assert {call.kind for call in calls} <= {"Executor.submit", "Executor.map"}
    failed = [task for task in journal.tasks if task.outcome == "failed"]
    # A map is made of single calls, or is one call.
    assert [(task.function, task.task) for task in failed] == [("invert", 2)]
    assert sum(call.failed for call in calls) == 1


def test_calls_that_tasks_make_are_part_of_their_tasks():
    with mh.journal() as journal:
        assert mh.map(call_more, [2, 3]) == [6, 12]
        assert mh.delayed(call_more)(2).compute() == 6
    assert [(call.function, call.tasks) for call in journal.calls] == [("call_more", 2), ("call_more", 1)]


def test_what_is_called_outside_of_the_block_is_not_there_and_what_goes_on_after_it_is():
    mh.map(double, range(3))
    with mh.journal() as journal:
        future = mh.submit(nap, 1)
    mh.map(double, range(3))
    future.result()
    [call] = until_ended(journal)
    assert (call.function, call.tasks) == ("nap", 1)
    with journal:
        mh.map(double, range(2))
    assert [call.function for call in journal.calls] == ["nap", "double"]


def test_journals_may_overlap():
    with mh.journal() as outer:
        mh.map(double, range(2))
        with mh.journal() as inner:
            mh.map(double, range(3))
            mh.compute(mh.delayed(double)(1))
            list(mh.stream(double, range(4)))
    assert [call.tasks for call in outer.calls] == [2, 3, 1, 4]
    assert [call.tasks for call in inner.calls] == [3, 1, 4]


def test_calls_of_all_threads_are_there():
    def work():
        for _ in range(3):
            mh.map(double, range(50))
            assert all(task.duration >= 0 for task in journal.tasks)

    with mh.journal() as journal:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
            assert not thread.is_alive()
    assert [call.tasks for call in journal.calls] == [50] * 12


def test_a_call_within_a_source_of_items_is_a_call_of_its_own():
    def source():
        yield from mh.map(double, range(3))
        yield mh.submit(double, 5).result()

    with mh.journal() as journal:
        assert mh.map(operator.neg, source()) == [0, -2, -4, -10]
    tasks = {(call.kind, call.function): call.tasks for call in until_ended(journal)}
    assert tasks == {("map", "neg"): 4, ("map", "double"): 3, ("submit", "double"): 1}


def test_what_a_checkpoint_has_is_not_there(tmp_path):
    path = tmp_path / "results"
    mh.map(double, range(3), checkpoint=path)
    with mh.journal() as journal:
        assert mh.map(double, range(5), checkpoint=path) == [0, 2, 4, 6, 8]
        assert list(mh.stream(double, range(7), checkpoint=path)) == [2 * i for i in range(7)]
        mh.compute([mh.delayed(invert)(i) for i in (1, 2)], checkpoint=path)
    assert [call.tasks for call in until_ended(journal)] == [2, 2, 2]


def test_ordered_output_changes_nothing():
    with mh.journal() as journal:
        mh.map(double, range(3), relay="ordered")
        mh.compute([mh.delayed(double)(i) for i in range(4)], relay="ordered")
    assert [call.tasks for call in journal.calls] == [3, 4]


@pytest.mark.usefixtures("elsewhere")
def test_a_worker_that_dies_is_told_from_a_task_that_fails():
    with mh.journal() as journal:
        results = mh.map(die, range(3), on_error="return")
    assert isinstance(results[1], mh.WorkerDied)
    [call] = journal.calls
    assert (call.tasks, call.failed, call.retried) == (3, 1, 1)
    assert [task.task for task in journal.tasks if task.outcome == "died"] == [1, 1]
    assert call.efficiency <= FULL


@pytest.mark.usefixtures("elsewhere")
def test_a_task_that_runs_for_too_long_is_there():
    with mh.journal() as journal:
        results = mh.map(never_end, range(3), on_error="return", timeout=LIMIT_S)
    # On a busy machine the others may not make it either.
    late = [at for at, result in enumerate(results) if isinstance(result, TimeoutError)]
    assert 1 in late
    [call] = journal.calls
    assert (call.tasks, call.failed, call.retried) == (3, len(late), 0)
    told = [task for task in journal.tasks if task.outcome == "timeout"]
    assert sorted(task.task for task in told) == late
    assert all(task.duration >= LIMIT_S for task in told)
    assert call.efficiency <= FULL


def test_a_journal_is_printed_as_a_table():
    journal = mh.journal()
    assert str(journal) == "No calls."
    with journal:
        mh.map(double, range(3))
        mh.map(nap, range(2))
    head, first, second, last = str(journal).splitlines()
    for name in ("tasks", "failed", "retried", "wall", "work", "speed-up", "workers", "efficiency", "longest"):
        assert name in head
    assert first.startswith("0 map")
    assert "double" in first
    assert second.startswith("1 map")
    assert "nap" in second
    assert last.startswith("all")
    assert last.split()[1] == "5"
    assert repr(journal) == "<Journal of 2 call(s), 5 task(s)>"
