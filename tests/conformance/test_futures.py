"""Futures: those of `concurrent.futures`, awaitable, and true at every moment."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time

import pytest

import manyhands as mh

HANG_S = 300


def square(x):
    return x * x


def invert(x):
    return 1 / x


def nap(seconds, value=None):
    time.sleep(seconds)
    return value


def wait_until(is_so):
    deadline = time.monotonic() + HANG_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Gate:
    """Holds tasks until it is opened, across processes: a file."""

    def __init__(self, folder):
        self.path = folder / "open"
        self.began = folder / "began"

    def open(self):
        self.path.touch()

    def pass_through(self, value):
        self.began.touch()
        deadline = time.monotonic() + HANG_S
        while not self.path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return value


@pytest.fixture
def gate(tmp_path, where):
    gate = Gate(tmp_path)
    if where.is_synchronous:
        gate.open()  # a call made here and now would wait for ever
    yield gate
    gate.open()


def test_a_future_is_one_of_concurrent_futures():
    future = mh.submit(square, 3)
    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(future, mh.Future)
    assert future.result() == 9
    assert future.result(timeout=0) == 9
    assert future.exception() is None
    assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (True, False, False, False)
    assert "finished" in repr(future)


def test_arguments_of_every_kind():
    def collect(a, /, b, *rest, c, **more):
        return a, b, rest, c, more

    future = mh.submit(collect, 1, 2, 3, 4, c=5, function=6, self=7)
    assert future.result() == (1, 2, (3, 4), 5, {"function": 6, "self": 7})


@pytest.mark.parametrize("n_args", range(5))
@pytest.mark.parametrize("n_kwargs", range(4))
def test_any_number_of_arguments_of_either_sort(n_args, n_kwargs):
    """Arguments have several forms on their way, by how many there are and how simple."""

    def collect(*args, **kwargs):
        return args, kwargs

    one = mh.delayed(list)((1, 2))
    expected, futures, tasks, with_inputs = [], [], [], []
    for value in [1, -1.5, "text", True, None, b"bytes", (1, "two"), [3], {"four": 4}, 2**100]:
        args = (value,) * n_args
        kwargs = {f"name_{i}": value for i in range(n_kwargs)}
        expected.append((args, kwargs))
        futures.append(mh.submit(collect, *args, **kwargs))
        tasks.append(mh.delayed(collect)(*args, **kwargs))
        with_inputs.append(mh.delayed(collect)(*args, one, more=one, **kwargs))
    assert [future.result() for future in futures] == expected
    assert mh.compute(tasks) == (expected,)
    assert mh.compute(with_inputs) == ([((*args, [1, 2]), {**kwargs, "more": [1, 2]}) for args, kwargs in expected],)


def test_a_keyword_that_a_function_does_not_take_is_its_own_error():
    with pytest.raises(TypeError, match="keyword"):
        mh.submit(abs, -3, scheduler="threads").result()


def test_the_state_of_a_call_that_has_not_ended(gate, where):
    future = mh.submit(gate.pass_through, 5)
    if where.is_synchronous:
        assert future.result() == 5
        return
    wait_until(gate.began.exists)
    assert not future.done()
    assert future.running()
    assert not future.cancelled()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0.01)
    gate.open()
    assert future.result(timeout=HANG_S) == 5
    assert not future.running()
    assert future.done()


def test_a_result_as_often_as_wanted():
    future = mh.submit(list, "ab")
    first = future.result()
    assert first == ["a", "b"]
    assert future.result() is first


def test_what_a_call_raises():
    future = mh.submit(invert, 0)
    error = future.exception()
    assert type(error) is ZeroDivisionError
    assert "invert(0)" in "".join(error.__notes__)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result()
    assert caught.value is error
    assert future.exception() is error
    assert future.done()
    assert not future.cancelled()


def test_an_error_that_nobody_asks_for_disturbs_nobody():
    for _ in range(20):
        mh.submit(invert, 0)
    gc.collect()
    assert mh.submit(square, 2).result() == 4


def test_an_error_named_like_a_cancellation_is_no_cancellation():
    def give_up():
        raise concurrent.futures.CancelledError("my own")

    future = mh.submit(give_up)
    assert type(future.exception()) is concurrent.futures.CancelledError
    assert not future.cancelled()


def test_an_error_named_like_a_timeout():
    def late():
        raise TimeoutError("my own")

    with pytest.raises(TimeoutError, match="my own"):
        mh.submit(late).result(timeout=HANG_S)


def test_a_task_that_exits_ends_its_future_only():
    assert type(mh.submit(exit_now).exception()) is SystemExit
    assert mh.submit(square, 2).result() == 4


def exit_now():
    raise SystemExit(3)


# Cancelling


def test_a_call_that_waits_is_cancelled(gate, where, tmp_path):
    blockers = [mh.submit(gate.pass_through, i) for i in range(where.num_workers)]
    waiting = mh.submit((tmp_path / "ran").touch)
    if where.is_synchronous:
        assert not waiting.cancel()
        return
    assert waiting.cancel()
    assert waiting.cancelled()
    assert waiting.done()
    assert not waiting.running()
    assert waiting.cancel()
    for ask in (waiting.result, waiting.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            ask()
    assert "cancelled" in repr(waiting)
    gate.open()
    assert [blocker.result() for blocker in blockers] == list(range(where.num_workers))
    mh.map(square, range(20))
    assert not (tmp_path / "ran").exists()


def test_cancelling_a_call_that_runs(gate, where):
    future = mh.submit(gate.pass_through, 1)
    if where.is_synchronous:
        assert not future.cancel()
        return
    wait_until(gate.began.exists)
    if where.is_elsewhere:
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
    else:
        assert not future.cancel()
        gate.open()
        assert future.result() == 1
    assert mh.submit(square, 2).result() == 4


def test_cancelling_spares_the_others(gate, where):
    if where.is_synchronous:
        return
    waiting = [mh.submit(gate.pass_through, i) for i in range(20)]
    cancelled = [future for future in waiting[10:] if future.cancel()]
    assert len(cancelled) >= 10 - where.num_workers
    gate.open()
    assert [future.result() for future in waiting[:10]] == list(range(10))
    assert all(future.done() for future in waiting[10:] if future in cancelled)


# Callbacks


def test_callbacks_are_called_once_each():
    calls = []
    future = mh.submit(square, 3)
    for n in range(3):
        future.add_done_callback(lambda f, n=n: calls.append((n, f.result())))
    wait_until(lambda: len(calls) == 3)
    assert sorted(calls) == [(0, 9), (1, 9), (2, 9)]
    # Of a future that is done: at once.
    future.add_done_callback(lambda f: calls.append(f))
    assert calls[-1] is future


def test_a_callback_is_called_without_anybody_asking(gate):
    called = threading.Event()
    future = mh.submit(gate.pass_through, 1)
    future.add_done_callback(lambda _: called.set())
    gate.open()
    assert called.wait(HANG_S)
    assert future.done()


def test_a_callback_is_called_for_errors_and_cancellations(gate, where):
    states = []
    failed = mh.submit(invert, 0)
    failed.add_done_callback(lambda f: states.append(type(f.exception()).__name__))
    wait_until(lambda: states == ["ZeroDivisionError"])
    if where.is_synchronous:
        return
    blockers = [mh.submit(gate.pass_through, i) for i in range(where.num_workers)]
    waiting = mh.submit(square, 2)
    waiting.add_done_callback(lambda f: states.append(f.cancelled()))
    assert waiting.cancel()
    wait_until(lambda: len(states) == 2)
    assert states[1] is True
    gate.open()
    assert len([blocker.result() for blocker in blockers]) == where.num_workers


def test_a_callback_that_raises_harms_nobody(caplog):
    done = threading.Event()
    future = mh.submit(square, 3)
    future.add_done_callback(lambda _: invert(0))
    future.add_done_callback(lambda _: done.set())
    assert done.wait(HANG_S)
    assert future.result() == 9
    assert mh.submit(square, 4).result() == 16
    assert any("exception calling callback" in record.getMessage() for record in caplog.records)


def test_a_callback_may_use_everything():
    found = []

    def go_on(future):
        found.append(mh.map(square, [future.result()]))
        mh.submit(square, 10).add_done_callback(lambda f: found.append(f.result()))

    mh.submit(square, 3).add_done_callback(go_on)
    wait_until(lambda: len(found) == 2)
    assert found == [[81], 100]


# Several futures


def test_waiting_for_several_futures():
    futures = [mh.submit(square, i) for i in range(50)]
    done, not_done = concurrent.futures.wait(futures, timeout=HANG_S)
    assert (len(done), len(not_done)) == (50, 0)
    assert sum(future.result() for future in futures) == sum(i * i for i in range(50))


def test_waiting_while_calls_end(where):
    """A future counts once, whichever moment of the waiting it ends in."""
    for _ in range(4 if where.is_fork else 100):
        futures = [mh.submit(square, i) for i in range(20)]
        assert len(concurrent.futures.wait(futures, timeout=HANG_S).done) == 20
        futures = [mh.submit(square, i) for i in range(20)]
        assert len(set(concurrent.futures.as_completed(futures, timeout=HANG_S))) == 20


def test_waiting_without_time_sees_what_is_done():
    futures = [mh.submit(square, i) for i in range(5)]
    wait_until(lambda: all(future.done() for future in futures))
    again = [mh.submit(square, i) for i in range(5)]
    time.sleep(0.2)
    # Nobody has asked these yet; most likely they are done, and then they must count as done.
    done, not_done = concurrent.futures.wait(again, timeout=0)
    assert all(future in done for future in again if future not in not_done)
    wait_until(lambda: not concurrent.futures.wait(again, timeout=0).not_done)
    assert concurrent.futures.wait(futures, timeout=0).done == set(futures)


def test_waiting_for_the_first(gate, where):
    if where.num_workers == 1:
        gate.open()  # one worker ends its calls one by one
    slow, fast = mh.submit(gate.pass_through, 1), mh.submit(square, 2)
    done, not_done = concurrent.futures.wait([slow, fast], return_when=concurrent.futures.FIRST_COMPLETED)
    assert done
    if where.num_workers > 1:
        assert (done, not_done) == ({fast}, {slow})
    gate.open()
    assert slow.result() == 1


def test_waiting_for_the_first_error(gate, where):
    if where.num_workers == 1:
        gate.open()  # one worker ends its calls one by one
    slow, bad = mh.submit(gate.pass_through, 1), mh.submit(invert, 0)
    done, _ = concurrent.futures.wait([slow, bad], return_when=concurrent.futures.FIRST_EXCEPTION)
    assert bad in done
    gate.open()
    assert slow.result() == 1


def test_as_completed():
    futures = [mh.submit(square, i) for i in range(100)]
    seen = [future.result() for future in concurrent.futures.as_completed(futures, timeout=HANG_S)]
    assert sorted(seen) == [i * i for i in range(100)]
    # And again, of futures that are done.
    assert len(list(concurrent.futures.as_completed(futures, timeout=0))) == 100


def test_as_completed_in_time(gate, where):
    if where.is_synchronous:
        return
    futures = [mh.submit(gate.pass_through, 1)]
    with pytest.raises(concurrent.futures.TimeoutError):
        list(concurrent.futures.as_completed(futures, timeout=0.05))
    gate.open()
    assert [future.result() for future in concurrent.futures.as_completed(futures)] == [1]


def test_mixed_with_futures_of_an_executor():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        futures = [mh.submit(square, 2), executor.submit(square, 3)]
        done, _ = concurrent.futures.wait(futures, timeout=HANG_S)
    assert {future.result() for future in done} == {4, 9}


# asyncio


def test_a_future_is_awaited():
    async def main():
        one = await mh.submit(square, 3)
        with pytest.raises(ZeroDivisionError):
            await mh.submit(invert, 0)
        return one

    assert asyncio.run(main()) == 9


def test_many_futures_are_gathered():
    async def main():
        return await asyncio.gather(*(mh.submit(square, i) for i in range(100)))

    assert asyncio.run(main()) == [i * i for i in range(100)]


def test_the_event_loop_goes_on_meanwhile(gate, where):
    async def main():
        ticks = 0
        future = asyncio.wrap_future(mh.submit(gate.pass_through, 5))
        while ticks < 5:
            await asyncio.sleep(0.005)
            ticks += 1
        assert where.is_synchronous or not future.done()
        gate.open()
        return await future

    assert asyncio.run(main()) == 5


def test_awaiting_with_a_timeout_cancels_the_call(gate, where):
    if where.is_synchronous:
        return

    async def main():
        future = mh.submit(gate.pass_through, 5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.05)
        return future

    future = asyncio.run(main())
    if where.is_elsewhere:
        assert future.cancelled()
    gate.open()
    assert mh.submit(square, 2).result() == 4


def test_an_awaited_future_that_is_done():
    async def main():
        future = mh.submit(square, 4)
        assert future.result() == 16
        return await future, await future

    assert asyncio.run(main()) == (16, 16)


def test_one_event_loop_after_the_other():
    for i in range(5):
        assert asyncio.run(await_one(i)) == i * i


async def await_one(i):
    return await mh.submit(square, i)


# Many


def n_many(where):
    """So many that each is cheap, where there is no process for each."""
    return 200 if where.is_fork else 10_000


def test_very_many_calls(where):
    n_calls = n_many(where)
    futures = [mh.submit(square, i) for i in range(n_calls)]
    assert [future.result() for future in futures] == [i * i for i in range(n_calls)]


def test_very_many_callbacks(where):
    n_calls = n_many(where)
    n_called = []
    futures = [mh.submit(square, i) for i in range(n_calls)]
    for future in futures:
        future.add_done_callback(n_called.append)
    wait_until(lambda: len(n_called) == n_calls)
    assert {future.result() for future in n_called} == {i * i for i in range(n_calls)}


def test_a_call_runs_though_its_future_is_dropped(tmp_path):
    mark = tmp_path / "ran"
    mh.submit(mark.touch)
    gc.collect()
    wait_until(mark.exists)


def test_calls_run_though_their_futures_are_dropped(tmp_path, where):
    for i in range(20):
        mh.submit((tmp_path / str(i)).touch)
    del where
    gc.collect()
    wait_until(lambda: len(list(tmp_path.iterdir())) == 20)


def test_a_callback_is_called_though_the_future_is_dropped():
    results = []
    mh.submit(square, 5).add_done_callback(lambda f: results.append(f.result()))
    gc.collect()
    wait_until(lambda: results == [25])


def test_several_threads_ask_one_future(gate):
    future = mh.submit(gate.pass_through, [1])
    seen = []

    def ask(n):
        seen.append(future.result(timeout=HANG_S) if n % 2 else (future.exception(), future.result())[1])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(HANG_S)
    assert len(seen) == 16
    assert all(result is seen[0] for result in seen)


def test_several_threads_poll_one_future():
    for _ in range(50):
        future = mh.submit(square, 3)
        seen = []

        def poll(future=future, seen=seen):
            while not future.done():
                pass
            seen.append(future.result(timeout=0))

        threads = [threading.Thread(target=poll) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
        assert seen == [9] * 4


def test_calls_end_in_any_order(where):
    delays = [0.03, 0.0, 0.02, 0.01, 0.0]
    futures = [mh.submit(nap, delay, i) for i, delay in enumerate(delays)]
    assert [future.result() for future in futures] == list(range(5))


def test_the_result_of_a_future_is_let_go_with_it():
    import weakref

    class Thing:
        pass

    future = mh.submit(Thing)
    reference = weakref.ref(future.result())
    assert reference() is not None
    del future
    gc.collect()
    assert reference() is None
