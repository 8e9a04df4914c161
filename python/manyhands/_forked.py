"""Forked workers: what is to be done in Python before, in and after a fork.

A forked worker is a copy of this process as it is at that moment, with one thread. What must not be shared with the
original, its standard streams, signal handlers, exit handlers and random numbers, is renewed first of all.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident

from manyhands import _fork_safety, _pickling, _pools, _worker, config
from manyhands._native import ForkPool, Rota
from manyhands._signals import HeldSignals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pool(num_workers: int, level: int, rota: Rota | None = None) -> ForkPool:
    """A pool of workers to be forked from this process as it will be when the tasks are known.

    Submitted calls take turns by the rota: those of one executor by its own.

    Raises
    ------
    ForkError
        If something in this process is known not to survive a fork.
    """
    _fork_safety.check()
    _pools.register()
    _pools.share()
    return ForkPool(num_workers, _rota if rota is None else rota, level)


# Whose turn it is among the calls that were submitted by this process.
_rota = Rota()


def _forget() -> None:
    """In a forked process: the calls are its parent's."""
    global _rota
    _pools.leave_alone(_rota)
    _rota = Rota()


os.register_at_fork(after_in_child=_forget)


# Called by the engine in the parent


def before_fork() -> Any:
    """Prepare the thread that is about to fork; what is returned undoes it afterwards.

    What was printed is written out, or both processes would print it; and Ctrl-C waits until the new process can say
    what it wants to happen then, and until no handler of the fork is running that would swallow it.
    """
    import _signal

    _worker.flush_output()
    # Here rather than in each new process.
    _fork_safety.find_limits()
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])
    # The interpreter lets nothing out of what runs before and after a fork (`os.register_at_fork`).
    held = HeldSignals()
    try:
        held.begin(_signal.valid_signals())
    except BaseException:  # what a handler raised that was due
        after_fork_in_parent((mask, held))
        raise
    return mask, held


def after_fork_in_parent(before: Any) -> None:
    """Undo `before_fork`."""
    import _signal

    mask, held = before
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    held.end()


# Called by the engine in the new process


def begin(level: int) -> int:
    """Become a worker, whose tasks are to know of this level.

    Returns what becomes of tasks that draw random numbers without a seed, as the engine numbers it.
    """
    _worker.is_worker = True
    _worker.level = level
    _forget_imports()
    _drop_exit_handlers()
    _renew_streams()
    _reset_signals()
    _worker.report_crashes()
    _worker.watch_forks()
    _pickling.inherit()
    _fork_safety.limit_threads()
    _reseed()
    seeding = sys.modules.get("manyhands._seeding")
    if seeding is not None:
        seeding.forget()
    import gc

    # Collecting what came from the parent would end things of the parent's a second time, and would copy the memory
    # that both share.
    gc.freeze()
    from manyhands import _reports

    _reports.begin_forked()
    return config.hearing()[1] >> 2


def end() -> None:
    """What a worker does last; the process ends right after."""
    _worker.end()


def _forget_imports() -> None:
    """Forget imports that other threads of the parent's are in the middle of: here nobody will end them.

    Whoever imports the same module would wait for ever.
    """
    import _frozen_importlib as bootstrap

    locks: dict[str, Any] = vars(bootstrap)["_module_locks"]
    for name, reference in list(locks.items()):
        lock = reference()
        if lock is not None and lock.owner == get_ident():
            continue
        locks.pop(name, None)
        if lock is not None and lock.owner is not None:
            spec = getattr(sys.modules.get(name), "__spec__", None)
            if getattr(spec, "_initializing", False):
                del sys.modules[name]


def _drop_exit_handlers() -> None:
    """Leave the parent's exit handlers to the parent: they remove its files, close its connections."""
    import atexit

    atexit._clear()
    # A task may make pools of its own.
    _pools.end_with_the_program()


def _renew_streams() -> None:
    """Have what is printed go where the engine takes it up, whatever the parent's streams were.

    The parent may have replaced its streams by objects that only work in it, as a notebook does.
    """
    sys.stdin = open(os.devnull, encoding="utf-8")
    sys.stdout = _text_stream(1, sys.stdout, "strict")
    sys.stderr = _text_stream(2, sys.stderr, "backslashreplace")
    for stream in (sys.stdout, sys.stderr):
        _worker.note_writes(stream)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def _text_stream(descriptor: int, inherited: Any, errors: str) -> Any:
    """A stream of text that writes whole lines; the inherited one, which others may hold on to, if it will do."""
    import io

    try:
        if type(inherited) is io.TextIOWrapper and not inherited.closed and inherited.fileno() == descriptor:
            inherited.reconfigure(line_buffering=True, write_through=False)
            return inherited
    except (OSError, ValueError):  # it is detached, or has nothing of the system's below it
        pass
    # A descriptor of its own would be closed with whatever replaces the stream.
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors=errors, closefd=False)


def _reset_signals() -> None:
    """Forget the parent's handlers, and leave Ctrl-C to the parent."""
    import _signal

    # An event loop of the parent's would be woken by a signal of this process.
    _signal.set_wakeup_fd(-1)
    for number in _signal.valid_signals():
        if callable(_signal.getsignal(number)):
            _signal.signal(number, _signal.SIG_DFL)
    _worker.ignore_interrupts()


def _reseed() -> None:
    """Have the global random number generators differ from the parent's and from those of other workers.

    `random` does so by itself after a fork. This is no substitute for streams of one's own: which worker runs which
    task is not repeatable, and neither are then the numbers.
    """
    # Another thread of the parent's may have been drawing numbers, with the generator's lock, which nobody gives back
    # here. So NumPy's gets a new bit generator, with a lock of its own, where seeding the old one would wait for ever.
    # A module of that name may be something else, or none at all.
    numbers: Any = getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)
    if numbers is not None:
        # The same kind, if it is one of NumPy's, which need no arguments.
        kind = type(numbers._bit_generator)
        numbers.__init__(kind() if kind.__module__.startswith("numpy.random.") else None)
    # PyTorch has no way to replace its one.
    _worker.seed_torch(sys.modules.get("torch"))
    _worker.seed_torch_when_imported()
