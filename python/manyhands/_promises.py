"""The futures of `manyhands.distributed`, and what tells them that their calls have ended.

Calls that were submitted together are one `_native.Calls`, which keeps their results. A future knows which it is of
them, and asks: nobody is told anything until somebody wants to be. Then one thread of the client's hears of all calls.
"""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import CancelledError

from manyhands import _native
from manyhands._guarded import Caught, Guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from types import TracebackType
    from typing import Any

    from manyhands._computing import Computation
    from manyhands._seeding import Root

__all__ = ["Batch", "Engine", "Future"]

# How long a waiting thread sleeps before it looks again whether somebody else has brought the news.
_PAUSE_S = 0.05
# After so many failures that end the calls of others, those are submitted one by one.
_N_FAILURES_MAX = 3
_NOTHING: Any = object()


class Future(_native.Promise):
    """The result of a call that was submitted, or will be once the results it needs are there.

    Made by `Client.submit`, `Client.map`, `Client.scatter` and `Client.compute`. Can be given to further calls as an
    argument, also inside of collections, and be awaited.

    Examples
    --------
    >>> from manyhands.distributed import Client
    >>> with Client(n_workers=2) as client:
    ...     three = client.submit(abs, -3)
    ...     client.submit(pow, three, 2).result()
    9
    """

    __slots__ = (
        "_args",
        "_batch",
        "_callbacks",
        "_client",
        "_computation",
        "_error",
        "_function",
        "_index",
        "_is_reading",
        "_is_released",
        "_key",
        "_kwargs",
        "_missing",
        "_n_readers",
        "_number",
        "_resources",
        "_root",
        "_state",
        "_template",
        "_traceback",
        "_value",
    )

    def __init__(
        self,
        engine: Engine,
        function: Guarded | None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> None:
        self._client = engine
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._key = key
        self._template: _native.Template | None = None
        # How many of the results it needs are not there; another list for each time that it is submitted.
        self._missing: list[int] | None = None
        # How many calls are to read its result and have not been submitted; and whether it is such a call.
        self._n_readers = 0
        self._is_reading = False
        # What computes it, where that is no call.
        self._computation: Computation | None = None
        # How many units it needs of each resource, if any.
        self._resources: dict[str, int] | None = None
        # What its stream of random numbers descends from, and its number there.
        self._root: Root | None = None
        self._number = 0
        self._is_released = False
        self._batch: Batch | None = None
        self._index = 0
        self._state = "pending"
        self._value: Any = _NOTHING
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._callbacks: list[Callable[[Future], object]] | None = None

    def __repr__(self) -> str:
        return f"<Future: {self.status}, key: {self.key}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"the future {self.key!r} cannot be sent to another process by itself: give it to submit() or map() as an "
            "argument, or in a collection that is one, and the call receives its result"
        )

    def __del__(self) -> None:
        batch = self._batch
        if batch is not None:
            batch.native.forget(self._index)

    # What others ask

    @property
    def key(self) -> str:
        """The name of the call.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=1) as client:
        ...     client.submit(abs, -1, key="one").key
        'one'
        """
        if self._key is None:
            name = "data" if self._function is None else self._function.__name__
            self._key = f"{name}-{id(self):x}-{next(self._client.numbers):x}"
        return self._key

    @property
    def status(self) -> str:
        """``"pending"``, ``"finished"``, ``"error"`` or ``"cancelled"``.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=1) as client:
        ...     future = client.submit(abs, -1)
        ...     future.result(), future.status
        (1, 'finished')
        """
        self._settle()
        return "cancelled" if self._is_released else self._state

    @property
    def client(self) -> Any:
        """The client it was submitted with."""
        return self._client.owner()

    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self._is_over()

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._is_released or self._state == "cancelled"

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned, once it has; the same object each time.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait; by default as long as it takes.

        Raises
        ------
        TimeoutError
            If the call has not ended by then.
        concurrent.futures.CancelledError
            If it was cancelled.
        Exception
            What the call raised, or what a call raised whose result it needs.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=1) as client:
        ...     client.submit(divmod, 7, 2).result()
        (3, 1)
        """
        self._wait_settled(timeout)
        if self._state == "finished":
            return self._value
        assert self._error is not None
        raise self._error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, once it has ended; None if it returned.

        Parameters
        ----------
        timeout : float, optional
            As for `result`.

        Raises
        ------
        TimeoutError, concurrent.futures.CancelledError
            As for `result`.
        """
        self._wait_settled(timeout)
        if self._state == "cancelled":
            assert self._error is not None
            raise self._error
        return self._error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Where the call raised its exception, for the module `traceback`; None if it returned.

        Of a call in another process the frames have names and lines, and no variables.

        Parameters
        ----------
        timeout : float, optional
            As for `result`.
        """
        return None if self.exception(timeout) is None else self._traceback

    def add_done_callback(self, fn: Callable[[Future], object]) -> None:
        """Have a function called with this future once its call has ended.

        Parameters
        ----------
        fn : callable
            Called in a thread of the client's, where what it raises is printed; here and at once if the call has ended.
        """
        if self._is_over():
            fn(self)
            return
        with self._client.lock:
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(fn)
            # Whoever is to be told need not keep it.
            self._client.kept.add(self)
        self._client.watch(self)
        # It may have ended, and others been told of it, just before.
        if self._is_over():
            self._tell()

    def cancel(self, **kwargs: Any) -> None:
        """Cancel the call, as `Client.cancel` does."""
        cancel([self])

    def retry(self, **kwargs: Any) -> None:
        """Submit the call again if it has failed or was cancelled, as `Client.retry` does."""
        retry([self])

    def release(self) -> None:
        """Let go of the result. The future is of no further use; calls that were given it before receive it."""
        with self._client.lock:
            self._is_released = True
            # What a call still waits to be given goes with that call.
            if self._n_readers == 0 and not self._callbacks:
                self._let_go()

    def _let_go(self) -> None:
        """Drop the result of a future that was released, if it is there; under the client's lock."""
        if self._is_over():
            self._value = _NOTHING
            if self._batch is not None:
                self._batch.native.forget(self._index)

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        loop = asyncio.get_running_loop()
        waiter = loop.create_future()

        def tell(_: Future) -> None:
            def wake() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            # The loop may be gone by now, and nobody waits any more.
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self.add_done_callback(tell)
        yield from waiter.__await__()
        return self.result()

    # How it ends

    def _is_over(self) -> bool:
        """Whether the call has ended, without a look at its result."""
        if self._state != "pending":
            return True
        batch = self._batch
        if batch is None:
            return False
        if batch.native.is_done(self._index):
            return True
        if batch.recover():
            return self._is_over()
        return False

    def _settle(self) -> bool:
        """Take the end of the call over, if it has ended; whether it has."""
        if not self._is_over():
            return False
        batch = self._batch
        if self._state != "pending" or batch is None:
            return True
        error: BaseException | None = None
        value: Any = None
        try:
            value = batch.native.value(self._index)
        except Exception as raised:
            error = raised
        traceback = error.__traceback__ if error is not None else None
        if type(value) is Caught:
            traceback = value.traceback()
            error = value.exception(f"{self._function.__name__}(…)", self.key, self._client.scheduler)  # type: ignore[union-attr]
        with self._client.lock:
            if self._state == "pending" and self._batch is batch:
                self._value, self._error, self._traceback = value, error, traceback
                self._state = "finished" if error is None else "error"
        return True

    def _wait(self, timeout: float | None) -> None:
        """Wait until the call has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_over():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"the call {self.key!r} has not ended after {timeout} s")
            batch = self._batch
            if batch is None:
                with self._client.changed:
                    if self._state == "pending" and self._batch is None:
                        self._client.changed.wait(_PAUSE_S if left is None else min(left, _PAUSE_S))
                continue
            try:
                batch.native.wait(self._index, left)
            except KeyboardInterrupt:
                self._client.interrupted(batch)
                raise

    def _wait_settled(self, timeout: float | None) -> None:
        if self._is_released:
            raise CancelledError(f"the future {self.key!r} was released")
        while not self._settle():
            self._wait(timeout)

    def _end(self, state: str, value: Any = None, error: BaseException | None = None) -> None:
        """End it from here, unless it has ended; under the client's lock."""
        if self._state == "pending":
            self._value, self._error = value, error
            self._traceback = error.__traceback__ if error is not None else None
            self._state = state

    def _tell(self) -> None:
        """Call those who wanted to know of the end."""
        with self._client.changed:
            callbacks, self._callbacks = self._callbacks, None
            self._client.kept.discard(self)
            self._client.changed.notify_all()
        for callback in callbacks or ():
            try:
                callback(self)
            except BaseException:
                # One that wants to end the program, say, must not end the telling of all others.
                import traceback

                traceback.print_exc()


class Batch:
    """Calls of one function that were submitted together, and their futures."""

    __slots__ = ("__weakref__", "engine", "futures", "is_given_up", "is_watched", "n_told", "native")

    def __init__(self, engine: Engine, native: _native.Calls, futures: list[Future]) -> None:
        self.engine = engine
        self.native = native
        # Who lets go of all futures lets go of the results.
        self.futures = [weakref.ref(future) for future in futures]
        self.is_given_up = False
        self.is_watched = False
        self.n_told = 0
        for index, future in enumerate(futures):
            future._batch = self
            future._index = index

    def pending(self) -> list[Future]:
        """Those that have not ended."""
        futures = [ref() for ref in self.futures]
        return [
            future
            for future in futures
            if future is not None
            and future._batch is self
            and future._state == "pending"
            and not self.native.is_done(future._index)
        ]

    def recover(self) -> bool:
        """After a call that ended all others: submit those again. Whether there was one."""
        failure = self.native.failure()
        if failure is None and not self.is_given_up:
            return False
        rest, ended = [], []
        with self.engine.lock:
            if self.is_given_up or failure is None:
                return True
            self.is_given_up = True
            blamed, error = failure
            for future in self.pending():
                if blamed is not None and future._index != blamed:
                    future._batch = None
                    rest.append(future)
                else:
                    future._end("cancelled" if isinstance(error, CancelledError) else "error", error=error)
                    ended.append(future)
            self.engine.n_failures += 1
        self.engine.submit_again(rest)
        for future in ended:
            future._tell()
        return True


def _own_root(future: Future) -> Root | None:
    """The root of a call that is submitted by itself."""
    root = future._root
    if root is None or future._number == 0:
        return root
    from manyhands._seeding import Root

    return Root(root.entropy, root.key, root.first + future._number)


def cancel(futures: Iterable[Future]) -> None:
    """End calls, of whichever clients."""
    for engine, own in _by_engine(futures):
        engine.cancel(own)


def retry(futures: Iterable[Future]) -> None:
    """Submit calls again that have failed or were cancelled, and those before them whose failures they have inherited.

    Raises
    ------
    Exception
        What one of them could not be submitted for; the others have been.
    """
    again = _to_be_retried(futures)
    for future in again:
        with future._client.lock:
            future._state, future._error, future._traceback = "pending", None, None
            future._value = _NOTHING
            future._batch = None
    refused: Exception | None = None
    for future in again:
        try:
            future._client.start_again(future)
        except Exception as error:
            refused = refused or error
    if refused is not None:
        raise refused


def _to_be_retried(futures: Iterable[Future]) -> list[Future]:
    """Calls that have ended without a result, each after those that it needs."""
    found: dict[Future, None] = {}
    seen: set[Future] = set()
    # With each, whether what it needs has been looked at.
    stack = [(future, False) for future in reversed(list(futures))]
    while stack:
        future, has_looked = stack.pop()
        if has_looked:
            found[future] = None
            continue
        future._settle()
        is_data = future._function is None and future._computation is None
        if future in seen or future._state not in ("error", "cancelled") or is_data:
            continue
        seen.add(future)
        stack.append((future, True))
        template = _native.Template.of(future._args, future._kwargs)
        needed: list[Any] = [] if template is None else template.promises
        stack.extend((promise, False) for promise in reversed(needed))
    return list(found)


def _by_engine(futures: Iterable[Future]) -> list[tuple[Engine, list[Future]]]:
    groups: dict[int, tuple[Engine, list[Future]]] = {}
    for future in futures:
        groups.setdefault(id(future._client), (future._client, []))[1].append(future)
    return list(groups.values())


class Engine:
    """What a client's futures share: where calls run, and the thread that tells of their ends."""

    def __init__(self, owner: Any, scheduler: str, pool_of: Callable[[dict[str, int] | None], Any]) -> None:
        import itertools

        self.owner = weakref.ref(owner)
        self.scheduler = scheduler
        # The pool to use now, for calls that need so much; None to call in the calling thread.
        self._pool_of = pool_of
        # Held while futures change; never while code of the user's runs, nor while another engine's is taken.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.numbers = itertools.count()
        self.batches: weakref.WeakSet[Batch] = weakref.WeakSet()
        # Those whose arguments are not there yet, or that are being computed; and those whose end somebody waits to be
        # told of.
        self.waiting: set[Future] = set()
        self.kept: set[Future] = set()
        self.n_failures = 0
        self._completions: _native.Completions | None = None
        self._watched: dict[int, Batch] = {}
        self._n_watched = 0

    # Submitting

    def is_here(self) -> bool:
        """Whether calls are made at once, by the thread that submits them."""
        return self._pool_of(None) is None

    def start(self, future: Future) -> None:
        """Submit a call, now or once the results are there that it needs."""
        template = future._template = _native.Template.of(future._args, future._kwargs)
        if template is None:
            self._launch(future)
            return
        self._begin_reading(future)
        has_left = False
        try:
            missing = [promise for promise in template.promises if not promise._is_over()]
            if missing and self.is_here():
                # In a task, to have it submitted later could mean to wait for the very worker that the task keeps busy.
                for promise in missing:
                    promise._wait(None)
            elif missing:
                self._launch_after(future, missing)
                has_left = True
                return
            self._launch(future)
        finally:
            if not has_left:
                self._end_reading([future])

    def _launch_after(self, future: Future, missing: list[Any]) -> None:
        # One more, so that the last is certainly counted below.
        n_left = [len(missing) + 1]
        with self.lock:
            future._missing = n_left
            self.waiting.add(future)

        def count(_: Future) -> None:
            with self.lock:
                n_left[0] -= 1
                # Not if it was cancelled, and perhaps submitted again, since.
                is_ready = n_left[0] == 0 and future._missing is n_left and future._state == "pending"
            if is_ready:
                self._launch_later(future)

        for promise in missing:
            promise.add_done_callback(count)
        count(future)

    def _begin_reading(self, future: Future) -> None:
        """Have the results stay that a call needs, until it has been submitted."""
        assert future._template is not None
        promises: list[Any] = future._template.promises
        for at, promise in enumerate(promises):
            with promise._client.lock:
                is_released = promise._is_released
                promise._n_readers += not is_released
            if is_released:
                for earlier in promises[:at]:
                    earlier._client.stop_reading(earlier)
                raise ValueError(
                    f"the future {promise.key!r} was released, and cannot be an argument of {future.key!r}"
                )
        future._is_reading = True

    def _end_reading(self, futures: list[Future]) -> None:
        """Calls have been submitted, or will not be; without the lock."""
        for future in futures:
            with self.lock:
                self.waiting.discard(future)
                was_reading, future._is_reading = future._is_reading, False
            if was_reading:
                assert future._template is not None
                promises: list[Any] = future._template.promises
                for promise in promises:
                    promise._client.stop_reading(promise)

    def stop_reading(self, promise: Future) -> None:
        """One call less is to read a result."""
        with self.lock:
            promise._n_readers -= 1
            if promise._n_readers == 0 and promise._is_released:
                promise._let_go()

    def _launch_later(self, future: Future) -> None:
        """Submit a call whose submitter has gone on: what goes wrong is the call's."""
        try:
            self._launch(future)
        except Exception as error:
            with self.lock:
                future._end("error", error=error)
        self._end_reading([future])
        self._launched([future])

    def _launched(self, futures: list[Future]) -> None:
        """See to it that those who wait for these calls hear of them."""
        with self.changed:
            self.changed.notify_all()
            heard = [future for future in futures if future._callbacks]
        for future in heard:
            self.watch(future)
            if future._is_over():
                future._tell()

    def _launch(self, future: Future) -> None:
        from manyhands import _run

        function, template = future._function, future._template
        assert function is not None
        pool = self._pool_of(future._resources)
        root = _own_root(future)
        args, kwargs = future._args, future._kwargs
        if template is not None and isinstance(pool, _native.ProcessPool):
            inputs = self._stored(future, template)
            if inputs is None:
                return
            pickle = _run._pickled(pool, function)
            assert pickle is not None
            native = _native.Calls.bound(
                pool, function, pickle, template, inputs, self.scheduler, root, _run._manner(None), None
            )
        else:
            if template is not None:
                promises: list[Any] = template.promises
                if any(self._inherits(future, promise) for promise in promises):
                    return
                args, kwargs = template.fill([promise._value for promise in promises])
            if pool is None:
                self._call_here(future, args, kwargs, _native.Serial(root, _run._manner(None)))
                return
            pickle = _run._pickled(pool, function)
            native = _native.Calls.one(
                pool, function, pickle, args, kwargs, self.scheduler, root, _run._manner(None), None
            )
        with self.lock:
            if future._state == "pending":
                self.batches.add(Batch(self, native, [future]))
                return
        # It was cancelled meanwhile.
        native.cancel()

    def _stored(self, future: Future, template: _native.Template) -> list[tuple[_native.Calls | None, Any]] | None:
        """Where the results are that a call needs; None if one will not come, and the call has ended therefore."""
        inputs: list[tuple[_native.Calls | None, Any]] = []
        promises: list[Any] = template.promises
        for promise in promises:
            batch = promise._batch
            if (
                promise._state in ("pending", "finished")
                and batch is not None
                and batch.native.is_stored(promise._index)
            ):
                inputs.append((batch.native, promise._index))
            elif self._inherits(future, promise):
                return None
            else:
                inputs.append((None, promise._value))
        return inputs

    def _inherits(self, future: Future, promise: Future) -> bool:
        """Whether a result that a call needs will not come; then the call ends as that one has."""
        promise._settle()
        if promise._state == "finished":
            return False
        with self.lock:
            future._end(promise._state, error=promise._error)
            future._traceback = promise._traceback
        return True

    def _call_here(
        self, future: Future, args: tuple[Any, ...], kwargs: dict[str, Any] | None, serial: _native.Serial
    ) -> None:
        assert future._function is not None
        value: Any = None
        error: BaseException | None = None
        traceback, state = None, "finished"
        try:
            value = serial.call(0, future._function, args, kwargs)
        except Exception as refused:  # what the function raises is caught; this is said of it
            error, state = refused, "error"
        if type(value) is Caught:
            traceback = value.traceback()
            error = value.exception(f"{future._function.__name__}(…)", future.key, "synchronous")
            state = "error"
        with self.lock:
            future._end(state, value, error)
            future._traceback = traceback

    def start_many(self, futures: list[Future]) -> None:
        """Submit calls of one function, in whose arguments are no futures, together."""
        from manyhands import _run

        pool = self._pool_of(futures[0]._resources)
        if pool is None:
            # What is reported of calls that are made together is reported once.
            manner = _run._manner(None)
            unseeded = _native.Serial(None, manner)
            for future in futures:
                root = _own_root(future)
                self._call_here(future, future._args, None, _native.Serial(root, manner) if root else unseeded)
            return
        function = futures[0]._function
        assert function is not None
        pickle = _run._pickled(pool, function)
        columns = tuple(zip(*[future._args for future in futures]))
        root, manner = futures[0]._root, _run._manner(None)
        native = _native.Calls.many(pool, function, pickle, columns, None, self.scheduler, root, manner, None)
        with self.lock:
            self.batches.add(Batch(self, native, futures))

    def start_again(self, future: Future) -> None:
        """Submit a call that has been made pending again; or end it, with what it cannot be submitted for."""
        try:
            if future._computation is not None:
                future._computation.again(future, self.is_here())
            else:
                self.start(future)
        except Exception as error:
            with self.lock:
                future._end("error", error=error)
            raise
        self._launched([future])

    def submit_again(self, futures: list[Future]) -> None:
        """Submit calls once more that were ended with another."""
        is_together = len(futures) > 1 and self.n_failures <= _N_FAILURES_MAX
        if is_together and all(one._template is None and one._root is None for one in futures):
            try:
                self.start_many(futures)
            except Exception as error:
                with self.lock:
                    for future in futures:
                        future._end("error", error=error)
            self._launched(futures)
        else:
            for future in futures:
                self._launch_later(future)

    # Ends

    def cancel(self, futures: Iterable[Future]) -> None:
        """End calls; those of others that were submitted with them go on."""
        by_batch: dict[int, tuple[Batch, list[Future]]] = {}
        ended = []
        with self.lock:
            for future in futures:
                if future._is_over():
                    continue
                future._end("cancelled", error=CancelledError(f"the call {future.key!r} was cancelled"))
                ended.append(future)
                if future._batch is not None:
                    by_batch.setdefault(id(future._batch), (future._batch, []))[1].append(future)
            rest = []
            for batch, _ in by_batch.values():
                others = batch.pending()
                for future in others:
                    future._batch = None
                rest.append(others)
                batch.is_given_up = True
        self._end_reading(ended)
        self._stop_computing(ended)
        for batch, _ in by_batch.values():
            batch.native.cancel()
        for others in rest:
            self.submit_again(others)
        for future in ended:
            future._tell()

    @staticmethod
    def _stop_computing(ended: list[Future]) -> None:
        for computation in {future._computation for future in ended}:
            if computation is not None:
                computation.stop_if_unwanted()

    def end(self) -> None:
        """Cancel all that is under way, and stop telling."""
        with self.lock:
            waiting = list(self.waiting)
            batches = list(self.batches)
            for future in waiting:
                future._end("cancelled", error=CancelledError("the client was closed"))
        self._end_reading(waiting)
        self._stop_computing(waiting)
        for batch in batches:
            pending = batch.pending()
            if pending:
                batch.native.cancel()
                batch.recover()
        for future in waiting:
            future._tell()
        with self.lock:
            completions, self._completions = self._completions, None
        if completions is not None:
            completions.close()

    def interrupted(self, batch: Batch) -> None:
        """After Ctrl-C: whoever presses it wants the machine back."""
        from manyhands import _pools

        batch.native.interrupt()
        _pools.interrupted(self.scheduler)

    # Telling

    def watch(self, future: Future) -> None:
        """Have the callbacks of a future called."""
        with self.lock:
            batch = future._batch
            if batch is None or batch.is_watched:
                return
            batch.is_watched = True
            if self._completions is None:
                self._completions = _native.Completions()
                # It must not keep the client, whose end ends it.
                told = (self._completions, weakref.ref(self))
                thread = threading.Thread(target=_tell_ends, args=told, name="manyhands-client", daemon=True)
                thread.start()
            self._n_watched += 1
            token = self._n_watched
            self._watched[token] = batch
            completions = self._completions
        batch.native.notify(completions, token)

    def tell_of(self, token: int) -> None:
        """Call the callbacks of calls that have ended."""
        batch = self._watched.get(token)
        if batch is None:
            return
        done = batch.native.done_from(batch.n_told)
        batch.n_told += len(done)
        if batch.native.failure() is not None:
            batch.recover()
            self._watched.pop(token, None)
        elif batch.n_told == len(batch.futures):
            self._watched.pop(token, None)
        for index in done:
            future = batch.futures[index]()
            if future is not None and future._batch is batch:
                future._tell()
            del future


def _tell_ends(completions: _native.Completions, engine_of: weakref.ref[Engine]) -> None:
    """Have callbacks called as calls end; the whole life of a thread."""
    while (token := completions.next()) is not None:
        engine = engine_of()
        if engine is None:
            return
        engine.tell_of(token)
        # A local variable would keep it alive until the next news.
        del engine
