"""Calls with a checkpoint: what is stored is not computed again, and what is computed is stored.

Imported with the first such call. A task is known by three digests: of its function, of its arguments, and of its
random numbers. Without a seed the third says which it is of several equal calls, as these need not be equal draws.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import socket
import sys
import time
import warnings
from _thread import RLock
from collections import deque
from itertools import repeat

from manyhands import _native, _run
from manyhands._deaths import size_text as _size
from manyhands._naming import FunctionName, Namer, Unnamed, digest, name_arguments, settle
from manyhands._pickling import name_of
from manyhands.errors import CheckpointError, CheckpointWarning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any

    from manyhands._faults import Faults
    from manyhands._progress import StreamTrack, Track
    from manyhands._resources import Asking
    from manyhands._seeding import Root

# What `Recorder.find` says of a task; as crates/python/src/durable/recorder.rs numbers it.
_FOUND, _NEW, _ARGUMENT, _FUNCTION, _STREAM, _FAILED, _DAMAGED, _UNREADABLE = range(8)

# How long to wait for a run that is ending: its forked workers see that a moment later.
_PATIENCE_S = 3.0
_PAUSE_S = 0.05


def path_of(checkpoint: Any) -> str:
    """A file's name, as it was given."""
    try:
        return os.fsdecode(checkpoint)
    except TypeError:
        message = f"checkpoint={checkpoint!r:.80} is not accepted: the name of a file, as a str or a path, or None"
        raise TypeError(message) from None


class Session:
    """A checkpoint, open for one call."""

    def __init__(self, checkpoint: Any) -> None:
        self.path = path_of(checkpoint)
        self._pid = os.getpid()
        self.recorder = _open(self.path)
        self.report = Report(self.path, self.recorder)
        self._functions: dict[int, FunctionName] = {}

    def is_elsewhere(self) -> bool:
        """Whether this process was forked from the one that made the call."""
        return os.getpid() != self._pid

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        settle()
        try:
            self.recorder.close()
        except CheckpointError:
            # What is being raised says why, or matters more.
            if error is None:
                raise

    def function(self, function: Callable[..., Any]) -> FunctionName:
        """The name of a function; what it leaves out is told once."""
        known = self._functions.get(id(function))
        if known is not None:
            return known
        try:
            name = FunctionName(function)
        except Unnamed as error:
            raise _unnamed(self.path, f"the function {name_of(function)}", error) from None
        if name.vague:
            listed = ", ".join(f"{part} (holds a {kind})" for part, kind in name.vague.items())
            warnings.warn(
                f"The checkpoint {self.path!r} does not notice it when these change, which {name.text} uses: {listed}. "
                "Pass what matters as an argument.",
                CheckpointWarning,
                stacklevel=_depth(),
            )
        self.recorder.declare(name.digest, name.text, name.parts)
        self._functions[id(function)] = name
        return name


def _depth() -> int:
    """How far up the stack the user's own code is."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "manyhands":
        depth, frame = depth + 1, frame.f_back
    return depth


def _open(path: str) -> _native.Recorder:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _native.Recorder(path, socket.gethostname())
        except CheckpointError as error:
            if not error.is_in_use or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE_S)


def not_opened(path: str, kind: str, errno: int | None, text: str) -> CheckpointError:
    """The error for a file that cannot be opened."""
    if kind == "in use":
        message = f"The checkpoint {path!r} is in use by another run{_whose(path)}; one at a time can write to it."
    elif kind == "no checkpoint":
        message = f"{path!r} cannot be used as a checkpoint: {text}. It is left as it is; use another name."
    elif kind == "version":
        message = f"The checkpoint {path!r} was written by a later version of manyhands: {text}."
    else:
        message = f"The checkpoint {path!r} cannot be used: {text}."
    error = CheckpointError(message)
    error.errno = errno
    error.filename = path
    error.is_in_use = kind == "in use"
    return error


def _whose(path: str) -> str:
    try:
        reader = _native.CheckpointReader(path)
        reader.refresh()
        run = reader.run()
    except CheckpointError:
        return ""
    if run is None:
        return ""
    pid, host, began_s = run
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began_s))
    return f" (process {pid} on {host}, since {began})"


def not_written(
    path: str, errno: int | None, text: str, n_bytes_file: int, n_bytes_more: int, n_bytes_free: int | None
) -> CheckpointError:
    """The error for a file that cannot be written to any more."""
    room = "" if n_bytes_free is None else f"; {_size(n_bytes_free)} are free there"
    error = CheckpointError(
        f"The checkpoint {path!r} could not be written: {text}. It holds {_size(n_bytes_file)}, which are kept, and "
        f"{_size(n_bytes_more)} were to be added{room}. With room, the same call goes on from there."
    )
    error.errno = errno
    error.filename = path
    return error


def not_storable(path: str, value: object, cause: BaseException) -> BaseException:
    """The error for a result that cannot be pickled, and so not be stored."""
    from manyhands._failures import _add_note

    _add_note(cause, f"While storing a result, a {type(value).__qualname__}, in the checkpoint {path!r}.")
    return cause


def _unnamed(path: str, what: str, error: Unnamed) -> CheckpointError:
    from manyhands import _culprit

    return CheckpointError(
        f"The checkpoint {path!r} has to know {what} again in a later run. It is or holds a "
        f"{_culprit.type_name(error.obj)}, which nothing tells from others: {error.reason}. Pass what it is made from, "
        "or give its class a method __dask_tokenize__ that returns what tells one from another."
    )


class Report:
    """How many results of a call were there, and why the others were not."""

    def __init__(self, path: str, recorder: _native.Recorder) -> None:
        self.path = path
        self.is_seeded = False
        self.n_reused = 0
        # How many are missing, by the reason.
        self.counts: dict[int, int] = {}
        self.changed: dict[str, None] = {}
        self.errors: dict[str, None] = {}
        self._n_bytes_cut = recorder.n_bytes_cut
        self._is_told = False
        self._is_new = recorder.n_results == 0
        if recorder.damage:
            n_bytes = sum(length for _, length in recorder.damage)
            warnings.warn(
                f"The checkpoint {path!r} is damaged in {len(recorder.damage)} place(s), {_size(n_bytes)} in all. "
                "What is whole is used, and what is missing computed again.",
                CheckpointWarning,
                stacklevel=_depth(),
            )

    def n_stored(self) -> int:
        """How many results were there, so far."""
        return self.n_reused

    def missing(self, code: int, detail: Any) -> None:
        """Count a task whose result was not there."""
        self.counts[code] = self.counts.get(code, 0) + 1
        if code == _FUNCTION:
            self.changed.update(dict.fromkeys(detail))
        elif code == _UNREADABLE:
            self.errors[f"{type(detail).__name__}: {detail}"] = None

    def text(self) -> str:
        """In words."""
        n_missing = sum(self.counts.values())
        changed = ", ".join(list(self.changed)[:5]) or "it"
        reasons = {
            _FUNCTION: f"whose function has changed ({changed})",
            _STREAM: "with other random numbers" if self.is_seeded else "that are made more often than before",
            _FAILED: "that failed before",
            _ARGUMENT: "not computed before",
            _DAMAGED: "whose results are damaged",
            _UNREADABLE: f"whose results cannot be unpickled ({'; '.join(list(self.errors)[:2])})",
            _NEW: "that are new",
        }
        listed = ", ".join(f"{self.counts[code]} {text}" for code, text in reasons.items() if code in self.counts)
        cut = f" The last write was cut short: {_size(self._n_bytes_cut)} dropped." if self._n_bytes_cut else ""
        n_all = self.n_reused + n_missing
        if not n_missing:
            return f"{self.path}: all {n_all} results were there.{cut}"
        return f"{self.path}: {self.n_reused} of {n_all} results were there; to compute: {listed}.{cut}"

    def tell(self) -> None:
        """Say it, through the logger ``manyhands.checkpoint``: where something was there, so that it is seen."""
        if self._is_told:
            return
        self._is_told = True
        is_notable = self.n_reused or self._n_bytes_cut or any(code > _ARGUMENT for code in self.counts)
        level = logging.WARNING if is_notable and not self._is_new else logging.INFO
        logging.getLogger("manyhands.checkpoint").log(level, "%s", self.text())


_PLAIN = (float, bool, type(None))
_LABEL_CHARS_MAX = 80
# Longer ones take long to write down, and Python refuses the longest.
_LABEL_BITS_MAX = 256


def _short(arg: object) -> str:
    if type(arg) in _PLAIN or (type(arg) is int and arg.bit_length() <= _LABEL_BITS_MAX):
        return repr(arg)
    return repr(arg[:_LABEL_CHARS_MAX]) if type(arg) is str else "…"


def _label(args: tuple[object, ...]) -> str:
    """Arguments in short, for people."""
    text = ", ".join([_short(arg) for arg in args])
    return text if len(text) <= _LABEL_CHARS_MAX else text[: _LABEL_CHARS_MAX - 1] + "…"


class Streams:
    """The third digest of a task."""

    def __init__(self, root: Root | None) -> None:
        self._root = root
        self._of_root = b"" if root is None else name_arguments((root.entropy, root.key))
        self._n_seen: dict[bytes, int] = {}

    def digest(self, number: int, call: bytes) -> bytes:
        """For the task with this number, which calls this."""
        root = self._root
        if root is not None:
            return digest(b"stream %d of %b" % (root.first + number, self._of_root))
        n_before = self._n_seen.get(call, 0)
        self._n_seen[call] = n_before + 1
        return digest(b"repetition %d" % n_before)


class Calls:
    """The calls of a map: finds what is stored, and has the rest computed and stored."""

    def __init__(
        self,
        session: Session,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        root: Root | None,
        *,
        is_alone: bool,
        keeps_order: bool = True,
    ) -> None:
        self.session = session
        self.keeps_order = keeps_order
        self.recorder = session.recorder
        self._name = session.function(function)
        self._items: Iterator[tuple[Any, ...]] = zip(*iterables)
        self._n_iterables = len(iterables)
        self._streams = Streams(root)
        session.report.is_seeded = root is not None
        # Whether an object that comes again has not changed meanwhile: no other code of the program's runs in between,
        # be it that of the tasks or of whoever consumes the results.
        self._is_quiet = is_alone and all(type(one) in (list, tuple, range, repeat) for one in iterables)
        self._last: tuple[Any, ...] | None = None
        self._last_digest = b""
        # In their order: whether each result is stored, and the result. Only those, where order is of no account.
        self.outcomes: deque[tuple[bool, Any]] = deque()
        self.source_error: BaseException | None = None
        self._args: tuple[Any, ...] = ()

    def missing(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The calls whose results are not stored, each with its place in the map."""
        try:
            yield from self._missing()
        except GeneratorExit:
            raise
        except BaseException as error:
            self.source_error = error
            raise
        self.session.report.tell()

    def _missing(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        recorder, report, function = self.recorder, self.session.report, self._name.digest
        find, expect, streams, outcomes = recorder.find, recorder.expect, self._streams, self.outcomes
        for place, args in enumerate(self._items):
            argument = self._argument(args, place)
            stream = streams.digest(place, argument)
            code, value = find(function, argument, stream)
            if code == _FOUND:
                report.n_reused += 1
                outcomes.append((True, value))
                continue
            report.missing(code, value)
            expect(function, argument, stream, place, _label(args))
            if self.keeps_order:
                outcomes.append((False, None))
            yield place, args

    def _argument(self, args: tuple[Any, ...], place: int) -> bytes:
        last = self._last
        if last is not None and all(a is b for a, b in zip(args, last)):
            return self._last_digest
        try:
            found = name_arguments(args)
        except Unnamed:
            raise self._blame(args, place) from None
        if self._is_quiet:
            self._last, self._last_digest = args, found
        return found

    def _blame(self, args: tuple[Any, ...], place: int) -> BaseException:
        for position, arg in enumerate(args):
            try:
                name_arguments((arg,))
            except Unnamed as error:
                which = "the argument" if len(args) == 1 else f"argument {position}"
                return _unnamed(self.session.path, f"{which} of item {place}", error)
        return CheckpointError(f"The arguments of item {place} change while they are looked at.")

    def iterables(self) -> tuple[Iterator[Any], ...]:
        """The missing calls, as the engine takes them: one iterator for each argument, the first of which leads."""
        if self._n_iterables == 1:
            return ((args[0] for _, args in self.missing()),)
        followers = [self._follow(position) for position in range(1, self._n_iterables)]
        return (self._lead(), *followers)

    def _lead(self) -> Iterator[Any]:
        for _, args in self.missing():
            self._args = args
            yield args[0]

    def _follow(self, position: int) -> Iterator[Any]:
        while True:
            yield self._args[position]


def map_all(
    checkpoint: Any,
    pool: Any,
    function: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    batch_size: int | None,
    scheduler: str,
    root: Root | None,
    manner: int,
    faults: Faults | None,
    track: Track | None = None,
) -> list[Any]:
    """`map` with a checkpoint."""
    with Session(checkpoint) as session:
        if track is not None:
            track.stored(session.report.n_stored)
        is_alone = scheduler not in ("synchronous", "threads")
        calls = Calls(session, function, iterables, root, is_alone=is_alone)
        if scheduler == "synchronous":
            numbered: Any = enumerate(calls.missing())
            if track is not None:
                numbered, faults = track.number(calls.missing()), track.counting(faults)
            serial = _run._noting(_native.Serial(root, manner, pool))
            computed = [_call(session, function, k, one, serial, faults) for k, one in numbered]
            session.recorder.sync()
        else:
            pickled = _run._pickled(pool, function)
            given = (calls.iterables(), batch_size, scheduler, root, manner, _marking(faults))
            tally = None if track is None else track.tally
            computed = _native.map_all(pool, function, pickled, *given, session.recorder, tally)
        rest = iter(computed)
        results = [value if is_stored else next(rest) for is_stored, value in calls.outcomes]
        return results if faults is None else _run._kept(results)


def _marking(faults: Faults | None) -> Faults | None:
    # Results that are left out have their places among those that are stored.
    return None if faults is None else faults.marking()


def _call(
    session: Session,
    function: Callable[..., Any],
    number: int,
    one: tuple[int, tuple[Any, ...]],
    serial: _native.Serial,
    faults: Faults | None,
) -> Any:
    """One call in this thread, whose result is stored."""
    place, args = one
    began = time.perf_counter()
    try:
        result = _run._try_here(function, args, place, serial, faults)
    except Exception as error:
        session.recorder.put_failure(number, type(error).__qualname__, str(error))
        if faults is None or faults.on_error == "raise":
            raise
        return faults.instead(error)
    session.recorder.put(number, result, time.perf_counter() - began)
    return result


class Stream:
    """`stream` with a checkpoint; threads may share it."""

    def __init__(
        self,
        checkpoint: Any,
        pool: Any,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        batch_size: int | None,
        scheduler: str,
        root: Root | None,
        is_ordered: bool,
        buffersize: int | None,
        n_workers: int,
        manner: int,
        faults: Faults | None,
        track: StreamTrack | None = None,
    ) -> None:
        self._session = Session(checkpoint)
        self._track = track
        if track is not None:
            track.stored(self._session.report.n_stored)
        self._lock = RLock()
        self._is_inside = False
        self._is_closed = False
        # One at most, which waits for stored results that come before it.
        self._computed: list[Any] = []
        # What stands in places that are to be left out.
        self._left_out = object() if faults is None else _run._left_out()
        try:
            self._calls = Calls(self._session, function, iterables, root, is_alone=False, keeps_order=is_ordered)
            self._results: Any
            if scheduler == "synchronous":
                numbered: Any = enumerate(self._calls.missing())
                if track is not None:
                    numbered, faults = track.number(self._calls.missing()), track.counting(faults)
                serial = _run._noting(_native.Serial(root, manner, pool))
                self._results = _one_by_one(self._calls, numbered, function, serial, faults)
                if track is not None:
                    self._results = track.given_out(self._results)
            else:
                pickled = _run._pickled(pool, function)
                self._results = _native.Stream(
                    pool,
                    function,
                    pickled,
                    self._calls.iterables(),
                    batch_size,
                    scheduler,
                    is_ordered,
                    buffersize,
                    n_workers,
                    root,
                    manner,
                    _marking(faults),
                    self._session.recorder,
                    None if track is None else track.tally,
                )
        except BaseException:
            self._session.recorder.close()
            raise

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        try:
            with self._lock:
                if self._is_inside:
                    raise ValueError("the stream is asked for its next result from inside of itself")
                if self._is_closed:
                    raise StopIteration
                self._is_inside = True
                try:
                    return self._next()
                except StopIteration:
                    self._tell_end("closed" if self._is_closed else "done")
                    self._is_closed = True
                    raise
                except BaseException as error:
                    self._tell_end("failed" if isinstance(error, Exception) else "interrupted")
                    self._end(is_quiet=True)
                    raise
                finally:
                    self._is_inside = False
        finally:
            if self._is_closed:
                # Maybe by somebody who has found this thread inside.
                self._end_if_free()

    def _next(self) -> Any:
        outcomes, computed = self._calls.outcomes, self._computed
        while True:
            if outcomes and outcomes[0][0]:
                return outcomes.popleft()[1]
            if computed:
                # Its place, if places are kept.
                if outcomes:
                    outcomes.popleft()
                result = computed.pop()
                if result is self._left_out:
                    continue
                return result
            self._fetch()

    def _fetch(self) -> None:
        """The next computed result; what is stored may be found on the way."""
        outcomes = self._calls.outcomes
        try:
            self._computed.append(next(self._results))
        except StopIteration:
            while outcomes and not outcomes[0][0]:
                outcomes.popleft()
            if not outcomes:
                raise
        except BaseException as error:
            # It comes after the results of what came before.
            if error is not self._calls.source_error or not outcomes:
                raise
            self._results = _raising(error)

    def _tell_end(self, how: str) -> None:
        if self._track is not None:
            self._track.end(how)

    def _end(self, is_quiet: bool = False) -> None:
        self._is_closed = True
        self._tell_end("closed")
        self._calls.outcomes.clear()
        close = getattr(self._results, "close", None)
        if close is not None:
            close()
        self._calls.session.report.tell()
        settle()
        try:
            self._session.recorder.close()
        except CheckpointError:
            if not is_quiet:
                raise

    def close(self) -> None:
        """End the stream: what is under way is cancelled."""
        # A consumer that is inside sees this when it has its result; that may depend on this thread.
        self._is_closed = True
        if isinstance(self._results, _native.Stream):
            self._results.close()
        self._end_if_free()

    def _end_if_free(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                if not self._is_inside:
                    self._end()
            finally:
                self._lock.release()

    def __del__(self) -> None:
        if "_results" in self.__dict__ and not self._is_closed and not self._session.is_elsewhere():
            self._end(is_quiet=True)


def _one_by_one(
    calls: Calls,
    numbered: Iterable[tuple[int, tuple[int, tuple[Any, ...]]]],
    function: Callable[..., Any],
    serial: _native.Serial,
    faults: Faults | None,
) -> Iterator[Any]:
    """A stream's results that are computed in this thread."""
    for number, one in numbered:
        try:
            result = _call(calls.session, function, number, one, serial, faults)
        except StopIteration as error:
            # From an iterator it would pass for the end of the results.
            raise RuntimeError("a task of the stream raised StopIteration") from error
        calls.recorder.sync()
        yield result


def _raising(error: BaseException) -> Iterator[Any]:
    raise error
    yield


# Graphs


class _Name:
    """A task of a graph, known by its digests; it stands for its result where that is an argument."""

    __slots__ = ("argument", "function", "label", "stream")

    def __init__(self, function: bytes, argument: bytes, stream: bytes, label: str) -> None:
        self.function = function
        self.argument = argument
        self.stream = stream
        self.label = label

    def __dask_tokenize__(self) -> bytes:
        return self.function + self.argument + self.stream

    def __repr__(self) -> str:
        return "…"


_RESULT_CALLED = digest(b"a function that is the result of a task")


class GraphNamer:
    """Names the tasks of a graph, each by its function and the names of its inputs; finds those that are stored."""

    def __init__(self, session: Session, root: Root | None) -> None:
        self.recorder = session.recorder
        self._session = session
        self._streams = Streams(root)
        session.report.is_seeded = root is not None
        # One for all: none of the caller's code runs in between.
        self._namer = Namer()
        self._n_tasks = 0
        self._n_missing = 0

    def name(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], number: int | None) -> _Name:
        """The name of the next task."""
        self._n_tasks += 1
        try:
            if isinstance(function, _Name):
                called, argument = _RESULT_CALLED, digest(self._namer.all([function, args, kwargs]))
            else:
                called = self._session.function(function).digest
                argument = digest(self._namer.all([args, kwargs]))
        except Unnamed as error:
            what = f"an argument of {_native.describe_call(function, args, kwargs)}"
            raise _unnamed(self._session.path, what, error) from None
        stream = self._streams.digest(number or 0, called + argument)
        return _Name(called, argument, stream, _label(args))

    def find(self, name: _Name) -> tuple[Any] | None:
        """The result of a task, if it is stored."""
        code, value = self.recorder.find(name.function, name.argument, name.stream)
        if code == _FOUND:
            return (value,)
        self._session.report.missing(code, value)
        self._n_missing += 1
        return None

    def expect(self, name: _Name, place: int) -> None:
        """The next task that is to be computed."""
        self.recorder.expect(name.function, name.argument, name.stream, place, name.label)

    def tell(self) -> None:
        """Say what was there."""
        self._session.report.n_reused = self._n_tasks - self._n_missing
        self._session.report.tell()


def compute_all(
    run: Callable[..., tuple[Any, ...]],
    checkpoint: Any,
    root: Root | None,
    args: tuple[Any, ...],
    traverse: bool,
    pool: Any,
    batch_size: int | None,
    scheduler: str,
    ways: tuple[int, Faults | None],
    asking: Asking | None,
    track: Track | None,
) -> tuple[Any, ...]:
    """`compute` or `persist` with a checkpoint."""
    with Session(checkpoint) as session:
        if track is not None:
            track.stored(session.report.n_stored)
        tally = None if track is None else track.tally
        given = (args, traverse, pool, batch_size, scheduler)
        return run(*given, root, *ways, GraphNamer(session, root), asking, tally)


def load(data: bytes, buffers: list[Any] | None, is_by_value: bool) -> Any:
    """Load a stored result."""
    file = io.BytesIO(data)
    return (_Loader if is_by_value else pickle.Unpickler)(file, buffers=buffers or ()).load()


class _Loader(pickle.Unpickler):
    """Finds the classes of the main program where they were stored by value: they are to be the program's own."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if not module.startswith("cloudpickle"):
            return found
        if name == "_make_skeleton_class":
            return lambda *args: _own_class(args[1], args[3]) or found(*args)
        if name == "_make_skeleton_enum":
            return lambda *args: _own_class(args[1], {"__module__": args[4]}) or found(*args)
        if name == "_class_setstate":
            return lambda cls, state: cls if _own_class(cls.__name__, vars(cls)) is cls else found(cls, state)
        return found


def _own_class(name: str, content: Any) -> type | None:
    """The class that a module which was not imported has under a name."""
    module_name = content.get("__module__", "__main__")
    found = getattr(sys.modules.get(module_name), name, None)
    is_own = isinstance(found, type) and found.__module__ == module_name and found.__qualname__ == name
    return found if is_own else None
