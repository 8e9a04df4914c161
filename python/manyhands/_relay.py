"""What tasks print, warn of and log, put where it would be had they run here; called by the engine.

Output of worker processes mostly goes from their pipes to this process's own without Python. All else comes here, in
the thread that waits for the call: output where `sys.stdout` is something else than the program's own (in a notebook,
under pytest), output that is to come in the order of the serial run, warnings and log records.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock, _local
from itertools import groupby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

# As the engine numbers them, in crates/python/src/relay.rs; times four, what becomes of random numbers without a seed.
HERE, CALLER, ORDERED, SILENT = range(4)
IGNORE, WARN, ERROR = 0, 4, 8

# What a report begins with, as the engine and `manyhands._reports` have it.
WARNING, LOG, MISUSE = 1, 2, 3

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def write(number: int, data: bytes) -> None:
    """Write what tasks have printed to standard output (1) or error (2) as this program has it at the moment."""
    stream: Any = bare(sys.stdout if number == 1 else sys.stderr)
    if stream is None:
        return
    try:
        views = sys.modules.get("manyhands._progress_views")
        if views is None:
            _write_to(stream, data)
        else:
            with views.writing(stream, data):
                _write_to(stream, data)
    except (AttributeError, ValueError):  # it is closed, detached or no stream: nobody is to lose anything by that
        while data:
            data = data[os.write(number, data) :]


def _write_to(stream: Any, data: bytes) -> None:
    import io

    buffer = stream.buffer if isinstance(stream, io.TextIOWrapper) else None
    if buffer is None:
        stream.write(data.decode("utf-8", "backslashreplace"))
        flush = getattr(stream, "flush", None)
        if flush is not None:
            flush()
        return
    # Byte for byte, behind what has been written as text.
    stream.flush()
    buffer.write(data)
    buffer.flush()


def report(data: bytes) -> None:
    """Act on what a task in a worker had to say."""
    import pickle

    content = pickle.loads(memoryview(data)[1:])
    if data[0] == WARNING:
        _warn(*content)
    elif data[0] == LOG:
        _log(content)


# Registries of modules that only workers have, by name.
_registries: dict[str, dict[Any, Any]] = {}


def _warn(packed: bytes, filename: str, lineno: int, module: str) -> None:
    """Issue a warning of a task as if the line had been run here: with this program's filters, once where they say so.

    Raises
    ------
    Warning
        If the filters make it an error that the worker did not know of.
    """
    import warnings

    from manyhands._failures import unpack

    message: Any = unpack(packed)
    if not isinstance(message, Warning):
        # Its class is not to be had here.
        message = RuntimeWarning(str(message).partition("\n")[0])
    # Where it came from is in the warning itself.
    message.__cause__ = None
    found = sys.modules.get(module)
    if found is None:
        registry = _registries.setdefault(module, {})
    else:
        registry = vars(found).setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, type(message), filename, lineno, module, registry)


def _log(fields: dict[str, Any]) -> None:
    """Give a task's log record to the logger of its name."""
    import logging

    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger is logging.root and not logger.handlers:
        # As logging.warning() and the like do.
        logging.basicConfig()
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


# Random numbers without a seed


def warn_of_misuse(function: Callable[..., Any] | None, states: int, scheduler: str) -> None:
    """Warn that a function has drawn from global states, at the line that made the call."""
    import warnings

    from manyhands.errors import UndeclaredRandomWarning

    frame = _caller()
    if frame is None:
        warnings.warn(_misuse(function, states, scheduler), UndeclaredRandomWarning, stacklevel=2)
        return
    warnings.warn_explicit(
        _misuse(function, states, scheduler),
        UndeclaredRandomWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__", "<unknown>"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _caller() -> FrameType | None:
    """The innermost frame that is not this package's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame


def misuse_error(function: Callable[..., Any] | None, states: int) -> BaseException:
    """The error for a task that has drawn from global states where that is one."""
    from manyhands.errors import UndeclaredRandomError

    return UndeclaredRandomError(_misuse(function, states, ""))


_STATES = {1: "random", 2: "numpy.random", 4: "torch"}
_SHARED = 8


def _misuse(function: Callable[..., Any] | None, states: int, scheduler: str) -> str:
    names = " and ".join(f"`{name}`" for bit, name in _STATES.items() if states & bit)
    text = f"{_named(function)} draws random numbers from the global state of {names}"
    if states & _SHARED:
        text += (
            ", which seeded calls in several threads share: it can be set for the tasks of one of them at a time, and "
            "others were running at that moment. The numbers of all of these cannot be repeated. Give the function a "
            "parameter `rng` and draw from that; or have one thread after the other make such calls; or use the "
            "scheduler 'processes'. (As the state is shared, it may have been another function of this program that "
            "drew at that moment.) "
        )
    elif scheduler == "threads":
        text += (
            ", which tasks in threads share: the numbers cannot be repeated, with a seed or without. Give the function "
            "a parameter `rng` and draw from that, and give the call a seed (seed=1); or use another scheduler. (As "
            "the state is shared, it may have been another function of this program that drew at that moment.) "
        )
    else:
        text += (
            ", and the call has no seed: the numbers cannot be repeated, and nothing says that those of different "
            "tasks are independent. Give the call a seed (seed=1): each task then has a stream of its own, which sets "
            "that state and is given to a function's parameter `rng`. "
        )
    return text + 'To be left alone: manyhands.config.set(random_misuse="ignore").'


def state_of_torch() -> tuple[int, bytes]:
    """The seed of torch's global generator, and its state. Only where torch has been imported."""
    generator = sys.modules["torch"].default_generator
    return generator.initial_seed(), bytes(generator.get_state().numpy())


def _named(function: Callable[..., Any] | None) -> str:
    """A function's name, and where it stands."""
    if function is None:
        return "A function that another task returned"
    from manyhands._deaths import place_of

    name, file, line = place_of(function)
    where = "" if file is None else f" ({file}:{line})"
    return f"The function {name!r}{where}"


# Tasks in threads of this process
#
# What they print can be told apart only where it goes through sys.stdout and sys.stderr, and log records only in their
# loggers. While somebody wants them apart, both look which task their thread is running.

_threads = _local()
# Protects what is installed, and who uses it.
_lock = RLock()
_n_users = 0
_call_handlers: Any = None
_is_in_place = False
# Proxies, latest first. `print` does not hold on to the stream that it writes to: a proxy that went when it is taken
# off would be gone under a thread that is just printing.
_kept: list[_Proxy] = []
_N_KEPT_MAX = 16


class _Nowhere(list):  # type: ignore[type-arg]
    """Takes what nobody is to hear."""

    def append(self, _item: object) -> None:
        pass


_NOWHERE = _Nowhere()


class _Proxy:
    """Stands for `sys.stdout` or `sys.stderr`: what a task's thread writes goes to the task's list."""

    def __init__(self, number: int, original: Any) -> None:
        self._number = number
        self._original = original

    def write(self, text: str) -> int:
        said = getattr(_threads, "said", None)
        if said is None:
            return self._original.write(text)  # type: ignore[no-any-return]
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        said.append((self._number, text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if getattr(_threads, "said", None) is None:
            self._original.flush()

    @property
    def buffer(self) -> Any:
        if getattr(_threads, "said", None) is None:
            return self._original.buffer
        return _ProxyBuffer(self, self._original.buffer)

    def __iter__(self) -> Iterator[str]:
        return iter(self._original)

    def __getattr__(self, name: str) -> Any:
        if name == "_original":  # it is just being copied
            raise AttributeError(name)
        return getattr(self._original, name)


class _ProxyBuffer:
    """What is below such a stream, for bytes."""

    def __init__(self, proxy: _Proxy, original: Any) -> None:
        self._proxy = proxy
        self._original = original

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._proxy.write(bytes(view).decode(self._proxy.encoding or "utf-8", "backslashreplace"))
        return view.nbytes

    def flush(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def bare(stream: Any) -> Any:
    """The stream that a proxy stands for; any other itself."""
    return stream._original if type(stream) is _Proxy else stream


def is_programs_own() -> bool:
    """Whether standard output and error are those that the program was started with."""
    return bare(sys.stdout) is sys.__stdout__ and bare(sys.stderr) is sys.__stderr__


def _proxy_of(number: int, stream: Any) -> _Proxy:
    for proxy in _kept:
        if proxy._original is stream and proxy._number == number:
            return proxy
    proxy = _Proxy(number, stream)
    _kept.insert(0, proxy)
    del _kept[_N_KEPT_MAX:]
    return proxy


def _install() -> None:
    global _n_users, _call_handlers, _is_in_place
    with _lock:
        _n_users += 1
        for number, name in enumerate(("stdout", "stderr"), 1):
            stream = getattr(sys, name)
            if stream is not None and type(stream) is not _Proxy:
                setattr(sys, name, _proxy_of(number, stream))
        import logging

        if not _is_in_place:
            _is_in_place = True
            _call_handlers = logging.Logger.callHandlers
            logging.Logger.callHandlers = _keep_record  # type: ignore[method-assign,assignment]


def _uninstall() -> None:
    global _n_users
    with _lock:
        # A child may leave blocks that its parent has entered.
        _n_users = max(_n_users - 1, 0)
        if _n_users == 0:
            _take_off()


def _take_off() -> None:
    global _is_in_place
    if _is_in_place:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if type(stream) is _Proxy:
                setattr(sys, name, stream._original)
        logging = sys.modules["logging"]
        if logging.Logger.callHandlers is _keep_record:
            # A thread may be inside of ours: what it goes on to stays.
            logging.Logger.callHandlers = _call_handlers
            _is_in_place = False


def _keep_record(logger: Any, record: Any) -> None:
    """In the place of ``Logger.callHandlers``."""
    said = getattr(_threads, "said", None)
    if said is None:
        _call_handlers(logger, record)
    else:
        said.append((logger, record))


class Recorder:
    """Keeps apart what the tasks of one call say in their threads; the engine calls it.

    Parameters
    ----------
    is_ordered : bool
        Whether it is to appear in the order of the serial run, rather than not at all.
    n_tries_max : int
        How often a task is tried at most.
    """

    def __init__(self, is_ordered: bool, n_tries_max: int) -> None:
        self._is_ordered = is_ordered
        self._n_tries_max = n_tries_max
        # By place in the serial run, how often a task has been tried, and what it said.
        self._tried: dict[int, tuple[int, list[Any]]] = {}
        self._lock = RLock()
        self._whole: dict[int, list[Any]] = {}
        self._next = 0
        self._is_finished = False
        _install()

    def begin(self, rank: int) -> None:
        """A task begins in this thread, with this place in the serial run."""
        outer = getattr(_threads, "said", None)
        _threads.running = (rank, outer, getattr(_threads, "running", None))
        _threads.said = [] if self._is_ordered else _NOWHERE

    def end(self, may_follow: bool) -> None:
        """It has ended; or failed in a way that it is tried again after, as often as it may be."""
        said = _threads.said
        rank, _threads.said, _threads.running = _threads.running
        if not self._is_ordered:
            return
        with self._lock:
            if not self._is_finished:
                n_tries, earlier = self._tried.pop(rank, (0, []))
                said = earlier + said
                if may_follow and n_tries + 1 < self._n_tries_max:
                    self._tried[rank] = (n_tries + 1, said)
                    return
                self._whole[rank] = said
                while self._next in self._whole:
                    self._tell(self._whole.pop(self._next))
                    self._next += 1

    def finish(self, is_done: bool, failed: int | None) -> None:
        """The call has ended: all tasks are done, or one has failed, or nobody waits any more."""
        with self._lock:
            if self._is_finished:
                return
            self._is_finished = True
            left = self._whole | {rank: said for rank, (_, said) in self._tried.items()}
            self._whole.clear()
            self._tried.clear()
            for rank, said in sorted(left.items()):
                if is_done or (failed is not None and rank <= failed):
                    self._tell(said)
        _uninstall()

    def __del__(self) -> None:
        # Of a call that nobody has waited for.
        if not self._is_finished:
            self._is_finished = True
            _uninstall()

    @staticmethod
    def _tell(said: list[Any]) -> None:
        # The thread may be running a task of another call's.
        outer = getattr(_threads, "said", None)
        _threads.said = None
        try:
            for source, contents in groupby(said, lambda item: item[0] if type(item[0]) is int else None):
                if source is None:
                    for logger, record in contents:
                        logger.callHandlers(record)
                else:
                    # In one piece, as others may be writing, too.
                    stream = sys.stdout if source == 1 else sys.stderr
                    stream.write("".join(text for _, text in contents))
        finally:
            _threads.said = outer


class silenced:
    """A block in which what this thread prints and logs does not appear."""

    def __enter__(self) -> None:
        self._outer = getattr(_threads, "said", None)
        _install()
        _threads.said = _NOWHERE

    def __exit__(self, *exc_info: object) -> None:
        _threads.said = self._outer
        _uninstall()


def _after_fork() -> None:
    global _lock, _n_users
    _lock = RLock()
    _n_users = 0
    _take_off()
    _threads.said = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
