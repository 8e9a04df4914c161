"""Nothing piles up: descriptors, threads, memory and processes stay the same however often things are done."""

import gc
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from scripts import until

import manyhands as mh
from manyhands import _pools


def status(pid, field):
    """A number from what the system says of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


def n_descriptors(pid="self"):
    return len(os.listdir(f"/proc/{pid}/fd"))


def n_threads(pid="self"):
    return status(pid, "Threads")


def memory_kib(pid="self"):
    gc.collect()
    return status(pid, "VmRSS")


def own_memory_kib(pid="self"):
    """Without memory that is shared, of which `mh.shared.info` tells."""
    gc.collect()
    return status(pid, "RssAnon")


def nap(_):
    time.sleep(0.01)
    return os.getpid()


def both_are_there(task=nap, n_tasks=4):
    """Whether both workers have run some of these tasks, rather than one of them all while the other was starting."""
    return len(set(mh.map(task, range(n_tasks)))) == 2


def workers():
    return _pools._processes.worker_pids()


@pytest.fixture(autouse=True)
def two_workers():
    mh.shutdown()
    with mh.config.set(num_workers=2):
        yield
    mh.shutdown()


def fail(item):
    if item == 3:
        raise ValueError(item)
    return item


def failing_map():
    with pytest.raises(ValueError):
        mh.map(fail, range(8))


def failing_compute():
    with pytest.raises(ValueError):
        mh.compute([mh.delayed(fail)(item) for item in range(8)])


def failing_submit():
    assert isinstance(mh.submit(fail, 3).exception(), ValueError)


def dropped_stream():
    stream = mh.stream(abs, range(10_000))
    assert next(stream) == 0
    del stream


def closed_stream():
    stream = mh.stream(abs, range(10_000))
    assert next(stream) == 0
    stream.close()


def cancelled_submit():
    futures = [mh.submit(time.sleep, 0.001) for _ in range(4)]
    for future in futures:
        future.cancel()


def unpicklable():
    import threading

    scheduler = mh.config.get("scheduler")
    if scheduler == "processes":
        with pytest.raises(mh.PicklingError):
            mh.map(lambda lock: None, [threading.Lock()])
    if scheduler != "threads":
        with pytest.raises(mh.PicklingError):
            mh.map(lambda _: __import__("threading").Lock(), [1])


def with_callback():
    seen = []
    futures = [mh.submit(abs, -1) for _ in range(8)]
    for future in futures:
        future.add_done_callback(seen.append)
    assert [future.result() for future in futures] == [1] * 8
    until(lambda: len(seen) == 8, "all callbacks were called")


DEEDS = {
    "map": lambda: mh.map(abs, range(-50, 0)),
    "compute": lambda: mh.compute([mh.delayed(abs)(item) for item in range(-20, 0)]),
    "persist": lambda: mh.persist(mh.delayed(sum)([1, 2])),
    "stream": lambda: list(mh.stream(abs, range(50))),
    "submit": lambda: [future.result() for future in [mh.submit(abs, -1) for _ in range(8)]],
    "new function": lambda: mh.map(lambda item: item, range(4)),
    "large": lambda: mh.map(len, [bytes(1 << 20)] * 4),
    "large result": lambda: mh.map(bytes, [1 << 20] * 4),
    "failing map": failing_map,
    "failing compute": failing_compute,
    "failing submit": failing_submit,
    "dropped stream": dropped_stream,
    "closed stream": closed_stream,
    "cancelled submit": cancelled_submit,
    "unpicklable": unpicklable,
    "callback": with_callback,
}


@pytest.mark.parametrize("scheduler", ["processes", "threads", "fork"])
def test_the_parent_does_not_grow(scheduler):
    """Each deed many times to settle, then as often again: what grew by then would grow for ever."""
    n_times = 6 if scheduler == "fork" else 30  # every call makes its processes anew
    with mh.config.set(scheduler=scheduler):
        for name, deed in DEEDS.items():
            for _ in range(n_times):
                deed()
            if scheduler == "processes":
                until(both_are_there, "both workers are there")
            descriptors, threads, memory = n_descriptors(), n_threads(), memory_kib()
            for _ in range(n_times):
                deed()
            until(lambda d=descriptors: n_descriptors() <= d, f"no more descriptors after {name}")
            until(lambda t=threads: n_threads() <= t, f"no more threads after {name}")
            grown = memory_kib() - memory
            assert grown < 8 << 10, f"{name}: {grown} KiB more"


def test_pools_come_and_go_without_a_trace():
    def once(scheduler):
        with mh.config.set(scheduler=scheduler):
            mh.map(abs, range(10), num_workers=3)
            mh.submit(abs, -1).result()
            mh.stream(abs, range(100))
        mh.shutdown()

    for scheduler in ("processes", "threads", "fork"):
        for _ in range(5):
            once(scheduler)
        descriptors, threads, memory = n_descriptors(), n_threads(), memory_kib()
        for _ in range(15):
            once(scheduler)
        until(lambda d=descriptors: n_descriptors() <= d, "no more descriptors")
        until(lambda t=threads: n_threads() <= t, "no more threads")
        assert memory_kib() - memory < 8 << 10


def test_threads_of_tasks_go_with_the_threads_that_asked_for_them():
    def nest(item):
        time.sleep(0.005)
        return mh.map(abs, [item, -item], scheduler="threads", num_workers=3)

    with mh.config.set(scheduler="threads"):
        mh.map(nest, range(4), num_workers=1)
        threads = n_threads()
        for _ in range(3):
            until(lambda: mh.map(nest, range(40), num_workers=6) and n_threads() > threads + 12, "all take part")
            mh.map(nest, range(4), num_workers=1)
            # A clock may have been started; six pools of three would be more.
            until(lambda: n_threads() <= threads + 2, "theirs have ended as well")
    mh.shutdown()
    assert mh.map(nest, [1], scheduler="threads", num_workers=1) == [[1, 1]]


def test_workers_that_die_leave_nothing():
    def die(_):
        os.kill(os.getpid(), signal.SIGKILL)

    def once():
        mh.map(abs, range(10))
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(mh.WorkerDied):
            mh.submit(die, 0).result()

    for _ in range(3):
        once()
    until(both_are_there, "both workers are there")
    descriptors, threads, memory = n_descriptors(), n_threads(), memory_kib()
    for _ in range(8):
        once()
    until(both_are_there, "both workers are there")
    until(lambda: n_descriptors() <= descriptors, "no more descriptors")
    until(lambda: n_threads() <= threads, "no more threads")
    assert memory_kib() - memory < 8 << 10


def test_workers_do_not_grow_over_many_tasks():
    def nothing(item):
        return None

    # Each has had as much to do as it will have.
    until(lambda: both_are_there(lambda _: os.getpid(), 50_000), "both workers have done much")
    before = {pid: (memory_kib(pid), n_descriptors(pid), n_threads(pid)) for pid in workers()}
    for _ in range(4):
        mh.map(nothing, range(50_000))
        mh.compute([mh.delayed(nothing)(item) for item in range(2000)])
    for pid, (memory, descriptors, threads) in before.items():
        assert memory_kib(pid) - memory < 8 << 10
        assert n_descriptors(pid) <= descriptors
        assert n_threads(pid) <= threads


def test_functions_that_are_no_longer_used_are_forgotten():
    """Each of them carries 4 KiB: ten thousand would be forty megabytes, in each worker and in the parent."""

    def use(number):
        ballast = bytes([number % 256]) * 4096 + str(number).encode()
        assert mh.map(lambda item: len(ballast) + item, [0], num_workers=1) == [len(ballast)]

    for number in range(500):
        use(number)
    (pid,) = workers()[:1]
    until(lambda: workers() == [pid], "one worker is left")
    there, here = memory_kib(pid), memory_kib()
    for number in range(500, 10_500):
        use(number)
    assert workers() == [pid]
    assert memory_kib(pid) - there < 12 << 10
    assert memory_kib() - here < 12 << 10


def test_a_huge_result_is_not_kept():
    size = 48 << 20
    mh.map(bytes, [size])
    mh.map(abs, range(100))
    (pid, *_) = workers()
    before, here, shared = own_memory_kib(pid), own_memory_kib(), mh.shared.info()
    for _ in range(4):
        assert len(mh.map(bytes, [size])[0]) == size
        assert mh.map(len, [bytes(size)]) == [size]
    mh.map(abs, range(100))
    assert own_memory_kib(pid) - before < size >> 10
    assert own_memory_kib() - here < size >> 10
    assert mh.shared.info().n_bytes_of_results == shared.n_bytes_of_results
    # The bytes that were passed on may lie there still, should they be passed again.
    assert mh.shared.info().n_bytes - shared.n_bytes <= 4 * size


def test_a_stream_without_end_holds_bounded_memory():
    import itertools

    stream = mh.stream(lambda _: bytes(10_000), itertools.count())
    for _ in range(3000):
        next(stream)
    before = memory_kib()
    for _ in range(12_000):
        next(stream)
    stream.close()
    # All of them would be 120 MB.
    assert memory_kib() - before < 40 << 10


def test_objects_are_let_go():
    """Arguments and results die with their last user, on every scheduler."""
    import weakref

    class Thing:
        pass

    for scheduler in ("processes", "threads", "fork", "synchronous"):
        with mh.config.set(scheduler=scheduler):
            things = [Thing() for _ in range(4)]
            references = [weakref.ref(thing) for thing in things]
            mh.map(lambda thing: None, things)
            mh.compute([mh.delayed(id)(thing) for thing in things])
            list(mh.stream(lambda thing: None, things))
            [future.result() for future in [mh.submit(id, thing) for thing in things]]
            results = mh.map(lambda _: Thing(), range(4))
            references += [weakref.ref(result) for result in results]
            del things, results
            gc.collect()

            def alive(references=references):
                return [reference for reference in references if reference() is not None]

            until(lambda: not alive(), f"nothing is left with {scheduler}: {alive()}")


@pytest.mark.parametrize("scheduler", ["processes", "threads", "fork"])
def test_what_the_engine_lets_go_of_last_is_let_go_of(scheduler):
    """A call that nobody waits for ends in a thread of the engine's. After that nobody calls the engine."""
    import weakref

    class Thing:
        def __init__(self, path):
            self.path = path

    def wait_for_file(thing):
        while not os.path.exists(thing.path):
            time.sleep(0.01)

    with tempfile.TemporaryDirectory() as folder, mh.config.set(scheduler=scheduler):
        things = [Thing(os.path.join(folder, "begin")) for _ in range(3)]
        references = [weakref.ref(thing) for thing in things]
        for thing in things:
            mh.submit(wait_for_file, thing)
        del things, thing
        gc.collect()
        Path(folder, "begin").touch()
        until(lambda: not any(reference() for reference in references), f"nothing is left with {scheduler}")
