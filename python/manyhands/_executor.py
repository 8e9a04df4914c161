"""`Executor`: the interface of `concurrent.futures` over any scheduler."""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import sys
import threading
import weakref
from collections import deque
from pickle import PicklingError

from manyhands import _executor_pools, _native, _run, _worker, config
from manyhands._future import Future
from manyhands.errors import WorkerDied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    from manyhands._executor_pools import Workers
    from manyhands._faults import Faults
    from manyhands._progress import StreamTrack, SubmittedTrack
    from manyhands._seeding import Root

    T = TypeVar("T")

_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"


class Executor(concurrent.futures.Executor):
    """Workers with the interface of `concurrent.futures.Executor`, on any scheduler.

    Takes the place of ``ThreadPoolExecutor`` and ``ProcessPoolExecutor``. On processes, no ``__main__`` guard is
    needed, functions need not be importable, and a call that ends its worker takes no other with it: it alone fails,
    after a second try, and the executor goes on.

    Parameters
    ----------
    max_workers : int, optional
        How many workers; by default the configured number, else `cpu_count()`.
    scheduler : str, optional
        ``"processes"``, ``"threads"``, ``"fork"`` or ``"synchronous"``; by default the configured one. Each call of
        ``"fork"`` has a process of its own; ``"synchronous"`` makes each call in `submit`.
    initializer : callable, optional
        Called in each worker before its first call. If it raises, calls fail with
        `concurrent.futures.BrokenExecutor`, and there can be no more.
    initargs : tuple
        What the initializer is called with.
    resources : mapping of str to int, optional
        What each call needs while it runs, such as ``{"gpu": 1}``, as for `manyhands.map`. By default what a block of
        `manyhands.resources` says around this. The executor keeps an account of its own: the calls of others do not
        count.

    Raises
    ------
    ConfigError
        If there is less of a resource than one call needs; with ``"fork"``, and inside of a task.

    Notes
    -----
    Workers are the executor's own. Processes outlive it: they wait for the next executor, for at most the configured
    ``idle_timeout``; unless there is an initializer, with which they end. The program ends when all calls have ended.

    Examples
    --------
    >>> import manyhands as mh
    >>> with mh.Executor(max_workers=2) as executor:
    ...     future = executor.submit(pow, 2, 10)
    ...     print(list(executor.map(abs, [-1, 2, -3])), future.result())
    [1, 2, 3] 1024
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        scheduler: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        resources: Mapping[str, int] | None = None,
    ) -> None:
        if max_workers is not None:
            if isinstance(max_workers, bool) or not isinstance(max_workers, int):
                raise TypeError(f"max_workers={max_workers!r} is not accepted: a whole number of at least 1, or None")
            if max_workers < 1:
                raise ValueError(f"max_workers must be greater than 0, which {max_workers} is not")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, which {initializer!r:.80} is not")
        level = _native.task_level()
        needs = None
        if level is None and not _worker.is_worker:
            name, n_workers, _, level = config.resolve_plan(scheduler, max_workers, None)
            if resources is not None or "manyhands._resources" in sys.modules:
                from manyhands import _resources

                needs = _resources.needed(resources, name)
        else:
            from manyhands import _plans

            if resources is not None:
                from manyhands import _resources

                _resources.refuse_nested(resources)
            nested = _plans.nested(level or _worker.level, scheduler, max_workers, None)
            # Below the plan: all workers are busy with tasks such as this one.
            name, n_workers, _, _, level = nested or ("synchronous", max_workers or 1, 1, None, 0)
        _finish_with_the_program()
        _executor_pools.sweep()
        self._initializing = None if initializer is None else _Initializing(initializer, tuple(initargs))
        self._max_workers = n_workers
        self._workers = _executor_pools.KINDS[name](n_workers, are_kept=initializer is None)
        self._workers.level = level
        self._workers.needs = needs
        self._is_shut_down = False
        self._let_go = weakref.finalize(self, _executor_pools.let_go, self._workers)
        # At exit calls are waited for, rather than this done.
        self._let_go.atexit = False

    @property
    def _broken(self) -> str | None:
        """Why there can be no more calls, if there cannot."""
        return self._workers.broken

    def _require_open(self) -> None:
        if self._workers.broken is not None:
            raise _broken(self._workers, self._workers.broken)
        if self._is_shut_down:
            raise RuntimeError(_AFTER_SHUTDOWN)
        if _is_ending:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _initialized(self, function: Callable[..., T]) -> Callable[..., T]:
        return function if self._initializing is None else _Initialized(self._initializing, function)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Submitted[T]:
        """Have a function called by a worker.

        Parameters
        ----------
        fn : callable
            Called with the other arguments.
        *args, **kwargs
            Its arguments.

        Returns
        -------
        Future
            A `concurrent.futures.Future`, which can also be awaited. Its `cancel` leaves a running call alone.

        Raises
        ------
        RuntimeError
            After `shutdown`; as its subclass `concurrent.futures.BrokenExecutor`, if the initializer has failed.
            What cannot be pickled is the future's error.

        Examples
        --------
        >>> import manyhands as mh
        >>> with mh.Executor(scheduler="threads") as executor:
        ...     executor.submit(divmod, 7, 2).result()
        (3, 1)
        """
        self._require_open()
        if not callable(fn):
            raise TypeError(f"submit() needs a function to call, not {type(fn).__name__} {fn!r:.80}")
        scheduler = self._workers.scheduler
        track = _run._submitting(scheduler)
        root, manner, faults = _run._root(None, is_single=True), _run._manner(None), _run._faults(scheduler)
        function = self._initialized(fn)
        if isinstance(self._workers, _executor_pools.Here):
            return self._call_here(function, args, kwargs, 0, self._serial(root, manner), faults)
        return self._submit(function, args, kwargs, root, manner, faults, track)

    def _serial(self, root: Root | None, manner: int) -> _native.Serial:
        return _native.Serial(root, manner, self._workers.level or None)

    def _call_here(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        number: int,
        serial: _native.Serial,
        faults: Faults | None,
    ) -> Submitted[T]:
        """`submit` of a call that is made here and now."""
        with _run._noted("Executor.submit", function, (self._workers.scheduler, 1)):
            serial = _run._noting(serial)
            return Submitted._of_call_of(self._workers, function, args, kwargs, number, serial, faults)

    def _submit(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        root: Root | None,
        manner: int,
        faults: Faults | None,
        track: SubmittedTrack | None,
        told: _native.Told | None = None,
    ) -> Submitted[T]:
        """`submit`, with what else holds for the call."""
        workers = self._workers
        try:
            pool = workers.ready()
            with _run._noted("Executor.submit", function, (workers.scheduler, workers.n_workers)):
                pickle = _run._pickled(pool, function)
                where = (pool, function, pickle, args, kwargs, workers.scheduler)
                call = _native.Pending(*where, root, manner, faults, told)
        except BaseException as error:
            if track is not None:
                track.give_up()
            if isinstance(error, PicklingError):
                return Submitted._of_error(workers, error)
            raise
        if isinstance(workers, _executor_pools.Forked):
            workers.add(call)
        _run._follow(call, track, workers.scheduler, manner)
        return Submitted(call, workers)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call a function with each item of an iterable, and give the results in the order of the items.

        Parameters
        ----------
        fn : callable
            Called with one item of each iterable.
        *iterables : iterable
            Where the items come from; the shortest decides. All are fetched at once, unless there is a `buffersize`.
        timeout : float, optional
            How many seconds after this call the last result must be there.
        chunksize : int
            Accepted for programs written for processes of `concurrent.futures`, and of no effect: batches follow the
            measured time of the calls.
        buffersize : int, optional
            How many items may be fetched beyond those whose results have been consumed, so that iterables may be
            endless.

        Returns
        -------
        iterator
            What the calls return. Where a call has failed, it raises what the call raised, and ends; what has not
            started by then is cancelled.

        Raises
        ------
        RuntimeError
            After `shutdown`; from the iterator, if there are items left that a `buffersize` had kept back till then.
        TimeoutError
            From the iterator, if the time is up (`concurrent.futures.TimeoutError`).

        Examples
        --------
        >>> import manyhands as mh
        >>> with mh.Executor(max_workers=2) as executor:
        ...     list(executor.map(pow, [2, 3, 4], [5, 2, 3]))
        [32, 9, 64]
        """
        self._require_open()
        _check_sizes(chunksize, buffersize)
        end_s = None if timeout is None else _now_s() + timeout
        workers = self._workers
        if not iterables:
            return iter(())
        # A map that goes on after failures knows nothing of trying calls again.
        faults = _run._faults(workers.scheduler)
        root = _run._root(None)
        if isinstance(workers, _executor_pools.Here):
            return self._map_here(fn, iterables, end_s, buffersize, (root, faults))
        if faults is not None or isinstance(workers, _executor_pools.Forked):
            numbered = enumerate(zip(*iterables))
            return self._map_by_submitting(fn, numbered, end_s, buffersize, (root, _run._manner(None), faults))
        track = _tracked(fn, iterables)
        try:
            return self._map_together(fn, iterables, end_s, buffersize, root, track)
        except BaseException:
            if track is not None:
                track.end("failed")
            raise

    def _map_together(
        self,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        end_s: float | None,
        buffersize: int | None,
        root: Root | None,
        track: StreamTrack | None,
    ) -> Iterator[T]:
        """A map whose calls travel together."""
        workers = self._workers
        function = self._initialized(fn)
        pool = workers.ready()
        late: PicklingError | None = None
        with _run._noted("Executor.map", fn, (workers.scheduler, workers.n_workers)):
            pickle = _run._pickled(pool, function)
            tally = None if track is None else track.tally
            terms = (workers.scheduler, root, _run._manner(None), tally)
            gathered = _native.Gathered(pool, function, pickle, iterables, *terms)
        workers.fed.add(gathered)
        try:
            may_have_more = gathered.feed(buffersize)
        except PicklingError as error:
            # In its place, as with any other error of a call.
            gathered.stop_feeding()
            late, may_have_more = error, False
        except BaseException:
            gathered.interrupt()
            raise
        if not may_have_more:
            workers.fed.discard(gathered)
            if late is None and buffersize is None and not gathered.is_complete():
                # Shut down meanwhile, by another thread or by what the items come from.
                raise RuntimeError(_AFTER_SHUTDOWN)
        return _results(workers, gathered, end_s, may_have_more, late, track)

    def _map_here(
        self,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        end_s: float | None,
        buffersize: int | None,
        terms: tuple[Root | None, Faults | None],
    ) -> Iterator[T]:
        """A map in this thread."""
        root, faults = terms
        items, track = zip(*iterables), _tracked(fn, iterables)
        if track is None:
            return self._map_by_submitting(fn, enumerate(items), end_s, buffersize, (root, _run._manner(None), faults))
        numbered = track.number(items)
        terms_of_each = (root, _run._manner(None), track.counting(faults))
        if buffersize is None:
            with track:
                return self._map_by_submitting(fn, numbered, end_s, None, terms_of_each)
        try:
            return track.over(self._map_by_submitting(fn, numbered, end_s, buffersize, terms_of_each))
        except BaseException:
            track.end("failed")
            raise

    def _map_by_submitting(
        self,
        fn: Callable[..., T],
        numbered: Iterator[tuple[int, tuple[Any, ...]]],
        end_s: float | None,
        buffersize: int | None,
        terms: tuple[Root | None, int, Faults | None],
    ) -> Generator[T, None, None]:
        """A map of as many submitted calls; what holds for them is what held when it was made."""
        root, manner, faults = terms
        function = self._initialized(fn)
        # What is reported of the tasks of one call is reported once.
        told = _native.Told()
        serial = self._serial(root, manner) if isinstance(self._workers, _executor_pools.Here) else None

        def submit(number: int, args: tuple[Any, ...]) -> Submitted[T]:
            self._require_open()
            if serial is not None:
                return self._call_here(function, args, {}, number, serial, faults)
            own = None if root is None else root.of_rest(number)
            track = _run._submitting(self._workers.scheduler)
            return self._submit(function, args, {}, own, manner, faults, track, told)

        futures = deque(itertools.starmap(submit, itertools.islice(numbered, buffersize)))

        def results() -> Generator[T, None, None]:
            try:
                while futures:
                    future = futures.popleft()
                    try:
                        result = future.result(None if end_s is None else end_s - _now_s())
                    finally:
                        future.cancel()
                        del future
                    futures.extend(itertools.starmap(submit, itertools.islice(numbered, int(buffersize is not None))))
                    wrapped = [result]
                    del result
                    yield wrapped.pop()
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and let go of the workers once those there are have ended.

        With ``wait=False`` it may be called from anywhere, also while a thread takes results of a `map`: from signal
        handlers, tasks, and the iterables of a map.

        Parameters
        ----------
        wait : bool
            Whether to return only then.
        cancel_futures : bool
            Whether to cancel the calls that have not started. Of a `map`, results of calls that are running are lost
            then.

        Examples
        --------
        >>> import manyhands as mh
        >>> executor = mh.Executor()
        >>> executor.shutdown()
        >>> executor.submit(abs, -1)
        Traceback (most recent call last):
        ...
        RuntimeError: cannot schedule new futures after shutdown
        """
        self._is_shut_down = True
        self._workers.stop_feeding()
        if cancel_futures:
            self._workers.cancel_waiting()
        if wait:
            self._workers.wait()
        self._let_go()


def _tracked(fn: object, iterables: tuple[Iterable[Any], ...]) -> StreamTrack | None:
    """What shows a map, if it is to be shown."""
    wanted = config.shows()
    if wanted is False:
        return None
    from manyhands import _progress

    return _progress.begin_stream(wanted, fn, iterables, "map")


def _now_s() -> float:
    import time

    return time.monotonic()


def _check_sizes(chunksize: object, buffersize: object) -> None:
    for name, value, accepted in (
        ("chunksize", chunksize, "a whole number of at least 1"),
        ("buffersize", buffersize, "a whole number of at least 1, or None"),
    ):
        if value is None and name == "buffersize":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} is not accepted: {accepted}")
        if value < 1:
            raise ValueError(f"{name}={value!r} is not accepted: {accepted}")


def _results(
    workers: Workers,
    gathered: _native.Gathered,
    end_s: float | None,
    may_have_more: bool,
    late: PicklingError | None,
    track: StreamTrack | None,
) -> Generator[Any, None, None]:
    """The results of a map, in the order of the items."""
    how: str | None = None
    try:
        while not gathered.is_exhausted():
            # None of them is held here while the caller has it.
            yield gathered.next(None if end_s is None else end_s - _now_s())
            try:
                may_have_more = may_have_more and gathered.feed(1)
            except PicklingError as error:
                gathered.stop_feeding()
                late, may_have_more = error, False
        if late is not None:
            raise late
        if gathered.is_cut():
            raise RuntimeError(_AFTER_SHUTDOWN)
        how = "done"
    except KeyboardInterrupt as error:
        how = "interrupted"
        if _run.is_the_persons(error):
            gathered.interrupt()
            workers.interrupt()
        raise
    except Exception as error:
        how = "failed"
        told = _told(workers, error)
        if told is error:
            raise
        raise told from error.__cause__
    finally:
        gathered.cancel()
        if track is not None:
            # By itself it would end a moment later: the program may end before.
            track.end(how or track.how_it_ended() or "closed")


class Submitted(Future["T"]):
    """The future of an executor's call."""

    def __init__(self, call: _native.Pending | None, workers: Workers) -> None:
        super().__init__(call)
        self._workers = workers

    @classmethod
    def _of_call_of(
        cls,
        workers: Workers,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        number: int,
        serial: _native.Serial,
        faults: Faults | None,
    ) -> Submitted[T]:
        """The future of a call made here and now, as the task with this number."""
        made = Future._of_call(function, args, kwargs, serial, faults, number)
        error = made.exception()
        if error is not None:
            return cls._of_error(workers, _told(workers, error))
        future: Submitted[T] = cls(None, workers)
        future.set_running_or_notify_cancel()
        future.set_result(made.result())
        return future

    @classmethod
    def _of_error(cls, workers: Workers, error: BaseException) -> Submitted[Any]:
        """The future of a call that could not be made."""
        future: Submitted[Any] = cls(None, workers)
        future.set_running_or_notify_cancel()
        future.set_exception(error)
        return future

    def _told(self, error: BaseException) -> BaseException:
        return _told(self._workers, error)

    def _interrupted(self, scheduler: str) -> None:
        self._workers.interrupt()

    def stop(self) -> None:
        """End the call, also where it is running. What runs in a thread goes on, and nobody hears of it."""
        call = self._pending
        if call is not None and call.cancel(True):
            self._settle()

    def cancel(self) -> bool:
        """Cancel the call, unless a worker may have started it.

        Returns
        -------
        bool
            Whether the call is cancelled.

        Examples
        --------
        >>> import manyhands as mh
        >>> with mh.Executor() as executor:
        ...     future = executor.submit(abs, -1)
        >>> future.cancel()
        False
        """
        call = self._pending
        if call is None:
            return super().cancel()
        if not call.cancel(False):
            return self.cancelled()
        self._settle()
        return True


# The initializer


class _Initializing:
    """What is to be called once in each worker, and a number that tells it from others."""

    def __init__(self, initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
        import os

        self.key = (os.getpid(), next(_numbers))
        self.initializer = initializer
        self.initargs = initargs

    def begin(self) -> None:
        """Call it, unless this worker has done so."""
        try:
            failure = _begun.failures[self.key]
        except AttributeError:
            _begun.failures = {}
        except KeyError:
            pass
        else:
            if failure is not None:
                raise _InitializerFailed(failure)
            return
        try:
            self.initializer(*self.initargs)
        except Exception as error:
            import logging

            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            failure = f"{type(error).__name__}: {error}"
            _begun.failures[self.key] = failure
            raise _InitializerFailed(failure) from error
        _begun.failures[self.key] = None


_numbers = itertools.count()
# Of each worker's own thread: what the initializers have raised that have been called there, None for nothing.
_begun = threading.local()


class _Initialized:
    """A function that is called by workers which have been set up for it."""

    def __init__(self, initializing: _Initializing, function: Callable[..., Any]) -> None:
        self.initializing = initializing
        self.function = function
        # Errors name it.
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        self.initializing.begin()
        return self.function(*args, **kwargs)


class _InitializerFailed(Exception):
    """An initializer has raised this."""


def _told(workers: Workers, error: BaseException) -> BaseException:
    """What the user of an executor is told of an error."""
    if isinstance(error, _InitializerFailed):
        if workers.broken is None:
            workers.broken = f"the initializer has raised {error}"
        return _broken(workers, workers.broken)
    if isinstance(error, WorkerDied):
        from manyhands._executor_errors import worker_died

        return worker_died(error)
    return error


def _broken(workers: Workers, why: str) -> BaseException:
    """The error for an executor of no more use, of the kind that programs for `concurrent.futures` look for."""
    from manyhands import _executor_errors

    return _executor_errors.broken(workers.scheduler, why)


# The end of the program

_is_ending = False
_will_finish = False


def _finish_with_the_program() -> None:
    """Have what was submitted come to its end before the program does."""
    global _will_finish
    if _will_finish:
        return
    _will_finish = True
    # As in concurrent.futures: before exit handlers, so that these find all futures done. A worker process has none
    # of the former.
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        try:
            register(_finish)
        except RuntimeError:  # the program is ending
            pass
    atexit.register(_finish)


def _finish() -> None:
    global _is_ending
    _is_ending = True
    _executor_pools.finish()
