"""How many of a client's calls have ended, for who shows it."""

from __future__ import annotations

from _thread import RLock, allocate_lock
from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from weakref import ReferenceType

    from manyhands._promises import Future

__all__ = ["Followed"]

# So many are looked at each time: that takes a thousandth of a second.
_N_LOOKED_AT = 3000


class Followed:
    """Calls that are followed to their ends. It keeps nobody's future alive: one that is let go of has ended."""

    def __init__(self) -> None:
        self.n = 0
        self.n_ended = 0
        self.n_failed = 0
        self._left: list[ReferenceType[Future]] = []
        self._lock = RLock()
        # Who looks at them has this lock. Results are unpickled under it, which may be anybody's code.
        self._looking = allocate_lock()

    def add(self, futures: Sequence[Future]) -> None:
        """Follow these, too."""
        with self._lock:
            self._left.extend(map(ref, futures))
            self.n += len(futures)

    def are_over(self) -> bool:
        """Whether all are known to have ended."""
        with self._lock:
            return self.n_ended == self.n

    def look(self, n_max: int = _N_LOOKED_AT) -> None:
        """See which of so many have ended, unless somebody is just doing so."""
        if not self._left or not self._looking.acquire(blocking=False):
            return
        seen: list[ReferenceType[Future]] = []
        left: list[ReferenceType[Future]] = []
        try:
            with self._lock:
                # Of very many, some have their turn the next time.
                seen, self._left = self._left[:n_max], self._left[n_max:]
            while seen:
                self._look_at(seen.pop(), left)
        finally:
            with self._lock:
                self._left += left + seen
            self._looking.release()

    def _look_at(self, reference: ReferenceType[Future], left: list[ReferenceType[Future]]) -> None:
        future = reference()
        if future is not None and not future._is_over():
            left.append(reference)
            return
        has_failed = True  # also where what reads the result ends this thread
        try:
            has_failed = future is not None and _has_failed(future)
        finally:
            self._count(has_failed)

    def _count(self, has_failed: bool) -> None:
        with self._lock:
            self.n_ended += 1
            self.n_failed += has_failed


def _has_failed(future: Future) -> bool:
    """Whether a call that has ended has failed; of large results, which are no errors, nothing is read."""
    batch = future._batch
    if future._state == "pending" and batch is not None and not batch.native.is_large(future._index):
        try:
            future._settle()
        except Exception:  # what is wrong with it hears who asks for it
            return True
    return future._state == "error"
