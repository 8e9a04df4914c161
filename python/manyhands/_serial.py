"""Streams that run in the threads that consume them.

Imported with the first of them.
"""

from __future__ import annotations

from _thread import RLock

from manyhands import _run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Any, TypeVar

    from manyhands import _native
    from manyhands._faults import Faults
    from manyhands._progress import StreamTrack

    T = TypeVar("T")


def stream_here(
    function: Callable[..., T],
    arguments: Iterable[tuple[Any, ...]],
    serial: _native.Serial,
    faults: Faults | None,
    track: StreamTrack | None,
) -> SerialStream:
    """A stream of the results of a function, shown and noted as is wanted."""
    serial = _run._noting(serial)
    if track is None:
        return SerialStream(_one_by_one(function, enumerate(arguments), serial, faults))
    numbered, faults = track.number(arguments), track.counting(faults)
    return SerialStream(track.over(_one_by_one(function, numbered, serial, faults)))


class SerialStream:
    """A stream that runs in the threads that consume it; they may share it, and any of them may close it."""

    __slots__ = ("_is_closed", "_is_inside", "_lock", "_results")

    def __init__(self, results: Generator[Any, None, None]) -> None:
        self._results = results
        self._lock = RLock()
        self._is_inside = False
        self._is_closed = False

    def __iter__(self) -> SerialStream:
        return self

    def __next__(self) -> Any:
        try:
            with self._lock:
                if self._is_inside:
                    raise ValueError("the stream is asked for its next result from inside of itself")
                if not self._is_closed:
                    self._is_inside = True
                    try:
                        result = next(self._results)
                    finally:
                        self._is_inside = False
                    if not self._is_closed:
                        return result
                raise StopIteration
        finally:
            if self._is_closed:
                # Maybe by somebody who has found this thread inside.
                self._end_if_free()

    def close(self) -> None:
        """End the stream."""
        # A consumer that is inside sees this when it has its result; that may depend on this thread.
        self._is_closed = True
        self._end_if_free()

    def _end_if_free(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                if not self._is_inside:
                    self._results.close()
            finally:
                self._lock.release()


def _one_by_one(
    function: Callable[..., T],
    numbered: Iterable[tuple[int, tuple[Any, ...]]],
    serial: _native.Serial,
    faults: Faults | None,
) -> Generator[T, None, None]:
    """A stream in this thread, with errors told as elsewhere."""
    for index, args in numbered:
        try:
            result = _run._call_here(function, args, index, serial, faults)
        except StopIteration as error:
            # From an iterator it would pass for the end of the results.
            raise RuntimeError("a task of the stream raised StopIteration") from error
        if faults is None:
            yield result
        else:
            yield from _run._kept([result])
