"""The worker pools of this process: made on first use, kept warm, ended at exit.

Nothing is started at import. After a fork the child begins without pools: the parent's threads do not exist there, and
the parent's workers are not its own.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock, _local
from _weakref import ref

from manyhands import _reloads, _worker, config
from manyhands._native import (
    ForkPool,
    ProcessPool,
    ThreadPool,
    _is_of_pool,
    _set_sharing,
    _set_spilling,
    _set_worker_limit,
    after_fork,
    begin_exit,
    in_task,
    shutdown_forked,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_threads: ThreadPool | None = None
_n_threads = 0
_processes: ProcessPool | None = None
_n_processes = 0
_idle_timeout: float | None = None
# Stands for the settings that the pool has been told of.
_settings: object = None
# The pool of threads as those hold it whose calls' tasks know of this level.
_threads_there: ThreadPool | None = None
_threads_level = 0
# From how many bytes on buffers travel through shared memory, if they do.
_sharing: int | None = None
# How much results may take, and where they go beyond that, as the engine was told.
_spilling: tuple[int | float, str | None] | None = None
# How much workers may take for themselves, as the engine was told.
_worker_limit: int | float | str | None = None
_is_registered = False
_n_reloads = 0
# Held while a pool is made or taken away; those that exist are used without it.
_lock = RLock()
# Pools that are no longer used and may still have something to finish.
_retired: list[ProcessPool] = []


class _Nested:
    """The threads that a thread asked for which is itself running a task; they end when it does.

    They are its alone: if tasks waited for tasks behind them in one pool, its threads could all be waiting.
    """

    __slots__ = ("__weakref__", "level", "n_threads", "pool")

    def __init__(self, pool: ThreadPool, n_threads: int, level: int) -> None:
        self.pool: ThreadPool | None = pool
        self.n_threads = n_threads
        self.level = level


# What `own` of this is, each thread has for itself.
_nested = _local()
# Those of all threads.
_all_nested: set[ref[_Nested]] = set()
# Pools that belong to the process this one was forked from: never dropped, which would wait for threads that are gone.
_inherited: list[object] = []

# Workers share the CPUs; libraries that would start a thread per CPU in each of them are held back, unless the person
# who runs the program has decided otherwise. This is what they read when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
# Counts the changes of what `blas_threads` has chosen.
blas_generation = 0


def pool(
    scheduler: str, num_workers: int, level: int, needs: dict[str, int] | None = None
) -> ThreadPool | ProcessPool | ForkPool:
    """The pool for a scheduler, with so many workers, for calls whose tasks are to know of this level.

    What is needed is None where resources have never been spoken of, so that nothing is to be said of them.
    """
    if scheduler == "processes":
        return processes(num_workers, level, needs)
    if scheduler == "fork":
        from manyhands import _forked

        return _forked.pool(num_workers, level)
    if in_task():
        return nested_threads(num_workers, level)
    pool = threads(num_workers, level)
    if needs:
        from manyhands import _resources

        amounts, supplies = _resources.for_pool(needs, by_worker=False)
        pool.set_supplies(supplies)
        return pool.at_level(level, amounts)
    return pool


def threads(num_workers: int, level: int) -> ThreadPool:
    """The pool of threads."""
    global _n_threads, _threads_there, _threads_level
    pool = _threads
    if pool is None:
        pool = _new_threads(num_workers)
    if num_workers != _n_threads:
        pool.resize(num_workers)
        _n_threads = num_workers
    there = _threads_there
    if there is None or level != _threads_level:
        there = _threads_there = pool.at_level(level)
        _threads_level = level
    return there


def _new_threads(num_workers: int) -> ThreadPool:
    """The pool of threads, made by whichever thread comes first."""
    global _threads, _n_threads
    with _lock:
        if _threads is None:
            # The thread that imports it first passes for the main thread, for whose end Python waits at the end of
            # the program (before 3.13). A thread of the pool never ends before that.
            import threading  # noqa: F401

            register()
            _n_threads = num_workers
            _threads = ThreadPool(num_workers)
        return _threads


def nested_threads(num_workers: int, level: int) -> ThreadPool:
    """A pool of threads for the task that the calling thread is running."""
    own: _Nested | None = getattr(_nested, "own", None)
    if own is None or own.pool is None:
        register()
        pool = ThreadPool(num_workers).at_level(level)
        own = _nested.own = _Nested(pool, num_workers, level)
        _all_nested.add(ref(own, _all_nested.discard))
        return pool
    if num_workers != own.n_threads:
        own.pool.resize(num_workers)
        own.n_threads = num_workers
    if level != own.level:
        own.pool, own.level = own.pool.at_level(level), level
    return own.pool


def processes(num_workers: int, level: int, needs: dict[str, int] | None = None) -> ProcessPool:
    """The pool of processes, told of the present import path and working directory."""
    global _n_processes, _idle_timeout, _settings
    n_reloads()
    pool = _processes
    if pool is None:
        pool = _new_processes(num_workers)
    settings = config.generation()
    if settings is not _settings:
        _settings = settings
        share()
        idle_timeout = config.get("idle_timeout")
        if idle_timeout != _idle_timeout:
            pool.set_idle_timeout(idle_timeout)
        _idle_timeout = idle_timeout
    if num_workers != _n_processes:
        pool.resize(num_workers)
        _n_processes = num_workers
    return _context.of(pool, level, needs)


def n_reloads() -> int:
    """How often modules of the user's have been loaded anew; what workers had loaded before is not used again."""
    global _n_reloads
    if _reloads.any_since_last_call():
        _n_reloads += 1
        _retire_processes()
    return _n_reloads


def share() -> None:
    """Have the engine know what is to travel through shared memory."""
    global _sharing, _spilling, _worker_limit
    _sharing = config.get("shared_memory_threshold") if config.get("shared_memory_enabled") else None
    _set_sharing(_sharing)
    spilling = (config.get("memory_limit"), config.get("spill_directory"))
    if spilling != _spilling:
        _spilling = spilling
        limit, directory = spilling
        is_share = isinstance(limit, float)
        share = limit if is_share and limit <= 1 else None
        _set_spilling(None if is_share else limit, share, directory)
    worker_limit = config.get("worker_memory_limit")
    if worker_limit != _worker_limit:
        _worker_limit = worker_limit
        is_bytes = isinstance(worker_limit, int)
        share = worker_limit if isinstance(worker_limit, float) and worker_limit <= 1 else None
        _set_worker_limit(worker_limit if is_bytes else None, share, worker_limit == "auto")


def _new_processes(num_workers: int) -> ProcessPool:
    """The pool of processes, made by whichever thread comes first."""
    global _processes, _n_processes, _idle_timeout, _context
    with _lock:
        if _processes is None:
            register()
            _idle_timeout = config.get("idle_timeout")
            _n_processes = num_workers
            _processes = start_processes(num_workers, _idle_timeout)
            _context = Context()
        return _processes


def _retire_processes() -> None:
    """Have the next call start new workers; the old ones finish what they were given."""
    global _processes, _context
    with _lock:
        pool = _processes
        _processes = None
        _context = Context()
        _retired[:] = [old for old in _retired if not old.is_empty()]
        if pool is not None:
            pool.set_idle_timeout(0.0)
            _retired.append(pool)


def start_processes(num_workers: int, idle_timeout: float | None) -> ProcessPool:
    """A pool whose workers are started with SIGINT blocked, as they inherit it from the pool's own thread.

    So Ctrl-C does not end a worker in the moment before it can say what it wants to happen then.
    """
    import _signal

    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])
    try:
        return ProcessPool(_command(), [], num_workers, idle_timeout)
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def forget_command() -> None:
    """After workers could not be started: the next call finds out anew how to."""
    _retire_processes()


def interrupted(scheduler: str) -> None:
    """After Ctrl-C: no worker of this kind goes on computing, whoever it computes for; the next job finds new ones."""
    if _is_of_pool():
        # What is over is the call that this thread's task belongs to: others' workers go on.
        return
    if scheduler == "fork":
        shutdown_forked()
    pool = {"processes": _processes, "threads": _threads}.get(scheduler)
    if pool is not None:
        pool.kill_workers()


def shutdown() -> None:
    """End all workers now, rather than at exit; what is under way is cancelled.

    The next parallel call starts new ones.

    Examples
    --------
    >>> import manyhands as mh
    >>> mh.map(abs, [-1, 2])
    [1, 2]
    >>> mh.shutdown()
    """
    global _threads, _processes, _threads_there, _context
    with _lock:
        threads, processes = _threads, _processes
        _threads = _processes = _threads_there = None
        _context = Context()
    shutdown_forked()
    executors = sys.modules.get("manyhands._executor_pools")
    if executors is not None:
        executors.end_all()
    if processes is not None:
        processes.shutdown()
    while _retired:
        _retired.pop().shutdown()
    ending = [threads] if threads is not None else []
    for own in [found() for found in list(_all_nested)]:
        if own is not None and own.pool is not None:
            ending.append(own.pool)
            own.pool = None
    # All begin to end before anybody waits, for all of them at once.
    while ending:
        ending.pop().shutdown(wait=not ending)


# What a worker runs. In a folder that has been removed, Python 3.13.0 cannot import extension modules.
_START = """\
import os, sys
sys.path[:] = sys.argv[2:]
try:
    os.getcwd()
except OSError:
    os.chdir("/")
from manyhands._worker import main
main(int(sys.argv[1]))
"""


def _command() -> list[str]:
    if not sys.executable:
        from manyhands.errors import Error

        raise Error(
            "sys.executable is empty, so there is no interpreter to start workers with (an embedded Python?). "
            'Set sys.executable to one, or use scheduler="threads".'
        )
    return [sys.executable, *_interpreter_options(), "-c", _START, str(os.getpid()), *map(str, sys.path)]


def _interpreter_options() -> list[str]:
    """The options this interpreter was started with, as far as they change how code runs."""
    flags = sys.flags
    options = []
    if flags.isolated:
        options.append("-I")
    else:
        options += ["-E"] * bool(flags.ignore_environment) + ["-s"] * bool(flags.no_user_site)
    options += ["-S"] * bool(flags.no_site) + ["-B"] * bool(sys.dont_write_bytecode)
    if flags.optimize:
        options.append("-" + "O" * flags.optimize)
    if flags.bytes_warning:
        options.append("-" + "b" * flags.bytes_warning)
    options += [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        # Not those that make the interpreter report on itself: each worker would.
        if name not in ("importtime", "showrefcount"):
            options += ["-X", name if value is True else f"{name}={value}"]
    return options


def thread_limits(level: int) -> tuple[dict[str, str], tuple[str, ...], int, bool]:
    """How workers keep libraries from starting more threads than tasks of this level may use CPUs.

    Returns
    -------
    tuple
        Values of variables; those of them that the person who runs the program has not set; the number of threads; and
        whether it is what `blas_threads` has chosen, for all libraries.
    """
    from manyhands import _plans

    blas = sys.modules.get("manyhands._blas")
    chosen: int = blas.chosen() if blas is not None else 0
    n_threads = chosen or _plans.n_cpus_of(level)
    persons = {name: os.environ[name] for name in THREAD_VARIABLES if is_the_persons(name)}
    free = tuple(name for name in THREAD_VARIABLES if name not in persons)
    values = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    return (values if chosen else {**values, **persons}), free, n_threads, bool(chosen)


def is_the_persons(name: str) -> bool:
    """Whether the person who runs the program has set this variable, rather than the parent of this worker, or we."""
    blas = sys.modules.get("manyhands._blas")
    if blas is not None and name in blas.variables_before:
        return blas.variables_before[name] is not None and name not in _worker.free_variables
    return name in os.environ and name not in _worker.free_variables


class Context:
    """What the tasks of a pool of processes run with, as the pool was last told."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        # One object, so that threads never see one part of it without the other.
        self._told: tuple[tuple[Any, ...], ProcessPool] | None = None

    def of(self, pool: ProcessPool, level: int, needs: dict[str, int] | None = None) -> ProcessPool:
        """The pool for calls whose tasks find things as they are now, know of this level, and need so much."""
        from manyhands import _reports

        try:
            directory: str | None = os.getcwd()
        except OSError:  # it has been removed
            directory = None
        # Objects of multiprocessing's managers can be passed on to processes that know this.
        managers = sys.modules.get("multiprocessing.process") if "multiprocessing.managers" in sys.modules else None
        authkey = None if managers is None else bytes(managers.current_process().authkey)
        amounts: list[tuple[int, int]] = []
        devices = None
        if needs is not None:
            from manyhands import _resources

            amounts, supplies = _resources.for_pool(needs, by_worker=True)
            pool.set_supplies(supplies)
            devices = _resources.devices_of_workers(needs)
        # Read where `catch_warnings` puts others in their place.
        warnings = sys.modules.get("warnings")
        filters = None if warnings is None else tuple(warnings.filters)
        heard = (filters, _reports.levels(), config.hearing()[1] >> 2)
        asked = (str(devices), tuple(amounts))
        found = (tuple(sys.path), directory, tuple(sys.argv), _sharing, authkey, heard)
        context = (found, level, blas_generation, asked)
        told = self._told
        if told is not None and told[0] == context:
            return told[1]
        import _pickle as pickle

        path = [str(entry) for entry in sys.path]
        argv = [str(argument) for argument in sys.argv]
        limits = thread_limits(level)
        told_filters = None if filters is None else _reports.told_filters(filters)
        told_of = (told_filters, *heard[1:])
        said = (path, directory, argv, limits, _sharing, authkey, told_of, level, devices)
        there = pool.with_context(pickle.dumps(said), amounts)
        # For workers started from now on, whose start may take a library along.
        pool.set_environment(list(limits[0].items()))
        self._told = (context, there)
        return there


# That of the tasks of the pool of processes.
_context = Context()


def register() -> None:
    """Have the pools end with the program, and forked processes leave them alone."""
    global _is_registered
    if not _is_registered:
        _is_registered = True
        end_with_the_program()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget)


def end_with_the_program() -> None:
    """Have the pools end when the other exit handlers run; again where those there were have been dropped."""
    import atexit

    atexit.register(_exit)


def _exit() -> None:
    """At the end of the program."""
    begin_exit()
    shutdown()


def leave_alone(inherited: object) -> None:
    """Keep what belongs to the parent of this forked process for as long as it lives."""
    _inherited.append(inherited)


def _forget() -> None:
    """In a forked child: leave the parent's pools alone."""
    global _threads, _processes, _lock, _nested, _threads_there, _context
    _lock = RLock()
    _inherited.extend(_retired)
    _retired.clear()
    after_fork()
    held = (_threads, _processes, _threads_there)
    _inherited.extend((_context, *(pool for pool in held if pool is not None)))
    _inherited.extend((_nested, [found() for found in _all_nested]))
    _nested = _local()
    _all_nested.clear()
    _threads = _processes = _threads_there = None
    _context = Context()
