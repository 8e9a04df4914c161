"""Calls whose failure is a result like any other: it ends nobody else's, and those who read it get it as theirs.

In a module of its own, which imports little: workers get guarded functions by pickle.
"""

from __future__ import annotations

import sys
from weakref import ref

from manyhands import _worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

#: In a worker: failures that came as arguments of the task that is about to run. Those of a task whose arguments could
#: not be read to the end, which never ran, are gone by the time of the next.
_arrived: list[ref[Caught]] = []


class Guarded:
    """A function that returns what it raises, as `Caught`; after so many further attempts."""

    __slots__ = ("__wrapped__", "retries")

    def __init__(self, function: Callable[..., Any], retries: int = 0) -> None:
        self.__wrapped__ = function
        self.retries = retries

    def __reduce__(self) -> tuple[Any, ...]:
        return Guarded, (self.__wrapped__, self.retries)

    @property
    def __name__(self) -> str:
        """That of the function."""
        return str(getattr(self.__wrapped__, "__name__", None) or type(self.__wrapped__).__name__)

    @property
    def _functions(self) -> list[Callable[..., Any]]:
        return [self.__wrapped__]

    def _guarded(self) -> tuple[Callable[..., Any], object]:
        """The function, and what says how it is wrapped."""
        return self.__wrapped__, ("guarded", self.retries)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _arrived:
            earlier = [caught for caught in (arrived() for arrived in _arrived) if caught is not None]
            _arrived.clear()
            if earlier:
                return earlier[0]
        for n_left in range(self.retries, -1, -1):
            try:
                return self.__wrapped__(*args, **kwargs)
            except Exception as error:
                if n_left == 0:
                    return Caught(error)
            # With the numbers that it has drawn.
            if "manyhands._seeding" in sys.modules:
                kwargs = sys.modules["manyhands._seeding"].begin_again(kwargs)
        return None


class Caught:
    """What a call has raised: the exception, or in another process than the call's its bytes."""

    __slots__ = ("__weakref__", "error", "frames", "packed")

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error
        self.packed = b""
        self.frames: list[tuple[str, int, str]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        if self.error is None:
            return _caught_elsewhere, (self.packed, self.frames)
        from traceback import extract_tb

        from manyhands._failures import pack

        frames = extract_tb(self.error.__traceback__)[1:]
        return _caught_elsewhere, (
            pack(self.error, None),
            [(frame.filename, frame.lineno or 1, frame.name) for frame in frames],
        )

    def exception(self, task: str, key: str, scheduler: str) -> BaseException:
        """The exception, with a note that names the task."""
        from manyhands import _raising

        if self.error is not None:
            return _raising.raised(self.error, task, key, scheduler)
        return _raising.raised_in_worker(self.packed, task, key, scheduler)

    def traceback(self) -> TracebackType | None:
        """Where it was raised."""
        if self.error is None:
            return _traceback_of(self.frames)
        traceback = self.error.__traceback__
        # Without the guard's own frame.
        return None if traceback is None else traceback.tb_next


def _caught_elsewhere(packed: bytes, frames: list[tuple[str, int, str]]) -> Caught:
    caught = Caught.__new__(Caught)
    caught.error = None
    caught.packed = packed
    caught.frames = frames
    if _worker.is_worker:
        _arrived.append(ref(caught))
    return caught


def _traceback_of(frames: list[tuple[str, int, str]]) -> TracebackType | None:
    """A traceback that names these places: of code that does nothing but raise there."""
    from types import TracebackType

    traceback = None
    for filename, line, name in reversed(frames):
        code = compile("raise AssertionError", filename, "exec").replace(co_name=name, co_firstlineno=line)
        try:
            exec(code, {"__name__": name})
        except AssertionError as error:
            own = error.__traceback__
            assert own is not None
            assert own.tb_next is not None
            traceback = TracebackType(traceback, own.tb_next.tb_frame, own.tb_next.tb_lasti, line)
    return traceback
