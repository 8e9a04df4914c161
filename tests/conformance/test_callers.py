"""Many runs at the same time: from threads of the user's own, from sources, and when the pools are shut down."""

from __future__ import annotations

import concurrent.futures
import operator
import sys
import threading
import time

import pytest

import manyhands as mh

HANG_S = 300


def square(x):
    return x * x


def invert(x):
    return 1 / x


def in_threads(n_threads, work):
    """Run work(n) in threads at the same time; the first error is raised here."""
    errors = []
    barrier = threading.Barrier(n_threads)

    def run(n):
        try:
            barrier.wait(HANG_S)
            work(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_maps_at_the_same_time():
    def work(n):
        for _ in range(5):
            assert mh.map(operator.add, range(200), [n] * 200) == [i + n for i in range(200)]

    in_threads(8, work)


def test_graphs_at_the_same_time():
    def work(n):
        for _ in range(5):
            parts = [mh.delayed(square)(i + n) for i in range(50)]
            assert mh.delayed(sum)(parts).compute() == sum((i + n) ** 2 for i in range(50))

    in_threads(8, work)


def test_one_graph_computed_by_several_threads():
    parts = [mh.delayed(square)(i) for i in range(100)]
    total = mh.delayed(sum)(parts)

    def work(_):
        for _ in range(5):
            assert total.compute() == sum(i * i for i in range(100))

    in_threads(8, work)


def test_streams_at_the_same_time():
    def work(n):
        assert list(mh.stream(operator.mul, range(300), [n] * 300)) == [i * n for i in range(300)]
        assert sorted(mh.stream(operator.mul, range(300), [n] * 300, ordered=False)) == [i * n for i in range(300)]

    in_threads(8, work)


def test_futures_at_the_same_time(where):
    # There each call is a fork.
    n_calls = 25 if where.is_fork else 100

    def work(n):
        futures = [mh.submit(operator.add, i, n) for i in range(n_calls)]
        assert [future.result() for future in futures] == [i + n for i in range(n_calls)]

    in_threads(8, work)


def test_everything_at_the_same_time():
    def work(n):
        for i in range(4):
            kind = (n + i) % 4
            if kind == 0:
                assert mh.map(square, range(100)) == [i * i for i in range(100)]
            elif kind == 1:
                assert mh.compute([mh.delayed(square)(i) for i in range(100)])[0] == [i * i for i in range(100)]
            elif kind == 2:
                assert list(mh.stream(square, range(100), buffersize=7)) == [i * i for i in range(100)]
            else:
                assert [mh.submit(square, i).result() for i in range(30)] == [i * i for i in range(30)]

    in_threads(8, work)


def test_the_failure_of_one_spares_the_others():
    def work(n):
        for _ in range(10):
            if n % 2:
                try:
                    mh.map(invert, [1] * 50 + [0] + [1] * 50)
                except ZeroDivisionError:
                    continue
                raise AssertionError("no error")
            assert mh.map(square, range(100)) == [i * i for i in range(100)]

    in_threads(8, work)


def test_each_thread_with_a_number_of_workers_of_its_own():
    def work(n):
        for i in range(6):
            found = mh.map(square, range(100), num_workers=1 + (n + i) % 3)
            assert found == [i * i for i in range(100)]

    in_threads(6, work)


def test_each_thread_with_a_scheduler_of_its_own():
    def work(n):
        for i in range(3):
            scheduler = ("synchronous", "threads", "processes")[(n + i) % 3]
            assert mh.map(square, range(100), scheduler=scheduler) == [i * i for i in range(100)]
            assert mh.compute(mh.delayed(square)(n), scheduler=scheduler) == (n * n,)

    in_threads(6, work)


def test_more_threads_than_workers():
    in_threads(40, lambda n: mh.map(square, range(n)))


def test_threads_that_are_switched_often(where):
    n_calls = 15 if where.is_fork else 50
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads(4, lambda n: [mh.map(square, range(20)) for _ in range(20)])
        in_threads(4, lambda n: [mh.submit(square, n).result() for _ in range(n_calls)])
    finally:
        sys.setswitchinterval(before)


def test_a_source_that_runs_things_itself():
    def items():
        for i in range(20):
            yield mh.delayed(square)(i).compute() + mh.map(square, [i])[0] + mh.submit(square, i).result()

    expected = [(3 * i * i) ** 2 for i in range(20)]
    assert mh.map(square, items()) == expected
    assert list(mh.stream(square, items())) == expected
    assert sorted(mh.stream(square, items(), ordered=False, buffersize=2)) == expected


def test_a_source_in_another_thread():
    import queue

    waiting = queue.Queue(maxsize=3)

    def produce():
        for i in range(100):
            waiting.put(i)
        waiting.put(None)

    thread = threading.Thread(target=produce)
    thread.start()
    assert list(mh.stream(square, iter(waiting.get, None))) == [i * i for i in range(100)]
    thread.join(HANG_S)


def begin(folder):
    (folder / "began").touch()
    time.sleep(0.01)


@pytest.mark.parametrize("verb", ["map", "compute", "stream"])
def test_a_shutdown_ends_what_runs_elsewhere(verb, where, tmp_path):
    if where.is_synchronous:
        mh.shutdown()  # there is nothing to end
        assert mh.map(square, [2]) == [4]
        return
    many = [tmp_path] * 20_000
    runs = {
        "map": lambda: mh.map(begin, many),
        "compute": lambda: mh.compute([mh.delayed(begin)(folder) for folder in many]),
        "stream": lambda: list(mh.stream(begin, many)),
    }
    ended = []

    def run():
        try:
            runs[verb]()
        except concurrent.futures.CancelledError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + HANG_S
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    mh.shutdown()
    thread.join(HANG_S)
    assert not thread.is_alive()
    assert len(ended) == 1
    assert mh.map(square, [2]) == [4]
