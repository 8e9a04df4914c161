"""Workers: dead ones are replaced, and their number is what was asked for."""

from __future__ import annotations

import concurrent.futures
import copy
import os
import pickle
import signal

import pytest

import manyhands as mh

NUM_WORKERS = [2]


def end_worker(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def end_worker_once(x, marker):
    if x == 3 and not marker.exists():
        marker.touch()
        os._exit(1)
    return x


def every_way(function, *args):
    return {
        "compute": lambda: mh.delayed(function)(*args).compute(),
        "map": lambda: mh.map(function, *[[arg] for arg in args]),
        "stream": lambda: list(mh.stream(function, *[[arg] for arg in args])),
        "submit": lambda: mh.submit(function, *args).result(),
    }


VERBS = list(every_way(abs))


@pytest.fixture(params=VERBS)
def verb(request):
    return request.param


@pytest.mark.usefixtures("elsewhere")
def test_a_worker_that_dies_is_an_error_of_its_own_and_is_replaced(verb, where):
    with pytest.raises(mh.WorkerDied, match="end_worker"):
        every_way(end_worker, 3)[verb]()
    # As many as before, at once and for every kind of call.
    assert mh.map(end_worker, range(3)) == [0, 1, 2]
    for run in every_way(end_worker, 1).values():
        assert run() in (1, [1])


@pytest.mark.usefixtures("elsewhere")
def test_a_task_whose_worker_died_is_tried_again_and_nobody_notices(verb, tmp_path):
    assert every_way(end_worker_once, 3, tmp_path / verb)[verb]() in (3, [3])
    assert (tmp_path / verb).exists()


@pytest.mark.usefixtures("elsewhere")
def test_workers_that_die_again_and_again_are_replaced_each_time(tmp_path):
    for round_ in range(3):
        marker = tmp_path / str(round_)
        assert mh.map(end_worker_once, range(8), [marker] * 8) == list(range(8))
        assert marker.exists()


def test_the_number_of_workers_is_told_and_comes_back_after_a_block(where):
    assert mh.config.get("num_workers") == where.num_workers
    with pytest.raises(ZeroDivisionError), mh.config.set(num_workers=2, scheduler="threads"):
        assert (mh.config.get("num_workers"), mh.config.get("scheduler")) == (2, "threads")
        mh.map(lambda x: 1 / x, [0])
    assert (mh.config.get("num_workers"), mh.config.get("scheduler")) == (where.num_workers, where.scheduler)
    for wrong in (0, -1, 1.5, "many", [0], lambda: 2):
        with pytest.raises(mh.ConfigError, match="num_workers"):
            mh.config.set(num_workers=wrong)
        assert mh.config.get("num_workers") == where.num_workers
    assert mh.map(abs, [-1]) == [1]


# Results from many futures


def test_results_of_futures_in_collections():
    futures = {"a": [mh.submit(pow, 2, n) for n in range(3)], "b": (mh.submit(pow, 3, n) for n in range(2))}
    found = {name: [future.result() for future in some] for name, some in futures.items()}
    assert found == {"a": [1, 2, 4], "b": [1, 3]}


def test_waiting_for_all_does_not_raise_and_says_who_failed():
    futures = [mh.submit(divmod, 7, n) for n in (2, 0, 3)]
    done, pending = concurrent.futures.wait(futures)
    assert (len(done), len(pending)) == (3, 0)
    assert [type(future.exception()) for future in futures] == [type(None), ZeroDivisionError, type(None)]


def test_a_future_belongs_to_its_process_and_says_so(where):
    future = mh.submit(pow, 2, 5)
    for take in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"Future.*\.result\(\)"):
            take(future)
    if where.is_processes:
        with pytest.raises(mh.PicklingError, match=r"argument 1.*Future(?s:.*)\.result\(\)"):
            mh.submit(abs, future)
    assert future.result() == 32
