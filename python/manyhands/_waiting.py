"""Waiting for the futures of `manyhands.distributed`, in the shape of Dask's functions for that."""

from __future__ import annotations

from collections import namedtuple
from queue import Empty, SimpleQueue

from manyhands._promises import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["as_completed", "fire_and_forget", "futures_in", "gathered", "progress", "wait"]

DoneAndNotDone = namedtuple("DoneAndNotDone", ["done", "not_done"])


def futures_in(obj: Any) -> list[Future]:
    """The futures in a collection."""
    if isinstance(obj, Future):
        return [obj]
    if isinstance(obj, dict):
        obj = obj.values()
    if isinstance(obj, (str, bytes)) or not hasattr(obj, "__iter__"):
        raise TypeError(f"futures are needed, not {type(obj).__name__} {obj!r:.80}")
    return [future for part in obj for future in futures_in(part)]


def wait(futures: Any, timeout: float | None = None, return_when: str = "ALL_COMPLETED") -> DoneAndNotDone:
    """Wait until calls have ended.

    Parameters
    ----------
    futures : Future, or a collection of them
    timeout : float, optional
        How many seconds at most.
    return_when : str, default "ALL_COMPLETED"
        ``"ALL_COMPLETED"``, ``"FIRST_COMPLETED"`` or ``"FIRST_EXCEPTION"``.

    Returns
    -------
    DoneAndNotDone
        Two sets of futures: `done` and `not_done`.

    Raises
    ------
    TimeoutError
        If the time is up.

    Examples
    --------
    >>> from manyhands.distributed import Client, wait
    >>> with Client(n_workers=2) as client:
    ...     done, not_done = wait(client.map(abs, range(3)))
    ...     len(done), len(not_done)
    (3, 0)
    """
    import time

    accepted = ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION")
    if return_when not in accepted:
        raise ValueError(f"return_when={return_when!r} is not accepted: one of {', '.join(accepted)}")
    every = list(dict.fromkeys(futures_in(futures)))
    if return_when == "ALL_COMPLETED":
        deadline = None if timeout is None else time.monotonic() + timeout
        for future in every:
            future._wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    elif every:
        for future in as_completed(every, timeout=timeout):
            if return_when == "FIRST_COMPLETED" or future.status == "error":
                break
    done = {future for future in every if future.done()}
    return DoneAndNotDone(done, set(every) - done)


class as_completed:
    """Gives futures in the order in which their calls end.

    Parameters
    ----------
    futures : collection of Future, optional
    with_results : bool, default False
        Whether to give pairs of a future and its result.
    raise_errors : bool, default True
        With results: whether to raise what a call raised, or give the exception as its result.
    timeout : float, optional
        How many seconds to wait in all.

    Raises
    ------
    TimeoutError
        From the iterator, once the time is up.

    Examples
    --------
    >>> from manyhands.distributed import Client, as_completed
    >>> with Client(n_workers=2) as client:
    ...     numbers = as_completed(client.map(abs, [-1, -2]), with_results=True)
    ...     sorted(result for _, result in numbers)
    [1, 2]
    """

    def __init__(
        self,
        futures: Any = None,
        loop: Any = None,
        with_results: bool = False,
        raise_errors: bool = True,
        *,
        timeout: float | None = None,
    ) -> None:
        import time

        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._n_left = 0
        self._with_results = with_results
        self._raise_errors = raise_errors
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self.update(() if futures is None else futures)

    def add(self, future: Future) -> None:
        """Take one more."""
        self._n_left += 1
        future.add_done_callback(self._ended.put)

    def update(self, futures: Any) -> None:
        """Take more."""
        for future in futures_in(futures):
            self.add(future)

    def count(self) -> int:
        """How many have not been given."""
        return self._n_left

    def is_empty(self) -> bool:
        """Whether all have been given."""
        return self._n_left == 0

    def has_ready(self) -> bool:
        """Whether one can be given without waiting."""
        return not self._ended.empty()

    def clear(self) -> None:
        """Forget those that have not been given."""
        self._ended = SimpleQueue()
        self._n_left = 0

    def __iter__(self) -> as_completed:
        return self

    def __next__(self) -> Any:
        if self._n_left == 0:
            raise StopIteration
        return self._taken(self._next())

    def _next(self) -> Future:
        import time

        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            try:
                # Not for ever at a time: signals are heard in between.
                future = self._ended.get(timeout=0.5 if left is None else min(left, 0.5))
            except Empty:
                if left is not None and left <= 0.5:
                    raise TimeoutError(f"{self._n_left} calls have not ended after {self._timeout} s") from None
                continue
            self._n_left -= 1
            return future

    def _taken(self, future: Future) -> Any:
        if not self._with_results:
            return future
        if self._raise_errors or future.status == "finished":
            return future, future.result()
        return future, future._error

    def next_batch(self, block: bool = True) -> list[Any]:
        """All that have ended by now; at least one, if it may wait.

        Parameters
        ----------
        block : bool, default True
            Whether to wait for the first.
        """
        batch = [next(self)] if block and self._n_left > 0 else []
        while self._n_left > 0 and not self._ended.empty():
            batch.append(next(self))
        return batch

    def batches(self) -> Iterator[list[Any]]:
        """All of them, in lists of those that had ended each time."""
        while self._n_left > 0:
            yield self.next_batch()

    async def __aiter__(self) -> Any:
        import asyncio

        loop = asyncio.get_running_loop()
        while self._n_left > 0:
            yield await loop.run_in_executor(None, lambda: next(self))


def fire_and_forget(obj: Any) -> None:
    """Have calls run to their ends though nobody keeps their futures, while their client lives.

    Parameters
    ----------
    obj : Future, or a collection of them

    Examples
    --------
    >>> from manyhands.distributed import Client, fire_and_forget
    >>> with Client(n_workers=1) as client:
    ...     fire_and_forget(client.submit(abs, -1))
    """
    for future in futures_in(obj):
        # Until then it is kept.
        future.add_done_callback(_nothing)


def _nothing(_: Future) -> None:
    """Do nothing."""


def progress(*futures: Any, notebook: bool | None = None, complete: bool = True, **kwargs: Any) -> None:
    """Show how many calls have ended, until all have. Silent where there is neither a terminal nor a notebook.

    Parameters
    ----------
    *futures : Future, or collections of them
    notebook : bool, optional
        Whether to show it as in a notebook; by default it is found out whether this is one.
    complete, **kwargs
        Accepted for programs written for Dask; change nothing.

    Examples
    --------
    >>> from manyhands.distributed import Client, progress
    >>> with Client(n_workers=2) as client:
    ...     progress(client.map(abs, range(10)))
    """
    from contextlib import nullcontext

    from manyhands import _progress

    every = list(dict.fromkeys(futures_in(futures)))
    ended = as_completed(every)
    n_failed = 0

    def counts() -> tuple[int, bool, int, int, int, int, int]:
        return len(every), False, len(every) - ended.count(), n_failed, 0, 0, 0

    kind = "auto" if notebook is None else "notebook" if notebook else "bar"
    with _progress.watching(kind, "futures", counts) or nullcontext():
        while not ended.is_empty():
            n_failed += sum(future.status != "finished" for future in ended.next_batch())


_SKIPPED: Any = object()


def gathered(obj: Any, is_skipping: bool) -> Any:
    """An object with results in the places of futures."""
    if isinstance(obj, Future):
        if not is_skipping:
            return obj.result()
        obj._wait_settled(None)
        return obj._value if obj._state == "finished" else _SKIPPED
    if isinstance(obj, dict):
        pairs = ((name, gathered(value, is_skipping)) for name, value in obj.items())
        return {name: value for name, value in pairs if value is not _SKIPPED}
    if type(obj) in (list, tuple, set, frozenset):
        if not is_skipping:
            return type(obj)([gathered(item, False) for item in obj])
        return type(obj)([value for item in obj if (value := gathered(item, True)) is not _SKIPPED])
    return obj
