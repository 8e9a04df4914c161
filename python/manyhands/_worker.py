"""The main module of a worker process, and what its engine is better told in Python.

A worker is started as ``python -c`` with an empty ``__main__``: the user's script is not run again, so it needs no
guard, and what it defines arrives by value.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from manyhands import _native

#: Whether this process is a worker.
is_worker = False
#: What the tasks of a worker are to know of where they are; see `manyhands._plans`. 0 if this is none.
level = 0
#: The variables about numbers of threads that are not the person's who runs the program, but the parent's.
free_variables: tuple[str, ...] = ()
_thread_limits: tuple[dict[str, str], int, bool] | None = None
# Processes forked from a worker have its handlers, too.
_is_watching = False


def main(parent: int) -> None:
    """Serve the parent at the other end of standard input until it says stop or is gone.

    Parameters
    ----------
    parent : int
        The parent's process id.
    """
    global is_worker
    is_worker = True
    from manyhands import _native

    socket = _take_connection()
    ignore_interrupts()
    report_crashes()
    watch_forks()
    seed_torch_when_imported()
    from manyhands import _reports

    _reports.watch()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # Whole lines at once, also where Python was told not to buffer: they do not mix with others'.
            stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
            note_writes(stream)

    _native.serve_parent(socket, parent, sys.modules[__name__])
    end()
    # Tearing down an interpreter full of modules takes long, and nothing is left that would need it.
    os._exit(0)


def seed_torch(torch: Any) -> None:
    """Have torch's global generator, if it is there, differ from those of other processes."""
    # Modules of this name may be something else, or not imported to their end.
    seed = getattr(getattr(torch, "default_generator", None), "seed", None)
    if callable(seed):
        seed()


class _TorchFinder:
    """Has torch's generator seeded by the system once torch has been imported: it begins with the same seed everywhere.

    `random` and NumPy do so by themselves.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "torch":
            return None
        from manyhands._late import LateLoader, find_spec_behind

        spec = find_spec_behind(self, name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LateLoader(spec.loader, seed_torch)
        return spec


def seed_torch_when_imported() -> None:
    """In a worker: see to it that what tasks draw from torch without a seed is not the same in each."""
    if "torch" not in sys.modules and not any(type(finder) is _TorchFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchFinder())


def end() -> None:
    """Run the exit handlers that tasks have registered, and send on what they have printed."""
    import atexit

    atexit._run_exitfuncs()
    flush_output()


def _take_connection() -> int:
    """Move the connection away from standard input, which tasks may read: they find it empty."""
    socket = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return socket


def watch_forks() -> None:
    """Have it noted in processes that tasks fork that they are not this one."""
    global _is_watching
    if not _is_watching:
        from manyhands import _native

        _is_watching = True
        os.register_at_fork(after_in_child=_native.note_fork)


def ignore_interrupts() -> None:
    """Leave the terminal to the parent, which ends its workers itself.

    A handler that does nothing, rather than ``SIG_IGN``: programs started by tasks get the default back. Until now
    the signal was blocked, as the worker inherited it from the thread that started it.
    """
    import _signal

    _signal.signal(_signal.SIGINT, lambda *_: None)
    # Workers are in the background of the terminal. A program that a task has started and that asks there for a
    # password gets an error, rather than being stopped without a word.
    _signal.signal(_signal.SIGTTIN, _signal.SIG_IGN)
    _signal.signal(_signal.SIGTTOU, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])


def note_writes(stream: Any) -> None:
    """Have the engine know when a standard stream is written to: it flushes it before the task's result leaves.

    Asking the stream after each task would cost more than many a task does.
    """
    from manyhands._native import note_output

    for writer in (stream, stream.buffer):

        def write(data: Any, /, *, write_it: Callable[[Any], int] = writer.write) -> int:
            note_output()
            return write_it(data)

        writer.write = write


def report_crashes(file: int | None = None, dump_signal: int | None = None) -> None:
    """Have the stacks written down when compiled code crashes, and where this process is when the signal comes.

    To a file of the parent's, which tells of them once this process has ended; until there is one, to standard error.
    A task that uses `faulthandler` itself has its own way, and the parent then looks at what was printed.

    Parameters
    ----------
    file : int, optional
        The descriptor.
    dump_signal : int, optional
        The signal.
    """
    import faulthandler

    if file is None:
        if sys.stderr is not None:
            faulthandler.enable()
        return
    # What lies below every task, which the parent leaves out, and the thread's number as reports have it.
    frame = sys._getframe()
    n_frames = 0
    while (below := frame.f_back) is not None:
        frame = below
        n_frames += 1
    os.write(file, f"{n_frames} frames of thread 0x{get_ident():016x}\n".encode())
    faulthandler.enable(file)
    if dump_signal is not None:
        faulthandler.register(dump_signal, file)


# Called by the engine


def set_context(context: bytes, number: int) -> int:
    """Take over what tasks run with.

    That is the parent's import path, working directory and arguments, limits for libraries that start threads, from
    what size on buffers travel through shared memory, what multiprocessing's managers want to be told, filters of
    warnings, levels of loggers, what becomes of tasks that draw random numbers without a seed, where calls of the tasks
    are to run, and which devices are shared among workers: of these, this worker, with its number, sees its own. What
    becomes of tasks that draw is returned, as the engine numbers it.

    Raises
    ------
    OSError
        If the directory cannot be entered.
    """
    import _pickle as pickle

    from manyhands import _native, _reports

    global level
    path, directory, argv, limits, sharing, authkey, heard, level, devices = pickle.loads(context)
    filters, levels, misuse = heard
    _native._set_sharing(sharing)
    sys.path[:] = path
    sys.argv[:] = argv
    if authkey is not None:
        import multiprocessing

        multiprocessing.current_process().authkey = authkey
    _limit_threads(*limits)
    if devices is not None:
        from manyhands import _resources

        _resources.see_devices(devices, number)
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as error:
            text = f"a worker process cannot enter the program's working directory: {error.strerror}"
            raise OSError(error.errno, text, directory) from None
    if filters is not None:
        _reports.set_filters(filters)
    _reports.set_levels(levels)
    return int(misuse)


def _limit_threads(values: dict[str, str], free: tuple[str, ...], n_threads: int, is_chosen: bool) -> None:
    """Have libraries use so many threads from now on, those that are loaded and others."""
    global _thread_limits, free_variables
    limits = (values, n_threads, is_chosen)
    if limits == _thread_limits:  # what a task has set since is its own affair
        return
    _thread_limits, free_variables = limits, free
    os.environ.update(values)
    if "numpy" in sys.modules or "torch" in sys.modules:
        from manyhands import _blas

        _blas.find()
    from manyhands._native import _blas_choose, _blas_set_base

    _blas_set_base(n_threads)
    _blas_choose(n_threads if is_chosen else 0)


def chosen_threads() -> int:
    """How many threads the parent's `blas_threads` has chosen; 0 if it has not."""
    return _thread_limits[1] if _thread_limits is not None and _thread_limits[2] else 0


def load_function(
    data: bytes | memoryview, buffers: Iterable[_native.SharedBuffer | bytearray] = ()
) -> Callable[..., Any]:
    """The function that the parent pickled, with the buffers that travelled apart."""
    import _pickle as pickle

    function: Callable[..., Any] = pickle.loads(data, buffers=buffers)
    return function


def unpicklable_result(function: Callable[..., Any], result: object, cause: BaseException) -> BaseException:
    """The error for a result that cannot be sent."""
    if isinstance(cause, MemoryError):
        return cause
    from manyhands._pickling import fail

    name = getattr(function, "__qualname__", None) or type(function).__name__
    return fail(f"the result of {name!r}", result, cause)


def unreadable(reason: str) -> object:
    """What a result stands for that was put on disk and could not be read there; called as it is unpickled."""
    raise OSError(f"a result that had been put on disk, for lack of memory, cannot be read there: {reason}")


def pack(exc: BaseException) -> bytes:
    """An exception as bytes."""
    from manyhands._failures import pack as pack_exception

    return pack_exception(exc, None)


def forget_warnings() -> None:
    """Have each line warn anew, after a task that has warned."""
    from manyhands import _reports

    _reports.forget_warnings()


def flush_output() -> None:
    """Send on what was printed, by Python and by compiled code."""
    from manyhands._native import flush_stdio

    flush_streams()
    flush_stdio()


def flush_streams() -> None:
    """Write out what Python has printed and still keeps."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):  # None, closed, or its reader is gone: not our concern
            pass


def leave_fork(error: BaseException | None) -> None:
    """End a process that a task has forked and that has come out of the task."""
    if error is not None:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    flush_output()
    os._exit(0 if error is None else 1)
