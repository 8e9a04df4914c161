"""Streams: results one by one, in bounded memory, from sources that may be endless."""

from __future__ import annotations

import collections
import gc
import itertools
import threading
import time
import weakref

import pytest
from scripts import until

import manyhands as mh

HANG_S = 120


def square(x):
    return x * x


def invert(x):
    return 1 / x


class Source:
    """Counts from zero, and how often it was asked."""

    def __init__(self, n_items=None):
        self.n_taken = 0
        self.n_items = n_items

    def __iter__(self):
        return self

    def __next__(self):
        if self.n_taken == self.n_items:
            raise StopIteration
        self.n_taken += 1
        return self.n_taken - 1


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"])
def ordered(request):
    return request.param


def test_all_results_come(ordered):
    results = list(mh.stream(square, range(2000), ordered=ordered))
    assert sorted(results) == [i * i for i in range(2000)]
    if ordered:
        assert results == sorted(results)


def test_a_stream_of_nothing(ordered):
    assert list(mh.stream(square, [], ordered=ordered)) == []
    assert list(mh.stream(pow, [1], iter(()), ordered=ordered)) == []


def test_a_stream_is_an_iterator():
    results = mh.stream(square, [2])
    assert iter(results) is results
    assert next(results) == 4
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(results)
    assert next(results, "end") == "end"


def test_several_iterables_and_the_shortest_decides(ordered):
    results = mh.stream(pow, itertools.count(1), [2, 3, 2], itertools.repeat(100), ordered=ordered)
    assert sorted(results) == [1, 8, 9]


@pytest.mark.parametrize("buffersize", [1, 2, 3, 10, 1000])
def test_any_buffer_size_gives_all_results(ordered, buffersize):
    results = list(mh.stream(square, range(300), ordered=ordered, buffersize=buffersize))
    assert sorted(results) == [i * i for i in range(300)]


@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000])
def test_any_chunk_size_gives_all_results(ordered, chunksize):
    results = list(mh.stream(square, range(300), ordered=ordered, chunksize=chunksize))
    assert sorted(results) == [i * i for i in range(300)]


def test_a_chunk_larger_than_the_buffer(ordered):
    results = list(mh.stream(square, range(100), ordered=ordered, chunksize=50, buffersize=3))
    assert sorted(results) == [i * i for i in range(100)]


# Endless sources


def test_nothing_is_taken_before_somebody_asks():
    source = Source()
    results = mh.stream(square, source)
    assert source.n_taken == 0
    results.close()


@pytest.mark.parametrize("buffersize", [1, 2, 5, 64])
def test_an_endless_source_is_read_no_further_than_the_buffer(ordered, buffersize):
    source = Source()
    results = mh.stream(square, source, ordered=ordered, buffersize=buffersize)
    for n_returned in range(1, 200):
        next(results)
        assert source.n_taken <= n_returned + buffersize
    results.close()


def test_a_slow_consumer_keeps_the_source_near(ordered, tmp_path):
    """What is under way by default grows only for consumers that are as fast as the calls."""

    def mark(item):
        (tmp_path / str(item)).touch()

    def is_all_done():
        return len(list(tmp_path.iterdir())) == source.n_taken

    source = Source()
    results = mh.stream(mark, source, ordered=ordered)
    for _ in range(12):
        next(results)
        until(is_all_done, "what was taken is done")
        # And has come back.
        time.sleep(0.02)
    assert source.n_taken <= 12 + 200
    results.close()


def test_an_endless_source_is_bounded_by_default(ordered):
    source = Source()
    results = mh.stream(square, source, ordered=ordered)
    taken = list(itertools.islice(results, 20_000))
    # As completed, the first result need not be among the first to arrive: its worker may have been late.
    assert len(set(taken)) == 20_000
    if ordered:
        assert taken == [square(item) for item in range(20_000)]
    assert source.n_taken <= 20_000 + 2 * 65_536
    results.close()


def test_results_are_let_go_as_they_are_consumed():
    class Thing:
        pass

    references = collections.deque(maxlen=5)
    n_alive = []
    for thing in mh.stream(lambda _: Thing(), range(300), buffersize=4):
        references.append(weakref.ref(thing))
        del thing
        n_alive.append(sum(reference() is not None for reference in references))
    # The loop variable of the consumer is the only one that may linger.
    assert max(n_alive) <= 2


def test_arguments_are_let_go_as_they_are_consumed():
    class Thing:
        pass

    references = []

    def things():
        for _ in range(100):
            thing = Thing()
            references.append(weakref.ref(thing))
            yield thing
            del thing

    results = mh.stream(id, things(), buffersize=2)
    for _ in range(50):
        next(results)
    gc.collect()
    assert sum(reference() is not None for reference in references) <= 10
    results.close()


# Order


def test_unordered_results_come_as_they_are_ready(where, tmp_path):
    n_workers = where.num_workers

    def late_first(i):
        if i == 5:
            (tmp_path / "fifth").touch()
        # One worker has nothing to overtake with.
        deadline = time.monotonic() + HANG_S
        while i == 0 and n_workers > 1 and not (tmp_path / "fifth").exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return i

    results = list(mh.stream(late_first, range(20), ordered=False, chunksize=1))
    assert sorted(results) == list(range(20))
    assert (results[0] == 0) is (n_workers == 1)
    (tmp_path / "fifth").unlink()
    assert list(mh.stream(late_first, range(20), chunksize=1)) == list(range(20))


def test_results_do_not_wait_for_the_end_of_the_source():
    gate = threading.Event()

    def items():
        yield 1
        yield 2
        # Without results before the source ends, this would never go on.
        assert gate.wait(HANG_S)
        yield 3

    results = mh.stream(square, items(), buffersize=1)
    assert next(results) == 1
    assert next(results) == 4
    gate.set()
    assert list(results) == [9]


def test_items_that_come_slowly(ordered):
    def slow():
        for i in range(10):
            time.sleep(0.01)
            yield i

    assert sorted(mh.stream(square, slow(), ordered=ordered)) == [i * i for i in range(10)]


def test_a_consumer_that_runs_things_itself():
    found = []
    for result in mh.stream(square, range(20), buffersize=3):
        found.append((result, mh.map(square, [result])[0], mh.delayed(square)(1).compute()))
    assert found == [(i * i, i**4, 1) for i in range(20)]


def test_a_stream_of_a_stream():
    inner = mh.stream(square, range(100))
    assert list(mh.stream(square, inner)) == [i**4 for i in range(100)]
    assert mh.map(square, mh.stream(square, range(100))) == [i**4 for i in range(100)]


def test_two_streams_at_once():
    first, second = mh.stream(square, itertools.count()), mh.stream(square, itertools.count(1))
    assert list(itertools.islice(zip(first, second), 100)) == [(i * i, (i + 1) ** 2) for i in range(100)]
    first.close()
    assert next(second) == 101**2
    second.close()


# Errors


def test_an_error_in_a_task_ends_the_stream(ordered):
    results = mh.stream(invert, [1, 2, 0, 4, 5], ordered=ordered)
    seen = []
    with pytest.raises(ZeroDivisionError) as caught:
        for result in results:
            seen.append(result)
    assert set(seen) <= {1.0, 0.5, 0.25, 0.2}
    assert "invert(0), item 2" in "".join(caught.value.__notes__)
    assert list(results) == []
    assert mh.map(invert, [2]) == [0.5]


def test_results_before_an_error_in_a_task_come_in_order():
    # Far enough apart for those before to be there when the error comes.
    results = mh.stream(invert, [*range(1, 50), 0, *range(1, 50)], buffersize=1)
    seen = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(itertools.islice(results, 49))
        next(results)
    assert seen == [1 / i for i in range(1, 50)]


def test_an_error_in_the_source_comes_after_the_results_before_it(ordered):
    def items():
        yield from range(100)
        raise LookupError("no more")

    results = mh.stream(square, items(), ordered=ordered)
    seen = []
    with pytest.raises(LookupError, match="no more"):
        for result in results:
            seen.append(result)
    assert sorted(seen) == [i * i for i in range(100)]
    if ordered:
        assert seen == sorted(seen)
    assert list(results) == []


def test_an_error_in_the_first_item(ordered):
    def items():
        raise LookupError("none at all")
        yield

    with pytest.raises(LookupError, match="none at all"):
        next(mh.stream(square, items(), ordered=ordered))


def test_an_argument_that_cannot_be_sent_comes_after_the_results_before_it(where):
    items = [*range(10), threading.Lock(), 11]
    results = mh.stream(repr, items)
    if not where.is_elsewhere:
        assert len(list(results)) == 12
        return
    seen = []
    with pytest.raises(mh.PicklingError, match="lock"):
        for result in results:
            seen.append(result)
    assert seen == [repr(i) for i in range(10)]


def test_a_wrong_buffer_size():
    for wrong in (0, -1, 1.5, "2", True):
        with pytest.raises(ValueError, match="buffersize"):
            mh.stream(square, [1], buffersize=wrong)


# The end


def test_close_ends_a_stream(ordered):
    source = Source()
    results = mh.stream(square, source, ordered=ordered)
    next(results)
    results.close()
    n_taken = source.n_taken
    assert list(results) == []
    assert source.n_taken == n_taken
    results.close()
    assert mh.map(square, [2]) == [4]


def test_close_before_the_first_result():
    results = mh.stream(square, itertools.count())
    results.close()
    assert list(results) == []


def test_close_cancels_what_is_under_way(tmp_path):
    def mark(i):
        time.sleep(0.05)
        (tmp_path / str(i)).touch()

    results = mh.stream(mark, itertools.count(), buffersize=200)
    next(results)
    results.close()
    mh.map(square, range(10))
    n_done = len(list(tmp_path.iterdir()))
    assert n_done < 100
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) <= n_done + 3


def test_a_dropped_stream_leaves_the_workers_to_others(tmp_path):
    def mark(i):
        time.sleep(0.01)
        (tmp_path / str(i)).touch()

    for _ in range(10):
        next(mh.stream(mark, itertools.count(), buffersize=100))
    gc.collect()
    assert mh.map(square, range(100)) == [i * i for i in range(100)]
    n_done = len(list(tmp_path.iterdir()))
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) <= n_done + 3


def test_many_streams_that_are_never_begun():
    streams = [mh.stream(square, itertools.count()) for _ in range(200)]
    assert next(streams[7]) == 0
    del streams
    assert mh.map(square, [3]) == [9]


# Threads


def test_threads_share_a_stream(ordered):
    results = mh.stream(square, range(1000), ordered=ordered)
    seen = []
    errors = []

    def consume():
        try:
            for result in results:
                seen.append(result)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=consume) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert errors == []
    assert sorted(seen) == [i * i for i in range(1000)]


def test_another_thread_closes_a_stream():
    def slow(i):
        time.sleep(0.01)
        return i

    results = mh.stream(slow, itertools.count())
    seen = []
    began = threading.Event()

    def consume():
        for result in results:
            seen.append(result)
            began.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert began.wait(HANG_S)
    results.close()
    thread.join(HANG_S)
    assert not thread.is_alive()
    assert mh.map(square, [3]) == [9]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_interrupt_in_the_source_does_not_wait_for_the_results_before_it(where, ordered):
    def source():
        yield 0.0
        if not where.is_synchronous:
            yield 600.0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(mh.stream(time.sleep, source(), ordered=ordered))


def test_a_source_that_asks_its_own_stream():
    def items():
        yield 1
        yield next(results)

    results = mh.stream(square, items(), buffersize=1)
    assert next(results) == 1
    with pytest.raises(ValueError, match="from inside of itself"):
        next(results)


def test_a_source_that_closes_its_own_stream():
    def items():
        yield 1
        results.close()
        yield 2

    results = mh.stream(square, items(), buffersize=1)
    seen = []
    seen.extend(results)
    assert seen == [1]
    assert mh.map(square, [3]) == [9]


def test_a_stream_that_outlives_the_thread_that_made_it():
    made = []
    thread = threading.Thread(target=lambda: made.append(mh.stream(square, itertools.count())))
    thread.start()
    thread.join(HANG_S)
    assert list(itertools.islice(made[0], 5)) == [0, 1, 4, 9, 16]
    made[0].close()
