"""What stands in terminals, and how other output makes way for it.

While something stands there, whatever this program writes is let through: it is cleared, the text written, and it is
drawn again.

Who writes may hold a lock of their own, as handlers of log records do. So the lock of `manyhands._progress` is a leaf:
it is held for what is kept here and for writing to the terminal, and nobody else's code runs under it. tqdm's bars
stand under tqdm's lock, which is taken before ours.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import _local
from contextlib import suppress

from manyhands import _progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Stage", "bare", "forget_own", "is_richs", "is_terminal", "owned", "stages", "take", "writing"]

#: By the stream's identity, which they keep alive.
stages: dict[int, Stage] = {}


def bare(stream: Any) -> Any:
    """The stream below one that keeps the output of threads apart."""
    # While that is being imported, nothing stands for anything.
    of_relay = getattr(sys.modules.get("manyhands._relay"), "bare", None)
    return stream if of_relay is None else of_relay(stream)


def is_richs(stream: Any) -> bool:
    """Whether rich has put it in the place of a terminal, below which it keeps something of its own."""
    return hasattr(type(stream), "rich_proxied_file") and is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _is_same_terminal(stream: Any, other: Any) -> bool:
    try:
        if not (stream.isatty() and other.isatty()):
            return False
        return os.fstat(stream.fileno()).st_rdev == os.fstat(other.fileno()).st_rdev
    except (AttributeError, OSError, ValueError):  # not everything that says it is a terminal is a file
        return False


#: How long anybody waits for another thread to have written, in seconds. After that a torn line is the lesser evil.
PATIENCE_S = 2.0

#: Whether this thread is writing what stands in a terminal.
_mine = _local()


class Stage:
    """A terminal on which something stands that other output must not run into."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.n_users = 0
        self.is_at_start = True
        # Whether nothing has been written yet, so that nobody knows where the cursor is.
        self.is_fresh = True
        self._drawn_s = 0.0

    def lock(self) -> Any:
        """Whose bars these are has a lock, which is to be taken before ours."""
        return None

    def clear(self) -> None:
        """Take off what stands there."""

    def draw(self) -> None:
        """Put it there again."""

    def enter(self) -> None:
        with _progress._lock:
            self.n_users += 1
            if self.n_users == 1:
                for stream in {id(bare(one)): bare(one) for one in (self.stream, sys.stdout, sys.stderr)}.values():
                    # What rich has put there runs rich's own code.
                    is_there = stream is self.stream or _is_same_terminal(stream, self.stream)
                    if is_there and not is_richs(stream):
                        _open_door(stream, self)

    def leave(self, key: int) -> None:
        with _progress._lock:
            self.n_users -= 1
            if self.n_users == 0:
                self.forget()
                if stages.get(key) is self:
                    del stages[key]

    def forget(self) -> None:
        """Leave the streams as they were."""
        for door in list(_doors.values()):
            if self in door.stages:
                door.stages.remove(self)
                if not door.stages:
                    door.close()

    def before(self) -> None:
        """Something else is going to be written."""
        with owned:
            self._try(self.clear)

    @staticmethod
    def _try(show: Callable[[], None]) -> None:
        """What is wrong with what stands there is no reason for others not to write."""
        with suppress(Exception):
            show()

    def after(self, stream: Any, is_at_start: bool) -> None:
        """It has been written."""
        self.is_at_start = is_at_start
        self.is_fresh = False
        now_s = time.monotonic()
        # While there is much to read, the next tick is soon enough.
        if is_at_start and now_s - self._drawn_s > _progress.INTERVAL_S / 4:
            self._drawn_s = now_s
            with owned:
                stream.flush()
                self._try(self.draw)


class _Owned:
    """A block in which what this thread writes is what stands in a terminal."""

    def __enter__(self) -> None:
        _mine.depth = getattr(_mine, "depth", 0) + 1

    def __exit__(self, *_exc_info: object) -> None:
        _mine.depth -= 1


owned = _Owned()


class _Door:
    """Stands in the place of a stream's `write`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.stages: list[Stage] = []
        # Somebody else may have put something there.
        self.found = getattr(stream, "__dict__", {}).get("write")
        self.original = original = stream.write

        def write(text: str) -> Any:
            with _passing(self, text):
                return original(text)

        self.write = write
        stream.write = write

    def close(self) -> None:
        _doors.pop(id(self.stream), None)
        if getattr(self.stream, "__dict__", {}).get("write") is self.write:
            if self.found is None:
                del self.stream.write
            else:
                self.stream.write = self.found


#: By the stream's identity, which they keep alive.
_doors: dict[int, _Door] = {}


def _open_door(stream: Any, stage: Stage) -> None:
    door = _doors.get(id(stream))
    if door is None:
        try:
            door = _Door(stream)
        except (AttributeError, TypeError):  # it cannot be hindered
            return
        _doors[id(stream)] = door
    door.stages.append(stage)
    with suppress(Exception):
        # What was printed before is to stand before.
        stream.flush()


def take(locks: list[Any]) -> list[Any]:
    """Take locks, in this order, and no more of them once one is not to be had in time.

    tqdm's locks are several in one.
    """
    taken: list[Any] = []
    for lock in [part for one in locks for part in getattr(one, "locks", [one])]:
        try:
            is_taken = lock.acquire(True, PATIENCE_S)
        except TypeError:  # it is none of Python's
            is_taken = lock.acquire()
        if not is_taken:
            break
        taken.append(lock)
    return taken


def give_back(taken: list[Any]) -> None:
    """The opposite."""
    while taken:
        taken.pop().release()


def _is_held(lock: Any) -> bool:
    """Whether this thread has a lock of tqdm's, as far as it says so."""
    is_owned = getattr(getattr(lock, "th_lock", lock), "_is_owned", None)
    return bool(is_owned is not None and is_owned())


class _passing:
    """A block in which something is written that is not what stands there."""

    def __init__(self, door: _Door | None, text: Any) -> None:
        self._door = door
        self._text = text

    def __enter__(self) -> None:
        self._stages: list[Stage] = []
        self._taken: list[Any] = []
        door = self._door
        if door is None or getattr(_mine, "depth", False):
            return
        locks = [(stage, stage.lock()) for stage in list(door.stages)]
        # tqdm itself writes with its lock, and makes way by itself.
        locks = [(stage, lock) for stage, lock in locks if lock is None or not _is_held(lock)]
        ours = _progress._lock
        taken = take([lock for _, lock in locks if lock is not None] + [ours])
        if not taken or taken[-1] is not ours:
            give_back(taken)
            return
        self._taken = taken
        try:
            # Some may have left meanwhile.
            self._stages = [stage for stage, _ in locks if stage in door.stages]
            for stage in self._stages:
                stage.before()
        except BaseException:
            give_back(taken)
            raise

    def __exit__(self, *exc_info: object) -> None:
        try:
            door, text = self._door, self._text
            if door is not None and exc_info[0] is None:
                for stage in self._stages:
                    end = b"\n" if isinstance(text, bytes) else "\n"
                    stage.after(door.stream, text[-1:] == end if text else stage.is_at_start)
        finally:
            give_back(self._taken)


def writing(stream: Any, data: bytes) -> _passing:
    """A block in which something is written to a stream below its `write`."""
    return _passing(_doors.get(id(stream)), data)


def forget_own() -> None:
    """In a forked process, which may have been forked in the middle of it: this thread writes nothing of ours."""
    _mine.depth = 0
