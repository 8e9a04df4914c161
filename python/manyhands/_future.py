"""Futures: calls under way in the background."""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from _thread import RLock
from concurrent.futures._base import FINISHED, PENDING
from functools import partial

from manyhands import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, NoReturn, TypeVar

    from manyhands._faults import Faults

    T = TypeVar("T")


class _Waiters(list):  # type: ignore[type-arg]
    """Those who wait in `concurrent.futures.wait` and the like; the first makes the future watched.

    Until somebody waits in a way that needs telling, the end of a call stays the engine's secret: `result` finds out
    by itself, without a thread in between.
    """

    def __init__(self, future: Future[Any]) -> None:
        super().__init__()
        self._future = weakref.ref(future)

    def append(self, waiter: object) -> None:
        super().append(waiter)
        future = self._future()
        if future is not None:
            future._watch()


class Future(concurrent.futures.Future["T"]):
    """A call that was submitted: a `concurrent.futures.Future` that can also be awaited.

    Works with `concurrent.futures.wait` and `as_completed`, and with ``await`` in asyncio.

    Examples
    --------
    >>> import manyhands as mh
    >>> future = mh.submit(pow, 2, 5)
    >>> future.result(timeout=60), future.done(), future.exception()
    (32, True, None)
    """

    # What the base class sets for each future, most futures do without: making them is much of what short calls cost.
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _done_callbacks: list[Callable[[Any], object]] | tuple[()] = ()
    _is_watched = False
    _is_settling = False
    _those_who_wait: _Waiters | None = None
    #: Over the mutex, once somebody has asked for it.
    _made_condition: threading.Condition | None = None

    def __init__(self, pending: _native.Pending | None = None) -> None:
        self._mutex = RLock()
        self._pending = pending

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Future belongs to the process that submitted the call and cannot be sent elsewhere or copied: "
            "pass on its result, future.result(), or write the calls down with manyhands.delayed, "
            "whose calls take each other's results"
        )

    @classmethod
    def _of_call(
        cls,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        serial: _native.Serial,
        faults: Faults | None,
        number: int = 0,
    ) -> Future[T]:
        """A future of a call made here and now, as the task with this number."""
        future: Future[T] = cls()
        future.set_running_or_notify_cancel()
        call = partial(serial.call, number, function, args, kwargs)
        n_tries = 0
        while True:
            n_tries += 1
            try:
                if serial.is_silent:
                    from manyhands._relay import silenced

                    with silenced():
                        result = call()
                else:
                    result = call()
            except KeyboardInterrupt:  # of the person at the keyboard, who waits here
                raise
            except BaseException as error:
                if faults is not None and isinstance(error, Exception) and faults.tries_again(error, n_tries):
                    continue
                from manyhands._raising import raised

                described = _native.describe_call(function, args, kwargs)
                future.set_exception(raised(error, described, None, "synchronous", n_tries))
            else:
                future.set_result(result)
            break
        return future

    # What concurrent.futures knows of, kept true on demand

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        """The lock that `concurrent.futures` takes before it looks at the state, which it then expects to stay."""
        self._settle()
        condition = self._made_condition
        if condition is None:
            with self._mutex:
                condition = self._made_condition
                if condition is None:
                    condition = self._made_condition = threading.Condition(self._mutex)
        return condition

    @property
    def _waiters(self) -> _Waiters:  # type: ignore[override]
        """Where `concurrent.futures` notes who waits."""
        with self._mutex:
            if self._those_who_wait is None:
                self._those_who_wait = _Waiters(self)
            return self._those_who_wait

    def _settle(self, has_ended: bool = False) -> None:
        """Take the result of a call that has ended over into the base class; whoever comes first does it."""
        if self._pending is None:
            return
        with self._mutex:
            pending = self._pending
            if pending is None or self._is_settling or not (has_ended or pending.done()):
                return
            self._is_settling = True
        try:
            value = pending.take()
        except BaseException as error:
            if pending.cancelled():
                super().cancel()
                super().set_running_or_notify_cancel()
            else:
                super().set_exception(self._told(error))
        else:
            with self._mutex:
                self._result = value
                self._state = FINISHED
                for waiter in self._those_who_wait or ():
                    waiter.add_result(self)
                if self._made_condition is not None:
                    self._made_condition.notify_all()
            if self._done_callbacks:
                self._invoke_callbacks()  # type: ignore[attr-defined]
        self._pending = None

    def _told(self, error: BaseException) -> BaseException:
        """What this future raises where its call has failed so."""
        return error

    def _watch(self) -> None:
        """Have the base class told of the end when it comes."""
        pending = self._pending
        if pending is not None and not self._is_watched:
            self._is_watched = True
            _watcher.watch(self, pending)

    def _wait(self, timeout: float | None) -> None:
        pending = self._pending
        if pending is None:
            return
        try:
            has_ended = pending.wait(timeout)
        except KeyboardInterrupt:
            # As for every other call that waits: whoever presses Ctrl-C wants the machine back.
            pending.interrupt()
            self._interrupted(pending.scheduler)
            raise
        if has_ended:
            self._settle(has_ended)

    def _interrupted(self, scheduler: str) -> None:
        """After Ctrl-C: no worker of those that ran this call goes on."""
        from manyhands import _pools

        _pools.interrupted(scheduler)

    # The methods of a future

    def result(self, timeout: float | None = None) -> T:
        """What the call returned, once it has.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait; by default as long as it takes.

        Raises
        ------
        TimeoutError
            If the call has not ended by then (`concurrent.futures.TimeoutError`).
        concurrent.futures.CancelledError
            If it was cancelled.
        Exception
            What the call raised.

        Examples
        --------
        >>> import manyhands as mh
        >>> mh.submit(divmod, 7, 2).result(timeout=60)
        (3, 1)
        """
        self._wait(timeout)
        if self._state == FINISHED and self._exception is None:
            # So it stays.
            return self._result  # type: ignore[no-any-return]
        return super().result(0 if self._pending is not None and not self._is_settling else timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, once it has ended; None if it returned.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait; by default as long as it takes.

        Raises
        ------
        TimeoutError
            If the call has not ended by then (`concurrent.futures.TimeoutError`).
        concurrent.futures.CancelledError
            If it was cancelled.

        Examples
        --------
        >>> import manyhands as mh
        >>> mh.submit(divmod, 7, 0).exception(timeout=60)
        ZeroDivisionError(...)
        """
        self._wait(timeout)
        return super().exception(0 if self._pending is not None and not self._is_settling else timeout)

    def done(self) -> bool:
        """Whether the call has ended, in whatever way.

        Examples
        --------
        >>> import manyhands as mh
        >>> future = mh.submit(abs, -1)
        >>> future.result(), future.done()
        (1, True)
        """
        return super().done()

    def running(self) -> bool:
        """Whether a worker may have started the call and has not ended it.

        Examples
        --------
        >>> import manyhands as mh
        >>> future = mh.submit(abs, -1)
        >>> future.result(), future.running()
        (1, False)
        """
        pending = self._pending
        return pending is not None and pending.running()

    def cancelled(self) -> bool:
        """Whether the call was cancelled.

        Examples
        --------
        >>> import manyhands as mh
        >>> future = mh.submit(abs, -1)
        >>> future.result(), future.cancelled()
        (1, False)
        """
        return super().cancelled()

    def cancel(self) -> bool:
        """Cancel the call. A running call is stopped where that is possible: in processes, by ending its worker.

        The worker is given a moment, 0.1 s, to come to the end by itself: a new one takes longer to start.

        Returns
        -------
        bool
            False if the call has ended already, or runs in a thread and so cannot be stopped.

        Examples
        --------
        >>> import time
        >>> import manyhands as mh
        >>> future = mh.submit(time.sleep, 60)
        >>> future.cancel(), future.cancelled()
        (True, True)
        """
        pending = self._pending
        if pending is None:
            return super().cancel()
        if not pending.cancel(pending.stoppable):
            return super().cancelled()
        self._settle()
        return True

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Have a function called with this future once the call has ended; at once if it has.

        Parameters
        ----------
        fn : callable
            Called with the future as its only argument, in the thread that learns of the end first. What it raises
            is logged.

        Examples
        --------
        >>> import manyhands as mh
        >>> future = mh.submit(abs, -1)
        >>> future.result()
        1
        >>> future.add_done_callback(lambda future: print(future.result() + 1))
        2
        """
        with self._mutex:
            if not self._done_callbacks:
                self._done_callbacks = []
        super().add_done_callback(fn)
        self._watch()

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()


class _Watcher:
    """One thread that is told by the engine which calls have ended, and tells their futures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._completions: _native.Completions | None = None
        self._thread: threading.Thread | None = None
        self._futures: dict[int, Future[Any]] = {}
        self._n_watched = 0

    def watch(self, future: Future[Any], pending: _native.Pending) -> None:
        with self._lock:
            if self._completions is None:
                self._start()
            assert self._completions is not None
            self._n_watched += 1
            token = self._n_watched
            self._futures[token] = future
            completions = self._completions
        pending.notify(completions, token)

    def _start(self) -> None:
        import atexit

        self._completions = _native.Completions()
        self._thread = threading.Thread(
            target=self._run, args=(self._completions,), name="manyhands-futures", daemon=True
        )
        self._thread.start()
        atexit.register(self._stop, self._completions, self._thread)

    @staticmethod
    def _stop(completions: _native.Completions, thread: threading.Thread) -> None:
        completions.close()
        thread.join(1.0)

    def _run(self, completions: _native.Completions) -> None:
        while True:
            token = completions.next()
            if token is None:
                return
            with self._lock:
                future = self._futures.pop(token, None)
            if future is not None:
                try:
                    future._settle()
                except BaseException:
                    # A callback that wants to end the program, say, must not end the telling of all others.
                    import traceback

                    traceback.print_exc()
                # A loop variable would keep the result alive until the next call ends.
                del future

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._reset()


_watcher = _Watcher()

import os  # noqa: E402 - for the one line below

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watcher.after_fork)
