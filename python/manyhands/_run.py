"""Running things: `compute`, `persist`, `map`, `stream` and `submit`."""

from __future__ import annotations

import sys

from manyhands import _native, _pools, _worker, config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, Literal, TypeAlias, TypeVar

    from manyhands._faults import Faults
    from manyhands._future import Future
    from manyhands._journal import Journal
    from manyhands._progress import SubmittedTrack, Track
    from manyhands._promises import Future as Promise
    from manyhands._resources import Asking
    from manyhands._seeding import Root

    T = TypeVar("T")
    OnError: TypeAlias = Literal["raise", "return", "skip"]
    RetryOn: TypeAlias = type[Exception] | tuple[type[Exception], ...] | None

# Those that are being kept.
_journals: list[Journal] = []

# Imported with the first submitted call: it takes concurrent.futures along.
_Future: type[Future[Any]] | None = None


def is_nested() -> bool:
    """Whether the caller is a task."""
    return _native.in_task() or _worker.is_worker


def _where(
    scheduler: str | Sequence[str] | None,
    num_workers: int | Sequence[int | None] | None,
    chunksize: int | None,
    resources: Mapping[str, int] | None = None,
) -> tuple[str, int, int | None, Any]:
    """Where a call runs: the scheduler's name, the number of workers, the forced batch size, the pool.

    For calls in this thread, a number stands for the pool if there is something that their tasks are to know: their
    level.
    """
    return _where_asking(scheduler, num_workers, chunksize, resources)[:4]


def _where_asking(
    scheduler: str | Sequence[str] | None,
    num_workers: int | Sequence[int | None] | None,
    chunksize: int | None,
    resources: Mapping[str, int] | None,
) -> tuple[str, int, int | None, Any, Asking | None]:
    """The same, and what finds out where a graph runs whose tasks say what they need, if any may do so."""
    level = _native.task_level()
    needs = asking = None
    if level is not None or _worker.is_worker:
        from manyhands import _plans

        if resources is not None:
            from manyhands import _resources

            _resources.refuse_nested(resources)
        if "manyhands._resources" in sys.modules:
            from manyhands._resources import Asking

            asking = Asking("synchronous", 1, None, None)
        nested = _plans.nested(level or _worker.level, scheduler, num_workers, chunksize)
        if nested is None:
            # All workers are busy with tasks such as the one that calls; more would only get in their way.
            return "synchronous", 1, None, None, asking
        name, n_workers, n_all, batch_size, level = nested
        if name == "synchronous":
            return name, 1, batch_size, level, asking
    else:
        name, n_workers, batch_size, level = config.resolve_plan(scheduler, num_workers, chunksize)
        n_all = n_workers
        if resources is not None or "manyhands._resources" in sys.modules:
            from manyhands import _resources

            needs = _resources.needed(resources, name)
            asking = _resources.Asking(name, n_workers, level, needs)
        if name == "synchronous":
            return name, n_workers, batch_size, level, asking
    # What was printed so far appears before what tasks print.
    _worker.flush_streams()
    return name, n_workers, batch_size, _pools.pool(name, n_all, level, needs), asking


def _root(seed: Any, is_single: bool = False) -> Root | None:
    """What the streams of a call's tasks descend from, if they have any."""
    seeding = sys.modules.get("manyhands._seeding")
    if seeding is not None and (seed is None or "seed" in config.forced()):
        # A seeded task's own calls are part of it, whatever is configured.
        nested: Root | None = seeding.nested_root()
        if nested is not None:
            return nested
    resolved = config.resolve_seed(seed, is_single=is_single)
    if resolved is None:
        return None
    from manyhands._seeding import root

    return root(*resolved)


def _faults(
    scheduler: str,
    on_error: str = "raise",
    retries: int | None = None,
    retry_on: RetryOn = None,
    retry_delay: float | None = None,
    timeout: float | None = None,
) -> Faults | None:
    """What holds for the tasks of a call that fail or take too long; None if nothing in particular does."""
    is_default = retries is None and retry_on is None and retry_delay is None and timeout is None
    if is_default and on_error == "raise" and not config.has_faults():
        return None
    from manyhands._faults import resolve

    is_nested = _native.in_task() or _worker.is_worker
    return resolve(scheduler, is_nested, on_error, retries, retry_on, retry_delay, timeout)


def _is_programs_own() -> bool:
    """Whether standard output and error are those that the program was started with, or stand for them."""
    if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:
        return True
    is_own = getattr(sys.modules.get("manyhands._relay"), "is_programs_own", None)
    return is_own is not None and is_own()


def _is_drawing() -> bool:
    """Whether something stands in the terminal that output must not run into."""
    views = sys.modules.get("manyhands._progress_views")
    return views is not None and views.is_drawing()


def _manner(relay: bool | str | None) -> int:
    """How the tasks of a call are heard, and what becomes of draws without a seed, as the engine numbers it."""
    hearing, on_misuse = config.hearing(relay)
    if hearing == 0 and (not _is_programs_own() or _is_drawing()):
        # What appears there has to be put there by Python, in the thread that waits.
        hearing = 1
    if on_misuse and _native.in_task():
        # It is the outer task that is watched.
        on_misuse = 0
    return hearing | on_misuse


class _Unseen:
    """In the place of the track of a call that is not shown."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_exc_info: object) -> None:
        return None


_UNSEEN = _Unseen()


def _shown(
    progress: Any, name: str, function: object = None, iterables: Iterable[Iterable[Any]] | None = None
) -> Track | _Unseen:
    """A context in which a call is shown, if it is to be, and noted in the journals that are kept."""
    wanted = config.shows(progress)
    shown: Track | _Unseen = _UNSEEN
    if wanted is not False:
        from manyhands import _progress

        shown = _progress.begin(wanted, name, function, iterables) or _UNSEEN
    return _noted(name, function, shown=shown) if _journals else shown


def _noted(kind: str, function: object, where: tuple[str, int] | None = None, shown: Track | _Unseen = _UNSEEN) -> Any:
    """A context in which a call is made that is to be noted in the journals that are kept.

    Those that tasks make are not. `shown` is a context that is entered as well.
    """
    if not _journals or is_nested():
        return shown
    from manyhands import _journal

    return _journal.Writing(kind, function, shown, where)


def _placed(name: str, n_workers: int) -> None:
    """Have the journals know where the call runs that this thread is making."""
    if _journals:
        from manyhands import _journal

        _journal.place(name, n_workers)


def _noting(serial: _native.Serial) -> _native.Serial:
    """What makes the tasks of a call in this thread, noting them in the journals that are kept."""
    if not _journals or is_nested():
        return serial
    from manyhands import _journal

    noted: _native.Serial = _journal.noting(serial)
    return noted


def _interrupted(error: KeyboardInterrupt, scheduler: str) -> None:
    """Ends the workers after Ctrl-C; not for an exception of that kind that a task raised of its own accord."""
    if is_the_persons(error):
        _pools.interrupted(scheduler)


def is_the_persons(error: KeyboardInterrupt) -> bool:
    """Whether somebody has pressed Ctrl-C, rather than a task raised this."""
    notes = getattr(error, "__notes__", ())
    return not any(isinstance(note, str) and note.startswith("Raised by the task ") for note in notes)


def _require_callable(function: object, name: str) -> None:
    if not callable(function):
        raise TypeError(f"{name}() needs a function to call, not {type(function).__name__} {function!r:.80}")


def compute(
    *args: Any,
    traverse: bool = True,
    optimize_graph: bool = True,
    scheduler: str | Sequence[str] | None = None,
    num_workers: int | Sequence[int | None] | None = None,
    chunksize: int | None = None,
    seed: Any = None,
    on_error: OnError = "raise",
    retries: int | None = None,
    retry_on: RetryOn = None,
    retry_delay: float | None = None,
    timeout: float | None = None,
    relay: bool | str | None = None,
    checkpoint: Any = None,
    resources: Mapping[str, int] | None = None,
    progress: Any = None,
) -> tuple[Any, ...]:
    """Compute Delayed objects, all together, and return their results.

    What several of them share is computed once.

    Parameters
    ----------
    *args : object
        Delayed objects; lists, tuples, sets, dicts, dataclasses and slices that hold some, nested as deep as you like;
        anything else is returned as it is.
    traverse : bool
        Whether to look for Delayed objects inside of collections.
    optimize_graph : bool
        Accepted for programs written for Dask; changes nothing.
    scheduler : str or sequence of str, optional
        ``"processes"``, ``"threads"``, ``"fork"`` or ``"synchronous"``; by default the configured one. Several are a
        plan: the second is for calls that tasks make, and so on; below the plan, calls run one after the other.
    num_workers : int or sequence of int, optional
        How many workers, for each level of the plan; by default the configured number, else `cpu_count()` divided by
        the workers of the levels above.
    chunksize : int, optional
        Exactly so many tasks at a time to each worker. Never needed: batches follow the measured time of the tasks.
    seed : int, sequence of int, or numpy.random.SeedSequence, optional
        Gives each task random numbers of its own, the same on every scheduler: those of the stream
        ``numpy.random.SeedSequence(seed).spawn(n)[i]``, where `i` is how many of the `n` tasks were created before it.
        `map` says how a task meets them. By default the configured seed, if there is one.
    on_error : {"raise", "return", "skip"}
        What becomes of a task that failed for good. ``"raise"``: the call raises the exception, and the rest is
        cancelled. ``"return"``: the exception takes the task's place among the results. ``"skip"``: the place is left
        out of the list, tuple, set or dict that holds it; a task that stands by itself cannot be left out, and raises.
        With both, all other tasks run, but for those that depend on a failed one: these fail with the same exception,
        whose note names the task it comes from; of several, that of the first among their arguments.
    retries : int, optional
        How often a task that raised is run again, from 0 on; by default the configured number, else 0. It has the same
        random numbers each time.
    retry_on : type or tuple of types, optional
        For which exceptions; by default any `Exception`. `TimeoutError` stands for tasks that took longer than
        `timeout`, too.
    retry_delay : float, optional
        How many seconds a task rests before it is run again; twice as many after each further failure, at most 60.
        Meanwhile its worker does something else. By default the configured number, else 0.1.
    timeout : float, optional
        How many seconds a task may run, from when it starts. Then its worker is ended, whatever it does, and the task
        fails with `TimeoutError`; other tasks that were waiting at this worker run elsewhere. By default the configured
        number, else as long as it takes, as ``float("inf")`` says. For ``"processes"`` and ``"fork"`` only: nobody can
        stop a thread.
    relay : bool or str, optional
        Whether what the tasks print, warn of and log appears here: as it comes (True), in the order of the serial run
        (``"ordered"``), or not at all (False). By default as configured, which is True.
    checkpoint : str or path, optional
        A file in which the result of each task is kept, as for `map`: also those of tasks that others need. A task is
        known by its function, its arguments, and the tasks that its inputs come from.
    resources : mapping of str to int, optional
        What each task needs while it runs, such as ``{"gpu": 1}``: no more of them run at once than there is enough
        for, as the setting `resources` says. Single tasks can say so themselves, by ``delayed(f, resources=...)`` or
        `manyhands.resources`; then this is for what they do not name. Not with ``"fork"``. In a worker process that
        GPUs are asked of, CUDA_VISIBLE_DEVICES names its own. Tasks that need something are sent one by one, whatever
        `chunksize` says.
    progress : bool, str or object, optional
        Whether to show how far it has come: True for a bar in the terminal or notebook, ``"tqdm"``, ``"rich"``, a
        `ProgressBar`, or a callable. Calls that tasks make are not shown. By default as configured, which is False.

    Returns
    -------
    tuple
        One entry for each argument, of the same shape.

    Raises
    ------
    Exception
        What a task raised, with a note that names the task, and the worker's traceback as its cause. The other tasks
        are cancelled.
    TimeoutError
        If a task ran for longer than `timeout`.
    PicklingError
        If a function, an argument or a result cannot be sent to or from a worker process; with ``"fork"``, a result.
    WorkerDied
        If a task ended its worker process, twice; `WorkerOutOfMemory`, which is a MemoryError as well, if it did so by
        the memory it took.
    ForkError
        With ``"fork"``, if something in this process is known not to survive a fork.
    CheckpointError
        If the checkpoint cannot be used or written.

    Examples
    --------
    >>> import manyhands as mh
    >>> total = mh.delayed(sum)([mh.delayed(pow)(i, 2) for i in range(4)])
    >>> mh.compute(total, {"twice": total * 2}, "as it is")
    (14, {'twice': 28}, 'as it is')

    Failures that are part of the result:

    >>> mh.compute([mh.delayed(divmod)(7, i) for i in (2, 0)], on_error="return")
    ([(3, 1), ZeroDivisionError(...)],)
    """
    places = (scheduler, num_workers, chunksize, resources)
    fates = (on_error, retries, retry_on, retry_delay, timeout)
    return _computed(_native.compute, "compute", args, traverse, places, fates, seed, relay, checkpoint, progress)


def _computed(
    run: Callable[..., tuple[Any, ...]],
    verb: str,
    args: tuple[Any, ...],
    traverse: bool,
    places: tuple[Any, ...],
    fates: tuple[Any, ...],
    seed: Any,
    relay: bool | str | None,
    checkpoint: Any,
    progress: Any,
) -> tuple[Any, ...]:
    """What `compute` and `persist` do; `run` is the engine's function for it."""
    with _shown(progress, verb) as track:
        manner = _manner(relay)
        name, n_workers, batch_size, pool, asking = _where_asking(*places)
        _placed(name, n_workers)
        faults = _faults(name, *fates)
        given = (args, traverse, pool, batch_size, name)
        try:
            if checkpoint is not None:
                from manyhands._checkpointing import compute_all

                return compute_all(run, checkpoint, _root(seed), *given, (manner, faults), asking, track)
            tally = None if track is None else track.tally
            return run(*given, _root(seed), manner, faults, None, asking, tally)
        except KeyboardInterrupt as error:
            _interrupted(error, name)
            raise


def persist(
    *args: Any,
    traverse: bool = True,
    optimize_graph: bool = True,
    scheduler: str | Sequence[str] | None = None,
    num_workers: int | Sequence[int | None] | None = None,
    chunksize: int | None = None,
    seed: Any = None,
    on_error: OnError = "raise",
    retries: int | None = None,
    retry_on: RetryOn = None,
    retry_delay: float | None = None,
    timeout: float | None = None,
    relay: bool | str | None = None,
    checkpoint: Any = None,
    resources: Mapping[str, int] | None = None,
    progress: Any = None,
) -> tuple[Any, ...]:
    """Compute Delayed objects and keep them Delayed: what is built on them later starts from the results.

    Parameters
    ----------
    *args, traverse, optimize_graph, scheduler, num_workers, chunksize, seed, relay, checkpoint, resources, progress
        As for `compute`.
    on_error, retries, retry_on, retry_delay, timeout
        As for `compute`. With ``on_error="return"``, a Delayed in the place of a failed task holds the exception.

    Returns
    -------
    tuple
        One entry for each argument, of the same shape, in which every Delayed holds its result under the same key.

    Examples
    --------
    >>> import manyhands as mh
    >>> (square,) = mh.persist(mh.delayed(pow)(3, 2))
    >>> (square + 1).compute()
    10
    """
    places = (scheduler, num_workers, chunksize, resources)
    fates = (on_error, retries, retry_on, retry_delay, timeout)
    return _computed(_native.persist, "persist", args, traverse, places, fates, seed, relay, checkpoint, progress)


def map(  # noqa: A001 - the builtin's meaning, in parallel
    function: Callable[..., T],
    /,
    *iterables: Iterable[Any],
    scheduler: str | Sequence[str] | None = None,
    num_workers: int | Sequence[int | None] | None = None,
    chunksize: int | None = None,
    seed: Any = None,
    on_error: OnError = "raise",
    retries: int | None = None,
    retry_on: RetryOn = None,
    retry_delay: float | None = None,
    timeout: float | None = None,
    relay: bool | str | None = None,
    checkpoint: Any = None,
    resources: Mapping[str, int] | None = None,
    progress: Any = None,
) -> list[T]:
    """Call a function with each item of an iterable, in parallel, and return the results in order.

    Parameters
    ----------
    function : callable
        Called with one item of each iterable.
    *iterables : iterable
        Lists, ranges, generators, anything that can be iterated over; the shortest decides.
    scheduler : str or sequence of str, optional
        ``"processes"``, ``"threads"``, ``"fork"`` or ``"synchronous"``; by default the configured one. Several are a
        plan: the second is for calls that tasks make, and so on; below the plan, calls run one after the other.
    num_workers : int or sequence of int, optional
        How many workers, for each level of the plan; by default the configured number, else `cpu_count()` divided by
        the workers of the levels above.
    chunksize : int, optional
        Exactly so many calls at a time to each worker. Never needed: batches follow the measured time of the calls.
    seed : int, sequence of int, or numpy.random.SeedSequence, optional
        Gives each call random numbers of its own, the same on every scheduler, with any number of workers: call i has
        the stream ``numpy.random.SeedSequence(seed).spawn(n)[i]``. A function with a parameter ``rng`` that is not
        given otherwise, and has no default but None, receives a ``numpy.random.Generator`` on it; it comes after those
        that the iterables give. The global states of `random`, `numpy.random` and torch are set from it for the time of
        the call, except with ``"threads"``, which share them. By default the configured seed, if there is one. Two
        calls with one seed draw the same numbers: give each a seed of its own where that matters.
    on_error : {"raise", "return", "skip"}
        What becomes of a call that failed for good. ``"raise"``: its exception is raised here, and the rest is
        cancelled. ``"return"``: the exception takes the place of its result. ``"skip"``: its place is left out.
    retries, retry_on, retry_delay, timeout
        As for `compute`. With ``"synchronous"``, the calling thread itself waits before it tries again.
    relay : bool or str, optional
        Whether what the calls print, warn of and log appears here: as it comes (True), in the order of the serial run
        (``"ordered"``), or not at all (False). By default as configured, which is True.
    checkpoint : str or path, optional
        A file in which each result is kept as it comes. A later run with the same file computes only what is not there:
        also after the program was killed, or the machine lost its power. A result is known by the function's code and
        what that uses, by the argument, and by the random numbers; where one of them has changed it is computed anew,
        and the logger ``manyhands.checkpoint`` says so. Draw random numbers from a seed with it: others are kept as
        they fell, and would fall otherwise in another run. `manyhands.checkpoint.open` looks into the file, also
        meanwhile. By default nothing is kept.
    resources : mapping of str to int, optional
        What each call needs while it runs, such as ``{"gpu": 1}``: no more of them run at once than there is enough
        for, as the setting `resources` says. Not with ``"fork"``. In a worker process that GPUs are asked of,
        CUDA_VISIBLE_DEVICES names its own. Calls that need something are sent one by one, whatever `chunksize` says,
        which costs each some 0.1 ms: too much for those that take microseconds.
    progress : bool, str or object, optional
        Whether to show how far it has come: True for a bar in the terminal or notebook, ``"tqdm"``, ``"rich"``, a
        `ProgressBar`, or a callable. Calls that tasks make are not shown. By default as configured, which is False.

    Returns
    -------
    list
        What the calls returned, in the order of the items.

    Raises
    ------
    Exception
        What a call raised, with a note that names the call; the calls that have not started are cancelled.
    TimeoutError, PicklingError, WorkerDied, ForkError
        As for `compute`.
    CheckpointError
        If the checkpoint is no checkpoint, is in use by another run, or cannot be written to, as on a full disk; or if
        an argument cannot be told from others by its content.

    Examples
    --------
    >>> import manyhands as mh
    >>> mh.map(pow, [2, 3, 4], [5, 2, 3])
    [32, 9, 64]

    Random numbers that do not depend on where they are drawn:

    >>> def simulate(n, rng):
    ...     return int(rng.integers(n))
    >>> mh.map(simulate, [10, 100, 1000], seed=1)
    [0, 94, 426]

    Failures that do not end everything:

    >>> mh.map(int, ["1", "two", "3"], on_error="skip")
    [1, 3]
    """
    _require_callable(function, "map")
    if not iterables:
        raise TypeError("map() needs at least one iterable of arguments after the function")
    with _shown(progress, "map", function, iterables) as track:
        manner = _manner(relay)
        name, n_workers, batch_size, pool = _where(scheduler, num_workers, chunksize, resources)
        _placed(name, n_workers)
        root = _root(seed)
        faults = _faults(name, on_error, retries, retry_on, retry_delay, timeout)
        if name == "synchronous" and checkpoint is None:
            serial = _noting(_native.Serial(root, manner, pool))
            return _map_here(function, zip(*iterables), serial, faults, track)
        try:
            if checkpoint is not None:
                from manyhands._checkpointing import map_all

                given = (checkpoint, pool, function, iterables, batch_size, name, root, manner, faults)
                return map_all(*given, track=track)
            pickle = _pickled(pool, function)
            tally = None if track is None else track.tally
            told = (root, manner, faults, None, tally)
            return _native.map_all(pool, function, pickle, iterables, batch_size, name, *told)
        except KeyboardInterrupt as error:
            _interrupted(error, name)
            raise


def _map_here(
    function: Callable[..., T],
    arguments: Iterable[tuple[Any, ...]],
    serial: _native.Serial,
    faults: Faults | None,
    track: Track | None,
) -> list[T]:
    """A map in this thread."""
    numbered: Iterable[tuple[int, tuple[Any, ...]]] = enumerate(arguments)
    if track is not None:
        numbered, faults = track.number(arguments), track.counting(faults)
    # No generator, which would make a RuntimeError of a StopIteration that a call raises.
    results = [_call_here(function, args, index, serial, faults) for index, args in numbered]
    return results if faults is None else _kept(results)


def stream(
    function: Callable[..., T],
    /,
    *iterables: Iterable[Any],
    ordered: bool = True,
    buffersize: int | None = None,
    scheduler: str | Sequence[str] | None = None,
    num_workers: int | Sequence[int | None] | None = None,
    chunksize: int | None = None,
    seed: Any = None,
    on_error: OnError = "raise",
    retries: int | None = None,
    retry_on: RetryOn = None,
    retry_delay: float | None = None,
    timeout: float | None = None,
    relay: bool | str | None = None,
    checkpoint: Any = None,
    resources: Mapping[str, int] | None = None,
    progress: Any = None,
) -> Iterator[T]:
    """Call a function with each item of an iterable, in parallel, and give the results one by one.

    Items are taken from the iterables only as results are consumed, so both may be endless: memory stays bounded. With
    ``"fork"``, workers inherit the function; items, which come later, are pickled.
    Several threads may consume one stream; each result goes to one of them.

    Parameters
    ----------
    function : callable
        Called with one item of each iterable.
    *iterables : iterable
        Where the items come from; the shortest decides.
    ordered : bool
        Whether results come in the order of the items, or each as soon as it is there.
    buffersize : int, optional
        How many items may be under way or waiting to be consumed, at least 1. By default it follows the speed of the
        calls.
    scheduler, num_workers, chunksize, seed, on_error, retries, retry_on, retry_delay, timeout, resources
        As for `map`.
    progress : bool, str or object, optional
        As for `map`. What is shown are the calls that have ended, whether or not their results have been taken.
    relay : bool or str, optional
        As for `map`. In the order of the serial run, things appear as results are consumed.
    checkpoint : str or path, optional
        As for `map`. A result is given when it is kept. The file is in use until the stream has ended.

    Returns
    -------
    iterator
        What the calls return. Dropping it, or its ``close()``, cancels what is under way.

    Raises
    ------
    Exception
        From the iterator: what a call raised, with a note that names the call, as soon as it is known, so that results
        of calls that were under way at that moment are not delivered; or what the iterables raised, after the results
        for all the items before. Either ends the stream.

    Examples
    --------
    >>> import itertools
    >>> import manyhands as mh
    >>> squares = mh.stream(pow, itertools.count(), itertools.repeat(2))
    >>> list(itertools.islice(squares, 5))
    [0, 1, 4, 9, 16]
    >>> squares.close()
    """
    _require_callable(function, "stream")
    if not iterables:
        raise TypeError("stream() needs at least one iterable of arguments after the function")
    if buffersize is not None and (isinstance(buffersize, bool) or not isinstance(buffersize, int) or buffersize < 1):
        raise ValueError(f"buffersize={buffersize!r} is not accepted: a whole number of at least 1, or None")
    wanted, track = config.shows(progress), None
    if wanted is not False:
        from manyhands import _progress

        track = _progress.begin_stream(wanted, function, iterables)
    try:
        with _noted("stream", function):
            manner = _manner(relay)
            name, n_workers, batch_size, pool = _where(scheduler, num_workers, chunksize, resources)
            _placed(name, n_workers)
            root = _root(seed)
            faults = _faults(name, on_error, retries, retry_on, retry_delay, timeout)
            is_ordered = bool(ordered)
            if checkpoint is not None:
                from manyhands._checkpointing import Stream

                given = (function, iterables, batch_size, name, root, is_ordered, buffersize, n_workers, manner, faults)
                return Stream(checkpoint, pool, *given, track=track)
            if name == "synchronous":
                from manyhands._serial import stream_here

                return stream_here(function, zip(*iterables), _native.Serial(root, manner, pool), faults, track)
            told = (None, None, None) if track is None else (None, track.tally, track.end)
            pickle = _pickled(pool, function)
            where = (pool, function, pickle, iterables, batch_size, name, is_ordered, buffersize, n_workers)
            return _native.Stream(*where, root, manner, faults, *told)
    except BaseException:
        if track is not None:
            track.end("failed")
        raise


class _NotGiven:
    """The default of an argument for which None is a value like any other."""

    def __repr__(self) -> str:
        return "..."


_NOT_GIVEN: Any = _NotGiven()


def submit(function: Callable[..., T], /, *args: Any, seed: Any = _NOT_GIVEN, **kwargs: Any) -> Future[T]:
    """Have a function called in the background.

    Parameters
    ----------
    function : callable
        Called with the other arguments.
    *args, **kwargs
        Its arguments. Where it runs is a matter of the configuration; with ``"fork"``, in a process of its own, forked
        at once.
    seed : int, sequence of int, or numpy.random.SeedSequence, optional
        As for `map` of one call. A function that has a parameter `seed` itself, takes any keyword, or does not say what
        it takes, receives it instead. With a configured seed, calls are numbered as they are submitted, and each has
        the stream of its number.

    Returns
    -------
    Future
        A `concurrent.futures.Future`, which can also be awaited. The call runs whether or not anybody keeps
        it, but no longer than the program. The configured `retries`, `retry_delay` and `timeout` hold for it. With the
        setting `progress`, or in a ``with ProgressBar()``, calls that are under way together are shown as one.

    Raises
    ------
    PicklingError
        If the function or an argument cannot be sent to a worker process; with ``"fork"`` they need not be. What the
        call raises is the future's.

    Examples
    --------
    >>> import manyhands as mh
    >>> future = mh.submit(pow, 2, 10)
    >>> future.result()
    1024
    """
    _require_callable(function, "submit")
    global _Future
    if _Future is None:
        from manyhands._future import Future as _Future
    assert _Future is not None

    if seed is _NOT_GIVEN:
        seed = None
    elif _names_seed(function):
        kwargs["seed"], seed = seed, None
    name, n_workers, _, pool = _where(None, None, None)
    track = _submitting(name)
    manner = _manner(None)
    root = _root(seed, is_single=True)
    faults = _faults(name)
    if name == "synchronous":
        with _noted("submit", function, (name, 1)):
            serial = _noting(_native.Serial(root, manner, pool))
            return _Future._of_call(function, args, kwargs, serial, faults)
    try:
        with _noted("submit", function, (name, n_workers)):
            pickle = _pickled(pool, function)
            pending = _native.Pending(pool, function, pickle, args, kwargs, name, root, manner, faults)
    except BaseException:
        if track is not None:
            track.give_up()
        raise
    _follow(pending, track, name, manner)
    return _Future(pending)


def _submitting(name: str) -> SubmittedTrack | None:
    """What shows submitted calls, as one more is going to be. To be asked before the manner: it may be a terminal."""
    wanted = config.shows()
    if wanted is False or name == "synchronous":
        return None
    from manyhands import _progress

    return _progress.submitting(wanted)


def _follow(pending: _native.Pending, track: SubmittedTrack | None, name: str, manner: int) -> None:
    """Have a submitted call shown, if it is to be."""
    # Where something else that is shown stands in the terminal, nobody else tells what the call prints.
    is_followed = track is not None and track.follow(pending)
    if track is not None and not is_followed:
        # Those before it have all ended just now.
        track = _submitting(name)
        is_followed = track is not None and track.follow(pending)
    is_told = is_followed or name == "threads" or manner & 3 != 1
    if not is_told and _is_programs_own():
        from manyhands import _progress

        _progress.hear(pending)


def _follow_futures(futures: list[Promise], scheduler: str) -> None:
    """Have submitted calls of a client shown, if they are to be."""
    for _ in range(2):
        track = _submitting(scheduler)
        # The first one's calls may all have ended just now.
        if track is None or track.follow_futures(futures):
            return


def _names_seed(function: Callable[..., Any]) -> bool:
    """Whether a function may have a parameter called seed, as far as it says what it takes."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code that does not say
        return True
    return "seed" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _pickled(pool: Any, function: Callable[..., Any]) -> _native.PickledFunction | None:
    """The function for its way to worker processes; threads and forked workers have it."""
    return _native.PickledFunction(function) if isinstance(pool, _native.ProcessPool) else None


def _kept(results: list[T]) -> list[T]:
    """Results without those that are left out."""
    left_out = _left_out()
    return [result for result in results if result is not left_out]


def _left_out() -> object:
    """What stands in the place of a result that is left out."""
    from manyhands._faults import LEFT_OUT

    return LEFT_OUT


def _call_here(
    function: Callable[..., T],
    args: tuple[Any, ...],
    index: int,
    serial: _native.Serial,
    faults: Faults | None,
) -> T:
    """One call of a map in this thread; what takes the place of its result where that does not come."""
    if faults is None or faults.on_error == "raise":
        return _try_here(function, args, index, serial, faults)
    try:
        return _try_here(function, args, index, serial, faults)
    except Exception as error:
        result: T = faults.instead(error)
        return result


def _try_here(
    function: Callable[..., T],
    args: tuple[Any, ...],
    index: int,
    serial: _native.Serial,
    faults: Faults | None,
) -> T:
    """One call of a map in this thread, as often as it may be tried, with errors told as elsewhere."""
    n_tries = 0
    while True:
        n_tries += 1
        try:
            if serial.is_silent:
                from manyhands._relay import silenced

                with silenced():
                    return serial.call(index, function, args, None)
            return serial.call(index, function, args, None)
        except Exception as error:
            if faults is not None and faults.tries_again(error, n_tries):
                continue
            from manyhands._raising import describe_call, raised

            call = describe_call(function, args, None, index)
            raise raised(error, call, None, "synchronous", n_tries)  # noqa: B904
