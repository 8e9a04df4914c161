"""`manyhands.distributed`: a client, its futures, and what becomes of them."""

from __future__ import annotations

import asyncio
import gc
import operator
import os
import random
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from scripts import PATIENCE_S, check, run, shared_info, until

import manyhands as mh
from manyhands.distributed import (
    CancelledError,
    Client,
    Future,
    LocalCluster,
    as_completed,
    fire_and_forget,
    get_client,
    progress,
    wait,
    worker_client,
)

KINDS = {"processes": True, "threads": False}


@pytest.fixture(params=KINDS)
def client(request):
    with Client(n_workers=2, processes=KINDS[request.param]) as client:
        yield client


@pytest.fixture
def processes():
    with Client(n_workers=2, processes=True) as client:
        yield client


def inc(x):
    return x + 1


def fail(x):
    raise LookupError(f"no {x}")


def slow(x, seconds=0.05):
    time.sleep(seconds)
    return x


# Calls


def test_a_call(client):
    future = client.submit(pow, 2, 5)
    assert future.result() == future.result(timeout=PATIENCE_S) == 32
    assert (future.status, future.done(), future.cancelled(), future.exception()) == ("finished", True, False, None)
    assert future.traceback() is None
    assert client.submit(sorted, [1, 3, 2], reverse=True).result() == [3, 2, 1]


def test_futures_are_arguments_also_in_collections(client):
    one, two = client.submit(inc, 0), client.submit(slow, 2)
    both = client.submit(dict, a=one, b=[two, (one, {"deep": two})])
    assert both.result() == {"a": 1, "b": [2, (1, {"deep": 2})]}
    assert client.submit(sum, [one, two, 5, one]).result() == 9


def test_a_long_chain_of_futures(client):
    future = client.submit(inc, 0)
    for _ in range(300):
        future = client.submit(inc, future)
    assert future.result() == 301


def test_a_tree_of_futures(client):
    level = client.map(inc, range(64))
    while len(level) > 1:
        level = client.map(operator.add, level[::2], level[1::2])
    assert level[0].result() == sum(range(1, 65))


def test_a_map(client):
    assert client.gather(client.map(pow, range(50), [2] * 100)) == [i * i for i in range(50)]
    assert client.gather(client.map(pow, [2, 3], [5, 2], mod=10)) == [2, 9]
    assert client.map(inc, []) == []


def test_a_map_over_futures(client):
    squares = client.map(pow, range(5), [2] * 5)
    assert client.gather(client.map(operator.add, squares, range(5))) == [0, 2, 6, 12, 20]
    ten = client.submit(slow, 10)
    assert client.gather(client.map(pow, [2, 3], [5, 2], mod=ten)) == [2, 9]


def test_equal_calls_are_made_each(client, tmp_path):
    def note(x, folder):
        import tempfile

        tempfile.mkstemp(dir=folder)
        return x

    assert client.gather(client.map(note, [5] * 8, folder=str(tmp_path))) == [5] * 8
    assert len(os.listdir(tmp_path)) == 8


def test_equal_pure_calls_are_one(client, tmp_path):
    def note(x, folder):
        import tempfile

        tempfile.mkstemp(dir=folder)
        return x

    futures = client.map(note, [5] * 8, pure=True, folder=str(tmp_path))
    assert client.gather(futures) == [5] * 8
    assert len(os.listdir(tmp_path)) == 1
    assert len({future.key for future in futures}) == 1
    one, other = client.submit(inc, 1, pure=True), client.submit(inc, 1, pure=True)
    assert one.key == other.key != client.submit(inc, 2, pure=True).key
    assert client.submit(inc, one, pure=True).key == client.submit(inc, other, pure=True).key


def test_keys(client):
    future = client.submit(inc, 1, key="mine")
    assert future.key == "mine"
    assert client.submit(inc, 5, key="mine") is future
    assert [one.key for one in client.map(inc, range(2), key="many")] == ["many-0", "many-1"]
    assert [one.key for one in client.map(inc, range(2), key=["a", "b"])] == ["a", "b"]
    keys = {one.key for one in client.map(inc, range(100))}
    assert len(keys) == 100
    with pytest.raises(ValueError, match="1 keys for 2 calls"):
        client.map(inc, range(2), key=["a"])


def test_what_is_not_there_is_refused(client):
    with pytest.raises(mh.ConfigError, match="licence"):
        client.submit(inc, 1, resources={"licence": 1})
    with pytest.raises(TypeError, match="actors"):
        client.submit(inc, 1, actor=True)
    with pytest.raises(TypeError, match="asynchronous"):
        Client(asynchronous=True)
    with pytest.raises(TypeError, match="tcp://"):
        Client("tcp://127.0.0.1:8786")
    with pytest.raises(TypeError, match="no_such_keyword"):
        Client(no_such_keyword=1)
    with pytest.raises(TypeError, match="function to call"):
        client.submit(5)
    assert client.submit(inc, 1, workers=["a"], priority=5, allow_other_workers=True).result() == 2


# Data


def test_gather_keeps_the_shape(client):
    one = client.submit(inc, 0)
    nested = {"a": one, "b": [one, (one, "text"), {one}], "c": 5}
    assert client.gather(nested) == {"a": 1, "b": [1, (1, "text"), {1}], "c": 5}
    assert client.gather(one) == 1
    assert client.gather(iter([one, one])) == [1, 1]


def test_gather_can_leave_failures_out(client):
    futures = [client.submit(inc, 0), client.submit(fail, 1), client.submit(inc, 1)]
    assert client.gather(futures, errors="skip") == [1, 2]
    with pytest.raises(LookupError, match="no 1"):
        client.gather(futures)


def test_scatter(client):
    data = client.scatter({"x": np.arange(10)}, broadcast=True)
    assert client.submit(np.sum, data["x"]).result() == 45
    numbers = client.scatter([1, 2, 3])
    assert client.gather(client.map(inc, numbers)) == [2, 3, 4]
    assert client.scatter("whole").result() == "whole"
    assert [future.result() for future in client.scatter(iter(range(2)))] == [0, 1]


def test_a_large_result_goes_from_call_to_call_without_a_copy(processes, counted):
    large = processes.submit(np.ones, 1_000_000)
    wait(large)
    totals = [processes.submit(np.sum, large) for _ in range(4)]
    assert processes.gather(totals) == [1_000_000.0] * 4
    n_made, _ = counted()
    assert n_made == 0
    assert large.result().sum() == 1_000_000.0


class Noted:
    """Leaves a note wherever it is unpickled."""

    def __init__(self, folder):
        self.folder = folder
        open(os.path.join(folder, str(os.getpid())), "w").close()

    def __reduce__(self):
        return Noted, (self.folder,)


def test_a_result_that_other_calls_need_is_not_unpickled_here(processes, tmp_path):
    noted = processes.submit(Noted, str(tmp_path))
    ends = [processes.submit(lambda noted: os.getpid(), noted) for _ in range(4)]
    pids = set(processes.gather(ends))
    assert str(os.getpid()) not in os.listdir(tmp_path)
    assert {str(pid) for pid in pids} <= set(os.listdir(tmp_path))
    noted.result()
    assert str(os.getpid()) in os.listdir(tmp_path)


def test_calls_with_one_large_input_are_spread_over_all_workers_without_a_warning(processes):
    def where(array, folder, number):
        # Both workers have to be there at the same time.
        open(os.path.join(folder, str(number)), "w").close()
        deadline = time.monotonic() + 60
        while len(os.listdir(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.002)
        return os.getpid(), float(array[-1])

    import tempfile

    large = np.ones(2_000_000)
    for shared in (large, processes.submit(np.ones, 2_000_000)):
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("error")
            found = processes.gather([processes.submit(where, shared, folder, number) for number in range(2)])
        assert len({pid for pid, _ in found}) == 2
        assert {last for _, last in found} == {1.0}


def test_a_result_is_let_go_of_with_its_future(processes):
    before = shared_info().n_bytes_of_results
    future = processes.submit(np.ones, 1_000_000)
    wait(future)
    assert mh.shared.info().n_bytes_of_results > before
    del future
    gc.collect()
    until(lambda: mh.shared.info().n_bytes_of_results == before, "its memory is free")


def test_a_released_future(client):
    future = client.submit(inc, 1)
    later = client.submit(inc, future)
    future.release()
    assert future.status == "cancelled"
    with pytest.raises(CancelledError):
        future.result()
    assert later.result() == 3
    with pytest.raises(ValueError, match="was released"):
        client.submit(inc, future)


def test_a_future_cannot_be_sent_by_itself(processes):
    future = processes.submit(inc, 1)
    with pytest.raises(mh.PicklingError, match="as an argument"):
        processes.submit(lambda: future)


# Failures


def test_a_failure_is_that_of_its_call_alone(client):
    futures = client.map(lambda x: 1 // x, [1, 0, 1])
    assert [future.status for future in wait(futures).done and futures] == ["finished", "error", "finished"]
    error = futures[1].exception()
    assert isinstance(error, ZeroDivisionError)
    assert any("Raised by the task" in note for note in getattr(error, "__notes__", ["Raised by the task"]))
    with pytest.raises(ZeroDivisionError):
        futures[1].result()
    frames = traceback.extract_tb(futures[1].traceback())
    assert frames[-1].name == "<lambda>"
    assert frames[-1].filename == __file__


def test_who_needs_a_result_that_failed_fails_with_it(client):
    failed = client.submit(fail, 1)
    later = client.submit(inc, client.submit(inc, [failed]))
    with pytest.raises(LookupError, match="no 1"):
        later.result()
    wait(failed)
    known = client.submit(inc, {"x": failed})
    assert isinstance(known.exception(), LookupError)
    assert known.status == "error"
    # Nobody else is touched by it.
    assert client.submit(inc, 1).result() == 2


def test_what_cannot_be_pickled_is_the_failure_of_its_call(processes):
    futures = processes.map(lambda x: threading.Lock() if x == 3 else x, range(6))
    wait(futures)
    assert [future.status for future in futures] == ["finished"] * 3 + ["error"] + ["finished"] * 2
    with pytest.raises(mh.PicklingError):
        futures[3].result()


def test_a_worker_that_dies_is_the_failure_of_its_call(processes):
    futures = processes.map(lambda x: os._exit(3) if x == 2 else x, range(5))
    wait(futures)
    assert [future.status for future in futures] == ["finished"] * 2 + ["error"] + ["finished"] * 2
    with pytest.raises(mh.WorkerDied):
        futures[2].result()
    assert processes.gather(futures, errors="skip") == [0, 1, 3, 4]


def draw_unless(path, rng):
    drawn = int(rng.integers(1000)), random.random(), float(np.random.random())
    if not os.path.exists(path):
        Path(path).touch()
        raise ValueError(drawn)
    return drawn


def test_draws_of_calls_that_are_made_together_are_reported_once(client):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.gather(client.map(lambda x: (x, random.random()), range(20), pure=False))
    assert len([one for one in caught if one.category is mh.UndeclaredRandomWarning]) == 1


def test_what_is_tried_again_draws_the_same_numbers(client, tmp_path):
    drawn = []
    for attempt in range(2):
        paths = [str(tmp_path / str(number)) for number in range(3)]
        with mh.config.set(seed=7):
            futures = [client.submit(draw_unless, path, retries=1, pure=False) for path in paths]
        drawn.append(client.gather(futures))
        assert all(os.path.exists(path) for path in paths), attempt
    # Threads share the global states.
    if client.cluster.scheduler == "threads":
        drawn = [[numbers[:1] for numbers in each] for each in drawn]
    assert drawn[0] == drawn[1]


def test_further_attempts(client, tmp_path):
    def third_time(folder):
        names = os.listdir(folder)
        open(os.path.join(folder, str(len(names))), "w").close()
        if len(names) < 2:
            raise OSError("not yet")
        return len(names)

    assert client.submit(third_time, str(tmp_path), retries=2).result() == 2
    other = tmp_path / "other"
    other.mkdir()
    future = client.submit(third_time, str(other), retries=1)
    assert isinstance(future.exception(), OSError)
    future.retry()
    assert future.result() == 2


# Cancelling


def test_a_cancelled_call(client):
    futures = client.map(slow, range(20), seconds=0.05)
    client.cancel(futures[10:])
    assert {future.status for future in futures[10:]} == {"cancelled"}
    assert client.gather(futures[:10]) == list(range(10))
    with pytest.raises(CancelledError):
        futures[15].result()
    futures[15].retry()
    assert futures[15].result() == 15


def test_a_running_call_is_stopped(processes, tmp_path):
    def never(path):
        open(path, "w").close()
        time.sleep(3600)

    started = tmp_path / "started"
    future = processes.submit(never, str(started))
    waiting = processes.submit(inc, future)
    until(started.exists, "the call runs")
    future.cancel()
    assert future.status == "cancelled"
    with pytest.raises(CancelledError):
        waiting.result()
    assert processes.submit(inc, 1).result() == 2


def test_closing_cancels(tmp_path):
    def never(path):
        open(path, "w").close()
        time.sleep(3600)

    client = Client(n_workers=2)
    futures = [client.submit(never, str(tmp_path / str(i))) for i in range(3)]
    later = client.submit(inc, futures[0])
    until((tmp_path / "0").exists, "one runs")
    client.close()
    assert {future.status for future in [*futures, later]} == {"cancelled"}
    with pytest.raises(RuntimeError, match="closed"):
        client.submit(inc, 1)


# Waiting


def test_a_result_in_time_or_not(client):
    with pytest.raises(TimeoutError):
        client.submit(slow, 1, seconds=0.5).result(timeout=0.01)
    with pytest.raises(TimeoutError):
        wait(client.submit(slow, 1, seconds=0.5), timeout=0.01)


def test_wait(client):
    done, not_done = wait(client.map(inc, range(10)))
    assert (len(done), not_done) == (10, set())
    gate = threading.Event()
    first, second = client.submit(inc, 1), client.submit(slow, 1, seconds=1.0)
    assert first in wait([first, second], return_when="FIRST_COMPLETED").done
    bad = client.submit(fail, 1)
    assert bad in wait([bad, second], return_when="FIRST_EXCEPTION").done
    gate.set()
    with pytest.raises(ValueError, match="FIRST_COMPLETED"):
        wait([first], return_when="SOMETIME")


def test_as_completed(client):
    futures = client.map(slow, range(6), seconds=0.01)
    assert set(as_completed(futures)) == set(futures)
    pairs = list(as_completed(futures, with_results=True))
    assert sorted(result for _, result in pairs) == list(range(6))
    assert all(isinstance(future, Future) for future, _ in pairs)


def test_as_completed_may_grow(client):
    ended = as_completed(client.map(inc, range(3)))
    results = []
    for future in ended:
        results.append(future.result())
        if len(results) < 6:
            ended.add(client.submit(inc, future))
    assert ended.is_empty()
    assert len(results) == 8
    assert max(results) >= 3


def test_as_completed_in_batches_and_with_errors(client):
    ended = as_completed([*client.map(inc, range(4)), client.submit(fail, 1)], with_results=True, raise_errors=False)
    found = [result for batch in ended.batches() for _, result in batch]
    assert ended.count() == 0
    assert len(found) == 5
    assert sum(isinstance(result, LookupError) for result in found) == 1
    with pytest.raises(LookupError):
        list(as_completed([client.submit(fail, 1)], with_results=True))
    with pytest.raises(TimeoutError):
        list(as_completed([client.submit(slow, 1, seconds=1.0)], timeout=0.01))


def test_callbacks(client):
    told = []
    futures = client.map(slow, range(20), seconds=0.001)
    for future in futures:
        future.add_done_callback(lambda future: told.append(future.result()))
    until(lambda: sorted(told) == list(range(20)), "all have been told, once")
    client.submit(inc, 1).add_done_callback(told.append)
    until(lambda: len(told) == 21, "the last, too")


def test_a_callback_hears_of_failures_and_cancels(client):
    told = []
    failed, never = client.submit(fail, 1), client.submit(slow, 1, seconds=0.5)
    later = client.submit(inc, never)
    for future in (failed, never, later):
        future.add_done_callback(lambda future: told.append(future.status))
    client.cancel(never)
    until(lambda: sorted(told) == ["cancelled", "cancelled", "error"], "all are told")


def test_futures_can_be_awaited(client):
    async def program():
        first = client.submit(slow, 1)
        assert await first == 1
        assert await asyncio.gather(*client.map(inc, range(5))) == [1, 2, 3, 4, 5]
        with pytest.raises(LookupError):
            await client.submit(fail, 1)
        return [future async for future in as_completed(client.map(inc, range(3)))]

    assert len(asyncio.run(program())) == 3


def test_no_thread_is_kept_for_a_future(client):
    client.gather(client.map(inc, range(10)))
    before = threading.active_count()
    futures = client.map(slow, range(100), seconds=0.001)
    for future in futures:
        future.add_done_callback(lambda _: None)
    assert threading.active_count() <= before + 1
    wait(futures)


def test_calls_nobody_keeps(client, tmp_path):
    def write(path):
        time.sleep(0.05)
        open(path, "w").close()

    fire_and_forget(client.submit(write, str(tmp_path / "done")))
    gc.collect()
    until((tmp_path / "done").exists, "it has run")


def test_a_chain_that_nobody_keeps_runs(client, tmp_path):
    def write(_, path):
        open(path, "w").close()

    client.submit(write, client.submit(slow, 1), str(tmp_path / "done"))
    gc.collect()
    until((tmp_path / "done").exists, "it has run")


def test_progress_is_silent_without_a_terminal(client, capsys):
    progress(client.map(inc, range(5)), client.submit(inc, 1))
    assert capsys.readouterr() == ("", "")


# The client


def test_all_else_runs_there_while_a_client_lives():
    before = mh.config.get("scheduler"), mh.config.get("num_workers")
    with Client(n_workers=1, processes=False) as client:
        assert (mh.config.get("scheduler"), mh.config.get("num_workers")) == ("threads", 1)
        assert mh.compute(mh.delayed(os.getpid)()) == (os.getpid(),)
        assert Client.current() is get_client() is client
        with Client(n_workers=2, set_as_default=False):
            assert Client.current() is client
    assert (mh.config.get("scheduler"), mh.config.get("num_workers")) == before
    with pytest.raises(ValueError, match="make one"):
        get_client()


def test_a_client_that_is_lost_is_closed():
    client = Client(n_workers=1, processes=False)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    assert mh.config.get("scheduler") != "threads"


def test_a_cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        assert client.ncores() == client.nthreads() == {"worker-0": 1, "worker-1": 1}
        assert client.submit(os.getpid).result() != os.getpid()
    with LocalCluster(n_workers=2, processes=False).get_client() as client:
        assert client.submit(os.getpid).result() == os.getpid()


def test_a_call_on_every_worker(processes):
    assert len(set(processes.run(os.getpid).values())) == 2
    assert processes.run(inc, 1) == {"worker-0": 2, "worker-1": 2}


def test_delayed_objects(client):
    total = mh.delayed(sum)([mh.delayed(inc)(i) for i in range(4)])
    assert client.compute(total).result() == 10
    first, second, plain = client.compute([total, total + 1, 5])
    assert (first.result(), second.result(), plain) == (10, 11, 5)
    assert client.compute(total, sync=True) == 10
    assert client.submit(inc, client.compute(total)).result() == 11
    assert isinstance(client.compute(mh.delayed(fail)(1)).exception(), LookupError)
    assert (client.persist(total) + 1).compute() == 11


def test_collections_of_dask(client):
    x = da.arange(100, chunks=10)
    assert client.compute(x.sum()).result() == 4950
    assert dask.compute(x.sum(), scheduler=client) == (4950,)
    kept = client.persist(x + 1)
    assert kept.sum().compute() == 5050
    # And without a word, as Dask was there before the client.
    assert dask.config.get("scheduler") is mh.dask.get


def test_futures_inside_of_calls(client):
    def inner(n):
        with worker_client() as client:
            squares = client.map(pow, range(n), [2] * n)
            return client.submit(sum, squares).result(), get_client().submit(os.getpid).result() == os.getpid()

    assert client.submit(inner, 4).result() == (14, True)


def test_a_synchronous_client():
    with mh.config.set(scheduler="synchronous"), Client() as client:
        here = client.submit(os.getpid)
        assert here.result() == os.getpid()
        failed = client.submit(fail, here)
        assert isinstance(failed.exception(), LookupError)
        assert client.gather(client.map(inc, [1, client.submit(inc, 1)])) == [2, 3]
        assert client.run(inc, 1) == {"worker-0": 2}


def test_a_configured_seed_gives_each_call_its_stream(client):
    def draw(rng, after=None):
        return float(rng.random())

    streams = [np.random.default_rng(stream) for stream in np.random.SeedSequence(7).spawn(4)]
    expected = [stream.random() for stream in streams]
    with mh.config.set(seed=7):
        first = client.submit(draw)
        others = [client.submit(draw, after=first) for _ in range(3)]
        assert client.gather([first, *others]) == expected


def test_interrupting_a_program_that_waits(tmp_path):
    source = """
        import os, signal, threading, time
        from manyhands.distributed import Client

        client = Client(n_workers=2)
        future = client.submit(time.sleep, 3600)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            future.result()
        except KeyboardInterrupt:
            print("interrupted")
        client.close()
    """
    check(run(tmp_path, source), "interrupted\n")


def test_a_call_whose_arguments_cannot_be_read_leaves_nothing_to_the_next(tmp_path):
    """The failure that came as its other argument is nobody else's."""
    with Client(n_workers=1, processes=True) as client:
        failed = client.submit(divmod, 1, 0)
        unreadable = client.submit(Unreadable)
        assert client.submit(lambda *args: args, failed, unreadable).exception() is not None
        assert client.submit(abs, -3).result() == 3


class Unreadable:
    """Unpickled in the program alone."""

    def __reduce__(self):
        return read_elsewhere, (os.getpid(),)


def read_elsewhere(pid):
    raise ValueError("not to be read")


@pytest.mark.parametrize("processes", [True, False])
def test_a_released_future_still_feeds_a_call_that_waits(processes, tmp_path):
    mark = tmp_path / "mark"

    def wait():
        until(mark.exists, "the mark is there")
        return 1

    with Client(n_workers=2, processes=processes) as client:
        ready = client.submit(divmod, 7, 2)
        ready.result()
        total = client.submit(lambda a, b: (a, b), ready, client.submit(wait))
        ready.release()
        mark.touch()
        assert total.result() == ((3, 1), 1)


def test_a_client_that_was_watched_is_let_go_of():
    client = Client(n_workers=1, processes=False)
    future = client.submit(abs, -1)
    assert [one.result() for one in as_completed([future])] == [1]
    gone = weakref.ref(client)
    del client, future
    gc.collect()
    until(lambda: gc.collect() is not None and gone() is None, "the client is gone")


def test_keys_of_calls_that_could_not_be_sent_are_free_again():
    with Client(n_workers=1, processes=True) as client:
        lock = threading.Lock()
        with pytest.raises(mh.PicklingError) as caught:
            client.map(lambda x: lock, [1, 2], key="k")
        assert client.map(abs, [-1, -2], key="k")[0].result() == 1
        del caught
