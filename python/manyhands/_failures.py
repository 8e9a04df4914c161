"""How the exception of a task crosses a process border.

In the worker `pack` turns it into bytes; in the parent `unpack` turns them into the exception to raise. What arrives
is, in this order of preference:

1. the exception itself, pickled, where unpickling it in the worker gave the same type and text;
2. the exception itself, rebuilt without a call of its constructor, which often wants other arguments than it kept;
3. its nearest relative: the first class on its method resolution order that can be built from its text, with a note
   that names the original type and says why it could not come itself;
4. a `TaskError`, where the parent cannot load what the worker could.

All of them carry the worker's traceback as their cause. Every call into the exception's own code (``__str__``,
``__reduce__``, its constructor) may raise anything, and must not stop the report: here, and only here, even
``BaseException`` is caught.
"""

from __future__ import annotations

import builtins
import os
import pickle
import sys

from manyhands._pickling import dumps_result as _dumps_or_explain
from manyhands._pickling import loads
from manyhands.errors import PicklingError, RemoteTraceback, TaskError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException
    from typing import Any

__all__ = ["annotate", "pack", "unpack"]

TEXT_CHARS_MAX = 20_000
TRACEBACK_CHARS_MAX = 100_000
GROUP_DEPTH_MAX = 10

# None before Python 3.11.
_ExceptionGroup: Any = getattr(builtins, "BaseExceptionGroup", ())

# Before Python 3.11 they are not; then they stand at the end of the remote traceback as well.
_NOTES_ARE_PRINTED = sys.version_info >= (3, 11)

_ENGINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def pack(exc: BaseException, describe: str | None) -> bytes:
    """Turn the exception of a task into bytes; runs in the worker, and never raises.

    Parameters
    ----------
    exc : BaseException
        What the task raised, with its traceback.
    describe : str or None
        A short form of the task, for the head of the traceback.
    """
    type_name = _type_name(type(exc))
    text = _text(exc)
    traceback = _head(describe) + _traceback(exc, type_name, text)
    travelling, notes = _carry(exc, 0)
    return pickle.dumps((type_name, text, traceback, travelling, notes), 5)


def unpack(data: bytes) -> BaseException:
    """The exception to raise for what `pack` made; runs in the parent.

    Returns
    -------
    BaseException
        With a `RemoteTraceback` as its ``__cause__``.
    """
    type_name, text, traceback, travelling, notes = pickle.loads(data)
    try:
        exc = _travelled(travelling, notes)
    except Exception as error:
        message = f"{type_name}: {text}\nThis process cannot rebuild the exception itself: {_one_line(error)}"
        exc = TaskError(message, type_name, text, traceback)
        for note in notes:
            _add_note(exc, note)
    if notes and not _NOTES_ARE_PRINTED:
        traceback = "\n".join([traceback.rstrip(), *notes])
    # Past any __setattr__ of the exception's own.
    BaseException.__dict__["__cause__"].__set__(exc, RemoteTraceback(traceback))
    return exc


def annotate(exc: BaseException, task: str, key: str | None, scheduler: str, n_tries: int = 1) -> None:
    """Add a note to a task's exception that names the task; the same note is added once.

    Parameters
    ----------
    exc : BaseException
        The exception about to be raised to the caller.
    task : str
        A short form of the call, such as ``fit(fold=3)``.
    key : str or None
        The task's key.
    scheduler : str
        The scheduler that ran it.
    n_tries : int
        How often the task was tried.
    """
    if isinstance(exc, TypeError) and "missing" in str(exc) and "'rng'" in str(exc):
        _add_note(exc, "Give the call a seed, such as seed=1, and each task receives a generator as rng.")
    where = f"scheduler {scheduler!r}" if key is None else f"key {key!r}, scheduler {scheduler!r}"
    tried = "" if n_tries == 1 else f" It was tried {n_tries} times; this is from the last."
    note = f"Raised by the task {task} ({where}).{tried}"
    if not _add_note(exc, note):
        return
    if not _NOTES_ARE_PRINTED and isinstance(exc.__cause__, RemoteTraceback):
        cause = exc.__cause__
        cause.text = f"{cause.text.rstrip()}\n{note}"
        cause.args = (cause.text,)


def _add_note(exc: BaseException, note: str) -> bool:
    """Add a note where it is not there yet; whether it was added."""
    try:
        notes = getattr(exc, "__notes__", None)
        if isinstance(notes, list) and note in notes:
            return False
        if sys.version_info >= (3, 11):
            exc.add_note(note)
        else:
            vars(exc)["__notes__"] = [*notes, note] if isinstance(notes, list) else [note]
    except Exception:  # an exception that takes no attributes is still the one to raise
        return False
    return True


# Choosing what travels


def _carry(exc: BaseException, depth: int) -> tuple[bytes, list[str]]:
    """The bytes to rebuild an exception from, and the notes to add to it; never raises."""
    text = _text(exc)
    own, reason = _itself(exc, text)
    if own is not None:
        return own, _notes(exc)
    rebuilt = _without_constructor(exc, text)
    if rebuilt is not None:
        return rebuilt, _notes(exc)
    if reason is None:
        # Its constructor changes the text each time; the type is worth more than the text, which is in the traceback.
        return _round_trip(exc)[0] or b"", _notes(exc)
    name = _type_name(type(exc))
    why = f"{name}, which could not come from the worker itself: {reason}"
    group = _group(exc, depth)
    if group is not None:
        return group, [*_notes(exc), f"This group stands for a {why}."]
    for cls in type(exc).__mro__:
        relative = _relative(cls, text)
        if relative is not None:
            return relative, [*_notes(exc), f"This {cls.__qualname__} stands for a {why}."]
    raise AssertionError("BaseException can be built from a text")


def _itself(exc: BaseException, text: str) -> tuple[bytes | None, str | None]:
    """The pickled exception where it comes back as it was; otherwise why not, None if only its text changes."""
    data, copy, reason = _round_trip(exc)
    if copy is None:
        return None, reason
    return (data, None) if _text(copy) == text else (None, None)


def _round_trip(exc: BaseException) -> tuple[bytes | None, BaseException | None, str]:
    """An exception's pickle and what it loads as; or None and the reason."""
    try:
        data = _dumps_or_explain((None, exc))
    except PicklingError as error:
        # The path starts with the place in the tuple above.
        path = error.path.removeprefix("[1]").removeprefix(" -> ")
        return None, None, f"its {path}: {error.reason}" if path else error.reason
    except BaseException as error:
        return None, None, f"pickling it raised {_one_line(error)}"
    try:
        copy = loads(data)[1]
    except BaseException as error:
        return None, None, f"unpickling it raised {_one_line(error)}"
    if type(copy) is not type(exc):
        return None, None, f"unpickled it is a {_type_name(type(copy))}"
    return data, copy, ""


def _without_constructor(exc: BaseException, text: str) -> bytes | None:
    """The parts to rebuild an exception from by its built-in base alone; None where that gives another exception."""
    try:
        cls = type(exc)
        base: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
        _, args, *state = base.__reduce__(exc)
        data = _dumps_or_explain((cls, base, args, state[0] if state else None))
        copy = _rebuild(*loads(data))
        same = type(copy) is cls and _text(copy) == text and copy.args == exc.args
        return data if same and vars(copy).keys() == vars(exc).keys() else None
    except BaseException:  # only a way was sought; the caller has others
        return None


def _rebuild(cls: type | None, base: Any, args: Any = (), state: dict[str, object] | None = None) -> BaseException:
    """The exception that the bytes of `_carry` hold: ``(None, exception)``, or parts, or a group and its members."""
    if cls is None:
        exc = base
    elif cls is list:
        exc = _ExceptionGroup(base, [_travelled(data, notes) for data, notes in args])
    else:
        exc = base.__new__(cls, *args)
        base.__init__(exc, *args)
        if state:
            base.__setstate__(exc, state)
    if not isinstance(exc, BaseException):
        raise TypeError(f"a {_type_name(type(exc))} came instead of an exception")
    return exc


def _travelled(data: bytes, notes: list[str]) -> BaseException:
    exc = _rebuild(*loads(data))
    for note in notes:
        _add_note(exc, note)
    return exc


def _relative(cls: type, text: str) -> bytes | None:
    """The pickle of an exception of a given class with a given text, if there can be one."""
    if not issubclass(cls, BaseException):
        return None
    try:
        candidate = cls(text)
    except BaseException:  # another base will do
        return None
    if type(candidate) is not cls or candidate.args != (text,):
        return None
    return _round_trip(candidate)[0]


def _group(exc: BaseException, depth: int) -> bytes | None:
    """The bytes of a plain exception group of what can travel of the members of `exc`."""
    if not isinstance(exc, _ExceptionGroup) or depth >= GROUP_DEPTH_MAX:
        return None
    try:
        members = [_carry(member, depth + 1) for member in exc.exceptions]
        data = pickle.dumps((list, _shortened(exc.message, TEXT_CHARS_MAX), members), 5)
        _rebuild(*loads(data))
    except BaseException:  # a group that guards its members: it is treated as any other exception
        return None
    return data


# Texts


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text(exc: BaseException) -> str:
    try:
        return _shortened(str(exc), TEXT_CHARS_MAX)
    except BaseException as error:
        return f"<its __str__ raised {type(error).__name__}>"


def _one_line(error: BaseException) -> str:
    text = " ".join(_text(error).split())
    return f"{type(error).__name__}: {_shortened(text, 300)}" if text else type(error).__name__


def _notes(exc: BaseException) -> list[str]:
    """The notes of an exception, which a ``__reduce__`` of its own may have lost."""
    try:
        notes = getattr(exc, "__notes__", None)
        if not isinstance(notes, (list, tuple)):
            return []
        return [_shortened(note, TEXT_CHARS_MAX) for note in notes if isinstance(note, str)]
    except BaseException:  # notes are an extra
        return []


def _shortened(text: str, chars_max: int) -> str:
    """Leaves out the middle of a long text: its beginning says what it is, and its end what happened."""
    # A subclass of str may redefine anything; from here on it is a plain one.
    text = str.__str__(text)
    if len(text) <= chars_max:
        return text
    head = chars_max // 4
    tail = chars_max - head
    return f"{text[:head]}\n… {len(text) - chars_max} characters left out …\n{text[-tail:]}"


def _head(describe: str | None) -> str:
    task = "" if describe is None else f", task {_shortened(describe, 1000)}"
    return f"Worker process {os.getpid()}{task}:\n"


def _traceback(exc: BaseException, type_name: str, text: str) -> str:
    """The traceback of an exception and of those it came from, without the engine's own frames."""
    import traceback

    try:
        formatted = traceback.TracebackException(type(exc), exc, exc.__traceback__)
        _drop_engine_frames(formatted)
        return _shortened("".join(formatted.format()), TRACEBACK_CHARS_MAX)
    except BaseException as error:
        try:
            frames = "".join(traceback.format_tb(exc.__traceback__))
        except BaseException:  # then the type and the text have to do
            frames = ""
        frames = _shortened(frames, TRACEBACK_CHARS_MAX)
        return f"{frames}{type_name}: {text}\n(formatting the whole traceback raised {type(error).__name__})\n"


def _drop_engine_frames(formatted: TracebackException) -> None:
    """Cut the frames that lead from the worker's main program to the task, here and in chained exceptions."""
    pending = [formatted]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        stack = current.stack
        own = 0
        while own < len(stack) and _is_engine(stack[own].filename, stack[own].name):
            own += 1
        if own < len(stack):
            del stack[:own]
        chained = [current.__cause__, current.__context__, *(getattr(current, "exceptions", None) or ())]
        pending.extend(other for other in chained if other is not None)


def _is_engine(filename: str, function: str) -> bool:
    return filename.startswith(_ENGINE) or (filename == "<string>" and function == "<module>")
